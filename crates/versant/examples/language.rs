//! Which language is it? Telephone prompts in five languages, by their mel spectrograms, a convolution and a GRU.
//!
//! English, Spanish, French, Italian and Russian, about 550 recordings each. Each language has one speaker here, so
//! what is told apart is voice as much as language: the figure says that the pipeline works, not that it would know a stranger.
//! Prompts are split by name, so that no prompt is in both parts in any language.
//!
//! `cargo xtask data asterisk-sounds && cargo run --release --example language`

mod common;

use std::collections::BTreeSet;

use common::plot::sheet;
use common::{Array, Example, Outcome, floats};
use versant::data::audio::{MelBank, MelScale, SpecMask, Stft};
use versant::data::sets::{Clip, LANGUAGES, spoken};
use versant::data::{ConfusionMatrix, SampleRng, Split};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const MELS: usize = 32;
const FRAMES: usize = 96;
const BATCH: usize = 32;

/// A convolution over time and frequency, a GRU over time, and the mean of its states.
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
            gru: Gru::new(&(params / "gru"), 16 * MELS / 4, 64).batch_first(),
            head: Linear::new(&(params / "head"), 64, LANGUAGES.len()),
        }
    }
}

impl Module for Listener {
    /// Spectrograms `[batch, 1, FRAMES, MELS]` give logits.
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.norm.forward(&self.conv.forward(x, mode), mode).relu();
        let y = y.max_pool2d(&PoolOptions::new([4, 4])).permute(&[0, 2, 1, 3]);
        let y = self.gru.forward(&y.flatten(2), mode);
        self.head.forward(&y.mean(&[1], false), mode)
    }
}

/// A window of a clip's log-mel spectrogram, `[FRAMES, MELS]`, from a random start or the middle; short clips are
/// repeated.
fn window(spectrum: &[f32], rng: Option<&mut SampleRng>) -> Vec<f32> {
    let frames = spectrum.len() / MELS;
    let spare = frames.saturating_sub(FRAMES);
    let start = rng.map_or(spare / 2, |rng| rng.below(spare + 1));
    let row = |i: usize| &spectrum[(start + i) % frames * MELS..][..MELS];
    (0..FRAMES).flat_map(row).copied().collect()
}

/// Each clip's log-mel spectrogram of 16 ms steps, with mean 0 and deviation 1.
fn spectra(clips: &[Clip]) -> Outcome<Vec<Vec<f32>>> {
    let (stft, bank) = (Stft::new(256).hop(128), MelBank::new(8000, 256, MELS, MelScale::Htk)?);
    let one = |clip: &Clip| {
        let mut mel = bank.apply(&stft.apply(clip.sound.samples())?.power())?.log(1e-6).values().to_vec();
        let n = mel.len() as f32;
        let mean = mel.iter().sum::<f32>() / n;
        let deviation = (mel.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt().max(1e-3);
        mel.iter_mut().for_each(|v| *v = (*v - mean) / deviation);
        Ok(mel)
    };
    clips.iter().map(one).collect()
}

fn main() {
    common::main("language", run);
}

fn run(ex: &Example) -> Outcome {
    let clips = spoken(ex.data("asterisk-sounds")?)?;
    let all = spectra(&clips)?;
    let labels: Vec<i32> = clips.iter().map(|clip| clip.language as i32).collect();
    let names: Vec<&str> =
        clips.iter().map(|c| c.name.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let held = Split::new(0.25).seed(0).indices(&vec![0; names.len()])?.test;
    let held: BTreeSet<&str> = held.into_iter().map(|i| names[i]).collect();
    let (test, train): (Vec<usize>, Vec<usize>) =
        (0..clips.len()).partition(|&i| held.contains(&*clips[i].name));
    println!("{} prompts to train on, {} to test", train.len(), test.len());
    if ex.dump(|| Ok(arrays(&all, &labels, &train, &test)))? {
        return Ok(());
    }
    let params = ex.store(0);
    let net = Listener::new(&params);
    let mut opt = AdamW::new(&params, 3e-3).weight_decay(0.01);
    let epochs = ex.size(12, 1);
    let steps = ex.size(train.len() / BATCH, 8);
    let rate = Schedule::cosine(3e-3, (epochs * steps) as u64);
    let mask = SpecMask::new().frames(1, 12).frequencies(1, 6);
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for batch in ex.order(train.len(), BATCH, epoch).iter().take(steps) {
            let mut values = Vec::new();
            for &at in batch {
                let mut rng = SampleRng::new(ex.options.seed, epoch as u64, at as u64);
                let shown = window(&all[train[at]], Some(&mut rng));
                let mut shown = versant::data::audio::Features::new(shown, [FRAMES, MELS])?;
                mask.apply(&mut shown, &mut rng);
                values.extend_from_slice(shown.values());
            }
            let y: Vec<i32> = batch.iter().map(|&at| labels[train[at]]).collect();
            let x = Tensor::from_slice(&ex.dev, &values, &[batch.len(), 1, FRAMES, MELS]);
            let loss =
                net.forward(&x, Mode::Train).cross_entropy(&Tensor::from_slice(&ex.dev, &y, &[y.len()]));
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    let mut guess = Vec::new();
    for part in test.chunks(100) {
        let values: Vec<f32> = part.iter().flat_map(|&i| window(&all[i], None)).collect();
        let x = Tensor::from_slice(&ex.dev, &values, &[part.len(), 1, FRAMES, MELS]);
        guess.extend(net.forward(&x, Mode::Eval).argmax(-1, false).to_vec::<i32>()?);
    }
    let truth: Vec<i32> = test.iter().map(|&i| labels[i]).collect();
    let mut confusion = ConfusionMatrix::new(LANGUAGES);
    confusion.add(&guess, &truth)?;
    println!("{confusion}");
    let shown = (0..LANGUAGES.len()).filter_map(|l| test.iter().find(|&&i| clips[i].language == l));
    let picture = |&i: &usize| window(&all[i], None).iter().map(|v| 0.5 + v / 5.0).collect();
    let shown: Vec<Vec<f32>> = shown.map(picture).collect();
    sheet(&ex.out("spectrograms.png")?, &shown, [1, FRAMES, MELS], LANGUAGES.len(), 3)?;
    ex.result("test accuracy", accuracy(&guess, &truth)?)
}

fn arrays(all: &[Vec<f32>], labels: &[i32], train: &[usize], test: &[usize]) -> Vec<Array> {
    // The twin draws its windows itself; clips of all lengths go one after another.
    let mut arrays = Vec::new();
    for (name, part) in [("train", train), ("test", test)] {
        let frames: Vec<f32> = part.iter().map(|&i| (all[i].len() / MELS) as f32).collect();
        let values: Vec<f32> = part.iter().flat_map(|&i| &all[i]).copied().collect();
        let y: Vec<i32> = part.iter().map(|&i| labels[i]).collect();
        arrays.push((format!("{name}.x"), vec![values.len() / MELS, MELS], values));
        arrays.push((format!("{name}.frames"), vec![part.len()], frames));
        arrays.push((format!("{name}.y"), vec![part.len()], floats(&y)));
    }
    arrays
}
