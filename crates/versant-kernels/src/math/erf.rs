//! The error function.

use super::exp::exp_between;
use super::poly;
#[cfg(target_arch = "x86_64")]
use super::wide::Block;

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

/// [`erf`] of each value of a block, within 1.5 ulp. Vectors of sixteen lanes take another way, with other last bits.
pub fn erf_block(dst: &mut [u32], a: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    if let pulp::Arch::V4(simd) = crate::lanes::arch() {
        let f = sixteen::Erf(bytemuck::cast(*sixteen::TABLE));
        return simd.vectorize(Block { simd, f, dst, a });
    }
    crate::lanes::unary_f32(dst, a, erf);
}

/// Sixteen lanes at once by a table of 32 words, two registers of which one instruction picks (`docs/cpu.md` has what that brings).
#[cfg(target_arch = "x86_64")]
mod sixteen {
    use std::arch::x86_64::{__m512, __m512i, _CMP_LE_OQ};
    use std::f64::consts::FRAC_2_SQRT_PI;
    use std::sync::LazyLock;

    use pulp::x86::V4;

    use super::super::wide::Lanes;

    /// Adding this rounds to eighths, whose number then stands in the low bits.
    const EIGHTHS: f32 = 1_572_864.0; // 1.5 * 2^20
    /// The largest number that is rounded to 31 eighths. There, erf has rounded to 1.
    const LAST: f32 = 3.937_499_8;
    /// `erf(x) / x - 1` in x², up to two and a half eighths: least squares at Chebyshev's nodes, rounded one after the other.
    const NEAR: [f32; 4] = [0.128_379_17, -0.376_125_48, 0.112_783_62, -0.025_906_404];

    /// A row for each power, a column for each number of eighths.
    pub type Table = [[[f32; 16]; 2]; 5];

    pub static TABLE: LazyLock<Table> = LazyLock::new(|| {
        let mut table = Table::default();
        for k in 0..32 {
            let column = match k {
                0..=2 => [0.0, NEAR[0], NEAR[1], NEAR[2], NEAR[3]],
                31 => [1.0, 0.0, 0.0, 0.0, 0.0],
                _ => series(k as f64 / 8.0).map(|c| c as f32),
            };
            table.iter_mut().zip(column).for_each(|(row, c)| row[k / 16][k % 16] = c);
        }
        table
    });

    /// Taylor's series around `c` up to the fourth power, for distances up to a sixteenth. The fifth power is put
    /// into those below by Chebyshev's polynomial, which leaves a sixteenth of it.
    fn series(c: f64) -> [f64; 5] {
        let slope = FRAC_2_SQRT_PI * (-c * c).exp();
        // erf(c) / slope = c + 2 c³ / 3 + 4 c⁵ / 15 + …: no term is negative.
        let (mut term, mut sum) = (c, c);
        for n in 1..100 {
            term *= 2.0 * c * c / f64::from(2 * n + 1);
            sum += term;
        }
        let z = c * c;
        let [third, fourth] = [(2.0 * z - 1.0) / 3.0, c * (3.0 - 2.0 * z) / 6.0];
        let fifth = (4.0 * z * z - 12.0 * z + 3.0) / 30.0;
        let square = 1.0 / 256.0;
        let first = 1.0 - fifth * square * square * 5.0 / 16.0;
        [sum, first, -c, third + fifth * square * 20.0 / 16.0, fourth].map(|x| slope * x)
    }

    /// With the table in registers.
    pub struct Erf(pub [[__m512; 2]; 5]);

    impl Lanes for Erf {
        #[inline(always)]
        fn of(&self, simd: V4, x: __m512) -> __m512 {
            let s = simd.avx512f;
            let (bits, sign) = (s._mm512_castps_si512(x), s._mm512_set1_epi32(i32::MIN));
            let a = s._mm512_castsi512_ps(s._mm512_andnot_si512(sign, bits));
            // NaN, as the second operand, stays.
            let a = s._mm512_min_ps(s._mm512_set1_ps(LAST), a);
            let shifted = s._mm512_add_ps(a, s._mm512_set1_ps(EIGHTHS));
            let away = s._mm512_sub_ps(a, s._mm512_sub_ps(shifted, s._mm512_set1_ps(EIGHTHS)));
            let near = s._mm512_cmp_ps_mask::<_CMP_LE_OQ>(shifted, s._mm512_set1_ps(EIGHTHS + 0.25));
            let at: __m512i = s._mm512_castps_si512(shifted);
            let [first, rest @ ..] = self.0.map(|[low, high]| s._mm512_permutex2var_ps(low, at, high));
            let by = s._mm512_mask_mul_ps(away, near, a, a);
            let mut p = rest[3];
            for c in [rest[2], rest[1], rest[0]] {
                p = s._mm512_fmadd_ps(p, by, c);
            }
            let [factor, start] = [away, first].map(|far| s._mm512_mask_mov_ps(far, near, a));
            let y = s._mm512_castps_si512(s._mm512_fmadd_ps(factor, p, start));
            s._mm512_castsi512_ps(s._mm512_or_si512(y, s._mm512_and_si512(sign, bits)))
        }
    }
}
