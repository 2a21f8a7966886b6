//! Copies past the caches, for results that no cache holds, and asking for what is read or written next.
//!
//! An ordinary store reads its line before it writes there, a third of what an elementwise program over a long buffer moves.

use pulp::Arch;

use crate::lanes::arch;

/// Words of a line of the cache.
pub(crate) const LINE: usize = 16;

/// Words of a result from which on it is written past the caches: 32 MiB, more than the last cache of most processors.
/// Few in tests.
pub(crate) const LONG: usize = if cfg!(test) { 500 } else { 1 << 23 };

/// Asks for the lines of some words, which come while other work is done.
pub(crate) fn ask(words: &[u32]) {
    words.iter().step_by(LINE).for_each(ask_for);
}

/// Asks for the line that a word lies in.
#[inline(always)]
fn ask_for(word: &u32) {
    // SAFETY: a hint, which reads nothing; every x86-64 processor has SSE.
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}

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
    /// Copies `from` to `to`, which are of the same length, and asks line by line for what comes `next`: no more at once than the
    /// processor keeps track of.
    pub fn copy(&self, to: &mut [u32], from: &[u32], next: &[&[u32]; 2]) {
        assert_eq!(to.len(), from.len(), "a copy has the length of what it is of");
        let (before, after) = from.split_at(to.as_ptr().align_offset(64).min(to.len()));
        let (head, to) = to.split_at_mut(before.len());
        head.copy_from_slice(before);
        let (to, tail) = to.as_chunks_mut::<LINE>();
        let (from, after) = after.as_chunks::<LINE>();
        tail.copy_from_slice(after);
        match arch() {
            #[cfg(target_arch = "x86_64")]
            Arch::V4(simd) => simd.vectorize(Lines(simd, to, from, next)),
            _ => {
                for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
                    ask_line(next, i);
                    copy_line(to, from);
                }
            }
        }
    }
}

/// Asks for line number `i` of each.
#[inline(always)]
fn ask_line(next: &[&[u32]; 2], i: usize) {
    next.iter().filter_map(|next| next.get(LINE * i)).for_each(ask_for);
}

/// Copies a line by vectors that every processor of the kind has.
#[inline(always)]
fn copy_line(to: &mut [u32; LINE], from: &[u32; LINE]) {
    #[cfg(target_arch = "x86_64")]
    for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks::<4>().0) {
        // SAFETY: as for whole lines below; every x86-64 processor has SSE2.
        #[allow(unsafe_code)]
        unsafe {
            core::arch::x86_64::_mm_stream_si128(to.as_mut_ptr().cast(), bytemuck::cast(*from));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

/// Lines of the cache, copied by the widest vectors.
#[cfg(target_arch = "x86_64")]
struct Lines<'a>(pulp::x86::V4, &'a mut [[u32; LINE]], &'a [[u32; LINE]], &'a [&'a [u32]; 2]);

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Lines<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        for (i, (to, from)) in self.1.iter_mut().zip(self.2).enumerate() {
            ask_line(self.3, i);
            // SAFETY: `to` is sixteen words that are borrowed mutably, and begins at a multiple of 64 bytes: `align_offset` has the
            // first do so, and each of the others lies 64 bytes behind the one before. That the processor has such vectors is
            // what a `V4` stands for. What is written is read again only after the fence: no plan streams whose jobs read
            // what they are lent.
            #[allow(unsafe_code)]
            unsafe {
                self.0.avx512f._mm512_stream_si512(to.as_mut_ptr().cast(), bytemuck::cast(*from));
            }
        }
    }
}
