//! Splitting a data set into a training and a test part.

use versant_graph::{RandomKey, random};

use crate::dataset::{Dataset, Parts};
use crate::error::{DataError, Result};
use crate::sampling::{self, Fold};

/// A seeded split into training and test parts.
///
/// Which samples are held out depends on the seed alone (and on the labels, if stratified); both parts keep the
/// order of the data set.
///
/// ```
/// use versant_data::{Split, digits};
/// let parts = Split::new(0.2).seed(1).stratified(true).apply(&digits::embedded()?)?;
/// assert_eq!((parts.train.len(), parts.test.len()), (1438, 359));
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Split {
    fraction: f64,
    seed: u64,
    stratified: bool,
}

impl Split {
    /// Holds out this fraction of the samples, from 0 to 1, rounded to a whole number of them.
    pub fn new(test_fraction: f64) -> Split {
        Split { fraction: test_fraction, seed: 0, stratified: false }
    }

    /// Draws with this seed (0 unless said otherwise).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Whether each class is held out in the same proportion, as nearly as whole samples allow.
    pub fn stratified(mut self, stratified: bool) -> Self {
        self.stratified = stratified;
        self
    }

    /// The two parts.
    ///
    /// # Errors
    /// [`DataError::Option`] if the fraction is not from 0 to 1.
    pub fn apply(&self, data: &Dataset) -> Result<Parts> {
        let fold = self.indices(data.labels())?;
        Ok(Parts { train: data.subset(&fold.train)?, test: data.subset(&fold.test)? })
    }

    /// The numbers of the samples of both parts, for data of any kind; the labels matter if stratified.
    ///
    /// # Errors
    /// As [`Split::apply`].
    pub fn indices(&self, labels: &[i32]) -> Result<Fold> {
        if !(0.0..=1.0).contains(&self.fraction) {
            return Err(DataError::Option {
                option: "test fraction",
                value: self.fraction.to_string(),
                rule: "from 0 to 1",
            });
        }
        let key = RandomKey::new(self.seed).split("split");
        let (names, strata): (Vec<i32>, Vec<Vec<usize>>) = if self.stratified {
            sampling::strata(labels).into_iter().unzip()
        } else {
            (vec![0], vec![(0..labels.len()).collect()])
        };
        let mut held_out = vec![false; labels.len()];
        for ((&name, members), take) in names.iter().zip(&strata).zip(self.sizes(&strata)) {
            let order = random::permutation(key.fold(name as u64).words(), members.len());
            for &at in &order[..take] {
                held_out[members[at]] = true;
            }
        }
        Ok(Fold::held_out(&held_out))
    }

    /// How many of each group to hold out: the fraction rounded down, then one more of those with the largest
    /// remainders (of equal ones, the first) until the whole is the rounded fraction of all.
    fn sizes(&self, strata: &[Vec<usize>]) -> Vec<usize> {
        let exact = |n: usize| n as f64 * self.fraction;
        let mut sizes: Vec<usize> = strata.iter().map(|s| exact(s.len()) as usize).collect();
        let all: usize = strata.iter().map(Vec::len).sum();
        let missing = (exact(all).round() as usize).saturating_sub(sizes.iter().sum());
        let remainder = |&i: &usize| exact(strata[i].len()).fract();
        let mut order: Vec<usize> = (0..strata.len()).collect();
        order.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)));
        for &i in order.iter().take(missing) {
            sizes[i] = (sizes[i] + 1).min(strata[i].len());
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Images;

    /// Sample `i` has pixel `i` and belongs to class 0, 1 or 2 in the proportion 5 : 3 : 2.
    fn set(n: usize) -> Dataset {
        let pixels = (0..n).map(|i| i as f32).collect();
        let labels = (0..n).map(|i| [0, 1, 0, 2, 0, 1, 0, 1, 0, 2][i % 10]).collect();
        let images = Images::from_values(pixels, [n, 1, 1, 1]).unwrap();
        Dataset::new(images, labels, ["a", "b", "c"]).unwrap()
    }

    fn members(data: &Dataset) -> Vec<usize> {
        let pixel = |i| data.images().get(i).unwrap().data()[0] as usize;
        (0..data.len()).map(pixel).collect()
    }

    #[test]
    fn every_sample_is_in_exactly_one_part() {
        for stratified in [false, true] {
            for fraction in [0.0, 0.1, 0.33, 0.5, 1.0] {
                let split = Split::new(fraction).seed(5).stratified(stratified);
                let parts = split.apply(&set(100)).unwrap();
                assert_eq!(parts.test.len(), (100.0 * fraction).round() as usize);
                let (train, test) = (members(&parts.train), members(&parts.test));
                assert!(train.is_sorted() && test.is_sorted());
                let mut all = [train, test].concat();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..100));
            }
        }
    }

    #[test]
    fn strata_keep_their_proportions() {
        let split = |n, f| Split::new(f).stratified(true).apply(&set(n)).unwrap();
        assert_eq!(split(100, 0.2).test.class_counts(), [10, 6, 4]);
        // 1.25, 0.75 and 0.5 of them: two whole ones by the largest remainders, and 3 in all.
        assert_eq!(split(10, 0.25).test.class_counts(), [1, 1, 1]);
    }

    #[test]
    fn seeds_decide_and_bad_fractions_are_errors() {
        let test = |seed| members(&Split::new(0.3).seed(seed).apply(&set(50)).unwrap().test);
        assert_eq!(test(1), test(1));
        assert_ne!(test(1), test(2));
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(Split::new(bad).apply(&set(10)).is_err());
        }
        assert!(Split::new(0.5).apply(&set(0)).unwrap().test.is_empty());
    }
}
