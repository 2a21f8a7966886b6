//! Sequences of different lengths as rectangles.

use versant_graph::{Device, RandomKey, Tensor, random};

/// Sequences of one length, the ends filled up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Padded {
    ids: Vec<i32>,
    lengths: Vec<usize>,
    longest: usize,
}

/// Fills sequences up to the longest of them.
///
/// ```
/// let batch = versant_data::text::pad(&[vec![5, 6, 7], vec![8]], 0);
/// assert_eq!((batch.shape(), batch.ids()), ([2, 3], &[5, 6, 7, 8, 0, 0][..]));
/// assert_eq!(batch.mask(), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
/// ```
pub fn pad<S: AsRef<[i32]>>(sequences: &[S], fill: i32) -> Padded {
    let lengths: Vec<usize> = sequences.iter().map(|s| s.as_ref().len()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut ids = Vec::with_capacity(longest * lengths.len());
    for (row, sequence) in sequences.iter().enumerate() {
        ids.extend_from_slice(sequence.as_ref());
        ids.resize((row + 1) * longest, fill);
    }
    Padded { ids, lengths, longest }
}

impl Padded {
    /// `[sequences, longest]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.lengths.len(), self.longest]
    }

    /// All numbers, row-major.
    pub fn ids(&self) -> &[i32] {
        &self.ids
    }

    /// The length of each sequence without its filling.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// 1 for what belongs to a sequence and 0 for the filling, row-major.
    pub fn mask(&self) -> Vec<f32> {
        let row = |&length: &usize| (0..self.longest).map(move |at| f32::from(u8::from(at < length)));
        self.lengths.iter().flat_map(row).collect()
    }

    /// The numbers, i32, and the mask, f32, both `[sequences, longest]`, as tensors.
    #[track_caller]
    pub fn on(&self, device: &Device) -> (Tensor, Tensor) {
        let shape = self.shape();
        (Tensor::from_slice(device, &self.ids, &shape), Tensor::from_slice(device, &self.mask(), &shape))
    }
}

/// Batches of sequences of like length, so that little is filled up: shuffled by seed and epoch, sorted by length within
/// stretches of 50 batches, cut, and the batches shuffled. Every sequence comes once; there are no batches if `batch`
/// is 0.
///
/// ```
/// use versant_data::text::by_length;
/// let lengths: Vec<usize> = (0..1000).map(|i| i * 7 % 100).collect();
/// let batches = by_length(&lengths, 20, 1, 0);
/// let filled: usize = batches.iter().map(|b| 20 * b.iter().map(|&i| lengths[i]).max().unwrap_or(0)).sum();
/// assert!(filled < 2 * lengths.iter().sum::<usize>() * 6 / 10);
/// ```
pub fn by_length(lengths: &[usize], batch: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    if batch == 0 {
        return Vec::new();
    }
    let key = RandomKey::new(seed).split("by length").fold(epoch);
    let order = random::permutation(key.words(), lengths.len());
    let mut batches = Vec::new();
    for stretch in order.chunks(batch.saturating_mul(50)) {
        let mut stretch = stretch.to_vec();
        stretch.sort_by_key(|&i| lengths[i]);
        batches.extend(stretch.chunks(batch).map(<[usize]>::to_vec));
    }
    let order = random::permutation(key.split("batches").words(), batches.len());
    order.into_iter().map(|at| std::mem::take(&mut batches[at])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn empty_batches_and_sequences() {
        assert_eq!(pad::<Vec<i32>>(&[], 9).shape(), [0, 0]);
        let one = pad(&[vec![], vec![3]], 9);
        assert_eq!((one.ids(), one.lengths()), (&[9, 3][..], &[0, 1][..]));
        let (ids, mask) = one.on(&Device::cpu());
        assert_eq!(ids.to_vec::<i32>().unwrap(), [9, 3]);
        assert_eq!(mask.to_vec::<f32>().unwrap(), [0.0, 1.0]);
        assert!(by_length(&[1, 2], 0, 0, 0).is_empty() && by_length(&[], 3, 0, 0).is_empty());
    }

    proptest! {
        #[test]
        fn every_sequence_comes_once(
            lengths in proptest::collection::vec(0usize..30, 0..200), batch in 1usize..9, seed in any::<u64>(),
        ) {
            let batches = by_length(&lengths, batch, seed, 1);
            prop_assert_eq!(&batches, &by_length(&lengths, batch, seed, 1));
            prop_assert!(batches.iter().all(|b| (1..=batch).contains(&b.len())));
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..lengths.len()));
        }
    }
}
