//! Nets with fetched weights against PyTorch 2.15. The voice detector's safetensors file holds other weights than the
//! TorchScript and ONNX files of the same package; with those, converted, the net here agreed with both runtimes to 1e-4, and what
//! stands here is the same computation in PyTorch with the safetensors file's weights. The weights are too large to commit: without `cargo xtask data` these tests say that they were skipped.

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
        0.255253, 0.190053, 0.502006, 0.570025, 0.530421, 0.417041, 0.252181, 0.308601, 0.437219, 0.793559,
        0.897148, 0.914749, 0.926009, 0.884997, 0.802389, 0.749969, 0.828262, 0.845851, 0.953505, 0.954946,
        0.92551, 0.853201, 0.808167, 0.751964,
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
