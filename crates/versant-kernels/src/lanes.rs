//! Loops over blocks of words that run with the widest vectors of this machine.
//!
//! Each helper is generic over a scalar closure: a row of the elementwise table instantiates it once, and
//! LLVM turns the loop into vector code, compiled for the baseline and, through [`pulp`], for AVX2 and AVX-512. No
//! multiply-add is contracted, so every machine computes the same bits.
//!
//! A row of the table looks like this (a [`BlockFn`](crate::program::BlockFn)):
//!
//! ```
//! use versant_kernels::{DType, MapFn, lanes, math};
//!
//! static EXP: MapFn = MapFn {
//!     name: "exp",
//!     arity: 1,
//!     wgsl: "exp({a})",
//!     lib: "",
//!     cpu: |_, dst, a, _, _| lanes::unary_f32(dst, a, math::exp),
//!     cost: 12,
//! };
//! static ADD: MapFn = MapFn {
//!     name: "add",
//!     arity: 2,
//!     wgsl: "{a} + {b}",
//!     lib: "",
//!     cpu: |dtype, dst, a, b, _| match dtype {
//!         DType::I32 | DType::U32 => lanes::binary_u32(dst, a, b, u32::wrapping_add),
//!         _ => lanes::binary_f32(dst, a, b, |x, y| x + y),
//!     },
//!     cost: 1,
//! };
//! static LESS: MapFn = MapFn {
//!     name: "lt",
//!     arity: 2,
//!     wgsl: "{a} < {b}",
//!     lib: "",
//!     cpu: |dtype, dst, a, b, _| match dtype {
//!         DType::F32 => lanes::compare_f32(dst, a, b, |x, y| x < y),
//!         DType::I32 => lanes::compare_i32(dst, a, b, |x, y| x < y),
//!         _ => lanes::compare_u32(dst, a, b, |x, y| x < y),
//!     },
//!     cost: 1,
//! };
//! static SELECT: MapFn = MapFn {
//!     name: "select",
//!     arity: 3,
//!     wgsl: "select({c}, {b}, {a})",
//!     lib: "",
//!     cpu: |_, dst, a, b, c| lanes::ternary_u32(dst, a, b, c, |k, x, y| if k != 0 { x } else { y }),
//!     cost: 1,
//! };
//!
//! let a = [0.0f32.to_bits(), 1.0f32.to_bits()];
//! let mut dst = [0; 2];
//! (EXP.cpu)(DType::F32, &mut dst, &a, &[], &[]);
//! assert_eq!(dst[0], 1.0f32.to_bits());
//! (ADD.cpu)(DType::F32, &mut dst, &a, &a, &[]);
//! assert_eq!(dst[1], 2.0f32.to_bits());
//! let two = dst;
//! (LESS.cpu)(DType::F32, &mut dst, &a, &two, &[]);
//! assert_eq!(dst, [0, 1]);
//! let cond = dst;
//! (SELECT.cpu)(DType::F32, &mut dst, &cond, &a, &two);
//! assert_eq!(dst[1], 1.0f32.to_bits());
//! ```

use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

/// Names the widest vectors that kernels may use: `portable`, `avx2` or `avx512` (and `neon` on ARM, which is what
/// such a machine takes anyway). What the machine does not have, or a name that nothing has, changes nothing.
pub const ISA_VAR: &str = "VERSANT_CPU_ISA";

/// Words of working memory that begin with a cache line, so that no vector of sixteen lanes lies in two (`docs/cpu.md` has what
/// that brings). `malloc` begins sixteen bytes behind one.
#[derive(Default)]
pub(crate) struct Words(Vec<Line>);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

impl Words {
    /// So many zeros at least.
    pub fn zeros(len: usize) -> Words {
        Words(vec![Line([0; 16]); len.div_ceil(16)])
    }

    /// Has room for so many at least; what is new is zero.
    pub fn reserve(&mut self, len: usize) {
        self.0.resize(self.0.len().max(len.div_ceil(16)), Line([0; 16]));
    }
}

impl Deref for Words {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// The vectors of this machine, within what [`ISA_VAR`] allows.
#[inline]
pub(crate) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| widest(std::env::var(ISA_VAR).as_deref().unwrap_or_default()))
}

fn widest(name: &str) -> Arch {
    #[cfg(target_arch = "x86_64")]
    if name == "avx2"
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return Arch::V3(simd);
    }
    match name {
        "portable" => Arch::Scalar,
        _ => Arch::new(),
    }
}

/// The vectors that kernels use, as [`ISA_VAR`] names them.
pub fn isa() -> &'static str {
    match arch() {
        Arch::Scalar => "portable",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "avx2",
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "avx512",
        _ => "neon",
    }
}

/// Runs `f` with the widest vectors of this machine enabled. What `f` calls takes part only as far as it
/// is inlined into it.
#[inline(always)]
pub(crate) fn vectorised<F: NullaryFnOnce>(f: F) -> F::Output {
    arch().dispatch(f)
}

/// A loop over blocks as a value: a closure could not be marked `#[inline(always)]`, and one that is
/// not inlined would run without the wide vectors.
struct Loop<'a, T, A, B, C, F> {
    dst: &'a mut [T],
    a: &'a [A],
    b: &'a [B],
    c: &'a [C],
    f: F,
}

struct Unary<'a, T, A, F>(Loop<'a, T, A, (), (), F>);
struct Binary<'a, T, A, B, F>(Loop<'a, T, A, B, (), F>);
struct Ternary<'a, T, A, B, C, F>(Loop<'a, T, A, B, C, F>);

impl<T, A: Copy, F: Fn(A) -> T> NullaryFnOnce for Unary<'_, T, A, F> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        for (d, &a) in self.0.dst.iter_mut().zip(self.0.a) {
            *d = (self.0.f)(a);
        }
    }
}

impl<T, A: Copy, B: Copy, F: Fn(A, B) -> T> NullaryFnOnce for Binary<'_, T, A, B, F> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Loop { dst, a, b, f, .. } = self.0;
        for ((d, &a), &b) in dst.iter_mut().zip(a).zip(b) {
            *d = f(a, b);
        }
    }
}

impl<T, A: Copy, B: Copy, C: Copy, F: Fn(A, B, C) -> T> NullaryFnOnce for Ternary<'_, T, A, B, C, F> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Loop { dst, a, b, c, f } = self.0;
        for (((d, &a), &b), &c) in dst.iter_mut().zip(a).zip(b).zip(c) {
            *d = f(a, b, c);
        }
    }
}

/// Whether an operand is one word that stands for all lanes of the result.
#[inline(always)]
fn same<T, A>(dst: &[T], operand: &[A]) -> bool {
    operand.len() == 1 && dst.len() > 1
}

/// `dst[i] = f(a[i])` over slices of any plain type.
#[inline(always)]
fn unary<T, A: Copy>(dst: &mut [T], a: &[A], f: impl Fn(A) -> T) {
    let (b, c) = (&[][..], &[][..]);
    vectorised(Unary(Loop { dst, a, b, c, f }));
}

/// `dst[i] = f(a[i], b[i])` over slices of any plain type; an operand of one element stands for all lanes.
#[inline(always)]
fn binary<T: Copy, A: Copy, B: Copy>(dst: &mut [T], a: &[A], b: &[B], f: impl Fn(A, B) -> T) {
    match (same(dst, a), same(dst, b)) {
        (false, false) => {
            let c = &[][..];
            vectorised(Binary(Loop { dst, a, b, c, f }));
        }
        (false, true) => {
            let b = b[0];
            unary(dst, a, |a| f(a, b));
        }
        (true, false) => {
            let a = a[0];
            unary(dst, b, |b| f(a, b));
        }
        (true, true) => dst.fill(f(a[0], b[0])),
    }
}

/// `dst[i] = f(a[i], b[i], c[i])`, the same; but the first operand has all lanes.
#[inline(always)]
fn ternary<T: Copy, A: Copy, B: Copy>(dst: &mut [T], a: &[A], b: &[B], c: &[B], f: impl Fn(A, B, B) -> T) {
    match (same(dst, b), same(dst, c)) {
        (false, false) => vectorised(Ternary(Loop { dst, a, b, c, f })),
        (false, true) => {
            let c = c[0];
            binary(dst, a, b, |a, b| f(a, b, c));
        }
        (true, false) => {
            let b = b[0];
            binary(dst, a, c, |a, c| f(a, b, c));
        }
        (true, true) => {
            let (b, c) = (b[0], c[0]);
            unary(dst, a, |a| f(a, b, c));
        }
    }
}

/// `dst[i] = f(a[i])`, floats to float.
#[inline(always)]
pub fn unary_f32(dst: &mut [u32], a: &[u32], f: impl Fn(f32) -> f32) {
    unary::<f32, f32>(bytemuck::cast_slice_mut(dst), bytemuck::cast_slice(a), f);
}

/// `dst[i] = f(a[i])`, signed integers.
#[inline(always)]
pub fn unary_i32(dst: &mut [u32], a: &[u32], f: impl Fn(i32) -> i32) {
    unary::<i32, i32>(bytemuck::cast_slice_mut(dst), bytemuck::cast_slice(a), f);
}

/// `dst[i] = f(a[i])`, unsigned integers, truth values (0 or 1) or bits of any type.
#[inline(always)]
pub fn unary_u32(dst: &mut [u32], a: &[u32], f: impl Fn(u32) -> u32) {
    unary(dst, a, f);
}

/// `dst[i] = f(a[i])` as the word 0 or 1 (for example `isnan`).
#[inline(always)]
pub fn test_f32(dst: &mut [u32], a: &[u32], f: impl Fn(f32) -> bool) {
    unary::<u32, f32>(dst, bytemuck::cast_slice(a), |x| f(x) as u32);
}

/// `dst[i] = f(a[i], b[i])`, floats to float.
#[inline(always)]
pub fn binary_f32(dst: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(f32, f32) -> f32) {
    binary::<f32, f32, f32>(
        bytemuck::cast_slice_mut(dst),
        bytemuck::cast_slice(a),
        bytemuck::cast_slice(b),
        f,
    );
}

/// `dst[i] = f(a[i], b[i])`, signed integers.
#[inline(always)]
pub fn binary_i32(dst: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(i32, i32) -> i32) {
    binary::<i32, i32, i32>(
        bytemuck::cast_slice_mut(dst),
        bytemuck::cast_slice(a),
        bytemuck::cast_slice(b),
        f,
    );
}

/// `dst[i] = f(a[i], b[i])`, unsigned integers, truth values or bits of any type.
#[inline(always)]
pub fn binary_u32(dst: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(u32, u32) -> u32) {
    binary(dst, a, b, f);
}

/// `dst[i] = f(a[i], b[i], c[i])`, floats to float.
#[inline(always)]
pub fn ternary_f32(dst: &mut [u32], a: &[u32], b: &[u32], c: &[u32], f: impl Fn(f32, f32, f32) -> f32) {
    ternary::<f32, f32, f32>(
        bytemuck::cast_slice_mut(dst),
        bytemuck::cast_slice(a),
        bytemuck::cast_slice(b),
        bytemuck::cast_slice(c),
        f,
    );
}

/// `dst[i] = f(a[i], b[i], c[i])` on words: a select, for example.
#[inline(always)]
pub fn ternary_u32(dst: &mut [u32], a: &[u32], b: &[u32], c: &[u32], f: impl Fn(u32, u32, u32) -> u32) {
    ternary(dst, a, b, c, f);
}

/// `dst[i] = f(a[i], b[i])` as the word 0 or 1, floats.
#[inline(always)]
pub fn compare_f32(dst: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(f32, f32) -> bool) {
    binary::<u32, f32, f32>(dst, bytemuck::cast_slice(a), bytemuck::cast_slice(b), |x, y| f(x, y) as u32);
}

/// `dst[i] = f(a[i], b[i])` as the word 0 or 1, signed integers.
#[inline(always)]
pub fn compare_i32(dst: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(i32, i32) -> bool) {
    binary::<u32, i32, i32>(dst, bytemuck::cast_slice(a), bytemuck::cast_slice(b), |x, y| f(x, y) as u32);
}

/// `dst[i] = f(a[i], b[i])` as the word 0 or 1, unsigned integers or truth values.
#[inline(always)]
pub fn compare_u32(dst: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(u32, u32) -> bool) {
    binary(dst, a, b, |x, y| f(x, y) as u32);
}

struct FoldLanes<'a, T, F>(&'a mut [T], &'a [T], F);

impl<T: Copy, F: Fn(T, T) -> T> NullaryFnOnce for FoldLanes<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        for (acc, &v) in self.0.iter_mut().zip(self.1) {
            *acc = (self.2)(*acc, v);
        }
    }
}

/// `acc[i] = f(acc[i], values[i])`.
#[inline(always)]
pub(crate) fn fold_lanes<T: Copy>(acc: &mut [T], values: &[T], f: impl Fn(T, T) -> T) {
    vectorised(FoldLanes(acc, values, f));
}

/// `dst[i] = f(dst[i], b[i])`; a `b` of one element stands for all lanes.
#[inline(always)]
pub(crate) fn update_f32(dst: &mut [u32], b: &[u32], f: impl Fn(f32, f32) -> f32) {
    let (dst, b): (&mut [f32], &[f32]) = (bytemuck::cast_slice_mut(dst), bytemuck::cast_slice(b));
    match same(dst, b) {
        true => vectorised(Update(dst, b[0], f)),
        false => fold_lanes(dst, b, f),
    }
}

struct Update<'a, F>(&'a mut [f32], f32, F);

impl<F: Fn(f32, f32) -> f32> NullaryFnOnce for Update<'_, F> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        self.0.iter_mut().for_each(|d| *d = (self.2)(*d, self.1));
    }
}

struct FoldSlice<'a, T, F>(&'a [T], T, F);

/// Independent accumulators of [`fold_slice`]: four vectors of the widest, whose chains hide what one step takes.
const ACCUMULATORS: usize = 64;

impl<T: Copy, F: Fn(T, T) -> T> NullaryFnOnce for FoldSlice<'_, T, F> {
    type Output = T;
    #[inline(always)]
    fn call(self) -> T {
        let FoldSlice(values, start, f) = self;
        let mut acc = [start; ACCUMULATORS];
        let (chunks, rest) = values.as_chunks::<ACCUMULATORS>();
        for chunk in chunks {
            for (a, &v) in acc.iter_mut().zip(chunk) {
                *a = f(*a, v);
            }
        }
        fold_tree(acc, rest, f)
    }
}

/// Folds what is left over and the accumulators. A call, because the compiler would choose vectors for the loop above by what
/// suits this tree, and keep the accumulators in memory.
#[inline(never)]
fn fold_tree<T: Copy>(mut all: [T; ACCUMULATORS], rest: &[T], f: impl Fn(T, T) -> T) -> T {
    for (a, &v) in all.iter_mut().zip(rest) {
        *a = f(*a, v);
    }
    let mut width = ACCUMULATORS;
    while width > 1 {
        width /= 2;
        let (low, high) = all.split_at_mut(width);
        for (a, &v) in low.iter_mut().zip(&*high) {
            *a = f(*a, v);
        }
    }
    all[0]
}

/// Folds all values into `start`, the neutral value of `f`, in a fixed order: 64 strided
/// accumulators, then a tree over them.
#[inline(always)]
pub(crate) fn fold_slice<T: Copy>(values: &[T], start: T, f: impl Fn(T, T) -> T) -> T {
    if values.len() < 16 {
        return values.iter().fold(start, |acc, &v| f(acc, v));
    }
    vectorised(FoldSlice(values, start, f))
}

/// Combines sixteen lanes by halves.
#[inline(always)]
pub(crate) fn tree(lanes: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| f(lanes[i], lanes[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| f(eight[i], eight[i + 4]));
    f(f(four[0], four[2]), f(four[1], four[3]))
}

struct Extreme<'a>(&'a [f32], bool);

impl Extreme<'_> {
    /// In `N` vectors: a compiler that is left to choose stores by a mask what beats what.
    #[inline(always)]
    fn over<S: Simd, const N: usize>(self, simd: S) -> Option<f32> {
        let Extreme(values, largest) = self;
        let start = if largest { f32::NEG_INFINITY } else { f32::INFINITY };
        let pick = |best: S::f32s, v: S::f32s| {
            let (low, high) = if largest { (best, v) } else { (v, best) };
            simd.select_f32s(simd.less_than_f32s(low, high), v, best)
        };
        let (mut best, mut sums) = ([simd.splat_f32s(start); N], [simd.splat_f32s(0.0); N]);
        let mut fold = |chunk: [f32; ACCUMULATORS]| {
            let chunk: [S::f32s; N] = bytemuck::cast(chunk);
            for ((best, sum), v) in best.iter_mut().zip(&mut sums).zip(chunk) {
                (*best, *sum) = (pick(*best, v), simd.add_f32s(*sum, v));
            }
        };
        let (chunks, rest) = values.as_chunks::<ACCUMULATORS>();
        chunks.iter().for_each(|&chunk| fold(chunk));
        // What fills the last chunk makes no sum NaN but beside the other infinity, and then the answer is looked for elsewhere.
        if !rest.is_empty() {
            let mut last = [start; ACCUMULATORS];
            last[..rest.len()].copy_from_slice(rest);
            fold(last);
        }
        // Copies: sums that are indexed live in memory.
        let (mut best, mut sums, mut width) = (best, sums, N);
        while width > 1 {
            width /= 2;
            for i in 0..width {
                (best[i], sums[i]) =
                    (pick(best[i], best[i + width]), simd.add_f32s(sums[i], sums[i + width]));
            }
        }
        let beats = |v: f32, best: f32| if largest { v > best } else { v < best };
        let mut lanes = [start; 16];
        lanes[..S::F32_LANES].copy_from_slice(bytemuck::cast_slice(&best[..1]));
        let best = tree(lanes, |a, v| if beats(v, a) { v } else { a });
        let sum = simd.reduce_sum_f32s(sums[0]);
        (!sum.is_nan()).then_some(best)
    }
}

impl WithSimd for Extreme<'_> {
    type Output = Option<f32>;
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<f32> {
        match S::F32_LANES {
            16 => self.over::<S, 4>(simd),
            8 => self.over::<S, 8>(simd),
            4 => self.over::<S, 16>(simd),
            _ => self.over::<S, 64>(simd),
        }
    }
}

/// The largest of some values or the smallest; nothing where one may be NaN, which the sum of all shows, or of few.
#[inline(always)]
pub(crate) fn extreme(values: &[f32], largest: bool) -> Option<f32> {
    if values.len() < ACCUMULATORS {
        return None;
    }
    arch().dispatch(Extreme(values, largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_obeyed() {
        let asked = std::env::var(ISA_VAR).unwrap_or_default();
        assert!(asked != "portable" || isa() == "portable");
        assert!(asked != "avx2" || isa() != "avx512");
        assert!(matches!(widest("portable"), Arch::Scalar));
    }

    /// Runs the tests of the kernels in a process of its own for each narrower instruction set.
    #[test]
    fn kernels_are_right_with_every_instruction_set() {
        if std::env::var_os(ISA_VAR).is_some() {
            return;
        }
        let program = std::env::current_exe().expect("the test's own file");
        for name in ["portable", "avx2"] {
            let tests = [
                "lanes::",
                "math::",
                "attention::tests",
                "contract::tests",
                "eval::tests::random",
                "eval::tests::nan",
                "eval::tests::values",
                "eval::tests::what",
                "eval::tests::jobs",
                "eval::tests::pairs",
                "families::",
            ];
            let run = std::process::Command::new(&program).args(tests).env(ISA_VAR, name).output();
            let run = run.expect("the test binary starts again");
            let text = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success(), "{name}: {text}");
            assert!(text.contains("the_variable_is_obeyed ... ok"), "{name}: {text}");
        }
    }
}
