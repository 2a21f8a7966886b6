//! NAdam.

use versant_graph::{DType, Tensor};

use super::flat::Flat;
use super::{Now, Rule, adam_settings, at_least_zero, below_one, optimizer, scalar, setting};
use crate::error::Result;
use crate::params::Params;

/// Adam with Nesterov's momentum (Dozat, ICLR workshop 2016), in PyTorch's form: with
/// `μ(t) = β₁ (1 - 0.96^(t ψ) / 2)` and `M(t) = μ(1) ··· μ(t)`,
///
/// `g ← g + λ p; m ← m + (1 - β₁)(g - m); v ← β₂ v + (1 - β₂) g²; d = √(v / (1 - β₂ᵗ)) + ε;`
/// `p ← p - η (1 - μ(t)) / (1 - M(t)) · g / d - η μ(t + 1) / (1 - M(t + 1)) · m / d`
///
/// with β = (0.9, 0.999), ε = 1e-8, ψ = 0.004 and λ = 0 by default.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{Init, NAdam, Optimizer, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[1], Init::Ones);
/// let mut opt = NAdam::new(&vs, 0.1);
/// opt.step((w.get() * 3.0).sum_all().backward()?)?;
/// assert!((w.get().item::<f32>()? - 0.894).abs() < 1e-3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct NAdam {
    flat: Flat,
    rule: NAdamRule,
}

struct NAdamRule {
    betas: (f64, f64),
    eps: f64,
    momentum_decay: f64,
    weight_decay: f64,
    decoupled: bool,
}

impl NAdam {
    /// Trains all parameters of the store. The usual learning rate is 0.002.
    pub fn new(params: &Params, lr: f64) -> NAdam {
        let rule = NAdamRule {
            betas: (0.9, 0.999),
            eps: 1e-8,
            momentum_decay: 4e-3,
            weight_decay: 0.0,
            decoupled: false,
        };
        NAdam { flat: Flat::new(params, lr), rule }
    }

    adam_settings!();
    setting! {
        /// Sets ψ.
        momentum_decay: f64 => momentum_decay
    }
    setting! {
        /// Whether weights are decayed apart from the gradient, `p ← p (1 - η λ)`, as in [`AdamW`](crate::AdamW).
        decoupled: bool => decoupled
    }
}

optimizer!(NAdam);

impl NAdamRule {
    fn momentum_at(&self, step: f64) -> f64 {
        self.betas.0 * (1.0 - 0.5 * 0.96f64.powf(step * self.momentum_decay))
    }

    /// `M(t)`. A function of the count, so that it need not be saved.
    fn product(&self, count: u64) -> f64 {
        let mut product = 1.0;
        for step in 1..=count {
            product *= self.momentum_at(step as f64);
            // What follows does not change `1 - M`.
            if product < f64::EPSILON / 4.0 {
                return 0.0;
            }
        }
        product
    }

    /// What the learning rate is multiplied by for the gradient, and for its average.
    fn factors(&self, count: u64) -> [f64; 2] {
        let (here, next) = (self.momentum_at(count as f64), self.momentum_at(count as f64 + 1.0));
        let product = self.product(count);
        [(1.0 - here) / (1.0 - product), next / (1.0 - product * next)]
    }

    /// The same for a count that only the device knows. The product is the exponential of a sum of logarithms: of so many terms that
    /// what follows does not change `1 - M` in single precision, and of no more than so many steps as f32 counts.
    fn factors_of(&self, count: &Tensor) -> [Tensor; 2] {
        let momentum = |step: &Tensor| {
            let decay = (step * (self.momentum_decay * 0.96f64.ln()) as f32).exp();
            (1.0 - decay * 0.5) * self.betas.0 as f32
        };
        let terms = (-20.0 / self.betas.0.ln()).clamp(1.0, 1e6) as usize;
        let steps = Tensor::arange(count.device(), terms, DType::F32) + 1.0;
        let zero = Tensor::constant(count.device(), 0.0f32);
        let product = steps.le(count).select(&momentum(&steps).ln(), &zero).sum(&[0], true).exp();
        let next = momentum(&(count + 1.0));
        let of_grad = (1.0 - momentum(count)) / (1.0 - &product);
        [of_grad, &next / (1.0 - product * &next)]
    }
}

impl Rule for NAdamRule {
    fn kind(&self) -> &'static str {
        "nadam"
    }

    fn states(&self, _class: usize) -> &'static [&'static str] {
        &["mean", "square"]
    }

    fn check(&self) -> Result<()> {
        below_one("the first beta", self.betas.0)?;
        below_one("the second beta", self.betas.1)?;
        at_least_zero("eps", self.eps)?;
        at_least_zero("the decay of the momentum", self.momentum_decay)?;
        at_least_zero("weight decay", self.weight_decay)
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
        let (first, second) = self.betas;
        let (value, grad) = match self.decoupled {
            true => (now.decayed(value), grad.clone()),
            false => (value.clone(), now.regularised(value, grad)),
        };
        let mean = &states[0] + (&grad - &states[0]) * (1.0 - first) as f32;
        let square = &states[1] * second as f32 + &grad * &grad * (1.0 - second) as f32;
        let size = (&square / now.correction(&value, second)).sqrt() + self.eps as f32;
        let [of_grad, of_mean] = match now.fewer {
            None => self.factors(now.count).map(|f| scalar(&value, f)),
            Some(_) => self.factors_of(&now.taken(&value)),
        };
        let lr = now.lr(&value);
        (value - (grad * (&lr * of_grad) + &mean * (lr * of_mean)) / size, vec![mean, square])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use versant_graph::Device;

    #[test]
    fn any_count_has_a_product() {
        let rule = NAdam::new(&Params::new(&Device::cpu(), crate::Seed(0)), 0.1).rule;
        assert_eq!(rule.product(0), 1.0);
        assert!((rule.product(1) - 0.45).abs() < 1e-3);
        assert_eq!(rule.product(u64::MAX), 0.0);
    }
}
