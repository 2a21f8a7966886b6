//! Sounds: WAV files, resampling, spectra, mel features and masks.
//!
//! ```
//! use versant_data::audio::{MelBank, MelScale, Sound, Stft, resample};
//! // A second of 440 Hz at 8 kHz, as if read with `Sound::read`.
//! let tone = (0..8000).map(|i| (i as f32 * 440.0 * std::f32::consts::TAU / 8000.0).sin()).collect();
//! let sound = resample(&Sound::new(tone, 1, 8000)?, 16_000)?;
//! let power = Stft::new(400).hop(160).apply(sound.samples())?.power();
//! let mel = MelBank::new(16_000, 400, 40, MelScale::Slaney)?.apply(&power)?.decibels(Some(80.0));
//! assert_eq!(mel.shape(), [101, 40]);
//! let mfcc = mel.cepstrum(13)?;
//! assert_eq!(mfcc.shape(), [101, 13]);
//! # Ok::<(), versant_data::DataError>(())
//! ```

mod features;
mod mask;
mod mel;
mod resample;
mod stft;
mod wav;

pub use features::Features;
pub use mask::SpecMask;
pub use mel::{MelBank, MelScale};
pub use resample::resample;
pub use stft::{Padding, Spectrum, Stft};
pub use wav::Sound;

use crate::error::DataError;

fn option(option: &'static str, value: impl ToString, rule: &'static str) -> DataError {
    DataError::Option { option, value: value.to_string(), rule }
}
