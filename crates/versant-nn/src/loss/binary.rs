//! Losses of decisions between two.

use std::panic::Location;

use versant_graph::Tensor;

use super::{Reduction, mismatch};
use crate::fault::invalid;

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

/// Options of [`focal_with_logits`].
#[derive(Clone, Copy, Debug)]
pub struct FocalOptions {
    /// The weight α of positives, 0 to 1; negatives have 1 - α. `Some(0.25)` by default; `None` for no weights.
    pub alpha: Option<f32>,
    /// The power γ by which what is known already counts less; 2 by default.
    pub gamma: f32,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for FocalOptions {
    fn default() -> Self {
        FocalOptions { alpha: Some(0.25), gamma: 2.0, reduction: Reduction::Mean }
    }
}

/// The focal loss of two classes (Lin et al., "Focal loss for dense object detection", ICCV 2017), as torchvision's
/// `sigmoid_focal_loss`: with `p = sigmoid(x)` and `q = p t + (1 - p)(1 - t)`, the binary cross-entropy times
/// `(1 - q)^γ`, and times `α t + (1 - α)(1 - t)`. Logits and targets (F32, 0 to 1) have one shape.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{FocalOptions, focal_with_logits};
/// let dev = Device::cpu();
/// let (x, t) = (Tensor::zeros(&dev, &[1]), Tensor::ones(&dev, &[1]));
/// let loss = focal_with_logits(&x, &t, &FocalOptions::default());
/// assert!((loss.item::<f32>()? - 0.25 * 0.25 * 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn focal_with_logits(logits: &Tensor, target: &Tensor, options: &FocalOptions) -> Tensor {
    let FocalOptions { alpha, gamma, reduction } = *options;
    let why = mismatch(logits, target)
        .or_else(|| {
            (gamma.is_nan() || gamma < 0.0).then(|| format!("gamma must not be negative, but is {gamma}"))
        })
        .or_else(|| {
            let alpha = alpha.filter(|a| !(0.0..=1.0).contains(a))?;
            Some(format!("alpha must be within 0 and 1, not {alpha}"))
        });
    if let Some(why) = why {
        return invalid("focal_with_logits", &[logits, target], Location::caller(), why);
    }
    let against = 1.0 - target;
    let mut losses = &against * logits + (-logits).softplus();
    if gamma != 0.0 {
        // 1 - q, without cancellation.
        let doubt = (-logits).sigmoid() * target + logits.sigmoid() * &against;
        losses = losses * doubt.pow(&Tensor::constant(logits.device(), gamma));
    }
    if let Some(alpha) = alpha {
        losses = losses * (target * alpha + against * (1.0 - alpha));
    }
    reduction.apply(losses)
}

/// Options of [`hinge`].
#[derive(Clone, Copy, Debug)]
pub struct HingeOptions {
    /// How far on the right side a score must be to cost nothing; 1 by default.
    pub margin: f32,
    /// Whether what is missing is squared.
    pub squared: bool,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for HingeOptions {
    fn default() -> Self {
        HingeOptions { margin: 1.0, squared: false, reduction: Reduction::Mean }
    }
}

/// The hinge loss of a support vector machine (Cortes and Vapnik, 1995): `max(0, margin - t x)` of a score `x` and a
/// target of 1 or -1 (F32), with the square if asked for. Shapes as in [`super::mse`].
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{HingeOptions, hinge};
/// let dev = Device::cpu();
/// let scores = Tensor::from_slice(&dev, &[0.5f32, 3.0, 1.0], &[3]);
/// let target = Tensor::from_slice(&dev, &[1.0f32, 1.0, -1.0], &[3]);
/// assert!((hinge(&scores, &target, &HingeOptions::default()).item::<f32>()? - 2.5 / 3.0).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn hinge(x: &Tensor, target: &Tensor, options: &HingeOptions) -> Tensor {
    let margin = options.margin;
    let why = mismatch(x, target)
        .or_else(|| (!margin.is_finite()).then(|| format!("the margin must be finite, not {margin}")));
    if let Some(why) = why {
        return invalid("hinge", &[x, target], Location::caller(), why);
    }
    let missing = (margin - target * x).relu();
    options.reduction.apply(if options.squared { missing.square() } else { missing })
}
