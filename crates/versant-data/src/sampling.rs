//! Which samples are trained on, held out or drawn more often: folds for cross-validation, class weights and
//! weighted drawing. All of it works on sample numbers, so it serves images, tables, texts and sounds alike.

use std::collections::BTreeMap;

use versant_graph::{RandomKey, random};

use crate::error::{DataError, Result};
use crate::transform::SampleRng;

/// The numbers of the samples to train on and of those held out, each in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// For training.
    pub train: Vec<usize>,
    /// Held out.
    pub test: Vec<usize>,
}

impl Fold {
    /// The fold that holds out the samples whose flag is set.
    pub(crate) fn held_out(flags: &[bool]) -> Fold {
        let (test, train) = (0..flags.len()).partition(|&i| flags[i]);
        Fold { train, test }
    }
}

/// Cross-validation: `k` folds, of which each holds out other samples, and all together each sample once.
///
/// ```
/// use versant_data::KFold;
/// let labels = [0, 0, 0, 0, 1, 1, 1, 1];
/// for fold in KFold::new(4).seed(1).stratified(&labels)? {
///     assert_eq!((fold.train.len(), fold.test.len()), (6, 2));
///     assert_eq!(fold.test.iter().map(|&i| labels[i]).sum::<i32>(), 1); // One of each class.
/// }
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KFold {
    folds: usize,
    seed: u64,
}

impl KFold {
    /// Cross-validation with this many folds, at least 2.
    pub fn new(folds: usize) -> KFold {
        KFold { folds, seed: 0 }
    }

    /// Draws with this seed (0 unless said otherwise).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Folds of `samples` samples at random; the held-out parts differ by one sample at most.
    ///
    /// # Errors
    /// [`DataError::Option`] if there are fewer than 2 folds, or more than samples.
    pub fn plain(&self, samples: usize) -> Result<Vec<Fold>> {
        self.deal(samples, [(0, (0..samples).collect())])
    }

    /// Folds in which each class is held out in the same proportion: the counts of a class in any two held-out
    /// parts differ by one at most, and so do the parts' sizes. A class of fewer samples than folds is missing
    /// from some.
    ///
    /// # Errors
    /// As [`KFold::plain`].
    pub fn stratified(&self, labels: &[i32]) -> Result<Vec<Fold>> {
        self.deal(labels.len(), strata(labels).into_iter().map(|(label, members)| (label as u64, members)))
    }

    /// Folds that never divide a group, for samples that are not independent: patients, speakers, documents.
    ///
    /// The largest group that is left goes to the lightest fold (the greedy rule of scikit-learn's `GroupKFold`),
    /// so that sizes are as even as the groups allow; the seed decides between groups of one size.
    ///
    /// # Errors
    /// As [`KFold::plain`], for groups in place of samples.
    pub fn grouped<G: Ord>(&self, groups: &[G]) -> Result<Vec<Fold>> {
        let mut members: BTreeMap<&G, Vec<usize>> = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            members.entry(group).or_default().push(index);
        }
        self.check(members.len())?;
        let members: Vec<Vec<usize>> = members.into_values().collect();
        let mut order = random::permutation(self.key().words(), members.len());
        order.sort_by_key(|&group| std::cmp::Reverse(members[group].len()));
        let mut sizes = vec![0; self.folds];
        let mut fold_of = vec![0; groups.len()];
        for group in order {
            let fold = (0..self.folds).min_by_key(|&fold| sizes[fold]).expect("checked: at least 2 folds");
            sizes[fold] += members[group].len();
            members[group].iter().for_each(|&index| fold_of[index] = fold);
        }
        Ok(self.collect(&fold_of))
    }

    /// Deals the shuffled members of each stratum out in turn, each beginning where the one before ended.
    fn deal(&self, samples: usize, strata: impl IntoIterator<Item = (u64, Vec<usize>)>) -> Result<Vec<Fold>> {
        self.check(samples)?;
        let mut fold_of = vec![0; samples];
        let mut turn = (0..self.folds).cycle();
        for (name, members) in strata {
            for at in random::permutation(self.key().fold(name).words(), members.len()) {
                fold_of[members[at]] = turn.next().expect("checked: at least 2 folds");
            }
        }
        Ok(self.collect(&fold_of))
    }

    fn collect(&self, fold_of: &[usize]) -> Vec<Fold> {
        let one = |fold| Fold::held_out(&fold_of.iter().map(|&f| f == fold).collect::<Vec<_>>());
        (0..self.folds).map(one).collect()
    }

    fn check(&self, units: usize) -> Result<()> {
        if self.folds >= 2 && self.folds <= units {
            return Ok(());
        }
        Err(DataError::Option {
            option: "folds",
            value: format!("{} of {units} samples or groups", self.folds),
            rule: "from 2 to as many as there are samples or groups",
        })
    }

    fn key(&self) -> RandomKey {
        RandomKey::new(self.seed).split("folds")
    }
}

/// The samples of each label that occurs.
pub(crate) fn strata(labels: &[i32]) -> BTreeMap<i32, Vec<usize>> {
    let mut strata: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (index, &label) in labels.iter().enumerate() {
        strata.entry(label).or_default().push(index);
    }
    strata
}

/// Weights with which every class counts alike: `samples / (classes that occur × samples of the class)`, so that
/// the mean weight of the samples is 1 (King and Zeng, "Logistic Regression in Rare Events Data", 2001, as
/// scikit-learn's `class_weight="balanced"`). A class that does not occur has weight 0.
///
/// ```
/// assert_eq!(versant_data::class_weights(&[0, 0, 0, 2], 3)?, [4.0 / 6.0, 0.0, 2.0]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Label`] for a label that is no class, [`DataError::Empty`] without labels.
pub fn class_weights(labels: &[i32], classes: usize) -> Result<Vec<f64>> {
    crate::dataset::check_labels("label", labels, classes)?;
    if labels.is_empty() {
        return Err(DataError::Empty { what: "class weights" });
    }
    let mut counts = vec![0usize; classes];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    let present = counts.iter().filter(|&&count| count > 0).count();
    let weight = |&count: &usize| match count {
        0 => 0.0,
        count => labels.len() as f64 / (present * count) as f64,
    };
    Ok(counts.iter().map(weight).collect())
}

/// The sample numbers of each batch of an epoch, shuffled by seed and epoch, for data that is no picture and so has no
/// [`Loader`](crate::Loader). The last batch is short if need be; there are none if `batch` is 0.
///
/// ```
/// let batches = versant_data::sampling::batches(10, 4, 1, 0);
/// assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
/// ```
pub fn batches(samples: usize, batch: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    if batch == 0 {
        return Vec::new();
    }
    let key = RandomKey::new(seed).split("order").fold(epoch);
    random::permutation(key.words(), samples).chunks(batch).map(<[usize]>::to_vec).collect()
}

/// `draws` sample numbers drawn with replacement, each with a probability proportional to its weight.
///
/// ```
/// use versant_data::{SampleRng, sampling::draw_weighted};
/// let drawn = draw_weighted(&[0.0, 1.0, 3.0], 4000, &mut SampleRng::new(1, 0, 0))?;
/// let twos = drawn.iter().filter(|&&i| i == 2).count();
/// assert!(twos.abs_diff(3000) < 120 && !drawn.contains(&0));
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Option`] if a weight is negative or not finite, or all are 0.
pub fn draw_weighted(weights: &[f64], draws: usize, rng: &mut SampleRng) -> Result<Vec<usize>> {
    let mut total = 0.0;
    let ends: Vec<f64> = weights
        .iter()
        .map(|&weight| {
            // A NaN sticks to the sum and is found below.
            total += if weight >= 0.0 { weight } else { f64::NAN };
            total
        })
        .collect();
    if !(total.is_finite() && total > 0.0) {
        return Err(DataError::Option {
            option: "sample weights",
            value: format!("with sum {total}"),
            rule: "each finite and at least 0, and one above 0",
        });
    }
    let last = weights.iter().rposition(|&w| w > 0.0).expect("the sum is above 0");
    let mut draw = || {
        let at = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        // Rounding may reach the total itself.
        ends.partition_point(|&end| end <= at).min(last)
    };
    Ok((0..draws).map(|_| draw()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_stay_whole_and_sizes_are_even() {
        let groups: Vec<String> = (0..60).map(|i| format!("patient {}", i * i % 17)).collect();
        let folds = KFold::new(3).seed(4).grouped(&groups).unwrap();
        for fold in &folds {
            assert!((17..=23).contains(&fold.test.len()), "{}", fold.test.len());
            assert!(!fold.test.iter().any(|&t| fold.train.iter().any(|&r| groups[t] == groups[r])));
        }
        assert!(KFold::new(3).grouped(&["a", "a", "b", "b"]).is_err());
    }

    #[test]
    fn seeds_decide_and_impossible_counts_are_errors() {
        let folds = |seed| KFold::new(5).seed(seed).plain(40).unwrap();
        assert_eq!(folds(1), folds(1));
        assert_ne!(folds(1), folds(2));
        for (k, n) in [(0, 4), (1, 4), (5, 4), (2, 0), (usize::MAX, 4)] {
            assert!(matches!(KFold::new(k).plain(n), Err(DataError::Option { option: "folds", .. })));
        }
    }

    #[test]
    fn weights_that_make_no_sense_are_errors() {
        let mut rng = SampleRng::new(0, 0, 0);
        for bad in [vec![], vec![0.0, 0.0], vec![1.0, -1.0], vec![f64::NAN], vec![f64::INFINITY, 1.0]] {
            assert!(draw_weighted(&bad, 1, &mut rng).is_err(), "{bad:?}");
        }
        assert_eq!(draw_weighted(&[0.0, 1e-300, 0.0], 5, &mut rng).unwrap(), [1; 5]);
        assert!(class_weights(&[0, 1], 1).is_err() && class_weights(&[], 2).is_err());
    }

    proptest! {
        #[test]
        fn every_sample_is_held_out_once_and_classes_are_even(
            labels in proptest::collection::vec(0..4i32, 2..80), k in 2usize..7, seed in any::<u64>(),
        ) {
            prop_assume!(k <= labels.len());
            for folds in [KFold::new(k).seed(seed).plain(labels.len()), KFold::new(k).stratified(&labels)] {
                let folds = folds.unwrap();
                let mut held: Vec<usize> = folds.iter().flat_map(|f| f.test.clone()).collect();
                held.sort_unstable();
                prop_assert!(held.into_iter().eq(0..labels.len()));
                let sizes = folds.iter().map(|f| f.test.len());
                prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
                for fold in &folds {
                    let mut all = [fold.train.clone(), fold.test.clone()].concat();
                    all.sort_unstable();
                    prop_assert!(all.into_iter().eq(0..labels.len()));
                }
            }
            let folds = KFold::new(k).seed(seed).stratified(&labels).unwrap();
            for class in 0..4 {
                let counts = folds.iter().map(|f| f.test.iter().filter(|&&i| labels[i] == class).count());
                prop_assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1);
            }
        }
    }
}
