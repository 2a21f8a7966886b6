//! What a convolution reads: samples with their padding around them, and patches of them as panels of a product.

use std::ops::Range;

use pulp::{NullaryFnOnce, Simd, WithSimd};

use super::Conv;
use super::cpu_conv::Planes;
use super::panel::{COLS, ROWS, put, step};
use crate::lanes::{arch, vectorised};

/// Zeros before and after the padded samples, so that a panel may be read in one piece where only a part is wanted.
const SLACK: usize = COLS;

/// Samples with zeros around them, for some output lines; borrowed memory.
pub(super) struct Padded<'a> {
    pub words: &'a [f32],
    pub shape: PaddedShape,
}

/// Extents of [`Padded`].
#[derive(Clone, Copy)]
pub(super) struct PaddedShape {
    /// Channels of a sample.
    channels: usize,
    /// Lines of a plane, and pixels of a line.
    lines: usize,
    width: usize,
    /// Output lines, and pixels of one.
    out: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    kernel: [usize; 2],
}

impl PaddedShape {
    pub fn new(c: &Conv, channels: usize, lines: usize) -> PaddedShape {
        let extent = |axis: usize, out: usize| {
            (out - 1) * c.stride[axis] + (c.kernel[axis] - 1) * c.dilation[axis] + 1
        };
        PaddedShape {
            channels,
            lines: extent(0, lines),
            width: extent(1, c.output[1]),
            out: [lines, c.output[1]],
            stride: c.stride,
            dilation: c.dilation,
            kernel: c.kernel,
        }
    }

    /// Floats that `samples` of them take.
    pub fn len(&self, samples: usize) -> usize {
        2 * SLACK + samples * self.sample()
    }

    fn sample(&self) -> usize {
        self.channels * self.lines * self.width
    }

    /// Where the first pixel of tap number `row`, counted over channels and taps, lies in a sample.
    fn tap(&self, row: usize) -> usize {
        let [height, width] = self.kernel;
        let (channel, tap) = (row / (height * width), row % (height * width));
        let (ky, kx) = (tap / width, tap % width);
        (channel * self.lines + ky * self.dilation[0]) * self.width + kx * self.dilation[1]
    }

    /// Where output pixel `i` of all samples reads its first tap.
    fn pixel(&self, i: usize) -> usize {
        let [lines, width] = self.out;
        let (x, y, sample) = (i % width, i / width % lines, i / (width * lines));
        SLACK + sample * self.sample() + y * self.stride[0] * self.width + x * self.stride[1]
    }

    /// Copies what the output lines from `first` on read of some channels.
    pub fn fill<'a>(
        self,
        words: &'a mut [f32],
        c: &Conv,
        image: &Planes<'_>,
        samples: &Range<usize>,
        channels: &Range<usize>,
        first: usize,
    ) -> Padded<'a> {
        let width = c.input[1];
        words[..SLACK].fill(0.0);
        let (body, tail) = words[SLACK..].split_at_mut(samples.len() * self.sample());
        tail.fill(0.0);
        let planes = samples.clone().flat_map(|s| channels.clone().map(move |ch| (s, ch)));
        let (left, top) = (c.padding[1].min(self.width), first * c.stride[0]);
        let take = width.min(self.width - left);
        for (plane, (s, ch)) in body.chunks_exact_mut(self.lines * self.width).zip(planes) {
            let from = image.plane(s, ch);
            for (y, line) in plane.chunks_exact_mut(self.width).enumerate() {
                match (top + y).checked_sub(c.padding[0]).filter(|&y| y < c.input[0]) {
                    Some(y) => {
                        line[..left].fill(0.0);
                        line[left..left + take].copy_from_slice(&from[y * width..y * width + take]);
                        line[left + take..].fill(0.0);
                    }
                    None => line.fill(0.0),
                }
            }
        }
        Padded { words, shape: self }
    }
}

/// How the lanes of a panel lie in the padded samples.
#[derive(Clone, Copy)]
enum Lanes {
    /// Next to each other from a place on.
    Run(usize),
    /// So many from the first place on, the others so that lane `i` lies at the second place plus `i`.
    Two(usize, usize, usize),
    /// Each where it says; what is beyond the last pixel reads the slack.
    Any([usize; COLS]),
}

/// Packs the patches of all output pixels into panels of columns.
pub(super) struct PackPatches<'a> {
    pub from: &'a Padded<'a>,
    /// Rows of the patches, over channels and taps.
    pub taps: usize,
    /// Output pixels of all samples.
    pub pixels: usize,
    /// Panels, whole.
    pub out: &'a mut [f32],
}

impl PackPatches<'_> {
    pub fn run(self) {
        vectorised(self);
    }

    fn lanes(&self, panel: usize) -> Lanes {
        let first = panel * COLS;
        let at = std::array::from_fn(|lane| match first + lane {
            pixel if pixel < self.pixels => self.from.shape.pixel(pixel),
            _ => 0,
        });
        let run = |from: usize| (from + 1..COLS).find(|&i| at[i] != at[i - 1] + 1).unwrap_or(COLS);
        let split = run(0);
        if split == COLS {
            return Lanes::Run(at[0]);
        }
        match run(split) == COLS && at[split] >= split {
            true => Lanes::Two(split, at[0], at[split] - split),
            false => Lanes::Any(at),
        }
    }
}

impl NullaryFnOnce for PackPatches<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let shape = &self.from.shape;
        let words = self.from.words;
        let depth = self.taps;
        let taps: Vec<usize> = (0..depth).map(|row| shape.tap(row)).collect();
        for number in 0..self.out.len() / (depth * COLS) {
            let lanes = self.lanes(number);
            let panel = self.out[number * depth * COLS..][..depth * COLS].as_chunks_mut::<COLS>().0;
            let rows = panel.iter_mut().zip(taps.iter().copied());
            match lanes {
                Lanes::Run(at) => {
                    for (row, tap) in rows {
                        row.copy_from_slice(&words[at + tap..at + tap + COLS]);
                    }
                }
                Lanes::Two(split, one, two) => {
                    for (row, tap) in rows {
                        let (a, b) = (&words[one + tap..][..COLS], &words[two + tap..][..COLS]);
                        for (i, (row, (&a, &b))) in row.iter_mut().zip(a.iter().zip(b)).enumerate() {
                            *row = if i < split { a } else { b };
                        }
                    }
                }
                Lanes::Any(at) => {
                    for (row, tap) in rows {
                        for (row, at) in row.iter_mut().zip(&at) {
                            *row = words[at + tap];
                        }
                    }
                }
            }
        }
    }
}

/// Adds the weight gradient of one sample: `acc[tap, out channel] += Σ patch[tap, pixel] · grad[pixel, out channel]`.
///
/// Patches are not packed: six taps are six lines of the padded sample, read side by side.
pub(super) struct WeightProduct<'a> {
    pub image: &'a Padded<'a>,
    /// Rows of the patches, over channels and taps.
    pub taps: usize,
    /// The gradient's panels of out channels, `[panel][pixel][COLS]`.
    pub grad: &'a [f32],
    /// `[taps, ld]`, `ld` whole panels.
    pub acc: &'a mut [f32],
}

impl WeightProduct<'_> {
    pub fn run(self) {
        arch().dispatch(self);
    }
}

impl WithSimd for WeightProduct<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.tiles::<S, 1>(simd),
            8 => self.tiles::<S, 2>(simd),
            4 => self.tiles::<S, 4>(simd),
            _ => self.tiles::<S, 16>(simd),
        }
    }
}

impl WeightProduct<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const V: usize>(self, simd: S) {
        let shape = &self.image.shape;
        let [lines, width] = shape.out;
        let across = shape.stride[1];
        let panel = lines * width * COLS;
        let ld = self.grad.len() / panel * COLS;
        for (j, grad) in self.grad.chunks_exact(panel).enumerate() {
            let grad = grad.as_chunks::<COLS>().0;
            for first in (0..self.taps).step_by(ROWS) {
                // Rows beyond the last one repeat it, and are not stored.
                let rows = ROWS.min(self.taps - first);
                let at: [usize; ROWS] = std::array::from_fn(|r| SLACK + shape.tap(first + r.min(rows - 1)));
                let mut tile = [[simd.splat_f32s(0.0); V]; ROWS];
                for (y, grad) in grad.chunks_exact(width).enumerate() {
                    let down = y * shape.stride[0] * shape.width;
                    let span = (width - 1) * across + 1;
                    let lines: [&[f32]; ROWS] = at.map(|at| &self.image.words[at + down..][..span]);
                    if across == 1 {
                        let [a, b, c, d, e, f] = lines.map(|l| &l[..grad.len()]);
                        for (x, grad) in grad.iter().enumerate() {
                            step(simd, &mut tile, [a[x], b[x], c[x], d[x], e[x], f[x]], grad);
                        }
                    } else {
                        for (x, grad) in grad.iter().enumerate() {
                            step(simd, &mut tile, lines.map(|l| l[x * across]), grad);
                        }
                    }
                }
                for (r, row) in tile.iter().enumerate().take(rows) {
                    let at = (first + r) * ld + j * COLS;
                    put(&mut self.acc[at..at + COLS], bytemuck::cast(*row), true);
                }
            }
        }
    }
}
