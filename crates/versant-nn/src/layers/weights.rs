//! The weight and bias of a layer, which builder methods may still change.

use std::panic::Location;

use versant_graph::{Device, GraphError, Tensor};

use crate::{Init, Param, Scope};

/// Where and as what a layer was made: what its own errors name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub layer: &'static str,
    pub location: &'static Location<'static>,
}

impl Origin {
    /// A mistake in the layer's construction.
    pub fn error(&self, why: String) -> GraphError {
        GraphError::Invalid { op: self.layer, why, operands: Vec::new(), location: self.location }
    }
}

/// A weight and perhaps a bias with PyTorch's default distribution, uniform within `1 / sqrt(fan_in)`; or
/// why there cannot be any.
#[derive(Debug)]
pub(super) struct Weights {
    scope: Scope,
    origin: Origin,
    /// Whether the layer has a bias, and how long it is.
    bias_len: Option<usize>,
    made: Result<(Param, Option<Param>), GraphError>,
}

impl Weights {
    /// Declares the parameters in the scope.
    pub fn new(scope: &Scope, origin: Origin, shape: Result<Vec<usize>, String>, bias_len: usize) -> Weights {
        let scope = scope.clone();
        let bias_len = Some(bias_len);
        let made = declare(&scope, origin, shape, bias_len);
        Weights { scope, origin, bias_len, made }
    }

    /// Declares them anew with another shape of the weight.
    pub fn reshape(&mut self, shape: Result<Vec<usize>, String>) {
        self.retract();
        self.made = declare(&self.scope, self.origin, shape, self.bias_len);
    }

    /// Does without the bias.
    pub fn drop_bias(&mut self) {
        self.bias_len = None;
        if let Ok((_, bias)) = &mut self.made
            && let Some(bias) = bias.take()
        {
            self.scope.retract(bias);
        }
    }

    fn retract(&mut self) {
        let gone = Err(self.origin.error("it is being rebuilt".to_owned()));
        if let Ok((weight, bias)) = std::mem::replace(&mut self.made, gone) {
            self.scope.retract(weight);
            bias.into_iter().for_each(|bias| self.scope.retract(bias));
        }
    }

    /// The current values, or a tensor that carries the layer's error.
    pub fn get(&self, device: &Device) -> Result<(Tensor, Option<Tensor>), Tensor> {
        match &self.made {
            Ok((weight, bias)) => Ok((weight.get(), bias.as_ref().map(Param::get))),
            Err(error) => Err(Tensor::failed(device, error.clone())),
        }
    }
}

fn declare(
    scope: &Scope,
    origin: Origin,
    shape: Result<Vec<usize>, String>,
    bias_len: Option<usize>,
) -> Result<(Param, Option<Param>), GraphError> {
    let shape = shape.map_err(|why| origin.error(why))?;
    let init = Init::KaimingUniform { a: 5f32.sqrt() };
    let (fan_in, _) = crate::init::fans(&shape);
    let weight = scope.parameter("weight", &shape, init);
    let bias = bias_len.map(|n| scope.parameter("bias", &[n], Init::FanIn { fan_in }));
    Ok((weight, bias))
}
