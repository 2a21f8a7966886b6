//! Attention: extents, heads, masks and layouts.

use versant_graph::{Attention, DType, RandomKey, Tensor};

use super::{Accuracy, Case, Input};

fn real(shape: &[usize], seed: u64) -> Input {
    Input::random(shape, DType::F32, (-1.0, 1.0), seed)
}

/// Queries, keys and values of these extents.
fn operands(q: &[usize], k: &[usize], value: usize) -> Vec<Input> {
    let mut v = k.to_vec();
    *v.last_mut().expect("a rank above 0") = value;
    vec![real(q, 1), real(k, 2), real(&v, 3)]
}

fn near(keys: usize) -> Accuracy {
    Accuracy::Near(4e-6, 1.0 + (keys as f32).sqrt())
}

/// Whether finite differences are quick.
fn small(case: Case) -> Case {
    let few = case.inputs.iter().all(|i| (1..100).contains(&i.words.len()));
    if few { case.smooth() } else { case }
}

const CAUSAL: Attention<'_> = Attention {
    scale: None,
    is_causal: true,
    window: None,
    start: 0,
    attn_mask: None,
    dropout: None,
    fused: Some(true),
    kept: None,
};

/// By the kernels on every adapter.
const FULL: Attention<'_> = Attention { is_causal: false, ..CAUSAL };

/// Extents of queries, of keys, and the width of values.
const SHAPES: &[(&[usize], &[usize], usize)] = &[
    (&[1, 1], &[1, 1], 1),
    (&[5, 4], &[7, 4], 4),
    (&[3, 5, 8], &[3, 4, 8], 3),
    (&[2, 3, 3, 3], &[2, 3, 5, 3], 2),
    (&[1, 2, 64, 32], &[1, 2, 64, 32], 32),
    (&[2, 1, 67, 20], &[2, 1, 131, 20], 36),
    (&[1, 3, 33, 33], &[1, 3, 257, 33], 31),
    (&[1, 1, 70, 128], &[1, 1, 35, 128], 128),
    (&[1, 2, 19, 64], &[1, 2, 600, 64], 64),
    (&[2, 6, 9, 4], &[2, 2, 11, 4], 8),
    (&[1, 4, 2, 2], &[1, 1, 3, 2], 2),
    (&[2, 2, 2, 3, 4], &[2, 2, 1, 5, 4], 4),
    // No kernel: too wide, or nothing.
    (&[1, 2, 5, 130], &[1, 2, 6, 130], 3),
    (&[2, 3, 0, 4], &[2, 3, 5, 4], 4),
    (&[2, 3, 5, 4], &[2, 3, 0, 4], 4),
    (&[2, 3, 5, 0], &[2, 3, 4, 0], 4),
    (&[0, 3, 5, 4], &[0, 3, 5, 4], 4),
    (&[2, 3, 5, 4], &[2, 3, 4, 4], 0),
];

fn extents() -> Vec<Case> {
    let mut all = Vec::new();
    for &(q, k, value) in SHAPES {
        let keys = k[k.len() - 2];
        for (name, options) in [("full", FULL), ("causal", CAUSAL)] {
            let name = format!("attention {name} {q:?} {k:?} {value}");
            all.push(small(Case::new(name, operands(q, k, value), near(keys), move |_, x| {
                x[0].attention(&x[1], &x[2], &options)
            })));
        }
    }
    all
}

/// Bands: window, position of the first query, scale; some leave queries without keys.
fn bands() -> Vec<Case> {
    let bands =
        [(Some(3), 0, true), (Some(3), 2, false), (Some(1), 0, false), (None, 4, true), (Some(2), 9, true)];
    let mut all = Vec::new();
    for (q, k) in [([1, 2, 5, 4], [1, 2, 7, 4]), ([1, 2, 150, 8], [1, 1, 90, 8])] {
        for (window, start, is_causal) in bands {
            let options = Attention { scale: Some(0.7), is_causal, window, start, ..FULL };
            let name = format!("attention band {window:?} {start} {is_causal} {q:?}");
            all.push(small(Case::new(name, operands(&q, &k, 4), near(8), move |_, x| {
                x[0].attention(&x[1], &x[2], &options)
            })));
        }
    }
    all
}

fn masks() -> Vec<Case> {
    let mut all = Vec::new();
    let scores: [&[usize]; 6] = [&[2, 2, 5, 6], &[1, 2, 5, 6], &[2, 1, 1, 6], &[5, 6], &[6], &[5, 1]];
    for (shape, seed) in scores.into_iter().zip(10..) {
        for (dtype, is_causal) in [(DType::F32, false), (DType::Bool, false), (DType::Bool, true)] {
            let mut inputs = operands(&[2, 2, 5, 4], &[2, 2, 6, 4], 4);
            inputs.push(Input::random(shape, dtype, (-2.0, 2.0), seed));
            let name = format!("attention mask {dtype} {shape:?} {is_causal}");
            all.push(small(Case::new(name, inputs, near(6), move |_, x| {
                x[0].attention(&x[1], &x[2], &Attention { is_causal, attn_mask: Some(&x[3]), ..CAUSAL })
            })));
        }
    }
    // A row that sees nothing, by words and by -inf.
    let mut inputs = operands(&[1, 1, 3, 4], &[1, 1, 4, 4], 2);
    inputs.push(Input::words(&[3, 4], DType::Bool, vec![1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]));
    all.push(small(Case::new("attention of a blind row", inputs.clone(), near(4), |_, x| {
        x[0].attention(&x[1], &x[2], &Attention { attn_mask: Some(&x[3]), ..FULL })
    })));
    // Which weights are dropped follows from the key alone.
    all.push(small(Case::new(
        "attention with dropout",
        operands(&[1, 4, 5, 4], &[1, 2, 6, 4], 3),
        near(6),
        |_, x| {
            let options = Attention { dropout: Some((0.4, RandomKey::new(9))), ..CAUSAL };
            x[0].attention(&x[1], &x[2], &options)
        },
    )));
    all.push(Case::new("attention of an infinite mask", inputs, near(4), |d, x| {
        let mask = x[3].select(&Tensor::constant(d, 0f32), &Tensor::constant(d, f32::NEG_INFINITY));
        x[0].attention(&x[1], &x[2], &Attention { attn_mask: Some(&mask), ..FULL })
    }));
    all
}

/// Operands that are parts of one buffer, backwards, repeated, or computed.
fn layouts() -> Vec<Case> {
    let split = |x: &Tensor, heads: isize| {
        let (batch, length, width) = (x.shape()[0] as isize, x.shape()[1] as isize, x.shape()[2] / 3);
        let part = |i: usize| {
            let part = x.narrow(2, i * width, width);
            part.reshape(&[batch, length, heads, width as isize / heads]).transpose(1, 2)
        };
        [part(0), part(1), part(2)]
    };
    let joined = move |x: &Tensor, heads: isize| {
        let [q, k, v] = split(x, heads);
        let (batch, length) = (x.shape()[0] as isize, x.shape()[1] as isize);
        q.attention(&k, &v, &CAUSAL).transpose(1, 2).reshape(&[batch, length, -1])
    };
    let of = |name: &str, inputs: Vec<Input>, f: fn(&[Tensor]) -> Tensor| {
        small(Case::new(format!("attention {name}"), inputs, near(40), move |_, x| f(x)))
    };
    let mut all = vec![
        of("of flips", operands(&[2, 5, 4], &[2, 6, 4], 4), |x| {
            x[0].flip(&[2]).attention(&x[1].flip(&[1, 2]), &x[2].flip(&[0]), &CAUSAL)
        }),
        of("of a repeated key", operands(&[2, 5, 4], &[1, 6, 4], 4), |x| {
            let wide = |t: &Tensor| t.broadcast_to(&[2, 6, 4]);
            x[0].attention(&wide(&x[1]), &wide(&x[2]), &CAUSAL)
        }),
        of("of transposes", operands(&[4, 5], &[4, 6], 6), |x| {
            x[0].t().attention(&x[1].t(), &x[2].t(), &FULL)
        }),
        of("of padding", operands(&[5, 4], &[6, 4], 4), |x| {
            let pad = |t: &Tensor| t.pad(&[(1, 2), (0, 1)], 0.5);
            pad(&x[0]).attention(&pad(&x[1]), &pad(&x[2]), &CAUSAL)
        }),
        of("of computed operands", operands(&[5, 4], &[6, 4], 4), |x| {
            x[0].tanh().attention(&x[1].exp(), &(&x[2] * 2.0), &CAUSAL).sigmoid()
        }),
        of("of itself", vec![real(&[5, 4], 7)], |x| x[0].attention(&x[0], &x[0], &CAUSAL)),
    ];
    for (shape, heads) in [([2, 3, 24], 2), ([2, 37, 192], 4), ([1, 5, 30], 5)] {
        let name = format!("attention of a split buffer {shape:?}");
        all.push(small(Case::new(name, vec![real(&shape, 8)], near(40), move |_, x| joined(&x[0], heads))));
    }
    all
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut all = extents();
    all.extend(bands());
    all.extend(masks());
    all.extend(layouts());
    all
}
