//! Adam and its form with decoupled weight decay.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, at_least_zero, below_one, optimizer, scalar};
use crate::error::Result;
use crate::params::Params;

/// Adam (Kingma and Ba, ICLR 2015) with weight decay as L2 regularisation, in PyTorch's form:
///
/// `g ← g + λ p; m ← m + (1 - β₁)(g - m); v ← β₂ v + (1 - β₂) g²;`
/// `p ← p - η / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)`
///
/// with the learning rate η, β = (0.9, 0.999), ε = 1e-8 and λ = 0 by default.
pub struct Adam {
    flat: Flat,
    rule: AdamRule,
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), in PyTorch's form: as [`Adam`],
/// but `p ← p (1 - η λ)` in place of the addition to the gradient. λ = 0.01 by default.
pub struct AdamW {
    flat: Flat,
    rule: AdamRule,
}

struct AdamRule {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
}

impl AdamRule {
    fn new(weight_decay: f64, decoupled: bool) -> AdamRule {
        AdamRule { betas: (0.9, 0.999), eps: 1e-8, weight_decay, decoupled }
    }
}

impl Adam {
    /// Trains all parameters of the store.
    pub fn new(params: &Params, lr: f64) -> Adam {
        Adam { flat: Flat::new(params, lr), rule: AdamRule::new(0.0, false) }
    }
}

impl AdamW {
    /// Trains all parameters of the store.
    pub fn new(params: &Params, lr: f64) -> AdamW {
        AdamW { flat: Flat::new(params, lr), rule: AdamRule::new(0.01, true) }
    }
}

macro_rules! settings {
    ($name:ident) => {
        impl $name {
            /// Sets (β₁, β₂), each in `[0, 1)`.
            #[must_use]
            pub fn betas(mut self, first: f64, second: f64) -> Self {
                self.rule.betas = (first, second);
                self
            }

            /// Sets ε.
            #[must_use]
            pub fn eps(mut self, eps: f64) -> Self {
                self.rule.eps = eps;
                self
            }

            /// Sets λ.
            #[must_use]
            pub fn weight_decay(mut self, decay: f64) -> Self {
                self.rule.weight_decay = decay;
                self
            }
        }

        optimizer!($name);
    };
}

settings!(Adam);
settings!(AdamW);

impl Rule for AdamRule {
    fn kind(&self) -> &'static str {
        if self.decoupled { "adamw" } else { "adam" }
    }

    fn states(&self) -> &'static [&'static str] {
        &["mean", "square"]
    }

    fn check(&self) -> Result<()> {
        below_one("the first beta", self.betas.0)?;
        below_one("the second beta", self.betas.1)?;
        at_least_zero("eps", self.eps)?;
        at_least_zero("weight decay", self.weight_decay)
    }

    fn update(&self, now: Now, value: &Tensor, grad: &Tensor, states: &[Tensor]) -> (Tensor, Vec<Tensor>) {
        let (first, second) = self.betas;
        let count = now.count as f64;
        let mut grad = grad.clone();
        let mut value = value.clone();
        if self.decoupled {
            value = &value * scalar(&value, 1.0 - now.lr * self.weight_decay);
        } else if self.weight_decay != 0.0 {
            grad = &grad + &value * self.weight_decay as f32;
        }
        let mean = &states[0] + (&grad - &states[0]) * (1.0 - first) as f32;
        let square = &states[1] * second as f32 + &grad * &grad * (1.0 - second) as f32;
        // The corrections are powers of nearly one, so they are computed in double precision.
        let step = scalar(&value, now.lr / (1.0 - first.powf(count)));
        let root = scalar(&value, (1.0 - second.powf(count)).sqrt());
        let new = &value - &mean * step / (square.sqrt() / root + self.eps as f32);
        (new, vec![mean, square])
    }
}
