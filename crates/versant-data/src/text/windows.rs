//! Pieces of one long sequence, for language models: the target of every token is the next one.

use versant_graph::{Device, Tensor};

use crate::error::{DataError, Result};

fn short(tokens: usize, needed: usize) -> Result<()> {
    if needed >= 2 && tokens >= needed {
        return Ok(());
    }
    Err(DataError::Option {
        option: "tokens",
        value: format!("{tokens} for {needed}"),
        rule: "at least one window or step of length 1 or more, and one token after it",
    })
}

/// Windows of one length, in any order: for models without state.
///
/// ```
/// use versant_data::text::Windows;
/// let windows = Windows::new(vec![0, 1, 2, 3, 4, 5, 6], 3)?;
/// assert_eq!(windows.len(), 2); // Beginning at 0 and 3; the last token is a target only.
/// assert_eq!(windows.batch(&[1, 0])?, (vec![3, 4, 5, 0, 1, 2], vec![4, 5, 6, 1, 2, 3]));
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Windows {
    tokens: Vec<i32>,
    length: usize,
}

impl Windows {
    /// Windows that follow each other; what is left at the end is not used.
    ///
    /// # Errors
    /// [`DataError::Option`] for fewer tokens than `length + 1`, or a length of 0.
    pub fn new(tokens: Vec<i32>, length: usize) -> Result<Windows> {
        short(tokens.len(), length.saturating_add(1))?;
        Ok(Windows { tokens, length })
    }

    /// Number of windows, at least 1. [`sampling::batches`](crate::sampling::batches) shuffles their numbers.
    pub fn len(&self) -> usize {
        (self.tokens.len() - 1) / self.length
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The windows with these numbers and their targets, both `[windows.len(), length]`, row-major.
    ///
    /// # Errors
    /// [`DataError::Index`].
    pub fn batch(&self, windows: &[usize]) -> Result<(Vec<i32>, Vec<i32>)> {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for &index in windows {
            if index >= self.len() {
                return Err(DataError::Index { index, len: self.len() });
            }
            let start = index * self.length;
            x.extend_from_slice(&self.tokens[start..start + self.length]);
            y.extend_from_slice(&self.tokens[start + 1..start + 1 + self.length]);
        }
        Ok((x, y))
    }

    /// [`Windows::batch`] as tensors.
    ///
    /// # Errors
    /// As [`Windows::batch`].
    #[track_caller]
    pub fn batch_on(&self, device: &Device, windows: &[usize]) -> Result<(Tensor, Tensor)> {
        let (x, y) = self.batch(windows)?;
        let shape = [windows.len(), self.length];
        Ok((Tensor::from_slice(device, &x, &shape), Tensor::from_slice(device, &y, &shape)))
    }
}

/// Parallel streams through one long sequence, step by step, so that a recurrent model's state carries on from each step
/// to the next: truncated backpropagation through time.
///
/// ```
/// use versant_data::text::Streams;
/// let streams = Streams::new((0..13).collect(), 2, 3)?; // Two streams of six tokens, in steps of three.
/// assert_eq!(streams.steps(), 2);
/// assert_eq!(streams.step(1)?, (vec![3, 4, 5, 9, 10, 11], vec![4, 5, 6, 10, 11, 12]));
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Streams {
    tokens: Vec<i32>,
    streams: usize,
    length: usize,
}

impl Streams {
    /// `streams` streams of equal length, in steps of `length` tokens; what is left at the end is not used.
    ///
    /// # Errors
    /// [`DataError::Option`] for fewer tokens than one step of all streams and one more, or numbers of 0.
    pub fn new(tokens: Vec<i32>, streams: usize, length: usize) -> Result<Streams> {
        short(tokens.len(), streams.saturating_mul(length).saturating_add(1))?;
        Ok(Streams { tokens, streams, length })
    }

    /// Number of steps, at least 1.
    pub fn steps(&self) -> usize {
        (self.tokens.len() - 1) / self.streams / self.length
    }

    /// The tokens and targets of a step, both `[streams, length]`, row-major.
    ///
    /// # Errors
    /// [`DataError::Index`].
    pub fn step(&self, step: usize) -> Result<(Vec<i32>, Vec<i32>)> {
        if step >= self.steps() {
            return Err(DataError::Index { index: step, len: self.steps() });
        }
        let stream = (self.tokens.len() - 1) / self.streams;
        let starts = (0..self.streams).map(|s| s * stream + step * self.length);
        let gather = |shift: usize| {
            let piece = |start: usize| &self.tokens[start + shift..start + shift + self.length];
            starts.clone().flat_map(piece).copied().collect()
        };
        Ok((gather(0), gather(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_that_are_too_short_are_errors() {
        for (tokens, length) in [(0, 1), (1, 1), (3, 3), (5, 0), (5, usize::MAX)] {
            assert!(Windows::new(vec![0; tokens], length).is_err(), "{tokens} by {length}");
            assert!(Streams::new(vec![0; tokens], 1, length).is_err());
            assert!(Streams::new(vec![0; tokens], length, 1).is_err());
        }
        let windows = Windows::new(vec![1, 2], 1).unwrap();
        assert!(matches!(windows.batch(&[1]), Err(DataError::Index { index: 1, len: 1 })));
        let (x, y) = windows.batch_on(&Device::cpu(), &[0, 0]).unwrap();
        assert_eq!((x.shape(), y.to_vec::<i32>().unwrap()), (&[2, 1][..], vec![2, 2]));
        assert!(Streams::new(vec![0; 9], 2, 4).unwrap().step(1).is_err());
    }

    proptest! {
        #[test]
        fn targets_are_the_next_tokens(n in 2i32..200, streams in 1usize..6, length in 1usize..9) {
            let tokens: Vec<i32> = (0..n).collect();
            if let Ok(windows) = Windows::new(tokens.clone(), length) {
                let all: Vec<usize> = (0..windows.len()).collect();
                let (x, y) = windows.batch(&all).unwrap();
                prop_assert!(x.iter().copied().eq(0..x.len() as i32));
                prop_assert!(x.iter().zip(&y).all(|(x, y)| x + 1 == *y));
                prop_assert!(tokens.len() - 1 - x.len() < length);
            }
            if let Ok(streams) = Streams::new(tokens, streams, length) {
                let mut last: Option<Vec<i32>> = None;
                for step in 0..streams.steps() {
                    let (x, y) = streams.step(step).unwrap();
                    prop_assert!(x.iter().zip(&y).all(|(x, y)| x + 1 == *y));
                    // Each stream begins where its last step ended.
                    let begins = x.iter().step_by(length).copied().collect::<Vec<i32>>();
                    prop_assert!(last.is_none_or(|last| last == begins));
                    last = Some(y.iter().skip(length - 1).step_by(length).copied().collect());
                }
            }
        }
    }
}
