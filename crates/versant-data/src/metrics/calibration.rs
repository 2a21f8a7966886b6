//! Whether probabilities mean what they say: reliability, Brier score, log loss, and a temperature that mends them.

use std::fmt;

use super::{check_finite, check_probabilities};
use crate::dataset::{check_elements, check_labels, check_lengths};
use crate::error::{DataError, Result};

/// The samples whose confidence lies in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReliabilityBin {
    /// Number of samples.
    pub count: usize,
    /// Their mean confidence; 0 without samples.
    pub confidence: f64,
    /// The part of them that was right; 0 without samples.
    pub accuracy: f64,
}

/// How often predictions were right, by how sure they were: the reliability diagram as a table.
///
/// ```
/// use versant_data::metrics::Reliability;
/// let table = Reliability::new(&[0.9, 0.8, 0.6, 0.55], &[true, false, true, false], 2)?;
/// assert!((table.expected_error() - 0.2125).abs() < 1e-6); // |0.5 - 0.7125|, all in the upper bin.
/// println!("{table}");
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Reliability {
    bins: Vec<ReliabilityBin>,
}

impl Reliability {
    /// A table with `bins` intervals of equal width, each including its upper end, of samples predicted with these
    /// confidences, rightly or not.
    ///
    /// # Errors
    /// [`DataError::Lengths`], [`DataError::Empty`], and [`DataError::Option`] without bins or for a confidence that
    /// is no probability.
    pub fn new(confidence: &[f32], correct: &[bool], bins: usize) -> Result<Reliability> {
        check_lengths(("confidences", confidence.len()), ("outcomes", correct.len()))?;
        check_probabilities(confidence)?;
        if !(1..=1 << 20).contains(&bins) {
            return Err(DataError::Option {
                option: "bins",
                value: bins.to_string(),
                rule: "from 1 to 2^20",
            });
        }
        let mut table = vec![ReliabilityBin::default(); bins];
        for (&p, &right) in confidence.iter().zip(correct) {
            let at = (f64::from(p) * bins as f64).ceil() as usize;
            let bin = &mut table[at.saturating_sub(1).min(bins - 1)];
            bin.count += 1;
            bin.confidence += f64::from(p);
            bin.accuracy += f64::from(u8::from(right));
        }
        for bin in table.iter_mut().filter(|bin| bin.count > 0) {
            bin.confidence /= bin.count as f64;
            bin.accuracy /= bin.count as f64;
        }
        Ok(Reliability { bins: table })
    }

    /// The table for class probabilities of shape `[labels.len(), classes]`: the confidence is the largest one of a
    /// sample, of equal ones the first.
    ///
    /// # Errors
    /// As [`Reliability::new`]; [`DataError::Elements`] and [`DataError::Label`].
    pub fn of_classes(
        probabilities: &[f32],
        classes: usize,
        labels: &[i32],
        bins: usize,
    ) -> Result<Reliability> {
        check_elements("probabilities", probabilities.len(), &[labels.len(), classes])?;
        check_labels("label", labels, classes)?;
        check_probabilities(probabilities)?;
        let best = |row: &[f32]| (1..classes).fold(0, |best, at| if row[at] > row[best] { at } else { best });
        let rows = probabilities.chunks_exact(classes).zip(labels);
        let (confidence, correct): (Vec<f32>, Vec<bool>) =
            rows.map(|(row, &label)| (row[best(row)], best(row) == label as usize)).unzip();
        Reliability::new(&confidence, &correct, bins)
    }

    /// The intervals from 0 to 1.
    pub fn bins(&self) -> &[ReliabilityBin] {
        &self.bins
    }

    /// The expected calibration error: the mean over the samples of the difference between accuracy and confidence
    /// of their bin (Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3).
    pub fn expected_error(&self) -> f64 {
        let total: usize = self.bins.iter().map(|bin| bin.count).sum();
        let gap = |bin: &ReliabilityBin| bin.count as f64 * (bin.accuracy - bin.confidence).abs();
        self.bins.iter().map(gap).sum::<f64>() / total as f64
    }

    /// The largest difference between accuracy and confidence of a bin (the same paper, equation 5).
    pub fn largest_error(&self) -> f64 {
        self.bins.iter().map(|bin| (bin.accuracy - bin.confidence).abs()).fold(0.0, f64::max)
    }
}

impl fmt::Display for Reliability {
    /// A line for each interval that holds samples.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<13} {:>8} {:>10} {:>8}", "confidence in", "samples", "confidence", "right")?;
        let width = 1.0 / self.bins.len() as f64;
        for (at, bin) in self.bins.iter().enumerate().filter(|(_, bin)| bin.count > 0) {
            let range = format!("{:.3}..{:.3}", at as f64 * width, (at + 1) as f64 * width);
            writeln!(f, "{range:<13} {:>8} {:>10.3} {:>8.3}", bin.count, bin.confidence, bin.accuracy)?;
        }
        write!(f, "expected calibration error {:.4}", self.expected_error())
    }
}

/// The mean over samples of the squared distance between the class probabilities, `[labels.len(), classes]`, and
/// the one-hot label (Brier, "Verification of forecasts expressed in terms of probability", 1950): from 0 to 2.
/// For two classes it is twice the customary `(p - y)²` of the positive class.
///
/// ```
/// assert!((versant_data::metrics::brier(&[0.2, 0.8, 0.9, 0.1], 2, &[1, 0])? - 0.05).abs() < 1e-7);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Elements`], [`DataError::Label`], [`DataError::Empty`], and [`DataError::Option`] for what is no
/// probability.
pub fn brier(probabilities: &[f32], classes: usize, labels: &[i32]) -> Result<f64> {
    check_elements("probabilities", probabilities.len(), &[labels.len(), classes])?;
    check_labels("label", labels, classes)?;
    check_probabilities(probabilities)?;
    let square = |(at, &p): (usize, &f32)| {
        let hit = at % classes == labels[at / classes] as usize;
        (f64::from(p) - f64::from(u8::from(hit))).powi(2)
    };
    Ok(probabilities.iter().enumerate().map(square).sum::<f64>() / labels.len() as f64)
}

/// The mean negative logarithm of the probability of the label, from logits of shape `[labels.len(), classes]`.
///
/// # Errors
/// [`DataError::Elements`], [`DataError::Label`], [`DataError::Empty`], and [`DataError::Option`] for a logit that
/// is not finite.
pub fn log_loss(logits: &[f32], classes: usize, labels: &[i32]) -> Result<f64> {
    check_logits(logits, classes, labels)?;
    Ok(scaled(logits, classes, labels, 1.0).loss)
}

fn check_logits(logits: &[f32], classes: usize, labels: &[i32]) -> Result<()> {
    check_elements("logits", logits.len(), &[labels.len(), classes])?;
    check_labels("label", labels, classes)?;
    check_finite("logits", logits)
}

/// The mean loss of logits times a factor, with its first two derivatives by the factor.
struct Scaled {
    loss: f64,
    slope: f64,
    curvature: f64,
}

fn scaled(logits: &[f32], classes: usize, labels: &[i32], factor: f64) -> Scaled {
    let mut sum = Scaled { loss: 0.0, slope: 0.0, curvature: 0.0 };
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let top = row.iter().fold(f32::NEG_INFINITY, |top, &z| top.max(z));
        // Distances from the largest logit, so that no exponential overflows.
        let (mut total, mut first, mut second) = (0.0, 0.0, 0.0);
        for &z in row {
            let z = f64::from(z) - f64::from(top);
            let weight = libm::exp(factor * z);
            total += weight;
            first += weight * z;
            second += weight * z * z;
        }
        let mean = first / total;
        let own = f64::from(row[label as usize]) - f64::from(top);
        sum.loss += libm::log(total) - factor * own;
        sum.slope += mean - own;
        sum.curvature += second / total - mean * mean;
    }
    let n = labels.len() as f64;
    Scaled { loss: sum.loss / n, slope: sum.slope / n, curvature: sum.curvature / n }
}

/// Divides logits by one number, so that probabilities are neither too sure nor too unsure; the predicted class
/// stays the same (Guo et al., 2017, section 4.2).
///
/// ```
/// use versant_data::metrics::{Temperature, log_loss};
/// // Right three times out of four, but sure as if it never failed.
/// let (logits, labels) = ([4.0, 0.0, 4.0, 0.0, 4.0, 0.0, 4.0, 0.0], [0, 0, 0, 1]);
/// let temperature = Temperature::fit(&logits, 2, &labels)?;
/// let mut scaled = logits;
/// temperature.apply(&mut scaled);
/// assert!((scaled[0] - 3f32.ln()).abs() < 1e-5); // Probability 3/4.
/// assert!(log_loss(&scaled, 2, &labels)? < log_loss(&logits, 2, &labels)?);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature(f64);

/// The largest temperature that is fitted, and the inverse of the smallest.
const LARGEST: f64 = 100.0;

impl Temperature {
    /// The temperature of least loss on held-out logits of shape `[labels.len(), classes]`.
    ///
    /// The loss is convex in the inverse of the temperature: Newton's method, inside a bracket that it halves where
    /// it would leave it. Where no least loss exists, because every prediction is right or they are worse than none,
    /// the result is the end of the range from 1/100 to 100.
    ///
    /// # Errors
    /// As [`log_loss`].
    pub fn fit(logits: &[f32], classes: usize, labels: &[i32]) -> Result<Temperature> {
        check_logits(logits, classes, labels)?;
        let (mut low, mut high) = (1.0 / LARGEST, LARGEST);
        let mut factor = 1.0;
        for _ in 0..200 {
            let Scaled { slope, curvature, .. } = scaled(logits, classes, labels, factor);
            if slope > 0.0 {
                high = factor
            } else {
                low = factor
            }
            let newton = factor - slope / curvature;
            let next = if newton > low && newton < high { newton } else { (low * high).sqrt() };
            if (next - factor).abs() <= 1e-12 * factor {
                break;
            }
            factor = next;
        }
        Ok(Temperature(1.0 / factor))
    }

    /// The number that logits are divided by.
    pub fn value(&self) -> f64 {
        self.0
    }

    /// Divides logits in place.
    pub fn apply(&self, logits: &mut [f32]) {
        logits.iter_mut().for_each(|z| *z = (f64::from(*z) / self.0) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_probability_is_an_error() {
        for bad in [f32::NAN, -0.1, 1.1] {
            assert!(Reliability::new(&[bad], &[true], 10).is_err());
            assert!(brier(&[bad, 0.5], 2, &[0]).is_err());
        }
        assert!(Reliability::new(&[], &[], 10).is_err() && Reliability::new(&[0.5], &[true], 0).is_err());
        assert!(brier(&[], 2, &[]).is_err() && log_loss(&[], 0, &[]).is_err());
        let ends = Reliability::new(&[0.0, 1.0, 0.5], &[false, true, true], 2).unwrap();
        assert_eq!(ends.bins().iter().map(|b| b.count).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(ends.largest_error(), 0.25);
    }

    #[test]
    fn a_temperature_ends_at_its_range_where_there_is_no_least_loss() {
        let right = Temperature::fit(&[1.0, 0.0, 0.0, 2.0], 2, &[0, 1]).unwrap();
        assert!((right.value() - 0.01).abs() < 1e-6, "{right:?}");
        let wrong = Temperature::fit(&[1.0, 0.0, 0.0, 2.0], 2, &[1, 0]).unwrap();
        assert!((wrong.value() - 100.0).abs() < 1e-4, "{wrong:?}");
        let huge = Temperature::fit(&[3e38, -3e38], 2, &[0]).unwrap();
        assert!(huge.value() > 0.0 && huge.value().is_finite());
    }
}
