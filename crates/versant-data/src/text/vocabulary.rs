//! Words and characters as numbers.

use std::collections::{BTreeMap, HashMap};

use crate::error::{DataError, Result};

/// The words of a text in lower case: runs of letters, digits and apostrophes; every other character that is no white
/// space stands alone, because `!` and `:)` carry sentiment.
///
/// ```
/// assert_eq!(versant_data::text::words("Isn't it 2 GOOD?!"), ["isn't", "it", "2", "good", "?", "!"]);
/// ```
pub fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut inside = false;
    for c in text.chars() {
        let part = c.is_alphanumeric() || c == '\'';
        if part && inside {
            out.last_mut().expect("inside a word").extend(c.to_lowercase());
        } else if !c.is_whitespace() {
            out.push(c.to_lowercase().collect());
        }
        inside = part;
    }
    out
}

/// The tokens that have numbers of their own; 0 is for padding and 1 for everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, i32>,
}

impl Vocabulary {
    /// The number of padding.
    pub const PAD: i32 = 0;
    /// The number of a token that has none of its own.
    pub const UNKNOWN: i32 = 1;

    /// The tokens that occur at least `least` times, at most `most` of them, the most frequent first and of equally
    /// frequent ones in their own order, numbered from 2 on.
    pub fn build<S: AsRef<str>>(
        tokens: impl IntoIterator<Item = S>,
        least: usize,
        most: usize,
    ) -> Vocabulary {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for token in tokens {
            match counts.get_mut(token.as_ref()) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(token.as_ref().to_owned(), 1);
                }
            }
        }
        let mut frequent: Vec<(String, usize)> = counts.into_iter().filter(|(_, n)| *n >= least).collect();
        // Stable, so that the order of the map remains among equals.
        frequent.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        frequent.truncate(most.min(i32::MAX as usize - 2));
        Vocabulary::of(frequent.into_iter().map(|(token, _)| token).collect())
    }

    fn of(own: Vec<String>) -> Vocabulary {
        let tokens: Vec<String> = ["<pad>", "<unknown>"].map(str::to_owned).into_iter().chain(own).collect();
        // Numbered by place; a text that looks like a special token does not become one.
        let ids = tokens.iter().cloned().zip(0..).skip(2).collect();
        Vocabulary { tokens, ids }
    }

    /// Number of tokens with padding and unknown: the rows of an embedding.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never: padding and unknown are always there.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The number of a token.
    pub fn id(&self, token: &str) -> i32 {
        self.ids.get(token).copied().unwrap_or(Self::UNKNOWN)
    }

    /// The token with this number.
    pub fn token(&self, id: i32) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    /// The numbers of tokens.
    pub fn encode<S: AsRef<str>>(&self, tokens: &[S]) -> Vec<i32> {
        tokens.iter().map(|token| self.id(token.as_ref())).collect()
    }
}

/// Every character of a text as a number, from 0 on in the order of Unicode.
///
/// ```
/// use versant_data::text::Characters;
/// let characters = Characters::of("abacus");
/// assert_eq!(characters.encode("cab")?, [2, 0, 1]);
/// assert_eq!(characters.decode(&[4, 3, 0])?, "usa");
/// assert!(characters.encode("x").is_err());
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Characters {
    characters: Vec<char>,
}

impl Characters {
    /// The characters that occur in a text.
    pub fn of(text: &str) -> Characters {
        let mut characters: Vec<char> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        Characters { characters }
    }

    /// Number of different characters.
    pub fn len(&self) -> usize {
        self.characters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.characters.is_empty()
    }

    /// The numbers of a text's characters.
    ///
    /// # Errors
    /// [`DataError::Option`] for a character that has none.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let id = |c: char| match self.characters.binary_search(&c) {
            Ok(at) => Ok(at as i32),
            Err(_) => Err(DataError::Option {
                option: "character",
                value: format!("{c:?}"),
                rule: "must occur in the text that the numbers were made of",
            }),
        };
        text.chars().map(id).collect()
    }

    /// The text of numbers.
    ///
    /// # Errors
    /// [`DataError::Label`] for a number of no character.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        crate::dataset::check_labels("character number", ids, self.characters.len())?;
        Ok(ids.iter().map(|&id| self.characters[id as usize]).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frequent_tokens_come_first_and_rare_ones_are_unknown() {
        let text = words("b a b c a b <pad> <unknown> d");
        let vocabulary = Vocabulary::build(&text, 1, 100);
        assert_eq!(vocabulary.encode(&["b", "a", "<pad>", "zebra"]), [2, 5, 1, 1]);
        assert_eq!(
            (vocabulary.token(2), vocabulary.token(-1), vocabulary.token(99)),
            (Some("b"), None, None)
        );
        let small = Vocabulary::build(&text, 2, 2);
        // The brackets occur twice each and come before "a" in Unicode.
        assert_eq!((small.len(), small.token(3)), (4, Some("<")));
        assert_eq!(Vocabulary::build([""; 0], 1, 9).len(), 2);
        assert_eq!(words("  ÄÖ-ü\t🙂x "), ["äö", "-", "ü", "🙂", "x"]);
    }

    proptest! {
        #[test]
        fn characters_come_back(text in "\\PC{0,40}") {
            let characters = Characters::of(&text);
            let ids = characters.encode(&text).unwrap();
            prop_assert_eq!(characters.decode(&ids).unwrap(), text);
            prop_assert!(characters.decode(&[characters.len() as i32]).is_err());
        }
    }
}
