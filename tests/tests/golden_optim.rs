//! Optimisers, clipping, schedules, initial values and whole training runs against PyTorch.

use versant_graph::{ConvOptions, Device, Gradients, Tensor, eval};
use versant_nn::{
    Adam, AdamW, Init, Optimizer, Params, Schedule, Seed, Sgd, clip_grad_norm, clip_grad_value,
};
use versant_tests::devices;
use versant_tests::golden::{Array, Case, Data, Report, Tolerance, cases, compare};

/// A store that holds these values.
fn store(device: &Device, values: &[(&str, &Array)]) -> Params {
    let params = Params::new(device, Seed(0));
    for (name, array) in values {
        let param = params.root().parameter(name, &array.shape, Init::Zeros);
        param.set(array.tensor(device));
    }
    params
}

/// Gradients with these values: those of `sum(p * g)`.
fn gradients(params: &Params, values: &[Array]) -> Gradients {
    let parts = params.iter().zip(values).map(|(p, g)| (p.get() * g.tensor(params.device())).sum_all());
    let loss = parts.reduce(|a, b| a + b).expect("there are parameters");
    loss.backward().expect("the loss is a sum of products")
}

fn optimizer(case: &Case, params: &Params) -> Box<dyn Optimizer> {
    let lr = case.real("lr");
    let real = |key| {
        if case.has_attr(key) { case.real(key) } else { 0.0 }
    };
    let betas = || case.reals("betas");
    match case.text("algo") {
        "sgd" => Box::new(
            Sgd::new(params, lr)
                .momentum(real("momentum"))
                .nesterov(case.has_attr("nesterov") && case.flag("nesterov"))
                .weight_decay(real("weight_decay")),
        ),
        "adam" => Box::new(
            Adam::new(params, lr)
                .betas(betas()[0], betas()[1])
                .eps(case.real("eps"))
                .weight_decay(case.real("weight_decay")),
        ),
        "adamw" => Box::new(
            AdamW::new(params, lr)
                .betas(betas()[0], betas()[1])
                .eps(case.real("eps"))
                .weight_decay(case.real("weight_decay")),
        ),
        other => panic!("no optimiser {other}"),
    }
}

fn ten_steps(case: &Case, device: &Device) -> Result<(), String> {
    let names = ["p0", "p1", "p2"];
    let start: Vec<(&str, &Array)> = names.iter().map(|&n| (n, case.array(n))).collect();
    let params = store(device, &start);
    let mut optimizer = optimizer(case, &params);
    let mut differences = String::new();
    for step in 0..10 {
        let grads: Vec<Array> = (0..3).map(|i| case.array(&format!("g{i}")).row(step)).collect();
        optimizer.step(gradients(&params, &grads)).map_err(|e| e.to_string())?;
        for (i, param) in params.iter().enumerate() {
            let want = case.array(&format!("after{i}")).row(step);
            let key = format!("p{i} after step {step}");
            compare(&mut differences, &key, &param.get(), &want, Tolerance::default())?;
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn optimisers_take_pytorchs_steps() {
    let mut report = Report::new("optimisers");
    for case in cases("optim").iter().filter(|c| c.kind == "optim") {
        for device in devices() {
            report.check(&device, &case.name, || ten_steps(case, &device));
        }
    }
    report.finish(12);
}

fn clipping(case: &Case, device: &Device) -> Result<(), String> {
    let names = ["p0", "p1", "p2"];
    let grads: Vec<Array> = (0..3).map(|i| case.array(&format!("g{i}")).clone()).collect();
    let zeros = |a: &Array| Array { shape: a.shape.clone(), data: Data::F32(vec![0.0; a.floats().len()]) };
    let start: Vec<Array> = grads.iter().map(zeros).collect();
    let start: Vec<(&str, &Array)> = names.into_iter().zip(&start).collect();
    let params = store(device, &start);
    let mut differences = String::new();
    let recorded = gradients(&params, &grads);
    let by_norm = case.kind == "clip_norm";
    let (clipped, norm) = match by_norm {
        true => clip_grad_norm(recorded, case.real("max_norm") as f32),
        false => (clip_grad_value(recorded, case.real("clip_value") as f32), None),
    };
    for (i, param) in params.iter().enumerate() {
        let got = clipped.get(&param.get()).ok_or("a gradient is lost")?;
        let key = format!("clipped{i}");
        compare(&mut differences, &key, got, case.array(&key), Tolerance::default())?;
    }
    if let Some(norm) = &norm {
        compare(&mut differences, "norm", norm, case.array("norm"), Tolerance::default())?;
    }
    // A step of 1 from zero against the clipped gradient leaves its negative, clipped in the step.
    let sgd = Sgd::new(&params, 1.0);
    let mut sgd = match by_norm {
        true => sgd.clip_norm(case.real("max_norm")),
        false => sgd.clip_value(case.real("clip_value")),
    };
    sgd.step(gradients(&params, &grads)).map_err(|e| e.to_string())?;
    for (i, param) in params.iter().enumerate() {
        let want = case.array(&format!("clipped{i}"));
        let key = format!("step with clipped{i}");
        compare(&mut differences, &key, &param.get().neg(), want, Tolerance::default())?;
    }
    if let Some(norm) = sgd.grad_norm() {
        compare(&mut differences, "the step's norm", norm, case.array("norm"), Tolerance::default())?;
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn clipping_is_pytorchs() {
    let mut report = Report::new("clipping");
    for case in cases("optim").iter().filter(|c| c.kind.starts_with("clip")) {
        for device in devices() {
            report.check(&device, &case.name, || clipping(case, &device));
        }
    }
    report.finish(4);
}

/// The net of the golden training runs, from its parameters in the store.
fn loss(params: &Params, x: &Tensor, target: &Tensor) -> Tensor {
    let get = |name: &str| params.get(name).expect("the store has it").get();
    let options = ConvOptions { padding: [1; 2], ..ConvOptions::default() };
    let h = x.conv2d(&get("conv.weight"), &options) + get("conv.bias").reshape(&[1, -1, 1, 1]);
    let h = h.relu().window(2, 2, 2, 1).window(3, 2, 2, 1).max(&[-1, -2], false);
    let logits = h.reshape(&[8, 144]).matmul(&get("fc.weight").t()) + get("fc.bias");
    let shifted = &logits - logits.max(&[-1], true).detach();
    let log_p = &shifted - shifted.exp().sum(&[-1], true).ln();
    log_p.gather(1, &target.reshape(&[8, 1])).mean_all().neg()
}

fn train(case: &Case, device: &Device) -> Result<(), String> {
    let names = ["conv.weight", "conv.bias", "fc.weight", "fc.bias"];
    let keys: Vec<String> = names.iter().map(|n| format!("start/{n}")).collect();
    let start: Vec<(&str, &Array)> = names.iter().zip(&keys).map(|(&n, k)| (n, case.array(k))).collect();
    let params = store(device, &start);
    let mut optimizer = optimizer(case, &params);
    let (x, target) = (case.array("x").tensor(device), case.array("target").tensor(device));
    let mut losses = Vec::new();
    for _ in 0..case.int("steps") {
        let loss = loss(&params, &x, &target);
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
fn a_net_trains_as_in_pytorch() {
    let mut report = Report::new("training");
    for case in cases("train") {
        for device in devices() {
            report.check(&device, &case.name, || train(&case, &device));
        }
    }
    report.finish(2);
}

#[test]
fn initial_values_have_pytorchs_spread() {
    for case in cases("optim").iter().filter(|c| c.kind == "init") {
        let shape = case.ints("shape");
        let gain = case.real("gain") as f32;
        let near = |init: Init, key: &str| {
            let (got, want) = (f64::from(init.spread(&shape)), case.real(key));
            assert!((got / want - 1.0).abs() < 1e-6, "{} {key}: {got} for {want}", case.name);
        };
        near(Init::XavierNormal { gain }, "xavier_normal_std");
        near(Init::XavierUniform { gain }, "xavier_uniform_bound");
        let a = match case.text("nonlinearity") {
            "relu" => 0.0,
            "leaky_relu" => case.real("slope") as f32,
            // The slope of a leaky ReLU that asks for the same gain; PyTorch's `linear` has gain 1.
            "linear" => 1.0,
            _ => continue,
        };
        near(Init::KaimingNormal { a }, "kaiming_fan_in_std");
        near(Init::KaimingUniform { a }, "kaiming_fan_in_bound");
        near(Init::KaimingNormalOut { a }, "kaiming_fan_out_std");
        near(Init::KaimingUniformOut { a }, "kaiming_fan_out_bound");
    }
}

#[test]
fn the_check_finds_a_wrong_step() {
    let case = cases("optim").into_iter().find(|c| c.name == "sgd_momentum").expect("it is there");
    let device = Device::cpu();
    let params = store(&device, &[("p0", case.array("p0"))]);
    let mut wrong = Sgd::new(&params, case.real("lr") * 1.01).momentum(0.9);
    wrong.step(gradients(&params, &[case.array("g0").row(0)])).expect("it runs");
    let got = params.iter().next().expect("one parameter").get();
    eval(&[&got]).expect("it is ready");
    let mut differences = String::new();
    let want = case.array("after0").row(0);
    compare(&mut differences, "p0", &got, &want, Tolerance::default()).expect("it compares");
    assert!(!differences.is_empty());
}

fn schedule(case: &Case) -> Schedule {
    let lr = case.real("lr");
    let count = |key| u64::try_from(case.int(key)).expect("a count");
    match case.name.as_str() {
        "step_lr" => Schedule::step(lr, count("step_size"), case.real("gamma")),
        "cosine_lr" | "cosine_lr_floor" => Schedule::cosine(lr, count("t_max")).floor(case.real("eta_min")),
        "linear_lr" => Schedule::warmup(lr, case.real("start_factor"), count("total_iters")),
        "linear_then_cosine" => {
            let warmup = count("warmup");
            Schedule::warmup(lr, case.real("start_factor"), warmup)
                .then(warmup, Schedule::cosine(lr, count("t_max")).floor(case.real("eta_min")))
        }
        "warmup_cosine" => Schedule::warmup_cosine(lr, count("warmup"), count("total")),
        other => panic!("no schedule {other}"),
    }
}

#[test]
fn schedules_are_pytorchs() {
    let cases = cases("optim");
    let mut checked = 0;
    for case in cases.iter().filter(|c| c.kind == "schedule") {
        let schedule = schedule(case);
        for (epoch, want) in (0..).zip(case.reals("values")) {
            let got = schedule.at(epoch);
            // PyTorch multiplies up from the previous epoch, which rounds differently.
            assert!((got - want).abs() <= 1e-14, "{} at {epoch}: {got} for {want}", case.name);
        }
        checked += 1;
    }
    assert!(checked >= 6);
}
