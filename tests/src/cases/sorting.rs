//! Sorting, selecting and counting: rows of every length, equal keys, special values, views and directions.

use versant_graph::{DType, RandomKey, Tensor};

use super::Accuracy::{Exact, Near};
use super::{Case, Input, Output, Rng};

/// Values and positions of a sort.
fn both(name: String, input: Input, axis: isize, descending: bool) -> Case {
    Case::several(name, vec![input], move |_, x| outputs(x[0].sort(axis, descending)))
}

fn outputs((values, order): (Tensor, Tensor)) -> Vec<Output> {
    vec![
        Output { label: "values", tensor: values, accuracy: Exact },
        Output { label: "order", tensor: order, accuracy: Exact },
    ]
}

/// Reals of which many are equal, among them NaN, infinities, both zeros and subnormal numbers.
fn special(shape: &[usize], seed: u64) -> Input {
    let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-41, -1e-41, 1.0, -1.0];
    let mut rng = Rng(seed);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| odd.get(rng.below(14)).copied().unwrap_or_else(|| rng.below(9) as f32 - 4.0))
        .collect();
    Input::f32(shape, &values)
}

fn whole_sorts() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::I32, DType::U32, DType::Bool] {
        for axis in [0, 1, -1] {
            let input = Input::random(&[3, 5, 4], dtype, (-1.0, 1.0), 61);
            all.push(both(format!("sort {dtype} over {axis}"), input, axis, axis == 1));
        }
    }
    let bits: Vec<u32> = (0..96).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
    for dtype in [DType::I32, DType::U32] {
        let input = Input::words(&[2, 48], dtype, bits.clone());
        all.push(both(format!("sort {dtype} of any bits"), input, 1, false));
    }
    for (rows, n) in [(1, 1), (3, 2), (9, 31), (2, 33), (2, 255), (1, 256), (2, 257), (2, 5000), (1, 4099)] {
        for descending in [false, true] {
            let name = format!("sort {rows} x {n}, descending {descending}");
            all.push(both(name, special(&[rows, n], n as u64), -1, descending));
        }
    }
    all.push(both("sort 100,000".to_owned(), special(&[100_000], 3), 0, false));
    all.push(both("sort nothing".to_owned(), Input::f32(&[0], &[]), 0, false));
    all.push(both("sort no rows".to_owned(), Input::f32(&[0, 5], &[]), 1, true));
    all.push(both("sort rows of nothing".to_owned(), Input::f32(&[3, 0, 2], &[]), 1, false));
    all.push(both("sort equal".to_owned(), Input::f32(&[2, 70], &[1.5; 140]), 1, true));
    all
}

/// A view of a tensor.
type View = fn(&Tensor) -> Tensor;

fn views() -> Vec<Case> {
    let views: [(&str, View); 6] = [
        ("transposed", |x| x.t()),
        ("flipped", |x| x.flip(&[1])),
        ("strided", |x| x.slice_step(1, 1, 20, 2)),
        ("part", |x| x.narrow(0, 1, 2).narrow(1, 3, 33)),
        ("repeated", |x| x.narrow(0, 2, 1).broadcast_to(&[3, 41])),
        ("computed", |x| (x * 0.5).round()),
    ];
    let mut all = Vec::new();
    for (name, view) in views {
        let input = Input::random(&[4, 41], DType::F32, (-9.0, 9.0), 62);
        all.push(Case::several(format!("sort {name}"), vec![input], move |_, x| {
            let mut all = outputs(view(&x[0]).sort(1, false));
            all.extend(outputs(view(&x[0]).sort(0, true)));
            all
        }));
    }
    all
}

fn first_few() -> Vec<Case> {
    let mut all = Vec::new();
    for (shape, k, axis) in [
        (vec![7], 3, 0),
        (vec![3, 40], 1, 1),
        (vec![3, 300], 8, 1),
        (vec![2, 5000], 7, -1),
        (vec![2, 5000], 60, -1),
        (vec![2, 3000], 2999, 1),
        (vec![4, 6, 3], 4, 1),
        (vec![5, 3], 0, 0),
        (vec![100_000], 5, 0),
    ] {
        for largest in [true, false] {
            let name = format!("topk {k} of {shape:?}, largest {largest}");
            let input = special(&shape, k as u64);
            all.push(Case::several(name, vec![input], move |_, x| outputs(x[0].topk(k, axis, largest))));
        }
    }
    for k in [1, 4, 9] {
        let input = special(&[5, 9], k);
        all.push(Case::several(format!("kthvalue {k} sort"), vec![input], move |_, x| {
            let mut all = outputs(x[0].kthvalue(k as usize, -1, false));
            all.extend(outputs(x[0].kthvalue(k as usize % 5 + 1, 0, true)));
            all
        }));
    }
    all
}

/// Whose derivatives are taken, too: all elements differ by more than the steps.
fn smooth() -> Vec<Case> {
    let distinct = |shape: &[usize]| vec![Input::distinct(shape, 63)];
    let mut all = vec![
        Case::new("sort, smooth", distinct(&[3, 8]), Exact, |_, x| x[0].sort(1, true).0),
        Case::new("sort columns, smooth", distinct(&[6, 2, 2]), Exact, |_, x| x[0].sort(0, false).0),
        Case::new("topk, smooth", distinct(&[3, 8]), Exact, |_, x| x[0].topk(3, 1, true).0),
        Case::new("kthvalue, sort, smooth", distinct(&[3, 8]), Exact, |_, x| x[0].kthvalue(3, 1, false).0),
        Case::new("median, smooth", distinct(&[4, 7]), Exact, |_, x| x[0].median(1, true)),
    ];
    for q in [0.0, 0.3, 0.5, 1.0] {
        let name = format!("quantile {q}, sort, smooth");
        let accuracy = Near(1e-6, 1.0);
        all.push(Case::new(name, distinct(&[4, 7]), accuracy, move |_, x| x[0].quantile(q, 0, false)));
    }
    all.into_iter().map(Case::smooth).collect()
}

fn others() -> Vec<Case> {
    let mut all = Vec::new();
    let rows = special(&[4, 10], 64);
    all.push(Case::new("median with NaN", vec![rows], Exact, |_, x| x[0].median(1, false)));
    let ints = Input::random(&[4, 10], DType::I32, (0.0, 1.0), 65);
    all.push(Case::new("median of i32", vec![ints.clone()], Exact, |_, x| x[0].median(0, true)));
    all.push(Case::new("bincount", vec![ints.clone()], Exact, |_, x| x[0].bincount(7, None)));
    let weights = Input::random(&[4, 10], DType::F32, (-1.0, 1.0), 66);
    let accuracy = Near(1e-6, 10.0);
    all.push(
        Case::new("bincount with weights", vec![ints, weights.clone()], accuracy, |_, x| {
            x[0].bincount(5, Some(&x[1]))
        })
        .smooth(),
    );
    let bounds = Input::f32(&[5], &[-1.0, 0.0, 0.0, 0.5, f32::NAN]);
    for right in [false, true] {
        let inputs = vec![bounds.clone(), special(&[3, 7], 67)];
        let name = format!("searchsorted, right {right}");
        all.push(Case::new(name, inputs, Exact, move |_, x| x[0].searchsorted(&x[1], right)));
        let inputs = vec![special(&[2, 3, 6], 68), special(&[2, 3, 4], 69)];
        let name = format!("searchsorted of rows, right {right}");
        all.push(Case::new(name, inputs, Exact, move |_, x| {
            x[0].sort(-1, false).0.searchsorted(&x[1], right)
        }));
    }
    all.push(Case::new("histogram", vec![weights], Exact, |_, x| x[0].histogram(4, -0.5, 1.0)));
    // Weights so far apart that no device's rounding changes who wins.
    let chances = Input::f32(&[2, 3], &[0.0, 1e-20, 1.0, 1e-12, 1.0, 1e-25]);
    all.push(Case::new("multinomial", vec![chances.clone()], Exact, |_, x| {
        x[0].multinomial(3, false, RandomKey::new(1))
    }));
    all.push(Case::new("multinomial with replacement", vec![chances], Exact, |_, x| {
        x[0].multinomial(5, true, RandomKey::new(2))
    }));
    all.push(Case::several("sort by another", vec![special(&[3, 50], 70), special(&[3, 50], 71)], |_, x| {
        let order = x[0].argsort(1, false);
        let other = x[1].gather(1, &order);
        // The inverse puts it back.
        let back = other.gather(1, &order.argsort(1, false));
        vec![
            Output { label: "other", tensor: other, accuracy: Exact },
            Output { label: "back", tensor: back, accuracy: Exact },
        ]
    }));
    all
}

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut all = whole_sorts();
    all.extend(views());
    all.extend(first_few());
    all.extend(smooth());
    all.extend(others());
    all
}
