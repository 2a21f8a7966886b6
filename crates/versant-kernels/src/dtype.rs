//! Element types and how they are stored.

use std::fmt;

/// The type of a tensor's elements.
///
/// Every type is stored in 32-bit words. `F16` and `BF16` name what the graph crate's `Half` packs two to a word: no kernel
/// takes tensors of these types, and they are refused when an op is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16, a name only.
    F16,
    /// bfloat16, a name only.
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

    /// Whether kernels can load, compute with and store this type today.
    pub const fn is_supported(self) -> bool {
        !matches!(self, Self::F16 | Self::BF16)
    }

    /// Whether the type holds real numbers, so that it can carry a gradient.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes an element takes in a device buffer.
    pub const fn size(self) -> usize {
        4
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
