//! Safetensors files: read as hostile, written so that a reader never sees half of one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensorError};

use crate::error::{NnError, Result};
use crate::params::{HostMap, HostTensor};

/// Longest header that is read. The format allows 100 MB, but parsing takes several times the header's
/// length in memory; this one describes some hundred thousand tensors.
const MAX_HEADER: usize = 16 << 20;

/// An open file: its table of tensors, checked against its length, and their bytes.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    tensors: BTreeMap<String, TensorInfo>,
    pub metadata: HashMap<String, String>,
    body: Vec<u8>,
}

impl TensorFile {
    /// Reads a file. Nothing is allocated by what the header claims: the header is bounded, and the body's
    /// length is that of the file.
    pub fn read(path: &Path) -> Result<TensorFile> {
        let io = |source| NnError::Io { path: path.to_owned(), source };
        let format = |source| NnError::Format { path: path.to_owned(), source };
        let truncated = || NnError::Truncated { path: path.to_owned() };
        let mut file = File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        if !about.is_file() {
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        let mut prefix = [0; 8];
        let length = about.len().checked_sub(8).ok_or_else(truncated)?;
        file.read_exact(&mut prefix).map_err(io)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > length {
            return Err(truncated());
        }
        if header_length > MAX_HEADER as u64 {
            return Err(format(SafeTensorError::HeaderTooLarge));
        }
        let header = read_exactly(&mut file, header_length).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|e| format(SafeTensorError::InvalidHeaderDeserialization(e)))?;
        let body_length = length - header_length;
        if header.data_len() as u64 > body_length {
            return Err(truncated());
        }
        if (header.data_len() as u64) < body_length {
            return Err(format(SafeTensorError::MetadataIncompleteBuffer));
        }
        let body = read_exactly(&mut file, body_length).map_err(io)?;
        let tensors = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(TensorFile { path: path.to_owned(), tensors, metadata, body })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes of the tensors.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.tensors.iter().map(|(name, info)| (name.clone(), info.shape.clone())).collect()
    }

    /// One tensor as numbers.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let info = self.tensors.get(name).ok_or_else(|| NnError::Format {
            path: self.path.clone(),
            source: SafeTensorError::TensorNotFound(name.to_owned()),
        })?;
        if info.dtype != Dtype::F32 {
            return Err(NnError::WrongType {
                path: self.path.clone(),
                name: name.to_owned(),
                have: info.dtype.to_string(),
                want: "f32",
            });
        }
        // The offsets were checked against each other, the shapes and the body when the file was read.
        let (start, end) = info.data_offsets;
        let words = self.body[start..end].chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]);
        Ok(HostTensor { shape: info.shape.clone(), data: words.map(f32::from_le_bytes).collect() })
    }
}

/// Reads `length` bytes that the file was seen to have; a failed allocation is an error, not an abort.
fn read_exactly(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let words = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.try_reserve_exact(words).map_err(|_| io::ErrorKind::OutOfMemory)?;
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() < words {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Writes tensors and text entries, so that `path` holds either what it held or all of this.
pub(crate) fn write(path: &Path, tensors: &HostMap, entries: HashMap<String, String>) -> Result<()> {
    let format = |source| NnError::Format { path: path.to_owned(), source };
    let mut views = Vec::with_capacity(tensors.len());
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|t| t.data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map_err(format)?;
        views.push((name.as_str(), view));
    }
    let entries = (!entries.is_empty()).then_some(entries);
    let file = safetensors::serialize(views, entries).map_err(format)?;
    replace(path, &file).map_err(|source| NnError::Io { path: path.to_owned(), source })
}

/// The name under which a file is written before it takes its place.
fn temporary(path: &Path) -> PathBuf {
    // Two threads may write the same file; the later rename wins.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// Whether a file's name is one that [`temporary`] gives.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Writes beside the target, makes it durable, and renames: the file system swaps the two at once.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = temporary(path);
    let written = File::create(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // The first error is the one to report; a leftover does no harm.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder(path)
}

/// Makes the rename itself durable, where a folder can be synchronised.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}
