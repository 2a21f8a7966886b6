//! Gathering by index tensors and its adjoint.

use std::panic::Location;

use versant_device::AdapterClass;
use versant_kernels::{DType, Shape};

use crate::Tensor;
use crate::op::Op;

/// Indices that a kernel on a software adapter goes through in sequence.
const LONG_LIST: usize = 60_000;

impl Tensor {
    fn is_index(&self) -> bool {
        matches!(self.dtype(), DType::I32 | DType::U32)
    }

    /// `out[.., i, ..] = self[.., index[.., i, ..], ..]` along `axis` (take-along-axis): the other extents
    /// of `index` are this tensor's. Indices are clamped to the axis.
    #[track_caller]
    #[must_use]
    pub fn gather(&self, axis: usize, index: &Tensor) -> Tensor {
        let location = Location::caller();
        let fail = |why: &str| Tensor::invalid("gather", &[self, index], location, why);
        if axis >= self.rank() || index.rank() != self.rank() {
            return fail("the axis must exist and the ranks be equal");
        }
        if !index.is_index() {
            return fail("indices must be i32 or u32");
        }
        let same = (0..self.rank()).all(|a| a == axis || self.shape()[a] == index.shape()[a]);
        if !same {
            return fail("extents differ on another axis");
        }
        if self.shape()[axis] == 0 && index.numel() > 0 {
            return fail("nothing to take from an empty axis");
        }
        Tensor::record(Op::Gather(axis), &[self, index], index.dims(), self.dtype(), location)
    }

    /// `out[.., i, ..] = self[.., index[i], ..]` along `axis`, with one-dimensional indices (clamped to the
    /// axis). With `axis` 0 this is an embedding look-up.
    #[track_caller]
    #[must_use]
    pub fn index_select(&self, axis: usize, index: &Tensor) -> Tensor {
        let location = Location::caller();
        let fail = |why: &str| Tensor::invalid("index_select", &[self, index], location, why);
        if axis >= self.rank() || index.rank() != 1 || !index.is_index() {
            return fail("the axis must exist and the indices be one-dimensional i32 or u32");
        }
        let mut shape = self.dims();
        shape.dims_mut()[axis] = index.numel();
        let mut along = Shape::new(&vec![1; self.rank()]).expect("the rank is a tensor's");
        along.dims_mut()[axis] = index.numel();
        if self.shape()[axis] == 0 && index.numel() > 0 {
            return fail("nothing to take from an empty axis");
        }
        let index = index.shaped(&along, location);
        Tensor::record(Op::Gather(axis), &[self, &index], shape, self.dtype(), location)
    }

    /// `self` plus, for every element of `source`, that element at `index` along `axis`. The indices have
    /// the source's shape, or are one-dimensional; those outside the axis are ignored. Summed in order of the
    /// source, so the result is the same every time.
    #[track_caller]
    #[must_use]
    pub fn scatter_add(&self, axis: usize, index: &Tensor, source: &Tensor) -> Tensor {
        let location = Location::caller();
        let operands = [self, index, source];
        let fail = |why: &str| Tensor::invalid("scatter_add", &operands, location, why);
        if axis >= self.rank() || source.rank() != self.rank() || source.dtype() != self.dtype() {
            return fail("the axis must exist; ranks and types of target and source be equal");
        }
        if !index.is_index() || self.dtype() == DType::Bool {
            return fail("indices must be i32 or u32, and the elements numbers");
        }
        let lined = index.rank() == 1 && index.numel() == source.shape()[axis];
        let same = (0..self.rank()).all(|a| a == axis || self.shape()[a] == source.shape()[a]);
        if !same || !(lined || index.shape() == source.shape()) {
            return fail("extents do not match");
        }
        Tensor::scattered_into(self, axis, index, source, self.dims(), location)
    }

    /// The scattered sum over zeros.
    pub(crate) fn scattered(
        axis: usize,
        index: &Tensor,
        source: &Tensor,
        extent: usize,
        location: &'static Location<'static>,
    ) -> Tensor {
        let mut shape = source.dims();
        shape.dims_mut()[axis] = extent;
        let zero = Tensor::number(source, 0.0);
        Tensor::scattered_into(&zero, axis, index, source, shape, location)
    }

    /// The scattered sum over a base of this shape, or of a number that stands for it. A kernel goes through all indices
    /// in sequence, and software adapters end long loops (docs/drivers.md): there it takes several, one after the other.
    #[track_caller]
    fn scattered_into(
        base: &Tensor,
        axis: usize,
        index: &Tensor,
        source: &Tensor,
        shape: Shape,
        location: &'static Location<'static>,
    ) -> Tensor {
        let count = source.shape().get(axis).copied().unwrap_or(0);
        let software = base.device().info().class == AdapterClass::Software;
        let most = if software { LONG_LIST } else { usize::MAX };
        if count <= most || source.error().is_some() {
            let op = Op::ScatterAdd(axis);
            return Tensor::record(op, &[base, index, source], shape, source.dtype(), location);
        }
        (0..count).step_by(most).fold(base.clone(), |sum, start| {
            let len = most.min(count - start);
            let along = if index.rank() == 1 { 0 } else { axis };
            let (index, source) = (index.narrow(along, start, len), source.narrow(axis, start, len));
            Tensor::record(Op::ScatterAdd(axis), &[&sum, &index, &source], shape, source.dtype(), location)
        })
    }

    /// A new last axis of `classes`: true where it equals the index.
    #[track_caller]
    #[must_use]
    pub fn one_hot(&self, classes: usize) -> Tensor {
        let location = Location::caller();
        if !self.is_index() || self.rank() == versant_kernels::MAX_RANK {
            let why = "indices must be i32 or u32 of rank below 8";
            return Tensor::invalid("one_hot", &[self], location, why);
        }
        self.unsqueeze(self.rank()).eq(&Tensor::arange(self.device(), classes, self.dtype()))
    }
}
