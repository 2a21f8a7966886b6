//! Losses of embeddings: what belongs together shall be near.

use std::panic::Location;

use versant_graph::{DType, Tensor};

use super::{CrossEntropyOptions, Reduction, cross_entropy, mismatch};
use crate::fault::invalid;

/// Added to squared lengths, so that an embedding of zeros has an angle; PyTorch's.
const TINY: f32 = 1e-12;

/// `s` to the power `1 / p` for `s ≥ 0`; where it is 0, the derivative is 0, as that of a norm in PyTorch.
fn root(s: &Tensor, p: f32) -> Tensor {
    let zero = Tensor::constant(s.device(), 0.0f32);
    let one = Tensor::constant(s.device(), 1.0f32);
    // A negative sum cannot be; NaN must stay.
    let none = s.eq(&zero);
    let safe = none.select(&one, s);
    let root = if p == 2.0 { safe.sqrt() } else { safe.pow(&Tensor::constant(s.device(), 1.0 / p)) };
    none.select(&zero, &root)
}

/// The p-norm over the last axis.
fn norm(x: &Tensor, p: f32) -> Tensor {
    match p {
        1.0 => x.abs().sum(&[-1], false),
        2.0 => root(&x.square().sum(&[-1], false), p),
        _ => root(&x.abs().pow(&Tensor::constant(x.device(), p)).sum(&[-1], false), p),
    }
}

/// Why embeddings `[.., D]` do not belong together, or labels do not have their shape without the last axis.
fn pair_mismatch(a: &Tensor, b: &Tensor, labels: Option<&Tensor>) -> Option<String> {
    if let Some(why) = mismatch(a, b) {
        return Some(why.replace("a prediction and a target", "embeddings"));
    }
    if a.rank() == 0 {
        return Some("needs embeddings [.., D]".to_owned());
    }
    let labels = labels?;
    let wanted = &a.shape()[..a.rank() - 1];
    let fits = labels.shape() == wanted && labels.dtype() == DType::F32 && labels.error().is_none();
    (!fits).then(|| format!("labels must be f32{wanted:?}"))
}

fn bad_margin(margin: f32) -> Option<String> {
    (!margin.is_finite()).then(|| format!("the margin must be finite, not {margin}"))
}

/// The loss of pairs by the angle between them, as PyTorch's `cosine_embedding_loss`: `1 - cos` where the label is 1,
/// `max(0, cos - margin)` where it is -1. Embeddings `[.., D]`, labels f32 `[..]`.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{Reduction, cosine_embedding};
/// let dev = Device::cpu();
/// let a = Tensor::from_slice(&dev, &[1.0f32, 0.0, 2.0, 0.0], &[2, 2]);
/// let b = Tensor::from_slice(&dev, &[0.0f32, 3.0, 5.0, 0.0], &[2, 2]);
/// let label = Tensor::from_slice(&dev, &[1.0f32, -1.0], &[2]);
/// let loss = cosine_embedding(&a, &b, &label, 0.25, Reduction::None);
/// assert_eq!(loss.to_vec::<f32>()?, [1.0, 0.75]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn cosine_embedding(a: &Tensor, b: &Tensor, label: &Tensor, margin: f32, reduction: Reduction) -> Tensor {
    let bad = || (!(-1.0..=1.0).contains(&margin)).then(|| format!("the margin is a cosine, not {margin}"));
    if let Some(why) = pair_mismatch(a, b, Some(label)).or_else(bad) {
        return invalid("cosine_embedding", &[a, b, label], Location::caller(), why);
    }
    let dot = |x: &Tensor, y: &Tensor| (x * y).sum(&[-1], false);
    let cosine = dot(a, b) / ((dot(a, a) + TINY) * (dot(b, b) + TINY)).sqrt();
    reduction.apply(by_label(label, &(1.0 - &cosine), &(cosine - margin).relu()))
}

/// One loss where the label is 1, another where it is -1, and nothing elsewhere, as in PyTorch.
#[track_caller]
fn by_label(label: &Tensor, same: &Tensor, other: &Tensor) -> Tensor {
    let number = |x: f32| Tensor::constant(label.device(), x);
    label.eq(&number(1.0)).select(same, &label.eq(&number(-1.0)).select(other, &number(0.0)))
}

/// The loss of distances, as PyTorch's `hinge_embedding_loss`: `x` where the label is 1, `max(0, margin - x)` where it
/// is -1. Distances and labels have one shape, both f32.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{Reduction, hinge_embedding};
/// let dev = Device::cpu();
/// let distance = Tensor::from_slice(&dev, &[0.5f32, 0.25, 3.0], &[3]);
/// let label = Tensor::from_slice(&dev, &[1.0f32, -1.0, -1.0], &[3]);
/// let loss = hinge_embedding(&distance, &label, 1.0, Reduction::None);
/// assert_eq!(loss.to_vec::<f32>()?, [0.5, 0.75, 0.0]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn hinge_embedding(distance: &Tensor, label: &Tensor, margin: f32, reduction: Reduction) -> Tensor {
    if let Some(why) = mismatch(distance, label).or_else(|| bad_margin(margin)) {
        return invalid("hinge_embedding", &[distance, label], Location::caller(), why);
    }
    reduction.apply(by_label(label, distance, &(margin - distance).relu()))
}

/// The contrastive loss of pairs (Hadsell, Chopra and LeCun, "Dimensionality reduction by learning an invariant mapping",
/// CVPR 2006): with the distance `d = ‖a - b‖` and the label `y`, `y d² / 2 + (1 - y) max(0, margin - d)² / 2`; the
/// label is 1 for what belongs together and 0 for what does not. Embeddings `[.., D]`, labels f32 `[..]`.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{Reduction, contrastive};
/// let dev = Device::cpu();
/// let a = Tensor::from_slice(&dev, &[0.0f32, 0.0, 0.0, 0.0], &[2, 2]);
/// let b = Tensor::from_slice(&dev, &[3.0f32, 4.0, 0.0, 1.0], &[2, 2]);
/// let label = Tensor::from_slice(&dev, &[1.0f32, 0.0], &[2]);
/// let loss = contrastive(&a, &b, &label, 2.0, Reduction::None);
/// assert_eq!(loss.to_vec::<f32>()?, [12.5, 0.5]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn contrastive(a: &Tensor, b: &Tensor, label: &Tensor, margin: f32, reduction: Reduction) -> Tensor {
    if let Some(why) = pair_mismatch(a, b, Some(label)).or_else(|| bad_margin(margin)) {
        return invalid("contrastive", &[a, b, label], Location::caller(), why);
    }
    let square = (a - b).square().sum(&[-1], false);
    let missing = (margin - root(&square, 2.0)).relu();
    reduction.apply((label * square + (1.0 - label) * missing.square()) * 0.5)
}

/// Options of [`triplet_margin`].
#[derive(Clone, Copy, Debug)]
pub struct TripletOptions {
    /// How much farther the negative must be; 1 by default.
    pub margin: f32,
    /// Which norm is the distance, 1 at least; 2 by default.
    pub p: f32,
    /// Added to differences before the norm is taken; 1e-6 by default.
    pub eps: f32,
    /// Whether the negative's distance is that from the anchor or from the positive, whichever is less (Balntas et al.,
    /// BMVC 2016).
    pub swap: bool,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for TripletOptions {
    fn default() -> Self {
        TripletOptions { margin: 1.0, p: 2.0, eps: 1e-6, swap: false, reduction: Reduction::Mean }
    }
}

/// The loss of triplets (Schroff et al., "FaceNet", CVPR 2015, without squares as in PyTorch's `triplet_margin_loss`):
/// `max(0, ‖a - p + ε‖ - ‖a - n + ε‖ + margin)`. Three embeddings `[.., D]` of one shape.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{TripletOptions, triplet_margin};
/// let dev = Device::cpu();
/// let at = |x: f32| Tensor::from_slice(&dev, &[x, 0.0], &[1, 2]);
/// let loss = triplet_margin(&at(0.0), &at(1.0), &at(1.5), &TripletOptions::default());
/// assert!((loss.item::<f32>()? - 0.5).abs() < 1e-5);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn triplet_margin(
    anchor: &Tensor,
    positive: &Tensor,
    negative: &Tensor,
    options: &TripletOptions,
) -> Tensor {
    let &TripletOptions { margin, p, eps, swap, reduction } = options;
    let bad = || {
        let bad = p < 1.0 || !p.is_finite() || !eps.is_finite();
        bad.then(|| format!("the norm must be at least 1 and eps finite, not {p} and {eps}"))
    };
    let why = pair_mismatch(anchor, positive, None)
        .or_else(|| pair_mismatch(anchor, negative, None))
        .or_else(|| bad_margin(margin))
        .or_else(bad);
    if let Some(why) = why {
        return invalid("triplet_margin", &[anchor, positive, negative], Location::caller(), why);
    }
    let distance = |a: &Tensor, b: &Tensor| norm(&(a - b + eps), p);
    let near = distance(anchor, positive);
    let mut far = distance(anchor, negative);
    if swap {
        far = far.minimum(&distance(positive, negative));
    }
    reduction.apply((near - far + margin).relu())
}

/// Options of [`info_nce`].
#[derive(Clone, Copy, Debug)]
pub struct InfoNceOptions {
    /// What cosines are divided by; 0.1 by default.
    pub temperature: f32,
    /// Whether keys look for their query as well, and the two losses are averaged (Radford et al., "CLIP", ICML 2021).
    pub symmetric: bool,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for InfoNceOptions {
    fn default() -> Self {
        InfoNceOptions { temperature: 0.1, symmetric: false, reduction: Reduction::Mean }
    }
}

/// InfoNCE (van den Oord, Li and Vinyals, "Representation learning with contrastive predictive coding", 2018), each query
/// against all keys of the batch: the cross-entropy of `cos(q_i, k_j) / τ` with the class `i`. Queries and keys are
/// `[N, D]`; the `i`-th belong together.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{InfoNceOptions, info_nce};
/// let dev = Device::cpu();
/// let q = Tensor::from_slice(&dev, &[2.0f32, 0.0, 0.0, 1.0], &[2, 2]);
/// let right = info_nce(&q, &q, &InfoNceOptions::default()).item::<f32>()?;
/// let wrong = info_nce(&q, &q.flip(&[0]), &InfoNceOptions::default()).item::<f32>()?;
/// assert!(right < 1e-4 && (wrong - 10.0).abs() < 1e-3);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn info_nce(query: &Tensor, key: &Tensor, options: &InfoNceOptions) -> Tensor {
    let temperature = options.temperature;
    let why = pair_mismatch(query, key, None).or_else(|| match query.rank() {
        2 if query.numel() == 0 => Some("there are no embeddings".to_owned()),
        2 if temperature > 0.0 => None,
        2 => Some(format!("the temperature must be positive, not {temperature}")),
        _ => Some("needs embeddings [N, D]".to_owned()),
    });
    if let Some(why) = why {
        return invalid("info_nce", &[query, key], Location::caller(), why);
    }
    let unit = |x: &Tensor| {
        let length = root(&x.square().sum(&[1], true), 2.0);
        x / length.maximum(&Tensor::constant(x.device(), TINY))
    };
    let logits = unit(query).matmul(&unit(key).t()) * (1.0 / temperature);
    let own = Tensor::arange(query.device(), query.shape()[0], DType::I32);
    let classes = CrossEntropyOptions { reduction: options.reduction, ..Default::default() };
    let loss = cross_entropy(&logits, &own, &classes);
    match options.symmetric {
        true => (loss + cross_entropy(&logits.t(), &own, &classes)) * 0.5,
        false => loss,
    }
}
