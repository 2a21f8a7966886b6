//! Random graphs: fused against unfused and against the interpreter, on every device, evaluated in several
//! orders; and their gradients.
//!
//! `VERSANT_SEED=N` runs the one graph of that seed, `VERSANT_GRAPHS=N` changes their number. A failure prints
//! the seed and the recipe.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use versant_graph::interp::{Array, interpret};
use versant_graph::{DType, Device, DeviceKind, Tensor, eval, grad_of, set_fusion};
use versant_tests::cases::{Accuracy, Input, Rng, compare};
use versant_tests::devices;
use versant_tests::golden::Report;

/// One step of a recipe: what is done, to which earlier values, with which free choices.
#[derive(Clone, Debug)]
struct Step {
    kind: usize,
    operands: [usize; 3],
    choice: [usize; 4],
}

/// A graph as a recipe, so that it can be recorded as often as needed.
#[derive(Clone, Debug)]
struct Recipe {
    seed: u64,
    leaves: Vec<Input>,
    steps: Vec<Step>,
    /// The steps whose values somebody holds.
    held: Vec<usize>,
}

const KINDS: usize = 26;

fn recipe(seed: u64) -> Recipe {
    let mut rng = Rng(seed.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 0x1405_7b7e);
    let shapes: [&[usize]; 8] = [&[4, 6], &[6], &[4, 1], &[6, 4], &[2, 4, 6], &[1], &[5, 7], &[3, 1, 2]];
    let leaves: Vec<Input> = (0..2 + rng.below(3))
        .map(|_| {
            let shape = shapes[rng.below(shapes.len())];
            Input::random(shape, DType::F32, (-1.0, 1.0), rng.bits())
        })
        .collect();
    let count = 5 + rng.below(56);
    let mut steps = Vec::new();
    for k in 0..count {
        let known = leaves.len() + k;
        // Mostly recent values, sometimes any: long chains as well as sharing.
        let mut pick = || {
            if rng.below(3) == 0 { rng.below(known) } else { known - 1 - rng.below(known.min(4)) }
        };
        let operands = [pick(), pick(), pick()];
        let choice = std::array::from_fn(|_| rng.below(1 << 16));
        steps.push(Step { kind: rng.below(KINDS), operands, choice });
    }
    let mut held: Vec<usize> = (0..count).filter(|_| rng.below(8) == 0).collect();
    held.push(count - 1);
    held.dedup();
    Recipe { seed, leaves, steps, held }
}

/// Keeps values in a range where rounding errors do not grow: chains of 60 operations stay comparable.
fn tame(t: &Tensor) -> Tensor {
    t.tanh()
}

/// Records a step. Whatever does not fit its operands becomes something that does.
fn record(step: &Step, known: &[Tensor]) -> Tensor {
    let [a, b, c] = step.operands.map(|i| &known[i]);
    let [p, q, r, _] = step.choice;
    let axis = |t: &Tensor, p: usize| p % t.rank().max(1);
    let small = |t: Tensor| {
        if t.error().is_some() || t.numel() > 600 || t.rank() > 5 { tame(a) } else { t }
    };
    let flat = a.rank() == 0;
    match step.kind {
        0 => small(a + b),
        1 => small(a * b),
        2 => small(a - &(b * 0.5)),
        3 => small(a / &(b.square() + 1.0)),
        4 => a.sin(),
        5 => (a * 0.5).exp(),
        6 => tame(a),
        7 => a.sigmoid(),
        8 => (a.square() + 0.5).ln(),
        9 => small(a.maximum(b)),
        10 => small(a.gt(&(b * 0.3)).select(a, b)),
        11 if !flat => a.sum(&[axis(a, p) as isize], q % 2 == 0) * 0.3,
        12 if !flat => a.mean(&[axis(a, p) as isize], q % 2 == 0),
        13 if !flat => a.max(&[axis(a, p) as isize], q % 2 == 0),
        14 if a.rank() >= 2 => a.t(),
        15 => a.reshape(&[-1]),
        16 if !flat => a.flip(&[axis(a, p)]),
        17 if !flat => {
            let axis = axis(a, p);
            let extent = a.shape()[axis];
            let start = q % extent;
            let step = 1 + r % 2;
            a.slice_step(axis, start, (extent - start).div_ceil(step), step)
        }
        18 if !flat => {
            let mut amounts = vec![(0, 0); a.rank()];
            amounts[axis(a, p)] = (q % 2, r % 3);
            small(a.pad(&amounts, if p % 5 == 0 { 0.7 } else { 0.0 }))
        }
        19 if !flat => small(Tensor::cat(&[a, &a.flip(&[axis(a, p)]), a], axis(a, p))),
        20 if a.rank() >= 2 => small(a.matmul(&a.t()) * 0.2),
        21 if a.rank() >= 1 && b.rank() >= 1 => small(tame(&a.matmul(b))),
        22 if !flat => a.softmax(axis(a, p) as isize),
        23 if !flat && a.shape()[axis(a, p)] >= 3 => {
            let axis = axis(a, p);
            small(a.window(axis, 2 + q % 2, 1 + r % 2, 1).mean(&[-1], false))
        }
        24 if !flat => a.cumsum(axis(a, p)) * 0.2,
        25 if !flat => {
            let axis = axis(a, p);
            let extent = a.shape()[axis] as i32;
            let index: Vec<i32> = (0..4).map(|k| (q as i32 + 3 * k) % extent).collect();
            small(a.index_select(axis, &Tensor::from_slice(a.device(), &index, &[4])))
        }
        _ => small(c * 0.7 + 0.1),
    }
}

/// The held values, with their positions, and the leaves.
fn build(recipe: &Recipe, device: &Device) -> (Vec<Tensor>, Vec<Tensor>) {
    let leaves: Vec<Tensor> = recipe.leaves.iter().map(|l| l.tensor(device)).collect();
    let mut known = leaves.clone();
    for step in &recipe.steps {
        let next = record(step, &known);
        known.push(next);
    }
    let held = recipe.held.iter().map(|&h| known[leaves.len() + h].clone()).collect();
    (leaves, held)
}

fn describe(recipe: &Recipe) -> String {
    let mut text = format!("seed {}, {} steps, held {:?};", recipe.seed, recipe.steps.len(), recipe.held);
    for (k, step) in recipe.steps.iter().enumerate() {
        let _ = write!(text, " {}={}{:?}", k + recipe.leaves.len(), step.kind, step.operands);
    }
    text
}

/// Chains of dozens of operations: each of them may round.
const NEAR: Accuracy = Accuracy::Near(3e-4, 1.0);

fn same(what: &str, got: &[Tensor], want: &[Array]) -> Result<(), String> {
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        compare(NEAR, got, want).map_err(|e| format!("{what}, held {k}: {e}"))?;
    }
    Ok(())
}

/// Evaluates the graph in one plan, one value after the other in both orders, and a half at a time.
fn check_orders(recipe: &Recipe, device: &Device, want: &[Array]) -> Result<(), String> {
    let text = |e: versant_graph::GraphError| e.to_string();
    let all = build(recipe, device).1;
    eval(&all.iter().collect::<Vec<_>>()).map_err(text)?;
    same("at once", &all, want)?;
    let forwards = build(recipe, device).1;
    same("one by one", &forwards, want)?;
    let backwards = build(recipe, device).1;
    for t in backwards.iter().rev() {
        eval(&[t]).map_err(text)?;
    }
    same("backwards", &backwards, want)?;
    let halves = build(recipe, device).1;
    let half: Vec<&Tensor> = halves.iter().step_by(2).collect();
    eval(&half).map_err(text)?;
    // What is recorded over evaluated values is another graph with the same meaning.
    let more: Vec<Tensor> = halves.iter().map(|t| t * 2.0).collect();
    eval(&more.iter().collect::<Vec<_>>()).map_err(text)?;
    same("in halves", &halves, want)?;
    let only_last = build(recipe, device).1.pop().expect("the last step is held");
    same("alone", &[only_last], &want[want.len() - 1..])
}

/// The gradient of the last value by the leaves that it depends on.
fn gradients(recipe: &Recipe, device: &Device) -> Result<Vec<Tensor>, String> {
    let (leaves, held) = build(recipe, device);
    let last = held.last().expect("the last step is held");
    let loss = last.square().sum_all() + last.sum_all() * 0.3;
    // One at a time: a leaf that is not reached is an error for all of them.
    let reached: Vec<&Tensor> = leaves.iter().filter(|l| grad_of(&loss, &[*l]).is_ok()).collect();
    grad_of(&loss, &reached).map_err(|e| e.to_string())
}

fn check_gradients(recipe: &Recipe, device: &Device, want: &[Array]) -> Result<(), String> {
    let grads = gradients(recipe, device)?;
    eval(&grads.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    if grads.len() != want.len() {
        return Err("another number of gradients".to_owned());
    }
    for (k, (got, want)) in grads.iter().zip(want).enumerate() {
        let scale = want.to_f32().iter().fold(1.0f32, |m, v| m.max(v.abs()));
        compare(Accuracy::Near(1e-3, scale), got, want).map_err(|e| format!("gradient {k}: {e}"))?;
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds(default: u64) -> Vec<u64> {
    let count = number("VERSANT_GRAPHS").unwrap_or(default);
    number("VERSANT_SEED").map_or_else(|| (0..count).collect(), |seed| vec![seed])
}

type Check = fn(&Recipe, &Device, &[Array]) -> Result<(), String>;

/// Runs a check over random graphs on the CPU, and over fewer of them on the GPU, where shaders are compiled.
fn walk(
    title: &'static str,
    wanted: fn(&Recipe) -> Result<Vec<Array>, String>,
    check: Check,
    counts: [u64; 2],
) {
    // Fusion is switched for the whole device: one walk at a time.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut report = Report::new(title);
    for device in devices() {
        let is_cpu = device.info().kind == DeviceKind::Cpu;
        let seeds = seeds(counts[usize::from(!is_cpu)]);
        for fused in [true, false] {
            set_fusion(&device, fused);
            for &seed in &seeds {
                let recipe = recipe(seed);
                let name = format!("{} (fusion {fused})", describe(&recipe));
                report.check(&device, &name, || check(&recipe, &device, &wanted(&recipe)?));
            }
            set_fusion(&device, true);
        }
    }
    report.finish(2);
}

fn by_definition(tensors: &[Tensor]) -> Result<Vec<Array>, String> {
    tensors.iter().map(|t| interpret(t).map_err(|e| e.to_string())).collect()
}

#[test]
fn values_do_not_depend_on_fusion_order_or_device() {
    walk("graphs", |r| by_definition(&build(r, &Device::cpu()).1), check_orders, [400, 12]);
}

#[test]
fn gradients_do_not_depend_on_fusion_or_device() {
    walk("gradients", |r| by_definition(&gradients(r, &Device::cpu())?), check_gradients, [200, 8]);
}
