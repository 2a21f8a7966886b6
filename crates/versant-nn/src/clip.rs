//! Limits on gradients, as tensor code: nothing here waits for a value.

use versant_graph::{Gradients, Tensor};

/// PyTorch's guard against a division by zero.
const NORM_EPS: f32 = 1e-6;

/// Longest sum that is left to one workgroup; a longer one is taken in rows first, which all run at once.
const LONG: usize = 1 << 16;
const ROW: usize = 1 << 10;

/// The sum of all squares of a tensor.
fn sum_of_squares(t: &Tensor) -> Tensor {
    if t.numel() <= LONG {
        return (t * t).sum_all();
    }
    let flat = t.reshape(&[t.numel() as isize]);
    let padded = flat.pad(&[(0, flat.numel().next_multiple_of(ROW) - flat.numel())], 0.0);
    let rows = padded.reshape(&[-1, ROW as isize]);
    (&rows * &rows).sum(&[1], false).sum_all()
}

/// The L2 norms of the rows of `[n, m]`, each summed as [`sum_of_squares`] does.
pub(crate) fn row_norms(t: &Tensor) -> Tensor {
    let [_, len] = t.shape() else { return t.clone() };
    if *len <= LONG {
        return t.square().sum(&[1], false).sqrt();
    }
    let padded = t.pad(&[(0, 0), (0, len.next_multiple_of(ROW) - len)], 0.0);
    let parts = padded.reshape(&[t.shape()[0] as isize, -1, ROW as isize]);
    parts.square().sum(&[2], false).sum(&[1], false).sqrt()
}

/// The L2 norm of all elements of all tensors.
pub(crate) fn norm(tensors: &[Tensor]) -> Tensor {
    let squares = tensors.iter().map(sum_of_squares);
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

#[cfg(test)]
mod tests {
    use super::*;
    use versant_graph::Device;

    #[test]
    fn a_long_norm_is_taken_in_rows() {
        let device = Device::cpu();
        for n in [1, LONG, LONG + 1, 3 * LONG + ROW - 1] {
            let values: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let want: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let parts = [Tensor::from_slice(&device, &values, &[1, n]), Tensor::ones(&device, &[5])];
            let got = norm(&parts).item::<f32>().expect("it runs");
            let want = (want + 5.0).sqrt();
            assert!((f64::from(got) / want - 1.0).abs() < 1e-6, "{n}: {got} for {want}");
        }
    }

    #[test]
    fn long_rows_have_their_norms() {
        let device = Device::cpu();
        for n in [1, LONG, LONG + 3] {
            let values: Vec<f32> = (0..2 * n).map(|i| (i / n + 1) as f32).collect();
            let rows = Tensor::from_slice(&device, &values, &[2, n]);
            let got = row_norms(&rows).to_vec::<f32>().expect("it runs");
            let want = (n as f32).sqrt();
            assert!((got[0] / want - 1.0).abs() < 1e-5 && (got[1] / want - 2.0).abs() < 1e-5, "{got:?}");
        }
    }

    #[test]
    fn clipping_keeps_every_gradient() {
        let device = Device::cpu();
        let p = Tensor::ones(&device, &[2]).into_parameter("p").expect("it is computed");
        let grads = (&p * 3.0).sum_all().backward().expect("a sum");
        let (grads, norm) = clip_grad_norm(grads, 1.0);
        assert_eq!((grads.len(), norm.is_some()), (1, true));
    }
}
