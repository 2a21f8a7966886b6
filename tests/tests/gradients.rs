//! Derivatives: every vector-Jacobian product in the middle of a graph against finite differences, second
//! derivatives, and the errors of differentiation.
//!
//! The differences are taken of values that the interpreter computes, and summed in f64, so that neither
//! fusion nor a device's rounding is part of the yardstick.

use versant_graph::interp::interpret;
use versant_graph::{Attention, ConvOptions, DType, Device, GraphError, PoolOptions, Tensor, eval, grad_of};
use versant_tests::cases::{self, Case, Input, Rng, words_of};
use versant_tests::golden::Report;
use versant_tests::{devices, in_this_pass};

/// Step of the differences. Four points: the error is `h^4 f'''''/30`, plus rounding of about `1e-7 |f| / h`.
const STEP: f32 = 0.02;

/// A function of some real operands with a single real result.
type Loss<'a> = dyn Fn(&[Tensor]) -> Tensor + 'a;

/// Which operands are differentiated.
fn real(inputs: &[Input]) -> Vec<usize> {
    (0..inputs.len()).filter(|&i| inputs[i].dtype == DType::F32 && !inputs[i].words.is_empty()).collect()
}

/// Random directions, one per operand.
fn directions(inputs: &[Input], seed: u64) -> Vec<Vec<f32>> {
    let mut rng = Rng(seed);
    inputs.iter().map(|i| i.words.iter().map(|_| rng.between(-1.0, 1.0)).collect()).collect()
}

/// The operands moved by `t` along the directions.
fn moved(inputs: &[Input], at: &[usize], v: &[Vec<f32>], t: f32) -> Vec<Input> {
    let mut moved = inputs.to_vec();
    for &i in at {
        for (word, v) in moved[i].words.iter_mut().zip(&v[i]) {
            *word = (f32::from_bits(*word) + t * v).to_bits();
        }
    }
    moved
}

/// The sum of the elements of `f`, in f64, by the interpreter.
fn total(device: &Device, inputs: &[Input], f: &Loss) -> Result<f64, String> {
    let x: Vec<Tensor> = inputs.iter().map(|i| i.tensor(device)).collect();
    let values = interpret(&f(&x)).map_err(|e| e.to_string())?;
    Ok(values.to_f32().iter().map(|&v| f64::from(v)).sum())
}

/// The derivative along the directions by four points around the operands.
fn slope(
    device: &Device,
    inputs: &[Input],
    at: &[usize],
    v: &[Vec<f32>],
    h: f32,
    f: &Loss,
) -> Result<f64, String> {
    let value = |t: f32| total(device, &moved(inputs, at, v, t), f);
    let near = value(h)? - value(-h)?;
    let far = value(2.0 * h)? - value(-2.0 * h)?;
    Ok((8.0 * near - far) / (12.0 * f64::from(h)))
}

/// `<gradient, direction>` from a device, with the sum of absolute terms as its scale.
fn along(grads: &[Tensor], at: &[usize], v: &[Vec<f32>]) -> Result<(f64, f64), String> {
    let mut sum = (0.0, 0.0);
    for (grad, &i) in grads.iter().zip(at) {
        let words = words_of(grad).map_err(|e| e.to_string())?;
        for (word, v) in words.iter().zip(&v[i]) {
            let term = f64::from(f32::from_bits(*word)) * f64::from(*v);
            sum = (sum.0 + term, sum.1 + term.abs());
        }
    }
    Ok(sum)
}

/// The case with something before it and something after it, and cotangents that all differ.
fn middle(case: &Case, device: &Device, x: &[Tensor]) -> Tensor {
    let before: Vec<Tensor> =
        x.iter().map(|t| if t.dtype() == DType::F32 { bent(t) } else { t.clone() }).collect();
    let mut terms = case.build(device, &before).into_iter().map(|o| {
        let y = o.tensor;
        let n = y.numel();
        let weights: Vec<f32> = (0..n).map(|k| 0.3 + ((k * 37 + 11) % 17) as f32 * 0.05).collect();
        let weights = Tensor::from_slice(device, &weights, y.shape());
        // Both a square and the value itself: the output has two users.
        (&y * &weights + y.square() * 0.1).sum_all()
    });
    let first = terms.next().expect("a case has a result");
    terms.fold(first, |sum, t| sum + t)
}

/// Near the identity, but with a derivative that differs everywhere.
fn bent(x: &Tensor) -> Tensor {
    x + (x * 1.3).sin() * 0.01
}

fn check_case(case: &Case, device: &Device) -> Result<(), String> {
    let at = real(&case.inputs);
    if at.is_empty() {
        return Ok(());
    }
    let x = case.tensors(device);
    let wanted: Vec<&Tensor> = at.iter().map(|&i| &x[i]).collect();
    let loss = middle(case, device, &x);
    let grads = grad_of(&loss, &wanted).map_err(|e| e.to_string())?;
    eval(&grads.iter().chain([&loss]).collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    for (grad, x) in grads.iter().zip(&wanted) {
        if grad.shape() != x.shape() {
            return Err(format!("gradient of shape {:?} for {:?}", grad.shape(), x.shape()));
        }
    }
    let cpu = Device::cpu();
    // Extremes need a step smaller than half of the distance between neighbours.
    let close = ["max", "min", "sort", "topk", "median"].iter().any(|name| case.name.contains(name));
    let h = if close { STEP * 0.1 } else { STEP };
    for seed in 1..=2 {
        let v = directions(&case.inputs, seed);
        let got = along(&grads, &at, &v)?;
        let want = slope(&cpu, &case.inputs, &at, &v, h, &|x| middle(case, &cpu, x))?;
        let allowed = 1e-3 * got.1.max(want.abs()) + 2e-6 / f64::from(h);
        if (got.0 - want).abs() > allowed || !want.is_finite() {
            return Err(format!("derivative {} instead of {want} (allowed {allowed:.1e})", got.0));
        }
    }
    Ok(())
}

#[test]
fn every_derivative_mid_graph() {
    let table: Vec<Case> = cases::all().into_iter().filter(|c| c.differentiable).collect();
    let wanted = std::env::var("VERSANT_CASE").unwrap_or_default();
    let mut report = Report::new("derivatives");
    for device in devices() {
        let start = std::time::Instant::now();
        let taken = table.iter().enumerate().filter(|(i, _)| in_this_pass(*i)).map(|(_, case)| case);
        for case in taken.filter(|c| c.name.contains(&wanted)) {
            report.check(&device, &case.name, || check_case(case, &device));
        }
        println!("derivatives on {}: {:?}", device.info().name, start.elapsed());
    }
    report.finish(if wanted.is_empty() { 75 } else { 1 });
}

/// A function for second derivatives: its name, operands, and itself.
struct Twice {
    name: &'static str,
    shapes: &'static [&'static [usize]],
    f: fn(&[Tensor]) -> Tensor,
}

const TWICE: &[Twice] = &[
    Twice { name: "exp of a square", shapes: &[&[5]], f: |x| x[0].square().exp() },
    Twice {
        name: "tanh, sigmoid and erf",
        shapes: &[&[5]],
        f: |x| x[0].tanh() * x[0].sigmoid() + x[0].erf(),
    },
    Twice {
        name: "division and power",
        shapes: &[&[2, 3], &[3]],
        f: |x| (&x[0] / &(&x[1] + 3.0)).exp().pow(&(&x[1] + 2.0)),
    },
    Twice {
        name: "logarithms",
        shapes: &[&[5]],
        f: |x| (&x[0] + 2.0).ln() * (&x[0] + 1.5).log1p() + x[0].expm1(),
    },
    Twice {
        name: "roots",
        shapes: &[&[5]],
        f: |x| (&x[0] + 2.0).sqrt() * (&x[0] + 3.0).rsqrt() * (&x[0] + 2.5).recip(),
    },
    Twice {
        name: "angles",
        shapes: &[&[4], &[4]],
        f: |x| x[0].sin() * x[1].cos() + (&x[0] + 2.0).atan2(&(&x[1] + 2.0)),
    },
    Twice { name: "product of a line", shapes: &[&[3, 4]], f: |x| (&x[0] + 1.5).prod(&[1], false) },
    Twice { name: "cumsum", shapes: &[&[3, 4]], f: |x| x[0].cumsum(1).square() * x[0].cumsum(0) },
    Twice {
        name: "sort and topk",
        shapes: &[&[3, 4]],
        f: |x| {
            // So far apart that no step of the differences changes the order.
            let far = [9.0f32, 3.0, 0.0, 6.0, 30.0, 12.0, 15.0, 21.0, 18.0, 33.0, 27.0, 24.0];
            let y = &x[0] + Tensor::from_slice(x[0].device(), &far, &[3, 4]);
            y.sort(1, true).0.sin() * y.topk(1, 0, false).0.cos()
        },
    },
    Twice { name: "matmul", shapes: &[&[3, 4], &[4, 2]], f: |x| x[0].matmul(&x[1]).tanh() },
    Twice {
        name: "conv2d",
        shapes: &[&[2, 2, 5, 4], &[3, 2, 3, 2]],
        f: |x| {
            let options = ConvOptions { stride: [2, 1], padding: [1, 0], ..ConvOptions::default() };
            x[0].conv2d(&x[1], &options).tanh()
        },
    },
    Twice {
        name: "conv_transpose2d",
        shapes: &[&[1, 2, 3, 3], &[2, 2, 3, 2]],
        f: |x| {
            let options = ConvOptions { stride: [2, 1], ..ConvOptions::default() };
            x[0].conv_transpose2d(&x[1], &options, [1, 0]).tanh()
        },
    },
    Twice {
        name: "windows",
        shapes: &[&[2, 6, 6]],
        f: |x| x[0].window(1, 3, 2, 1).window(2, 3, 1, 1).square().sum(&[-1, -2], false).tanh(),
    },
    Twice { name: "softmax", shapes: &[&[3, 5]], f: |x| x[0].softmax(-1).square() },
    Twice { name: "log_softmax", shapes: &[&[3, 5]], f: |x| x[0].log_softmax(0).square() },
    Twice {
        name: "layer_norm",
        shapes: &[&[3, 5], &[5]],
        f: |x| x[0].layer_norm(1, Some(&x[1]), None, 1e-2).square(),
    },
    Twice {
        name: "gelu, silu, softplus",
        shapes: &[&[5]],
        f: |x| x[0].gelu() * x[0].silu() + x[0].softplus() + x[0].gelu_tanh(),
    },
    Twice {
        name: "gather and scatter",
        shapes: &[&[4, 3], &[3, 3]],
        f: |x| {
            let index = Tensor::from_slice(x[0].device(), &[2i32, 2, 0], &[3]);
            x[0].scatter_add(0, &index, &x[1].square()).square()
                * x[0].index_select(0, &index).sum(&[0], false)
        },
    },
    Twice {
        name: "views",
        shapes: &[&[4, 6]],
        f: |x| {
            let y = x[0].slice_step(1, 1, 3, 2).flip(&[0]).t().pad(&[(1, 0), (0, 1)], 0.0).square();
            Tensor::cat(&[&y, &(&y * &y)], 0) * 2.0
        },
    },
    Twice {
        name: "attention",
        shapes: &[&[1, 4, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 2]],
        f: |x| {
            x[0].attention(
                &x[1],
                &x[2],
                &Attention { is_causal: true, start: 1, fused: Some(true), ..Attention::default() },
            )
            .tanh()
        },
    },
    Twice {
        name: "attention with a mask",
        shapes: &[&[3, 4], &[4, 4], &[4, 2], &[3, 4]],
        f: |x| {
            x[0].attention(
                &x[1],
                &x[2],
                &Attention { attn_mask: Some(&x[3]), fused: Some(true), ..Attention::default() },
            )
            .square()
        },
    },
    Twice {
        name: "attention with rows that see nothing",
        shapes: &[&[5, 4], &[2, 4], &[2, 2]],
        f: |x| {
            let options = Attention { window: Some(2), fused: Some(true), ..Attention::default() };
            let keys = Tensor::from_slice(x[0].device(), &[true, false], &[2]);
            let masked = x[0].attention(&x[1], &x[2], &Attention { attn_mask: Some(&keys), ..options });
            masked * x[0].attention(&x[1], &x[2], &options)
        },
    },
    Twice {
        name: "var and mean",
        shapes: &[&[3, 4]],
        f: |x| x[0].var(&[1], true, 1.0) * x[0].mean(&[0], true),
    },
];

/// `<gradient, w>` for a fixed `w`: its gradient is a second derivative.
fn projected(twice: &Twice, x: &[Tensor]) -> Result<Tensor, String> {
    let y = (twice.f)(x);
    let n = y.numel();
    let weights: Vec<f32> = (0..n).map(|k| 0.4 + (k % 5) as f32 * 0.1).collect();
    let weights = Tensor::from_slice(y.device(), &weights, y.shape());
    let grads = grad_of(&(y * weights), &x.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    let mut sum: Option<Tensor> = None;
    for (k, g) in grads.iter().enumerate() {
        let numbers: Vec<f32> = (0..g.numel()).map(|i| ((i * 7 + k) % 11) as f32 * 0.1 - 0.4).collect();
        let term = (g * Tensor::from_slice(g.device(), &numbers, g.shape())).sum_all();
        sum = Some(sum.map_or(term.clone(), |s| s + &term));
    }
    sum.ok_or_else(|| "no operand".to_owned())
}

fn check_twice(twice: &Twice, device: &Device) -> Result<(), String> {
    let inputs: Vec<Input> = twice
        .shapes
        .iter()
        .zip(50..)
        .map(|(s, seed)| Input::random(s, DType::F32, (-1.0, 1.0), seed))
        .collect();
    let at = real(&inputs);
    let x: Vec<Tensor> = inputs.iter().map(|i| i.tensor(device)).collect();
    let second = grad_of(&projected(twice, &x)?, &x.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    eval(&second.iter().collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    let cpu = Device::cpu();
    let v = directions(&inputs, 9);
    let got = along(&second, &at, &v)?;
    let f = |x: &[Tensor]| projected(twice, x).unwrap_or_else(|e| panic!("{e}"));
    let want = slope(&cpu, &inputs, &at, &v, STEP, &f)?;
    let allowed = 2e-3 * got.1.max(want.abs()) + 2e-4;
    if (got.0 - want).abs() > allowed || !want.is_finite() {
        return Err(format!("second derivative {} instead of {want} (allowed {allowed:.1e})", got.0));
    }
    Ok(())
}

#[test]
fn second_derivatives() {
    let mut report = Report::new("second derivatives");
    for device in devices() {
        for twice in TWICE {
            report.check(&device, twice.name, || check_twice(twice, &device));
        }
    }
    report.finish(TWICE.len());
}

/// Convolution, pooling, normalisation, a dense layer and cross-entropy: a loss of its three parameters.
fn small_net(x: &[Tensor]) -> Tensor {
    let device = x[0].device();
    let image: Vec<f32> = (0..2 * 36).map(|i| (i as f32 * 0.7).sin()).collect();
    let image = Tensor::from_slice(device, &image, &[2, 1, 6, 6]);
    let same = ConvOptions { padding: [1; 2], ..ConvOptions::default() };
    let h = image.conv2d(&x[0], &same).gelu().avg_pool2d(&PoolOptions::new([2, 2]), true);
    let h = h.flatten(1).narrow(1, 0, 18).reshape(&[2, 18]).layer_norm(1, None, None, 1e-3);
    let scores = h.matmul(&x[1]) + &x[2];
    let target = Tensor::from_slice(device, &[3i32, 1], &[2]).one_hot(4);
    let zero = Tensor::constant(device, 0f32);
    target.select(&scores.log_softmax(-1), &zero).sum(&[-1], false).mean_all().neg()
}

#[test]
fn second_derivative_of_a_small_net() {
    let net = Twice { name: "net", shapes: &[&[2, 1, 3, 3], &[18, 4], &[4]], f: small_net };
    let mut report = Report::new("second derivative of a net");
    for device in devices() {
        report.check(&device, net.name, || check_twice(&net, &device));
    }
    report.finish(1);
}

#[test]
fn errors_of_differentiation_name_what_is_wrong() {
    for device in devices() {
        let line = |l: &std::panic::Location| (l.file().ends_with("gradients.rs"), l.line());
        let a = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2]).into_parameter("layer.a").unwrap();
        let b = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2]).into_parameter("layer.b").unwrap();
        let loss = a.square().sum_all();
        let (error, here) = (grad_of(&loss, &[&a, &b]).unwrap_err(), line!());
        let GraphError::NotReached { what, location, hint } = &error else { panic!("{error}") };
        assert_eq!((what.as_str(), line(location), *hint), ("layer.b", (true, here), ""), "{error}");

        let plain = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2]);
        let error = grad_of(&loss, &[&plain]).unwrap_err();
        assert!(error.to_string().contains("tensor 0 of the list"), "{error}");
        let error = plain.sum_all().backward().unwrap_err();
        assert!(matches!(&error, GraphError::NotReached { what, .. } if what == "any parameter"), "{error}");
        let error = a.detach().sum_all().backward().unwrap_err();
        assert!(error.to_string().contains("any parameter"), "{error}");

        let (bits, recorded) = (a.bitcast(DType::I32), line!());
        let y = bits.bitcast(DType::F32).sum_all();
        let (error, here) = (y.backward().unwrap_err(), line!());
        let GraphError::NoDerivative { op, recorded: at, location } = &error else { panic!("{error}") };
        assert_eq!((*op, line(location)), ("bitcast", (true, here)), "{error}");
        assert!(line(at).0 && (recorded..here).contains(&at.line()), "{error}");

        let kept = a.exp().sum_all();
        kept.item::<f32>().unwrap();
        let error = kept.backward().unwrap_err();
        assert!(error.to_string().contains("differentiate first"), "{error}");

        let error = a.exp().backward().unwrap_err();
        assert!(error.to_string().contains("one element"), "{error}");
        let error = a.argmax(0, false).backward().unwrap_err();
        assert!(error.to_string().contains("only floats"), "{error}");
        let broken = (&a + &Tensor::ones(&device, &[3])).sum_all();
        let error = broken.backward().unwrap_err();
        assert!(error.to_string().contains("add") && error.to_string().contains("f32[3]"), "{error}");
    }
}

#[test]
fn gradients_by_parameter() {
    for device in devices() {
        let a = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2]).into_parameter("a").unwrap();
        let b = Tensor::from_slice(&device, &[3.0f32, 5.0], &[2]).into_parameter("b").unwrap();
        let frozen = b.detach();
        let grads = (&a * &b * &frozen + &a).sum_all().backward().unwrap();
        let names: Vec<&str> = grads.iter().map(|(n, _)| n).collect();
        assert_eq!((grads.len(), names), (2, vec!["a", "b"]));
        assert_eq!(grads.get(&a).unwrap().to_vec::<f32>().unwrap(), [10.0, 26.0]);
        assert_eq!(grads.get(&b).unwrap().to_vec::<f32>().unwrap(), [3.0, 10.0]);
        let custom = a.round().with_vjp("pass", &[&a], |g| vec![Some(g * 3.0)]);
        let grads = (custom * &b).sum_all().backward().unwrap();
        assert_eq!(grads.get(&a).unwrap().to_vec::<f32>().unwrap(), [9.0, 15.0]);
    }
}

/// A gradient is never cut in silence.
#[test]
fn a_cast_to_integers_cuts_with_a_name() {
    let device = Device::cpu();
    let a = Tensor::from_slice(&device, &[1.5f32, 2.5], &[2]).into_parameter("a").unwrap();
    let y = a.cast(DType::I32).cast(DType::F32).sum_all();
    let error = grad_of(&y, &[&a]).unwrap_err();
    assert!(matches!(&error, GraphError::NotReached { what, .. } if what == "a"), "{error}");
    let error = y.backward().unwrap_err();
    assert!(matches!(error, GraphError::NotReached { .. }), "{error}");
}
