//! Casts and random words, block by block.

use crate::DType;
use crate::lanes::{test_f32, unary_u32};
use crate::math::philox_lanes;

/// Converts words of type `from` to type `to`: float to integer truncates and saturates, NaN gives 0, and
/// anything to Bool tests `!= 0`.
pub(super) fn cast(from: DType, to: DType, dst: &mut [u32], a: &[u32]) {
    use DType::{Bool, F32, I32, U32};
    match (from, to) {
        (F32, I32) => unary_u32(dst, a, |x| f32::from_bits(x) as i32 as u32),
        (F32, U32) => unary_u32(dst, a, |x| f32::from_bits(x) as u32),
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
    if uniform(low) && uniform(high) && first.checked_add(index.len() as u32).is_some() && counts()
    {
        philox_lanes(dst, first, [low[0], high[0]]);
        return;
    }
    for (i, d) in dst.iter_mut().enumerate() {
        let block = crate::math::philox4x32([index[i] / 4, 0, 0, 0], [low[i], high[i]]);
        *d = block[(index[i] % 4) as usize];
    }
}
