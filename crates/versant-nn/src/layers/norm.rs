//! Normalisation over the batch and over the last axes.

use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};

use versant_graph::{DType, GraphError, Tensor};

use super::weights::Origin;
use super::{Mode, Module};
use crate::fault::invalid;
use crate::mixed::kept;
use crate::{Init, Param, Scope};

/// Updates of running statistics that may be pending. Usually each optimiser step computes them; a loop of
/// training passes without a step must not keep all its batches alive.
const MAX_PENDING: u32 = 8;

/// Batch normalisation (Ioffe and Szegedy, ICML 2015) of each channel, axis 1: [`BatchNorm1d`],
/// [`BatchNorm2d`].
///
/// `y = (x - mean) / sqrt(var + eps) * weight + bias`. In training, mean and (biased) variance are the
/// batch's, and `running = (1 - momentum) running + momentum batch` follows them, with the unbiased
/// variance; otherwise the running ones are used. The update is recorded, and computed with the next
/// optimiser step.
///
/// Parameters: `weight` (ones), `bias` (zeros); buffers: `running_mean` (zeros), `running_var` (ones); all
/// `[channels]`.
///
/// ```
/// use versant_nn::layers::{BatchNorm2d, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = BatchNorm2d::new(&(&vs / "bn"), 1);
/// let x = Tensor::from_slice(&dev, &[1.0f32, 3.0], &[2, 1, 1, 1]);
/// let y = layer.forward(&x, Mode::Train).to_vec::<f32>()?;
/// assert!((y[0] + 1.0).abs() < 1e-4 && (y[1] - 1.0).abs() < 1e-4);
/// let mean = vs.get("bn.running_mean").unwrap().get().to_vec::<f32>()?;
/// assert!((mean[0] - 0.2).abs() < 1e-6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct BatchNorm<const D: usize> {
    scope: Scope,
    parts: Result<BatchNormParts, GraphError>,
    eps: f32,
    momentum: f32,
}

/// Batch normalisation of `[N, C]` or `[N, C, L]`; see [`BatchNorm`].
pub type BatchNorm1d = BatchNorm<1>;

/// Batch normalisation of `[N, C, H, W]`; see [`BatchNorm`].
pub type BatchNorm2d = BatchNorm<2>;

#[derive(Debug)]
struct BatchNormParts {
    affine: Option<(Param, Param)>,
    running: Running,
}

/// Running statistics of channels.
#[derive(Debug)]
pub(super) struct Running {
    pub mean: Param,
    pub var: Param,
    /// Passes in training that found their statistics still pending.
    pending: AtomicU32,
}

impl Running {
    /// Buffers `running_mean` (zeros) and `running_var` (ones).
    pub fn new(scope: &Scope, channels: usize) -> Running {
        Running {
            mean: scope.buffer("running_mean", &[channels], Init::Zeros),
            var: scope.buffer("running_var", &[channels], Init::Ones),
            pending: AtomicU32::new(0),
        }
    }

    /// `running = (1 - momentum) running + momentum batch` with a batch's mean and unbiased variance, of as many
    /// elements as there are channels.
    #[track_caller]
    pub fn follow(&self, mean: &Tensor, unbiased: &Tensor, momentum: f32) {
        let mut ready = true;
        for (buffer, batch) in [(&self.mean, mean), (&self.var, unbiased)] {
            let old = buffer.get();
            ready &= old.is_ready();
            let batch = batch.detach().reshape(&[-1]);
            buffer.set(old * (1.0 - momentum) + batch * momentum);
        }
        if ready {
            self.pending.store(0, Ordering::Relaxed);
        } else if self.pending.fetch_add(1, Ordering::Relaxed) >= MAX_PENDING {
            self.pending.store(0, Ordering::Relaxed);
            // A failure stays in the buffers, and is returned where a value is asked for.
            let _ = versant_graph::eval(&[&self.mean.get(), &self.var.get()]);
        }
    }

    /// `x` normalised by these statistics instead of its own; `wide` gives what has an element a channel the rank of `x`.
    #[track_caller]
    pub fn apply(
        &self,
        x: &Tensor,
        affine: Option<(Tensor, Tensor)>,
        eps: f32,
        wide: impl Fn(&Tensor) -> Tensor,
    ) -> Tensor {
        let scale = wide(&(self.var.get() + eps).rsqrt());
        let centred = x - wide(&self.mean.get());
        match affine {
            Some((weight, bias)) => centred * (scale * weight) + bias,
            None => centred * scale,
        }
    }
}

impl<const D: usize> BatchNorm<D> {
    const SUPPORTED: () = assert!(D == 1 || D == 2, "batch normalisation has one or two spatial axes");

    const NAME: &'static str = if D == 1 { "BatchNorm1d" } else { "BatchNorm2d" };

    /// A layer with weight and bias, `eps` 1e-5 and `momentum` 0.1.
    #[track_caller]
    pub fn new(scope: &Scope, channels: usize) -> Self {
        let () = Self::SUPPORTED;
        let origin = Origin { layer: Self::NAME, location: Location::caller() };
        let parts = if channels == 0 {
            Err(origin.error("there must be channels".to_owned()))
        } else {
            let shape = [channels];
            let weight = scope.parameter("weight", &shape, Init::Ones);
            let bias = scope.parameter("bias", &shape, Init::Zeros);
            Ok(BatchNormParts { affine: Some((weight, bias)), running: Running::new(scope, channels) })
        };
        BatchNorm { scope: scope.clone(), parts, eps: 1e-5, momentum: 0.1 }
    }

    /// What is added to the variance.
    #[must_use]
    pub fn eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }

    /// The share of the batch in the running statistics.
    #[must_use]
    pub fn momentum(mut self, momentum: f32) -> Self {
        self.momentum = momentum;
        self
    }

    /// Does without weight and bias.
    #[must_use]
    pub fn no_affine(mut self) -> Self {
        if let Ok(parts) = &mut self.parts
            && let Some((weight, bias)) = parts.affine.take()
        {
            self.scope.retract(weight);
            self.scope.retract(bias);
        }
        self
    }
}

impl<const D: usize> Module for BatchNorm<D> {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let location = Location::caller();
        let parts = match &self.parts {
            Ok(parts) => parts,
            Err(error) => return Tensor::failed(x.device(), error.clone()),
        };
        let channels: usize = parts.running.mean.shape().iter().product();
        let ranks = if D == 1 { 2..=3 } else { 4..=4 };
        let fits = x.error().is_none()
            && ranks.contains(&x.rank())
            && x.shape()[1] == channels
            && x.dtype() == DType::F32;
        if !fits {
            let axes = if D == 1 { "C] or [N, C, L" } else { "C, H, W" };
            let why = format!("needs f32[N, {axes}] with {channels} channels");
            return invalid(Self::NAME, &[x], location, why);
        }
        let x = &kept(x);
        let mut shape = vec![1isize; x.rank() - 1];
        shape[0] = -1;
        let wide = |t: &Tensor| t.reshape(&shape);
        let affine = parts.affine.as_ref().map(|(weight, bias)| (wide(&weight.get()), wide(&bias.get())));
        if mode == Mode::Train {
            let count = x.numel() / channels;
            if count < 2 {
                let why = "training needs more than one element per channel";
                return invalid(Self::NAME, &[x], location, why);
            }
            let axes: Vec<isize> = (0..x.rank() as isize).filter(|&a| a != 1).collect();
            let (weight, bias) = affine.as_ref().map(|(w, b)| (w, b)).unzip();
            let [y, mean, var] = x.normalize(&axes, weight, bias, self.eps);
            let unbiased = var * (count as f32 / (count as f32 - 1.0));
            parts.running.follow(&mean, &unbiased, self.momentum);
            return y;
        }
        parts.running.apply(x, affine, self.eps, wide)
    }
}

/// Layer normalisation (Ba et al., 2016) over the last axes: zero mean and unit (biased) variance of each
/// row, then `* weight + bias`.
///
/// Parameters: `weight` (ones), `bias` (zeros), both with the normalised extents.
///
/// ```
/// use versant_nn::layers::{LayerNorm, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = LayerNorm::new(&(&vs / "ln"), &[2]);
/// let x = Tensor::from_slice(&dev, &[1.0f32, 3.0, 40.0, 20.0], &[2, 2]);
/// let y = layer.forward(&x, Mode::Eval).to_vec::<f32>()?;
/// assert!(y.iter().zip([-1.0, 1.0, 1.0, -1.0]).all(|(y, w)| (y - w).abs() < 1e-4));
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct LayerNorm {
    scope: Scope,
    axes: usize,
    weight: Result<Option<Param>, GraphError>,
    bias: Option<Param>,
    eps: f32,
}

impl LayerNorm {
    /// Normalises the last axes, which have these extents; `eps` is 1e-5.
    #[track_caller]
    pub fn new(scope: &Scope, extents: &[usize]) -> LayerNorm {
        let origin = Origin { layer: "LayerNorm::new", location: Location::caller() };
        let fine = !extents.is_empty() && !extents.contains(&0);
        let weight = if fine {
            Ok(Some(scope.parameter("weight", extents, Init::Ones)))
        } else {
            Err(origin.error(format!("the extents must be positive, not {extents:?}")))
        };
        LayerNorm {
            scope: scope.clone(),
            axes: extents.len(),
            weight,
            bias: fine.then(|| scope.parameter("bias", extents, Init::Zeros)),
            eps: 1e-5,
        }
    }

    /// What is added to the variance.
    #[must_use]
    pub fn eps(mut self, eps: f32) -> LayerNorm {
        self.eps = eps;
        self
    }

    /// Does without the bias.
    #[must_use]
    pub fn no_bias(mut self) -> LayerNorm {
        if let Some(bias) = self.bias.take() {
            self.scope.retract(bias);
        }
        self
    }

    /// Does without weight and bias.
    #[must_use]
    pub fn no_affine(mut self) -> LayerNorm {
        if let Ok(weight) = &mut self.weight
            && let Some(weight) = weight.take()
        {
            self.scope.retract(weight);
        }
        self.no_bias()
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        let weight = match &self.weight {
            Ok(weight) => weight.as_ref().map(Param::get),
            Err(error) => return Tensor::failed(x.device(), error.clone()),
        };
        let bias = self.bias.as_ref().map(Param::get);
        kept(x).layer_norm(self.axes, weight.as_ref(), bias.as_ref(), self.eps)
    }
}
