//! The primitive ops against PyTorch: values and gradients, on every device.
//!
//! The values and the script that made them are in `tests/golden`. Where two conventions exist, the
//! golden values fix PyTorch's: the first of equal extremes has the index and the gradient, `round` goes to the even
//! neighbour.

use versant_graph::Tensor;
use versant_tests::devices;
use versant_tests::golden::{Case, Inputs, Report, Tolerance, cases, check_function};

fn unary(op: &str, x: &Tensor) -> Tensor {
    match op {
        "neg" => x.neg(),
        "abs" => x.abs(),
        "exp" => x.exp(),
        "exp2" => x.exp2(),
        "ln" => x.ln(),
        "log2" => x.log2(),
        "log1p" => x.log1p(),
        "expm1" => x.expm1(),
        "sqrt" => x.sqrt(),
        "rsqrt" => x.rsqrt(),
        "recip" => x.recip(),
        "sin" => x.sin(),
        "cos" => x.cos(),
        "tanh" => x.tanh(),
        "sigmoid" => x.sigmoid(),
        "erf" => x.erf(),
        "floor" => x.floor(),
        "ceil" => x.ceil(),
        "round" => x.round(),
        "sign" => x.sign(),
        "isnan" => x.isnan(),
        other => panic!("no unary op {other}"),
    }
}

fn binary(op: &str, a: &Tensor, b: &Tensor) -> Tensor {
    match op {
        "add" => a.add(b),
        "sub" => a.sub(b),
        "mul" => a.mul(b),
        "div" => a.div(b),
        "maximum" => a.maximum(b),
        "minimum" => a.minimum(b),
        "atan2" => a.atan2(b),
        "pow" => a.pow(b),
        // The sign of the dividend, as `%` has in Rust and WGSL.
        "fmod" => a.rem(b),
        // The sign of the divisor: a composite.
        "remainder" => a - &(b * &(a / b).floor()),
        other => panic!("no binary op {other}"),
    }
}

fn reduce(case: &Case, x: &Tensor) -> Tensor {
    let (axes, keep) = (case.signed("axes"), case.flag("keepdim"));
    match case.text("op") {
        "sum" => x.sum(&axes, keep),
        "mean" => x.mean(&axes, keep),
        "max" => x.max(&axes, keep),
        "min" => x.min(&axes, keep),
        "prod" => x.prod(&axes, keep),
        other => panic!("no reduction {other}"),
    }
}

fn movement(case: &Case, x: &Tensor) -> Tensor {
    let moved = match case.text("op") {
        "permute" => x.permute(&case.ints("axes")),
        "reshape" => x.reshape(&case.signed("shape")),
        "transpose_reshape" => x.transpose(0, 1).reshape(&case.signed("shape")),
        "narrow" => x.narrow(case.int("axis"), case.int("start"), case.int("len")),
        "slice_step" => x.slice_step(case.int("axis"), case.int("start"), case.int("len"), case.int("step")),
        "flip" => x.flip(&case.ints("axes")),
        "pad" => x.pad(&[(0, 0), (1, 2), (2, 0)], 0.5),
        "window" => x.window(case.int("axis"), case.int("size"), case.int("stride"), case.int("dilation")),
        "broadcast_to" => x.broadcast_to(&case.ints("shape")),
        other => panic!("no movement {other}"),
    };
    &moved * &moved
}

/// The result of a case in the engine's ops.
fn build(case: &Case, inputs: &Inputs) -> Tensor {
    let get = |key| inputs.get(key);
    match case.kind.as_str() {
        "unary" => unary(case.text("op"), get("x")),
        "binary" => binary(case.text("op"), get("a"), get("b")),
        "reduce" => reduce(case, get("x")),
        "var" => get("x").var(&case.signed("axes"), case.flag("keepdim"), case.real("correction") as f32),
        "cumsum" => get("x").cumsum(case.int("axis")),
        "arg" if case.text("op") == "argmax" => get("x").argmax(case.axis("axis"), false),
        "arg" => get("x").argmin(case.axis("axis"), false),
        "matmul" => get("a").matmul(get("b")),
        "matmul_transposed" => get("a").transpose(1, 2).matmul(&get("b").transpose(1, 2)),
        "gather" => get("x").gather(case.int("axis"), get("index")),
        "scatter_add" => get("x").scatter_add(case.int("axis"), get("index"), get("src")),
        "index_select" => get("x").index_select(case.int("axis"), get("index")),
        "movement" => movement(case, get("x")),
        "join" if case.text("op") == "cat" => Tensor::cat(&[get("a"), get("b")], case.int("axis")),
        "join" => Tensor::stack(&[get("a"), get("b")], case.int("axis")),
        other => panic!("no builder for kind {other}"),
    }
}

#[test]
fn primitive_ops_agree_with_pytorch() {
    let mut report = Report::new("ops");
    for case in cases("ops") {
        for device in devices() {
            report.check(&device, &case.name, || {
                check_function(&case, &device, Tolerance::default(), |inputs| build(&case, inputs))
            });
        }
    }
    report.finish(100);
}
