//! Convolution on the CPU: patches packed straight into panels of a matrix product, some output lines at a time.
//!
//! An input gradient of stride 1 is a convolution of the gradient with turned weights; with larger strides, columns
//! of products are added to the pixels that they came from. A weight gradient reads its patches in place. Panels of a
//! task are bounded by [`COL`], so that they stay in the second-level cache whatever the image size. Cuts depend on
//! shape only.

use std::borrow::Cow;
use std::ops::Range;

use super::cpu::{Sink, for_each_task, piece, product, with_scratch};
use super::panel::{COLS, Mat, Product, Sums, Tiles, depths, rows};
use super::patches::{LinesProduct, PackPatches, PaddedShape, PixelsProduct, Planes, dense_from};
use super::{Conv, ConvKind, cpu_weight, depthwise, winograd};
use crate::View;
use crate::eval::Runs;

/// Floats of a patch matrix, as far as one output row allows: 192 KiB.
pub(super) const COL: usize = 3 << 14;
/// Floats of an image and its result: 512 KiB.
pub(super) const IMAGE: usize = 1 << 17;
/// Columns that are packed and multiplied at once.
const PAIR: usize = 2 * COLS;
/// Columns that a patch matrix should have at least; small images share one.
const MIN_COLS: usize = 96;
/// Tasks that a gradient is cut into at least, where the shape allows it.
pub(super) const MIN_TASKS: usize = 16;

/// A convolution's operands, images with dense planes and the weights with dense rows.
pub(super) struct Operands<'a> {
    /// The forward operand x, or the gradient g for [`ConvKind::InputGrad`].
    pub image: Planes<'a>,
    /// The gradient g of a weight gradient.
    pub grad: Option<Planes<'a>>,
    /// The weights as `[Cout, Cin/g · taps]`.
    pub weight: Option<(Cow<'a, [f32]>, View)>,
}

/// The extents that the three kinds share, per group.
pub(super) struct Extents<'a> {
    pub conv: &'a Conv,
    /// Input channels of a group.
    pub c_in: usize,
    /// Output channels of a group.
    pub c_out: usize,
    /// Kernel area.
    pub taps: usize,
    /// Input pixels.
    pub area: usize,
    /// Output pixels.
    pub pixels: usize,
}

impl<'a> Extents<'a> {
    pub fn new(conv: &'a Conv) -> Extents<'a> {
        Extents {
            conv,
            c_in: conv.c_in / conv.groups,
            c_out: conv.c_out / conv.groups,
            taps: conv.kernel[0] * conv.kernel[1],
            area: conv.input[0] * conv.input[1],
            pixels: conv.output[0] * conv.output[1],
        }
    }

    pub fn macs(&self) -> usize {
        self.conv.n * self.pixels * self.conv.c_out * self.c_in * self.taps
    }

    /// Samples and output rows that share a patch matrix of `rows` rows.
    fn block(&self, rows: usize) -> [usize; 2] {
        let cols = (COL / rows).max(MIN_COLS);
        let width = self.conv.output[1];
        let lines = (cols / width).clamp(1, self.conv.output[0]);
        if lines < self.conv.output[0] {
            // Equal pieces, instead of full ones and a thin last one.
            let pieces = self.conv.output[0].div_ceil(lines);
            return [1, self.conv.output[0].div_ceil(pieces)];
        }
        let samples = MIN_COLS.div_ceil(self.pixels).min(self.conv.n);
        [samples, lines]
    }

    /// The same where patches are read in place: a task's image and result stay in the second-level cache.
    fn whole_lines(&self) -> [usize; 2] {
        let [height, width] = self.conv.output;
        let line =
            self.c_in * self.conv.stride[0] * PaddedShape::new(self.conv, 1, 1).len(1) + self.c_out * width;
        let share = (self.conv.n * self.conv.groups * height).div_ceil(MIN_TASKS);
        let lines = (IMAGE / line).min(share).clamp(1, height);
        [1, height.div_ceil(height.div_ceil(lines))]
    }

    /// The output positions along `axis` at which tap `k` falls inside the input.
    pub fn valid(&self, axis: usize, k: usize) -> Range<usize> {
        let c = self.conv;
        let (stride, shift) = (c.stride[axis], k * c.dilation[axis]);
        let low = c.padding[axis].saturating_sub(shift).div_ceil(stride);
        let high = match (c.input[axis] + c.padding[axis]).checked_sub(shift + 1) {
            Some(last) => (last / stride + 1).min(c.output[axis]),
            None => 0,
        };
        low.min(high)..high
    }

    /// The input position along `axis` of tap `k` at a valid output position.
    pub fn at(&self, axis: usize, out: usize, k: usize) -> usize {
        out * self.conv.stride[axis] + k * self.conv.dilation[axis] - self.conv.padding[axis]
    }

    /// Calls `f(tap, oy, ox)` for each kernel tap and output line in `lines`, where it meets the input at
    /// the columns `ox` (an empty range if nowhere).
    fn lines(&self, lines: &Range<usize>, mut f: impl FnMut([usize; 2], usize, Range<usize>)) {
        for ky in 0..self.conv.kernel[0] {
            let rows = self.valid(0, ky);
            for kx in 0..self.conv.kernel[1] {
                let cols = self.valid(1, kx);
                for oy in lines.clone() {
                    let inside = rows.contains(&oy);
                    f([ky, kx], oy, if inside { cols.clone() } else { 0..0 });
                }
            }
        }
    }
}

/// Computes every accumulator of `conv`, whose work is not empty.
pub(super) fn conv(conv: &Conv, a: &[f32], b: &[f32], sink: &Sink<'_>) {
    let e = Extents::new(conv);
    let weights = || dense_from(1, &conv.b, b);
    let mut ops = Operands { image: Planes::new(&conv.a, a), grad: None, weight: None };
    match conv.kind {
        ConvKind::Forward => {
            ops.weight = Some(weights());
            forward(&e, &ops.image, |g| weight_matrix(&e, &ops, g), sink);
        }
        ConvKind::InputGrad => {
            ops.weight = Some(weights());
            input_grad(&e, &ops, sink);
        }
        ConvKind::WeightGrad => {
            ops.grad = Some(Planes::new(&conv.b, b));
            cpu_weight::weight_grad(&e, &ops, sink);
        }
    }
}

/// The weights of group `g` as `[Cout/g, Cin/g · taps]`.
pub(super) fn weight_matrix<'a>(e: &Extents<'_>, ops: &'a Operands<'_>, g: usize) -> Mat<'a> {
    let (data, view) = ops.weight.as_ref().expect("this kind reads the weights");
    Mat {
        data,
        offset: view.offset + (g * e.c_out) as isize * view.strides[0],
        size: [e.c_out, e.c_in * e.taps],
        strides: [view.strides[0], 1],
    }
}

/// Adds the columns of `col`, products for rows `(channel, tap)` of `ld` columns, from `at` on to the planes (dense,
/// one after another) at the pixels that they came from.
fn scatter(e: &Extents<'_>, planes: &mut [f32], lines: &Range<usize>, col: &[f32], ld: usize, at: usize) {
    let (width, step) = (e.conv.output[1], e.conv.stride[1]);
    for (c, plane) in planes.chunks_exact_mut(e.area).enumerate() {
        e.lines(lines, |[ky, kx], oy, ox| {
            if ox.is_empty() {
                return;
            }
            let row = (c * e.taps + ky * e.conv.kernel[1] + kx) * ld;
            let start = row + at + (oy - lines.start) * width;
            let src = &col[start + ox.start..start + ox.end];
            let dst = e.at(0, oy, ky) * e.conv.input[1] + e.at(1, ox.start, kx);
            if step == 1 {
                for (d, s) in plane[dst..dst + src.len()].iter_mut().zip(src) {
                    *d += *s;
                }
            } else {
                for (d, s) in plane[dst..].iter_mut().step_by(step).zip(src) {
                    *d += *s;
                }
            }
        });
    }
}

/// A convolution of `image` with weights `[Cout/g, Cin/g · taps]` of each group.
fn forward<'w>(
    e: &Extents<'_>,
    image: &Planes<'_>,
    weight: impl Fn(usize) -> Mat<'w> + Sync,
    sink: &Sink<'_>,
) {
    if depthwise::suits(e) {
        return depthwise::forward(e, image, weight, sink);
    }
    match winograd::suits(e) {
        true => winograd::forward(e, image, weight, sink),
        false => by_products(e, image, weight, sink),
    }
}

/// How a convolution becomes products of the weights.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// With the planes as they are.
    Planes,
    /// With pixels read in place: [`PixelsProduct`].
    Pixels,
    /// With lines read in place: [`LinesProduct`].
    Lines,
    /// With packed patches.
    Patches,
}

impl Way {
    fn of(e: &Extents<'_>) -> Way {
        let (c, width) = (e.conv, e.conv.output[1]);
        if e.taps == 1 && c.stride == [1, 1] && c.padding == [0, 0] && c.input == c.output {
            Way::Planes
        } else if PixelsProduct::suits(width, e.c_out, e.c_in * e.taps) {
            Way::Pixels
        } else if LinesProduct::suits(width) {
            Way::Lines
        } else {
            Way::Patches
        }
    }
}

/// The same as products of the weights with patches.
fn by_products<'w>(
    e: &Extents<'_>,
    image: &Planes<'_>,
    weight: impl Fn(usize) -> Mat<'w> + Sync,
    sink: &Sink<'_>,
) {
    let (c, way) = (e.conv, Way::of(e));
    let in_place = matches!(way, Way::Pixels | Way::Lines);
    let channels = if in_place { e.c_in } else { depths(e.c_in * e.taps).div_ceil(e.taps).min(e.c_in) };
    let deep = channels * e.taps;
    let [samples, lines] = if in_place { e.whole_lines() } else { e.block(deep) };
    let way = if way == Way::Planes && samples > 1 { Way::Patches } else { way };
    let (blocks, cuts) = (c.n.div_ceil(samples), c.output[0].div_ceil(lines));
    let tile = if way == Way::Pixels { COLS } else { rows() };
    let rows = e.c_out.next_multiple_of(tile);
    let size = rows * e.c_in * e.taps;
    // Blocks of channels, and where the panels of each begin.
    let parts = || (0..e.c_in).step_by(channels).map(|first| first..(first + channels).min(e.c_in));
    with_scratch(3, c.groups * size, |weights| {
        for (g, weights) in weights.chunks_exact_mut(size).enumerate() {
            for part in parts() {
                let (first, depth) = (part.start * e.taps, part.len() * e.taps);
                let part = weight(g).block([0, first], [e.c_out, depth]).t();
                part.pack_by(tile, &mut weights[rows * first..rows * (first + depth)]);
            }
        }
        let weights = &*weights;
        for_each_task(blocks * cuts * c.groups, e.macs(), |task| {
            let (g, task) = (task % c.groups, task / c.groups);
            let (samples, lines) = (piece(task / cuts, samples, c.n), piece(task % cuts, lines, c.output[0]));
            let pixels = lines.start * c.output[1]..lines.end * c.output[1];
            let ld = samples.len() * pixels.len();
            let shape = PaddedShape::new(c, channels, lines.len());
            let columns = match way {
                Way::Planes => ld.next_multiple_of(COLS),
                Way::Patches => PAIR,
                Way::Pixels | Way::Lines => 0,
            };
            with_buffers([e.c_out * ld, deep * columns, shape.len(samples.len())], |[acc, panels, words]| {
                for part in parts() {
                    let (first, depth) = (part.start * e.taps, part.len() * e.taps);
                    let part = g * e.c_in + part.start..g * e.c_in + part.end;
                    let a = &weights[g * size + rows * first..][..rows * depth];
                    let sums = Sums::stored_or_added(first > 0);
                    if way == Way::Planes {
                        let b = &mut panels[..depth * columns];
                        image.matrix(samples.start, part, pixels.clone()).pack::<COLS>(b);
                        Product { a, b, depth, acc, ld, size: [e.c_out, ld], sums }.run();
                        continue;
                    }
                    let shape = PaddedShape::new(c, part.len(), lines.len());
                    let words = &mut words[..shape.len(samples.len())];
                    let from = &shape.fill(words, c, image, &samples, &part, lines.start);
                    let taps = &shape.taps(depth);
                    match way {
                        Way::Pixels => {
                            PixelsProduct { weights: a, from, taps, acc, size: [e.c_out, ld] }.run();
                        }
                        Way::Lines => LinesProduct { a, from, taps, acc, size: [e.c_out, ld] }.run(),
                        // Patches go into the first-level cache, and are used up while they are there.
                        _ => {
                            for col in (0..ld).step_by(PAIR) {
                                let b = &mut panels[..depth * PAIR.min((ld - col).next_multiple_of(COLS))];
                                PackPatches { from, taps, pixels: ld, first: col / COLS, out: b }.run();
                                let acc = &mut acc[col..];
                                Product { a, b, depth, acc, ld, size: [e.c_out, ld - col], sums }.run();
                            }
                        }
                    }
                }
                let start = (samples.start * c.c_out + g * e.c_out) * e.pixels;
                emit_images(e, start, samples.len(), pixels, acc, sink);
            });
        });
    });
}

/// Three scratch buffers of the thread at once.
pub(super) fn with_buffers<R>(lens: [usize; 3], f: impl FnOnce([&mut [f32]; 3]) -> R) -> R {
    with_scratch(0, lens[0], |a| with_scratch(1, lens[1], |b| with_scratch(2, lens[2], |c| f([a, b, c]))))
}

/// Hands an `[channels, samples · pixels]` block of a forward result to the sink.
fn emit_images(
    e: &Extents<'_>,
    start: usize,
    samples: usize,
    pixels: Range<usize>,
    acc: &[f32],
    sink: &Sink<'_>,
) {
    let len = pixels.len();
    if samples == 1 {
        let run = if len == e.pixels { acc.len() } else { len };
        return sink(Runs { start: start + pixels.start, len: run, apart: e.pixels }, acc);
    }
    with_scratch(4, e.c_out * len, |image| {
        for s in 0..samples {
            for (ch, out) in image.chunks_exact_mut(len).enumerate() {
                let from = (ch * samples + s) * len;
                out.copy_from_slice(&acc[from..from + len]);
            }
            sink(Runs::one(start + s * e.conv.c_out * e.pixels, image.len()), image);
        }
    });
}

/// Input channels per task of a gradient that already has `tasks` tasks.
pub(super) fn channel_block(e: &Extents<'_>, tasks: usize) -> usize {
    let pieces = MIN_TASKS.div_ceil(tasks).min(e.c_in);
    e.c_in.div_ceil(pieces)
}

/// Calls `f` with the output gradient of some samples and lines as `[Cout/g, samples · pixels]`.
fn with_grad(
    e: &Extents<'_>,
    grad: &Planes<'_>,
    g: usize,
    samples: &Range<usize>,
    lines: &Range<usize>,
    f: impl FnOnce(Mat<'_>),
) {
    let channels = g * e.c_out..(g + 1) * e.c_out;
    let width = e.conv.output[1];
    let pixels = lines.start * width..lines.end * width;
    if samples.len() == 1 {
        return f(grad.matrix(samples.start, channels, pixels));
    }
    let ld = samples.len() * pixels.len();
    with_scratch(2, e.c_out * ld, |copy| {
        for (ch, row) in channels.zip(copy.chunks_exact_mut(ld)) {
            for (s, out) in samples.clone().zip(row.chunks_exact_mut(pixels.len())) {
                out.copy_from_slice(&grad.plane(s, ch)[pixels.clone()]);
            }
        }
        f(Mat::dense(copy, e.c_out, ld));
    });
}

/// The convolution of the gradient that an input gradient of stride 1 is.
fn turned(c: &Conv) -> Option<Conv> {
    let before = |axis: usize| (c.dilation[axis] * (c.kernel[axis] - 1)).checked_sub(c.padding[axis]);
    let padding = [before(0)?, before(1)?];
    (c.stride == [1, 1]).then(|| Conv {
        kind: ConvKind::Forward,
        c_in: c.c_out,
        c_out: c.c_in,
        input: c.output,
        output: c.input,
        padding,
        ..c.clone()
    })
}

/// An input gradient of stride 1: weights with their taps in reverse and their channels exchanged.
fn turned_input_grad(e: &Extents<'_>, turned: &Conv, ops: &Operands<'_>, sink: &Sink<'_>) {
    let depth = e.c_out * e.taps;
    with_scratch(5, e.conv.c_in * depth, |weights| {
        for (i, row) in weights.chunks_exact_mut(e.taps).enumerate() {
            let (ci, co) = (i / e.c_out, i % e.c_out);
            let from = weight_matrix(e, ops, ci / e.c_in);
            let at = from.offset + co as isize * from.strides[0] + (ci % e.c_in * e.taps) as isize;
            let from = &from.data[at as usize..at as usize + e.taps];
            row.iter_mut().zip(from.iter().rev()).for_each(|(w, &x)| *w = x);
        }
        let (weights, size) = (&*weights, e.c_in * depth);
        let group = |g: usize| Mat::dense(&weights[g * size..(g + 1) * size], e.c_in, depth);
        forward(&Extents::new(turned), &ops.image, group, sink);
    });
}

fn input_grad(e: &Extents<'_>, ops: &Operands<'_>, sink: &Sink<'_>) {
    let c = e.conv;
    if let Some(turned) = turned(c) {
        return turned_input_grad(e, &turned, ops, sink);
    }
    if depthwise::suits(e) {
        return depthwise::input_grad(e, ops, sink);
    }
    let [samples, _] = e.block(e.c_in * e.taps);
    let blocks = c.n.div_ceil(samples);
    let width = channel_block(e, blocks * c.groups);
    let cuts = e.c_in.div_ceil(width);
    let [_, lines] = e.block(width * e.taps);
    for_each_task(blocks * cuts * c.groups, e.macs(), |task| {
        let (channels, task) = (piece(task % cuts, width, e.c_in), task / cuts);
        let (g, samples) = (task % c.groups, piece(task / c.groups, samples, c.n));
        let rows = channels.len() * e.taps;
        let weight = weight_matrix(e, ops, g).block([0, channels.start * e.taps], [e.c_out, rows]).t();
        let image = channels.len() * e.area;
        with_scratch(0, samples.len() * image, |acc| {
            acc.fill(0.0);
            for y in (0..c.output[0]).step_by(lines) {
                let lines = y..(y + lines).min(c.output[0]);
                let pixels = lines.len() * c.output[1];
                let ld = samples.len() * pixels;
                with_scratch(1, rows * ld, |col| {
                    with_grad(e, &ops.image, g, &samples, &lines, |grad| product(col, weight, grad, false));
                    for (i, acc) in acc.chunks_exact_mut(image).enumerate() {
                        scatter(e, acc, &lines, col, ld, i * pixels);
                    }
                });
            }
            for (s, acc) in samples.clone().zip(acc.chunks_exact(image)) {
                let start = (s * c.c_in + g * e.c_in + channels.start) * e.area;
                sink(Runs::one(start, acc.len()), acc);
            }
        });
    });
}
