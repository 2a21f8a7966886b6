//! Predicted classes: accuracy, top-k accuracy, confusion matrix with precision, recall and F1; running mean.

use std::fmt;

use crate::dataset::{check_elements, check_labels, check_lengths};
use crate::error::{DataError, Result};

/// The fraction of predictions that equal their label.
///
/// ```
/// let accuracy = versant_data::accuracy(&[0, 1, 1, 2], &[0, 1, 2, 2])?;
/// assert_eq!(accuracy, 0.75);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Lengths`], and [`DataError::Empty`] without predictions.
pub fn accuracy(predictions: &[i32], labels: &[i32]) -> Result<f64> {
    check_lengths(("predictions", predictions.len()), ("labels", labels.len()))?;
    let hits = predictions.iter().zip(labels).filter(|(p, l)| p == l);
    fraction(hits.count(), labels.len(), "accuracy")
}

/// The fraction of samples whose label is among the `k` classes of highest score.
///
/// `scores` has shape `[labels.len(), classes]`. Of equal scores the lower class ranks first; a NaN ranks above
/// every number, and a label whose own score is NaN is never hit.
///
/// ```
/// let scores = [0.1, 0.7, 0.2, 0.5, 0.3, 0.2];
/// assert_eq!(versant_data::top_k_accuracy(&scores, 3, &[2, 2], 2)?, 0.5);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Elements`] for scores of another shape, [`DataError::Label`], and [`DataError::Empty`] without
/// labels.
pub fn top_k_accuracy(scores: &[f32], classes: usize, labels: &[i32], k: usize) -> Result<f64> {
    check_elements("scores", scores.len(), &[labels.len(), classes])?;
    check_labels("label", labels, classes)?;
    let hit = |(row, &label): (&[f32], &i32)| {
        let label = label as usize;
        let own = row[label];
        let above = row
            .iter()
            .enumerate()
            .filter(|&(class, &score)| score.is_nan() || score > own || (score == own && class < label));
        !own.is_nan() && above.count() < k
    };
    let rows = scores.chunks_exact(classes.max(1)).zip(labels);
    fraction(rows.filter(|&row| hit(row)).count(), labels.len(), "top-k accuracy")
}

fn fraction(hits: usize, of: usize, what: &'static str) -> Result<f64> {
    match of {
        0 => Err(DataError::Empty { what }),
        of => Ok(hits as f64 / of as f64),
    }
}

/// Counts of (true class, predicted class).
///
/// ```
/// let mut matrix = versant_data::ConfusionMatrix::new(["cat", "dog"]);
/// matrix.add(&[0, 1, 1], &[0, 0, 1])?;
/// assert_eq!(matrix.count(0, 1), 1);
/// assert_eq!(matrix.recall(0), Some(0.5));
/// println!("{matrix}");
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: Vec<String>,
    /// Row: true class; column: predicted class.
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// An empty matrix of these classes.
    pub fn new<S: Into<String>>(classes: impl IntoIterator<Item = S>) -> ConfusionMatrix {
        let classes: Vec<String> = classes.into_iter().map(Into::into).collect();
        let counts = vec![0; classes.len() * classes.len()];
        ConfusionMatrix { classes, counts }
    }

    /// Counts predictions and their labels; nothing is counted if there is an error.
    ///
    /// # Errors
    /// [`DataError::Lengths`], and [`DataError::Label`] for a prediction or label that is no class.
    pub fn add(&mut self, predictions: &[i32], labels: &[i32]) -> Result<()> {
        check_lengths(("predictions", predictions.len()), ("labels", labels.len()))?;
        check_labels("prediction", predictions, self.classes.len())?;
        check_labels("label", labels, self.classes.len())?;
        for (&prediction, &label) in predictions.iter().zip(labels) {
            self.counts[label as usize * self.classes.len() + prediction as usize] += 1;
        }
        Ok(())
    }

    /// The classes' names.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Samples of class `label` that were predicted as `prediction`; 0 if there is no such class.
    pub fn count(&self, label: usize, prediction: usize) -> u64 {
        let n = self.classes.len();
        if label < n && prediction < n { self.counts[label * n + prediction] } else { 0 }
    }

    /// All samples counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The fraction predicted rightly; `None` if nothing was counted.
    pub fn accuracy(&self) -> Option<f64> {
        let right = (0..self.classes.len()).map(|i| self.count(i, i)).sum();
        ratio(right, self.total())
    }

    /// Of the samples predicted as `class`, the fraction that are; `None` if none was.
    pub fn precision(&self, class: usize) -> Option<f64> {
        let predicted = (0..self.classes.len()).map(|label| self.count(label, class));
        ratio(self.count(class, class), predicted.sum())
    }

    /// Of the samples that are of `class`, the fraction predicted so; `None` if there was none.
    pub fn recall(&self, class: usize) -> Option<f64> {
        let there = (0..self.classes.len()).map(|prediction| self.count(class, prediction));
        ratio(self.count(class, class), there.sum())
    }

    /// The harmonic mean of precision and recall, `2 tp / (2 tp + fp + fn)`; `None` if the class neither occurs nor
    /// was predicted.
    pub fn f1(&self, class: usize) -> Option<f64> {
        let [occurs, predicted] = self.margins(class);
        ratio(2 * self.count(class, class), occurs + predicted)
    }

    /// Precision, recall and F1 over all classes (Sokolova and Lapalme, "A systematic analysis of performance
    /// measures for classification tasks", 2009), with scikit-learn's conventions: a class that neither occurs nor
    /// was predicted is left out, and what is undefined otherwise counts as 0. `None` if nothing was counted.
    ///
    /// ```
    /// use versant_data::metrics::{Average, ConfusionMatrix};
    /// let mut matrix = ConfusionMatrix::new(["a", "b", "c"]);
    /// matrix.add(&[0, 2, 1, 0, 0, 1], &[0, 1, 2, 0, 1, 2])?;
    /// let scores = matrix.scores(Average::Macro).expect("six were counted");
    /// assert!((scores.f1 - 0.8 / 3.0).abs() < 1e-12);
    /// # Ok::<(), versant_data::DataError>(())
    /// ```
    pub fn scores(&self, average: Average) -> Option<Scores> {
        let total = self.total();
        if average == Average::Micro {
            let accuracy = self.accuracy()?;
            return Some(Scores { precision: accuracy, recall: accuracy, f1: accuracy });
        }
        let mut sum = Scores { precision: 0.0, recall: 0.0, f1: 0.0 };
        let mut weights = 0.0;
        for class in 0..self.classes.len() {
            let [occurs, predicted] = self.margins(class);
            let weight = match average {
                Average::Weighted => occurs as f64,
                Average::Macro | Average::Micro => f64::from(u8::from(occurs + predicted > 0)),
            };
            sum.precision += weight * self.precision(class).unwrap_or(0.0);
            sum.recall += weight * self.recall(class).unwrap_or(0.0);
            sum.f1 += weight * self.f1(class).unwrap_or(0.0);
            weights += weight;
        }
        let mean = |sum| sum / weights;
        let Scores { precision, recall, f1 } = sum;
        (total > 0).then(|| Scores { precision: mean(precision), recall: mean(recall), f1: mean(f1) })
    }

    /// How many samples are of a class, and how many were predicted to be.
    fn margins(&self, class: usize) -> [u64; 2] {
        let all = 0..self.classes.len();
        [all.clone().map(|p| self.count(class, p)).sum(), all.map(|label| self.count(label, class)).sum()]
    }
}

/// How the scores of several classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// Over samples: every decision counts alike. With one class for each sample, all three are the accuracy.
    Micro,
    /// Over classes: every class counts alike.
    Macro,
    /// Over classes, each by the number of samples that are of it.
    Weighted,
}

/// Precision, recall and their harmonic mean, averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Of what was predicted as a class, the part that is of it.
    pub precision: f64,
    /// Of what is of a class, the part that was predicted so.
    pub recall: f64,
    /// The average of the classes' F1, not the F1 of the averages.
    pub f1: f64,
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl fmt::Display for ConfusionMatrix {
    /// A line for each true class: its counts by predicted class, its recall and its precision in percent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |value: Option<f64>| value.map_or("-".into(), |v| format!("{:.1}", 100.0 * v));
        let mut table = vec![vec!["true \\ predicted".to_owned()]];
        table[0].extend(self.classes.iter().cloned());
        table[0].extend(["recall %".to_owned(), "precision %".to_owned()]);
        for (label, name) in self.classes.iter().enumerate() {
            let mut line = vec![name.clone()];
            line.extend((0..self.classes.len()).map(|p| self.count(label, p).to_string()));
            line.extend([percent(self.recall(label)), percent(self.precision(label))]);
            table.push(line);
        }
        let width = |column: usize| {
            let cells = table.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
        for line in &table {
            write!(f, "{:<1$}", line[0], widths[0])?;
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        write!(f, "accuracy {} % of {}", percent(self.accuracy()), self.total())
    }
}

/// A mean of values as they come, weighted, e.g. of batches' losses by their sizes.
///
/// ```
/// let mut loss = versant_data::RunningMean::new();
/// loss.add(2.0, 128);
/// loss.add(1.0, 64);
/// assert!((loss.mean().unwrap() - 5.0 / 3.0).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunningMean {
    sum: f64,
    weight: u64,
}

impl RunningMean {
    /// A mean of nothing yet.
    pub fn new() -> RunningMean {
        RunningMean::default()
    }

    /// Adds a value that stands for `weight` samples; a value of no samples changes nothing.
    pub fn add(&mut self, value: f64, weight: u64) {
        if weight > 0 {
            self.sum += value * weight as f64;
            self.weight = self.weight.saturating_add(weight);
        }
    }

    /// The mean, NaN if a NaN was added; `None` if nothing was.
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0).then(|| self.sum / self.weight as f64)
    }

    /// The sum of the weights.
    pub fn weight(&self) -> u64 {
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_and_their_errors() {
        assert_eq!(accuracy(&[1, 2, 3], &[1, 2, 2]).unwrap(), 2.0 / 3.0);
        assert!(matches!(accuracy(&[], &[]), Err(DataError::Empty { .. })));
        assert!(matches!(accuracy(&[1], &[]), Err(DataError::Lengths { .. })));
        let scores = [0.1, 0.4, 0.4, 0.1, 0.9, 0.0, 0.05, 0.05];
        let top = |k| top_k_accuracy(&scores, 4, &[2, 3], k).unwrap();
        // Row 0 ranks 1, 2, 0, 3 and row 1 ranks 0, 2, 3, 1.
        assert_eq!([top(0), top(1), top(2), top(3), top(9)], [0.0, 0.0, 0.5, 1.0, 1.0]);
        let nan = |label| top_k_accuracy(&[f32::NAN, 1.0, 0.0], 3, &[label], 2).unwrap();
        assert_eq!([nan(0), nan(1), nan(2)], [0.0, 1.0, 0.0]);
        assert!(top_k_accuracy(&scores, 3, &[0, 0], 1).is_err());
        assert!(top_k_accuracy(&scores, 4, &[0, 4], 1).is_err());
        assert!(top_k_accuracy(&[], 0, &[], 1).is_err());
        assert!(top_k_accuracy(&[], usize::MAX, &[1, 1], 1).is_err());
    }

    #[test]
    fn a_confusion_matrix_reads_as_a_table() {
        let mut matrix = ConfusionMatrix::new(["oak", "Ölbaum", "elm"]);
        matrix.add(&[0, 0, 1, 1, 0], &[0, 1, 1, 1, 0]).unwrap();
        assert!(matrix.add(&[0, 3], &[0, 0]).is_err() && matrix.add(&[0], &[-1]).is_err());
        assert_eq!((matrix.total(), matrix.accuracy()), (5, Some(0.8)));
        assert_eq!(matrix.precision(0), Some(2.0 / 3.0));
        assert_eq!(matrix.recall(1), Some(2.0 / 3.0));
        assert_eq!((matrix.precision(2), matrix.recall(9), matrix.count(3, 0)), (None, None, 0));
        let expected = "\
true \\ predicted  oak  Ölbaum  elm  recall %  precision %
oak                 2       0    0     100.0         66.7
Ölbaum              1       2    0      66.7        100.0
elm                 0       0    0         -            -
accuracy 80.0 % of 5";
        assert_eq!(matrix.to_string(), expected);
        assert!(ConfusionMatrix::new([""; 0]).to_string().contains("accuracy - % of 0"));
    }

    #[test]
    fn running_means_are_weighted() {
        let mut mean = RunningMean::new();
        assert_eq!(mean.mean(), None);
        mean.add(f64::NAN, 0);
        mean.add(1.0, 3);
        mean.add(5.0, 1);
        assert_eq!((mean.mean(), mean.weight()), (Some(2.0), 4));
        mean.add(f64::NAN, 1);
        assert!(mean.mean().unwrap().is_nan());
    }
}
