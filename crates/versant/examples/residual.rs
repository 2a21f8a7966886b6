//! Ten kinds of clothes by a residual net (He et al., 2016) with batch normalisation, on Fashion-MNIST.
//!
//! Three stages of 16, 32 and 64 channels, one basic block each, global average pooling; SGD with momentum under a cosine,
//! mirrored images. The picture shows what the net gets wrong.
//!
//! `cargo xtask data fashion-mnist && cargo run --release --example residual`

mod common;

use common::plot::sheet;
use common::{Example, Outcome, fashion, floats, images};
use versant::data::{ConfusionMatrix, RandomFlip};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const BATCH: usize = 64;

struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl ConvNorm {
    fn new(scope: &Scope, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> ConvNorm {
        let conv = Conv2d::new(&(scope / "conv"), inputs, outputs, kernel);
        let conv = conv.stride(stride).pad(kernel / 2).no_bias();
        ConvNorm { conv, norm: BatchNorm2d::new(&(scope / "norm"), outputs) }
    }
}

impl Module for ConvNorm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.norm.forward(&self.conv.forward(x, mode), mode)
    }
}

/// Two convolutions around which the input goes by, through one of its own where the shape changes.
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    short: Option<ConvNorm>,
}

impl Block {
    fn new(scope: &Scope, inputs: usize, outputs: usize, stride: usize) -> Block {
        Block {
            first: ConvNorm::new(&(scope / "first"), inputs, outputs, 3, stride),
            second: ConvNorm::new(&(scope / "second"), outputs, outputs, 3, 1),
            short: (stride != 1 || inputs != outputs)
                .then(|| ConvNorm::new(&(scope / "short"), inputs, outputs, 1, stride)),
        }
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.second.forward(&self.first.forward(x, mode).relu(), mode);
        let short = self.short.as_ref().map_or_else(|| x.clone(), |s| s.forward(x, mode));
        (y + short).relu()
    }
}

struct Residual {
    stem: ConvNorm,
    blocks: [Block; 3],
    head: Linear,
}

impl Residual {
    fn new(params: &Params) -> Residual {
        Residual {
            stem: ConvNorm::new(&(params / "stem"), 1, 16, 3, 1),
            blocks: [
                Block::new(&(params / "stage1"), 16, 16, 1),
                Block::new(&(params / "stage2"), 16, 32, 2),
                Block::new(&(params / "stage3"), 32, 64, 2),
            ],
            head: Linear::new(&(params / "head"), 64, 10),
        }
    }
}

impl Module for Residual {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let stem = self.stem.forward(x, mode).relu();
        let y = self.blocks.iter().fold(stem, |y, block| block.forward(&y, mode));
        self.head.forward(&y.mean(&[2, 3], false), mode)
    }
}

fn predict(net: &impl Module, loader: &Loader, dev: &Device) -> Outcome<Vec<i32>> {
    let mut all = Vec::new();
    for batch in loader.epoch_on(dev, 0)? {
        all.extend(net.forward(&batch?.x, Mode::Eval).argmax(-1, false).to_vec::<i32>()?);
    }
    Ok(all)
}

fn main() {
    common::main("residual", run);
}

fn run(ex: &Example) -> Outcome {
    let parts = fashion()?;
    let first = |set: &Dataset, n: usize| set.subset(&(0..n.min(set.len())).collect::<Vec<_>>());
    let (data, test) = (first(&parts.train, ex.size(20_000, 512))?, first(&parts.test, ex.size(5000, 200))?);
    let normal = Normalisation::fit(data.images())?;
    if ex.dump(|| {
        let mut arrays = Vec::new();
        for (name, set) in [("train", &data), ("test", &test)] {
            let (mut x, y) = images(set, set.len())?;
            normal.apply(&mut x, [1, 28, 28])?;
            arrays.push((format!("{name}.x"), vec![set.len(), 1, 28, 28], x));
            arrays.push((format!("{name}.y"), vec![set.len()], floats(&y)));
        }
        Ok(arrays)
    })? {
        return Ok(());
    }
    let seed = ex.options.seed;
    let train = Loader::new(data).batch(BATCH).shuffle(seed).drop_last(true);
    let train = train.augment(RandomFlip::horizontal(0.5)).normalise(normal.clone()).prefetch(2);
    let held = Loader::new(test.clone()).batch(250).normalise(normal);
    let params = ex.store(0);
    let net = Residual::new(&params);
    let mut opt = Sgd::new(&params, 0.1).momentum(0.9).weight_decay(5e-4);
    let (epochs, steps) = (ex.size(5, 1), train.batches_per_epoch());
    let rate = Schedule::cosine(0.1, (epochs * steps) as u64);
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for (step, batch) in train.epoch_on(&ex.dev, epoch as u64)?.enumerate() {
            let batch = batch?;
            let loss = net.forward(&batch.x, Mode::Train).cross_entropy(&batch.y);
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            if step % 20 == 0 {
                bar.set_message(format!("loss {:.3}", loss.item::<f32>()?));
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let right = accuracy(&predict(&net, &held, &ex.dev)?, test.labels())?;
        println!("epoch {:>2}  test accuracy {right:.4}", epoch + 1);
    }
    let guess = predict(&net, &held, &ex.dev)?;
    let mut confusion = ConfusionMatrix::new(test.classes().to_vec());
    confusion.add(&guess, test.labels())?;
    println!("{confusion}");
    let wrong = (0..test.len()).filter(|&i| guess[i] != test.labels()[i]).take(48);
    let shown: Result<Vec<Vec<f32>>, _> =
        wrong.map(|i| test.images().get(i).map(|image| image.data().to_vec())).collect();
    sheet(&ex.out("mistakes.png")?, &shown?, [1, 28, 28], 16, 2)?;
    ex.result("test accuracy", accuracy(&guess, test.labels())?)
}
