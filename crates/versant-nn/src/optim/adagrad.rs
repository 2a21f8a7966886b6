//! Adagrad.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, at_least_zero, optimizer, setting};
use crate::error::Result;
use crate::params::Params;

/// Adagrad (Duchi, Hazan and Singer, JMLR 2011), in PyTorch's form:
///
/// `g ← g + λ p; s ← s + g²; p ← p - η / (1 + (t - 1) δ) · g / (√s + ε)`
///
/// with the decay of the learning rate δ = 0, λ = 0, ε = 1e-10, and s = 0 at the start by default.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{Adagrad, Init, Optimizer, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[1], Init::Ones);
/// let mut opt = Adagrad::new(&vs, 0.5).initial_accumulator(7.0);
/// opt.step((w.get() * 3.0).sum_all().backward()?)?; // 3 / √(7 + 9)
/// assert_eq!(w.get().item::<f32>()?, 0.625);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Adagrad {
    flat: Flat,
    rule: AdagradRule,
}

struct AdagradRule {
    lr_decay: f64,
    eps: f64,
    weight_decay: f64,
    start: f64,
}

impl Adagrad {
    /// Trains all parameters of the store. The usual learning rate is 0.01.
    pub fn new(params: &Params, lr: f64) -> Adagrad {
        let rule = AdagradRule { lr_decay: 0.0, eps: 1e-10, weight_decay: 0.0, start: 0.0 };
        Adagrad { flat: Flat::new(params, lr), rule }
    }

    setting! {
        /// Sets δ.
        lr_decay: f64 => lr_decay
    }
    setting! {
        /// Sets ε.
        eps: f64 => eps
    }
    setting! {
        /// Sets λ.
        weight_decay: f64 => weight_decay
    }

    /// Sets what the sum of squares is before the first step.
    #[must_use]
    pub fn initial_accumulator(mut self, sum: f64) -> Adagrad {
        self.rule.start = sum;
        self.flat.start = sum as f32;
        self
    }
}

optimizer!(Adagrad);

impl Rule for AdagradRule {
    fn kind(&self) -> &'static str {
        "adagrad"
    }

    fn states(&self, _class: usize) -> &'static [&'static str] {
        &["sum"]
    }

    fn check(&self) -> Result<()> {
        at_least_zero("the decay of the learning rate", self.lr_decay)?;
        at_least_zero("eps", self.eps)?;
        at_least_zero("weight decay", self.weight_decay)?;
        at_least_zero("the initial accumulator", self.start)
    }

    fn decay(&self, _class: usize) -> f64 {
        self.weight_decay
    }

    fn update(
        &self,
        now: &Now<'_>,
        value: &Tensor,
        grad: &Tensor,
        states: &[Tensor],
    ) -> (Tensor, Vec<Tensor>) {
        let grad = now.regularised(value, grad);
        let sum = &states[0] + &grad * &grad;
        let step = grad / (sum.sqrt() + self.eps as f32);
        let lr = match now.fewer {
            Some(_) if self.lr_decay != 0.0 => {
                now.lr(value) / ((now.taken(value) - 1.0) * self.lr_decay as f32 + 1.0)
            }
            _ => now.number(value, |s| s.lr / (1.0 + (now.count - 1) as f64 * self.lr_decay)),
        };
        (value - step * lr, vec![sum])
    }
}
