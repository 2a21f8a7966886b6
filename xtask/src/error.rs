//! What can go wrong in a development command.

use std::io;
use std::path::{Path, PathBuf};

/// A failed command; its text is what the developer reads last.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read, written, moved or listed.
    #[error("{path}: {source}")]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ran and said no.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status, or the signal that ended it.
        status: std::process::ExitStatus,
    },
    /// What a program printed is not what was expected from it.
    #[error("`{command}` printed something unexpected: {why}")]
    Output {
        /// The command line.
        command: String,
        /// What is wrong with the output.
        why: String,
    },
    /// Something that the command needs is missing; the text says how to get it.
    #[error("{0}")]
    Missing(String),
    /// A fetched file is not the one this project knows.
    #[error(
        "{path}: SHA-256 is {found}, expected {expected}; the file is not used. \
         If the package was updated on purpose, check the new file and change the table in xtask/src/data/sets.rs"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What was computed, in hexadecimal.
        found: String,
        /// What the table says.
        expected: &'static str,
    },
    /// A check ran to its end and found faults, which are already printed.
    #[error("{0}")]
    Found(String),
}

/// The result of every development command.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an I/O error with the path it is about.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Path { path: path.to_path_buf(), source }
    }
}
