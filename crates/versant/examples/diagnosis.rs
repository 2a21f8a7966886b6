//! Benign or malignant? Breast tumours by 30 measures of their cells: cross-validation, an ensemble, and calibration.
//!
//! With 569 samples a single split says little, so every sample is predicted by nets that did not see it (five folds), and
//! three nets of a fold are averaged. A probability that a doctor may act on must also mean what it says: a temperature
//! (Guo et al., 2017), fitted on the other folds, and the reliability before and after it.
//!
//! `cargo xtask data breast-cancer && cargo run --release --example diagnosis`

mod common;

use common::plot::{Line, lines};
use common::{Array, Example, Outcome, floats, pick};
use versant::data::encode::{Encoding, Impute, Matrix};
use versant::data::metrics::{Reliability, RocCurve, Temperature, log_loss};
use versant::data::sets::{Measured, breast_cancer};
use versant::data::{Fold, KFold};
use versant::prelude::*;

const NETS: usize = 3;
const BATCH: usize = 32;

fn net(params: &Params) -> impl Module + use<> {
    (
        Linear::new(&(params / "hidden1"), 30, 32),
        Relu,
        Dropout::new(&(params / "dropout1"), 0.3),
        Linear::new(&(params / "hidden2"), 32, 16),
        Relu,
        Dropout::new(&(params / "dropout2"), 0.3),
        Linear::new(&(params / "classes"), 16, 2),
    )
}

/// The measures of a fold, scaled by what its training part says.
fn encoded(set: &Measured, fold: &Fold) -> Outcome<[Matrix; 2]> {
    let names = set.table.names().unwrap_or_default().iter().filter(|name| *name != "class");
    let encoding = names.fold(Encoding::new(), |e, name| e.numeric(name, Impute::Median));
    let fitted = encoding.fit(&set.table, &fold.train)?;
    Ok([fitted.encode(&set.table, &fold.train)?, fitted.encode(&set.table, &fold.test)?])
}

/// Trains one net and returns its logits for the held-out samples.
fn train(ex: &Example, params: &Params, x: &[Matrix; 2], labels: &[i32]) -> Outcome<Vec<f32>> {
    let net = net(params);
    let mut opt = AdamW::new(params, 2e-3).weight_decay(0.01);
    for epoch in 0..ex.size(60, 3) {
        for batch in ex.order(labels.len(), BATCH, epoch) {
            let logits = net.forward(&pick(&ex.dev, x[0].values(), &[30], &batch), Mode::Train);
            opt.step(logits.cross_entropy(&pick(&ex.dev, labels, &[], &batch)).backward()?)?;
        }
    }
    Ok(net.forward(&x[1].on(&ex.dev), Mode::Eval).to_vec::<f32>()?)
}

/// Rows of two logits as probabilities.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let row = |z: &[f32]| {
        let p = 1.0 / (1.0 + (z[1] - z[0]).exp());
        [p, 1.0 - p]
    };
    logits.chunks_exact(2).flat_map(row).collect()
}

fn accuracy_of(logits: &[f32], labels: &[i32]) -> Outcome<f64> {
    let guess: Vec<i32> = logits.chunks_exact(2).map(|z| i32::from(z[1] > z[0])).collect();
    Ok(accuracy(&guess, labels)?)
}

fn main() {
    common::main("diagnosis", run);
}

fn run(ex: &Example) -> Outcome {
    let set = breast_cancer(ex.data("breast-cancer")?)?;
    let folds = KFold::new(5).seed(0).stratified(&set.labels)?;
    if ex.dump(|| arrays(&set, &folds))? {
        return Ok(());
    }
    // Logits of every sample by the nets that did not see it: one net, and the mean of three.
    let mut single = vec![0.0; 2 * set.labels.len()];
    let mut ensemble = single.clone();
    let bar = ex.bar(folds.len() * NETS, "nets");
    for (k, fold) in folds.iter().enumerate() {
        let x = encoded(&set, fold)?;
        let labels: Vec<i32> = fold.train.iter().map(|&i| set.labels[i]).collect();
        for member in 0..NETS {
            let logits = train(ex, &ex.store(k * NETS + member), &x, &labels)?;
            for (&sample, z) in fold.test.iter().zip(logits.chunks_exact(2)) {
                for (class, z) in z.iter().enumerate() {
                    if member == 0 {
                        single[2 * sample + class] = *z;
                    }
                    ensemble[2 * sample + class] += z / NETS as f32;
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let calibrated = calibrate(&folds, &ensemble, &set.labels)?;
    report(ex, &set, [("one net", &single), ("three", &ensemble), ("calibrated", &calibrated)])
}

fn arrays(set: &Measured, folds: &[Fold]) -> Outcome<Vec<Array>> {
    let mut arrays = Vec::new();
    for (k, fold) in folds.iter().enumerate() {
        let [train, test] = encoded(set, fold)?;
        for (name, x, samples) in [("train", train, &fold.train), ("test", test, &fold.test)] {
            let y: Vec<i32> = samples.iter().map(|&i| set.labels[i]).collect();
            arrays.push((format!("{name}{k}.x"), x.shape().to_vec(), x.values().to_vec()));
            arrays.push((format!("{name}{k}.y"), vec![y.len()], floats(&y)));
        }
    }
    Ok(arrays)
}

/// Each fold's logits divided by the temperature that suits the other folds.
fn calibrate(folds: &[Fold], logits: &[f32], labels: &[i32]) -> Outcome<Vec<f32>> {
    let mut all = logits.to_vec();
    for fold in folds {
        let rows =
            |samples: &[usize]| samples.iter().flat_map(|&i| [logits[2 * i], logits[2 * i + 1]]).collect();
        let (others, mut own): (Vec<f32>, Vec<f32>) = (rows(&fold.train), rows(&fold.test));
        let y: Vec<i32> = fold.train.iter().map(|&i| labels[i]).collect();
        Temperature::fit(&others, 2, &y)?.apply(&mut own);
        for (&sample, z) in fold.test.iter().zip(own.chunks_exact(2)) {
            all[2 * sample..2 * sample + 2].copy_from_slice(z);
        }
    }
    Ok(all)
}

fn report(ex: &Example, set: &Measured, all: [(&str, &Vec<f32>); 3]) -> Outcome {
    let malignant: Vec<bool> = set.labels.iter().map(|&label| label == 0).collect();
    println!("{:<12}{:>10}{:>10}{:>10}{:>20}", "", "accuracy", "ROC AUC", "log loss", "calibration error");
    let mut drawn = vec![Line::new("perfect", [(0.0, 0.0), (1.0, 1.0)])];
    for (name, logits) in all {
        let p = softmax(logits);
        let table = Reliability::of_classes(&p, 2, &set.labels, 10)?;
        let scores: Vec<f32> = logits.chunks_exact(2).map(|z| z[0] - z[1]).collect();
        println!(
            "{name:<12}{:>10.4}{:>10.4}{:>10.4}{:>20.4}",
            accuracy_of(logits, &set.labels)?,
            RocCurve::new(&scores, &malignant)?.auc(),
            log_loss(logits, 2, &set.labels)?,
            table.expected_error()
        );
        let bins = table.bins().iter().filter(|bin| bin.count > 0);
        drawn.push(Line::new(name, bins.map(|bin| (bin.confidence, bin.accuracy))));
    }
    lines(
        &ex.out("reliability.svg")?,
        "Reliability of held-out predictions",
        ["confidence", "right"],
        &drawn,
    )?;
    ex.result("cross-validated accuracy", accuracy_of(all[1].1, &set.labels)?)
}
