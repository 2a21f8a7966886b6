//! Adamax.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, adam_rule, adam_settings, optimizer, scalar};
use crate::params::Params;

/// Adamax, Adam by the infinity norm (Kingma and Ba, ICLR 2015, section 7.1), in PyTorch's form:
///
/// `g ← g + λ p; m ← m + (1 - β₁)(g - m); u ← max(β₂ u, |g| + ε); p ← p - η / (1 - β₁ᵗ) · m / u`
///
/// with β = (0.9, 0.999), ε = 1e-8 and λ = 0 by default.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{Adamax, Init, Optimizer, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[1], Init::Ones);
/// let mut opt = Adamax::new(&vs, 0.25);
/// opt.step((w.get() * 3.0).sum_all().backward()?)?;
/// assert!((w.get().item::<f32>()? - 0.75).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Adamax {
    flat: Flat,
    rule: AdamaxRule,
}

struct AdamaxRule {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
}

impl Adamax {
    /// Trains all parameters of the store. The usual learning rate is 0.002.
    pub fn new(params: &Params, lr: f64) -> Adamax {
        let rule = AdamaxRule { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 };
        Adamax { flat: Flat::new(params, lr), rule }
    }

    adam_settings!();
}

optimizer!(Adamax);

impl Rule for AdamaxRule {
    fn kind(&self) -> &'static str {
        "adamax"
    }

    fn states(&self, _class: usize) -> &'static [&'static str] {
        &["mean", "norm"]
    }

    adam_rule!();

    fn update(
        &self,
        now: &Now<'_>,
        value: &Tensor,
        grad: &Tensor,
        states: &[Tensor],
    ) -> (Tensor, Vec<Tensor>) {
        let (first, second) = self.betas;
        let grad = now.regularised(value, grad);
        let mean = &states[0] + (&grad - &states[0]) * scalar(value, 1.0 - first);
        let norm = (&states[1] * second as f32).maximum(&(grad.abs() + self.eps as f32));
        let step = now.corrected_lr(value, first);
        (value - &mean / &norm * step, vec![mean, norm])
    }
}
