//! A net that knows a thousand kinds of things learns ten kinds of clothes from a hundred pictures of each.
//!
//! MobileNetV2 with the weights that torchvision trained on ImageNet: first only a new last layer on frozen features, then
//! all of the net at a small rate; and, to see what the weights are worth, the same net from random weights. Grad-CAM shows
//! where the net looks.
//!
//! `cargo xtask data mobilenet-v2 && cargo xtask data fashion-mnist && cargo run --release --example transfer`

mod common;

use common::plot::sheet;
use common::{Array, Example, Outcome, fashion, floats, images, pick};
use versant::nn::attribution::grad_cam;
use versant::nn::models::{IMAGENET_MEAN, IMAGENET_STD, MobileNetV2};
use versant::nn::schedule::Schedule;
use versant::nn::torch;
use versant::prelude::*;

/// Pictures of 28 by 28 become larger, as the net halves them five times.
const SIDE: usize = 64;
const BATCH: usize = 32;

/// A square picture at another size, by linear interpolation.
fn scaled(image: &[f32], from: usize, to: usize) -> Vec<f32> {
    let place = |i: usize| ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).clamp(0.0, (from - 1) as f32);
    let at = |y: usize, x: usize| image[y.min(from - 1) * from + x.min(from - 1)];
    let pixel = |i: usize| {
        let (y, x) = (place(i / to), place(i % to));
        let row = |y: usize| at(y, x as usize) * (1.0 - x.fract()) + at(y, x as usize + 1) * x.fract();
        row(y as usize) * (1.0 - y.fract()) + row(y as usize + 1) * y.fract()
    };
    (0..to * to).map(pixel).collect()
}

/// Grey pictures of 28 by 28 enlarged, in three channels of ImageNet's scale.
fn enlarged(values: &[f32], side: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for image in values.chunks_exact(28 * 28) {
        let grey = scaled(image, 28, side);
        for (mean, std) in IMAGENET_MEAN.iter().zip(IMAGENET_STD) {
            all.extend(grey.iter().map(|v| (v - mean) / std));
        }
    }
    all
}

struct Data {
    x: Vec<f32>,
    y: Vec<i32>,
    test_x: Vec<f32>,
    test_y: Vec<i32>,
}

const SHAPE: [usize; 3] = [3, SIDE, SIDE];

fn right(ex: &Example, net: &MobileNetV2, data: &Data) -> Outcome<f64> {
    let mut guess = Vec::new();
    for part in data.test_x.chunks(50 * 3 * SIDE * SIDE) {
        let n = part.len() / (3 * SIDE * SIDE);
        let x = Tensor::from_slice(&ex.dev, part, &[n, 3, SIDE, SIDE]);
        guess.extend(net.forward(&x, Mode::Eval).argmax(-1, false).to_vec::<i32>()?);
    }
    Ok(accuracy(&guess, &data.test_y)?)
}

/// Some epochs over all parameters that are not frozen.
fn train(ex: &Example, params: &Params, net: &MobileNetV2, data: &Data, epochs: usize, lr: f64) -> Outcome {
    let mut opt = AdamW::new(params, lr);
    let order = |epoch| ex.order(data.y.len(), BATCH, epoch).into_iter().filter(|b| b.len() == BATCH);
    let steps = ex.size(data.y.len() / BATCH, 2);
    let rate = Schedule::cosine(lr, (epochs * steps) as u64);
    let bar = ex.bar(epochs * steps, "training");
    for epoch in 0..epochs {
        for batch in order(epoch).take(steps) {
            let logits = net.forward(&pick(&ex.dev, &data.x, &SHAPE, &batch), Mode::Train);
            let loss = logits.cross_entropy(&pick(&ex.dev, &data.y, &[], &batch));
            drop(logits);
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Trains the last layer alone, over features that are computed once.
fn train_head(ex: &Example, params: &Params, net: &MobileNetV2, data: &Data) -> Outcome {
    params.freeze("features.*")?;
    let mut features = Vec::new();
    for part in data.x.chunks(50 * 3 * SIDE * SIDE) {
        let x = Tensor::from_slice(&ex.dev, part, &[part.len() / (3 * SIDE * SIDE), 3, SIDE, SIDE]);
        features.extend(net.features(&x, Mode::Eval).mean(&[2, 3], true).to_vec::<f32>()?);
    }
    let mut opt = AdamW::new(params, 3e-3);
    for epoch in 0..ex.size(30, 1) {
        for batch in ex.order(data.y.len(), BATCH, epoch) {
            let logits = net.classify(&pick(&ex.dev, &features, &[1280, 1, 1], &batch), Mode::Train);
            opt.step(logits.cross_entropy(&pick(&ex.dev, &data.y, &[], &batch)).backward()?)?;
        }
    }
    params.unfreeze("features.*")?;
    Ok(())
}

fn main() {
    common::main("transfer", run);
}

fn run(ex: &Example) -> Outcome {
    let weights = ex.data("mobilenet-v2")?.join("mobilenet_v2-b0353104.pth");
    let parts = fashion()?;
    let (x, y) = images(&parts.train, ex.size(1000, 64))?;
    let (test, test_y) = images(&parts.test, ex.size(1000, 50))?;
    let data = Data { x: enlarged(&x, SIDE), y, test_x: enlarged(&test, SIDE), test_y };
    if ex.dump(|| Ok(arrays(&data)))? {
        return Ok(());
    }
    let params = ex.store(0);
    let net = MobileNetV2::new(&params.root(), 10);
    // All but the last layer, which is for another number of classes.
    let report = params.from_host_partial(&torch::read(weights)?)?;
    println!("{} arrays loaded, {} of another shape", report.loaded.len(), report.shapes.len());
    train_head(ex, &params, &net, &data)?;
    let frozen = right(ex, &net, &data)?;
    println!("frozen, last layer trained: {frozen:.4}");
    train(ex, &params, &net, &data, ex.size(3, 1), 5e-4)?;
    let tuned = right(ex, &net, &data)?;
    println!("all of it tuned: {tuned:.4}");
    cam(ex, &net, &test)?;
    let scratch = ex.store(1);
    let net = MobileNetV2::new(&scratch.root(), 10);
    train(ex, &scratch, &net, &data, ex.size(3, 1), 2e-3)?;
    println!("from random weights, as long: {:.4}", right(ex, &net, &data)?);
    ex.result("test accuracy, tuned", tuned)?;
    ex.result("test accuracy, frozen", frozen)
}

/// Test pictures, and below each the same in the colours of where the net looks: at twice the size that it has learned
/// from, where a map has 4 by 4 places in place of 2 by 2.
fn cam(ex: &Example, net: &MobileNetV2, grey: &[f32]) -> Outcome {
    let (count, side) = (12, 2 * SIDE);
    let x = enlarged(&grey[..count * 784], side);
    let x = Tensor::from_slice(&ex.dev, &x, &[count, 3, side, side]);
    let features = net.features(&x, Mode::Eval);
    let guess = net.classify(&features, Mode::Eval).argmax(-1, false).to_vec::<i32>()?;
    let map = grad_cam(|f| net.classify(f, Mode::Eval), &features, &guess)?;
    let places = map.shape()[1];
    let map = map.to_vec::<f32>()?;
    let mut shown: Vec<Vec<f32>> = (0..count).map(|i| grey[i * 784..][..784].repeat(3)).collect();
    for i in 0..count {
        let own = scaled(&map[i * places * places..][..places * places], places, 28);
        let most = own.iter().copied().fold(1e-6, f32::max);
        let heat = |p: usize| own[p] / most;
        let pixel = |plane: usize, p: usize| {
            let colour = [heat(p), 0.3 * heat(p), 1.0 - heat(p)][plane];
            0.55 * grey[i * 784 + p] + 0.45 * colour
        };
        shown.push(
            (0..3).flat_map(|plane| (0..784).map(move |p| (plane, p))).map(|(c, p)| pixel(c, p)).collect(),
        );
    }
    sheet(&ex.out("grad-cam.png")?, &shown, [3, 28, 28], count, 3)
}

fn arrays(data: &Data) -> Vec<Array> {
    let n = |y: &[i32]| y.len();
    vec![
        ("train.x".into(), vec![n(&data.y), 3, SIDE, SIDE], data.x.clone()),
        ("train.y".into(), vec![n(&data.y)], floats(&data.y)),
        ("test.x".into(), vec![n(&data.test_y), 3, SIDE, SIDE], data.test_x.clone()),
        ("test.y".into(), vec![n(&data.test_y)], floats(&data.test_y)),
    ]
}
