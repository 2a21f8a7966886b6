//! Looking at what flows between layers.

use std::sync::{Arc, Mutex, PoisonError};

use versant_graph::{Result, Tensor, grad_of};

use super::{Mode, Module};

type Seen = Mutex<Vec<(String, Tensor)>>;

/// Hooks: names for places in a net at which activations, and their gradients, can be looked at.
///
/// Outside of [`Taps::watch`] a tap does nothing at all. Inside, it holds on to the recorded activation, which so becomes one
/// more output of the plan: kernels stay fused, the one that computes the activation also stores it.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::layers::{Linear, Relu, Taps};
/// use versant_nn::{Losses, Mode, Module, Params, Seed};
/// let dev = Device::cpu();
/// let params = Params::new(&dev, Seed(1));
/// let taps = Taps::new();
/// let net = (
///     taps.on("hidden", (Linear::new(&(&params / "a"), 3, 4), Relu)),
///     Linear::new(&(&params / "b"), 4, 2),
/// );
/// let x = Tensor::ones(&dev, &[5, 3]);
/// let y = Tensor::from_slice(&dev, &[0i32, 1, 0, 1, 0], &[5]);
/// let (loss, seen) = taps.watch(|| net.forward(&x, Mode::Train).cross_entropy(&y));
/// let gradients = seen.gradients(&loss)?;
/// assert_eq!(seen.get("hidden").unwrap().shape(), [5, 4]);
/// assert_eq!(gradients[0].0, "hidden");
/// assert_eq!(gradients[0].1.to_vec::<f32>()?.len(), 20);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Taps {
    watching: Arc<Mutex<Option<Arc<Seen>>>>,
}

impl Taps {
    /// No place yet.
    pub fn new() -> Taps {
        Taps::default()
    }

    /// A module whose result can be looked at under this name.
    pub fn on<M: Module>(&self, name: &str, module: M) -> Tap<M> {
        Tap { module, name: name.to_owned(), taps: self.clone() }
    }

    /// What `f` records, and the activations at all taps meanwhile. Watch from one thread at a time: what other threads
    /// record through the same taps is seen, too.
    pub fn watch<T>(&self, f: impl FnOnce() -> T) -> (T, Activations) {
        struct Back<'a>(&'a Taps, Option<Arc<Seen>>);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                *self.0.watching.lock().unwrap_or_else(PoisonError::into_inner) = self.1.take();
            }
        }
        let seen = Arc::new(Seen::default());
        let before = self.watching.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&seen));
        let back = Back(self, before);
        let result = f();
        drop(back);
        let all = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        (result, Activations(all))
    }
}

/// A module at whose result [`Taps`] may look.
#[derive(Debug)]
pub struct Tap<M> {
    module: M,
    name: String,
    taps: Taps,
}

impl<M: Module> Module for Tap<M> {
    #[track_caller]
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.module.forward(x, mode);
        let watching = self.taps.watching.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(seen) = watching {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push((self.name.clone(), y.clone()));
        }
        y
    }
}

/// What [`Taps::watch`] saw, in the order in which it was recorded; a tap that was passed twice stands in it twice.
#[derive(Clone, Debug)]
pub struct Activations(Vec<(String, Tensor)>);

impl Activations {
    /// The first activation of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The gradient of a loss by each of them, recorded: before the loss is computed.
    ///
    /// # Errors
    /// An activation that the loss does not depend on, and those of [`grad_of`].
    #[track_caller]
    pub fn gradients(&self, loss: &Tensor) -> Result<Vec<(String, Tensor)>> {
        let all: Vec<&Tensor> = self.0.iter().map(|(_, tensor)| tensor).collect();
        let names = self.0.iter().map(|(name, _)| name.clone());
        Ok(names.zip(grad_of(loss, &all)?).collect())
    }
}
