//! Casts and random words, block by block.

use crate::DType;
use crate::lanes::{test_f32, unary_u32, vectorised};
use crate::math::{low_word, philox_each, philox_lanes};

/// Converts words of type `from` to type `to`: float to integer truncates and saturates, NaN gives 0, and
/// anything to Bool tests `!= 0`.
pub(super) fn cast(from: DType, to: DType, dst: &mut [u32], a: &[u32]) {
    use DType::{Bool, F32, I32, U32};
    match (from, to) {
        (F32, I32) => unary_u32(dst, a, |x| truncate(x, i32::MIN.into(), i32::MAX.into())),
        (F32, U32) => unary_u32(dst, a, |x| truncate(x, 0.0, u32::MAX.into())),
        (F32, Bool) => test_f32(dst, a, |x| x != 0.0),
        (I32, F32) => unary_u32(dst, a, |x| (x as i32 as f32).to_bits()),
        (U32 | Bool, F32) => unary_u32(dst, a, |x| (x as f32).to_bits()),
        (I32 | U32, Bool) => unary_u32(dst, a, |x| (x != 0) as u32),
        _ => dst.copy_from_slice(a),
    }
}

/// Lanes in a row whose indices count are drawn by blocks from this number on.
const COUNTING: usize = 12;

/// The Philox word of each index under each key. Under one key, stretches whose indices count share blocks: the
/// whole of it mostly, or lines of a tensor that is read along other axes.
pub(super) fn philox(dst: &mut [u32], index: &[u32], low: &[u32], high: &[u32]) {
    if differs(low, 0) || differs(high, 0) {
        return philox_each(dst, index, low, high);
    }
    let key = [low[0], high[0]];
    let wraps = index[0].checked_add(index.len() as u32).is_none();
    if !wraps && !differs(index, 1) {
        return philox_lanes(dst, index[0], key);
    }
    let mut lane = 0;
    // Lanes since then belong to stretches that are too short.
    let mut since = 0;
    while lane < index.len() {
        let pairs = index[lane..].windows(2).take_while(|w| w[0].checked_add(1) == Some(w[1]));
        let end = lane + 1 + pairs.count();
        if end - lane >= COUNTING {
            philox_each(&mut dst[since..lane], &index[since..lane], &low[since..lane], &high[since..lane]);
            philox_lanes(&mut dst[lane..end], index[lane], key);
            since = end;
        }
        lane = end;
    }
    philox_each(&mut dst[since..], &index[since..], &low[since..], &high[since..]);
}

/// Whether some word is not the first one and so many times `step` as its place says. All words are looked at, which
/// is faster by vectors than to stop at the first.
fn differs(words: &[u32], step: u32) -> bool {
    vectorised(Differs { words, step })
}

struct Differs<'a> {
    words: &'a [u32],
    step: u32,
}

impl pulp::NullaryFnOnce for Differs<'_> {
    type Output = bool;
    #[inline(always)]
    fn call(self) -> bool {
        let mut due = [0u32; 16];
        for (i, d) in due.iter_mut().enumerate() {
            *d = self.words[0].wrapping_add(self.step.wrapping_mul(i as u32));
        }
        let mut lanes = [0; 16];
        let (chunks, rest) = self.words.as_chunks::<16>();
        for chunk in chunks {
            for ((lane, d), &w) in lanes.iter_mut().zip(&mut due).zip(chunk) {
                *lane |= w ^ *d;
                *d = d.wrapping_add(self.step.wrapping_mul(16));
            }
        }
        let other = rest.iter().zip(due).any(|(&w, d)| w != d);
        other || lanes.iter().fold(0, |a, b| a | b) != 0
    }
}

/// The low word of the integer part of a float within `low..=high`; 0 for NaN. Unlike `as`, it vectorises.
#[inline(always)]
fn truncate(word: u32, low: f64, high: f64) -> u32 {
    let x = f64::from(f32::from_bits(word)).trunc();
    let x = if x < low { low } else { x };
    let x = if x > high { high } else { x };
    let x = if x.is_nan() { 0.0 } else { x };
    low_word(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::philox4x32;

    /// Indices that count all along, in lines of several lengths, backwards, and over the end of 32 bits.
    #[test]
    fn random_words_are_those_of_their_indices() {
        let lines = |length: u32| move |i: u32| i / length * 1000 + i % length;
        type Index = Box<dyn Fn(u32) -> u32>;
        let indices: [Index; 7] = [
            Box::new(|i| 5 + i),
            Box::new(lines(COUNTING as u32)),
            Box::new(lines(COUNTING as u32 - 1)),
            Box::new(move |i| if i < 40 { lines(3)(i) } else { lines(37)(i) }),
            Box::new(|i| 900 - i),
            Box::new(|i| (u32::MAX - 50).wrapping_add(i)),
            Box::new(|i| i * 4),
        ];
        for (case, of) in indices.iter().enumerate() {
            for len in [1, 2, 15, 16, 17, 64, 200] {
                let index: Vec<u32> = (0..len).map(of).collect();
                for varied in [false, true] {
                    let low: Vec<u32> = (0..len).map(|i| 7 + if varied { i % 5 } else { 0 }).collect();
                    let high = vec![9; index.len()];
                    let mut words = vec![0; index.len()];
                    philox(&mut words, &index, &low, &high);
                    for (i, &w) in words.iter().enumerate() {
                        let block = philox4x32([index[i] / 4, 0, 0, 0], [low[i], high[i]]);
                        assert_eq!(w, block[(index[i] % 4) as usize], "case {case}, lane {i} of {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn casts_saturate_as_in_rust() {
        let special = [0.0, -0.0, 0.99, -0.99, 2147483600.0, 2147483648.0, 4294967000.0, 1e30, -1.0];
        let special = special.into_iter().flat_map(|x: f32| [x, -x]);
        let special = special.chain([f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        let words = (0..u32::MAX).step_by(100_003).chain(special.map(f32::to_bits));
        let words: Vec<u32> = words.collect();
        let mut dst = vec![0; words.len()];
        let mut check = |to, want: fn(f32) -> u32| {
            cast(DType::F32, to, &mut dst, &words);
            for (&w, &d) in words.iter().zip(&dst) {
                assert_eq!(d, want(f32::from_bits(w)), "{:e} to {to}", f32::from_bits(w));
            }
        };
        check(DType::I32, |x| x as i32 as u32);
        check(DType::U32, |x| x as u32);
        check(DType::Bool, |x| (x != 0.0) as u32);
    }
}
