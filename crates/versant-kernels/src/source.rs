//! What a kernel family hands to an executor.

use std::sync::Arc;

/// A kernel's CPU twin: `(reads, writes, scalars)`.
///
/// Buffers are words whatever the element type. A buffer that the kernel both reads and writes
/// stands among the writes only. The function owns everything else (shapes, strides, parameters).
pub type NativeFn = Arc<dyn Fn(&[&[u32]], &mut [&mut [u32]], &[u32]) + Send + Sync>;

/// Which form of a kernel to build: text for a GPU is not made for the CPU, and the reverse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Target {
    /// The native function only.
    Cpu,
    /// WGSL only, for an adapter with these abilities.
    Gpu(Caps),
}

/// What sort of GPU kernels are made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Class {
    /// A rasteriser in software: barriers are dear, and every lane is a lane of the CPU.
    Software,
    /// A GPU that shares the processor's memory: few compute units.
    Integrated,
    /// A card of its own, and what cannot be told: many compute units.
    Discrete,
}

/// In which precision a contraction may multiply; sums are in 32 bits always.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Precision {
    /// As the operands are stored.
    F32,
    /// Operands may be rounded to 16 bits, which changes results: the caller must ask for it.
    F16,
}

/// The abilities of an adapter that decide which variant of a kernel runs, and what the caller allows it to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Caps {
    /// What sort of GPU it is.
    pub class: Class,
    /// Smallest number of invocations in a subgroup; 0 without subgroups.
    pub min_subgroup: u32,
    /// Largest number of invocations in a subgroup; 0 without subgroups.
    pub max_subgroup: u32,
    /// Whether rows may be shared among the invocations of a subgroup, which must have been seen to work.
    pub subgroup_rows: bool,
    /// 16-bit floats in kernels.
    pub f16: bool,
    /// 64-bit integers in kernels.
    pub int64: bool,
    /// Cooperative matrices of 16 x 16 elements of 16 bits.
    pub coop_matrix: bool,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Storage buffers of a kernel.
    pub storage_buffers: u32,
    /// What the caller allows.
    pub precision: Precision,
}

impl Caps {
    /// WebGPU's default limits, on which every adapter can be relied, and nothing optional.
    pub const fn webgpu(class: Class) -> Caps {
        Caps {
            class,
            min_subgroup: 0,
            max_subgroup: 0,
            subgroup_rows: false,
            f16: false,
            int64: false,
            coop_matrix: false,
            workgroup_bytes: 16 << 10,
            invocations: 256,
            storage_buffers: 8,
            precision: Precision::F32,
        }
    }

    /// Whether the adapter is a software rasteriser.
    pub fn is_software(&self) -> bool {
        self.class == Class::Software
    }
}

/// One kernel launch without its buffers: what the device layer needs to compile and to run it.
///
/// Binding convention of the WGSL, all in group 0: binding 0 is the parameter block
/// `var<uniform> params: array<vec4<u32>, N>` (absent if `params` is empty); binding 1 is
/// `var<uniform> scalars: array<vec4<u32>, 256>` (only if `uses_scalars`); storage buffers follow from
/// binding 2: first `reads` read-only ones, then `writes` read-write ones. The entry point is `main`.
#[derive(Clone)]
pub struct KernelSource {
    /// Shown by `explain()` and in profiles.
    pub label: String,
    /// The module's text; empty for [`Target::Cpu`]. It must depend on structure only, never on a
    /// shape, so that a new batch size compiles nothing.
    pub wgsl: String,
    /// Number of read-only storage buffers.
    pub reads: usize,
    /// Number of read-write storage buffers.
    pub writes: usize,
    /// Words of the parameter block: shapes, strides, offsets.
    pub params: Vec<u32>,
    /// Whether binding 1 (host scalars) is used.
    pub uses_scalars: bool,
    /// Whether the text needs no run-time checks: for every parameter block that comes with it, every index
    /// is in range, every loop ends, no integer is divided by zero, and workgroup memory is written before it
    /// is read. True of everything in this crate; false for what a user wrote.
    pub trusted: bool,
    /// Workgroups in x, y, z, each at most 65,535.
    pub grid: [u32; 3],
    /// The CPU twin; `None` for a GPU target.
    pub native: Option<NativeFn>,
}
