//! Quotients and remainders of words. Processors divide no vectors of integers, so these go through `f64`: 53 bits hold
//! both words, and a quotient that is not whole is at least 2^-33 of itself away from the next whole number, which is
//! more than rounding moves it.

use super::ROUND64;
use crate::lanes::{binary_u32, unary_u32};

/// The low word, in two's complement, of a whole number of at most 51 bits.
#[inline(always)]
pub(crate) fn low_word(x: f64) -> u32 {
    (x + ROUND64).to_bits() as u32
}

/// `x / y` rounded to zero; zero where `y` is.
#[inline(always)]
pub fn div_u32(x: u32, y: u32) -> u32 {
    let quotient = low_word((f64::from(x) / f64::from(y)).trunc());
    if y == 0 { 0 } else { quotient }
}

/// As [`div_u32`]; the least number divided by -1 wraps.
#[inline(always)]
pub fn div_i32(x: i32, y: i32) -> i32 {
    let quotient = low_word((f64::from(x) / f64::from(y)).trunc()) as i32;
    if y == 0 { 0 } else { quotient }
}

/// The remainder of [`div_u32`]; zero where `y` is.
#[inline(always)]
pub fn rem_u32(x: u32, y: u32) -> u32 {
    let rest = x.wrapping_sub(div_u32(x, y).wrapping_mul(y));
    if y == 0 { 0 } else { rest }
}

/// The remainder of [`div_i32`], with the sign of `x`; zero where `y` is.
#[inline(always)]
pub fn rem_i32(x: i32, y: i32) -> i32 {
    let rest = x.wrapping_sub(div_i32(x, y).wrapping_mul(y));
    if y == 0 { 0 } else { rest }
}

/// [`div_u32`] of each lane; a shift where all divisors are one power of two, as they are where random words become
/// numbers.
pub fn div_block_u32(dst: &mut [u32], a: &[u32], b: &[u32]) {
    // Either operand may be one word for all lanes.
    let shifts = |y: u32| y.is_power_of_two() && b.iter().fold(0, |other, &w| other | (w ^ y)) == 0;
    match b.first() {
        Some(&y) if a.len() == dst.len() && shifts(y) => {
            let bits = y.trailing_zeros();
            unary_u32(dst, a, |x| x >> bits);
        }
        _ => binary_u32(dst, a, b, div_u32),
    }
}
