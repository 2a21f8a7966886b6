//! Element types and how they are stored.

use std::fmt;

/// The type of a tensor's elements.
///
/// Buffers are 32-bit words, one an element. `F16` and `BF16` are types of buffers only: two neighbours lie in a word, the
/// even one in its lower half; programs and contractions load them as F32 and store F32 that was rounded before. No tensor
/// has such a type: they are refused when an op is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, in buffers only.
    F16,
    /// bfloat16, in buffers only.
    BF16,
    /// Two's complement 32-bit integer; arithmetic wraps.
    I32,
    /// Unsigned 32-bit integer; arithmetic wraps.
    U32,
    /// A truth value, stored as the word 0 or 1.
    Bool,
}

impl DType {
    /// The lower-case name used in messages and kernel labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::Bool => "bool",
        }
    }

    /// Whether tensors may have this type: whether kernels compute with it.
    pub const fn is_supported(self) -> bool {
        !self.is_half()
    }

    /// Whether an element takes half a word.
    pub const fn is_half(self) -> bool {
        matches!(self, Self::F16 | Self::BF16)
    }

    /// Words of a buffer with so many elements.
    pub const fn words(self, elements: usize) -> usize {
        if self.is_half() { elements.div_ceil(2) } else { elements }
    }

    /// Whether the type holds real numbers, so that it can carry a gradient.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
