//! Normalisation within a sample: by groups of channels, by single channels, and of rows by their root mean square.

use std::panic::Location;

use versant_graph::{DType, GraphError, Tensor};

use super::norm::Running;
use super::weights::Origin;
use super::{Mode, Module};
use crate::fault::invalid;
use crate::mixed::kept;
use crate::{Init, Param, Scope};

/// Root-mean-square normalisation (Zhang and Sennrich, NeurIPS 2019) over the last axes:
/// `y = x / sqrt(mean(x²) + eps) * weight`.
///
/// Parameter: `weight` (ones), with the normalised extents. PyTorch's `eps` is f32's machine epsilon, 1.1920929e-7,
/// unless it is given; so it is here.
///
/// ```
/// use versant_nn::layers::{Mode, Module, RmsNorm};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = RmsNorm::new(&(&vs / "norm"), &[2]);
/// let x = Tensor::from_slice(&dev, &[1.0f32, 7.0, -30.0, 0.0], &[2, 2]);
/// let y = layer.forward(&x, Mode::Eval).to_vec::<f32>()?;
/// // The first row's root mean square is 5.
/// assert!(y.iter().zip([0.2, 1.4, -2f32.sqrt(), 0.0]).all(|(y, w)| (y - w).abs() < 1e-6));
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct RmsNorm {
    scope: Scope,
    extents: Vec<usize>,
    weight: Result<Option<Param>, GraphError>,
    eps: f32,
}

impl RmsNorm {
    /// Normalises the last axes, which have these extents; `eps` is 1.1920929e-7.
    #[track_caller]
    pub fn new(scope: &Scope, extents: &[usize]) -> RmsNorm {
        let origin = Origin { layer: "RmsNorm::new", location: Location::caller() };
        let weight = if extents.is_empty() || extents.contains(&0) {
            Err(origin.error(format!("the extents must be positive, not {extents:?}")))
        } else {
            Ok(Some(scope.parameter("weight", extents, Init::Ones)))
        };
        RmsNorm { scope: scope.clone(), extents: extents.to_vec(), weight, eps: f32::EPSILON }
    }

    /// What is added to the mean square.
    #[must_use]
    pub fn eps(mut self, eps: f32) -> RmsNorm {
        self.eps = eps;
        self
    }

    /// Does without the weight.
    #[must_use]
    pub fn no_affine(mut self) -> RmsNorm {
        if let Ok(weight) = &mut self.weight
            && let Some(weight) = weight.take()
        {
            self.scope.retract(weight);
        }
        self
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        let weight = match &self.weight {
            Ok(weight) => weight.as_ref().map(Param::get),
            Err(error) => return Tensor::failed(x.device(), error.clone()),
        };
        if x.error().is_some() || !x.shape().ends_with(&self.extents) || x.dtype() != DType::F32 {
            let why = format!("needs f32 whose last extents are {:?}", self.extents);
            return invalid("RmsNorm", &[x], Location::caller(), why);
        }
        let x = &kept(x);
        let axes: Vec<isize> = (1..=self.extents.len() as isize).map(|a| -a).collect();
        let y = x * (x.square().mean(&axes, true) + self.eps).rsqrt();
        match weight {
            Some(weight) => y * weight,
            None => y,
        }
    }
}

/// Group normalisation (Wu and He, ECCV 2018): zero mean and unit (biased) variance of each group of neighbouring
/// channels of each sample, then `* weight + bias` by channel: `[N, C, ..] → [N, C, ..]`.
///
/// One group is layer normalisation of a sample, as many groups as channels are [`InstanceNorm2d`]. Parameters: `weight`
/// (ones), `bias` (zeros), both `[channels]`.
///
/// ```
/// use versant_nn::layers::{GroupNorm, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = GroupNorm::new(&(&vs / "norm"), 2, 4);
/// let x = Tensor::from_slice(&dev, &[1.0f32, 3.0, 40.0, 20.0], &[1, 4, 1]);
/// let y = layer.forward(&x, Mode::Train).to_vec::<f32>()?;
/// assert!(y.iter().zip([-1.0, 1.0, 1.0, -1.0]).all(|(y, w)| (y - w).abs() < 1e-4));
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct GroupNorm {
    scope: Scope,
    groups: usize,
    channels: usize,
    affine: Result<Option<(Param, Param)>, GraphError>,
    eps: f32,
}

impl GroupNorm {
    /// So many groups of `channels` channels, with weight and bias; `eps` is 1e-5.
    #[track_caller]
    pub fn new(scope: &Scope, groups: usize, channels: usize) -> GroupNorm {
        let origin = Origin { layer: "GroupNorm::new", location: Location::caller() };
        let affine = if groups == 0 || channels == 0 || !channels.is_multiple_of(groups) {
            Err(origin.error(format!("{groups} groups do not divide {channels} channels")))
        } else {
            Ok(Some(affine(scope, channels)))
        };
        GroupNorm { scope: scope.clone(), groups, channels, affine, eps: 1e-5 }
    }

    /// What is added to the variance.
    #[must_use]
    pub fn eps(mut self, eps: f32) -> GroupNorm {
        self.eps = eps;
        self
    }

    /// Does without weight and bias.
    #[must_use]
    pub fn no_affine(mut self) -> GroupNorm {
        if let Ok(affine) = &mut self.affine
            && let Some((weight, bias)) = affine.take()
        {
            self.scope.retract(weight);
            self.scope.retract(bias);
        }
        self
    }
}

fn affine(scope: &Scope, channels: usize) -> (Param, Param) {
    let weight = scope.parameter("weight", &[channels], Init::Ones);
    (weight, scope.parameter("bias", &[channels], Init::Zeros))
}

impl Module for GroupNorm {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        let affine = match &self.affine {
            Ok(affine) => affine,
            Err(error) => return Tensor::failed(x.device(), error.clone()),
        };
        let channels = self.channels;
        if x.error().is_some() || x.rank() < 2 || x.shape()[1] != channels || x.dtype() != DType::F32 {
            let why = format!("needs f32[N, C, ..] with {channels} channels");
            return invalid("GroupNorm", &[x], Location::caller(), why);
        }
        let x = &kept(x);
        // Samples, groups, channels of a group, places: groups are an axis of their own.
        let places: usize = x.shape()[2..].iter().product();
        let own = channels / self.groups;
        let split = [x.shape()[0], self.groups, own, places].map(|d| d as isize);
        let wide = |t: &Param| t.get().reshape(&[1, split[1], split[2], 1]);
        let (weight, bias) = affine.as_ref().map(|(w, b)| (wide(w), wide(b))).unzip();
        let [y, ..] = x.reshape(&split).normalize(&[2, 3], weight.as_ref(), bias.as_ref(), self.eps);
        y.reshape(&x.shape().iter().map(|&d| d as isize).collect::<Vec<_>>())
    }
}

/// Instance normalisation (Ulyanov et al., 2016): zero mean and unit (biased) variance of each channel of each sample:
/// [`InstanceNorm1d`], [`InstanceNorm2d`].
///
/// As in PyTorch there are no parameters unless [`affine`](Self::affine) is called (`weight` of ones, `bias` of zeros),
/// and no running statistics unless [`track`](Self::track) is; with those (buffers `running_mean`, `running_var`)
/// evaluation uses them as a batch normalisation does. All are `[channels]`.
///
/// ```
/// use versant_nn::layers::{InstanceNorm1d, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = InstanceNorm1d::new(&(&vs / "norm"), 2).affine();
/// let x = Tensor::from_slice(&dev, &[1.0f32, 3.0, 40.0, 20.0], &[1, 2, 2]);
/// let y = layer.forward(&x, Mode::Eval).to_vec::<f32>()?;
/// assert!(y.iter().zip([-1.0, 1.0, 1.0, -1.0]).all(|(y, w)| (y - w).abs() < 1e-4));
/// assert_eq!(vs.names(), ["norm.weight", "norm.bias"]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct InstanceNorm<const D: usize> {
    scope: Scope,
    channels: Result<usize, GraphError>,
    affine: Option<(Param, Param)>,
    running: Option<Running>,
    eps: f32,
    momentum: f32,
}

/// Instance normalisation of `[N, C, L]`; see [`InstanceNorm`].
pub type InstanceNorm1d = InstanceNorm<1>;

/// Instance normalisation of `[N, C, H, W]`; see [`InstanceNorm`].
pub type InstanceNorm2d = InstanceNorm<2>;

impl<const D: usize> InstanceNorm<D> {
    const SUPPORTED: () = assert!(D == 1 || D == 2, "instance normalisation has one or two spatial axes");

    const NAME: &'static str = if D == 1 { "InstanceNorm1d" } else { "InstanceNorm2d" };

    /// A layer without parameters, `eps` 1e-5 and `momentum` 0.1.
    #[track_caller]
    pub fn new(scope: &Scope, channels: usize) -> Self {
        let () = Self::SUPPORTED;
        let origin = Origin { layer: Self::NAME, location: Location::caller() };
        let channels = match channels {
            0 => Err(origin.error("there must be channels".to_owned())),
            some => Ok(some),
        };
        let scope = scope.clone();
        InstanceNorm { scope, channels, affine: None, running: None, eps: 1e-5, momentum: 0.1 }
    }

    /// With weight and bias.
    #[must_use]
    pub fn affine(mut self) -> Self {
        if let Ok(channels) = self.channels {
            self.affine = Some(affine(&self.scope, channels));
        }
        self
    }

    /// Follows the statistics in training, and uses what was followed in evaluation.
    #[must_use]
    pub fn track(mut self) -> Self {
        if let Ok(channels) = self.channels {
            self.running = Some(Running::new(&self.scope, channels));
        }
        self
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
}

impl<const D: usize> Module for InstanceNorm<D> {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let location = Location::caller();
        let channels = match &self.channels {
            Ok(channels) => *channels,
            Err(error) => return Tensor::failed(x.device(), error.clone()),
        };
        let fits = x.error().is_none() && x.rank() == D + 2 && x.dtype() == DType::F32;
        if !fits || x.shape()[1] != channels {
            let axes = if D == 1 { "L" } else { "H, W" };
            let why = format!("needs f32[N, C, {axes}] with {channels} channels");
            return invalid(Self::NAME, &[x], location, why);
        }
        let x = &kept(x);
        let mut shape = vec![1isize; D + 1];
        shape[0] = -1;
        let wide = |t: &Tensor| t.reshape(&shape);
        let affine = self.affine.as_ref().map(|(weight, bias)| (wide(&weight.get()), wide(&bias.get())));
        if let (Some(running), Mode::Eval) = (&self.running, mode) {
            return running.apply(x, affine, self.eps, wide);
        }
        let places: usize = x.shape()[2..].iter().product();
        if places < 2 {
            return invalid(Self::NAME, &[x], location, "needs more than one element per channel");
        }
        let axes: Vec<isize> = (2..x.rank() as isize).collect();
        let (weight, bias) = affine.as_ref().map(|(w, b)| (w, b)).unzip();
        let [y, mean, var] = x.normalize(&axes, weight, bias, self.eps);
        // Of no samples there is no mean to follow.
        if let (Some(running), true) = (&self.running, x.shape()[0] > 0) {
            let unbiased = var * (places as f32 / (places as f32 - 1.0));
            running.follow(&mean.mean(&[0], false), &unbiased.mean(&[0], false), self.momentum);
        }
        y
    }
}
