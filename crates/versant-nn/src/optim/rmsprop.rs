//! RMSprop.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, at_least_zero, below_one, optimizer, scalar, setting};
use crate::error::Result;
use crate::params::Params;

/// RMSprop (Hinton, Coursera lecture 6e, 2012; centred: Graves, 2013), in PyTorch's form:
///
/// `g ← g + λ p; v ← α v + (1 - α) g²; d = √v + ε; p ← p - η g / d`
///
/// If centred, `a ← α a + (1 - α) g` and `d = √(v - a²) + ε`; with momentum, `b ← μ b + g / d; p ← p - η b`. α = 0.99,
/// ε = 1e-8, μ = 0 and λ = 0 by default.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{Init, Optimizer, Params, RmsProp, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[1], Init::Ones);
/// let mut opt = RmsProp::new(&vs, 0.01).alpha(0.75);
/// opt.step((w.get() * 3.0).sum_all().backward()?)?; // 3 / √(9 / 4) = 2
/// assert!((w.get().item::<f32>()? - 0.98).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RmsProp {
    flat: Flat,
    rule: RmsRule,
}

struct RmsRule {
    alpha: f64,
    eps: f64,
    momentum: f64,
    centered: bool,
    weight_decay: f64,
}

impl RmsProp {
    /// Trains all parameters of the store. The usual learning rate is 0.01.
    pub fn new(params: &Params, lr: f64) -> RmsProp {
        let rule = RmsRule { alpha: 0.99, eps: 1e-8, momentum: 0.0, centered: false, weight_decay: 0.0 };
        RmsProp { flat: Flat::new(params, lr), rule }
    }

    setting! {
        /// Sets α, in `[0, 1)`.
        alpha: f64 => alpha
    }
    setting! {
        /// Sets ε.
        eps: f64 => eps
    }
    setting! {
        /// Sets μ, in `[0, 1)`.
        momentum: f64 => momentum
    }
    setting! {
        /// Divides by an estimate of the standard deviation, not by that of the root of the mean square.
        centered: bool => centered
    }
    setting! {
        /// Sets λ.
        weight_decay: f64 => weight_decay
    }
}

optimizer!(RmsProp);

impl Rule for RmsRule {
    fn kind(&self) -> &'static str {
        "rmsprop"
    }

    fn states(&self, _class: usize) -> &'static [&'static str] {
        match (self.centered, self.momentum != 0.0) {
            (false, false) => &["square"],
            (false, true) => &["square", "momentum"],
            (true, false) => &["square", "mean"],
            (true, true) => &["square", "mean", "momentum"],
        }
    }

    fn check(&self) -> Result<()> {
        below_one("alpha", self.alpha)?;
        below_one("momentum", self.momentum)?;
        at_least_zero("eps", self.eps)?;
        at_least_zero("weight decay", self.weight_decay)
    }

    fn decay(&self, _class: usize) -> f64 {
        self.weight_decay
    }

    fn momentum(&mut self) -> Option<&mut f64> {
        // Without momentum there is no buffer for it.
        (self.momentum != 0.0).then_some(&mut self.momentum)
    }

    fn update(
        &self,
        now: &Now<'_>,
        value: &Tensor,
        grad: &Tensor,
        states: &[Tensor],
    ) -> (Tensor, Vec<Tensor>) {
        let grad = now.regularised(value, grad);
        let (alpha, rest) = (self.alpha as f32, (1.0 - self.alpha) as f32);
        let square = &states[0] * alpha + &grad * &grad * rest;
        let mut new = vec![square.clone()];
        let mut size = square;
        if self.centered {
            let mean = &states[1] + (&grad - &states[1]) * rest;
            // Rounding can take a variance of nearly zero below it.
            size = (size - &mean * &mean).maximum(&Tensor::constant(value.device(), 0.0f32));
            new.push(mean);
        }
        let mut direction = grad / (size.sqrt() + self.eps as f32);
        if self.momentum != 0.0 {
            direction = &states[new.len()] * scalar(value, self.momentum) + direction;
            new.push(direction.clone());
        }
        (value - direction * now.lr(value), new)
    }
}
