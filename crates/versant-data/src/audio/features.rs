//! Features of frames: powers, mel energies, cepstra.

use versant_graph::{Device, Tensor};

use super::option;
use crate::dataset::check_elements;
use crate::error::Result;

/// Real features of frames, `[frames, bins]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    values: Vec<f32>,
    bins: usize,
}

impl Features {
    /// Features of these values; `shape` is `[frames, bins]`.
    ///
    /// # Errors
    /// [`DataError::Elements`](crate::DataError::Elements) for another number of values;
    /// [`DataError::Option`](crate::DataError::Option) without bins.
    pub fn new(values: Vec<f32>, shape: [usize; 2]) -> Result<Features> {
        check_elements("features", values.len(), &shape)?;
        match shape[1] {
            0 => Err(option("bins", 0, "at least 1")),
            bins => Ok(Features { values, bins }),
        }
    }

    /// `bins` is above 0 and divides the number of values.
    pub(super) fn of(values: Vec<f32>, bins: usize) -> Features {
        Features { values, bins }
    }

    /// `[frames, bins]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.values.len() / self.bins, self.bins]
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values, to be changed in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// `10 log10(max(x, 1e-10))`, and at least the largest of them less `range`, if one is given: powers in decibels
    /// (`librosa.power_to_db` with its default reference; 80 is its default range).
    pub fn decibels(mut self, range: Option<f32>) -> Features {
        let decibel = |v: f32| (10.0 * libm::log10(f64::from(v).max(1e-10))) as f32;
        self.values.iter_mut().for_each(|v| *v = decibel(*v));
        if let Some(range) = range {
            let top = self.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            self.values.iter_mut().for_each(|v| *v = v.max(top - range));
        }
        self
    }

    /// `ln(x + offset)`, the other customary logarithm of mel energies.
    pub fn log(mut self, offset: f32) -> Features {
        self.values.iter_mut().for_each(|v| *v = libm::log(f64::from(*v) + f64::from(offset)) as f32);
        self
    }

    /// The first coefficients of the orthonormal discrete cosine transform (type II) of each frame: of mel energies in
    /// decibels, the MFCC (Davis and Mermelstein, 1980, as `librosa.feature.mfcc`).
    ///
    /// # Errors
    /// [`DataError::Option`](crate::DataError::Option) for more coefficients than bins, or none.
    pub fn cepstrum(&self, coefficients: usize) -> Result<Features> {
        let n = self.bins;
        if !(1..=n).contains(&coefficients) {
            return Err(option("coefficients", coefficients, "from 1 to as many as there are bins"));
        }
        let cosine = |k: usize, i: usize| {
            let scale = if k == 0 { (1.0 / n as f64).sqrt() } else { (2.0 / n as f64).sqrt() };
            scale * libm::cos(std::f64::consts::PI * k as f64 * (2 * i + 1) as f64 / (2 * n) as f64)
        };
        let basis: Vec<f64> = (0..coefficients).flat_map(|k| (0..n).map(move |i| cosine(k, i))).collect();
        let mut out = Vec::with_capacity(self.values.len() / n * coefficients);
        for frame in self.values.chunks_exact(n) {
            let dot = |row: &[f64]| row.iter().zip(frame).map(|(b, &v)| b * f64::from(v)).sum::<f64>() as f32;
            out.extend(basis.chunks_exact(n).map(dot));
        }
        Ok(Features::of(out, coefficients))
    }

    /// The features as a tensor, f32 `[frames, bins]`.
    #[track_caller]
    pub fn on(&self, device: &Device) -> Tensor {
        Tensor::from_slice(device, &self.values, &self.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decibels_are_held_to_their_range() {
        let features = Features::new(vec![1.0, 100.0, 0.0, 1e-5], [2, 2]).unwrap();
        assert_eq!(features.clone().decibels(None).values(), [0.0, 20.0, -100.0, -50.0]);
        assert_eq!(features.clone().decibels(Some(60.0)).values(), [0.0, 20.0, -40.0, -40.0]);
        assert_eq!(features.clone().log(1.0).values()[0], 2f32.ln());
        assert_eq!(features.on(&Device::cpu()).shape(), [2, 2]);
    }

    #[test]
    fn a_constant_has_only_the_first_coefficient() {
        let features = Features::new(vec![3.0; 8], [2, 4]).unwrap();
        let cepstrum = features.cepstrum(3).unwrap();
        assert_eq!(cepstrum.shape(), [2, 3]);
        for (found, expected) in cepstrum.values().iter().zip([6.0, 0.0, 0.0, 6.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6);
        }
        assert!(features.cepstrum(0).is_err() && features.cepstrum(5).is_err());
        assert!(Features::new(vec![], [3, 0]).is_err() && Features::new(vec![1.0], [2, 1]).is_err());
    }
}
