//! Another sample rate.

use super::option;
use super::wav::{Sound, check_rate};
use crate::error::Result;

/// Zero crossings of the filter on each side.
const CROSSINGS: f64 = 6.0;
/// The cut-off frequency over the lower of both Nyquist frequencies.
const ROLL_OFF: f64 = 0.99;

/// The sound at another rate, by band-limited interpolation with a windowed sinc (Smith, "Digital Audio Resampling",
/// 1984): six zero crossings on each side under a Hann window, cut off at 0.99 of the lower Nyquist frequency, which
/// are the defaults of `torchaudio.functional.resample`. `ceil(n × rate / old rate)` samples come out.
///
/// # Errors
/// [`DataError::Option`](crate::DataError::Option) for a rate that is not from 1 to 1,000,000, and where more than 2^31
/// samples would come out.
pub fn resample(sound: &Sound, rate: u32) -> Result<Sound> {
    check_rate(rate)?;
    if rate == sound.rate() {
        return Ok(sound.clone());
    }
    let divisor = gcd(sound.rate(), rate);
    let (old, new) = ((sound.rate() / divisor) as usize, (rate / divisor) as usize);
    let channels = sound.channels();
    let frames = sound.samples().len() / channels;
    // In u128, since both factors may be large.
    let length = (frames as u128 * new as u128).div_ceil(old as u128);
    if length * channels as u128 > 1 << 31 {
        return Err(option("sample rate", rate, "at most 2^31 samples must come out"));
    }
    let length = length as usize;
    let filters: Vec<Filter> = (0..new).map(|phase| Filter::new(old, new, phase)).collect();
    let mut out = vec![0.0; length * channels];
    for (at, frame) in out.chunks_exact_mut(channels).enumerate() {
        let Filter { first, weights } = &filters[at % new];
        let start = (at / new * old) as isize + first;
        for (channel, value) in frame.iter_mut().enumerate() {
            let mut sum = 0.0;
            for (tap, weight) in (start..).zip(weights) {
                let inside = usize::try_from(tap).ok().filter(|&tap| tap < frames);
                sum +=
                    inside.map_or(0.0, |tap| f64::from(sound.samples()[tap * channels + channel]) * weight);
            }
            *value = sum as f32;
        }
    }
    Sound::new(out, channels, rate)
}

/// The weights of old samples from number `first` on, counted from the period's start, for one of the new samples.
struct Filter {
    first: isize,
    weights: Vec<f64>,
}

impl Filter {
    fn new(old: usize, new: usize, phase: usize) -> Filter {
        let cut_off = old.min(new) as f64 * ROLL_OFF;
        // The new sample's place among the old ones, and how far the filter reaches.
        let centre = phase as f64 * old as f64 / new as f64;
        let reach = CROSSINGS * old as f64 / cut_off;
        let first = (centre - reach).ceil() as isize;
        let last = (centre + reach).floor() as isize;
        let weight = |tap: isize| {
            let t = (tap as f64 - centre) / old as f64 * cut_off;
            let window = libm::cos(t * std::f64::consts::PI / CROSSINGS / 2.0).powi(2);
            let x = t * std::f64::consts::PI;
            let sinc = if x == 0.0 { 1.0 } else { libm::sin(x) / x };
            sinc * window * cut_off / old as f64
        };
        Filter { first, weights: (first..=last).map(weight).collect() }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_stays_the_tone_and_what_is_too_high_is_gone() {
        let tone = |frequency: f64, rate: u32, n: usize| -> Vec<f32> {
            let step = frequency * std::f64::consts::TAU / f64::from(rate);
            (0..n).map(|i| (i as f64 * step).sin() as f32).collect()
        };
        for (from, to) in [(8000, 16_000), (16_000, 8000), (44_100, 16_000), (8000, 11_025)] {
            let sound = Sound::new(tone(440.0, from, 4000), 1, from).unwrap();
            let out = resample(&sound, to).unwrap();
            assert_eq!(out.samples().len(), (4000 * u64::from(to)).div_ceil(u64::from(from)) as usize);
            let expected = tone(440.0, to, out.samples().len());
            let inner = 100..out.samples().len() - 100;
            for at in inner {
                assert!((out.samples()[at] - expected[at]).abs() < 0.01, "{from} to {to} at {at}");
            }
        }
        let high = Sound::new(tone(7000.0, 16_000, 4000), 1, 16_000).unwrap();
        let low = resample(&high, 8000).unwrap();
        assert!(low.samples()[100..1900].iter().all(|v| v.abs() < 0.02));
    }

    #[test]
    fn channels_are_kept_apart_and_odd_rates_end() {
        let stereo = Sound::new([1.0, -1.0].repeat(300), 2, 300).unwrap();
        let out = resample(&stereo, 400).unwrap();
        assert_eq!(out.samples().len(), 800);
        assert!(
            out.samples()[200..600].chunks(2).all(|f| (f[0] - 1.0).abs() < 0.02 && (f[1] + 1.0).abs() < 0.02)
        );
        assert!(resample(&stereo, 0).is_err() && resample(&stereo, u32::MAX).is_err());
        let slow = Sound::new(vec![0.0; 4000], 1, 1).unwrap();
        assert!(resample(&slow, 1_000_000).is_err());
        assert_eq!(resample(&stereo, 300).unwrap(), stereo);
        let odd = Sound::new(vec![0.5; 10], 1, 44_100).unwrap();
        assert_eq!(resample(&odd, 44_101).unwrap().samples().len(), 11);
        assert!(resample(&Sound::new(vec![], 1, 7).unwrap(), 9).unwrap().samples().is_empty());
    }
}
