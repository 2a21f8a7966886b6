//! What optimisers do when nets change, gradients are wrong, or a step fails.

use versant_graph::{Device, Tensor};
use versant_nn::{
    Adagrad, Adam, Adamax, Average, Checkpoint, Init, Lamb, Lion, Muon, NAdam, NnError, Optimizer, Param,
    ParamGroup, Params, RmsProp, Seed, Sgd,
};
use versant_tests::devices;

/// Sum of squares of every parameter, and a step by its gradient.
fn shrink(params: &Params, optimizer: &mut dyn Optimizer) -> versant_nn::Result<()> {
    let squares = params.iter().filter(Param::is_trainable).map(|p| (p.get() * p.get()).sum_all());
    let loss = squares.reduce(|a, b| a + b).expect("there are parameters");
    optimizer.step(loss.backward()?)
}

fn value(param: &Param) -> Vec<f32> {
    param.get().to_vec().expect("a parameter has a value")
}

#[test]
fn a_kept_tensor_keeps_its_value() {
    for device in devices() {
        let params = Params::new(&device, Seed(1));
        let p = params.root().parameter("p", &[3], Init::Ones);
        let mut sgd = Sgd::new(&params, 0.25);
        let kept = p.get();
        for _ in 0..2 {
            shrink(&params, &mut sgd).expect("it runs");
        }
        assert_eq!(kept.to_vec::<f32>().expect("it is ready"), [1.0; 3]);
        assert_eq!(value(&p), [0.25; 3]);
    }
}

#[test]
fn problems_are_found_before_anything_changes() {
    let device = Device::cpu();
    let params = Params::new(&device, Seed(1));
    let p = params.root().parameter("p", &[2], Init::Ones);
    let q = params.root().parameter("q", &[2, 2], Init::Ones);
    let frozen = params.root().parameter("frozen", &[2], Init::Ones);
    let mut sgd = Sgd::new(&params, 0.25);
    let loss = |params: &[&Param]| params.iter().map(|p| p.get().sum_all()).reduce(|a, b| a + b);
    let grads = |params: &[&Param]| loss(params).expect("not empty").backward().expect("a sum");
    let message = |e: Result<(), NnError>| e.expect_err("it must fail").to_string();

    let unreached = message(sgd.step(grads(&[&p])));
    assert!(unreached.contains("q, frozen"), "{unreached}");
    let all = grads(&[&p, &q, &frozen]);
    params.freeze("fro*").expect("it is ready");
    // A gradient from before the freezing is ignored; the others are used.
    sgd.step(all).expect("it runs");
    assert_eq!((value(&p), value(&frozen)), (vec![0.75; 2], vec![1.0; 2]));
    assert!(grads(&[&p, &q]).len() == 2 && loss(&[&frozen]).expect("one").backward().is_err());

    let old = grads(&[&p, &q]);
    sgd.step(grads(&[&p, &q])).expect("it runs");
    assert!(matches!(sgd.step(old), Err(NnError::StaleGradients { names }) if names.len() == 2));

    let alien = Tensor::ones(&device, &[2]).into_parameter("alien").expect("it is computed");
    let both = (loss(&[&p, &q]).expect("two") + alien.sum_all()).backward().expect("a sum");
    assert!(message(sgd.step(both)).contains("alien"));
    let wrong = grads(&[&p, &q]).map(|g| g.reshape(&[-1, 1]));
    assert!(message(sgd.step(wrong)).contains("gradient of q is f32[4, 1]"));
    let broken = grads(&[&p, &q]).map(|g| g.reshape(&[3]));
    assert!(message(sgd.step(broken)).contains("reshape"));
    for lr in [f64::NAN, -1.0, f64::INFINITY] {
        sgd.set_lr(lr);
        assert!(message(sgd.step(grads(&[&p, &q]))).contains("learning rate"));
    }
    assert_eq!(value(&p), vec![0.5; 2]);
    assert_eq!(sgd.steps(), 2);
}

#[test]
fn a_failed_step_is_not_lost() {
    let device = Device::cpu();
    let params = Params::new(&device, Seed(1));
    let p = params.root().parameter("p", &[3], Init::Ones);
    let q = params.root().parameter("q", &[4], Init::Ones);
    let mean = params.root().buffer("mean", &[1], Init::Zeros);
    let mut sgd = Sgd::new(&params, 0.25).momentum(0.5);
    let elsewhere = Tensor::ones(&Device::null(), &[1]);
    mean.set(elsewhere);
    assert!(shrink(&params, &mut sgd).is_err());
    mean.set(Tensor::ones(&device, &[1]));
    // The step above stays recorded: p = 1 - 2/4.
    assert_eq!((value(&p), value(&q)), (vec![0.5; 3], vec![0.5; 4]));
    shrink(&params, &mut sgd).expect("the buffer is repaired");
    // The momentum is 2/2 + 1, so p = 1/2 - 2/4.
    assert_eq!((value(&p), value(&q)), (vec![0.0; 3], vec![0.0; 4]));
    assert_eq!((value(&mean), sgd.steps()), (vec![1.0], 2));
}

#[test]
fn freezing_and_growing_keep_the_memory_of_the_others() {
    for device in devices() {
        let params = Params::new(&device, Seed(1));
        let p = params.root().parameter("p", &[3], Init::Ones);
        let q = params.root().parameter("q", &[4], Init::Ones);
        let mut sgd = Sgd::new(&params, 0.25).momentum(0.5);
        shrink(&params, &mut sgd).expect("p = 1/2, momentum 2");
        assert_eq!(params.freeze("q").expect("ready"), 1);
        shrink(&params, &mut sgd).expect("p = 0, momentum 2");
        assert_eq!((value(&p), value(&q)), (vec![0.0; 3], vec![0.5; 4]));
        let late = params.root().parameter("late", &[2, 2], Init::Ones);
        assert_eq!(params.unfreeze("*").expect("ready"), 1);
        shrink(&params, &mut sgd).expect("momenta: p 1, q 2, late 2");
        assert_eq!((value(&p), value(&q)), (vec![-0.25; 3], vec![0.0; 4]));
        assert_eq!(value(&late), [0.5; 4]);
    }
}

#[test]
fn two_optimisers_share_a_store() {
    let device = Device::cpu();
    let params = Params::new(&device, Seed(1));
    let a = (&params / "a").parameter("w", &[3], Init::Ones);
    let b = (&params / "b").parameter("w", &[4], Init::Ones);
    let mut first = Sgd::new(&params, 0.25).only("a.*");
    let mut second = Sgd::new(&params, 0.125);
    shrink(&params, &mut first).expect("a = 1/2");
    shrink(&params, &mut second).expect("a = 3/8, b = 3/4");
    shrink(&params, &mut first).expect("a = 3/16");
    assert_eq!((value(&a), value(&b)), (vec![0.1875; 3], vec![0.75; 4]));
    let mut none = Sgd::new(&params, 0.1).only("c.*");
    assert!(matches!(shrink(&params, &mut none), Err(NnError::NoParameters { .. })));
}

#[test]
fn groups_have_their_own_settings() {
    for device in devices() {
        let params = Params::new(&device, Seed(1));
        let [a, b, c] = ["a.bias", "b.weight", "c.bias"].map(|name| {
            let (scope, name) = name.split_once('.').expect("a path");
            (&params / scope).parameter(name, &[3], Init::Ones)
        });
        // A parameter is in the first group that it matches.
        let mut sgd = Sgd::new(&params, 0.25)
            .weight_decay(2.0)
            .group(ParamGroup::new("c.*").lr_scale(0.5))
            .group(ParamGroup::new("*.bias").weight_decay(0.0));
        shrink(&params, &mut sgd).expect("gradients 2, decay 2");
        assert_eq!((value(&a), value(&b), value(&c)), (vec![0.5; 3], vec![0.0; 3], vec![0.5; 3]));
        assert!(sgd.set_lr_scale("c.*", 0.0) && !sgd.set_lr_scale("d.*", 1.0));
        shrink(&params, &mut sgd).expect("gradient 1");
        assert_eq!((value(&a), value(&b), value(&c)), (vec![0.25; 3], vec![0.0; 3], vec![0.5; 3]));
        // Groups hold for what is left after freezing, and for what comes later.
        params.freeze("a.*").expect("ready");
        let late = (&params / "d").parameter("bias", &[2], Init::Ones);
        sgd.set_lr_scale("c.*", 1.0);
        shrink(&params, &mut sgd).expect("it runs");
        assert_eq!((value(&a), value(&c), value(&late)), (vec![0.25; 3], vec![0.0; 3], vec![0.5; 2]));
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let device = Device::cpu();
    let params = Params::new(&device, Seed(1));
    let w = params.root().parameter("w", &[2, 2], Init::Ones);
    let p = &params;
    let nan = f64::NAN;
    let wrong: Vec<(&str, Box<dyn Optimizer>)> = vec![
        ("alpha", Box::new(RmsProp::new(p, 0.1).alpha(1.0))),
        ("momentum", Box::new(RmsProp::new(p, 0.1).momentum(-0.1))),
        ("eps", Box::new(RmsProp::new(p, 0.1).eps(nan))),
        ("initial accumulator", Box::new(Adagrad::new(p, 0.1).initial_accumulator(-1.0))),
        ("decay of the learning rate", Box::new(Adagrad::new(p, 0.1).lr_decay(-1.0))),
        ("second beta", Box::new(Adamax::new(p, 0.1).betas(0.9, 1.0))),
        ("decay of the momentum", Box::new(NAdam::new(p, 0.1).momentum_decay(nan))),
        ("first beta", Box::new(Lion::new(p, 0.1).betas(-0.5, 0.9))),
        ("weight decay", Box::new(Lamb::new(p, 0.1).weight_decay(-1.0))),
        ("eps is 0", Box::new(Muon::new(p, 0.1).eps(0.0))),
        ("second beta", Box::new(Muon::new(p, 0.1).adam_betas((0.9, 2.0)))),
        ("share of the learning rate", Box::new(Muon::new(p, 0.1).adam_lr_scale(-1.0))),
        ("scale of a group", Box::new(Adam::new(p, 0.1).group(ParamGroup::new("*").lr_scale(-1.0)))),
        ("decay of a group", Box::new(Adam::new(p, 0.1).group(ParamGroup::new("*").weight_decay(nan)))),
        ("matches \"w.*\"", Box::new(Adam::new(p, 0.1).group(ParamGroup::new("w.*")))),
        ("decay of the average", Box::new(Adam::new(p, 0.1).average(Average::exponential(1.0)))),
        ("between averagings", Box::new(Adam::new(p, 0.1).average(Average::equal().every(0)))),
    ];
    for (what, mut optimizer) in wrong {
        let error = shrink(&params, &mut *optimizer).expect_err(what).to_string();
        assert!(error.contains(what), "{what}: {error}");
        assert_eq!((value(&w), optimizer.steps()), (vec![1.0; 4], 0), "{what}");
    }
}

#[test]
fn averages_are_swapped_in_and_out() {
    for device in devices() {
        let params = Params::new(&device, Seed(1));
        let p = params.root().parameter("p", &[3], Init::Ones);
        let q = params.root().parameter("q", &[2, 2], Init::Ones);
        let mut sgd = Sgd::new(&params, 0.25).average(Average::equal().since(2));
        assert!(matches!(sgd.swap_average(), Err(NnError::NoAverage)));
        shrink(&params, &mut sgd).expect("1/2, not averaged");
        assert!(matches!(sgd.averages(), Err(NnError::NoAverage)));
        shrink(&params, &mut sgd).expect("1/4");
        shrink(&params, &mut sgd).expect("1/8");
        let saved = Checkpoint::take(&params, Some(&sgd)).expect("readable");
        sgd.swap_average().expect("there is one");
        assert_eq!((value(&p), value(&q)), (vec![0.1875; 3], vec![0.1875; 4]));
        assert_eq!(sgd.averages().expect("readable")["q"].data, [0.1875; 4]);
        // Averages are for evaluation only.
        let in_place = |e: versant_nn::Result<()>| matches!(e, Err(NnError::AverageInPlace));
        assert!(in_place(shrink(&params, &mut sgd)));
        assert!(in_place(Checkpoint::take(&params, Some(&sgd)).map(|_| ())));
        assert!(in_place(saved.restore(&params, Some(&mut sgd))));
        sgd.swap_average().expect("back");
        assert_eq!((value(&p), value(&q)), (vec![0.125; 3], vec![0.125; 4]));
        // A second net, such as a teacher, takes them over.
        let other = Params::new(&device, Seed(2));
        let r = other.root().parameter("p", &[3], Init::Zeros);
        let report = other.from_host_partial(&sgd.averages().expect("readable")).expect("it fits");
        assert_eq!((report.loaded, value(&r)), (vec!["p".to_owned()], vec![0.1875; 3]));
        // What is frozen later keeps its average for the time after.
        params.freeze("q").expect("ready");
        shrink(&params, &mut sgd).expect("p = 1/16");
        sgd.swap_average().expect("there is one");
        assert!((value(&p)[0] - 0.4375 / 3.0).abs() < 1e-6);
        assert_eq!(value(&q), [0.125; 4]);
        sgd.swap_average().expect("back");
        let state = sgd.state().expect("readable");
        assert_eq!(state.tensors["average/q"].data, [0.1875; 4]);
        let plain = Sgd::new(&params, 0.25);
        assert!(plain.check_state(&state).is_ok(), "an average may be left behind");
        let hasty = Adam::new(&params, 0.25).average(Average::equal());
        assert!(matches!(hasty.check_state(&state), Err(NnError::OtherOptimizer { .. })));
    }
}

#[test]
fn muon_and_lamb_follow_what_is_trained() {
    let device = Device::cpu();
    for muon in [true, false] {
        let params = Params::new(&device, Seed(1));
        let (a, b) = (
            params.root().parameter("a", &[3, 2], Init::Ones),
            params.root().parameter("b", &[5], Init::Ones),
        );
        let empty = params.root().parameter("empty", &[0, 4], Init::Ones);
        let mut optimizer: Box<dyn Optimizer> = match muon {
            true => Box::new(Muon::new(&params, 0.25).except("a*").group(ParamGroup::new("a").lr_scale(0.5))),
            false => Box::new(Lamb::new(&params, 0.25)),
        };
        shrink(&params, &mut *optimizer).expect("it runs");
        params.freeze("a").expect("ready");
        let frozen = value(&a);
        let late = params.root().parameter("c", &[2, 3], Init::Ones);
        for _ in 0..2 {
            shrink(&params, &mut *optimizer).expect("it runs");
        }
        assert_eq!(value(&a), frozen);
        assert!(value(&late)[0] < 0.9 && value(&b)[0] < 0.9 && value(&empty).is_empty());
        let state = optimizer.state().expect("readable");
        assert_eq!((state.counts["a"], state.counts["b"], state.counts["c"]), (1, 3, 2));
        assert_eq!(state.tensors.contains_key("momentum/c"), muon);
        optimizer.load_state(&state).expect("its own");
        let kind = if muon { "adamw" } else { "muon" };
        let other = versant_nn::OptimizerState { kind: kind.to_owned(), ..state };
        assert!(matches!(optimizer.load_state(&other), Err(NnError::OtherOptimizer { .. })));
    }
}
