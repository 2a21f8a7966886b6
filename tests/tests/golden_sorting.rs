//! Sorting and selection against PyTorch: values, gradients and positions, on every device; and suppression of boxes.

use versant_data::metrics::nms;
use versant_device::Device;
use versant_graph::Tensor;
use versant_tests::devices;
use versant_tests::golden::{Case, Data, Inputs, Report, Tolerance, cases, check_function};

fn values(case: &Case, inputs: &Inputs) -> Tensor {
    let x = inputs.get("x");
    match case.kind.as_str() {
        "sort" => x.sort(case.axis("axis"), case.flag("descending")).0,
        "topk" => x.topk(case.int("k"), case.axis("axis"), case.flag("largest")).0,
        "kthvalue" => x.kthvalue(case.int("k"), case.axis("axis"), false).0,
        "median" => x.median(case.axis("axis"), false),
        "quantile" => x.quantile(case.real("q") as f32, case.axis("axis"), false),
        other => panic!("no function {other}"),
    }
}

/// Whole numbers, exactly.
fn check_exact(case: &Case, key: &str, got: &Tensor) -> Result<(), String> {
    let got = got.to_vec::<i32>().map_err(|e| e.to_string())?;
    match &case.array(key).data {
        Data::I32(want) if *want == got => Ok(()),
        want => Err(format!("{key}: {got:?} is not {want:?}")),
    }
}

fn check(case: &Case, device: &Device) -> Result<(), String> {
    let tensor = |key: &str| case.array(key).tensor(device);
    match case.kind.as_str() {
        "order" => {
            let order = tensor("x").argsort(case.axis("axis"), case.flag("descending"));
            check_exact(case, "y", &order)
        }
        "searchsorted" => {
            let places = tensor("x").searchsorted(&tensor("values"), case.flag("right"));
            check_exact(case, "y", &places)
        }
        "histc" => {
            let (low, high) = (case.real("low") as f32, case.real("high") as f32);
            check_exact(case, "y", &tensor("x").histogram(case.int("bins"), low, high))
        }
        "nms" => {
            let [boxes, scores, classes] = ["boxes", "scores", "classes"].map(tensor);
            for (key, classes) in [("plain", None), ("by_class", Some(&classes))] {
                let kept = nms(&boxes, &scores, classes, case.real("threshold") as f32);
                check_exact(case, key, &kept.map_err(|e| e.to_string())?)?;
            }
            Ok(())
        }
        _ => check_function(case, device, Tolerance::default(), |inputs| values(case, inputs)),
    }
}

#[test]
fn sorting_agrees_with_pytorch() {
    let mut report = Report::new("sorting");
    for case in cases("sorting") {
        for device in devices() {
            report.check(&device, &case.name, || check(&case, &device));
        }
    }
    report.finish(23);
}
