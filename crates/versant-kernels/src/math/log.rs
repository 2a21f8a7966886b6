//! Logarithms.

use super::{poly, poly64};

/// The leading 9 bits of ln 2, whose product with an exponent is exact.
const LN2_HI: f32 = 0.693_359_4;
/// The rest of ln 2.
const LN2_LO: f32 = -2.121_944_4e-4;

/// The bits of sqrt(1/2).
const SQRT_HALF: u32 = 0x3f35_04f3;

/// `k` and `f` with `x = 2^k (1 + f)`, 1 + f between sqrt(1/2) and sqrt(2), for positive normal `x`.
#[inline(always)]
fn split(x: f32) -> (i32, f32) {
    let bits = x.to_bits().wrapping_sub(SQRT_HALF);
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF));
    (bits as i32 >> 23, m - 1.0)
}

/// `ln(1 + f) + k ln 2 + c` for a small correction `c`.
///
/// With `s = f / (2 + f)`: `ln(1 + f) = 2 atanh(s) = f - f²/2 + s (f²/2 + s² P(s²))`.
#[inline(always)]
fn ln_of(k: f32, f: f32, c: f32) -> f32 {
    let s = f / (2.0 + f);
    let z = s * s;
    // (2 atanh(s) - 2 s) / s³ in z
    let r = z * poly(z, [0.666_667_76, 0.399_774_5, 0.298_744_14]);
    let half = 0.5 * f * f;
    (s * (half + r) + (k * LN2_LO + c)) - half + f + k * LN2_HI
}

/// `y`, or what a logarithm of `x` is where it is no positive finite number.
#[inline(always)]
fn edges(x: f32, y: f32) -> f32 {
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// Natural logarithm, within 1 ulp.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let small = x < f32::MIN_POSITIVE;
    let (k, f) = split(if small { x * 33_554_432.0 } else { x }); // 2^25
    let k = k as f32 - if small { 25.0 } else { 0.0 };
    edges(x, ln_of(k, f, 0.0))
}

/// `ln(1 + x)`, within 2.2 ulp.
#[inline(always)]
pub fn log1p(x: f32) -> f32 {
    let u = 1.0 + x;
    let (k, f) = split(u);
    // What was lost in the sum, relative to it.
    let lost = if k > 0 { 1.0 - (u - x) } else { x - (u - 1.0) };
    let exact = k == 0;
    let y = ln_of(k as f32, if exact { x } else { f }, if exact { 0.0 } else { lost / u });
    let y = edges(u, y);
    if x.abs() < 3e-8 { x } else { y }
}

/// Binary logarithm of a non-negative number, with a relative error of 2^-45.
#[inline(always)]
pub(super) fn log2_f64(x: f32) -> f64 {
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    const MANTISSA: u64 = 0x000f_ffff_ffff_ffff;
    // 2^52, whose low bits take an integer.
    const INTEGER: f64 = 4_503_599_627_370_496.0;
    // Subnormal numbers are normal as f64.
    let bits = f64::from(x).to_bits().wrapping_add(ONE - SQRT_HALF);
    let k = f64::from_bits((bits >> 52) | INTEGER.to_bits()) - (INTEGER + 1023.0);
    let f = f64::from_bits((bits & MANTISSA).wrapping_add(SQRT_HALF)) - 1.0;
    let s = f / (2.0 + f);
    // 2 atanh(s) / (s ln 2) in s²
    let p = poly64(
        s * s,
        [
            2.885_390_081_777_927,
            0.961_796_693_924_298_2,
            0.577_078_017_261_874_4,
            0.412_198_399_630_503_1,
            0.320_616_557_268_177_06,
            0.261_438_819_034_882_86,
            0.242_981_223_290_602_7,
        ],
    );
    let y = k + s * p;
    let y = if x == f32::INFINITY { f64::INFINITY } else { y };
    if x == 0.0 { f64::NEG_INFINITY } else { y }
}

/// Binary logarithm, within 0.51 ulp; exact for powers of two.
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    edges(x, log2_f64(x) as f32)
}
