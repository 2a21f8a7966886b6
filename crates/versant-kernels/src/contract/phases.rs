//! The input gradient of a convolution with strides on the CPU.
//!
//! Pixels of the input whose places leave the same remainders by the strides, a phase, read the gradient through the same taps,
//! their neighbours the neighbours. So each phase is a convolution of stride 1 of the same padded lines of the gradient, with the
//! weights of its own taps; nothing is multiplied by zeros, and nothing added up in memory. Cuts depend on shape only.

use rayon::prelude::*;

use super::cpu::{Sink, with_scratch};
use super::cpu_conv::{
    Extents, IMAGE, Images, MIN_COLS, MIN_TASKS, Operands, PAIR, patch_product, weight_matrix, with_buffers,
};
use super::panel::{Mat, Tiles, rows};
use super::patches::{LinesProduct, Padded, PaddedShape};
use super::{Conv, ConvKind};

/// Weights that one thread turns.
const WEIGHTS: usize = 1 << 13;

/// How pixels of the input read the gradient along one axis.
struct Axis {
    /// Pixels of the longest phase.
    pixels: usize,
    /// Zeros before the gradient's first pixel.
    before: usize,
    /// How many pixels of the gradient, with those zeros, a pixel chooses from.
    reach: usize,
    /// For each phase its taps, and which of those pixels they read.
    taps: Vec<Vec<[usize; 2]>>,
}

impl Axis {
    fn new(c: &Conv, axis: usize) -> Axis {
        let stride = c.stride[axis] as isize;
        let from =
            |phase: isize, tap: usize| phase + c.padding[axis] as isize - (tap * c.dilation[axis]) as isize;
        let of_phase = |phase: isize| (0..c.kernel[axis]).filter(move |&tap| from(phase, tap) % stride == 0);
        let place = |phase: isize, tap: usize| from(phase, tap).div_euclid(stride);
        let all = || (0..stride).flat_map(|phase| of_phase(phase).map(move |tap| (phase, tap)));
        let low = all().map(|(phase, tap)| place(phase, tap)).min().unwrap_or(0).min(0);
        let high = all().map(|(phase, tap)| place(phase, tap)).max().unwrap_or(0).max(0);
        let with_place =
            |phase: isize| of_phase(phase).map(move |tap| [tap, (place(phase, tap) - low) as usize]);
        Axis {
            pixels: c.input[axis].div_ceil(c.stride[axis]),
            before: -low as usize,
            reach: (high - low) as usize + 1,
            taps: (0..stride).map(|phase| with_place(phase).collect()).collect(),
        }
    }
}

/// The phases of both axes.
struct Phases {
    axes: [Axis; 2],
    /// The convolution of the gradient that has the longest lines of all.
    conv: Conv,
}

/// A phase: its taps `[tap, place]` in the kernel and in the padded gradient.
type Taps = Vec<[[usize; 2]; 2]>;

impl Phases {
    fn new(c: &Conv) -> Phases {
        let axes = [Axis::new(c, 0), Axis::new(c, 1)];
        let of = |f: fn(&Axis) -> usize| [f(&axes[0]), f(&axes[1])];
        let conv = Conv {
            kind: ConvKind::Forward,
            input: c.output,
            output: of(|axis| axis.pixels),
            kernel: of(|axis| axis.reach),
            padding: of(|axis| axis.before),
            stride: [1, 1],
            dilation: [1, 1],
            ..c.clone()
        };
        Phases { axes, conv }
    }

    /// The phases, line by line.
    fn all(&self) -> Vec<Taps> {
        let [lines, columns] = &self.axes;
        let taps = |y: &[[usize; 2]], x: &[[usize; 2]]| {
            y.iter().flat_map(|y| x.iter().map(move |x| [[y[0], x[0]], [y[1], x[1]]])).collect()
        };
        lines.taps.iter().flat_map(|y| columns.taps.iter().map(move |x| taps(y, x))).collect()
    }

    /// Samples and lines of a phase that a task takes.
    fn block(&self, e: &Extents<'_>) -> [usize; 2] {
        let [height, width] = self.conv.output;
        let phases = e.conv.stride[1] * (1 + e.conv.stride[0]);
        let line = e.c_out * PaddedShape::new(&self.conv, 1, 1).len(1) + phases * e.c_in * width;
        let share = (e.conv.n * e.conv.groups * height).div_ceil(MIN_TASKS);
        let lines = (IMAGE / line).min(share).clamp(1, height);
        let samples = if lines == height { MIN_COLS.div_ceil(height * width).min(e.conv.n) } else { 1 };
        [samples, height.div_ceil(height.div_ceil(lines))]
    }
}

pub(super) fn input_grad(e: &Extents<'_>, ops: &Operands<'_>, sink: &Sink<'_>) {
    let (c, phases) = (e.conv, &Phases::new(e.conv));
    let (all, [height, width]) = (&phases.all(), phases.conv.output);
    let size = e.c_in.next_multiple_of(rows()) * e.c_out * e.taps;
    with_weights(e, ops, all, size, |weights| {
        e.for_each_part(phases.block(e), height, |g, samples, lines| {
            let shape = PaddedShape::new(&phases.conv, e.c_out, lines.len());
            let of_input = lines.start * c.stride[0]..(lines.end * c.stride[0]).min(c.input[0]);
            let ld = samples.len() * lines.len() * width;
            let out = samples.len() * e.c_in * of_input.len() * c.input[1];
            let most = all.iter().map(|taps| taps.len() * e.c_out).max().unwrap_or(0);
            with_buffers([out, most * PAIR, shape.len(samples.len())], |[out, panels, words]| {
                let channels = g * e.c_out..(g + 1) * e.c_out;
                let from = &shape.fill(words, &phases.conv, &ops.image, &samples, &channels, lines.start);
                if all.iter().any(Vec::is_empty) {
                    out.fill(0.0);
                }
                with_scratch(4, c.stride[1] * e.c_in * ld, |sums| {
                    let mut weights = &weights[g * size..];
                    for (y, phases) in all.chunks_exact(c.stride[1]).enumerate() {
                        let sums_of = sums.chunks_exact_mut(e.c_in * ld);
                        for (taps, sums) in phases.iter().zip(sums_of).filter(|(taps, _)| !taps.is_empty()) {
                            let depth = taps.len() * e.c_out;
                            let (own, rest) = weights.split_at(e.c_in.next_multiple_of(rows()) * depth);
                            weights = rest;
                            phase(from, own, taps, [e.c_out, e.c_in, ld], sums, panels);
                        }
                        weave(e, [samples.len(), lines.len(), width], (y, phases), sums, out);
                    }
                });
                let images = Images { channels: g * e.c_in..(g + 1) * e.c_in, of: c.c_in, area: e.area };
                images.emit(samples, of_input.start * c.input[1], out, sink);
            });
        });
    });
}

/// Calls `f` with the panels of rows of each group's phases, over input channels; steps are output channels and taps.
fn with_weights(e: &Extents<'_>, ops: &Operands<'_>, all: &[Taps], size: usize, f: impl FnOnce(&[f32])) {
    with_scratch(3, e.conv.groups * size, |panels| {
        with_scratch(5, e.c_in * e.c_out * e.taps, |turned| {
            for (g, mut panels) in panels.chunks_exact_mut(size).enumerate() {
                let from = weight_matrix(e, ops, g);
                for taps in all.iter().filter(|taps| !taps.is_empty()) {
                    let depth = e.c_out * taps.len();
                    let turned = &mut turned[..depth * e.c_in];
                    let rows_of =
                        turned.par_chunks_exact_mut(e.c_in).with_min_len(WEIGHTS / e.c_in).enumerate();
                    rows_of.for_each(|(i, row)| {
                        let [y, x] = taps[i % taps.len()][0];
                        let line = from.offset + (i / taps.len()) as isize * from.strides[0];
                        let line = &from.data[line as usize..][..e.c_in * e.taps];
                        let own = line.iter().skip(y * e.conv.kernel[1] + x).step_by(e.taps);
                        row.iter_mut().zip(own).for_each(|(to, &w)| *to = w);
                    });
                    let (own, rest) = panels.split_at_mut(e.c_in.next_multiple_of(rows()) * depth);
                    Mat::dense(turned, depth, e.c_in).pack_by(rows(), own);
                    panels = rest;
                }
            }
        });
        f(panels);
    });
}

/// The results of a phase, `[channel, sample · pixel]`.
fn phase(
    from: &Padded<'_>,
    weights: &[f32],
    taps: &Taps,
    [channels, rows, ld]: [usize; 3],
    sums: &mut [f32],
    panels: &mut [f32],
) {
    let shape = from.shape;
    let places =
        |channel: usize| taps.iter().map(move |[_, [y, x]]| (channel * shape.lines + y) * shape.width + x);
    let taps: &Vec<usize> = &(0..channels).flat_map(places).collect();
    match LinesProduct::suits(shape.out[1]) {
        true => LinesProduct { a: weights, from, taps, acc: sums, size: [rows, ld] }.run(),
        false => patch_product(from, taps, weights, sums, [rows, ld], false, panels),
    }
}

/// Puts the phases of lines number `y`, `[phase, channel, sample · line · pixel]`, to their places in `[sample, channel, line, pixel]`.
/// Those without taps stay what is there.
fn weave(
    e: &Extents<'_>,
    [samples, lines, width]: [usize; 3],
    (y, phases): (usize, &[Taps]),
    sums: &[f32],
    out: &mut [f32],
) {
    let ([high, wide], width_in) = (e.conv.stride, e.conv.input[1]);
    let (ld, height) = (samples * lines * width, out.len() / (samples * e.c_in * width_in));
    let pairs = wide == 2 && phases.iter().all(|taps| !taps.is_empty());
    for (i, plane) in out.chunks_exact_mut(height * width_in).enumerate() {
        let (sample, channel) = (i / e.c_in, i % e.c_in);
        for (line, to) in plane.chunks_exact_mut(width_in).skip(y).step_by(high).enumerate() {
            let at = |phase: usize| {
                &sums[(phase * e.c_in + channel) * ld + (sample * lines + line) * width..][..width]
            };
            if pairs {
                let (pairs, last) = to.as_chunks_mut::<2>();
                pairs.iter_mut().zip(at(0).iter().zip(at(1))).for_each(|(to, (&a, &b))| *to = [a, b]);
                last.iter_mut().for_each(|to| *to = at(0)[width - 1]);
                continue;
            }
            for (phase, _) in phases.iter().enumerate().filter(|(_, taps)| !taps.is_empty()) {
                let to = to.get_mut(phase..).unwrap_or_default();
                to.iter_mut().step_by(wide).zip(at(phase)).for_each(|(to, &x)| *to = x);
            }
        }
    }
}
