//! Bytes from files, plain or gzipped, never more of them than a stated limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::ReadError;

/// Default limit on a file's content after decompression: 256 MiB.
///
/// The largest file of the supported sets, Fashion-MNIST's training images, has 47 MB.
pub const DEFAULT_LIMIT: u64 = 256 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The content of a file, decompressed if it starts like gzip.
///
/// # Errors
/// [`ReadError::Io`], [`ReadError::Gzip`], and [`ReadError::TooLarge`] as soon as more than `limit` bytes have
/// come out, whatever is left; memory grows with what is there, never with what a header claims.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let io = |source| ReadError::Io { file: path.to_owned(), source };
    let name = path.display().to_string();
    let file = File::open(path).map_err(io)?;
    let bytes = read_limited(file, limit, &name)?.map_err(io)?;
    inflate(bytes, limit, &name)
}

/// The bytes themselves, or what they decompress to if they start like gzip. `name` is for messages.
///
/// # Errors
/// As [`read`], but for the file system's.
pub fn inflate(bytes: Vec<u8>, limit: u64, name: &str) -> Result<Vec<u8>, ReadError> {
    if bytes.starts_with(&GZIP_MAGIC) {
        inflate_slice(&bytes, limit, name)
    } else if bytes.len() as u64 > limit {
        Err(too_large(limit, name))
    } else {
        Ok(bytes)
    }
}

/// As [`inflate`], from borrowed bytes.
///
/// # Errors
/// As [`inflate`].
pub fn inflate_slice(bytes: &[u8], limit: u64, name: &str) -> Result<Vec<u8>, ReadError> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return inflate(bytes.to_vec(), limit, name);
    }
    read_limited(MultiGzDecoder::new(bytes), limit, name)?
        .map_err(|source| ReadError::Gzip { file: name.to_owned(), source })
}

/// Outer error: the limit; inner one: the reader's own.
fn read_limited(reader: impl Read, limit: u64, name: &str) -> Result<std::io::Result<Vec<u8>>, ReadError> {
    let mut out = Vec::new();
    match reader.take(limit.saturating_add(1)).read_to_end(&mut out) {
        Err(error) => Ok(Err(error)),
        Ok(_) if out.len() as u64 > limit => Err(too_large(limit, name)),
        Ok(_) => Ok(Ok(out)),
    }
}

fn too_large(limit: u64, name: &str) -> ReadError {
    ReadError::TooLarge { file: name.to_owned(), limit }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// A gzip file of this content, for the tests of all readers.
    pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 20_000);
        let error = inflate(bomb.clone(), 1 << 20, "bomb").unwrap_err();
        assert!(matches!(error, ReadError::TooLarge { limit, .. } if limit == 1 << 20));
        assert_eq!(inflate(bomb, 10 << 20, "bomb").unwrap().len(), 10 << 20);
    }

    #[test]
    fn damaged_gzip_is_an_error() {
        let whole = gzip(b"some content, long enough to be compressed");
        for cut in 2..whole.len() {
            let error = inflate(whole[..cut].to_vec(), 1000, "cut").unwrap_err();
            assert!(matches!(error, ReadError::Gzip { .. }), "{cut}: {error}");
        }
        let mut wrong_sum = whole.clone();
        let crc = whole.len() - 8;
        wrong_sum[crc] ^= 1;
        assert!(inflate(wrong_sum, 1000, "crc").is_err());
        let mut trailing = whole.clone();
        trailing.extend_from_slice(b"garbage");
        assert!(inflate(trailing, 1000, "trailing").is_err());
        let two_members = [whole.clone(), whole].concat();
        assert_eq!(inflate(two_members, 1000, "two").unwrap().len(), 84);
    }

    #[test]
    fn missing_files_directories_and_plain_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let missing = read(&dir.path().join("none"), 10).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
        assert!(matches!(read(dir.path(), 10), Err(ReadError::Io { .. })));
        let path = dir.path().join("plain");
        std::fs::write(&path, b"0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert!(matches!(read(&path, 9), Err(ReadError::TooLarge { .. })));
    }
}
