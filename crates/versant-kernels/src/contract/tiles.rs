//! The table of variants: how a contraction may run on a GPU, and what a variant makes of one.

use super::{Contraction, ConvKind};
use crate::{Caps, Precision, View};

/// Which WGSL file a variant belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Template {
    /// tile.wgsl: staged in workgroup memory.
    Tile,
    /// tile.wgsl with half.wgsl: staged as f16.
    Half,
    /// tile.wgsl with coop.wgsl: multiplied by cooperative matrices.
    Coop,
    /// lanes.wgsl: for software adapters.
    Lanes,
    /// dot.wgsl: few rows or columns, along k.
    Dot,
    /// shuffle.wgsl: for software adapters with subgroups and 64-bit integers.
    Shuffle,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Variant {
    /// Shown by `explain()`; names the variant on disk, so it changes when the kernel's meaning does.
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

const fn row(
    label: &'static str,
    template: Template,
    size: [usize; 2],
    step: usize,
    thread: [usize; 2],
) -> Variant {
    Variant { label, template, size, step, thread }
}

/// Hardware first, from large to small.
pub(super) const VARIANTS: [Variant; 20] = [
    row("coop64 128x64x16", Template::Coop, [128, 64], 16, [8, 4]),
    row("coop32 128x64x16", Template::Coop, [128, 64], 16, [8, 8]),
    row("half 128x128x8", Template::Half, [128, 128], 8, [8, 8]),
    row("half 64x64x16", Template::Half, [64, 64], 16, [8, 4]),
    row("tile 128x128x8", Template::Tile, [128, 128], 8, [8, 8]),
    row("tile 128x64x8", Template::Tile, [128, 64], 8, [8, 8]),
    row("tile 64x128x8", Template::Tile, [64, 128], 8, [8, 8]),
    row("tile 64x64x16", Template::Tile, [64, 64], 16, [8, 4]),
    row("tile 32x32x16", Template::Tile, [32, 32], 16, [4, 4]),
    row("thin 4x256", Template::Lanes, [4, 256], 4, [4, 4]),
    row("thin 1x256", Template::Lanes, [1, 256], 4, [1, 4]),
    row("dot 1x4", Template::Dot, [1, 4], 256, [1, 4]),
    row("dot 4x1", Template::Dot, [4, 1], 256, [4, 1]),
    row("dot 4x4", Template::Dot, [4, 4], 256, [4, 4]),
    row("shuffle 32x64x2", Template::Shuffle, [32, 64], 2, [32, 8]),
    row("shuffle 16x64x2", Template::Shuffle, [16, 64], 2, [16, 8]),
    row("shuffle 16x32x2", Template::Shuffle, [16, 32], 2, [16, 4]),
    row("shuffle 16x32x1", Template::Shuffle, [16, 32], 1, [16, 4]),
    row("lanes 8x64", Template::Lanes, [8, 64], 4, [8, 8]),
    row("lanes 4x32", Template::Lanes, [4, 32], 4, [4, 4]),
];

/// A way to run a contraction on a GPU: a row of the table, with the sum over k in one part or split over
/// workgroups (whose partial results a second launch adds).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VariantId {
    pub(super) row: u8,
    pub(super) split: bool,
}

impl VariantId {
    /// All of them.
    pub fn all() -> impl Iterator<Item = VariantId> {
        let rows = 0..VARIANTS.len() as u8;
        rows.flat_map(|row| [false, true].map(|split| VariantId { row, split }))
    }

    /// A name that stays the same between versions as long as the kernel does.
    pub fn label(self) -> String {
        format!("{}{}", self.row().label, if self.split { " split" } else { "" })
    }

    /// The variant of this name.
    pub fn parse(label: &str) -> Option<VariantId> {
        VariantId::all().find(|v| v.label() == label)
    }

    /// The largest relative error of a product of two operands, beside which sums in f32 err little.
    pub fn rounding(self) -> f32 {
        if self.row().is_half() { 1e-3 } else { 0.0 }
    }

    pub(super) fn row(self) -> &'static Variant {
        &VARIANTS[usize::from(self.row)]
    }
}

/// Invocations of a workgroup of dot.wgsl, which takes four steps of k with each.
const DOT_LANES: usize = 64;

/// Workgroups below which the sum over k is split: enough to occupy a large graphics card.
const HARDWARE_GROUPS: usize = 256;
/// The same for a software adapter, where a workgroup is a task of one thread.
const SOFTWARE_GROUPS: usize = 32;
/// Rounds of its loop over k that an invocation may make on a software adapter: lavapipe 22.3.6 silently ends all
/// loops of an invocation after 65,535 in total, and the epilogue has some, too.
const SOFTWARE_ROUNDS: usize = 60_000;
/// Least steps of k of a split.
pub(super) const MIN_SPLIT: usize = 256;
/// Most words of scratch, 4 MiB: beyond that, memory and the traffic of partial sums cost what more workgroups win.
const MAX_SCRATCH: usize = 1 << 20;

/// How a contraction runs on a GPU.
#[derive(Debug)]
pub(super) struct Plan {
    /// The variant.
    pub variant: &'static Variant,
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

impl Variant {
    /// Invocations of a workgroup.
    pub fn threads(&self) -> usize {
        if self.template == Template::Dot {
            return DOT_LANES;
        }
        self.size[0] / self.thread[0] * (self.size[1] / self.thread[1])
    }

    /// Bytes of workgroup memory.
    pub fn workgroup_bytes(&self) -> usize {
        let [m, n] = self.size;
        // Rows of staged tiles have pads, and there is a table of the steps of k.
        let (pitches, table) = (m + n + 8, 16 * self.step);
        match self.template {
            Template::Tile => 4 * self.step * pitches + table,
            Template::Half => 2 * self.step * pitches + table + 4 * m / self.thread[0] * n,
            Template::Coop => 2 * (self.step + 8) * (m + n) + table + 4096,
            Template::Dot => 4 * DOT_LANES * m * n,
            Template::Lanes | Template::Shuffle => 0,
        }
    }

    /// Whether it is one of those without workgroup memory that are made for thin results on graphics cards.
    pub fn is_thin(&self) -> bool {
        self.template == Template::Lanes && self.threads() > 8
    }

    /// Whether operands are rounded to 16 bits.
    pub fn is_half(&self) -> bool {
        matches!(self.template, Template::Half | Template::Coop)
    }

    /// Whether the adapter can run this variant, and is of the sort it was made for.
    pub fn fits(&self, caps: &Caps, c: &Contraction) -> bool {
        let hardware = !caps.is_software();
        let half = hardware && caps.f16 && caps.precision == Precision::F16;
        let threads = self.threads();
        let meant = match self.template {
            Template::Tile => hardware,
            Template::Half => half,
            // Four subgroups, or more where some are smaller than the largest.
            Template::Coop => {
                let largest = caps.max_subgroup as usize;
                half && caps.coop_matrix && 4 * largest == threads && caps.min_subgroup >= 32
            }
            // Few rows, few columns, or few of both: two tiles of them at most.
            Template::Dot => {
                let [_, m, n, _] = extents(c);
                let few = |extent: usize, tile: usize| extent <= if tile == 1 { 1 } else { 2 * tile };
                let thin = match self.size {
                    [1, _] => few(m, 1),
                    [_, 1] => few(n, 1),
                    [rows, cols] => few(m, rows) || few(n, cols),
                };
                let product = matches!(c, Contraction::MatMul(_));
                hardware && product && along_k(c) == [true; 2] && thin
            }
            Template::Lanes if self.is_thin() => hardware && extents(c)[1] <= 2 * self.size[0],
            Template::Lanes => caps.is_software(),
            // A step of a convolution is text enough to compile; products load two of them in one word.
            Template::Shuffle => {
                let steps = if matches!(c, Contraction::Conv(_)) { 1 } else { 2 };
                let lanes = caps.min_subgroup as usize >= threads;
                caps.is_software() && caps.int64 && lanes && self.step == steps
            }
        };
        let small =
            threads <= caps.invocations as usize && self.workgroup_bytes() <= caps.workgroup_bytes as usize;
        meant && small
    }

    /// Whether it reads the left and the right operand several elements at once.
    pub fn wide(&self, c: &Contraction) -> [bool; 2] {
        if self.step == 1 { [false; 2] } else { wide(c) }
    }

    /// Steps of k that one workgroup can add up.
    pub fn longest_sum(&self) -> usize {
        match self.template {
            Template::Lanes | Template::Shuffle if !self.is_thin() => self.step * SOFTWARE_ROUNDS,
            _ => usize::MAX,
        }
    }

    pub fn grid(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.size[0]), n.div_ceil(self.size[1])]
    }
}

/// What a variant makes of a result that is not empty.
pub(super) fn plan(c: &Contraction, id: VariantId) -> Plan {
    let variant = id.row();
    let [batch, m, n, k] = extents(c);
    let tiles = variant.grid(m, n);
    let groups = batch * tiles[0] * tiles[1];
    let splits = if id.split { splits(variant, [batch, m, n, k]) } else { 1 };
    let k_per_split = k.div_ceil(splits).next_multiple_of(variant.step).max(1);
    // Rounding up may leave the last parts without work.
    let splits = k.div_ceil(k_per_split).max(1);
    Plan { variant, tiles, splits, k_per_split, scratch: id.split, groups: groups * splits }
}

/// Into how many parts the sum of these extents (batch, m, n, k) is best split, at least 1.
pub(super) fn splits(variant: &Variant, [batch, m, n, k]: [usize; 4]) -> usize {
    let tiles = variant.grid(m, n);
    let software = variant.longest_sum() < usize::MAX;
    let wanted = if software { SOFTWARE_GROUPS } else { HARDWARE_GROUPS };
    let groups = (batch * tiles[0] * tiles[1]).max(1);
    let useful = wanted.div_ceil(groups).min(k / MIN_SPLIT).min(MAX_SCRATCH / (batch * m * n).max(1));
    useful.max(k.div_ceil(variant.longest_sum())).max(1)
}

/// Whether neighbouring elements of the left and of the right operand lie along k.
pub(super) fn along_k(c: &Contraction) -> [bool; 2] {
    match c {
        Contraction::MatMul(mm) => {
            let lead = mm.batch.rank();
            let steps = |s: &[isize]| [s[lead].unsigned_abs(), s[lead + 1].unsigned_abs()];
            let ([am, ak], [bk, bn]) = (steps(&mm.a.strides), steps(&mm.b.strides));
            // One row, or one column, lies along k however it lies.
            [mm.m == 1 || ak < am, mm.n == 1 || bk < bn]
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
