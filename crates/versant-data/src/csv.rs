//! Tables of text fields, read from CSV files that are taken as hostile.
//!
//! Parsing is the `csv` crate's; this module bounds what is read, insists on rows of one length, and turns
//! columns into finite numbers or class labels with errors that name file, line and column.

use std::path::Path;

use crate::error::ReadError;
use crate::file;

/// How to read a CSV file: comma-separated, with a header row, at most [`file::DEFAULT_LIMIT`] bytes of content
/// unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct CsvOptions {
    delimiter: u8,
    header: bool,
    limit: u64,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions { delimiter: b',', header: true, limit: file::DEFAULT_LIMIT }
    }
}

impl CsvOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the first row holds the columns' names.
    pub fn header(mut self, header: bool) -> Self {
        self.header = header;
        self
    }

    /// The byte between fields.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Largest number of bytes of content, after decompression.
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// Reads a file, gzipped or plain.
    ///
    /// # Errors
    /// As [`file::read`] and [`CsvOptions::parse`].
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Table, ReadError> {
        let path = path.as_ref();
        self.parse_text(&file::read(path, self.limit)?, &path.display().to_string())
    }

    /// Reads bytes in memory, gzipped or plain; `name` is for messages.
    ///
    /// # Errors
    /// [`ReadError::CsvSyntax`] for what is no CSV or no UTF-8, [`ReadError::CsvRagged`],
    /// [`ReadError::CsvDuplicate`] and [`ReadError::CsvEmpty`].
    pub fn parse(&self, bytes: &[u8], name: &str) -> Result<Table, ReadError> {
        if bytes.starts_with(&[0x1f, 0x8b]) || bytes.len() as u64 > self.limit {
            return self.parse_text(&file::inflate_slice(bytes, self.limit, name)?, name);
        }
        self.parse_text(bytes, name)
    }

    fn parse_text(&self, text: &[u8], name: &str) -> Result<Table, ReadError> {
        let mut reader = ::csv::ReaderBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(text);
        let mut table = Table {
            file: name.to_owned(),
            names: None,
            columns: 0,
            text: String::new(),
            ends: Vec::new(),
            lines: Vec::new(),
        };
        let mut record = csv::StringRecord::new();
        let mut first = true;
        while read_record(&mut reader, &mut record, name)? {
            let line = record.position().map_or(0, csv::Position::line);
            if first {
                table.columns = record.len();
            } else if record.len() != table.columns {
                return Err(ReadError::CsvRagged {
                    file: name.to_owned(),
                    line,
                    expected: table.columns,
                    found: record.len(),
                });
            }
            if std::mem::take(&mut first) && self.header {
                table.names = Some(column_names(&record, name)?);
            } else {
                table.push(&record, line);
            }
        }
        if table.lines.is_empty() {
            return Err(ReadError::CsvEmpty { file: name.to_owned() });
        }
        Ok(table)
    }
}

fn read_record(
    reader: &mut csv::Reader<&[u8]>,
    record: &mut csv::StringRecord,
    name: &str,
) -> Result<bool, ReadError> {
    reader.read_record(record).map_err(|error| {
        let line = error.position().map_or(0, csv::Position::line);
        let detail = match error.kind() {
            csv::ErrorKind::Utf8 { err, .. } => {
                format!("field {} is not UTF-8", err.field() + 1)
            }
            _ => error.to_string(),
        };
        ReadError::CsvSyntax { file: name.to_owned(), line, detail }
    })
}

fn column_names(record: &csv::StringRecord, file: &str) -> Result<Vec<String>, ReadError> {
    let names: Vec<String> = record.iter().map(|name| name.trim().to_owned()).collect();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(names),
        Some(pair) => Err(ReadError::CsvDuplicate { file: file.to_owned(), column: shorten(pair[0]) }),
    }
}

/// A rectangular table of text fields.
///
/// ```
/// use versant_data::csv::CsvOptions;
/// let table = CsvOptions::new().parse(b"height,kind\n1.5,oak\n2,elm\n0.5,oak\n", "trees")?;
/// assert_eq!((table.rows(), table.columns()), (3, 2));
/// assert_eq!(table.numbers(table.column("height")?)?, [1.5, 2.0, 0.5]);
/// assert_eq!(
///     table.classes(table.column("kind")?)?,
///     (vec![1, 0, 1], vec!["elm".to_string(), "oak".to_string()])
/// );
/// # Ok::<(), versant_data::ReadError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    file: String,
    names: Option<Vec<String>>,
    columns: usize,
    // All fields end to end: a vector of strings would let a small file of short fields take
    // many times its size.
    text: String,
    ends: Vec<usize>,
    lines: Vec<u64>,
}

impl Table {
    fn push(&mut self, record: &csv::StringRecord, line: u64) {
        self.lines.push(line);
        for field in record {
            self.text.push_str(field);
            self.ends.push(self.text.len());
        }
    }

    /// Number of rows, without the header.
    pub fn rows(&self) -> usize {
        self.lines.len()
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The columns' names, if the file has a header.
    pub fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// The number of the column with this name.
    ///
    /// # Errors
    /// [`ReadError::CsvColumn`] with the names that there are.
    pub fn column(&self, name: &str) -> Result<usize, ReadError> {
        let names = self.names.as_deref().unwrap_or_default();
        names.iter().position(|n| n == name).ok_or_else(|| self.no_column(format!("{name:?}")))
    }

    /// The text of a field, or `None` outside the table.
    pub fn text(&self, row: usize, column: usize) -> Option<&str> {
        if row >= self.rows() || column >= self.columns {
            return None;
        }
        let at = row * self.columns + column;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        Some(&self.text[start..self.ends[at]])
    }

    /// A column as finite numbers. Blanks around a number are ignored; `NaN`, `inf`, empty fields and numbers
    /// too large for `f32` are refused.
    ///
    /// # Errors
    /// [`ReadError::CsvNumber`] and [`ReadError::CsvColumn`].
    pub fn numbers(&self, column: usize) -> Result<Vec<f32>, ReadError> {
        self.matrix(&[column])
    }

    /// Several columns as finite numbers, row by row: shape `[rows, columns.len()]`.
    ///
    /// # Errors
    /// As [`Table::numbers`].
    pub fn matrix(&self, columns: &[usize]) -> Result<Vec<f32>, ReadError> {
        let mut out = Vec::new();
        for row in 0..self.rows() {
            for &column in columns {
                out.push(self.number(row, column)?);
            }
        }
        Ok(out)
    }

    /// A column as class labels: each distinct text is a class, numbered in the order of the sorted texts.
    /// Returns the label of every row and the classes' names.
    ///
    /// # Errors
    /// [`ReadError::CsvColumn`].
    pub fn classes(&self, column: usize) -> Result<(Vec<i32>, Vec<String>), ReadError> {
        let fields =
            (0..self.rows()).map(|row| self.field(row, column)).collect::<Result<Vec<&str>, ReadError>>()?;
        let mut names = fields.clone();
        names.sort_unstable();
        names.dedup();
        let label = |field| {
            let at = names.binary_search(field);
            at.expect("the names are the distinct fields, sorted") as i32
        };
        let labels = fields.iter().map(label).collect();
        Ok((labels, names.into_iter().map(str::to_owned).collect()))
    }

    fn field(&self, row: usize, column: usize) -> Result<&str, ReadError> {
        self.text(row, column).ok_or_else(|| self.no_column(format!("number {}", column.saturating_add(1))))
    }

    /// A field as a finite number.
    pub(crate) fn number(&self, row: usize, column: usize) -> Result<f32, ReadError> {
        let text = self.field(row, column)?;
        match text.trim().parse::<f32>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(ReadError::CsvNumber {
                file: self.file.clone(),
                line: self.lines[row],
                column: match &self.names {
                    Some(names) => shorten(&names[column]),
                    None => (column + 1).to_string(),
                },
                text: shorten(text),
            }),
        }
    }

    fn no_column(&self, column: String) -> ReadError {
        let columns = match &self.names {
            Some(names) => shorten(&names.join(", ")),
            None => format!("1 to {}, without names", self.columns),
        };
        ReadError::CsvColumn { file: self.file.clone(), column: shorten(&column), columns }
    }
}

/// At most 60 characters of a text from a file, so that a message stays a message.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Table, ReadError> {
        CsvOptions::new().parse(text.as_bytes(), "f.csv")
    }

    #[test]
    fn quotes_blanks_and_line_ends() {
        let table = parse("\u{feff}a, b\r\n\"1\n2\",\" 3 \"\r\n\r\n4,-5e-1").unwrap();
        assert_eq!(table.names().unwrap(), ["a", "b"]);
        assert_eq!(table.text(0, 0), Some("1\n2"));
        assert_eq!(table.text(2, 0), None);
        assert_eq!(table.numbers(1).unwrap(), [3.0, -0.5]);
        let plain = CsvOptions::new().header(false).delimiter(b';');
        let plain = plain.parse(b"1;2\n3;4\n", "f").unwrap();
        assert_eq!(plain.matrix(&[1, 0]).unwrap(), [2.0, 1.0, 4.0, 3.0]);
    }

    #[test]
    fn ragged_rows_name_their_line() {
        for (text, bad) in [("a,b\n1,2\n3\n", 3), ("a,b\n1,2,3\n", 2), ("a\n\"x\ny\"\n1,2\n", 4)] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, ReadError::CsvRagged { line, .. } if line == bad), "{error}");
        }
    }

    #[test]
    fn what_is_no_finite_number_names_its_place() {
        for text in ["NaN", "nan", "inf", "-Infinity", "1e99", "", "1,5", "0x10", "١"] {
            let table = parse(&format!("a,b\n1,2\n3,\"{text}\"\n")).unwrap();
            let error = table.numbers(1).unwrap_err();
            assert!(
                matches!(&error, ReadError::CsvNumber { line: 3, column, .. } if column == "b"),
                "{error}"
            );
        }
        let long = parse(&format!("a\n{}\n", "x".repeat(10_000))).unwrap();
        assert!(long.numbers(0).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn columns_and_empty_files() {
        assert!(matches!(parse(""), Err(ReadError::CsvEmpty { .. })));
        assert!(matches!(parse("a,b\n"), Err(ReadError::CsvEmpty { .. })));
        assert!(matches!(parse("a,a\n1,2\n"), Err(ReadError::CsvDuplicate { .. })));
        let table = parse("a,b\n1,2\n").unwrap();
        let error = table.column("c").unwrap_err().to_string();
        assert_eq!(error, "f.csv: no column \"c\"; there are: a, b");
        assert!(table.numbers(2).is_err() && table.classes(usize::MAX).is_err());
    }

    #[test]
    fn not_utf8_and_too_large() {
        let error = CsvOptions::new().parse(b"a,b\n1,\xff\n", "f").unwrap_err();
        assert_eq!(error.to_string(), "f: line 2: field 2 is not UTF-8");
        let error = CsvOptions::new().limit(3).parse(b"a\n1\n", "f").unwrap_err();
        assert!(matches!(error, ReadError::TooLarge { limit: 3, .. }));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>(),
        ) {
            if let Ok(table) = CsvOptions::new().header(header).parse(&bytes, "random") {
                for column in 0..=table.columns() {
                    let _ = (table.numbers(column), table.classes(column));
                }
            }
        }

        #[test]
        fn mutated_gzip_is_refused_or_read(
            at in any::<prop::sample::Index>(), with in any::<u8>(), keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = file::tests::gzip(b"a,b,c\n1,2,3\n4,5,6\n7,8,9\n");
            let at = at.index(bytes.len());
            bytes[at] = with;
            bytes.truncate(keep.index(bytes.len() + 1));
            if let Ok(table) = CsvOptions::new().limit(1 << 16).parse(&bytes, "m") {
                prop_assert_eq!(table.ends.len(), table.rows() * table.columns());
            }
        }

        #[test]
        fn tables_of_likely_bytes_are_rectangular(text in "[,\"\n\r0-9. e-]{0,120}") {
            if let Ok(table) = parse(&text) {
                prop_assert_eq!(table.ends.len(), table.rows() * table.columns());
                let all: Vec<usize> = (0..table.columns()).collect();
                if let Ok(numbers) = table.matrix(&all) {
                    prop_assert!(numbers.iter().all(|n| n.is_finite()));
                }
            }
        }
    }
}
