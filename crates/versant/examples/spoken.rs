//! Which digits were spoken? Strings of one to five English digits, without being told where one ends and the next begins.
//!
//! A convolution and a bidirectional GRU say a digit or a blank for every 32 ms, and connectionist temporal classification
//! (Graves et al., 2006) sums over all ways to align them. There is one recording of each digit, so strings are made of them
//! at different speeds, loudness and pauses, with noise; those to test are other strings with other distortions, but not
//! another voice: the figure says that the net aligns and tells apart, not that it would know a stranger.
//!
//! `cargo xtask data asterisk-sounds && cargo run --release --example spoken`

mod common;

use common::plot::sheet;
use common::{Array, Example, Outcome, floats, pick};
use versant::data::SampleRng;
use versant::data::audio::{MelBank, MelScale, Stft};
use versant::data::metrics::character_errors;
use versant::data::sets::spoken_digits;
use versant::nn::loss::{CtcOptions, ctc};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const MELS: usize = 24;
/// Frames of 16 ms, halved by the net.
const FRAMES: usize = 240;
const STEPS: usize = FRAMES / 2;
const LABELS: usize = 5;
const BATCH: usize = 32;

/// Log-mel spectrograms `[n, 1, FRAMES, MELS]`, labels `[n, LABELS]` of digits plus 1, and how many there are.
#[derive(Default)]
struct Strings {
    x: Vec<f32>,
    y: Vec<i32>,
    counts: Vec<i32>,
}

/// Strings of recordings, each a little faster or slower, with pauses, over noise.
fn strings(clips: &[Vec<f32>], count: usize, seed: u64) -> Outcome<Strings> {
    let (stft, bank) = (Stft::new(256).hop(128), MelBank::new(8000, 256, MELS, MelScale::Htk)?);
    let mut all = Strings::default();
    for at in 0..count {
        let mut rng = SampleRng::new(seed, 0, at as u64);
        let noise = rng.between(0.001, 0.02);
        let mut sound: Vec<f32> = Vec::new();
        let mut labels = Vec::new();
        for _ in 0..1 + rng.below(LABELS) {
            let digit = rng.below(10);
            let (speed, gain) = (rng.between(0.85, 1.2), rng.between(0.4, 1.2));
            let clip = &clips[digit];
            let length = (clip.len() as f32 / speed) as usize;
            let pause = rng.below(1600);
            if sound.len() + pause + length > (FRAMES - 1) * 128 {
                break;
            }
            sound.resize(sound.len() + pause, 0.0);
            sound.extend((0..length).map(|i| {
                let place = i as f32 * speed;
                let (low, high) = (clip[place as usize], clip[(place as usize + 1).min(clip.len() - 1)]);
                gain * (low + (high - low) * place.fract())
            }));
            labels.push(digit as i32 + 1);
        }
        sound.resize((FRAMES - 1) * 128, 0.0);
        sound.iter_mut().for_each(|v| *v += rng.between(-noise, noise));
        let mel = bank.apply(&stft.apply(&sound)?.power())?.log(1e-3);
        // A fixed scale: the silence around must not change what is loud.
        all.x.extend(mel.values().iter().map(|v| (v + 2.0) / 3.0));
        all.counts.push(labels.len() as i32);
        labels.resize(LABELS, 0);
        all.y.extend(labels);
    }
    Ok(all)
}

struct Listener {
    conv: Conv2d,
    norm: BatchNorm2d,
    gru: Gru,
    head: Linear,
}

impl Listener {
    fn new(params: &Params) -> Listener {
        Listener {
            conv: Conv2d::new(&(params / "conv"), 1, 16, 3).pad(1),
            norm: BatchNorm2d::new(&(params / "norm"), 16),
            gru: Gru::new(&(params / "gru"), 16 * MELS / 2, 64).bidirectional(),
            head: Linear::new(&(params / "head"), 128, 11),
        }
    }
}

impl Module for Listener {
    /// Logarithms of probabilities `[STEPS, batch, 11]`: blank, then the digits.
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.norm.forward(&self.conv.forward(x, mode), mode).relu();
        let y = y.max_pool2d(&PoolOptions::new([2, 2])).permute(&[2, 0, 1, 3]).flatten(2);
        self.head.forward(&self.gru.forward(&y, mode), mode).log_softmax(-1)
    }
}

/// The best class of each step, repetitions and blanks left out, as text; `best` is `[STEPS, n]`.
fn decoded(best: &[i32], n: usize, sample: usize) -> String {
    let mut text = String::new();
    let mut before = 0;
    for step in 0..STEPS {
        let class = best[step * n + sample];
        if class != 0 && class != before {
            text += &(class - 1).to_string();
        }
        before = class;
    }
    text
}

fn main() {
    common::main("spoken", run);
}

fn run(ex: &Example) -> Outcome {
    let clips = spoken_digits(ex.data("asterisk-sounds")?)?;
    let english = clips.into_iter().filter(|(clip, _)| clip.language == 0);
    let english: Vec<Vec<f32>> = english.map(|(clip, _)| clip.sound.samples().to_vec()).collect();
    let (data, test) = (strings(&english, ex.size(2000, 128), 1)?, strings(&english, ex.size(300, 32), 2)?);
    if ex.dump(|| Ok(arrays(&data, &test)))? {
        return Ok(());
    }
    let params = ex.store(0);
    let net = Listener::new(&params);
    let mut opt = AdamW::new(&params, 3e-3).clip_norm(5.0);
    let n = data.counts.len();
    let (epochs, steps) = (ex.size(10, 1), n / BATCH);
    let rate = Schedule::warmup_cosine(3e-3, 30, (epochs * steps) as u64);
    let all_steps = Tensor::from_slice(&ex.dev, &[STEPS as i32; BATCH], &[BATCH]);
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for batch in ex.order(n, BATCH, epoch).iter().take(steps) {
            let log_p = net.forward(&pick(&ex.dev, &data.x, &[1, FRAMES, MELS], batch), Mode::Train);
            let labels = pick(&ex.dev, &data.y, &[LABELS], batch);
            let counts = pick(&ex.dev, &data.counts, &[], batch);
            let loss = ctc(&log_p, &labels, &all_steps, &counts, &CtcOptions::default());
            drop(log_p);
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            bar.set_message(format!("loss {:.3}", loss.item::<f32>()?));
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    let (mut said, mut truth) = (Vec::new(), Vec::new());
    let all: Vec<usize> = (0..test.counts.len()).collect();
    for part in all.chunks(50) {
        let log_p = net.forward(&pick(&ex.dev, &test.x, &[1, FRAMES, MELS], part), Mode::Eval);
        let best = log_p.argmax(-1, false).to_vec::<i32>()?;
        said.extend((0..part.len()).map(|i| decoded(&best, part.len(), i)));
        truth.extend(part.iter().map(|&i| {
            let labels = &test.y[i * LABELS..][..test.counts[i] as usize];
            labels.iter().map(|label| (label - 1).to_string()).collect::<String>()
        }));
    }
    said.iter().zip(&truth).take(8).for_each(|(said, truth)| println!("heard {said:<6} spoken {truth}"));
    let exact = said.iter().zip(&truth).filter(|(a, b)| a == b).count();
    println!("{exact} of {} strings exactly right", truth.len());
    let shown: Vec<Vec<f32>> = (0..6.min(truth.len()))
        .map(|i| test.x[i * FRAMES * MELS..][..FRAMES * MELS].iter().map(|v| 0.5 + v / 4.0).collect())
        .collect();
    sheet(&ex.out("spectrograms.png")?, &shown, [1, FRAMES, MELS], 6, 2)?;
    let errors = character_errors(&said, &truth)?;
    ex.result("digit error rate", errors.rate().unwrap_or(f64::NAN))
}

fn arrays(data: &Strings, test: &Strings) -> Vec<Array> {
    let mut arrays = Vec::new();
    for (name, part) in [("train", data), ("test", test)] {
        let n = part.counts.len();
        arrays.push((format!("{name}.x"), vec![n, 1, FRAMES, MELS], part.x.clone()));
        arrays.push((format!("{name}.y"), vec![n, LABELS], floats(&part.y)));
        arrays.push((format!("{name}.counts"), vec![n], floats(&part.counts)));
    }
    arrays
}
