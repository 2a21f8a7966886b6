//! Exponentials and what is made of them.

use std::f32::consts::{LN_2, LOG2_E};

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

/// e to the x, within 1 ulp.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (n, r) = reduce(clamp(x, -104.0, 89.0));
    // (e^r - 1 - r) / r²
    let p = poly(r, [0.49999994, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454]);
    scale(1.0 + (r + r * r * p), n)
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
