//! Shapes: up to eight dimensions held inline, so that recording a tensor operation allocates nothing for them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// The largest rank a tensor may have.
pub const MAX_RANK: usize = 8;

/// The most elements a tensor may have: kernels count them in 32 bits with a sign.
pub const MAX_NUMEL: usize = i32::MAX as usize;

/// The extents of a tensor, outermost first; dereferences to a slice.
#[derive(Clone, Copy)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape of a scalar: rank 0, one element.
    pub const SCALAR: Shape = Shape { dims: [1; MAX_RANK], rank: 0 };

    /// A shape with these extents, or `None` if there are more than [`MAX_RANK`] of them.
    ///
    /// ```
    /// let s = versant_kernels::Shape::new(&[2, 3]).unwrap();
    /// assert_eq!(s.numel(), 6);
    /// ```
    pub fn new(dims: &[usize]) -> Option<Shape> {
        if dims.len() > MAX_RANK {
            return None;
        }
        let mut inline = [1; MAX_RANK];
        inline[..dims.len()].copy_from_slice(dims);
        Some(Shape { dims: inline, rank: dims.len() as u8 })
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// The extents as a slice.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// The extents as a mutable slice.
    pub fn dims_mut(&mut self) -> &mut [usize] {
        &mut self.dims[..self.rank as usize]
    }

    /// Number of elements; 1 for a scalar, 0 if any extent is 0, `usize::MAX` if there are more than that.
    pub fn numel(&self) -> usize {
        self.dims().iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Row-major strides, in elements.
    pub fn strides(&self) -> [isize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1isize;
        for (stride, &dim) in strides[..self.rank()].iter_mut().zip(self.dims()).rev() {
            *stride = step;
            step = step.wrapping_mul(dim as isize);
        }
        strides
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        self.dims()
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Shape) -> bool {
        self.dims() == other.dims()
    }
}

impl Eq for Shape {}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.dims().hash(state);
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}
