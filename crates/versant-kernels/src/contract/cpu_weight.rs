//! The weight gradient of a convolution on the CPU: out channels are the columns of its product, taps the rows, which are lines
//! of the padded samples read in place. Samples are summed in an order that depends on the shape only.

use std::ops::Range;

use rayon::prelude::*;

use super::cpu::{SEQUENTIAL_MACS, Sink, piece, with_scratch};
use super::cpu_conv::{COL, Extents, MIN_TASKS, Operands, channel_block, with_buffers};
use super::panel::{COLS, Mat, RowsProduct, Sums, Tiles, WIDE};
use super::patches::{PaddedShape, PatchRows, WeightProduct};
use super::{depthwise, winograd};
use crate::eval::Runs;
use crate::lanes::vectorised;

/// Steps over pixels that short lines of several samples make up.
const STEPS: usize = 256;
/// Floats that the partial sums of a weight gradient may take, beyond the first.
const PARTIALS: usize = 1 << 19;

/// How a weight gradient is cut: `chunks` runs of `samples` samples, times groups, times blocks of
/// `channels` input channels. Each task sums its samples in order into a partial result of its own.
struct WeightTasks {
    chunks: usize,
    samples: usize,
    channels: usize,
    /// Output channels of a row of a partial result, whole panels.
    ld: usize,
    /// Whether it is computed by Winograd's tiles.
    by_tiles: bool,
}

impl WeightTasks {
    fn new(e: &Extents<'_>) -> WeightTasks {
        let total = e.conv.weight_shape().numel();
        let most = (PARTIALS / total).clamp(1, MIN_TASKS.div_ceil(e.conv.groups)).min(e.conv.n);
        let samples = e.conv.n.div_ceil(most);
        let chunks = e.conv.n.div_ceil(samples);
        let (mut channels, by_tiles) = (channel_block(e, chunks * e.conv.groups), winograd::suits(e));
        if by_tiles {
            // Each block transforms the whole gradient: few blocks, of whole tiles.
            channels = channels.next_multiple_of(4 * WIDE).min(e.c_in);
        }
        WeightTasks { chunks, samples, channels, ld: e.c_out.next_multiple_of(COLS), by_tiles }
    }
}

pub(super) fn weight_grad(e: &Extents<'_>, ops: &Operands<'_>, sink: &Sink<'_>) {
    let c = e.conv;
    if depthwise::suits(e) {
        return depthwise::weight_grad(e, ops, sink);
    }
    let grad = ops.grad.as_ref().expect("a weight gradient reads the output gradient");
    let t = WeightTasks::new(e);
    let line = PaddedShape::new(c, t.channels, 1).len(1);
    let lines = (2 * COL / line).clamp(1, c.output[0]);
    let lines = c.output[0].div_ceil(c.output[0].div_ceil(lines));
    let cuts = e.c_in.div_ceil(t.channels);
    let one = |task: usize| -> Vec<f32> {
        let (channels, task) = (piece(task % cuts, t.channels, e.c_in), task / cuts);
        let (g, chunk) = (task % c.groups, piece(task / c.groups, t.samples, c.n));
        let taps = channels.len() * e.taps;
        let from = g * e.c_in + channels.start..g * e.c_in + channels.end;
        let out = g * e.c_out..(g + 1) * e.c_out;
        let mut sum = vec![0.0; taps * t.ld];
        if t.by_tiles {
            winograd::weight_sum(e, ops, [from, out], chunk, &mut sum);
            return sum;
        }
        if c.output[1] <= COLS {
            over_patches(e, ops, [from, out], chunk, lines, &mut sum);
            return sum;
        }
        let size = PaddedShape::new(c, channels.len(), lines).len(1);
        with_buffers([0, t.ld * lines * c.output[1], size], |[_, panels, words]| {
            for s in chunk {
                for y in (0..c.output[0]).step_by(lines) {
                    let lines = lines.min(c.output[0] - y);
                    let shape = PaddedShape::new(c, channels.len(), lines);
                    let words = &mut words[..shape.len(1)];
                    let image = &shape.fill(words, c, &ops.image, &(s..s + 1), &from, y);
                    let pixels = y * c.output[1]..(y + lines) * c.output[1];
                    let panels = &mut panels[..t.ld * pixels.len()];
                    grad.matrix(s, out.clone(), pixels).t().pack::<COLS>(panels);
                    WeightProduct { image, taps, grad: panels, acc: &mut sum }.run();
                }
            }
        });
        sum
    };
    let tasks = t.chunks * c.groups * cuts;
    let partials: Vec<Vec<f32>> = match e.macs() < SEQUENTIAL_MACS {
        true => (0..tasks).map(one).collect(),
        false => (0..tasks).into_par_iter().with_max_len(1).map(one).collect(),
    };
    reduce(e, &t, partials, sink);
}

/// Adds to a partial weight gradient where lines are shorter than a panel: they are put after one another first, those of
/// some samples, as a patch matrix that stays in the second-level cache.
fn over_patches(
    e: &Extents<'_>,
    ops: &Operands<'_>,
    [from, out]: [Range<usize>; 2],
    chunk: Range<usize>,
    lines: usize,
    sum: &mut [f32],
) {
    let (c, taps) = (e.conv, from.len() * e.taps);
    let grad = ops.grad.as_ref().expect("a weight gradient reads the output gradient");
    let width = c.output[1];
    let together = if lines == c.output[0] { (STEPS / e.pixels).clamp(1, chunk.len()) } else { 1 };
    // A copy of a line is a panel long, whatever the line's length.
    let ld = together * lines * width + COLS;
    let size = PaddedShape::new(c, from.len(), lines).len(1);
    with_buffers([taps * ld, sum.len() / taps * ld, size], |[patches, panels, words]| {
        for first in chunk.clone().step_by(together) {
            let samples = first..(first + together).min(chunk.end);
            for y in (0..c.output[0]).step_by(lines) {
                let lines = lines.min(c.output[0] - y);
                let (pixels, depth) = (lines * width, samples.len() * lines * width);
                let panels = &mut panels[..sum.len() / taps * depth];
                for (i, s) in samples.clone().enumerate() {
                    let shape = PaddedShape::new(c, from.len(), lines);
                    let words = &mut words[..shape.len(1)];
                    let image = &shape.fill(words, c, &ops.image, &(s..s + 1), &from, y);
                    vectorised(PatchRows { image, out: &mut patches[i * pixels..], ld });
                    for (p, panel) in panels.chunks_exact_mut(depth * COLS).enumerate() {
                        let channels = out.start + p * COLS..(out.start + (p + 1) * COLS).min(out.end);
                        let from = grad.matrix(s, channels, y * width..y * width + pixels);
                        from.t().pack::<COLS>(&mut panel[i * pixels * COLS..][..pixels * COLS]);
                    }
                }
                let a = Mat { data: patches, offset: 0, size: [taps, depth], strides: [ld as isize, 1] };
                let cols = sum.len() / taps;
                RowsProduct { a, b: panels, acc: sum, cols, sums: Sums::Add }.run();
            }
        }
    });
}

/// Adds the partial weight gradients of all chunks, pairwise, and hands the sums to the sink.
fn reduce(e: &Extents<'_>, t: &WeightTasks, mut partials: Vec<Vec<f32>>, sink: &Sink<'_>) {
    let cuts = e.c_in.div_ceil(t.channels);
    let per_chunk = e.conv.groups * cuts;
    let mut step = 1;
    while step < t.chunks {
        // Chunk i takes in chunk i + step for every i that is a multiple of 2 · step.
        let work = |pair: &mut [Vec<f32>]| {
            if pair.len() > step * per_chunk {
                let (left, right) = pair.split_at_mut(step * per_chunk);
                for (l, r) in left[..per_chunk].iter_mut().zip(right.iter()) {
                    l.iter_mut().zip(r).for_each(|(l, r)| *l += *r);
                }
            }
        };
        partials.par_chunks_mut(2 * step * per_chunk).for_each(work);
        step *= 2;
    }
    let depth = e.c_in * e.taps;
    partials[..per_chunk].par_iter().enumerate().for_each(|(task, sum)| {
        let (channel, g) = (task % cuts * t.channels, task / cuts);
        let rows = t.channels.min(e.c_in - channel) * e.taps;
        let start = g * e.c_out * depth + channel * e.taps;
        with_scratch(0, e.c_out * rows, |turned| {
            for (tap, sums) in sum.chunks_exact(t.ld).enumerate() {
                for (oc, &x) in sums[..e.c_out].iter().enumerate() {
                    turned[oc * rows + tap] = x;
                }
            }
            let len = if rows == depth { turned.len() } else { rows };
            sink(Runs { start, len, apart: depth }, turned);
        });
    });
}
