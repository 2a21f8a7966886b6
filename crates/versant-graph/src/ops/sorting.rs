//! Sorting, selecting and counting.
//!
//! One op is new, the stable order of rows ([`Op::ArgSort`]); values are gathered by it, so they differentiate exactly.
//! Whatever has as many results as the data say ([`Tensor::nonzero`], [`Tensor::masked_select`]) waits for the device and
//! says so with a `Result`.

use std::panic::Location;

use versant_device::DeviceKind;
use versant_kernels::{DType, RandomKey, sort_passes};

use crate::Tensor;
use crate::error::{GraphError, Result};
use crate::op::Op;
use crate::plan::target_of;

/// Rows from this length on are put back by the inverse of their order rather than by a scatter, which reads every index
/// for every element on a GPU.
const SCATTERED: usize = 1024;

/// Comparisons up to which a GPU counts by comparing every element with every bin.
const COMPARED: usize = 1 << 28;

impl Tensor {
    /// The axis, counted from the front, and its extent.
    #[track_caller]
    fn line_of(&self, name: &'static str, axis: isize) -> std::result::Result<(usize, usize), Tensor> {
        let rank = self.rank() as isize;
        if !(-rank..rank).contains(&axis) || self.error().is_some() {
            let why = format!("there is no axis {axis}");
            return Err(Tensor::invalid(name, &[self], Location::caller(), why));
        }
        let axis = axis.rem_euclid(rank) as usize;
        Ok((axis, self.shape()[axis]))
    }

    /// The positions of the first `keep` elements along an axis, in order.
    #[track_caller]
    fn ordered(&self, axis: usize, keep: usize, descending: bool) -> Tensor {
        let location = Location::caller();
        let last = self.rank() - 1;
        let keys = if self.dtype() == DType::Bool { self.cast(DType::I32) } else { self.clone() };
        let keys = if axis == last { keys } else { keys.transpose(axis, last) };
        let mut dims = keys.dims();
        let n = dims[last];
        dims.dims_mut()[last] = keep;
        if dims.numel() == 0 {
            let none = Tensor::constant(self.device(), 0i32).broadcast_to(dims.dims());
            return if axis == last { none } else { none.transpose(axis, last) };
        }
        let (mut count, mut order) = (n, None::<Tensor>);
        for pass in sort_passes(n, keep, target_of(self.device())) {
            count = pass.left(count);
            dims.dims_mut()[last] = count;
            let inputs: Vec<&Tensor> = [&keys].into_iter().chain(&order).collect();
            let op = Op::ArgSort { pass, descending };
            order = Some(Tensor::record(op, &inputs, dims, DType::I32, location));
        }
        let order = order.expect("a sort has a pass");
        let order = if count > keep { order.narrow(last, 0, keep) } else { order };
        if axis == last { order } else { order.transpose(axis, last) }
    }

    /// The elements at these positions of an axis, which are all different.
    #[track_caller]
    fn at_distinct(&self, axis: usize, order: &Tensor) -> Tensor {
        let taken = self.gather(axis, order);
        let n = self.shape()[axis];
        let few = n < SCATTERED || order.shape()[axis] < n;
        if few || !self.dtype().is_float() || self.device().info().kind == DeviceKind::Cpu {
            return taken;
        }
        taken.with_vjp_of("sort", &[self, order], move |g, inputs| {
            let inverse = inputs[1].ordered(axis, n, false);
            vec![Some(g.at_distinct(axis, &inverse)), None]
        })
    }

    /// The positions, as i32, that put the elements along an axis (negative ones count from the end) in order, the least
    /// first or the greatest. Equal elements keep their order either way; a NaN is greater than every number; the two
    /// zeros are equal.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[3.0f32, 1.0, 2.0, 1.0], &[4]);
    /// assert_eq!(x.argsort(0, false).to_vec::<i32>()?, [1, 3, 2, 0]);
    /// assert_eq!(x.argsort(0, true).to_vec::<i32>()?, [0, 2, 1, 3]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in the tensor: an axis that does not exist.
    #[track_caller]
    #[must_use]
    pub fn argsort(&self, axis: isize, descending: bool) -> Tensor {
        match self.line_of("argsort", axis) {
            Ok((axis, n)) => self.ordered(axis, n, descending),
            Err(failed) => failed,
        }
    }

    /// The elements along an axis in order, and the positions that they come from, as [`Tensor::argsort`] gives them.
    /// The gradient goes back to where each element came from.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[3.0f32, 1.0, f32::NAN, 2.0], &[2, 2]);
    /// let (values, order) = x.sort(-1, false);
    /// assert_eq!(values.to_vec::<f32>()?[..3], [1.0, 3.0, 2.0]);
    /// assert_eq!(order.to_vec::<i32>()?, [1, 0, 1, 0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in both tensors: an axis that does not exist.
    #[track_caller]
    #[must_use]
    pub fn sort(&self, axis: isize, descending: bool) -> (Tensor, Tensor) {
        match self.line_of("sort", axis) {
            Ok((axis, n)) => {
                let order = self.ordered(axis, n, descending);
                (self.at_distinct(axis, &order), order)
            }
            Err(failed) => (failed.clone(), failed),
        }
    }

    /// The `k` greatest elements along an axis (or the least), in order, and their positions: the beginning of
    /// [`Tensor::sort`], for which a small `k` leaves most of the work out.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[3.0f32, 1.0, 4.0, 1.0, 5.0], &[5]);
    /// let (values, at) = x.topk(2, -1, true);
    /// assert_eq!(values.to_vec::<f32>()?, [5.0, 4.0]);
    /// assert_eq!(at.to_vec::<i32>()?, [4, 2]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in both tensors: an axis that does not exist, or fewer than `k` elements along it.
    #[track_caller]
    #[must_use]
    pub fn topk(&self, k: usize, axis: isize, largest: bool) -> (Tensor, Tensor) {
        match self.line_of("topk", axis) {
            Ok((axis, n)) if k <= n => {
                let order = self.ordered(axis, k, largest);
                (self.at_distinct(axis, &order), order)
            }
            Ok((axis, n)) => {
                let why = format!("{k} of the {n} elements along axis {axis}");
                let failed = Tensor::invalid("topk", &[self], Location::caller(), why);
                (failed.clone(), failed)
            }
            Err(failed) => (failed.clone(), failed),
        }
    }

    /// The `k`-th least element along an axis, counted from 1 as in PyTorch, and its position.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[3.0f32, 1.0, 4.0], &[3]);
    /// let (value, at) = x.kthvalue(2, 0, false);
    /// assert_eq!((value.item::<f32>()?, at.item::<i32>()?), (3.0, 0));
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in both tensors: an axis that does not exist, or no `k`-th element along it.
    #[track_caller]
    #[must_use]
    pub fn kthvalue(&self, k: usize, axis: isize, keepdim: bool) -> (Tensor, Tensor) {
        match self.line_of("kthvalue", axis) {
            Ok((axis, n)) if (1..=n).contains(&k) => {
                let at = self.ordered(axis, k, false).narrow(axis, k - 1, 1);
                let value = self.gather(axis, &at);
                if keepdim { (value, at) } else { (value.squeeze(axis), at.squeeze(axis)) }
            }
            Ok((axis, n)) => {
                let why = format!("number {k} of the {n} elements along axis {axis}");
                let failed = Tensor::invalid("kthvalue", &[self], Location::caller(), why);
                (failed.clone(), failed)
            }
            Err(failed) => (failed.clone(), failed),
        }
    }

    /// The element in the middle along an axis, the lower one of two, as PyTorch has it; NaN if there is one.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[4.0f32, 1.0, 3.0, 2.0], &[4]);
    /// assert_eq!(x.median(0, false).item::<f32>()?, 2.0);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in the tensor: an axis that does not exist or has no elements, and bool.
    #[track_caller]
    #[must_use]
    pub fn median(&self, axis: isize, keepdim: bool) -> Tensor {
        let any = self.dtype() != DType::Bool;
        self.between("median", axis, keepdim, any, |n| ((n - 1) / 2, 0.0))
    }

    /// The number below which the share `q` of the elements along an axis lies, with the line between neighbours where it
    /// lies between elements (PyTorch's and NumPy's default); NaN if there is one.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[4.0f32, 1.0, 3.0, 2.0], &[4]);
    /// assert_eq!(x.quantile(0.5, 0, false).item::<f32>()?, 2.5);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in the tensor: an axis that does not exist or has no elements, another type than f32, and a share outside
    /// `0..=1`.
    #[track_caller]
    #[must_use]
    pub fn quantile(&self, q: f32, axis: isize, keepdim: bool) -> Tensor {
        let fits = self.dtype() == DType::F32 && (0.0..=1.0).contains(&q);
        self.between("quantile", axis, keepdim, fits, |n| {
            let at = f64::from(q) * (n - 1) as f64;
            (at as usize, at.fract() as f32)
        })
    }

    /// Of the sorted elements along an axis the one at a place, and so much of the way to the next.
    #[track_caller]
    fn between(
        &self,
        name: &'static str,
        axis: isize,
        keepdim: bool,
        fits: bool,
        place: impl Fn(usize) -> (usize, f32),
    ) -> Tensor {
        let (axis, n) = match self.line_of(name, axis) {
            Ok((axis, n)) if n > 0 && fits => (axis, n),
            Ok(_) => {
                let why =
                    "the axis must have elements, of a type that it is defined for; a share is from 0 to 1";
                return Tensor::invalid(name, &[self], Location::caller(), why);
            }
            Err(failed) => return failed,
        };
        let (at, rest) = place(n);
        let sorted = self.at_distinct(axis, &self.ordered(axis, n, false));
        let mut value = sorted.narrow(axis, at, 1);
        if rest > 0.0 {
            let next = sorted.narrow(axis, at + 1, 1);
            value = &value + (next - &value) * rest;
        }
        if self.dtype().is_float() {
            // NaN is last.
            let last = sorted.narrow(axis, n - 1, 1);
            value = last.isnan().select(&last, &value);
        }
        if keepdim { value } else { value.squeeze(axis) }
    }

    /// For every value how many elements of this tensor, whose last axis is in ascending order, are below it (or, `right`,
    /// not above it): where it would be put to keep the order. `self` is `[n]` for all values, or has their leading axes.
    ///
    /// All elements are compared, in one kernel and without memory: right for boundaries of some hundred bins. NaN is the
    /// greatest.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let dev = Device::cpu();
    /// let bounds = Tensor::from_slice(&dev, &[1.0f32, 2.0, 2.0, 3.0], &[4]);
    /// let values = Tensor::from_slice(&dev, &[0.5f32, 2.0, 9.0], &[3]);
    /// assert_eq!(bounds.searchsorted(&values, false).to_vec::<i32>()?, [0, 1, 4]);
    /// assert_eq!(bounds.searchsorted(&values, true).to_vec::<i32>()?, [0, 3, 4]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in the tensor: types that differ or are bool, leading axes that differ, a rank above 7.
    #[doc(alias = "bucketize")]
    #[track_caller]
    #[must_use]
    pub fn searchsorted(&self, values: &Tensor, right: bool) -> Tensor {
        let (own, rank) = (self.rank(), values.rank());
        let same =
            own == 1 || own == rank && rank > 0 && self.shape()[..own - 1] == values.shape()[..rank - 1];
        if !same
            || rank >= versant_kernels::MAX_RANK
            || self.dtype() != values.dtype()
            || self.dtype() == DType::Bool
        {
            let why = "numbers of one type, and one list for all or for each row of values";
            return Tensor::invalid("searchsorted", &[self, values], Location::caller(), why);
        }
        let values = values.unsqueeze(rank);
        let sorted = if own == 1 { self.clone() } else { self.unsqueeze(own - 1) };
        let mut below = if right { sorted.le(&values) } else { sorted.lt(&values) };
        if self.dtype().is_float() {
            let beyond = values.isnan();
            below = below.or(&if right { beyond } else { beyond.and(&sorted.isnan().logical_not()) });
        }
        below.cast(DType::I32).sum(&[-1], false)
    }

    /// The positions of the elements that are not zero, in row-major order: i32 `[count, rank]`. PyTorch calls it
    /// `argwhere`, too.
    ///
    /// How many there are decides the shape, so this **waits for the device**: which elements are zero is read back (4
    /// bytes an element), and the positions are uploaded. Inside of a step that should not wait, select with a mask
    /// ([`Tensor::select`]) or take a number that is known ([`Tensor::topk`]).
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[0.0f32, 7.0, 8.0, 0.0], &[2, 2]);
    /// assert_eq!(x.nonzero()?.to_vec::<i32>()?, [0, 1, 1, 0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// As [`crate::eval`].
    #[doc(alias = "argwhere")]
    #[track_caller]
    pub fn nonzero(&self) -> Result<Tensor> {
        let hits = self.hits()?;
        let strides: Vec<usize> = self.dims().strides()[..self.rank()].iter().map(|&s| s as usize).collect();
        let coordinate = |at: usize| (0..self.rank()).map(move |axis| (at, axis));
        let positions: Vec<i32> = hits
            .iter()
            .flat_map(|&at| coordinate(at))
            .map(|(at, axis)| (at / strides[axis] % self.shape()[axis]) as i32)
            .collect();
        done(Tensor::from_slice(self.device(), &positions, &[hits.len(), self.rank()]))
    }

    /// The elements where a bool mask, which broadcasts to this shape, is true, in row-major order: `[count]`. The
    /// gradient goes back to them.
    ///
    /// How many there are decides the shape, so this **waits for the device** like [`Tensor::nonzero`]; only the mask is
    /// read back, the elements stay where they are.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[1.0f32, -2.0, 3.0], &[3]);
    /// let positive = x.masked_select(&x.gt(&Tensor::constant(x.device(), 0.0f32)))?;
    /// assert_eq!(positive.to_vec::<f32>()?, [1.0, 3.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// A mask of another type or of a shape that does not broadcast; as [`crate::eval`].
    #[track_caller]
    pub fn masked_select(&self, mask: &Tensor) -> Result<Tensor> {
        let location = Location::caller();
        if mask.dtype() != DType::Bool || mask.device() != self.device() {
            let why = "the mask must be bool, on the same device";
            return done(Tensor::invalid("masked_select", &[self, mask], location, why));
        }
        let hits = mask.broadcast_to(self.shape()).hits()?;
        let at: Vec<i32> = hits.into_iter().map(|at| at as i32).collect();
        let at = Tensor::from_slice(self.device(), &at, &[at.len()]);
        done(self.shaped(&[self.numel()], location).index_select(0, &at))
    }

    /// The row-major positions of what is not zero, on the host.
    #[track_caller]
    fn hits(&self) -> Result<Vec<usize>> {
        let zero = Tensor::number(self, 0.0);
        let mask = if self.dtype() == DType::Bool { self.clone() } else { self.ne(&zero) };
        let mask = mask.to_vec::<bool>()?;
        Ok(mask.iter().enumerate().filter(|(_, hit)| **hit).map(|(at, _)| at).collect())
    }

    /// Draws `samples` classes with chances in proportion to these weights `[.., classes]`: i32 `[.., samples]`, on the
    /// device. Without replacement no class is drawn twice. Equal on every device but for rounding in its logarithm.
    ///
    /// Each class waits an exponential time of its weight, and the first ones win (Efraimidis and Spirakis, "Weighted random
    /// sampling with a reservoir", 2006; the same as the greatest of the log-weights with Gumbel noise). Weights need not
    /// add up to 1, but must be finite, at most 1e28 and not negative; a class of weight 0 is only drawn when no other is left.
    ///
    /// ```
    /// use versant_graph::{Device, RandomKey, Tensor};
    /// let weights = Tensor::from_slice(&Device::cpu(), &[0.0f32, 1.0, 3.0], &[3]);
    /// let mut two = weights.multinomial(2, false, RandomKey::new(7)).to_vec::<i32>()?;
    /// two.sort();
    /// assert_eq!(two, [1, 2]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in the tensor: another type than f32, no classes, or without replacement fewer of them than samples.
    #[track_caller]
    #[must_use]
    pub fn multinomial(&self, samples: usize, replacement: bool, key: RandomKey) -> Tensor {
        let classes = self.shape().last().copied().unwrap_or(0);
        let many = replacement && self.rank() < versant_kernels::MAX_RANK;
        if self.dtype() != DType::F32 || classes == 0 || !many && (replacement || samples > classes) {
            let why = format!("{samples} samples need f32 weights of as many classes, or replacement");
            return Tensor::invalid("multinomial", &[self], Location::caller(), why);
        }
        let last = self.rank() - 1;
        let mut dims = self.shape().to_vec();
        if replacement {
            dims.insert(last, samples);
        }
        // All 32 bits, as a race is decided by its smallest times.
        let uniform = Tensor::random_words(self.device(), &dims, key).cast(DType::F32);
        let uniform = (uniform + 0.5) * (1.0 / 4_294_967_296.0);
        let time = -(-uniform).log1p();
        if replacement {
            return (self.unsqueeze(last) / time).argmax(-1, false);
        }
        (self / time).ordered(last, samples, true)
    }

    /// How often each of `0..bins` occurs among these i32 or u32, as i32 `[bins]`, or the sum of the weights, of the same
    /// shape, that stand where it occurs. Numbers outside are not counted.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[1i32, 3, 1, 9], &[4]);
    /// assert_eq!(x.bincount(4, None).to_vec::<i32>()?, [0, 2, 0, 1]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in the tensor: another type than i32 or u32, weights of another shape or of type bool.
    #[track_caller]
    #[must_use]
    pub fn bincount(&self, bins: usize, weights: Option<&Tensor>) -> Tensor {
        let location = Location::caller();
        let index = matches!(self.dtype(), DType::I32 | DType::U32);
        let fits = |w: &Tensor| w.shape() == self.shape() && w.dtype() != DType::Bool;
        if !index || !weights.is_none_or(fits) {
            let operands: Vec<&Tensor> = [self].into_iter().chain(weights).collect();
            let why = "needs i32 or u32, and numbers of the same shape as weights";
            return Tensor::invalid("bincount", &operands, location, why);
        }
        let count = [self.numel()];
        let one = || Tensor::constant(self.device(), 1i32).broadcast_to(&count);
        let source = weights.map_or_else(one, |w| w.shaped(&count, location));
        let index = self.shaped(&count, location);
        let work = bins.saturating_mul(self.numel());
        if self.device().info().kind == DeviceKind::Cpu || work > COMPARED {
            return Tensor::scattered(0, &index, &source, bins, location);
        }
        // A GPU's scatter would walk all elements in sequence, once a bin; a reduction shares them out.
        let places = Tensor::arange(self.device(), bins, self.dtype()).unsqueeze(1);
        let zero = Tensor::number(&source, 0.0);
        places.eq(&index).select(&source, &zero).sum(&[-1], false)
    }

    /// How many elements lie in each of `bins` equal parts of `low..=high`, as i32 `[bins]`: a part has its lower end, the
    /// last one both. Elements outside and NaN are not counted. PyTorch calls it `histc`.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[0.0f32, 0.4, 0.5, 1.0, 2.0, f32::NAN], &[6]);
    /// assert_eq!(x.histogram(2, 0.0, 1.0).to_vec::<i32>()?, [2, 2]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    ///
    /// # Errors
    /// Kept in the tensor: another type than f32, ends that are not finite and in order.
    #[doc(alias = "histc")]
    #[track_caller]
    #[must_use]
    pub fn histogram(&self, bins: usize, low: f32, high: f32) -> Tensor {
        let width = high - low;
        if self.dtype() != DType::F32 || !(width > 0.0 && width.is_finite()) {
            let why = format!("needs f32 and an interval, not from {low} to {high}");
            return Tensor::invalid("histogram", &[self], Location::caller(), why);
        }
        let number = |x: f32| Tensor::number(self, x);
        let inside = self.ge(&number(low)).and(&self.le(&number(high)));
        let place = ((self - low) * (bins as f32 / width)).floor();
        // The upper end, and what rounding lifts to it.
        let place = place.minimum(&number(bins.max(1) as f32 - 1.0));
        inside.select(&place, &number(-1.0)).cast(DType::I32).bincount(bins, None)
    }
}

/// A tensor whose error, if it has one, is due now.
fn done(tensor: Tensor) -> Result<Tensor> {
    match tensor.error() {
        Some(error) => Err::<Tensor, GraphError>(error),
        None => Ok(tensor),
    }
}
