//! Handwritten digits in sixty lines: the whole of a training program, for reading.
//!
//! `cargo run --release --example digits`

use versant::data::{Split, digits};
use versant::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A GPU if there is one, else the CPU; `VERSANT_DEVICE=lavapipe` and the like choose another.
    let dev = Device::best()?;

    // 1,797 images of 8 × 8 pixels; a fifth is kept for testing, with every digit's share.
    let parts = Split::new(0.2).seed(1).stratified(true).apply(&digits::embedded()?)?;
    let normal = Normalisation::fit(parts.train.images())?;
    let train = Loader::new(parts.train).batch(64).shuffle(2).normalise(normal.clone());
    let test = Loader::new(parts.test).batch(256).normalise(normal);

    // Parameters live in a store under their names; a tuple of layers is a layer.
    let params = Params::new(&dev, Seed(3));
    let net = (
        Conv2d::new(&(&params / "conv"), 1, 16, 3).pad(1),
        Relu,
        MaxPool2d::new(2),
        Flatten::new(),
        Linear::new(&(&params / "hidden"), 16 * 4 * 4, 64),
        Relu,
        Linear::new(&(&params / "classes"), 64, 10),
    );
    let mut opt = AdamW::new(&params, 2e-3);

    for epoch in 0..12 {
        let mut total = 0.0;
        for batch in train.epoch_on(&dev, epoch)? {
            let batch = batch?;
            // Nothing is computed here: these lines record a graph.
            let loss = net.forward(&batch.x, Mode::Train).cross_entropy(&batch.y);
            let grads = loss.backward()?;
            // Forward, backward and update run as one plan, which every later step replays.
            opt.step(grads)?;
            total += loss.item::<f32>()? * batch.len() as f32;
        }
        println!("epoch {:>2}  loss {:.4}", epoch + 1, total / train.data().len() as f32);
    }

    let mut confusion = ConfusionMatrix::new((0..10).map(|d| d.to_string()));
    for batch in test.epoch_on(&dev, 0)? {
        let batch = batch?;
        let scores = net.forward(&batch.x, Mode::Eval);
        confusion.add(&scores.argmax(-1, false).to_vec::<i32>()?, &batch.labels)?;
    }
    println!("{confusion}");

    params.save("out/digits.safetensors")?;
    println!("accuracy {:.1} % on {}", 100.0 * confusion.accuracy().unwrap_or(0.0), dev.info().name);
    Ok(())
}
