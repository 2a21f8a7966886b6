//! Predicted text: perplexity and edit distances.

use super::check_finite;
use crate::dataset::check_lengths;
use crate::error::{DataError, Result};

/// `exp` of the mean negative log-likelihood per token, in nats: how many tokens the model hesitates between.
///
/// ```
/// let quarter = 0.25f32.ln();
/// assert!((versant_data::metrics::perplexity(&[quarter; 3])? - 4.0).abs() < 1e-6);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Empty`], and [`DataError::Option`] for a value that is not finite.
pub fn perplexity(log_probabilities: &[f32]) -> Result<f64> {
    check_finite("log-probabilities", log_probabilities)?;
    let mean = log_probabilities.iter().map(|&p| f64::from(p)).sum::<f64>() / log_probabilities.len() as f64;
    Ok(libm::exp(-mean))
}

/// The edits that make a reference of a hypothesis, as few as possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EditErrors {
    /// Elements replaced by another.
    pub substitutions: usize,
    /// Elements of the reference that the hypothesis lacks.
    pub deletions: usize,
    /// Elements of the hypothesis that the reference lacks.
    pub insertions: usize,
    /// Elements of the reference.
    pub reference: usize,
}

impl EditErrors {
    /// All edits: the Levenshtein distance.
    pub fn total(&self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// All edits for each element of the reference, which is above 1 for bad hypotheses; `None` if the reference is
    /// empty.
    pub fn rate(&self) -> Option<f64> {
        (self.reference > 0).then(|| self.total() as f64 / self.reference as f64)
    }

    fn add(&mut self, other: EditErrors) {
        self.substitutions += other.substitutions;
        self.deletions += other.deletions;
        self.insertions += other.insertions;
        self.reference += other.reference;
    }
}

/// The fewest edits between two sequences (Levenshtein, 1966), by dynamic programming over one row: time
/// `hypothesis × reference`, memory `reference`. Of equally short ways, the one with the most substitutions.
///
/// ```
/// use versant_data::metrics::edit_errors;
/// let errors = edit_errors(b"sitting", b"kitten");
/// assert_eq!((errors.substitutions, errors.insertions, errors.total()), (2, 1, 3));
/// ```
pub fn edit_errors<T: PartialEq>(hypothesis: &[T], reference: &[T]) -> EditErrors {
    // Cell r of a row: the edits between the hypothesis so far and the first r elements of the reference.
    let mut row: Vec<EditErrors> =
        (0..=reference.len()).map(|r| EditErrors { deletions: r, ..Default::default() }).collect();
    for (h, element) in hypothesis.iter().enumerate() {
        let mut diagonal = row[0];
        row[0].insertions = h + 1;
        for (r, wanted) in reference.iter().enumerate() {
            let mut best = diagonal;
            best.substitutions += usize::from(element != wanted);
            let mut inserted = row[r + 1];
            inserted.insertions += 1;
            let mut deleted = row[r];
            deleted.deletions += 1;
            for other in [inserted, deleted] {
                if other.total() < best.total() {
                    best = other;
                }
            }
            diagonal = std::mem::replace(&mut row[r + 1], best);
        }
    }
    EditErrors { reference: reference.len(), ..row[reference.len()] }
}

/// Edits between words (separated by white space) over all pairs; its [`rate`](EditErrors::rate) is the word error
/// rate.
///
/// ```
/// use versant_data::metrics::word_errors;
/// let errors = word_errors(&["the cat sat", "a dog"], &["the cat sat down", "the dog"])?;
/// assert_eq!(errors.rate(), Some(2.0 / 6.0));
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Lengths`] and [`DataError::Empty`].
pub fn word_errors<S: AsRef<str>>(hypotheses: &[S], references: &[S]) -> Result<EditErrors> {
    sum(hypotheses, references, |text| text.split_whitespace().collect())
}

/// Edits between Unicode scalar values over all pairs; its [`rate`](EditErrors::rate) is the character error rate.
///
/// # Errors
/// As [`word_errors`].
pub fn character_errors<S: AsRef<str>>(hypotheses: &[S], references: &[S]) -> Result<EditErrors> {
    sum(hypotheses, references, |text| text.chars().collect())
}

fn sum<'a, S: AsRef<str>, T: PartialEq>(
    hypotheses: &'a [S],
    references: &'a [S],
    split: impl Fn(&'a str) -> Vec<T>,
) -> Result<EditErrors> {
    check_lengths(("hypotheses", hypotheses.len()), ("references", references.len()))?;
    if references.is_empty() {
        return Err(DataError::Empty { what: "error rate" });
    }
    let mut all = EditErrors::default();
    for (hypothesis, reference) in hypotheses.iter().zip(references) {
        all.add(edit_errors(&split(hypothesis.as_ref()), &split(reference.as_ref())));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The distance by its recursive definition.
    fn slow(a: &[u8], b: &[u8]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([x, a1 @ ..], [y, b1 @ ..]) => {
                let diagonal = slow(a1, b1) + usize::from(x != y);
                diagonal.min(slow(a1, b) + 1).min(slow(a, b1) + 1)
            }
        }
    }

    #[test]
    fn empty_sides() {
        assert_eq!(edit_errors::<u8>(&[], &[]).rate(), None);
        assert_eq!(edit_errors(b"ab", b"").insertions, 2);
        let lacking = edit_errors(b"", b"abc");
        assert_eq!((lacking.deletions, lacking.rate()), (3, Some(1.0)));
        assert!(word_errors::<&str>(&[], &[]).is_err() && word_errors(&["a"], &[]).is_err());
        assert_eq!(character_errors(&["grün"], &["grau"]).unwrap().total(), 2);
        assert!(perplexity(&[]).is_err() && perplexity(&[f32::NEG_INFINITY]).is_err());
    }

    proptest! {
        #[test]
        fn edits_are_fewest_and_add_up(
            a in proptest::collection::vec(0..3u8, 0..7), b in proptest::collection::vec(0..3u8, 0..7),
        ) {
            let errors = edit_errors(&a, &b);
            prop_assert_eq!(errors.total(), slow(&a, &b));
            prop_assert_eq!(a.len() + errors.deletions, b.len() + errors.insertions);
        }
    }
}
