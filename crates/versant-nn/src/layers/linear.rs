//! The fully connected layer.

use std::panic::Location;

use versant_graph::Tensor;

use super::weights::{Origin, Weights};
use super::{Mode, Module};
use crate::Scope;
use crate::mixed::{kept, operand};

/// `y = x Wᵀ + b`: `[.., inputs] → [.., outputs]`.
///
/// Parameters: `weight` `[outputs, inputs]`, `bias` `[outputs]`, both uniform within `1 / sqrt(inputs)`.
///
/// ```
/// use versant_nn::layers::{Linear, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = Linear::new(&(&vs / "fc"), 4, 2);
/// assert_eq!(vs.names(), ["fc.weight", "fc.bias"]);
/// assert_eq!(layer.forward(&Tensor::zeros(&dev, &[5, 4]), Mode::Eval).shape(), [5, 2]);
/// ```
#[derive(Debug)]
pub struct Linear {
    weights: Weights,
}

impl Linear {
    /// A layer with a bias.
    #[track_caller]
    pub fn new(scope: &Scope, inputs: usize, outputs: usize) -> Linear {
        let origin = Origin { layer: "Linear::new", location: Location::caller() };
        let shape = if inputs == 0 || outputs == 0 {
            Err(format!("inputs and outputs must be positive, not {inputs} and {outputs}"))
        } else {
            Ok(vec![outputs, inputs])
        };
        Linear { weights: Weights::new(scope, origin, shape, outputs) }
    }

    /// Does without the bias, as before a normalisation.
    #[must_use]
    pub fn no_bias(mut self) -> Linear {
        self.weights.drop_bias();
        self
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        let (weight, bias) = match self.weights.get(x.device()) {
            Ok(values) => values,
            Err(failed) => return failed,
        };
        let y = operand(x).matmul(&operand(&weight).t());
        kept(&match bias {
            Some(bias) => y + bias,
            None => y,
        })
    }
}
