//! Losses: how many launches they take, and what misuse returns.

use versant_graph::{Device, GraphError, Tensor, explain, grad_of};
use versant_nn::loss::{
    BceOptions, CrossEntropyOptions, CtcOptions, FocalClassOptions, FocalOptions, GaussianNllOptions,
    HingeOptions, InfoNceOptions, KlOptions, MultiMarginOptions, NllOptions, PoissonNllOptions, Reduction,
    TripletOptions, bce_with_logits, contrastive, cosine_embedding, cross_entropy, ctc, focal,
    focal_with_logits, gaussian_nll, hinge, hinge_embedding, huber, info_nce, kl_div, l1_penalty, l2_penalty,
    multi_margin, nll, poisson_nll, smooth_l1, triplet_margin,
};
use versant_nn::{Init, Losses, NnError, Params, Seed};

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

#[test]
fn mistakes_of_elementwise_losses_name_the_callers_line() {
    let dev = Device::cpu();
    let (x, int) = batch(&dev);
    let row = Tensor::zeros(&dev, &[4]);
    message(&smooth_l1(&x, &row, 1.0, Reduction::Mean), line!());
    message(&smooth_l1(&x, &x, -1.0, Reduction::Mean), line!());
    message(&kl_div(&x, &int, &KlOptions::default()), line!());
    message(&poisson_nll(&x, &row, &PoissonNllOptions::default()), line!());
    let options = PoissonNllOptions { eps: f32::NAN, ..Default::default() };
    message(&poisson_nll(&x, &x, &options), line!());
    let text = message(&gaussian_nll(&x, &x, &row, &GaussianNllOptions::default()), line!());
    assert!(text.contains("broadcast"), "{text}");
    let options = GaussianNllOptions { eps: 0.0, ..Default::default() };
    message(&gaussian_nll(&x, &x, &x, &options), line!());
    message(&hinge(&x, &row, &HingeOptions::default()), line!());
    message(&hinge(&x, &x, &HingeOptions { margin: f32::NAN, ..Default::default() }), line!());
    message(&hinge_embedding(&x, &row, 1.0, Reduction::Mean), line!());
    message(&focal_with_logits(&x, &row, &FocalOptions::default()), line!());
    message(&focal_with_logits(&x, &x, &FocalOptions { gamma: -1.0, ..Default::default() }), line!());
    message(&focal_with_logits(&x, &x, &FocalOptions { alpha: Some(2.0), ..Default::default() }), line!());
    message(&focal(&x, &x, &FocalClassOptions::default()), line!());
    message(&focal(&x, &int, &FocalClassOptions { gamma: f32::NAN, ..Default::default() }), line!());
    message(&multi_margin(&x.unsqueeze(2), &int.unsqueeze(1), &MultiMarginOptions::default()), line!());
    let options = MultiMarginOptions { margin: f32::INFINITY, ..Default::default() };
    message(&multi_margin(&x, &int, &options), line!());
}

#[test]
fn mistakes_of_pairs_and_sequences_name_the_callers_line() {
    let dev = Device::cpu();
    let (x, int) = batch(&dev);
    let row = Tensor::zeros(&dev, &[4]);
    let scalar = Tensor::zeros(&dev, &[]);
    let text = message(&cosine_embedding(&x, &x, &int, 0.0, Reduction::Mean), line!());
    assert!(text.contains("f32[4]"), "{text}");
    message(&cosine_embedding(&x, &x, &row, 2.0, Reduction::Mean), line!());
    message(&cosine_embedding(&scalar, &scalar, &scalar, 0.0, Reduction::Mean), line!());
    message(&contrastive(&x, &row, &row, 1.0, Reduction::Mean), line!());
    message(&contrastive(&x, &x, &row, f32::NAN, Reduction::Mean), line!());
    message(&triplet_margin(&x, &x, &row, &TripletOptions::default()), line!());
    message(&triplet_margin(&x, &x, &x, &TripletOptions { p: 0.5, ..Default::default() }), line!());
    message(&info_nce(&row, &row, &InfoNceOptions::default()), line!());
    message(&info_nce(&x, &x, &InfoNceOptions { temperature: 0.0, ..Default::default() }), line!());
    let log_p = x.reshape(&[2, 2, 10]);
    let (targets, lengths) = (int.reshape(&[2, 2]), int.narrow(0, 0, 2));
    let options = CtcOptions::default();
    message(&ctc(&x, &targets, &lengths, &lengths, &options), line!());
    message(&ctc(&log_p, &int, &lengths, &lengths, &options), line!());
    message(&ctc(&log_p, &targets, &int, &lengths, &options), line!());
    message(&ctc(&log_p, &targets, &lengths, &row.narrow(0, 0, 2), &options), line!());
    let text =
        message(&ctc(&log_p, &targets, &lengths, &lengths, &CtcOptions { blank: 10, ..options }), line!());
    assert!(text.contains("blank 10"), "{text}");
}

/// Batches without a sample, and embeddings that coincide: no error, no panic, and gradients that are numbers.
#[test]
fn nothing_and_coincidence_are_harmless() {
    let dev = Device::cpu();
    let (none, no_label) = (Tensor::zeros(&dev, &[0, 3]), Tensor::zeros(&dev, &[0]));
    let no_class = Tensor::from_slice(&dev, &[0i32; 0], &[0]);
    let sum = Reduction::Sum;
    let empties = [
        smooth_l1(&none, &none, 1.0, sum),
        kl_div(&none, &none, &KlOptions { reduction: sum, ..Default::default() }),
        poisson_nll(&none, &none, &PoissonNllOptions { full: true, reduction: sum, ..Default::default() }),
        gaussian_nll(&none, &none, &none, &GaussianNllOptions { reduction: sum, ..Default::default() }),
        hinge(&none, &none, &HingeOptions { reduction: sum, ..Default::default() }),
        focal_with_logits(&none, &none, &FocalOptions { reduction: sum, ..Default::default() }),
        focal(&none, &no_class, &FocalClassOptions { reduction: sum, ..Default::default() }),
        multi_margin(&none, &no_class, &MultiMarginOptions { reduction: sum, ..Default::default() }),
        cosine_embedding(&none, &none, &no_label, 0.0, sum),
        contrastive(&none, &none, &no_label, 1.0, sum),
        hinge_embedding(&none, &none, 1.0, sum),
        triplet_margin(&none, &none, &none, &TripletOptions { reduction: sum, ..Default::default() }),
    ];
    for (i, loss) in empties.iter().enumerate() {
        assert_eq!(loss.item::<f32>().expect("a value"), 0.0, "{i}");
    }
    assert!(message(&info_nce(&none, &none, &InfoNceOptions::default()), line!()).contains("no embeddings"));
    let x = Tensor::ones(&dev, &[2, 3]).into_parameter("x").expect("a leaf");
    let label = Tensor::from_slice(&dev, &[0.0f32, 1.0], &[2]);
    let zero = &x * 0.0;
    let options = TripletOptions { eps: 0.0, ..Default::default() };
    for loss in [
        contrastive(&x, &x.detach(), &label, 1.0, sum),
        triplet_margin(&x, &x.detach(), &x.detach(), &options),
        cosine_embedding(&zero, &zero, &(&label * 2.0 - 1.0), 0.0, sum),
        info_nce(&zero, &x, &InfoNceOptions::default()),
    ] {
        let grad = grad_of(&loss, &[&x]).expect("a gradient").remove(0).to_vec::<f32>().expect("a value");
        assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
    }
    let negative = Tensor::from_slice(&dev, &[-0.5f32], &[1]);
    let loss = kl_div(&negative, &negative, &KlOptions::default());
    assert!(loss.item::<f32>().expect("a value").is_nan(), "a negative probability is not hidden");
}

#[test]
fn ctc_does_not_hide_what_is_out_of_range() {
    let dev = Device::cpu();
    let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Tensor::from_slice(&dev, &values, &[3, 2, 4]).into_parameter("x").expect("a leaf");
    let int = |values: &[i32]| Tensor::from_slice(&dev, values, &[2, values.len() / 2]);
    let line = |values: [u32; 2]| Tensor::from_slice(&dev, &values, &[2]);
    let loss = |targets: &[i32], steps: [u32; 2], labels: [u32; 2], zero_infinity: bool| {
        let options = CtcOptions { zero_infinity, reduction: Reduction::None, ..Default::default() };
        let loss = ctc(&x.log_softmax(2), &int(targets), &line(steps), &line(labels), &options);
        let grad = grad_of(&loss.sum_all(), &[&x]).expect("a gradient").remove(0);
        (loss.to_vec::<f32>().expect("a value"), grad.to_vec::<f32>().expect("a value"))
    };
    // Padding may hold anything; a label, a number of steps and one of labels may not.
    let (fine, grad) = loss(&[1, -7, 2, 99], [3, 2], [1, 1], false);
    assert!(fine.iter().chain(&grad).all(|v| v.is_finite()), "{fine:?} {grad:?}");
    for (targets, steps, labels) in [
        ([1, 0, 4, 0], [3, 3], [1, 1]),
        ([1, 0, -1, 0], [3, 3], [1, 1]),
        ([1, 0, 1, 0], [3, 4], [1, 1]),
        ([1, 0, 1, 0], [3, 3], [1, 3]),
    ] {
        let (got, _) = loss(&targets, steps, labels, true);
        assert!(got[0].is_finite() && got[1].is_nan(), "{targets:?} {steps:?} {labels:?}: {got:?}");
    }
    // Two equal labels need three steps.
    let (got, grad) = loss(&[1, 1, 1, 1], [2, 3], [2, 2], false);
    assert!(got[0] == f32::INFINITY && got[1].is_finite() && grad.iter().all(|g| g.is_finite()), "{got:?}");
    assert_eq!(loss(&[1, 1, 1, 1], [2, 3], [2, 2], true).0[0], 0.0);
    // Without labels all must be blank; without steps nothing is said.
    let (got, _) = loss(&[], [1, 0], [0, 0], false);
    let blank = x.log_softmax(2).to_vec::<f32>().expect("a value")[0];
    assert!((got[0] + blank).abs() < 1e-6 && got[1] == 0.0, "{got:?}");
    let (nobody, sum) = (Tensor::zeros(&dev, &[3, 0, 4]), Reduction::Sum);
    let no = |shape: &[usize]| Tensor::from_slice(&dev, &[0i32; 0], shape);
    let options = CtcOptions { reduction: sum, ..Default::default() };
    let loss = ctc(&nobody, &no(&[0, 2]), &no(&[0]), &no(&[0]), &options);
    assert_eq!(loss.item::<f32>().expect("a value"), 0.0);
    let silent = ctc(&Tensor::zeros(&dev, &[0, 2, 4]), &int(&[1, 2]), &line([0, 0]), &line([0, 1]), &options);
    assert_eq!(silent.item::<f32>().expect("a value"), f32::INFINITY);
}

#[test]
fn ctc_plans_are_as_large_for_many_steps() {
    let dev = Device::null();
    let launches = |steps: usize| {
        let x = Tensor::zeros(&dev, &[steps, 2, 5]).into_parameter("x");
        let x = x.unwrap_or_else(|_| Tensor::from_slice(&dev, &vec![0.0; steps * 10], &[steps, 2, 5]));
        let targets = Tensor::from_slice(&dev, &[1i32, 2, 3, 4], &[2, 2]);
        let lengths = Tensor::from_slice(&dev, &[2i32, 2], &[2]);
        let loss = ctc(&x.log_softmax(2), &targets, &lengths, &lengths, &CtcOptions::default());
        let grad = grad_of(&loss, &[&x]).expect("a gradient").remove(0);
        explain(&[&loss, &grad]).expect("a plan").launches.len()
    };
    let (few, many) = (launches(4), launches(100));
    println!("ctc with its gradient: {few} kinds of launches");
    assert_eq!(few, many);
    assert!(few <= 20, "{few}");
}

#[test]
fn penalties_are_over_what_is_trained() {
    let params = Params::new(&Device::cpu(), Seed(1));
    let value = |name: &str, x: f32| (&params / name).parameter("weight", &[2], Init::Constant(x));
    let (a, _) = (value("a", -2.0), value("b", 3.0));
    let item = |t: versant_nn::Result<Tensor>| t.expect("there are some").item::<f32>().expect("a value");
    assert_eq!((item(l1_penalty(&params, "*")), item(l2_penalty(&params, "a.*"))), (10.0, 8.0));
    let loss = l2_penalty(&params, "*").expect("there are some");
    assert_eq!(
        grad_of(&loss, &[&a.get()]).expect("a gradient")[0].to_vec::<f32>().expect("a value"),
        [-4.0; 2]
    );
    params.freeze("b.*").expect("ready");
    assert_eq!(item(l1_penalty(&params, "*")), 4.0);
    let none = l1_penalty(&params, "b.*");
    assert!(matches!(none, Err(NnError::NoParameters { pattern: Some(p) }) if p == "b.*"));
}
