//! Losses against PyTorch: values of every reduction and gradients by the prediction, on every device.

use versant_graph::Tensor;
use versant_nn::loss::{
    BceOptions, CrossEntropyOptions, NllOptions, Reduction, bce_with_logits, cross_entropy, huber, l1, mse,
    nll,
};
use versant_tests::devices;
use versant_tests::golden::{Case, Inputs, Report, Tolerance, cases, check_function};

fn reduction(case: &Case) -> Reduction {
    match case.text("reduction") {
        "mean" => Reduction::Mean,
        "sum" => Reduction::Sum,
        "none" => Reduction::None,
        other => panic!("no reduction {other}"),
    }
}

fn loss(case: &Case, inputs: &Inputs) -> Tensor {
    let (x, target) = (inputs.get("x"), inputs.get("target"));
    let (weight, reduction) = (inputs.find("weight").cloned(), reduction(case));
    // PyTorch always ignores -100; here it is asked for, and must not matter where no target has it.
    let ignore_index = case.has_attr("ignore_index").then_some(-100);
    match case.kind.as_str() {
        "mse" => mse(x, target, reduction),
        "l1" => l1(x, target, reduction),
        "huber" => huber(x, target, case.real("delta") as f32, reduction),
        "cross_entropy" => {
            let label_smoothing = case.real("label_smoothing") as f32;
            let options = CrossEntropyOptions { weight, label_smoothing, ignore_index, reduction };
            cross_entropy(x, target, &options)
        }
        "nll" => nll(x, target, &NllOptions { weight, ignore_index, reduction }),
        "bce_with_logits" => {
            let pos_weight = inputs.find("pos_weight").cloned();
            bce_with_logits(x, target, &BceOptions { weight, pos_weight, reduction })
        }
        other => panic!("no loss {other}"),
    }
}

#[test]
fn losses_agree_with_pytorch() {
    let mut report = Report::new("losses");
    for case in cases("losses") {
        for device in devices() {
            report.check(&device, &case.name, || {
                check_function(&case, &device, Tolerance::default(), |inputs| loss(&case, inputs))
            });
        }
    }
    report.finish(78);
}

/// The default looks for no index to ignore; where there is none, the loss is the same.
#[test]
fn ignoring_nothing_changes_nothing() {
    let mut report = Report::new("losses without an index to ignore");
    let plain = |case: &Case| {
        let targets = matches!(case.kind.as_str(), "cross_entropy" | "nll");
        targets && case.has_attr("ignore_index") && !case.name.contains("ignore")
    };
    for case in cases("losses").into_iter().filter(plain) {
        for device in devices() {
            report.check(&device, &case.name, || {
                check_function(&case, &device, Tolerance::default(), |inputs| {
                    loss(&case.without_attr("ignore_index"), inputs)
                })
            });
        }
    }
    report.finish(18);
}
