//! What can go wrong on a device, as values.

use std::time::Duration;

/// The result of a device call.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// A failure of the device layer. Nothing in this crate panics on bad input or on a failing driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No adapter of the wanted kind exists on this machine.
    #[error("no adapter for `{asked}`; found: {}", list(found))]
    NoAdapter {
        /// What was asked for, e.g. `gpu` or `metal`.
        asked: String,
        /// The adapters that do exist, by name.
        found: Vec<String>,
    },
    /// No device has the wanted name.
    #[error("no device is named `{asked}`; found: {}", list(found))]
    UnknownDevice {
        /// The name that was asked for.
        asked: String,
        /// The adapters that do exist, by name.
        found: Vec<String>,
    },
    /// An adapter was found, but its driver refused to open it.
    #[error("cannot open adapter `{name}`: {message}")]
    CannotOpen {
        /// The adapter's name.
        name: String,
        /// The driver's reason.
        message: String,
    },
    /// Memory is exhausted, even after the pool gave back what it held.
    #[error("out of memory: {asked} bytes were asked for")]
    OutOfMemory {
        /// Size of the refused request in bytes.
        asked: u64,
    },
    /// The device is gone (unplugged, reset by its driver, or destroyed); open a new one.
    #[error("the device was lost: {reason}")]
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// A kernel's text, layout or native twin is wrong.
    #[error("invalid kernel `{label}`: {message}")]
    InvalidKernel {
        /// The kernel's label.
        label: String,
        /// The compiler's message.
        message: String,
    },
    /// A recording contradicts itself: a wrong number of bindings, a slot that does not exist.
    #[error("invalid recording at launch {launch} (`{label}`): {message}")]
    InvalidRecording {
        /// Position of the launch.
        launch: usize,
        /// Label of the launch's kernel.
        label: String,
        /// What is wrong.
        message: String,
    },
    /// One buffer would be bound twice to a launch that writes it.
    #[error("launch `{label}` would write a buffer that it also binds elsewhere")]
    Aliased {
        /// Label of the launch's kernel.
        label: String,
    },
    /// A request is beyond what the device can do.
    #[error("{what}: {asked} asked for, the device's limit is {limit}")]
    LimitExceeded {
        /// Which limit.
        what: &'static str,
        /// What was asked for.
        asked: u64,
        /// What the device offers.
        limit: u64,
    },
    /// A length does not fit the buffer or the recording.
    #[error("{what}: {asked} given or asked for, {has} wanted or present")]
    WrongSize {
        /// Which length, with its unit.
        what: &'static str,
        /// The caller's number.
        asked: usize,
        /// The device's number.
        has: usize,
    },
    /// A buffer or a prepared recording belongs to another device.
    #[error("a buffer or plan of another device was given")]
    WrongDevice,
    /// The device did not finish in time.
    #[error("the device did not answer within {after:?}")]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// The adapter lacks a feature.
    #[error("the device has no {what}")]
    Unsupported {
        /// The missing feature.
        what: &'static str,
    },
    /// The profile that was asked for cannot be written.
    #[error("cannot write the profile {path}: {message}")]
    Profile {
        /// The file.
        path: String,
        /// What the system said.
        message: String,
    },
    /// A kernel's native function called back into its own device, which would wait for itself.
    #[error("a device was called from within one of its own kernels")]
    Reentrant,
    /// The driver refused a command that this layer holds to be valid: a defect of this layer.
    #[error("the driver refused a command: {message}")]
    Rejected {
        /// The driver's message.
        message: String,
    },
}

fn list(found: &[String]) -> String {
    if found.is_empty() { "none".to_string() } else { found.join(", ") }
}
