//! Losses against classes.

use std::panic::Location;

use versant_graph::{DType, Tensor};

use super::Reduction;
use crate::fault::{in_range, invalid};

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
    let classes = ClassTargets::plain(log_p, target, options.weight.as_ref());
    ClassTargets { ignore: options.ignore_index, ..classes }.loss(options.reduction)
}

/// Options of [`focal`].
#[derive(Clone, Debug)]
pub struct FocalClassOptions {
    /// A weight for every class, `[C]`. The mean divides by the number of rows all the same.
    pub weight: Option<Tensor>,
    /// The power γ by which what is known already counts less; 2 by default.
    pub gamma: f32,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for FocalClassOptions {
    fn default() -> Self {
        FocalClassOptions { weight: None, gamma: 2.0, reduction: Reduction::Mean }
    }
}

/// The focal loss of several classes (Lin et al., "Focal loss for dense object detection", ICCV 2017): with
/// `p = softmax(x)`, `-w[y] (1 - p[y])^γ ln p[y]`. Shapes as in [`cross_entropy`] with class indices; γ is not negative.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::Losses;
/// let dev = Device::cpu();
/// let logits = Tensor::from_slice(&dev, &[0.0f32, 0.0], &[1, 2]);
/// let label = Tensor::from_slice(&dev, &[1i32], &[1]);
/// assert!((logits.focal(&label).item::<f32>()? - 0.25 * 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn focal(logits: &Tensor, target: &Tensor, options: &FocalClassOptions) -> Tensor {
    let gamma = options.gamma;
    let why = class_mismatch(logits, target, options.weight.as_ref(), false).or_else(|| {
        (gamma.is_nan() || gamma < 0.0).then(|| format!("gamma must not be negative, but is {gamma}"))
    });
    if let Some(why) = why {
        return invalid("focal", &[logits, target], Location::caller(), why);
    }
    let log_p = logits.log_softmax(1);
    let classes = ClassTargets::plain(&log_p, target, options.weight.as_ref());
    let zero = Tensor::constant(logits.device(), 0.0f32);
    let picked = classes.picked(&zero);
    // 1 - p, without cancellation.
    let doubt = -picked.expm1();
    let mut losses =
        if gamma == 0.0 { -picked } else { -picked * doubt.pow(&Tensor::constant(logits.device(), gamma)) };
    if let Some(weights) = classes.row_weights(&zero) {
        losses = losses * weights;
    }
    options.reduction.apply(losses)
}

/// Options of [`multi_margin`].
#[derive(Clone, Debug)]
pub struct MultiMarginOptions {
    /// By how much the right score must be above each other one; 1 by default.
    pub margin: f32,
    /// Whether what is missing is squared.
    pub squared: bool,
    /// A weight for every class, `[C]`. The mean divides by the number of rows all the same.
    pub weight: Option<Tensor>,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for MultiMarginOptions {
    fn default() -> Self {
        MultiMarginOptions { margin: 1.0, squared: false, weight: None, reduction: Reduction::Mean }
    }
}

/// The hinge loss of several classes (Crammer and Singer, JMLR 2001, summed over classes as in PyTorch's
/// `multi_margin_loss`): `w[y] / C Σ_{c ≠ y} max(0, margin - x[y] + x[c])`, with squares if asked for. Scores `[N, C]`
/// against class indices `[N]`; an index that is no class makes its loss NaN.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{MultiMarginOptions, multi_margin};
/// let dev = Device::cpu();
/// let scores = Tensor::from_slice(&dev, &[0.5f32, 1.0, -2.0, 0.0], &[1, 4]);
/// let label = Tensor::from_slice(&dev, &[1i32], &[1]);
/// let loss = multi_margin(&scores, &label, &MultiMarginOptions::default());
/// assert_eq!(loss.item::<f32>()?, 0.125); // Only the first score is within the margin.
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn multi_margin(scores: &Tensor, target: &Tensor, options: &MultiMarginOptions) -> Tensor {
    let why =
        class_mismatch(scores, target, options.weight.as_ref(), false).or_else(|| match scores.rank() {
            2 if options.margin.is_finite() => None,
            2 => Some(format!("the margin must be finite, not {}", options.margin)),
            _ => Some("needs scores [N, C]".to_owned()),
        });
    if let Some(why) = why {
        return invalid("multi_margin", &[scores, target], Location::caller(), why);
    }
    let classes = ClassTargets::plain(scores, target, options.weight.as_ref());
    let zero = Tensor::constant(scores.device(), 0.0f32);
    let missing = (scores - classes.picked(&zero).unsqueeze(1) + options.margin).relu();
    let missing = if options.squared { missing.square() } else { missing };
    let others = classes.hot().select(&zero, &missing).sum(&[1], false);
    let mut losses = others * (1.0 / scores.shape()[1] as f32);
    if let Some(weights) = classes.row_weights(&zero) {
        losses = losses * weights;
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

impl<'a> ClassTargets<'a> {
    fn plain(log_p: &'a Tensor, target: &'a Tensor, weight: Option<&'a Tensor>) -> ClassTargets<'a> {
        ClassTargets { log_p, target, weight, smoothing: 0.0, ignore: None }
    }

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

    /// What stands at the class of each row, `[N, d1, ..]`; NaN where the target is no class.
    #[track_caller]
    fn picked(&self, zero: &Tensor) -> Tensor {
        // Within the sum, so that the test stays in the row kernel and the gradient does not need it.
        let nan = Tensor::constant(zero.device(), f32::NAN);
        let missed = in_range(self.target, self.log_p.shape()[1]).select(zero, &nan).unsqueeze(1);
        self.hot().select(self.log_p, &missed).sum(&[1], false)
    }

    /// The loss of each row, `[N, d1, ..]`; NaN where the target is no class.
    #[track_caller]
    fn losses(&self, zero: &Tensor, weights: Option<&Tensor>) -> Tensor {
        let picked = self.picked(zero);
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
