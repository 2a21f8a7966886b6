//! Reductions and the running sum.

use std::panic::Location;

use versant_device::DeviceKind;
use versant_kernels::{DType, MAX_RANK, ReduceKind};

use crate::Tensor;
use crate::op::{Op, reduce_name};
use crate::run::Plans;

/// Elements of a line up to which a GPU takes its running sum in sequence. Longer lines are too few invocations for a card,
/// and lavapipe ends their loop (docs/drivers.md).
const LONG_LINE: usize = 1 << 12;

impl Tensor {
    /// The bit set of these axes (negative ones count from the end), or `None` if one does not exist.
    fn axis_set(&self, axes: &[isize]) -> Option<u8> {
        let rank = self.rank() as isize;
        let mut set = 0u8;
        for &axis in axes {
            let axis = if axis < 0 { axis + rank } else { axis };
            if !(0..rank).contains(&axis) {
                return None;
            }
            set |= 1 << axis;
        }
        Some(set)
    }

    /// Records a reduction; `axes` empty reduces nothing.
    #[track_caller]
    pub(crate) fn reduce(&self, kind: ReduceKind, axes: &[isize], keepdim: bool) -> Tensor {
        let location = Location::caller();
        let name = reduce_name(kind);
        let Some(set) = self.axis_set(axes) else {
            let why = format!("axes {axes:?} do not all exist");
            return Tensor::invalid(name, &[self], location, why);
        };
        if self.dtype() == DType::Bool {
            return Tensor::invalid(name, &[self], location, "not defined for bool; cast first");
        }
        let is_arg = matches!(kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
        if set == 0 && !is_arg {
            return self.clone();
        }
        let mut shape = self.dims();
        for (axis, dim) in shape.dims_mut().iter_mut().enumerate() {
            if set >> axis & 1 == 1 {
                *dim = 1;
            }
        }
        let dtype = if is_arg { DType::I32 } else { self.dtype() };
        let kept = Tensor::record(Op::Reduce(kind, set), &[self], shape, dtype, location);
        if keepdim {
            return kept;
        }
        let dims: Vec<usize> =
            (0..self.rank()).filter(|a| set >> a & 1 == 0).map(|a| self.shape()[a]).collect();
        kept.shaped(&dims, location)
    }

    /// Every axis.
    fn all_axes(&self) -> Vec<isize> {
        (0..self.rank() as isize).collect()
    }

    /// Sum over `axes` (negative ones count from the end); 0 over nothing.
    #[track_caller]
    #[must_use]
    pub fn sum(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(ReduceKind::Sum, axes, keepdim)
    }

    /// Product over `axes`; 1 over nothing.
    #[track_caller]
    #[must_use]
    pub fn prod(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(ReduceKind::Prod, axes, keepdim)
    }

    /// Maximum over `axes`; NaN wins; the gradient goes to the first maximum.
    #[track_caller]
    #[must_use]
    pub fn max(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(ReduceKind::Max, axes, keepdim)
    }

    /// Minimum over `axes`; NaN wins; the gradient goes to the first minimum.
    #[track_caller]
    #[must_use]
    pub fn min(&self, axes: &[isize], keepdim: bool) -> Tensor {
        self.reduce(ReduceKind::Min, axes, keepdim)
    }

    /// Mean over `axes`; NaN over nothing.
    #[track_caller]
    #[must_use]
    pub fn mean(&self, axes: &[isize], keepdim: bool) -> Tensor {
        if self.axis_set(axes).is_none() || self.dtype() != DType::F32 {
            let why = format!("needs f32 with the axes {axes:?}");
            return Tensor::invalid("mean", &[self], Location::caller(), why);
        }
        let sum = self.sum(axes, keepdim);
        let count = self.numel() as f32 / sum.numel().max(1) as f32;
        sum / count
    }

    /// Variance over `axes`, divided by the count less `correction` (1 for the unbiased estimate).
    #[track_caller]
    #[must_use]
    pub fn var(&self, axes: &[isize], keepdim: bool, correction: f32) -> Tensor {
        if self.axis_set(axes).is_none() || self.dtype() != DType::F32 {
            let why = format!("needs f32 with the axes {axes:?}");
            return Tensor::invalid("var", &[self], Location::caller(), why);
        }
        let centred = self - self.mean(axes, true);
        let sum = (&centred * &centred).sum(axes, keepdim);
        let count = self.numel() as f32 / sum.numel().max(1) as f32;
        sum / (count - correction)
    }

    /// Sum of all elements, rank 0.
    #[track_caller]
    #[must_use]
    pub fn sum_all(&self) -> Tensor {
        self.sum(&self.all_axes(), false)
    }

    /// Mean of all elements, rank 0.
    #[track_caller]
    #[must_use]
    pub fn mean_all(&self) -> Tensor {
        self.mean(&self.all_axes(), false)
    }

    /// Position of the first maximum along an axis, as I32; a NaN counts as the maximum.
    #[track_caller]
    #[must_use]
    pub fn argmax(&self, axis: isize, keepdim: bool) -> Tensor {
        self.reduce(ReduceKind::ArgMax, &[axis], keepdim)
    }

    /// Position of the first minimum along an axis, as I32; a NaN counts as the minimum.
    #[track_caller]
    #[must_use]
    pub fn argmin(&self, axis: isize, keepdim: bool) -> Tensor {
        self.reduce(ReduceKind::ArgMin, &[axis], keepdim)
    }

    /// Running sum along an axis: element `i` is the sum of elements `0..=i`.
    #[track_caller]
    #[must_use]
    pub fn cumsum(&self, axis: usize) -> Tensor {
        self.running_sum(axis, false, Location::caller())
    }

    pub(crate) fn running_sum(
        &self,
        axis: usize,
        reverse: bool,
        location: &'static Location<'static>,
    ) -> Tensor {
        if axis >= self.rank() || self.dtype() == DType::Bool {
            let why = "the axis must exist and the type be a number";
            return Tensor::invalid("cumsum", &[self], location, why);
        }
        let long = self.shape()[axis] > LONG_LINE && self.rank() < MAX_RANK;
        if long && self.device().info().kind != DeviceKind::Cpu {
            return self.running_sum_of_parts(axis, reverse, location);
        }
        let op = Op::CumSum { axis, reverse };
        Tensor::record(op, &[self], self.dims(), self.dtype(), location)
    }

    /// The running sum of a long line: of each of about √n parts, and of what the parts before it add up to.
    #[track_caller]
    fn running_sum_of_parts(
        &self,
        axis: usize,
        reverse: bool,
        location: &'static Location<'static>,
    ) -> Tensor {
        let n = self.shape()[axis];
        let part = 1 << (n.ilog2() / 2 + 1);
        let count = n.div_ceil(part);
        let padded = |t: &Tensor, amount: usize, front: bool| {
            let mut pads = vec![(0, 0); t.rank()];
            pads[axis] = if front { (amount, 0) } else { (0, amount) };
            t.pad(&pads, 0.0)
        };
        let whole = padded(self, count * part - n, reverse);
        let mut dims = self.shape().to_vec();
        dims.splice(axis..=axis, [count, part]);
        let sums = whole.shaped(&dims, location).running_sum(axis + 1, reverse, location);
        let totals = sums.narrow(axis + 1, if reverse { 0 } else { part - 1 }, 1);
        let others = padded(&totals.narrow(axis, usize::from(reverse), count - 1), 1, !reverse);
        let before = others.running_sum(axis, reverse, location);
        let joined = (sums + before).shaped(whole.shape(), location);
        joined.narrow(axis, if reverse { count * part - n } else { 0 }, n)
    }

    /// Conversion to another element type. Float to integer truncates and saturates (NaN gives 0); to
    /// bool tests for non-zero. Gradients flow between float types only.
    #[track_caller]
    #[must_use]
    pub fn cast(&self, dtype: DType) -> Tensor {
        let location = Location::caller();
        if dtype == self.dtype() {
            return self.clone();
        }
        if !dtype.is_supported() {
            let why = format!("{dtype} is not supported yet");
            return Tensor::invalid("cast", &[self], location, why);
        }
        Tensor::record(Op::Cast, &[self], self.dims(), dtype, location)
    }

    /// The same bits as another 32-bit type (not bool).
    #[track_caller]
    #[must_use]
    pub fn bitcast(&self, dtype: DType) -> Tensor {
        let location = Location::caller();
        let bad = |t: DType| t == DType::Bool || !t.is_supported();
        if bad(dtype) || bad(self.dtype()) {
            return Tensor::invalid("bitcast", &[self], location, "only between 32-bit numbers");
        }
        Tensor::record(Op::Bitcast, &[self], self.dims(), dtype, location)
    }

    /// The same value, through which no gradient flows.
    ///
    /// While somebody holds the result, it is computed together with what it depends on. So a state that goes from one training
    /// step to the next (truncated backpropagation through time) does not keep the steps before.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let dev = Device::cpu();
    /// let mut state = Tensor::zeros(&dev, &[2]);
    /// for _ in 0..3 {
    ///     let next = &state + 1.0;
    ///     state = (&next * 2.0).detach();
    ///     next.sum_all().item::<f32>()?;
    ///     assert!(state.is_ready());
    /// }
    /// assert_eq!(state.to_vec::<f32>()?, [14.0, 14.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn detach(&self) -> Tensor {
        Tensor::record(Op::Detach, &[self], self.dims(), self.dtype(), Location::caller()).alongside()
    }

    /// This value, computed together with what it depends on while somebody holds it, even where nothing that is asked for
    /// depends on it: what a step hands to the next one. [`Tensor::detach`] does the same.
    #[must_use]
    pub fn alongside(self) -> Tensor {
        if !self.is_ready() && self.error().is_none() {
            self.device().attachment::<Plans>().alongside(&self.node);
        }
        self
    }
}
