//! Convolutions and the transposed convolution.

use std::panic::Location;

use versant_graph::{ConvOptions, Tensor};

use super::weights::{Origin, Weights};
use super::{Extents, Mode, Module};
use crate::Scope;
use crate::mixed::{kept, operand};

/// A convolution (as neural networks call cross-correlation) over `D` spatial axes: [`Conv1d`], [`Conv2d`].
///
/// `[N, inputs, L] → [N, outputs, L']` or `[N, inputs, H, W] → [N, outputs, H', W']` with
/// `L' = (L + 2 pad - dilation (kernel - 1) - 1) / stride + 1`, rounded down.
///
/// Parameters: `weight` `[outputs, inputs / groups, kernel..]`, `bias` `[outputs]`, both uniform within
/// `1 / sqrt(inputs / groups * taps)`.
///
/// ```
/// use versant_nn::layers::{Conv2d, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = Conv2d::new(&(&vs / "conv1"), 4, 8, 3).pad(1).stride([2, 1]).groups(2).no_bias();
/// assert_eq!(vs.names(), ["conv1.weight"]);
/// assert_eq!(vs.get("conv1.weight").unwrap().shape(), [8, 2, 3, 3]);
/// let y = layer.forward(&Tensor::zeros(&dev, &[5, 4, 6, 6]), Mode::Eval);
/// assert_eq!(y.shape(), [5, 8, 3, 6]);
/// ```
#[derive(Debug)]
pub struct Conv<const D: usize> {
    weights: Weights,
    shape: ConvShape<D>,
    stride: [usize; D],
    padding: [usize; D],
    dilation: [usize; D],
}

/// A convolution over the last axis of `[N, C, L]`; see [`Conv`].
pub type Conv1d = Conv<1>;

/// A convolution over the last two axes of `[N, C, H, W]`; see [`Conv`].
pub type Conv2d = Conv<2>;

/// What the weight's shape follows from.
#[derive(Clone, Copy, Debug)]
struct ConvShape<const D: usize> {
    inputs: usize,
    outputs: usize,
    kernel: [usize; D],
    groups: usize,
}

impl<const D: usize> ConvShape<D> {
    /// The shape of the weight, with channels split into groups on the second axis; or why there is none.
    fn weight(&self, transposed: bool) -> Result<Vec<usize>, String> {
        let ConvShape { inputs, outputs, kernel, groups } = *self;
        if inputs == 0 || outputs == 0 || kernel.contains(&0) {
            return Err(format!(
                "channels and kernel must be positive, not {inputs} to {outputs} with {kernel:?}"
            ));
        }
        if groups == 0 || !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
            return Err(format!(
                "{groups} groups do not divide {inputs} input and {outputs} output channels"
            ));
        }
        let (first, second) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
        Ok([&[first, second / groups], &kernel[..]].concat())
    }
}

/// The options of a tensor's method, where an only axis is the second.
fn options<const D: usize>(
    stride: [usize; D],
    padding: [usize; D],
    dilation: [usize; D],
    groups: usize,
) -> ConvOptions {
    let pair = |extents: [usize; D], other: usize| match extents[..] {
        [a, b] => [a, b],
        [a] => [other, a],
        _ => [other; 2],
    };
    ConvOptions { stride: pair(stride, 1), padding: pair(padding, 0), dilation: pair(dilation, 1), groups }
}

impl<const D: usize> Conv<D> {
    const SUPPORTED: () = assert!(D == 1 || D == 2, "convolutions have one or two spatial axes");

    /// A convolution with a bias, stride 1, no padding, no dilation, one group.
    #[track_caller]
    pub fn new(scope: &Scope, inputs: usize, outputs: usize, kernel: impl Into<Extents<D>>) -> Self {
        let () = Self::SUPPORTED;
        let shape = ConvShape { inputs, outputs, kernel: kernel.into().0, groups: 1 };
        let origin = Origin {
            layer: if D == 1 { "Conv1d::new" } else { "Conv2d::new" },
            location: Location::caller(),
        };
        Conv {
            weights: Weights::new(scope, origin, shape.weight(false), outputs),
            shape,
            stride: [1; D],
            padding: [0; D],
            dilation: [1; D],
        }
    }

    /// Elements per output step.
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Extents<D>>) -> Self {
        self.stride = stride.into().0;
        self
    }

    /// Zeros on either side.
    #[must_use]
    pub fn pad(mut self, padding: impl Into<Extents<D>>) -> Self {
        self.padding = padding.into().0;
        self
    }

    /// Elements between taps.
    #[must_use]
    pub fn dilation(mut self, dilation: impl Into<Extents<D>>) -> Self {
        self.dilation = dilation.into().0;
        self
    }

    /// Splits the channels into independent parts: as many as there are inputs make it depthwise.
    #[must_use]
    pub fn groups(mut self, groups: usize) -> Self {
        self.shape.groups = groups;
        self.weights.reshape(self.shape.weight(false));
        self
    }

    /// Does without the bias, as before a normalisation.
    #[must_use]
    pub fn no_bias(mut self) -> Self {
        self.weights.drop_bias();
        self
    }
}

impl<const D: usize> Module for Conv<D> {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        let (weight, bias) = match self.weights.get(x.device()) {
            Ok(values) => values,
            Err(failed) => return failed,
        };
        let options = options(self.stride, self.padding, self.dilation, self.shape.groups);
        let (x, weight) = (operand(x), operand(&weight));
        let y = if D == 1 { x.conv1d(&weight, &options) } else { x.conv2d(&weight, &options) };
        kept(&with_bias(y, bias, D))
    }
}

/// Adds a value for each channel, before `axes` spatial axes.
#[track_caller]
fn with_bias(y: Tensor, bias: Option<Tensor>, axes: usize) -> Tensor {
    let Some(bias) = bias else { return y };
    let mut shape = vec![1isize; axes + 1];
    shape[0] = -1;
    y + bias.reshape(&shape)
}

/// A transposed convolution (Zeiler et al., CVPR 2010), which enlarges where [`Conv`] with the same options
/// reduces: [`ConvTranspose1d`], [`ConvTranspose2d`].
///
/// `[N, inputs, L] → [N, outputs, L']` or `[N, inputs, H, W] → [N, outputs, H', W']` with
/// `L' = (L - 1) stride - 2 pad + dilation (kernel - 1) + output_pad + 1`.
///
/// Parameters: `weight` `[inputs, outputs / groups, kernel..]`, `bias` `[outputs]`, both uniform within
/// `1 / sqrt(outputs / groups * taps)`, as in PyTorch.
///
/// ```
/// use versant_nn::layers::{ConvTranspose2d, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = ConvTranspose2d::new(&(&vs / "up"), 8, 4, 2).stride(2);
/// let y = layer.forward(&Tensor::zeros(&dev, &[1, 8, 5, 5]), Mode::Eval);
/// assert_eq!(y.shape(), [1, 4, 10, 10]);
/// ```
#[derive(Debug)]
pub struct ConvTranspose<const D: usize> {
    weights: Weights,
    shape: ConvShape<D>,
    stride: [usize; D],
    padding: [usize; D],
    output_padding: [usize; D],
    dilation: [usize; D],
}

/// A transposed convolution over the last axis of `[N, C, L]`; see [`ConvTranspose`].
pub type ConvTranspose1d = ConvTranspose<1>;

/// A transposed convolution over the last two axes of `[N, C, H, W]`; see [`ConvTranspose`].
pub type ConvTranspose2d = ConvTranspose<2>;

impl<const D: usize> ConvTranspose<D> {
    const SUPPORTED: () = assert!(D == 1 || D == 2, "convolutions have one or two spatial axes");

    /// A transposed convolution with a bias, stride 1, no padding, no dilation, one group.
    #[track_caller]
    pub fn new(scope: &Scope, inputs: usize, outputs: usize, kernel: impl Into<Extents<D>>) -> Self {
        let () = Self::SUPPORTED;
        let shape = ConvShape { inputs, outputs, kernel: kernel.into().0, groups: 1 };
        let origin = Origin {
            layer: if D == 1 { "ConvTranspose1d::new" } else { "ConvTranspose2d::new" },
            location: Location::caller(),
        };
        ConvTranspose {
            weights: Weights::new(scope, origin, shape.weight(true), outputs),
            shape,
            stride: [1; D],
            padding: [0; D],
            output_padding: [0; D],
            dilation: [1; D],
        }
    }

    /// Output elements per input step.
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Extents<D>>) -> Self {
        self.stride = stride.into().0;
        self
    }

    /// Elements cut from either side of the output.
    #[must_use]
    pub fn pad(mut self, padding: impl Into<Extents<D>>) -> Self {
        self.padding = padding.into().0;
        self
    }

    /// Elements added at the far side of the output: fewer than the stride or the dilation.
    #[must_use]
    pub fn output_pad(mut self, padding: impl Into<Extents<D>>) -> Self {
        self.output_padding = padding.into().0;
        self
    }

    /// Elements between taps.
    #[must_use]
    pub fn dilation(mut self, dilation: impl Into<Extents<D>>) -> Self {
        self.dilation = dilation.into().0;
        self
    }

    /// Splits the channels into independent parts.
    #[must_use]
    pub fn groups(mut self, groups: usize) -> Self {
        self.shape.groups = groups;
        self.weights.reshape(self.shape.weight(true));
        self
    }

    /// Does without the bias, as before a normalisation.
    #[must_use]
    pub fn no_bias(mut self) -> Self {
        self.weights.drop_bias();
        self
    }
}

impl<const D: usize> Module for ConvTranspose<D> {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        let (weight, bias) = match self.weights.get(x.device()) {
            Ok(values) => values,
            Err(failed) => return failed,
        };
        let options = options(self.stride, self.padding, self.dilation, self.shape.groups);
        let (x, weight) = (operand(x), operand(&weight));
        let y = match self.output_padding[..] {
            [height, width] => x.conv_transpose2d(&weight, &options, [height, width]),
            [only] if x.error().is_none() && x.rank() == 3 => {
                let (x, weight) = (x.unsqueeze(2), weight.unsqueeze(2));
                let y = x.conv_transpose2d(&weight, &options, [0, only]);
                if y.error().is_some() { y } else { y.squeeze(2) }
            }
            _ => {
                let why = "needs f32[N, C, L]";
                return crate::fault::invalid("conv_transpose1d", &[&x], Location::caller(), why);
            }
        };
        kept(&with_bias(y, bias, D))
    }
}
