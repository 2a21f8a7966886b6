//! Elementary functions of `f32` for the CPU, written so that a loop over them becomes vector code.
//!
//! No branches, no tables, no calls, no fused multiply-add: selects and bit patterns only, so the
//! results are the same on every machine and with every vector width; but for [`exp_block`] and [`erf_block`], which have a
//! way of their own where vectors have sixteen lanes. The polynomials are minimax fits (Remez,
//! 160-bit arithmetic) of the reduced functions that are named with them. Each function states its bound in
//! units in the last place of the correctly rounded result; the tests hold it over the whole range.
//!
//! `sin` and `cos` leave the fast path beyond 2^27, where the platform's functions take over; that branch keeps a
//! loop from being vectorised, so use [`sin_block`] and [`cos_block`] on blocks.

mod erf;
mod exp;
mod half;
mod integer;
mod log;
mod philox;
mod pow;
#[cfg(test)]
mod tests;
mod trig;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use erf::{erf, erf_block};
pub use exp::{exp, exp_block, exp2, expm1, sigmoid, tanh};
pub(crate) use exp::{exp_below, exp_of_difference};
pub use half::{bf16_bits, f16_bits, f16_exact, f16_value};
pub(crate) use half::{narrow, widen};
pub(crate) use integer::low_word;
pub use integer::{div_block_u32, div_i32, div_u32, rem_i32, rem_u32};
pub use log::{ln, log1p, log2};
pub use philox::{philox_each, philox_lanes, philox4x32};
pub use pow::pow;
pub use trig::{atan2, cos, cos_block, sin, sin_block};

/// `c[0] + c[1] x + c[2] x² + …`
#[inline(always)]
fn poly<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + c[i];
    }
    sum
}

/// `c[0] + c[1] x + c[2] x² + …`
#[inline(always)]
fn poly64<const N: usize>(x: f64, c: [f64; N]) -> f64 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + c[i];
    }
    sum
}

/// Adding and subtracting this rounds to an integer, which also stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// The same for `f64`.
const ROUND64: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
