//! 16-bit floats as bits, with the words of `shaders/lib/half.wgsl`.

use half::f16;

use crate::DType;
use crate::lanes::arch;

/// The bits of the binary16 nearest to the f32 with these bits, ties to even; what is too large becomes an infinity, a NaN
/// the quiet one of its sign.
#[inline(always)]
pub fn f16_bits(x: u32) -> u32 {
    let value = f32::from_bits(x);
    if value.is_nan() { (x >> 16) & 0x8000 | 0x7e00 } else { u32::from(f16::from_f32(value).to_bits()) }
}

/// The bits of the f32 that is this binary16.
#[inline(always)]
pub fn f16_value(h: u32) -> u32 {
    let size = h & 0x7fff;
    let small = (size as f32 * 5.960_464_5e-8).to_bits();
    let normal = (size << 13).wrapping_add(if size >= 0x7c00 { 0x7000_0000 } else { 0x3800_0000 });
    (h & 0x8000) << 16 | if size < 0x400 { small } else { normal }
}

/// The bits of the bfloat16 nearest to the f32 with these bits, ties to even; a NaN stays one.
#[inline(always)]
pub fn bf16_bits(x: u32) -> u32 {
    if x & 0x7fff_ffff > 0x7f80_0000 { x >> 16 | 0x40 } else { x.wrapping_add(0x7fff + (x >> 16 & 1)) >> 16 }
}

/// The bits of the binary16 that the f32 with these bits is exactly.
#[inline(always)]
pub fn f16_exact(x: u32) -> u32 {
    let size = x & 0x7fff_ffff;
    let small = (f32::from_bits(size) * 16_777_216.0) as u32;
    let normal = (size >> 13).wrapping_sub(if size >= 0x7f80_0000 { 0x3_8000 } else { 0x1_c000 });
    (x >> 16) & 0x8000 | if size < 0x3880_0000 { small } else { normal }
}

/// Makes halves of this type, each in a word, the f32 that they are.
pub(crate) fn widen(dtype: DType, words: &mut [u32]) {
    arch().dispatch(|| match dtype {
        DType::F16 => words.iter_mut().for_each(|w| *w = f16_value(*w)),
        _ => words.iter_mut().for_each(|w| *w <<= 16),
    });
}

/// Stores f32 that were rounded to this type.
pub(crate) fn narrow<'a>(dtype: DType, to: impl Iterator<Item = &'a mut u16>, from: &[u32]) {
    match dtype {
        DType::F16 => to.zip(from).for_each(|(d, &x)| *d = f16_exact(x) as u16),
        _ => to.zip(from).for_each(|(d, &x)| *d = (x >> 16) as u16),
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn every_half_has_its_value() {
        for h in 0..=0xffffu16 {
            let (value, other) = (f32::from_bits(f16_value(u32::from(h))), f16::from_bits(h).to_f32());
            assert!(
                value == other && value.is_sign_negative() == other.is_sign_negative()
                    || value.is_nan() && other.is_nan()
            );
            if !value.is_nan() {
                assert_eq!(f16_bits(value.to_bits()), u32::from(h));
                assert_eq!(f16_exact(value.to_bits()), u32::from(h));
                let wide = u32::from(h) << 16;
                assert!(f32::from_bits(wide).is_nan() || bf16_bits(wide) == u32::from(h));
            }
        }
    }

    #[test]
    fn rounding_is_that_of_the_library() {
        let mut x = 1u32;
        for _ in 0..1_000_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(x);
            if !value.is_nan() {
                assert_eq!(f16_bits(x), u32::from(f16::from_f32(value).to_bits()), "{value:e}");
                assert_eq!(bf16_bits(x), u32::from(bf16::from_f32(value).to_bits()), "{value:e}");
            }
        }
        assert_eq!(f16_bits(65_519.9f32.to_bits()), 0x7bff);
        assert_eq!(f16_bits(65_520f32.to_bits()), 0x7c00);
        assert_eq!(f16_bits(f32::NAN.to_bits()), 0x7e00);
        assert_eq!(f16_exact(f16_value(0x7e00)), 0x7e00);
    }
}
