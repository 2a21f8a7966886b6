//! Mixing the samples of a batch with each other, so that targets become shares of classes.

use versant_graph::random;

use crate::error::{DataError, Result};
use crate::transform::SampleRng;

/// How [`Loader::mix`](crate::Loader::mix) mixes each sample of a batch with another one, drawn at random.
///
/// What is drawn depends on the seed, the epoch and the batch's number.
///
/// ```
/// use versant_data::{Loader, Mix, digits};
/// let loader = Loader::new(digits::embedded()?).batch(50).shuffle(1).mix(Mix::Up { alpha: 0.2 });
/// let batch = loader.epoch(0)?.next().expect("digits are not empty")?;
/// let soft = batch.soft.expect("mixed"); // Shape [50, 10], and every row sums to 1.
/// assert!(soft.chunks(10).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6));
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// `λ x + (1 - λ) x'` with λ from Beta(alpha, alpha), one for a batch (Zhang et al., "mixup: Beyond Empirical
    /// Risk Minimization", 2017).
    Up {
        /// Above 0; 0.1 to 0.4 is usual.
        alpha: f64,
    },
    /// A rectangle of each sample is replaced by that of the other; λ is the part that is left, with Beta(alpha,
    /// alpha) before the rectangle is cut at the edges (Yun et al., "CutMix", 2019).
    Cut {
        /// Above 0; 1 is usual.
        alpha: f64,
    },
}

impl Mix {
    /// Mixes values of shape `[n, channels, height, width]` in place, and returns targets `[n, classes]`.
    pub(crate) fn apply(
        &self,
        x: &mut [f32],
        shape: [usize; 4],
        labels: &[i32],
        classes: usize,
        rng: &mut SampleRng,
    ) -> Result<Vec<f32>> {
        let (Mix::Up { alpha } | Mix::Cut { alpha }) = *self;
        if !(alpha.is_finite() && alpha > 0.0) {
            return Err(DataError::Option {
                option: "alpha",
                value: alpha.to_string(),
                rule: "must be finite and above 0",
            });
        }
        let [n, channels, height, width] = shape;
        let others = random::permutation(rng.key().words(), n);
        let lambda = rng.beta(alpha);
        let from = x.to_vec();
        let len = channels * height * width;
        let share = match self {
            Mix::Up { .. } => {
                for (sample, &other) in x.chunks_exact_mut(len.max(1)).zip(&others) {
                    let pairs = sample.iter_mut().zip(&from[other * len..]);
                    pairs.for_each(|(v, &other)| *v = lambda as f32 * *v + (1.0 - lambda as f32) * other);
                }
                lambda
            }
            Mix::Cut { .. } => {
                let [rows, columns] = [height, width].map(|extent| {
                    let side = (extent as f64 * (1.0 - lambda).sqrt()).round() as usize;
                    let centre = rng.below(extent);
                    centre.saturating_sub(side / 2)..(centre + side.div_ceil(2)).min(extent)
                });
                for (sample, &other) in x.chunks_exact_mut(len.max(1)).zip(&others) {
                    for channel in 0..channels {
                        for row in rows.clone() {
                            let at = (channel * height + row) * width;
                            sample[at..][columns.clone()]
                                .copy_from_slice(&from[other * len + at..][columns.clone()]);
                        }
                    }
                }
                1.0 - (rows.len() * columns.len()) as f64 / (height * width).max(1) as f64
            }
        };
        let mut soft = vec![0.0; n * classes];
        for (at, &other) in others.iter().enumerate() {
            soft[at * classes + labels[at] as usize] += share as f32;
            soft[at * classes + labels[other] as usize] += 1.0 - share as f32;
        }
        Ok(soft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sample `i` is all `i`, and of class `i`.
    fn mixed(mix: Mix, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let mut x: Vec<f32> = (0..4 * 2 * 6 * 5).map(|i| (i / 60) as f32).collect();
        let soft = mix.apply(&mut x, [4, 2, 6, 5], &[0, 1, 2, 3], 4, &mut SampleRng::new(seed, 0, 0));
        (x, soft.unwrap())
    }

    #[test]
    fn targets_say_what_is_in_the_picture() {
        for mix in [Mix::Up { alpha: 1.0 }, Mix::Cut { alpha: 1.0 }] {
            let mut between = 0;
            for seed in 0..40 {
                let (x, soft) = mixed(mix, seed);
                for (x, soft) in x.chunks(60).zip(soft.chunks(4)) {
                    // The mean of the picture is that of the classes by their shares.
                    let mean = x.iter().sum::<f32>() / 60.0;
                    let expected: f32 = soft.iter().zip(0u8..).map(|(s, class)| s * f32::from(class)).sum();
                    assert!((mean - expected).abs() < 1e-4, "{mix:?}: {mean}, not {expected}");
                    assert!((soft.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                    between += usize::from(soft.iter().all(|&s| s < 0.99));
                }
            }
            assert!(between > 60, "{mix:?}: only {between} of 160 are mixed");
            assert_eq!(mixed(mix, 3), mixed(mix, 3));
        }
    }

    #[test]
    fn empty_batches_and_bad_alphas() {
        let mut rng = SampleRng::new(0, 0, 0);
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Mix::Up { alpha }.apply(&mut [0.0], [1, 1, 1, 1], &[0], 1, &mut rng).is_err());
        }
        let cut = Mix::Cut { alpha: 1.0 };
        assert_eq!(cut.apply(&mut [], [2, 1, 0, 3], &[0, 0], 1, &mut rng).unwrap(), [1.0, 1.0]);
        assert!(cut.apply(&mut [], [0, 1, 2, 3], &[], 1, &mut rng).unwrap().is_empty());
    }
}
