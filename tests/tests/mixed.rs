//! Training with 16-bit activations: it follows f32, needs less memory, and survives overflows without the host looking.

use versant_graph::{Device, Half, Tensor, latest_plan};
use versant_nn::layers::{
    BatchNorm2d, Conv2d, Flatten, LayerNorm, Linear, MaxPool2d, MultiHeadAttention, Relu, Tanh,
};
use versant_nn::mixed::{autocast, full_precision, policy};
use versant_nn::optim::LossScale;
use versant_nn::{
    Adagrad, Adam, AdamW, Adamax, Lamb, Losses, Mode, Module, NAdam, Optimizer, Params, Seed, Sgd,
};
use versant_tests::{alone, devices};

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + seed * 11 + i / 7 * 3) % 101) as f32 / 50.0 - 1.0).collect()
}

fn convolutional(params: &Params) -> Box<dyn Module> {
    Box::new((
        (
            Conv2d::new(&(params / "c1"), 1, 8, 3).pad(1).no_bias(),
            BatchNorm2d::new(&(params / "n1"), 8),
            Relu,
        ),
        (
            Conv2d::new(&(params / "c2"), 8, 16, 3).pad(1).no_bias(),
            BatchNorm2d::new(&(params / "n2"), 16),
            Relu,
        ),
        MaxPool2d::new(2),
        Flatten::new(),
        Linear::new(&(params / "fc"), 16 * 5 * 5, 4),
    ))
}

/// Images `[17, 1, 10, 10]` of four kinds.
fn batch(dev: &Device) -> (Tensor, Tensor) {
    let labels: Vec<i32> = (0..17).map(|i| i % 4).collect();
    let mut x = values(17 * 100, 5);
    for (i, x) in x.chunks_exact_mut(100).enumerate() {
        x.iter_mut().skip(labels[i] as usize * 25).take(25).for_each(|v| *v += 1.5);
    }
    (Tensor::from_slice(dev, &x, &[17, 1, 10, 10]), Tensor::from_slice(dev, &labels, &[17]))
}

/// Losses of some steps, and the bytes of intermediates of a step.
fn train(dev: &Device, half: Option<Half>, steps: usize) -> (Vec<f32>, u64) {
    let params = Params::new(dev, Seed(3));
    let net = convolutional(&params);
    let mut opt = Sgd::new(&params, 0.05).momentum(0.9);
    if half == Some(Half::F16) {
        opt = opt.loss_scaling(LossScale { start: 1024.0, ..LossScale::default() });
    }
    let mut losses = Vec::new();
    for _ in 0..steps {
        let (x, y) = batch(dev);
        let forward = || net.forward(&x, Mode::Train);
        let logits = half.map_or_else(forward, |half| autocast(half, forward));
        let loss = logits.cross_entropy(&y);
        drop((logits, x, y));
        opt.step(opt.scaled(&loss).backward().unwrap()).unwrap();
        losses.push(loss.item::<f32>().unwrap());
    }
    (losses, latest_plan(dev).expect("a step ran").footprint.workspace)
}

#[test]
fn sixteen_bits_follow_thirty_two_with_less_memory() {
    let _alone = alone();
    for dev in devices() {
        let (exact, whole) = train(&dev, None, 12);
        assert!(exact[11] < 0.5 * exact[0], "{exact:?}");
        for (half, most) in [(Half::F16, 0.02), (Half::BF16, 0.05)] {
            let (losses, kept) = train(&dev, Some(half), 12);
            for (a, b) in losses.iter().zip(&exact) {
                assert!((a - b).abs() <= most * exact[0], "{half:?}: {losses:?} and {exact:?}");
            }
            println!("{dev:?} {half:?}: {kept} bytes of {whole}, last loss {} and {}", losses[11], exact[11]);
            assert!(kept < whole, "{half:?}: {kept} of {whole}");
        }
    }
}

#[test]
fn every_layer_rounds_where_the_policy_says() {
    let _alone = alone();
    for dev in devices() {
        for half in [Half::F16, Half::BF16] {
            let params = Params::new(&dev, Seed(3));
            let x = Tensor::from_slice(&dev, &values(2 * 3 * 8, 1), &[2, 3, 8]);
            let linear = Linear::new(&(&params / "linear"), 8, 4);
            let by_hand = {
                let weight = params.get("linear.weight").unwrap().get().rounded_to(half);
                let bias = params.get("linear.bias").unwrap().get();
                (x.rounded_to(half).matmul(&weight.t()) + bias).rounded_to(half)
            };
            let got = autocast(half, || linear.forward(&x, Mode::Train)).to_vec::<f32>().unwrap();
            let want = by_hand.to_vec::<f32>().unwrap();
            for (a, b) in got.iter().zip(&want) {
                // A sum in another order may be rounded to a neighbour.
                let unit = if half == Half::F16 { 1e-3 } else { 8e-3 };
                assert!((a - b).abs() <= unit * b.abs().max(0.1), "{half:?}: {a} instead of {b}");
            }
            let norm = LayerNorm::new(&(&params / "norm"), &[8]);
            let got = autocast(half, || norm.forward(&x, Mode::Train)).to_vec::<f32>().unwrap();
            let want = norm.forward(&x.rounded_to(half), Mode::Train).to_vec::<f32>().unwrap();
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?} {want:?}");
            let attention = MultiHeadAttention::new(&(&params / "attention"), 8, 2);
            let got = autocast(half, || attention.forward(&x, Mode::Eval)).to_vec::<f32>().unwrap();
            let want = attention.forward(&x, Mode::Eval).to_vec::<f32>().unwrap();
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 0.02), "{got:?} {want:?}");
            assert_ne!(got, want);
        }
    }
}

#[test]
fn the_policy_ends_where_its_scope_ends() {
    assert_eq!(policy(), None);
    autocast(Half::F16, || {
        autocast(Half::BF16, || assert_eq!(policy(), Some(Half::BF16)));
        full_precision(|| assert_eq!(policy(), None));
        assert_eq!(policy(), Some(Half::F16));
        assert_eq!(std::thread::spawn(policy).join().unwrap(), None);
    });
    let _ = std::panic::catch_unwind(|| autocast(Half::F16, || panic!("on purpose")));
    assert_eq!(policy(), None);
}

#[test]
fn an_overflow_changes_nothing_but_the_factor() {
    let _alone = alone();
    for dev in devices() {
        let params = Params::new(&dev, Seed(3));
        let net = (Linear::new(&(&params / "a"), 6, 8), Tanh, Linear::new(&(&params / "b"), 8, 2));
        let rule = LossScale { start: 65_536.0 * 64.0, growth: 2.0, backoff: 0.125, interval: 2 };
        let mut opt = AdamW::new(&params, 0.01).loss_scaling(rule);
        let x = |bad: bool| {
            let mut x = values(30, 2);
            x[7] = if bad { f32::NAN } else { x[7] };
            Tensor::from_slice(&dev, &x, &[5, 6])
        };
        let y = Tensor::from_slice(&dev, &[0i32, 1, 1, 0, 1], &[5]);
        let step = |opt: &mut AdamW, bad: bool| {
            let loss = autocast(Half::F16, || net.forward(&x(bad), Mode::Train)).cross_entropy(&y);
            opt.step(opt.scaled(&loss).backward().unwrap()).unwrap();
            let (factor, skipped) = opt.loss_scale().unwrap();
            (factor.item::<f32>().unwrap(), skipped.item::<f32>().unwrap())
        };
        let before = params.to_host().unwrap();
        // Gradients of a few tenths times four millions are too large for f16.
        assert_eq!(step(&mut opt, false), (524_288.0, 1.0), "{dev:?}");
        assert_eq!(params.to_host().unwrap(), before, "{dev:?}");
        assert_eq!(step(&mut opt, false), (65_536.0, 2.0), "{dev:?}");
        assert_eq!(step(&mut opt, false), (65_536.0, 2.0), "{dev:?}");
        let after = params.to_host().unwrap();
        assert_ne!(after, before);
        let moments = opt.state().unwrap();
        assert_eq!(step(&mut opt, true), (8192.0, 3.0), "{dev:?}");
        assert_eq!(params.to_host().unwrap(), after, "{dev:?}");
        let now = opt.state().unwrap();
        for (name, tensor) in &now.tensors {
            assert!(name == "loss_scale" || moments.tensors[name] == *tensor, "{name}");
        }
        // Two good steps in a row, and it grows.
        assert_eq!(step(&mut opt, false), (8192.0, 3.0), "{dev:?}");
        assert_eq!(step(&mut opt, false), (16_384.0, 3.0), "{dev:?}");
        // A resumed run goes on from there.
        let saved = opt.state().unwrap();
        let mut other = AdamW::new(&params, 0.01).loss_scaling(rule);
        other.load_state(&saved).unwrap();
        assert_eq!(other.loss_scale().unwrap().0.item::<f32>().unwrap(), 16_384.0);
        assert_eq!(step(&mut other, false), (16_384.0, 3.0), "{dev:?}");
        // A file may say anything.
        for bad in [
            [f32::NAN, 0.0, 0.0],
            [0.0; 3],
            [-2.0, 0.0, 0.0],
            [f32::INFINITY, 0.0, 0.0],
            [1.0, f32::NAN, 0.0],
            [1.0, 0.0, -1.0],
        ] {
            let mut hostile = saved.clone();
            hostile.tensors.get_mut("loss_scale").unwrap().data = bad.to_vec();
            let error = other.load_state(&hostile).unwrap_err().to_string();
            assert!(error.contains("loss scale") || error.contains("steps"), "{error}");
        }
        assert_eq!(other.loss_scale().unwrap().0.item::<f32>().unwrap(), 16_384.0);
    }
}

/// Makes an optimiser, with the loss scaled or without.
type Make = Box<dyn Fn(bool) -> Box<dyn Optimizer>>;

/// Every rule whose arithmetic depends on the number of steps.
fn counting_rules(params: &Params) -> Vec<Make> {
    macro_rules! rule {
        ($new:expr) => {{
            let params = params.clone();
            let new = $new;
            Box::new(move |scaled: bool| {
                let opt = new(&params);
                match scaled {
                    true => Box::new(opt.loss_scaling(LossScale { start: 64.0, ..LossScale::default() })),
                    false => Box::new(opt) as Box<dyn Optimizer>,
                }
            })
        }};
    }
    vec![
        rule!(|p: &Params| Adam::new(p, 0.01)),
        rule!(|p: &Params| AdamW::new(p, 0.01).amsgrad(true)),
        rule!(|p: &Params| Adamax::new(p, 0.01)),
        rule!(|p: &Params| NAdam::new(p, 0.01)),
        rule!(|p: &Params| Lamb::new(p, 0.01)),
        rule!(|p: &Params| Adagrad::new(p, 0.01).lr_decay(0.5)),
    ]
}

#[test]
fn a_skipped_step_is_none_for_the_rule() {
    let _alone = alone();
    for dev in devices() {
        let params = Params::new(&dev, Seed(3));
        let net = (Linear::new(&(&params / "a"), 6, 8), Tanh, Linear::new(&(&params / "b"), 8, 2));
        let start = params.to_host().unwrap();
        let y = Tensor::from_slice(&dev, &[0i32, 1, 1, 0, 1], &[5]);
        let step = |opt: &mut dyn Optimizer, bad: bool| {
            let mut x = values(30, 2);
            x[7] = if bad { f32::NAN } else { x[7] };
            let loss = net.forward(&Tensor::from_slice(&dev, &x, &[5, 6]), Mode::Train).cross_entropy(&y);
            opt.step(opt.scaled(&loss).backward().unwrap()).unwrap();
        };
        for new in counting_rules(&params) {
            params.from_host(&start).unwrap();
            let mut plain = new(false);
            (0..4).for_each(|_| step(&mut *plain, false));
            let (want, counts) = (params.to_host().unwrap(), plain.state().unwrap().counts);
            params.from_host(&start).unwrap();
            let mut scaled = new(true);
            [true, true, false, true, false].into_iter().for_each(|bad| step(&mut *scaled, bad));
            // What was skipped is forgotten where parameters are gathered again, too, and by a run that goes on from a saved state.
            params.freeze("b.*").unwrap();
            params.unfreeze("b.*").unwrap();
            step(&mut *scaled, false);
            step(&mut *scaled, true);
            let saved = scaled.state().unwrap();
            let mut resumed = new(true);
            resumed.load_state(&saved).unwrap();
            step(&mut *resumed, true);
            step(&mut *resumed, false);
            let now = resumed.state().unwrap();
            assert_eq!(now.counts, counts, "{} on {dev:?}", now.kind);
            for (name, got) in &params.to_host().unwrap() {
                for (got, want) in got.data.iter().zip(&want[name].data) {
                    assert!((got - want).abs() < 2e-6, "{}, {name} on {dev:?}: {got} and {want}", now.kind);
                }
            }
        }
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let dev = Device::cpu();
    let params = Params::new(&dev, Seed(3));
    let net = Linear::new(&(&params / "a"), 2, 2);
    for rule in [
        LossScale { start: 0.0, ..LossScale::default() },
        LossScale { start: 1e9, ..LossScale::default() },
        LossScale { growth: f32::NAN, ..LossScale::default() },
        LossScale { backoff: -1.0, ..LossScale::default() },
        LossScale { interval: 0, ..LossScale::default() },
    ] {
        let mut opt = Sgd::new(&params, 0.1).loss_scaling(rule);
        let loss = net.forward(&Tensor::ones(&dev, &[1, 2]), Mode::Train).sum_all();
        let error = opt.step(opt.scaled(&loss).backward().unwrap()).unwrap_err().to_string();
        assert!(error.contains("loss scale"), "{error}");
    }
}
