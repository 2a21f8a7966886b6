//! Views: affine maps from coordinates to element offsets, with guards for padding.
//!
//! A view never copies. Movement operations build views over a contiguous source, and [`View::compose`]
//! reads a view through another one, so that a chain of movements costs a kernel one index expression.

use crate::Shape;

/// An affine condition: the element exists iff `0 <= offset + Σ strides[i] * coord[i] < extent`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Guard {
    /// Coefficient of each coordinate.
    pub strides: Vec<isize>,
    /// Constant term.
    pub offset: isize,
    /// Exclusive upper bound.
    pub extent: usize,
}

/// A map from the coordinates of `shape` to an element offset in a source buffer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// The extents of the coordinates.
    pub shape: Shape,
    /// Elements per step of each coordinate (0 for a broadcast, negative for a flip).
    pub strides: Vec<isize>,
    /// Offset of coordinate 0.
    pub offset: isize,
    /// Where a guard fails the element reads as zero. Mostly empty.
    pub guards: Vec<Guard>,
}

impl View {
    /// The identity: row-major over `shape`.
    pub fn contiguous(shape: Shape) -> View {
        View { shape, strides: shape.strides()[..shape.rank()].to_vec(), offset: 0, guards: Vec::new() }
    }

    /// Every coordinate of `shape` reads element 0.
    pub fn splat(shape: Shape) -> View {
        View { shape, strides: vec![0; shape.rank()], offset: 0, guards: Vec::new() }
    }

    /// Whether this is the row-major identity from offset `self.offset`: extents of 1 may have any stride.
    pub fn is_dense(&self) -> bool {
        self.guards.is_empty()
            && (self.shape.numel() == 0
                || self
                    .shape
                    .iter()
                    .zip(&self.strides)
                    .zip(self.shape.strides())
                    .all(|((&dim, &stride), dense)| dim == 1 || stride == dense))
    }

    /// Whether this is the row-major identity from offset 0.
    pub fn is_identity(&self) -> bool {
        self.offset == 0 && self.is_dense()
    }

    /// Applies `f` to the strides of the view and of each guard, and sets the shape.
    fn remap(&self, shape: Shape, f: impl Fn(&[isize]) -> Vec<isize>) -> View {
        View {
            shape,
            strides: f(&self.strides),
            offset: self.offset,
            guards: self
                .guards
                .iter()
                .map(|g| Guard { strides: f(&g.strides), offset: g.offset, extent: g.extent })
                .collect(),
        }
    }

    /// Moves every affine form's constant by `start[i]` steps of coordinate `i`.
    fn shift(&mut self, start: &[isize]) {
        let dot = |s: &[isize]| s.iter().zip(start).map(|(a, b)| a * b).sum::<isize>();
        self.offset += dot(&self.strides);
        for guard in &mut self.guards {
            guard.offset += dot(&guard.strides);
        }
    }

    /// Dimension `i` of the result is dimension `axes[i]` of this view; `axes` is a permutation.
    pub fn permute(&self, axes: &[usize]) -> View {
        let mut shape = self.shape;
        for (dim, &axis) in shape.dims_mut().iter_mut().zip(axes) {
            *dim = self.shape[axis];
        }
        self.remap(shape, |s| axes.iter().map(|&a| s[a]).collect())
    }

    /// Broadcasts to `shape` (aligned at the last dimension): new and size-1 dimensions repeat.
    pub fn broadcast(&self, shape: Shape) -> View {
        let lead = shape.rank() - self.shape.rank();
        self.remap(shape, |s| {
            (0..shape.rank())
                .map(|i| match i.checked_sub(lead) {
                    Some(j) if self.shape[j] == shape[i] => s[j],
                    _ => 0,
                })
                .collect()
        })
    }

    /// Elements `start[i]`, `start[i] + step[i]`, … of each dimension, `shape[i]` of them; steps may be negative.
    pub fn slice(&self, start: &[isize], step: &[isize], shape: Shape) -> View {
        let mut view = self.clone();
        view.shift(start);
        view.remap(shape, |s| s.iter().zip(step).map(|(a, b)| a * b).collect())
    }

    /// Zero padding: `before[i]` elements in front, to the extents of `shape`.
    pub fn pad(&self, before: &[isize], shape: Shape) -> View {
        let mut view = self.remap(shape, <[isize]>::to_vec);
        for (axis, (&b, &extent)) in before.iter().zip(self.shape.iter()).enumerate() {
            if b != 0 || shape[axis] != extent {
                let mut strides = vec![0; shape.rank()];
                strides[axis] = 1;
                view.guards.push(Guard { strides, offset: 0, extent });
            }
        }
        view.shift(&before.iter().map(|b| -b).collect::<Vec<_>>());
        view
    }

    /// Sliding windows over `axis`: the axis becomes `count` positions, and a new last axis of `size`
    /// taps is added; element `(o, k)` reads `o * stride + k * dilation`.
    pub fn window(&self, axis: usize, count: usize, size: usize, stride: usize, dilation: usize) -> View {
        let mut dims = self.shape.to_vec();
        dims[axis] = count;
        dims.push(size);
        let shape = Shape::new(&dims).expect("the caller checked the rank");
        self.remap(shape, |s| {
            let mut out = s.to_vec();
            out[axis] = s[axis] * stride as isize;
            out.push(s[axis] * dilation as isize);
            out
        })
    }

    /// The same elements in row-major order under another shape of equal size, where strides allow it.
    pub fn reshape(&self, shape: Shape) -> Option<View> {
        View::contiguous(shape).compose(self)
    }

    /// Reads `inner` through `self`: `self` maps to row-major offsets of `inner.shape`. `None` where the
    /// result is not affine (a reshape that merges dimensions that are not adjacent in memory).
    pub fn compose(&self, inner: &View) -> Option<View> {
        if inner.is_identity() {
            return Some(self.clone());
        }
        if self.shape.numel() == 0 {
            return Some(View::splat(self.shape));
        }
        if inner.shape.numel() == 0 {
            // Padding of nothing: every element is outside.
            let strides = vec![0; self.shape.rank()];
            let outside = Guard { strides, offset: 0, extent: 0 };
            return Some(View { guards: vec![outside], ..View::splat(self.shape) });
        }
        let mid = self.to_coords(&inner.shape)?;
        let rank = self.shape.rank();
        let through = |form: &[isize], constant: isize| -> (Vec<isize>, isize) {
            let mut strides = vec![0; rank];
            let mut offset = constant;
            for (&c, (coeffs, start)) in form.iter().zip(&mid) {
                offset += c * start;
                for (s, k) in strides.iter_mut().zip(coeffs) {
                    *s += c * k;
                }
            }
            (strides, offset)
        };
        let (strides, offset) = through(&inner.strides, inner.offset);
        let mut guards = self.guards.clone();
        for g in &inner.guards {
            let (strides, offset) = through(&g.strides, g.offset);
            let guard = Guard { strides, offset, extent: g.extent };
            if !guard.always(&self.shape) && !guards.contains(&guard) {
                guards.push(guard);
            }
        }
        Some(View { shape: self.shape, strides, offset, guards })
    }

    /// As [`View::compose`], but where that fails over extents of `self` that span several dimensions of
    /// `inner`, those are split: the result then has finer extents in the same row-major order.
    pub fn compose_finer(&self, inner: &View) -> Option<View> {
        self.compose(inner).or_else(|| self.split_for(&inner.shape)?.compose(inner))
    }

    /// Splits extents whose steps leave a dimension of row-major `mid` on the way.
    fn split_for(&self, mid: &Shape) -> Option<View> {
        let dense = mid.strides();
        let mut view = self.clone();
        let mut axis = 0;
        while axis < view.shape.rank() {
            let (dim, step) = (view.shape[axis], view.strides[axis].unsigned_abs());
            let home = (0..mid.rank()).find(|&k| mid[k] > 1 && dense[k] as usize <= step);
            let room = home.map_or(dim, |k| mid[k] * dense[k] as usize / step.max(1));
            if dim > room && room > 1 && dim.is_multiple_of(room) {
                view = view.split(axis, room)?;
            } else if dim > room && room == 1 {
                return None;
            } else {
                axis += 1;
                continue;
            }
            // The outer part may have to be split again; it stands at the same axis.
        }
        view.tidy_guards();
        Some(view)
    }

    /// Says guards by as few coordinates as possible, and takes those that they leave a single value for constants.
    fn tidy_guards(&mut self) {
        for guard in &mut self.guards {
            guard.coarsen(&self.shape);
            let mut moving = (0..self.shape.rank()).filter(|&axis| guard.strides[axis] != 0);
            if let (Some(axis), None) = (moving.next(), moving.next())
                && (guard.strides[axis], guard.extent) == (1, 1)
            {
                self.offset -= self.strides[axis] * guard.offset;
                self.strides[axis] = 0;
            }
        }
    }

    /// Dimension `axis` as two: an outer one, and an inner one of `inner` steps.
    fn split(&self, axis: usize, inner: usize) -> Option<View> {
        let mut dims = self.shape.to_vec();
        dims[axis] /= inner;
        dims.insert(axis + 1, inner);
        let shape = Shape::new(&dims)?;
        Some(self.remap(shape, |s| {
            let mut out = s.to_vec();
            out.insert(axis + 1, s[axis]);
            out[axis] *= inner as isize;
            out
        }))
    }

    /// Writes the offset as coordinates of row-major `mid`: for each dimension of `mid` an affine form
    /// (coefficients, constant) of our coordinates that stays within its extent wherever our guards hold.
    fn to_coords(&self, mid: &Shape) -> Option<Vec<(Vec<isize>, isize)>> {
        let dense = mid.strides();
        let mut coords = vec![(vec![0isize; self.shape.rank()], 0isize); mid.rank()];
        for (axis, (&stride, &dim)) in self.strides.iter().zip(self.shape.iter()).enumerate() {
            if dim == 1 || stride == 0 {
                continue;
            }
            let mut rest = stride.abs();
            for (k, coord) in coords.iter_mut().enumerate() {
                if mid[k] > 1 && dense[k] <= rest {
                    coord.0[axis] = rest / dense[k] * stride.signum();
                    rest %= dense[k];
                }
            }
            if rest != 0 {
                return None;
            }
        }
        // A guard made by padding bounds one dimension of `mid` by the same form, so it knows the constant,
        // which may lie outside the extent. The other dimensions must be in range at coordinate zero.
        let mut rest = self.offset;
        let mut guarded = [false; crate::MAX_RANK];
        for (k, (coeffs, start)) in coords.iter_mut().enumerate() {
            let bounds = |g: &&Guard| g.extent <= mid[k] && g.strides == *coeffs;
            if let Some(g) = self.guards.iter().find(bounds) {
                *start = g.offset;
                rest -= g.offset * dense[k];
                guarded[k] = true;
            }
        }
        for (k, (coeffs, start)) in coords.iter_mut().enumerate() {
            if guarded[k] || mid[k] == 1 {
                continue;
            }
            *start = rest.div_euclid(dense[k]);
            rest -= *start * dense[k];
            let form = Guard { strides: coeffs.clone(), offset: *start, extent: mid[k] };
            if !form.always(&self.shape) {
                return None;
            }
        }
        (rest == 0).then_some(coords)
    }
}

impl Guard {
    /// Divides the condition by the largest step for which the smaller terms make no difference.
    fn coarsen(&mut self, shape: &Shape) {
        let mut steps: Vec<isize> = self.strides.iter().copied().filter(|&s| s > 1).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        for step in steps {
            let small = |&(s, d): &(isize, usize)| s % step != 0 && d > 1;
            let terms = self.strides.iter().copied().zip(shape.iter().copied());
            let reach: Vec<isize> = terms.filter(small).map(|(s, d)| s * (d as isize - 1)).collect();
            let fits = reach.iter().all(|&r| r >= 0) && reach.iter().sum::<isize>() < step;
            if fits && self.offset % step == 0 && self.extent.is_multiple_of(step as usize) {
                self.strides.iter_mut().for_each(|s| *s = if *s % step == 0 { *s / step } else { 0 });
                self.offset /= step;
                self.extent /= step as usize;
                return;
            }
        }
    }

    /// Whether the condition holds at every coordinate of `shape`.
    pub fn always(&self, shape: &Shape) -> bool {
        let (mut low, mut high) = (self.offset, self.offset);
        for (&s, &d) in self.strides.iter().zip(shape.iter()) {
            let span = s * (d as isize - 1).max(0);
            low += span.min(0);
            high += span.max(0);
        }
        low >= 0 && high < self.extent as isize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims).expect("small rank")
    }

    /// Offsets in row-major order of the coordinates; `None` where a guard fails.
    fn offsets(view: &View) -> Vec<Option<isize>> {
        let dense = view.shape.strides();
        (0..view.shape.numel())
            .map(|i| {
                let at = |strides: &[isize], start: isize| {
                    (0..view.shape.rank()).fold(start, |sum, k| {
                        sum + strides[k] * ((i / dense[k] as usize) % view.shape[k]) as isize
                    })
                };
                let inside = |g: &Guard| (0..g.extent as isize).contains(&at(&g.strides, g.offset));
                view.guards.iter().all(inside).then(|| at(&view.strides, view.offset))
            })
            .collect()
    }

    #[test]
    fn compose_reads_one_view_through_another() {
        let base = View::contiguous(shape(&[4, 6]));
        let inners = [
            base.permute(&[1, 0]),
            base.slice(&[3, 1], &[-1, 2], shape(&[4, 2])),
            base.pad(&[1, 2], shape(&[6, 9])),
            base.window(1, 2, 3, 3, 1),
            View::contiguous(shape(&[6])).broadcast(shape(&[4, 6])),
        ];
        for inner in &inners {
            let dense = View::contiguous(inner.shape);
            let mut outers = vec![dense.pad(&vec![1; inner.shape.rank()], {
                let dims: Vec<usize> = inner.shape.iter().map(|d| d + 2).collect();
                shape(&dims)
            })];
            let axes: Vec<usize> = (0..inner.shape.rank()).rev().collect();
            outers.push(dense.permute(&axes));
            outers.push(outers[0].permute(&axes));
            outers.push(outers[0].slice(
                &vec![1; inner.shape.rank()],
                &vec![1; inner.shape.rank()],
                inner.shape,
            ));
            let table = offsets(inner);
            for outer in &outers {
                let got = offsets(&outer.compose(inner).expect("affine"));
                let want: Vec<_> =
                    offsets(outer).into_iter().map(|o| o.and_then(|o| table[o as usize])).collect();
                assert_eq!(got, want, "{outer:?} over {inner:?}");
            }
        }
    }

    #[test]
    fn a_padded_part_is_read_through_its_split_axes() {
        // Heads side by side, [2, 3, 4 · 5], which lie apart, [2, 4, 3, 5], among two more such parts.
        let apart = View::contiguous(shape(&[2, 4, 3, 5])).permute(&[0, 2, 1, 3]);
        for before in [0, 20, 40, 5, 7] {
            let outer = View::contiguous(shape(&[2, 3, 20])).pad(&[0, 0, before], shape(&[2, 3, 60]));
            let Some(got) = outer.compose_finer(&apart) else {
                assert!(before % 20 != 0, "a part of whole rows of heads is a view: {before}");
                continue;
            };
            let table = offsets(&apart);
            let want: Vec<_> =
                offsets(&outer).into_iter().map(|o| o.and_then(|o| table[o as usize])).collect();
            assert_eq!(offsets(&got), want, "{before}: {got:?}");
        }
    }

    #[test]
    fn a_reshape_that_is_not_affine_is_refused() {
        let t = View::contiguous(shape(&[2, 3])).permute(&[1, 0]);
        assert_eq!(t.reshape(shape(&[6])), None);
        assert!(t.reshape(shape(&[3, 1, 2])).is_some());
    }
}
