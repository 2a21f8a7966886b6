//! Casts and random words, block by block.

use crate::DType;
use crate::lanes::{test_f32, unary_u32};
use crate::math::philox_lanes;

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

/// The Philox word of each index under each key.
pub(super) fn philox(dst: &mut [u32], index: &[u32], low: &[u32], high: &[u32]) {
    let uniform = |words: &[u32]| words.iter().all(|&w| w == words[0]);
    let first = index[0];
    let counts = || {
        let mut expected = (0..index.len() as u32).zip(index);
        expected.all(|(i, &w)| w == first.wrapping_add(i))
    };
    if uniform(low) && uniform(high) && first.checked_add(index.len() as u32).is_some() && counts() {
        philox_lanes(dst, first, [low[0], high[0]]);
        return;
    }
    for (i, d) in dst.iter_mut().enumerate() {
        let block = crate::math::philox4x32([index[i] / 4, 0, 0, 0], [low[i], high[i]]);
        *d = block[(index[i] % 4) as usize];
    }
}

/// The low word of the integer part of a float within `low..=high`; 0 for NaN. Unlike `as`, it vectorises.
#[inline(always)]
fn truncate(word: u32, low: f64, high: f64) -> u32 {
    // The sum with 1.5 * 2^52 has the integer, in two's complement, in its low bits.
    const INTEGER: f64 = 6_755_399_441_055_744.0;
    let x = f64::from(f32::from_bits(word)).trunc();
    let x = if x < low { low } else { x };
    let x = if x > high { high } else { x };
    let x = if x.is_nan() { 0.0 } else { x };
    (x + INTEGER).to_bits() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

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
