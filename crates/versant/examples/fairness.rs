//! Who earns more than 50,000 dollars? A net that learns it from the census of 1994 also learns the gap between the sexes;
//! what two remedies do to the gap, and what they cost.
//!
//! Reweighing (Kamiran and Calders, 2012) makes sex and label independent by weights in the loss; a threshold for each group
//! (Hardt et al., 2016) evens out the selection rates afterwards. Sex is never an input of the net.
//!
//! `cargo xtask data fairness && cargo run --release --example fairness`

mod common;

use common::plot::{Line, lines};
use common::{Array, Example, Outcome, floats, pick};
use versant::data::metrics::{Fairness, reweighing};
use versant::data::sets::{People, adult};
use versant::nn::loss::{CrossEntropyOptions, Reduction, cross_entropy};
use versant::prelude::*;

const BATCH: usize = 256;

/// One part of the census.
struct Rows {
    x: Vec<f32>,
    width: usize,
    y: Vec<i32>,
    groups: Vec<String>,
}

/// Trains with a weight for each sample; the scores of the test part, larger for a larger income.
fn train(ex: &Example, params: &Params, data: &Rows, test: &Rows, weights: &[f32]) -> Outcome<Vec<f32>> {
    let net = (
        Linear::new(&(params / "hidden1"), data.width, 64),
        Relu,
        Linear::new(&(params / "hidden2"), 64, 32),
        Relu,
        Linear::new(&(params / "classes"), 32, 2),
    );
    let each = CrossEntropyOptions { reduction: Reduction::None, ..CrossEntropyOptions::default() };
    let mut opt = AdamW::new(params, 1e-3).weight_decay(0.01);
    let epochs = ex.size(6, 1);
    let bar = ex.bar(epochs * data.y.len().div_ceil(BATCH), "training");
    for epoch in 0..epochs {
        for batch in ex.order(data.y.len(), BATCH, epoch) {
            let logits = net.forward(&pick(&ex.dev, &data.x, &[data.width], &batch), Mode::Train);
            let losses = cross_entropy(&logits, &pick(&ex.dev, &data.y, &[], &batch), &each);
            let loss = (losses * pick(&ex.dev, weights, &[], &batch)).mean_all();
            drop(logits);
            opt.step(loss.backward()?)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut scores = Vec::new();
    for part in test.x.chunks(4096 * test.width) {
        let x = Tensor::from_slice(&ex.dev, part, &[part.len() / test.width, test.width]);
        let logits = net.forward(&x, Mode::Eval).to_vec::<f32>()?;
        scores.extend(logits.chunks_exact(2).map(|z| z[1] - z[0]));
    }
    Ok(scores)
}

/// Decisions with a threshold for each group, at which the same share of each is selected as of all at 0. They are set on
/// scores alone, without labels.
fn evened(scores: &[f32], groups: &[String]) -> Vec<bool> {
    let share = scores.iter().filter(|&&s| s > 0.0).count() as f64 / scores.len() as f64;
    let threshold = |group: &str| {
        let mut own: Vec<f32> =
            scores.iter().zip(groups).filter(|(_, g)| *g == group).map(|(&s, _)| s).collect();
        own.sort_by(|a, b| b.total_cmp(a));
        own[((share * own.len() as f64) as usize).min(own.len() - 1)]
    };
    let names = ["Female", "Male"].map(|name| (name, threshold(name)));
    let over =
        |(score, group): (&f32, &String)| names.iter().any(|(name, least)| name == group && score > least);
    scores.iter().zip(groups).map(over).collect()
}

fn main() {
    common::main("fairness", run);
}

fn run(ex: &Example) -> Outcome {
    let (train_part, test_part) = adult(ex.data("fairness")?)?;
    let all: Vec<usize> = (0..train_part.labels.len()).collect();
    let fitted = train_part.encoding.fit(&train_part.table, &all)?;
    let rows = |people: &People| {
        let numbers: Vec<usize> = (0..people.labels.len()).collect();
        let x = fitted.encode(&people.table, &numbers)?;
        let (width, y, groups) = (x.shape()[1], people.labels.clone(), people.groups.clone());
        Ok::<_, versant::data::DataError>(Rows { x: x.values().to_vec(), width, y, groups })
    };
    let (data, test) = (rows(&train_part)?, rows(&test_part)?);
    let weights: Vec<f32> = reweighing(&data.y, &data.groups)?.into_iter().map(|w| w as f32).collect();
    if ex.dump(|| Ok(arrays(&data, &test, &weights)))? {
        return Ok(());
    }
    let before = train(ex, &ex.store(0), &data, &test, &vec![1.0; data.y.len()])?;
    let after = train(ex, &ex.store(0), &data, &test, &weights)?;
    let selected = |scores: &[f32]| scores.iter().map(|&s| s > 0.0).collect::<Vec<bool>>();
    let decisions = [
        ("as it is", selected(&before)),
        ("reweighed", selected(&after)),
        ("thresholds", evened(&before, &test.groups)),
    ];
    let actual: Vec<bool> = test.y.iter().map(|&y| y == 1).collect();
    let mut figures = Vec::new();
    println!("{:<12}{:>10}{:>14}{:>10}{:>10}", "", "accuracy", "selection gap", "TPR gap", "FPR gap");
    for (name, decided) in &decisions {
        let right = decided.iter().zip(&actual).filter(|(a, b)| a == b).count() as f64 / actual.len() as f64;
        let table = Fairness::new(decided, &actual, &test.groups)?;
        let gap = table.demographic_parity_difference();
        let [tpr, fpr] =
            [table.true_positive_gap(), table.false_positive_gap()].map(|g| g.unwrap_or(f64::NAN));
        println!("{name:<12}{right:>10.4}{gap:>14.4}{tpr:>10.4}{fpr:>10.4}");
        figures.push((right, gap));
    }
    println!("\nby sex, as it is\n{}", Fairness::new(&decisions[0].1, &actual, &test.groups)?);
    let drawn: Vec<Line<'_>> =
        decisions.iter().zip(&figures).map(|((name, _), &(a, g))| Line::new(name, [(g, a)]).dots()).collect();
    lines(&ex.out("trade.svg")?, "What less of a gap costs", ["selection gap", "accuracy"], &drawn)?;
    ex.result("accuracy as it is", figures[0].0)?;
    ex.result("selection gap as it is", figures[0].1)?;
    ex.result("accuracy reweighed", figures[1].0)?;
    ex.result("selection gap reweighed", figures[1].1)
}

fn arrays(data: &Rows, test: &Rows, weights: &[f32]) -> Vec<Array> {
    let mut arrays = vec![("weights".to_owned(), vec![weights.len()], weights.to_vec())];
    for (name, rows) in [("train", data), ("test", test)] {
        let groups = rows.groups.iter().map(|g| f32::from(u8::from(g == "Male"))).collect();
        arrays.push((format!("{name}.x"), vec![rows.y.len(), rows.width], rows.x.clone()));
        arrays.push((format!("{name}.y"), vec![rows.y.len()], floats(&rows.y)));
        arrays.push((format!("{name}.group"), vec![rows.y.len()], groups));
    }
    arrays
}
