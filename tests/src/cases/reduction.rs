//! Reductions, arg-reductions and running sums.

use versant_graph::{DType, Tensor};

use super::elementwise::specials;
use super::{Accuracy, Accuracy::Exact, Case, Input};

type Reduce = fn(&Tensor, &[isize], bool) -> Tensor;

const REDUCTIONS: &[(&str, Reduce)] =
    &[("sum", Tensor::sum), ("prod", Tensor::prod), ("max", Tensor::max), ("min", Tensor::min)];

/// Tolerance over `terms` elements of size at most 1.
fn accuracy(name: &str, dtype: DType, terms: usize) -> Accuracy {
    match (name, dtype) {
        ("max" | "min", _) | (_, DType::I32 | DType::U32) => Exact,
        ("prod", _) => Accuracy::Near(1e-6 + 1.2e-7 * terms as f32, 1e-30),
        _ => Accuracy::Near(1e-6, 1.0 + 0.1 * terms as f32),
    }
}

/// Values whose products neither vanish nor explode.
fn domain(name: &str) -> (f32, f32) {
    if name == "prod" { (0.8, 1.2) } else { (-1.0, 1.0) }
}

/// Every set of axes of a rank-3 tensor, kept or not.
fn axis_sets() -> Vec<Case> {
    let mut all = Vec::new();
    for &(name, reduce) in REDUCTIONS {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            for set in 0u8..8 {
                let axes: Vec<isize> = (0..3).filter(|a| set >> a & 1 == 1).collect();
                let keep = set % 2 == 1;
                let input = Input::random(&[3, 4, 5], dtype, domain(name), 11);
                let label = format!("{name} {dtype} over {axes:?}");
                let terms = axes.iter().map(|&a| [3, 4, 5][a as usize]).product();
                let case = Case::new(label, vec![input], accuracy(name, dtype, terms), move |_, x| {
                    reduce(&x[0], &axes, keep)
                });
                all.push(case);
            }
        }
        let negative = Input::random(&[3, 4, 5], DType::F32, domain(name), 12);
        all.push(Case::new(
            format!("{name} over [-1, -3]"),
            vec![negative],
            accuracy(name, DType::F32, 15),
            move |_, x| reduce(&x[0], &[-1, -3], true),
        ));
        for (axes, terms) in [(vec![0isize], 2), (vec![1], 6), (vec![0, 1], 12)] {
            let input = if matches!(name, "max" | "min") {
                Input::distinct(&[2, 6], 4)
            } else {
                Input::random(&[2, 6], DType::F32, (0.5, 1.5), 4)
            };
            let label = format!("{name} derivative over {axes:?}");
            let reduce = move |_: &_, x: &[Tensor]| reduce(&x[0], &axes, true);
            all.push(Case::new(label, vec![input], accuracy(name, DType::F32, terms * 4), reduce).smooth());
        }
    }
    all
}

/// Rows and columns of many lengths, strided and computed operands.
fn extents() -> Vec<Case> {
    let shapes: [&[usize]; 12] = [
        &[1, 1],
        &[1, 100_003],
        &[3, 4099],
        &[5000, 3],
        &[4099, 1],
        &[33, 257],
        &[64, 64],
        &[7, 1, 9],
        &[2, 300, 17],
        &[1030, 2, 3],
        &[17, 31, 2],
        &[3, 2, 1025],
    ];
    let mut all = Vec::new();
    for (k, &shape) in shapes.iter().enumerate() {
        for axis in 0..shape.len() {
            let (name, reduce) = REDUCTIONS[(k + axis) % 4];
            for (name, reduce) in [("sum", Tensor::sum as Reduce), (name, reduce)] {
                let label = format!("{name} of {shape:?} over {axis}, #{}", all.len());
                let terms = shape[axis];
                let input = Input::random(shape, DType::F32, domain(name), k as u64);
                let accuracy = accuracy(name, DType::F32, terms);
                all.push(Case::new(label, vec![input], accuracy, move |_, x| {
                    reduce(&x[0], &[axis as isize], false)
                }));
            }
        }
    }
    type Form = (&'static str, fn(&Tensor) -> Tensor);
    let forms: [Form; 6] = [
        ("transposed", |t| t.t()),
        ("flipped step", |t| t.slice_step(1, 1, 9, 2).flip(&[0])),
        ("broadcast", |t| t.unsqueeze(1).broadcast_to(&[19, 6, 23])),
        ("computed", |t| t * 0.5 + 0.25),
        ("padded", |t| t.pad(&[(2, 1), (0, 3)], 0.0)),
        ("cat", |t| Tensor::cat(&[t, &(t * 0.5)], 1)),
    ];
    for (name, form) in forms {
        for axis in [0, -1] {
            let input = Input::random(&[19, 23], DType::F32, (-1.0, 1.0), 21);
            all.push(Case::new(
                format!("sum of a {name} over {axis}"),
                vec![input],
                Accuracy::sum(4),
                move |_, x| form(&x[0]).sum(&[axis], false),
            ));
        }
    }
    all
}

/// NaN, infinities, nothing, ties.
fn special() -> Vec<Case> {
    let mut all = Vec::new();
    // Each row has its own mixture: all values, only infinities, one NaN at a place that differs.
    let n = specials(DType::F32).len();
    let mut rows: Vec<f32> = specials(DType::F32).iter().map(|&w| f32::from_bits(w)).collect();
    rows.extend(vec![f32::NEG_INFINITY; n]);
    rows.extend(vec![f32::INFINITY; n]);
    rows.extend((0..n).map(|i| if i == n - 1 { f32::NAN } else { i as f32 }));
    rows.extend((0..n).map(|i| if i == 0 { f32::NAN } else { -(i as f32) }));
    rows.extend(vec![-f32::MAX; n]);
    let input = Input::f32(&[6, n], &rows);
    for &(name, reduce) in &REDUCTIONS[2..] {
        for axis in [0, 1] {
            let near = Accuracy::Near(0.0, 1.0);
            let name = format!("{name} of special values over {axis}");
            all.push(Case::new(name, vec![input.clone()], near, move |_, x| reduce(&x[0], &[axis], false)));
        }
    }
    for axis in [0, 1] {
        let max = move |_: &_, x: &[Tensor]| x[0].argmax(axis, false);
        all.push(Case::new(format!("argmax of special values over {axis}"), vec![input.clone()], Exact, max));
        let min = move |_: &_, x: &[Tensor]| x[0].argmin(axis, false);
        all.push(Case::new(format!("argmin of special values over {axis}"), vec![input.clone()], Exact, min));
    }
    for &(name, reduce) in REDUCTIONS {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            let input = Input::words(&[3, 0, 2], dtype, vec![]);
            all.push(Case::new(
                format!("{name} {dtype} of nothing"),
                vec![input.clone()],
                Exact,
                move |_, x| reduce(&x[0], &[1], false),
            ));
            all.push(Case::new(format!("{name} {dtype} to nothing"), vec![input], Exact, move |_, x| {
                reduce(&x[0], &[0], false)
            }));
            if dtype != DType::F32 {
                let words = specials(dtype).repeat(3);
                let input = Input::words(&[3, words.len() / 3], dtype, words);
                all.push(Case::new(format!("{name} {dtype} wraps"), vec![input], Exact, move |_, x| {
                    reduce(&x[0], &[0, 1], false)
                }));
            }
        }
    }
    all.push(Case::new("sum f32 with infinities", vec![input], Accuracy::Near(1e-5, 1.0), |_, x| {
        x[0].narrow(0, 1, 3).sum(&[1], false)
    }));
    all
}

fn arg_reductions() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::I32, DType::U32] {
        // Few distinct values: ties go to the first.
        let tied: Vec<u32> = Input::random(&[6, 4, 37], DType::U32, (0.0, 0.0), 31)
            .words
            .iter()
            .map(|w| {
                if dtype == DType::F32 { (w % 5) as f32 } else { 0.0 }.to_bits()
                    + if dtype == DType::F32 { 0 } else { w % 5 }
            })
            .collect();
        let input = Input::words(&[6, 4, 37], dtype, tied);
        for axis in [0isize, 1, -1] {
            for keep in [false, true] {
                let max = move |_: &_, x: &[Tensor]| x[0].argmax(axis, keep);
                all.push(Case::new(
                    format!("argmax {dtype} over {axis} {keep}"),
                    vec![input.clone()],
                    Exact,
                    max,
                ));
                let min = move |_: &_, x: &[Tensor]| x[0].argmin(axis, keep);
                all.push(Case::new(
                    format!("argmin {dtype} over {axis} {keep}"),
                    vec![input.clone()],
                    Exact,
                    min,
                ));
            }
        }
    }
    let long = Input::distinct(&[2, 5003], 5);
    all.push(Case::new("argmax of long rows", vec![long.clone()], Exact, |_, x| x[0].argmax(1, false)));
    all.push(Case::new("argmin of long columns", vec![long], Exact, |_, x| x[0].t().argmin(0, false)));
    let tied = Input::f32(&[2, 4], &[1.0, 1.0, 0.0, 1.0, -2.0, -2.0, -2.0, -3.0]);
    all.push(Case::new("max with ties and argmax", vec![tied], Exact, |_, x| {
        let hit = x[0].argmax(1, false).cast(DType::F32);
        Tensor::stack(&[&x[0].max(&[1], false), &hit], 0)
    }));
    all.push(Case::new("argmax of nothing", vec![Input::f32(&[2, 0], &[])], Exact, |_, x| {
        x[0].argmax(1, false)
    }));
    all
}

fn cumulative() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::I32, DType::U32] {
        for axis in 0..3 {
            let input = Input::random(&[3, 5, 4], dtype, (-1.0, 1.0), 41);
            let accuracy = accuracy("sum", dtype, 5);
            all.push(
                Case::new(format!("cumsum {dtype} over {axis}"), vec![input], accuracy, move |_, x| {
                    x[0].cumsum(axis)
                })
                .smooth(),
            );
        }
    }
    let long = Input::random(&[2, 1500], DType::F32, (-1.0, 1.0), 42);
    all.push(Case::new(
        "cumsum of long rows",
        vec![long.clone()],
        accuracy("sum", DType::F32, 300),
        |_, x| x[0].cumsum(1),
    ));
    all.push(Case::new("cumsum of long columns", vec![long], accuracy("sum", DType::F32, 300), |_, x| {
        x[0].t().cumsum(0)
    }));
    all.push(
        Case::new(
            "cumsum of a flip",
            vec![Input::random(&[4, 6], DType::F32, (-1.0, 1.0), 43)],
            accuracy("sum", DType::F32, 6),
            |_, x| x[0].flip(&[1]).cumsum(1).flip(&[1]),
        )
        .smooth(),
    );
    all.push(Case::new("cumsum of nothing", vec![Input::f32(&[0, 4], &[])], Exact, |_, x| x[0].cumsum(0)));
    all.push(Case::new(
        "cumsum with integers that wrap",
        vec![Input::i32(&[4], &[i32::MAX, 1, i32::MAX, 5])],
        Exact,
        |_, x| x[0].cumsum(0),
    ));
    all
}

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut all = axis_sets();
    all.extend(extents());
    all.extend(special());
    all.extend(arg_reductions());
    all.extend(cumulative());
    all
}
