//! BLEU as sacreBLEU computes it by default.

use std::collections::HashMap;

use crate::dataset::check_lengths;
use crate::error::{DataError, Result};

/// The longest n-gram.
const ORDER: usize = 4;

/// A corpus BLEU and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bleu {
    /// From 0 to 100.
    pub score: f64,
    /// Clipped n-gram precisions for n = 1 to 4, in percent, smoothed.
    pub precisions: [f64; ORDER],
    /// `exp(1 - references / hypotheses)` where the hypotheses are shorter, else 1.
    pub brevity_penalty: f64,
    /// Tokens of all hypotheses.
    pub hypothesis_length: usize,
    /// Tokens of the references that are closest in length, of equally close ones the shorter.
    pub reference_length: usize,
}

/// BLEU-4 of a corpus with one or more references for each sentence (Papineni et al., 2002), with tokenizer `13a`
/// and exponential smoothing of precisions that would be 0 (Chen and Cherry, 2014, method 3), which are sacreBLEU's
/// defaults (Post, "A Call for Clarity in Reporting BLEU Scores", 2018).
///
/// ```
/// use versant_data::metrics::bleu;
/// let score = bleu(&["The cat sat on the mat."], &[vec!["The cat sat on the mat."]])?;
/// assert!((score.score - 100.0).abs() < 1e-9);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Lengths`], and [`DataError::Empty`] without hypotheses or where a sentence has no reference.
pub fn bleu<S: AsRef<str>>(hypotheses: &[S], references: &[Vec<S>]) -> Result<Bleu> {
    check_lengths(("hypotheses", hypotheses.len()), ("references", references.len()))?;
    if hypotheses.is_empty() || references.iter().any(Vec::is_empty) {
        return Err(DataError::Empty { what: "BLEU" });
    }
    let (mut matches, mut totals) = ([0u64; ORDER], [0u64; ORDER]);
    let (mut hypothesis_length, mut reference_length) = (0, 0);
    for (hypothesis, references) in hypotheses.iter().zip(references) {
        let hypothesis = tokenize_13a(hypothesis.as_ref());
        let references: Vec<Vec<String>> = references.iter().map(|r| tokenize_13a(r.as_ref())).collect();
        hypothesis_length += hypothesis.len();
        let lengths = references.iter().map(Vec::len);
        let closest = lengths.min_by_key(|&length| (length.abs_diff(hypothesis.len()), length));
        reference_length += closest.expect("checked: every sentence has a reference");
        for n in 1..=ORDER {
            let mut most: HashMap<&[String], u64> = HashMap::new();
            for reference in &references {
                for (gram, count) in n_grams(reference, n) {
                    let most = most.entry(gram).or_default();
                    *most = count.max(*most);
                }
            }
            for (gram, count) in n_grams(&hypothesis, n) {
                totals[n - 1] += count;
                matches[n - 1] += most.get(gram).map_or(0, |&most| count.min(most));
            }
        }
    }
    let mut smoothing = 1.0;
    let precisions = std::array::from_fn(|n| match (matches[n], totals[n]) {
        (_, 0) => 0.0,
        (0, total) => {
            smoothing *= 2.0;
            100.0 / (smoothing * total as f64)
        }
        (matches, total) => 100.0 * matches as f64 / total as f64,
    });
    let brevity_penalty = match hypothesis_length {
        0 => 0.0,
        length if length < reference_length => libm::exp(1.0 - reference_length as f64 / length as f64),
        _ => 1.0,
    };
    // A precision of 0 makes the geometric mean 0.
    let mean = precisions.iter().map(|&p| libm::log(p)).sum::<f64>() / ORDER as f64;
    let any = matches.iter().any(|&n| n > 0);
    let score = if any { brevity_penalty * libm::exp(mean) } else { 0.0 };
    Ok(Bleu { score, precisions, brevity_penalty, hypothesis_length, reference_length })
}

fn n_grams(tokens: &[String], n: usize) -> HashMap<&[String], u64> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The tokens of a line by the rules of mteval-v13a: four entities are decoded, punctuation and symbols stand alone,
/// but for full stops and commas between digits and for hyphens and apostrophes.
///
/// ```
/// use versant_data::metrics::tokenize_13a;
/// assert_eq!(tokenize_13a("It's 3,5 km, no?"), ["It's", "3,5", "km", ",", "no", "?"]);
/// ```
pub fn tokenize_13a(line: &str) -> Vec<String> {
    let mut text = line.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, character);
    }
    let alone = |c: char| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
    let digit = |c: char| c.is_ascii_digit();
    let point = |c: char| matches!(c, '.' | ',');
    let mut padded = vec![' '];
    for c in text.chars() {
        if alone(c) { padded.extend([' ', c, ' ']) } else { padded.push(c) }
    }
    padded.push(' ');
    // Three passes, each from the left and over pairs that do not overlap, as the original's substitutions are.
    let padded = pairs(&padded, |a, b| (!digit(a) && point(b)).then_some([a, ' ', b, ' ']));
    let padded = pairs(&padded, |a, b| (point(a) && !digit(b)).then_some([' ', a, ' ', b]));
    let padded = pairs(&padded, |a, b| (digit(a) && b == '-').then_some([a, ' ', b, ' ']));
    let text: String = padded.into_iter().collect();
    text.split_whitespace().map(str::to_owned).collect()
}

fn pairs(text: &[char], rule: impl Fn(char, char) -> Option<[char; 4]>) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let replaced = text.get(at + 1).and_then(|&next| rule(text[at], next));
        match replaced {
            Some(four) => out.extend(four),
            None => out.push(text[at]),
        }
        at += if replaced.is_some() { 2 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degenerate_corpora() {
        assert!(bleu::<&str>(&[], &[]).is_err());
        assert!(bleu(&["a"], &[vec![]]).is_err() && bleu(&["a"], &[]).is_err());
        let empty = bleu(&[""], &[vec!["a b"]]).unwrap();
        assert_eq!((empty.score, empty.brevity_penalty), (0.0, 0.0));
        let nothing = bleu(&["x y z u v"], &[vec!["a b c d e"]]).unwrap();
        assert_eq!(nothing.score, 0.0);
        assert_eq!(nothing.precisions[..2], [10.0, 6.25]);
        // Three tokens have no 4-gram.
        assert_eq!(bleu(&["a b c"], &[vec!["a b c"]]).unwrap().score, 0.0);
    }
}
