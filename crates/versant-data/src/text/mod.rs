//! Text as numbers: words and characters, vocabularies, byte pairs, padding and windows.
//!
//! ```
//! use versant_data::text::{Vocabulary, pad, words};
//! let texts = ["The dog barks.", "The cat!"].map(words);
//! let vocabulary = Vocabulary::build(texts.iter().flatten(), 1, 100);
//! let ids: Vec<Vec<i32>> = texts.iter().map(|text| vocabulary.encode(text)).collect();
//! let batch = pad(&ids, Vocabulary::PAD);
//! assert_eq!((batch.shape(), batch.lengths()), ([2, 4], &[4, 3][..]));
//! assert_eq!(vocabulary.encode(&words("The bird")), [2, 1]); // "the" is the most frequent; a bird is unknown.
//! ```

#[cfg(feature = "bpe")]
mod bpe;
mod padding;
mod vocabulary;
mod windows;

#[cfg(feature = "bpe")]
pub use bpe::BytePairs;
pub use padding::{Padded, by_length, pad};
pub use vocabulary::{Characters, Vocabulary, words};
pub use windows::{Streams, Windows};
