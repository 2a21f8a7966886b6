//! Loss functions, with PyTorch's formulas and reductions.
//!
//! Each is a free function with options; [`Losses`] offers the usual ones as methods of a tensor. They are
//! composed of tensor operations: softmax and cross-entropy together are one row kernel forwards and one
//! reduction, and the gradient is written by the same row kernel.

use std::panic::Location;

use versant_graph::{DType, Tensor};

use crate::fault::{in_range, invalid};

/// How the losses of the elements become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reduction {
    /// Their mean: a weighted one where classes have weights.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// Left as they are, in the shape of the targets.
    None,
}

impl Reduction {
    #[track_caller]
    fn apply(self, losses: Tensor) -> Tensor {
        match self {
            Reduction::Mean => losses.mean_all(),
            Reduction::Sum => losses.sum_all(),
            Reduction::None => losses,
        }
    }
}

/// Options of [`cross_entropy`].
#[derive(Clone, Debug, Default)]
pub struct CrossEntropyOptions {
    /// A weight for every class, `[C]`.
    pub weight: Option<Tensor>,
    /// The share ε of the target that is spread evenly over all classes (Szegedy et al., 2016), 0 to 1.
    pub label_smoothing: f32,
    /// A class index that counts as "no target": no loss, no gradient, not in the mean. `None` by default
    /// (PyTorch's default is −100), since looking for it costs another reduction.
    pub ignore_index: Option<i64>,
    /// How the losses become one.
    pub reduction: Reduction,
}

/// Options of [`nll`].
#[derive(Clone, Debug, Default)]
pub struct NllOptions {
    /// A weight for every class, `[C]`.
    pub weight: Option<Tensor>,
    /// A class index that counts as "no target", as in [`CrossEntropyOptions`].
    pub ignore_index: Option<i64>,
    /// How the losses become one.
    pub reduction: Reduction,
}

/// Options of [`bce_with_logits`].
#[derive(Clone, Debug, Default)]
pub struct BceOptions {
    /// A weight for every element; broadcast to the logits. The mean divides by the number of elements
    /// all the same.
    pub weight: Option<Tensor>,
    /// A weight for the positive part of the loss; broadcast to the logits. More than 1 raises recall.
    pub pos_weight: Option<Tensor>,
    /// How the losses become one.
    pub reduction: Reduction,
}

/// Why two operands of an elementwise loss do not belong together. Broadcasting is not allowed: `[N]`
/// against `[N, 1]` would quietly be a loss over N² pairs.
fn mismatch(x: &Tensor, target: &Tensor) -> Option<String> {
    let same = x.shape() == target.shape();
    let floats = x.dtype() == DType::F32 && target.dtype() == DType::F32;
    let fine = same && floats && x.error().is_none() && target.error().is_none();
    (!fine).then(|| "needs a prediction and a target of one shape, both f32".to_owned())
}

/// Squared error, `(x - t)²`. Both have one shape; [`Reduction::None`] keeps it.
#[track_caller]
#[must_use]
pub fn mse(x: &Tensor, target: &Tensor, reduction: Reduction) -> Tensor {
    match mismatch(x, target) {
        Some(why) => invalid("mse", &[x, target], Location::caller(), why),
        None => reduction.apply((x - target).square()),
    }
}

/// Absolute error, `|x - t|`; its gradient where they are equal is 0. Shapes as in [`mse`].
#[track_caller]
#[must_use]
pub fn l1(x: &Tensor, target: &Tensor, reduction: Reduction) -> Tensor {
    match mismatch(x, target) {
        Some(why) => invalid("l1", &[x, target], Location::caller(), why),
        None => reduction.apply((x - target).abs()),
    }
}

/// Huber's loss (1964): with `d = x - t`, `d² / 2` where `|d| < delta`, else `delta (|d| - delta / 2)`.
/// `delta` is positive; shapes as in [`mse`].
#[track_caller]
#[must_use]
pub fn huber(x: &Tensor, target: &Tensor, delta: f32, reduction: Reduction) -> Tensor {
    let why = match mismatch(x, target) {
        None if delta > 0.0 => None,
        None => Some(format!("delta must be positive, not {delta}")),
        why => why,
    };
    if let Some(why) = why {
        return invalid("huber", &[x, target], Location::caller(), why);
    }
    let difference = x - target;
    let size = difference.abs();
    let near = size.lt(&Tensor::constant(x.device(), delta));
    let inside = difference.square() * 0.5;
    let outside = (size - 0.5 * delta) * delta;
    reduction.apply(near.select(&inside, &outside))
}

/// Softmax and cross-entropy: logits `[N, C]` or `[N, C, d1, ..]` against class indices (I32 or U32, `[N]` or
/// `[N, d1, ..]`) or soft labels (F32, the shape of the logits).
///
/// With `p = softmax(x)` over the classes, weights `w` and smoothing ε, an index `y` gives
/// `-(1 - ε) w[y] ln p[y] - ε / C Σ_c w[c] ln p[c]`, and the mean divides by the sum of `w[y]`. Soft labels
/// give `-Σ_c w[c] ((1 - ε) t[c] + ε / C) ln p[c]`, and the mean divides by the number of rows.
///
/// An index that is no class (and not the ignored one) makes its loss NaN: a device cannot refuse it, and
/// must not hide it.
///
/// ```
/// use versant_nn::loss::{CrossEntropyOptions, cross_entropy};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let logits = Tensor::from_slice(&dev, &[0.0f32, 0.0, 3.0, 0.0], &[2, 2]);
/// let labels = Tensor::from_slice(&dev, &[1i32, -100], &[2]);
/// let options = CrossEntropyOptions { ignore_index: Some(-100), ..Default::default() };
/// let loss = cross_entropy(&logits, &labels, &options);
/// assert!((loss.item::<f32>()? - 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn cross_entropy(logits: &Tensor, target: &Tensor, options: &CrossEntropyOptions) -> Tensor {
    let name = "cross_entropy";
    let location = Location::caller();
    let smoothing = options.label_smoothing;
    let why = class_mismatch(logits, target, options.weight.as_ref(), true).or_else(|| {
        let why = || format!("label smoothing must be within 0 and 1, not {smoothing}");
        (!(0.0..=1.0).contains(&smoothing)).then(why)
    });
    if let Some(why) = why {
        return invalid(name, &[logits, target], location, why);
    }
    let log_p = logits.log_softmax(1);
    if target.dtype() == DType::F32 {
        return soft_cross_entropy(&log_p, target, options);
    }
    ClassTargets {
        log_p: &log_p,
        target,
        weight: options.weight.as_ref(),
        smoothing,
        ignore: options.ignore_index,
    }
    .loss(options.reduction)
}

/// Negative log-likelihood, `-w[y] x[y]`, of logarithms of probabilities `[N, C]` or `[N, C, d1, ..]` at
/// class indices as in [`cross_entropy`]. The mean divides by the sum of the weights.
#[track_caller]
#[must_use]
pub fn nll(log_p: &Tensor, target: &Tensor, options: &NllOptions) -> Tensor {
    if let Some(why) = class_mismatch(log_p, target, options.weight.as_ref(), false) {
        return invalid("nll", &[log_p, target], Location::caller(), why);
    }
    ClassTargets {
        log_p,
        target,
        weight: options.weight.as_ref(),
        smoothing: 0.0,
        ignore: options.ignore_index,
    }
    .loss(options.reduction)
}

/// Sigmoid and binary cross-entropy, without overflow for any logit: with `p = sigmoid(x)`,
/// `-w (q t ln p + (1 - t) ln(1 - p))`, where `w` is the weight and `q` the positive weight. Logits and
/// targets (F32, 0 to 1) have one shape.
#[track_caller]
#[must_use]
pub fn bce_with_logits(logits: &Tensor, target: &Tensor, options: &BceOptions) -> Tensor {
    let name = "bce_with_logits";
    let location = Location::caller();
    if let Some(why) = mismatch(logits, target) {
        return invalid(name, &[logits, target], location, why);
    }
    // -ln sigmoid(x) = softplus(-x), and -ln(1 - sigmoid(x)) = x + softplus(-x).
    let falling = (-logits).softplus();
    let mut losses = match &options.pos_weight {
        Some(q) => (1.0 - target) * logits + ((q - 1.0) * target + 1.0) * falling,
        None => (1.0 - target) * logits + falling,
    };
    if let Some(weight) = &options.weight {
        losses = losses * weight;
    }
    let given = [&options.weight, &options.pos_weight];
    if losses.error().is_none() && losses.shape() != logits.shape() {
        let operands: Vec<&Tensor> =
            [logits, target].into_iter().chain(given.into_iter().flatten()).collect();
        let why = "weights must broadcast to the shape of the logits";
        return invalid(name, &operands, location, why);
    }
    options.reduction.apply(losses)
}

/// Why scores, targets and class weights do not belong together.
fn class_mismatch(scores: &Tensor, target: &Tensor, weight: Option<&Tensor>, soft: bool) -> Option<String> {
    // The caller's report then carries the first operand's own error.
    if scores.error().is_some() || target.error().is_some() {
        return Some(String::new());
    }
    if scores.rank() < 2 || scores.dtype() != DType::F32 {
        return Some("needs f32 scores [N, C] or [N, C, d1, ..]".to_owned());
    }
    let classes = scores.shape()[1];
    if classes == 0 {
        return Some("there are no classes".to_owned());
    }
    let fits = match target.dtype() {
        DType::I32 | DType::U32 => {
            target.rank() + 1 == scores.rank()
                && target.shape()[0] == scores.shape()[0]
                && target.shape()[1..] == scores.shape()[2..]
        }
        DType::F32 if soft => target.shape() == scores.shape(),
        _ => false,
    };
    if !fits {
        let other = if soft { ", or f32 labels in the shape of the scores" } else { "" };
        return Some(format!(
            "targets must be class indices (i32 or u32) in the shape of the scores without axis 1{other}"
        ));
    }
    let weight = weight?;
    let fine = weight.shape() == [classes] && weight.dtype() == DType::F32;
    match weight.error() {
        Some(error) => Some(format!("the class weights carry an error: {error}")),
        None if fine => None,
        None => {
            Some(format!("class weights must be f32[{classes}], not {}{:?}", weight.dtype(), weight.shape()))
        }
    }
}

/// A `[C]` vector against scores `[N, C, d1, ..]` of this rank.
#[track_caller]
fn per_class(vector: &Tensor, rank: usize) -> Tensor {
    let mut shape = vec![1isize; rank - 1];
    shape[0] = -1;
    vector.reshape(&shape)
}

#[track_caller]
fn soft_cross_entropy(log_p: &Tensor, target: &Tensor, options: &CrossEntropyOptions) -> Tensor {
    let classes = log_p.shape()[1] as f32;
    let e = options.label_smoothing;
    let smoothed = if e > 0.0 { target * (1.0 - e) + e / classes } else { target.clone() };
    let terms = match &options.weight {
        Some(weight) => smoothed * log_p * per_class(weight, log_p.rank()),
        None => smoothed * log_p,
    };
    options.reduction.apply(-terms.sum(&[1], false))
}

/// Class indices against logarithms of probabilities.
struct ClassTargets<'a> {
    log_p: &'a Tensor,
    target: &'a Tensor,
    weight: Option<&'a Tensor>,
    smoothing: f32,
    ignore: Option<i64>,
}

impl ClassTargets<'_> {
    #[track_caller]
    fn loss(&self, reduction: Reduction) -> Tensor {
        let zero = Tensor::constant(self.log_p.device(), 0.0f32);
        let weights = self.row_weights(&zero);
        let mut losses = self.losses(&zero, weights.as_ref());
        let keep = self.ignored_word().map(|ignored| self.target.ne(&ignored));
        if let Some(keep) = &keep {
            losses = keep.select(&losses, &zero);
        }
        match (reduction, weights, keep) {
            (Reduction::Mean, Some(weights), Some(keep)) => {
                losses.sum_all() / keep.select(&weights, &zero).sum_all()
            }
            (Reduction::Mean, Some(weights), None) => losses.sum_all() / weights.sum_all(),
            (Reduction::Mean, None, Some(keep)) => losses.sum_all() / keep.cast(DType::F32).sum_all(),
            (reduction, _, _) => reduction.apply(losses),
        }
    }

    /// True at the class of each row, `[N, C, d1, ..]`. A comparison, not a gather: it fuses into the row
    /// kernel, and its derivative needs no scatter.
    #[track_caller]
    fn hot(&self) -> Tensor {
        let classes = Tensor::arange(self.target.device(), self.log_p.shape()[1], self.target.dtype());
        self.target.unsqueeze(1).eq(&per_class(&classes, self.log_p.rank()))
    }

    /// The weight of each row's class, `[N, d1, ..]`.
    #[track_caller]
    fn row_weights(&self, zero: &Tensor) -> Option<Tensor> {
        let weight = per_class(self.weight?, self.log_p.rank());
        Some(self.hot().select(&weight, zero).sum(&[1], false))
    }

    /// The loss of each row, `[N, d1, ..]`; NaN where the target is no class.
    #[track_caller]
    fn losses(&self, zero: &Tensor, weights: Option<&Tensor>) -> Tensor {
        // Within the sum, so that the test stays in the row kernel and the gradient does not need it.
        let nan = Tensor::constant(zero.device(), f32::NAN);
        let missed = in_range(self.target, self.log_p.shape()[1]).select(zero, &nan).unsqueeze(1);
        let picked = self.hot().select(self.log_p, &missed).sum(&[1], false);
        let picked = match weights {
            Some(weights) => picked * weights,
            None => picked,
        };
        if self.smoothing > 0.0 {
            let spread = match self.weight {
                Some(weight) => self.log_p * per_class(weight, self.log_p.rank()),
                None => self.log_p.clone(),
            };
            let share = self.smoothing / self.log_p.shape()[1] as f32;
            picked * (self.smoothing - 1.0) - spread.sum(&[1], false) * share
        } else {
            -picked
        }
    }

    /// The ignored index in the type of the targets; `None` where that type cannot hold it.
    #[track_caller]
    fn ignored_word(&self) -> Option<Tensor> {
        let (dev, index) = (self.target.device(), self.ignore?);
        if self.target.dtype() == DType::U32 {
            let index = u32::try_from(index).ok()?;
            return Some(Tensor::constant(dev, index));
        }
        let index = i32::try_from(index).ok()?;
        Some(Tensor::constant(dev, index))
    }
}

/// The losses as methods, with mean reduction and default options.
///
/// ```
/// use versant_nn::Losses;
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let logits = Tensor::from_slice(&dev, &[2.0f32, 2.0, 2.0, 2.0], &[1, 4]);
/// let labels = Tensor::from_slice(&dev, &[3i32], &[1]);
/// assert!((logits.cross_entropy(&labels).item::<f32>()? - 4f32.ln()).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
pub trait Losses {
    /// Mean of [`mse`].
    #[track_caller]
    #[must_use]
    fn mse(&self, target: &Tensor) -> Tensor;
    /// Mean of [`l1`].
    #[track_caller]
    #[must_use]
    fn l1(&self, target: &Tensor) -> Tensor;
    /// Mean of [`huber`].
    #[track_caller]
    #[must_use]
    fn huber(&self, target: &Tensor, delta: f32) -> Tensor;
    /// Mean of [`cross_entropy`].
    #[track_caller]
    #[must_use]
    fn cross_entropy(&self, target: &Tensor) -> Tensor;
    /// [`cross_entropy`] with options.
    #[track_caller]
    #[must_use]
    fn cross_entropy_with(&self, target: &Tensor, options: &CrossEntropyOptions) -> Tensor;
    /// Mean of [`nll`].
    #[track_caller]
    #[must_use]
    fn nll(&self, target: &Tensor) -> Tensor;
    /// Mean of [`bce_with_logits`].
    #[track_caller]
    #[must_use]
    fn bce_with_logits(&self, target: &Tensor) -> Tensor;
}

impl Losses for Tensor {
    fn mse(&self, target: &Tensor) -> Tensor {
        mse(self, target, Reduction::Mean)
    }

    fn l1(&self, target: &Tensor) -> Tensor {
        l1(self, target, Reduction::Mean)
    }

    fn huber(&self, target: &Tensor, delta: f32) -> Tensor {
        huber(self, target, delta, Reduction::Mean)
    }

    fn cross_entropy(&self, target: &Tensor) -> Tensor {
        cross_entropy(self, target, &CrossEntropyOptions::default())
    }

    fn cross_entropy_with(&self, target: &Tensor, options: &CrossEntropyOptions) -> Tensor {
        cross_entropy(self, target, options)
    }

    fn nll(&self, target: &Tensor) -> Tensor {
        nll(self, target, &NllOptions::default())
    }

    fn bce_with_logits(&self, target: &Tensor) -> Tensor {
        bce_with_logits(self, target, &BceOptions::default())
    }
}
