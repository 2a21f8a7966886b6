//! Norms within a sample, attention with several heads, layers and stacks of transformers against PyTorch: results, all
//! gradients, and training. Parameters are found by PyTorch's names.

use versant_graph::{Device, Tensor, grad_of};
use versant_nn::layers::{
    Attend, FeedForward, GroupNorm, InstanceNorm1d, InstanceNorm2d, MultiHeadAttention, RmsNorm, Rotary,
    TransformerConfig, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer,
};
use versant_nn::{HostMap, HostTensor, Mode, Module, Optimizer, Params, Scope, Seed, Sgd};
use versant_tests::golden::{Array, Case, Inputs, Report, Tolerance, cases, check_outputs, compare};
use versant_tests::{devices, in_this_pass};

/// Runs a layer on the case's inputs.
type Run = Box<dyn Fn(&Inputs) -> Tensor>;

fn norm(case: &Case, scope: &Scope) -> Run {
    let shape = &case.array("x").shape;
    let channels = shape[1];
    let affine = case.has("weight");
    let layer: Box<dyn Module> = match (case.kind.as_str(), shape.len()) {
        ("rms_norm", _) => {
            let layer = RmsNorm::new(scope, &case.ints("extents"));
            let layer = if case.has_attr("eps") { layer.eps(case.real("eps") as f32) } else { layer };
            Box::new(if affine { layer } else { layer.no_affine() })
        }
        ("group_norm", _) => {
            let layer = GroupNorm::new(scope, case.int("groups"), channels);
            Box::new(if affine { layer } else { layer.no_affine() })
        }
        (_, 3) => {
            let layer = InstanceNorm1d::new(scope, channels);
            let layer = if affine { layer.affine() } else { layer };
            Box::new(if case.flag("tracked") { layer.track() } else { layer })
        }
        _ => Box::new(InstanceNorm2d::new(scope, channels).affine()),
    };
    Box::new(move |inputs| layer.forward(inputs.get("x"), Mode::Eval))
}

/// Rotary positions of a case, if it has any.
fn rotary(case: &Case, width: usize, scope: &Scope) -> Option<Rotary> {
    let style = case.has_attr("rotary").then(|| case.text("rotary"))?;
    let rotary = Rotary::new(scope.device(), 16, width / case.int("heads"));
    Some(if style == "interleaved" { rotary.interleaved() } else { rotary })
}

fn given(inputs: &Inputs, is_causal: bool) -> Attend<'_> {
    let [memory, values, present, mask] =
        ["memory", "values", "present", "mask"].map(|name| inputs.find(name));
    Attend { memory, values, is_causal, present, mask }
}

fn attention(case: &Case, scope: &Scope) -> Run {
    let (width, is_causal) = (case.array("x").shape[2], case.flag("causal"));
    let mut layer = MultiHeadAttention::new(scope, width, case.int("heads")).kv_heads(case.int("kv_heads"));
    if let Some(rotary) = rotary(case, width, scope) {
        layer = layer.rotary(&rotary);
    }
    if case.has("values") {
        layer = layer.kv_widths(case.array("memory").shape[2], case.array("values").shape[2]);
    }
    if !case.flag("bias") {
        layer = layer.no_bias();
    }
    Box::new(move |inputs| layer.run(inputs.get("x"), &given(inputs, is_causal), Mode::Train))
}

fn config(case: &Case, scope: &Scope) -> TransformerConfig {
    let width = case.array("x").shape[2];
    let mut config = TransformerConfig::new(width, case.int("heads"))
        .kv_heads(case.int("kv_heads"))
        .hidden(case.int("hidden"))
        .feed_forward(match case.text("activation") {
            "relu" => FeedForward::Relu,
            "gelu" => FeedForward::Gelu,
            _ => FeedForward::SwiGlu,
        });
    if let Some(rotary) = rotary(case, width, scope) {
        config = config.rotary(&rotary);
    }
    for (flag, change) in [
        (case.flag("pre"), TransformerConfig::norm_first as fn(_) -> _),
        (case.flag("rms"), TransformerConfig::rms_norm),
        (!case.flag("bias"), TransformerConfig::no_bias),
        (case.flag("causal"), TransformerConfig::causal),
    ] {
        config = if flag { change(config) } else { config };
    }
    config
}

fn encoder(case: &Case, scope: &Scope) -> Run {
    let config = config(case, scope);
    match case.int("layers") {
        0 => {
            let layer = TransformerEncoderLayer::new(scope, &config);
            Box::new(move |inputs| layer.run(inputs.get("x"), &given(inputs, false), Mode::Train))
        }
        n => {
            let stack = TransformerEncoder::new(scope, &config, n).final_norm();
            Box::new(move |inputs| stack.run(inputs.get("x"), &given(inputs, false), Mode::Train))
        }
    }
}

fn decoder(case: &Case, scope: &Scope) -> Run {
    let config = config(case, scope);
    let own = Attend::default();
    match case.int("layers") {
        0 => {
            let layer = TransformerDecoderLayer::new(scope, &config);
            Box::new(move |inputs| layer.run(inputs.get("x"), &own, &given(inputs, false), Mode::Train))
        }
        n => {
            let stack = TransformerDecoder::new(scope, &config, n).final_norm();
            Box::new(move |inputs| stack.run(inputs.get("x"), &own, &given(inputs, false), Mode::Train))
        }
    }
}

fn check(case: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let root = params.root();
    let run = match case.kind.as_str() {
        "mha" => attention(case, &root),
        "encoder" => encoder(case, &root),
        "decoder" => decoder(case, &root),
        _ => norm(case, &root),
    };
    params.check().map_err(|e| e.to_string())?;
    // As a file of PyTorch's: every name must be in the store, and no other.
    let names: Vec<String> = match case.has_attr("weights") {
        true => case.texts("weights"),
        false => params.names(),
    };
    let host = |name: &String| {
        let Array { shape, .. } = case.array(name);
        let data = case.array(name).floats().to_vec();
        (name.clone(), HostTensor { shape: shape.clone(), data })
    };
    params.from_host(&names.iter().map(host).collect::<HostMap>()).map_err(|e| e.to_string())?;
    let mut inputs = Inputs::upload(case, device);
    for param in params.iter() {
        inputs.replace(param.name(), param.get());
    }
    check_outputs(case, &run(&inputs), &inputs, Tolerance::default())
}

#[test]
fn layers_agree_with_pytorch() {
    let mut report = Report::new("layers of transformers");
    let separate = ["instance_norm_train", "train_encoder"];
    let all = cases("transformer");
    for (i, case) in all.iter().filter(|c| !separate.contains(&c.kind.as_str())).enumerate() {
        // The CPU takes every case in every pass: compiling kernels is what takes the time.
        for device in devices().into_iter().take(if in_this_pass(i) { 2 } else { 1 }) {
            report.check(&device, &case.name, || check(case, &device));
        }
    }
    report.finish(30);
}

/// Three steps of training: values, gradients and the running statistics after each.
fn check_tracked(case: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let (root, shape) = (params.root(), &case.array("x").shape);
    let momentum = case.real("momentum") as f32;
    let layer: Box<dyn Module> = if shape.len() == 4 {
        Box::new(InstanceNorm1d::new(&root, shape[2]).momentum(momentum).track())
    } else {
        Box::new(InstanceNorm2d::new(&root, shape[2]).momentum(momentum).track())
    };
    let mut differences = String::new();
    for step in 0..3 {
        let row = |key: &str| -> Array { case.array(key).row(step) };
        let x = row("x").tensor(device);
        let y = layer.forward(&x, Mode::Train);
        let loss = (&y * &row("gy").tensor(device)).sum_all();
        let gx = grad_of(&loss, &[&x]).map_err(|e| e.to_string())?.remove(0);
        let mut check = |key: &str, got: &Tensor| {
            let label = format!("step {step}, {key}");
            compare(&mut differences, &label, got, &row(key), Tolerance::default())
        };
        check("gx", &gx)?;
        check("y", &y)?;
        for name in ["running_mean", "running_var"] {
            check(name, &params.get(name).expect("it is tracked").get())?;
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn instance_normalisation_tracks_as_in_pytorch() {
    let mut report = Report::new("instance normalisation in training");
    for case in cases("transformer").iter().filter(|c| c.kind == "instance_norm_train") {
        for device in devices() {
            report.check(&device, &case.name, || check_tracked(case, &device));
        }
    }
    report.finish(2);
}

fn train(case: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let config = TransformerConfig::new(case.array("x").shape[2], case.int("heads"))
        .hidden(case.int("hidden"))
        .feed_forward(FeedForward::Gelu)
        .norm_first()
        .causal();
    let net = TransformerEncoder::new(&params.root(), &config, case.int("layers")).final_norm();
    for param in params.iter() {
        param.set(case.array(&format!("start/{}", param.name())).tensor(device));
    }
    let mut optimizer = Sgd::new(&params, case.real("lr")).momentum(case.real("momentum"));
    let (x, target) = (case.array("x").tensor(device), case.array("target").tensor(device));
    let mut losses = Vec::new();
    for _ in 0..case.int("steps") {
        let loss = (net.forward(&x, Mode::Train) - &target).square().mean_all();
        optimizer.step(loss.backward().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        losses.push(loss.item::<f32>().map_err(|e| e.to_string())?);
    }
    let mut differences = String::new();
    let losses = Tensor::from_slice(device, &losses, &[losses.len()]);
    compare(&mut differences, "losses", &losses, case.array("losses"), Tolerance::default())?;
    for param in params.iter() {
        let key = format!("end/{}", param.name());
        compare(&mut differences, &key, &param.get(), case.array(&key), Tolerance::default())?;
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn a_stack_trains_as_in_pytorch() {
    let mut report = Report::new("training of a transformer");
    for case in cases("transformer").iter().filter(|c| c.kind == "train_encoder") {
        for device in devices() {
            report.check(&device, &case.name, || train(case, &device));
        }
    }
    report.finish(1);
}
