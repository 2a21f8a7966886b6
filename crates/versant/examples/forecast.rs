//! Tomorrow's stock market: what can be forecast, and what cannot.
//!
//! A GRU sees 30 days of five stocks and predicts two things for the next day. Its return: no better than "nothing changes",
//! as it should be, or money would lie in the street. Its range, the logarithm of highest over lowest price: quiet
//! and wild days come in clusters, and the net beats both yesterday's range and the mean of the last 22 days (the baselines of
//! Corsi, 2009). Days before 2010 are for training, later ones for testing.
//!
//! `cargo xtask data stocks && cargo run --release --example forecast`

mod common;

use common::plot::{Line, lines};
use common::{Array, Example, Outcome, pick};
use versant::data::sets::{Day, Stock, stocks};
use versant::nn::loss::{Reduction, mse};
use versant::nn::schedule::Schedule;
use versant::prelude::*;

const DAYS: usize = 30;
const INPUTS: usize = 3;
const BATCH: usize = 64;

/// Windows of days, what follows, and what the baselines say of the range.
#[derive(Default)]
struct Part {
    x: Vec<f32>,
    y: Vec<f32>,
    yesterday: Vec<f32>,
    month: Vec<f32>,
}

impl Part {
    fn len(&self) -> usize {
        self.yesterday.len()
    }
}

/// Return, range and change of volume of a day, in units of their usual size.
fn measures(before: &Day, day: &Day) -> [f32; INPUTS] {
    let change = (day.adjusted / before.adjusted).ln() / 0.02;
    let range = ((day.high / day.low).ln().max(1e-4).ln() + 3.7) / 0.55;
    let volume = (day.volume.max(1.0) / before.volume.max(1.0)).ln() / 0.35;
    [change.clamp(-10.0, 10.0), range, volume.clamp(-5.0, 5.0)]
}

fn parts(all: &[Stock]) -> [Part; 2] {
    let mut parts = [Part::default(), Part::default()];
    for stock in all {
        let rows: Vec<_> = stock.days.windows(2).map(|pair| measures(&pair[0], &pair[1])).collect();
        for end in DAYS..rows.len() {
            // The day to predict decides where a window belongs, so that no test day is ever trained on.
            let part = &mut parts[usize::from(stock.days[end + 1].date.as_str() >= "2010")];
            let window = &rows[end - DAYS..end];
            part.x.extend(window.iter().flatten());
            part.y.extend(&rows[end][..2]);
            part.yesterday.push(rows[end - 1][1]);
            part.month.push(rows[end - 22..end].iter().map(|row| row[1]).sum::<f32>() / 22.0);
        }
    }
    parts
}

/// A GRU whose last state predicts return and range.
struct Forecaster {
    gru: Gru,
    head: Linear,
}

impl Forecaster {
    fn new(params: &Params) -> Forecaster {
        Forecaster {
            gru: Gru::new(&(params / "gru"), INPUTS, 32).batch_first(),
            head: Linear::new(&(params / "head"), 32, 2),
        }
    }
}

impl Module for Forecaster {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let states = self.gru.forward(x, mode);
        self.head.forward(&states.narrow(1, DAYS - 1, 1).squeeze(1), mode)
    }
}

/// The mean square of the differences in one of two columns.
fn error(predicted: &[f32], truth: &[f32], column: usize) -> f64 {
    let rows = predicted.chunks_exact(2).zip(truth.chunks_exact(2));
    let sum: f64 = rows.map(|(p, t)| f64::from(p[column] - t[column]).powi(2)).sum();
    sum / (truth.len() / 2) as f64
}

fn main() {
    common::main("forecast", run);
}

fn run(ex: &Example) -> Outcome {
    let [data, test] = parts(&stocks(ex.data("stocks")?)?);
    if ex.dump(|| Ok(arrays(&data, &test)))? {
        return Ok(());
    }
    println!("{} days to train on, {} to test", data.len(), test.len());
    let params = ex.store(0);
    let net = Forecaster::new(&params);
    let mut opt = AdamW::new(&params, 2e-3).weight_decay(0.05);
    let epochs = ex.size(8, 1);
    let steps = data.len().div_ceil(BATCH);
    let rate = Schedule::cosine(2e-3, (epochs * steps) as u64);
    for epoch in 0..epochs {
        let bar = ex.bar(steps, &format!("epoch {}/{epochs}", epoch + 1));
        for (step, batch) in ex.order(data.len(), BATCH, epoch).iter().enumerate() {
            let x = pick(&ex.dev, &data.x, &[DAYS, INPUTS], batch);
            let loss =
                mse(&net.forward(&x, Mode::Train), &pick(&ex.dev, &data.y, &[2], batch), Reduction::Mean);
            opt.set_lr(rate.at(opt.steps()));
            opt.step(loss.backward()?)?;
            if step % 20 == 0 {
                bar.set_message(format!("loss {:.3}", loss.item::<f32>()?));
            }
            bar.inc(1);
            if ex.options.quick && step == 20 {
                break;
            }
        }
        bar.finish_and_clear();
    }
    let mut predicted = Vec::new();
    for part in test.x.chunks(512 * DAYS * INPUTS) {
        let x = Tensor::from_slice(&ex.dev, part, &[part.len() / DAYS / INPUTS, DAYS, INPUTS]);
        predicted.extend(net.forward(&x, Mode::Eval).to_vec::<f32>()?);
    }
    report(ex, &test, &predicted)
}

fn report(ex: &Example, test: &Part, predicted: &[f32]) -> Outcome {
    let pairs = |range: &[f32]| range.iter().flat_map(|&r| [0.0, r]).collect::<Vec<f32>>();
    let (yesterday, month) = (pairs(&test.yesterday), pairs(&test.month));
    let range = |p: &[f32]| error(p, &test.y, 1);
    println!("mean squared error of the range: yesterday's {:.4}", range(&yesterday));
    println!("                                 mean of 22 days {:.4}", range(&month));
    println!("                                 net {:.4}", range(predicted));
    let returns = error(predicted, &test.y, 0) / error(&yesterday, &test.y, 0);
    println!("error of the return, net over \"nothing changes\": {returns:.4}");
    let some = 0..250.min(test.len());
    let line =
        |values: &[f32]| some.clone().map(|i| (i as f64, f64::from(values[2 * i + 1]))).collect::<Vec<_>>();
    let drawn = [Line::new("range", line(&test.y)).dots(), Line::new("predicted", line(predicted))];
    lines(&ex.out("range.svg")?, "The first stock in 2010", ["day", "range, standardised"], &drawn)?;
    ex.result("range error over that of 22 days", range(predicted) / range(&month))?;
    ex.result("return error over that of no change", returns)
}

fn arrays(data: &Part, test: &Part) -> Vec<Array> {
    let part = |name: &str, part: &Part| {
        [
            (format!("{name}.x"), vec![part.len(), DAYS, INPUTS], part.x.clone()),
            (format!("{name}.y"), vec![part.len(), 2], part.y.clone()),
            (format!("{name}.month"), vec![part.len()], part.month.clone()),
        ]
    };
    part("train", data).into_iter().chain(part("test", test)).collect()
}
