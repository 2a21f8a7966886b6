//! Adam and its form with decoupled weight decay.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, adam_rule, adam_settings, optimizer, scalar, setting};
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

pub(super) struct AdamRule {
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    decoupled: bool,
    amsgrad: bool,
}

impl AdamRule {
    pub fn new(weight_decay: f64, decoupled: bool) -> AdamRule {
        AdamRule { betas: (0.9, 0.999), eps: 1e-8, weight_decay, decoupled, amsgrad: false }
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
            adam_settings!();
            setting! {
                /// Divides by the largest second moment so far, `max v`, in place of `v` (AMSGrad; Reddi et al., ICLR
                /// 2018).
                amsgrad: bool => amsgrad
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

    fn states(&self, _class: usize) -> &'static [&'static str] {
        if self.amsgrad { &["mean", "square", "largest"] } else { &["mean", "square"] }
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
        let (value, grad) = match self.decoupled {
            true => (now.decayed(value), grad.clone()),
            false => (value.clone(), now.regularised(value, grad)),
        };
        let mean = &states[0] + (&grad - &states[0]) * scalar(&value, 1.0 - first);
        let square = &states[1] * second as f32 + &grad * &grad * (1.0 - second) as f32;
        let step = now.corrected_lr(&value, first);
        let root = match now.fewer {
            None => scalar(&value, (1.0 - second.powf(now.count as f64)).sqrt()),
            Some(_) => now.correction(&value, second).sqrt(),
        };
        let largest = states.get(2).map(|l| l.maximum(&square));
        let size = largest.as_ref().unwrap_or(&square).sqrt();
        let new = &value - &mean * step / (size / root + self.eps as f32);
        (new, [mean, square].into_iter().chain(largest).collect())
    }
}
