//! Nets with fetched weights against their reference runtime, PyTorch 2.15 (for the voice detector: the TorchScript file of
//! silero-vad 6.2.3). The weights are too large to commit: without `cargo xtask data` these tests say that they were skipped.

use std::path::{Path, PathBuf};

use versant_graph::Tensor;
use versant_nn::models::{MobileNetV2, SileroVad};
use versant_nn::{Mode, Module, Params, Seed, torch};
use versant_tests::devices;

fn fetched(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/fetched").join(file);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

fn assert_near(got: &[f32], want: &[f32], what: &str) {
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{what} {at}: {got} instead of {want}");
    }
}

#[test]
fn mobilenet_says_what_pytorch_says() {
    let Some(path) = fetched("mobilenet-v2/mobilenet_v2-b0353104.pth") else { return };
    let weights = torch::read(path).unwrap();
    for dev in devices() {
        let params = Params::new(&dev, Seed(1));
        let net = MobileNetV2::new(&params.root(), 1000);
        let report = params.from_host_partial(&weights).unwrap();
        assert!(report.missing.is_empty() && report.shapes.is_empty(), "{report:?}");
        assert!(report.extra.iter().all(|name| name.ends_with("num_batches_tracked")), "{:?}", report.extra);
        let wave = |i: usize| (i as f64 * 0.37).sin() + (i as f64 * 0.0113).sin() * 0.5;
        let x: Vec<f32> = (0..2 * 3 * 64 * 64).map(|i| wave(i) as f32).collect();
        let x = Tensor::from_slice(&dev, &x, &[2, 3, 64, 64]);
        let logits = net.forward(&x, Mode::Eval);
        assert_eq!(logits.argmax(-1, false).to_vec::<i32>().unwrap(), [794, 851]);
        let logits = logits.to_vec::<f32>().unwrap();
        let first = [0.52926, 1.15191, -4.12229, -2.78544, -0.00868, 0.07467, -0.28263, -1.7086];
        assert_near(&logits[..8], &first, &dev.info().name);
        let second = [0.61813, -1.82642, 0.13796, -2.00866, -0.08715, 0.59625, 4.18938, 0.67559];
        let every: Vec<f32> = logits[1000..].iter().step_by(125).copied().collect();
        assert_near(&every, &second, &dev.info().name);
    }
}

#[test]
fn the_voice_detector_hears_what_its_file_hears() {
    let Some(path) = fetched("silero-vad/silero_vad_16k.safetensors") else { return };
    const SAID: [f32; 24] = [
        0.097551, 0.366916, 0.368336, 0.396295, 0.263396, 0.148738, 0.07489, 0.124586, 0.23857, 0.601189,
        0.744241, 0.710068, 0.557758, 0.460163, 0.281383, 0.205196, 0.262195, 0.304053, 0.708441, 0.544679,
        0.402299, 0.314961, 0.19574, 0.098807,
    ];
    for dev in devices() {
        let params = Params::new(&dev, Seed(1));
        let vad = SileroVad::new(&params.root());
        params.load(&path).unwrap();
        let (mut state, mut said) = (None, Vec::new());
        for piece in 0..SAID.len() {
            let sample = |i: usize| {
                let t = (piece * 512 + i) as f64;
                0.3 * (t * t * 1.0e-6 + t * 0.05).sin() * (t * 0.0007).sin() + 0.02 * (t * 1.7).sin()
            };
            let sound: Vec<f32> = (0..512).map(|i| sample(i) as f32).collect();
            let (p, next) = vad.hear(&Tensor::from_slice(&dev, &sound, &[1, 512]), state.as_ref());
            said.push(p.to_vec::<f32>().unwrap()[0]);
            state = Some(next);
        }
        assert_near(&said, &SAID, &dev.info().name);
    }
}

#[test]
fn a_piece_of_another_length_is_refused() {
    let dev = versant_graph::Device::cpu();
    let vad = SileroVad::new(&Params::new(&dev, Seed(1)).root());
    let (p, _) = vad.hear(&Tensor::zeros(&dev, &[1, 500]), None);
    let error = p.to_vec::<f32>().unwrap_err().to_string();
    assert!(error.contains("SileroVad::hear") && error.contains("[1, 500]"), "{error}");
}
