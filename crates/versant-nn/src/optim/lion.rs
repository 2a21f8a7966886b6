//! Lion.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, at_least_zero, below_one, optimizer, scalar, setting};
use crate::error::Result;
use crate::params::Params;

/// Lion, the evolved sign momentum (Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023):
///
/// `p ← p (1 - η λ) - η sign(β₁ m + (1 - β₁) g); m ← β₂ m + (1 - β₂) g`
///
/// with β = (0.9, 0.99) and λ = 0 by default. One state only; the paper advises a learning rate 3 to 10 times smaller
/// and a weight decay as many times larger than AdamW's.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{Init, Lion, Optimizer, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[2], Init::Ones);
/// let mut opt = Lion::new(&vs, 0.25);
/// opt.step((w.get() * -3.0).sum_all().backward()?)?;
/// assert_eq!(w.get().to_vec::<f32>()?, [1.25; 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lion {
    flat: Flat,
    rule: LionRule,
}

struct LionRule {
    betas: (f64, f64),
    weight_decay: f64,
}

impl Lion {
    /// Trains all parameters of the store. The usual learning rate is 0.0001.
    pub fn new(params: &Params, lr: f64) -> Lion {
        let rule = LionRule { betas: (0.9, 0.99), weight_decay: 0.0 };
        Lion { flat: Flat::new(params, lr), rule }
    }

    /// Sets (β₁, β₂), each in `[0, 1)`.
    #[must_use]
    pub fn betas(mut self, first: f64, second: f64) -> Lion {
        self.rule.betas = (first, second);
        self
    }

    setting! {
        /// Sets λ.
        weight_decay: f64 => weight_decay
    }
}

optimizer!(Lion);

impl Rule for LionRule {
    fn kind(&self) -> &'static str {
        "lion"
    }

    fn states(&self, _class: usize) -> &'static [&'static str] {
        &["mean"]
    }

    fn check(&self) -> Result<()> {
        below_one("the first beta", self.betas.0)?;
        below_one("the second beta", self.betas.1)?;
        at_least_zero("weight decay", self.weight_decay)
    }

    fn decay(&self, _class: usize) -> f64 {
        self.weight_decay
    }

    fn momentum(&mut self) -> Option<&mut f64> {
        Some(&mut self.betas.0)
    }

    fn update(
        &self,
        now: &Now<'_>,
        value: &Tensor,
        grad: &Tensor,
        states: &[Tensor],
    ) -> (Tensor, Vec<Tensor>) {
        let (first, second) = self.betas;
        let mean = &states[0];
        let direction = (mean * scalar(value, first) + grad * scalar(value, 1.0 - first)).sign();
        let new = now.decayed(value) - direction * now.lr(value);
        (new, vec![mean * second as f32 + grad * (1.0 - second) as f32])
    }
}
