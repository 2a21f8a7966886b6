//! Composite functions and layers without state against PyTorch: values, gradients and, for many, second
//! derivatives, on every device.

use versant_graph::{PoolOptions, Tensor};
use versant_tests::devices;
use versant_tests::golden::{Case, Inputs, Report, Tolerance, cases, check_function};

fn activation(case: &Case, x: &Tensor) -> Tensor {
    match case.kind.as_str() {
        "relu" => x.relu(),
        "leaky_relu" => x.leaky_relu(case.real("slope") as f32),
        "gelu" => x.gelu(),
        "gelu_tanh" => x.gelu_tanh(),
        "silu" => x.silu(),
        "sigmoid" => x.sigmoid(),
        "tanh" => x.tanh(),
        "softplus" => x.softplus(),
        "elu" => x.elu(case.real("alpha") as f32),
        "softmax" => x.softmax(case.axis("axis")),
        "log_softmax" => x.log_softmax(case.axis("axis")),
        other => panic!("no activation {other}"),
    }
}

fn pool_options(case: &Case) -> PoolOptions {
    PoolOptions {
        kernel: case.pair("kernel_size"),
        stride: case.pair("stride"),
        padding: case.pair("padding"),
    }
}

/// The rows of the table that the indices name, in the shape of the indices and a last axis.
fn embedding(indices: &Tensor, table: &Tensor) -> Tensor {
    let mut shape: Vec<isize> = indices.shape().iter().map(|&d| d as isize).collect();
    shape.push(-1);
    table
        .index_select(0, &indices.reshape(&[-1]))
        .reshape(&shape)
}

/// A layer's result, or `None` for a kind that another test checks.
fn layer(case: &Case, inputs: &Inputs) -> Option<Tensor> {
    let x = inputs.get("x");
    let weight = || inputs.get("weight");
    Some(match case.kind.as_str() {
        "linear" => {
            let y = x.matmul(&weight().t());
            inputs
                .find("bias")
                .map_or_else(|| y.clone(), |bias| &y + bias)
        }
        "max_pool2d" => x.max_pool2d(&pool_options(case)),
        "avg_pool2d" => x.avg_pool2d(&pool_options(case), case.flag("count_include_pad")),
        "adaptive_avg_pool2d" => x.adaptive_avg_pool2d(case.pair("output_size")),
        "adaptive_max_pool2d" => x.adaptive_max_pool2d(case.pair("output_size")),
        "layer_norm" => {
            let axes = case.ints("normalized_shape").len();
            x.layer_norm(
                axes,
                Some(weight()),
                inputs.find("bias"),
                case.real("eps") as f32,
            )
        }
        "embedding" => embedding(x, weight()),
        _ => return None,
    })
}

#[test]
fn activations_agree_with_pytorch() {
    let mut report = Report::new("activations");
    for case in cases("activations") {
        for device in devices() {
            report.check(&device, &case.name, || {
                check_function(&case, &device, Tolerance::default(), |inputs| {
                    activation(&case, inputs.get("x"))
                })
            });
        }
    }
    report.finish(23);
}

#[test]
fn layers_agree_with_pytorch() {
    let mut report = Report::new("layers");
    for case in cases("layers") {
        // Convolutions are checked in golden.rs, batch normalisation with its running statistics in golden_nn.rs.
        if case.kind.starts_with("conv") || case.kind.starts_with("batch_norm") {
            continue;
        }
        for device in devices() {
            report.check(&device, &case.name, || {
                check_function(&case, &device, Tolerance::default(), |inputs| {
                    layer(&case, inputs).unwrap_or_else(|| panic!("no layer {}", case.kind))
                })
            });
        }
    }
    report.finish(38);
}
