//! Fused attention, `softmax(q kᵀ · scale + mask) v`, and its gradient, without the matrix of all scores: the online
//! softmax of Milakov and Gimelshein (2018) over blocks of keys, as FlashAttention does it (Dao et al., 2022; Dao, 2023).
//!
//! The forward pass keeps the logarithm of each row's sum beside its result, from which the backward pass makes the
//! probabilities of a block again. Nothing is added with atomics: gradients of queries come from a loop over keys, those
//! of keys and values from a loop over queries, so results are the same every time.
//!
//! | pass | reads | result, flat |
//! | --- | --- | --- |
//! | [`Pass::Forward`] | q, k, v, mask? | out `[batch, queries, heads, value]`, log-sum-exp `[batch, queries, heads, parts]` |
//! | [`Pass::Backward`] | q, k, v, mask?, gradient of out, the forward result | dq `[batch, queries, heads, width]`, dk `[batch, keys, kv_heads, width]`, dv `[batch, keys, kv_heads, value]` |
//!
//! Heads lie behind positions in every result, where the layers around attention want them. A forward result that is rounded to
//! 16 bits before the backward pass reads it has several elements for each log-sum-exp, [`sum_parts`].

mod cpu;
mod gpu;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::{Caps, DType, KernelSource, Shape, Target, View};

pub use gpu::source_hash;

/// Widths of heads up to which there are kernels.
pub const MAX_WIDTH: usize = 128;

/// A row none of whose scores is above this sees nothing: its result is zero.
pub const HIDDEN: f32 = -6e37;

/// Elements of a row's log-sum-exp where the result is kept in such halves: each has the upper bits of what those before leave. Three
/// of bf16 hold an f32, two of f16 hold 22 bits of it.
pub fn sum_parts(kept: Option<DType>) -> usize {
    match kept {
        None => 1,
        Some(DType::F16) => 2,
        Some(_) => 3,
    }
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pass {
    /// The result and each row's log-sum-exp.
    Forward,
    /// The gradients of queries, keys and values.
    Backward,
}

/// What is added to the scores, or decides which of them count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MaskKind {
    /// Nothing.
    None,
    /// Numbers that are added.
    Added,
    /// Words: where one is 0, the score does not count.
    Words,
}

/// One attention problem. Query `i` sees the keys `i + start - left ..= i + start + right`.
#[derive(Clone, PartialEq, Debug)]
pub struct Attention {
    /// Which way.
    pub pass: Pass,
    /// Independent problems.
    pub batch: usize,
    /// Heads of the queries; a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head.
    pub keys: usize,
    /// Elements of a query and of a key.
    pub width: usize,
    /// Elements of a value.
    pub value: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Keys that are seen before a query's own position.
    pub left: usize,
    /// Keys that are seen behind it.
    pub right: usize,
    /// Position of query 0 among the keys.
    pub start: usize,
    /// The mask.
    pub mask: MaskKind,
    /// What the forward result is rounded to, if it is.
    pub kept: Option<DType>,
    /// Where the reads lie, in order: views of rank 4 without guards, `[batch, heads, position, element]`, the mask's
    /// `[batch, heads, query, key]`. The forward result is dense from its view's offset.
    pub views: Vec<View>,
    /// What the buffers of the reads hold: F32 or halves, words of the mask, F32 of the forward result.
    pub types: Vec<DType>,
}

impl Attention {
    /// Elements of the flat result.
    pub fn len(&self) -> usize {
        let rows = self.batch * self.queries * self.heads;
        match self.pass {
            Pass::Forward => rows * (self.value + self.sums()),
            Pass::Backward => {
                rows * self.width + self.batch * self.keys * self.kv_heads * (self.width + self.value)
            }
        }
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys that query `i` sees.
    fn seen(&self, i: usize) -> Range<usize> {
        let at = i + self.start;
        let low = at.saturating_sub(self.left).min(self.keys);
        low..at.saturating_add(self.right + 1).clamp(low, self.keys)
    }

    /// The keys that any of these queries sees.
    fn span(&self, queries: &Range<usize>) -> Range<usize> {
        let low = self.seen(queries.start).start;
        low..self.seen(queries.end - 1).end.max(low)
    }

    /// Elements of a row's log-sum-exp.
    fn sums(&self) -> usize {
        sum_parts(self.kept)
    }

    /// What a row that sees nothing has for it, so that its probabilities are zero when they are made again; the largest it may be;
    /// and which bits an element has. What f16 cannot hold becomes no number, which is how the rest of such a step
    /// overflows, too.
    fn sum_limits(&self) -> (f32, f32, u32) {
        match self.kept {
            Some(DType::F16) => (65_504.0, 65_504.0, !0 << 13),
            Some(_) => (-HIDDEN, f32::MAX, !0 << 16),
            None => (-HIDDEN, f32::MAX, !0),
        }
    }

    /// Position of the gradient of the result among the reads; the forward result follows.
    fn gradient(&self) -> usize {
        3 + usize::from(self.mask != MaskKind::None)
    }

    /// Floating-point operations and bytes: products of what is seen; every operand read once, every result written.
    pub fn cost(&self) -> (u64, u64) {
        let seen: usize = (0..self.queries).map(|i| self.seen(i).len()).sum();
        let pairs = self.batch * self.heads * seen;
        let (scores, values) = match self.pass {
            Pass::Forward => (1, 1),
            Pass::Backward => (3, 2),
        };
        let flops = 2 * pairs * (scores * self.width + values * self.value);
        let words = |v: &View| -> usize {
            v.shape.iter().zip(&v.strides).filter(|(_, s)| **s != 0).map(|(d, _)| *d).product()
        };
        let read: usize = self.views.iter().zip(&self.types).map(|(v, t)| t.words(words(v))).sum();
        (flops as u64, 4 * (read + self.len()) as u64)
    }
}

/// The kernel of an attention problem.
///
/// # Panics
/// If an extent is 0, a width above [`MAX_WIDTH`], or the number of heads no multiple: the recorder refuses them or
/// records something else.
pub fn attention(a: &Attention, label: &str, target: Target) -> KernelSource {
    let extents = [a.batch, a.heads, a.kv_heads, a.queries, a.keys, a.width, a.value];
    assert!(extents.iter().all(|&e| e > 0), "the recorder composes attention over nothing");
    assert!(a.width.max(a.value) <= MAX_WIDTH, "the recorder composes attention of wide heads");
    assert!(a.heads.is_multiple_of(a.kv_heads), "heads of queries share those of keys evenly");
    match target {
        Target::Cpu => cpu::kernel(a, label),
        Target::Gpu(caps) => gpu::kernel(a, label, variants(a, &caps)[0]),
    }
}

/// The same by one of the [`variants`] of a GPU.
///
/// # Panics
/// As [`attention`].
pub fn attention_with(a: &Attention, label: &str, variant: Variant) -> KernelSource {
    gpu::kernel(a, label, variant)
}

/// A way to compute attention on a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Variant(usize);

impl Variant {
    /// What `explain()` shows.
    pub fn label(self) -> &'static str {
        gpu::VARIANTS[self.0].label
    }
}

/// A small problem of odd extents for the same kernel: a variant's text for it is that for `a`, so what is right for it
/// on an adapter is right for `a`.
pub fn probe(a: &Attention) -> Attention {
    let (batch, kv_heads) = (a.batch.min(2), a.kv_heads.min(2));
    let heads = kv_heads * (a.heads / a.kv_heads).min(2);
    let (queries, keys) = (70, 99);
    let mut small = Attention { batch, heads, kv_heads, queries, keys, ..a.clone() };
    small.left = a.left.min(75);
    small.right = a.right.min(50);
    small.start = a.start.min(20);
    let dims = |operand: usize| match operand {
        0 => [batch, heads, queries, a.width],
        1 => [batch, kv_heads, keys, a.width],
        2 => [batch, kv_heads, keys, a.value],
        3 if a.mask != MaskKind::None => [batch, heads, queries, keys],
        _ => [batch, heads, queries, a.value],
    };
    let view = |operand| View::contiguous(Shape::new(&dims(operand)).expect("rank 4"));
    small.views = (0..a.views.len()).map(view).collect();
    if a.pass == Pass::Backward {
        let words = batch * heads * queries * (a.value + a.sums());
        small.views[a.gradient() + 1] = View::contiguous(Shape::new(&[words]).expect("rank 1"));
    }
    // What is not read by quads is not here, either.
    small.views[0].offset = isize::from(!gpu::is_wide(a));
    small
}

/// The variants that an adapter can run, the default choice first.
pub fn variants(a: &Attention, caps: &Caps) -> Vec<Variant> {
    let all = (0..gpu::VARIANTS.len()).filter(|&i| gpu::VARIANTS[i].fits(a, caps));
    let mut all: Vec<usize> = all.collect();
    all.sort_by_key(|&i| gpu::VARIANTS[i].rank());
    all.into_iter().map(Variant).collect()
}
