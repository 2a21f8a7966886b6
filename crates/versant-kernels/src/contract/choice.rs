//! Which variant runs a contraction: those that fit, the likely best first, by a model of an adapter's time.
//!
//! The order depends on extents that do not hold the batch, as far as kind and layout tell which those are, so
//! that a short last batch uses the kernels of the full ones. An extent of 1 is structure, not size.

use super::tiles::{MIN_SPLIT, Template, Variant, VariantId, along_k, extents, splits};
use super::{Contraction, ConvKind, MatMul};
use crate::{Caps, Class, Shape, View};

/// The variants that an adapter can run for a contraction, the default choice first.
///
/// None if the result has no elements or the adapter's limits are below WebGPU's.
pub fn variants(c: &Contraction, caps: &Caps) -> Vec<VariantId> {
    if c.output_shape().numel() == 0 {
        return Vec::new();
    }
    ordered(&c.clone().simplified(), caps)
}

/// The same of a simplified contraction with a result.
pub(super) fn ordered(c: &Contraction, caps: &Caps) -> Vec<VariantId> {
    let mut all: Vec<(u64, VariantId)> = VariantId::all()
        .filter(|id| id.row().fits(caps, c))
        .filter(|id| if id.split { may_split(c) } else { extents(c)[3] <= id.row().longest_sum() })
        .map(|id| (time(id, c, caps), id))
        .collect();
    all.sort();
    all.into_iter().map(|(_, id)| id).collect()
}

/// What runs where nothing else is said.
pub(super) fn default(c: &Contraction, caps: &Caps) -> VariantId {
    ordered(c, caps).first().copied().expect("a variant of each class fits WebGPU's default limits")
}

/// Whether a split sum is worth a launch at all.
fn may_split(c: &Contraction) -> bool {
    match c {
        Contraction::Conv(cv) => cv.kind == ConvKind::WeightGrad || extents(c)[3] >= 4 * MIN_SPLIT,
        Contraction::MatMul(mm) => mm.k >= 4 * MIN_SPLIT,
    }
}

/// Batch, m, n and k for the choice. An extent that may hold the batch counts as a usual one.
fn nominal(c: &Contraction) -> [usize; 4] {
    let [batch, m, n, k] = extents(c);
    let usual = |extent: usize, usual: usize| if extent == 1 { 1 } else { usual };
    match c {
        // Activations come first and lie along k; in a weight gradient they are transposed, and k is the batch.
        Contraction::MatMul(_) if along_k(c)[0] => [usual(batch, 16), usual(m, 256), n, k],
        Contraction::MatMul(_) => [usual(batch, 16), m, n, usual(k, 2048)],
        Contraction::Conv(cv) => match cv.kind {
            ConvKind::Forward => [batch, m, 32 * cv.output[0] * cv.output[1], k],
            ConvKind::InputGrad => [batch, m, 32 * cv.input[0] * cv.input[1], k],
            ConvKind::WeightGrad => [batch, m, n, 32 * cv.output[0] * cv.output[1]],
        },
    }
}

/// Nanoseconds that a variant is thought to take on an adapter of this class; only the order means anything.
fn time(id: VariantId, c: &Contraction, caps: &Caps) -> u64 {
    let extents = nominal(c);
    if caps.is_software() { lanes_time(id, c, extents) } else { hardware_time(id, c, extents, caps) }
}

/// Results of the largest tile that pays on a software adapter for a product with so many weights: of 32 x 64 and 16 x 64
/// the text takes 250 and 45 ms more to compile than of 16 x 32, and runs 1.38 and 1.14 times as fast.
fn worth_compiling(c: &Contraction, [_, m, n, k]: [usize; 4]) -> usize {
    // What does not hold the batch.
    match if along_k(c)[0] { n * k } else { m * n } {
        weights if weights >= 1 << 19 => 32 * 64,
        weights if weights >= 1 << 17 => 16 * 64,
        _ => 16 * 32,
    }
}

/// On a software adapter shuffles win, then the largest tile that is not far larger than the result; weight gradients
/// are split.
fn lanes_time(id: VariantId, c: &Contraction, nominal: [usize; 4]) -> u64 {
    let (variant, [_, m, n, _]) = (id.row(), nominal);
    let far_larger = |(extent, tile): (&usize, usize)| 2 * *extent <= tile;
    // Products are bound by what shuffles save, whatever part of a tile is idle.
    let saves = variant.template == Template::Shuffle && matches!(c, Contraction::MatMul(_));
    let costly = saves && variant.size[0] * variant.size[1] > worth_compiling(c, nominal);
    let poor = costly || !saves && [m, n].iter().zip(variant.size).any(far_larger);
    let split = match c {
        Contraction::Conv(cv) => cv.kind == ConvKind::WeightGrad,
        Contraction::MatMul(mm) => splits(variant, super::tiles::extents(c)) > 1 && mm.k >= 16 * MIN_SPLIT,
    };
    let area = variant.size[0] * variant.size[1];
    (4096 * poor as usize * area + (4096 - area)) as u64 + 100_000_000 * u64::from(split != id.split)
}

/// Compute units of a nominal adapter, each with 64 lanes that take a multiply-add in half a nanosecond.
fn compute_units(class: Class) -> usize {
    if class == Class::Discrete { 40 } else { 8 }
}

/// Nanoseconds that a launch costs by itself.
const LAUNCH: u64 = 5_000;

/// Rounds of workgroups times the work of an invocation, in multiply-adds.
fn hardware_time(id: VariantId, c: &Contraction, [batch, m, n, k]: [usize; 4], caps: &Caps) -> u64 {
    let variant = id.row();
    let Variant { size, thread, .. } = variant;
    let parts = if id.split { splits(variant, [batch, m, n, k]) } else { 1 };
    let tiles = variant.grid(m, n);
    let groups = batch * tiles[0] * tiles[1] * parts;
    let units = compute_units(caps.class);
    let threads = variant.threads();
    // Below two invocations a lane, waiting for memory is not hidden.
    let rounds = (groups.div_ceil(units) * threads).max(128) as f64 / 64.0;
    // What a step of k costs an invocation: multiply-adds, reads of staged quads, loads from memory.
    let [macs, reads] = [thread[0] * thread[1], thread[0] + thread[1]].map(|x| x as f64);
    let staged = (size[0] + size[1]) as f64 / threads as f64;
    let work = match variant.template {
        Template::Coop => macs / 8.0 + reads / 8.0 + 6.0 * staged,
        Template::Half => macs + 0.5 * reads + 5.0 * staged,
        // Each invocation loads its own columns, from lines of their own if they lie along k.
        Template::Lanes | Template::Shuffle => {
            macs + thread[1] as f64 * if along_k(c)[1] { 16.0 } else { 4.0 }
        }
        Template::Tile => macs + 0.75 * reads + 4.0 * staged,
        // A step is one of its invocations' work.
        Template::Dot => (macs + 4.0 * reads) / threads as f64,
    };
    // The invocations of a dot product take whole rounds of k, and then add up what they have.
    let dot = variant.template == Template::Dot;
    let steps = k.div_ceil(parts).next_multiple_of(if dot { variant.step } else { 1 });
    let tree = if dot { rounds * (50.0 + macs) } else { 0.0 };
    let product = rounds * work * steps as f64 * 0.5 + tree;
    // Partial results are written and read again, at ten bytes a nanosecond and unit.
    let scratch = if id.split { (8 * batch * m * n * parts / (10 * units)) as u64 + LAUNCH } else { 0 };
    product as u64 + scratch
}

/// A small problem of odd sizes for the same kernel: a variant's text for it is that for `c`, so what is right
/// for it on an adapter is right for `c`.
///
/// Extents, offsets and strides keep what they leave by division by four, the order of dimensions in memory, and
/// zeros and signs of strides; all else is data to a kernel.
pub fn probe(variant: VariantId, c: &Contraction) -> Contraction {
    let [tile_m, tile_n] = variant.row().size;
    // Beyond one tile, with an odd edge where four at a time are not asked for.
    let shrink = |extent: usize, to: usize| match extent {
        0 | 1 => extent,
        _ => to.next_multiple_of(4) + extent % 4,
    };
    match c.clone().simplified() {
        Contraction::MatMul(mm) => {
            let [m, n] = [shrink(mm.m, tile_m + 1), shrink(mm.n, tile_n + 1)];
            let k = shrink(mm.k, if variant.split { 2 * MIN_SPLIT } else { 2 * variant.row().step + 1 });
            let batch: Vec<usize> = mm.batch.iter().map(|&e| e.min(2)).collect();
            let batch = Shape::new(&batch).expect("as many dimensions as before");
            let dims = |tail: [usize; 2]| [batch.dims(), &tail[..]].concat();
            let (a, b) = (resized(&mm.a, &dims([m, k])), resized(&mm.b, &dims([k, n])));
            Contraction::MatMul(MatMul { batch, m, n, k, a, b, types: mm.types })
        }
        conv => conv,
    }
}

/// A view like this one with other extents.
fn resized(view: &View, dims: &[usize]) -> View {
    let mut order: Vec<usize> = (0..dims.len()).filter(|&i| view.strides[i] != 0).collect();
    order.sort_by_key(|&i| (view.strides[i].unsigned_abs(), view.shape[i]));
    let mut out = View { shape: Shape::new(dims).expect("as many dimensions as before"), ..view.clone() };
    let (mut pitch, mut low) = (1, 0);
    for i in order {
        let old = view.strides[i];
        // A whole number of quads apart, or not, as before; neighbours stay neighbours.
        while old.unsigned_abs() != pitch && (pitch % 4 == 0) != (old % 4 == 0) {
            pitch += 1;
        }
        out.strides[i] = old.signum() * pitch as isize;
        low += (dims[i].max(1) - 1) as isize * (-out.strides[i]).max(0);
        pitch *= dims[i].max(1);
    }
    // Room for what runs backwards.
    out.offset = (low + 3) / 4 * 4 + view.offset.rem_euclid(4);
    out
}
