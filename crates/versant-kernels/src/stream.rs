//! Copies past the caches, for results that no cache holds.
//!
//! An ordinary store reads its line before it writes there, a third of what an elementwise program over a long buffer moves.

/// Words of a result from which on it is written past the caches: 32 MiB, more than the last cache of most processors.
/// Few in tests.
pub(crate) const LONG: usize = if cfg!(test) { 500 } else { 1 << 23 };

/// Who holds one may copy past the caches. When it is dropped, what its thread has copied is where other threads see it.
pub(crate) struct Fence;

#[cfg(target_arch = "x86_64")]
impl Drop for Fence {
    fn drop(&mut self) {
        // SAFETY: needs SSE, which every x86-64 processor has.
        #[allow(unsafe_code)]
        unsafe {
            core::arch::x86_64::_mm_sfence();
        }
    }
}

impl Fence {
    /// Copies `from` to `to`, which are of the same length.
    #[cfg(target_arch = "x86_64")]
    pub fn copy(&self, to: &mut [u32], from: &[u32]) {
        assert_eq!(to.len(), from.len(), "a copy has the length of what it is of");
        let (before, after) = from.split_at(to.as_ptr().align_offset(16).min(to.len()));
        let (head, to) = to.split_at_mut(before.len());
        head.copy_from_slice(before);
        let (to, tail) = to.as_chunks_mut::<4>();
        let (from, after) = after.as_chunks::<4>();
        tail.copy_from_slice(after);
        for (to, from) in to.iter_mut().zip(from) {
            // SAFETY: `to` is four words that are borrowed mutably, and begins at a multiple of 16 bytes: `align_offset` has the
            // first do so, and each of the others lies 16 bytes behind the one before. Every x86-64 processor has SSE2. What is
            // written is read again only after the fence, since the job that holds it reads no results.
            #[allow(unsafe_code)]
            unsafe {
                core::arch::x86_64::_mm_stream_si128(to.as_mut_ptr().cast(), bytemuck::cast(*from));
            }
        }
    }

    /// Copies `from` to `to`, which are of the same length.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn copy(&self, to: &mut [u32], from: &[u32]) {
        to.copy_from_slice(from);
    }
}
