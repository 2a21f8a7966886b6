//! Happy or not? Tweets, rated by people, and a bidirectional GRU that reads them word by word.
//!
//! 4,200 tweets with mean ratings by twenty people; those near zero (less than 0.5) are left out. The mean of the GRU's
//! states over the words of a tweet decides. Words seen once in training are "unknown".
//!
//! `cargo xtask data vader && cargo run --release --example sentiment`

mod common;

use common::{Example, Outcome, floats};
use versant::data::sets::{Rated, tweets};
use versant::data::text::{Vocabulary, pad, words};
use versant::data::{ConfusionMatrix, Split};
use versant::nn::layers::Sequence;
use versant::prelude::*;

const BATCH: usize = 32;
const LONGEST: usize = 32;
const WIDTH: usize = 64;
const HIDDEN: usize = 48;

struct Reader {
    embedding: Embedding,
    gru: Gru,
    dropout: Dropout,
    head: Linear,
}

impl Reader {
    fn new(params: &Params, words: usize) -> Reader {
        Reader {
            embedding: Embedding::new(&(params / "embedding"), words, WIDTH),
            gru: Gru::new(&(params / "gru"), WIDTH, HIDDEN).bidirectional().batch_first(),
            dropout: Dropout::new(&(params / "dropout"), 0.5),
            head: Linear::new(&(params / "head"), 2 * HIDDEN, 2),
        }
    }

    /// Logits `[batch, 2]` of words `[batch, LONGEST]`, of which the first `lengths` count.
    fn forward(&self, x: &Tensor, lengths: &Tensor, mode: Mode) -> Tensor {
        let embedded = self.dropout.forward(&self.embedding.forward(x, mode), mode);
        let given = Sequence { state: None, lengths: Some(lengths) };
        let (states, _) = self.gru.run(&embedded, &given, mode);
        // States beyond the end are zero: the sum over the length is the mean.
        let mean = states.sum(&[1], false) / lengths.cast(DType::F32).unsqueeze(1);
        self.head.forward(&self.dropout.forward(&mean, mode), mode)
    }
}

/// Tweets as word numbers, and whether they are positive.
struct Texts {
    ids: Vec<Vec<i32>>,
    labels: Vec<i32>,
}

impl Texts {
    /// Some of them as tensors: words, lengths, labels.
    fn batch(&self, ex: &Example, picked: &[usize]) -> (Tensor, Tensor, Tensor) {
        let (x, lengths) = self.padded(picked);
        let labels: Vec<i32> = picked.iter().map(|&i| self.labels[i]).collect();
        let n = picked.len();
        (
            Tensor::from_slice(&ex.dev, &x, &[n, LONGEST]),
            Tensor::from_slice(&ex.dev, &lengths, &[n]),
            Tensor::from_slice(&ex.dev, &labels, &[n]),
        )
    }

    fn padded(&self, picked: &[usize]) -> (Vec<i32>, Vec<i32>) {
        // A row of full length makes all batches one shape, so that there is one plan.
        let mut rows: Vec<&[i32]> = picked.iter().map(|&i| &self.ids[i][..]).collect();
        let full = vec![0; LONGEST];
        rows.push(&full);
        let ids = pad(&rows, 0).ids()[..picked.len() * LONGEST].to_vec();
        (ids, picked.iter().map(|&i| self.ids[i].len() as i32).collect())
    }
}

fn main() {
    common::main("sentiment", run);
}

fn run(ex: &Example) -> Outcome {
    let rated: Vec<Rated> = tweets(ex.data("vader")?)?.into_iter().filter(|t| t.score.abs() >= 0.5).collect();
    let labels: Vec<i32> = rated.iter().map(|tweet| i32::from(tweet.score > 0.0)).collect();
    let fold = Split::new(0.2).seed(0).stratified(true).indices(&labels)?;
    let split: Vec<Vec<String>> = rated.iter().map(|tweet| words(&tweet.text)).collect();
    let seen = fold.train.iter().flat_map(|&i| &split[i]);
    let known = Vocabulary::build(seen, 2, 5000);
    let part = |samples: &[usize]| {
        let encode = |&i: &usize| {
            let mut ids = known.encode(&split[i]);
            ids.truncate(LONGEST);
            // A tweet without a word still needs a step.
            if ids.is_empty() { vec![1] } else { ids }
        };
        let labels = samples.iter().map(|&i| labels[i]).collect();
        Texts { ids: samples.iter().map(encode).collect(), labels }
    };
    let (train, test) = (part(&fold.train), part(&fold.test));
    println!(
        "{} tweets to train on, {} to test; {} words",
        train.labels.len(),
        test.labels.len(),
        known.len()
    );
    if ex.dump(|| Ok(arrays(&train, &test)))? {
        return Ok(());
    }
    let params = ex.store(0);
    let net = Reader::new(&params, known.len());
    let mut opt = AdamW::new(&params, 2e-3).weight_decay(0.05);
    let epochs = ex.size(8, 1);
    for epoch in 0..epochs {
        let order = ex.order(train.labels.len(), BATCH, epoch);
        let steps = ex.size(order.len(), 10);
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for batch in order.iter().take(steps) {
            let (x, lengths, y) = train.batch(ex, batch);
            let loss = net.forward(&x, &lengths, Mode::Train).cross_entropy(&y);
            opt.step(loss.backward()?)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        println!(
            "epoch {:>2}  test accuracy {:.4}",
            epoch + 1,
            accuracy(&predict(ex, &net, &test)?, &test.labels)?
        );
    }
    let guess = predict(ex, &net, &test)?;
    let mut confusion = ConfusionMatrix::new(["negative", "positive"]);
    confusion.add(&guess, &test.labels)?;
    println!("{confusion}");
    for (&sample, &guess) in fold.test.iter().zip(&guess).take(6) {
        let right = if labels[sample] == guess { "right" } else { "WRONG" };
        println!(
            "{right} {:+.1} said {}: {}",
            rated[sample].score,
            ["negative", "positive"][guess as usize],
            rated[sample].text
        );
    }
    ex.result("test accuracy", accuracy(&guess, &test.labels)?)
}

fn predict(ex: &Example, net: &Reader, test: &Texts) -> Outcome<Vec<i32>> {
    let all: Vec<usize> = (0..test.labels.len()).collect();
    let mut guesses = Vec::new();
    for part in all.chunks(128) {
        let (x, lengths, _) = test.batch(ex, part);
        guesses.extend(net.forward(&x, &lengths, Mode::Eval).argmax(-1, false).to_vec::<i32>()?);
    }
    Ok(guesses)
}

fn arrays(train: &Texts, test: &Texts) -> Vec<common::Array> {
    let mut arrays = Vec::new();
    for (name, part) in [("train", train), ("test", test)] {
        let n = part.labels.len();
        let (x, lengths) = part.padded(&(0..n).collect::<Vec<_>>());
        arrays.push((format!("{name}.x"), vec![n, LONGEST], floats(&x)));
        arrays.push((format!("{name}.lengths"), vec![n], floats(&lengths)));
        arrays.push((format!("{name}.y"), vec![n], floats(&part.labels)));
    }
    arrays
}
