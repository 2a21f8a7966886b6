//! The definition: what every operation means, one obvious arm each, on the host.
//!
//! Nothing here is fast. Sums run in f64, so that where two executors differ this one decides.

use std::collections::HashMap;
use std::sync::Arc;

use versant_kernels::attention::{HIDDEN, Pass, sum_parts};
use versant_kernels::contract::ConvKind;
use versant_kernels::{DType, ReduceKind, Shape, SortPass, View, math};

use crate::Tensor;
use crate::error::{GraphError, Result};
use crate::op::{AttentionAttrs, ConvAttrs, Op};
use crate::ops::half::Half;
use crate::run::offsets;
use crate::scan::Item;
use crate::tensor::{Inputs, Node, State};

/// A value on the host: words in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extents.
    pub shape: Shape,
    /// Element type of the words.
    pub dtype: DType,
    /// The elements.
    pub words: Vec<u32>,
}

impl Array {
    fn f(&self, i: usize) -> f64 {
        f64::from(f32::from_bits(self.words[i]))
    }

    /// The elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.words.iter().map(|&w| f32::from_bits(w)).collect()
    }
}

/// Computes a tensor by the definition, without changing it.
///
/// # Errors
/// An error recorded in the graph, or a device that cannot be read.
pub fn interpret(tensor: &Tensor) -> Result<Array> {
    let mut known: HashMap<u64, Array> = HashMap::new();
    let mut stack: Vec<(Arc<Node>, Option<Inputs>)> = vec![(Arc::clone(&tensor.node), None)];
    while let Some((node, expanded)) = stack.pop() {
        if known.contains_key(&node.id) {
            continue;
        }
        if let Some(inputs) = expanded {
            let operands: Vec<&Array> = inputs.iter().map(|i| &known[&i.id]).collect();
            let words = match &node.op {
                Op::Item(item) => scan(&node, *item, &operands),
                op => apply(op, node.shape, node.dtype, &operands),
            };
            known.insert(node.id, Array { shape: node.shape, dtype: node.dtype, words });
            continue;
        }
        let state = match &*node.state() {
            State::Failed(error) => return Err((**error).clone()),
            State::Ready(value) => Err(value.clone()),
            State::Pending(_) if matches!(node.op, Op::Hole) => {
                return Err(GraphError::Escaped { location: node.location });
            }
            // A scan's result is computed from the scan's operands.
            State::Pending(inputs) if matches!(node.op, Op::Item(_)) => Ok(inputs[0].inputs()),
            State::Pending(inputs) => Ok(inputs.clone()),
        };
        match state {
            Err(value) => {
                let all = node.device.read(&value.buffer, value.buffer.words())?;
                let words = offsets(&value.view).map(|o| all[o]).collect();
                known.insert(node.id, Array { shape: node.shape, dtype: node.dtype, words });
            }
            Ok(inputs) => {
                let children = inputs.clone();
                stack.push((node, Some(inputs)));
                stack.extend(children.into_iter().map(|i| (i, None)));
            }
        }
    }
    Ok(known.remove(&tensor.node.id).expect("the root was computed last"))
}

/// The coordinates of row-major position `i`.
fn coords(shape: &Shape, i: usize) -> Vec<usize> {
    let dense = shape.strides();
    (0..shape.rank()).map(|k| (i / dense[k] as usize) % shape[k]).collect()
}

fn position(shape: &Shape, coords: &[usize]) -> usize {
    shape.strides().iter().zip(coords).map(|(&s, &c)| s as usize * c).sum()
}

/// One element of an operand that may be of rank 0.
fn at(x: &Array, i: usize) -> u32 {
    if x.shape.rank() == 0 { x.words[0] } else { x.words[i] }
}

/// One result of a scan: the whole loop, step by step.
fn scan(node: &Node, item: Item, x: &[&Array]) -> Vec<u32> {
    let inputs = node.inputs();
    let Op::Scan(body) = &inputs[0].op else { unreachable!("results are of scans") };
    let mut carries: Vec<Vec<u32>> = x[..body.carries()].iter().map(|a| a.words.clone()).collect();
    let mut stack: Vec<Vec<u32>> = vec![Vec::new(); body.steps];
    for step in 0..body.steps {
        let row = if body.reverse { body.steps - 1 - step } else { step };
        let mut values: Vec<Array> = Vec::with_capacity(body.nodes.len());
        for (i, n) in body.nodes.iter().enumerate() {
            let words = match n.op {
                Op::Hole if i < carries.len() => carries[i].clone(),
                Op::Hole if body.is_constant(i) => x[i].words.clone(),
                Op::Hole => x[i].words[row * n.shape.numel()..][..n.shape.numel()].to_vec(),
                _ => {
                    let operands: Vec<&Array> = n.inputs.iter().map(|&j| &values[j as usize]).collect();
                    apply(&n.op, n.shape, n.dtype, &operands)
                }
            };
            values.push(Array { shape: n.shape, dtype: n.dtype, words });
        }
        carries = body.next.iter().map(|&n| values[n as usize].words.clone()).collect();
        if let Item::Stack(n) = item {
            stack[row].clone_from(&values[n as usize].words);
        }
    }
    match item {
        Item::Final(carry) => carries.swap_remove(carry),
        Item::Stack(_) => stack.concat(),
    }
}

fn apply(op: &Op, shape: Shape, dtype: DType, x: &[&Array]) -> Vec<u32> {
    let all = 0..shape.numel();
    match op {
        Op::Buffer | Op::Hole | Op::Scan(_) | Op::Item(_) => {
            unreachable!("its value is known, or it has none")
        }
        Op::Literal(word) | Op::Scalar(word) => vec![*word],
        Op::Iota => (0..shape.numel() as u32).collect(),
        Op::Random => {
            let key = [x[0].words[0], x[1].words[0]];
            let word = |i: usize| math::philox4x32([(i / 4) as u32, 0, 0, 0], key)[i % 4];
            all.map(word).collect()
        }
        Op::Map(row) => {
            let dtype = x[x.len() - 1].dtype;
            let operand = |k: usize, i: usize| x.get(k).map_or(vec![], |a| vec![at(a, i)]);
            all.map(|i| {
                let mut out = [0];
                (row.f.cpu)(dtype, &mut out, &operand(0, i), &operand(1, i), &operand(2, i));
                out[0]
            })
            .collect()
        }
        Op::Cast => x[0].words.iter().map(|&w| cast(w, x[0].dtype, dtype)).collect(),
        Op::View(movement) => moved(&movement.view(x[0].shape, shape), x[0]),
        Op::Reduce(kind, axes) => reduce(*kind, *axes, x[0], shape),
        Op::CumSum { axis, reverse } => cumsum(*axis, *reverse, x[0]),
        Op::MatMul => matmul(x[0], x[1], shape),
        Op::Conv(kind, attrs) => conv(*kind, attrs, x[0], x[1], shape),
        Op::Attention(attrs) => attention(attrs, x, shape.numel()),
        Op::Fold { axis, stride, dilation } => fold(*axis, *stride, *dilation, x[0], shape),
        Op::Gather(axis) => gather(*axis, x[0], x[1], shape),
        Op::ScatterAdd(axis) => scatter(*axis, x, shape),
        Op::ArgSort { pass, descending } => argsort(pass, *descending, x),
        Op::Concat(axis) => concat(*axis, x, shape),
        Op::Bitcast | Op::Detach | Op::Custom(_) => x[0].words.clone(),
    }
}

fn cast(word: u32, from: DType, to: DType) -> u32 {
    let float = f32::from_bits(word);
    match (from, to) {
        (DType::F32, DType::I32) => float as i32 as u32,
        (DType::F32, DType::U32) => float as u32,
        (DType::F32, DType::Bool) => u32::from(float != 0.0),
        (DType::I32, DType::F32) => (word as i32 as f32).to_bits(),
        (DType::U32 | DType::Bool, DType::F32) => (word as f32).to_bits(),
        (_, DType::Bool) => u32::from(word != 0),
        _ => word,
    }
}

fn moved(view: &View, x: &Array) -> Vec<u32> {
    let affine = |strides: &[isize], start: isize, c: &[usize]| {
        strides.iter().zip(c).fold(start, |sum, (s, &c)| sum + s * c as isize)
    };
    (0..view.shape.numel())
        .map(|i| {
            let c = coords(&view.shape, i);
            let inside = view
                .guards
                .iter()
                .all(|g| (0..g.extent as isize).contains(&affine(&g.strides, g.offset, &c)));
            if inside { x.words[affine(&view.strides, view.offset, &c) as usize] } else { 0 }
        })
        .collect()
}

/// Arithmetic in the element type: floats in f64, integers wrapping.
fn plus(dtype: DType, a: f64, b: f64, product: bool) -> f64 {
    match (dtype, product) {
        (DType::F32, false) => a + b,
        (DType::F32, true) => a * b,
        (DType::I32, false) => f64::from((a as i32).wrapping_add(b as i32)),
        (DType::I32, true) => f64::from((a as i32).wrapping_mul(b as i32)),
        (_, false) => f64::from((a as u32).wrapping_add(b as u32)),
        (_, true) => f64::from((a as u32).wrapping_mul(b as u32)),
    }
}

fn number(dtype: DType, word: u32) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_bits(word)),
        DType::I32 => f64::from(word as i32),
        _ => f64::from(word),
    }
}

fn word(dtype: DType, number: f64) -> u32 {
    match dtype {
        DType::F32 => (number as f32).to_bits(),
        DType::I32 => number as i32 as u32,
        _ => number as u32,
    }
}

fn reduce(kind: ReduceKind, axes: u8, x: &Array, shape: Shape) -> Vec<u32> {
    let mut lines: Vec<Vec<f64>> = vec![Vec::new(); shape.numel()];
    for i in 0..x.shape.numel() {
        let mut c = coords(&x.shape, i);
        for (axis, c) in c.iter_mut().enumerate() {
            if axes >> axis & 1 == 1 {
                *c = 0;
            }
        }
        lines[position(&shape, &c)].push(number(x.dtype, x.words[i]));
    }
    let best = |line: &[f64], better: fn(f64, f64) -> bool| -> Option<usize> {
        let beats = |a: f64, b: f64| !b.is_nan() && (a.is_nan() || better(a, b));
        (0..line.len()).reduce(|b, i| if beats(line[i], line[b]) { i } else { b })
    };
    let (lowest, highest) = match x.dtype {
        DType::F32 => (f64::NEG_INFINITY, f64::INFINITY),
        DType::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => (0.0, f64::from(u32::MAX)),
    };
    let total = |line: &[f64], start: f64, product: bool| {
        line.iter().fold(start, |sum, &v| plus(x.dtype, sum, v, product))
    };
    lines
        .iter()
        .map(|line| match kind {
            ReduceKind::Sum => word(x.dtype, total(line, 0.0, false)),
            ReduceKind::Prod => word(x.dtype, total(line, 1.0, true)),
            ReduceKind::Max => word(x.dtype, best(line, |a, b| a > b).map_or(lowest, |i| line[i])),
            ReduceKind::Min => word(x.dtype, best(line, |a, b| a < b).map_or(highest, |i| line[i])),
            ReduceKind::ArgMax => best(line, |a, b| a > b).unwrap_or(0) as u32,
            ReduceKind::ArgMin => best(line, |a, b| a < b).unwrap_or(0) as u32,
        })
        .collect()
}

fn cumsum(axis: usize, reverse: bool, x: &Array) -> Vec<u32> {
    let extent = x.shape[axis];
    let mut sums = vec![0.0; x.words.len()];
    for (i, sum) in sums.iter_mut().enumerate() {
        let c = coords(&x.shape, i);
        let covered = if reverse { c[axis]..extent } else { 0..c[axis] + 1 };
        for k in covered {
            let mut from = c.clone();
            from[axis] = k;
            let value = number(x.dtype, x.words[position(&x.shape, &from)]);
            *sum = plus(x.dtype, *sum, value, false);
        }
    }
    sums.into_iter().map(|s| word(x.dtype, s)).collect()
}

fn matmul(a: &Array, b: &Array, shape: Shape) -> Vec<u32> {
    let rank = shape.rank();
    let (m, n, k) = (shape[rank - 2], shape[rank - 1], a.shape[rank - 1]);
    (0..shape.numel())
        .map(|i| {
            let (batch, row, col) = (i / (m * n), i / n % m, i % n);
            let term = |j: usize| a.f((batch * m + row) * k + j) * b.f((batch * k + j) * n + col);
            ((0..k).map(term).sum::<f64>() as f32).to_bits()
        })
        .collect()
}

/// All three members visit the same (output pixel, tap) pairs and differ in what they accumulate.
fn conv(kind: ConvKind, attrs: &ConvAttrs, a: &Array, b: &Array, shape: Shape) -> Vec<u32> {
    let (x_shape, w_shape, y_shape) = match kind {
        ConvKind::Forward => (a.shape, b.shape, shape),
        ConvKind::InputGrad => (shape, b.shape, a.shape),
        ConvKind::WeightGrad => (a.shape, shape, b.shape),
    };
    let mut out = vec![0f64; shape.numel()];
    let per_group = y_shape[1] / attrs.groups;
    for yi in 0..y_shape.numel() {
        let y = coords(&y_shape, yi);
        for tap in 0..w_shape[1] * w_shape[2] * w_shape[3] {
            let (ky, kx) = (tap / w_shape[3] % w_shape[2], tap % w_shape[3]);
            let channel = tap / (w_shape[2] * w_shape[3]);
            let row = (y[2] * attrs.stride[0] + ky * attrs.dilation[0]).wrapping_sub(attrs.padding[0]);
            let col = (y[3] * attrs.stride[1] + kx * attrs.dilation[1]).wrapping_sub(attrs.padding[1]);
            if row >= x_shape[2] || col >= x_shape[3] {
                continue;
            }
            let from = y[1] / per_group * w_shape[1] + channel;
            let xi = position(&x_shape, &[y[0], from, row, col]);
            let wi = position(&w_shape, &[y[1], channel, ky, kx]);
            match kind {
                ConvKind::Forward => out[yi] += a.f(xi) * b.f(wi),
                ConvKind::InputGrad => out[xi] += a.f(yi) * b.f(wi),
                ConvKind::WeightGrad => out[wi] += a.f(xi) * b.f(yi),
            }
        }
    }
    out.into_iter().map(|v| (v as f32).to_bits()).collect()
}

fn fold(axis: usize, stride: usize, dilation: usize, x: &Array, shape: Shape) -> Vec<u32> {
    let mut out = vec![0f64; shape.numel()];
    for i in 0..x.words.len() {
        let mut c = coords(&x.shape, i);
        let tap = c.pop().expect("windows have a tap axis");
        c[axis] = c[axis] * stride + tap * dilation;
        let o = position(&shape, &c);
        out[o] = plus(x.dtype, out[o], number(x.dtype, x.words[i]), false);
    }
    out.into_iter().map(|v| word(x.dtype, v)).collect()
}

/// The index at these coordinates; an index of extent 1 off the axis is shared.
fn index_at(axis: usize, index: &Array, c: &[usize]) -> i64 {
    let c: Vec<usize> = if index.shape.rank() == c.len() {
        (0..c.len()).map(|k| if index.shape[k] == 1 && k != axis { 0 } else { c[k] }).collect()
    } else {
        vec![c[axis]]
    };
    let word = index.words[position(&index.shape, &c)];
    if index.dtype == DType::I32 { i64::from(word as i32) } else { i64::from(word) }
}

fn gather(axis: usize, x: &Array, index: &Array, shape: Shape) -> Vec<u32> {
    (0..shape.numel())
        .map(|i| {
            let mut c = coords(&shape, i);
            let last = x.shape[axis] as i64 - 1;
            c[axis] = index_at(axis, index, &c).clamp(0, last) as usize;
            x.words[position(&x.shape, &c)]
        })
        .collect()
}

fn scatter(axis: usize, x: &[&Array], shape: Shape) -> Vec<u32> {
    let (base, index, source) = (x[0], x[1], x[2]);
    let mut out: Vec<f64> = (0..shape.numel()).map(|i| number(base.dtype, at(base, i))).collect();
    for i in 0..source.words.len() {
        let mut c = coords(&source.shape, i);
        let to = index_at(axis, index, &c);
        if (0..shape[axis] as i64).contains(&to) {
            c[axis] = to as usize;
            let o = position(&shape, &c);
            out[o] = plus(source.dtype, out[o], number(source.dtype, source.words[i]), false);
        }
    }
    out.into_iter().map(|v| word(source.dtype, v)).collect()
}

fn argsort(pass: &SortPass, descending: bool, x: &[&Array]) -> Vec<u32> {
    let width = |a: &Array| a.shape.last().copied().unwrap_or(1).max(1);
    let (keys, n) = (x[0], width(x[0]));
    let rows = keys.words.chunks(n).enumerate().map(|(row, keys)| match x.get(1) {
        Some(list) => (keys, list.words.chunks(width(list)).nth(row).unwrap_or(&[]).to_vec()),
        None => (keys, (0..n as u32).collect()),
    });
    let mut out = Vec::new();
    for (row, candidates) in rows {
        let key = |c: &u32| number(keys.dtype, row[*c as usize]);
        for block in candidates.chunks(pass.block) {
            let mut block = block.to_vec();
            // A NaN is above every number, and equal to another.
            let compare = |a: f64, b: f64| a.partial_cmp(&b).unwrap_or(a.is_nan().cmp(&b.is_nan()));
            block.sort_by(|a, b| {
                let order = compare(key(a), key(b));
                if descending { order.reverse() } else { order }
            });
            out.extend(block.iter().take(pass.keep));
        }
    }
    out
}

fn concat(axis: usize, x: &[&Array], shape: Shape) -> Vec<u32> {
    (0..shape.numel())
        .map(|i| {
            let mut c = coords(&shape, i);
            let mut k = 0;
            while c[axis] >= x[k].shape[axis] {
                c[axis] -= x[k].shape[axis];
                k += 1;
            }
            x[k].words[position(&x[k].shape, &c)]
        })
        .collect()
}

/// Probabilities of every pair of a query and a key, row by row, and both gradients from them.
fn attention(attrs: &AttentionAttrs, x: &[&Array], len: usize) -> Vec<u32> {
    let (q, k, v) = (x[0], x[1], x[2]);
    let [batch, heads, queries, width] = [0, 1, 2, 3].map(|a| q.shape[a]);
    let [kv_heads, keys, value] = [1, 2, 3].map(|a| v.shape[a]);
    let scale = f64::from(f32::from_bits(attrs.scale));
    let rows = batch * queries * heads;
    let mut out = vec![0f64; len];
    for row in 0..rows {
        let (b, i, h) = (row / heads / queries, row / heads % queries, row % heads);
        let kv = h / (heads / kv_heads);
        let q_at = |d: usize| ((b * heads + h) * queries + i) * width + d;
        let k_at = |j: usize, d: usize| ((b * kv_heads + kv) * keys + j) * width + d;
        let v_at = |j: usize, d: usize| ((b * kv_heads + kv) * keys + j) * value + d;
        let score = |j: usize| {
            let at = i + attrs.start;
            let pair = ((b * heads + h) * queries + i) * keys + j;
            let word = attrs.masked.then(|| (x[3].dtype, x[3].words[pair]));
            let (counts, added) = match word {
                Some((DType::F32, word)) => (true, f64::from(f32::from_bits(word))),
                other => (other.is_none_or(|(_, w)| w != 0), 0.0),
            };
            if !counts || j > at + attrs.right || j + attrs.left < at {
                return f64::NEG_INFINITY;
            }
            (0..width).map(|d| q.f(q_at(d)) * k.f(k_at(j, d))).sum::<f64>() * scale + added
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let blind = top <= f64::from(HIDDEN);
        let exps: Vec<f64> = scores.iter().map(|s| if blind { 0.0 } else { (s - top).exp() }).collect();
        let sum: f64 = exps.iter().sum();
        let p: Vec<f64> = exps.iter().map(|e| if blind { 0.0 } else { e / sum }).collect();
        let mean = |d: usize| (0..keys).map(|j| p[j] * v.f(v_at(j, d))).sum::<f64>();
        if attrs.pass == Pass::Forward {
            (0..value).for_each(|d| out[row * value + d] = mean(d));
            let sum = if blind { -f64::from(HIDDEN) } else { top + sum.ln() };
            out[rows * value + row * sum_parts(attrs.kept.map(Half::dtype))] = sum;
            continue;
        }
        let g = |d: usize| x[3 + usize::from(attrs.masked)].f(((b * heads + h) * queries + i) * value + d);
        let delta: f64 = (0..value).map(|d| g(d) * mean(d)).sum();
        for j in (0..keys).filter(|&j| p[j] != 0.0) {
            let dp: f64 = (0..value).map(|d| g(d) * v.f(v_at(j, d))).sum();
            let ds = p[j] * (dp - delta) * scale;
            let dk = rows * width + ((b * keys + j) * kv_heads + kv) * width;
            let dv =
                rows * width + batch * keys * kv_heads * width + ((b * keys + j) * kv_heads + kv) * value;
            for d in 0..width {
                out[row * width + d] += ds * k.f(k_at(j, d));
                out[dk + d] += ds * q.f(q_at(d));
            }
            (0..value).for_each(|d| out[dv + d] += p[j] * g(d));
        }
    }
    out.into_iter().map(|x| (x as f32).to_bits()).collect()
}
