//! Sounds in host memory, and WAV files, which are taken as hostile.

use std::io::Cursor;
use std::path::Path;

use super::option;
use crate::error::{ReadError, Result};
use crate::file;

/// Samples of a sound, as a rule from -1 to 1; those of several channels alternate.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    samples: Vec<f32>,
    channels: usize,
    rate: u32,
}

impl Sound {
    /// A sound of these samples, at `rate` samples a second for each channel.
    ///
    /// # Errors
    /// [`DataError::Option`](crate::DataError::Option) without channels or a whole number of samples for each, for a rate
    /// that is not from 1 to 1,000,000, or for a sample that is not finite.
    pub fn new(samples: Vec<f32>, channels: usize, rate: u32) -> Result<Sound> {
        if channels == 0 || !samples.len().is_multiple_of(channels) {
            return Err(option("channels", channels, "at least 1, with the same number of samples each"));
        }
        check_rate(rate)?;
        if let Some(at) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(option("sample", format!("{} at {at}", samples[at]), "every sample must be finite"));
        }
        Ok(Sound { samples, channels, rate })
    }

    /// Reads a WAV file: PCM of 8, 16, 24 or 32 bits, or 32-bit floats.
    ///
    /// # Errors
    /// As [`file::read`] and [`Sound::parse`].
    pub fn read(path: impl AsRef<Path>) -> Result<Sound> {
        let path = path.as_ref();
        Sound::parse(&file::read(path, file::DEFAULT_LIMIT)?, &path.display().to_string())
    }

    /// The sound in the bytes of a WAV file; `name` is for messages. An integer of `b` bits is divided by `2^(b-1)`.
    ///
    /// # Errors
    /// [`ReadError::Wav`] for what is no such file, is shorter than its header says, or has samples that are not
    /// finite.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Sound> {
        let fault = |detail: String| ReadError::Wav { file: name.to_owned(), detail };
        let mut reader = hound::WavReader::new(Cursor::new(bytes)).map_err(|e| fault(e.to_string()))?;
        let spec = reader.spec();
        // Collected one by one: the header's count is not believed, and a file that ends early is an error.
        let samples: Result<Vec<f32>, hound::Error> = match spec.sample_format {
            hound::SampleFormat::Float => reader.samples::<f32>().collect(),
            hound::SampleFormat::Int => {
                let scale = 1.0 / (1u64 << spec.bits_per_sample.clamp(1, 32).saturating_sub(1)) as f64;
                let value = |sample: i32| (f64::from(sample) * scale) as f32;
                reader.samples::<i32>().map(|sample| sample.map(value)).collect()
            }
        };
        let samples = samples.map_err(|e| fault(e.to_string()))?;
        let sound = Sound::new(samples, usize::from(spec.channels), spec.sample_rate);
        sound.map_err(|e| fault(e.to_string()).into())
    }

    /// All samples; those of several channels alternate.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Samples a second for each channel.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        (self.samples.len() / self.channels) as f64 / f64::from(self.rate)
    }

    /// One channel that is the mean of all.
    pub fn mono(&self) -> Sound {
        let mean = |all: &[f32]| all.iter().sum::<f32>() / self.channels as f32;
        Sound {
            samples: self.samples.chunks(self.channels).map(mean).collect(),
            channels: 1,
            rate: self.rate,
        }
    }
}

/// That a rate is one of sounds: filters for resampling grow with it, and files are not believed.
pub(super) fn check_rate(rate: u32) -> Result<()> {
    match rate {
        1..=1_000_000 => Ok(()),
        _ => Err(option("sample rate", rate, "from 1 to 1,000,000")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(bits: u16, sample_format: hound::SampleFormat, channels: u16, samples: &[f32]) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        let spec = hound::WavSpec { channels, sample_rate: 8000, bits_per_sample: bits, sample_format };
        let mut writer = hound::WavWriter::new(&mut out, spec).unwrap();
        for &sample in samples {
            match sample_format {
                hound::SampleFormat::Float => writer.write_sample(sample).unwrap(),
                hound::SampleFormat::Int => {
                    let scale = (1u64 << (bits - 1)) as f64;
                    writer.write_sample((f64::from(sample) * scale) as i32).unwrap();
                }
            }
        }
        writer.finalize().unwrap();
        out.into_inner()
    }

    const VALUES: [f32; 6] = [0.0, 0.5, -0.5, -1.0, 0.25, 0.984375];

    #[test]
    fn every_format_gives_the_same_samples() {
        for bits in [8, 16, 24, 32] {
            let bytes = file(bits, hound::SampleFormat::Int, 2, &VALUES);
            let sound = Sound::parse(&bytes, "f.wav").unwrap();
            assert_eq!(sound.samples(), VALUES, "{bits} bits");
            assert_eq!((sound.channels(), sound.rate()), (2, 8000));
            assert_eq!(sound.mono().samples(), [0.25, -0.75, 0.6171875]);
            assert_eq!(sound.seconds(), 3.0 / 8000.0);
        }
        let bytes = file(32, hound::SampleFormat::Float, 1, &VALUES);
        assert_eq!(Sound::parse(&bytes, "f.wav").unwrap().samples(), VALUES);
    }

    #[test]
    fn damaged_files_are_errors() {
        let bytes = file(16, hound::SampleFormat::Int, 1, &VALUES);
        for cut in 0..bytes.len() {
            assert!(Sound::parse(&bytes[..cut], "cut").is_err(), "{cut} bytes");
        }
        let mut huge = bytes.clone();
        huge[40..44].copy_from_slice(&0xffff_fffeu32.to_le_bytes());
        assert!(Sound::parse(&huge, "huge").is_err());
        let mut magic = bytes.clone();
        magic[0] = b'X';
        let error = Sound::parse(&magic, "f.wav").unwrap_err().to_string();
        assert!(error.starts_with("f.wav: not a readable WAV file"), "{error}");
        let nan = file(32, hound::SampleFormat::Float, 1, &[f32::NAN]);
        assert!(Sound::parse(&nan, "nan").is_err());
        assert!(Sound::new(vec![0.0; 3], 2, 8000).is_err() && Sound::new(vec![], 1, 0).is_err());
        let mut fast = bytes.clone();
        fast[24..28].fill(0xff);
        assert!(Sound::parse(&fast, "fast").is_err());
    }

    proptest! {
        #[test]
        fn mutated_files_never_panic(at in 0usize..56, with in any::<u8>(), two in 0usize..56, cut in 0usize..60) {
            let mut bytes = file(16, hound::SampleFormat::Int, 2, &VALUES);
            bytes[at] = with;
            bytes[two] ^= with;
            bytes.truncate(cut.max(20));
            if let Ok(sound) = Sound::parse(&bytes, "mutated") {
                prop_assert!(sound.samples().len() <= bytes.len());
            }
        }
    }
}
