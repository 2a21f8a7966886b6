//! Tables with numbers, categories and gaps as matrices of numbers, fitted on the training part alone.

use std::collections::BTreeMap;

use versant_graph::{Device, Tensor};

use crate::csv::Table;
use crate::error::{DataError, ReadError, Result};

/// What stands for a number that is missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Impute {
    /// The mean of the training part.
    Mean,
    /// The median of the training part, of an even number of values the mean of the middle two.
    Median,
    /// This value.
    Value(f32),
}

#[derive(Clone, Debug)]
enum Kind {
    Numeric { impute: Impute, standardise: bool },
    OneHot,
    Ordinal { order: Vec<String> },
}

/// Says which columns of a table become which numbers; [`Encoding::fit`] learns the rest from training rows.
///
/// ```
/// use versant_data::csv::CsvOptions;
/// use versant_data::encode::{Encoding, Impute};
/// let text = b"income,home\n10,rent\n,own\n30,rent\n50,boat\n";
/// let table = CsvOptions::new().parse(text, "people")?;
/// let encoding = Encoding::new().raw("income", Impute::Median).one_hot("home");
/// let fitted = encoding.fit(&table, &[0, 1, 2])?; // Row 3 is held out: its boat is unknown.
/// assert_eq!(fitted.names(), ["income", "income missing", "home = own", "home = rent", "home unknown"]);
/// let rows = fitted.encode(&table, &[0, 1, 3])?;
/// assert_eq!(rows.row(0), [10.0, 0.0, 0.0, 1.0, 0.0]);
/// assert_eq!(rows.row(1), [20.0, 1.0, 1.0, 0.0, 0.0]);
/// assert_eq!(rows.row(2), [50.0, 0.0, 0.0, 0.0, 1.0]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Encoding {
    columns: Vec<(String, Kind)>,
    missing: Vec<String>,
}

impl Default for Encoding {
    fn default() -> Self {
        Encoding { columns: Vec::new(), missing: ["", "NA", "?", "NaN", "nan"].map(str::to_owned).to_vec() }
    }
}

impl Encoding {
    /// No columns yet. A field is missing if it is empty, `NA`, `?`, `NaN` or `nan`, without blanks around it.
    pub fn new() -> Encoding {
        Encoding::default()
    }

    /// The texts that stand for a missing value, in place of the usual ones.
    pub fn missing<S: Into<String>>(mut self, texts: impl IntoIterator<Item = S>) -> Self {
        self.missing = texts.into_iter().map(Into::into).collect();
        self
    }

    /// A column of numbers, with mean 0 and standard deviation 1 over the training part (only shifted if constant).
    ///
    /// Where a training row lacks the number, a column `… missing` follows, with 1 in the rows that lack it.
    pub fn numeric(self, name: &str, impute: Impute) -> Self {
        self.column(name, Kind::Numeric { impute, standardise: true })
    }

    /// A column of numbers as they are; otherwise as [`Encoding::numeric`].
    pub fn raw(self, name: &str, impute: Impute) -> Self {
        self.column(name, Kind::Numeric { impute, standardise: false })
    }

    /// A column of categories: one column of 0 and 1 for each that the training part has, sorted, and one for what
    /// is missing or was not seen there.
    pub fn one_hot(self, name: &str) -> Self {
        self.column(name, Kind::OneHot)
    }

    /// A column of categories as one number: from 1 on in this order, or sorted as seen in the training part if the
    /// order is empty; 0 for what is missing or unknown. So it serves as the index of an embedding, too.
    pub fn ordinal<S: Into<String>>(self, name: &str, order: impl IntoIterator<Item = S>) -> Self {
        let order = order.into_iter().map(Into::into).collect();
        self.column(name, Kind::Ordinal { order })
    }

    fn column(mut self, name: &str, kind: Kind) -> Self {
        self.columns.push((name.to_owned(), kind));
        self
    }

    /// Learns imputed values, scales and categories from these rows of a table.
    ///
    /// # Errors
    /// [`DataError::Read`] for a column that is not there or a number that is none, [`DataError::Empty`] if a
    /// numeric column has no number in these rows, [`DataError::Index`], and [`DataError::Option`] for an imputed
    /// value that is not finite.
    pub fn fit(&self, table: &Table, rows: &[usize]) -> Result<FittedEncoding> {
        let mut fitted =
            FittedEncoding { columns: Vec::new(), names: Vec::new(), missing: self.missing.clone() };
        check_rows(table, rows)?;
        for (name, kind) in &self.columns {
            let column = table.column(name)?;
            let map = match kind {
                Kind::Numeric { impute, standardise } => {
                    let values: Vec<Option<f32>> =
                        rows.iter().map(|&row| fitted.number(table, row, column)).collect::<Result<_>>()?;
                    Map::numeric(&values, *impute, *standardise)?
                }
                Kind::OneHot => Map::OneHot(fitted.seen(table, rows, column)),
                Kind::Ordinal { order } if order.is_empty() => Map::Ordinal(fitted.seen(table, rows, column)),
                Kind::Ordinal { order } => Map::Ordinal(order.iter().cloned().zip(0..).collect()),
            };
            fitted.names.extend(map.names(name));
            fitted.columns.push((name.clone(), map));
        }
        Ok(fitted)
    }
}

/// What one column became.
#[derive(Clone, Debug, PartialEq)]
enum Map {
    Numeric { imputed: f32, mean: f32, std: f32, indicator: bool },
    OneHot(BTreeMap<String, usize>),
    Ordinal(BTreeMap<String, usize>),
}

impl Map {
    fn numeric(values: &[Option<f32>], impute: Impute, standardise: bool) -> Result<Map> {
        let mut known: Vec<f32> = values.iter().flatten().copied().collect();
        if known.is_empty() {
            return Err(DataError::Empty { what: "numbers of a column in the training part" });
        }
        let average = |of: &mut dyn Iterator<Item = f64>, n: usize| of.sum::<f64>() / n as f64;
        let imputed = match impute {
            Impute::Value(value) if value.is_finite() => value,
            Impute::Value(value) => {
                return Err(DataError::Option {
                    option: "imputed value",
                    value: value.to_string(),
                    rule: "must be finite",
                });
            }
            Impute::Mean => average(&mut known.iter().map(|&v| f64::from(v)), known.len()) as f32,
            Impute::Median => {
                known.sort_by(f32::total_cmp);
                let [low, high] = [known[(known.len() - 1) / 2], known[known.len() / 2]];
                ((f64::from(low) + f64::from(high)) / 2.0) as f32
            }
        };
        let filled = || values.iter().map(|v| f64::from(v.unwrap_or(imputed)));
        let mean = average(&mut filled(), values.len());
        let variance = average(&mut filled().map(|v| (v - mean).powi(2)), values.len());
        let std = if variance > 0.0 { variance.sqrt() as f32 } else { 1.0 };
        let (mean, std) = if standardise { (mean as f32, std) } else { (0.0, 1.0) };
        Ok(Map::Numeric { imputed, mean, std, indicator: values.iter().any(Option::is_none) })
    }

    fn names(&self, name: &str) -> Vec<String> {
        match self {
            Map::Numeric { indicator: true, .. } => vec![name.to_owned(), format!("{name} missing")],
            Map::Numeric { .. } | Map::Ordinal(_) => vec![name.to_owned()],
            Map::OneHot(seen) => {
                let known = seen.keys().map(|category| format!("{name} = {category}"));
                known.chain([format!("{name} unknown")]).collect()
            }
        }
    }
}

/// An [`Encoding`] with what it learnt; the same for training rows, test rows and rows of other tables.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedEncoding {
    columns: Vec<(String, Map)>,
    names: Vec<String>,
    missing: Vec<String>,
}

impl FittedEncoding {
    /// A name for each column of the matrices.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// These rows of a table as numbers. A number that is missing is imputed, also in a column without indicator.
    ///
    /// # Errors
    /// [`DataError::Read`] for a column that is not there or a number that is none, [`DataError::Index`], and
    /// [`DataError::Option`] for more than 2^31 values.
    pub fn encode(&self, table: &Table, rows: &[usize]) -> Result<Matrix> {
        check_rows(table, rows)?;
        let columns = self.columns.iter().map(|(name, _)| table.column(name));
        let columns = columns.collect::<Result<Vec<usize>, ReadError>>()?;
        // A column of texts that are all different would become a square.
        if rows.len().checked_mul(self.names.len()).is_none_or(|n| n > 1 << 31) {
            return Err(DataError::Option {
                option: "encoded rows",
                value: format!("{} by {}", rows.len(), self.names.len()),
                rule: "at most 2^31 values",
            });
        }
        let mut values = Vec::new();
        for &row in rows {
            for (&column, (_, map)) in columns.iter().zip(&self.columns) {
                match map {
                    Map::Numeric { imputed, mean, std, indicator } => {
                        let number = self.number(table, row, column)?;
                        values.push((number.unwrap_or(*imputed) - mean) / std);
                        values.extend(indicator.then(|| f32::from(u8::from(number.is_none()))));
                    }
                    Map::OneHot(seen) => {
                        let hot = self.category(table, row, column).and_then(|c| seen.get(c));
                        let hot = hot.copied().unwrap_or(seen.len());
                        values.extend((0..=seen.len()).map(|at| f32::from(u8::from(at == hot))));
                    }
                    Map::Ordinal(known) => {
                        let at = self.category(table, row, column).and_then(|c| known.get(c));
                        values.push(at.map_or(0.0, |&at| (at + 1) as f32));
                    }
                }
            }
        }
        Ok(Matrix { values, rows: rows.len(), columns: self.names.len() })
    }

    /// The text of a field, or `None` if it stands for a missing value. Rows and columns are checked before.
    fn category<'t>(&self, table: &'t Table, row: usize, column: usize) -> Option<&'t str> {
        let text = table.text(row, column)?.trim();
        (!self.missing.iter().any(|missing| missing == text)).then_some(text)
    }

    fn number(&self, table: &Table, row: usize, column: usize) -> Result<Option<f32>> {
        let number = self.category(table, row, column).map(|_| table.number(row, column));
        Ok(number.transpose()?)
    }

    /// The categories of these rows in sorted order, each with its number.
    fn seen(&self, table: &Table, rows: &[usize], column: usize) -> BTreeMap<String, usize> {
        let fields = rows.iter().filter_map(|&row| self.category(table, row, column));
        let mut seen: BTreeMap<String, usize> = fields.map(|category| (category.to_owned(), 0)).collect();
        seen.values_mut().zip(0..).for_each(|(number, at)| *number = at);
        seen
    }
}

fn check_rows(table: &Table, rows: &[usize]) -> Result<()> {
    match rows.iter().find(|&&row| row >= table.rows()) {
        None => Ok(()),
        Some(&index) => Err(DataError::Index { index, len: table.rows() }),
    }
}

/// Rows of numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Matrix {
    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Number of rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// The matrix as a tensor, f32 `[rows, columns]`.
    #[track_caller]
    pub fn on(&self, device: &Device) -> Tensor {
        Tensor::from_slice(device, &self.values, &self.shape())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::csv::CsvOptions;

    fn table(text: &str) -> Table {
        CsvOptions::new().parse(text.as_bytes(), "t.csv").unwrap()
    }

    #[test]
    fn numbers_are_scaled_by_the_training_part_alone() {
        let table = table("a,b\n1,x\n3,x\n?, x\n100,x\n");
        let fitted = Encoding::new().numeric("a", Impute::Mean).numeric("a", Impute::Value(0.0));
        let fitted = fitted.fit(&table, &[0, 1]).unwrap();
        assert_eq!(fitted.names(), ["a", "a"]);
        let all = fitted.encode(&table, &[0, 1, 2, 3]).unwrap();
        assert_eq!(all.shape(), [4, 2]);
        assert_eq!(all.values(), [-1.0, -1.0, 1.0, 1.0, 0.0, -2.0, 98.0, 98.0]);
        let constant = Encoding::new().numeric("a", Impute::Median).fit(&table, &[3]).unwrap();
        assert_eq!(constant.encode(&table, &[3, 0]).unwrap().values(), [0.0, -99.0]);
    }

    #[test]
    fn ordinals_count_from_one_and_zero_is_unknown() {
        let table = table("size,kind\nM,b\nL,a\nXL,NA\nS,c\n");
        let fitted = Encoding::new().ordinal("size", ["S", "M", "L"]).ordinal("kind", [""; 0]);
        let fitted = fitted.fit(&table, &[0, 1]).unwrap();
        let all = fitted.encode(&table, &[0, 1, 2, 3]).unwrap();
        assert_eq!(all.values(), [2.0, 2.0, 3.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(all.on(&Device::cpu()).to_vec::<f32>().unwrap(), all.values());
    }

    #[test]
    fn faults_name_their_place() {
        let table = table("a,b\n1,x\nsix,\n,y\n");
        let fit = |encoding: Encoding, rows: &[usize]| encoding.fit(&table, rows);
        let error = fit(Encoding::new().numeric("a", Impute::Mean), &[0, 1]).unwrap_err().to_string();
        assert_eq!(error, "t.csv: line 3, column a: \"six\" is not a finite number");
        assert!(matches!(fit(Encoding::new().raw("a", Impute::Mean), &[2]), Err(DataError::Empty { .. })));
        assert!(fit(Encoding::new().raw("a", Impute::Value(f32::NAN)), &[0]).is_err());
        assert!(matches!(fit(Encoding::new(), &[3]), Err(DataError::Index { index: 3, len: 3 })));
        assert!(fit(Encoding::new().one_hot("c"), &[0]).unwrap_err().to_string().contains("no column"));
        let own = Encoding::new().missing(["six"]).raw("a", Impute::Mean);
        assert_eq!(fit(own, &[0, 1]).unwrap().names(), ["a", "a missing"]);
    }

    proptest! {
        #[test]
        fn rows_are_whole_and_one_hot(
            fields in proptest::collection::vec(("[0-9]{0,2}", "[ab?]{0,1}"), 2..20), cut in 1usize..20,
        ) {
            let text: String = fields.iter().map(|(a, b)| format!("{a},{b},.\n")).collect();
            let table = table(&format!("a,b,c\n{text}"));
            let train: Vec<usize> = (0..cut.min(table.rows())).collect();
            let encoding = Encoding::new().numeric("a", Impute::Median).one_hot("b").ordinal("b", [""; 0]);
            let Ok(fitted) = encoding.fit(&table, &train) else { return Ok(()) };
            let all: Vec<usize> = (0..table.rows()).collect();
            let matrix = fitted.encode(&table, &all).unwrap();
            prop_assert_eq!(matrix.values().len(), table.rows() * fitted.names().len());
            let hot: Vec<usize> = (0..fitted.names().len())
                .filter(|&at| fitted.names()[at].starts_with("b ")).collect();
            for row in all {
                prop_assert!(matrix.row(row).iter().all(|v| v.is_finite()));
                prop_assert_eq!(hot.iter().map(|&at| matrix.row(row)[at]).sum::<f32>(), 1.0);
            }
        }
    }
}
