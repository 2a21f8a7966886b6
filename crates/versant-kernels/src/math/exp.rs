//! Exponentials and what is made of them.

use std::f32::consts::{LN_2, LOG2_E};

#[cfg(target_arch = "x86_64")]
use super::wide::Block;
use super::{ROUND, poly};

/// The leading 9 bits of ln 2, whose product with an exponent is exact.
const LN2_HI: f32 = 0.693_359_4;
/// The rest of ln 2.
const LN2_LO: f32 = -2.121_944_4e-4;

/// `n` and `r` with `x = n ln 2 + r`, |r| <= ln 2 / 2.
#[inline(always)]
fn reduce(x: f32) -> (i32, f32) {
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    (integer(shifted), r)
}

/// The integer in the low bits of a number that [`ROUND`] was added to.
#[inline(always)]
fn integer(shifted: f32) -> i32 {
    (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// `2^n` for -127 < n < 128.
#[inline(always)]
fn power(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `y 2^n`, in two steps so that the result may overflow or be subnormal.
#[inline(always)]
fn scale(y: f32, n: i32) -> f32 {
    let half = n >> 1;
    y * power(half) * power(n.wrapping_sub(half))
}

/// `x` within `low..=high`; NaN stays.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// What lies below is 0, what lies above infinite.
const BOUNDS: [f32; 2] = [-104.0, 89.0];
/// `(e^r - 1 - r) / r²`.
const POLY: [f32; 5] = [0.49999994, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

/// e to the x, within 1 ulp.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let [low, high] = BOUNDS;
    // Not as small as results get: a processor takes ten times as long where one is below the normal numbers.
    let zero = x < low;
    let x = if zero { 0.0 } else { x };
    let (n, r) = reduce(if x > high { high } else { x });
    let y = scale(1.0 + (r + r * r * poly(r, POLY)), n);
    if zero { 0.0 } else { y }
}

/// The same for x from -87 to 88 or NaN, in fewer steps.
#[inline(always)]
pub(super) fn exp_between(x: f32) -> f32 {
    let (n, r) = reduce(x);
    (1.0 + (r + r * r * poly(r, POLY))) * power(n)
}

/// [`exp`] of each value of a block, within 1 ulp. Vectors of sixteen lanes fuse multiply-adds, which gives other last bits.
pub fn exp_block(dst: &mut [u32], a: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    if let pulp::Arch::V4(simd) = crate::lanes::arch() {
        return simd.vectorize(Block { simd, f: sixteen::Exp, dst, a });
    }
    crate::lanes::unary_f32(dst, a, exp);
}

/// Makes each value what [`exp`] makes of its distance to another.
pub(crate) fn exp_below(values: &mut [f32], other: f32) {
    #[cfg(target_arch = "x86_64")]
    if let pulp::Arch::V4(simd) = crate::lanes::arch() {
        return simd.vectorize(sixteen::Below { simd, values, other });
    }
    crate::lanes::vectorised(Below { values, other });
}

/// [`exp_block`] of the difference of two, of which either may be one word for all lanes.
pub(crate) fn exp_of_difference(dst: &mut [u32], a: &[u32], b: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    if let (pulp::Arch::V4(simd), &[other], true) = (crate::lanes::arch(), b, a.len() == dst.len()) {
        let f = sixteen::ExpBelow(pulp::Simd::splat_f32s(simd, f32::from_bits(other)));
        return simd.vectorize(Block { simd, f, dst, a });
    }
    crate::lanes::binary_f32(dst, a, b, |a, b| a - b);
    exp_below(bytemuck::cast_slice_mut(dst), 0.0);
}

struct Below<'a> {
    values: &'a mut [f32],
    other: f32,
}

impl pulp::NullaryFnOnce for Below<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        self.values.iter_mut().for_each(|x| *x = exp(*x - self.other));
    }
}

/// Sixteen lanes at once where one instruction scales by a power of two.
#[cfg(target_arch = "x86_64")]
mod sixteen {
    use std::arch::x86_64::{__m512, _CMP_NLT_UQ};

    use pulp::NullaryFnOnce;
    use pulp::x86::V4;

    use super::super::wide::Lanes;
    use super::{BOUNDS, LN2_HI, LN2_LO, LOG2_E, POLY, ROUND};

    /// The steps of [`super::exp`] with fused multiply-adds, and an instruction for the power of two.
    pub struct Exp;

    impl Lanes for Exp {
        #[inline(always)]
        fn of(&self, simd: V4, x: __m512) -> __m512 {
            let s = simd.avx512f;
            let round = s._mm512_set1_ps(ROUND);
            let [low, high] = BOUNDS;
            let some = s._mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, s._mm512_set1_ps(low));
            // NaN, as the second operand, stays.
            let x = s._mm512_maskz_min_ps(some, s._mm512_set1_ps(high), x);
            let n = s._mm512_sub_ps(s._mm512_fmadd_ps(x, s._mm512_set1_ps(LOG2_E), round), round);
            let r = s._mm512_fnmadd_ps(n, s._mm512_set1_ps(LN2_HI), x);
            let r = s._mm512_fnmadd_ps(n, s._mm512_set1_ps(LN2_LO), r);
            let [first @ .., last] = POLY;
            let mut p = s._mm512_set1_ps(last);
            for c in first.into_iter().rev() {
                p = s._mm512_fmadd_ps(p, r, s._mm512_set1_ps(c));
            }
            let p = s._mm512_fmadd_ps(s._mm512_mul_ps(r, r), p, r);
            s._mm512_maskz_scalef_ps(some, s._mm512_add_ps(s._mm512_set1_ps(1.0), p), n)
        }
    }

    /// [`Exp`] of the distance to what each lane of this holds.
    pub struct ExpBelow(pub pulp::f32x16);

    impl Lanes for ExpBelow {
        #[inline(always)]
        fn of(&self, simd: V4, x: __m512) -> __m512 {
            Exp.of(simd, simd.avx512f._mm512_sub_ps(x, bytemuck::cast(self.0)))
        }
    }

    pub struct Below<'a> {
        pub simd: V4,
        pub values: &'a mut [f32],
        pub other: f32,
    }

    impl NullaryFnOnce for Below<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let Below { simd, values, other } = self;
            let (sixteens, rest) = values.as_chunks_mut::<16>();
            for x in sixteens {
                *x = below(simd, *x, other);
            }
            if rest.is_empty() {
                return;
            }
            let mut last = [0.0; 16];
            last[..rest.len()].copy_from_slice(rest);
            rest.copy_from_slice(&below(simd, last, other)[..rest.len()]);
        }
    }

    #[inline(always)]
    fn below(simd: V4, x: [f32; 16], other: f32) -> [f32; 16] {
        let other = simd.avx512f._mm512_set1_ps(other);
        bytemuck::cast(Exp.of(simd, simd.avx512f._mm512_sub_ps(bytemuck::cast(x), other)))
    }
}

/// 2 to the x, within 1.3 ulp; exact for integers.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let x = clamp(x, -151.0, 129.0);
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    // (2^r - 1) / r
    let p = poly(r, [LN_2, 0.240_226_5, 0.055_503_275, 0.009_618_003, 0.001_340_04, 0.000_154_764_5]);
    scale(1.0 + r * p, integer(shifted))
}

/// `exp(x) - 1`, within 1.6 ulp.
#[inline(always)]
pub fn expm1(x: f32) -> f32 {
    let (n, r) = reduce(clamp(x, -20.0, 88.8));
    // (e^r - 1 - r) / r²
    let p = poly(r, [0.5, 0.166_666_67, 0.041_666_355, 0.008_333_273, 0.001_394_104_6, 0.000_199_142_25]);
    let p = r + r * r * p;
    // 2^n (e^r - 1) + (2^n - 1), halved so that 2^128 does not occur.
    let half = power(n.wrapping_sub(1));
    let y = 2.0 * (half * p + (half - 0.5));
    if x.abs() < 3e-8 { x } else { y }
}

/// Hyperbolic tangent, within 2.6 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let e = expm1(2.0 * if a > 20.0 { 20.0 } else { a });
    (e / (e + 2.0)).copysign(x)
}

/// `1 / (1 + exp(-x))`, within 2.5 ulp.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}
