//! Kernels compiled without run-time checks give the same bits as with them: the checks would change the result
//! exactly where an index, a loop or a division goes wrong. A part of the cases only, since every kernel is compiled
//! twice; `cargo xtask test` runs all of them in both forms, in its two passes.
//!
//! Attention is the exception: lavapipe rounds the last bits of its results otherwise when the checks are gone (why is
//! not known), so they may differ by some units in the last place of the largest, and by no more.

use versant_device::{DeviceError, DeviceOptions, Select};
use versant_graph::{Device, Tensor, eval};
use versant_tests::cases::{self, Case, words_of};

/// A graphics device; `None` without an adapter, unless one is required.
fn open(checked: bool) -> Option<Device> {
    let name = std::env::var("VERSANT_TEST_DEVICE").unwrap_or_default();
    let select = match name.as_str() {
        "cpu" => return None,
        "" => Select::Gpu,
        name => name.parse().expect("every name is a selection"),
    };
    match Device::open(&DeviceOptions { checked, ..DeviceOptions::select(select) }) {
        Ok(device) => Some(device),
        Err(DeviceError::NoAdapter { .. }) if std::env::var_os("VERSANT_REQUIRE_GPU").is_none() => None,
        Err(error) => panic!("{error}"),
    }
}

fn results(case: &Case, device: &Device) -> Vec<Vec<u32>> {
    let outputs = case.build(device, &case.tensors(device));
    let roots: Vec<&Tensor> = outputs.iter().map(|o| &o.tensor).collect();
    eval(&roots).expect("the table has no faulty case");
    roots.iter().map(|t| words_of(t).expect("it was evaluated")).collect()
}

/// Units in the last place of the largest result by which attention may differ.
const ATTENTION_ULPS: f32 = 4.0;

/// Whether two results of a case are one: to the bit, but for attention.
fn agree(case: &Case, x: &[Vec<u32>], y: &[Vec<u32>]) -> bool {
    if x == y || !case.name.starts_with("attention") {
        return x == y;
    }
    x.iter().zip(y).all(|(x, y)| {
        let floats = |words: &[u32]| words.iter().map(|&w| f32::from_bits(w)).collect::<Vec<_>>();
        let (x, y) = (floats(x), floats(y));
        let slack = ATTENTION_ULPS * f32::EPSILON * x.iter().fold(0f32, |most, v| most.max(v.abs()));
        let near = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a - b).abs() <= slack;
        x.len() == y.len() && x.iter().zip(&y).all(near)
    })
}

/// One case in this many; prime, so that every group of the table takes part.
const EVERY: usize = 7;

#[test]
fn unchecked_kernels_give_the_same_bits() {
    let (Some(checked), Some(unchecked)) = (open(true), open(false)) else {
        eprintln!("SKIPPED: no graphics adapter");
        return;
    };
    let cases: Vec<Case> = cases::all().into_iter().step_by(EVERY).collect();
    assert!(cases.len() > 20, "{} cases", cases.len());
    let differing: Vec<&str> = (cases.iter())
        .filter(|case| !agree(case, &results(case, &checked), &results(case, &unchecked)))
        .map(|case| &case.name[..])
        .collect();
    assert!(differing.is_empty(), "{} of {}: {differing:?}", differing.len(), cases.len());
}
