//! What a device is and what it can do.

use std::fmt;

/// Which executor drives a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceKind {
    /// Native functions on the host.
    Cpu,
    /// WGSL kernels through wgpu.
    Wgpu,
    /// Nothing is executed; everything is counted.
    Null,
}

/// The interface through which a device is driven.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// The host's processor, no graphics interface.
    Host,
    /// Vulkan.
    Vulkan,
    /// Metal.
    Metal,
    /// Direct3D 12.
    Dx12,
    /// Any other that wgpu may report.
    Other,
}

/// What sort of hardware stands behind a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AdapterClass {
    /// A graphics card with its own memory.
    Discrete,
    /// A graphics processor that shares the host's memory.
    Integrated,
    /// A graphics processor lent to a virtual machine.
    Virtual,
    /// A rasteriser in software (lavapipe, WARP): right for tests, slower than the CPU executor.
    Software,
    /// The host's processor.
    Cpu,
    /// No hardware.
    Null,
}

/// The limits inside which a device works. A plan may depend on them, so they are part of its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Storage buffers of one kernel.
    pub max_storage_buffers: u32,
    /// Bytes of a buffer that one binding may cover.
    pub max_binding_bytes: u64,
    /// Bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Bytes of workgroup memory.
    pub max_workgroup_bytes: u32,
    /// Invocations of one workgroup.
    pub max_invocations: u32,
    /// Workgroups in each dimension of a grid.
    pub max_groups: u32,
    /// Bytes of one launch's parameter block.
    pub max_uniform_bytes: u64,
    /// Alignment in bytes of parameter blocks in their common buffer.
    pub uniform_align: u32,
    /// Smallest number of invocations in a subgroup; 0 without subgroups.
    pub min_subgroup: u32,
    /// Largest number of invocations in a subgroup; 0 without subgroups.
    pub max_subgroup: u32,
}

impl Limits {
    /// WebGPU's default limits, on which every adapter can be relied; the null device's.
    pub const fn webgpu() -> Self {
        Limits {
            max_storage_buffers: 8,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            max_workgroup_bytes: 16 << 10,
            max_invocations: 256,
            max_groups: 65_535,
            max_uniform_bytes: 64 << 10,
            uniform_align: 256,
            min_subgroup: 0,
            max_subgroup: 0,
        }
    }

    /// The CPU's: bounded by memory alone. The grid's bound stays, so that a plan that runs here
    /// also launches on a GPU.
    pub const fn host() -> Self {
        Limits {
            max_storage_buffers: u32::MAX,
            max_binding_bytes: isize::MAX as u64,
            max_buffer_bytes: isize::MAX as u64,
            max_workgroup_bytes: u32::MAX,
            max_invocations: u32::MAX,
            max_uniform_bytes: u64::MAX,
            ..Limits::webgpu()
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Limits::host() {
            return f.write_str("bounded by memory alone");
        }
        write!(
            f,
            "{} storage buffers, binding {}, buffer {}, workgroup memory {}, {} invocations",
            self.max_storage_buffers,
            bytes(self.max_binding_bytes),
            bytes(self.max_buffer_bytes),
            bytes(u64::from(self.max_workgroup_bytes)),
            self.max_invocations,
        )?;
        if self.max_subgroup > 0 {
            write!(f, ", subgroups of {}", self.min_subgroup)?;
            if self.max_subgroup != self.min_subgroup {
                write!(f, "-{}", self.max_subgroup)?;
            }
        }
        Ok(())
    }
}

/// Optional abilities of a device that kernels may use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct Features {
    /// 16-bit floats in kernels (`enable f16;`).
    pub f16: bool,
    /// 64-bit integers in kernels; asked for on software adapters only.
    pub int64: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Cooperative matrices (`enable wgpu_cooperative_matrix;`) of 16 x 16 x 16 elements of f16, summed in f32. Of
    /// open devices only those with [`experimental`](crate::DeviceOptions::experimental); to be verified before use.
    pub cooperative: bool,
    /// Time stamps, as [`Device::run_timed`](crate::Device::run_timed) needs them.
    pub timestamps: bool,
    /// Buffers are read in place, without a staging copy.
    pub mapped: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.f16, "f16"),
            (self.int64, "int64"),
            (self.subgroups, "subgroups"),
            (self.cooperative, "cooperative matrices"),
            (self.timestamps, "timestamps"),
            (self.mapped, "mapped"),
        ];
        let names: Vec<&str> = all.iter().filter(|(has, _)| *has).map(|a| a.1).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

/// A device's description, as the listing of all devices shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The adapter's name.
    pub name: String,
    /// Which executor drives it.
    pub kind: DeviceKind,
    /// Through which interface.
    pub backend: Backend,
    /// What sort of hardware it is.
    pub class: AdapterClass,
    /// The driver's name and version; empty if there is none.
    pub driver: String,
    /// Its limits.
    pub limits: Limits,
    /// Its optional abilities.
    pub features: Features,
}

impl DeviceInfo {
    /// The CPU executor's description.
    pub(crate) fn cpu() -> Self {
        let threads = crate::cpu::threads();
        DeviceInfo {
            name: format!("CPU ({threads} threads)"),
            kind: DeviceKind::Cpu,
            backend: Backend::Host,
            class: AdapterClass::Cpu,
            driver: String::new(),
            limits: Limits::host(),
            features: Features { timestamps: true, mapped: true, ..Features::default() },
        }
    }

    /// The null executor's description.
    pub(crate) fn null(limits: Limits) -> Self {
        DeviceInfo {
            name: "null".to_string(),
            kind: DeviceKind::Null,
            backend: Backend::Host,
            class: AdapterClass::Null,
            driver: String::new(),
            limits,
            features: Features { timestamps: true, ..Features::default() },
        }
    }

    /// The identity of adapter, driver and interface: what is measured of kernels on one device holds on another of
    /// equal fingerprint.
    pub fn fingerprint(&self) -> String {
        format!("{:?}/{}/{}", self.backend, self.name, self.driver)
    }

    /// Whether the device is a software rasteriser, for which kernels have their own variants.
    pub fn is_software(&self) -> bool {
        self.class == AdapterClass::Software
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{:?}", self.name, self.class)?;
        if self.backend != Backend::Host {
            write!(f, ", {:?}", self.backend)?;
        }
        if !self.driver.is_empty() {
            write!(f, ", {}", self.driver)?;
        }
        write!(f, "] {}; features: {}", self.limits, self.features)
    }
}

/// A byte count in the largest binary unit that divides it into something short.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    // One decimal, and none where it would be a zero.
    let text = format!("{value:.1}");
    format!("{} {}", text.trim_end_matches(".0"), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(16 << 10), "16 KiB");
        assert_eq!(bytes((128 << 20) + (64 << 10)), "128.1 MiB");
        assert_eq!(bytes(2 << 30), "2 GiB");
    }

    #[test]
    fn info_says_what_it_is() {
        let text = DeviceInfo::null(Limits::webgpu()).to_string();
        assert_eq!(
            text,
            "null [Null] 8 storage buffers, binding 128 MiB, buffer 256 MiB, workgroup memory 16 KiB, \
             256 invocations; features: timestamps"
        );
        assert!(DeviceInfo::cpu().to_string().contains("bounded by memory"));
    }
}
