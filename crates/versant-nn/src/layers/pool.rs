//! Layers without parameters that change the shape: pooling and flattening.

use versant_graph::{PoolOptions, Tensor};

use super::{Extents, Mode, Module};

/// The maximum over windows of the last two axes, `[.., H, W] → [.., H', W']` with
/// `H' = (H + 2 pad - kernel) / stride + 1`, rounded down. The gradient goes to the first maximum.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool2d {
    options: PoolOptions,
}

impl MaxPool2d {
    /// Windows that touch but do not overlap.
    pub fn new(kernel: impl Into<Extents<2>>) -> Self {
        MaxPool2d { options: PoolOptions::new(kernel.into().0) }
    }

    /// Elements between windows.
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Extents<2>>) -> Self {
        self.options.stride = stride.into().0;
        self
    }

    /// A border of −∞, at most half of the kernel.
    #[must_use]
    pub fn pad(mut self, padding: impl Into<Extents<2>>) -> Self {
        self.options.padding = padding.into().0;
        self
    }
}

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        x.max_pool2d(&self.options)
    }
}

/// The average over windows of the last two axes; shapes as in [`MaxPool2d`].
#[derive(Clone, Copy, Debug)]
pub struct AvgPool2d {
    options: PoolOptions,
    count_padding: bool,
}

impl AvgPool2d {
    /// Windows that touch but do not overlap.
    pub fn new(kernel: impl Into<Extents<2>>) -> Self {
        AvgPool2d { options: PoolOptions::new(kernel.into().0), count_padding: true }
    }

    /// Elements between windows.
    #[must_use]
    pub fn stride(mut self, stride: impl Into<Extents<2>>) -> Self {
        self.options.stride = stride.into().0;
        self
    }

    /// A border of zeros, at most half of the kernel.
    #[must_use]
    pub fn pad(mut self, padding: impl Into<Extents<2>>) -> Self {
        self.options.padding = padding.into().0;
        self
    }

    /// Divides by the number of elements that are not border, where the default is the kernel's size.
    #[must_use]
    pub fn exclude_padding(mut self) -> Self {
        self.count_padding = false;
        self
    }
}

impl Module for AvgPool2d {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        x.avg_pool2d(&self.options, self.count_padding)
    }
}

/// The average over as many windows of the last two axes as the output has elements, `[.., H, W] → [.., h, w]`.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveAvgPool2d {
    output: [usize; 2],
}

impl AdaptiveAvgPool2d {
    /// The output's extents; 1 is a global average.
    pub fn new(output: impl Into<Extents<2>>) -> Self {
        AdaptiveAvgPool2d { output: output.into().0 }
    }
}

impl Module for AdaptiveAvgPool2d {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        x.adaptive_avg_pool2d(self.output)
    }
}

/// The maximum over the windows of [`AdaptiveAvgPool2d`].
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveMaxPool2d {
    output: [usize; 2],
}

impl AdaptiveMaxPool2d {
    /// The output's extents; 1 is a global maximum.
    pub fn new(output: impl Into<Extents<2>>) -> Self {
        AdaptiveMaxPool2d { output: output.into().0 }
    }
}

impl Module for AdaptiveMaxPool2d {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        x.adaptive_max_pool2d(self.output)
    }
}

/// All axes from one on as a single last axis: `[N, C, H, W] → [N, C H W]`.
#[derive(Clone, Copy, Debug)]
pub struct Flatten {
    from: usize,
}

impl Flatten {
    /// Keeps the batch axis.
    pub fn new() -> Self {
        Flatten { from: 1 }
    }

    /// Keeps the axes before this one.
    pub fn from_axis(from: usize) -> Self {
        Flatten { from }
    }
}

impl Default for Flatten {
    fn default() -> Self {
        Flatten::new()
    }
}

impl Module for Flatten {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        x.flatten(self.from)
    }
}
