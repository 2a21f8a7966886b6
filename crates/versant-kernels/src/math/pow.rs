//! Powers.

use super::log::log2_f64;
use super::{ROUND64, poly64};

/// 2 to the t.
#[inline(always)]
fn exp2_f64(t: f64) -> f64 {
    // Beyond these bounds the result is 0 or infinite as f32.
    let t = if t < -200.0 { -200.0 } else { t };
    let t = if t > 200.0 { 200.0 } else { t };
    let shifted = t + ROUND64;
    let r = t - (shifted - ROUND64);
    let n = shifted.to_bits().wrapping_sub(ROUND64.to_bits());
    // 2^r
    let p = poly64(
        r,
        [
            0.999_999_999_999_762_3,
            0.693_147_180_546_490_5,
            0.240_226_506_988_815_6,
            0.055_504_109_394_352_57,
            0.009_618_128_542_784_08,
            0.001_333_345_197_237_769,
            0.000_154_038_516_610_339_36,
            1.530_976_142_127_992_8e-5,
            1.317_590_603_274_388_5e-6,
        ],
    );
    p * f64::from_bits(n.wrapping_add(1023) << 52)
}

/// `x` to the `y`, within 0.51 ulp, with the special cases of C and PyTorch: anything to the 0 and 1 to
/// anything is 1; a negative finite base with a fractional exponent gives NaN.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let a = x.abs();
    let log = log2_f64(a);
    let e = f64::from(y);
    // From 2^40 on every f32 is an even integer.
    let whole = e.abs().min(1_099_511_627_776.0);
    let is_integer = (whole + ROUND64) - ROUND64 == whole;
    let half = 0.5 * whole;
    let is_odd = is_integer & ((half + ROUND64) - ROUND64 != half);
    let power = exp2_f64(e * log) as f32;
    let power = if (a == 1.0) & !y.is_nan() { 1.0 } else { power };
    let power = if is_odd { power.copysign(x) } else { power };
    let wrong = (x < 0.0) & (a < f32::INFINITY) & !is_integer;
    let power = if wrong | x.is_nan() | y.is_nan() { f32::NAN } else { power };
    if (x == 1.0) | (y == 0.0) { 1.0 } else { power }
}
