//! Which device to open, and how.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::info::Backend;

/// The environment variable that selects a device: see [`Select`] for its values.
pub const DEVICE_VAR: &str = "VERSANT_DEVICE";

/// The environment variable that, set to `1`, forces WebGPU's default limits on every graphics device.
pub const DEFAULT_LIMITS_VAR: &str = "VERSANT_DEFAULT_LIMITS";

/// The environment variable that, set to `1`, makes [`DeviceOptions::checked`] the default.
pub const CHECKED_VAR: &str = "VERSANT_CHECKED";

/// The environment variable that, set to `1`, makes [`DeviceOptions::experimental`] the default.
pub const EXPERIMENTAL_VAR: &str = "VERSANT_EXPERIMENTAL";

/// The environment variable that says how many threads kernels on the CPU share: a positive number, else as many as
/// the machine has. It is read when the first device opens, and an application that has started rayon's global pool
/// by then keeps that.
pub const THREADS_VAR: &str = "VERSANT_THREADS";

/// The environment variable that names the file of a profile: the default of [`DeviceOptions::profile`].
pub const PROFILE_VAR: &str = "VERSANT_PROFILE";

/// Which device to open. Parses from the text that [`DEVICE_VAR`] holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Select {
    /// `best`: real graphics hardware if there is any, else the CPU.
    #[default]
    Best,
    /// `cpu`: the host's processor.
    Cpu,
    /// `gpu`: any adapter, real ones first, software last.
    Gpu,
    /// `null`: executes nothing, counts everything.
    Null,
    /// `lavapipe`: a software adapter.
    Software,
    /// `vulkan`, `metal`, `dx12`: any adapter of this interface, real ones first.
    Backend(Backend),
    /// Anything else: the first adapter whose name contains this text, whatever its case.
    Name(String),
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Select::Best => "best",
            Select::Cpu => "cpu",
            Select::Gpu => "gpu",
            Select::Null => "null",
            Select::Software => "lavapipe",
            Select::Backend(Backend::Vulkan) => "vulkan",
            Select::Backend(Backend::Metal) => "metal",
            Select::Backend(Backend::Dx12) => "dx12",
            Select::Backend(Backend::Host) => "host",
            Select::Backend(Backend::Other) => "other",
            Select::Name(name) => name,
        })
    }
}

impl FromStr for Select {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.trim().to_lowercase().as_str() {
            "" | "best" | "auto" => Select::Best,
            "cpu" => Select::Cpu,
            "gpu" => Select::Gpu,
            "null" => Select::Null,
            "lavapipe" | "software" => Select::Software,
            "vulkan" => Select::Backend(Backend::Vulkan),
            "metal" => Select::Backend(Backend::Metal),
            "dx12" => Select::Backend(Backend::Dx12),
            _ => Select::Name(text.trim().to_string()),
        })
    }
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Which one.
    pub select: Select,
    /// Force WebGPU's default limits and no optional feature (but time stamps, if asked for),
    /// however much the adapter offers.
    pub default_limits: bool,
    /// Compile trusted kernels, too, with run-time checks: indices clamped, loops bounded, integer division
    /// guarded, workgroup memory zeroed. Slower; for tests, where a fault must not depend on the driver. The
    /// default is what [`CHECKED_VAR`] says.
    pub checked: bool,
    /// Ask for abilities that wgpu calls experimental: cooperative matrices. The default is what
    /// [`EXPERIMENTAL_VAR`] says.
    pub experimental: bool,
    /// Write what host and device do, and when, to this file, for Perfetto or chrome://tracing. It is complete
    /// once the device is dropped or destroyed; until then it has the ending `.part`. Launches run in a pass each,
    /// and the device must have time stamps. The default is what [`PROFILE_VAR`] names.
    pub profile: Option<PathBuf>,
    /// Ask for time stamps, which [`Device::run_timed`](crate::Device::run_timed) needs on a GPU.
    pub timestamps: bool,
    /// How long to wait for the device before a call returns [`Timeout`](crate::DeviceError::Timeout).
    pub timeout: Duration,
}

impl Default for DeviceOptions {
    /// The best device, all its limits, trusted kernels checked only if [`CHECKED_VAR`] is `1`, no time stamps, ten minutes (a software adapter may
    /// compile for many seconds and then run for minutes).
    fn default() -> Self {
        DeviceOptions {
            select: Select::Best,
            default_limits: false,
            checked: is_set(CHECKED_VAR),
            experimental: is_set(EXPERIMENTAL_VAR),
            profile: std::env::var_os(PROFILE_VAR).filter(|p| !p.is_empty()).map(PathBuf::from),
            timestamps: false,
            timeout: Duration::from_secs(600),
        }
    }
}

impl DeviceOptions {
    /// The defaults, with the device that [`DEVICE_VAR`] names if it is set.
    pub fn from_env() -> Self {
        DeviceOptions { select: Select::from_env(), ..DeviceOptions::default() }
    }

    /// The defaults for one selection.
    pub fn select(select: Select) -> Self {
        DeviceOptions { select, ..DeviceOptions::default() }
    }

    /// Whether default limits hold, be it by option or by [`DEFAULT_LIMITS_VAR`].
    pub(crate) fn wants_default_limits(&self) -> bool {
        self.default_limits || is_set(DEFAULT_LIMITS_VAR)
    }
}

/// Whether an environment variable is `1`.
fn is_set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|v| v == "1")
}

impl Select {
    /// What [`DEVICE_VAR`] says; [`Select::Best`] if it is not set.
    pub fn from_env() -> Self {
        let text = std::env::var(DEVICE_VAR).unwrap_or_default();
        match text.parse() {
            Ok(select) => select,
            Err(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_parse() {
        let parse = |s: &str| s.parse::<Select>();
        assert_eq!(parse(" GPU "), Ok(Select::Gpu));
        assert_eq!(parse(""), Ok(Select::Best));
        assert_eq!(parse("dx12"), Ok(Select::Backend(Backend::Dx12)));
        assert_eq!(parse("lavapipe"), Ok(Select::Software));
        assert_eq!(parse("Radeon"), Ok(Select::Name("Radeon".into())));
    }
}
