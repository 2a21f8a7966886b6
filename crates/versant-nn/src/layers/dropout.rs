//! Dropout.

use versant_graph::Tensor;

use super::{Mode, Module};
use crate::{RandomSource, Scope};

/// In training, zeroes each element with probability `p` and scales the others by `1 / (1 - p)` (Srivastava
/// et al., 2014); otherwise passes its input on.
///
/// Every pass draws a new key from the scope's stream, so a run with the same seed drops the same elements
/// on every device, also when it is resumed from a checkpoint.
///
/// ```
/// use versant_nn::layers::{Dropout, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = Dropout::new(&(&vs / "drop"), 0.5);
/// let y = layer.forward(&Tensor::ones(&dev, &[64]), Mode::Train).to_vec::<f32>()?;
/// assert!(y.contains(&0.0) && y.contains(&2.0));
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct Dropout {
    p: f32,
    random: RandomSource,
}

impl Dropout {
    /// Drops with probability `p`, 0 to 1.
    pub fn new(scope: &Scope, p: f32) -> Dropout {
        Dropout { p, random: scope.random() }
    }
}

impl Module for Dropout {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        match mode {
            Mode::Train => x.dropout(self.p, self.random.next_key()),
            Mode::Eval => x.clone(),
        }
    }
}
