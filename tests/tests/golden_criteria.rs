//! The further losses against PyTorch: values and gradients, on every device (`tests/golden/make_training.py`).

use versant_graph::Tensor;
use versant_nn::loss::{
    CtcOptions, FocalClassOptions, FocalOptions, GaussianNllOptions, HingeOptions, InfoNceOptions, KlOptions,
    MultiMarginOptions, PoissonNllOptions, Reduction, TripletOptions, contrastive, cosine_embedding, ctc,
    focal, focal_with_logits, gaussian_nll, hinge, hinge_embedding, info_nce, kl_div, multi_margin,
    poisson_nll, smooth_l1, triplet_margin,
};
use versant_tests::devices;
use versant_tests::golden::{Case, Inputs, Report, Tolerance, cases, check_function};

fn reduction(case: &Case) -> Reduction {
    match case.text("reduction") {
        "mean" => Reduction::Mean,
        "sum" => Reduction::Sum,
        "none" => Reduction::None,
        "batchmean" => Reduction::BatchMean,
        other => panic!("no reduction {other}"),
    }
}

fn elementwise(case: &Case, x: &Tensor, target: &Tensor, inputs: &Inputs) -> Option<Tensor> {
    let reduction = reduction(case);
    let real = |key| case.real(key) as f32;
    Some(match case.kind.as_str() {
        "smooth_l1" => smooth_l1(x, target, real("beta"), reduction),
        "kl_div" => kl_div(x, target, &KlOptions { log_target: case.flag("log_target"), reduction }),
        "poisson_nll" => {
            let (log_input, full) = (case.flag("log_input"), case.flag("full"));
            poisson_nll(x, target, &PoissonNllOptions { log_input, full, reduction, ..Default::default() })
        }
        "gaussian_nll" => {
            let options = GaussianNllOptions { full: case.flag("full"), reduction, ..Default::default() };
            gaussian_nll(x, target, inputs.get("variance"), &options)
        }
        "hinge" => {
            let (margin, squared) = (real("margin"), case.flag("squared"));
            hinge(x, target, &HingeOptions { margin, squared, reduction })
        }
        "hinge_embedding" => hinge_embedding(x, target, real("margin"), reduction),
        "focal_with_logits" => {
            let alpha = case.has_attr("alpha").then(|| real("alpha"));
            focal_with_logits(x, target, &FocalOptions { alpha, gamma: real("gamma"), reduction })
        }
        _ => return None,
    })
}

fn loss(case: &Case, inputs: &Inputs) -> Tensor {
    let x = inputs.get("x");
    let reduction = reduction(case);
    let real = |key| case.real(key) as f32;
    let weight = inputs.find("weight").cloned();
    if let Some(found) = inputs.find("target").and_then(|target| elementwise(case, x, target, inputs)) {
        return found;
    }
    match case.kind.as_str() {
        "multi_margin" => {
            let (margin, squared) = (real("margin"), case.flag("squared"));
            multi_margin(x, inputs.get("target"), &MultiMarginOptions { margin, squared, weight, reduction })
        }
        "focal" => {
            focal(x, inputs.get("target"), &FocalClassOptions { weight, gamma: real("gamma"), reduction })
        }
        "cosine_embedding" => {
            cosine_embedding(x, inputs.get("other"), inputs.get("target"), real("margin"), reduction)
        }
        "contrastive" => contrastive(x, inputs.get("other"), inputs.get("target"), real("margin"), reduction),
        "triplet" => {
            let (margin, p, swap) = (real("margin"), real("p"), case.flag("swap"));
            let options = TripletOptions { margin, p, swap, reduction, ..Default::default() };
            triplet_margin(x, inputs.get("positive"), inputs.get("negative"), &options)
        }
        "info_nce" => {
            let (temperature, symmetric) = (real("temperature"), case.flag("symmetric"));
            info_nce(x, inputs.get("other"), &InfoNceOptions { temperature, symmetric, reduction })
        }
        "ctc" => {
            let (blank, zero_infinity) = (case.int("blank"), case.flag("zero_infinity"));
            let [target, steps, labels] = ["target", "inputs", "labels"].map(|key| inputs.get(key));
            let options = CtcOptions { blank, zero_infinity, reduction };
            ctc(&x.log_softmax(2), target, steps, labels, &options)
        }
        other => panic!("no loss {other}"),
    }
}

#[test]
fn losses_agree_with_pytorch() {
    let mut report = Report::new("further losses");
    for case in cases("criteria") {
        for device in devices() {
            report.check(&device, &case.name, || {
                check_function(&case, &device, Tolerance::default(), |inputs| loss(&case, inputs))
            });
        }
    }
    report.finish(50);
}
