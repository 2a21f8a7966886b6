//! The CPU twins must not lose against the loop that anyone would write first.
//!
//! Both run on one thread, so that a busy machine disturbs them alike, and a twin passes as soon as one of
//! several rounds shows it near the plain loop's best time so far. Run with `--release` this compares speed; a
//! test build hardly inlines iterators, so there it only catches blunders.

use std::hint::black_box;
use std::time::Instant;

use super::check;
use super::cumsum::{CumSum, cumsum};
use super::fold_windows::{FoldWindows, fold_windows};
use super::scatter::{IndexForm, ScatterAdd, scatter_add};
use super::sort::{ArgSort, argsort, sort_passes};
use crate::{DType, KernelSource, Target};

const ROUNDS: usize = 40;

/// How much slower than the plain loop a twin may be.
const FACTOR: f64 = if cfg!(debug_assertions) { 5.0 } else { 1.5 };

/// Seconds that a call may cost whatever its size.
const CALL: f64 = 5e-6;

fn not_slower(source: &KernelSource, reads: &[&[u32]], len: usize, plain: impl FnMut(&mut [f32]) + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a thread").install(|| race(source, reads, len, plain));
}

fn race(source: &KernelSource, reads: &[&[u32]], len: usize, mut plain: impl FnMut(&mut [f32])) {
    let native = source.native.clone().expect("a CPU target has a twin");
    let (mut words, mut floats) = (vec![0u32; len], vec![0f32; len]);
    let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        plain(black_box(&mut floats));
        theirs = theirs.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        native(black_box(reads), &mut [&mut words], &[]);
        ours = ours.min(start.elapsed().as_secs_f64());
        if ours <= FACTOR * theirs + CALL {
            return;
        }
    }
    panic!("{}: {ours:.6} s against {theirs:.6} s", source.label);
}

fn scatter_case([outer, bound, inner, count]: [usize; 4], form: IndexForm) {
    let d = ScatterAdd {
        outer,
        bound,
        inner,
        count,
        form,
        dtype: DType::F32,
        base_offset: 0,
        base_is_scalar: true,
        index_offset: 0,
        src_offset: 0,
    };
    let slab = outer * count * inner;
    let indices = match form {
        IndexForm::Shared => count,
        IndexForm::Full => slab,
    };
    let index = check::words(indices, bound as u32, 1);
    let src = check::data(DType::F32, slab, 2);
    let floats: &[f32] = bytemuck::cast_slice(&src);
    let source = scatter_add(&d, &format!("{d:?}"), Target::Cpu);
    not_slower(&source, &[&[0], &index, &src], outer * bound * inner, |out| {
        out.fill(0.0);
        for o in 0..outer {
            for i in 0..count {
                for k in 0..inner {
                    let at = (o * count + i) * inner + k;
                    let v = match form {
                        IndexForm::Shared => index[i],
                        IndexForm::Full => index[at],
                    };
                    if (v as usize) < bound {
                        out[(o * bound + v as usize) * inner + k] += floats[at];
                    }
                }
            }
        }
    });
}

#[test]
fn scatter_add_is_not_slower_than_a_loop() {
    for form in [IndexForm::Shared, IndexForm::Full] {
        scatter_case([128, 10, 1, 1], form);
        scatter_case([1, 2_000, 64, 1_000], form);
        scatter_case([1, 500, 1, 60_000], form);
        scatter_case([4_000, 10, 1, 3], form);
    }
}

#[test]
fn cumsum_is_not_slower_than_a_loop() {
    for reverse in [false, true] {
        for [outer, n, inner] in [[64, 1_000, 1], [8_000, 10, 1], [1, 200, 300], [50, 40, 30]] {
            let d = CumSum { outer, n, inner, reverse, dtype: DType::F32, src_offset: 0 };
            let len = outer * n * inner;
            let src = check::data(DType::F32, len, 3);
            let floats: &[f32] = bytemuck::cast_slice(&src);
            let source = cumsum(&d, &format!("{d:?}"), Target::Cpu);
            not_slower(&source, &[&src], len, |out| {
                for line in 0..outer * inner {
                    let mut sum = 0.0;
                    for i in 0..n {
                        let i = if reverse { n - 1 - i } else { i };
                        let at = (line / inner * n + i) * inner + line % inner;
                        sum += floats[at];
                        out[at] = sum;
                    }
                }
            });
        }
    }
}

#[test]
fn sorting_is_not_slower_than_a_stable_sort() {
    for (rows, n, keep) in [(4_000, 10, 10), (64, 1_000, 1_000), (1, 100_000, 100_000), (4, 20_000, 20)] {
        let d = ArgSort {
            rows,
            n,
            count: n,
            pass: sort_passes(n, keep, Target::Cpu)[0],
            descending: false,
            dtype: DType::F32,
            keys_offset: 0,
            candidates_offset: None,
        };
        let keys = check::data(DType::F32, rows * n, 5);
        let floats: &[f32] = bytemuck::cast_slice(&keys);
        let source = argsort(&d, &format!("{d:?}"), Target::Cpu);
        let mut order: Vec<u32> = Vec::new();
        not_slower(&source, &[&keys], rows * keep, |out| {
            for (row, out) in floats.chunks(n).zip(out.chunks_mut(keep)) {
                order.clear();
                order.extend(0..n as u32);
                order.sort_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize]));
                out.iter_mut().zip(&order).for_each(|(out, &at)| *out = f32::from_bits(at));
            }
        });
    }
}

#[test]
fn fold_is_not_slower_than_a_loop() {
    // Columns of a 5-tap convolution along the last and along an inner axis, pooling windows, a long line.
    for ([outer, extent, inner], [count, size, stride, dilation]) in [
        ([500, 28, 1], [24, 5, 1, 1]),
        ([20, 28, 28], [24, 5, 1, 1]),
        ([500, 28, 1], [14, 2, 2, 1]),
        ([1, 40_000, 1], [13_330, 9, 3, 1]),
        ([4, 100, 40], [90, 3, 1, 5]),
    ] {
        let d = FoldWindows {
            outer,
            extent,
            inner,
            count,
            size,
            stride,
            dilation,
            dtype: DType::F32,
            src_offset: 0,
        };
        let src = check::data(DType::F32, outer * count * inner * size, 4);
        let floats: &[f32] = bytemuck::cast_slice(&src);
        let source = fold_windows(&d, &format!("{d:?}"), Target::Cpu);
        not_slower(&source, &[&src], outer * extent * inner, |out| {
            out.fill(0.0);
            for (at, &x) in floats.iter().enumerate() {
                let (k, rest) = (at % size, at / size);
                let (i, rest) = (rest % inner, rest / inner);
                let (q, o) = (rest % count, rest / count);
                out[(o * extent + q * stride + k * dilation) * inner + i] += x;
            }
        });
    }
}
