//! A broken variant is found and not used; a measured choice is kept. On software Vulkan, which CI has.

use super::*;
use crate::{DeviceOptions, Tensor, eval, latest_plan};
use versant_device::Select;

/// A software adapter whose verdicts are kept nowhere, with a text changed before it runs.
fn broken(sabotage: fn(&str, &mut String)) -> Device {
    let device = Device::open(&DeviceOptions::select(Select::Software)).expect("tests need lavapipe");
    let tuning = device.attachment::<Tuning>();
    let mut state = tuning.open(&device);
    (state.path, state.known, state.sabotage) = (None, Known::default(), Some(sabotage));
    drop(state);
    device
}

/// Uses of the first accumulation are halved in every kernel of this variant.
fn halve(variant: &str, label: &str, text: &mut String) {
    if label.contains(variant) {
        let at = text.find("fma(").expect("a product multiplies and adds");
        text.insert_str(at, "0.5 * ");
    }
}

fn product(device: &Device) -> Tensor {
    let a: Vec<f32> = (0..70 * 33).map(|i| (i % 7) as f32 - 3.0).collect();
    let b: Vec<f32> = (0..33 * 65).map(|i| (i % 5) as f32 - 2.0).collect();
    let (a, b) = (Tensor::from_slice(device, &a, &[70, 33]), Tensor::from_slice(device, &b, &[33, 65]));
    &a.matmul(&b) + 1.0
}

#[test]
fn a_broken_variant_is_excluded_and_the_next_one_serves() {
    let first = {
        let device = broken(|_, _| ());
        eval(&[&product(&device)]).expect("the first choice is right");
        let plan = latest_plan(&device).expect("it ran");
        let label = plan.launches[0].label.clone();
        assert_eq!(excluded_variants(&device), []);
        label[label.find('[').expect("the tile is named") + 1..label.len() - 1].to_owned()
    };
    static FIRST: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    FIRST.set(first.clone()).expect("set once");
    let device = broken(|label, text| halve(FIRST.get().expect("it is set"), label, text));
    let found = product(&device).to_vec::<f32>().expect("another variant is right");
    let expected = product(&Device::cpu()).to_vec::<f32>().expect("the CPU can");
    assert_eq!(found, expected, "small integers are exact");
    let excluded = excluded_variants(&device);
    assert_eq!(excluded.len(), 1, "{excluded:?}");
    assert!(first.contains(&excluded[0].variant) && excluded[0].family == "matmul", "{excluded:?}");
    assert!(excluded[0].fault.contains("in place of"), "{excluded:?}");
}

#[test]
fn a_broken_attention_is_found() {
    let attend = |device: &Device| {
        let x: Vec<f32> = (0..2 * 9 * 8).map(|i| (i % 7) as f32 - 3.0).collect();
        let x = Tensor::from_slice(device, &x, &[2, 9, 8]);
        x.attention(&x, &x, &crate::Attention { fused: Some(true), ..Default::default() }).to_vec::<f32>()
    };
    let expected = attend(&Device::cpu()).expect("the CPU can");
    let found = attend(&broken(|_, _| ())).expect("the kernel is right");
    let far = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-5;
    assert!(!found.iter().zip(&expected).any(far), "{found:?} for {expected:?}");
    let device = broken(|label, text| {
        if label.contains("rows") {
            *text = text.replace("exp2(s[r] - above)", "exp2(0.9 * s[r] - above)");
        }
    });
    let error = attend(&device).expect_err("the only variant for software adapters is broken");
    assert!(matches!(error, GraphError::NoVariant { family: "attention", .. }), "{error}");
    assert_eq!(excluded_variants(&device).len(), 1);
}

#[test]
fn rows_of_subgroups_are_tried_and_given_up_where_they_are_wrong() {
    let sums = |device: &Device| {
        device.attachment::<Tuning>().lock().class = Some(versant_kernels::Class::Discrete);
        let x: Vec<f32> = (0..7 * 60).map(|i| (i % 11) as f32 - 4.0).collect();
        let y = Tensor::from_slice(device, &x, &[7, 60]).sum(&[1], false);
        (y.to_vec::<f32>().expect("it runs"), latest_plan(device).expect("it ran"))
    };
    let (expected, _) = sums(&Device::cpu());
    let device = broken(|_, _| ());
    let known = |d: &Device| d.attachment::<Tuning>().open(d).known.verdicts.len();
    let (found, plan) = sums(&device);
    assert_eq!(found, expected, "small integers are exact");
    let takes = |plan: &crate::Explanation| plan.launches.iter().any(|l| l.source.wgsl.contains(SUBGROUP));
    if device.info().limits.min_subgroup == 0 {
        assert!(!takes(&plan));
        return;
    }
    assert!(takes(&plan) && known(&device) == 1 && excluded_variants(&device).is_empty());
    let device = broken(|_, text| *text = text.replace(", 1u)", ", 2u)"));
    let (found, plan) = sums(&device);
    assert_eq!(found, expected, "a workgroup shares a row");
    assert!(!takes(&plan));
    let excluded = excluded_variants(&device);
    assert!(excluded.len() == 1 && excluded[0].variant == ROWS, "{excluded:?}");
}

#[test]
fn without_a_right_variant_an_error_says_so() {
    let device = broken(|label, text| halve("", label, text));
    let error = product(&device).to_vec::<f32>().expect_err("every variant is broken");
    assert!(matches!(error, GraphError::NoVariant { family: "matmul", .. }), "{error}");
    assert!(error.to_string().contains("in place of"), "{error}");
}

#[test]
fn measuring_chooses_among_the_right_ones_and_is_remembered() {
    let device = broken(|_, _| ());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("kernels.json");
    device.attachment::<Tuning>().open(&device).path = Some(path.clone());
    set_tuning(&device, true);
    let expected = product(&Device::cpu()).to_vec::<f32>().expect("the CPU can");
    assert_eq!(product(&device).to_vec::<f32>().expect("it runs"), expected);
    let known = device.attachment::<Tuning>().open(&device).known.clone();
    assert_eq!(known.choices.len(), 1, "{known:?}");
    assert!(known.verdicts.len() >= 2 && known.verdicts.values().all(Option::is_none), "{known:?}");
    assert_eq!(store::read(&path, &known.adapter), known);
}

#[test]
fn attention_is_measured_too() {
    let device = broken(|_, _| ());
    let attend = |device: &Device| {
        let x: Vec<f32> = (0..2 * 9 * 8).map(|i| (i % 7) as f32 - 3.0).collect();
        let x = Tensor::from_slice(device, &x, &[2, 9, 8]);
        x.attention(&x, &x, &crate::Attention { fused: Some(true), ..Default::default() }).to_vec::<f32>()
    };
    set_tuning(&device, true);
    device.attachment::<Tuning>().lock().class = Some(versant_kernels::Class::Discrete);
    let (expected, found) = (attend(&Device::cpu()).expect("the CPU can"), attend(&device).expect("it runs"));
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} for {expected:?}");
    let known = device.attachment::<Tuning>().open(&device).known.clone();
    let (key, label) = known.choices.iter().next().expect("a choice is remembered");
    assert!(known.choices.len() == 1 && key.starts_with("attention "), "{known:?}");
    // Both tiles and the rows were tried, and the plan has the fastest.
    assert!(known.verdicts.len() == 3 && known.verdicts.values().all(Option::is_none), "{known:?}");
    let plan = latest_plan(&device).expect("it ran");
    assert!(
        plan.launches.iter().any(|l| l.label.contains(&label[..])),
        "{label}: {:?}",
        plan.launches[0].label
    );
}
