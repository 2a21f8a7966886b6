//! Values kept in 16 bits: what rounding gives, on every device and layout; gradients; and that memory is saved.

use versant_graph::{Device, Half, Tensor, eval, explain, grad_of};
use versant_tests::devices;

const HALVES: [Half; 2] = [Half::F16, Half::BF16];

/// Numbers of all sizes, with special ones among them.
fn values(n: usize) -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        65_504.0,
        65_520.0,
        -7e4,
        6e-8,
        2e-8,
        5.96e-8,
        6.1e-5,
        -6.09e-5,
        f32::INFINITY,
        f32::NAN,
        1e-40,
    ];
    let other = |i: usize| ((i * 37 + 11) % 101) as f32 / 7.0 * 10f32.powi((i % 9) as i32 - 5);
    (0..n).map(|i| if i % 3 == 1 { special[i / 3 % special.len()] } else { other(i) }).collect()
}

fn rounded(x: f32, half: Half) -> f32 {
    match half {
        Half::F16 => half::f16::from_f32(x).to_f32(),
        Half::BF16 => half::bf16::from_f32(x).to_f32(),
    }
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
            "{what}, element {i}: {a:e} instead of {b:e}"
        );
    }
}

#[test]
fn every_layout_is_packed_and_unpacked() {
    for dev in devices() {
        for half in HALVES {
            for shape in [
                &[][..],
                &[1],
                &[2],
                &[7],
                &[0],
                &[3, 0],
                &[4, 3],
                &[3, 4],
                &[3, 5],
                &[5, 2, 3],
                &[2, 3, 4, 5],
            ] {
                let x = values(shape.iter().product());
                let tensor = Tensor::from_slice(&dev, &x, shape);
                let want: Vec<f32> = x.iter().map(|&x| rounded(x, half)).collect();
                let what = format!("{half:?} {shape:?} {dev:?}");
                let words = tensor.pack16(half);
                assert!(words.numel() <= tensor.numel().div_ceil(2) + tensor.numel() / 2, "{what}");
                assert_same(&words.unpack16(half, shape).to_vec().unwrap(), &want, &what);
                assert_same(&tensor.kept_in(half).to_vec().unwrap(), &want, &what);
                assert_same(&tensor.rounded_to(half).to_vec().unwrap(), &want, &what);
            }
            // Views: turned, cut, repeated, and words that come from memory.
            let x = values(24);
            let tensor = Tensor::from_slice(&dev, &x, &[4, 6]);
            let view = tensor.t().flip(&[0]).slice_step(0, 0, 3, 2).unsqueeze(1).broadcast_to(&[3, 2, 4]);
            let want: Vec<f32> = view.to_vec::<f32>().unwrap().iter().map(|&x| rounded(x, half)).collect();
            let words = view.pack16(half);
            eval(&[&words]).unwrap();
            assert_same(&words.unpack16(half, &[3, 2, 4]).to_vec().unwrap(), &want, "a view");
            let sum = view.kept_in(half).t().sum(&[0], false).to_vec::<f32>().unwrap();
            let other = view.rounded_to(half).t().sum(&[0], false).to_vec::<f32>().unwrap();
            assert_same(&sum, &other, "a reduction of a view");
        }
    }
}

#[test]
fn gradients_are_rounded_too() {
    for dev in devices() {
        for half in HALVES {
            let x = Tensor::from_slice(&dev, &[0.1f32, 0.2, 0.3], &[3]);
            let g = Tensor::from_slice(&dev, &[1.0f32 / 3.0, 1e-9, 1e6], &[3]);
            let y = x.kept_in(half) * &g;
            let got = grad_of(&y.sum_all(), &[&x]).unwrap()[0].to_vec::<f32>().unwrap();
            let want = [1.0 / 3.0, 1e-9, 1e6].map(|g| rounded(g, half));
            assert_same(&got, &want, half.name());
        }
    }
}

/// Twenty-four layers of `tanh(x w)`, each result kept as `keep` says; the loss's gradient by the first input.
fn deep(dev: &Device, keep: impl Fn(Tensor) -> Tensor) -> u64 {
    let matrix = |seed: usize| {
        let values: Vec<f32> =
            (0..64 * 64).map(|i| ((i * 31 + seed * 17) % 97) as f32 / 400.0 - 0.12).collect();
        Tensor::from_slice(dev, &values, &[64, 64])
    };
    let weights: Vec<Tensor> = (0..24).map(matrix).collect();
    let mut x = Tensor::from_slice(dev, &vec![0.25; 512 * 64], &[512, 64]);
    let start = x.clone();
    for w in &weights {
        x = keep(x.matmul(w).tanh());
    }
    let all: Vec<&Tensor> = weights.iter().chain([&start]).collect();
    let grads = grad_of(&x.square().mean_all(), &all).unwrap();
    drop(x);
    let plan = explain(&grads.iter().collect::<Vec<_>>()).unwrap();
    plan.footprint.workspace
}

#[test]
fn activations_take_half_the_memory() {
    for dev in devices() {
        let whole = deep(&dev, |x| x);
        for half in HALVES {
            let kept = deep(&dev, |x| x.kept_in(half));
            println!("{dev:?} {}: {} bytes instead of {whole}", half.name(), kept);
            // Twenty-four of them in half the bytes, and less than three in all at work.
            assert!(kept <= whole / 2 + 3 * 4 * 512 * 64, "{half:?}: {kept} of {whole}");
        }
    }
}

#[test]
fn misuse_is_an_error() {
    let dev = Device::cpu();
    let ints = Tensor::from_slice(&dev, &[1i32, 2], &[2]);
    assert!(ints.pack16(Half::F16).to_vec::<u32>().unwrap_err().to_string().contains("pack16"));
    assert!(ints.kept_in(Half::F16).to_vec::<f32>().is_err());
    let words = Tensor::from_slice(&dev, &[1u32, 2], &[2]);
    for shape in [&[2][..], &[5], &[]] {
        let error = words.unpack16(Half::BF16, shape).to_vec::<f32>().unwrap_err().to_string();
        assert!(error.contains("unpack16") && error.contains("half.rs"), "{error}");
    }
    assert!(words.unpack16(Half::BF16, &[3]).to_vec::<f32>().is_ok());
    assert!(words.unpack16(Half::BF16, &[4]).to_vec::<f32>().is_ok());
}
