//! Indexing, random numbers, and functions composed of the vocabulary.

use versant_graph::{DType, RandomKey, Tensor};

use super::{Accuracy, Accuracy::Exact, Case, Input};

fn real(shape: &[usize], seed: u64) -> Input {
    Input::random(shape, DType::F32, (-1.0, 1.0), seed)
}

fn indexing() -> Vec<Case> {
    let mut all = Vec::new();
    let lined = Input::i32(&[7], &[2, 0, 3, 3, -5, 99, 1]);
    for dtype in [DType::F32, DType::I32, DType::U32, DType::Bool] {
        let table = Input::random(&[4, 6], dtype, (-1.0, 1.0), 1);
        for axis in [0, 1] {
            let select = move |_: &_, x: &[Tensor]| x[0].index_select(axis, &x[1]);
            let inputs = vec![table.clone(), lined.clone()];
            let case = Case::new(format!("index_select {dtype} {axis}"), inputs, Exact, select);
            all.push(if dtype == DType::F32 { case.smooth() } else { case });
        }
        let index = Input::i32(&[4, 3], &[0, 5, 2, 1, 1, 1, 4, 0, 5, 3, 2, 77]);
        let gather = |_: &_, x: &[Tensor]| x[0].gather(1, &x[1]);
        let case = Case::new(format!("gather {dtype}"), vec![table.clone(), index], Exact, gather);
        all.push(if dtype == DType::F32 { case.smooth() } else { case });
        if dtype == DType::Bool {
            continue;
        }
        let source = Input::random(&[7, 6], dtype, (-1.0, 1.0), 2);
        let inputs = vec![table.clone(), lined.clone(), source];
        let near = if dtype == DType::F32 { Accuracy::sum(4) } else { Exact };
        let lines = Case::new(format!("scatter_add {dtype} of lines"), inputs, near, |_, x| {
            x[0].scatter_add(0, &x[1], &x[2])
        });
        let each = Input::i32(&[4, 3], &[0, 5, 2, 1, 1, 1, -4, 0, 5, 3, 2, 77]);
        let inputs = vec![table, each, Input::random(&[4, 3], dtype, (-1.0, 1.0), 3)];
        let full = Case::new(format!("scatter_add {dtype} each"), inputs, near, |_, x| {
            x[0].scatter_add(1, &x[1], &x[2])
        });
        all.extend(if dtype == DType::F32 { [lines.smooth(), full.smooth()] } else { [lines, full] });
    }
    let unsigned = Input::words(&[3], DType::U32, vec![3, 0, 0xffff_ffff]);
    all.push(Case::new("index_select by u32", vec![real(&[4, 2], 4), unsigned], Exact, |_, x| {
        x[0].index_select(0, &x[1])
    }));
    let inputs = vec![real(&[9, 8, 5], 5), Input::i32(&[4], &[7, 1, 1, 0])];
    all.push(Case::new("index_select of a view", inputs, Exact, |_, x| {
        x[0].permute(&[2, 1, 0]).index_select(1, &x[1]).flip(&[0])
    }));
    // Readers whose positions are no coordinates of the gathered tensor: it must be stored, however cheap.
    let inputs = vec![real(&[5, 7], 10), Input::i32(&[4], &[3, 1, 1, 0])];
    all.push(Case::new("index_select read across its rows", inputs, Exact, |_, x| {
        let taken = x[0].index_select(0, &x[1]);
        taken.reshape(&[-1]).slice_step(0, 1, 9, 3).flip(&[0]) * 2.0
    }));
    all.push(Case::new(
        "index_select by nothing",
        vec![real(&[4, 2], 6), Input::i32(&[0], &[])],
        Exact,
        |_, x| x[0].index_select(0, &x[1]),
    ));
    all.push(Case::new("computed gather", vec![real(&[4, 6], 7)], Exact, |_, x| {
        let best = x[0].argmax(1, true);
        (&x[0] * 2.0).gather(1, &best)
    }));
    let many = (0..500).map(|i| (i * 7919) % 13).collect::<Vec<i32>>();
    let inputs = vec![real(&[13, 3], 8), Input::i32(&[500], &many), real(&[500, 3], 9)];
    all.push(Case::new("scatter_add with many ties", inputs, Accuracy::sum(40), |_, x| {
        x[0].scatter_add(0, &x[1], &x[2])
    }));
    for classes in [1, 5, 130] {
        let one_hot = move |_: &_, x: &[Tensor]| x[0].one_hot(classes);
        all.push(Case::new(format!("one_hot {classes}"), vec![lined.clone()], Exact, one_hot));
    }
    all
}

fn random() -> Vec<Case> {
    let mut all = Vec::new();
    for (k, shape) in [&[1][..], &[5, 7], &[1001], &[0, 3], &[2, 3, 4], &[]].into_iter().enumerate() {
        let key = RandomKey::new(0x9abc_def0_1234_5678 + k as u64);
        let name = |kind: &str| format!("{kind} {shape:?}");
        all.push(Case::new(name("random_words"), vec![], Exact, move |d, _| {
            Tensor::random_words(d, shape, key)
        }));
        all.push(Case::new(name("rand_uniform"), vec![], Exact, move |d, _| {
            Tensor::rand_uniform(d, shape, key)
        }));
        all.push(Case::new(name("bernoulli"), vec![], Exact, move |d, _| {
            Tensor::bernoulli(d, shape, 0.3, key)
        }));
        let near = Accuracy::Near(2e-4, 0.1);
        all.push(Case::new(name("rand_normal"), vec![], near, move |d, _| {
            Tensor::rand_normal(d, shape, key)
        }));
    }
    all.push(Case::new("part of a random tensor", vec![], Exact, |d, _| {
        Tensor::random_words(d, &[9, 11], RandomKey::new(12)).t().narrow(0, 3, 5).flip(&[1])
    }));
    all
}

type Function = (&'static str, fn(&Tensor) -> Tensor);

/// Functions of a real tensor `[3, 7]` with numbers from -2 to 2.
const FUNCTIONS: &[Function] = &[
    ("softmax", |t| t.softmax(-1)),
    ("softmax over columns", |t| t.softmax(0)),
    ("log_softmax", |t| t.log_softmax(-1)),
    ("log_softmax over columns", |t| t.log_softmax(0)),
    ("logsumexp", |t| t.logsumexp(-1, false)),
    ("gelu", |t| t.gelu()),
    ("gelu_tanh", |t| t.gelu_tanh()),
    ("silu", |t| t.silu()),
    ("softplus", |t| t.softplus()),
    ("elu", |t| t.elu(0.7)),
    ("leaky_relu", |t| t.leaky_relu(0.1)),
    ("clamp", |t| t.clamp(-0.75, 1.3)),
    ("square", |t| t.square()),
    ("layer_norm", |t| t.layer_norm(1, None, None, 1e-5)),
    ("layer_norm over both", |t| t.layer_norm(2, None, None, 1e-5)),
    ("mean", |t| t.mean(&[0], false)),
    ("mean_all", |t| t.mean_all()),
    ("sum_all", |t| t.sum_all()),
    ("var", |t| t.var(&[-1], false, 1.0)),
    ("var over both", |t| t.var(&[0, 1], true, 0.0)),
    ("dropout", |t| t.dropout(0.4, RandomKey::new(56))),
    ("cross-entropy", |t| {
        let target = Tensor::arange(t.device(), 3, DType::I32).one_hot(7);
        let picked = target.select(&t.log_softmax(-1), &Tensor::constant(t.device(), 0.0f32));
        picked.sum(&[-1], false).mean_all().neg()
    }),
    ("chain of norms", |t| {
        (t / &t.square().sum(&[-1], true).sqrt()).softmax(0).layer_norm(1, None, None, 1e-3)
    }),
    ("operators with numbers", |t| 1.0 - (2.0 / (3.0 + t) - 0.5) * -t / 4.0),
];

fn functions() -> Vec<Case> {
    let near = Accuracy::Near(2e-5, 0.1);
    let mut all = Vec::new();
    for &(name, f) in FUNCTIONS {
        // Clear of the kinks of clamp, relu and their kind by more than a finite difference.
        let values: Vec<f32> = (0..21).map(|i| ((i * 8) % 21) as f32 * 0.19 - 1.82).collect();
        let input = Input::f32(&[3, 7], &values);
        all.push(Case::new(name, vec![input], near, move |_, x| f(&x[0])).smooth());
        let parent = Input::random(&[15, 4], DType::F32, (-2.0, 2.0), 3);
        all.push(Case::new(format!("{name} of a view"), vec![parent], near, move |_, x| {
            f(&x[0].slice_step(0, 1, 7, 2).t().narrow(0, 0, 3))
        }));
    }
    let affine = vec![real(&[4, 3, 5], 1), real(&[3, 5], 2), real(&[3, 5], 3)];
    all.push(
        Case::new("layer_norm with weights", affine, near, |_, x| {
            x[0].layer_norm(2, Some(&x[1]), Some(&x[2]), 1e-5)
        })
        .smooth(),
    );
    for width in [1, 2, 300, 5000] {
        let input = Input::random(&[3, width], DType::F32, (-3.0, 3.0), 4);
        all.push(Case::new(
            format!("softmax of width {width}"),
            vec![input.clone()],
            Accuracy::Near(2e-5, 1e-4),
            |_, x| x[0].softmax(-1),
        ));
        all.push(Case::new(
            format!("layer_norm of width {width}"),
            vec![input],
            Accuracy::Near(1e-4, 1.0),
            |_, x| x[0].layer_norm(1, None, None, 1e-3),
        ));
    }
    let inf = f32::INFINITY;
    let rows =
        [1e30, 0.0, -1e30, -inf, -inf, -inf, 88.0, 89.0, 100.0, -100.0, -104.0, -inf, f32::NAN, 0.0, 1.0];
    let extreme = Input::f32(&[5, 3], &rows);
    all.push(Case::new("softmax of extremes", vec![extreme.clone()], near, |_, x| x[0].softmax(-1)));
    all.push(Case::new("log_softmax of extremes", vec![extreme.clone()], near, |_, x| x[0].log_softmax(-1)));
    all.push(Case::new("logsumexp of extremes", vec![extreme], near, |_, x| x[0].logsumexp(-1, true)));
    all.push(Case::new("softmax of no rows", vec![Input::f32(&[0, 3], &[])], near, |_, x| x[0].softmax(-1)));
    all
}

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut all = indexing();
    all.extend(random());
    all.extend(functions());
    all
}
