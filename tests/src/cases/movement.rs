//! Movements, casts, and what writes parts of a result.

use versant_graph::{DType, Tensor};

use super::{Accuracy::Exact, Case, Input};

type Move = (&'static str, fn(&Tensor) -> Tensor);

/// Movements of a tensor of extents `[4, 6]`.
const MOVES: &[Move] = &[
    ("reshape", |t| t.reshape(&[3, -1])),
    ("reshape of a transpose", |t| t.t().reshape(&[4, 6])),
    ("reshape of a flip", |t| t.flip(&[1]).reshape(&[2, 12])),
    ("reshape of a broadcast", |t| t.unsqueeze(1).broadcast_to(&[4, 3, 6]).reshape(&[12, 6])),
    ("permute", |t| t.reshape(&[2, 2, 3, 2]).permute(&[3, 0, 2, 1])),
    ("transpose", |t| t.transpose(0, 1)),
    ("t", |t| t.t()),
    ("broadcast", |t| t.unsqueeze(0).broadcast_to(&[3, 4, 6])),
    ("narrow", |t| t.narrow(1, 2, 3)),
    ("narrow to nothing", |t| t.narrow(1, 6, 0)),
    ("slice by 2", |t| t.slice_step(1, 1, 3, 2)),
    ("slice by 5", |t| t.slice_step(1, 0, 2, 5)),
    ("slice of a slice", |t| t.slice_step(1, 1, 3, 2).slice_step(0, 1, 2, 2)),
    ("flip", |t| t.flip(&[0])),
    ("flip both", |t| t.flip(&[0, 1])),
    ("flip of a step", |t| t.slice_step(1, 1, 3, 2).flip(&[1])),
    ("pad with zeros", |t| t.pad(&[(1, 2), (0, 3)], 0.0)),
    ("pad with a value", |t| t.pad(&[(0, 1), (2, 1)], 2.0)),
    ("pad of a pad", |t| t.pad(&[(1, 0), (0, 1)], 3.0).pad(&[(0, 1), (1, 0)], 4.0)),
    ("narrow of a pad", |t| t.pad(&[(2, 2), (2, 2)], 0.0).narrow(0, 1, 5).narrow(1, 1, 5)),
    ("flip of a pad", |t| t.pad(&[(2, 0), (0, 1)], 0.0).flip(&[0, 1])),
    ("reshape of a pad", |t| t.pad(&[(2, 0), (0, 1)], 0.0).reshape(&[7, 6])),
    ("pad of nothing", |t| t.narrow(0, 0, 0).pad(&[(1, 1), (0, 0)], 0.0)),
    ("squeeze", |t| t.narrow(0, 1, 1).squeeze(0)),
    ("unsqueeze", |t| t.unsqueeze(1)),
    ("flatten", |t| t.flatten(0)),
    ("window", |t| t.window(1, 3, 1, 1)),
    ("window with a stride", |t| t.window(1, 2, 3, 1)),
    ("window with a dilation", |t| t.window(1, 3, 1, 2)),
    ("window that touches", |t| t.window(1, 2, 2, 1)),
    ("window over both", |t| t.window(0, 3, 1, 1).window(1, 2, 2, 2)),
    ("window of a pad", |t| t.pad(&[(1, 1), (1, 1)], 0.0).window(0, 3, 2, 1).window(1, 3, 2, 1)),
    ("window too large", |t| t.window(1, 9, 1, 1)),
    ("cat 0", |t| Tensor::cat(&[t, t], 0)),
    ("cat 1", |t| Tensor::cat(&[t, &t.narrow(1, 0, 1), &t.flip(&[1])], 1)),
    ("cat with nothing", |t| Tensor::cat(&[&t.narrow(1, 0, 0), t, &t.narrow(1, 3, 0)], 1)),
    ("cat of cats", |t| {
        let a = Tensor::cat(&[t, t], 1);
        Tensor::cat(&[&a, &a.flip(&[1])], 0)
    }),
    ("part of a cat", |t| Tensor::cat(&[t, &t.flip(&[0])], 0).narrow(0, 3, 3)),
    ("cat of one", |t| Tensor::cat(&[t], 1)),
    ("cat of many", |t| {
        let parts: Vec<Tensor> = (0..12).map(|k| t.narrow(1, k % 5, 1 + k % 2)).collect();
        Tensor::cat(&parts.iter().collect::<Vec<_>>(), 1)
    }),
    ("stack 0", |t| Tensor::stack(&[t, &t.flip(&[0]), t], 0)),
    ("stack last", |t| Tensor::stack(&[t, &t.flip(&[0])], 2)),
    ("detach", |t| t.detach()),
];

/// Every movement, of every type, from a contiguous and from a strided parent.
fn moves() -> Vec<Case> {
    let mut all = Vec::new();
    for &(name, f) in MOVES {
        let input = Input::random(&[4, 6], DType::F32, (-1.0, 1.0), 1);
        let case = Case::new(format!("{name} f32"), vec![input], Exact, move |_, x| f(&x[0]));
        all.push(if name == "detach" { case } else { case.smooth() });
        for dtype in [DType::I32, DType::U32, DType::Bool] {
            let parent = Input::random(&[8, 13], dtype, (0.0, 0.0), 2);
            let name = format!("{name} {dtype} of a part");
            all.push(Case::new(name, vec![parent], Exact, move |_, x| {
                f(&x[0].slice_step(0, 1, 6, 1).narrow(1, 1, 4).t())
            }));
        }
    }
    all
}

/// Conversions between every two types, with values that saturate.
fn casts() -> Vec<Case> {
    let floats = [
        0.0,
        -0.0,
        0.4,
        0.5,
        -0.5,
        0.99,
        -0.99,
        1.5,
        2.5,
        -1.5,
        1e9,
        -1e9,
        2_147_483_520.0,
        2_147_483_648.0,
        -2_147_483_648.0,
        -2_147_483_904.0,
        4_294_967_040.0,
        4_294_967_296.0,
        1e20,
        -1e20,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-30,
        -3.0,
        16_777_217.0,
    ];
    let integers = [
        0,
        1,
        2,
        255,
        16_777_215,
        16_777_217,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0xffff_fff0,
        33_554_435,
    ];
    let input = |dtype: DType| match dtype {
        DType::F32 => Input::f32(&[floats.len()], &floats),
        DType::Bool => Input::words(&[2], dtype, vec![0, 1]),
        _ => Input::words(&[integers.len()], dtype, integers.to_vec()),
    };
    let types = [DType::F32, DType::I32, DType::U32, DType::Bool];
    let mut all = Vec::new();
    for from in types {
        for to in types {
            let cast = move |_: &_, x: &[Tensor]| x[0].cast(to);
            all.push(Case::new(format!("cast {from} to {to}"), vec![input(from)], Exact, cast));
            if from != DType::Bool && to != DType::Bool {
                let bitcast = move |_: &_, x: &[Tensor]| x[0].bitcast(to);
                all.push(Case::new(format!("bitcast {from} to {to}"), vec![input(from)], Exact, bitcast));
            }
        }
    }
    all.push(Case::new("bitcast of a view", vec![input(DType::F32)], Exact, |_, x| {
        x[0].flip(&[0]).reshape(&[2, -1]).t().bitcast(DType::U32)
    }));
    all
}

/// Parts written next to each other, with numbers between them that nothing else may touch.
fn mosaics() -> Vec<Case> {
    let input = |seed| Input::random(&[5, 7], DType::F32, (-1.0, 1.0), seed);
    let mosaic = Case::new("mosaic", vec![input(1), input(2)], Exact, |device, x| {
        let guard = Tensor::full(device, 777.0, &[5, 1]);
        let row = |t: &Tensor| Tensor::cat(&[&guard, t, &guard], 1);
        let gap = Tensor::full(device, 888.0, &[1, 9]);
        let (a, b) = (row(&(&x[0] + &x[1])), row(&x[0].flip(&[0])));
        Tensor::cat(&[&gap, &a, &gap, &b, &gap], 0)
    });
    let wide = Case::new(
        "wide mosaic",
        vec![Input::random(&[33, 130], DType::F32, (0.0, 1.0), 3)],
        Exact,
        |d, x| {
            let guard = Tensor::full(d, 777.0, &[33, 3]);
            let parts: Vec<Tensor> = (0..13).map(|k| x[0].narrow(1, k * 10, 10) * (k as f32)).collect();
            let list: Vec<&Tensor> = parts.iter().flat_map(|p| [p, &guard]).collect();
            Tensor::cat(&list, 1)
        },
    );
    vec![mosaic, wide]
}

/// Leaves.
fn leaves() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::I32, DType::U32] {
        let f = move |d: &_, _: &[Tensor]| Tensor::arange(d, 1003, dtype);
        all.push(Case::new(format!("arange {dtype}"), vec![], Exact, f));
    }
    all.push(Case::new("arange of nothing", vec![], Exact, |d, _| Tensor::arange(d, 0, DType::I32)));
    all.push(Case::new("arange moved", vec![], Exact, |d, _| {
        Tensor::arange(d, 24, DType::F32).reshape(&[4, 6]).t().flip(&[0])
    }));
    all.push(Case::new("full", vec![], Exact, |d, _| Tensor::full(d, 1.25, &[3, 5])));
    all.push(Case::new("zeros and ones", vec![], Exact, |d, _| {
        Tensor::cat(&[&Tensor::zeros(d, &[2, 3]), &Tensor::ones(d, &[2, 2])], 1)
    }));
    all.push(Case::new("constants", vec![], Exact, |d, _| {
        let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, -0.0];
        let list: Vec<Tensor> = numbers.iter().map(|&v| Tensor::full(d, v, &[2])).collect();
        Tensor::cat(&list.iter().collect::<Vec<_>>(), 0)
    }));
    all.push(Case::new("host scalars", vec![], Exact, |d, _| {
        let a = Tensor::scalar(d, 0.3f32).broadcast_to(&[4]);
        let b = Tensor::scalar(d, f32::INFINITY).broadcast_to(&[2]);
        Tensor::cat(&[&a, &b], 0)
    }));
    all.push(Case::new("host integer", vec![], Exact, |d, _| {
        Tensor::scalar(d, -5i32).broadcast_to(&[3]).add(&Tensor::arange(d, 3, DType::I32))
    }));
    all
}

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut all = moves();
    all.extend(casts());
    all.extend(mosaics());
    all.extend(leaves());
    all
}
