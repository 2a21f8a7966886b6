//! Decisions about groups of people: the rates of each group, the gaps between them, and weights that even them out.
//!
//! No single figure means "fair": demographic parity and equalised odds exclude each other where base rates differ
//! (Kleinberg et al., "Inherent Trade-Offs in the Fair Determination of Risk Scores", 2016).

use std::collections::BTreeMap;
use std::fmt;

use crate::dataset::check_lengths;
use crate::error::{DataError, Result};

/// What happened to one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRates {
    /// The group's name.
    pub group: String,
    /// Samples of the group.
    pub samples: usize,
    /// The part decided positively.
    pub selection_rate: f64,
    /// Of the true positives, the part decided positively; `None` if the group has none.
    pub true_positive_rate: Option<f64>,
    /// Of the true negatives, the part decided positively; `None` if the group has none.
    pub false_positive_rate: Option<f64>,
    /// The part decided rightly.
    pub accuracy: f64,
}

/// The rates of all groups and the gaps between them, as Hardt et al., "Equality of Opportunity in Supervised
/// Learning" (2016) define them and `fairlearn` computes them.
///
/// ```
/// use versant_data::metrics::Fairness;
/// let decided = [true, true, false, true, false, false];
/// let deserved = [true, false, false, true, true, false];
/// let fairness = Fairness::new(&decided, &deserved, &["a", "a", "a", "b", "b", "b"])?;
/// assert!((fairness.demographic_parity_difference() - 1.0 / 3.0).abs() < 1e-12);
/// assert_eq!(fairness.demographic_parity_ratio(), Some(0.5));
/// assert_eq!(fairness.equalised_odds_difference(), Some(0.5));
/// println!("{fairness}");
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Fairness {
    groups: Vec<GroupRates>,
}

impl Fairness {
    /// The rates of decisions, given what would have been right and the group of each sample.
    ///
    /// # Errors
    /// [`DataError::Lengths`] and [`DataError::Empty`].
    pub fn new<G: Ord + ToString>(predicted: &[bool], actual: &[bool], groups: &[G]) -> Result<Fairness> {
        check_lengths(("predictions", predicted.len()), ("labels", actual.len()))?;
        check_lengths(("predictions", predicted.len()), ("groups", groups.len()))?;
        if groups.is_empty() {
            return Err(DataError::Empty { what: "fairness" });
        }
        // Samples by [group][actual][predicted].
        let mut counts: BTreeMap<&G, [[usize; 2]; 2]> = BTreeMap::new();
        for ((group, &predicted), &actual) in groups.iter().zip(predicted).zip(actual) {
            counts.entry(group).or_default()[usize::from(actual)][usize::from(predicted)] += 1;
        }
        let ratio = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let rates = |(group, [[tn, fp], [fn_, tp]]): (&G, [[usize; 2]; 2])| {
            let samples = tn + fp + fn_ + tp;
            GroupRates {
                group: group.to_string(),
                samples,
                selection_rate: (fp + tp) as f64 / samples as f64,
                true_positive_rate: ratio(tp, tp + fn_),
                false_positive_rate: ratio(fp, fp + tn),
                accuracy: (tp + tn) as f64 / samples as f64,
            }
        };
        Ok(Fairness { groups: counts.into_iter().map(rates).collect() })
    }

    /// The groups, sorted.
    pub fn groups(&self) -> &[GroupRates] {
        &self.groups
    }

    /// The largest selection rate less the smallest: 0 is demographic parity.
    pub fn demographic_parity_difference(&self) -> f64 {
        let [low, high] = self.range(|g| Some(g.selection_rate)).expect("every group has samples");
        high - low
    }

    /// The smallest selection rate over the largest: 1 is demographic parity, and below 0.8 is adverse impact by the
    /// four-fifths rule of US law (29 CFR 1607.4 D). `None` if nobody was selected.
    pub fn demographic_parity_ratio(&self) -> Option<f64> {
        let [low, high] = self.range(|g| Some(g.selection_rate))?;
        (high > 0.0).then(|| low / high)
    }

    /// The largest difference of true positive rates: 0 is equality of opportunity. `None` if a group has no
    /// positives.
    pub fn true_positive_gap(&self) -> Option<f64> {
        self.range(|g| g.true_positive_rate).map(|[low, high]| high - low)
    }

    /// The largest difference of false positive rates. `None` if a group has no negatives.
    pub fn false_positive_gap(&self) -> Option<f64> {
        self.range(|g| g.false_positive_rate).map(|[low, high]| high - low)
    }

    /// The larger of both gaps: 0 is equalised odds.
    pub fn equalised_odds_difference(&self) -> Option<f64> {
        Some(self.true_positive_gap()?.max(self.false_positive_gap()?))
    }

    fn range(&self, rate: impl Fn(&GroupRates) -> Option<f64>) -> Option<[f64; 2]> {
        let rates = self.groups.iter().map(rate).collect::<Option<Vec<f64>>>()?;
        Some(rates.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[l, h], &r| [l.min(r), h.max(r)]))
    }
}

impl fmt::Display for Fairness {
    /// A line for each group, then the gaps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.3}"));
        let name = self.groups.iter().map(|g| g.group.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:<name$}  samples  selected    TPR    FPR  right", "group")?;
        for g in &self.groups {
            let [tpr, fpr] = [g.true_positive_rate, g.false_positive_rate].map(show);
            let (group, n, selected, right) = (&g.group, g.samples, g.selection_rate, g.accuracy);
            writeln!(f, "{group:<name$}  {n:>7}  {selected:>8.3}  {tpr:>5}  {fpr:>5}  {right:.3}")?;
        }
        write!(
            f,
            "demographic parity: difference {:.3}, ratio {}; equalised odds: difference {}",
            self.demographic_parity_difference(),
            show(self.demographic_parity_ratio()),
            show(self.equalised_odds_difference())
        )
    }
}

/// A weight for each sample under which label and group are independent: `P(group) P(label) / P(group, label)`
/// (Kamiran and Calders, "Data preprocessing techniques for classification without discrimination", 2012).
/// Multiply losses with them, or draw by them.
///
/// ```
/// use versant_data::metrics::reweighing;
/// let weights = reweighing(&[1, 1, 1, 0], &["a", "a", "b", "b"])?;
/// assert_eq!(weights, [0.75, 0.75, 1.5, 0.5]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Lengths`].
pub fn reweighing<G: Ord>(labels: &[i32], groups: &[G]) -> Result<Vec<f64>> {
    check_lengths(("labels", labels.len()), ("groups", groups.len()))?;
    let mut by_label: BTreeMap<i32, usize> = BTreeMap::new();
    let mut by_group: BTreeMap<&G, usize> = BTreeMap::new();
    let mut by_both: BTreeMap<(i32, &G), usize> = BTreeMap::new();
    for (&label, group) in labels.iter().zip(groups) {
        *by_label.entry(label).or_default() += 1;
        *by_group.entry(group).or_default() += 1;
        *by_both.entry((label, group)).or_default() += 1;
    }
    let weight = |(&label, group): (&i32, &G)| {
        let expected = by_label[&label] as f64 * by_group[group] as f64 / labels.len() as f64;
        expected / by_both[&(label, group)] as f64
    };
    Ok(labels.iter().zip(groups).map(weight).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_group_lacks_is_not_made_up() {
        let rates = Fairness::new(&[true, false], &[true, true], &["x", "y"]).unwrap();
        assert_eq!((rates.true_positive_gap(), rates.false_positive_gap()), (Some(1.0), None));
        assert_eq!(rates.equalised_odds_difference(), None);
        let nobody = Fairness::new(&[false, false], &[true, false], &[1, 2]).unwrap();
        assert_eq!(nobody.demographic_parity_ratio(), None);
        assert!(nobody.to_string().ends_with("difference 0.000, ratio -; equalised odds: difference -"));
        assert!(Fairness::new::<u8>(&[], &[], &[]).is_err());
        assert!(Fairness::new(&[true], &[true], &["x", "y"]).is_err());
        assert!(reweighing(&[1], &[0; 0]).is_err() && reweighing::<u8>(&[], &[]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn reweighed_base_rates_are_equal(
            samples in proptest::collection::vec((0..2i32, 0..3u8), 1..60),
        ) {
            let (labels, groups): (Vec<i32>, Vec<u8>) = samples.iter().copied().unzip();
            let weights = reweighing(&labels, &groups).unwrap();
            let base = labels.iter().filter(|&&l| l == 1).count() as f64 / labels.len() as f64;
            for group in 0..3 {
                let of = |label: i32| -> f64 {
                    let all = samples.iter().zip(&weights);
                    all.filter(|(s, _)| **s == (label, group)).map(|(_, w)| w).sum()
                };
                let (negative, positive) = (of(0), of(1));
                // Where both labels occur in the group, its weighted base rate is that of all.
                if negative > 0.0 && positive > 0.0 {
                    prop_assert!((positive / (negative + positive) - base).abs() < 1e-9);
                }
            }
        }
    }
}
