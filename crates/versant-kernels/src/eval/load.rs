//! Filling a block from a buffer.

use super::access::{Access, REACH, Run};
use super::shared::Shared;
use crate::DType;
use crate::math::widen;

/// Where loads come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a, 'w> {
    /// A buffer that nobody writes.
    Read(&'a [u32]),
    /// The same of halves.
    Halves(&'a [u16], DType),
    /// A buffer that this kernel also writes.
    Written(&'a Shared<'w>),
}

/// What lies in a buffer: words, or halves of them.
pub(super) trait Element: Copy {
    /// As a word.
    fn word(self) -> u32;
    /// Copies a run that is not short.
    fn copy(from: &[Self], dst: &mut [u32]);
    /// Loads what lies at some offsets by vectors, if the machine has them and `firsts`, the least of sixteen offsets from each
    /// on; returns whether it did.
    fn spread(_from: &[Self], _offsets: &[u32], _firsts: &[u32], _dst: &mut [u32]) -> bool {
        false
    }
}

impl Element for u32 {
    #[inline(always)]
    fn word(self) -> u32 {
        self
    }
    fn copy(from: &[u32], dst: &mut [u32]) {
        dst.copy_from_slice(from);
    }
    #[cfg(target_arch = "x86_64")]
    fn spread(words: &[u32], offsets: &[u32], firsts: &[u32], dst: &mut [u32]) -> bool {
        match crate::lanes::arch() {
            pulp::Arch::V4(simd) if !firsts.is_empty() && dst.len() >= 16 => {
                simd.vectorize(Spread { simd, words, offsets, firsts, dst });
                true
            }
            _ => false,
        }
    }
}

impl Element for u16 {
    #[inline(always)]
    fn word(self) -> u32 {
        u32::from(self)
    }
    fn copy(from: &[u16], dst: &mut [u32]) {
        dst.iter_mut().zip(from).for_each(|(d, &s)| *d = u32::from(s));
    }
}

/// Runs shorter than this are copied by a plain loop: a call of `memcpy` would cost more.
const SHORT: usize = 16;

/// Loads `dst.len()` elements that lie `stride` apart from `at` on.
#[inline]
pub(super) fn strided<T: Element>(src: &[T], at: usize, stride: isize, dst: &mut [u32]) {
    match stride {
        1 if dst.len() < SHORT => {
            let from = &src[at..at + dst.len()];
            dst.iter_mut().zip(from).for_each(|(d, s)| *d = s.word());
        }
        1 => T::copy(&src[at..at + dst.len()], dst),
        0 => dst.fill(src[at].word()),
        2 => {
            // Pooling and strided convolution; pairs let the compiler use shuffles.
            let last = dst.len() - 1;
            let (pairs, _) = src[at..at + 2 * last].as_chunks::<2>();
            dst.iter_mut().zip(pairs).for_each(|(d, pair)| *d = pair[0].word());
            dst[last] = src[at + 2 * last].word();
        }
        3.. => {
            let from = src[at..].iter().step_by(stride as usize);
            dst.iter_mut().zip(from).for_each(|(d, s)| *d = s.word());
        }
        _ => {
            let from = src[..=at].iter().rev().step_by(stride.unsigned_abs());
            dst.iter_mut().zip(from).for_each(|(d, s)| *d = s.word());
        }
    }
}

impl Source<'_, '_> {
    /// Loads elements as they lie there.
    #[inline]
    fn strided(&self, at: isize, stride: isize, dst: &mut [u32]) {
        match self {
            Source::Read(words) => strided(words, at as usize, stride, dst),
            Source::Halves(halves, _) => strided(halves, at as usize, stride, dst),
            Source::Written(shared) => shared.load(at, stride, dst),
        }
    }

    /// Makes what was loaded so values.
    fn widen(&self, dst: &mut [u32]) {
        if let Source::Halves(_, dtype) = self {
            widen(*dtype, dst);
        }
    }
}

/// Loads lanes `start..start + dst.len()`; zero where a guard fails, which is never touched.
pub(super) fn gather(access: &Access, source: Source<'_, '_>, start: usize, dst: &mut [u32]) {
    match source {
        Source::Read(words) if access.has_table() => by_table(access, words, start, dst),
        Source::Halves(halves, _) if access.has_table() => by_table(access, halves, start, dst),
        _ => access.runs(start, dst.len(), |run| {
            let (low, high) = run.valid;
            let lanes = &mut dst[run.lane..run.lane + run.len];
            if low > 0 || high < run.len {
                lanes[..low].fill(0);
                lanes[high..].fill(0);
            }
            if low < high {
                source.strided(run.first(), run.stride, &mut lanes[low..high]);
            }
        }),
    }
    source.widen(dst);
}

fn by_table<T: Element>(access: &Access, words: &[T], start: usize, dst: &mut [u32]) {
    access.periods(start, dst.len(), |p| {
        let lanes = &mut dst[p.lane..p.lane + p.offsets.len()];
        if p.all_exist() {
            let words = &words[p.base as usize..];
            if !T::spread(words, p.offsets, p.firsts, lanes) {
                lanes.iter_mut().zip(p.offsets).for_each(|(d, &at)| *d = words[at as usize].word());
            }
        } else {
            for (i, (d, &at)) in lanes.iter_mut().zip(p.offsets).enumerate() {
                *d = if p.exists(i) { words[(p.base + at as isize) as usize].word() } else { 0 };
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
struct Spread<'a> {
    simd: pulp::x86::V4,
    words: &'a [u32],
    offsets: &'a [u32],
    firsts: &'a [u32],
    dst: &'a mut [u32],
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Spread<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        use std::arch::x86_64::__m512i;
        let simd = self.simd.avx512f;
        let last = self.dst.len() - 16;
        // The last sixteen once more, as far as they are no whole block of their own.
        for lane in (0..last).step_by(16).chain([last]) {
            let (to, offsets) = (&mut self.dst[lane..lane + 16], &self.offsets[lane..lane + 16]);
            let first = self.firsts[lane];
            // The last words of a buffer, after which there is nothing to read, go one by one, too.
            let from = self.words.get(first as usize..).and_then(|words| words.first_chunk::<REACH>());
            let Some(from) = from else {
                to.iter_mut().zip(offsets).for_each(|(to, &at)| *to = self.words[at as usize]);
                continue;
            };
            let [a, b, c, d]: [__m512i; 4] = bytemuck::cast(*from);
            let mut at = [0u32; 16];
            at.copy_from_slice(offsets);
            let at = simd._mm512_sub_epi32(bytemuck::cast(at), simd._mm512_set1_epi32(first as i32));
            let low = simd._mm512_permutex2var_epi32(a, at, b);
            let high = simd._mm512_permutex2var_epi32(c, at, d);
            let is_high = simd._mm512_test_epi32_mask(at, simd._mm512_set1_epi32(32));
            let lanes: [u32; 16] = bytemuck::cast(simd._mm512_mask_blend_epi32(is_high, low, high));
            to.copy_from_slice(&lanes);
        }
    }
}

/// Loads through an index: lane `i` reads the address of the view plus `index[i] * stride`, with the index
/// clamped into `0..bound`.
pub(super) fn gather_at(
    access: &Access,
    source: Source<'_, '_>,
    start: usize,
    index: Indices<'_>,
    dst: &mut [u32],
) {
    if index.bound == 0 {
        dst.fill(0);
        return;
    }
    access.runs(start, dst.len(), |run| {
        let lanes = &mut dst[run.lane..run.lane + run.len];
        lanes.fill(0);
        let (low, high) = run.valid;
        let index = Indices { words: &index.words[run.lane + low..run.lane + high], ..index };
        index.load(&run, source, &mut lanes[low..high]);
    });
    source.widen(dst);
}

/// The data-dependent part of an address.
#[derive(Clone, Copy)]
pub(super) struct Indices<'a> {
    /// One index a lane.
    pub words: &'a [u32],
    /// Whether they are signed.
    pub signed: bool,
    /// Elements per index step.
    pub stride: isize,
    /// Number of valid indices.
    pub bound: usize,
}

impl Indices<'_> {
    /// The address step of an index.
    #[inline]
    fn offset(&self, word: u32) -> isize {
        let index = match self.signed {
            true => (word as i32).max(0) as usize,
            false => word as usize,
        };
        index.min(self.bound - 1) as isize * self.stride
    }

    /// Loads the lanes of one run. Neighbouring lanes mostly share an index (rows of an embedding), so they
    /// are loaded together.
    fn load(&self, run: &Run, source: Source<'_, '_>, dst: &mut [u32]) {
        let mut lane = 0;
        while lane < dst.len() {
            let word = self.words[lane];
            let at = run.first() + lane as isize * run.stride + self.offset(word);
            let same = self.words[lane..].iter().take_while(|&&w| w == word);
            let count = same.count();
            match source {
                Source::Read(words) if count == 1 => dst[lane] = words[at as usize],
                _ => source.strided(at, run.stride, &mut dst[lane..lane + count]),
            }
            lane += count;
        }
    }
}

/// The value of the view itself at each lane, as wrapping 32-bit integers.
pub(super) fn iota(access: &Access, start: usize, dst: &mut [u32]) {
    if access.has_table() {
        return access.periods(start, dst.len(), |p| {
            let lanes = &mut dst[p.lane..p.lane + p.offsets.len()];
            lanes.iter_mut().zip(p.offsets).for_each(|(d, &at)| *d = at.wrapping_add(p.base as u32));
        });
    }
    access.runs(start, dst.len(), |run| {
        let (first, step) = (run.offset as u32, run.stride as u32);
        let lanes = &mut dst[run.lane..run.lane + run.len];
        for (i, d) in lanes.iter_mut().enumerate() {
            *d = first.wrapping_add((i as u32).wrapping_mul(step));
        }
    });
}

/// 1 where every guard holds, else 0.
pub(super) fn in_bounds(access: &Access, start: usize, dst: &mut [u32]) {
    access.runs(start, dst.len(), |run| {
        let lanes = &mut dst[run.lane..run.lane + run.len];
        lanes.fill(0);
        lanes[run.valid.0..run.valid.1].fill(1);
    });
}
