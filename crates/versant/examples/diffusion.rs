//! Clothes out of noise: a small denoising diffusion model on Fashion-MNIST.
//!
//! A U-shaped net learns which noise was added to an image (Ho, Jain and Abbeel, 2020; cosine schedule of Nichol and Dhariwal,
//! 2021). New images are made from pure noise in 40 steps without new noise (DDIM; Song, Meng and Ermon, 2021). Images are
//! halved to 14 by 14, so that a CPU trains it in minutes.
//!
//! `cargo xtask data fashion-mnist && cargo run --release --example diffusion`

mod common;

use std::f32::consts::FRAC_PI_2;

use common::plot::sheet;
use common::{Example, Outcome, fashion, images, pick};
use versant::data::SampleRng;
use versant::graph::RandomKey;
use versant::nn::loss::{Reduction, mse};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const SIDE: usize = 14;
const PIXELS: usize = SIDE * SIDE;
const BATCH: usize = 64;
const WIDTH: usize = 32;
const TIME: usize = 32;

/// Two convolutions; the time is added between them as a bias for each channel.
struct Stage {
    first: Conv2d,
    time: Linear,
    second: Conv2d,
}

impl Stage {
    fn new(scope: &Scope, inputs: usize, outputs: usize) -> Stage {
        Stage {
            first: Conv2d::new(&(scope / "first"), inputs, outputs, 3).pad(1),
            time: Linear::new(&(scope / "time"), TIME, outputs),
            second: Conv2d::new(&(scope / "second"), outputs, outputs, 3).pad(1),
        }
    }

    fn forward(&self, x: &Tensor, time: &Tensor, mode: Mode) -> Tensor {
        let bias = self.time.forward(time, mode).unsqueeze(2).unsqueeze(3);
        let y = (self.first.forward(x, mode) + bias).silu();
        self.second.forward(&y, mode).silu()
    }
}

/// Down to 7 by 7 and up again, with the finer features passed across.
struct Denoiser {
    time: Linear,
    fine: Stage,
    coarse: Stage,
    back: Stage,
    out: Conv2d,
}

impl Denoiser {
    fn new(params: &Params) -> Denoiser {
        Denoiser {
            time: Linear::new(&(params / "time"), TIME, TIME),
            fine: Stage::new(&(params / "fine"), 1, WIDTH),
            coarse: Stage::new(&(params / "coarse"), WIDTH, 2 * WIDTH),
            back: Stage::new(&(params / "back"), 3 * WIDTH, WIDTH),
            out: Conv2d::new(&(params / "out"), WIDTH, 1, 3).pad(1),
        }
    }

    /// The noise in images `[n, 1, SIDE, SIDE]` at times `[n]` from 0 (clean) to 1.
    fn forward(&self, x: &Tensor, t: &Tensor, mode: Mode) -> Tensor {
        let waves: Vec<f32> = (0..TIME / 2).map(|i| 1000f32.powf(i as f32 / (TIME / 2 - 1) as f32)).collect();
        let phases = t.unsqueeze(1) * Tensor::from_slice(x.device(), &waves, &[TIME / 2]);
        let time = Tensor::cat(&[&phases.sin(), &phases.cos()], 1);
        let time = self.time.forward(&time, mode).silu();
        let fine = self.fine.forward(x, &time, mode);
        let coarse = self.coarse.forward(&fine.avg_pool2d(&PoolOptions::new([2, 2]), true), &time, mode);
        // Each coarse pixel becomes four.
        let n = x.shape()[0];
        let (half, wide) = (SIDE / 2, 2 * WIDTH);
        let up = coarse.reshape(&[n as isize, wide as isize, half as isize, 1, half as isize, 1]);
        let up = up.broadcast_to(&[n, wide, half, 2, half, 2]);
        let up = up.reshape(&[n as isize, wide as isize, SIDE as isize, SIDE as isize]);
        let back = self.back.forward(&Tensor::cat(&[&fine, &up], 1), &time, mode);
        self.out.forward(&back, mode)
    }
}

/// How much of the image and of the noise there is at a time: their squares add up to 1.
fn mixture(t: f32) -> [f32; 2] {
    [(t * FRAC_PI_2).cos(), (t * FRAC_PI_2).sin()]
}

/// The loss for clean images: the mean squared error of the noise at random times.
fn loss(ex: &Example, net: &Denoiser, x: &Tensor, times: &[f32], key: RandomKey, mode: Mode) -> Tensor {
    let column = |of: usize| {
        let values: Vec<f32> = times.iter().map(|&t| mixture(t)[of]).collect();
        Tensor::from_slice(&ex.dev, &values, &[times.len(), 1, 1, 1])
    };
    let noise = Tensor::rand_normal(&ex.dev, x.shape(), key);
    let mixed = x * column(0) + &noise * column(1);
    let t = Tensor::from_slice(&ex.dev, times, &[times.len()]);
    mse(&net.forward(&mixed, &t, mode), &noise, Reduction::Mean)
}

/// New images from noise.
fn sample(ex: &Example, net: &Denoiser, count: usize, steps: usize) -> Outcome<Vec<f32>> {
    let mut x = Tensor::rand_normal(&ex.dev, &[count, 1, SIDE, SIDE], RandomKey::new(ex.options.seed));
    for step in (0..steps).rev() {
        let time = |step: usize| 0.995 * (step as f32) / steps as f32;
        let ([image, noise], [next_image, next_noise]) = (mixture(time(step + 1)), mixture(time(step)));
        let at = Tensor::from_slice(&ex.dev, &vec![time(step + 1); count], &[count]);
        let found = net.forward(&x, &at, Mode::Eval);
        let clean = ((&x - &found * noise) * (1.0 / image)).clamp(-1.0, 1.0);
        x = clean * next_image + found * next_noise;
        versant::graph::eval(&[&x])?;
    }
    Ok(x.to_vec::<f32>()?)
}

/// Images of half the size with values from -1 to 1.
fn halved(values: &[f32]) -> Vec<f32> {
    let image = |image: &[f32]| {
        let at = |y: usize, x: usize| image[y * 2 * SIDE + x];
        let pixel = |i: usize| {
            let (y, x) = (2 * (i / SIDE), 2 * (i % SIDE));
            (at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1)) / 2.0 - 1.0
        };
        (0..PIXELS).map(pixel).collect::<Vec<f32>>()
    };
    values.chunks_exact(4 * PIXELS).flat_map(image).collect()
}

fn main() {
    common::main("diffusion", run);
}

fn run(ex: &Example) -> Outcome {
    let parts = fashion()?;
    let x = halved(&images(&parts.train, ex.size(12_000, 256))?.0);
    let test = halved(&images(&parts.test, ex.size(1000, 100))?.0);
    let array = |name: &str, x: &[f32]| (name.to_owned(), vec![x.len() / PIXELS, 1, SIDE, SIDE], x.to_vec());
    if ex.dump(|| Ok(vec![array("train.x", &x), array("test.x", &test)]))? {
        return Ok(());
    }
    let params = ex.store(0);
    let net = Denoiser::new(&params);
    let mut opt = Adam::new(&params, 2e-3);
    let keys = (&params / "noise").random();
    let (samples, epochs) = (x.len() / PIXELS, ex.size(10, 1));
    let steps = samples / BATCH;
    let rate = Schedule::cosine(2e-3, (epochs * steps) as u64).floor(1e-5);
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for (step, batch) in ex.order(samples, BATCH, epoch).iter().take(steps).enumerate() {
            let mut rng = SampleRng::new(ex.options.seed, epoch as u64, step as u64);
            let times: Vec<f32> = batch.iter().map(|_| rng.uniform()).collect();
            let images = pick(&ex.dev, &x, &[1, SIDE, SIDE], batch);
            let loss = loss(ex, &net, &images, &times, keys.next_key(), Mode::Train);
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            if step % 20 == 0 {
                bar.set_message(format!("loss {:.4}", loss.item::<f32>()?));
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    // Times are spread evenly over the test images, so that the figure is as little noisy as can be.
    let (mut error, tests) = (0.0, test.len() / PIXELS);
    for (at, part) in test.chunks(100 * PIXELS).enumerate() {
        let n = part.len() / PIXELS;
        let times: Vec<f32> = (0..n).map(|i| (i as f32 + 0.5) / n as f32).collect();
        let part = Tensor::from_slice(&ex.dev, part, &[n, 1, SIDE, SIDE]);
        let loss = loss(ex, &net, &part, &times, RandomKey::new(at as u64), Mode::Eval);
        error += f64::from(loss.item::<f32>()?) * n as f64 / tests as f64;
    }
    let count = ex.size(64, 4);
    let made = sample(ex, &net, count, ex.size(40, 3))?;
    let made: Vec<Vec<f32>> =
        made.chunks_exact(PIXELS).map(|i| i.iter().map(|v| (v + 1.0) / 2.0).collect()).collect();
    sheet(&ex.out("samples.png")?, &made, [1, SIDE, SIDE], 16, 4)?;
    ex.result("test error of the noise", error)
}
