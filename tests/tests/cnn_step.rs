//! A small convolutional net as users write it, with every layer that has state: what a training step costs, and
//! that it learns.

use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};

use versant_graph::{Device, Tensor, latest_plan, plan_stats, set_recomputing};
use versant_nn::layers::{BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, Relu};
use versant_nn::{AdamW, Losses, Mode, Module, Optimizer, Params, Seed};
use versant_tests::{alone, devices};

const CLASSES: usize = 4;

fn net(vs: &Params) -> impl Module + use<> {
    (
        Conv2d::new(&(vs / "conv1"), 1, 6, 3).pad(1).no_bias(),
        BatchNorm2d::new(&(vs / "bn1"), 6),
        Relu,
        MaxPool2d::new(2),
        Conv2d::new(&(vs / "conv2"), 6, 8, 3).pad(1),
        Relu,
        MaxPool2d::new(2),
        Flatten::new(),
        Dropout::new(&(vs / "drop"), 0.1),
        Linear::new(&(vs / "fc"), 8 * 2 * 2, CLASSES),
    )
}

/// Images of 8 × 8 with a bright quadrant that is the label, under a pattern that differs between steps.
fn batch(dev: &Device, n: usize, step: usize) -> (Tensor, Tensor) {
    let label = |i: usize| (i * 7 + step) % CLASSES;
    let pixel = |i: usize, y: usize, x: usize| {
        let bright = label(i) == 2 * (y / 4) + x / 4;
        let noise = ((i * 131 + step * 17 + y * 29 + x * 53) % 97) as f32 / 97.0;
        noise + if bright { 1.0 } else { 0.0 }
    };
    let pixels: Vec<f32> = (0..n * 64).map(|k| pixel(k / 64, k / 8 % 8, k % 8)).collect();
    let labels: Vec<i32> = (0..n).map(|i| label(i) as i32).collect();
    (Tensor::from_slice(dev, &pixels, &[n, 1, 8, 8]), Tensor::from_slice(dev, &labels, &[n]))
}

/// The line that records the loss in [`step`].
static LOSS_LINE: AtomicU32 = AtomicU32::new(0);

/// One step; returns the loss.
fn step(vs: &Params, net: &impl Module, opt: &mut AdamW, n: usize, at: usize) -> Tensor {
    let (x, y) = batch(vs.device(), n, at);
    let logits = net.forward(&x, Mode::Train);
    LOSS_LINE.store(line!() + 1, Ordering::Relaxed);
    let loss = logits.cross_entropy(&y);
    drop((x, y, logits));
    let grads = loss.backward().expect("every parameter is reached");
    opt.step(grads).expect("a step");
    assert!(loss.is_ready(), "a step computes the loss");
    loss
}

/// Launches of the latest plan that compute something of the loss; its gradient is in one of them.
fn launches_of_the_loss(dev: &Device) -> usize {
    let plan = latest_plan(dev).expect("a step was run");
    let line = LOSS_LINE.load(Ordering::Relaxed);
    let here = |l: &Location<'_>| l.file().ends_with("cnn_step.rs") && l.line() == line;
    let launches = plan.launches.iter();
    launches.filter(|l| l.lines.iter().any(|l| here(l))).count()
}

#[test]
fn a_step_is_one_replayed_plan_and_a_short_batch_compiles_nothing() {
    let _alone = alone();
    let mut all = devices();
    all.push(Device::null());
    for dev in all {
        let name = &dev.info().name;
        let vs = Params::new(&dev, Seed(3));
        let net = net(&vs);
        let mut opt = AdamW::new(&vs, 1e-2);
        let _ = step(&vs, &net, &mut opt, 24, 0);
        let launches = launches_of_the_loss(&dev);
        assert!((1..=2).contains(&launches), "{name}: {launches}");
        let (before, misses) = (dev.counters(), plan_stats(&dev).misses);
        for at in 1..5 {
            let _ = step(&vs, &net, &mut opt, 24, at);
        }
        let did = dev.counters() - before;
        assert_eq!(plan_stats(&dev).misses, misses, "{name}: plans");
        let made = (did.buffers_allocated, did.bind_groups, did.prepares);
        assert_eq!(made, (0, 0, 0), "{name}: {did:?}");
        assert_eq!(did.submits, 4, "{name}: one submit a step, {did:?}");
        let before = dev.counters();
        let _ = step(&vs, &net, &mut opt, 7, 10);
        let did = dev.counters() - before;
        let compiled = (did.pipelines, did.shader_modules);
        assert_eq!(compiled, (0, 0), "{name}, a short batch: {did:?}");
    }
}

/// Losses of some steps of a net whose activations take most of the memory, and the memory of its plan.
fn losses(dev: &Device, again: bool) -> (Vec<u32>, u64) {
    set_recomputing(dev, again);
    let vs = Params::new(dev, Seed(5));
    let block = |name: &str, from: usize| {
        let conv = Conv2d::new(&(&vs / name / "conv"), from, 12, 3).pad(1).no_bias();
        (conv, BatchNorm2d::new(&(&vs / name / "norm"), 12), Relu)
    };
    let head = Linear::new(&(&vs / "head"), 12 * 64, CLASSES);
    let net = (block("a", 1), block("b", 12), block("c", 12), block("d", 12), Flatten::new(), head);
    let mut opt = AdamW::new(&vs, 1e-2);
    let bits = |at| step(&vs, &net, &mut opt, 96, at).item::<f32>().expect("a value").to_bits();
    let bits = (0..5).map(bits).collect();
    set_recomputing(dev, true);
    (bits, latest_plan(dev).expect("a step was run").footprint.workspace)
}

#[test]
fn what_is_computed_again_is_the_same() {
    let _alone = alone();
    for dev in devices() {
        let ((kept, most), (again, least)) = (losses(&dev, false), losses(&dev, true));
        assert_eq!(kept, again, "{}", dev.info().name);
        assert!(10 * least <= 8 * most, "{}: {least} bytes instead of {most}", dev.info().name);
    }
}

#[test]
fn a_small_convolutional_net_learns() {
    let _alone = alone();
    for dev in devices() {
        let vs = Params::new(&dev, Seed(3));
        let net = net(&vs);
        let mut opt = AdamW::new(&vs, 1e-2);
        for at in 0..60 {
            let _ = step(&vs, &net, &mut opt, 24, at);
        }
        let (x, y) = batch(&dev, 40, 1000);
        let loss = net.forward(&x, Mode::Eval).cross_entropy(&y);
        let loss = loss.item::<f32>().expect("a value");
        // Guessing has ln 4 = 1.39.
        assert!(loss < 0.1, "{}: {loss} after 60 steps", dev.info().name);
    }
}
