//! A copy that turns rows into columns, sixteen steps of some rows at once in vector registers.

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
