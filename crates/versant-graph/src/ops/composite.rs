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
        if self.dtype() != DType::F32 || self.error().is_some() {
            return Tensor::invalid("gelu", &[self], Location::caller(), "needs f32");
        }
        let share = |x: &Tensor| ((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
        // The rule reads `x` alone: nothing else is kept for it.
        (self * share(self)).with_vjp_of("gelu", &[self], move |g, inputs| {
            let x = &inputs[0];
            let density = (x * x * -0.5).exp() * (1.0 / (2.0 * PI).sqrt());
            vec![Some(g * (share(x) + x * density))]
        })
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
                // One division a row, not one an element.
                let y = &e * e.sum(&[axis], true).recip();
                // The rule reads the result alone: what it was computed from need not be kept.
                y.with_vjp_of("softmax", &[self, &y], move |g, inputs| {
                    let y = &inputs[1];
                    vec![Some((g - (g * y).sum(&[axis], true)) * y), None]
                })
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
        let [y, ..] = self.normalize(&over, weight, bias, eps);
        y
    }

    /// Zero mean and unit (biased) variance over `axes`, then `* weight + bias`, which broadcast to the shape.
    /// Returns that, the mean and the variance, both with the axes kept at extent 1; no gradient flows into the
    /// latter two.
    ///
    /// The gradient is written out: it needs two sums of what it reads, both from one pass.
    #[track_caller]
    #[must_use]
    pub fn normalize(
        &self,
        axes: &[isize],
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> [Tensor; 3] {
        let mean = self.mean(axes, true);
        let centred = self - &mean;
        let variance = centred.square().mean(axes, true);
        let inverse = (&variance + eps).rsqrt();
        // What is as large as the input is only read: the factors of a row are multiplied first where they are one.
        let by_row = |w: &Tensor| self.is_constant_along(axes, w);
        let y = match weight {
            Some(w) if by_row(w) => centred * (&inverse * w),
            Some(w) => centred * &inverse * w,
            None => centred * &inverse,
        };
        let y = match bias {
            Some(bias) => y + bias,
            None => y,
        };
        if y.error().is_some() || y.shape() != self.shape() {
            return [y, mean, variance];
        }
        let wide = |t: &Tensor| t.broadcast_to(self.shape());
        let (w, b) = (weight.map(wide), bias.map(wide));
        let inputs: Vec<&Tensor> =
            [self, &mean, &inverse].into_iter().chain(weight).chain(&w).chain(&b).collect();
        let (over, weighted, factor) = (axes.to_vec(), w.is_some(), weight.is_some_and(&by_row));
        let y = y.with_vjp_of("normalize", &inputs, move |g, inputs| {
            let [x, mean, inverse, rest @ ..] = inputs else { return Vec::new() };
            let unit = (x - mean) * inverse;
            let mut grads = vec![None; inputs.len()];
            let (pulled, scale) = match rest {
                [w, ..] if weighted && factor => (g.clone(), inverse * w),
                [_, w, ..] if weighted => (g * w, inverse.clone()),
                _ => (g.clone(), inverse.clone()),
            };
            // A factor, where a division would make means that are stored beside the sums.
            let share = mean.numel() as f32 / x.numel() as f32;
            let mean_of = |t: &Tensor| t.sum(&over, true) * share;
            let dot = mean_of(&(&pulled * &unit));
            grads[0] = Some((&pulled - mean_of(&pulled) - &unit * dot) * scale);
            if weighted {
                grads[4] = Some(g * unit);
            }
            if rest.len() > 2 * usize::from(weighted) {
                *grads.last_mut().expect("the inputs are more than three") = Some(g.clone());
            }
            grads
        });
        [y, mean, variance]
    }

    /// Whether an operand that broadcasts to this shape is the same all along these axes.
    fn is_constant_along(&self, axes: &[isize], operand: &Tensor) -> bool {
        let rank = self.rank() as isize;
        let own = operand.rank() as isize;
        let extent = |axis: isize| {
            let at = (if axis < 0 { axis + rank } else { axis }) + own - rank;
            usize::try_from(at).ok().and_then(|at| operand.shape().get(at)).copied()
        };
        operand.error().is_none() && axes.iter().all(|&a| extent(a).unwrap_or(1) == 1)
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
