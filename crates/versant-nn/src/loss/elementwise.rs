//! Losses of each element by itself: regression, counts and distributions.

use std::f32::consts::PI;
use std::panic::Location;

use versant_graph::Tensor;

use super::{Reduction, mismatch};
use crate::fault::invalid;

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

/// The smooth L1 loss (Girshick, "Fast R-CNN", ICCV 2015): with `d = x - t`, `d² / (2 beta)` where `|d| < beta`, else
/// `|d| - beta / 2`; with a beta of 0, [`l1`]. Shapes as in [`mse`].
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::Losses;
/// let x = Tensor::from_slice(&Device::cpu(), &[0.5f32, 3.0], &[2]);
/// let loss = x.smooth_l1(&Tensor::zeros(x.device(), &[2]), 1.0);
/// assert_eq!(loss.item::<f32>()?, (0.125 + 2.5) / 2.0);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn smooth_l1(x: &Tensor, target: &Tensor, beta: f32, reduction: Reduction) -> Tensor {
    let why = mismatch(x, target).or_else(|| {
        let bad = beta.is_nan() || beta < 0.0 || beta.is_infinite();
        bad.then(|| format!("beta must be finite and not negative, but is {beta}"))
    });
    match why {
        Some(why) => invalid("smooth_l1", &[x, target], Location::caller(), why),
        None if beta == 0.0 => l1(x, target, reduction),
        None => reduction.apply(huber(x, target, beta, Reduction::None) * (1.0 / beta)),
    }
}

/// Options of [`kl_div`].
#[derive(Clone, Copy, Debug, Default)]
pub struct KlOptions {
    /// Whether the targets are logarithms of probabilities, too.
    pub log_target: bool,
    /// How the losses become one. The divergence of distributions is [`Reduction::BatchMean`]; the default, the mean of
    /// all elements, is PyTorch's.
    pub reduction: Reduction,
}

/// Kullback and Leibler's divergence (1951) of targets from a prediction, by elements: `t (ln t - x)`, where `x` is the
/// logarithm of the predicted probability; `exp(t) (t - x)` if the targets are logarithms. A target of 0 costs nothing.
/// Shapes as in [`mse`].
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{KlOptions, Reduction, kl_div};
/// let dev = Device::cpu();
/// let half = Tensor::from_slice(&dev, &[0.5f32.ln(); 2], &[1, 2]);
/// let sure = Tensor::from_slice(&dev, &[1.0f32, 0.0], &[1, 2]);
/// let options = KlOptions { reduction: Reduction::BatchMean, ..Default::default() };
/// assert!((kl_div(&half, &sure, &options).item::<f32>()? - 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn kl_div(log_q: &Tensor, target: &Tensor, options: &KlOptions) -> Tensor {
    if let Some(why) = mismatch(log_q, target) {
        return invalid("kl_div", &[log_q, target], Location::caller(), why);
    }
    if options.log_target {
        return options.reduction.apply(target.exp() * (target - log_q));
    }
    // Where nothing is expected no logarithm of it is taken, also not for the derivative. A negative target is no
    // probability, and its loss NaN.
    let none = target.eq(&Tensor::constant(target.device(), 0.0f32));
    let known = none.select(&Tensor::constant(target.device(), 1.0f32), target);
    let entropy = target * known.ln();
    options.reduction.apply(entropy - target * log_q)
}

/// Options of [`poisson_nll`].
#[derive(Clone, Copy, Debug)]
pub struct PoissonNllOptions {
    /// Whether the prediction is the logarithm of the rate; so by default.
    pub log_input: bool,
    /// Whether Stirling's approximation of `ln t!` is added, for targets above 1.
    pub full: bool,
    /// What is added to a rate before its logarithm is taken; 1e-8 by default.
    pub eps: f32,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for PoissonNllOptions {
    fn default() -> Self {
        PoissonNllOptions { log_input: true, full: false, eps: 1e-8, reduction: Reduction::Mean }
    }
}

/// Negative log-likelihood of counts under Poisson's distribution: `exp(x) - t x` of the logarithm of a rate, or
/// `x - t ln(x + ε)` of a rate; without `ln t!`, or with `t ln t - t + ln(2 π t) / 2` for it where `t > 1`. Shapes as in
/// [`mse`].
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{PoissonNllOptions, poisson_nll};
/// let dev = Device::cpu();
/// let rate = Tensor::from_slice(&dev, &[3f32.ln()], &[1]);
/// let count = Tensor::from_slice(&dev, &[2.0f32], &[1]);
/// let loss = poisson_nll(&rate, &count, &PoissonNllOptions::default());
/// assert!((loss.item::<f32>()? - (3.0 - 2.0 * 3f32.ln())).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn poisson_nll(x: &Tensor, target: &Tensor, options: &PoissonNllOptions) -> Tensor {
    let eps = options.eps;
    let why = mismatch(x, target)
        .or_else(|| (eps.is_nan() || eps < 0.0).then(|| format!("eps must not be negative, but is {eps}")));
    if let Some(why) = why {
        return invalid("poisson_nll", &[x, target], Location::caller(), why);
    }
    let mut losses = match options.log_input {
        true => x.exp() - target * x,
        false => x - target * (x + eps).ln(),
    };
    if options.full {
        let one = Tensor::constant(x.device(), 1.0f32);
        let many = target.gt(&one);
        let count = many.select(target, &one);
        let stirling = &count * count.ln() - &count + (&count * (2.0 * PI)).ln() * 0.5;
        losses = losses + many.select(&stirling, &Tensor::constant(x.device(), 0.0f32));
    }
    options.reduction.apply(losses)
}

/// Options of [`gaussian_nll`].
#[derive(Clone, Copy, Debug)]
pub struct GaussianNllOptions {
    /// Whether the constant `ln(2 π) / 2` is added.
    pub full: bool,
    /// The least variance that is reckoned with; 1e-6 by default.
    pub eps: f32,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for GaussianNllOptions {
    fn default() -> Self {
        GaussianNllOptions { full: false, eps: 1e-6, reduction: Reduction::Mean }
    }
}

/// Negative log-likelihood under normal distributions of predicted means and variances (Nix and Weigend, 1994):
/// `(ln v + (x - t)² / v) / 2`, where `v` is the variance, ε at least; the gradient does not see that limit. Means and
/// targets have one shape, to which the variances (F32, not negative) broadcast.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{GaussianNllOptions, gaussian_nll};
/// let dev = Device::cpu();
/// let mean = Tensor::from_slice(&dev, &[1.0f32, 2.0], &[2]);
/// let loss = gaussian_nll(&mean, &Tensor::zeros(&dev, &[2]), &Tensor::ones(&dev, &[1]), &GaussianNllOptions::default());
/// assert_eq!(loss.item::<f32>()?, 1.25);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn gaussian_nll(x: &Tensor, target: &Tensor, variance: &Tensor, options: &GaussianNllOptions) -> Tensor {
    let eps = options.eps;
    let why = mismatch(x, target).or_else(|| {
        let wide = variance.broadcast_to(x.shape());
        let fits = variance.dtype() == x.dtype() && wide.error().is_none();
        match fits {
            true => (eps.is_nan() || eps <= 0.0).then(|| format!("eps must be positive, not {eps}")),
            false => Some("the variances must be f32 and broadcast to the shape of the means".to_owned()),
        }
    });
    if let Some(why) = why {
        return invalid("gaussian_nll", &[x, target, variance], Location::caller(), why);
    }
    let limit = variance.maximum(&Tensor::constant(x.device(), eps));
    let variance = variance + (&limit - variance).detach();
    let mut losses = (variance.ln() + (x - target).square() / &variance) * 0.5;
    if options.full {
        losses = losses + 0.5 * (2.0 * PI).ln();
    }
    options.reduction.apply(losses)
}
