//! Every row of the elementwise table: types, layouts, special values.

use versant_graph::ops::elementwise::{Derivative, Elementwise, TABLE};
use versant_graph::{DType, Tensor};

use super::{Accuracy, Case, Input, Output};

/// Records a row by its method's name.
///
/// # Panics
/// If the table has a row that is not listed here: a new row needs a line.
pub fn apply(row: &Elementwise, x: &[Tensor]) -> Tensor {
    macro_rules! rows {
        ($($one:ident)*; $($two:ident)*) => {
            match row.f.name {
                $(stringify!($one) => x[0].$one(),)*
                $(stringify!($two) => x[0].$two(&x[1]),)*
                "select" => x[0].select(&x[1], &x[2]),
                other => panic!("tests/src/cases/elementwise.rs does not know the row {other}"),
            }
        };
    }
    rows! {
        neg abs exp exp2 ln log2 log1p expm1 sqrt rsqrt recip sin cos tanh sigmoid erf relu floor ceil
        round sign isnan logical_not round_f16 round_bf16 keep_f16 keep_bf16;
        add sub mul div rem pow minimum maximum atan2 eq ne lt le gt ge and or xor
    }
}

/// The tolerance of a row. Bits count only where nothing is rounded.
fn accuracy(row: &Elementwise) -> Accuracy {
    if row.tolerance == 0.0 { Accuracy::Exact } else { Accuracy::Near(row.tolerance, 1e-3) }
}

/// An arrangement of the operands: how its parent looks, and the view of the parent.
struct Layout {
    name: &'static str,
    parent: &'static [usize],
    view: fn(&Tensor) -> Tensor,
}

const fn layout(name: &'static str, parent: &'static [usize], view: fn(&Tensor) -> Tensor) -> Layout {
    Layout { name, parent, view }
}

/// The parents hold other numbers around what the view shows, so that a wrong stride reads a wrong number.
const LAYOUTS: &[Layout] = &[
    layout("contiguous", &[5, 7], |t| t.clone()),
    layout("inner", &[9, 11], |t| t.narrow(0, 2, 5).narrow(1, 3, 7)),
    layout("transposed", &[7, 5], |t| t.t()),
    layout("stepped", &[11, 15], |t| t.slice_step(0, 1, 5, 2).slice_step(1, 1, 7, 2)),
    layout("flipped", &[5, 7], |t| t.flip(&[0, 1])),
    layout("row", &[7], |t| t.broadcast_to(&[5, 7])),
    layout("column", &[5, 1], |t| t.broadcast_to(&[5, 7])),
    layout("rank 5", &[2, 3, 1, 4, 2], |t| t.permute(&[4, 1, 3, 2, 0])),
    layout("windows", &[9], |t| t.window(0, 3, 2, 2)),
    layout("empty", &[0, 7], |t| t.clone()),
    layout("one", &[1, 1], |t| t.clone()),
    layout("scalar", &[], |t| t.clone()),
    layout("prime", &[13], |t| t.clone()),
];

/// Operands of one row.
fn operands(row: &Elementwise, dtype: DType, shape: &[usize], seed: u64) -> Vec<Input> {
    (0..row.f.arity)
        .map(|k| {
            let dtype = if row.f.arity == 3 && k == 0 { DType::Bool } else { dtype };
            Input::random(shape, dtype, row.domain, seed.wrapping_mul(31).wrapping_add(k as u64))
        })
        .collect()
}

/// One plan for `rows` over one layout of the operands.
fn grid(rows: &[&'static Elementwise], dtype: DType, layout: &'static Layout) -> Case {
    let names: Vec<&str> = rows.iter().map(|r| r.f.name).collect();
    let name = format!("{} {dtype} {}", names.join("+"), layout.name);
    let inputs = rows
        .iter()
        .enumerate()
        .flat_map(|(k, r)| operands(r, dtype, layout.parent, 100 + k as u64))
        .collect();
    let rows = rows.to_vec();
    Case::several(name, inputs, move |_, x| {
        let views: Vec<Tensor> = x.iter().map(layout.view).collect();
        let mut rest = &views[..];
        rows.iter()
            .map(|row| {
                let (own, others) = rest.split_at(row.f.arity);
                rest = others;
                Output { label: row.f.name, tensor: apply(row, own), accuracy: accuracy(row) }
            })
            .collect()
    })
}

/// Operands of different extents, in both orders, and a scalar on either side.
fn broadcasts(row: &'static Elementwise, dtype: DType) -> Case {
    let shapes: [&[usize]; 4] = [&[3, 1, 4], &[5, 1], &[], &[4]];
    let inputs =
        shapes.iter().enumerate().map(|(k, s)| Input::random(s, dtype, row.domain, 7 + k as u64)).collect();
    Case::several(format!("{} {dtype} broadcast", row.f.name), inputs, move |_, x| {
        let pairs = [("3", 0, 1), ("5", 1, 0), ("scalar right", 0, 2), ("scalar left", 2, 3), ("line", 3, 0)];
        pairs
            .into_iter()
            .map(|(label, a, b)| {
                let pair = [x[a].clone(), x[b].clone()];
                Output { label, tensor: apply(row, &pair), accuracy: accuracy(row) }
            })
            .collect()
    })
}

const SPECIAL: [f32; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    0.5,
    -0.5,
    1.5,
    2.5,
    -3.0,
    1e-30,
    -1e-30,
    1e30,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
];

const SPECIAL_I32: [i32; 8] = [0, 1, -1, 2, -7, i32::MAX, i32::MIN, 1 << 20];

/// Special values of a type, as words. Denormals are left out: GPUs may flush them.
pub fn specials(dtype: DType) -> Vec<u32> {
    match dtype {
        DType::F32 => SPECIAL.iter().map(|v| v.to_bits()).collect(),
        DType::Bool => vec![0, 1],
        _ => SPECIAL_I32.iter().map(|&v| v as u32).collect(),
    }
}

/// Every special value, or every pair of them.
fn special(row: &'static Elementwise, dtype: DType) -> Case {
    let values = specials(dtype);
    let n = values.len();
    let first: Vec<u32> = (0..n * n).map(|i| values[i / n]).collect();
    let second: Vec<u32> = (0..n * n).map(|i| values[i % n]).collect();
    let input = |words: &[u32]| Input::words(&[n * n], dtype, words.to_vec());
    let inputs = match row.f.arity {
        1 => vec![Input::words(&[n], dtype, values)],
        2 => vec![input(&first), input(&second)],
        _ => {
            let condition = (0..n * n).map(|i| (i % 2) as u32).collect();
            vec![Input::words(&[n * n], DType::Bool, condition), input(&first), input(&second)]
        }
    };
    // The sign of a zero and the last bits of huge results are not promised.
    let accuracy = match dtype {
        DType::F32 => Accuracy::Near(row.tolerance.max(1e-6) * 4.0, 1e-3),
        _ => Accuracy::Exact,
    };
    Case::new(format!("{} {dtype} special", row.f.name), inputs, accuracy, move |_, x| apply(row, x))
}

/// Many elements, so that every path of a kernel runs: vectors of four, the rest, several workgroups.
fn large(row: &'static Elementwise, shape: &'static [usize], turned: bool) -> Case {
    let dtype = row.types[0];
    let name = format!("{} large {shape:?}{}", row.f.name, if turned { " turned" } else { "" });
    Case::new(name, operands(row, dtype, shape, 5), accuracy(row), move |_, x| {
        let mut x = x.to_vec();
        if turned {
            x[0] = x[0].t();
            let last = x.len() - 1;
            x[last] = x[last].slice_step(0, 0, 1, 1).broadcast_to(shape).t();
        }
        apply(row, &x)
    })
}

/// Derivatives of a row, inside its domain.
fn derivative(row: &'static Elementwise) -> Case {
    let (low, high) = row.domain;
    // A margin for the finite difference.
    let margin = (high - low) * 0.05;
    let mut domain = (low + margin, high - margin);
    if row.f.name.starts_with("exp") {
        domain = (-2.0, 2.0);
    }
    let mut inputs: Vec<Input> = operands(row, DType::F32, &[2, 6], 900);
    for (k, input) in inputs.iter_mut().enumerate().filter(|(_, i)| i.dtype == DType::F32) {
        *input = Input::random(&[2, 6], DType::F32, domain, 40 + k as u64);
    }
    match row.f.name {
        // Away from the kinks, and from equal operands.
        "abs" | "relu" => {
            inputs[0] =
                Input::f32(&[2, 6], &[-2.0, 1.5, 0.5, -0.4, 1.0, -1.2, 0.3, 0.9, -0.6, 1.9, -1.1, 0.7]);
        }
        "minimum" | "maximum" => {
            let both = Input::distinct(&[4, 6], 3);
            inputs[0] = Input::words(&[2, 6], DType::F32, both.words[..12].to_vec());
            inputs[1] = Input::words(&[2, 6], DType::F32, both.words[12..].to_vec());
        }
        "rem" => {
            inputs[0] = Input::random(&[2, 6], DType::F32, (2.3, 2.7), 8);
            inputs[1] = Input::random(&[2, 6], DType::F32, (0.95, 1.05), 9);
        }
        "floor" | "ceil" | "round" | "sign" => {
            inputs[0] = Input::random(&[2, 6], DType::F32, (2.15, 2.35), 10);
        }
        _ => {}
    }
    Case::new(format!("{} derivative", row.f.name), inputs, accuracy(row), move |_, x| apply(row, x)).smooth()
}

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in &[DType::F32, DType::I32, DType::U32, DType::Bool] {
        for arity in 1..=3 {
            let rows: Vec<&Elementwise> =
                TABLE.iter().copied().filter(|r| r.f.arity == arity && r.types.contains(&dtype)).collect();
            for layout in LAYOUTS {
                all.extend(rows.chunks(6).map(|rows| grid(rows, dtype, layout)));
            }
        }
    }
    for &row in TABLE {
        for &dtype in row.types {
            all.push(special(row, dtype));
            if row.f.arity == 2 {
                all.push(broadcasts(row, dtype));
            }
        }
        // What passes straight through is no derivative, which a difference would show: tests/half.rs has it.
        let straight = matches!(row.derivative, Derivative::Straight(_));
        if row.types.contains(&DType::F32) && !row.is_test && !straight {
            let zero = matches!(row.derivative, Derivative::Zero);
            assert!(!zero || row.f.arity < 3, "a new kind of row: {}", row.f.name);
            all.push(derivative(row));
        }
    }
    for row in TABLE.iter().filter(|r| ["exp", "add", "eq", "select"].contains(&r.f.name)) {
        all.push(large(row, &[67, 1031], false));
        all.push(large(row, &[131, 131], true));
    }
    all
}
