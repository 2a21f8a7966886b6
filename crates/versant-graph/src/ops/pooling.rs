//! Pooling, composed of windows and one reduction: exact, and fused into one kernel each way.

use std::panic::Location;

use versant_kernels::{DType, MAX_NUMEL, MAX_RANK};

use crate::Tensor;

/// Extents of a pooling over the last two axes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolOptions {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Elements between windows; usually the kernel's extents.
    pub stride: [usize; 2],
    /// Border on either side: −∞ for a maximum, zeros for an average. At most half of the kernel.
    pub padding: [usize; 2],
}

impl PoolOptions {
    /// Windows of `kernel` that touch but do not overlap, without a border.
    pub fn new(kernel: [usize; 2]) -> PoolOptions {
        PoolOptions { kernel, stride: kernel, padding: [0; 2] }
    }
}

impl Tensor {
    /// The windows of the last two axes as two new last axes, after a border of `border`.
    #[track_caller]
    fn pool_windows(&self, name: &'static str, options: &PoolOptions, border: f32) -> Tensor {
        let location = Location::caller();
        let fail = |why: &str| Tensor::invalid(name, &[self], location, why);
        let PoolOptions { kernel, stride, padding } = *options;
        if self.rank() < 2 || self.rank() + 2 > MAX_RANK || self.dtype() != DType::F32 {
            return fail("needs f32 with two to six axes");
        }
        if kernel.contains(&0) || stride.contains(&0) {
            return fail("kernel and stride must be positive");
        }
        if (0..2).any(|a| padding[a] > kernel[a] / 2) {
            return fail("the padding is more than half of the kernel");
        }
        let first = self.rank() - 2;
        if (0..2).any(|a| self.shape()[first + a].saturating_add(padding[a].saturating_mul(2)) < kernel[a]) {
            return fail("the window is larger than the padded input");
        }
        if (0..2).any(|a| padding[a] > MAX_NUMEL) {
            return fail("the padding is too large");
        }
        let mut amounts = vec![(0, 0); self.rank()];
        (amounts[first], amounts[first + 1]) = ((padding[0], padding[0]), (padding[1], padding[1]));
        let padded = if padding == [0; 2] { self.clone() } else { self.pad(&amounts, border) };
        padded.window(first, kernel[0], stride[0], 1).window(first + 1, kernel[1], stride[1], 1)
    }

    /// Maximum over windows of the last two axes, `[.., H, W] → [.., H', W']`. The gradient goes to the
    /// first maximum of a window in row-major order, as in PyTorch.
    ///
    /// ```
    /// use versant_graph::{Device, PoolOptions, Tensor};
    /// let dev = Device::cpu();
    /// let x = Tensor::arange(&dev, 16, versant_graph::DType::F32).reshape(&[1, 4, 4]);
    /// let y = x.max_pool2d(&PoolOptions::new([2, 2]));
    /// assert_eq!(y.to_vec::<f32>()?, [5.0, 7.0, 13.0, 15.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn max_pool2d(&self, options: &PoolOptions) -> Tensor {
        self.pool_windows("max_pool2d", options, f32::NEG_INFINITY).max(&[-2, -1], false)
    }

    /// Average over windows of the last two axes. `count_padding` says whether border zeros count in the
    /// divisor.
    #[track_caller]
    #[must_use]
    pub fn avg_pool2d(&self, options: &PoolOptions, count_padding: bool) -> Tensor {
        let name = "avg_pool2d";
        let windows = self.pool_windows(name, options, 0.0);
        if windows.error().is_some() {
            return windows;
        }
        let sums = windows.sum(&[-2, -1], false);
        if count_padding || options.padding == [0; 2] {
            return sums / (options.kernel[0] * options.kernel[1]) as f32;
        }
        let plane = &self.shape()[self.rank() - 2..];
        let ones = Tensor::ones(self.device(), plane);
        sums / ones.pool_windows(name, options, 0.0).sum(&[-2, -1], false)
    }

    /// The last axis `[.., L]` as a plane of one row, for a pooling along it.
    #[track_caller]
    fn as_row(&self, name: &'static str) -> Tensor {
        if self.rank() == 0 || self.rank() + 3 > MAX_RANK || self.dtype() != DType::F32 {
            let why = "needs f32 with one to five axes";
            return Tensor::invalid(name, &[self], Location::caller(), why);
        }
        self.unsqueeze(self.rank() - 1)
    }

    /// Undoes [`Tensor::as_row`] after the pooling.
    #[track_caller]
    fn drop_row(self) -> Tensor {
        if self.error().is_some() { self } else { self.squeeze(self.rank() - 2) }
    }

    /// Maximum over windows of the last axis.
    #[track_caller]
    #[must_use]
    pub fn max_pool1d(&self, kernel: usize, stride: usize, padding: usize) -> Tensor {
        let options = PoolOptions { kernel: [1, kernel], stride: [1, stride], padding: [0, padding] };
        self.as_row("max_pool1d").max_pool2d(&options).drop_row()
    }

    /// Average over windows of the last axis.
    #[track_caller]
    #[must_use]
    pub fn avg_pool1d(&self, kernel: usize, stride: usize, padding: usize, count_padding: bool) -> Tensor {
        let options = PoolOptions { kernel: [1, kernel], stride: [1, stride], padding: [0, padding] };
        self.as_row("avg_pool1d").avg_pool2d(&options, count_padding).drop_row()
    }

    /// Average of the last two axes over `output` windows that together cover them: window `i` of `n` over
    /// an extent `e` is `floor(i e / n) .. ceil((i + 1) e / n)`, as in PyTorch.
    #[track_caller]
    #[must_use]
    pub fn adaptive_avg_pool2d(&self, output: [usize; 2]) -> Tensor {
        let location = Location::caller();
        let Some(tile) = self.tiles(output) else {
            let why = "needs f32 with two to six non-empty last axes and a positive output";
            return Tensor::invalid("adaptive_avg_pool2d", &[self], location, why);
        };
        if let Some(kernel) = tile {
            return self.avg_pool2d(&PoolOptions::new(kernel), true);
        }
        // Windows differ in size: an average along each axis is a product with a constant matrix.
        let rank = self.rank();
        let rows = self.average_matrix(self.shape()[rank - 2], output[0]);
        let cols = self.average_matrix(self.shape()[rank - 1], output[1]);
        rows.matmul(self).matmul(&cols.t())
    }

    /// Maximum of the last two axes over windows as in [`Tensor::adaptive_avg_pool2d`].
    #[track_caller]
    #[must_use]
    pub fn adaptive_max_pool2d(&self, output: [usize; 2]) -> Tensor {
        let location = Location::caller();
        let Some(tile) = self.tiles(output) else {
            let why = "needs f32 with two to six non-empty last axes and a positive output";
            return Tensor::invalid("adaptive_max_pool2d", &[self], location, why);
        };
        if let Some(kernel) = tile {
            return self.max_pool2d(&PoolOptions::new(kernel));
        }
        let first = self.rank() - 2;
        let (rows, high) = self.window_indices(self.shape()[first], output[0]);
        let (cols, wide) = self.window_indices(self.shape()[first + 1], output[1]);
        let taken = self.index_select(first, &rows).index_select(first + 1, &cols);
        let mut dims = self.shape()[..first].to_vec();
        dims.extend([output[0], high, output[1], wide]);
        let mut axes: Vec<usize> = (0..first + 4).collect();
        axes.swap(first + 1, first + 2);
        taken.shaped(&dims, location).permute(&axes).max(&[-2, -1], false)
    }

    /// `None` if adaptive pooling is not possible, else the kernel where all windows are equal.
    fn tiles(&self, output: [usize; 2]) -> Option<Option<[usize; 2]>> {
        let fits = (2..=MAX_RANK - 2).contains(&self.rank()) && self.dtype() == DType::F32;
        if !fits || output.contains(&0) {
            return None;
        }
        let plane = &self.shape()[self.rank() - 2..];
        if plane.contains(&0) {
            return None;
        }
        let lead = self.numel() / (plane[0] * plane[1]).max(1);
        let total = lead.saturating_mul(output[0]).saturating_mul(output[1]);
        let matrix = (0..2).all(|a| plane[a].saturating_mul(output[a]) <= MAX_NUMEL);
        if total > MAX_NUMEL || !matrix {
            return None;
        }
        let even = (0..2).all(|a| plane[a].is_multiple_of(output[a]));
        Some(even.then(|| [plane[0] / output[0], plane[1] / output[1]]))
    }

    /// Row `i` averages window `i`.
    fn average_matrix(&self, extent: usize, count: usize) -> Tensor {
        let mut matrix = vec![0f32; count * extent];
        for i in 0..count {
            let window = adaptive_window(i, extent, count);
            let weight = 1.0 / window.len() as f32;
            matrix[i * extent..][window].fill(weight);
        }
        Tensor::from_slice(self.device(), &matrix, &[count, extent])
    }

    /// Indices of all windows one after another, each padded to the widest with its own last element, and
    /// that width. Repeating an element does not change a maximum, and a tie goes to the first.
    fn window_indices(&self, extent: usize, count: usize) -> (Tensor, usize) {
        let width = (0..count).map(|i| adaptive_window(i, extent, count).len()).max().unwrap_or(1);
        let indices: Vec<i32> = (0..count)
            .flat_map(|i| {
                let window = adaptive_window(i, extent, count);
                (0..width).map(move |k| (window.start + k).min(window.end - 1) as i32)
            })
            .collect();
        (Tensor::from_slice(self.device(), &indices, &[indices.len()]), width)
    }
}

fn adaptive_window(i: usize, extent: usize, count: usize) -> std::ops::Range<usize> {
    i * extent / count..((i + 1) * extent).div_ceil(count)
}
