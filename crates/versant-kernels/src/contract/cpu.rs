//! The CPU twin: what both kinds of contraction share, and the matrix product.
//!
//! Work is cut into tasks by *shape only*; a task computes some contiguous runs of the result into a
//! thread's own scratch, then hands each run to the epilogue while it is in cache. So the result does not
//! depend on the number of threads.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::cpu_conv;
use super::gemm_call::gemm;
use super::gpu::epilogue_bindings;
use super::panel::{COLS, Mat, Product, RowsProduct, Tiles, WIDE, rows};
use super::{ContractLaunch, Contraction, MatMul, Operand};
use crate::eval::Evaluator;
use crate::math::widen;
use crate::{DType, KernelSource, Program, View};

/// Takes a run of accumulators: the row-major index of the first in the result, and the values.
pub(super) type Sink<'a> = dyn Fn(usize, &[f32]) + Sync + 'a;

/// Halves that a thread makes f32 of at a time.
const WIDENED: usize = 1 << 14;

/// Below this many multiply-adds a contraction stays on the calling thread.
pub(super) const SEQUENTIAL_MACS: usize = 1 << 19;

/// The one launch of a contraction on the CPU. Reads: the operands, then what the epilogue reads.
pub(super) fn kernel(c: &Contraction, epilogue: Program, label: &str) -> ContractLaunch {
    let (mut reads, writes) = epilogue_bindings(&epilogue);
    reads.splice(0..0, [Operand::A, Operand::B]);
    let uses_scalars = epilogue.uses_scalars();
    let evaluator = Evaluator::new(epilogue);
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
            sink(start, &zeros[..zeros.len().min(out - start)]);
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
    static SCRATCH: [Cell<Vec<f32>>; 6] = const { [const { Cell::new(Vec::new()) }; 6] };
}

/// Calls `f` with `len` floats of the thread's scratch buffer number `which`, whose contents are undefined.
///
/// The buffer is taken out of its place for the duration, so that a task which a thread steals in
/// between gets a fresh one instead of the same one twice.
pub(crate) fn with_scratch<R>(which: usize, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with(|s| s[which].take());
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = f(&mut buffer[..len]);
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
        let cut = |extent: usize, pieces: usize, unit: usize| {
            (extent.div_ceil(pieces).next_multiple_of(unit)).min(extent)
        };
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
}

fn matmul(mm: &MatMul, a: &[f32], b: &[f32], sink: &Sink<'_>) {
    let [m, n, k] = [mm.m, mm.n, mm.k];
    let batch = mm.batch.numel();
    let tasks = MatMulTasks::new(batch, [m, n, k]);
    let [height, cols] = tasks.block;
    let (row_tasks, col_tasks) = (m.div_ceil(height), n.div_ceil(cols));
    let count = batch.div_ceil(tasks.batches) * row_tasks * col_tasks;
    let macs = batch * m * n * k;
    let shared = over_tiles(m, &matrix(&mm.b, b, 0)) && batch == 1 && row_tasks > 1;
    with_scratch(3, if shared { n.next_multiple_of(COLS) * k } else { 0 }, |packed| {
        if shared {
            pack_right(matrix(&mm.b, b, 0), packed, macs > SEQUENTIAL_MACS);
        }
        let packed = &*packed;
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
                    match shared {
                        true => over_panels(acc, a, packed, col.start, false),
                        false => product(acc, a, b, false),
                    }
                }
                let start = matrices.start * m * n + row.start * n + col.start;
                if col.len() == n {
                    sink(start, acc);
                } else {
                    for (r, acc) in acc.chunks_exact(col.len()).enumerate() {
                        sink(start + r * n, acc);
                    }
                }
            });
        });
    });
}

/// Whether a product of `m` rows goes over tiles of our own: the library's for narrower vectors are as good, and it
/// packs few columns that lie along the contracted index faster.
fn over_tiles(m: usize, b: &Mat<'_>) -> bool {
    rows() == WIDE && m >= if b.strides[1] == 1 { WIDE } else { 16 * WIDE } && b.size[1] >= COLS
}

/// `dst = a · b`, or `dst += a · b` if `add`, on the calling thread; `dst` is dense row-major.
pub(crate) fn product(dst: &mut [f32], a: Mat<'_>, b: Mat<'_>, add: bool) {
    if !over_tiles(a.size[0], &b) || a.size[1] == 0 {
        return gemm(dst, a, b, add);
    }
    with_scratch(3, b.size[1].next_multiple_of(COLS) * b.size[0], |packed| {
        pack_right(b, packed, false);
        over_panels(dst, a, packed, 0, add);
    });
}

/// Steps of the contracted index that are packed together: two panels of columns then fit the first-level cache.
fn depth_of(k: usize) -> usize {
    k.div_ceil(k.div_ceil(256))
}

/// Packs a right operand into panels of columns, some steps of the contracted index after the other.
fn pack_right(b: Mat<'_>, out: &mut [f32], parallel: bool) {
    let [k, n] = b.size;
    let depth = depth_of(k);
    for (i, out) in out.chunks_mut(n.next_multiple_of(COLS) * depth).enumerate() {
        let depth = depth.min(k - i * depth);
        let columns = if parallel { 4 * COLS } else { n };
        let one = |(j, out): (usize, &mut [f32])| {
            let width = columns.min(n - j * columns);
            b.block([i * depth_of(k), j * columns], [depth, width]).pack::<COLS>(out);
        };
        match parallel {
            true => out.par_chunks_mut(depth * columns).enumerate().for_each(one),
            false => one((0, out)),
        }
    }
}

/// The same for the columns of packed panels from number `col`, the first of a panel, on.
fn over_panels(acc: &mut [f32], a: Mat<'_>, packed: &[f32], col: usize, add: bool) {
    let [m, k] = a.size;
    let ld = acc.len() / m;
    let columns = packed.len() / k;
    for first in (0..k).step_by(depth_of(k)) {
        let depth = depth_of(k).min(k - first);
        let b = &packed[columns * first + col * depth..][..ld.next_multiple_of(COLS) * depth];
        let a = a.block([0, first], [m, depth]);
        let add = add || first > 0;
        // Rows a page apart would share their places in the cache with one another, and with the panels.
        if a.strides[1] == 1 && (a.strides[0] % 1024 != 0 || ld < 16 * COLS) {
            RowsProduct { a, b, acc, add }.run();
            continue;
        }
        with_scratch(2, m.next_multiple_of(WIDE) * depth, |panels| {
            a.t().pack::<WIDE>(panels);
            Product { a: panels, b, depth, acc, ld, size: [m, ld], add }.run();
        });
    }
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
                        let t = MatMulTasks::new(batch, [m, n, k]);
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
