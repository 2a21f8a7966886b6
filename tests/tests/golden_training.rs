//! The further optimisers, parameter groups, averages of weights and schedules against PyTorch, and against the papers'
//! algorithms where PyTorch has none (`tests/golden/make_training.py`).

use versant_graph::{Device, Gradients, Tensor};
use versant_nn::{
    Adagrad, Adam, AdamW, Adamax, Average, Init, Lamb, Lion, Losses, Muon, NAdam, Optimizer, ParamGroup,
    Params, Plateau, RmsProp, Schedule, Seed, Sgd,
};
use versant_tests::devices;
use versant_tests::golden::{Array, Case, Report, Tolerance, cases, compare};

const NAMES: [&str; 4] = ["p0", "p1", "p2", "p3"];
const STEPS: usize = 12;

/// A store that holds the start of all cases.
fn store(device: &Device, given: &Case) -> Params {
    let params = Params::new(device, Seed(0));
    for name in NAMES {
        let array = given.array(name);
        let param = params.root().parameter(name, &array.shape, Init::Zeros);
        param.set(array.tensor(device));
    }
    params
}

/// The given gradients of a step: those of `sum(p * g)`.
fn gradients(params: &Params, given: &Case, step: usize) -> Gradients {
    let slope = |i: usize| given.array(&format!("g{i}")).row(step).tensor(params.device());
    let parts = params.iter().enumerate().map(|(i, p)| (p.get() * slope(i)).sum_all());
    let loss = parts.reduce(|a, b| a + b).expect("there are parameters");
    loss.backward().expect("the loss is a sum of products")
}

/// Calls a method for each of these settings that the case has.
macro_rules! with {
    ($case:ident, $start:expr, $($key:literal $method:ident $read:ident),*) => {{
        let mut made = $start;
        $(if $case.has_attr($key) { made = made.$method($case.$read($key)); })*
        made
    }};
}

macro_rules! betas {
    ($case:ident, $made:expr) => {{
        let made = $made;
        match $case.has_attr("betas") {
            true => made.betas($case.reals("betas")[0], $case.reals("betas")[1]),
            false => made,
        }
    }};
}

/// Gives it the groups and the average of the case.
macro_rules! finished {
    ($case:ident, $made:expr) => {{
        let mut made = $made;
        if $case.kind == "groups" {
            made = made.group(ParamGroup::new("p1").lr_scale(0.5).weight_decay(0.0));
            made = made.group(ParamGroup::new("*3").lr_scale(2.0));
        }
        match $case.name.as_str() {
            "average_exponential" => made = made.average(Average::exponential(0.8)),
            "average_equal" => made = made.average(Average::equal()),
            _ => {}
        }
        Box::new(made)
    }};
}

fn optimizer(case: &Case, params: &Params) -> Box<dyn Optimizer> {
    let lr = case.real("lr");
    match case.text("algo") {
        "sgd" => finished!(
            case,
            with!(case, Sgd::new(params, lr), "momentum" momentum real, "nesterov" nesterov flag,
                "weight_decay" weight_decay real)
        ),
        "adam" => finished!(
            case,
            betas!(
                case,
                with!(case, Adam::new(params, lr), "eps" eps real, "weight_decay" weight_decay real,
                "amsgrad" amsgrad flag)
            )
        ),
        "adamw" => finished!(
            case,
            betas!(
                case,
                with!(case, AdamW::new(params, lr), "eps" eps real, "weight_decay" weight_decay real,
                "amsgrad" amsgrad flag)
            )
        ),
        "rmsprop" => finished!(
            case,
            with!(case, RmsProp::new(params, lr), "alpha" alpha real, "eps" eps real, "momentum" momentum real,
                "centered" centered flag, "weight_decay" weight_decay real)
        ),
        "adagrad" => finished!(
            case,
            with!(case, Adagrad::new(params, lr), "lr_decay" lr_decay real, "eps" eps real,
                "weight_decay" weight_decay real, "initial_accumulator_value" initial_accumulator real)
        ),
        "adamax" => finished!(
            case,
            betas!(
                case,
                with!(case, Adamax::new(params, lr), "eps" eps real, "weight_decay" weight_decay real)
            )
        ),
        "nadam" => finished!(
            case,
            betas!(
                case,
                with!(case, NAdam::new(params, lr), "eps" eps real, "weight_decay" weight_decay real,
                "momentum_decay" momentum_decay real, "decoupled_weight_decay" decoupled flag)
            )
        ),
        "lion" => finished!(
            case,
            betas!(case, with!(case, Lion::new(params, lr), "weight_decay" weight_decay real))
        ),
        "lamb" => finished!(
            case,
            betas!(
                case,
                with!(case, Lamb::new(params, lr), "eps" eps real, "weight_decay" weight_decay real)
            )
        ),
        "muon" => finished!(case, muon(case, params)),
        other => panic!("no optimiser {other}"),
    }
}

/// AdamW's part has the settings that the script gives it in all cases.
fn muon(case: &Case, params: &Params) -> Muon {
    let made = Muon::new(params, case.real("lr"))
        .adam_lr_scale(0.01 / case.real("lr"))
        .adam_betas((0.9, 0.95))
        .adam_weight_decay(0.02)
        .match_rms(case.text("adjust_lr_fn") == "match_rms_adamw");
    let made = with!(case, made, "momentum" momentum real, "nesterov" nesterov flag, "eps" eps real,
        "weight_decay" weight_decay real, "ns_steps" iterations int);
    match case.ints("except_").as_slice() {
        [] => made,
        _ => made.except("*3"),
    }
}

/// Compares parameters with a row of the case's arrays.
fn agree(
    differences: &mut String,
    case: &Case,
    params: &Params,
    key: &str,
    step: usize,
) -> Result<(), String> {
    for (i, param) in params.iter().enumerate() {
        let want: Array = case.array(&format!("{key}{i}")).row(step);
        let title = format!("{key}{i} after step {step}");
        compare(differences, &title, &param.get(), &want, Tolerance::default())?;
    }
    Ok(())
}

fn steps(case: &Case, given: &Case, device: &Device) -> Result<(), String> {
    let params = store(device, given);
    let mut optimizer = optimizer(case, &params);
    let mut differences = String::new();
    for step in 0..STEPS {
        optimizer.step(gradients(&params, given, step)).map_err(|e| e.to_string())?;
        agree(&mut differences, case, &params, "after", step)?;
        if case.kind == "average" {
            optimizer.swap_average().map_err(|e| e.to_string())?;
            agree(&mut differences, case, &params, "avg", step)?;
            optimizer.swap_average().map_err(|e| e.to_string())?;
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn optimisers_take_the_steps_of_their_papers() {
    let all = cases("optimisers");
    let given = all.iter().find(|c| c.kind == "gradients").expect("it is recorded");
    let mut report = Report::new("further optimisers");
    for case in all.iter().filter(|c| matches!(c.kind.as_str(), "optim" | "groups" | "average")) {
        for device in devices() {
            report.check(&device, &case.name, || steps(case, given, &device));
        }
    }
    report.finish(25);
}

fn train(case: &Case, net: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let [w1, b1, w2, b2] = ["w1", "b1", "w2", "b2"].map(|name| {
        let param = params.root().parameter(name, &net.array(name).shape, Init::Zeros);
        param.set(net.array(name).tensor(device));
        param
    });
    let (x, target) = (net.array("x").tensor(device), net.array("target").tensor(device));
    let mut optimizer = optimizer(case, &params);
    let mut losses = Vec::new();
    for _ in 0..15 {
        let h = (x.matmul(&w1.get()) + b1.get()).tanh();
        let loss = (h.matmul(&w2.get()) + b2.get()).cross_entropy(&target);
        drop(h);
        optimizer.step(loss.backward().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        losses.push(loss.item::<f32>().map_err(|e| e.to_string())?);
    }
    let mut differences = String::new();
    let losses = Tensor::from_slice(device, &losses, &[losses.len()]);
    compare(&mut differences, "losses", &losses, case.array("losses"), Tolerance::default())?;
    for param in [w1, b1, w2, b2] {
        let key = format!("end_{}", param.name());
        compare(&mut differences, &key, &param.get(), case.array(&key), Tolerance::default())?;
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn nets_train_as_by_their_papers() {
    let all = cases("optimisers");
    let net = all.iter().find(|c| c.kind == "net").expect("it is recorded");
    let mut report = Report::new("training by further optimisers");
    for case in all.iter().filter(|c| c.kind == "train") {
        for device in devices() {
            report.check(&device, &case.name, || train(case, net, &device));
        }
    }
    report.finish(8);
}

fn schedule(case: &Case) -> (Schedule, Option<Schedule>) {
    let lr = case.real("lr");
    let count = |key| u64::try_from(case.int(key)).expect("a count");
    let plain = match case.name.as_str() {
        "multi_step_lr" => {
            let milestones: Vec<u64> = case.ints("milestones").iter().map(|&m| m as u64).collect();
            Schedule::multi_step(lr, &milestones, case.real("gamma"))
        }
        name if name.starts_with("polynomial") => {
            Schedule::polynomial(lr, count("total_iters"), case.real("power"))
        }
        name if name.starts_with("restarts") => {
            Schedule::restarts(lr, count("t_0"), count("t_mult")).floor(case.real("eta_min"))
        }
        _ => {
            let cycles = [Schedule::one_cycle(0.5, 40), Schedule::one_cycle_momentum(0.85, 0.95, 40)];
            let [rate, momentum] = cycles.map(|mut cycle| {
                if case.has_attr("pct_start") {
                    cycle = cycle.rising_for(case.real("pct_start"));
                    cycle = cycle.dividing_by(case.real("div_factor"), case.real("final_div_factor"));
                }
                let cycle = if case.has_attr("linear") { cycle.linear() } else { cycle };
                if case.has_attr("three_phase") { cycle.three_phases() } else { cycle }
            });
            return (rate, Some(momentum));
        }
    };
    (plain, None)
}

#[test]
fn schedules_are_pytorchs() {
    let all = cases("optimisers");
    let mut checked = 0;
    for case in all.iter().filter(|c| c.kind == "schedule") {
        let (rate, momentum) = schedule(case);
        let near = |schedule: &Schedule, key: &str| {
            for (epoch, want) in (0..).zip(case.reals(key)) {
                let got = schedule.at(epoch);
                // PyTorch multiplies up from the previous epoch, which rounds differently.
                assert!((got - want).abs() <= 1e-14, "{} {key} at {epoch}: {got} for {want}", case.name);
            }
        };
        near(&rate, "values");
        momentum.iter().for_each(|m| near(m, "momentum"));
        checked += 1;
    }
    assert!(checked >= 8);
}

#[test]
fn plateaus_are_pytorchs() {
    let all = cases("optimisers");
    let mut checked = 0;
    for case in all.iter().filter(|c| c.kind == "plateau") {
        let count = |key| u64::try_from(case.int(key)).expect("a count");
        let mut plateau = Plateau::new(case.real("lr")).patience(count("patience"));
        if case.has_attr("mode") {
            plateau = plateau.more_is_better();
        }
        if case.has_attr("cooldown") {
            plateau = plateau.cooldown(count("cooldown"));
        }
        plateau = with!(case, plateau, "factor" factor real, "min_lr" min_lr real);
        plateau = match case.has_attr("threshold_mode") {
            true => plateau.absolute_threshold(case.real("threshold")),
            false => with!(case, plateau, "threshold" threshold real),
        };
        for (measure, want) in case.reals("measures").into_iter().zip(case.reals("values")) {
            // Each measure is taken by one that has been saved and loaded.
            let mut next = plateau.clone();
            next.load_state(&plateau.state()).expect("its own state");
            // A number read from JSON is off by a bit now and then.
            let got = next.observe(measure);
            assert!((got / want - 1.0).abs() < 1e-15, "{}: {got} for {want}", case.name);
            assert_eq!(next.lr(), got);
            plateau = next;
        }
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn momentum_follows_a_schedule() {
    let device = Device::cpu();
    let all = cases("optimisers");
    let given = all.iter().find(|c| c.kind == "gradients").expect("it is recorded");
    let params = store(&device, given);
    let mut sgd = Sgd::new(&params, 0.5).momentum(0.9);
    let before = params.get("p0").expect("it is there").get().to_vec::<f32>().expect("ready");
    assert!(sgd.set_momentum(0.25));
    for step in 0..2 {
        sgd.step(gradients(&params, given, step)).expect("it runs");
    }
    let [first, second] = [0, 1].map(|step| given.array("g0").row(step).floats().to_vec());
    let after = params.get("p0").expect("it is there").get().to_vec::<f32>().expect("ready");
    for (i, (before, after)) in before.iter().zip(after).enumerate() {
        let want = before - 0.5 * first[i] - 0.5 * (second[i] + 0.25 * first[i]);
        assert!((after - want).abs() < 1e-5, "{after} for {want}");
    }
    assert!(!Sgd::new(&params, 0.5).set_momentum(0.9), "there is no buffer for it");
    assert!(AdamW::new(&params, 0.5).set_momentum(0.9));
    assert!(!Adagrad::new(&params, 0.5).set_momentum(0.9));
}
