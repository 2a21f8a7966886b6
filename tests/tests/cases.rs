//! Every case of the table on every device against the interpreter, alone and between guard words.

use std::sync::OnceLock;
use std::time::Instant;

use versant_graph::interp::{Array, interpret};
use versant_graph::{DType, Device, Tensor, eval};
use versant_tests::cases::{self, Case, Output, compare, compare_words, words_of};
use versant_tests::golden::Report;
use versant_tests::{devices, in_this_pass};

/// Elements before and after a guarded result.
const GUARD: usize = 3;

/// The results of a case by the definition.
fn expected(case: &Case) -> Result<Vec<Array>, String> {
    let device = Device::cpu();
    let outputs = case.build(&device, &case.tensors(&device));
    outputs.iter().map(|o| interpret(&o.tensor).map_err(|e| e.to_string())).collect()
}

fn check(case: &Case, device: &Device, want: &[Array]) -> Result<(), String> {
    let outputs = case.build(device, &case.tensors(device));
    let roots: Vec<&Tensor> = outputs.iter().map(|o| &o.tensor).collect();
    eval(&roots).map_err(|e| e.to_string())?;
    for (output, want) in outputs.iter().zip(want) {
        compare(output.accuracy, &output.tensor, want).map_err(|e| format!("{} {e}", output.label))?;
    }
    Ok(())
}

/// The result as one piece of a longer buffer: a write outside it overwrites a guard or the neighbour.
fn check_guarded(case: &Case, device: &Device, want: &[Array]) -> Result<(), String> {
    let outputs = case.build(device, &case.tensors(device));
    let guarded: Vec<Tensor> = outputs.iter().map(|o| between_guards(device, o)).collect();
    let accuracies: Vec<_> = outputs.iter().map(|o| (o.label, o.accuracy)).collect();
    // No handle of the bare result is left: it is written where it belongs, between the guards.
    drop(outputs);
    eval(&guarded.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    for ((guarded, want), (label, accuracy)) in guarded.iter().zip(want).zip(accuracies) {
        let words = words_of(guarded).map_err(|e| e.to_string())?;
        let (before, rest) = words.split_at(GUARD.min(words.len()));
        let (result, after) = rest.split_at(rest.len().saturating_sub(GUARD));
        let guard = guard_word(want.dtype);
        if before != [guard; GUARD] || after != [guard; GUARD] {
            return Err(format!("{label} guards overwritten: {before:x?} {after:x?}"));
        }
        compare_words(accuracy, want.dtype, result, &want.words)
            .map_err(|e| format!("{label} between guards: {e}"))?;
    }
    Ok(())
}

fn guard_word(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 777f32.to_bits(),
        DType::Bool => 1,
        _ => 777,
    }
}

fn between_guards(device: &Device, output: &Output) -> Tensor {
    let guard = Tensor::full(device, 777.0, &[GUARD]).cast(output.tensor.dtype());
    Tensor::cat(&[&guard, &output.tensor.reshape(&[output.tensor.numel() as isize]), &guard], 0)
}

/// The definition of every case, computed once for all devices.
fn table() -> &'static [(Case, Result<Vec<Array>, String>)] {
    type Row = (Case, Result<Vec<Array>, String>);
    static TABLE: OnceLock<Vec<Row>> = OnceLock::new();
    TABLE.get_or_init(|| cases::all().into_iter().map(|c| (c.clone(), expected(&c))).collect())
}

/// Half of two passes takes a case alone, the other half between guards: each pass computes every case.
fn walk(title: &'static str, half: usize, f: fn(&Case, &Device, &[Array]) -> Result<(), String>) {
    let wanted = std::env::var("VERSANT_CASE").unwrap_or_default();
    let mut report = Report::new(title);
    for device in devices() {
        let start = Instant::now();
        let rows = table().iter().enumerate().filter(|(i, _)| in_this_pass(i + half)).map(|(_, row)| row);
        for (case, want) in rows.filter(|(c, _)| c.name.contains(&wanted)) {
            report.check(&device, &case.name, || match want {
                Ok(want) => f(case, &device, want),
                Err(why) => Err(format!("has no definition: {why}")),
            });
        }
        println!("{title} on {}: {:.1} s", device.info().name, start.elapsed().as_secs_f64());
    }
    report.finish(if wanted.is_empty() { 350 } else { 1 });
}

/// `VERSANT_CASE=TEXT` runs only the cases whose name contains the text.
#[test]
fn every_case_agrees_with_the_interpreter() {
    walk("cases", 0, check);
}

#[test]
fn every_case_writes_only_where_it_should() {
    walk("guarded cases", 1, check_guarded);
}
