//! Matrix products, convolutions, windows and their adjoints, pooling.

use versant_graph::{ConvOptions, DType, PoolOptions, Tensor, grad_of};

use super::{Accuracy, Accuracy::Exact, Case, Input};

fn real(shape: &[usize], seed: u64) -> Input {
    Input::random(shape, DType::F32, (-1.0, 1.0), seed)
}

/// Extents of both operands.
const PRODUCTS: &[(&[usize], &[usize])] = &[
    (&[1, 1], &[1, 1]),
    (&[3, 4], &[4, 5]),
    (&[7, 13], &[13, 11]),
    (&[1, 64], &[64, 1]),
    (&[65, 33], &[33, 130]),
    (&[128, 64], &[64, 128]),
    (&[2, 3, 4], &[2, 4, 5]),
    (&[2, 1, 3, 4], &[5, 4, 6]),
    (&[3, 4], &[2, 4, 5]),
    (&[2, 3, 4], &[4, 5]),
    (&[4], &[4, 5]),
    (&[3, 4], &[4]),
    (&[4], &[4]),
    (&[2, 3, 4], &[4]),
    (&[4], &[2, 4, 3]),
    (&[3, 0], &[0, 5]),
    (&[0, 4], &[4, 5]),
    (&[3, 4], &[4, 0]),
    (&[0, 3, 4], &[0, 4, 5]),
    (&[3, 1], &[1, 5]),
    (&[5, 777], &[777, 3]),
];

fn products() -> Vec<Case> {
    let mut all = Vec::new();
    for &(a, b) in PRODUCTS {
        let k = a[a.len() - 1];
        let inputs = vec![real(a, 1), real(b, 2)];
        let case =
            Case::new(format!("matmul {a:?} {b:?}"), inputs, Accuracy::sum(k), |_, x| x[0].matmul(&x[1]));
        let small =
            a.len() + b.len() > 0 && k > 0 && case.inputs.iter().all(|i| (1..60).contains(&i.words.len()));
        all.push(if small { case.smooth() } else { case });
    }
    let form = |name: &str, a: &[usize], b: &[usize], f: fn(&Tensor, &Tensor) -> Tensor| {
        let inputs = vec![real(a, 3), real(b, 4)];
        Case::new(format!("matmul {name}"), inputs, Accuracy::sum(32), move |_, x| f(&x[0], &x[1]))
    };
    all.extend([
        form("transposed left", &[9, 6], &[9, 5], |a, b| a.t().matmul(b)),
        form("transposed right", &[6, 9], &[5, 9], |a, b| a.matmul(&b.t())),
        form("transposed both", &[9, 6], &[5, 9], |a, b| a.t().matmul(&b.t())),
        form("transposed result", &[6, 9], &[9, 5], |a, b| a.matmul(b).t()),
        form("of parts", &[20, 30], &[30, 20], |a, b| {
            a.narrow(0, 3, 7).narrow(1, 5, 11).matmul(&b.narrow(0, 2, 11).narrow(1, 4, 9))
        }),
        form("of steps", &[12, 20], &[10, 9], |a, b| a.slice_step(1, 0, 10, 2).matmul(b)),
        form("of a flip", &[6, 9], &[9, 5], |a, b| a.flip(&[0]).matmul(&b.flip(&[0]))),
        form("of a broadcast", &[9], &[9, 5], |a, b| a.broadcast_to(&[4, 9]).matmul(b)),
        form("of a pad", &[6, 7], &[9, 5], |a, b| a.pad(&[(0, 0), (1, 1)], 0.0).matmul(b)),
        form("of computed operands", &[6, 9], &[9, 5], |a, b| (a * 2.0 + 1.0).matmul(&b.exp())),
        form("with an epilogue", &[6, 9], &[9, 5], |a, b| (a.matmul(b) * 0.5 + b.narrow(0, 0, 1)).relu()),
        form("then a sum", &[6, 9], &[9, 5], |a, b| a.matmul(b).sum(&[0], false)),
        form("then a softmax", &[6, 9], &[9, 5], |a, b| a.matmul(b).softmax(-1)),
        form("of a permuted batch", &[5, 2, 3, 4], &[2, 4, 5, 6], |a, b| {
            a.permute(&[1, 2, 0, 3]).matmul(
                &b.permute(&[0, 2, 1, 3])
                    .reshape(&[2, 1, 5, 24])
                    .narrow(3, 0, 6)
                    .permute(&[0, 1, 2, 3])
                    .narrow(2, 0, 4),
            )
        }),
        form("of a product", &[6, 9], &[9, 6], |a, b| a.matmul(b).matmul(a)),
        form("twice with one operand", &[6, 6], &[6, 6], |a, b| a.matmul(b) + b.matmul(a)),
        form("in a cat", &[6, 9], &[9, 5], |a, b| {
            let guard = Tensor::full(a.device(), 777.0, &[6, 2]);
            Tensor::cat(&[&guard, &a.matmul(b), &guard, &a.matmul(b), &guard], 1)
        }),
    ]);
    all
}

/// Batch, channels, height, width; outputs, kernel; stride, padding, dilation, groups.
struct Geometry {
    x: [usize; 4],
    out: usize,
    kernel: [usize; 2],
    options: ConvOptions,
}

const fn geometry(
    x: [usize; 4],
    out: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
) -> Geometry {
    Geometry { x, out, kernel, options: ConvOptions { stride, padding, dilation, groups } }
}

const CONVOLUTIONS: &[Geometry] = &[
    geometry([1, 1, 3, 3], 1, [3, 3], [1, 1], [0, 0], [1, 1], 1),
    geometry([2, 3, 7, 8], 5, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    geometry([2, 3, 7, 8], 4, [3, 2], [2, 3], [1, 0], [1, 1], 1),
    geometry([1, 2, 9, 9], 3, [3, 3], [1, 1], [2, 2], [2, 2], 1),
    geometry([2, 4, 6, 5], 6, [3, 3], [1, 1], [1, 1], [1, 1], 2),
    geometry([1, 4, 6, 5], 4, [3, 3], [2, 1], [1, 2], [1, 2], 4),
    geometry([3, 5, 4, 4], 7, [1, 1], [1, 1], [0, 0], [1, 1], 1),
    geometry([1, 2, 5, 5], 2, [5, 5], [1, 1], [4, 4], [1, 1], 1),
    geometry([2, 1, 13, 11], 3, [4, 2], [3, 2], [0, 1], [1, 3], 1),
    geometry([0, 2, 5, 5], 3, [3, 3], [1, 1], [0, 0], [1, 1], 1),
    geometry([2, 16, 14, 14], 32, [3, 3], [1, 1], [1, 1], [1, 1], 1),
];

fn convolutions() -> Vec<Case> {
    let mut all = Vec::new();
    for (k, g) in CONVOLUTIONS.iter().enumerate() {
        let w = [g.out, g.x[1] / g.options.groups, g.kernel[0], g.kernel[1]];
        let terms = w[1] * w[2] * w[3];
        let inputs = vec![real(&g.x, 5), real(&w, 6)];
        let name = format!("conv2d #{k} {:?} {w:?}", g.x);
        let forward =
            Case::new(name, inputs.clone(), Accuracy::sum(terms), |_, x| x[0].conv2d(&x[1], &g.options));
        let small = g.x[0] > 0 && k < 9;
        all.push(if small { forward.smooth() } else { forward });
        let transposed = [g.out, w[1], w[2], w[3]];
        let name = format!("conv_transpose2d #{k}");
        let inputs = vec![real(&[g.x[0], g.out, 4, 3], 7), real(&transposed, 8)];
        let extra = [usize::from(g.options.stride[0] > 1), usize::from(g.options.stride[1] > 1)];
        let case = Case::new(name, inputs, Accuracy::sum(terms * g.out), move |_, x| {
            x[0].conv_transpose2d(&x[1], &g.options, extra)
        });
        // Some paddings leave nothing of four rows.
        if [0, 1].iter().all(|&a| {
            ([4, 3][a] - 1) * g.options.stride[a] + (g.kernel[a] - 1) * g.options.dilation[a] + 1 + extra[a]
                > 2 * g.options.padding[a]
        }) {
            all.push(if small { case.smooth() } else { case });
        }
    }
    let form = |name: &str, a: &[usize], b: &[usize], f: fn(&Tensor, &Tensor) -> Tensor| {
        let inputs = vec![real(a, 9), real(b, 10)];
        Case::new(name, inputs, Accuracy::sum(64), move |_, x| f(&x[0], &x[1]))
    };
    let same = ConvOptions { padding: [1; 2], ..ConvOptions::default() };
    all.extend([
        form("conv1d", &[2, 3, 11], &[4, 3, 3], |a, b| {
            a.conv1d(b, &ConvOptions { stride: [1, 2], padding: [0, 1], ..ConvOptions::default() })
        })
        .smooth(),
        form("conv1d with groups", &[2, 4, 9], &[6, 2, 2], |a, b| {
            a.conv1d(b, &ConvOptions { dilation: [1, 3], groups: 2, ..ConvOptions::default() })
        }),
        form("conv2d of a permuted image", &[2, 6, 7, 3], &[4, 3, 3, 3], |a, b| {
            a.permute(&[0, 3, 1, 2]).conv2d(b, &ConvOptions { padding: [1; 2], ..ConvOptions::default() })
        }),
        form("conv2d of a part", &[3, 5, 9, 9], &[4, 3, 3, 3], |a, b| {
            a.narrow(0, 1, 2).narrow(1, 1, 3).narrow(2, 2, 6).conv2d(b, &ConvOptions::default())
        }),
        form("conv2d with flipped weights", &[1, 2, 6, 6], &[3, 2, 3, 3], |a, b| {
            a.conv2d(&b.flip(&[2, 3]), &ConvOptions::default())
        }),
        form("conv2d of computed operands", &[1, 2, 6, 6], &[3, 2, 3, 3], |a, b| {
            (a * 2.0).relu().conv2d(&(b * 0.5), &ConvOptions::default())
        }),
    ]);
    let bias = vec![real(&[2, 3, 6, 6], 11), real(&[4, 3, 3, 3], 12), real(&[4], 13)];
    all.push(Case::new("conv2d, bias, relu, pool", bias, Accuracy::sum(27), move |_, x| {
        let y = x[0].conv2d(&x[1], &same) + x[2].reshape(&[1, 4, 1, 1]);
        y.relu().max_pool2d(&PoolOptions::new([2, 2]))
    }));
    all
}

fn pools() -> Vec<Case> {
    let image = |seed| Input::distinct(&[2, 2, 7, 6], seed);
    let overlap = PoolOptions { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    let tall = PoolOptions { kernel: [3, 2], stride: [1, 2], padding: [0, 1] };
    let near = Accuracy::Near(2e-6, 1.0);
    let mut all = Vec::new();
    for (name, o) in [("overlapping", overlap), ("tall", tall), ("touching", PoolOptions::new([2, 2]))] {
        all.push(
            Case::new(format!("max_pool2d {name}"), vec![image(1)], Exact, move |_, x| x[0].max_pool2d(&o))
                .smooth(),
        );
        for count in [true, false] {
            let average = move |_: &_, x: &[Tensor]| x[0].avg_pool2d(&o, count);
            all.push(Case::new(format!("avg_pool2d {name} {count}"), vec![image(2)], near, average).smooth());
        }
    }
    for output in [[1, 1], [3, 2], [7, 6], [5, 4]] {
        let average = move |_: &_, x: &[Tensor]| x[0].adaptive_avg_pool2d(output);
        all.push(
            Case::new(format!("adaptive_avg_pool2d {output:?}"), vec![image(3)], near, average).smooth(),
        );
        let max = move |_: &_, x: &[Tensor]| x[0].adaptive_max_pool2d(output);
        all.push(Case::new(format!("adaptive_max_pool2d {output:?}"), vec![image(4)], Exact, max).smooth());
    }
    all.push(
        Case::new("max_pool1d", vec![Input::distinct(&[2, 3, 9], 5)], Exact, |_, x| x[0].max_pool1d(3, 2, 1))
            .smooth(),
    );
    all.push(
        Case::new("avg_pool1d", vec![real(&[2, 3, 9], 6)], near, |_, x| x[0].avg_pool1d(3, 2, 1, false))
            .smooth(),
    );
    let specials = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 5.0, 5.0, f32::INFINITY, 0.0];
    all.push(Case::new(
        "max_pool2d of special values",
        vec![Input::f32(&[1, 2, 4], &specials)],
        Exact,
        |_, x| x[0].max_pool2d(&PoolOptions::new([1, 2])),
    ));
    all
}

/// What only gradients record: folds, and reversed running sums.
fn adjoints() -> Vec<Case> {
    let mut all = Vec::new();
    let windows: [(usize, usize, usize, usize); 7] =
        [(0, 3, 1, 1), (0, 3, 2, 1), (1, 2, 3, 1), (1, 3, 1, 2), (1, 4, 2, 3), (0, 1, 4, 1), (0, 9, 1, 1)];
    for (axis, size, stride, dilation) in windows {
        let name = format!("fold {axis} {size} {stride} {dilation}");
        let inputs = vec![real(&[9, 11], 1), real(&[9, 11], 2)];
        all.push(Case::new(name, inputs, Accuracy::sum(size), move |_, x| {
            let w = x[0].window(axis, size, stride, dilation);
            let c = x[1].window(axis, size, stride, dilation) + 0.5;
            gradient(&(w * c), &x[0])
        }));
    }
    all.push(Case::new("fold of folds", vec![real(&[1, 2, 7, 7], 3)], Accuracy::sum(9), |_, x| {
        let w = x[0].window(2, 3, 2, 1).window(3, 3, 1, 2);
        gradient(&(&w * &w), &x[0])
    }));
    for axis in [0, 1] {
        let name = format!("reversed cumsum {axis}");
        all.push(Case::new(
            name,
            vec![real(&[33, 17], 4), real(&[33, 17], 5)],
            Accuracy::sum(4),
            move |_, x| gradient(&(x[0].cumsum(axis) * &x[1]), &x[0]),
        ));
    }
    all
}

/// The gradient, or the engine's error as a failed comparison.
fn gradient(y: &Tensor, x: &Tensor) -> Tensor {
    match grad_of(y, &[x]) {
        Ok(mut grads) => grads.remove(0),
        Err(e) => panic!("a case must be differentiable: {e}"),
    }
}

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let mut all = products();
    all.extend(convolutions());
    all.extend(pools());
    all.extend(adjoints());
    all
}
