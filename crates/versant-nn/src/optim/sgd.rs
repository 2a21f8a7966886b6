//! Stochastic gradient descent.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, at_least_zero, optimizer, scalar};
use crate::error::{NnError, Result};
use crate::params::Params;

/// Stochastic gradient descent with momentum, as PyTorch's `SGD` without dampening:
///
/// `g ← g + λ p; b ← μ b + g; p ← p - η (g + μ b if Nesterov, else b)`
///
/// with the learning rate η, momentum μ (0 by default) and weight decay λ (0 by default).
pub struct Sgd {
    flat: Flat,
    rule: SgdRule,
}

#[derive(Default)]
struct SgdRule {
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl Sgd {
    /// Trains all parameters of the store.
    pub fn new(params: &Params, lr: f64) -> Sgd {
        Sgd { flat: Flat::new(params, lr), rule: SgdRule::default() }
    }

    /// Sets μ, in `[0, 1)`.
    #[must_use]
    pub fn momentum(mut self, momentum: f64) -> Sgd {
        self.rule.momentum = momentum;
        self
    }

    /// Looks ahead along the momentum (Nesterov, in the form of Sutskever et al., ICML 2013).
    #[must_use]
    pub fn nesterov(mut self, on: bool) -> Sgd {
        self.rule.nesterov = on;
        self
    }

    /// Sets λ.
    #[must_use]
    pub fn weight_decay(mut self, decay: f64) -> Sgd {
        self.rule.weight_decay = decay;
        self
    }
}

optimizer!(Sgd);

impl Rule for SgdRule {
    fn kind(&self) -> &'static str {
        "sgd"
    }

    fn states(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum"] }
    }

    fn check(&self) -> Result<()> {
        super::below_one("momentum", self.momentum)?;
        at_least_zero("weight decay", self.weight_decay)?;
        if self.nesterov && self.momentum == 0.0 {
            let (what, range) = ("momentum", "positive, as Nesterov's method needs");
            return Err(NnError::Hyperparameter { what, value: self.momentum, range });
        }
        Ok(())
    }

    fn update(&self, now: Now, value: &Tensor, grad: &Tensor, states: &[Tensor]) -> (Tensor, Vec<Tensor>) {
        let mut grad = grad.clone();
        if self.weight_decay != 0.0 {
            grad = &grad + value * self.weight_decay as f32;
        }
        let lr = scalar(value, now.lr);
        let Some(buffer) = states.first() else {
            return (value - grad * lr, Vec::new());
        };
        let momentum = self.momentum as f32;
        let buffer = buffer * momentum + &grad;
        let direction = if self.nesterov { grad + &buffer * momentum } else { buffer.clone() };
        (value - direction * lr, vec![buffer])
    }
}
