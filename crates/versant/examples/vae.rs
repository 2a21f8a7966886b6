//! Clothes that do not exist: a variational autoencoder on Fashion-MNIST.
//!
//! An encoder gives a normal distribution of 16 numbers for an image, a decoder an image for 16 numbers; the loss is the
//! negative evidence lower bound (Kingma and Welling, 2014). New clothes are decoded from numbers drawn at random.
//!
//! `cargo xtask data fashion-mnist && cargo run --release --example vae`

mod common;

use common::plot::sheet;
use common::{Example, Outcome, fashion, images, pick};
use versant::graph::RandomKey;
use versant::nn::loss::{BceOptions, Reduction, bce_with_logits};
use versant::prelude::*;

const PIXELS: usize = 28 * 28;
const LATENT: usize = 16;
const HIDDEN: usize = 256;
const BATCH: usize = 128;

struct Vae<E, D> {
    encoder: E,
    decoder: D,
}

fn vae(params: &Params) -> Vae<impl Module + use<>, impl Module + use<>> {
    let (e, d) = (params / "encoder", params / "decoder");
    Vae {
        encoder: (
            Linear::new(&(&e / "1"), PIXELS, HIDDEN),
            Relu,
            Linear::new(&(&e / "2"), HIDDEN, HIDDEN),
            Relu,
            Linear::new(&(&e / "3"), HIDDEN, 2 * LATENT),
        ),
        decoder: (
            Linear::new(&(&d / "1"), LATENT, HIDDEN),
            Relu,
            Linear::new(&(&d / "2"), HIDDEN, HIDDEN),
            Relu,
            Linear::new(&(&d / "3"), HIDDEN, PIXELS),
        ),
    }
}

impl<E: Module, D: Module> Vae<E, D> {
    /// Mean and logarithm of the variance of the code of images `[n, PIXELS]`, both `[n, LATENT]`.
    fn encode(&self, x: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let code = self.encoder.forward(x, mode);
        (code.narrow(1, 0, LATENT), code.narrow(1, LATENT, LATENT))
    }

    /// The negative evidence lower bound in nats an image; the code is drawn with `key`.
    fn loss(&self, x: &Tensor, key: RandomKey, mode: Mode) -> Tensor {
        let (mean, log_variance) = self.encode(x, mode);
        let noise = Tensor::rand_normal(x.device(), mean.shape(), key);
        let code = &mean + noise * (&log_variance * 0.5).exp();
        let sum = BceOptions { reduction: Reduction::Sum, ..BceOptions::default() };
        let seen = bce_with_logits(&self.decoder.forward(&code, mode), x, &sum);
        let divergence = (mean.square() + log_variance.exp() - &log_variance - 1.0).sum_all() * 0.5;
        (seen + divergence) * (1.0 / x.shape()[0] as f32)
    }
}

/// The bound on test images, in nats an image.
fn test_loss(ex: &Example, vae: &Vae<impl Module, impl Module>, x: &[f32]) -> Outcome<f64> {
    let mut total = 0.0;
    for (at, part) in x.chunks(1000 * PIXELS).enumerate() {
        let n = part.len() / PIXELS;
        let part = Tensor::from_slice(&ex.dev, part, &[n, PIXELS]);
        let key = RandomKey::new(7).fold(at as u64);
        total += f64::from(vae.loss(&part, key, Mode::Eval).item::<f32>()?) * n as f64;
    }
    Ok(total / (x.len() / PIXELS) as f64)
}

fn main() {
    common::main("vae", run);
}

fn run(ex: &Example) -> Outcome {
    let parts = fashion()?;
    let (x, _) = images(&parts.train, ex.size(20_000, 1024))?;
    let (test, _) = images(&parts.test, ex.size(2000, 200))?;
    let (samples, tests) = (x.len() / PIXELS, test.len() / PIXELS);
    let array = |name: &str, n, x: &[f32]| (name.to_owned(), vec![n, PIXELS], x.to_vec());
    if ex.dump(|| Ok(vec![array("train.x", samples, &x), array("test.x", tests, &test)]))? {
        return Ok(());
    }
    let params = ex.store(0);
    let vae = vae(&params);
    let mut opt = Adam::new(&params, 1e-3);
    let keys = (&params / "noise").random();
    let epochs = ex.size(20, 1);
    for epoch in 0..epochs {
        let bar = ex.bar(samples.div_ceil(BATCH), &format!("epoch {}/{epochs}", epoch + 1));
        for batch in ex.order(samples, BATCH, epoch) {
            let loss = vae.loss(&pick(&ex.dev, &x, &[PIXELS], &batch), keys.next_key(), Mode::Train);
            opt.step(loss.backward()?)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        println!("epoch {:>2}  test {:.2} nats an image", epoch + 1, test_loss(ex, &vae, &test)?);
    }
    // New ones, and how well old ones come back.
    let code = Tensor::rand_normal(&ex.dev, &[64, LATENT], RandomKey::new(ex.options.seed));
    let drawn = vae.decoder.forward(&code, Mode::Eval).sigmoid().to_vec::<f32>()?;
    let split = |values: &[f32]| values.chunks_exact(PIXELS).map(<[f32]>::to_vec).collect::<Vec<_>>();
    sheet(&ex.out("samples.png")?, &split(&drawn), [1, 28, 28], 16, 2)?;
    let first = Tensor::from_slice(&ex.dev, &test[..16 * PIXELS], &[16, PIXELS]);
    let (mean, _) = vae.encode(&first, Mode::Eval);
    let back = vae.decoder.forward(&mean, Mode::Eval).sigmoid().to_vec::<f32>()?;
    let both = [split(&test[..16 * PIXELS]), split(&back)].concat();
    sheet(&ex.out("reconstructions.png")?, &both, [1, 28, 28], 16, 2)?;
    ex.result("negative ELBO, nats an image", test_loss(ex, &vae, &test)?)
}
