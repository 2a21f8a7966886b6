//! The IDX format of MNIST and its relatives: two zero bytes, an element type, a rank, the extents as
//! big-endian `u32`, then the elements, big-endian, in row-major order.
//!
//! Files are taken as hostile: nothing is allocated on a header's word, and any deviation is a typed error.

use std::path::Path;

use crate::error::ReadError;
use crate::file;

/// The elements of an IDX file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Elements {
    /// Type 08.
    U8(Vec<u8>),
    /// Type 09.
    I8(Vec<i8>),
    /// Type 0B.
    I16(Vec<i16>),
    /// Type 0C.
    I32(Vec<i32>),
    /// Type 0D; may hold NaN and infinities, if the file does.
    F32(Vec<f32>),
    /// Type 0E; may hold NaN and infinities, if the file does.
    F64(Vec<f64>),
}

impl Elements {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The Rust name of the element type.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::I16(_) => "i16",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
        }
    }
}

/// An IDX file's content: extents, outermost first, and as many elements as their product.
///
/// ```
/// use versant_data::idx::{Elements, Idx};
/// let file = [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9];
/// let idx = Idx::parse(file.to_vec(), "three bytes")?;
/// assert_eq!(idx.dims, [1, 3]);
/// assert_eq!(idx.elements, Elements::U8(vec![7, 8, 9]));
/// # Ok::<(), versant_data::ReadError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Idx {
    /// The extents, outermost first; empty for a single element.
    pub dims: Vec<usize>,
    /// The elements in row-major order.
    pub elements: Elements,
}

impl Idx {
    /// Reads a file, gzipped or plain, of at most [`file::DEFAULT_LIMIT`] bytes of content.
    ///
    /// # Errors
    /// As [`file::read`] and [`Idx::parse`].
    pub fn read(path: impl AsRef<Path>) -> Result<Idx, ReadError> {
        Self::read_limited(path, file::DEFAULT_LIMIT)
    }

    /// As [`Idx::read`], with a limit on the content's bytes after decompression.
    ///
    /// # Errors
    /// As [`Idx::read`].
    pub fn read_limited(path: impl AsRef<Path>, limit: u64) -> Result<Idx, ReadError> {
        let path = path.as_ref();
        Self::parse(file::read(path, limit)?, &path.display().to_string())
    }

    /// Takes the bytes of an IDX file apart; `name` is for messages.
    ///
    /// # Errors
    /// [`ReadError::IdxMagic`], [`ReadError::IdxTruncated`], [`ReadError::IdxTrailing`] and
    /// [`ReadError::IdxExtents`].
    pub fn parse(mut bytes: Vec<u8>, name: &str) -> Result<Idx, ReadError> {
        let header = Header::parse(&bytes, name)?;
        bytes.drain(..header.bytes);
        Ok(Idx { elements: decode(header.kind, bytes), dims: header.dims })
    }

    /// The elements as bytes, for files that must hold `rank` dimensions of `u8`.
    ///
    /// # Errors
    /// [`ReadError::Unexpected`] if the type or the rank is another.
    pub fn into_bytes(self, rank: usize, name: &str) -> Result<(Vec<usize>, Vec<u8>), ReadError> {
        match self.elements {
            Elements::U8(bytes) if self.dims.len() == rank => Ok((self.dims, bytes)),
            other => Err(ReadError::Unexpected {
                file: name.to_owned(),
                expected: format!("{rank} dimensions of u8"),
                found: format!("{} of extents {:?}", other.type_name(), self.dims),
            }),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    U8,
    I8,
    I16,
    I32,
    F32,
    F64,
}

impl Kind {
    fn of(code: u8) -> Option<Kind> {
        Some(match code {
            0x08 => Self::U8,
            0x09 => Self::I8,
            0x0b => Self::I16,
            0x0c => Self::I32,
            0x0d => Self::F32,
            0x0e => Self::F64,
            _ => return None,
        })
    }

    fn size(self) -> u64 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

struct Header {
    kind: Kind,
    dims: Vec<usize>,
    bytes: usize,
}

impl Header {
    fn parse(bytes: &[u8], name: &str) -> Result<Header, ReadError> {
        let file = || name.to_owned();
        let (kind, rank, rest) = match *bytes {
            [0, 0, code, rank, ref rest @ ..] => (Kind::of(code), usize::from(rank), rest),
            _ => (None, 0, bytes),
        };
        let kind = kind.ok_or_else(|| ReadError::IdxMagic {
            file: file(),
            found: bytes.iter().copied().take(4).collect(),
        })?;
        let (dims, elements) = rest.split_at_checked(4 * rank).ok_or_else(|| ReadError::IdxTruncated {
            file: file(),
            part: "dimensions",
            expected: 4 * rank as u64,
            found: rest.len() as u64,
        })?;
        let (dims, _) = dims.as_chunks::<4>();
        let extents = dims.iter().map(|d| u64::from(u32::from_be_bytes(*d)));
        let expected = extents.clone().try_fold(kind.size(), u64::checked_mul);
        let dims: Vec<usize> = extents.map(|extent| extent as usize).collect();
        let found = elements.len() as u64;
        match expected {
            None => Err(ReadError::IdxExtents { file: file(), dims }),
            Some(expected) if found < expected => {
                Err(ReadError::IdxTruncated { file: file(), part: "elements", expected, found })
            }
            Some(expected) if found > expected => {
                Err(ReadError::IdxTrailing { file: file(), extra: found - expected })
            }
            Some(_) => Ok(Header { kind, dims, bytes: bytes.len() - elements.len() }),
        }
    }
}

fn decode(kind: Kind, bytes: Vec<u8>) -> Elements {
    fn words<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|w| from(*w)).collect()
    }
    match kind {
        Kind::U8 => Elements::U8(bytes),
        Kind::I8 => Elements::I8(words(&bytes, i8::from_be_bytes)),
        Kind::I16 => Elements::I16(words(&bytes, i16::from_be_bytes)),
        Kind::I32 => Elements::I32(words(&bytes, i32::from_be_bytes)),
        Kind::F32 => Elements::F32(words(&bytes, f32::from_be_bytes)),
        Kind::F64 => Elements::F64(words(&bytes, f64::from_be_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(code: u8, dims: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, code, dims.len() as u8];
        out.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        out.extend_from_slice(elements);
        out
    }

    #[test]
    fn every_element_type() {
        let bytes = [0x3f, 0x80, 0, 0, 0, 0, 0, 1];
        let cases = [
            (0x08, 8, Elements::U8(bytes.to_vec())),
            (0x09, 8, Elements::I8(vec![63, -128, 0, 0, 0, 0, 0, 1])),
            (0x0b, 4, Elements::I16(vec![0x3f80, 0, 0, 1])),
            (0x0c, 2, Elements::I32(vec![0x3f80_0000, 1])),
            (0x0d, 2, Elements::F32(vec![1.0, f32::from_bits(1)])),
            (0x0e, 1, Elements::F64(vec![f64::from_bits(0x3f80_0000_0000_0001)])),
        ];
        for (code, len, expected) in cases {
            let idx = Idx::parse(file(code, &[len], &bytes), "case").unwrap();
            assert_eq!((idx.dims, idx.elements), (vec![len as usize], expected));
        }
    }

    #[test]
    fn deviations_are_named() {
        let error = |bytes: Vec<u8>| Idx::parse(bytes, "f").unwrap_err();
        for bad in [vec![], vec![0, 0, 8], vec![1, 0, 8, 0, 9], file(0x0a, &[1], &[1])] {
            assert!(matches!(error(bad), ReadError::IdxMagic { .. }));
        }
        // A header that claims 4 GiB of elements, or 255 dimensions, costs nothing.
        let claim = error(file(8, &[u32::MAX], &[1, 2, 3]));
        assert!(matches!(claim, ReadError::IdxTruncated { part: "elements", expected, found: 3, .. }
            if expected == u64::from(u32::MAX)));
        assert!(matches!(
            error(vec![0, 0, 8, 255, 0, 0]),
            ReadError::IdxTruncated { part: "dimensions", expected: 1020, found: 2, .. }
        ));
        assert!(matches!(error(file(8, &[u32::MAX; 3], &[])), ReadError::IdxExtents { .. }));
        assert!(matches!(error(file(8, &[2], &[1, 2, 3])), ReadError::IdxTrailing { extra: 1, .. }));
    }

    #[test]
    fn a_zero_extent_holds_nothing() {
        let idx = Idx::parse(file(8, &[0, 28, 28], &[]), "none").unwrap();
        assert!(idx.elements.is_empty());
        // Nothing times something huge is still nothing.
        assert!(Idx::parse(file(8, &[0, u32::MAX, u32::MAX, u32::MAX], &[]), "none").is_ok());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Idx::parse(bytes, "random");
        }

        #[test]
        fn mutations_are_refused_or_consistent(
            at in any::<prop::sample::Index>(), with in any::<u8>(), keep in any::<prop::sample::Index>(),
            cut in any::<bool>(), gzip in any::<bool>(),
        ) {
            let mut bytes = file(0x0b, &[2, 3, 2], &[5; 24]);
            if gzip {
                bytes = file::tests::gzip(&bytes);
            }
            let at = at.index(bytes.len());
            bytes[at] = with;
            if cut {
                bytes.truncate(keep.index(bytes.len() + 1));
            }
            if let Ok(idx) = file::inflate(bytes, 1 << 20, "m").and_then(|b| Idx::parse(b, "m")) {
                prop_assert_eq!(idx.elements.len(), idx.dims.iter().product::<usize>());
            }
        }
    }
}
