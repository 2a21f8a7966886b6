//! The short-time Fourier transform.

use realfft::RealFftPlanner;
use realfft::num_complex::Complex;

use super::features::Features;
use super::option;
use crate::error::Result;

/// What stands before the first and after the last sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Nothing: the first frame begins with the first sample.
    None,
    /// Zeros, half a frame on each side, as librosa does: frame `i` is centred on sample `i × hop`.
    Zero,
    /// The sound mirrored at its ends, half a frame on each side, as `torch.stft` does.
    Reflect,
}

/// Spectra of overlapping frames under a periodic Hann window.
#[derive(Clone, Copy, Debug)]
pub struct Stft {
    size: usize,
    hop: usize,
    window: usize,
    padding: Padding,
}

/// The longest frame.
const LARGEST: usize = 1 << 20;

impl Stft {
    /// Frames of `size` samples, a quarter of that apart, padded with zeros.
    pub fn new(size: usize) -> Stft {
        Stft { size, hop: size / 4, window: size, padding: Padding::Zero }
    }

    /// Samples from one frame to the next.
    pub fn hop(mut self, samples: usize) -> Self {
        self.hop = samples;
        self
    }

    /// Length of the window, at most that of the frame, in the middle of which it stands; as long as the frame unless
    /// said otherwise.
    pub fn window(mut self, samples: usize) -> Self {
        self.window = samples;
        self
    }

    /// What stands beyond the ends.
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }

    /// The spectra of a sound with one channel: `size / 2 + 1` frequencies from 0 to half the sample rate for each
    /// frame. Without padding, samples that fill no frame are left out.
    ///
    /// # Errors
    /// [`DataError::Option`](crate::DataError::Option) for sizes that make no sense, or a sound that is too short to
    /// be mirrored.
    pub fn apply(&self, samples: &[f32]) -> Result<Spectrum> {
        let Stft { size, hop, window, padding } = *self;
        if !(2..=LARGEST).contains(&size) || hop == 0 || !(1..=size).contains(&window) {
            let value = format!("{size}, hop {hop}, window {window}");
            return Err(option("frame size", value, "2 to 2^20, hop at least 1, window at most a frame"));
        }
        let side = if padding == Padding::None { 0 } else { size / 2 };
        if padding == Padding::Reflect && samples.len() <= side {
            return Err(option("samples", samples.len(), "more than half a frame to be mirrored"));
        }
        let at = |index: isize| {
            let last = samples.len() as isize - 1;
            match padding {
                Padding::Reflect if index < 0 => samples[-index as usize],
                Padding::Reflect if index > last => samples[(2 * last - index) as usize],
                _ if (0..=last).contains(&index) => samples[index as usize],
                _ => 0.0,
            }
        };
        let frames = (samples.len() + 2 * side).checked_sub(size).map_or(0, |room| room / hop + 1);
        let window = hann(window, size);
        let plan = RealFftPlanner::<f32>::new().plan_fft_forward(size);
        let (mut frame, mut scratch) = (vec![0.0; size], plan.make_scratch_vec());
        let bins = size / 2 + 1;
        let mut values = vec![Complex::default(); frames * bins];
        for (number, out) in values.chunks_exact_mut(bins).enumerate() {
            let start = (number * hop) as isize - side as isize;
            frame.iter_mut().zip(&window).zip(start..).for_each(|((v, w), i)| *v = at(i) * w);
            plan.process_with_scratch(&mut frame, out, &mut scratch).expect("all lengths are the plan's");
        }
        Ok(Spectrum { values, bins })
    }
}

/// A periodic Hann window of `length` in the middle of `size` values, computed in f64.
fn hann(length: usize, size: usize) -> Vec<f32> {
    let before = (size - length) / 2;
    let value = |at: usize| {
        let phase = std::f64::consts::TAU * at as f64 / length as f64;
        (0.5 - 0.5 * libm::cos(phase)) as f32
    };
    (0..size)
        .map(|at| if (before..before + length).contains(&at) { value(at - before) } else { 0.0 })
        .collect()
}

/// Complex spectra, `[frames, frequencies]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    values: Vec<Complex<f32>>,
    bins: usize,
}

impl Spectrum {
    /// `[frames, frequencies]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.values.len() / self.bins, self.bins]
    }

    /// Real and imaginary part at a frame and frequency.
    ///
    /// # Panics
    /// If there is no such frame or frequency.
    pub fn at(&self, frame: usize, bin: usize) -> [f32; 2] {
        assert!(bin < self.bins, "frequency {bin} of {}", self.bins);
        let Complex { re, im } = self.values[frame * self.bins + bin];
        [re, im]
    }

    /// The squared magnitudes.
    pub fn power(&self) -> Features {
        Features::of(self.values.iter().map(Complex::norm_sqr).collect(), self.bins)
    }

    /// The magnitudes.
    pub fn magnitude(&self) -> Features {
        Features::of(self.values.iter().map(|value| value.norm()).collect(), self.bins)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_that_make_no_sense_are_errors() {
        let sound = [0.5; 64];
        for bad in [
            Stft::new(0),
            Stft::new(1),
            Stft::new(usize::MAX),
            Stft::new(8).hop(0),
            Stft::new(8).window(9),
            Stft::new(8).window(0),
            Stft::new(128).padding(Padding::Reflect),
        ] {
            assert!(bad.apply(&sound).is_err(), "{bad:?}");
        }
        assert_eq!(Stft::new(128).padding(Padding::None).apply(&sound).unwrap().shape(), [0, 65]);
        assert_eq!(Stft::new(8).apply(&[]).unwrap().shape(), [1, 5]);
        assert_eq!(Stft::new(8).hop(usize::MAX).apply(&sound).unwrap().shape(), [1, 5]);
    }

    proptest! {
        #[test]
        fn spectra_are_those_of_the_definition(
            sound in proptest::collection::vec(-1f32..1.0, 12..40), size in 2usize..12, hop in 1usize..7,
        ) {
            for padding in [Padding::None, Padding::Zero, Padding::Reflect] {
                let found = Stft::new(size).hop(hop).padding(padding).apply(&sound).unwrap();
                let side = if padding == Padding::None { 0 } else { size / 2 };
                let n = sound.len() as isize;
                let [frames, bins] = found.shape();
                prop_assert_eq!(frames, (sound.len() + 2 * side - size) / hop + 1);
                for frame in 0..frames {
                    for bin in 0..bins {
                        let (mut re, mut im) = (0.0, 0.0);
                        for i in 0..size {
                            let at = (frame * hop + i) as isize - side as isize;
                            let at = match padding {
                                Padding::Reflect => (n - 1 - (n - 1 - at.abs()).abs()) as usize,
                                _ => at as usize,
                            };
                            let value = f64::from(sound.get(at).copied().unwrap_or(0.0));
                            let turn = std::f64::consts::TAU * i as f64 / size as f64;
                            let value = value * (0.5 - 0.5 * turn.cos());
                            re += value * (turn * bin as f64).cos();
                            im -= value * (turn * bin as f64).sin();
                        }
                        let [a, b] = found.at(frame, bin);
                        prop_assert!((f64::from(a) - re).abs() < 1e-5 && (f64::from(b) - im).abs() < 1e-5);
                    }
                }
            }
        }
    }
}
