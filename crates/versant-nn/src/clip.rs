//! Limits on gradients, as tensor code: nothing here waits for a value.

use versant_graph::{Gradients, Tensor};

/// PyTorch's guard against a division by zero.
const NORM_EPS: f32 = 1e-6;

/// The L2 norm of all elements of all tensors.
pub(crate) fn norm(tensors: &[Tensor]) -> Tensor {
    let squares = tensors.iter().map(|g| (g * g).sum_all());
    let total = squares.reduce(|a, b| a + b).expect("at least one gradient");
    total.sqrt()
}

/// `min(1, max / (norm + NORM_EPS))`.
pub(crate) fn factor(norm: &Tensor, max: f32) -> Tensor {
    (max / (norm + NORM_EPS)).minimum(&Tensor::constant(norm.device(), 1.0f32))
}

/// Every element limited to `[-max, max]`.
pub(crate) fn clamp(t: &Tensor, max: f32) -> Tensor {
    let bound = Tensor::constant(t.device(), max);
    t.minimum(&bound).maximum(&-&bound)
}

/// Scales all gradients by one factor so that their global L2 norm is at most `max`:
/// `g · min(1, max / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`. Returns them with the norm before
/// clipping, recorded and not computed; there is none without gradients.
///
/// Costs a reduction per parameter; the optimisers' `clip_norm` costs one for all.
#[must_use]
pub fn clip_grad_norm(grads: Gradients, max: f32) -> (Gradients, Option<Tensor>) {
    let all: Vec<Tensor> = grads.iter().map(|(_, g)| g.clone()).collect();
    if all.is_empty() {
        return (grads, None);
    }
    let total = norm(&all);
    let scale = factor(&total, max);
    (grads.map(|g| g * &scale), Some(total))
}

/// Limits every element of all gradients to `[-max, max]`.
#[must_use]
pub fn clip_grad_value(grads: Gradients, max: f32) -> Gradients {
    grads.map(|g| clamp(g, max))
}
