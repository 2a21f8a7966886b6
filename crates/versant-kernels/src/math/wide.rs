//! Functions of sixteen lanes at once, where vectors have as many.

use std::arch::x86_64::__m512;

use pulp::NullaryFnOnce;
use pulp::x86::V4;

/// A function of each lane. A trait, because a closure could not be marked `#[inline(always)]`: what is not inlined at once is a
/// call for each instruction.
pub(super) trait Lanes {
    fn of(&self, simd: V4, x: __m512) -> __m512;
}

/// Such a function of a block of words.
pub(super) struct Block<'a, F> {
    pub simd: V4,
    pub f: F,
    pub dst: &'a mut [u32],
    pub a: &'a [u32],
}

impl<F: Lanes> NullaryFnOnce for Block<'_, F> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Block { simd, f, dst, a } = self;
        let (dst, dst_rest) = dst.as_chunks_mut::<16>();
        let (a, a_rest) = a.as_chunks::<16>();
        for (dst, a) in dst.iter_mut().zip(a) {
            *dst = bytemuck::cast(f.of(simd, bytemuck::cast(*a)));
        }
        // Most blocks have none, and this costs as much as a few vectors.
        if a_rest.is_empty() {
            return;
        }
        let mut last = [0u32; 16];
        last[..a_rest.len()].copy_from_slice(a_rest);
        let last: [u32; 16] = bytemuck::cast(f.of(simd, bytemuck::cast(last)));
        dst_rest.copy_from_slice(&last[..dst_rest.len()]);
    }
}
