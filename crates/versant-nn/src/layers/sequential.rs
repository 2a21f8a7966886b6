//! Modules in a list.

use std::panic::Location;

use versant_graph::{GraphError, Tensor};

use super::{Mode, Module};

/// Modules applied in turn, for nets whose layers are known only at run time.
///
/// ```
/// use versant_nn::layers::{Linear, Mode, Module, Relu, Sequential};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let mut net = Sequential::new();
/// for (i, width) in [(3, 8), (8, 8)].into_iter().enumerate() {
///     net = net.push(Linear::new(&(&vs / format!("fc{i}")), width.0, width.1)).push(Relu);
/// }
/// let net = net.named("head", Linear::new(&(&vs / "head"), 8, 2));
/// assert_eq!(net.forward(&Tensor::zeros(&dev, &[5, 3]), Mode::Eval).shape(), [5, 2]);
/// ```
#[derive(Default)]
pub struct Sequential {
    layers: Vec<Entry>,
}

struct Entry {
    name: Option<String>,
    pushed: &'static Location<'static>,
    module: Box<dyn Module>,
}

impl Sequential {
    /// No modules: passes its input on.
    pub fn new() -> Sequential {
        Sequential::default()
    }

    /// Appends a module.
    #[track_caller]
    #[must_use]
    pub fn push(self, module: impl Module + 'static) -> Sequential {
        self.append(None, Box::new(module), Location::caller())
    }

    /// Appends a module with a name for error messages.
    #[track_caller]
    #[must_use]
    pub fn named(self, name: impl Into<String>, module: impl Module + 'static) -> Sequential {
        self.append(Some(name.into()), Box::new(module), Location::caller())
    }

    fn append(
        mut self,
        name: Option<String>,
        module: Box<dyn Module>,
        pushed: &'static Location<'static>,
    ) -> Sequential {
        self.layers.push(Entry { name, pushed, module });
        self
    }

    /// Number of modules.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl Module for Sequential {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let location = Location::caller();
        let mut x = x.clone();
        for (i, entry) in self.layers.iter().enumerate() {
            let sound = x.error().is_none();
            x = entry.module.forward(&x, mode);
            if let Some(error) = x.error() {
                // An error that was there before is the business of whoever made it.
                return if sound { Tensor::failed(x.device(), entry.blame(i, error, location)) } else { x };
            }
        }
        x
    }
}

impl Entry {
    /// A call through a box does not know its caller, so the line of a mistake would be one of this crate.
    /// This names the layer, where it was pushed, and the line of the forward pass instead.
    fn blame(&self, i: usize, error: GraphError, location: &'static Location<'static>) -> GraphError {
        match error {
            GraphError::Invalid { op, why, operands, .. } => {
                let name = match &self.name {
                    Some(name) => format!("{name:?}"),
                    None => i.to_string(),
                };
                let why = format!("{why}; in layer {name} pushed at {}", self.pushed);
                GraphError::Invalid { op, why, operands, location }
            }
            other => other,
        }
    }
}

impl std::fmt::Debug for Sequential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.layers.iter().map(|l| l.name.as_deref().unwrap_or("_"));
        f.debug_list().entries(names).finish()
    }
}
