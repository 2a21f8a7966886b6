//! The transform of pixels: padded lines of samples to the frequencies of their tiles.

use std::ops::Range;

use pulp::Simd;

use super::FREQUENCIES;
use super::number::{Panel, pixels};
use crate::contract::Conv;
use crate::contract::cpu_conv::with_buffers;
use crate::contract::panel::{COLS, over_panels};
use crate::contract::patches::{Lanes, PaddedShape, Planes, SLACK};
use crate::contract::transpose::parted;
use crate::lanes::arch;

/// Channels whose padded lines are copied at once.
const CHANNELS: usize = 8;

/// Lines of tiles of a sample, and tiles of a line.
pub(super) fn tiles(c: &Conv) -> [usize; 2] {
    c.output.map(|extent| extent.div_ceil(2))
}

/// Where frequencies lie: panels of [`COLS`] floats from one frequency, panel and channel to the next.
#[derive(Clone, Copy)]
pub(super) struct Apart {
    pub frequency: usize,
    pub panel: usize,
    pub channel: usize,
}

impl Apart {
    /// As a product's right operand, panels of so many columns: tiles, whose steps are channels, or in a weight gradient channels,
    /// whose steps are tiles.
    pub fn panels(steps: usize, columns: usize) -> Apart {
        Apart { frequency: columns.div_ceil(COLS) * steps + 1, panel: steps, channel: 1 }
    }

    /// As a product's left operand: a row of tiles for each channel.
    pub fn rows(channels: usize, tiles: usize) -> Apart {
        let channel = tiles.div_ceil(COLS);
        Apart { frequency: channels * channel + 1, panel: 1, channel }
    }

    /// Floats of all. A panel lies between two frequencies: sixteen lines whose places differ by a power of two share few places of
    /// the cache, and take 1.6 times as long to store.
    pub fn len(&self) -> usize {
        FREQUENCIES * self.frequency * COLS
    }
}

/// Some tiles of an image.
pub(super) struct Block<'a> {
    pub conv: &'a Conv,
    pub image: &'a Planes<'a>,
    pub channels: Range<usize>,
    pub samples: Range<usize>,
    /// Lines of tiles of each sample.
    pub lines: Range<usize>,
}

impl Block<'_> {
    /// The number of tiles.
    pub fn tiles(&self) -> usize {
        self.samples.len() * self.lines.len() * tiles(self.conv)[1]
    }

    /// Stores the frequencies of all.
    pub fn transform(&self, out: &mut [f32], apart: Apart) {
        let (samples, lines, width) = (self.samples.len(), self.lines.len(), tiles(self.conv)[1]);
        // What whole tiles read.
        let conv = Conv { output: [2 * lines, 2 * width], ..self.conv.clone() };
        let shape = |channels: usize| PaddedShape::new(&conv, channels, 2 * lines);
        // Transformed lines of one parity of all samples, and the rest of a vector.
        let rows = samples * (lines + 1) * width + COLS;
        let panels = self.tiles().div_ceil(COLS);
        let lanes: Vec<Lanes> =
            (0..panels).map(|panel| lanes(panel * COLS, self.tiles(), [lines, width])).collect();
        // Vectors reach beyond the last line.
        let reach = shape(CHANNELS).len(samples) + 2 * COLS;
        with_buffers([8 * rows, 0, reach], |[rows, _, words]| {
            for first in self.channels.clone().step_by(CHANNELS) {
                let channels = first..(first + CHANNELS).min(self.channels.end);
                let padded = &mut words[..shape(channels.len()).len(samples)];
                shape(channels.len()).fill(
                    padded,
                    &conv,
                    self.image,
                    &self.samples,
                    &channels,
                    2 * self.lines.start,
                );
                let count = [samples, channels.len(), lines, width];
                let first = (first - self.channels.start) * apart.channel;
                arch().dispatch(Transform { words, rows, count, lanes: &lanes, out, first, apart });
            }
        });
    }
}

/// How a panel's tiles lie in lines of which each sample has one more than lines of tiles.
fn lanes(first: usize, tiles: usize, [lines, width]: [usize; 2]) -> Lanes {
    let mut at = [0; COLS];
    for (tile, at) in (first..).zip(&mut at) {
        // What is beyond the last tile is of no use, but it must lie in the lines.
        *at = tile + tile.min(tiles - 1) / (lines * width) * width;
    }
    Lanes::new(at)
}

/// Transforms padded lines of some channels.
struct Transform<'a> {
    words: &'a [f32],
    /// Lines of a channel that are transformed along themselves: each frequency of the even ones, and of the odd ones, so that
    /// neighbouring tiles read neighbours, also those of the next line of tiles.
    rows: &'a mut [f32],
    /// Samples, channels, lines of tiles and tiles of a line.
    count: [usize; 4],
    /// How the tiles of each panel lie in such lines.
    lanes: &'a [Lanes],
    out: &'a mut [f32],
    /// The place of the first channel.
    first: usize,
    apart: Apart,
}

over_panels!(Transform, transform);

impl Transform<'_> {
    #[inline(always)]
    fn transform<S: Simd, const V: usize>(self, simd: S) {
        let Transform { words, rows, count: [samples, channels, lines, width], lanes, out, first, apart } =
            self;
        let (out, size) = (out.as_chunks_mut::<COLS>().0, rows.len() / 8);
        // Lines of a channel of a sample, and their length.
        let [high, wide] = [2 * lines + 2, 2 * width + 2];
        for channel in 0..channels {
            for sample in 0..samples {
                let mut from = &words[SLACK + (sample * channels + channel) * high * wide..];
                let mut to = sample * (lines + 1) * width;
                for _ in 0..lines + 1 {
                    for parity in 0..2 {
                        along_line::<S, V>(simd, from, &mut rows[parity * size + to..], width, 2 * size);
                        from = &from[wide..];
                    }
                    to += width;
                }
            }
            for (panel, lanes) in lanes.iter().enumerate() {
                let place = first + panel * apart.panel + channel * apart.channel;
                for x in 0..4 {
                    let line = &rows[2 * x * size..][..2 * size];
                    // Even lines, then odd ones.
                    let (a, b) = (read::<S, V>(simd, lanes, line, 0), read(simd, lanes, line, size));
                    let (c, d) = (read(simd, lanes, line, width), read(simd, lanes, line, size + width));
                    let mut place = place + x * apart.frequency;
                    for numbers in pixels([a, b, c, d]) {
                        out[place] = numbers.numbers();
                        place += 4 * apart.frequency;
                    }
                }
            }
        }
    }
}

/// What a panel's tiles read from a place on. A closure would be a call.
#[inline(always)]
fn read<S: Simd, const V: usize>(simd: S, lanes: &Lanes, line: &[f32], tap: usize) -> Panel<S, V> {
    Panel::new(simd, bytemuck::cast(lanes.read::<S, V>(simd, line, tap)))
}

/// Transforms some tiles along a line, whole vectors of them, and stores frequencies so far apart.
#[inline(always)]
fn along_line<S: Simd, const V: usize>(simd: S, from: &[f32], to: &mut [f32], tiles: usize, apart: usize) {
    let (first, rest) = to.split_at_mut(apart);
    let (second, rest) = rest.split_at_mut(apart);
    let (third, fourth) = rest.split_at_mut(apart);
    let mut x = 0;
    while x < tiles {
        let from = &from[2 * x..][..2 * COLS + 2];
        let two = |at: usize| -> [[f32; COLS]; 2] {
            bytemuck::cast(*from[at..].first_chunk::<{ 2 * COLS }>().expect("that long"))
        };
        let [[a, b], [c, d]] = [parted(simd, two(0)), parted(simd, two(2))];
        let panel = |numbers| Panel::<S, V>::new(simd, numbers);
        let [a, b, c, d] = pixels([panel(a), panel(b), panel(c), panel(d)]);
        first[x..x + COLS].copy_from_slice(&a.numbers());
        second[x..x + COLS].copy_from_slice(&b.numbers());
        third[x..x + COLS].copy_from_slice(&c.numbers());
        fourth[x..x + COLS].copy_from_slice(&d.numbers());
        x += COLS;
    }
}
