//! Values kept in 16 bits: what rounding gives, on every device and layout; gradients; and that memory is saved.

use versant_graph::{
    Attention, ConvOptions, DType, Device, Half, PoolOptions, Tensor, eval, explain, grad_of, scan,
};
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
fn every_layout_is_stored_and_loaded() {
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
                assert_same(&tensor.kept_in(half).to_vec().unwrap(), &want, &what);
                assert_same(&tensor.rounded_to(half).to_vec().unwrap(), &want, &what);
                // Read again by a kernel that cannot have made it.
                let kept = tensor.kept_in(half);
                let one = kept.sum_all() * 0.0 + 1.0;
                let (got, same) = (&kept * one.broadcast_to(shape), want.iter().all(|x| x.is_finite()));
                if same {
                    assert_same(&got.to_vec().unwrap(), &want, &what);
                }
            }
            // Views: turned, cut, repeated, and words that come from memory.
            let x = values(24);
            let tensor = Tensor::from_slice(&dev, &x, &[4, 6]);
            let view = tensor.t().flip(&[0]).slice_step(0, 0, 3, 2).unsqueeze(1).broadcast_to(&[3, 2, 4]);
            let sum = view.kept_in(half).t().sum(&[0], false).to_vec::<f32>().unwrap();
            let other = view.rounded_to(half).t().sum(&[0], false).to_vec::<f32>().unwrap();
            assert_same(&sum, &other, "a reduction of a view");
        }
    }
}

/// What reads a matrix in all the ways that kernels have; each also with its gradient where it has one.
fn uses(k: &Tensor) -> Vec<(&'static str, Tensor)> {
    let [m, n] = [k.shape()[0], k.shape()[1]];
    let dev = k.device();
    let other = Tensor::arange(dev, m * n, DType::F32).sin().reshape(&[m as isize, n as isize]);
    let index = Tensor::from_slice(dev, &[2i32, 0, 1, 1, 5], &[5]);
    let images = k.unsqueeze(0).unsqueeze(0);
    let weights = Tensor::arange(dev, 4, DType::F32).cos().reshape(&[2, 1, 1, 2]);
    let (image, weights) = (&ConvOptions::default(), weights.kept_in(Half::BF16));
    let fused = Attention { fused: Some(true), ..Attention::default() };
    let step = |s: &[Tensor], x: &[Tensor]| {
        let next = (&s[0] * 0.5 + &x[0]).kept_in(Half::F16);
        (vec![next.clone()], vec![next.tanh()])
    };
    vec![
        ("in order", k * 2.0),
        ("turned", k.t() + 1.0),
        ("cut and padded", k.narrow(1, 1, n - 1).pad(&[(1, 0), (0, 2)], 0.0).flip(&[0]) + 1.0),
        ("sum of rows", k.sum(&[1], false)),
        ("sum of columns", k.sum(&[0], false)),
        ("softmax", k.softmax(1)),
        ("rows by index", k.gather(0, &index.unsqueeze(1).broadcast_to(&[5, n]))),
        ("left operand", k.matmul(&other.t())),
        ("right operand", other.t().matmul(k)),
        ("product with itself, kept", (k.matmul(&k.t()) * 0.1).kept_in(Half::BF16) * 3.0),
        (
            "convolution, kept, pooled",
            images.conv2d(&weights, image).kept_in(Half::F16).max_pool2d(&PoolOptions::new([2, 2])),
        ),
        ("attention", images.attention(&images, &images.kept_in(Half::F16), &fused)),
        (
            "attention, kept",
            images.attention(&images, &images, &Attention { kept: Some(Half::BF16), ..fused }) * 2.0,
        ),
        ("running sum", k.cumsum(1)),
        ("sorted", k.sort(1, false).0),
        ("joined", Tensor::cat(&[k, &k.exp()], 0)),
        ("scan", scan(&[&k.narrow(0, 0, 1).squeeze(0)], &[k], step).1[0].clone()),
    ]
}

#[test]
fn kept_values_are_read_by_every_kernel() {
    for dev in devices() {
        for [m, n] in [[6, 13], [6, 8], [7, 5]] {
            let x = (Tensor::arange(&dev, m * n, DType::F32) * 0.7).sin().reshape(&[m as isize, n as isize]);
            eval(&[&x]).unwrap();
            for half in HALVES {
                // What is realised is f32, with the same values.
                let whole = x.exp().kept_in(half);
                eval(&[&whole]).unwrap();
                let want = uses(&whole);
                for (at, (what, _)) in want.iter().enumerate() {
                    let kept = x.exp().kept_in(half);
                    // A second reader: what is read once could be in the same kernel.
                    let got = uses(&kept).swap_remove(at).1;
                    let both = [got.sum_all(), got.square().sum_all()];
                    let from = x.exp();
                    let grad =
                        grad_of(&uses(&from.kept_in(half)).swap_remove(at).1.square().sum_all(), &[&from]);
                    let of_whole = whole.detach();
                    let grad_want =
                        grad_of(&uses(&of_whole).swap_remove(at).1.square().sum_all(), &[&of_whole]);
                    let all = [&got, &both[0], &both[1]];
                    eval(&all).unwrap();
                    let what = format!("{what} of {half:?} {m} x {n} on {dev:?}");
                    assert_close(&got, &want[at].1, 1e-5, &what);
                    assert_close(&both[1], &want[at].1.square().sum_all(), 1e-5, &what);
                    assert_close(&grad.unwrap()[0], &grad_want.unwrap()[0].rounded_to(half), 1e-2, &what);
                }
            }
        }
    }
}

fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32, what: &str) {
    let (got, want) = (got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(&want).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}, element {i}: {a} instead of {b}");
    }
}

#[test]
fn plans_count_halves() {
    for dev in devices() {
        // A product's result, and what elementwise work makes of it; both are read later.
        let x = Tensor::ones(&dev, &[64, 32]);
        let y = x.matmul(&Tensor::ones(&dev, &[32, 64])).kept_in(Half::F16);
        let z = y.tanh().kept_in(Half::F16).matmul(&y).sum_all();
        let plan = explain(&[&z]).unwrap();
        let text = plan.to_string();
        assert!(text.contains("keep_f16 f16[64, 64]"), "{text}");
        // Parts of one buffer are rounded together.
        let all = Tensor::from_slice(&dev, &values(128), &[128]);
        eval(&[&all]).unwrap();
        let pieces = [0, 64].map(|at| all.narrow(0, at, 64));
        let parts = pieces.each_ref().map(|piece| piece.reshape(&[8, 8]));
        eval(&[&parts[0], &parts[1]]).unwrap();
        let [a, b] = [0, 1].map(|i| parts[i].rounded_to(Half::BF16));
        let plan = explain(&[&a.matmul(&b).matmul(&a).sum_all()]).unwrap();
        assert_eq!(plan.launches_with("round_bf16").count(), 1, "{plan}");
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
    assert!(ints.kept_in(Half::F16).to_vec::<f32>().is_err());
}
