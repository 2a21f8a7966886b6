//! Movement: views of a tensor, never a copy that a kernel could read through.

use std::panic::Location;

use versant_device::Device;
use versant_kernels::{MAX_NUMEL, MAX_RANK, Shape};

use crate::Tensor;
use crate::error::GraphError;
use crate::op::{Movement, Op};

impl Tensor {
    /// Records a movement of this tensor.
    pub(crate) fn moved(
        &self,
        movement: Movement,
        shape: Shape,
        location: &'static Location<'static>,
    ) -> Tensor {
        Tensor::record(Op::View(Box::new(movement)), &[self], shape, self.dtype(), location)
    }

    /// The same elements in row-major order under another shape; one extent may be -1 and is inferred.
    #[track_caller]
    #[must_use]
    pub fn reshape(&self, shape: &[isize]) -> Tensor {
        let location = Location::caller();
        let fail = |why: String| Tensor::invalid("reshape", &[self], location, why);
        let extents = shape.iter().filter(|&&d| d >= 0);
        let known = extents.fold(1usize, |n, &d| n.saturating_mul(d as usize));
        let unknown = shape.iter().filter(|&&d| d < 0).count();
        let fits = match unknown {
            0 => known == self.numel(),
            1 => shape.contains(&-1) && known != 0 && self.numel().is_multiple_of(known),
            _ => false,
        };
        if !fits || shape.len() > MAX_RANK {
            return fail(format!("{} elements do not make {shape:?}", self.numel()));
        }
        let rest = self.numel().checked_div(known).unwrap_or(0);
        let dims: Vec<usize> = shape.iter().map(|&d| if d < 0 { rest } else { d as usize }).collect();
        if dims == self.shape() {
            return self.clone();
        }
        match Shape::new(&dims) {
            Some(shape) => self.moved(Movement::Reshape, shape, location),
            None => fail("the rank is above 8".to_owned()),
        }
    }

    /// Reshape to known good extents.
    pub(crate) fn shaped(&self, dims: &[usize], location: &'static Location<'static>) -> Tensor {
        match Shape::new(dims).filter(|s| s.numel() == self.numel()) {
            Some(shape) if shape == self.dims() => self.clone(),
            Some(shape) => self.moved(Movement::Reshape, shape, location),
            None => Tensor::invalid("reshape", &[self], location, format!("cannot become {dims:?}")),
        }
    }

    /// Axis `i` of the result is axis `axes[i]` of this tensor.
    #[track_caller]
    #[must_use]
    pub fn permute(&self, axes: &[usize]) -> Tensor {
        let location = Location::caller();
        let mut seen = [false; MAX_RANK];
        for &axis in axes {
            if axis < self.rank() {
                seen[axis] = true;
            }
        }
        if axes.len() != self.rank() || seen[..self.rank()].contains(&false) {
            let why = format!("{axes:?} is not a permutation of the axes");
            return Tensor::invalid("permute", &[self], location, why);
        }
        let mut order = [0; MAX_RANK];
        let mut shape = self.dims();
        for (i, &axis) in axes.iter().enumerate() {
            order[i] = axis as u8;
            shape.dims_mut()[i] = self.shape()[axis];
        }
        self.moved(Movement::Permute(order), shape, location)
    }

    /// Swaps two axes.
    #[track_caller]
    #[must_use]
    pub fn transpose(&self, a: usize, b: usize) -> Tensor {
        let mut axes: Vec<usize> = (0..self.rank()).collect();
        if a >= self.rank() || b >= self.rank() {
            let why = format!("axes {a} and {b} do not both exist");
            return Tensor::invalid("transpose", &[self], Location::caller(), why);
        }
        axes.swap(a, b);
        self.permute(&axes)
    }

    /// Swaps the last two axes.
    #[track_caller]
    #[must_use]
    pub fn t(&self) -> Tensor {
        if self.rank() < 2 {
            return Tensor::invalid("t", &[self], Location::caller(), "needs at least two axes");
        }
        self.transpose(self.rank() - 2, self.rank() - 1)
    }

    /// Repeats size-1 and missing leading axes up to `shape`.
    #[track_caller]
    #[must_use]
    pub fn broadcast_to(&self, shape: &[usize]) -> Tensor {
        let location = Location::caller();
        let fits = shape.len() >= self.rank()
            && self.shape().iter().rev().zip(shape.iter().rev()).all(|(&a, &b)| a == b || a == 1);
        match Shape::new(shape) {
            Some(dims) if dims == self.dims() => self.clone(),
            Some(dims) if fits => self.moved(Movement::Broadcast, dims, location),
            _ => {
                let why = format!("does not broadcast to {shape:?}");
                Tensor::invalid("broadcast_to", &[self], location, why)
            }
        }
    }

    /// `len` elements of an axis from `start`.
    #[track_caller]
    #[must_use]
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Tensor {
        self.slice_step(axis, start, len, 1)
    }

    /// `len` elements of an axis from `start`, every `step`-th one.
    #[track_caller]
    #[must_use]
    pub fn slice_step(&self, axis: usize, start: usize, len: usize, step: usize) -> Tensor {
        let location = Location::caller();
        let last = len.checked_sub(1).map_or(Some(0), |n| n.checked_mul(step)?.checked_add(start));
        let inside = axis < self.rank()
            && step > 0
            && start <= self.shape()[axis]
            && (len == 0 || last.is_some_and(|l| l < self.shape()[axis]));
        if !inside {
            let why = format!("{len} elements from {start} by {step} are not all on axis {axis}");
            return Tensor::invalid("slice", &[self], location, why);
        }
        let mut starts = [0; MAX_RANK];
        let mut steps = [1; MAX_RANK];
        let mut shape = self.dims();
        // A single element has no distance to the next: any step will do, and a huge one would overflow.
        let step = if len > 1 { step } else { 1 };
        (starts[axis], steps[axis]) = (start as isize, step as isize);
        shape.dims_mut()[axis] = len;
        self.moved(Movement::Slice { start: starts, step: steps }, shape, location)
    }

    /// Reverses the order along each of these axes.
    #[track_caller]
    #[must_use]
    pub fn flip(&self, axes: &[usize]) -> Tensor {
        let location = Location::caller();
        if axes.iter().any(|&a| a >= self.rank()) {
            let why = format!("axes {axes:?} do not all exist");
            return Tensor::invalid("flip", &[self], location, why);
        }
        let mut starts = [0; MAX_RANK];
        let mut steps = [1; MAX_RANK];
        for &axis in axes {
            (starts[axis], steps[axis]) = (self.shape()[axis] as isize - 1, -1);
        }
        self.moved(Movement::Slice { start: starts, step: steps }, self.dims(), location)
    }

    /// Surrounds the tensor: `(before, after)` elements of `value` on each axis.
    #[track_caller]
    #[must_use]
    pub fn pad(&self, amounts: &[(usize, usize)], value: f32) -> Tensor {
        let location = Location::caller();
        let fail = |why: &str| Tensor::invalid("pad", &[self], location, why);
        if amounts.len() != self.rank() {
            return fail("needs one pair for each axis");
        }
        let mut shape = self.dims();
        for (dim, &(before, after)) in shape.dims_mut().iter_mut().zip(amounts) {
            match dim.checked_add(before).and_then(|d| d.checked_add(after)) {
                Some(sum) => *dim = sum,
                None => return fail("the padded extent overflows"),
            }
        }
        let mut before = [0; MAX_RANK];
        for (b, amount) in before.iter_mut().zip(amounts) {
            *b = amount.0;
        }
        let padded = self.moved(Movement::Pad(before), shape, location);
        if value == 0.0 {
            return padded;
        }
        // Where a mask of ones is padded with zeros, the element belongs to the border.
        let inside = Tensor::constant(self.device(), true).broadcast_to(self.shape());
        let inside = inside.moved(Movement::Pad(before), shape, location);
        inside.select(&padded, &Tensor::number(self, value))
    }

    /// Joins tensors along an axis; the other extents are equal.
    #[track_caller]
    #[must_use]
    pub fn cat(tensors: &[&Tensor], axis: usize) -> Tensor {
        let location = Location::caller();
        let Some(first) = tensors.first() else { return Tensor::nothing("cat", location) };
        let mut shape = first.dims();
        let fail = |why: &str| Tensor::invalid("cat", tensors, location, why);
        if axis >= first.rank() {
            return fail("the axis does not exist");
        }
        let mut total = 0usize;
        for t in tensors {
            let mut others = t.dims();
            if t.rank() != first.rank() || t.dtype() != first.dtype() {
                return fail("ranks and types must be equal");
            }
            total = total.saturating_add(t.shape()[axis]);
            others.dims_mut()[axis] = shape[axis];
            if others != shape {
                return fail("extents differ on another axis");
            }
        }
        if tensors.len() == 1 {
            return (*first).clone();
        }
        shape.dims_mut()[axis] = total;
        Tensor::record(Op::Concat(axis), tensors, shape, first.dtype(), location)
    }

    /// Joins tensors of one shape along a new axis.
    #[track_caller]
    #[must_use]
    pub fn stack(tensors: &[&Tensor], axis: usize) -> Tensor {
        let location = Location::caller();
        let Some(first) = tensors.first() else {
            return Tensor::nothing("stack", location);
        };
        let same = |t: &&Tensor| t.shape() == first.shape() && t.dtype() == first.dtype();
        if !tensors.iter().all(same) || axis > first.rank() || first.rank() == MAX_RANK {
            let why = "shapes and types must be equal, and the new axis possible";
            return Tensor::invalid("stack", tensors, location, why);
        }
        let lifted: Vec<Tensor> = tensors.iter().map(|t| t.unsqueeze(axis)).collect();
        Tensor::cat(&lifted.iter().collect::<Vec<_>>(), axis)
    }

    /// The error of an empty list. It stands on the CPU, as no tensor tells the device; wherever it is used, the
    /// error is what comes out.
    fn nothing(op: &'static str, location: &'static Location<'static>) -> Tensor {
        let why = "needs at least one tensor".to_owned();
        let operands = Vec::new();
        Tensor::failed(&Device::cpu(), GraphError::Invalid { op, why, operands, location })
    }

    /// Removes an axis of extent 1.
    #[track_caller]
    #[must_use]
    pub fn squeeze(&self, axis: usize) -> Tensor {
        let location = Location::caller();
        if axis >= self.rank() || self.shape()[axis] != 1 {
            let why = format!("axis {axis} has not extent 1");
            return Tensor::invalid("squeeze", &[self], location, why);
        }
        let mut dims = self.shape().to_vec();
        dims.remove(axis);
        self.shaped(&dims, location)
    }

    /// Inserts an axis of extent 1.
    #[track_caller]
    #[must_use]
    pub fn unsqueeze(&self, axis: usize) -> Tensor {
        let location = Location::caller();
        if axis > self.rank() || self.rank() == MAX_RANK {
            let why = format!("no axis can stand at {axis}");
            return Tensor::invalid("unsqueeze", &[self], location, why);
        }
        let mut dims = self.shape().to_vec();
        dims.insert(axis, 1);
        self.shaped(&dims, location)
    }

    /// Merges all axes from `axis` on into one.
    #[track_caller]
    #[must_use]
    pub fn flatten(&self, axis: usize) -> Tensor {
        let location = Location::caller();
        if axis > self.rank() || (axis == self.rank() && axis > 0) {
            let why = format!("axis {axis} does not exist");
            return Tensor::invalid("flatten", &[self], location, why);
        }
        let mut dims = self.shape()[..axis].to_vec();
        dims.push(self.shape()[axis..].iter().product());
        self.shaped(&dims, location)
    }

    /// Sliding windows over `axis`: the axis becomes the window positions, and a last axis of `size` taps
    /// is added; element `(o, k)` is `o * stride + k * dilation`. Only whole windows count.
    #[track_caller]
    #[must_use]
    pub fn window(&self, axis: usize, size: usize, stride: usize, dilation: usize) -> Tensor {
        let location = Location::caller();
        let good = axis < self.rank() && size > 0 && stride > 0 && dilation > 0;
        let span = (size.max(1) - 1).checked_mul(dilation).and_then(|s| s.checked_add(1));
        let (true, Some(span), true) = (good, span, self.rank() < MAX_RANK) else {
            let why = "the axis must exist; size, stride and dilation be positive; rank below 8";
            return Tensor::invalid("window", &[self], location, why);
        };
        let count = self.shape()[axis].checked_sub(span).map_or(0, |rest| rest / stride + 1);
        // Distances that nothing is apart by must not overflow.
        let stride = if count > 1 { stride } else { 1 };
        let dilation = if size > 1 { dilation } else { 1 };
        if size == stride && dilation == 1 {
            return self.tiled_window(axis, size, count);
        }
        if count == 0 && size > MAX_NUMEL {
            return Tensor::invalid("window", &[self], location, "the window has too many taps");
        }
        let mut dims = self.shape().to_vec();
        dims[axis] = count;
        dims.push(size);
        let shape = Shape::new(&dims).expect("the rank was checked");
        self.moved(Movement::Window { axis, stride, dilation }, shape, location)
    }

    /// Windows that touch but do not overlap are a split of the axis: its gradient is a movement again.
    #[track_caller]
    fn tiled_window(&self, axis: usize, size: usize, count: usize) -> Tensor {
        let whole = self.narrow(axis, 0, count * size);
        let mut dims = whole.shape().to_vec();
        dims[axis] = count;
        dims.insert(axis + 1, size);
        let mut axes: Vec<usize> = (0..dims.len()).filter(|&a| a != axis + 1).collect();
        axes.push(axis + 1);
        whole.shaped(&dims, Location::caller()).permute(&axes)
    }
}
