//! Depthwise convolution on the CPU: a channel by itself, for which a matrix product has a single row.
//!
//! Planes are copied with their padding around them (`patches.rs`), lines by the remainders of the stride. So what neighbouring
//! output pixels read through a tap are neighbours: sixteen of them are a vector, whatever the stride. A tap of the forward pass
//! is a multiply-add of such vectors, of the weight gradient one into the tap's own sums, and of the input gradient one into a plane
//! in that order, which is brought into that of pixels at the end. Cuts depend on shape only.

use std::ops::Range;

use pulp::Simd;

use super::Conv;
use super::cpu::{Sink, for_each_task, piece, with_scratch};
use super::cpu_conv::{Extents, IMAGE, MIN_TASKS, Operands, weight_matrix, with_buffers};
use super::panel::{COLS, Mat, over_panels, put};
use super::patches::{Padded, PaddedShape, Planes, SLACK};
use crate::eval::Runs;
use crate::lanes::{arch, tree};

/// Taps of a weight gradient whose sums are in registers at once.
const TAPS: usize = 8;
/// Fewer channels are not enough tasks for a weight gradient.
const CHANNELS: usize = 8;

/// Whether each of many groups is one channel on both sides.
pub(super) fn suits(e: &Extents<'_>) -> bool {
    e.c_in == 1 && e.c_out == 1 && e.conv.groups >= CHANNELS
}

/// Channels of a task, where one takes so many floats and there are so many tasks without cutting them.
fn channel_block(c: &Conv, plane: usize, tasks: usize) -> usize {
    (IMAGE / plane).min((c.groups * tasks).div_ceil(MIN_TASKS)).clamp(1, c.groups)
}

/// The weights of some channels after one another.
fn with_weights<'w, R>(
    weight: impl Fn(usize) -> Mat<'w>,
    channels: &Range<usize>,
    taps: usize,
    f: impl FnOnce(&[f32]) -> R,
) -> R {
    with_scratch(5, channels.len() * taps, |all| {
        for (to, channel) in all.chunks_exact_mut(taps).zip(channels.clone()) {
            let from = weight(channel);
            to.copy_from_slice(&from.data[from.offset as usize..][..taps]);
        }
        f(all)
    })
}

/// A convolution of `image` with weights `[1, taps]` of each channel.
pub(super) fn forward<'w>(
    e: &Extents<'_>,
    image: &Planes<'_>,
    weight: impl Fn(usize) -> Mat<'w> + Sync,
    sink: &Sink<'_>,
) {
    let (c, [height, width]) = (e.conv, e.conv.output);
    let line = c.stride[0] * PaddedShape::new(c, 1, 1).len(1) + width;
    let lines = height.div_ceil(height.div_ceil((IMAGE / line).clamp(1, height)));
    let cuts = height.div_ceil(lines);
    let block = channel_block(c, PaddedShape::new(c, 1, lines).len(1) + lines * width, c.n * cuts);
    let blocks = c.groups.div_ceil(block);
    for_each_task(c.n * blocks * cuts, e.macs(), |task| {
        let (lines, task) = (piece(task % cuts, lines, height), task / cuts);
        let (channels, s) = (piece(task % blocks, block, c.groups), task / blocks);
        let shape = PaddedShape::new(c, channels.len(), lines.len());
        let pixels = lines.len() * width;
        with_buffers([channels.len() * pixels, 0, shape.len(1)], |[acc, _, words]| {
            let from = &shape.fill(words, c, image, &(s..s + 1), &channels, lines.start);
            with_weights(&weight, &channels, e.taps, |weights| {
                arch().dispatch(Forward { from, weights, taps: &shape.taps(e.taps), acc });
            });
            let start = (s * c.groups + channels.start) * e.pixels + lines.start * width;
            let len = if pixels == e.pixels { acc.len() } else { pixels };
            sink(Runs { start, len, apart: e.pixels }, acc);
        });
    });
}

/// An input gradient that is no convolution with turned weights, because of its stride or its padding.
pub(super) fn input_grad(e: &Extents<'_>, ops: &Operands<'_>, sink: &Sink<'_>) {
    let c = e.conv;
    let plane = PaddedShape::new(c, 1, c.output[0]).len(1) + e.area;
    let block = channel_block(c, plane, c.n);
    let blocks = c.groups.div_ceil(block);
    for_each_task(c.n * blocks, e.macs(), |task| {
        let (channels, s) = (piece(task % blocks, block, c.groups), task / blocks);
        let shape = PaddedShape::new(c, channels.len(), c.output[0]);
        with_buffers([channels.len() * e.area, 0, shape.len(1)], |[acc, _, words]| {
            words.fill(0.0);
            with_weights(
                |g| weight_matrix(e, ops, g),
                &channels,
                e.taps,
                |weights| {
                    let (grad, taps) = (&ops.image, &shape.taps(e.taps));
                    arch().dispatch(InputGrad {
                        grad,
                        s,
                        channels: channels.clone(),
                        weights,
                        taps,
                        shape,
                        words,
                    });
                },
            );
            for (i, plane) in acc.chunks_exact_mut(e.area).enumerate() {
                shape.read(words, c, i, plane);
            }
            sink(Runs::one((s * c.groups + channels.start) * e.area, acc.len()), acc);
        });
    });
}

/// A weight gradient: channels are the tasks, and each adds its samples in order.
pub(super) fn weight_grad(e: &Extents<'_>, ops: &Operands<'_>, sink: &Sink<'_>) {
    let c = e.conv;
    let grad = ops.grad.as_ref().expect("a weight gradient reads the output gradient");
    let block = channel_block(c, PaddedShape::new(c, 1, c.output[0]).len(1), 1);
    for_each_task(c.groups.div_ceil(block), e.macs(), |task| {
        let channels = piece(task, block, c.groups);
        let shape = PaddedShape::new(c, channels.len(), c.output[0]);
        with_buffers([channels.len() * e.taps, 0, shape.len(1)], |[acc, _, words]| {
            acc.fill(0.0);
            for s in 0..c.n {
                let from = &shape.fill(words, c, &ops.image, &(s..s + 1), &channels, 0);
                let taps = &shape.taps(e.taps);
                arch().dispatch(WeightGrad { from, grad, s, channels: channels.clone(), taps, acc });
            }
            sink(Runs::one(channels.start * e.taps, acc.len()), acc);
        });
    });
}

/// Where the vectors of output line `y` of a channel read their first tap.
fn line_at(shape: &PaddedShape, channel: usize, y: usize) -> usize {
    SLACK + (channel * shape.lines + y * shape.stride[0]) * shape.width
}

/// The sixteen floats from a place on; there is slack after the last line.
#[inline(always)]
fn panel<S: Simd, const V: usize>(words: &[f32], at: usize) -> [S::f32s; V] {
    let mut panel = [0.0f32; COLS];
    panel.copy_from_slice(&words[at..at + COLS]);
    bytemuck::cast(panel)
}

/// `sum + a · b`.
#[inline(always)]
fn add_product<S: Simd, const V: usize>(simd: S, sum: &mut [S::f32s; V], a: [S::f32s; V], b: [S::f32s; V]) {
    for (sum, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
        *sum = simd.mul_add_e_f32s(a, b, *sum);
    }
}

struct Forward<'a> {
    from: &'a Padded<'a>,
    /// `[channels, taps]`.
    weights: &'a [f32],
    /// Where the taps of a channel lie.
    taps: &'a [usize],
    acc: &'a mut [f32],
}

over_panels!(Forward, run);

impl Forward<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Padded { words, shape } = self.from;
        let [lines, width] = shape.out;
        let weights = self.weights.chunks_exact(self.taps.len());
        for (channel, (acc, weights)) in self.acc.chunks_exact_mut(lines * width).zip(weights).enumerate() {
            for (y, acc) in acc.chunks_exact_mut(width).enumerate() {
                let line = line_at(shape, channel, y);
                for (i, acc) in acc.chunks_mut(COLS).enumerate() {
                    let mut sum = [simd.splat_f32s(0.0); V];
                    for (&w, tap) in weights.iter().zip(self.taps) {
                        let from = panel::<S, V>(words, line + i * COLS + tap);
                        add_product(simd, &mut sum, [simd.splat_f32s(w); V], from);
                    }
                    put(acc, bytemuck::cast(sum), false);
                }
            }
        }
    }
}

struct InputGrad<'a> {
    grad: &'a Planes<'a>,
    s: usize,
    channels: Range<usize>,
    weights: &'a [f32],
    taps: &'a [usize],
    shape: PaddedShape,
    /// Planes in the order of [`Padded`], zeros.
    words: &'a mut [f32],
}

over_panels!(InputGrad, run);

impl InputGrad<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let width = self.shape.out[1];
        let weights = self.weights.chunks_exact(self.taps.len());
        for (channel, (number, weights)) in self.channels.zip(weights).enumerate() {
            let grad = self.grad.plane(self.s, number);
            // A tap at a time: what the next one adds to is then in memory, not on its way there.
            for (&w, tap) in weights.iter().zip(self.taps) {
                let w = [simd.splat_f32s(w); V];
                for (y, grad) in grad.chunks_exact(width).enumerate() {
                    let line = line_at(&self.shape, channel, y) + tap;
                    for (i, grad) in grad.chunks(COLS).enumerate() {
                        let (at, mut known) = (line + i * COLS, [0.0; COLS]);
                        known[..grad.len()].copy_from_slice(grad);
                        let mut sum = panel::<S, V>(self.words, at);
                        add_product(simd, &mut sum, w, bytemuck::cast(known));
                        put(&mut self.words[at..at + grad.len()], bytemuck::cast(sum), false);
                    }
                }
            }
        }
    }
}

struct WeightGrad<'a> {
    from: &'a Padded<'a>,
    grad: &'a Planes<'a>,
    s: usize,
    channels: Range<usize>,
    taps: &'a [usize],
    /// `[channels, taps]`.
    acc: &'a mut [f32],
}

over_panels!(WeightGrad, run);

impl WeightGrad<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Padded { words, shape } = self.from;
        let width = shape.out[1];
        let sums = self.acc.chunks_exact_mut(self.taps.len());
        for (channel, (number, sums)) in self.channels.zip(sums).enumerate() {
            let grad = self.grad.plane(self.s, number);
            for (sums, taps) in sums.chunks_mut(TAPS).zip(self.taps.chunks(TAPS)) {
                // Taps beyond the last repeat it, and are not stored.
                let taps: [usize; TAPS] = std::array::from_fn(|i| taps[i.min(taps.len() - 1)]);
                let mut all = [[simd.splat_f32s(0.0); V]; TAPS];
                for (y, grad) in grad.chunks_exact(width).enumerate() {
                    let line = line_at(shape, channel, y);
                    for (i, grad) in grad.chunks(COLS).enumerate() {
                        add_line::<S, V>(simd, &mut all, words, taps.map(|tap| line + i * COLS + tap), grad);
                    }
                }
                for (sum, lanes) in sums.iter_mut().zip(all) {
                    *sum += tree(bytemuck::cast(lanes), |a, b| a + b);
                }
            }
        }
    }
}

/// Adds the products of at most a panel of gradients with what lies at each of the places. Lanes beyond take no part: they might
/// hold an infinity, which zero does not cancel.
#[inline(always)]
fn add_line<S: Simd, const V: usize>(
    simd: S,
    all: &mut [[S::f32s; V]; TAPS],
    words: &[f32],
    at: [usize; TAPS],
    grad: &[f32],
) {
    let mut known = [0.0; COLS];
    known[..grad.len()].copy_from_slice(grad);
    let known: [S::f32s; V] = bytemuck::cast(known);
    // In a place of their own, or the sums would go through memory at each step.
    let mut sums = *all;
    for (sum, at) in sums.iter_mut().zip(at) {
        let from = if grad.len() == COLS {
            panel::<S, V>(words, at)
        } else {
            let mut some = [0.0; COLS];
            some[..grad.len()].copy_from_slice(&words[at..at + grad.len()]);
            bytemuck::cast(some)
        };
        add_product(simd, sum, known, from);
    }
    *all = sums;
}
