//! English to German: one-line descriptions of Debian's packages, by an encoder and a decoder with attention.
//!
//! Two pre-norm transformer layers each (Vaswani et al., 2017) over words; teacher forcing with smoothed labels. Translations of
//! unseen descriptions are decoded greedily with a cache, and scored by BLEU over words.
//!
//! `cargo xtask data translation && cargo run --release --example translate`

mod common;

use common::{Array, Example, Outcome, floats, pick};
use versant::data::Split;
use versant::data::metrics::bleu;
use versant::data::sets::translations;
use versant::data::text::{Vocabulary, words};
use versant::nn::generate::{Limits, Sampler, TokenModel, generate};
use versant::nn::layers::{
    Attend, KvCache, SinusoidalPositions, TransformerConfig, TransformerDecoder, TransformerEncoder,
};
use versant::nn::loss::{CrossEntropyOptions, cross_entropy};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const WIDTH: usize = 128;
/// The most words of a line, with its beginning or end.
const LENGTH: usize = 14;
const BATCH: usize = 64;
const BEGIN: &str = "<begin>";
const END: &str = "<end>";

/// Lines of both languages as numbers, padded: `[lines, LENGTH]`; the German ones with their beginning and end.
struct Lines {
    source: Vec<i32>,
    target: Vec<i32>,
    count: usize,
}

struct Translator {
    source: Embedding,
    target: Embedding,
    positions: SinusoidalPositions,
    encoder: TransformerEncoder,
    decoder: TransformerDecoder,
    head: Linear,
}

impl Translator {
    fn new(params: &Params, source: usize, target: usize) -> Translator {
        let config =
            TransformerConfig::new(WIDTH, 4).hidden(256).norm_first().dropout(0.2).attention_dropout(0.0);
        Translator {
            source: Embedding::new(&(params / "source"), source, WIDTH),
            target: Embedding::new(&(params / "target"), target, WIDTH),
            positions: SinusoidalPositions::new(params.device(), LENGTH, WIDTH),
            encoder: TransformerEncoder::new(&(params / "encoder"), &config, 2).final_norm(),
            decoder: TransformerDecoder::new(&(params / "decoder"), &config.causal(), 2).final_norm(),
            head: Linear::new(&(params / "head"), WIDTH, target),
        }
    }

    /// The memory of English lines `[n, LENGTH]`, and which of its rows are words.
    fn read(&self, x: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let present = x.ne(&Tensor::constant(x.device(), Vocabulary::PAD));
        let rows = self.positions.forward(&self.source.forward(x, mode), mode);
        let given = Attend { present: Some(&present), ..Attend::default() };
        (self.encoder.run(&rows, &given, mode), present)
    }

    /// The loss of German lines `[n, LENGTH]` for English ones: each word from those before it.
    fn loss(&self, x: &Tensor, y: &Tensor) -> Tensor {
        let (memory, present) = self.read(x, Mode::Train);
        let known = self
            .positions
            .forward(&self.target.forward(&y.narrow(1, 0, LENGTH - 1), Mode::Train), Mode::Train);
        let cross = Attend { memory: Some(&memory), present: Some(&present), ..Attend::default() };
        let rows = self.decoder.run(&known, &Attend::default(), &cross, Mode::Train);
        let logits = self.head.forward(&rows.reshape(&[-1, WIDTH as isize]), Mode::Train);
        let options = CrossEntropyOptions {
            ignore_index: Some(i64::from(Vocabulary::PAD)),
            label_smoothing: 0.1,
            ..CrossEntropyOptions::default()
        };
        cross_entropy(&logits, &y.narrow(1, 1, LENGTH - 1).reshape(&[-1]), &options)
    }

    /// What the decoder says for some lines, word after word.
    fn translate(&self, ex: &Example, x: &Tensor, begin: u32, end: u32) -> Outcome<Vec<Vec<u32>>> {
        let (memory, present) = self.read(x, Mode::Eval);
        let cache = self.decoder.cache(&memory, LENGTH)?;
        let mut writing = Writing { net: self, present, cache };
        let prompts = vec![vec![begin]; x.shape()[0]];
        let limits = Limits { tokens: LENGTH - 1, end: Some(end) };
        Ok(generate(&mut writing, &ex.dev, &prompts, &mut Sampler::greedy(), limits)?)
    }
}

/// A translation under way.
struct Writing<'a> {
    net: &'a Translator,
    present: Tensor,
    cache: KvCache,
}

impl TokenModel for Writing<'_> {
    fn logits(&mut self, tokens: &Tensor) -> Tensor {
        let net = self.net;
        let x = net.positions.at(&net.target.forward(tokens, Mode::Eval), self.cache.start());
        let cross = Attend { present: Some(&self.present), ..Attend::default() };
        let rows = net.decoder.step(&x, &cross, &mut self.cache);
        net.head.forward(&rows.narrow(1, rows.shape()[1] - 1, 1).squeeze(1), Mode::Eval)
    }

    fn reorder(&mut self, parents: &[usize]) {
        self.cache.select(parents);
    }
}

fn main() {
    common::main("translate", run);
}

fn run(ex: &Example) -> Outcome {
    let pairs =
        translations(ex.data("translation")?, "de")?.into_iter().map(|(en, de)| [words(&en), words(&de)]);
    let pairs: Vec<_> = pairs.filter(|pair| pair.iter().all(|line| line.len() + 2 <= LENGTH)).collect();
    let fold = Split::new(0.05).seed(0).indices(&vec![0; pairs.len()])?;
    let marks = [BEGIN, END].map(str::to_owned);
    // The marks are in the vocabulary of the target as if each stood twice in the text.
    let build = |side: usize| {
        let seen = fold.train.iter().flat_map(|&i| &pairs[i][side]);
        Vocabulary::build(seen.chain(&marks).chain(&marks), 2, 6000)
    };
    let known = [build(0), build(1)];
    let [begin, end] = [BEGIN, END].map(|mark| known[1].id(mark));
    let encode = |samples: &[usize]| {
        let padded = |mut ids: Vec<i32>| {
            ids.resize(LENGTH, Vocabulary::PAD);
            ids
        };
        let target = |i: usize| [vec![begin], known[1].encode(&pairs[i][1]), vec![end]].concat();
        let source = samples.iter().flat_map(|&i| padded(known[0].encode(&pairs[i][0]))).collect();
        Lines {
            source,
            target: samples.iter().flat_map(|&i| padded(target(i))).collect(),
            count: samples.len(),
        }
    };
    let (train, test) = (encode(&fold.train), encode(&fold.test));
    println!("{} lines, {} English and {} German words", train.count, known[0].len(), known[1].len());
    if ex.dump(|| Ok(arrays(&train, &test, [begin, end])))? {
        return Ok(());
    }
    let params = ex.store(0);
    let net = Translator::new(&params, known[0].len(), known[1].len());
    let mut opt = AdamW::new(&params, 1e-3).clip_norm(1.0);
    let (epochs, steps) = (ex.size(12, 1), ex.size(train.count / BATCH, 6));
    let rate = Schedule::warmup_cosine(1e-3, 100, (epochs * steps) as u64);
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for (step, batch) in ex.order(train.count, BATCH, epoch).iter().take(steps).enumerate() {
            let lines = |ids: &[i32]| pick(&ex.dev, ids, &[LENGTH], batch);
            let loss = net.loss(&lines(&train.source), &lines(&train.target));
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            if step % 20 == 0 {
                bar.set_message(format!("loss {:.3}", loss.item::<f32>()?));
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    let mut made = Vec::new();
    for part in (0..ex.size(test.count, 20)).collect::<Vec<_>>().chunks(100) {
        let x = pick(&ex.dev, &test.source, &[LENGTH], part);
        made.extend(net.translate(ex, &x, begin as u32, end as u32)?);
    }
    // An unknown word is one word that is never the right one: BLEU takes "<unknown>" for three.
    let word = |&id: &u32| match id as i32 {
        Vocabulary::UNKNOWN => "\u{2047}",
        id => known[1].token(id).unwrap_or_default(),
    };
    let spoken = |ids: &Vec<u32>| {
        let ids = ids.iter().filter(|&&id| id != end as u32);
        ids.map(word).collect::<Vec<_>>().join(" ")
    };
    let made: Vec<String> = made.iter().map(spoken).collect();
    let truth: Vec<Vec<String>> =
        fold.test.iter().take(made.len()).map(|&i| vec![pairs[i][1].join(" ")]).collect();
    for ((&sample, made), truth) in fold.test.iter().zip(&made).zip(&truth).take(6) {
        println!("{}\n  made: {made}\n  is:   {}", pairs[sample][0].join(" "), truth[0]);
    }
    ex.result("BLEU", bleu(&made, &truth)?.score)
}

fn arrays(train: &Lines, test: &Lines, marks: [i32; 2]) -> Vec<Array> {
    let mut arrays = vec![("marks".to_owned(), vec![2], floats(&marks))];
    for (name, lines) in [("train", train), ("test", test)] {
        arrays.push((format!("{name}.source"), vec![lines.count, LENGTH], floats(&lines.source)));
        arrays.push((format!("{name}.target"), vec![lines.count, LENGTH], floats(&lines.target)));
    }
    arrays
}
