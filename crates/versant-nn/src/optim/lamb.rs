//! LAMB.

use versant_graph::Tensor;

use super::flat::{Flat, Order};
use super::{Now, Rule, adam_rule, adam_settings, optimizer, scalar};
use crate::clip::row_norms;
use crate::params::Params;

/// LAMB, layer-wise adaptive moments for large batches (You et al., ICLR 2020, algorithm 2):
///
/// `m ← m + (1 - β₁)(g - m); v ← β₂ v + (1 - β₂) g²;`
/// `u = m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε) + λ p; p ← p - η r u`
///
/// where `r = ‖p‖ / ‖u‖` over each parameter tensor, and 1 where one of the norms is 0. β = (0.9, 0.999), ε = 1e-6 and
/// λ = 0.01 by default. Often biases and gains go without decay: [`ParamGroup`](crate::ParamGroup).
///
/// Parameters of one length are neighbours, so that their norms are taken together, and those of all lengths by one launch
/// (by two where one is longer than 65,536): a step is three or four launches. Beside the states, the optimiser
/// holds four bytes for each element: the number of its parameter.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{Init, Lamb, Optimizer, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[4], Init::Constant(5.0));
/// let mut opt = Lamb::new(&vs, 0.1).weight_decay(0.0);
/// opt.step((w.get() * 3.0).sum_all().backward()?)?; // A tenth of its length.
/// assert!((w.get().to_vec::<f32>()?[0] - 4.5).abs() < 1e-4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lamb {
    flat: Flat,
    rule: LambRule,
}

struct LambRule {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
}

impl Lamb {
    /// Trains all parameters of the store.
    pub fn new(params: &Params, lr: f64) -> Lamb {
        let rule = LambRule { betas: (0.9, 0.999), eps: 1e-6, weight_decay: 0.01 };
        Lamb { flat: Flat::ordered(params, lr, Order::ByLength), rule }
    }

    adam_settings!();
}

optimizer!(Lamb);

impl Rule for LambRule {
    fn kind(&self) -> &'static str {
        "lamb"
    }

    fn states(&self, _class: usize) -> &'static [&'static str] {
        &["mean", "square"]
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
        let mean = &states[0] + (grad - &states[0]) * scalar(value, 1.0 - first);
        let square = &states[1] * second as f32 + grad * grad * (1.0 - second) as f32;
        let unbiased = &mean / now.correction(value, first);
        let size = (&square / now.correction(value, second)).sqrt() + self.eps as f32;
        let update = now.regularised(value, &(unbiased / size));
        let step = now.lr(value) * trust(now, value, &update);
        (value - update * step, vec![mean, square])
    }
}

/// For each element the ratio of its parameter's norm and its update's.
fn trust(now: &Now<'_>, value: &Tensor, update: &Tensor) -> Tensor {
    let one = Tensor::constant(value.device(), 1.0f32);
    let zero = Tensor::constant(value.device(), 0.0f32);
    let of_run = |(first, n): (&super::group::Segment, usize)| {
        let rows = |t: &Tensor| {
            let all = t.narrow(0, first.start, n * first.len);
            row_norms(&all.reshape(&[n as isize, first.len as isize]))
        };
        let (value, update) = (rows(value), rows(update));
        value.gt(&zero).and(&update.gt(&zero)).select(&(value / update), &one)
    };
    let ratios: Vec<Tensor> = now.runs(|a, b| a.len == b.len).into_iter().map(of_run).collect();
    let ratios = Tensor::cat(&ratios.iter().collect::<Vec<_>>(), 0);
    match now.index {
        Some(index) => ratios.index_select(0, index),
        None => ratios,
    }
}
