//! Convolution on the CPU: patches packed straight into panels of a matrix product, some output lines at a time.
//!
//! An input gradient of stride 1 is a convolution of the gradient with turned weights, with larger strides one for each phase
//! (`phases.rs`). A weight gradient reads its patches in place. Panels of a task are bounded by [`COL`], so that they stay in the
//! second-level cache whatever the image size. Cuts depend on shape only.

use std::borrow::Cow;
use std::ops::Range;

use super::cpu::{Sink, for_each_task, piece, with_scratch};
use super::panel::{COLS, Mat, Product, Sums, Tiles, depths, rows};
use super::patches::{LinesProduct, PackPatches, Padded, PaddedShape, PixelsProduct, Planes, dense_from};
use super::{Conv, ConvKind, cpu_weight, depthwise, phases, winograd};
use crate::View;
use crate::eval::Runs;

/// Floats of a patch matrix, as far as one output row allows: 192 KiB.
pub(super) const COL: usize = 3 << 14;
/// Floats of an image and its result: 512 KiB.
pub(super) const IMAGE: usize = 1 << 17;
/// Columns that are packed and multiplied at once.
pub(super) const PAIR: usize = 2 * COLS;
/// Columns that a patch matrix should have at least; small images share one.
pub(super) const MIN_COLS: usize = 96;
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

    /// Cuts images of `height` lines into tasks of so many samples and lines of a group, and runs `f` for each: its group, samples
    /// and lines. On all threads unless the work is small.
    pub fn for_each_part(
        &self,
        [samples, lines]: [usize; 2],
        height: usize,
        f: impl Fn(usize, Range<usize>, Range<usize>) + Sync + Send,
    ) {
        let (c, cuts) = (self.conv, height.div_ceil(lines));
        for_each_task(c.n.div_ceil(samples) * cuts * c.groups, self.macs(), |task| {
            let (g, task) = (task % c.groups, task / c.groups);
            f(g, piece(task / cuts, samples, c.n), piece(task % cuts, lines, height));
        });
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
    let block = if in_place { e.whole_lines() } else { e.block(deep) };
    let way = if way == Way::Planes && block[0] > 1 { Way::Patches } else { way };
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
        e.for_each_part(block, c.output[0], |g, samples, lines| {
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
                        _ => patch_product(from, taps, a, acc, [e.c_out, ld], first > 0, panels),
                    }
                }
                let images = Images { channels: g * e.c_out..(g + 1) * e.c_out, of: c.c_out, area: e.pixels };
                images.emit_turned(samples, pixels, acc, sink);
            });
        });
    });
}

/// A product of weights with patches, which go into the first-level cache, and are used up while they are there.
pub(super) fn patch_product(
    from: &Padded<'_>,
    taps: &[usize],
    a: &[f32],
    acc: &mut [f32],
    [rows, ld]: [usize; 2],
    add: bool,
    panels: &mut [f32],
) {
    let (depth, sums) = (taps.len(), Sums::stored_or_added(add));
    for col in (0..ld).step_by(PAIR) {
        let b = &mut panels[..depth * PAIR.min((ld - col).next_multiple_of(COLS))];
        PackPatches { from, taps, pixels: ld, first: col / COLS, out: b }.run();
        Product { a, b, depth, acc: &mut acc[col..], ld, size: [rows, ld - col], sums }.run();
    }
}

/// Three scratch buffers of the thread at once.
pub(super) fn with_buffers<R>(lens: [usize; 3], f: impl FnOnce([&mut [f32]; 3]) -> R) -> R {
    with_scratch(0, lens[0], |a| with_scratch(1, lens[1], |b| with_scratch(2, lens[2], |c| f([a, b, c]))))
}

/// Channels of a group in images of so many channels and pixels.
pub(super) struct Images {
    pub channels: Range<usize>,
    pub of: usize,
    pub area: usize,
}

impl Images {
    /// Hands `[sample, channel, pixel]`, pixels from `first` on, to the sink.
    pub fn emit(&self, samples: Range<usize>, first: usize, out: &[f32], sink: &Sink<'_>) {
        let start = |s: usize| (s * self.of + self.channels.start) * self.area + first;
        let (image, channels) = (out.len() / samples.len(), self.channels.len());
        let whole = image == channels * self.area;
        if whole && channels == self.of {
            return sink(Runs::one(start(samples.start), out.len()), out);
        }
        let len = if whole { image } else { image / channels };
        for (s, image) in samples.zip(out.chunks_exact(image)) {
            sink(Runs { start: start(s), len, apart: self.area }, image);
        }
    }

    /// The same of `[channel, sample, pixel]`.
    fn emit_turned(&self, samples: Range<usize>, pixels: Range<usize>, acc: &[f32], sink: &Sink<'_>) {
        let [count, channels, len] = [samples.len(), self.channels.len(), pixels.len()];
        if count == 1 {
            return self.emit(samples, pixels.start, acc, sink);
        }
        with_scratch(4, acc.len(), |out| {
            for (i, out) in out.chunks_exact_mut(len).enumerate() {
                let from = (i % channels * count + i / channels) * len;
                out.copy_from_slice(&acc[from..from + len]);
            }
            self.emit(samples, pixels.start, out, sink);
        });
    }
}

/// Input channels per task of a gradient that already has `tasks` tasks.
pub(super) fn channel_block(e: &Extents<'_>, tasks: usize) -> usize {
    let pieces = MIN_TASKS.div_ceil(tasks).min(e.c_in);
    e.c_in.div_ceil(pieces)
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
    phases::input_grad(e, ops, sink);
}
