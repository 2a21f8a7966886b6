//! Byte-pair encoding, by Hugging Face's `tokenizers`.

use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

use crate::error::{DataError, Result};

/// Text as numbers of frequent pieces: no text is unknown, because every byte is a piece (Sennrich et al., "Neural
/// Machine Translation of Rare Words with Subword Units", 2015, over bytes as GPT-2 does).
///
/// ```
/// use versant_data::text::BytePairs;
/// let pieces = BytePairs::train(["low lower lowest slow slower"; 20], 270, &["<pad>", "<end>"])?;
/// let ids = pieces.encode("lower than ever")?;
/// assert_eq!(pieces.decode(&ids)?, "lower than ever");
/// assert!(pieces.encode("lower")?.len() < 5);
/// assert_eq!(pieces.id("<end>"), Some(1));
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BytePairs {
    tokenizer: Tokenizer,
}

impl BytePairs {
    /// Learns up to `size` pieces from texts: the special tokens, numbered from 0 on, all 256 bytes, and then the most
    /// frequent pairs of pieces, over and over.
    ///
    /// # Errors
    /// [`DataError::Custom`] with what the trainer said.
    pub fn train<S: AsRef<str> + Send>(
        texts: impl IntoIterator<Item = S, IntoIter: Send>,
        size: usize,
        specials: &[&str],
    ) -> Result<BytePairs> {
        let mut tokenizer = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None::<tokenizers::normalizers::NFC>)
            .with_pre_tokenizer(Some(byte_level()))
            .with_post_processor(None::<ByteLevel>)
            .with_decoder(Some(byte_level()))
            .build()
            .map_err(DataError::Custom)?;
        let mut trainer = BpeTrainer::builder()
            .vocab_size(size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(specials.iter().map(|text| AddedToken::from(*text, true)).collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        tokenizer.train(&mut trainer, texts.into_iter()).map_err(DataError::Custom)?;
        Ok(BytePairs { tokenizer: tokenizer.into() })
    }

    /// Reads a `tokenizer.json`, as published with models.
    ///
    /// # Errors
    /// [`DataError::Read`] and [`DataError::Custom`].
    pub fn read(path: impl AsRef<Path>) -> Result<BytePairs> {
        let bytes = crate::file::read(path.as_ref(), crate::file::DEFAULT_LIMIT)?;
        Ok(BytePairs { tokenizer: Tokenizer::from_bytes(bytes).map_err(DataError::Custom)? })
    }

    /// Writes a `tokenizer.json`.
    ///
    /// # Errors
    /// [`DataError::Custom`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.tokenizer.save(path, false).map_err(DataError::Custom)
    }

    /// Number of pieces, special tokens included.
    pub fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a piece or special token.
    pub fn id(&self, token: &str) -> Option<i32> {
        self.tokenizer.token_to_id(token).and_then(|id| i32::try_from(id).ok())
    }

    /// The numbers of a text's pieces; a special token in the text becomes its number.
    ///
    /// # Errors
    /// [`DataError::Custom`].
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(DataError::Custom)?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
    }

    /// The text of numbers, without special tokens.
    ///
    /// # Errors
    /// [`DataError::Label`] for a number of no piece, [`DataError::Custom`].
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        crate::dataset::check_labels("piece number", ids, self.len())?;
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        self.tokenizer.decode(&ids, true).map_err(DataError::Custom)
    }
}

/// Bytes as characters, split into words by GPT-2's rule.
fn byte_level() -> ByteLevel {
    ByteLevel::default().add_prefix_space(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_files_keep_the_pieces() {
        let texts = ["the whale, the white whale", "whaling in the north"];
        let pieces = BytePairs::train(texts.repeat(10), 300, &["<pad>"]).unwrap();
        assert!((258..=300).contains(&pieces.len()), "{}", pieces.len());
        for text in ["", "the whale", "Übermut 🙂\n\t x", " leading"] {
            assert_eq!(pieces.decode(&pieces.encode(text).unwrap()).unwrap(), text);
        }
        assert!(pieces.encode("the whale").unwrap().len() <= 3);
        assert_eq!(pieces.encode("a<pad>").unwrap()[1], 0);
        assert!(pieces.decode(&[-1]).is_err() && pieces.decode(&[pieces.len() as i32]).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        pieces.save(&path).unwrap();
        let again = BytePairs::read(&path).unwrap();
        assert_eq!(again.encode("white whales").unwrap(), pieces.encode("white whales").unwrap());
        std::fs::write(&path, b"{\"model\":").unwrap();
        assert!(BytePairs::read(&path).is_err() && BytePairs::read(dir.path()).is_err());
    }
}
