//! Penalties on weights.

use versant_graph::Tensor;

use crate::error::{NnError, Result};
use crate::params::{Params, matches_glob};

/// `Σ |p|` over all parameters in training whose names match; `*` in the pattern stands for any text (Tibshirani's
/// lasso, 1996). Multiply it by a strength and add it to a loss. The gradient of 0 is 0.
///
/// Costs a reduction for each parameter. As for squares, an optimiser's weight decay is cheaper than [`l2_penalty`].
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::loss::l1_penalty;
/// use versant_nn::{Init, Optimizer, Params, Seed, Sgd};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = (&vs / "layer").parameter("weight", &[2], Init::Constant(-3.0));
/// let b = (&vs / "layer").parameter("bias", &[2], Init::Ones);
/// let mut opt = Sgd::new(&vs, 1.0);
/// let loss = b.get().sum_all() + l1_penalty(&vs, "*.weight")? * 0.5;
/// opt.step(loss.backward()?)?;
/// assert_eq!(w.get().to_vec::<f32>()?, [-2.5; 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A mistake in the store; no parameter in training that matches.
#[track_caller]
pub fn l1_penalty(params: &Params, pattern: &str) -> Result<Tensor> {
    over(params, pattern, |p| p.abs().sum_all())
}

/// `Σ p²` over all parameters in training whose names match (Hoerl and Kennard's ridge, 1970); see [`l1_penalty`].
/// Times `λ / 2` its gradient is that of a weight decay `λ` as L2 regularisation.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::loss::l2_penalty;
/// use versant_nn::{Init, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// vs.root().parameter("w", &[2], Init::Constant(3.0));
/// assert_eq!(l2_penalty(&vs, "*")?.item::<f32>()?, 18.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`l1_penalty`]'s.
#[track_caller]
pub fn l2_penalty(params: &Params, pattern: &str) -> Result<Tensor> {
    over(params, pattern, |p| p.square().sum_all())
}

#[track_caller]
fn over(params: &Params, pattern: &str, of: impl Fn(&Tensor) -> Tensor) -> Result<Tensor> {
    params.check()?;
    let mut total: Option<Tensor> = None;
    for param in params.iter() {
        if param.is_trainable() && !param.is_frozen() && matches_glob(pattern, param.name()) {
            let own = of(&param.get());
            total = Some(total.map_or_else(|| own.clone(), |sum| sum + &own));
        }
    }
    total.ok_or_else(|| NnError::NoParameters { pattern: Some(pattern.to_owned()) })
}
