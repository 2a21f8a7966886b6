//! The weight gradient: products of the same frequencies, whose sums go over tiles, with the transforms transposed.

use std::ops::Range;

use pulp::Simd;

use super::number::{Panel, both, gradients, square, taps};
use super::tiles::{Apart, Block, tiles};
use super::{FREQUENCIES, block};
use crate::contract::cpu::with_scratch;
use crate::contract::cpu_conv::{Extents, Operands};
use crate::contract::panel::{COLS, Mat, RowsProduct, Sums, Tiles, over_panels};
use crate::contract::patches::Planes;
use crate::lanes::arch;

/// Stores the weight gradient of some samples, `[channel · 9 + tap, ld]`, for some channels of the input and of the output.
pub(in crate::contract) fn weight_sum(
    e: &Extents<'_>,
    ops: &Operands<'_>,
    [from, to]: [Range<usize>; 2],
    samples: Range<usize>,
    sum: &mut [f32],
) {
    let (c, [high, wide], channels) = (e.conv, tiles(e.conv), from.len());
    let grad = ops.grad.as_ref().expect("a weight gradient reads the output gradient");
    let ld = to.len().next_multiple_of(COLS);
    let [together, lines] = block(c, FREQUENCIES * (channels + ld));
    let most = together * lines * wide;
    let of_left = Apart::rows(channels, most);
    let lens = [of_left.len(), Apart::panels(most, ld).len(), FREQUENCIES * channels * ld];
    with_operands(lens, |[left, right, sums]| {
        let mut add = false;
        for first in samples.clone().step_by(together) {
            for y in (0..high).step_by(lines) {
                let (samples, lines) = (first..(first + together).min(samples.end), y..(y + lines).min(high));
                let block = Block { conv: c, image: &ops.image, channels: from.clone(), samples, lines };
                let depth = block.tiles();
                let of_right = Apart::panels(depth, ld);
                block.transform(left, of_left);
                transform_gradients(&block, grad, &to, right, of_right);
                for (i, acc) in sums.chunks_exact_mut(channels * ld).enumerate() {
                    let (data, pitch) = (&left[i * of_left.frequency * COLS..], of_left.channel * COLS);
                    let a = Mat { data, offset: 0, size: [channels, depth], strides: [pitch as isize, 1] };
                    let b = &right[i * of_right.frequency * COLS..][..ld * depth];
                    RowsProduct { a, b, acc, cols: ld, sums: Sums::stored_or_added(add) }.run();
                }
                add = true;
            }
        }
        arch().dispatch(Taps { sums, ld, out: sum });
    });
}

/// Three scratch buffers that transforms do not use.
fn with_operands(lens: [usize; 3], f: impl FnOnce([&mut [f32]; 3])) {
    with_scratch(3, lens[0], |a| with_scratch(4, lens[1], |b| with_scratch(6, lens[2], |c| f([a, b, c]))));
}

/// Stores the frequencies of a block's gradients, as a product's right operand.
fn transform_gradients(
    block: &Block<'_>,
    grad: &Planes<'_>,
    channels: &Range<usize>,
    out: &mut [f32],
    apart: Apart,
) {
    let [high, width] = block.conv.output;
    let lines = 2 * block.lines.start..(2 * block.lines.end).min(high);
    let each = block.tiles() / block.samples.len();
    let len = channels.len().next_multiple_of(COLS) * lines.len() * width;
    with_scratch(0, len, |pixels| {
        for (i, s) in block.samples.clone().enumerate() {
            let of_lines = lines.start * width..lines.end * width;
            grad.matrix(s, channels.clone(), of_lines).t().pack::<COLS>(pixels);
            let (size, out) = ([lines.len(), width], &mut out[i * each * COLS..]);
            arch().dispatch(Gradients { from: pixels, size, out, apart });
        }
    });
}

/// Transforms gradients of two by two results, panels of channels whose pixels lie one behind the other.
struct Gradients<'a> {
    /// `[panel][pixel][COLS]`.
    from: &'a [f32],
    /// Lines and columns of it.
    size: [usize; 2],
    out: &'a mut [f32],
    apart: Apart,
}

over_panels!(Gradients, transform);

impl Gradients<'_> {
    #[inline(always)]
    fn transform<S: Simd, const V: usize>(self, simd: S) {
        let Gradients { from, size: [height, width], out, apart } = self;
        let out = out.as_chunks_mut::<COLS>().0;
        for (number, from) in from.chunks_exact(height * width * COLS).enumerate() {
            let (from, mut place) = (from.as_chunks::<COLS>().0, number * apart.panel);
            for top in (0..height).step_by(2) {
                for left in (0..width).step_by(2) {
                    let at = |y: usize, x: usize| match top + y < height && left + x < width {
                        true => Panel::<S, V>::new(simd, from[(top + y) * width + left + x]),
                        false => Panel::new(simd, [0.0; COLS]),
                    };
                    let tile = both([[at(0, 0), at(0, 1)], [at(1, 0), at(1, 1)]], gradients);
                    for (frequency, numbers) in tile.as_flattened().iter().enumerate() {
                        out[place + frequency * apart.frequency] = numbers.numbers();
                    }
                    place += 1;
                }
            }
        }
    }
}

/// Transforms sums `[frequency][channel][ld]` to gradients of weights `[channel][tap][ld]`.
struct Taps<'a> {
    sums: &'a [f32],
    ld: usize,
    out: &'a mut [f32],
}

over_panels!(Taps, transform);

impl Taps<'_> {
    #[inline(always)]
    fn transform<S: Simd, const V: usize>(self, simd: S) {
        let (sums, out) = (self.sums.as_chunks::<COLS>().0, self.out.as_chunks_mut::<COLS>().0);
        let (size, panels) = (sums.len() / FREQUENCIES, self.ld / COLS);
        for (channel, out) in out.chunks_exact_mut(9 * panels).enumerate() {
            for panel in 0..panels {
                let at = |i: usize| Panel::<S, V>::new(simd, sums[i * size + channel * panels + panel]);
                let tile = both(square(at), taps);
                for (tap, numbers) in tile.as_flattened().iter().enumerate() {
                    out[tap * panels + panel] = numbers.numbers();
                }
            }
        }
    }
}
