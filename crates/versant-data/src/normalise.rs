//! Normalisation: per-channel mean and standard deviation, measured once and kept.

use crate::dataset::Images;
use crate::error::{DataError, Result};

/// Maps values to `(value - mean) / std` channel by channel, and back.
///
/// Measure it on the training part alone, then apply it to both parts.
///
/// ```
/// use versant_data::{Images, Normalisation};
/// let train = Images::from_values(vec![1., 3., 10., 10.], [1, 2, 1, 2])?;
/// let norm = Normalisation::fit(&train)?;
/// assert_eq!((norm.mean(), norm.std()), (&[2., 10.][..], &[1., 1.][..]));
/// let mut test = [4., 0., 10., 12.];
/// norm.apply(&mut test, [2, 1, 2])?;
/// assert_eq!(test, [2., -2., 0., 2.]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Normalisation {
    /// The mean and population standard deviation of each channel over all images and pixels.
    ///
    /// A channel that is constant gets the standard deviation 1, so that it maps to zeros.
    ///
    /// # Errors
    /// [`DataError::Empty`] without pixels; [`DataError::Option`] if a value is NaN or infinite.
    pub fn fit(images: &Images) -> Result<Normalisation> {
        let [n, channels, height, width] = images.shape();
        let pixels = height * width;
        if n * channels * pixels == 0 {
            return Err(DataError::Empty { what: "normalisation" });
        }
        let count = (n * pixels) as f64;
        let sums = channel_sums(images, |_, value| value)?;
        let mean: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
        // A second pass over the deviations does not cancel as the difference of two large sums would.
        let squares = channel_sums(images, |channel, value| (value - mean[channel]).powi(2))?;
        let std = squares.iter().map(|sum| (sum / count).sqrt() as f32);
        Self::new(
            mean.iter().map(|&m| m as f32).collect(),
            std.map(|s| if s == 0.0 { 1.0 } else { s }).collect(),
        )
    }

    /// A normalisation by these means and standard deviations, one of each per channel.
    ///
    /// # Errors
    /// [`DataError::Lengths`]; [`DataError::Option`] if a number is not finite or a deviation not positive.
    pub fn new(mean: Vec<f32>, std: Vec<f32>) -> Result<Normalisation> {
        crate::dataset::check_lengths(("means", mean.len()), ("standard deviations", std.len()))?;
        if !mean.iter().all(|m| m.is_finite()) {
            return Err(DataError::Option {
                option: "mean",
                value: format!("{mean:?}"),
                rule: "must be finite",
            });
        }
        if !std.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(DataError::Option {
                option: "standard deviation",
                value: format!("{std:?}"),
                rule: "must be finite and above 0",
            });
        }
        Ok(Normalisation { mean, std })
    }

    /// The mean of each channel.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The standard deviation of each channel.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// Normalises values in place: any number of images of `[channels, height, width]`.
    ///
    /// # Errors
    /// [`DataError::Lengths`] if the images have another number of channels; [`DataError::Elements`] if the
    /// values are no whole number of images.
    pub fn apply(&self, values: &mut [f32], image: [usize; 3]) -> Result<()> {
        self.each(values, image, |value, mean, std| (value - mean) / std)
    }

    /// Undoes [`Normalisation::apply`], up to rounding.
    ///
    /// # Errors
    /// As [`Normalisation::apply`].
    pub fn invert(&self, values: &mut [f32], image: [usize; 3]) -> Result<()> {
        self.each(values, image, |value, mean, std| value * std + mean)
    }

    fn each(&self, values: &mut [f32], image: [usize; 3], map: impl Fn(f32, f32, f32) -> f32) -> Result<()> {
        let [channels, height, width] = image;
        crate::dataset::check_lengths(("channels", channels), ("normalised channels", self.mean.len()))?;
        let pixels = height.saturating_mul(width);
        let len = pixels.saturating_mul(channels);
        if values.len().checked_rem(len).unwrap_or(values.len()) != 0 {
            return Err(DataError::Elements {
                what: "images to normalise",
                shape: image.to_vec(),
                expected: len,
                found: values.len(),
            });
        }
        let channel_of = (0..channels).cycle();
        for (plane, channel) in values.chunks_exact_mut(pixels.max(1)).zip(channel_of) {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            plane.iter_mut().for_each(|v| *v = map(*v, mean, std));
        }
        Ok(())
    }
}

/// The sum over images and pixels of `term(channel, value)`, in a fixed order.
fn channel_sums(images: &Images, term: impl Fn(usize, f64) -> f64) -> Result<Vec<f64>> {
    let [n, channels, height, width] = images.shape();
    let mut sums = vec![0.0; channels];
    let mut image = Vec::new();
    for index in 0..n {
        image.clear();
        images.append(index, &mut image)?;
        for (channel, plane) in image.chunks_exact(height * width).enumerate() {
            sums[channel] += plane.iter().map(|&v| term(channel, f64::from(v))).sum::<f64>();
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_training_part_becomes_standard_and_comes_back() {
        let train = crate::fashion_mnist::embedded().unwrap().train;
        let norm = Normalisation::fit(train.images()).unwrap();
        // The mean follows from the sum of bytes counted with Python.
        let mean = 170_623_628.0 / (3000.0 * 784.0 * 255.0);
        assert!((f64::from(norm.mean()[0]) - mean).abs() < 1e-7);
        let mut values = Vec::new();
        for i in 0..train.len() {
            train.images().append(i, &mut values).unwrap();
        }
        let before = values.clone();
        norm.apply(&mut values, [1, 28, 28]).unwrap();
        let n = values.len() as f64;
        let mean: f64 = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 1e-5 && (var - 1.0).abs() < 1e-5, "{mean} {var}");
        norm.invert(&mut values, [1, 28, 28]).unwrap();
        assert!(values.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn misuse_is_an_error() {
        assert!(Normalisation::new(vec![0.0], vec![]).is_err());
        assert!(Normalisation::new(vec![f32::NAN], vec![1.0]).is_err());
        for std in [0.0, -1.0, f32::INFINITY, f32::NAN] {
            assert!(Normalisation::new(vec![0.0], vec![std]).is_err());
        }
        let none = Images::from_values(vec![], [0, 1, 2, 2]).unwrap();
        assert!(matches!(Normalisation::fit(&none), Err(DataError::Empty { .. })));
        let nan = Images::from_values(vec![f32::NAN], [1, 1, 1, 1]).unwrap();
        assert!(Normalisation::fit(&nan).is_err());
        let norm = Normalisation::new(vec![0.0], vec![1.0]).unwrap();
        assert!(norm.apply(&mut [0.0; 4], [2, 1, 2]).is_err());
        assert!(norm.apply(&mut [0.0; 3], [1, 1, 2]).is_err());
        assert!(norm.apply(&mut [0.0; 3], [1, 0, 2]).is_err());
        assert!(norm.apply(&mut [], [1, 0, 2]).is_ok());
    }
}
