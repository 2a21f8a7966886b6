//! Masking stripes of spectrograms.

use super::features::Features;
use crate::transform::SampleRng;

/// Replaces random stripes of frames and of frequencies (Park et al., "SpecAugment", 2019, without its warping).
///
/// ```
/// use versant_data::SampleRng;
/// use versant_data::audio::{Features, SpecMask};
/// let mut mel = Features::new(vec![1.0; 100 * 40], [100, 40])?;
/// let mask = SpecMask::new().frequencies(2, 8).frames(2, 20);
/// mask.apply(&mut mel, &mut SampleRng::new(1, 0, 7)); // Seed, epoch, number of the sample.
/// let kept = mel.values().iter().filter(|&&v| v == 1.0).count();
/// assert!((60 * 24..4000).contains(&kept));
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SpecMask {
    frames: (usize, usize),
    bins: (usize, usize),
    fill: f32,
}

impl SpecMask {
    /// No stripes yet.
    pub fn new() -> SpecMask {
        SpecMask::default()
    }

    /// `count` stripes of up to `width` neighbouring frames.
    pub fn frames(mut self, count: usize, width: usize) -> Self {
        self.frames = (count, width);
        self
    }

    /// `count` stripes of up to `width` neighbouring frequencies.
    pub fn frequencies(mut self, count: usize, width: usize) -> Self {
        self.bins = (count, width);
        self
    }

    /// What masked values become: 0 unless said otherwise, which is the mean of normalised features.
    pub fn fill(mut self, value: f32) -> Self {
        self.fill = value;
        self
    }

    /// Masks in place. A stripe's width is drawn from `0..=width`, but not more than there is, its place from all
    /// where it fits.
    pub fn apply(&self, features: &mut Features, rng: &mut SampleRng) {
        let [frames, bins] = features.shape();
        let mut stripe = |width: usize, extent: usize| {
            let width = rng.below(width.min(extent) + 1);
            let start = rng.below(extent - width + 1);
            start..start + width
        };
        let masked_bins: Vec<_> = (0..self.bins.0).map(|_| stripe(self.bins.1, bins)).collect();
        let masked_frames: Vec<_> = (0..self.frames.0).map(|_| stripe(self.frames.1, frames)).collect();
        for (frame, values) in features.values_mut().chunks_exact_mut(bins).enumerate() {
            if masked_frames.iter().any(|stripe| stripe.contains(&frame)) {
                values.fill(self.fill);
            }
            masked_bins.iter().for_each(|stripe| values[stripe.clone()].fill(self.fill));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_are_whole_and_no_wider_than_asked() {
        let mut widths = [0; 4];
        for sample in 0..200 {
            let mut features = Features::new(vec![1.0; 12 * 5], [12, 5]).unwrap();
            SpecMask::new()
                .frequencies(1, 3)
                .fill(7.0)
                .apply(&mut features, &mut SampleRng::new(1, 0, sample));
            let first: Vec<f32> = features.values()[..5].to_vec();
            assert!(features.values().chunks(5).all(|frame| frame == first));
            widths[first.iter().filter(|&&v| v == 7.0).count()] += 1;
        }
        assert!(widths.iter().all(|&n: &i32| (n - 50).abs() < 25), "{widths:?}");
        let mut wide = Features::new(vec![1.0; 4], [2, 2]).unwrap();
        let all = SpecMask::new().frames(60, usize::MAX - 1).frequencies(60, 9);
        all.apply(&mut wide, &mut SampleRng::new(0, 0, 0));
        assert_eq!(wide.values(), [0.0; 4]);
        let mut empty = Features::new(vec![], [0, 2]).unwrap();
        all.apply(&mut empty, &mut SampleRng::new(0, 0, 0));
    }
}
