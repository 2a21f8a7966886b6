//! The error function.

use super::exp::exp_between;
use super::poly;

/// The error function, within 1.5 ulp.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let z = a * a;
    // erf(x) / x - 1 in x², up to 0.92
    let p = poly(
        z,
        [
            0.128_379_17,
            -0.376_126_35,
            0.112_837_03,
            -0.026_859_8,
            0.005_201_960_5,
            -0.000_815_262_96,
            8.409_927e-5,
        ],
    );
    let near = a + a * p;
    // -ln(1 - erf(x)) from there to 3.95, where erf has rounded to 1
    let t = if a > 3.95 { 3.95 } else { a };
    let g = poly(
        t,
        [
            -0.000_171_973_47,
            1.129_501_8,
            0.633_373_44,
            0.108_250_8,
            -0.025_100_434,
            0.004_163_832,
            -0.000_432_966_9,
            2.096_542_6e-5,
        ],
    );
    let far = 1.0 - exp_between(-g);
    let y = if a < 0.92 { near } else { far };
    y.copysign(x)
}
