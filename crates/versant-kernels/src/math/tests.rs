//! Every function against its value in `f64`, over the whole range of `f32`.

use super::*;

/// Numbers that sampling might miss.
const SPECIAL: [f32; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    -2.0,
    3.0,
    -3.0,
    1e-45,
    -1e-45,
    1.175_494_2e-38,
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    88.722_84,
    -103.972_08,
    0.999_999_94,
    1.000_000_1,
];

/// About 300,000 numbers: all magnitudes, and densely around 1.
fn samples() -> impl Iterator<Item = f32> {
    let everywhere = (0..u32::MAX).step_by(20_011).map(f32::from_bits);
    let middle = (-60_000..60_000).map(|i| i as f32 * 0.000_2);
    let wide = (-40_000..40_000).map(|i| i as f32 * 0.003_1);
    SPECIAL.into_iter().chain(everywhere).chain(middle).chain(wide)
}

/// Distance of `got` from the exact `want`, in units in the last place of `want` rounded to f32.
fn ulps(got: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if got.to_bits() == rounded.to_bits() || (got.is_nan() && want.is_nan()) {
        return 0.0;
    }
    if !got.is_finite() || !rounded.is_finite() || (want == 0.0 && got == 0.0) {
        // Wrong infinity, NaN, or sign of zero; but next to the overflow threshold either side will do.
        let near = got == f32::MAX || rounded.abs() == f32::MAX;
        return if near { 1.0 } else { f64::INFINITY };
    }
    let exponent = (rounded.abs().to_bits() >> 23).max(1) as i32 - 127;
    (f64::from(got) - want).abs() / 2f64.powi(exponent - 23)
}

fn check(name: &str, bound: f64, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) {
    let mut worst = (0.0, 0.0);
    for x in samples() {
        let error = ulps(f(x), exact(f64::from(x)));
        if error > worst.0 {
            worst = (error, x);
        }
    }
    let (error, x) = worst;
    assert!(error <= bound, "{name}({x:e}) = {:e}, exactly {:e}: {error:.3} ulp", f(x), exact(f64::from(x)),);
}

/// What a function of blocks makes of a single value.
fn alone(block: fn(&mut [u32], &[u32]), x: f32) -> f32 {
    let mut dst = [0];
    block(&mut dst, &[x.to_bits()]);
    f32::from_bits(dst[0])
}

#[test]
fn exponentials() {
    check("exp", 1.0, exp, f64::exp);
    check("exp of a block", 1.0, |x| alone(exp_block, x), f64::exp);
    check("exp2", 1.3, exp2, f64::exp2);
    check("expm1", 1.6, expm1, f64::exp_m1);
    check("tanh", 2.6, tanh, f64::tanh);
    check("sigmoid", 2.5, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
}

#[test]
fn logarithms() {
    check("ln", 1.0, ln, f64::ln);
    check("log2", 0.51, log2, f64::log2);
    check("log1p", 2.2, log1p, f64::ln_1p);
}

#[test]
fn error_function() {
    check("erf", 1.5, erf, libm::erf);
    check("erf of a block", 1.5, |x| alone(erf_block, x), libm::erf);
}

#[test]
fn sines() {
    check("sin", 1.1, sin, f64::sin);
    check("cos", 1.1, cos, f64::cos);
    // Next to multiples of π/2, where the reduction cancels most.
    for k in 0..300_000 {
        let x = (f64::from(k) * std::f64::consts::FRAC_PI_2) as f32;
        assert!(ulps(sin(x), f64::from(x).sin()) <= 1.1, "sin({x:e})");
        assert!(ulps(cos(x), f64::from(x).cos()) <= 1.1, "cos({x:e})");
    }
}

#[test]
fn blocks_equal_single_values() {
    let words: Vec<u32> = samples().map(f32::to_bits).collect();
    let mut dst = [0; 5].map(|_| vec![0; words.len()]);
    for (i, words) in words.chunks(1000).enumerate() {
        let lanes = i * 1000..i * 1000 + words.len();
        sin_block(&mut dst[0][lanes.clone()], words);
        cos_block(&mut dst[1][lanes.clone()], words);
        exp_block(&mut dst[2][lanes.clone()], words);
        erf_block(&mut dst[3][lanes.clone()], words);
        dst[4][lanes.clone()].copy_from_slice(words);
        exp_below(bytemuck::cast_slice_mut(&mut dst[4][lanes]), 0.0);
    }
    let same = |a: u32, b: f32| a == b.to_bits() || b.is_nan() && f32::from_bits(a).is_nan();
    for (i, &w) in words.iter().enumerate() {
        let x = f32::from_bits(w);
        assert!(same(dst[0][i], sin(x)), "sin({x:e})");
        assert!(same(dst[1][i], cos(x)), "cos({x:e})");
        assert!(same(dst[2][i], alone(exp_block, x)), "exp({x:e})");
        assert!(same(dst[3][i], alone(erf_block, x)), "erf({x:e})");
        assert!(same(dst[4][i], alone(exp_block, x)), "exp({x:e} - 0)");
    }
}

#[test]
fn powers() {
    let bases = samples().step_by(97).chain(SPECIAL);
    let mut exponents: Vec<f32> = SPECIAL.to_vec();
    exponents.extend([0.1, 1.5, -0.7, 7.0, 10.0, -11.0, 33.3, 16_777_217.0, 2e9, 1e-5, -1e-3]);
    let mut worst = (0.0, 0.0, 0.0);
    for x in bases {
        for &y in &exponents {
            let error = ulps(pow(x, y), f64::from(x).powf(f64::from(y)));
            if error > worst.0 {
                worst = (error, x, y);
            }
        }
    }
    let (error, x, y) = worst;
    assert!(error <= 0.51, "pow({x:e}, {y:e}) = {:e}: {error} ulp", pow(x, y));
}

#[test]
fn angles() {
    let mut worst = (0.0, 0.0, 0.0);
    for y in samples().step_by(97).chain(SPECIAL) {
        for x in SPECIAL.into_iter().chain([y * 0.9, y * 1.1, -y, 0.3 * y, 1e-3 * y]) {
            let error = ulps(atan2(y, x), f64::from(y).atan2(f64::from(x)));
            if error > worst.0 {
                worst = (error, y, x);
            }
        }
    }
    let (error, y, x) = worst;
    assert!(error <= 2.0, "atan2({y:e}, {x:e}) = {:e}: {error} ulp", atan2(y, x));
}

/// The known answers published with the authors' Random123 library.
#[test]
fn philox_known_answers() {
    let cases = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, want) in cases {
        assert_eq!(philox4x32(counter, key), want);
    }
}

#[test]
fn philox_lanes_start_and_end_anywhere() {
    for first in [0, 1, 2, 3, 4, 4093, u32::MAX - 300] {
        for len in [0, 1, 2, 3, 4, 5, 63, 64, 65, 259] {
            let mut dst = vec![0; len];
            philox_lanes(&mut dst, first, [3, 9]);
            for (i, &d) in dst.iter().enumerate() {
                let index = first + i as u32;
                let words = philox4x32([index / 4, 0, 0, 0], [3, 9]);
                assert_eq!(d, words[index as usize % 4]);
            }
        }
    }
}

/// Quotients next to whole numbers, where a rounded one could be one too large, and the ends of both types.
#[test]
fn integers_divide_exactly() {
    let ends = [0u32, 1, 2, 3, 5, 7, 255, 256, 257, 65_535, 65_536, 1 << 31, (1 << 31) - 1, (1 << 31) + 1];
    let mut words: Vec<u32> = ends.iter().flat_map(|&w| [w, w.wrapping_neg()]).collect();
    words.extend((0..300u32).map(|i| i.wrapping_mul(0x9e37_79b9) >> (i % 31)));
    let mut near = words.clone();
    for &x in &words {
        near.extend(words.iter().step_by(9).map(|&y| x.wrapping_mul(y)));
    }
    for &y in &words {
        for x in near.iter().flat_map(|&x| [x.wrapping_sub(1), x, x.wrapping_add(1)]) {
            assert_eq!(div_u32(x, y), x.checked_div(y).unwrap_or(0), "{x} / {y}");
            assert_eq!(rem_u32(x, y), x.checked_rem(y).unwrap_or(0), "{x} % {y}");
            let (x, y) = (x as i32, y as i32);
            assert_eq!(div_i32(x, y), if y == 0 { 0 } else { x.wrapping_div(y) }, "{x} / {y}");
            assert_eq!(rem_i32(x, y), if y == 0 { 0 } else { x.wrapping_rem(y) }, "{x} % {y}");
        }
    }
    let one = |y: u32| {
        let mut quotients = vec![0; words.len()];
        div_block_u32(&mut quotients, &words, &vec![y; words.len()]);
        assert!(quotients.iter().zip(&words).all(|(&q, &x)| q == x.checked_div(y).unwrap_or(0)), "{y}");
    };
    [0, 1, 3, 256, 1 << 31].into_iter().for_each(one);
    let mut quotients = [0; 3];
    div_block_u32(&mut quotients, &[1000], &[8; 3]);
    assert_eq!(quotients, [125; 3]);
    div_block_u32(&mut quotients, &[7, 8, 9], &[4]);
    assert_eq!(quotients, [1, 2, 2]);
}
