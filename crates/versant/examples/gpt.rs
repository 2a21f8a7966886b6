//! A small GPT that writes like Melville, from the characters of Moby Dick.
//!
//! Four pre-norm transformer layers of width 128 with causal attention (Radford et al., 2018), AdamW under warm-up and a cosine.
//! Writing keeps keys and values of what was read in a cache, so that a new character costs one step of one row.
//!
//! `cargo xtask data moby-dick && cargo run --release --example gpt`

mod common;

use common::plot::{Line, lines};
use common::{Example, Outcome, floats};
use versant::data::SampleRng;
use versant::data::sets::moby_dick;
use versant::data::text::Characters;
use versant::nn::generate::{Limits, Sampler, TokenModel, generate};
use versant::nn::layers::{KvCache, LearnedPositions, TransformerConfig, TransformerEncoder};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const WIDTH: usize = 128;
const LENGTH: usize = 96;
const BATCH: usize = 16;

struct Gpt {
    tokens: Embedding,
    positions: LearnedPositions,
    trunk: TransformerEncoder,
    head: Linear,
    /// What was read, while writing.
    cache: KvCache,
}

impl Gpt {
    fn new(params: &Params, characters: usize) -> Gpt {
        let config =
            TransformerConfig::new(WIDTH, 4).norm_first().causal().dropout(0.1).attention_dropout(0.0);
        let trunk = TransformerEncoder::new(&(params / "trunk"), &config, 4).final_norm();
        Gpt {
            tokens: Embedding::new(&(params / "tokens"), characters, WIDTH),
            positions: LearnedPositions::new(&(params / "positions"), LENGTH, WIDTH),
            head: Linear::new(&(params / "head"), WIDTH, characters),
            cache: trunk.cache(1, LENGTH),
            trunk,
        }
    }
}

impl Module for Gpt {
    /// Logits `[batch * LENGTH, characters]` of what follows each of `[batch, LENGTH]`.
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let x = self.positions.forward(&self.tokens.forward(x, mode), mode);
        self.head.forward(&self.trunk.forward(&x, mode).reshape(&[-1, WIDTH as isize]), mode)
    }
}

impl TokenModel for Gpt {
    fn logits(&mut self, tokens: &Tensor) -> Tensor {
        let x = self.positions.at(&self.tokens.forward(tokens, Mode::Eval), self.cache.start());
        let y = self.trunk.step(&x, &mut self.cache);
        self.head.forward(&y.narrow(1, y.shape()[1] - 1, 1).squeeze(1), Mode::Eval)
    }

    fn reorder(&mut self, parents: &[usize]) {
        self.cache.select(parents);
    }
}

/// Pieces of the text `[starts, LENGTH]`, and what follows each character.
fn pair(ex: &Example, text: &[i32], starts: &[usize]) -> (Tensor, Tensor) {
    let pieces = |shift: usize| starts.iter().flat_map(move |&s| &text[s + shift..][..LENGTH]).copied();
    let (x, y): (Vec<i32>, Vec<i32>) = (pieces(0).collect(), pieces(1).collect());
    let n = starts.len();
    (Tensor::from_slice(&ex.dev, &x, &[n, LENGTH]), Tensor::from_slice(&ex.dev, &y, &[n * LENGTH]))
}

/// Nats a character over windows that lie side by side.
fn test_loss(ex: &Example, net: &Gpt, text: &[i32]) -> Outcome<f64> {
    let all: Vec<usize> = (0..text.len() - LENGTH).step_by(LENGTH).take(ex.size(usize::MAX, 32)).collect();
    let (mut sum, mut count) = (0.0, 0);
    for part in all.chunks_exact(32) {
        let (x, y) = pair(ex, text, part);
        sum += f64::from(net.forward(&x, Mode::Eval).cross_entropy(&y).item::<f32>()?);
        count += 1;
    }
    Ok(sum / f64::from(count))
}

fn main() {
    common::main("gpt", run);
}

fn run(ex: &Example) -> Outcome {
    let book = moby_dick(ex.data("moby-dick")?)?;
    let known = Characters::of(&book);
    let ids = known.encode(&book)?;
    let (train, test) = ids.split_at(ids.len() / 10 * 9);
    let array = |name: &str, ids: &[i32]| (name.to_owned(), vec![ids.len()], floats(ids));
    if ex.dump(|| Ok(vec![array("train", train), array("test", test)]))? {
        return Ok(());
    }
    let params = ex.store(0);
    let mut net = Gpt::new(&params, known.len());
    let mut opt = AdamW::new(&params, 2e-3).clip_norm(1.0);
    let steps = ex.size(1500, 8);
    let rate = Schedule::warmup_cosine(2e-3, 50, steps as u64);
    let bar = ex.bar(steps, "training");
    let mut history = Vec::new();
    for step in 0..steps {
        let mut rng = SampleRng::new(ex.options.seed, 0, step as u64);
        let starts: Vec<usize> = (0..BATCH).map(|_| rng.below(train.len() - LENGTH)).collect();
        let (x, y) = pair(ex, train, &starts);
        let loss = net.forward(&x, Mode::Train).cross_entropy(&y);
        opt.set_lr(rate.at(step as u64));
        opt.step(loss.backward()?)?;
        if step % 25 == 0 {
            let nats = f64::from(loss.item::<f32>()?);
            history.push((step as f64, nats));
            bar.set_message(format!("{nats:.3} nats a character"));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let nats = test_loss(ex, &net, test)?;
    let prompt: Vec<u32> = known.encode("The whale ")?.iter().map(|&id| id as u32).collect();
    let mut sampler = Sampler::new(Seed(ex.options.seed)).temperature(0.8).top_p(0.95);
    let limits = Limits { tokens: LENGTH - prompt.len(), end: None };
    let made = generate(&mut net, &ex.dev, &[prompt], &mut sampler, limits)?;
    let made: Vec<i32> = made[0].iter().map(|&id| id as i32).collect();
    println!("The whale {}\n", known.decode(&made)?);
    lines(
        &ex.out("loss.svg")?,
        "A GPT on Moby Dick",
        ["step", "nats a character"],
        &[Line::new("training", history)],
    )?;
    println!("perplexity {:.3}", nats.exp());
    ex.result("test bits a character", nats / std::f64::consts::LN_2)
}
