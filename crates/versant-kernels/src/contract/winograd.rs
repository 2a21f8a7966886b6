//! Convolutions of 3 x 3 taps and stride 1 with 4/9 of the multiply-adds: Winograd's F(2 x 2, 3 x 3), as in Lavin and Gray, "Fast
//! Algorithms for Convolutional Neural Networks" (2015), section 4.1, whose names these are.
//!
//! Two by two results and the four by four pixels that they read make a tile. Tiles of some lines are transformed (`tiles.rs`),
//! and so are the weights; then each of sixteen frequencies is a product of its own, whose sums are transformed back. The weight
//! gradient is the same the other way round (`weight.rs`). Blocks of tiles stay in the second-level cache; sixteen frequencies of
//! four results are four times as many numbers, which is what a transform costs: they go there and come back.
//!
//! Transforms add and halve, no more: an error is that of a few more additions of a tile's own pixels. An infinity makes all
//! results of its tile NaN, though, also those that do not read it.

use pulp::{NullaryFnOnce, Simd};
use rayon::prelude::*;

use super::Conv;
use super::cpu::{SEQUENTIAL_MACS, Sink, with_scratch};
use super::cpu_conv::{Extents, IMAGE, Images};
use super::panel::{COLS, Mat, NARROW, Product, Sums, Tiles, WIDE, over_panels, rows};
use super::patches::Planes;
use super::transpose::woven;
use crate::lanes::{arch, vectorised};

mod number;
mod tiles;
mod weight;

use number::{Panel, both, results, square, weights};
use tiles::{Apart, Block, tiles};
pub(super) use weight::weight_sum;

/// Products that a tile becomes.
const FREQUENCIES: usize = 16;

/// Whether it takes clearly less time than products of patches would.
pub(super) fn suits(e: &Extents<'_>) -> bool {
    let c = e.conv;
    let tiles: usize = tiles(c).iter().product();
    // Multiply-adds, and as many as are done while as much is transformed, about seven for each number (`docs/cpu.md` has both
    // ways for some shapes). Weights are transformed once for all samples, but one batch should go the way of others.
    let weights = 6 * e.c_in * e.c_out / c.n.clamp(1, 3);
    let transforms = FREQUENCIES * (7 * tiles * (e.c_in + e.c_out) + weights);
    let products = FREQUENCIES * tiles * e.c_in * e.c_out;
    let same = [c.stride, c.dilation] == [[1, 1]; 2] && c.kernel == [3, 3];
    same && 5 * (transforms + products) < 4 * e.taps * e.pixels * e.c_in * e.c_out
}

/// Samples and lines of tiles that are transformed at once, where a tile takes `floats`.
fn block(c: &Conv, floats: usize) -> [usize; 2] {
    let ([height, width], together) = (tiles(c), (IMAGE / floats).max(2 * COLS));
    if together < height * width {
        let lines = (together / width).max(1);
        return [1, height.div_ceil(height.div_ceil(lines))];
    }
    [(together / (height * width)).min(c.n), height]
}

/// A convolution of `image` with weights `[Cout/g, Cin/g · 9]` of each group.
pub(super) fn forward<'w>(
    e: &Extents<'_>,
    image: &Planes<'_>,
    weight: impl Fn(usize) -> Mat<'w>,
    sink: &Sink<'_>,
) {
    let (c, size) = (e.conv, weight_panels(e));
    with_weights(e, weight, |weights| {
        e.for_each_part(block(c, FREQUENCIES * (e.c_in + e.c_out)), tiles(c)[0], |g, samples, lines| {
            let block = Block { conv: c, image, channels: g * e.c_in..(g + 1) * e.c_in, samples, lines };
            let (apart, weights) = (Apart::panels(e.c_in, block.tiles()), &weights[g * FREQUENCIES * size..]);
            let ld = block.tiles().next_multiple_of(COLS);
            let of_sums = e.c_out * ld + COLS;
            with_scratch(4, apart.len(), |right| {
                block.transform(right, apart);
                with_scratch(6, FREQUENCIES * of_sums, |sums| {
                    for (i, acc) in sums.chunks_exact_mut(of_sums).enumerate() {
                        let (a, b) = (&weights[i * size..][..size], &right[i * apart.frequency * COLS..]);
                        let (b, size) = (&b[..ld * e.c_in], [e.c_out, ld]);
                        Product { a, b, depth: e.c_in, acc, ld, size, sums: Sums::Store }.run();
                    }
                    emit(e, g, &block, sums, sink);
                });
            });
        });
    });
}

/// Floats of the panels of one frequency's weights.
fn weight_panels(e: &Extents<'_>) -> usize {
    e.c_out.next_multiple_of(rows()) * e.c_in
}

/// Calls `f` with the transformed weights of all groups, panels of rows of each frequency.
fn with_weights<'w>(e: &Extents<'_>, weight: impl Fn(usize) -> Mat<'w>, f: impl FnOnce(&[f32])) {
    let (size, tile) = (weight_panels(e), rows());
    with_scratch(3, e.conv.groups * FREQUENCIES * size, |all| {
        for (g, out) in all.chunks_exact_mut(FREQUENCIES * size).enumerate() {
            let weight = weight(g);
            // The frequencies of each panel.
            let mut panels: Vec<Vec<&mut [f32]>> = Vec::new();
            panels.resize_with(e.c_out.div_ceil(tile), Vec::new);
            for frequency in out.chunks_exact_mut(size) {
                let parts = frequency.chunks_exact_mut(tile * e.c_in);
                panels.iter_mut().zip(parts).for_each(|(panel, part)| panel.push(part));
            }
            let least = if e.macs() < SEQUENTIAL_MACS { panels.len() } else { 1 };
            panels.into_par_iter().enumerate().with_min_len(least).for_each(|(i, out)| {
                let first = i * tile;
                let weight = weight.block([first, 0], [tile.min(e.c_out - first), e.c_in * e.taps]);
                with_scratch(4, tile * e.c_in * e.taps, |from| {
                    weight.t().pack_by(tile, from);
                    match tile {
                        WIDE => vectorised(Weights::<WIDE> { from, out }),
                        _ => vectorised(Weights::<NARROW> { from, out }),
                    }
                });
            });
        }
        f(all);
    });
}

/// Transforms a panel of `R` rows of weights, `[channel][tap][R]`.
struct Weights<'a, const R: usize> {
    from: &'a [f32],
    /// `[channel][R]` of each frequency.
    out: Vec<&'a mut [f32]>,
}

impl<const R: usize> NullaryFnOnce for Weights<'_, R> {
    type Output = ();
    #[inline(always)]
    fn call(mut self) {
        let from = self.from.as_chunks::<R>().0;
        for (channel, from) in from.as_chunks::<9>().0.iter().enumerate() {
            let mut all = [[0.0; R]; FREQUENCIES];
            for lane in 0..R {
                let tile = both(square(|i| from[i][lane]), weights);
                all.iter_mut().zip(tile.as_flattened()).for_each(|(to, &value)| to[lane] = value);
            }
            for (out, all) in self.out.iter_mut().zip(all) {
                out[channel * R..][..R].copy_from_slice(&all);
            }
        }
    }
}

/// Transforms sums back and hands the results to the sink.
fn emit(e: &Extents<'_>, g: usize, block: &Block<'_>, sums: &[f32], sink: &Sink<'_>) {
    let (c, samples, lines) = (e.conv, block.samples.clone(), block.lines.clone());
    let [top, bottom] = [2 * lines.start, (2 * lines.end).min(c.output[0])];
    let size = [e.c_out, bottom - top, c.output[1]];
    let image: usize = size.iter().product();
    with_scratch(0, samples.len() * image, |out| {
        arch().dispatch(Results { sums, tiles: [samples.len(), lines.len(), tiles(c)[1]], out, size });
        let images = Images { channels: g * e.c_out..(g + 1) * e.c_out, of: c.c_out, area: e.pixels };
        images.emit(samples, top * c.output[1], out, sink);
    });
}

/// Transforms sums `[frequency][channel][tile]` to results.
struct Results<'a> {
    /// Whole panels of tiles; one more lies between two frequencies.
    sums: &'a [f32],
    /// Samples, lines of tiles, and tiles of a line.
    tiles: [usize; 3],
    /// `[sample, channel, line, column]`.
    out: &'a mut [f32],
    /// Channels, lines and columns of it.
    size: [usize; 3],
}

over_panels!(Results, transform);

impl Results<'_> {
    #[inline(always)]
    fn transform<S: Simd, const V: usize>(self, simd: S) {
        let (sums, [channels, height, columns]) = (self.sums.as_chunks::<COLS>().0, self.size);
        let (apart, panels) = (sums.len() / FREQUENCIES, self.tiles.iter().product::<usize>().div_ceil(COLS));
        for panel in 0..panels {
            let pieces = self.pieces(panel * COLS);
            for channel in 0..channels {
                let at = |i: usize| Panel::<S, V>::new(simd, sums[i * apart + channel * panels + panel]);
                for (y, [even, odd]) in both(square(at), results).into_iter().enumerate() {
                    let line = woven(simd, [even.numbers(), odd.numbers()]);
                    for piece in pieces.iter().filter(|piece| y < piece.lines) {
                        let to = &mut self.out[piece.at + (channel * height + y) * columns..][..piece.len];
                        copy(to, &line.as_flattened()[piece.from..][..piece.len]);
                    }
                }
            }
        }
    }
}

/// Tiles of a panel that are neighbours in a line.
struct Piece {
    /// Where their results begin in lines of the panel's results, and how many there are.
    from: usize,
    len: usize,
    /// Where those of the first line go, in channel 0.
    at: usize,
    /// How many lines there are.
    lines: usize,
}

impl Results<'_> {
    /// The pieces of the panel that begins with tile `first`.
    fn pieces(&self, first: usize) -> Vec<Piece> {
        let ([samples, lines, width], [channels, height, columns]) = (self.tiles, self.size);
        let (mut pieces, mut tile) = (Vec::new(), first);
        while tile < (first + COLS).min(samples * lines * width) {
            let (x, line, sample) = (tile % width, tile / width % lines, tile / (width * lines));
            let count = (width - x).min(first + COLS - tile);
            pieces.push(Piece {
                from: 2 * (tile - first),
                len: (2 * count).min(columns - 2 * x),
                at: (sample * channels * height + 2 * line) * columns + 2 * x,
                lines: (height - 2 * line).min(2),
            });
            tile += count;
        }
        pieces
    }
}

/// Copies a piece of a line, without a call if it has one of the usual lengths.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    match to.len() {
        32 => to[..32].copy_from_slice(&from[..32]),
        16 => to[..16].copy_from_slice(&from[..16]),
        8 => to[..8].copy_from_slice(&from[..8]),
        _ => to.copy_from_slice(from),
    }
}
