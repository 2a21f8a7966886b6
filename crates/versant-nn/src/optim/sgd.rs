//! Stochastic gradient descent.

use versant_graph::Tensor;

use super::flat::Flat;
use super::{Now, Rule, at_least_zero, optimizer, scalar, setting};
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

    setting! {
        /// Sets μ, in `[0, 1)`.
        momentum: f64 => momentum
    }
    setting! {
        /// Looks ahead along the momentum (Nesterov, in the form of Sutskever et al., ICML 2013).
        nesterov: bool => nesterov
    }
    setting! {
        /// Sets λ.
        weight_decay: f64 => weight_decay
    }
}

optimizer!(Sgd);

impl Rule for SgdRule {
    fn kind(&self) -> &'static str {
        "sgd"
    }

    fn states(&self, _class: usize) -> &'static [&'static str] {
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
        let lr = now.lr(value);
        let Some(buffer) = states.first() else {
            return (value - grad * lr, Vec::new());
        };
        let momentum = scalar(value, self.momentum);
        let buffer = buffer * &momentum + &grad;
        let direction = if self.nesterov { grad + &buffer * &momentum } else { buffer.clone() };
        (value - direction * lr, vec![buffer])
    }
}
