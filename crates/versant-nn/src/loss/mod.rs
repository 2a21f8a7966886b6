//! Loss functions, with PyTorch's formulas and reductions.
//!
//! Regression and distributions: [`mse`], [`l1`], [`smooth_l1`], [`huber`], [`poisson_nll`], [`gaussian_nll`], [`kl_div`].
//! Classes: [`cross_entropy`], [`nll`], [`focal`], [`multi_margin`]; two of them: [`bce_with_logits`],
//! [`focal_with_logits`], [`hinge`]. Embeddings: [`cosine_embedding`], [`hinge_embedding`], [`contrastive`],
//! [`triplet_margin`], [`info_nce`]. Sequences without alignment: [`ctc`]. Regularisation: [`l1_penalty`],
//! [`l2_penalty`].
//!
//! Each is a free function with options; [`Losses`] offers the usual ones as methods of a tensor. They are
//! composed of tensor operations: softmax and cross-entropy together are one row kernel forwards and one
//! reduction, and the gradient is written by the same row kernel.

mod binary;
mod classes;
mod ctc;
mod elementwise;
mod pairs;
mod penalty;

use versant_graph::{DType, Tensor};

pub use binary::{BceOptions, FocalOptions, HingeOptions, bce_with_logits, focal_with_logits, hinge};
pub use classes::{
    CrossEntropyOptions, FocalClassOptions, MultiMarginOptions, NllOptions, cross_entropy, focal,
    multi_margin, nll,
};
pub use ctc::{CtcOptions, ctc};
pub use elementwise::{
    GaussianNllOptions, KlOptions, PoissonNllOptions, gaussian_nll, huber, kl_div, l1, mse, poisson_nll,
    smooth_l1,
};
pub use pairs::{
    InfoNceOptions, TripletOptions, contrastive, cosine_embedding, hinge_embedding, info_nce, triplet_margin,
};
pub use penalty::{l1_penalty, l2_penalty};

/// How the losses of the elements become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reduction {
    /// Their mean: a weighted one where classes have weights.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// Their sum, divided by the leading extent of what would be left: the mean of the samples' sums.
    BatchMean,
    /// Left as they are, in the shape of the targets.
    None,
}

impl Reduction {
    #[track_caller]
    fn apply(self, losses: Tensor) -> Tensor {
        match self {
            Reduction::Mean => losses.mean_all(),
            Reduction::Sum => losses.sum_all(),
            Reduction::BatchMean => {
                let samples = losses.shape().first().copied().unwrap_or(1);
                losses.sum_all() / samples as f32
            }
            Reduction::None => losses,
        }
    }
}

/// Why two operands of an elementwise loss do not belong together. Broadcasting is not allowed: `[N]`
/// against `[N, 1]` would quietly be a loss over N² pairs.
fn mismatch(x: &Tensor, target: &Tensor) -> Option<String> {
    let same = x.shape() == target.shape();
    let floats = x.dtype() == DType::F32 && target.dtype() == DType::F32;
    let fine = same && floats && x.error().is_none() && target.error().is_none();
    (!fine).then(|| "needs a prediction and a target of one shape, both f32".to_owned())
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
    /// Mean of [`smooth_l1`].
    #[track_caller]
    #[must_use]
    fn smooth_l1(&self, target: &Tensor, beta: f32) -> Tensor;
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
    /// Mean of [`focal`].
    #[track_caller]
    #[must_use]
    fn focal(&self, target: &Tensor) -> Tensor;
    /// [`kl_div`] of logarithms of probabilities from these, divided by the leading extent.
    #[track_caller]
    #[must_use]
    fn kl_div(&self, target: &Tensor) -> Tensor;
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

    fn smooth_l1(&self, target: &Tensor, beta: f32) -> Tensor {
        smooth_l1(self, target, beta, Reduction::Mean)
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

    fn focal(&self, target: &Tensor) -> Tensor {
        focal(self, target, &FocalClassOptions::default())
    }

    fn kl_div(&self, target: &Tensor) -> Tensor {
        let options = KlOptions { reduction: Reduction::BatchMean, ..KlOptions::default() };
        kl_div(self, target, &options)
    }

    fn bce_with_logits(&self, target: &Tensor) -> Tensor {
        bce_with_logits(self, target, &BceOptions::default())
    }
}
