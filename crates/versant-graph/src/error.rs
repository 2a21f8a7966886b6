//! What can go wrong, as values. A recording method keeps its error in the tensor it returns.

use std::panic::Location;
use std::sync::Arc;

use versant_device::DeviceError;
use versant_kernels::DType;

/// The result of everything that needs a value.
pub type Result<T> = std::result::Result<T, GraphError>;

/// An operand as a message shows it: `f32[2, 3]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// An error of the tensor engine. Cheap to clone: it travels through the operations recorded after it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Operands do not fit the operation: shapes, types or arguments.
    #[error("{op}: {why} (operands: {}) at {location}", list(.operands))]
    Invalid {
        /// The operation's name.
        op: &'static str,
        /// What does not fit.
        why: String,
        /// Types and shapes of the operands.
        operands: Vec<Operand>,
        /// The caller's source line.
        location: &'static Location<'static>,
    },
    /// Operands live on different devices.
    #[error("{op}: operands are on different devices, {left} and {right}, at {location}")]
    MixedDevices {
        /// The operation's name.
        op: &'static str,
        /// Name of the first operand's device.
        left: String,
        /// Name of the other device.
        right: String,
        /// The caller's source line.
        location: &'static Location<'static>,
    },
    /// A value was asked for in another element type.
    #[error("{op}: the tensor holds {have}, not {asked}, at {location}")]
    WrongType {
        /// The operation's name.
        op: &'static str,
        /// The tensor's type.
        have: DType,
        /// The type asked for.
        asked: DType,
        /// The caller's source line.
        location: &'static Location<'static>,
    },
    /// Differentiation passed an operation that has no derivative.
    #[error("{op} (recorded at {recorded}) has no derivative; differentiated at {location}")]
    NoDerivative {
        /// The operation's name.
        op: &'static str,
        /// Where it was recorded.
        recorded: &'static Location<'static>,
        /// Where differentiation was asked for.
        location: &'static Location<'static>,
    },
    /// What is differentiated does not depend on what it should be differentiated by.
    #[error("the gradient does not reach {what}; differentiated at {location}{hint}")]
    NotReached {
        /// The parameter's name, or the position of the tensor in the list.
        what: String,
        /// Where differentiation was asked for.
        location: &'static Location<'static>,
        /// A likely reason, or nothing.
        hint: &'static str,
    },
    /// A value was asked for that exists in each step of a scan only.
    #[error(
        "a tensor of a scan's body (recorded at {location}) has no value outside of it: return it to be stacked"
    )]
    Escaped {
        /// Where the scan was recorded.
        location: &'static Location<'static>,
    },
    /// Every kernel of this family gave wrong results on the device's adapter with its driver.
    #[error(
        "no kernel for a {family} gives right results on this adapter ({faults}); the CPU device can run it"
    )]
    NoVariant {
        /// What should be computed.
        family: &'static str,
        /// What was wrong with which variant.
        faults: String,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] Arc<DeviceError>),
}

impl From<DeviceError> for GraphError {
    fn from(error: DeviceError) -> Self {
        GraphError::Device(Arc::new(error))
    }
}

fn list(operands: &[Operand]) -> String {
    let texts: Vec<String> = operands.iter().map(Operand::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}
