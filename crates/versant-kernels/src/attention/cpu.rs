//! The CPU twin: blocks of queries and keys whose scores stay in cache, products as elsewhere, rows of a block by
//! vectors.
//!
//! Work is cut by shape only, so a result does not depend on the number of threads.

use std::ops::Range;
use std::sync::Arc;

use pulp::NullaryFnOnce;
use rayon::prelude::*;

use super::{Attention, HIDDEN, MaskKind, Pass};
use crate::contract::cpu::{begin, product, values, with_scratch};
use crate::contract::panel::Mat;
use crate::lanes::{tree, vectorised};
use crate::{KernelSource, View, math};

/// Queries and keys of a block.
const QUERIES: usize = 64;
const KEYS: usize = 256;
/// From so many problems on, gradients of queries, keys and values come from one pass over the scores, a problem to
/// a thread; below, from two passes that can be cut finer.
const ONE_PASS: usize = 8;
/// Lanes of a row's running sums.
const LANES: usize = 16;

pub(super) fn kernel(a: &Attention, label: &str) -> KernelSource {
    let mut a = a.clone();
    let ranges: Vec<Range<usize>> = a.views.iter_mut().zip(&a.types).map(|(v, &t)| begin(v, t)).collect();
    KernelSource {
        label: label.to_owned(),
        wgsl: String::new(),
        reads: a.views.len(),
        writes: 1,
        params: Vec::new(),
        uses_scalars: false,
        trusted: true,
        grid: [1; 3],
        native: Some(Arc::new(move |reads, writes, _| {
            let out = bytemuck::cast_slice_mut(&mut *writes[0]);
            let all = reads.iter().zip(&a.types).zip(&ranges);
            let values: Vec<_> = all.map(|((words, &dtype), range)| values(words, dtype, range)).collect();
            let reads: Vec<&[u32]> = values.iter().map(|v| bytemuck::cast_slice(v)).collect();
            let work = Work { a: &a, reads: &reads };
            match a.pass {
                Pass::Forward => work.forward(&mut out[..a.len()]),
                Pass::Backward => work.backward(&mut out[..a.len()]),
            }
        })),
    }
}

/// A problem over its buffers.
struct Work<'a> {
    a: &'a Attention,
    reads: &'a [&'a [u32]],
}

/// One head of one problem.
#[derive(Clone, Copy)]
struct Head {
    b: usize,
    h: usize,
    kv: usize,
}

/// What a sweep writes: rows of gradients of queries, and of keys and values, heads behind positions.
type Results<'r> = (Option<&'r mut [f32]>, Option<[&'r mut [f32]; 2]>);

fn blocks(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |s| s..(s + step).min(range.end))
}

impl Work<'_> {
    /// Rows of one head of an operand.
    fn rows(&self, operand: usize, b: usize, h: usize, rows: &Range<usize>) -> Mat<'_> {
        let view: &View = &self.a.views[operand];
        let at = |axis: usize, i: usize| i as isize * view.strides[axis];
        Mat {
            data: bytemuck::cast_slice(self.reads[operand]),
            offset: view.offset + at(0, b) + at(1, h) + at(2, rows.start),
            size: [rows.len(), view.shape[3]],
            strides: [view.strides[2], view.strides[3]],
        }
    }

    /// Adds the mask to a row of scores that begins with key `first`.
    fn mask(&self, Head { b, h, .. }: Head, i: usize, first: usize, row: &mut [f32]) {
        if self.a.mask == MaskKind::None {
            return;
        }
        let view = &self.a.views[3];
        let start = [b, h, i, first].into_iter().zip(&view.strides).map(|(c, s)| c as isize * s);
        let mut at = view.offset + start.sum::<isize>();
        for score in row {
            let word = self.reads[3][at as usize];
            *score = match self.a.mask {
                MaskKind::Words if word == 0 => f32::NEG_INFINITY,
                MaskKind::Words | MaskKind::None => *score,
                MaskKind::Added => *score + f32::from_bits(word),
            };
            at += view.strides[3];
        }
    }

    /// Scaled and masked scores of a block, in place of the products; what a query does not see is -inf.
    fn scores(&self, head: Head, queries: &Range<usize>, keys: &Range<usize>, s: &mut [f32]) {
        let (q, k) = (self.rows(0, head.b, head.h, queries), self.rows(1, head.b, head.kv, keys));
        product(s, q, k.t(), false);
        for (i, row) in queries.clone().zip(s.chunks_exact_mut(keys.len())) {
            let seen = self.a.seen(i);
            let low = seen.start.clamp(keys.start, keys.end) - keys.start;
            let high = seen.end.clamp(keys.start + low, keys.end) - keys.start;
            row[..low].fill(f32::NEG_INFINITY);
            row[high..].fill(f32::NEG_INFINITY);
            row[low..high].iter_mut().for_each(|s| *s *= self.a.scale);
            self.mask(head, i, keys.start + low, &mut row[low..high]);
        }
    }

    fn forward(&self, out: &mut [f32]) {
        let a = self.a;
        let (out, sums) = out.split_at_mut(a.batch * a.queries * a.heads * a.value);
        let (row, of_row) = (a.heads * a.value, a.heads * a.sums());
        let problems = out.par_chunks_mut(a.queries * row).zip(sums.par_chunks_mut(a.queries * of_row));
        problems.enumerate().for_each(|(b, (out, sums))| {
            let tasks = out.par_chunks_mut(QUERIES * row).zip(sums.par_chunks_mut(QUERIES * of_row));
            tasks.enumerate().for_each(|(i, (out, sums))| {
                let queries = i * QUERIES..(i * QUERIES + QUERIES).min(a.queries);
                for h in 0..a.heads {
                    let head = Head { b, h, kv: h / (a.heads / a.kv_heads) };
                    self.attend(head, queries.clone(), out, sums);
                }
            });
        });
    }

    /// Some rows of one head; `out` and `sums` hold those rows of all heads.
    fn attend(&self, head: Head, queries: Range<usize>, out: &mut [f32], sums: &mut [f32]) {
        let (a, n) = (self.a, queries.len());
        with_scratch(0, n * (KEYS + a.value + 2), |scratch| {
            let (scores, rest) = scratch.split_at_mut(n * KEYS);
            let (acc, rest) = rest.split_at_mut(n * a.value);
            let (max, sum) = rest.split_at_mut(n);
            max.fill(HIDDEN);
            sum.fill(0.0);
            acc.fill(0.0);
            for keys in blocks(a.span(&queries), KEYS) {
                let s = &mut scores[..n * keys.len()];
                self.scores(head, &queries, &keys, s);
                vectorised(Online { s, width: keys.len(), max, sum, acc, value: a.value });
                product(acc, Mat::dense(s, n, keys.len()), self.rows(2, head.b, head.kv, &keys), true);
            }
            for (r, acc) in acc.chunks_exact(a.value).enumerate() {
                let (at, total) = (r * a.heads + head.h, sum[r]);
                // A row that sees nothing is zero.
                let factor = if total == 0.0 { 0.0 } else { 1.0 / total };
                self.put_sum((total != 0.0).then(|| max[r] + total.ln()), &mut sums[at * a.sums()..]);
                let out = &mut out[at * a.value..][..a.value];
                out.iter_mut().zip(acc).for_each(|(o, x)| *o = x * factor);
            }
        });
    }

    /// Stores the log-sum-exp of a row that sees something, or what stands for it.
    fn put_sum(&self, sum: Option<f32>, to: &mut [f32]) {
        let (blind, most, bits) = self.a.sum_limits();
        let mut rest = sum.map_or(blind, |s| if s.abs() > most { f32::NAN } else { s });
        for part in &mut to[..self.a.sums()] {
            *part = f32::from_bits(rest.to_bits() & bits);
            rest -= *part;
        }
    }

    fn backward(&self, out: &mut [f32]) {
        let a = self.a;
        let (row, kv_row) = (a.heads * a.width, a.kv_heads * a.width);
        let value_row = a.kv_heads * a.value;
        let (dq, rest) = out.split_at_mut(a.batch * a.queries * row);
        let (dk, dv) = rest.split_at_mut(a.batch * a.keys * kv_row);
        let dq = dq.par_chunks_mut(a.queries * row).enumerate();
        let dk = dk.par_chunks_mut(a.keys * kv_row);
        let dkv = dk.zip(dv.par_chunks_mut(a.keys * value_row)).enumerate();
        if a.batch >= ONE_PASS {
            dq.zip(dkv).for_each(|((b, dq), (_, (dk, dv)))| {
                self.sweep(b, 0..a.queries, 0..a.keys, (Some(dq), Some([dk, dv])));
            });
            return;
        }
        dq.for_each(|(b, dq)| {
            dq.par_chunks_mut(QUERIES * row).enumerate().for_each(|(i, dq)| {
                let queries = i * QUERIES..(i * QUERIES + QUERIES).min(a.queries);
                self.sweep(b, queries, 0..a.keys, (Some(dq), None));
            });
        });
        dkv.for_each(|(b, (dk, dv))| {
            let parts = dk.par_chunks_mut(KEYS * kv_row).zip(dv.par_chunks_mut(KEYS * value_row));
            parts.enumerate().for_each(|(i, (dk, dv))| {
                let keys = i * KEYS..(i * KEYS + KEYS).min(a.keys);
                self.sweep(b, 0..a.queries, keys, (None, Some([dk, dv])));
            });
        });
    }

    /// Gradients of some queries and of some keys by each other, all heads of one problem.
    fn sweep(&self, b: usize, queries: Range<usize>, keys: Range<usize>, results: Results<'_>) {
        let a = self.a;
        let (mut dq_out, mut kv_out) = results;
        let group = a.heads / a.kv_heads;
        let kv_words = keys.len() * (a.width + a.value);
        with_scratch(0, kv_words + QUERIES * (a.width + 2 * KEYS), |scratch| {
            let (dkv, rest) = scratch.split_at_mut(kv_words);
            let (dk, dv) = dkv.split_at_mut(keys.len() * a.width);
            let (dq, rest) = rest.split_at_mut(QUERIES * a.width);
            let (p, ds) = rest.split_at_mut(QUERIES * KEYS);
            for kv in 0..a.kv_heads {
                dk.fill(0.0);
                dv.fill(0.0);
                for h in kv * group..(kv + 1) * group {
                    let head = Head { b, h, kv };
                    for rows in blocks(queries.clone(), QUERIES) {
                        let dq = &mut dq[..rows.len() * a.width];
                        dq.fill(0.0);
                        let seen = a.span(&rows);
                        let seen = seen.start.max(keys.start)..seen.end.min(keys.end);
                        for cols in blocks(seen, KEYS) {
                            let size = rows.len() * cols.len();
                            let (p, ds) = (&mut p[..size], &mut ds[..size]);
                            self.block(head, &rows, &cols, p, ds);
                            let [p, ds] = [p, ds].map(|x| Mat::dense(x, rows.len(), cols.len()));
                            if dq_out.is_some() {
                                product(dq, ds, self.rows(1, b, kv, &cols), true);
                            }
                            if kv_out.is_some() {
                                let from = cols.start - keys.start..cols.end - keys.start;
                                let part = |width: usize| from.start * width..from.end * width;
                                let (q, g) =
                                    (self.rows(0, b, h, &rows), self.rows(a.gradient(), b, h, &rows));
                                product(&mut dk[part(a.width)], ds.t(), q, true);
                                product(&mut dv[part(a.value)], p.t(), g, true);
                            }
                        }
                        if let Some(out) = &mut dq_out {
                            let first = (rows.start - queries.start) * a.heads + h;
                            spread(dq, a.width, out, first, a.heads);
                        }
                    }
                }
                if let Some([dk_out, dv_out]) = &mut kv_out {
                    spread(dk, a.width, dk_out, kv, a.kv_heads);
                    spread(dv, a.value, dv_out, kv, a.kv_heads);
                }
            }
        });
    }

    /// Probabilities of a block and the gradient of its products.
    fn block(&self, head: Head, rows: &Range<usize>, cols: &Range<usize>, p: &mut [f32], ds: &mut [f32]) {
        let a = self.a;
        let Head { b, h, kv } = head;
        self.scores(head, rows, cols, p);
        let g = self.rows(a.gradient(), b, h, rows);
        product(ds, g, self.rows(2, b, kv, cols).t(), false);
        let at = a.gradient() + 1;
        let forward: &[f32] = bytemuck::cast_slice(&self.reads[at][a.views[at].offset as usize..]);
        let (out, sums) = forward.split_at(a.batch * a.queries * a.heads * a.value);
        let lines = p.chunks_exact_mut(cols.len()).zip(ds.chunks_exact_mut(cols.len()));
        for (r, (p, ds)) in lines.enumerate() {
            let row = (b * a.queries + rows.start + r) * a.heads + h;
            let out = &out[row * a.value..][..a.value];
            let from = g.offset + r as isize * g.strides[0];
            let delta: f32 = match g.strides[1] {
                1 => dot(out, &g.data[from as usize..][..a.value]),
                step => {
                    let gradient = (0..a.value).map(|d| g.data[(from + d as isize * step) as usize]);
                    out.iter().zip(gradient).map(|(o, g)| o * g).sum()
                }
            };
            math::exp_below(p, sums[row * a.sums()..][..a.sums()].iter().sum());
            vectorised(Softened { p, ds, delta, scale: a.scale });
        }
    }
}

/// Writes dense rows among those of other heads.
fn spread(rows: &[f32], width: usize, out: &mut [f32], first: usize, heads: usize) {
    for (r, row) in rows.chunks_exact(width).enumerate() {
        out[(first + r * heads) * width..][..width].copy_from_slice(row);
    }
}

/// The sum of products, in lanes of their own.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    tree(sums, |a, b| a + b) + rest
}

/// One step of the online softmax: scores become exponentials below the new maximum, and what was summed so far is
/// brought to it.
struct Online<'a> {
    s: &'a mut [f32],
    width: usize,
    max: &'a mut [f32],
    sum: &'a mut [f32],
    acc: &'a mut [f32],
    value: usize,
}

impl NullaryFnOnce for Online<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let rows = self.s.chunks_exact_mut(self.width).zip(self.acc.chunks_exact_mut(self.value));
        for ((row, acc), (max, sum)) in rows.zip(self.max.iter_mut().zip(self.sum.iter_mut())) {
            let mut best = [*max; LANES];
            let mut chunks = row.chunks_exact(LANES);
            for chunk in &mut chunks {
                best.iter_mut().zip(chunk).for_each(|(b, &s)| *b = if s > *b { s } else { *b });
            }
            let best = chunks
                .remainder()
                .iter()
                .fold(tree(best, |a, b| if b > a { b } else { a }), |a, &b| if b > a { b } else { a });
            let factor = math::exp(*max - best);
            math::exp_below(row, best);
            let mut sums = [0.0; LANES];
            let mut chunks = row.chunks_exact(LANES);
            for chunk in &mut chunks {
                sums.iter_mut().zip(chunk).for_each(|(sum, &s)| *sum += s);
            }
            let rest: f32 = chunks.remainder().iter().sum();
            *max = best;
            *sum = *sum * factor + (tree(sums, |a, b| a + b) + rest);
            acc.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

/// One row of the backward pass: of probabilities and their gradient that of products.
struct Softened<'a> {
    p: &'a [f32],
    ds: &'a mut [f32],
    delta: f32,
    scale: f32,
}

impl NullaryFnOnce for Softened<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        for (p, ds) in self.p.iter().zip(self.ds.iter_mut()) {
            *ds = *p * (*ds - self.delta) * self.scale;
        }
    }
}
