//! Why a net says what it says: which parts of an input its score for a class depends on.
//!
//! All of these look at a function from inputs `[N, ...]` to scores `[N, C]`, usually a closure around
//! [`Module::forward`](crate::Module::forward) in [`Mode::Eval`](crate::Mode::Eval), and explain one class for each sample.
//! Gradients explain a net by what it does very near an input, occlusion by what it does without parts of it; neither says
//! that a reason is a good one. Adebayo et al. ("Sanity Checks for Saliency Maps", 2018) is worth reading before believing a
//! picture.
//!
//! ```
//! use versant_graph::{Device, Tensor};
//! use versant_nn::attribution::{integrated_gradients, saliency};
//! let dev = Device::cpu();
//! // Two scores that are known: twice the first input, and the square of the second.
//! let f = |x: &Tensor| Tensor::cat(&[&(x.narrow(1, 0, 1) * 2.0), &x.narrow(1, 1, 1).square()], 1);
//! let x = Tensor::from_slice(&dev, &[1.0f32, 3.0], &[1, 2]);
//! assert_eq!(saliency(f, &x, &[0])?.to_vec::<f32>()?, [2.0, 0.0]);
//! let shares = integrated_gradients(f, &x, &Tensor::zeros(&dev, &[1, 2]), &[1], 50)?.to_vec::<f32>()?;
//! assert!((shares[1] - 9.0).abs() < 1e-4); // Shares add up to the score's difference, 9 - 0.
//! # Ok::<(), versant_graph::GraphError>(())
//! ```

use std::panic::Location;

use versant_graph::{GraphError, RandomKey, Result, Tensor, grad_of};

use crate::fault::invalid;

/// The sum of each sample's score for its class.
fn chosen(scores: &Tensor, classes: &[i32], location: &'static Location<'static>) -> Result<Tensor> {
    if let Some(error) = scores.error() {
        return Err(error);
    }
    let fits = scores.rank() == 2 && scores.shape()[0] == classes.len();
    let count = scores.shape().last().copied().unwrap_or(0);
    let known = classes.iter().all(|&class| usize::try_from(class).is_ok_and(|class| class < count));
    if !fits || !known {
        let why = format!("needs scores [{}, C] and classes below C, not {classes:?}", classes.len());
        return Err(failure(&invalid("attribution", &[scores], location, why)));
    }
    let index = Tensor::from_slice(scores.device(), classes, &[classes.len(), 1]);
    Ok(scores.gather(1, &index).sum_all())
}

/// The error that a tensor carries.
fn failure(failed: &Tensor) -> GraphError {
    failed.error().expect("made as an error")
}

/// The gradient of each sample's score by its input, of the input's shape: computed, and signed.
///
/// # Errors
/// Scores that are not `[N, C]`, a class that is none, and those of evaluating `f`.
#[track_caller]
pub fn input_gradient(f: impl Fn(&Tensor) -> Tensor, x: &Tensor, classes: &[i32]) -> Result<Tensor> {
    let location = Location::caller();
    // A leaf of its own: how x came about does not matter.
    let x = x.detach();
    let gradient = grad_of(&chosen(&f(&x), classes, location)?, &[&x])?.remove(0);
    versant_graph::eval(&[&gradient])?;
    Ok(gradient)
}

/// The absolute gradient (Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", 2014).
///
/// # Errors
/// As [`input_gradient`].
#[track_caller]
pub fn saliency(f: impl Fn(&Tensor) -> Tensor, x: &Tensor, classes: &[i32]) -> Result<Tensor> {
    Ok(input_gradient(f, x, classes)?.abs())
}

/// Gradients averaged along the straight line from a baseline, times the way (Sundararajan, Taly and Yan, "Axiomatic
/// Attribution for Deep Networks", 2017): the sum over a sample is its score less the baseline's, but for the error of `steps`
/// midpoints. `baseline` has the shape of `x`: a black picture, the mean of the data.
///
/// # Errors
/// As [`input_gradient`]; no steps, or a baseline of another shape.
#[track_caller]
pub fn integrated_gradients(
    f: impl Fn(&Tensor) -> Tensor,
    x: &Tensor,
    baseline: &Tensor,
    classes: &[i32],
    steps: usize,
) -> Result<Tensor> {
    if steps == 0 || baseline.shape() != x.shape() {
        let why = "needs at least one step and a baseline of the input's shape";
        return Err(failure(&invalid("integrated_gradients", &[x, baseline], Location::caller(), why)));
    }
    let way = x - baseline;
    // The share is a run-time scalar, so that all steps are one plan.
    let share = |step: usize| Tensor::scalar(x.device(), (step as f32 + 0.5) / steps as f32);
    Ok(mean_gradient(f, |step| baseline + &way * share(step), classes, steps)? * way)
}

/// The mean of the gradients at so many points, each of which is computed before the next.
#[track_caller]
fn mean_gradient(
    f: impl Fn(&Tensor) -> Tensor,
    point: impl Fn(usize) -> Tensor,
    classes: &[i32],
    points: usize,
) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for at in 0..points {
        let x = point(at);
        versant_graph::eval(&[&x])?;
        let gradient = input_gradient(&f, &x, classes)?;
        let next = sum.map_or_else(|| gradient.clone(), |sum| sum + &gradient);
        versant_graph::eval(&[&next])?;
        sum = Some(next);
    }
    Ok(sum.expect("the caller wants at least one point") * (1.0 / points as f32))
}

/// The mean gradient over noisy copies of the input (Smilkov et al., "SmoothGrad", 2017); `deviation` is that of the noise,
/// 10 to 20 % of the input's range in the paper.
///
/// # Errors
/// As [`input_gradient`]; no samples.
#[track_caller]
pub fn smooth_grad(
    f: impl Fn(&Tensor) -> Tensor,
    x: &Tensor,
    classes: &[i32],
    samples: usize,
    deviation: f32,
    key: RandomKey,
) -> Result<Tensor> {
    if samples == 0 {
        return Err(failure(&invalid("smooth_grad", &[x], Location::caller(), "needs at least one sample")));
    }
    let noisy =
        |sample: usize| x + Tensor::rand_normal(x.device(), x.shape(), key.fold(sample as u64)) * deviation;
    mean_gradient(f, noisy, classes, samples)
}

/// Where a feature map `[N, C, H, W]` speaks for a class (Selvaraju et al., "Grad-CAM", 2017): its channels weighted by the
/// mean gradient of the score, negative parts cut off, `[N, H, W]`. `head` makes scores of a feature map.
///
/// # Errors
/// As [`input_gradient`]; features that are no map.
#[track_caller]
pub fn grad_cam(head: impl Fn(&Tensor) -> Tensor, features: &Tensor, classes: &[i32]) -> Result<Tensor> {
    if features.error().is_none() && features.rank() != 4 {
        return Err(failure(&invalid(
            "grad_cam",
            &[features],
            Location::caller(),
            "needs a feature map [N, C, H, W]",
        )));
    }
    let gradient = input_gradient(head, features, classes)?;
    let weights = gradient.mean(&[2, 3], true);
    Ok((features * weights).sum(&[1], false).relu())
}

/// How much a class's score falls when a window of the picture is hidden (Zeiler and Fergus, "Visualizing and
/// Understanding Convolutional Networks", 2014): for pictures `[N, C, H, W]`, windows of `window` by `window` pixels, `stride`
/// apart, replaced by `fill`; `[N, rows, columns]` of windows that lie inside.
///
/// # Errors
/// As [`input_gradient`]; input that is no picture, or a window that does not fit.
#[track_caller]
pub fn occlusion(
    f: impl Fn(&Tensor) -> Tensor,
    x: &Tensor,
    classes: &[i32],
    [window, stride]: [usize; 2],
    fill: f32,
) -> Result<Tensor> {
    let location = Location::caller();
    let &[n, _, height, width] = x.shape() else {
        return Err(failure(&invalid("occlusion", &[x], location, "needs pictures [N, C, H, W]")));
    };
    if window == 0 || stride == 0 || window > height.min(width) {
        let why = format!("a window of {window} with stride {stride} does not fit");
        return Err(failure(&invalid("occlusion", &[x], location, why)));
    }
    let index = Tensor::from_slice(x.device(), classes, &[classes.len(), 1]);
    let score = |x: &Tensor| -> Result<Tensor> {
        let scores = f(x);
        chosen(&scores, classes, location)?;
        Ok(scores.gather(1, &index).reshape(&[n as isize]))
    };
    let whole = score(x)?;
    let (rows, columns) = ((height - window) / stride + 1, (width - window) / stride + 1);
    let mut falls = Vec::with_capacity(rows * columns);
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let hidden = |length: usize, start: usize| (0..length).map(move |i| i >= start && i < start + window);
        let (down, across) = (hidden(height, row * stride), hidden(width, column * stride));
        let kept: Vec<f32> =
            down.flat_map(|d| across.clone().map(move |a| f32::from(u8::from(!(d && a))))).collect();
        // The mask is data, so that all windows are one plan.
        let kept = Tensor::from_slice(x.device(), &kept, &[height, width]);
        let fall = &whole - score(&(x * &kept + (1.0 - &kept) * fill))?;
        versant_graph::eval(&[&fall])?;
        falls.push(fall);
    }
    let all = Tensor::stack(&falls.iter().collect::<Vec<_>>(), 1);
    Ok(all.reshape(&[n as isize, rows as isize, columns as isize]))
}

/// How much a feature matters to a score of the whole data: see [`permutation_importance`].
#[derive(Clone, PartialEq, Debug)]
pub struct Importance {
    /// What the score falls by when the feature is shuffled, once for each repetition.
    pub falls: Vec<f64>,
}

impl Importance {
    /// The mean fall.
    pub fn mean(&self) -> f64 {
        self.falls.iter().sum::<f64>() / self.falls.len() as f64
    }

    /// The standard deviation of the falls over the repetitions, with their number as the divisor.
    pub fn deviation(&self) -> f64 {
        let (mean, count) = (self.mean(), self.falls.len() as f64);
        (self.falls.iter().map(|fall| (fall - mean).powi(2)).sum::<f64>() / count).sqrt()
    }
}

/// What a score of the samples `x`, `[N, F, ...]`, falls by when the values of one feature (an index of the second axis: a
/// column of a table, a channel) are shuffled among the samples, for each of the `F` features (Breiman, "Random Forests",
/// 2001; Fisher, Rudin and Dominici, "All Models are Wrong, but Many are Useful", 2019). `score` is any measure of which more
/// is better, such as an accuracy against known labels on data that the net was not trained on.
///
/// A feature that others can stand in for seems unimportant: shuffle them together, or read the figure as "given the others".
///
/// ```
/// use versant_graph::{Device, RandomKey, Tensor};
/// use versant_nn::attribution::permutation_importance;
/// let dev = Device::cpu();
/// let x = Tensor::from_slice(&dev, &[1.0f32, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0], &[4, 2]);
/// // The score only reads the first feature: how near it is to 1, 2, 3, 4.
/// let truth = Tensor::from_slice(&dev, &[1.0f32, 2.0, 3.0, 4.0], &[4, 1]);
/// let score = |x: &Tensor| Ok(f64::from(-(x.narrow(1, 0, 1) - &truth).square().mean_all().item::<f32>()?));
/// let found = permutation_importance(score, &x, 5, RandomKey::new(1))?;
/// assert!(found[0].mean() > 0.5 && found[1].mean() == 0.0);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
///
/// # Errors
/// Input of fewer than two axes, no repetitions, and those of `score`.
#[track_caller]
pub fn permutation_importance(
    score: impl Fn(&Tensor) -> Result<f64>,
    x: &Tensor,
    repetitions: usize,
    key: RandomKey,
) -> Result<Vec<Importance>> {
    if let Some(error) = x.error() {
        return Err(error);
    }
    if x.rank() < 2 || repetitions == 0 {
        let why = "needs samples [N, F, ...] and at least one repetition";
        return Err(failure(&invalid("permutation_importance", &[x], Location::caller(), why)));
    }
    let x = x.detach();
    let whole = score(&x)?;
    let (samples, features) = (x.shape()[0], x.shape()[1]);
    let mut dims = vec![1; x.rank()];
    dims[1] = features;
    // Order and mask are data, so that all features and repetitions are one plan.
    let fall = |mask: &Tensor, key: RandomKey| -> Result<f64> {
        let order = Tensor::rand_uniform(x.device(), &[samples], key).argsort(0, false);
        let shuffled = mask.select(&x.index_select(0, &order), &x);
        // The score may be computed in parts, whose plans should not hold the shuffling.
        versant_graph::eval(&[&shuffled])?;
        Ok(whole - score(&shuffled)?)
    };
    let importance = |feature: usize| {
        let chosen: Vec<bool> = (0..features).map(|i| i == feature).collect();
        let mask = Tensor::from_slice(x.device(), &chosen, &dims);
        let key = key.fold(feature as u64);
        let falls = (0..repetitions).map(|repetition| fall(&mask, key.fold(repetition as u64)));
        Ok(Importance { falls: falls.collect::<Result<_>>()? })
    };
    (0..features).map(importance).collect()
}
