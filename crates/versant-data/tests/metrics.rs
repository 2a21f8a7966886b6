//! Metrics against scikit-learn 1.9 and sacreBLEU 2.6, on samples that a formula makes.

use versant_data::metrics::*;

const N: usize = 60;

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

#[test]
fn curves_are_those_of_scikit_learn() {
    // With ties.
    let score = |i: usize| (((i * 37 + 11) % 101) as f64 / 5.0).round_ties_even() as f32 / 20.0;
    let scores: Vec<f32> = (0..N).map(score).collect();
    let positive: Vec<bool> = (0..N).map(|i| (i * i * 7 + 3) % 10 < 4).collect();
    close(RocCurve::new(&scores, &positive).unwrap().auc(), 0.36444444444444446);
    let curve = PrecisionRecallCurve::new(&scores, &positive).unwrap();
    close(curve.average_precision(), 0.4392088182234222);
}

#[test]
fn class_scores_are_those_of_scikit_learn() {
    let labels: Vec<i32> = (0..N).map(|i| ((i * i + i / 7) % 4) as i32).collect();
    let wrong = |i: usize| i32::from(i.is_multiple_of(5)) + 2 * i32::from(i.is_multiple_of(7));
    let predicted: Vec<i32> = (0..N).map(|i| (labels[i] + wrong(i)) % 4).collect();
    let check = |predicted: &[i32], average, expected: [f64; 3]| {
        let mut matrix = ConfusionMatrix::new(["a", "b", "c", "d", "never"]);
        matrix.add(predicted, &labels).unwrap();
        let Scores { precision, recall, f1 } = matrix.scores(average).unwrap();
        [precision, recall, f1]
            .into_iter()
            .zip(expected)
            .for_each(|(found, expected)| close(found, expected));
    };
    check(&predicted, Average::Micro, [0.6833333333333333; 3]);
    check(&predicted, Average::Macro, [0.6969065656565657, 0.6946924603174603, 0.6941308757386012]);
    check(&predicted, Average::Weighted, [0.6852104377104378, 0.6833333333333333, 0.6825528412264456]);
    // The last class occurs but is never predicted: scikit-learn's zero_division=0.
    let lacking: Vec<i32> = predicted.iter().map(|&p| if p == 3 { 0 } else { p }).collect();
    check(&lacking, Average::Macro, [0.43796296296296294, 0.5210813492063492, 0.4736421005183683]);
    assert_eq!(ConfusionMatrix::new(["a"]).scores(Average::Macro), None);
}

/// Logits of three classes, and their softmax.
fn logits() -> (Vec<f32>, Vec<f32>) {
    let logits: Vec<f32> =
        (0..N).flat_map(|a| (0..3).map(move |b| ((a * 13 + b * 29 + a * b * 5) % 23) as f32 / 4.0)).collect();
    let softmax = |row: &[f32]| {
        let top = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = row.iter().map(|z| (z - top).exp()).sum();
        row.iter().map(|z| (z - top).exp() / sum).collect::<Vec<f32>>()
    };
    let probabilities = logits.chunks(3).flat_map(softmax).collect();
    (logits, probabilities)
}

#[test]
fn probabilities_are_judged_as_by_scikit_learn() {
    let (logits, probabilities) = logits();
    let labels: Vec<i32> = (0..N).map(|i| ((i * 5 + i / 4) % 3) as i32).collect();
    close(log_loss(&logits, 3, &labels).unwrap(), 1.759696334514316);
    close(brier(&probabilities, 3, &labels).unwrap(), 0.9335110556874223);
    // Of the logits: whether probabilities tie would depend on their rounding.
    close(roc_auc_one_vs_rest(&logits, 3, &labels).unwrap(), 0.47382716049382717);
    // These predictions are worse than none, so the best temperature is as hot as may be.
    close(Temperature::fit(&logits, 3, &labels).unwrap().value(), 100.0);

    let best = |row: &[f32]| (0..3).fold(0, |best, at| if row[at] > row[best] { at } else { best });
    let rows = probabilities.chunks(3).enumerate();
    let labels: Vec<i32> =
        rows.map(|(i, row)| ((best(row) + usize::from(i.is_multiple_of(4))) % 3) as i32).collect();
    // Found with scipy's bounded search.
    let temperature = Temperature::fit(&logits, 3, &labels).unwrap();
    close(temperature.value(), 1.4212783020820288);
    let mut scaled = logits;
    temperature.apply(&mut scaled);
    close(log_loss(&scaled, 3, &labels).unwrap(), 0.8725633452408298);
    let table = Reliability::of_classes(&probabilities, 3, &labels, 10).unwrap();
    close(table.expected_error(), 0.15916437733845396);
    assert_eq!(table.bins().iter().map(|bin| bin.count).sum::<usize>(), N);
}

#[test]
fn numbers_are_judged_as_by_scikit_learn() {
    let target: Vec<f32> = (0..N).map(|i| ((i as f64 * 0.7).sin() * 3.0 + 4.5) as f32).collect();
    let add = |i: usize| (i as f64 * 1.3).cos() * 0.8;
    let predicted: Vec<f32> = (0..N).map(|i| ((i as f64 * 0.7).sin() * 3.0 + 4.5 + add(i)) as f32).collect();
    let errors = Regression::new(&predicted, &target).unwrap();
    close(errors.mae, 0.5094595551490784);
    close(errors.rmse, 0.5663533679347755);
    close(errors.mape.unwrap(), 0.1447381228208542);
    close(errors.r2.unwrap(), 0.9269388914108276);
}

#[test]
fn bleu_is_that_of_sacrebleu() {
    let hypotheses =
        ["The dog bit the man.", "It wasn't surprising, at 3.5%.", "The man had just bitten him -- twice."];
    let first = ["The dog bit the man.", "It was not unexpected, at 3.5 %.", "The man bit him first."];
    let second =
        ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog, twice..."];
    let check = |references: &[Vec<&str>], score, precisions: [f64; 4], penalty, lengths| {
        let found = bleu(&hypotheses, references).unwrap();
        close(found.score, score);
        found.precisions.into_iter().zip(precisions).for_each(|(found, expected)| close(found, expected));
        close(found.brevity_penalty, penalty);
        assert_eq!((found.hypothesis_length, found.reference_length), lengths);
    };
    let both: Vec<Vec<&str>> = first.iter().zip(second).map(|(&a, b)| vec![a, b]).collect();
    let precisions = [82.6086956521739, 60.0, 47.05882352941177, 35.714285714285715];
    check(&both, 47.15393126110588, precisions, 0.8777137332821824, (23, 26));
    let one: Vec<Vec<&str>> = second.iter().map(|&b| vec![b]).collect();
    let precisions = [56.52173913043478, 35.0, 17.647058823529413, 7.142857142857143];
    check(&one, 22.3463689326124, precisions, 1.0, (23, 23));
    let short = bleu(&["a small house"], &[vec!["the small house is old"]]).unwrap();
    close(short.brevity_penalty, 0.513417119032592);
    assert_eq!((short.score, short.precisions[1..].to_vec()), (0.0, vec![50.0, 50.0, 0.0]));
}

#[test]
fn tokens_are_those_of_sacrebleu() {
    for (text, tokens) in [
        ("Hello, world!", "Hello , world !"),
        (
            "a.b,c 1,000.5 e.g. (x) [y] {z} 10-20 co-op",
            "a . b , c 1,000.5 e . g . ( x ) [ y ] { z } 10 - 20 co-op",
        ),
        ("&quot;q&quot; &amp;lt; it's $5.00... end,.", "\" q \" < it's $ 5.00 . . . end , ."),
        ("Über 3,5 km/h ~ 1.,2 §5", "Über 3,5 km / h ~ 1 . , 2 §5"),
    ] {
        assert_eq!(tokenize_13a(text).join(" "), tokens);
    }
}
