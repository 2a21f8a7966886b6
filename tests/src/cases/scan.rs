//! Scans: bodies of all sorts, lengths, layouts of what they run over.

use versant_graph::{DType, Tensor, scan, scan_reversed};

use super::{Accuracy, Accuracy::Exact, Case, Input, Output};

fn real(shape: &[usize], seed: u64) -> Input {
    Input::random(shape, DType::F32, (-1.0, 1.0), seed)
}

type Results = (Vec<Tensor>, Vec<Tensor>);

/// A case of all results of a scan.
fn case(
    name: impl Into<String>,
    inputs: Vec<Input>,
    accuracy: Accuracy,
    f: impl Fn(&[Tensor]) -> Results + Send + Sync + 'static,
) -> Case {
    Case::several(name, inputs, move |_, x| {
        let (last, all) = f(x);
        let last = last.into_iter().map(|tensor| Output { label: "last", tensor, accuracy });
        last.chain(all.into_iter().map(|tensor| Output { label: "stack", tensor, accuracy })).collect()
    })
}

const NEAR: Accuracy = Accuracy::Near(1e-5, 1.0);

/// `h' = tanh(x + h w)`, a product with an epilogue.
fn plain(reverse: bool) -> impl Fn(&[Tensor]) -> Results {
    move |x| {
        let body = |h: &[Tensor], s: &[Tensor]| {
            let next = (&s[0] + h[0].matmul(&x[2])).tanh();
            (vec![next.clone()], vec![next])
        };
        if reverse { scan_reversed(&[&x[1]], &[&x[0]], body) } else { scan(&[&x[1]], &[&x[0]], body) }
    }
}

fn lengths() -> Vec<Case> {
    let mut all = Vec::new();
    for [steps, batch, hidden] in
        [[0, 2, 3], [1, 2, 3], [2, 1, 5], [3, 4, 4], [5, 3, 7], [4, 0, 3], [9, 33, 17], [6, 8, 64]]
    {
        for reverse in [false, true] {
            let inputs =
                vec![real(&[steps, batch, hidden], 1), real(&[batch, hidden], 2), real(&[hidden, hidden], 3)];
            let name = format!("scan {steps} {batch} {hidden} {reverse}");
            let made = case(name, inputs, Accuracy::Near(1e-5, 1.0 + hidden as f32), plain(reverse));
            all.push(if batch * hidden < 30 && steps > 0 && batch > 0 { made.smooth() } else { made });
        }
    }
    all
}

/// A name, the extents in memory, and the view that is run over.
type Layout = (&'static str, &'static [usize], fn(&Tensor) -> Tensor);

/// What is run over, read through views.
fn layouts() -> Vec<Case> {
    let views: [Layout; 7] = [
        ("transposed", &[3, 4, 5], |x| x.transpose(0, 1)),
        ("flipped", &[4, 3, 5], |x| x.flip(&[0, 2])),
        ("strided", &[3, 9, 10], |x| x.permute(&[1, 0, 2]).slice_step(0, 1, 4, 2).slice_step(2, 0, 5, 2)),
        ("repeated", &[3, 5], |x| x.broadcast_to(&[4, 3, 5])),
        ("padded", &[2, 3, 5], |x| x.pad(&[(1, 1), (0, 0), (0, 0)], 0.0)),
        ("windows", &[3, 8], |x| x.window(1, 5, 1, 1).transpose(0, 1)),
        ("computed", &[4, 3, 5], |x| x.sin() * 2.0),
    ];
    let mut all = Vec::new();
    for (name, shape, view) in views {
        for reverse in [false, true] {
            let inputs = vec![real(shape, 1), real(&[3, 5], 2), real(&[5, 5], 3)];
            all.push(
                case(format!("scan {name} {reverse}"), inputs, NEAR, move |x| {
                    plain(reverse)(&[view(&x[0]), x[1].clone(), x[2].clone()])
                })
                .smooth(),
            );
        }
    }
    all
}

/// Bodies that are no net.
fn bodies() -> Vec<Case> {
    let x = || vec![real(&[5, 2, 3], 1), real(&[2, 3], 2)];
    let square = || vec![real(&[5, 2, 3], 1), real(&[2, 3], 2), real(&[3, 3], 3)];
    let mut all = vec![
        case("scan that swaps", x(), NEAR, |x| {
            scan(&[&x[1], &(&x[1] * 2.0)], &[&x[0]], |c, s| {
                (vec![c[1].clone(), &c[0] + &s[0]], vec![c[0].clone()])
            })
        }),
        case("scan that keeps a carry", x(), NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| (vec![c[0].clone()], vec![&c[0] * &s[0], s[0].clone()]))
        }),
        case("scan that forgets its carry", x(), NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| (vec![s[0].clone()], vec![&c[0] - &s[0]]))
        }),
        case("scan of constants", x(), NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| {
                (vec![x[1].clone()], vec![c[0].exp(), x[1].sin(), &s[0] * 0.0 + 1.0])
            })
        }),
        case("scan without carries", x(), NEAR, |x| {
            scan(&[], &[&x[0], &x[0].flip(&[0])], |_, s| (vec![], vec![&s[0] * &s[1] + &x[1]]))
        }),
        case("scan of numbers", vec![real(&[7], 1), real(&[], 2)], NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| {
                let next = &c[0] * 0.5 + &s[0];
                (vec![next.clone()], vec![next.square()])
            })
        }),
        case("scan with rows normalised", x(), NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| {
                let y = (&c[0] + &s[0]).softmax(-1);
                (vec![&y - y.mean(&[0], true)], vec![y])
            })
        }),
        case("scan with running sums", x(), NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| {
                let y = (&c[0] * &s[0]).cumsum(1);
                (vec![y.tanh()], vec![y])
            })
        }),
        case("scan with rows sorted", x(), NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| {
                let y = (&c[0] + &s[0]).sort(1, true).0;
                let least = s[0].topk(1, 0, false).0;
                (vec![y.tanh() + least], vec![y])
            })
        }),
        case("scan that joins", square(), NEAR, |x| {
            let w = Tensor::cat(&[&x[2], &x[2].sin()], 0);
            scan(&[&x[1]], &[&x[0]], move |c, s| {
                let both = Tensor::cat(&[&c[0], &s[0]], 1);
                (vec![both.matmul(&w).tanh()], vec![both])
            })
        }),
        case("scan with a matrix twice", square(), NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| {
                let y = (c[0].matmul(&x[2]).sigmoid() + &s[0]).matmul(&x[2].t()) * x[2].sum_all();
                (vec![y.tanh()], vec![y])
            })
        }),
        case("scan with a matrix on the left", square(), NEAR, |x| {
            scan_reversed(&[&x[1].t()], &[&x[0].transpose(1, 2)], |c, s| {
                let y = (x[2].matmul(&c[0]) + &s[0]).tanh();
                (vec![y.clone()], vec![y])
            })
        }),
    ];
    let batched = vec![real(&[3, 2, 2, 3], 1), real(&[2, 2, 3], 2), real(&[2, 3, 3], 3)];
    all.push(case("scan with a batch of matrices", batched, NEAR, |x| {
        scan(&[&x[1]], &[&x[0]], |c, s| {
            let y = (c[0].matmul(&x[2]) + x[2].transpose(1, 2).matmul(&s[0].transpose(1, 2)).transpose(1, 2))
                .tanh();
            (vec![y.clone()], vec![y])
        })
    }));
    all.into_iter().map(Case::smooth).collect()
}

/// Other types, look-ups, draws.
fn others() -> Vec<Case> {
    let counts = vec![
        Input::random(&[6, 3], DType::I32, (0.0, 1.0), 1),
        Input::random(&[3], DType::I32, (0.0, 1.0), 2),
    ];
    let flags = vec![
        Input::random(&[6, 3], DType::Bool, (0.0, 1.0), 1),
        Input::random(&[3], DType::Bool, (0.0, 1.0), 2),
    ];
    let words =
        vec![real(&[5, 4], 1), Input::i32(&[6, 2], &[0, 4, 2, 2, 1, 3, 0, 0, 4, 4, 9, -1]), real(&[2, 4], 3)];
    let sums = vec![
        real(&[5, 4], 1),
        Input::i32(&[6, 2], &[0, 4, 2, 2, 1, 3, 0, 0, 4, 4, 3, 1]),
        real(&[6, 2, 4], 3),
    ];
    let draws = vec![Input::random(&[4], DType::U32, (0.0, 1.0), 1), real(&[5], 2)];
    vec![
        case("scan of integers", counts, Exact, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| (vec![&c[0] + &s[0]], vec![c[0].maximum(&s[0])]))
        }),
        case("scan of truth values", flags, Exact, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| (vec![c[0].xor(&s[0])], vec![c[0].and(&s[0])]))
        }),
        case("scan that looks up", words, NEAR, |x| {
            scan(&[&x[2]], &[&x[1]], |c, s| {
                let y = &c[0] * 0.5 + x[0].index_select(0, &s[0]);
                (vec![y.clone()], vec![y.sin()])
            })
        })
        .smooth(),
        case("scan that scatters", sums, NEAR, |x| {
            scan(&[&x[0]], &[&x[1], &x[2]], |c, s| {
                let y = c[0].scatter_add(0, &s[0], &s[1]);
                (vec![&y * 0.5], vec![y])
            })
        })
        .smooth(),
        case("scan that counts and draws", draws, NEAR, |x| {
            scan(&[&x[1]], &[&x[0]], |c, s| {
                let noise = (Tensor::arange(c[0].device(), 5, DType::U32) * &s[0]).cast(DType::F32) * 0.01;
                (vec![&c[0] * 0.5 + &noise], vec![noise])
            })
        }),
    ]
}

/// Every case of this file.
pub fn cases() -> Vec<Case> {
    [lengths(), layouts(), bodies(), others()].concat()
}
