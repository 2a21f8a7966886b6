//! Walking a view over a range of a linear domain, run by run.

use crate::View;
use crate::lanes::isa;

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
    /// Where runs are short: the addresses of a period of lanes, from the least of them on.
    table: Vec<u32>,
    /// The least of those addresses, from the period's first lane.
    least: isize,
    /// Number of dimensions whose product is the period.
    inner: usize,
    /// For each guard, what the period's lanes add to its value at the first.
    guard_tables: Vec<Vec<i32>>,
    /// The least and the most that they add.
    guard_ends: Vec<[isize; 2]>,
    /// For each lane of the period that has fifteen more behind it the least address of the sixteen, or [`FAR`] if they do not
    /// lie within [`REACH`] words. Nothing if few do.
    firsts: Vec<u32>,
}

/// Words that sixteen lanes may be spread over.
pub(super) const REACH: usize = 64;

/// Sixteen lanes that are spread over more.
pub(super) const FAR: u32 = u32::MAX;

/// A part of a period of lanes.
pub(super) struct Period<'a> {
    /// First lane, from the start of the range.
    pub lane: usize,
    /// Each lane lies at this address plus its offset.
    pub base: isize,
    /// The offsets.
    pub offsets: &'a [u32],
    /// The least of sixteen offsets from each on, if there are vectors for them.
    pub firsts: &'a [u32],
    guards: [(isize, &'a [i32], isize); MAX_GUARDS],
    guarded: usize,
    ends: &'a [[isize; 2]],
}

impl Period<'_> {
    /// Whether every guard holds at lane `i` of the part.
    #[inline(always)]
    pub fn exists(&self, i: usize) -> bool {
        let guards = &self.guards[..self.guarded];
        guards.iter().all(|(value, steps, extent)| (0..*extent).contains(&(value + steps[i] as isize)))
    }

    /// Whether every guard holds at all lanes of the period.
    pub fn all_exist(&self) -> bool {
        let mut guards = self.guards[..self.guarded].iter().zip(self.ends);
        guards.all(|((value, _, extent), [low, high])| value + low >= 0 && value + high < *extent)
    }
}

/// Runs shorter than this are walked by table.
const SHORT_RUN: usize = 32;
/// Views with more guards have no table.
const MAX_GUARDS: usize = 4;
/// The lanes that a table is made to have, and the most of them.
const PERIOD: [usize; 2] = [64, 2048];

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
        let mut access = Access {
            address: pick(&view.strides, view.offset),
            guards: guards.map(|g| (pick(&g.strides, g.offset), g.extent as isize)).collect(),
            dims: match merged.is_empty() {
                true => vec![1],
                false => merged.iter().map(|&(dim, _)| dim).collect(),
            },
            table: Vec::new(),
            least: 0,
            inner: 0,
            guard_tables: Vec::new(),
            guard_ends: Vec::new(),
            firsts: Vec::new(),
        };
        access.make_table();
        access
    }

    /// Makes the table, where it pays and the dimensions allow it.
    fn make_table(&mut self) {
        let (extent, stride) = self.inner();
        let short = extent < SHORT_RUN && self.dims.len() > 1;
        if self.guards.len() > MAX_GUARDS || !(short || (stride != 0 && stride != 1 && extent > 1)) {
            return;
        }
        let (mut inner, mut period) = (0, 1);
        while let Some(at) = self.dims.len().checked_sub(inner + 1)
            && period < PERIOD[0]
            && period * self.dims[at] <= PERIOD[1]
        {
            inner += 1;
            period *= self.dims[at];
        }
        if let Some(at) = self.dims.len().checked_sub(inner + 1)
            && period < PERIOD[0]
            && let Some(part) =
                (2..=PERIOD[1] / period).rev().find(|&part| self.dims[at].is_multiple_of(part))
        {
            self.split(at, part);
            inner += 1;
        }
        if inner == 0 {
            return;
        }
        let outer = self.dims.len() - inner;
        let over = |strides: &[isize]| {
            let axes = self.dims.iter().zip(strides).skip(outer);
            axes.fold(vec![0isize], |table, (&dim, &stride)| {
                let steps = (0..dim as isize).map(|i| i * stride);
                table.iter().flat_map(|&at| steps.clone().map(move |step| at + step)).collect()
            })
        };
        let offsets = over(&self.address.strides);
        let least = offsets.iter().copied().min().unwrap_or(0);
        let table: Option<Vec<u32>> = offsets.iter().map(|at| u32::try_from(at - least).ok()).collect();
        let guards: Option<Vec<Vec<i32>>> = (self.guards.iter())
            .map(|(form, _)| over(&form.strides).into_iter().map(|x| i32::try_from(x).ok()).collect())
            .collect();
        if let (Some(table), Some(guards)) = (table, guards) {
            (self.table, self.least, self.inner, self.guard_tables) = (table, least, inner, guards);
        }
        let ends =
            |table: &Vec<i32>| [table.iter().min(), table.iter().max()].map(|x| x.map_or(0, |&x| x as isize));
        self.guard_ends = self.guard_tables.iter().map(ends).collect();
        // Only vectors of sixteen lanes load them.
        if isa() == "avx512" {
            let firsts = self.table.windows(16).map(|lanes| {
                let first = *lanes.iter().min().expect("sixteen lanes");
                if lanes.iter().all(|&at| at - first < REACH as u32) { first } else { FAR }
            });
            self.firsts = firsts.collect();
            if self.firsts.iter().filter(|&&first| first == FAR).count() > self.firsts.len() / 4 {
                self.firsts.clear();
            }
        }
    }

    /// Takes a dimension apart, so that the inner one of the two has this extent.
    fn split(&mut self, at: usize, part: usize) {
        self.dims[at] /= part;
        self.dims.insert(at + 1, part);
        let guards = self.guards.iter_mut().map(|(form, _)| form);
        for form in std::iter::once(&mut self.address).chain(guards) {
            let step = form.strides[at];
            form.strides[at] *= part as isize;
            form.strides.insert(at + 1, step);
        }
    }

    /// Whether [`Access::periods`] walks this view, too, in less time than [`Access::runs`].
    pub fn has_table(&self) -> bool {
        !self.table.is_empty()
    }

    /// Calls `f` with the parts of periods that make up lanes `start..start + len`, in order.
    #[inline]
    pub fn periods(&self, start: usize, len: usize, mut f: impl FnMut(Period<'_>)) {
        let outer = self.dims.len() - self.inner;
        let mut coords = [0usize; crate::MAX_RANK];
        let (mut rest, mut at) = (start / self.table.len(), start % self.table.len());
        for (coord, &dim) in coords.iter_mut().zip(&self.dims[..outer]).rev() {
            *coord = rest % dim;
            rest /= dim;
        }
        let value = |form: &Form| {
            let steps = form.strides[..outer].iter().zip(&coords);
            steps.fold(form.offset, |sum, (&stride, &coord)| sum + coord as isize * stride)
        };
        let mut base = value(&self.address) + self.least;
        let mut values = [0; MAX_GUARDS];
        values.iter_mut().zip(&self.guards).for_each(|(to, (form, _))| *to = value(form));
        let mut lane = 0;
        while lane < len {
            let take = (self.table.len() - at).min(len - lane);
            let mut guards = [(0, &[][..], 0); MAX_GUARDS];
            let known = self.guards.iter().zip(&self.guard_tables).zip(values);
            for (guard, (((_, extent), table), value)) in guards.iter_mut().zip(known) {
                *guard = (value, &table[at..at + take], *extent);
            }
            let offsets = &self.table[at..at + take];
            let firsts = self.firsts.get(at..).unwrap_or_default();
            f(Period {
                lane,
                base,
                offsets,
                firsts,
                guards,
                guarded: self.guards.len(),
                ends: &self.guard_ends,
            });
            (lane, at) = (lane + take, 0);
            for axis in (0..outer).rev() {
                coords[axis] += 1;
                let around = coords[axis] == self.dims[axis];
                // One step on, or all of them back.
                let steps = if around { 1 - self.dims[axis] as isize } else { 1 };
                base += steps * self.address.strides[axis];
                for (value, (form, _)) in values.iter_mut().zip(&self.guards) {
                    *value += steps * form.strides[axis];
                }
                if !around {
                    break;
                }
                coords[axis] = 0;
            }
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
        self.in_run(start, len).filter(|&(_, stride)| stride == 1 || len == 1).map(|(at, _)| at)
    }

    /// The address of lane `start` and the step from lane to lane if the `len` lanes from it on all exist and lie a step of 0 or
    /// 1 apart.
    pub fn in_run(&self, start: usize, len: usize) -> Option<(usize, isize)> {
        let (extent, stride) = self.inner();
        let (mut rest, first) = (start / extent, start % extent);
        if self.guarded() || (!matches!(stride, 0 | 1) && len != 1) || first + len > extent {
            return None;
        }
        let mut offset = self.address.offset + first as isize * stride;
        for (&dim, &stride) in self.dims.iter().zip(&self.address.strides).rev().skip(1) {
            if rest == 0 {
                break;
            }
            offset += (rest % dim) as isize * stride;
            rest /= dim;
        }
        usize::try_from(offset).ok().map(|at| (at, stride))
    }

    /// After how many lanes the same elements come again, if they do and there are no guards.
    pub fn period(&self) -> Option<usize> {
        let repeated = self.address.strides.iter().take_while(|&&stride| stride == 0).count();
        let period = self.dims[repeated..].iter().product();
        (repeated > 0 && !self.guarded() && repeated < self.dims.len()).then_some(period)
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
                if access.has_table() {
                    access.periods(start, len, |p| {
                        let lanes = p.offsets.iter().enumerate();
                        let part = lanes.map(|(i, &at)| p.exists(i).then(|| p.base + at as isize));
                        let part: Vec<_> = part.collect();
                        assert_eq!(part, want[p.lane..p.lane + part.len()], "{view:?} {axes:?} from {start}");
                    });
                }
                if let Some(first) = access.dense(start, len) {
                    let dense: Vec<_> = (0..len).map(|t| Some((first + t) as isize)).collect();
                    assert_eq!(dense, want);
                }
            }
        }
    }
}
