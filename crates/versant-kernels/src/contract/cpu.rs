//! The CPU twin: what both kinds of contraction share, and the matrix product.
//!
//! Work is cut into tasks by *shape only*; a task computes some contiguous runs of the result into a
//! thread's own scratch, then hands each run to the epilogue while it is in cache. So the result does not
//! depend on the number of threads. Only whole rows of a large product are dealt out by that number, and no sum with them.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::cpu_conv;
use super::gemm_call::gemm;
use super::gpu::epilogue_bindings;
use super::panel::{COLS, Mat, Product, RowsProduct, Sums, Tiles, WIDE, rows};
use super::{ContractLaunch, Contraction, MatMul, Operand};
use crate::eval::{Evaluator, Runs};
use crate::lanes::{Words, fold_lanes};
use crate::math::widen;
use crate::{DType, KernelSource, Program, View};

/// Takes accumulators: where they lie in the row-major result, and the values.
pub(super) type Sink<'a> = dyn Fn(Runs, &[f32]) + Sync + 'a;

/// Halves that a thread makes f32 of at a time.
const WIDENED: usize = 1 << 14;

/// Below this many multiply-adds a contraction stays on the calling thread.
pub(super) const SEQUENTIAL_MACS: usize = 1 << 19;

/// The one launch of a contraction on the CPU. Reads: the operands, then what the epilogue reads.
pub(super) fn kernel(c: &Contraction, epilogue: Program, label: &str) -> ContractLaunch {
    let (mut reads, writes) = epilogue_bindings(&epilogue);
    reads.splice(0..0, [Operand::A, Operand::B]);
    let uses_scalars = epilogue.uses_scalars();
    let evaluator = Evaluator::epilogue(epilogue);
    let only_stores = evaluator.only_stores();
    let mut c = c.clone();
    let [a_range, b_range] = widened(&mut c);
    let types = c.types();
    let source = KernelSource {
        label: label.to_owned(),
        wgsl: String::new(),
        reads: reads.len(),
        writes: writes.len(),
        params: Vec::new(),
        uses_scalars,
        trusted: true,
        grid: [1, 1, 1],
        native: Some(Arc::new(move |reads, writes, scalars| {
            let (a, b) = (values(reads[0], types[0], &a_range), values(reads[1], types[1], &b_range));
            if let Contraction::MatMul(mm) = &c
                && only_stores
                && straight(mm, &a, &b, bytemuck::cast_slice_mut(writes[0]))
            {
                return;
            }
            evaluator.shared(&reads[2..], writes, scalars, |sink| accumulate(&c, &a, &b, sink));
        })),
    };
    ContractLaunch { source, reads, writes }
}

/// The same of both operands.
fn widened(c: &mut Contraction) -> [Range<usize>; 2] {
    let types = c.types();
    let (a, b) = match c {
        Contraction::MatMul(m) => (&mut m.a, &mut m.b),
        Contraction::Conv(c) => (&mut c.a, &mut c.b),
    };
    [begin(a, types[0]), begin(b, types[1])]
}

/// Has the view of an operand that is halves begin where its elements do; returns what elements those are.
pub(crate) fn begin(view: &mut View, dtype: DType) -> Range<usize> {
    if !dtype.is_half() || view.shape.numel() == 0 {
        return 0..0;
    }
    let ends = view.shape.iter().zip(&view.strides).map(|(&d, &s)| (d as isize - 1) * s);
    let (low, high) = ends.fold((view.offset, view.offset), |(l, h), e| (l + e.min(0), h + e.max(0)));
    view.offset -= low;
    low as usize..high as usize + 1
}

/// An operand in f32. Halves are made so all at once, before the work is cut: the copy lives as long as the product.
pub(crate) fn values<'a>(words: &'a [u32], dtype: DType, range: &Range<usize>) -> Cow<'a, [f32]> {
    if !dtype.is_half() {
        return Cow::Borrowed(bytemuck::cast_slice(words));
    }
    let halves: &[u16] = &bytemuck::cast_slice(words)[range.clone()];
    let mut copy = vec![0f32; halves.len()];
    let chunk = |(to, from): (&mut [f32], &[u16])| {
        let to: &mut [u32] = bytemuck::cast_slice_mut(to);
        to.iter_mut().zip(from).for_each(|(to, &h)| *to = u32::from(h));
        widen(dtype, to);
    };
    copy.par_chunks_mut(WIDENED).zip(halves.par_chunks(WIDENED)).for_each(chunk);
    Cow::Owned(copy)
}

/// Computes every accumulator of `c` and passes each to `sink` once.
pub(super) fn accumulate(c: &Contraction, a: &[f32], b: &[f32], sink: &Sink<'_>) {
    let out = c.output_shape().numel();
    if out == 0 {
        return;
    }
    if super::cost(c).0 == 0 {
        let zeros = vec![0.0; out.min(1 << 12)];
        for start in (0..out).step_by(zeros.len()) {
            let zeros = &zeros[..zeros.len().min(out - start)];
            sink(Runs::one(start, zeros.len()), zeros);
        }
        return;
    }
    match c {
        Contraction::MatMul(mm) => matmul(mm, a, b, sink),
        Contraction::Conv(cv) => cpu_conv::conv(cv, a, b, sink),
    }
}

/// Runs `f` for every task number, on all threads unless the work is small.
pub(super) fn for_each_task(tasks: usize, macs: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks <= 1 || macs <= SEQUENTIAL_MACS {
        (0..tasks).for_each(f);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// The part of `0..extent` that piece `i` of size `step` covers.
pub(super) fn piece(i: usize, step: usize, extent: usize) -> Range<usize> {
    i * step..((i + 1) * step).min(extent)
}

thread_local! {
    static SCRATCH: [Cell<Words>; 7] = Default::default();
}

/// Calls `f` with `len` floats of the thread's scratch buffer number `which`, whose contents are undefined.
///
/// The buffer is taken out of its place for the duration, so that a task which a thread steals in
/// between gets a fresh one instead of the same one twice.
pub(crate) fn with_scratch<R>(which: usize, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with(|s| s[which].take());
    buffer.reserve(len);
    let result = f(bytemuck::cast_slice_mut(&mut buffer[..len]));
    SCRATCH.with(|s| s[which].set(buffer));
    result
}

/// How a matrix product is cut into tasks.
#[derive(Debug, PartialEq)]
struct MatMulTasks {
    /// Rows and columns of a task's block.
    block: [usize; 2],
    /// Matrices of the batch per task; more than 1 only where a block is a whole matrix.
    batches: usize,
}

impl MatMulTasks {
    /// Accumulators of a task: half a megabyte.
    const ACC: usize = 1 << 17;
    /// Multiply-adds that a task should have at least.
    const MACS: usize = 1 << 20;
    /// Pieces that a single large matrix is cut into if its tasks stay large enough.
    const PIECES: usize = 16;

    fn new(batch: usize, [m, n, k]: [usize; 3]) -> MatMulTasks {
        // A short sum costs what loading and storing costs.
        let macs = m * n * k.max(16);
        let pieces = (macs / Self::MACS).clamp(1, Self::PIECES.div_ceil(batch));
        // Rows are cut first, because a block of whole rows is one run of the result; but not below 64,
        // where packing the right operand again for each block would cost too much.
        let by_rows = pieces.min(m.div_ceil(64));
        let rows = cut(m, by_rows, 8).min((Self::ACC / n).max(64));
        let by_cols = pieces.div_ceil(by_rows).max((rows * n).div_ceil(Self::ACC));
        let cols = cut(n, by_cols, 64);
        let whole = rows == m && cols == n;
        let batches = (Self::MACS / macs).min(Self::ACC / (m * n)).max(1);
        MatMulTasks { block: [rows, cols], batches: if whole { batches } else { 1 } }
    }

    /// The same for one matrix over panels that several tasks share: the cut whose tasks read and pack the least.
    fn over_panels([m, n, k]: [usize; 3]) -> MatMulTasks {
        let powers = |extent: usize| (0..=(extent / 64).max(1).ilog2()).map(|i| 1 << i);
        let most = powers(m).next_back().unwrap_or(1) * powers(n).next_back().unwrap_or(1);
        let pieces = (m * n * k.max(16) / (2 * Self::MACS)).clamp(1, Self::PIECES / 2).min(most);
        let cuts = powers(n).flat_map(|by_cols| powers(m).map(move |by_rows| [by_rows, by_cols]));
        let blocks = cuts.map(|[by_rows, by_cols]| {
            let shared = usize::from(by_rows > 1) * n + usize::from(by_cols > 1) * m;
            (
                by_cols * m + by_rows * n + shared,
                [cut(m, by_rows, WIDE), cut(n, by_cols, 64)],
                by_rows * by_cols,
            )
        });
        let fits = |(_, [rows, cols], tasks): &(usize, [usize; 2], usize)| {
            *tasks >= pieces && (rows * cols <= Self::ACC || *tasks == most)
        };
        let best = blocks.filter(fits).min_by_key(|&(cost, ..)| cost);
        MatMulTasks { block: best.map_or([m, n], |(_, block, _)| block), batches: 1 }
    }
}

/// The size of pieces of an extent in whole units.
fn cut(extent: usize, pieces: usize, unit: usize) -> usize {
    (extent.div_ceil(pieces).next_multiple_of(unit)).min(extent)
}

fn matmul(mm: &MatMul, a: &[f32], b: &[f32], sink: &Sink<'_>) {
    let [m, n, k] = [mm.m, mm.n, mm.k];
    let batch = mm.batch.numel();
    let (macs, right) = (batch * m * n * k, matrix(&mm.b, b, 0));
    let tiled = batch == 1 && over_tiles(m, &right);
    if tiled && is_long([m, n, k]) && macs > SEQUENTIAL_MACS {
        return over_steps([matrix(&mm.a, a, 0), right], sink);
    }
    let tasks = if tiled { MatMulTasks::over_panels([m, n, k]) } else { MatMulTasks::new(batch, [m, n, k]) };
    let [height, cols] = tasks.block;
    let (row_tasks, col_tasks) = (m.div_ceil(height), n.div_ceil(cols));
    let count = batch.div_ceil(tasks.batches) * row_tasks * col_tasks;
    // What several tasks read is packed once; the rest where and when it is used.
    let left = (tiled && col_tasks > 1).then(|| matrix(&mm.a, a, 0)).filter(|a| !in_place(a, cols));
    let right = (tiled && row_tasks > 1).then_some(right);
    with_blocks([left, right], macs > SEQUENTIAL_MACS, |shared| {
        for_each_task(count, macs, |task| {
            let (outer, col) = (task / col_tasks, task % col_tasks);
            let (outer, row) = (outer / row_tasks, outer % row_tasks);
            let (row, col) = (piece(row, height, m), piece(col, cols, n));
            let matrices = piece(outer, tasks.batches, batch);
            let size = row.len() * col.len();
            with_scratch(0, matrices.len() * size, |acc| {
                for (i, acc) in matrices.clone().zip(acc.chunks_exact_mut(size)) {
                    let a = matrix(&mm.a, a, i).block([row.start, 0], [row.len(), k]);
                    let b = matrix(&mm.b, b, i).block([0, col.start], [k, col.len()]);
                    match tiled {
                        true => over_panels(acc, [a, b], shared, [row.start, col.start], false),
                        false => product(acc, a, b, false),
                    }
                }
                let start = matrices.start * m * n + row.start * n + col.start;
                let len = if col.len() == n { acc.len() } else { col.len() };
                sink(Runs { start, len, apart: n }, acc);
            });
        });
    });
}

/// A product of some size that is all there is to compute goes to its place by whole rows, once all steps have been added: few lines
/// come from memory then while there is much to compute. False if it is another, and nothing done. Tasks are as many as the
/// threads have a use for: no sum depends on which rows are computed together.
fn straight(mm: &MatMul, a: &[f32], b: &[f32], out: &mut [f32]) -> bool {
    let [m, n, k] = [mm.m, mm.n, mm.k];
    let tasks = (2 * rayon::current_num_threads()).max(m.div_ceil(STRAIGHT[0]));
    let fits = mm.batch.numel() == 1 && m >= 64 * tasks && (64..=STRAIGHT[1]).contains(&n) && k >= LONG;
    if !fits || is_long([m, n, k]) || !over_tiles(m, &matrix(&mm.b, b, 0)) {
        return false;
    }
    let (a, b, height) = (matrix(&mm.a, a, 0), matrix(&mm.b, b, 0), cut(m, tasks, WIDE));
    with_blocks([None, Some(b)], true, |shared| {
        let out = out[..m * n].par_chunks_mut(height * n).with_max_len(1);
        out.enumerate().for_each(|(task, out)| {
            let a = a.block([task * height, 0], [out.len() / n, k]);
            over_panels(out, [a, b], shared, [task * height, 0], false);
        });
    });
    true
}

/// The most rows of a task of [`straight`], and columns: 2 MiB of sums.
const STRAIGHT: [usize; 2] = [256, 2048];

/// Steps of the contracted index that a task of [`over_steps`] has at least.
const LONG: usize = 512;

/// Whether a product's tasks are steps of its contracted index.
fn is_long([m, n, k]: [usize; 3]) -> bool {
    m * n <= MatMulTasks::ACC && k >= (2 * LONG).max(2 * m.max(n))
}

/// A product of long sums: each task reads and packs its own steps of both operands, and the tasks' sums are added up in order.
fn over_steps([a, b]: [Mat<'_>; 2], sink: &Sink<'_>) {
    let ([m, k], n) = (a.size, b.size[1]);
    let pieces = (k / LONG).min(8);
    let (steps, size) = (k.div_ceil(pieces).next_multiple_of(COLS), m * n);
    let pieces = k.div_ceil(steps);
    with_scratch(4, pieces * size, |sums| {
        sums.par_chunks_mut(size).with_max_len(1).enumerate().for_each(|(i, acc)| {
            let part = piece(i, steps, k);
            let (a, b) =
                (a.block([0, part.start], [m, part.len()]), b.block([part.start, 0], [part.len(), n]));
            over_panels(acc, [a, b], [&[], &[]], [0, 0], false);
        });
        let (first, others) = sums.split_at_mut(size);
        let run = cut(m, MatMulTasks::PIECES, 1) * n;
        first.par_chunks_mut(run).enumerate().for_each(|(i, acc)| {
            for other in others.chunks_exact(size) {
                fold_lanes(acc, &other[i * run..i * run + acc.len()], |x, y| x + y);
            }
            sink(Runs::one(i * run, acc.len()), acc);
        });
    });
}

/// Whether a product of `m` rows goes over tiles of our own: the library's for narrower vectors are as good, and few rows
/// do not pay for packing a large right operand that lies along the contracted index.
fn over_tiles(m: usize, b: &Mat<'_>) -> bool {
    let few = if b.strides[1] == 1 {
        WIDE
    } else if b.size[0] * b.size[1] <= 1 << 17 {
        4 * WIDE
    } else {
        16 * WIDE
    };
    rows() == WIDE && m >= few && b.size[1] >= COLS
}

/// `dst = a · b`, or `dst += a · b` if `add`, on the calling thread; `dst` is dense row-major.
pub(crate) fn product(dst: &mut [f32], a: Mat<'_>, b: Mat<'_>, add: bool) {
    if !over_tiles(a.size[0], &b) || a.size[1] == 0 {
        return gemm(dst, a, b, add);
    }
    over_panels(dst, [a, b], [&[], &[]], [0, 0], add);
}

/// Steps of the contracted index that are packed together: two panels of columns then fit the first-level cache.
fn depth_of(k: usize) -> usize {
    k.div_ceil(k.div_ceil(256))
}

/// Whether rows of a left operand are read where they lie, for so many columns. Rows a page apart would share their places
/// in the cache with one another, and with the panels.
fn in_place(a: &Mat<'_>, cols: usize) -> bool {
    a.strides[1] == 1 && (a.strides[0] % 1024 != 0 || cols < 16 * COLS)
}

/// Calls `f` with panels of the rows of a left and the columns of a right operand, where they are asked for.
fn with_blocks<R>([a, b]: [Option<Mat<'_>>; 2], parallel: bool, f: impl FnOnce([&[f32]; 2]) -> R) -> R {
    let len = |m: Option<Mat<'_>>, unit: usize| m.map_or(0, |m| m.size[1].next_multiple_of(unit) * m.size[0]);
    let a = a.map(Mat::t);
    with_scratch(4, len(a, WIDE), |left| {
        with_scratch(5, len(b, COLS), |right| {
            if let Some(a) = a {
                pack_blocks::<WIDE>(a, left, parallel);
            }
            if let Some(b) = b {
                pack_blocks::<COLS>(b, right, parallel);
            }
            f([left, right])
        })
    })
}

/// Packs the columns of an operand into panels, some steps of the contracted index, its rows, after the other.
fn pack_blocks<const W: usize>(from: Mat<'_>, out: &mut [f32], parallel: bool) {
    let [k, lanes] = from.size;
    let depth = depth_of(k);
    let columns = if parallel { 4 * COLS } else { lanes.next_multiple_of(W) };
    let one = |i: usize, j: usize, out: &mut [f32]| {
        let (steps, width) = (depth.min(k - i * depth), columns.min(lanes - j * columns));
        from.block([i * depth, j * columns], [steps, width]).pack::<W>(out);
    };
    let block = |(i, out): (usize, &mut [f32])| match parallel {
        true => {
            let pieces = out.par_chunks_mut(depth.min(k - i * depth) * columns).enumerate();
            pieces.for_each(|(j, out)| one(i, j, out));
        }
        false => one(i, 0, out),
    };
    let size = lanes.next_multiple_of(W) * depth;
    match parallel {
        true => out.par_chunks_mut(size).enumerate().for_each(block),
        false => out.chunks_mut(size).enumerate().for_each(block),
    }
}

/// `acc = a · b`, or `acc += a · b`, where shared panels, if there are any, have rows and columns from these numbers on.
fn over_panels(acc: &mut [f32], [a, b]: [Mat<'_>; 2], shared: [&[f32]; 2], at: [usize; 2], add: bool) {
    let ([m, k], n) = (a.size, b.size[1]);
    let (rows, cols) = (m.next_multiple_of(WIDE), n.next_multiple_of(COLS));
    let several = depth_of(k) < k && !add;
    with_scratch(6, if several { rows * cols } else { 0 }, |kept| {
        for first in (0..k).step_by(depth_of(k)) {
            let depth = depth_of(k).min(k - first);
            let (a, b) = (a.block([0, first], [m, depth]), b.block([first, 0], [depth, n]));
            let panels = |i: usize, lanes: usize| {
                let start = shared[i].len() / k * first + at[i] * depth;
                &shared[i][start..start + lanes * depth]
            };
            let (acc, sums) = match several {
                false => (&mut *acc, Sums::stored_or_added(add || first > 0)),
                true if first + depth < k => (&mut *kept, Sums::Keep { more: first > 0 }),
                true => (&mut *acc, Sums::Finish(kept)),
            };
            let alone = shared[1].is_empty();
            with_scratch(3, if alone { cols * depth } else { 0 }, |own| {
                if alone {
                    b.pack::<COLS>(own);
                }
                let b = if alone { &*own } else { panels(1, cols) };
                let over = |a: &[f32], acc| Product { a, b, depth, acc, ld: n, size: [m, n], sums }.run();
                if !shared[0].is_empty() {
                    over(panels(0, rows), acc);
                } else if in_place(&a, n) {
                    RowsProduct { a, b, acc, cols: n, sums }.run();
                } else {
                    with_scratch(2, rows * depth, |own| {
                        a.t().pack::<WIDE>(own);
                        over(own, acc);
                    });
                }
            });
        }
    });
}

/// Matrix number `index` (row-major over the leading dimensions) of a view.
fn matrix<'a>(view: &View, data: &'a [f32], index: usize) -> Mat<'a> {
    let lead = view.shape.rank() - 2;
    let (mut offset, mut rest) = (view.offset, index);
    for axis in (0..lead).rev() {
        offset += (rest % view.shape[axis]) as isize * view.strides[axis];
        rest /= view.shape[axis];
    }
    Mat {
        data,
        offset,
        size: [view.shape[lead], view.shape[lead + 1]],
        strides: [view.strides[lead], view.strides[lead + 1]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_every_shape_and_stay_within_the_scratch() {
        let extents = [1, 2, 7, 31, 64, 100, 513, 4000, 200_000];
        for &m in &extents {
            for &n in &extents {
                for k in [1, 64, 3000] {
                    for batch in [1, 3, 1000] {
                        let over_panels = batch == 1 && k == 64;
                        let t = match over_panels {
                            true => MatMulTasks::over_panels([m, n, k]),
                            false => MatMulTasks::new(batch, [m, n, k]),
                        };
                        let [rows, cols] = t.block;
                        assert!(rows >= 1 && rows <= m && cols >= 1 && cols <= n, "{t:?}");
                        let acc = t.batches * rows * cols;
                        assert!(acc <= 2 * MatMulTasks::ACC, "{m} {n} {k}: {t:?}");
                        assert!(t.batches == 1 || t.block == [m, n]);
                    }
                }
            }
        }
    }
}
