//! What optimisers do when nets change, gradients are wrong, or a step fails.

use versant_graph::{Device, Tensor};
use versant_nn::{Init, NnError, Optimizer, Param, Params, Seed, Sgd};
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
