//! Mel filter banks.

use super::features::Features;
use super::option;
use crate::dataset::check_lengths;
use crate::error::Result;

/// Which formula makes mels of hertz, and how the filters are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MelScale {
    /// `2595 log10(1 + f / 700)` with triangles of height 1: the Hidden Markov Model Toolkit, and torchaudio's default.
    Htk,
    /// Linear below 1 kHz and logarithmic above, with triangles of area 1 (in hertz): Slaney's Auditory Toolbox, and
    /// librosa's default.
    Slaney,
}

impl MelScale {
    fn mel(self, hertz: f64) -> f64 {
        match self {
            MelScale::Htk => 2595.0 * libm::log10(1.0 + hertz / 700.0),
            MelScale::Slaney if hertz < 1000.0 => hertz * 3.0 / 200.0,
            MelScale::Slaney => 15.0 + libm::log(hertz / 1000.0) * 27.0 / libm::log(6.4),
        }
    }

    fn hertz(self, mel: f64) -> f64 {
        match self {
            MelScale::Htk => 700.0 * (libm::pow(10.0, mel / 2595.0) - 1.0),
            MelScale::Slaney if mel < 15.0 => mel * 200.0 / 3.0,
            MelScale::Slaney => 1000.0 * libm::exp((mel - 15.0) * libm::log(6.4) / 27.0),
        }
    }
}

/// Triangular filters, evenly spaced on the mel scale.
#[derive(Clone, Debug, PartialEq)]
pub struct MelBank {
    /// `[mels, bins]`.
    weights: Vec<f32>,
    bins: usize,
}

impl MelBank {
    /// `mels` filters over the whole range from 0 to half the rate, for spectra of frames of `size` samples.
    ///
    /// # Errors
    /// As [`MelBank::within`].
    pub fn new(rate: u32, size: usize, mels: usize, scale: MelScale) -> Result<MelBank> {
        MelBank::within(rate, size, mels, scale, [0.0, f64::from(rate) / 2.0])
    }

    /// `mels` filters over a range of frequencies in hertz.
    ///
    /// # Errors
    /// [`DataError::Option`](crate::DataError::Option) for a size, rate, range or number that makes no sense.
    pub fn within(rate: u32, size: usize, mels: usize, scale: MelScale, range: [f64; 2]) -> Result<MelBank> {
        let [low, high] = range;
        if !(low >= 0.0 && low < high && high <= f64::from(rate) / 2.0) {
            return Err(option(
                "frequencies",
                format!("{low} to {high}"),
                "from 0 to half the rate, ascending",
            ));
        }
        if !(2..=1 << 20).contains(&size) || !(1..=1 << 12).contains(&mels) {
            return Err(option("mels", format!("{mels} of frames of {size}"), "1 to 2^12 of 2 to 2^20"));
        }
        let (from, to) = (scale.mel(low), scale.mel(high));
        let edge = |i: usize| scale.hertz(from + (to - from) * i as f64 / (mels + 1) as f64);
        let edges: Vec<f64> = (0..mels + 2).map(edge).collect();
        let bins = size / 2 + 1;
        let mut weights = Vec::with_capacity(mels * bins);
        for triangle in edges.windows(3) {
            let [left, centre, right] = [triangle[0], triangle[1], triangle[2]];
            let height = match scale {
                MelScale::Htk => 1.0,
                MelScale::Slaney => 2.0 / (right - left),
            };
            weights.extend((0..bins).map(|bin| {
                let hertz = bin as f64 * f64::from(rate) / size as f64;
                let rising = (hertz - left) / (centre - left);
                let falling = (right - hertz) / (right - centre);
                (height * rising.min(falling).max(0.0)) as f32
            }));
        }
        Ok(MelBank { weights, bins })
    }

    /// The weight of each frequency in each filter, `[mels, frequencies]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The energy in each filter, `[frames, mels]`, of powers or magnitudes `[frames, frequencies]`.
    ///
    /// # Errors
    /// [`DataError::Lengths`](crate::DataError::Lengths) for spectra of another size.
    pub fn apply(&self, spectra: &Features) -> Result<Features> {
        check_lengths(("frequencies", spectra.shape()[1]), ("weights of a filter", self.bins))?;
        // Most weights are 0: only the filter's own range is summed.
        let filters: Vec<(usize, &[f32])> = self.weights.chunks_exact(self.bins).map(support).collect();
        let mut out = Vec::with_capacity(spectra.shape()[0] * filters.len());
        for frame in spectra.values().chunks_exact(self.bins) {
            out.extend(filters.iter().map(|(start, weights)| {
                let pairs = weights.iter().zip(&frame[*start..]);
                pairs.map(|(&w, &v)| f64::from(w) * f64::from(v)).sum::<f64>() as f32
            }));
        }
        Ok(Features::of(out, filters.len()))
    }
}

/// Where a filter begins, and its weights up to the last that is not 0.
fn support(filter: &[f32]) -> (usize, &[f32]) {
    let start = filter.iter().position(|&w| w != 0.0).unwrap_or(0);
    let end = filter.iter().rposition(|&w| w != 0.0).map_or(start, |last| last + 1);
    (start, &filter[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_inverse_and_meet_at_a_kilohertz() {
        for scale in [MelScale::Htk, MelScale::Slaney] {
            for hertz in [0.0, 1.0, 999.0, 1000.0, 1001.0, 20_000.0] {
                assert!((scale.hertz(scale.mel(hertz)) - hertz).abs() < 1e-8, "{scale:?} {hertz}");
            }
        }
        assert_eq!(MelScale::Slaney.mel(1000.0), 15.0);
        assert!((MelScale::Htk.mel(1000.0) - 999.9855).abs() < 1e-3);
    }

    #[test]
    fn ranges_that_make_no_sense_are_errors() {
        let within = |range| MelBank::within(8000, 256, 10, MelScale::Htk, range);
        for bad in [[-1.0, 100.0], [100.0, 100.0], [0.0, 4001.0], [f64::NAN, 1.0], [0.0, f64::NAN]] {
            assert!(within(bad).is_err(), "{bad:?}");
        }
        assert!(MelBank::new(8000, 0, 10, MelScale::Htk).is_err());
        assert!(MelBank::new(8000, usize::MAX, 10, MelScale::Htk).is_err());
        assert!(MelBank::new(8000, 256, 0, MelScale::Htk).is_err());
        let bank = MelBank::new(8000, 256, 10, MelScale::Htk).unwrap();
        assert!(bank.apply(&Features::new(vec![0.0; 128], [1, 128]).unwrap()).is_err());
        assert_eq!(bank.apply(&Features::new(vec![1.0; 258], [2, 129]).unwrap()).unwrap().shape(), [2, 10]);
    }
}
