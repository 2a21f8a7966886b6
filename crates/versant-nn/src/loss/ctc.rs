//! Connectionist temporal classification: the likelihood of a labelling, whatever its alignment.

use std::panic::Location;

use versant_graph::{DType, Tensor, scan};

use super::Reduction;
use crate::fault::{in_range, invalid};

/// The logarithm of a probability of nothing. Not an infinity, whose differences are NaN; and what it is added to is
/// lost in its rounding, so that impossible ways stay apart.
const NEVER: f32 = -1e30;

/// Below this a likelihood is one of nothing.
const IMPOSSIBLE: f32 = -1e29;

/// Options of [`ctc`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CtcOptions {
    /// The class of no label; 0 by default.
    pub blank: usize,
    /// Whether what cannot be aligned (too few steps for the labels) costs nothing instead of infinitely much.
    pub zero_infinity: bool,
    /// How the losses become one. The mean is that of the losses divided by the number of labels (at least 1), as in
    /// PyTorch; [`Reduction::BatchMean`] is that of the losses themselves.
    pub reduction: Reduction,
}

/// The loss of connectionist temporal classification (Graves et al., ICML 2006): `-ln` of the sum of the probabilities of
/// all ways to read the targets, with labels repeated and blanks in between.
///
/// * `log_p`: f32 `[T, N, C]`, logarithms of the probabilities of the classes at each step: the result of
///   `log_softmax`.
/// * `targets`: i32 or u32 `[N, S]`, the labels of each sample, padded at the end with anything.
/// * `input_lengths` and `target_lengths`: i32 or u32 `[N]`, how many steps and labels of each sample count: at most T
///   and S.
///
/// [`Reduction::None`] leaves `[N]`. A sample whose labels do not fit into its steps has the loss infinity (and no
/// gradient), or 0 by option. A length or label out of range makes the sample's loss NaN: a device cannot refuse it,
/// and must not hide it.
///
/// The recursion over the `2 S + 1` places of labels and blanks is a [`scan`]: the plan is as large for many steps as
/// for few, and the gradient is a second scan.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::loss::{CtcOptions, ctc};
/// let dev = Device::cpu();
/// // Two steps of two equally likely classes: blank and 1. "1" can be read as (1, 1), (-, 1) or (1, -).
/// let log_p = Tensor::zeros(&dev, &[2, 1, 2]).log_softmax(-1);
/// let targets = Tensor::from_slice(&dev, &[1i32], &[1, 1]);
/// let steps = Tensor::from_slice(&dev, &[2i32], &[1]);
/// let labels = Tensor::from_slice(&dev, &[1i32], &[1]);
/// let loss = ctc(&log_p, &targets, &steps, &labels, &CtcOptions::default());
/// assert!((loss.item::<f32>()? + 0.75f32.ln()).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn ctc(
    log_p: &Tensor,
    targets: &Tensor,
    input_lengths: &Tensor,
    target_lengths: &Tensor,
    options: &CtcOptions,
) -> Tensor {
    let operands = [log_p, targets, input_lengths, target_lengths];
    if let Some(why) = mismatch(&operands, options) {
        return invalid("ctc", &operands, Location::caller(), why);
    }
    let [targets, steps, labels] = [targets, input_lengths, target_lengths].map(|t| t.cast(DType::I32));
    let likelihood = likelihood(log_p, &targets, &steps, &labels, options.blank);
    let number = |x: f32| Tensor::constant(log_p.device(), x);
    let rest = if options.zero_infinity { 0.0 } else { f32::INFINITY };
    let impossible = likelihood.lt(&number(IMPOSSIBLE));
    let losses = impossible.select(&number(rest), &-&likelihood);
    let losses = sound(log_p, &targets, &steps, &labels).select(&losses, &number(f32::NAN));
    match options.reduction {
        Reduction::Mean => {
            let one = Tensor::constant(log_p.device(), 1i32);
            (losses / labels.maximum(&one).cast(DType::F32)).mean_all()
        }
        reduction => reduction.apply(losses),
    }
}

fn mismatch([log_p, targets, inputs, labels]: &[&Tensor; 4], options: &CtcOptions) -> Option<String> {
    if [log_p, targets, inputs, labels].iter().any(|t| t.error().is_some()) {
        // The caller's report carries that error.
        return Some(String::new());
    }
    let &[_, samples, classes] = log_p.shape() else {
        return Some("needs logarithms of probabilities [T, N, C]".to_owned());
    };
    let is_index = |t: &Tensor| matches!(t.dtype(), DType::I32 | DType::U32);
    if log_p.dtype() != DType::F32 || ![targets, inputs, labels].into_iter().all(|t| is_index(t)) {
        return Some("needs f32, and i32 or u32 for labels and lengths".to_owned());
    }
    if targets.rank() != 2 || targets.shape()[0] != samples {
        return Some(format!("targets must be [{samples}, S], padded"));
    }
    if [inputs, labels].iter().any(|t| t.shape() != [samples]) {
        return Some(format!("lengths must be [{samples}]"));
    }
    let blank = options.blank;
    (blank >= classes).then(|| format!("the blank {blank} is none of {classes} classes"))
}

/// Where labels and lengths are in range, `[N]`.
#[track_caller]
fn sound(log_p: &Tensor, targets: &Tensor, steps: &Tensor, labels: &Tensor) -> Tensor {
    let (t, s) = (log_p.shape()[0], targets.shape()[1]);
    let place = Tensor::arange(targets.device(), s, DType::I32);
    let strange = in_range(targets, log_p.shape()[2]).logical_not().and(&place.lt(&labels.unsqueeze(1)));
    let none = strange.cast(DType::I32).sum(&[1], false).eq(&Tensor::constant(targets.device(), 0i32));
    none.and(&in_range(steps, t + 1)).and(&in_range(labels, s + 1))
}

/// The logarithm of the likelihood of each sample's labels, `[N]`.
#[track_caller]
fn likelihood(log_p: &Tensor, targets: &Tensor, steps: &Tensor, labels: &Tensor, blank: usize) -> Tensor {
    let dev = log_p.device();
    let (t, n, s) = (log_p.shape()[0], log_p.shape()[1], targets.shape()[1]);
    let places = 2 * s + 1;
    let never = Tensor::constant(dev, NEVER);
    let number = |i: usize| Tensor::constant(dev, i as i32);
    // Blank, label, blank, .., label, blank.
    let blanks = number(blank).broadcast_to(&[n, s]);
    let pairs = Tensor::stack(&[&blanks, targets], 2).reshape(&[n as isize, 2 * s as isize]);
    let way = pairs.pad(&[(0, 0), (0, 1)], blank as f32);
    let later = |t: &Tensor, by: usize, fill: f32| t.pad(&[(0, 0), (by, 0)], fill).narrow(1, 0, places);
    // A blank may be left out between labels that differ.
    let skips = way.ne(&number(blank)).and(&way.ne(&later(&way, 2, -1.0)));
    let heard = log_p.gather(2, &way.unsqueeze(0).broadcast_to(&[t, n, places])).maximum(&never);
    let place = Tensor::arange(dev, places, DType::I32);
    // Before the first step one is at the first blank: from there it and the first label can be reached.
    let start =
        place.eq(&number(0)).select(&Tensor::constant(dev, 0.0f32), &never).broadcast_to(&[n, places]);
    let time = Tensor::arange(dev, t, DType::I32);
    let (last, _) = scan(&[&start], &[&heard, &time], |carry, now| {
        let stay = &carry[0];
        let next = later(stay, 1, NEVER);
        let skip = skips.select(&later(stay, 2, NEVER), &never);
        let most = stay.maximum(&next).maximum(&skip).detach();
        let sum = (stay - &most).exp() + (next - &most).exp() + (skip - &most).exp();
        let moved = sum.ln() + most + &now[0];
        let live = now[1].lt(steps).unsqueeze(1);
        (vec![live.select(&moved, stay)], Vec::new())
    });
    // The way ends at the last label or the blank behind it.
    let end = labels.mul(&number(2)).unsqueeze(1);
    let ends = place.eq(&end).or(&place.eq(&end.sub(&number(1))));
    ends.select(&last[0], &never).logsumexp(1, false)
}
