//! Losses: how many launches they take, and what misuse returns.

use versant_graph::{Device, GraphError, Tensor, explain};
use versant_nn::Losses;
use versant_nn::loss::{
    BceOptions, CrossEntropyOptions, NllOptions, Reduction, bce_with_logits, cross_entropy, huber, nll,
};

fn batch(dev: &Device) -> (Tensor, Tensor) {
    let values: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
    let logits = Tensor::from_slice(dev, &values, &[4, 10]);
    let logits = logits.into_parameter("logits").expect("a leaf");
    (logits, Tensor::from_slice(dev, &[1i32, 3, 9, 0], &[4]))
}

#[test]
fn cross_entropy_with_its_gradient_is_at_most_two_launches() {
    for dev in [Device::null(), Device::cpu()] {
        for smoothing in [0.0, 0.1] {
            let (logits, labels) = batch(&dev);
            let options = CrossEntropyOptions { label_smoothing: smoothing, ..Default::default() };
            let loss = logits.cross_entropy_with(&labels, &options);
            let grads = loss.backward().expect("the loss reaches the logits");
            let grad = grads.get(&logits).expect("a gradient").clone();
            let plan = explain(&[&loss, &grad]).expect("a plan");
            assert!(plan.launches.len() <= 2, "smoothing {smoothing}:\n{plan}");
        }
    }
}

#[test]
fn an_index_that_is_no_class_is_not_hidden() {
    let dev = Device::cpu();
    let (logits, _) = batch(&dev);
    for bad in [-1, 10] {
        let labels = Tensor::from_slice(&dev, &[1i32, bad, 9, 0], &[4]);
        assert!(logits.cross_entropy(&labels).item::<f32>().expect("a value").is_nan());
        let options = NllOptions { ignore_index: Some(i64::from(bad)), ..Default::default() };
        let loss = nll(&logits, &labels, &options).item::<f32>().expect("a value");
        assert!(loss.is_finite(), "an ignored index is no mistake");
    }
}

#[test]
fn unsigned_labels_and_further_axes() {
    let dev = Device::cpu();
    let values: Vec<f32> = (0..2 * 3 * 4).map(|i| (i as f32).cos()).collect();
    let logits = Tensor::from_slice(&dev, &values, &[2, 3, 4]);
    let labels: Vec<u32> = (0..8).map(|i| i % 3).collect();
    let labels = Tensor::from_slice(&dev, &labels, &[2, 4]);
    // The same rows as a matrix must give the same mean.
    let rows = logits.permute(&[0, 2, 1]).reshape(&[8, 3]);
    let flat = rows.cross_entropy(&labels.reshape(&[-1])).item::<f32>().expect("a value");
    let deep = logits.cross_entropy(&labels).item::<f32>().expect("a value");
    assert!((flat - deep).abs() < 1e-6, "{flat} {deep}");
}

/// The message of a recorded mistake, which must name this file and the calling line.
#[track_caller]
fn message(t: &Tensor, line: u32) -> String {
    match t.to_vec::<f32>() {
        Err(error @ GraphError::Invalid { .. }) => {
            let text = error.to_string();
            assert!(text.contains(&format!("losses.rs:{line}")), "line {line}: {text}");
            text
        }
        other => panic!("a mistake was expected, not {other:?}"),
    }
}

#[test]
fn mistakes_name_the_callers_line() {
    let dev = Device::cpu();
    let (logits, labels) = batch(&dev);
    let short = Tensor::from_slice(&dev, &[1i32], &[1]);
    let text = message(&logits.cross_entropy(&short), line!());
    assert!(text.contains("f32[4, 10]") && text.contains("i32[1]"), "{text}");
    message(&logits.nll(&logits), line!());
    message(&logits.mse(&labels), line!());
    message(&logits.l1(&Tensor::zeros(&dev, &[4, 1])), line!());
    message(&huber(&logits, &logits, 0.0, Reduction::Sum), line!());
    let (vector, hollow) = (Tensor::zeros(&dev, &[4]), Tensor::zeros(&dev, &[4, 0]));
    message(&vector.cross_entropy(&labels), line!());
    message(&hollow.cross_entropy(&labels), line!());
    let smooth = CrossEntropyOptions { label_smoothing: 1.5, ..Default::default() };
    message(&cross_entropy(&logits, &labels, &smooth), line!());
    let weight = Some(Tensor::zeros(&dev, &[3]));
    let weighted = CrossEntropyOptions { weight, ..Default::default() };
    message(&logits.cross_entropy_with(&labels, &weighted), line!());
    let weight = Some(Tensor::zeros(&dev, &[2, 4, 10]));
    let weighted = BceOptions { weight, ..Default::default() };
    message(&bce_with_logits(&logits, &logits, &weighted), line!());
}
