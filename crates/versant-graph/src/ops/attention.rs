//! Scaled dot-product attention: one op that never forms the matrix of all scores, and the composite it equals.

use std::panic::Location;

use versant_device::AdapterClass;
use versant_kernels::attention::{HIDDEN, MAX_WIDTH, Pass, sum_parts};
use versant_kernels::{DType, MAX_RANK, RandomKey, Shape};

use crate::Tensor;
use crate::autodiff::grad_of;
use crate::error::GraphError;
use crate::op::{AttentionAttrs, Movement, Op};
use crate::ops::half::Half;

/// Positions are below this, so that kernels can add three of them.
const MAX_POSITION: usize = 1 << 29;

/// What queries see, and how scores are scaled: the options of [`Tensor::attention`]. The default is full attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention<'a> {
    /// Factor of the scores; 1 / √width if not given.
    pub scale: Option<f32>,
    /// Whether a query sees no key behind its own position.
    pub is_causal: bool,
    /// Whether a query sees only keys less than this away from its position, on either side.
    pub window: Option<usize>,
    /// Position of the first query among the keys; with a cache of earlier keys their number.
    pub start: usize,
    /// A mask that broadcasts to the scores `[.., queries, keys]`: f32 is added to them, bool says which count.
    pub attn_mask: Option<&'a Tensor>,
    /// Probability that a query does without a key, and what decides it: the weights after the softmax are dropped as by
    /// [`Tensor::dropout`]. Above zero it takes the composite, whose matrix of scores is in memory.
    pub dropout: Option<(f32, RandomKey)>,
    /// Whether one kernel computes it where there is one. By default not on software adapters, whose products take half
    /// the time of its gradient (see docs/kernels/attention.md).
    pub fused: Option<bool>,
    /// What the result is kept in, as by [`Tensor::kept_in`], with what its gradient needs: beside it each row's log-sum-exp, in several
    /// elements, or the probabilities of the composite.
    pub kept: Option<Half>,
}

impl Tensor {
    /// Attention of these queries `[.., heads, queries, width]` over keys `[.., heads, keys, width]` and values
    /// `[.., heads, keys, value]`: `softmax(q kᵀ · scale + mask) v`, of shape `[.., heads, queries, value]`. PyTorch calls
    /// it `scaled_dot_product_attention`.
    ///
    /// From four axes on the third last are heads, and several heads of queries may share one of keys and values. A query
    /// that sees no key (none of whose scores is above -6e37) gives zeros, and no gradient.
    ///
    /// The matrix of scores is not formed: the kernels keep one number a row for the backward pass (Dao, "FlashAttention-2",
    /// 2023). They read views through their strides, and the result lies in memory with heads behind positions, so that
    /// `transpose(1, 2)` and a reshape that joins the heads cost nothing. Heads wider than 128, a gradient by the mask, dropout, software
    /// adapters unless [`Attention::fused`] says otherwise, and
    /// empty extents take [`Tensor::attention_composite`] instead, as `explain()` shows.
    ///
    /// ```
    /// use versant_graph::{Attention, Device, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[1.0f32, 2.0, 3.0, 4.0], &[1, 2, 2]);
    /// let y = x.attention(&x, &x, &Attention { is_causal: true, ..Attention::default() });
    /// // The first position sees itself only.
    /// assert_eq!(y.to_vec::<f32>()?[..2], [1.0, 2.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[doc(alias = "scaled_dot_product_attention")]
    #[track_caller]
    #[must_use]
    pub fn attention(&self, k: &Tensor, v: &Tensor, options: &Attention<'_>) -> Tensor {
        let location = Location::caller();
        match Parts::new(self, k, v, options, location) {
            Ok(parts) if parts.is_fused() => parts.result(parts.fused(location), location),
            Ok(parts) => parts.result(parts.composite(), location),
            Err(failed) => failed,
        }
    }

    /// What [`Tensor::attention`] computes, as products and a softmax that form the matrix of scores.
    #[track_caller]
    #[must_use]
    pub fn attention_composite(&self, k: &Tensor, v: &Tensor, options: &Attention<'_>) -> Tensor {
        let location = Location::caller();
        match Parts::new(self, k, v, options, location) {
            Ok(parts) => parts.result(parts.composite(), location),
            Err(failed) => failed,
        }
    }
}

/// Operands brought to four axes: batch, head, position, element.
struct Parts {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Option<Tensor>,
    attrs: AttentionAttrs,
    dropout: Option<(f32, RandomKey)>,
    /// Whether a kernel is wanted.
    fused: bool,
    /// Extents of the result.
    shape: Vec<usize>,
}

/// `[batch, heads]` of leading axes.
fn problems(lead: &[usize]) -> [usize; 2] {
    match lead {
        [.., _] if lead.len() == 1 => [lead[0], 1],
        [outer @ .., heads] => [outer.iter().product(), *heads],
        [] => [1, 1],
    }
}

impl Parts {
    fn new(
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        options: &Attention<'_>,
        location: &'static Location<'static>,
    ) -> Result<Parts, Tensor> {
        let mut operands = vec![q, k, v];
        operands.extend(options.attn_mask);
        let fail = |why: &str| Err(Tensor::invalid("attention", &operands, location, why));
        if let Some(far) = operands.iter().find(|t| t.device() != q.device()) {
            let [left, right] = [q, *far].map(|t| t.device().info().name.clone());
            let error = GraphError::MixedDevices { op: "attention", left, right, location };
            return Err(Tensor::failed(q.device(), error));
        }
        let rank = q.rank();
        if [q, k, v].iter().any(|t| t.dtype() != DType::F32 || t.rank() != rank) || rank < 2 {
            return fail("queries, keys and values must be f32 of one rank, at least 2");
        }
        let lead = |t: &Tensor| t.shape()[..rank - 2].to_vec();
        let (queries, keys, width) = (q.shape()[rank - 2], k.shape()[rank - 2], q.shape()[rank - 1]);
        if k.shape()[rank - 1] != width {
            return fail("queries and keys differ in width");
        }
        if v.shape()[rank - 2] != keys || lead(v) != lead(k) {
            return fail("every key needs a value");
        }
        let ([batch, heads], [kv_batch, kv_heads]) = (problems(&lead(q)), problems(&lead(k)));
        let outer = |t: &Tensor| lead(t)[..rank.saturating_sub(3)].to_vec();
        let shared = if kv_heads == 0 { heads == 0 } else { heads.is_multiple_of(kv_heads) };
        if batch != kv_batch || !shared || (rank > 3 && outer(q) != outer(k)) {
            return fail("leading axes differ, and heads of queries are no multiple of those of keys");
        }
        let scale = options.scale.unwrap_or(1.0 / (width.max(1) as f32).sqrt());
        if !scale.is_finite() || options.window == Some(0) {
            return fail("the scale must be finite, and the window not empty");
        }
        let dropout = options.dropout.filter(|&(p, _)| p != 0.0);
        if dropout.is_some_and(|(p, _)| !(0.0..=1.0).contains(&p)) {
            return fail("dropout must be a probability");
        }
        if [queries, keys, options.start].iter().any(|&n| n >= MAX_POSITION) {
            return fail("positions must be below 2^29");
        }
        let shape = [&lead(q)[..], &[queries, v.shape()[rank - 1]]].concat();
        let scores = [&lead(q)[..], &[queries, keys]].concat();
        let four = |t: &Tensor| {
            let [batch, heads] = problems(&t.shape()[..rank - 2]);
            t.shaped(&[batch, heads, t.shape()[rank - 2], t.shape()[rank - 1]], location)
        };
        let mut mask = None;
        if let Some(given) = options.attn_mask {
            let fits = given.rank() <= rank
                && given.shape().iter().rev().zip(scores.iter().rev()).all(|(&a, &b)| a == b || a == 1);
            if !matches!(given.dtype(), DType::F32 | DType::Bool) || !fits {
                return fail("a mask must be f32 or bool, and broadcast to the scores");
            }
            mask = Some(four(&given.broadcast_to(&scores)));
        }
        let reach = options.window.map_or(MAX_POSITION, |w| (w - 1).min(MAX_POSITION));
        let attrs = AttentionAttrs {
            pass: Pass::Forward,
            scale: scale.to_bits(),
            left: reach,
            right: if options.is_causal { 0 } else { reach },
            start: options.start,
            masked: mask.is_some(),
            kept: options.kept,
        };
        let fused = options.fused.unwrap_or(q.device().info().class != AdapterClass::Software);
        Ok(Parts { q: four(q), k: four(k), v: four(v), mask, attrs, dropout, fused, shape })
    }

    /// From the inputs of an op.
    fn of(x: &[Tensor], attrs: &AttentionAttrs) -> Parts {
        let shape = vec![x[0].shape()[0], x[0].shape()[1], x[0].shape()[2], x[2].shape()[3]];
        // New names: a gradient by them stops there, and what they are computed from goes on.
        let again = |t: &Tensor| t.moved(Movement::Reshape, t.dims(), t.node.location);
        let mask = attrs.masked.then(|| again(&x[3]));
        let [q, k, v] = [0, 1, 2].map(|i| again(&x[i]));
        let attrs = AttentionAttrs { kept: None, ..*attrs };
        Parts { q, k, v, mask, attrs, dropout: None, fused: false, shape }
    }

    /// Whether there is a kernel.
    fn is_fused(&self) -> bool {
        let operands = [&self.q, &self.k, &self.v];
        let wide = operands.iter().any(|t| t.shape()[3] > MAX_WIDTH);
        self.fused && !wide && self.dropout.is_none() && operands.iter().all(|t| t.numel() > 0)
    }

    /// The result, of the caller's shape.
    fn result(&self, out: Tensor, location: &'static Location<'static>) -> Tensor {
        out.shaped(&self.shape, location)
    }

    fn fused(&self, location: &'static Location<'static>) -> Tensor {
        let (q, value) = (self.q.shape(), self.v.shape()[3]);
        let rows = [q[0], q[2], q[1]];
        let sums = sum_parts(self.attrs.kept.map(Half::dtype));
        let words = rows.iter().product::<usize>().saturating_mul(value + sums);
        let mut inputs = vec![&self.q, &self.k, &self.v];
        inputs.extend(&self.mask);
        let flat = Shape::new(&[words]).expect("one axis is a shape");
        let op = Op::Attention(Box::new(self.attrs));
        let y = Tensor::record(op, &inputs, flat, DType::F32, location);
        part(&self.kept(y), 0, rows, value, location)
    }

    /// In what it is to be kept in.
    fn kept(&self, y: Tensor) -> Tensor {
        self.attrs.kept.map_or_else(|| y.clone(), |half| y.kept_in(half))
    }

    /// The same by products and a softmax, exact and differentiable to any order.
    #[track_caller]
    fn composite(&self) -> Tensor {
        let (batch, heads, queries, width) = dims(&self.q);
        let (_, kv_heads, keys, value) = dims(&self.v);
        if self.q.error().or(self.k.error()).or(self.v.error()).is_some() {
            return self.q.matmul(&self.k.t()).matmul(&self.v);
        }
        let location = self.q.node.location;
        // Heads that share a key are one axis more.
        let group = heads / kv_heads.max(1);
        let q = self.q.shaped(&[batch, kv_heads, group, queries, width], location);
        let k = self.k.shaped(&[batch, kv_heads, 1, keys, width], location);
        let v = self.v.shaped(&[batch, kv_heads, 1, keys, value], location);
        let number = |x: f32| Tensor::number(&self.q, x);
        let mut scores = q.matmul(&k.t()) * f32::from_bits(self.attrs.scale);
        let mut counts = self.attrs.band(queries, keys, &self.q);
        if let Some(mask) = &self.mask {
            let mask = mask.shaped(&[batch, kv_heads, group, queries, keys], location);
            match mask.dtype() {
                DType::Bool => counts = Some(counts.map_or(mask.clone(), |c| c.and(&mask))),
                _ => scores = scores + mask,
            }
        }
        if let Some(counts) = counts {
            scores = counts.select(&scores, &number(f32::NEG_INFINITY));
        }
        let blind = queries + self.attrs.start > keys + self.attrs.left || keys == 0;
        let p = if blind || self.mask.is_some() {
            // Rows that see nothing take a detour around the softmax, and so do their gradients.
            let hidden = scores.max(&[-1], true).le(&number(HIDDEN));
            let p = hidden.select(&number(0.0), &scores).softmax(-1);
            hidden.select(&number(0.0), &p)
        } else {
            scores.softmax(-1)
        };
        let p = self.dropout.map_or_else(|| p.clone(), |(drop, key)| p.dropout(drop, key));
        let out = self.kept(self.kept(p).matmul(&v));
        out.shaped(&[batch, heads, queries, value], location)
    }
}

fn dims(t: &Tensor) -> (usize, usize, usize, usize) {
    let s = t.shape();
    (s[0], s[1], s[2], s[3])
}

impl AttentionAttrs {
    /// Which keys count by position, `[queries, keys]`; `None` if all do.
    #[track_caller]
    fn band(&self, queries: usize, keys: usize, like: &Tensor) -> Option<Tensor> {
        let i = Tensor::arange(like.device(), queries, DType::I32).unsqueeze(1);
        let j = Tensor::arange(like.device(), keys, DType::I32).unsqueeze(0);
        let at = |x: isize| Tensor::constant(like.device(), x as i32);
        let (start, left, right) = (self.start as isize, self.left as isize, self.right as isize);
        let behind = (self.right < keys + self.start).then(|| (&j - &i).le(&at(start + right)));
        let before = (self.left < queries + self.start).then(|| (&j - &i).ge(&at(start - left)));
        match (behind, before) {
            (Some(a), Some(b)) => Some(a.and(&b)),
            (a, b) => a.or(b),
        }
    }
}

/// A dense part `[batch, positions, heads, width]` of a flat result as `[batch, heads, positions, width]`.
fn part(
    flat: &Tensor,
    start: usize,
    [batch, positions, heads]: [usize; 3],
    width: usize,
    location: &'static Location<'static>,
) -> Tensor {
    if let Some(error) = flat.error() {
        return Tensor::failed(flat.device(), error);
    }
    let words = batch * positions * heads * width;
    let part = flat.narrow(0, start, words).shaped(&[batch, positions, heads, width], location);
    part.permute(&[0, 2, 1, 3])
}

/// The gradients of an attention op's inputs.
pub(crate) fn attention_vjp(
    attrs: &AttentionAttrs,
    g: &Tensor,
    x: &[Tensor],
    y: &Tensor,
    need: &[bool],
    location: &'static Location<'static>,
) -> Vec<Option<Tensor>> {
    let mut out = vec![None; x.len()];
    let (batch, heads, queries, width) = dims(&x[0]);
    let (_, kv_heads, keys, value) = dims(&x[2]);
    let (rows, kv_rows) = ([batch, queries, heads], [batch, keys, kv_heads]);
    let mask_needs = attrs.masked && need[3];
    if attrs.pass == Pass::Forward && !mask_needs {
        let mut inputs: Vec<&Tensor> = x.iter().collect();
        let gradient = part(g, 0, rows, value, location);
        inputs.extend([&gradient, y]);
        let (nq, nk) = (rows.iter().product::<usize>(), kv_rows.iter().product::<usize>());
        let words = (nq + nk).saturating_mul(width).saturating_add(nk.saturating_mul(value));
        let flat = Shape::new(&[words]).expect("one axis is a shape");
        let op = Op::Attention(Box::new(AttentionAttrs { pass: Pass::Backward, ..*attrs }));
        let all = Tensor::record(op, &inputs, flat, DType::F32, location);
        out[0] = Some(part(&all, 0, rows, width, location));
        out[1] = Some(part(&all, nq * width, kv_rows, width, location));
        out[2] = Some(part(&all, (nq + nk) * width, kv_rows, value, location));
        return out;
    }
    // By the composite: the gradient by a mask has the size of the scores anyway, and a second derivative is rare.
    let parts = Parts::of(x, attrs);
    let mut leaves: Vec<&Tensor> = vec![&parts.q, &parts.k, &parts.v];
    leaves.extend(&parts.mask);
    let float = |t: &&Tensor| t.dtype().is_float();
    let result = if attrs.pass == Pass::Forward {
        parts.composite() * part(g, 0, rows, value, location)
    } else {
        let gradient = &x[3 + usize::from(attrs.masked)];
        let gradient = gradient.moved(Movement::Reshape, gradient.dims(), location);
        let first = grad_of(&(parts.composite() * &gradient), &leaves[..3]);
        let first = first.expect("the composite depends on its operands");
        let (nq, nk) = (rows.iter().product::<usize>(), kv_rows.iter().product::<usize>());
        let by = [
            part(g, 0, rows, width, location),
            part(g, nq * width, kv_rows, width, location),
            part(g, (nq + nk) * width, kv_rows, value, location),
        ];
        let sums = first.iter().zip(&by).map(|(f, g)| (f * g).sum_all());
        let result = sums.reduce(|a, b| a + b).expect("there are three");
        let by_gradient = grad_of(&result, &[&gradient]).expect("the first gradients depend on it");
        out[3 + usize::from(attrs.masked)] = by_gradient.into_iter().next();
        result
    };
    let leaves: Vec<&Tensor> = leaves.into_iter().filter(float).collect();
    let grads = grad_of(&result, &leaves).expect("the composite depends on its operands");
    for (out, grad) in out.iter_mut().zip(grads) {
        *out = Some(grad);
    }
    out
}

/// Ranks above this leave no room for the axis of shared heads.
const _: () = assert!(MAX_RANK >= 5);
