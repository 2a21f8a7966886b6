//! Where are the digits, and which? A detector in one look: scenes with up to three handwritten digits of different sizes.
//!
//! Each of 6 by 6 cells says whether a digit's centre lies in it, where in the cell, how large it is, and which one it is
//! (after YOLO; Redmon et al., 2016). Boxes that overlap a better one are dropped. Scenes are made of the embedded digits, those
//! to test of digits that training never saw.
//!
//! `cargo run --release --example detect`

mod common;

use common::{Array, Example, Outcome, pick};
use image::{Rgb, RgbImage};
use versant::data::metrics::{
    BoundingBox, Detection, Truth, mean_average_precision, non_maximum_suppression,
};
use versant::data::{Image, SampleRng, Split, digits};
use versant::nn::loss::{BceOptions, CrossEntropyOptions, Reduction, bce_with_logits, cross_entropy};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const SIDE: usize = 48;
const CELLS: usize = 6;
const CELL: f32 = 8.0;
const BATCH: usize = 32;
/// What the net says of a cell: whether, two of place, two of size, ten of class.
const OUTPUTS: usize = 15;

/// Scenes, what each cell should say, and the boxes.
#[derive(Default)]
struct Scenes {
    x: Vec<f32>,
    /// `[scenes, 6, CELLS, CELLS]`: whether, place in the cell, size over 16 pixels, class.
    y: Vec<f32>,
    truths: Vec<Truth>,
}

/// Draws scenes of digits, which may touch but have centres in different cells.
fn scenes(set: &Dataset, count: usize, seed: u64) -> Outcome<Scenes> {
    let mut all = Scenes::default();
    for scene in 0..count {
        let mut rng = SampleRng::new(seed, 0, scene as u64);
        let mut x: Vec<f32> = (0..SIDE * SIDE).map(|_| rng.between(0.0, 0.3)).collect();
        let mut y = vec![0.0; 6 * CELLS * CELLS];
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(set.len());
            let size = 12 + rng.below(9);
            let (left, top) = (rng.below(SIDE - size + 1), rng.below(SIDE - size + 1));
            let bounds = [left, top, left + size, top + size].map(|v| v as f32);
            let bounds = BoundingBox::new(bounds[0], bounds[1], bounds[2], bounds[3]);
            let (cx, cy) = ((bounds.x0 + bounds.x1) / 2.0 / CELL, (bounds.y0 + bounds.y1) / 2.0 / CELL);
            let cell = cy as usize * CELLS + cx as usize;
            let mine = all.truths.iter().filter(|truth| truth.image == scene);
            if y[cell] != 0.0 || mine.clone().any(|other| other.bounds.iou(&bounds) > 0.1) {
                continue;
            }
            paint(&mut x, &set.images().get(at)?, [left, top], size);
            let class = set.labels()[at];
            let said = [1.0, cx.fract(), cy.fract(), size as f32 / 16.0, size as f32 / 16.0, class as f32];
            for (channel, value) in said.into_iter().enumerate() {
                y[channel * CELLS * CELLS + cell] = value;
            }
            all.truths.push(Truth { image: scene, class: class as usize, bounds });
        }
        all.x.extend(x);
        all.y.extend(y);
    }
    Ok(all)
}

/// A digit enlarged to `size` pixels by linear interpolation, over what is there.
fn paint(scene: &mut [f32], digit: &Image, [left, top]: [usize; 2], size: usize) {
    let [_, height, width] = digit.shape();
    let place = |i: usize, extent: usize| {
        ((i as f32 + 0.5) * extent as f32 / size as f32 - 0.5).clamp(0.0, extent as f32 - 1.0)
    };
    for (dy, dx) in (0..size).flat_map(|dy| (0..size).map(move |dx| (dy, dx))) {
        let (sy, sx) = (place(dy, height), place(dx, width));
        let (y0, x0) = (sy as usize, sx as usize);
        let at = |y: usize, x: usize| digit.data()[y.min(height - 1) * width + x.min(width - 1)];
        let row = |y: usize| at(y, x0) * (1.0 - sx.fract()) + at(y, x0 + 1) * sx.fract();
        let value = row(y0) * (1.0 - sy.fract()) + row(y0 + 1) * sy.fract();
        let pixel = &mut scene[(top + dy) * SIDE + left + dx];
        *pixel = pixel.max(value);
    }
}

/// Scenes `[n, 1, SIDE, SIDE]` to what the cells say, `[n, OUTPUTS, CELLS, CELLS]`.
fn net(params: &Params) -> impl Module + use<> {
    let conv = |name: &str, i, o| Conv2d::new(&(params / name), i, o, 3).pad(1).no_bias();
    let norm = |name: &str, c| BatchNorm2d::new(&(params / name), c);
    (
        (conv("conv1", 1, 16), norm("norm1", 16), Relu, MaxPool2d::new(2)),
        (conv("conv2", 16, 32), norm("norm2", 32), Relu, MaxPool2d::new(2)),
        (conv("conv3", 32, 64), norm("norm3", 64), Relu, MaxPool2d::new(2)),
        (conv("conv4", 64, 64), norm("norm4", 64), Relu),
        Conv2d::new(&(params / "out"), 64, OUTPUTS, 1),
    )
}

/// Cross-entropy of "whether" over all cells; place, size and class count where a digit is.
fn loss(said: &Tensor, y: &Tensor) -> Tensor {
    let n = said.shape()[0] as f32;
    let sum = BceOptions { reduction: Reduction::Sum, ..BceOptions::default() };
    let there = y.narrow(1, 0, 1);
    let whether = bce_with_logits(&said.narrow(1, 0, 1), &there, &sum);
    let place = (said.narrow(1, 1, 2).sigmoid() - y.narrow(1, 1, 2)).square();
    let size = (said.narrow(1, 3, 2) - y.narrow(1, 3, 2)).square();
    let boxes = ((place + size) * &there).sum_all() * 5.0;
    let each = CrossEntropyOptions { reduction: Reduction::None, ..CrossEntropyOptions::default() };
    let class = cross_entropy(&said.narrow(1, 5, 10), &y.narrow(1, 5, 1).squeeze(1).cast(DType::I32), &each);
    (whether + boxes + (class * there.squeeze(1)).sum_all()) * (1.0 / n)
}

/// The boxes that the cells of a scene say, without those that overlap a better one, of whichever class.
fn boxes(said: &[f32], image: usize) -> Outcome<Vec<Detection>> {
    let plane = CELLS * CELLS;
    let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
    let mut found = Vec::new();
    for cell in 0..plane {
        let at = |channel: usize| said[channel * plane + cell];
        let exps: Vec<f32> = (5..OUTPUTS).map(|c| at(c).exp()).collect();
        let class = (0..10).fold(0, |best, c| if exps[c] > exps[best] { c } else { best });
        let score = sigmoid(at(0)) * exps[class] / exps.iter().sum::<f32>();
        let (cx, cy) = ((cell % CELLS) as f32 + sigmoid(at(1)), (cell / CELLS) as f32 + sigmoid(at(2)));
        let (cx, cy, w, h) = (cx * CELL, cy * CELL, at(3) * 8.0, at(4) * 8.0);
        if score > 0.05 {
            let bounds = BoundingBox::new(cx - w, cy - h, cx + w, cy + h);
            found.push(Detection { image, class, score, bounds });
        }
    }
    let bounds: Vec<BoundingBox> = found.iter().map(|d| d.bounds).collect();
    let scores: Vec<f32> = found.iter().map(|d| d.score).collect();
    Ok(non_maximum_suppression(&bounds, &scores, 0.4)?.into_iter().map(|i| found[i]).collect())
}

fn main() {
    common::main("detect", run);
}

fn run(ex: &Example) -> Outcome {
    let parts = Split::new(0.25).seed(0).stratified(true).apply(&digits::embedded()?)?;
    let (count, tests) = (ex.size(4000, 128), ex.size(500, 32));
    let (data, test) = (scenes(&parts.train, count, 1)?, scenes(&parts.test, tests, 2)?);
    if ex.dump(|| Ok(arrays(&data, &test)))? {
        return Ok(());
    }
    let params = ex.store(0);
    let net = net(&params);
    let mut opt = AdamW::new(&params, 3e-3).weight_decay(0.01);
    let (epochs, steps) = (ex.size(12, 1), count / BATCH);
    let rate = Schedule::cosine(3e-3, (epochs * steps) as u64);
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for (step, batch) in ex.order(count, BATCH, epoch).iter().enumerate() {
            let x = pick(&ex.dev, &data.x, &[1, SIDE, SIDE], batch);
            let loss =
                loss(&net.forward(&x, Mode::Train), &pick(&ex.dev, &data.y, &[6, CELLS, CELLS], batch));
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            if step % 20 == 0 {
                bar.set_message(format!("loss {:.3}", loss.item::<f32>()?));
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    let mut found = Vec::new();
    for (part, x) in test.x.chunks(100 * SIDE * SIDE).enumerate() {
        let x = Tensor::from_slice(&ex.dev, x, &[x.len() / SIDE / SIDE, 1, SIDE, SIDE]);
        let said = net.forward(&x, Mode::Eval).to_vec::<f32>()?;
        for (at, said) in said.chunks_exact(OUTPUTS * CELLS * CELLS).enumerate() {
            found.extend(boxes(said, part * 100 + at)?);
        }
    }
    draw(ex, &test, &found)?;
    ex.result("mAP at IoU 0.5", mean_average_precision(&found, &test.truths, &[0.5])?)
}

/// Some scenes with the boxes that were found: green if the class is right where it is, else red.
fn draw(ex: &Example, test: &Scenes, found: &[Detection]) -> Outcome {
    let (columns, scale, step) = (6, 3, SIDE * 3 + 4);
    let count = (test.x.len() / SIDE / SIDE).min(18);
    let size = [columns * step, count.div_ceil(columns) * step].map(|v| v as u32);
    let mut picture = RgbImage::from_pixel(size[0], size[1], Rgb([255; 3]));
    for scene in 0..count {
        let (left, top) = (scene % columns * step, scene / columns * step);
        for i in 0..(SIDE * scale).pow(2) {
            let (y, x) = (i / (SIDE * scale), i % (SIDE * scale));
            let value = test.x[(scene * SIDE + y / scale) * SIDE + x / scale];
            let shade = (value.clamp(0.0, 1.0) * 255.0) as u8;
            picture.put_pixel((left + x) as u32, (top + y) as u32, Rgb([shade; 3]));
        }
        for d in found.iter().filter(|d| d.image == scene && d.score > 0.5) {
            let right = test
                .truths
                .iter()
                .any(|t| t.image == scene && t.class == d.class && t.bounds.iou(&d.bounds) > 0.5);
            let colour = if right { Rgb([60, 220, 90]) } else { Rgb([240, 60, 60]) };
            let edge = |v: f32| (v.clamp(0.0, SIDE as f32 - 0.4) * scale as f32) as usize;
            let [x0, y0, x1, y1] = [d.bounds.x0, d.bounds.y0, d.bounds.x1, d.bounds.y1].map(edge);
            let sides =
                (x0..=x1).flat_map(|x| [(x, y0), (x, y1)]).chain((y0..=y1).flat_map(|y| [(x0, y), (x1, y)]));
            sides.for_each(|(x, y)| picture.put_pixel((left + x) as u32, (top + y) as u32, colour));
        }
    }
    picture.save(ex.out("boxes.png")?)?;
    Ok(())
}

fn arrays(data: &Scenes, test: &Scenes) -> Vec<Array> {
    let mut arrays = Vec::new();
    for (name, part) in [("train", data), ("test", test)] {
        let n = part.x.len() / SIDE / SIDE;
        arrays.push((format!("{name}.x"), vec![n, 1, SIDE, SIDE], part.x.clone()));
        arrays.push((format!("{name}.y"), vec![n, 6, CELLS, CELLS], part.y.clone()));
    }
    arrays
}
