//! Composite functions: methods written with the vocabulary, so that they differentiate and fuse like it.

use std::f32::consts::{FRAC_1_SQRT_2, PI};
use std::panic::Location;

use versant_kernels::{DType, RandomKey};

use crate::Tensor;

impl Tensor {
    /// Whether the function `name` can take this tensor: floats, with `axis` on it.
    fn axis_or(
        &self,
        name: &'static str,
        axis: isize,
        location: &'static Location<'static>,
    ) -> Result<isize, Tensor> {
        let rank = self.rank() as isize;
        let fits = (-rank..rank).contains(&axis) && self.dtype() == DType::F32;
        if fits && self.error().is_none() {
            return Ok(if axis < 0 { axis + rank } else { axis });
        }
        let why = format!("needs f32 with an axis {axis}");
        Err(Tensor::invalid(name, &[self], location, why))
    }

    /// `x` where positive, else `slope * x` (Maas et al., 2013).
    #[track_caller]
    #[must_use]
    pub fn leaky_relu(&self, slope: f32) -> Tensor {
        self.gt(&Tensor::number(self, 0.0)).select(self, &(self * slope))
    }

    /// `x * Phi(x)` with the normal distribution function (Hendrycks and Gimpel, 2016), by the error function.
    #[track_caller]
    #[must_use]
    pub fn gelu(&self) -> Tensor {
        self * 0.5 * ((self * FRAC_1_SQRT_2).erf() + 1.0)
    }

    /// The hyperbolic-tangent approximation of [`Tensor::gelu`] from the same paper.
    #[track_caller]
    #[must_use]
    pub fn gelu_tanh(&self) -> Tensor {
        let inner = (self + self * self * self * 0.044715) * (2.0 / PI).sqrt();
        self * 0.5 * (inner.tanh() + 1.0)
    }

    /// `x * sigmoid(x)` (Elfwing et al., 2017), also called swish.
    #[track_caller]
    #[must_use]
    pub fn silu(&self) -> Tensor {
        self * self.sigmoid()
    }

    /// `ln(1 + exp(x))`, without overflow.
    #[track_caller]
    #[must_use]
    pub fn softplus(&self) -> Tensor {
        // |x| by a branch, because abs and relu have no derivative at 0 and softplus does.
        let zero = Tensor::number(self, 0.0);
        let positive = self.gt(&zero);
        let falling = positive.select(&-self, self);
        positive.select(self, &zero) + falling.exp().log1p()
    }

    /// `x` where positive, else `alpha * (exp(x) - 1)` (Clevert et al., 2015).
    #[track_caller]
    #[must_use]
    pub fn elu(&self, alpha: f32) -> Tensor {
        // The unused branch must not overflow: its gradient would be infinity times zero. Not `minimum`, which
        // halves the gradient at 0.
        let zero = Tensor::number(self, 0.0);
        let positive = self.gt(&zero);
        let negative = positive.select(&zero, self).expm1() * alpha;
        positive.select(self, &negative)
    }

    /// `x` limited to `low..=high`; the gradient is zero outside.
    #[track_caller]
    #[must_use]
    pub fn clamp(&self, low: f32, high: f32) -> Tensor {
        let (low, high) = (Tensor::number(self, low), Tensor::number(self, high));
        let capped = self.gt(&high).select(&high, self);
        self.lt(&low).select(&low, &capped)
    }

    /// `x * x`.
    #[track_caller]
    #[must_use]
    pub fn square(&self) -> Tensor {
        self * self
    }

    /// `x - m` and `m`, the maximum along an axis (0 for a row of -inf): keeps exponentials in range. The functions built on it do not depend on
    /// the maximum, so detaching it is exact for derivatives of every order.
    #[track_caller]
    fn below_max(&self, axis: isize) -> (Tensor, Tensor) {
        let max = self.max(&[axis], true).detach();
        // A row of -inf has no finite maximum to subtract.
        let infinite = max.eq(&Tensor::number(self, f32::NEG_INFINITY));
        let max = infinite.select(&Tensor::number(self, 0.0), &max);
        (self - &max, max)
    }

    /// `exp(x) / sum(exp(x))` along an axis (negative ones count from the end).
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[0.0f32, 0.0, 1e9], &[3]);
    /// assert_eq!(x.softmax(-1).to_vec::<f32>()?, [0.0, 0.0, 1.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn softmax(&self, axis: isize) -> Tensor {
        match self.axis_or("softmax", axis, Location::caller()) {
            Ok(axis) => {
                let e = self.below_max(axis).0.exp();
                let sum = e.sum(&[axis], true);
                e / sum
            }
            Err(failed) => failed,
        }
    }

    /// `ln(softmax(x))` along an axis, without underflow.
    #[track_caller]
    #[must_use]
    pub fn log_softmax(&self, axis: isize) -> Tensor {
        match self.axis_or("log_softmax", axis, Location::caller()) {
            Ok(axis) => {
                let (shifted, _) = self.below_max(axis);
                let log_sum = shifted.exp().sum(&[axis], true).ln();
                shifted - log_sum
            }
            Err(failed) => failed,
        }
    }

    /// `ln(sum(exp(x)))` along an axis, without overflow.
    #[track_caller]
    #[must_use]
    pub fn logsumexp(&self, axis: isize, keepdim: bool) -> Tensor {
        match self.axis_or("logsumexp", axis, Location::caller()) {
            Ok(axis) => {
                let (shifted, max) = self.below_max(axis);
                let total = shifted.exp().sum(&[axis], true).ln() + max;
                if keepdim { total } else { total.squeeze(axis as usize) }
            }
            Err(failed) => failed,
        }
    }

    /// Layer normalisation (Ba et al., 2016) over the last `axes` axes: zero mean and unit (biased)
    /// variance, then `* weight + bias`, which have the shape of those axes.
    #[track_caller]
    #[must_use]
    pub fn layer_norm(
        &self,
        axes: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Tensor {
        let location = Location::caller();
        if axes == 0 || axes > self.rank() || self.dtype() != DType::F32 {
            let why = format!("needs f32 with at least {axes} axes, and at least one of them");
            return Tensor::invalid("layer_norm", &[self], location, why);
        }
        let tail = &self.shape()[self.rank() - axes..];
        for affine in [weight, bias].into_iter().flatten() {
            if affine.shape() != tail {
                let why = format!("weight and bias must have the normalised extents {tail:?}");
                return Tensor::invalid("layer_norm", &[self, affine], location, why);
            }
        }
        let over: Vec<isize> = (1..=axes as isize).map(|a| -a).collect();
        let centred = self - self.mean(&over, true);
        let variance = centred.square().mean(&over, true);
        let mut y = centred * (variance + eps).rsqrt();
        if let Some(weight) = weight {
            y = y * weight;
        }
        if let Some(bias) = bias {
            y = y + bias;
        }
        y
    }

    /// Zeroes each element with probability `p` and scales the others by `1 / (1 - p)` (Srivastava et al.,
    /// 2014). The same key drops the same elements.
    #[track_caller]
    #[must_use]
    pub fn dropout(&self, p: f32, key: RandomKey) -> Tensor {
        if !(0.0..=1.0).contains(&p) || self.dtype() != DType::F32 {
            let why = format!("needs f32 and a probability, not {p}");
            return Tensor::invalid("dropout", &[self], Location::caller(), why);
        }
        if p == 0.0 {
            return self.clone();
        }
        let zero = Tensor::number(self, 0.0);
        if p == 1.0 {
            return zero.broadcast_to(self.shape()) * self;
        }
        let keep = Tensor::bernoulli(self.device(), self.shape(), 1.0 - p, key);
        keep.select(&(self * (1.0 / (1.0 - p))), &zero)
    }
}
