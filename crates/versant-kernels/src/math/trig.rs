//! Sine, cosine and the angle of a point.

use std::f32::consts::PI;

use super::{ROUND64, poly};

/// Beyond this the reduction loses exactness.
const LIMIT: f32 = 134_217_728.0; // 2^27

/// Quadrant and angle within it, in -π/4..=π/4 and as a sum of two numbers, of an angle up to [`LIMIT`].
#[inline(always)]
fn reduce(x: f32) -> (u32, f32, f32) {
    // π/2 in three parts; those of 26 bits have exact products with the quadrant number.
    const PARTS: [f64; 3] = [
        f64::from_bits(0x3ff9_21fb_5000_0000),
        f64::from_bits(0x3e51_10b4_6000_0000),
        f64::from_bits(0x3c91_a626_3314_5c07),
    ];
    let x = f64::from(x);
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND64;
    let k = shifted - ROUND64;
    let r = ((x - k * PARTS[0]) - k * PARTS[1]) - k * PARTS[2];
    let high = r as f32;
    let low = (r - f64::from(high)) as f32;
    (shifted.to_bits() as u32, high, low)
}

/// The sine of quadrant `q` plus `r + low`.
#[inline(always)]
fn sine(q: u32, r: f32, low: f32) -> f32 {
    let z = r * r;
    // (sin r - r) / r³, (cos r - 1 + r²/2) / r⁴
    let sin = r + (r * z * poly(z, [-0.166_666_55, 0.008_332_178, -0.000_195_172_32]) + low);
    let cos = poly(z, [0.041_666_646, -0.001_388_736_6, 2.443_838e-5]);
    let cos = 1.0 - (0.5 * z - (z * z * cos - r * low));
    let y = if q & 1 == 0 { sin } else { cos };
    f32::from_bits(y.to_bits() ^ ((q & 2) << 30))
}

#[inline(always)]
fn fast_sin(x: f32) -> f32 {
    let (q, r, low) = reduce(x);
    let y = sine(q, r, low);
    // Keeps the sign of zero.
    if x == 0.0 { x } else { y }
}

#[inline(always)]
fn fast_cos(x: f32) -> f32 {
    let (q, r, low) = reduce(x);
    sine(q.wrapping_add(1), r, low)
}

/// Sine of an angle in radians, within 1.1 ulp.
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    if x.abs() > LIMIT {
        return f64::from(x).sin() as f32;
    }
    fast_sin(x)
}

/// Cosine of an angle in radians, within 1.1 ulp.
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    if x.abs() > LIMIT {
        return f64::from(x).cos() as f32;
    }
    fast_cos(x)
}

/// Evaluates a block by `fast`, then the elements beyond its range by `slow`.
#[inline(always)]
fn block(dst: &mut [u32], a: &[u32], fast: impl Fn(f32) -> f32, slow: fn(f32) -> f32) {
    crate::lanes::unary_f32(dst, a, fast);
    let largest = a.iter().fold(0, |m, &w| m.max(w & 0x7fff_ffff));
    if largest > LIMIT.to_bits() {
        for (d, &w) in dst.iter_mut().zip(a) {
            *d = slow(f32::from_bits(w)).to_bits();
        }
    }
}

/// [`sin`] over a block of words, vectorised.
pub fn sin_block(dst: &mut [u32], a: &[u32]) {
    block(dst, a, fast_sin, sin);
}

/// [`cos`] over a block of words, vectorised.
pub fn cos_block(dst: &mut [u32], a: &[u32]) {
    block(dst, a, fast_cos, cos);
}

/// The angle of the point `(x, y)` in radians, in -π..=π, within 2 ulp.
#[inline(always)]
pub fn atan2(y: f32, x: f32) -> f32 {
    // What f32 lacks of π.
    const PI_LO: f32 = -8.742_278e-8;
    let (ax, ay) = (x.abs(), y.abs());
    let steep = ay > ax;
    let (small, large) = if steep { (ax, ay) } else { (ay, ax) };
    let ratio = small / large;
    let ratio = if large == 0.0 { 0.0 } else { ratio };
    let ratio = if small == f32::INFINITY { 1.0 } else { ratio };
    let z = ratio * ratio;
    // (atan(r) / r - 1) / r²
    let p = poly(
        z,
        [
            -0.333_333_02,
            0.199_986_38,
            -0.142_652_45,
            0.109_575_756,
            -0.084_194_54,
            0.058_234_442,
            -0.031_455_58,
            0.011_064_368,
            -0.001_827_195_6,
        ],
    );
    let angle = ratio + ratio * (z * p);
    let angle = if steep { 0.5 * PI - angle + 0.5 * PI_LO } else { angle };
    let angle = if x.is_sign_negative() { PI - angle + PI_LO } else { angle };
    if x.is_nan() | y.is_nan() { f32::NAN } else { angle.copysign(y) }
}
