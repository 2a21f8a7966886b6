//! The tile table of the GPU kernels and the choice from it.
//!
//! The choice depends on extents that do not hold the batch, as far as the kind tells which those are, so that
//! a short last batch uses the kernels of the full ones.

use super::{Contraction, ConvKind};
use crate::View;

/// Which WGSL file a tile belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Template {
    /// tile.wgsl: staged in workgroup memory.
    Tile,
    /// lanes.wgsl: for software adapters.
    Lanes,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Tile {
    /// Shown by `explain()`.
    pub label: &'static str,
    /// The file.
    pub template: Template,
    /// Results of a workgroup: m, n.
    pub size: [usize; 2],
    /// Steps of k that are taken together.
    pub step: usize,
    /// Results of an invocation: m, n.
    pub thread: [usize; 2],
}

/// From large to small, hardware first.
pub(super) const TILES: [Tile; 4] = [
    Tile { label: "tile 64x64x16", template: Template::Tile, size: [64, 64], step: 16, thread: [4, 4] },
    Tile { label: "tile 32x32x16", template: Template::Tile, size: [32, 32], step: 16, thread: [4, 4] },
    Tile { label: "lanes 8x64", template: Template::Lanes, size: [8, 64], step: 4, thread: [8, 8] },
    Tile { label: "lanes 4x32", template: Template::Lanes, size: [4, 32], step: 4, thread: [4, 4] },
];

/// Workgroups below which the sum over k is split: enough to occupy a large graphics card.
const HARDWARE_GROUPS: usize = 256;
/// The same for a software adapter, where a workgroup is a task of one thread.
const SOFTWARE_GROUPS: usize = 32;
/// Least steps of k of a split.
const MIN_SPLIT: usize = 256;
/// Most words of scratch: 64 MiB, half of the least binding size that WebGPU guarantees.
const MAX_SCRATCH: usize = 1 << 24;

/// How a contraction runs on a GPU.
#[derive(Debug)]
pub(super) struct Plan {
    /// The tile.
    pub tile: &'static Tile,
    /// Tiles along m and n.
    pub tiles: [usize; 2],
    /// Parts of the sum over k, at least 1.
    pub splits: usize,
    /// Steps of k of a part.
    pub k_per_split: usize,
    /// Whether results go through scratch. It may be so with one part too: a short batch must not need another
    /// kernel than a long one.
    pub scratch: bool,
    /// Workgroups.
    pub groups: usize,
}

/// Batch, m, n and k of the implicit product.
pub(super) fn extents(c: &Contraction) -> [usize; 4] {
    match c {
        Contraction::MatMul(mm) => [mm.batch.numel(), mm.m, mm.n, mm.k],
        Contraction::Conv(cv) => {
            let per_group = |channels: usize| channels / cv.groups;
            let (ci, co) = (per_group(cv.c_in), per_group(cv.c_out));
            let taps = cv.kernel[0] * cv.kernel[1];
            let pixels = cv.n * cv.output[0] * cv.output[1];
            let [m, n, k] = match cv.kind {
                ConvKind::Forward => [co, pixels, ci * taps],
                ConvKind::InputGrad => [ci, cv.n * cv.input[0] * cv.input[1], co * taps],
                ConvKind::WeightGrad => [co, ci * taps, pixels],
            };
            [cv.groups, m, n, k]
        }
    }
}

impl Tile {
    /// Invocations of a workgroup.
    pub fn threads(&self) -> usize {
        self.size[0] / self.thread[0] * (self.size[1] / self.thread[1])
    }

    /// Whether this tile is not far larger than the extents that do not hold the batch (m, n; `None` for one
    /// that may).
    fn fits(&self, fixed: [Option<usize>; 2]) -> bool {
        fixed.iter().zip(self.size).all(|(extent, tile)| extent.is_none_or(|e| 2 * e > tile))
    }

    fn grid(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.size[0]), n.div_ceil(self.size[1])]
    }
}

/// Chooses the tile and the splits for a result that is not empty.
pub(super) fn plan(c: &Contraction, software: bool) -> Plan {
    let [batch, m, n, k] = extents(c);
    let fixed = match c {
        Contraction::MatMul(_) => [None, Some(n)],
        Contraction::Conv(cv) if cv.kind == ConvKind::WeightGrad => [Some(m), Some(n)],
        Contraction::Conv(_) => [Some(m), None],
    };
    let template = if software { Template::Lanes } else { Template::Tile };
    let rows = || TILES.iter().filter(|t| t.template == template);
    let tile = rows()
        .find(|t| t.fits(fixed))
        .or_else(|| rows().next_back())
        .expect("the table has rows for each template");
    let tiles = tile.grid(m, n);
    let groups = batch * tiles[0] * tiles[1];
    let wanted = if software { SOFTWARE_GROUPS } else { HARDWARE_GROUPS };
    let splits = (wanted.div_ceil(groups)).min(k / MIN_SPLIT).min(MAX_SCRATCH / (batch * m * n)).max(1);
    let scratch = match c {
        Contraction::Conv(cv) => cv.kind == ConvKind::WeightGrad,
        // A long sum into few results is a weight gradient, too.
        Contraction::MatMul(_) => splits > 1 && k >= 16 * MIN_SPLIT,
    };
    let splits = if scratch { splits } else { 1 };
    let k_per_split = k.div_ceil(splits).next_multiple_of(tile.step).max(1);
    // Rounding up may leave the last parts without work.
    let splits = k.div_ceil(k_per_split).max(1);
    Plan { tile, tiles, splits, k_per_split, scratch, groups: groups * splits }
}

/// Whether neighbouring elements of the left and of the right operand lie along k.
pub(super) fn along_k(c: &Contraction) -> [bool; 2] {
    match c {
        Contraction::MatMul(mm) => {
            let lead = mm.batch.rank();
            let steps = |s: &[isize]| [s[lead].unsigned_abs(), s[lead + 1].unsigned_abs()];
            let ([am, ak], [bk, bn]) = (steps(&mm.a.strides), steps(&mm.b.strides));
            [ak < am, bk < bn]
        }
        // Weights lie along taps, an output gradient and an image along pixels.
        Contraction::Conv(cv) => [true, cv.kind == ConvKind::WeightGrad],
    }
}

/// Whether the left and the right operand can be read four elements at once, along k if [`along_k`] says so, else
/// along m or n. All quads must start at multiples of four elements.
pub(super) fn wide(c: &Contraction) -> [bool; 2] {
    // Whether steps of `fast` are neighbours, all others and the offset are multiples of four, and so is `extent`.
    let quads = |view: &View, fast: usize, extent: usize| {
        let whole = |x: isize| x % 4 == 0;
        let mut steps = view.strides.iter().zip(view.shape.iter()).enumerate();
        let aligned = |(axis, (&s, &d)): (usize, (&isize, &usize))| {
            d == 1 || if axis == fast { s == 1 } else { whole(s) }
        };
        let all = steps.all(aligned);
        all && extent.is_multiple_of(4) && whole(view.offset)
    };
    match c {
        Contraction::MatMul(mm) => {
            let lead = mm.batch.rank();
            let along_k = along_k(c);
            let a = match along_k[0] {
                true => quads(&mm.a, lead + 1, mm.k),
                false => quads(&mm.a, lead, mm.m),
            };
            let b = match along_k[1] {
                true => quads(&mm.b, lead, mm.k),
                false => quads(&mm.b, lead + 1, mm.n),
            };
            [a, b]
        }
        Contraction::Conv(cv) => {
            // The left operand as [m or k, the rest of k in one], if that is how it lies in memory.
            let [rows, row] = match cv.kind {
                ConvKind::Forward => [1, cv.c_in / cv.groups * cv.kernel[0] * cv.kernel[1]],
                ConvKind::InputGrad => return [false; 2],
                ConvKind::WeightGrad => [2, cv.output[0] * cv.output[1]],
            };
            let dense = View::contiguous(cv.b.shape);
            let merged = (rows..4).all(|i| cv.b.shape[i] == 1 || cv.b.strides[i] == dense.strides[i]);
            let outer = cv.b.strides[..rows].iter().all(|s| s % 4 == 0);
            [merged && outer && row.is_multiple_of(4) && cv.b.offset % 4 == 0, false]
        }
    }
}
