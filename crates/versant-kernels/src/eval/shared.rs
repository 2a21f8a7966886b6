//! A written buffer that several jobs use at once, without `unsafe`.
//!
//! The buffer is cut into pieces of 64 KiB, each behind a mutex that is held for one block of stores. Jobs
//! write different elements, so no result depends on who comes first; the locks only convince the compiler,
//! and are next to never contended. But a release waits until all that was stored before lies in the cache: what jobs can have for
//! themselves they are lent without locks (`home.rs`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::DType;
use crate::math::{narrow, widen};

/// Words of a piece; few in tests, so that their small buffers have many.
const PIECE: usize = if cfg!(test) { 50 } else { 1 << 14 };

/// One written buffer.
pub(super) struct Shared<'a> {
    pieces: Vec<Mutex<&'a mut [u32]>>,
    dtype: DType,
}

impl<'a> Shared<'a> {
    pub fn new(words: &'a mut [u32], dtype: DType) -> Shared<'a> {
        Shared { pieces: words.chunks_mut(PIECE).map(Mutex::new).collect(), dtype }
    }

    /// A panic of another job leaves words unwritten, nothing worse, and is passed on by rayon.
    fn lock(&self, piece: usize) -> MutexGuard<'_, &'a mut [u32]> {
        self.pieces[piece].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f(piece words, position, lanes)` for the parts of a run of `len` lanes that lie in one piece each.
    fn each(
        &self,
        offset: isize,
        stride: isize,
        len: usize,
        mut f: impl FnMut(&mut [u32], usize, std::ops::Range<usize>),
    ) {
        let mut lane = 0;
        let size = if self.dtype.is_half() { 2 * PIECE } else { PIECE };
        while lane < len {
            let at = (offset + lane as isize * stride) as usize;
            let (piece, within) = (at / size, at % size);
            let fit = match stride {
                0 => len,
                1.. => (size - 1 - within) / stride as usize + 1,
                _ => within / stride.unsigned_abs() + 1,
            };
            let end = len.min(lane + fit);
            f(&mut self.lock(piece), within, lane..end);
            lane = end;
        }
    }

    /// Stores `values` from `offset` on, `stride` words apart.
    pub fn store(&self, offset: isize, stride: isize, values: &[u32]) {
        self.each(offset, stride, values.len(), |words, at, lanes| {
            let values = &values[lanes];
            match stride {
                _ if self.dtype.is_half() => {
                    // The lock is on both halves of a word.
                    let halves: &mut [u16] = bytemuck::cast_slice_mut(words);
                    match stride {
                        0 => narrow(self.dtype, halves[at..=at].iter_mut(), &values[values.len() - 1..]),
                        1 => narrow(self.dtype, halves[at..at + values.len()].iter_mut(), values),
                        2.. => narrow(self.dtype, halves[at..].iter_mut().step_by(stride as usize), values),
                        _ => {
                            let slots = halves[..=at].iter_mut().rev();
                            narrow(self.dtype, slots.step_by(stride.unsigned_abs()), values);
                        }
                    }
                }
                1 => words[at..at + values.len()].copy_from_slice(values),
                2.. => {
                    let slots = words[at..].iter_mut().step_by(stride as usize);
                    slots.zip(values).for_each(|(d, &v)| *d = v);
                }
                0 => words[at] = values[values.len() - 1],
                _ => {
                    let slots = words[..=at].iter_mut().rev();
                    let slots = slots.step_by(stride.unsigned_abs());
                    slots.zip(values).for_each(|(d, &v)| *d = v);
                }
            }
        });
    }

    /// Loads into `dst` from `offset` on, `stride` words apart.
    pub fn load(&self, offset: isize, stride: isize, dst: &mut [u32]) {
        self.each(offset, stride, dst.len(), |words, at, lanes| match self.dtype.is_half() {
            true => super::load::strided::<u16>(bytemuck::cast_slice(words), at, stride, &mut dst[lanes]),
            false => super::load::strided::<u32>(words, at, stride, &mut dst[lanes]),
        });
        if self.dtype.is_half() {
            widen(self.dtype, dst);
        }
    }

    /// Lets `f` write words `offset..offset + len` in place; false if they do not lie in one piece, or hold halves.
    pub fn in_place(&self, offset: usize, len: usize, f: impl FnOnce(&mut [u32])) -> bool {
        debug_assert!(!self.pieces.is_empty(), "what jobs are lent is written there alone");
        let (piece, within) = (offset / PIECE, offset % PIECE);
        if within + len > PIECE || self.dtype.is_half() {
            return false;
        }
        f(&mut self.lock(piece)[within..within + len]);
        true
    }
}
