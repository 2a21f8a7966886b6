//! What can go wrong with parameters, optimisers and their files, as values.

use std::path::PathBuf;

use versant_graph::GraphError;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, NnError>;

/// An error of the parameter store, an optimiser or a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NnError {
    /// The tensor engine or the device failed.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A parameter was asked for twice under one name, with different shapes or roles.
    #[error("{name} was made as {first} and then asked for as {second}")]
    DuplicateName {
        /// The parameter's path.
        name: String,
        /// Role and shape of the first.
        first: String,
        /// Role and shape of the second.
        second: String,
    },
    /// A parameter's path cannot be stored.
    #[error("{name:?} cannot be the name of a parameter: {why}")]
    BadName {
        /// The path.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A parameter has more elements than can be addressed, or too many dimensions.
    #[error("{name} cannot have the shape {shape:?}")]
    BadShape {
        /// The parameter's path.
        name: String,
        /// The shape asked for.
        shape: Vec<usize>,
    },
    /// There is nothing to optimise.
    #[error("the store has no trainable parameter{}", .pattern.as_ref().map_or(String::new(), |p| format!(" that matches {p:?}")))]
    NoParameters {
        /// The optimiser's selection, if it has one.
        pattern: Option<String>,
    },
    /// The loss does not depend on some trainable parameters. Nothing was changed.
    #[error("the loss does not reach {}; freeze what it should not train", .names.join(", "))]
    NotReached {
        /// Their names.
        names: Vec<String>,
    },
    /// Gradients belong to values of the parameters from before an update. Nothing was changed.
    #[error("the gradients of {} belong to older values; record the loss again after each step", .names.join(", "))]
    StaleGradients {
        /// The parameters' names.
        names: Vec<String>,
    },
    /// Gradients of parameters that are not in the store. Nothing was changed.
    #[error("gradients of parameters that the store does not have: {}", .names.join(", "))]
    UnknownGradients {
        /// Their names.
        names: Vec<String>,
    },
    /// A gradient has not the shape or type of its parameter. Nothing was changed.
    #[error("the gradient of {name} is {gradient}, not f32{shape:?}")]
    GradientShape {
        /// The parameter's name.
        name: String,
        /// The parameter's shape.
        shape: Vec<usize>,
        /// Type and shape of the gradient.
        gradient: String,
    },
    /// A number that configures an optimiser is out of its range.
    #[error("{what} is {value}, which is not {range}")]
    Hyperparameter {
        /// Its name.
        what: &'static str,
        /// The value given.
        value: f64,
        /// The values allowed.
        range: &'static str,
    },
    /// An average of the weights is asked for, and none has been taken of some parameter in training.
    #[error(
        "the optimiser has no average of every parameter yet; ask for one by `average` and take a step that counts"
    )]
    NoAverage,
    /// The store holds the averages of the weights, which are not to be trained, saved or replaced. Nothing was changed.
    #[error("the parameters are exchanged for their averages; swap them back first")]
    AverageInPlace,
    /// A file's or map's tensors do not fit the store. Nothing was changed.
    #[error("{origin} does not fit the parameters: {}", mismatch(.missing, .extra, .shapes))]
    Mismatch {
        /// Where the tensors come from.
        origin: String,
        /// Names that the store has and the source lacks.
        missing: Vec<String>,
        /// Names that the store does not have.
        extra: Vec<String>,
        /// `(name, shape in the store, shape in the source)`.
        shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
    /// A checkpoint's optimiser state does not fit the optimiser. Nothing was changed.
    #[error("the optimiser state is that of {saved}, not of {wanted}")]
    OtherOptimizer {
        /// Kind that was saved.
        saved: String,
        /// Kind that asks for it.
        wanted: String,
    },
    /// A text is not the saved state of what is to be continued from it. Nothing was changed.
    #[error("{text:?} is no state of {what}")]
    BadState {
        /// What was to be continued.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is no valid safetensors file.
    #[error("{}: {source}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// A file is none of `torch.save`, is damaged, or uses what is not read.
    #[error("{}: {why}", .path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file claims more bytes than it has, or than can be addressed.
    #[error("{}: its header claims more bytes than the file has", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
    },
    /// A tensor of a file has an element type that its use does not allow.
    #[error("{}: {name} holds {have}, not {want}", .path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type.
        have: String,
        /// The element type wanted.
        want: &'static str,
    },
    /// A valid safetensors file is no checkpoint, or its entries are damaged.
    #[error("{}: no usable checkpoint, its entry {entry:?} is missing or damaged", .path.display())]
    BadCheckpoint {
        /// The file.
        path: PathBuf,
        /// The metadata entry or tensor.
        entry: String,
    },
}

impl From<versant_graph::DeviceError> for NnError {
    fn from(error: versant_graph::DeviceError) -> Self {
        NnError::Graph(error.into())
    }
}

fn mismatch(missing: &[String], extra: &[String], shapes: &[(String, Vec<usize>, Vec<usize>)]) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing {}", missing.join(", ")));
    }
    if !extra.is_empty() {
        parts.push(format!("unknown {}", extra.join(", ")));
    }
    for (name, want, have) in shapes {
        parts.push(format!("{name} has shape {have:?} instead of {want:?}"));
    }
    parts.join("; ")
}
