//! An LSTM that writes like Melville: character by character, trained on Moby Dick.
//!
//! Forty places of the book are read at once, 64 characters a step; the state carries on from one step to the next, the
//! gradient does not (truncated backpropagation through time). The last tenth of the book is for testing.
//!
//! `cargo xtask data moby-dick && cargo run --release --example text`

mod common;

use common::plot::{Line, lines};
use common::{Example, Outcome, floats};
use versant::data::SampleRng;
use versant::data::sets::moby_dick;
use versant::data::text::{Characters, Streams};
use versant::nn::layers::{RnnState, Sequence};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const STREAMS: usize = 40;
const STEPS: usize = 64;
const HIDDEN: usize = 192;

struct Writer {
    embedding: Embedding,
    lstm: Lstm,
    head: Linear,
    characters: usize,
}

impl Writer {
    fn new(params: &Params, characters: usize) -> Writer {
        Writer {
            embedding: Embedding::new(&(params / "embedding"), characters, 64),
            lstm: Lstm::new(&(params / "lstm"), 64, HIDDEN).batch_first(),
            head: Linear::new(&(params / "head"), HIDDEN, characters),
            characters,
        }
    }

    /// Logits `[batch * steps, characters]` after each character of `[batch, steps]`, and the state to go on from.
    fn read(&self, x: &Tensor, state: Option<&RnnState>, mode: Mode) -> (Tensor, RnnState) {
        let given = Sequence { state, lengths: None };
        let (y, state) = self.lstm.run(&self.embedding.forward(x, mode), &given, mode);
        (self.head.forward(&y.reshape(&[-1, HIDDEN as isize]), mode), state)
    }

    /// Nats a character over a text.
    fn loss(&self, ex: &Example, text: &Streams, steps: usize) -> Outcome<f64> {
        let (mut state, mut sum) = (None, 0.0);
        for step in 0..steps.min(text.steps()) {
            let (x, y) = tensors(ex, text, step)?;
            let (logits, next) = self.read(&x, state.as_ref(), Mode::Eval);
            sum += f64::from(logits.cross_entropy(&y).item::<f32>()?);
            state = Some(next.detach());
        }
        Ok(sum / steps.min(text.steps()) as f64)
    }

    /// Goes on from a beginning; a higher temperature is bolder.
    fn write(
        &self,
        ex: &Example,
        known: &Characters,
        begin: &str,
        length: usize,
        temperature: f32,
    ) -> Outcome<String> {
        let mut rng = SampleRng::new(ex.options.seed, 0, 0);
        let mut ids = known.encode(begin)?;
        let start = Tensor::from_slice(&ex.dev, &ids, &[1, ids.len()]);
        let (mut logits, mut state) = self.read(&start, None, Mode::Eval);
        for _ in 0..length {
            let rows = logits.shape()[0];
            let p = (logits.narrow(0, rows - 1, 1) * (1.0 / temperature)).softmax(-1).to_vec::<f32>()?;
            let (mut left, mut next) = (rng.uniform(), 0);
            while next + 1 < p.len() && left >= p[next] {
                left -= p[next];
                next += 1;
            }
            ids.push(next as i32);
            (logits, state) =
                self.read(&Tensor::from_slice(&ex.dev, &[next as i32], &[1, 1]), Some(&state), Mode::Eval);
        }
        Ok(known.decode(&ids)?)
    }
}

/// The characters of a step `[STREAMS, STEPS]`, and those that follow each.
fn tensors(ex: &Example, text: &Streams, step: usize) -> Outcome<(Tensor, Tensor)> {
    let (x, y) = text.step(step)?;
    let x = Tensor::from_slice(&ex.dev, &x, &[STREAMS, STEPS]);
    Ok((x, Tensor::from_slice(&ex.dev, &y, &[STREAMS * STEPS])))
}

fn main() {
    common::main("text", run);
}

fn run(ex: &Example) -> Outcome {
    let book = moby_dick(ex.data("moby-dick")?)?;
    let known = Characters::of(&book);
    let ids = known.encode(&book)?;
    let (train_ids, test_ids) = ids.split_at(ids.len() / 10 * 9);
    let array = |name: &str, ids: &[i32]| (name.to_owned(), vec![ids.len()], floats(ids));
    if ex.dump(|| Ok(vec![array("train", train_ids), array("test", test_ids)]))? {
        return Ok(());
    }
    let train = Streams::new(train_ids.to_vec(), STREAMS, STEPS)?;
    let test = Streams::new(test_ids.to_vec(), STREAMS, STEPS)?;
    let params = ex.store(0);
    let net = Writer::new(&params, known.len());
    let mut opt = Adam::new(&params, 4e-3).clip_norm(1.0);
    let (epochs, steps) = (ex.size(4, 1), ex.size(train.steps(), 15));
    let rate = Schedule::cosine(4e-3, (epochs * steps) as u64).floor(1e-4);
    let mut history = Vec::new();
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        let mut state: Option<RnnState> = None;
        for step in 0..steps {
            let (x, y) = tensors(ex, &train, step)?;
            let (logits, next) = net.read(&x, state.as_ref(), Mode::Train);
            let loss = logits.cross_entropy(&y);
            state = Some(next.detach());
            drop((logits, next));
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            if step % 25 == 0 {
                let nats = f64::from(loss.item::<f32>()?);
                history.push((opt.steps() as f64, nats));
                bar.set_message(format!("{nats:.3} nats a character"));
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    let nats = net.loss(ex, &test, ex.size(usize::MAX, 3))?;
    for temperature in [0.5, 0.8] {
        let text = net.write(ex, &known, "The whale ", ex.size(300, 20), temperature)?;
        println!("temperature {temperature}: {text}\n");
    }
    let drawn = [Line::new("training", history)];
    lines(&ex.out("loss.svg")?, "Moby Dick by characters", ["step", "nats a character"], &drawn)?;
    println!("{} characters known, perplexity {:.3}", net.characters, nats.exp());
    ex.result("test bits a character", nats / std::f64::consts::LN_2)
}
