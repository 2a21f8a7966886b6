//! Activations and layers against PyTorch: values, gradients and, for many, second derivatives, on every
//! device. Layers are built from the parameter store as a user builds them, and filled with PyTorch's weights.

use versant_graph::{Device, Tensor, grad_of};
use versant_nn::layers::{
    AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv1d, Conv2d,
    ConvTranspose2d, Embedding, LayerNorm, Linear, MaxPool2d,
};
use versant_nn::{Mode, Module, Params, Scope, Seed};
use versant_tests::devices;
use versant_tests::golden::{
    Array, Case, Inputs, Report, Tolerance, cases, check_function, check_outputs, compare,
};

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

/// The layer of a case, with its parameters in the scope.
fn layer(case: &Case, scope: &Scope) -> Box<dyn Module> {
    let weight = || case.array("weight").shape.as_slice();
    let channels = || case.array("x").shape[1];
    let eps = || case.real("eps") as f32;
    match case.kind.as_str() {
        "linear" => {
            let layer = Linear::new(scope, weight()[1], weight()[0]);
            Box::new(if case.flag("bias") { layer } else { layer.no_bias() })
        }
        "conv1d" => {
            let only = |key| case.ints(key)[0];
            let layer = Conv1d::new(scope, channels(), weight()[0], weight()[2])
                .stride(only("stride"))
                .pad(only("padding"))
                .dilation(only("dilation"))
                .groups(case.int("groups"));
            Box::new(if case.flag("bias") { layer } else { layer.no_bias() })
        }
        "conv2d" => {
            let layer = Conv2d::new(scope, channels(), weight()[0], [weight()[2], weight()[3]])
                .stride(case.pair("stride"))
                .pad(case.pair("padding"))
                .dilation(case.pair("dilation"))
                .groups(case.int("groups"));
            Box::new(if case.flag("bias") { layer } else { layer.no_bias() })
        }
        "conv_transpose2d" => {
            let outputs = weight()[1] * case.int("groups");
            let layer = ConvTranspose2d::new(scope, channels(), outputs, [weight()[2], weight()[3]])
                .stride(case.pair("stride"))
                .pad(case.pair("padding"))
                .output_pad(case.pair("output_padding"))
                .dilation(case.pair("dilation"))
                .groups(case.int("groups"));
            Box::new(if case.flag("bias") { layer } else { layer.no_bias() })
        }
        "batch_norm_eval" if case.int("rank") == 4 => {
            Box::new(BatchNorm2d::new(scope, channels()).eps(eps()))
        }
        "batch_norm_eval" => Box::new(BatchNorm1d::new(scope, channels()).eps(eps())),
        "layer_norm" => Box::new(LayerNorm::new(scope, weight()).eps(eps())),
        "embedding" => Box::new(Embedding::new(scope, weight()[0], weight()[1])),
        _ => pool(case),
    }
}

fn pool(case: &Case) -> Box<dyn Module> {
    match case.kind.as_str() {
        "max_pool2d" => Box::new(
            MaxPool2d::new(case.pair("kernel_size")).stride(case.pair("stride")).pad(case.pair("padding")),
        ),
        "avg_pool2d" => {
            let layer = AvgPool2d::new(case.pair("kernel_size"))
                .stride(case.pair("stride"))
                .pad(case.pair("padding"));
            let whole = case.flag("count_include_pad");
            Box::new(if whole { layer } else { layer.exclude_padding() })
        }
        "adaptive_avg_pool2d" => Box::new(AdaptiveAvgPool2d::new(case.pair("output_size"))),
        "adaptive_max_pool2d" => Box::new(AdaptiveMaxPool2d::new(case.pair("output_size"))),
        other => panic!("no layer {other}"),
    }
}

/// Fills the store with the case's tensors; every name must be there.
fn fill(params: &Params, case: &Case) {
    for param in params.iter() {
        param.set(case.array(param.name()).tensor(params.device()));
    }
}

fn check_layer(case: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let layer = layer(case, &params.root());
    params.check().map_err(|e| e.to_string())?;
    fill(&params, case);
    let mut inputs = Inputs::upload(case, device);
    for param in params.iter() {
        inputs.replace(param.name(), param.get());
    }
    let y = layer.forward(inputs.get("x"), Mode::Eval);
    check_outputs(case, &y, &inputs, Tolerance::default())
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
    for case in cases("layers").iter().filter(|c| c.kind != "batch_norm_train") {
        for device in devices() {
            report.check(&device, &case.name, || check_layer(case, &device));
        }
    }
    report.finish(66);
}

/// Three steps of training: values, gradients and the running statistics after each.
fn check_batch_norm(case: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let (root, channels) = (params.root(), case.array("weight").shape[0]);
    let (eps, momentum) = (case.real("eps") as f32, case.real("momentum") as f32);
    let layer: Box<dyn Module> = if case.int("rank") == 4 {
        Box::new(BatchNorm2d::new(&root, channels).eps(eps).momentum(momentum))
    } else {
        Box::new(BatchNorm1d::new(&root, channels).eps(eps).momentum(momentum))
    };
    let value = |name| params.get(name).expect("a batch normalisation has it").get();
    for name in ["weight", "bias"] {
        let param = params.get(name).expect("a batch normalisation has it");
        param.set(case.array(name).tensor(device));
    }
    let mut differences = String::new();
    for step in 0..3 {
        let row = |key: &str| -> Array { case.array(key).row(step) };
        let x = row("x").tensor(device);
        let (weight, bias) = (value("weight"), value("bias"));
        let y = layer.forward(&x, Mode::Train);
        let loss = (&y * &row("gy").tensor(device)).sum_all();
        let grads = grad_of(&loss, &[&x, &weight, &bias]).map_err(|e| e.to_string())?;
        let mut check = |key: &str, got: &Tensor| {
            let label = format!("step {step}, {key}");
            compare(&mut differences, &label, got, &row(key), Tolerance::default())
        };
        for (key, got) in ["gx", "gweight", "gbias"].iter().zip(&grads) {
            check(key, got)?;
        }
        check("y", &y)?;
        for name in ["running_mean", "running_var"] {
            check(name, &value(name))?;
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn batch_normalisation_trains_as_in_pytorch() {
    let mut report = Report::new("batch normalisation in training");
    for case in cases("layers").iter().filter(|c| c.kind == "batch_norm_train") {
        for device in devices() {
            report.check(&device, &case.name, || check_batch_norm(case, &device));
        }
    }
    report.finish(4);
}
