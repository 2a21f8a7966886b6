//! What a convolution reads: samples with their padding around them, and patches of them as panels of a product.

use std::borrow::Cow;
use std::ops::Range;

use pulp::{NullaryFnOnce, Simd};
use rayon::prelude::*;

use super::Conv;
use super::panel::{COLS, Mat, Tiles, WIDE, over_panels, put, rows, step, steps};
use crate::View;
use crate::lanes::arch;

/// Zeros before and after the padded samples, so that a panel may be read in one piece where only a part is wanted.
pub(super) const SLACK: usize = COLS;

/// A `[N, C, H, W]` operand whose planes are contiguous.
pub(super) struct Planes<'a> {
    data: Cow<'a, [f32]>,
    offset: isize,
    sample: isize,
    channel: isize,
    area: usize,
}

impl<'a> Planes<'a> {
    pub fn new(view: &View, data: &'a [f32]) -> Planes<'a> {
        let (data, view) = dense_from(2, view, data);
        Planes {
            data,
            offset: view.offset,
            sample: view.strides[0],
            channel: view.strides[1],
            area: view.shape[2] * view.shape[3],
        }
    }

    fn start(&self, sample: usize, channel: usize) -> isize {
        self.offset + sample as isize * self.sample + channel as isize * self.channel
    }

    /// One plane, row-major.
    pub fn plane(&self, sample: usize, channel: usize) -> &[f32] {
        let start = self.start(sample, channel) as usize;
        &self.data[start..start + self.area]
    }

    /// Some channels of one sample as a matrix `[channels, pixels]`.
    pub fn matrix(&self, sample: usize, channels: Range<usize>, pixels: Range<usize>) -> Mat<'_> {
        Mat {
            data: &self.data,
            offset: self.start(sample, channels.start) + pixels.start as isize,
            size: [channels.len(), pixels.len()],
            strides: [self.channel, 1],
        }
    }
}

/// The operand itself if its dimensions from `axis` on are row-major in memory, else a dense copy.
pub(super) fn dense_from<'a>(axis: usize, view: &View, data: &'a [f32]) -> (Cow<'a, [f32]>, View) {
    let mut tail = View::contiguous(view.shape);
    tail.strides[..axis].copy_from_slice(&view.strides[..axis]);
    tail.offset = view.offset;
    let same = |(i, (&a, &b))| view.shape[i] == 1 || a == b;
    if view.strides.iter().zip(&tail.strides).enumerate().all(same) {
        return (Cow::Borrowed(data), tail);
    }
    let rank = view.shape.rank();
    let row = view.shape[rank - 1];
    let step = view.strides[rank - 1];
    let mut copy = vec![0.0; view.shape.numel()];
    copy.par_chunks_mut(row).enumerate().for_each(|(mut i, out)| {
        let mut offset = view.offset;
        for axis in (0..rank - 1).rev() {
            offset += (i % view.shape[axis]) as isize * view.strides[axis];
            i /= view.shape[axis];
        }
        for (x, out) in out.iter_mut().enumerate() {
            *out = data[(offset + x as isize * step) as usize];
        }
    });
    (Cow::Owned(copy), View::contiguous(view.shape))
}

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
    /// Lines of a plane, and floats of a line.
    pub lines: usize,
    pub width: usize,
    /// Pixels of a line that neighbouring output pixels read through one tap: a line has those of each remainder by the
    /// stride after one another, so that such pixels are neighbours, too.
    part: usize,
    /// Output lines, and pixels of one.
    pub out: [usize; 2],
    pub stride: [usize; 2],
    dilation: [usize; 2],
    kernel: [usize; 2],
}

impl PaddedShape {
    pub fn new(c: &Conv, channels: usize, lines: usize) -> PaddedShape {
        let extent = |axis: usize, out: usize| {
            (out - 1) * c.stride[axis] + (c.kernel[axis] - 1) * c.dilation[axis] + 1
        };
        let part = extent(1, c.output[1]).div_ceil(c.stride[1]);
        PaddedShape {
            channels,
            lines: extent(0, lines),
            width: part * c.stride[1],
            part,
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
        let right = kx * self.dilation[1];
        let right = right % self.stride[1] * self.part + right / self.stride[1];
        (channel * self.lines + ky * self.dilation[0]) * self.width + right
    }

    /// Where each of the first `rows` taps, those of some channels, lies, as in [`PaddedShape::tap`].
    pub fn taps(&self, rows: usize) -> Vec<usize> {
        // Divisions for the first channel only: each piece of an image asks for this.
        let first: Vec<usize> = (0..self.kernel[0] * self.kernel[1]).map(|row| self.tap(row)).collect();
        let channels = (0..rows / first.len()).map(|channel| channel * self.lines * self.width);
        channels.flat_map(|start| first.iter().map(move |tap| start + tap)).collect()
    }

    /// Where output pixel `i` of all samples reads its first tap.
    fn pixel(&self, i: usize) -> usize {
        let [lines, width] = self.out;
        let (x, y, sample) = (i % width, i / width % lines, i / (width * lines));
        SLACK + sample * self.sample() + y * self.stride[0] * self.width + x
    }

    /// Whether some tap reads what has this remainder by the stride along `axis`.
    fn reads(&self, axis: usize, remainder: usize) -> bool {
        (0..self.kernel[axis]).any(|k| k * self.dilation[axis] % self.stride[axis] == remainder)
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
        let planes = samples.clone().flat_map(|s| channels.clone().map(move |ch| (s, ch)));
        let (step, zero) = (self.stride[1], std::hint::black_box(0));
        let (left, top) = (c.padding[1].min(self.width), first * c.stride[0]);
        let take = width.min(self.width - left);
        let inside = |y: usize| (top + y).checked_sub(c.padding[0]).filter(|&y| y < c.input[0]);
        let (slack, body) = words.split_at_mut(SLACK);
        let (body, rest) = body.split_at_mut(samples.len() * self.sample());
        slack.fill(0.0);
        rest.fill(0.0);
        if self.stride == [1, 1] {
            // Each line once.
            let lines: Vec<_> = (0..self.lines).map(|y| inside(y).map(|y| y * width)).collect();
            for (plane, (s, ch)) in body.chunks_exact_mut(self.lines * self.width).zip(planes) {
                let from = image.plane(s, ch);
                for (line, at) in plane.chunks_exact_mut(self.width).zip(&lines) {
                    let Some(at) = *at else {
                        line.fill(0.0);
                        continue;
                    };
                    let (before, line) = line.split_at_mut(left);
                    let (line, behind) = line.split_at_mut(take);
                    let edges = before.iter_mut().chain(behind);
                    edges.for_each(|x| *x = f32::from_bits(zero));
                    copy_line(line, &from[at..at + take], zero);
                }
            }
            return Padded { words, shape: self };
        }
        // All at once: the padding of a line alone is too short for a call.
        body.fill(0.0);
        // The lines that taps read, and for each remainder that they read where its first pixel comes from and goes to.
        let lines = (0..self.lines).filter(|y| self.reads(0, y % self.stride[0]));
        let lines: Vec<[usize; 2]> =
            lines.filter_map(|y| Some([y * self.width, inside(y)? * width])).collect();
        let remainders = (0..step).filter(|&r| self.reads(1, r)).map(|remainder| {
            let skip = (remainder + step - left % step) % step;
            [skip.min(take), remainder * self.part + (left + skip) / step]
        });
        let remainders: Vec<[usize; 2]> = remainders.collect();
        for (plane, (s, ch)) in body.chunks_exact_mut(self.lines * self.width).zip(planes) {
            let from = image.plane(s, ch);
            for &[to, at] in &lines {
                let (line, from) = (&mut plane[to..to + self.width], &from[at..at + take]);
                for &[skip, to] in &remainders {
                    let (to, from) = (line[to..].iter_mut(), &from[skip..]);
                    // Pairs let the compiler use shuffles.
                    match from.as_chunks::<2>() {
                        (pairs, last) if step == 2 => {
                            let (to, rest) = to.into_slice().split_at_mut(pairs.len());
                            to.iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair[0]);
                            rest.iter_mut().zip(last).for_each(|(to, &x)| *to = x);
                        }
                        _ => to.zip(from.iter().step_by(step)).for_each(|(to, &x)| *to = x),
                    }
                }
            }
        }
        Padded { words, shape: self }
    }

    /// The pixels of one channel of a sample whose lines are all here: what [`PaddedShape::fill`] copies, the other way round.
    /// Pixels that no tap reads are 0.
    pub fn read(&self, words: &[f32], c: &Conv, channel: usize, plane: &mut [f32]) {
        let (step, left) = (self.stride[1], c.padding[1]);
        for (y, line) in plane.chunks_exact_mut(c.input[1]).enumerate() {
            line.fill(0.0);
            let y = y + c.padding[0];
            if y >= self.lines {
                continue;
            }
            let from = &words[SLACK + (channel * self.lines + y) * self.width..][..self.width];
            for (remainder, from) in from.chunks_exact(self.part).enumerate() {
                let skip = (remainder + step - left % step) % step;
                let from = from.get((left + skip) / step..).unwrap_or_default();
                line.iter_mut().skip(skip).step_by(step).zip(from).for_each(|(to, &x)| *to = x);
            }
        }
    }
}

/// Copies a line of few pixels, for which a call of `memcpy` takes longer. Bits of `zero`, of which the compiler knows
/// nothing, keep it from making one of the loops.
#[inline(always)]
fn copy_line(to: &mut [f32], from: &[f32], zero: u32) {
    let same = |x: f32| f32::from_bits(x.to_bits() | zero);
    let (to, to_rest) = to.as_chunks_mut::<8>();
    let (from, from_rest) = from.as_chunks::<8>();
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.map(same));
    to_rest.iter_mut().zip(from_rest).for_each(|(to, &x)| *to = same(x));
}

/// How the lanes of a panel lie in the padded samples.
#[derive(Clone, Copy)]
pub(super) enum Lanes {
    /// Next to each other from a place on.
    Run(usize),
    /// Some from the first place on, the others so that lane `i` lies at the second place plus `i`; all bits of the first are set.
    Two([u32; COLS], usize, usize),
    /// Each where it says; what is beyond the last pixel reads the slack.
    Any([usize; COLS]),
}

impl Lanes {
    pub fn new(at: [usize; COLS]) -> Lanes {
        let run = |from: usize| (from + 1..COLS).find(|&i| at[i] != at[i - 1] + 1).unwrap_or(COLS);
        let split = run(0);
        if split == COLS {
            return Lanes::Run(at[0]);
        }
        match run(split) == COLS && at[split] >= split {
            true => {
                let first = std::array::from_fn(|i| if i < split { !0 } else { 0 });
                Lanes::Two(first, at[0], at[split] - split)
            }
            false => Lanes::Any(at),
        }
    }

    /// What the lanes read through a tap.
    #[inline(always)]
    pub fn read<S: Simd, const V: usize>(&self, simd: S, words: &[f32], tap: usize) -> [S::f32s; V] {
        let run = |at: usize| -> [f32; COLS] {
            let mut lanes = [0.0; COLS];
            lanes.copy_from_slice(&words[at..at + COLS]);
            lanes
        };
        match self {
            Lanes::Run(at) => bytemuck::cast(run(at + tap)),
            Lanes::Two(first, one, two) => {
                // Vectors by name: of a choice for each lane the compiler makes sixteen loads.
                let first: [S::u32s; V] = bytemuck::cast(*first);
                let mut all: [S::u32s; V] = bytemuck::cast(run(one + tap));
                let two: [S::u32s; V] = bytemuck::cast(run(two + tap));
                for (a, (b, first)) in all.iter_mut().zip(two.into_iter().zip(first)) {
                    let other = simd.and_u32s(b, simd.not_u32s(first));
                    *a = simd.or_u32s(simd.and_u32s(*a, first), other);
                }
                bytemuck::cast(all)
            }
            Lanes::Any(at) => {
                let mut lanes = [0.0; COLS];
                for (lane, at) in lanes.iter_mut().zip(at) {
                    *lane = words[at + tap];
                }
                bytemuck::cast(lanes)
            }
        }
    }
}

/// Packs the patches of some output pixels into panels of columns.
pub(super) struct PackPatches<'a> {
    pub from: &'a Padded<'a>,
    /// Where the rows of the patches, over channels and taps, lie: see [`PaddedShape::taps`].
    pub taps: &'a [usize],
    /// Output pixels of all samples.
    pub pixels: usize,
    /// Number of the first panel.
    pub first: usize,
    /// Panels, whole.
    pub out: &'a mut [f32],
}

impl PackPatches<'_> {
    pub fn run(self) {
        arch().dispatch(self);
    }

    fn lanes(&self, panel: usize) -> Lanes {
        let first = panel * COLS;
        let (shape, mut at, mut next) = (&self.from.shape, [0; COLS], 0);
        for (i, at) in (first..self.pixels).zip(&mut at) {
            // Divisions at the beginning of a line only.
            next = match i > first && i % shape.out[1] != 0 {
                true => next + 1,
                false => shape.pixel(i),
            };
            *at = next;
        }
        Lanes::new(at)
    }
}

over_panels!(PackPatches, pack);

impl PackPatches<'_> {
    #[inline(always)]
    fn pack<S: Simd, const V: usize>(self, simd: S) {
        let words = self.from.words;
        let depth = self.taps.len();
        for number in 0..self.out.len() / (depth * COLS) {
            let lanes = self.lanes(self.first + number);
            let panel = self.out[number * depth * COLS..][..depth * COLS].as_chunks_mut::<COLS>().0;
            for (row, &tap) in panel.iter_mut().zip(self.taps) {
                *row = bytemuck::cast(lanes.read::<S, V>(simd, words, tap));
            }
        }
    }
}

/// A product of weights with patches that are not packed: a panel is a piece of an output line, and what it reads
/// through a tap lies in a row. Good where lines are nearly whole panels; the lanes beyond their ends are not used.
pub(super) struct LinesProduct<'a> {
    /// Panels of rows of the weights.
    pub a: &'a [f32],
    pub from: &'a Padded<'a>,
    /// See [`PackPatches::taps`].
    pub taps: &'a [usize],
    /// The result, row-major and dense.
    pub acc: &'a mut [f32],
    /// Extents of the result.
    pub size: [usize; 2],
}

impl LinesProduct<'_> {
    /// Whether at most a quarter of the lanes is of no use for lines of this width.
    pub fn suits(width: usize) -> bool {
        4 * width >= 3 * width.next_multiple_of(COLS)
    }
}

impl Tiles for LinesProduct<'_> {
    fn panels(&self) -> usize {
        let width = self.from.shape.out[1];
        self.size[1] / width * width.div_ceil(COLS)
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const P: usize, const V: usize>(
        &mut self,
        simd: S,
        panels: Range<usize>,
    ) {
        let Padded { words, shape } = self.from;
        let ([rows, ld], width, taps) = (self.size, shape.out[1], self.taps);
        let (pieces, reach) = (width.div_ceil(COLS), taps.iter().max().map_or(0, |tap| tap + COLS));
        for first in panels.step_by(P) {
            let (mut from, mut place): ([&[f32]; P], _) = ([&[]; P], [[0; 2]; P]);
            for (p, (from, place)) in from.iter_mut().zip(&mut place).enumerate() {
                let (line, x) = ((first + p) / pieces, (first + p) % pieces * COLS);
                let at = shape.pixel(line * width) + x;
                *from = &words[at..at + reach];
                *place = [line * width + x, COLS.min(width - x)];
            }
            for (i, a) in self.a.chunks_exact(taps.len() * R).enumerate() {
                let mut tile = [[[simd.splat_f32s(0.0); V]; P]; R];
                for (a, &tap) in a.as_chunks::<R>().0.iter().zip(taps) {
                    let mut b = [&[0.0; COLS]; P];
                    for (b, from) in b.iter_mut().zip(from) {
                        *b = from[tap..].first_chunk().expect("the longest reach is that of the last tap");
                    }
                    step(simd, &mut tile, *a, b);
                }
                for (r, row) in (i * R..rows).zip(&tile) {
                    for (sums, [col, width]) in row.iter().zip(place) {
                        // Whole panels but for the last of a row: what is too much is written over by the next piece.
                        let width = if col + COLS <= ld { COLS } else { width };
                        put(&mut self.acc[r * ld + col..][..width], bytemuck::cast(*sums), false);
                    }
                }
            }
        }
    }
}

/// Pixels of a tile of [`PixelsProduct`]: with two panels of channels they have 28 sums in 32 registers.
const PIXELS: usize = 14;

/// The same product with pixels of a line as the rows of a tile and output channels as its columns. No lane is without use
/// where lines have whole fourteens, as in most nets for images of 224.
pub(super) struct PixelsProduct<'a> {
    /// Panels of columns of the weights, transposed.
    pub weights: &'a [f32],
    pub from: &'a Padded<'a>,
    /// See [`PackPatches::taps`].
    pub taps: &'a [usize],
    /// The result, row-major and dense.
    pub acc: &'a mut [f32],
    /// Extents of the result.
    pub size: [usize; 2],
}

impl PixelsProduct<'_> {
    /// Whether lines have whole tiles and channels whole panels, more than one, and sums are so long that the way from tiles
    /// to planes, a word at a time, does not matter.
    pub fn suits(width: usize, channels: usize, depth: usize) -> bool {
        let whole = width.is_multiple_of(PIXELS) && channels.is_multiple_of(COLS) && channels > COLS;
        rows() == WIDE && whole && depth >= 8 * PIXELS
    }
}

impl Tiles for PixelsProduct<'_> {
    fn panels(&self) -> usize {
        self.size[0] / COLS
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const P: usize, const V: usize>(
        &mut self,
        simd: S,
        panels: Range<usize>,
    ) {
        let (Padded { words, shape }, [_, ld]) = (self.from, self.size);
        let (depth, reach) = (self.taps.len(), self.taps.iter().max().map_or(0, |tap| tap + PIXELS));
        for first in panels.step_by(P) {
            let mut weights: [&[[f32; COLS]]; P] = [&[]; P];
            for (p, to) in weights.iter_mut().enumerate() {
                *to = self.weights[(first + p) * depth * COLS..][..depth * COLS].as_chunks::<COLS>().0;
            }
            for pixel in (0..ld).step_by(PIXELS) {
                let from = &words[shape.pixel(pixel)..][..reach];
                let mut tile = [[[simd.splat_f32s(0.0); V]; P]; PIXELS];
                for (k, &tap) in self.taps.iter().enumerate() {
                    let a = *from[tap..].first_chunk().expect("the longest reach is that of the last tap");
                    let mut b = [&[0.0; COLS]; P];
                    for (b, weights) in b.iter_mut().zip(weights) {
                        *b = &weights[k];
                    }
                    step::<S, PIXELS, P, V>(simd, &mut tile, a, b);
                }
                let mut sums = [[[0.0; COLS]; P]; PIXELS];
                for (sums, row) in sums.iter_mut().zip(&tile) {
                    for (sums, vectors) in sums.iter_mut().zip(row) {
                        *sums = bytemuck::cast(*vectors);
                    }
                }
                for channel in first * COLS..(first + P) * COLS {
                    let (p, lane) = (channel / COLS - first, channel % COLS);
                    let to = &mut self.acc[channel * ld + pixel..][..PIXELS];
                    to.iter_mut().zip(&sums).for_each(|(to, sums)| *to = sums[p][lane]);
                }
            }
        }
    }
}

/// Rows of a patch matrix, `ld` floats each, for lines that are no longer than a panel.
pub(super) struct PatchRows<'a> {
    pub image: &'a Padded<'a>,
    pub out: &'a mut [f32],
    pub ld: usize,
}

impl NullaryFnOnce for PatchRows<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let PatchRows { image: Padded { words, shape }, out, ld } = self;
        let ([lines, width], step) = (shape.out, shape.stride[0] * shape.width);
        for (row, out) in out.chunks_mut(ld).enumerate() {
            let at = SLACK + shape.tap(row);
            for y in 0..lines {
                // A whole panel, whose end the next line writes over.
                let line =
                    words[at + y * step..].first_chunk::<COLS>().expect("there is slack after the last line");
                out[y * width..y * width + COLS].copy_from_slice(line);
            }
        }
    }
}

/// Adds the weight gradient of one sample: `acc[tap, out channel] += Σ patch[tap, pixel] · grad[pixel, out channel]`.
///
/// Patches are not packed: the taps of a tile are as many lines of the padded sample, read side by side.
pub(super) struct WeightProduct<'a> {
    pub image: &'a Padded<'a>,
    /// Rows of the patches, over channels and taps.
    pub taps: usize,
    /// The gradient's panels of out channels, `[panel][pixel][COLS]`.
    pub grad: &'a [f32],
    /// `[taps, ld]`, `ld` whole panels.
    pub acc: &'a mut [f32],
}

impl Tiles for WeightProduct<'_> {
    fn panels(&self) -> usize {
        let [lines, width] = self.image.shape.out;
        self.grad.len() / (lines * width * COLS)
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const P: usize, const V: usize>(
        &mut self,
        simd: S,
        panels: Range<usize>,
    ) {
        let Padded { words, shape } = self.image;
        let [lines, width] = shape.out;
        let size = lines * width * COLS;
        let ld = self.grad.len() / (lines * width);
        for panel in panels.step_by(P) {
            let grads: [&[[f32; COLS]]; P] =
                std::array::from_fn(|p| self.grad[(panel + p) * size..][..size].as_chunks::<COLS>().0);
            for first in (0..self.taps).step_by(R) {
                // Rows beyond the last one repeat it, and are not stored.
                let rows = R.min(self.taps - first);
                let at: [usize; R] = std::array::from_fn(|r| SLACK + shape.tap(first + r.min(rows - 1)));
                let mut tile = [[[simd.splat_f32s(0.0); V]; P]; R];
                for y in 0..lines {
                    // Loops, not `map`: that is a call of its own for so many.
                    let (mut from, mut right): ([&[f32]; R], [&[[f32; COLS]]; P]) = ([&[]; R], [&[]; P]);
                    for (line, at) in from.iter_mut().zip(at) {
                        *line = &words[at + y * shape.stride[0] * shape.width..][..width];
                    }
                    for (line, grad) in right.iter_mut().zip(grads) {
                        *line = &grad[y * width..(y + 1) * width];
                    }
                    steps(simd, &mut tile, from, right);
                }
                for (r, row) in (first..first + rows).zip(&tile) {
                    for (p, sums) in row.iter().enumerate() {
                        let at = r * ld + (panel + p) * COLS;
                        put(&mut self.acc[at..at + COLS], bytemuck::cast(*sums), true);
                    }
                }
            }
        }
    }
}
