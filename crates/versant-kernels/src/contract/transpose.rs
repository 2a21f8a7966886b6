//! A copy that turns rows into columns, sixteen steps of some rows at once in vector registers.

use pulp::Simd;

/// Writes element `x` of each line to `out[x]`, for as many steps as whole blocks of sixteen have; returns their number.
/// Nothing where the machine has no vectors of sixteen lanes.
pub(super) fn transposed<const W: usize>(lines: [&[f32]; W], out: &mut [[f32; W]]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let (pulp::Arch::V4(simd), 8 | 16) = (crate::lanes::arch(), W) {
        return simd.vectorize(avx512::Blocks { simd, lines, out });
    }
    // Elsewhere one element at a time, by the caller.
    let _ = (lines, out);
    0
}

/// Numbers of elements: the even and the odd ones of two vectors that lie one behind the other, and those of both in turn.
const PARTED: [[u32; 16]; 2] = [
    [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30],
    [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31],
];
const WOVEN: [[u32; 16]; 2] = [
    [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23],
    [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31],
];

/// The elements with even and those with odd numbers of two vectors that lie one behind the other.
#[inline(always)]
pub(super) fn parted<S: Simd>(simd: S, from: [[f32; 16]; 2]) -> [[f32; 16]; 2] {
    [chosen(simd, from, &PARTED[0]), chosen(simd, from, &PARTED[1])]
}

/// The elements of two vectors in turn: what [`parted`] takes apart.
#[inline(always)]
pub(super) fn woven<S: Simd>(simd: S, from: [[f32; 16]; 2]) -> [[f32; 16]; 2] {
    [chosen(simd, from, &WOVEN[0]), chosen(simd, from, &WOVEN[1])]
}

/// The elements of two vectors with these numbers.
#[inline(always)]
fn chosen<S: Simd>(simd: S, [a, b]: [[f32; 16]; 2], numbers: &[u32; 16]) -> [f32; 16] {
    // Known when this is compiled for some vectors.
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = (&simd as &dyn std::any::Any).downcast_ref::<pulp::x86::V4>() {
        let [a, b] = [bytemuck::cast(a), bytemuck::cast(b)];
        return bytemuck::cast(simd.avx512f._mm512_permutex2var_ps(a, bytemuck::cast(*numbers), b));
    }
    let _ = simd;
    let mut all = [0.0; 16];
    for (to, &number) in all.iter_mut().zip(numbers) {
        *to = if number < 16 { a[number as usize] } else { b[number as usize - 16] };
    }
    all
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::__m512;

    use pulp::NullaryFnOnce;
    use pulp::x86::V4;

    pub struct Blocks<'a, const W: usize> {
        pub simd: V4,
        pub lines: [&'a [f32]; W],
        pub out: &'a mut [[f32; W]],
    }

    impl<const W: usize> NullaryFnOnce for Blocks<'_, W> {
        type Output = usize;
        #[inline(always)]
        fn call(self) -> usize {
            let Blocks { simd, lines, out } = self;
            let blocks = out.as_chunks_mut::<16>().0;
            let steps = blocks.len() * 16;
            for (number, out) in blocks.iter_mut().enumerate() {
                // Of each four rows: four vectors, the first with steps 0, 4, 8 and 12 and so on.
                let mut fours = [[bytemuck::cast([0f32; 16]); 4]; 4];
                for (four, lines) in fours.iter_mut().zip(lines.as_chunks::<4>().0) {
                    let mut rows = *four;
                    for (row, line) in rows.iter_mut().zip(lines) {
                        let mut from = [0.0; 16];
                        from.copy_from_slice(&line[number * 16..number * 16 + 16]);
                        *row = bytemuck::cast(from);
                    }
                    *four = turn_four(simd, rows);
                }
                let [a, b, c, d] = &fours;
                for (i, (((&a, &b), &c), &d)) in a.iter().zip(b).zip(c).zip(d).enumerate() {
                    let [even, odd] = halves(simd, a, b);
                    let [other_even, other_odd] = halves(simd, c, d);
                    for (first, low, high) in [(i, even, other_even), (i + 4, odd, other_odd)] {
                        let [low, high] = match W {
                            16 => halves(simd, low, high),
                            // Both steps of eight rows are in one vector.
                            _ => {
                                let both = simd.avx512f._mm512_shuffle_f32x4::<0b11_01_10_00>(low, low);
                                [both, simd.avx512f._mm512_shuffle_f32x4::<0b01_00_11_10>(both, both)]
                            }
                        };
                        let (low, high): ([f32; 16], [f32; 16]) = (bytemuck::cast(low), bytemuck::cast(high));
                        out[first].copy_from_slice(&low[..W]);
                        out[first + 8].copy_from_slice(&high[..W]);
                    }
                }
            }
            steps
        }
    }

    /// Turns four rows: quarter `q` of result `i` is step `4 q + i` of all four.
    #[inline(always)]
    fn turn_four(simd: V4, [a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        let simd = simd.avx512f;
        let low = [simd._mm512_unpacklo_ps(a, b), simd._mm512_unpacklo_ps(c, d)];
        let high = [simd._mm512_unpackhi_ps(a, b), simd._mm512_unpackhi_ps(c, d)];
        let [p, q] = low.map(|x| simd._mm512_castps_pd(x));
        let [r, s] = high.map(|x| simd._mm512_castps_pd(x));
        [
            simd._mm512_castpd_ps(simd._mm512_unpacklo_pd(p, q)),
            simd._mm512_castpd_ps(simd._mm512_unpackhi_pd(p, q)),
            simd._mm512_castpd_ps(simd._mm512_unpacklo_pd(r, s)),
            simd._mm512_castpd_ps(simd._mm512_unpackhi_pd(r, s)),
        ]
    }

    /// The even quarters of both, and the odd ones.
    #[inline(always)]
    fn halves(simd: V4, a: __m512, b: __m512) -> [__m512; 2] {
        let simd = simd.avx512f;
        [simd._mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), simd._mm512_shuffle_f32x4::<0b11_01_11_01>(a, b)]
    }
}
