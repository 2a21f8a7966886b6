//! Spectra, mel features and resampling against librosa 0.11 and torchaudio 2.11, on a sound that a formula makes.

use versant_data::audio::{MelBank, MelScale, Sound, Stft, resample};

fn close(found: f32, expected: f64) {
    let error = (f64::from(found) - expected).abs();
    assert!(error <= 1e-4 * expected.abs().max(1.0), "{found} is not {expected}");
}

fn sound() -> Vec<f32> {
    let value = |n: i64| {
        let step = if (n / 16) % 2 == 0 { 0.25 } else { -0.25 };
        ((n * n * 7 + n * 131) % 2048 - 1024) as f32 / 2048.0 + step
    };
    (0..3000).map(value).collect()
}

#[test]
fn spectra_and_features_are_those_of_librosa() {
    let spectrum = Stft::new(512).hop(160).window(400).apply(&sound()).unwrap();
    assert_eq!(spectrum.shape(), [19, 257]);
    for (frame, bin, re, im) in [
        (0, 0, 0.060014691203832626, 0.0),
        (3, 7, 0.5969524383544922, 3.3944077491760254),
        (10, 100, 1.1317555904388428, 1.1526715755462646),
        (18, 256, 0.33546173572540283, 0.0),
        (9, 33, -4.603457450866699, -3.601811647415161),
    ] {
        let [a, b] = spectrum.at(frame, bin);
        close(a, re);
        close(b, im);
    }
    let bank = MelBank::new(16_000, 512, 40, MelScale::Slaney).unwrap();
    let mel = bank.apply(&spectrum.power()).unwrap().decibels(Some(80.0));
    let at = |frame: usize, bin: usize| mel.values()[frame * 40 + bin];
    close(at(0, 0), -12.477397918701172);
    close(at(5, 10), -1.3184927701950073);
    close(at(12, 39), -4.649898529052734);
    close(at(18, 20), -6.835615158081055);
    let mfcc = mel.cepstrum(13).unwrap();
    let at = |frame: usize, bin: usize| mfcc.values()[frame * 13 + bin];
    close(at(0, 0), -41.21205520629883);
    close(at(5, 1), 6.473849296569824);
    close(at(12, 12), 3.298863410949707);
    close(at(18, 6), -9.90001106262207);
    let mean = mfcc.values().iter().sum::<f32>() / mfcc.values().len() as f32;
    close(mean, -4.139082908630371);
}

#[test]
fn mel_filters_are_those_of_librosa() {
    for (scale, sum, points) in [
        (
            MelScale::Slaney,
            1.2805185317993164,
            [(0, 2, 0.008228164166212082), (5, 11, 0.0), (20, 70, 0.0), (39, 235, 0.0009015427785925567)],
        ),
        (
            MelScale::Htk,
            234.22836303710938,
            [
                (0, 2, 0.9607086181640625),
                (5, 11, 0.7778935432434082),
                (20, 70, 0.0),
                (39, 235, 0.5333560705184937),
            ],
        ),
    ] {
        let bank = MelBank::within(16_000, 512, 40, scale, [20.0, 7600.0]).unwrap();
        close(bank.weights().iter().sum(), sum);
        for (mel, bin, weight) in points {
            let found = f64::from(bank.weights()[mel * 257 + bin]);
            assert!((found - weight).abs() < 1e-6, "{scale:?}: {found} is not {weight}");
        }
    }
}

#[test]
fn resampled_sounds_are_those_of_torchaudio() {
    let samples = (0..600i64).map(|n| ((n * n * 7 + n * 131) % 2048 - 1024) as f32 / 1024.0).collect();
    let sound = |rate| Sound::new(Vec::clone(&samples), 1, rate).unwrap();
    for (from, to, length, values, energy) in [
        (
            8000,
            16_000,
            1200,
            [-0.9946504831314087, -1.0711947679519653, 0.4756881892681122, 0.47286102175712585],
            394.9506527174882,
        ),
        (
            16_000,
            8000,
            300,
            [-0.724879801273346, -0.7955742478370667, 0.12809696793556213, 0.0219012051820755],
            53.17908698374397,
        ),
        (
            44_100,
            16_000,
            218,
            [-0.65541011095047, -0.6472633481025696, 0.8795530200004578, -0.5340791940689087],
            28.205094115983236,
        ),
        (
            8000,
            11_025,
            827,
            [-0.9946505427360535, -0.9916794300079346, 0.12466386795043945, 0.11916302144527435],
            272.25368716639207,
        ),
    ] {
        let out = resample(&sound(from), to).unwrap();
        assert_eq!((out.samples().len(), out.rate()), (length, to));
        for (at, value) in [0, 1, 50, 100].into_iter().zip(values) {
            close(out.samples()[at], value);
        }
        close(out.samples().iter().map(|v| v * v).sum(), energy);
    }
}
