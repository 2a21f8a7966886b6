//! Handwritten digits of 8×8 pixels (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0), as scikit-learn carries them.

use crate::csv::CsvOptions;
use crate::dataset::{Dataset, Images};
use crate::error::{ReadError, Result};

const FILE: &[u8] = include_bytes!("../../../data/digits/digits.csv.gz");
const NAME: &str = "embedded digits.csv.gz";
const PIXELS: usize = 64;

/// The 1,797 digits compiled into this crate: `[1797, 1, 8, 8]`, values from 0 to 1 in steps of 1/16.
///
/// The set has no customary test part; see [`Split`](crate::Split).
///
/// # Errors
/// None for the file as committed; it goes through the same checks as any other.
///
/// ```
/// let digits = versant_data::digits::embedded()?;
/// assert_eq!(digits.images().shape(), [1797, 1, 8, 8]);
/// assert_eq!(digits.labels()[..5], [0, 1, 2, 3, 4]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
pub fn embedded() -> Result<Dataset> {
    let table = CsvOptions::new().header(false).parse(FILE, NAME)?;
    if table.columns() != PIXELS + 1 {
        return Err(ReadError::Unexpected {
            file: NAME.to_owned(),
            expected: format!("{} columns", PIXELS + 1),
            found: format!("{} columns", table.columns()),
        }
        .into());
    }
    let pixels: Vec<usize> = (0..PIXELS).collect();
    let values = table.matrix(&pixels)?.into_iter().map(|v| v / 16.0);
    let images = Images::from_values(values.collect(), [table.rows(), 1, 8, 8])?;
    let labels = table.numbers(PIXELS)?.into_iter().map(|v| v as i32);
    Dataset::new(images, labels.collect(), (0..10).map(|d: u8| d.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_digits_are_what_they_should_be() {
        let digits = embedded().unwrap();
        assert_eq!(digits.images().shape(), [1797, 1, 8, 8]);
        assert_eq!(digits.labels()[1787..], [5, 4, 8, 8, 4, 9, 0, 8, 9, 8]);
        assert_eq!(digits.class_counts(), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let first = digits.images().get(0).unwrap();
        let row: Vec<f32> = first.data()[..8].iter().map(|v| v * 16.0).collect();
        assert_eq!(row, [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0]);
        let sum: f64 = (0..digits.len())
            .flat_map(|i| digits.images().get(i).unwrap().data().to_vec())
            .map(|v| f64::from(v) * 16.0)
            .sum();
        assert_eq!(sum, 561_718.0);
    }
}
