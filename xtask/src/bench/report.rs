//! Rows of JSON, and the tables made of them.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// A column of a table.
#[derive(Clone, Copy)]
pub struct Column {
    /// The row's field.
    pub field: &'static str,
    /// The heading.
    pub title: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// What a column is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Part of what names a row: rows of two reports with equal keys are compared.
    Key,
    /// A measure; two of them have a ratio.
    Measure,
    /// A byte count, shown in MB of 2^20; two of them have a ratio.
    Bytes,
    /// Anything else.
    Note,
}

/// A short way to write a table's columns.
pub const fn column(field: &'static str, title: &'static str, kind: Kind) -> Column {
    Column { field, title, kind }
}

/// What a subcommand found.
pub struct Report {
    /// The columns of its table.
    pub columns: Vec<Column>,
    /// The rows; they may have fields without a column.
    pub rows: Vec<Value>,
}

/// Rows as `--json` printed them; lines that are none are passed over.
///
/// # Errors
/// The file cannot be read, or holds no row.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(Error::at(path))?;
    let rows: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    if rows.is_empty() {
        return Err(Error::Missing(format!("{} holds no line of JSON", path.display())));
    }
    Ok(rows)
}

impl Report {
    /// One line a row.
    pub fn json(&self) -> String {
        self.rows.iter().map(|row| format!("{row}\n")).collect()
    }

    /// A table in Markdown, padded so that it can be read as it is.
    pub fn table(&self) -> String {
        let cells = |row: &Value| self.columns.iter().map(|c| cell(*c, &row[c.field])).collect();
        layout(&self.titles(), &self.rows.iter().map(cells).collect::<Vec<_>>())
    }

    /// How many times what it was each measure is now, for rows that both have.
    pub fn ratios(&self, before: &[Value]) -> String {
        let keys = || self.columns.iter().filter(|c| c.kind == Kind::Key);
        let mut rows = Vec::new();
        for row in &self.rows {
            let same = |old: &&Value| keys().all(|key| old[key.field] == row[key.field]);
            let Some(old) = before.iter().find(same) else { continue };
            let ratio = |c: &Column| match c.kind {
                Kind::Key => cell(*c, &row[c.field]),
                Kind::Note => String::new(),
                Kind::Measure | Kind::Bytes => match (row[c.field].as_f64(), old[c.field].as_f64()) {
                    (Some(new), Some(old)) if old != 0.0 => format!("{:.2}x", new / old),
                    (Some(_), Some(_)) => "=".to_owned(),
                    _ => String::new(),
                },
            };
            rows.push(self.columns.iter().map(ratio).collect());
        }
        if rows.is_empty() {
            return "\nno row is in both\n".to_owned();
        }
        format!("\nnow / before\n{}", layout(&self.titles(), &rows))
    }

    fn titles(&self) -> Vec<String> {
        self.columns.iter().map(|c| c.title.to_owned()).collect()
    }
}

/// A value for people.
fn cell(column: Column, value: &Value) -> String {
    match (column.kind, value) {
        (_, Value::Null) => String::new(),
        (_, Value::String(text)) => text.clone(),
        (Kind::Bytes, value) => {
            value.as_f64().map_or_else(String::new, |b| format!("{:.2}", b / f64::from(1 << 20)))
        }
        (_, Value::Number(number)) => match number.as_f64() {
            Some(n) if n.fract() != 0.0 => digits(n),
            _ => number.to_string(),
        },
        (_, other) => other.to_string(),
    }
}

/// Three digits or so.
pub fn digits(n: f64) -> String {
    match n.abs() {
        100.0.. => format!("{n:.0}"),
        10.0..100.0 => format!("{n:.1}"),
        0.1..10.0 => format!("{n:.2}"),
        _ => format!("{n:.4}"),
    }
}

/// A padded table.
pub fn layout(titles: &[String], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.chain([titles[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        text.push('|');
        for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            // Names to the left, numbers to the right.
            let _ =
                if i == 0 { write!(text, " {cell:<width$} |") } else { write!(text, " {cell:>width$} |") };
        }
        text.push('\n');
    };
    line(titles);
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    line(&rule);
    rows.iter().for_each(|row| line(row));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(rows: Vec<Value>) -> Report {
        let columns = vec![
            column("name", "what", Kind::Key),
            column("ms", "ms", Kind::Measure),
            column("peak", "MB", Kind::Bytes),
            column("why", "note", Kind::Note),
        ];
        Report { columns, rows }
    }

    #[test]
    fn tables_are_aligned_and_gaps_stay_empty() {
        let rows =
            vec![json!({"name": "a", "ms": 12.345, "peak": 3 << 20}), json!({"name": "long", "ms": "fails"})];
        let text = report(rows).table();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "| a    |  12.3 | 3.00 |      |");
        assert_eq!(lines[3], "| long | fails |      |      |");
        assert!(lines.iter().all(|l| l.len() == lines[0].len()));
    }

    #[test]
    fn ratios_join_rows_by_key() {
        let now = report(vec![json!({"name": "a", "ms": 2.0, "peak": 5}), json!({"name": "new", "ms": 1.0})]);
        let text = now.ratios(&[json!({"name": "b", "ms": 9.0}), json!({"name": "a", "ms": 4.0, "peak": 0})]);
        assert!(text.contains("| a    | 0.50x |  = |"), "{text}");
        assert!(!text.contains("new"));
        assert!(now.ratios(&[]).contains("no row"));
    }
}
