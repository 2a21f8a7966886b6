//! What can go wrong with data: [`ReadError`] for files, [`DataError`] for everything else.

use std::path::PathBuf;

/// A file, or bytes claimed to be one, could not be read as a data set.
///
/// Every variant names the file as the caller knows it: its path, or the name given with bytes in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The path that was asked for.
        file: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The gzip stream is damaged, truncated or followed by something that is not gzip.
    #[error("{file}: damaged gzip data: {source}")]
    Gzip {
        /// The file.
        file: String,
        /// What the decoder said.
        source: std::io::Error,
    },
    /// The content, after decompression, is larger than the stated limit.
    #[error("{file}: more than {limit} bytes of content; raise the limit if that is intended")]
    TooLarge {
        /// The file.
        file: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The first bytes are not those of an IDX file with a known element type.
    #[error(
        "{file}: not an IDX file: it starts with {found:02x?}, not 00 00, a type (08 09 0b 0c 0d 0e) and a rank"
    )]
    IdxMagic {
        /// The file.
        file: String,
        /// Up to four first bytes.
        found: Vec<u8>,
    },
    /// The file ends early.
    #[error("{file}: truncated: the {part} need {expected} bytes and {found} are there")]
    IdxTruncated {
        /// The file.
        file: String,
        /// `"dimensions"` or `"elements"`.
        part: &'static str,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The file goes on after its last element.
    #[error("{file}: {extra} bytes after the last element")]
    IdxTrailing {
        /// The file.
        file: String,
        /// Bytes too many.
        extra: u64,
    },
    /// The product of the extents does not fit 64 bits.
    #[error("{file}: impossible extents {dims:?}")]
    IdxExtents {
        /// The file.
        file: String,
        /// The extents in the header.
        dims: Vec<usize>,
    },
    /// A valid file that holds something else than asked for.
    #[error("{file}: expected {expected}, found {found}")]
    Unexpected {
        /// The file.
        file: String,
        /// What was asked for.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// The CSV reader could not make records of the text.
    #[error("{file}: line {line}: {detail}")]
    CsvSyntax {
        /// The file.
        file: String,
        /// Line number, from 1.
        line: u64,
        /// What the reader said.
        detail: String,
    },
    /// A row has more or fewer fields than the first one.
    #[error("{file}: line {line}: {found} fields where the first row has {expected}")]
    CsvRagged {
        /// The file.
        file: String,
        /// Line number on which the row begins, from 1.
        line: u64,
        /// Fields of the first row.
        expected: usize,
        /// Fields of this row.
        found: usize,
    },
    /// A field is not a finite number.
    #[error("{file}: line {line}, column {column}: {text:?} is not a finite number")]
    CsvNumber {
        /// The file.
        file: String,
        /// Line number on which the row begins, from 1.
        line: u64,
        /// The column's name, or its number from 1 if there is no header.
        column: String,
        /// The field's text, shortened if long.
        text: String,
    },
    /// Two columns share a name.
    #[error("{file}: two columns are named {column:?}")]
    CsvDuplicate {
        /// The file.
        file: String,
        /// The name.
        column: String,
    },
    /// There is no column with that name or number.
    #[error("{file}: no column {column}; there are: {columns}")]
    CsvColumn {
        /// The file.
        file: String,
        /// The name or number asked for.
        column: String,
        /// The names, shortened if many.
        columns: String,
    },
    /// Not a WAV file, or one that is damaged or of a format that is not read.
    #[error("{file}: not a readable WAV file: {detail}")]
    Wav {
        /// The file.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// Not a PNG picture, or one that is damaged or too large.
    #[error("{file}: not a readable PNG picture: {detail}")]
    Png {
        /// The file.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// Not an annotation in the VOC format.
    #[error("{file}: not a VOC annotation: {detail}")]
    Voc {
        /// The file.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// Not text in the expected encoding or layout.
    #[error("{file}: line {line}: {detail}")]
    Text {
        /// The file.
        file: String,
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// There are no rows.
    #[error("{file}: no rows")]
    CsvEmpty {
        /// The file.
        file: String,
    },
}

/// A data set, loader, transform or metric was given something it cannot use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A tensor has no value, or one of another type.
    #[error(transparent)]
    Tensor(#[from] versant_graph::GraphError),
    /// The number of elements does not match the shape.
    #[error("{what}: {found} elements, but shape {shape:?} needs {expected}")]
    Elements {
        /// What was being made.
        what: &'static str,
        /// The shape asked for.
        shape: Vec<usize>,
        /// Elements of that shape (saturating).
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// Two lists that belong together have different lengths.
    #[error("{left_len} {left} and {right_len} {right}: they must be as many")]
    Lengths {
        /// Name of the first list.
        left: &'static str,
        /// Its length.
        left_len: usize,
        /// Name of the second list.
        right: &'static str,
        /// Its length.
        right_len: usize,
    },
    /// A label is not the number of a class.
    #[error("{what} {label} at position {index} is not a class: there are {classes}")]
    Label {
        /// `"label"` or `"prediction"`.
        what: &'static str,
        /// Position in the list.
        index: usize,
        /// The label.
        label: i32,
        /// Number of classes.
        classes: usize,
    },
    /// A sample number is out of range.
    #[error("sample {index} of {len}")]
    Index {
        /// The number asked for.
        index: usize,
        /// Samples there are.
        len: usize,
    },
    /// There is nothing to work on.
    #[error("{what}: no elements")]
    Empty {
        /// What needed some.
        what: &'static str,
    },
    /// An option has a value that makes no sense.
    #[error("{option} = {value}: {rule}")]
    Option {
        /// The option.
        option: &'static str,
        /// The value given.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The samples of one batch came out of the transforms with different shapes.
    #[error("sample {index} has shape {found:?} after transforms; the batch began with {expected:?}")]
    MixedShapes {
        /// The sample.
        index: usize,
        /// Shape of the batch's first sample, `[c, h, w]`.
        expected: [usize; 3],
        /// Shape of this one, `[c, h, w]`.
        found: [usize; 3],
    },
    /// A transform failed on a sample.
    #[error("transform {transform} on sample {index}: {source}")]
    Transform {
        /// The transform's name.
        transform: String,
        /// The sample.
        index: usize,
        /// What it said.
        source: Box<DataError>,
    },
    /// A user's own transform says that it cannot do its work.
    #[error("{0}")]
    Custom(Box<dyn std::error::Error + Send + Sync>),
    /// The code that assembles batches panicked, for example in a user's transform.
    #[error("assembling batch {batch} panicked: {message}")]
    Panicked {
        /// Number of the batch within the epoch, from 0.
        batch: usize,
        /// The panic's message.
        message: String,
    },
    /// The prefetch thread could not be started.
    #[error("starting the prefetch thread: {source}")]
    Spawn {
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Result of anything in this crate that is not a file reader.
pub type Result<T, E = DataError> = std::result::Result<T, E>;
