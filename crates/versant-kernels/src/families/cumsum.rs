//! Cumulative sum along an axis, in a stated blocked order.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Parts, SERIAL, Sum, add_into, parts_per_slab};
use crate::{DType, KernelSource, NativeFn, Target};

/// Steps after which the running sum starts again from zero and is added to the carry (`BLOCK` in the
/// shader). The rounding error then grows with `BLOCK + n / BLOCK` instead of `n`.
const BLOCK: usize = 64;

/// Columns that a thread takes at least when a slab is cut by columns: a few cache lines.
const MIN_COLUMNS: usize = 64;

/// `out[o, i, k] = Σ src[o, j, k]` over `j <= i`, or over `j >= i` when reversed, for `[outer, n, inner]`.
///
/// Order: steps are taken from the first (reversed: the last); within each block of 64 a running sum from
/// zero; an output is the carry plus that sum, and the carry then takes the block's sum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CumSum {
    /// Product of the extents before the axis.
    pub outer: usize,
    /// Extent of the axis.
    pub n: usize,
    /// Product of the extents after the axis.
    pub inner: usize,
    /// Whether to sum from the end, which is the adjoint of summing from the start.
    pub reverse: bool,
    /// Element type: F32, I32 or U32.
    pub dtype: DType,
    /// Where the source begins, in elements.
    pub src_offset: usize,
}

/// The kernel of a [`CumSum`]. Reads: source. Writes: out, from element 0.
///
/// # Panics
/// If the type is not F32, I32 or U32, or an operand for a GPU has 2^31 elements or more; the recorder refuses both.
pub fn cumsum(desc: &CumSum, label: &str, target: Target) -> KernelSource {
    let d = *desc;
    Parts {
        label,
        wgsl: include_str!("../../../../shaders/cumsum/lines.wgsl"),
        dtype: d.dtype,
        params: &[d.outer, d.n, d.inner, d.src_offset, usize::from(d.reverse)],
        reads: 1,
        threads: d.outer * d.inner,
    }
    .build(target, d.native::<f32>(), d.native::<u32>())
}

impl CumSum {
    /// Additions made: two an element, one in the block and one of the carry.
    pub fn flops(&self) -> u64 {
        2 * (self.outer * self.n * self.inner) as u64
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        8 * (self.outer * self.n * self.inner) as u64
    }

    fn native<T: Sum>(self) -> NativeFn {
        Arc::new(move |reads, writes, _| {
            let size = self.outer * self.n * self.inner;
            if size == 0 {
                return;
            }
            let src = bytemuck::cast_slice::<u32, T>(&reads[0][self.src_offset..][..size]);
            let out = bytemuck::cast_slice_mut::<u32, T>(&mut writes[0][..size]);
            let slab = self.n * self.inner;
            let parts = parts_per_slab(self.outer).min(self.inner / MIN_COLUMNS);
            if size > SERIAL && parts > 1 {
                self.by_columns(src, out, self.inner.div_ceil(parts));
                return;
            }
            // Short slabs are handed out in bundles.
            let bundle = (SERIAL / 4 / slab).max(1) * slab;
            let run = |(src, out): (&[T], &mut [T])| {
                for (src, out) in src.chunks_exact(slab).zip(out.chunks_exact_mut(slab)) {
                    self.slab(src, out);
                }
            };
            if size > SERIAL {
                src.par_chunks(bundle).zip(out.par_chunks_mut(bundle)).for_each(run);
            } else {
                run((src, out));
            }
        })
    }

    /// All lines of one `[n, inner]` slab.
    fn slab<T: Sum>(&self, src: &[T], out: &mut [T]) {
        if self.inner == 1 {
            self.line(src, out);
        } else {
            let rows = src.chunks_exact(self.inner);
            let rows = rows.zip(out.chunks_exact_mut(self.inner));
            self.rows(self.inner, rows);
        }
    }

    /// One contiguous line.
    fn line<T: Sum>(&self, src: &[T], out: &mut [T]) {
        let n = src.len();
        let mut carry = T::ZERO;
        for start in (0..n).step_by(BLOCK) {
            let mut sum = T::ZERO;
            for i in start..n.min(start + BLOCK) {
                let at = if self.reverse { n - 1 - i } else { i };
                sum = sum.plus(src[at]);
                out[at] = carry.plus(sum);
            }
            carry = carry.plus(sum);
        }
    }

    /// Few slabs of many columns: the columns are cut into strips of `width`, a task each.
    fn by_columns<T: Sum>(&self, src: &[T], out: &mut [T], width: usize) {
        let strips = self.inner.div_ceil(width);
        let mut tasks: Vec<Vec<(&[T], &mut [T])>> = Vec::new();
        tasks.resize_with(self.outer * strips, || Vec::with_capacity(self.n));
        let rows = src.chunks_exact(self.inner);
        for (at, (src, out)) in rows.zip(out.chunks_exact_mut(self.inner)).enumerate() {
            let first = at / self.n * strips;
            let pieces = src.chunks(width).zip(out.chunks_mut(width));
            for (task, piece) in tasks[first..].iter_mut().zip(pieces) {
                task.push(piece);
            }
        }
        tasks.into_par_iter().for_each(|task| {
            let width = task.first().map_or(0, |(src, _)| src.len());
            self.rows(width, task.into_iter());
        });
    }

    /// Rows of `width` columns each, given from the first to the last of the axis.
    fn rows<'a, T: Sum>(&self, width: usize, rows: impl DoubleEndedIterator<Item = (&'a [T], &'a mut [T])>) {
        let mut carry = vec![T::ZERO; width];
        let mut sum = vec![T::ZERO; width];
        let mut step = |(i, (src, out)): (usize, (&[T], &mut [T]))| {
            if i > 0 && i % BLOCK == 0 {
                add_into(&mut carry, &sum);
                sum.fill(T::ZERO);
            }
            for (((out, &src), sum), &carry) in out.iter_mut().zip(src).zip(&mut sum).zip(&carry) {
                *sum = sum.plus(src);
                *out = carry.plus(*sum);
            }
        };
        if self.reverse {
            rows.rev().enumerate().for_each(&mut step);
        } else {
            rows.enumerate().for_each(&mut step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, GPU, TYPES};
    use super::*;

    fn desc([outer, n, inner]: [usize; 3], reverse: bool, dtype: DType) -> CumSum {
        CumSum { outer, n, inner, reverse, dtype, src_offset: 5 }
    }

    /// The stated order, one line at a time.
    fn reference(d: &CumSum, src: &[u32]) -> Vec<u32> {
        let mut out = vec![0; d.outer * d.n * d.inner];
        for line in 0..d.outer * d.inner {
            let (mut carry, mut sum) = (0, 0);
            for i in 0..d.n {
                let i_axis = if d.reverse { d.n - 1 - i } else { i };
                let at = (line / d.inner * d.n + i_axis) * d.inner + line % d.inner;
                if i % 64 == 0 {
                    carry = check::plus(d.dtype, carry, sum);
                    sum = 0;
                }
                sum = check::plus(d.dtype, sum, src[d.src_offset + at]);
                out[at] = check::plus(d.dtype, carry, sum);
            }
        }
        out
    }

    fn case(d: CumSum) {
        let src = check::data(d.dtype, 5 + d.outer * d.n * d.inner, 3);
        let source = cumsum(&d, &format!("{d:?}"), Target::Cpu);
        check::equal(&source, &[&src], &reference(&d, &src));
    }

    #[test]
    fn shader_is_valid_and_binds_as_declared() {
        for dtype in TYPES {
            check::valid_wgsl(&cumsum(&desc([2, 3, 4], false, dtype), "cumsum", GPU));
        }
        let text = include_str!("../../../../shaders/cumsum/lines.wgsl");
        assert!(text.contains(&format!("const BLOCK: u32 = {BLOCK}u;")));
    }

    #[test]
    fn matches_the_stated_order() {
        let extents = [
            [1, 1, 1],
            [3, 7, 5],
            [2, 64, 1],
            [2, 65, 3],
            [4, 129, 1],
            [1, 1000, 2],
            [0, 4, 4],
            [2, 0, 4],
            [2, 4, 0],
        ];
        for reverse in [false, true] {
            for dtype in TYPES {
                for dims in extents {
                    case(desc(dims, reverse, dtype));
                }
            }
        }
    }

    #[test]
    fn parallel_sizes_match_on_any_number_of_threads() {
        for reverse in [false, true] {
            case(desc([1, 131, 601], reverse, DType::F32));
            case(desc([3, 131, 200], reverse, DType::F32));
            case(desc([17, 131, 33], reverse, DType::F32));
            case(desc([12_001, 7, 1], reverse, DType::F32));
            case(desc([1, 70_001, 1], reverse, DType::F32));
        }
    }

    #[test]
    fn sums_of_small_integers_are_exact_and_reverse_is_the_adjoint() {
        let n = 200;
        let x: Vec<u32> = (0..n).map(|i| (i as f32).to_bits()).collect();
        let run = |reverse| {
            let mut d = desc([1, n, 1], reverse, DType::F32);
            d.src_offset = 0;
            let source = cumsum(&d, "cumsum", Target::Cpu);
            let out = check::run(&source, &[&x], n, 1);
            out.into_iter().map(f32::from_bits).collect::<Vec<f32>>()
        };
        let (forward, backward) = (run(false), run(true));
        for i in 0..n {
            assert_eq!(forward[i], (i * (i + 1) / 2) as f32);
            assert_eq!(backward[i] + forward[i] - i as f32, forward[n - 1]);
        }
    }

    /// Equal terms round the same way every time: a plain running sum of 2^16 tenths is off by 6e-4 of the total,
    /// the blocked one by 1e-5.
    #[test]
    fn the_blocked_order_keeps_the_error_small() {
        let n = 1 << 16;
        let mut d = desc([1, n, 1], false, DType::F32);
        d.src_offset = 0;
        let src = vec![0.1f32.to_bits(); n];
        let out = check::run(&cumsum(&d, "cumsum", Target::Cpu), &[&src], n, 1);
        let exact = f64::from(0.1f32) * n as f64;
        let plain = (0..n).fold(0f32, |sum, _| sum + 0.1);
        let error = |got: f32| (f64::from(got) / exact - 1.0).abs();
        assert!(error(plain) > 5e-4);
        assert!(error(f32::from_bits(out[n - 1])) < 2e-5);
    }
}
