//! Walking a view over a range of a linear domain, run by run.

use crate::View;

/// The affine form of an address or of a guard.
#[derive(Clone, Debug)]
struct Form {
    strides: Vec<isize>,
    offset: isize,
}

/// A view with its axes in lane order, and neighbouring axes merged where every form of it allows.
///
/// Merging here, for each view alone, goes further than folding the program does: a contiguous operand
/// is one long run even where another operand of the same program is broadcast.
#[derive(Clone, Debug)]
pub(super) struct Access {
    dims: Vec<usize>,
    address: Form,
    /// Conditions with their exclusive upper bound.
    guards: Vec<(Form, isize)>,
}

/// Consecutive lanes whose addresses form an arithmetic progression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    /// First lane, from the start of the range.
    pub lane: usize,
    /// Number of lanes.
    pub len: usize,
    /// Address of the first lane.
    pub offset: isize,
    /// Address step.
    pub stride: isize,
    /// The lanes of the run where every guard holds: `valid.0..valid.1`, counted from the run's first lane.
    pub valid: (usize, usize),
}

impl Run {
    /// Address of the first lane that exists.
    pub fn first(&self) -> isize {
        self.offset + self.valid.0 as isize * self.stride
    }
}

impl Access {
    /// The view's coordinates in the order `axes`.
    pub fn new(view: &View, axes: &[usize]) -> Access {
        let mut forms: Vec<&[isize]> = vec![&view.strides];
        forms.extend(view.guards.iter().map(|g| &g.strides[..]));
        let dims: Vec<usize> = axes.iter().map(|&a| view.shape[a]).collect();
        // Each merged dimension: its extent, and the axis of its innermost part, whose stride it keeps.
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (&dim, &axis) in dims.iter().zip(axes) {
            if dim == 1 {
                continue;
            }
            match merged.last_mut() {
                Some((extent, inner)) if forms.iter().all(|s| s[*inner] == s[axis] * dim as isize) => {
                    *extent *= dim;
                    *inner = axis;
                }
                _ => merged.push((dim, axis)),
            }
        }
        let pick = |strides: &[isize], offset| Form {
            strides: match merged.is_empty() {
                true => vec![0],
                false => merged.iter().map(|&(_, axis)| strides[axis]).collect(),
            },
            offset,
        };
        let guards = view.guards.iter().filter(|g| !g.always(&view.shape));
        Access {
            address: pick(&view.strides, view.offset),
            guards: guards.map(|g| (pick(&g.strides, g.offset), g.extent as isize)).collect(),
            dims: match merged.is_empty() {
                true => vec![1],
                false => merged.iter().map(|&(dim, _)| dim).collect(),
            },
        }
    }

    /// Extent and stride of the innermost merged dimension.
    pub fn inner(&self) -> (usize, isize) {
        let last = self.dims.len() - 1;
        (self.dims[last], self.address.strides[last])
    }

    /// Whether some element may not exist.
    pub fn guarded(&self) -> bool {
        !self.guards.is_empty()
    }

    /// The address of lane `start` if the `len` lanes from it on are consecutive elements that all exist.
    pub fn dense(&self, start: usize, len: usize) -> Option<usize> {
        let (extent, stride) = self.inner();
        if self.guarded() || (stride != 1 && len != 1) || start % extent + len > extent {
            return None;
        }
        let mut offset = self.address.offset;
        let mut rest = start;
        for (&dim, &stride) in self.dims.iter().zip(&self.address.strides).rev() {
            offset += (rest % dim) as isize * stride;
            rest /= dim;
        }
        usize::try_from(offset).ok()
    }

    /// Calls `f` with the runs that make up lanes `start..start + len`, in order.
    #[inline]
    pub fn runs(&self, start: usize, len: usize, mut f: impl FnMut(Run)) {
        let last = self.dims.len() - 1;
        let mut coords = [0usize; crate::MAX_RANK];
        let mut offset = self.address.offset;
        let mut rest = start;
        for (k, &dim) in self.dims.iter().enumerate().rev() {
            coords[k] = rest % dim;
            rest /= dim;
            offset += coords[k] as isize * self.address.strides[k];
        }
        let stride = self.address.strides[last];
        let mut lane = 0;
        while lane < len {
            let take = (self.dims[last] - coords[last]).min(len - lane);
            f(Run { lane, len: take, offset, stride, valid: self.valid(&coords, take) });
            lane += take;
            coords[last] += take;
            offset += take as isize * stride;
            let mut k = last;
            while k > 0 && coords[k] == self.dims[k] {
                offset -= self.dims[k] as isize * self.address.strides[k];
                coords[k] = 0;
                k -= 1;
                coords[k] += 1;
                offset += self.address.strides[k];
            }
        }
    }

    /// The part of a run of `len` lanes from `coords` on where every guard holds.
    #[inline]
    fn valid(&self, coords: &[usize; crate::MAX_RANK], len: usize) -> (usize, usize) {
        let (mut low, mut high) = (0isize, len as isize);
        for (form, extent) in &self.guards {
            let value =
                form.strides.iter().zip(coords).fold(form.offset, |sum, (s, &c)| sum + s * c as isize);
            let step = form.strides[form.strides.len() - 1];
            // 0 <= value + step * t < extent.
            match step {
                0 if (0..*extent).contains(&value) => {}
                0 => high = 0,
                1.. => {
                    low = low.max(ceil_div(-value, step));
                    high = high.min(ceil_div(extent - value, step));
                }
                _ => {
                    low = low.max(ceil_div(value - extent + 1, -step));
                    high = high.min(ceil_div(value + 1, -step));
                }
            }
        }
        let high = high.max(0);
        let low = low.min(high);
        (low as usize, high as usize)
    }
}

/// `a / b` rounded up, for positive `b`.
fn ceil_div(a: isize, b: isize) -> isize {
    -(-a).div_euclid(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn runs_agree_with_the_definition_of_a_view() {
        let base = View::contiguous(Shape::new(&[3, 4, 5]).unwrap());
        let padded = base.pad(&[1, 2, 1], Shape::new(&[4, 8, 8]).unwrap());
        let views = [
            base.clone(),
            base.permute(&[2, 0, 1]),
            base.slice(&[2, 0, 4], &[-1, 1, -2], Shape::new(&[3, 4, 3]).unwrap()),
            padded.slice(&[3, 7, 7], &[-1, -1, -1], padded.shape),
            padded.window(2, 3, 3, 2, 1),
            padded,
        ];
        for view in &views {
            for rotate in 0..view.shape.rank() {
                let mut axes: Vec<usize> = (0..view.shape.rank()).collect();
                axes.rotate_left(rotate);
                check(view, &axes);
            }
        }
    }

    /// Compares every short range of lanes with addresses computed one by one.
    fn check(view: &View, axes: &[usize]) {
        let access = Access::new(view, axes);
        let at = |mut i: usize| -> Option<isize> {
            let mut coords = vec![0isize; axes.len()];
            for &a in axes.iter().rev() {
                coords[a] = (i % view.shape[a]) as isize;
                i /= view.shape[a];
            }
            let dot = |s: &[isize], o| s.iter().zip(&coords).fold(o, |sum, (s, c)| sum + s * c);
            let ok = |g: &crate::Guard| (0..g.extent as isize).contains(&dot(&g.strides, g.offset));
            view.guards.iter().all(ok).then(|| dot(&view.strides, view.offset))
        };
        let total = view.shape.numel();
        for start in 0..total {
            for len in [1, 2, 7, 20].into_iter().filter(|l| start + l <= total) {
                let want: Vec<_> = (start..start + len).map(at).collect();
                let mut got = Vec::new();
                access.runs(start, len, |r| {
                    assert_eq!(r.lane, got.len());
                    got.extend((0..r.len).map(|t| {
                        let exists = (r.valid.0..r.valid.1).contains(&t);
                        exists.then(|| r.offset + t as isize * r.stride)
                    }));
                });
                assert_eq!(got, want, "{view:?} {axes:?} from {start}");
                if let Some(first) = access.dense(start, len) {
                    let dense: Vec<_> = (0..len).map(|t| Some((first + t) as isize)).collect();
                    assert_eq!(dense, want);
                }
            }
        }
    }
}
