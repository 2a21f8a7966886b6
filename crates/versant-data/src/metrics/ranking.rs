//! Scores that should be larger for positives: ROC and precision-recall curves and the areas under them.

use super::check_finite;
use crate::dataset::{check_elements, check_labels, check_lengths};
use crate::error::{DataError, Result};

/// Samples at or above each distinct score, from the highest down.
struct Sweep {
    thresholds: Vec<f32>,
    true_positives: Vec<u64>,
    false_positives: Vec<u64>,
}

impl Sweep {
    fn new(scores: &[f32], positive: &[bool]) -> Result<Sweep> {
        check_lengths(("scores", scores.len()), ("labels", positive.len()))?;
        check_finite("scores", scores)?;
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut sweep = Sweep { thresholds: vec![], true_positives: vec![], false_positives: vec![] };
        let mut counts = [0, 0];
        for (place, &index) in order.iter().enumerate() {
            counts[usize::from(positive[index])] += 1;
            // Of equal scores only the last makes a point: no threshold tells them apart.
            if order.get(place + 1).is_none_or(|&next| scores[next] != scores[index]) {
                sweep.thresholds.push(scores[index]);
                sweep.false_positives.push(counts[0]);
                sweep.true_positives.push(counts[1]);
            }
        }
        Ok(sweep)
    }

    /// The counts over the last one: how much of all is at or above each threshold.
    fn rates(counts: &[u64], what: &'static str) -> Result<Vec<f64>> {
        match counts.last() {
            Some(&all) if all > 0 => Ok(counts.iter().map(|&n| n as f64 / all as f64).collect()),
            _ => Err(DataError::Empty { what }),
        }
    }
}

/// The receiver operating characteristic: at every threshold, which part of the positives and of the negatives has
/// at least that score (Fawcett, "An introduction to ROC analysis", 2006).
///
/// ```
/// use versant_data::metrics::RocCurve;
/// let roc = RocCurve::new(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true])?;
/// assert_eq!(roc.auc(), 0.75);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RocCurve {
    /// Infinity, then every distinct score, descending.
    pub thresholds: Vec<f32>,
    /// The part of the negatives at or above each threshold, from 0 to 1.
    pub false_positive_rate: Vec<f64>,
    /// The part of the positives at or above each threshold, from 0 to 1.
    pub true_positive_rate: Vec<f64>,
}

impl RocCurve {
    /// The curve of samples with these scores that are positive or not.
    ///
    /// # Errors
    /// [`DataError::Lengths`]; [`DataError::Option`] for a score that is not finite; [`DataError::Empty`] if there
    /// are no positives or no negatives.
    pub fn new(scores: &[f32], positive: &[bool]) -> Result<RocCurve> {
        let Sweep { thresholds, true_positives, false_positives } = Sweep::new(scores, positive)?;
        let with_start = |rates: Vec<f64>| std::iter::once(0.0).chain(rates).collect();
        Ok(RocCurve {
            thresholds: std::iter::once(f32::INFINITY).chain(thresholds).collect(),
            false_positive_rate: with_start(Sweep::rates(&false_positives, "negatives")?),
            true_positive_rate: with_start(Sweep::rates(&true_positives, "positives")?),
        })
    }

    /// The area under the curve by trapezoids: the probability that a positive has a higher score than a negative,
    /// equal ones counting half.
    pub fn auc(&self) -> f64 {
        let (x, y) = (&self.false_positive_rate, &self.true_positive_rate);
        (1..x.len()).map(|i| (x[i] - x[i - 1]) * (y[i] + y[i - 1]) / 2.0).sum()
    }
}

/// Precision and recall at every threshold.
///
/// ```
/// use versant_data::metrics::PrecisionRecallCurve;
/// let curve = PrecisionRecallCurve::new(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true])?;
/// assert_eq!(curve.recall, [0.5, 0.5, 1.0, 1.0]);
/// assert!((curve.average_precision() - 5.0 / 6.0).abs() < 1e-12);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionRecallCurve {
    /// Every distinct score, descending.
    pub thresholds: Vec<f32>,
    /// Of the samples at or above each threshold, the part that is positive.
    pub precision: Vec<f64>,
    /// Of the positives, the part at or above each threshold.
    pub recall: Vec<f64>,
}

impl PrecisionRecallCurve {
    /// The curve of samples with these scores that are positive or not.
    ///
    /// # Errors
    /// As [`RocCurve::new`], but negatives are not needed.
    pub fn new(scores: &[f32], positive: &[bool]) -> Result<PrecisionRecallCurve> {
        let Sweep { thresholds, true_positives, false_positives } = Sweep::new(scores, positive)?;
        let precision = |(&tp, &fp): (&u64, &u64)| tp as f64 / (tp + fp) as f64;
        Ok(PrecisionRecallCurve {
            thresholds,
            precision: true_positives.iter().zip(&false_positives).map(precision).collect(),
            recall: Sweep::rates(&true_positives, "positives")?,
        })
    }

    /// The area under the curve as a sum of steps, `Σ (R_n - R_{n-1}) P_n`, without interpolation, which would
    /// flatter (Davis and Goadrich, "The relationship between Precision-Recall and ROC curves", 2006).
    pub fn average_precision(&self) -> f64 {
        let before = std::iter::once(&0.0).chain(&self.recall);
        self.recall.iter().zip(before).zip(&self.precision).map(|((now, before), p)| (now - before) * p).sum()
    }
}

/// The mean over the classes of the area under the ROC curve of each class against all others; `scores` has shape
/// `[labels.len(), classes]`.
///
/// # Errors
/// As [`RocCurve::new`], so every class must occur; [`DataError::Elements`] and [`DataError::Label`].
pub fn roc_auc_one_vs_rest(scores: &[f32], classes: usize, labels: &[i32]) -> Result<f64> {
    check_elements("scores", scores.len(), &[labels.len(), classes])?;
    check_labels("label", labels, classes)?;
    let mut sum = 0.0;
    for class in 0..classes {
        let own: Vec<f32> = scores.iter().skip(class).step_by(classes).copied().collect();
        let positive: Vec<bool> = labels.iter().map(|&label| label as usize == class).collect();
        sum += RocCurve::new(&own, &positive)?.auc();
    }
    if classes == 0 { Err(DataError::Empty { what: "classes" }) } else { Ok(sum / classes as f64) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_ranked_is_an_error() {
        assert!(matches!(RocCurve::new(&[1.0], &[true]), Err(DataError::Empty { what: "negatives" })));
        assert!(matches!(RocCurve::new(&[1.0], &[false]), Err(DataError::Empty { what: "positives" })));
        assert!(RocCurve::new(&[], &[]).is_err() && RocCurve::new(&[1.0], &[]).is_err());
        assert!(RocCurve::new(&[f32::NAN, 1.0], &[true, false]).is_err());
        assert!(PrecisionRecallCurve::new(&[1.0], &[false]).is_err());
        assert_eq!(PrecisionRecallCurve::new(&[1.0], &[true]).unwrap().average_precision(), 1.0);
        assert!(roc_auc_one_vs_rest(&[], 0, &[]).is_err());
    }

    proptest! {
        #[test]
        fn the_area_is_the_part_of_pairs_in_order(
            samples in proptest::collection::vec((0..9i8, any::<bool>()), 2..40),
        ) {
            let scores: Vec<f32> = samples.iter().map(|&(s, _)| f32::from(s)).collect();
            let positive: Vec<bool> = samples.iter().map(|&(_, p)| p).collect();
            let (mut sum, mut pairs) = (0.0, 0.0);
            for (p, _) in samples.iter().filter(|s| s.1) {
                for (n, _) in samples.iter().filter(|s| !s.1) {
                    sum += if p > n { 1.0 } else if p == n { 0.5 } else { 0.0 };
                    pairs += 1.0;
                }
            }
            match RocCurve::new(&scores, &positive) {
                Ok(roc) => prop_assert!((roc.auc() - sum / pairs).abs() < 1e-9),
                Err(_) => prop_assert_eq!(pairs, 0.0),
            }
        }
    }
}
