//! Batched matrix products and convolutions.

use std::panic::Location;

use versant_kernels::contract::ConvKind;
use versant_kernels::{DType, MAX_NUMEL, Shape};

use crate::Tensor;
use crate::op::{ConvAttrs, Op};
use crate::ops::operators::broadcast_shape;

/// Geometry of a 2-D convolution; the default is stride 1, no padding, no dilation, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions {
    /// Elements per output step, `[height, width]`.
    pub stride: [usize; 2],
    /// Zeros on either side.
    pub padding: [usize; 2],
    /// Elements between taps.
    pub dilation: [usize; 2],
    /// Channel groups: input and output channels are split into as many independent parts.
    pub groups: usize,
}

impl Default for ConvOptions {
    fn default() -> Self {
        ConvOptions { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 }
    }
}

impl ConvOptions {
    pub(crate) fn attrs(&self) -> ConvAttrs {
        let ConvOptions { stride, padding, dilation, groups } = *self;
        ConvAttrs { stride, padding, dilation, groups }
    }

    /// Output extent of one spatial axis, or `None` where the kernel does not fit, or positions do not fit 31
    /// bits.
    fn extent(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let padded = self.padding[axis].checked_mul(2)?.checked_add(input)?;
        let span = kernel.checked_sub(1)?.checked_mul(self.dilation[axis])?.checked_add(1)?;
        if padded > MAX_NUMEL {
            return None;
        }
        Some(padded.checked_sub(span)? / self.stride[axis] + 1)
    }

    fn problem(&self) -> Option<&'static str> {
        let positive = self.stride.iter().chain(&self.dilation).all(|&x| x > 0) && self.groups > 0;
        if !positive {
            return Some("stride, dilation and groups must be positive");
        }
        let numbers = self.stride.iter().chain(&self.dilation).chain(&self.padding);
        let fits = numbers.chain([&self.groups]).all(|&x| x <= MAX_NUMEL);
        (!fits).then_some("stride, dilation, padding and groups must be below 2^31")
    }
}

impl Tensor {
    /// Matrix product of the last two axes, `[.., m, k] × [.., k, n] → [.., m, n]`; leading axes broadcast.
    /// A vector on the left is a row, on the right a column, and its axis is dropped from the result.
    #[track_caller]
    #[must_use]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        let location = Location::caller();
        let fail = |why: &str| Tensor::invalid("matmul", &[self, other], location, why);
        if self.dtype() != DType::F32 || other.dtype() != DType::F32 {
            return fail("only defined for f32");
        }
        if self.rank() == 0 || other.rank() == 0 {
            return fail("needs at least one axis on either side");
        }
        if self.rank() == 2 && other.rank() == 2 && self.shape()[1] == other.shape()[0] {
            let shape = Shape::new(&[self.shape()[0], other.shape()[1]]).expect("rank 2 is a shape");
            return Tensor::record(Op::MatMul, &[self, other], shape, DType::F32, location);
        }
        if self.rank() > 2 && other.rank() == 2 && self.shape()[self.rank() - 1] == other.shape()[0] {
            // One product of all rows: the gradient of the shared matrix is then one product, too.
            let (k, n) = (other.shape()[0], other.shape()[1]);
            let mut dims = self.shape().to_vec();
            let rows = dims[..dims.len() - 1].iter().product();
            let product = self.shaped(&[rows, k], location).matmul(other);
            *dims.last_mut().expect("the rank is above 2") = n;
            return product.shaped(&dims, location);
        }
        let a = if self.rank() == 1 { self.unsqueeze(0) } else { self.clone() };
        let b = if other.rank() == 1 { other.unsqueeze(1) } else { other.clone() };
        let (ra, rb) = (a.rank(), b.rank());
        let (m, k, n) = (a.shape()[ra - 2], a.shape()[ra - 1], b.shape()[rb - 1]);
        if b.shape()[rb - 2] != k {
            return fail("inner extents differ");
        }
        let lead = |t: &Tensor| Shape::new(&t.shape()[..t.rank() - 2]).unwrap_or(Shape::SCALAR);
        let Some(batch) = broadcast_shape(&[&lead(&a), &lead(&b)]) else {
            return fail("leading axes do not broadcast together");
        };
        let with = |tail: [usize; 2]| [batch.dims(), &tail].concat();
        let (a, b) = (a.broadcast_to(&with([m, k])), b.broadcast_to(&with([k, n])));
        let shape = Shape::new(&with([m, n])).expect("ranks were within the limit");
        let product = Tensor::record(Op::MatMul, &[&a, &b], shape, DType::F32, location);
        let mut dims = shape.to_vec();
        if other.rank() == 1 {
            dims.pop();
        }
        if self.rank() == 1 {
            dims.remove(dims.len() - 1 - usize::from(other.rank() != 1));
        }
        product.shaped(&dims, location)
    }

    /// 2-D cross-correlation, as neural networks call convolution: `[N, C, H, W]` with weights
    /// `[O, C / groups, kh, kw]` gives `[N, O, H', W']`.
    #[track_caller]
    #[must_use]
    pub fn conv2d(&self, weight: &Tensor, options: &ConvOptions) -> Tensor {
        let location = Location::caller();
        let fail = |why: &str| Tensor::invalid("conv2d", &[self, weight], location, why);
        if let Some(error) = self.error().or(weight.error()) {
            return Tensor::failed(self.device(), error);
        }
        if self.rank() != 4 || weight.rank() != 4 {
            return fail("needs an input [N, C, H, W] and weights [O, C / groups, kh, kw]");
        }
        if self.dtype() != DType::F32 || weight.dtype() != DType::F32 {
            return fail("only defined for f32");
        }
        if let Some(why) = options.problem() {
            return fail(why);
        }
        let (x, w) = (self.shape(), weight.shape());
        if w[1].checked_mul(options.groups) != Some(x[1]) || w[0] % options.groups != 0 {
            return fail("channels do not match the weights and groups");
        }
        let (Some(h), Some(wd)) = (options.extent(0, x[2], w[2]), options.extent(1, x[3], w[3])) else {
            return fail("the kernel is larger than the padded input");
        };
        let shape = Shape::new(&[x[0], w[0], h, wd]).expect("rank 4 is a shape");
        let op = Op::Conv(ConvKind::Forward, Box::new(options.attrs()));
        Tensor::record(op, &[self, weight], shape, DType::F32, location)
    }

    /// 1-D cross-correlation: `[N, C, L]` with weights `[O, C / groups, k]`. Only the second entry of each
    /// option counts.
    #[track_caller]
    #[must_use]
    pub fn conv1d(&self, weight: &Tensor, options: &ConvOptions) -> Tensor {
        let location = Location::caller();
        if self.rank() != 3 || weight.rank() != 3 {
            let why = "needs an input [N, C, L] and weights [O, C / groups, k]";
            return Tensor::invalid("conv1d", &[self, weight], location, why);
        }
        let flat = ConvOptions {
            stride: [1, options.stride[1]],
            padding: [0, options.padding[1]],
            dilation: [1, options.dilation[1]],
            groups: options.groups,
        };
        let wide = self.unsqueeze(2).conv2d(&weight.unsqueeze(2), &flat);
        if wide.error().is_some() { wide } else { wide.squeeze(2) }
    }

    /// Transposed 2-D convolution, the gradient of [`Tensor::conv2d`] by its input (Zeiler et al., CVPR
    /// 2010): `[N, C, H, W]` with weights `[C, O / groups, kh, kw]`; `output_padding` rows and columns are
    /// added at the far side.
    #[track_caller]
    #[must_use]
    pub fn conv_transpose2d(
        &self,
        weight: &Tensor,
        options: &ConvOptions,
        output_padding: [usize; 2],
    ) -> Tensor {
        let location = Location::caller();
        let fail = |why: &str| Tensor::invalid("conv_transpose2d", &[self, weight], location, why);
        if self.rank() != 4 || weight.rank() != 4 {
            return fail("needs an input [N, C, H, W] and weights [C, O / groups, kh, kw]");
        }
        if self.dtype() != DType::F32 || weight.dtype() != DType::F32 {
            return fail("only defined for f32");
        }
        if let Some(why) = options.problem() {
            return fail(why);
        }
        let (x, w) = (self.shape(), weight.shape());
        if x[1] != w[0] || x[1] % options.groups != 0 {
            return fail("channels do not match the weights and groups");
        }
        let extent = |axis: usize| {
            let steps = x[2 + axis].checked_sub(1)?.checked_mul(options.stride[axis])?;
            let span = w[2 + axis].checked_sub(1)?.checked_mul(options.dilation[axis])?;
            let end = steps.checked_add(span)?.checked_add(output_padding[axis])?.checked_add(1)?;
            let padding = options.padding[axis].checked_mul(2)?;
            end.checked_sub(padding).filter(|_| end <= MAX_NUMEL)
        };
        let (Some(h), Some(wd)) = (extent(0), extent(1)) else {
            return fail("the output would have less than nothing, or more than 2^31 - 1 rows or columns");
        };
        if (0..2).any(|a| output_padding[a] >= options.stride[a].max(options.dilation[a])) {
            return fail("output padding must be below the stride or the dilation");
        }
        let shape = [x[0], w[1] * options.groups, h, wd];
        self.conv_input_grad(weight, options.attrs(), &shape, location)
    }

    /// The gradient of a convolution by its input of extents `shape`; `self` is the output's gradient.
    pub(crate) fn conv_input_grad(
        &self,
        weight: &Tensor,
        attrs: ConvAttrs,
        shape: &[usize],
        location: &'static Location<'static>,
    ) -> Tensor {
        let shape = Shape::new(shape).expect("rank 4 is a shape");
        let op = Op::Conv(ConvKind::InputGrad, Box::new(attrs));
        Tensor::record(op, &[self, weight], shape, DType::F32, location)
    }

    /// The gradient of a convolution of `self` by its weights of extents `shape`, from the output's
    /// gradient.
    pub(crate) fn conv_weight_grad(
        &self,
        grad: &Tensor,
        attrs: ConvAttrs,
        shape: &[usize],
        location: &'static Location<'static>,
    ) -> Tensor {
        let shape = Shape::new(shape).expect("rank 4 is a shape");
        let op = Op::Conv(ConvKind::WeightGrad, Box::new(attrs));
        Tensor::record(op, &[self, grad], shape, DType::F32, location)
    }
}
