//! What a plan does, without looking at values where possible: launches, memory, reuse. The null device needs no
//! GPU; where shaders matter, every device is asked.

use versant_graph::{
    ConvOptions, DType, Device, DeviceKind, PoolOptions, RandomKey, Tensor, eval, explain, grad_of,
    plan_stats,
};
use versant_tests::cases::Input;
use versant_tests::{alone, devices};

fn real(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    Input::random(shape, DType::F32, (-1.0, 1.0), seed).tensor(device)
}

/// Devices of one's own: counters are not disturbed by tests that run beside.
fn own() -> [Device; 2] {
    [Device::null(), Device::cpu()]
}

/// Cross-entropy of scores and class numbers, and the gradient of the scores.
fn cross_entropy(scores: &Tensor) -> [Tensor; 2] {
    let (n, classes) = (scores.shape()[0], scores.shape()[1]);
    let target: Vec<i32> = (0..n).map(|i| (i * 7 % classes) as i32).collect();
    let target = Tensor::from_slice(scores.device(), &target, &[n]);
    let zero = Tensor::constant(scores.device(), 0f32);
    let picked = target.one_hot(classes).select(&scores.log_softmax(-1), &zero);
    let loss = picked.sum(&[-1], false).mean_all().neg();
    let grad = grad_of(&loss, &[scores]).expect("the loss depends on the scores").remove(0);
    [loss, grad]
}

#[test]
fn cross_entropy_and_its_gradient_are_two_launches() {
    for device in own() {
        for shape in [[128, 10], [32, 1000], [1, 10]] {
            let scores = real(&device, &shape, 1);
            let [loss, grad] = cross_entropy(&scores);
            let plan = explain(&[&loss, &grad]).unwrap();
            let before = device.counters();
            eval(&[&loss, &grad]).unwrap();
            let spent = device.counters() - before;
            assert!(plan.launches.len() <= 2, "{shape:?} on {}:\n{plan}", device.info().name);
            assert_eq!(spent.dispatches, plan.launches.len() as u64);
            assert_eq!(spent.submits, 1);
        }
    }
}

#[test]
fn softmax_and_layer_norm_are_one_launch() {
    for device in own() {
        let x = real(&device, &[64, 100], 2);
        let w = real(&device, &[100], 3);
        for y in [x.softmax(-1), x.log_softmax(-1), x.layer_norm(1, Some(&w), Some(&w), 1e-5), x.gelu()] {
            let plan = explain(&[&y]).unwrap();
            assert_eq!(plan.launches.len(), 1, "{plan}");
        }
        // Random numbers are made where they are used.
        let y = (x.matmul(&x.t()) + 1.0).relu().dropout(0.5, RandomKey::new(1));
        let plan = explain(&[&y]).unwrap();
        assert!(plan.launches.len() <= 2, "{plan}");
    }
}

/// Forward, backward and update of a small convolutional net.
fn training_step(parameters: &mut [Tensor; 2], n: usize, step: usize) -> f32 {
    let device = parameters[0].device().clone();
    let x = real(&device, &[n, 1, 8, 8], step as u64);
    let same = ConvOptions { padding: [1; 2], ..ConvOptions::default() };
    let h = x.conv2d(&parameters[0], &same).relu().max_pool2d(&PoolOptions::new([2, 2]));
    let scores = h.flatten(1).matmul(&parameters[1]);
    let target: Vec<i32> = (0..n).map(|i| (i % 10) as i32).collect();
    let hot = Tensor::from_slice(&device, &target, &[n]).one_hot(10);
    let zero = Tensor::constant(&device, 0f32);
    let loss = hot.select(&scores.log_softmax(-1), &zero).sum(&[-1], false).mean_all().neg();
    let grads = loss.backward().unwrap();
    let rate = Tensor::scalar(&device, 0.1 / (step + 1) as f32);
    let next: Vec<Tensor> = parameters.iter().map(|p| p - grads.get(p).unwrap() * &rate).collect();
    drop((h, scores, hot, x, grads));
    for (p, next) in parameters.iter_mut().zip(next) {
        *p = next;
    }
    eval(&[&parameters[0], &parameters[1], &loss]).unwrap();
    for p in parameters.iter_mut() {
        *p = p.clone().into_parameter("p").unwrap();
    }
    loss.item::<f32>().unwrap()
}

#[test]
fn a_short_last_batch_compiles_nothing() {
    let _alone = alone();
    for device in devices() {
        let new = |shape: &[usize], seed| real(&device, shape, seed).into_parameter("p").unwrap();
        let mut parameters = [new(&[4, 1, 3, 3], 1), new(&[64, 10], 2)];
        for step in 0..2 {
            training_step(&mut parameters, 32, step);
        }
        let (before, plans) = (device.counters(), plan_stats(&device));
        for step in 2..5 {
            training_step(&mut parameters, 32, step);
        }
        let (steady, after) = (device.counters() - before, plan_stats(&device));
        assert_eq!(after.misses, plans.misses, "the same step replays the same plan");
        assert_eq!(steady.pipelines + steady.shader_modules + steady.prepares, 0, "{steady:?}");
        assert_eq!(steady.submits, 3, "one submit a step: {steady:?}");
        let before = device.counters();
        for n in [19, 7, 2] {
            training_step(&mut parameters, n, 9);
        }
        let short = device.counters() - before;
        assert_eq!(plan_stats(&device).misses, after.misses + 3, "another batch is another plan");
        assert_eq!((short.shader_modules, short.pipelines), (0, 0), "on {}: {short:?}", device.info().name);
    }
}

/// Runs on a thread with a stack on which recursion over the graph would overflow at once.
fn on_a_small_stack(f: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(f).expect("a thread");
    thread.join().expect("the small stack suffices");
}

const MILLION: usize = 1_000_000;

fn chain(device: &Device, nodes: usize) -> Tensor {
    let mut x = real(device, &[4], 1);
    for _ in 0..nodes / 2 {
        x = (x + 1.0).abs();
    }
    x
}

#[test]
fn a_million_nodes_drop_on_a_small_stack() {
    on_a_small_stack(|| drop(chain(&Device::null(), MILLION)));
    // What is to be computed alongside has weak links to it.
    on_a_small_stack(|| {
        let mut x = real(&Device::null(), &[4], 1);
        for _ in 0..MILLION / 2 {
            x = (x + 1.0).detach();
        }
    });
}

#[test]
fn a_million_nodes_evaluate_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = Device::cpu();
        let start = real(&device, &[4], 1).to_vec::<f32>().unwrap();
        let x = chain(&device, MILLION);
        let got = x.to_vec::<f32>().unwrap();
        for (got, start) in got.iter().zip(start) {
            // Every addition rounds to the spacing of the sum, at most 2^-4 at half a million.
            let want = start + MILLION as f32 / 2.0;
            assert!((got - want).abs() <= 0.1 * want, "{got} instead of {want}");
        }
    });
}

#[test]
fn a_long_chain_differentiates_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = Device::cpu();
        let x = real(&device, &[4], 1).into_parameter("x").unwrap();
        let mut y = &x + 3.0;
        for _ in 0..50_000 {
            y = (y + 1.0).relu();
        }
        let grads = y.sum_all().backward().unwrap();
        drop(y);
        let grad = grads.get(&x).unwrap().clone();
        drop(grads);
        assert_eq!(grad.to_vec::<f32>().unwrap(), [1.0; 4]);
    });
}

#[test]
fn a_buffer_that_only_the_plan_owns_is_updated_in_place() {
    for device in own() {
        let mut p = real(&device, &[1000], 1);
        let mut step = |k: usize| {
            p = p.clone() * 0.5 + Tensor::scalar(&device, k as f32);
            eval(&[&p]).unwrap();
        };
        (0..3).for_each(&mut step);
        let (before, memory) = (device.counters(), device.memory());
        (3..10).for_each(&mut step);
        let spent = device.counters() - before;
        assert_eq!((spent.buffers_allocated, spent.pool_hits, spent.bind_groups), (0, 0, 0), "{spent:?}");
        assert_eq!(device.memory().current, memory.current);
    }
}

#[test]
fn a_value_that_somebody_holds_is_not_overwritten() {
    let _alone = alone();
    for device in devices() {
        let p = Tensor::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0], &[4]);
        let (clone, view, parameter) =
            (p.clone(), p.narrow(0, 1, 2), p.clone().into_parameter("shared").unwrap());
        let q = &p + 1.0;
        drop(p);
        assert_eq!(q.to_vec::<f32>().unwrap(), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(clone.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        drop(clone);
        let r = &parameter * 2.0;
        drop(parameter);
        assert_eq!(r.to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(view.to_vec::<f32>().unwrap(), [2.0, 3.0]);
        // Held by a graph that is not evaluated yet.
        let a = Tensor::from_slice(&device, &[1.0f32, 2.0], &[2]);
        let later = &a * 10.0;
        let now = a + 1.0;
        assert_eq!(now.to_vec::<f32>().unwrap(), [2.0, 3.0]);
        drop(now);
        assert_eq!(later.to_vec::<f32>().unwrap(), [10.0, 20.0]);
    }
}

#[test]
fn nothing_is_computed_twice() {
    for device in own() {
        let x = real(&device, &[64, 64], 1);
        let shared = x.matmul(&x).tanh();
        let (a, b) = (&shared + 1.0, shared.sum(&[1], false));
        let plan = explain(&[&a, &b]).unwrap();
        assert_eq!(plan.launches_with("matmul").count(), 1, "{plan}");
        assert_eq!(plan.launches_with("tanh").count(), 1, "{plan}");
        // A held value is kept, and what needs it later reads it.
        eval(&[&a]).unwrap();
        assert!(shared.is_ready() && !b.is_ready());
        let plan = explain(&[&b]).unwrap();
        assert_eq!(plan.launches_with("tanh").count() + plan.launches_with("matmul").count(), 0, "{plan}");
        // Two recordings of one expression are one computation.
        let (c, d) = (x.exp().sum_all(), x.exp().sum_all() * 2.0);
        let plan = explain(&[&c, &d]).unwrap();
        assert_eq!(plan.launches_with("exp").count(), 1, "{plan}");
        let before = device.counters();
        eval(&[&a, &shared]).unwrap();
        assert_eq!((device.counters() - before).dispatches, 0, "a ready value costs nothing");
    }
}

/// Truncated backpropagation through time: a state outlives its step, and what it was made from does not.
#[test]
fn a_detached_state_is_computed_with_its_step() {
    for device in own() {
        let w = real(&device, &[8, 8], 1);
        let mut state = Tensor::zeros(&device, &[4, 8]);
        // Nothing that is computed leads to this.
        let other = (&w * 2.0).detach();
        let mut spent = Vec::new();
        for step in 0..6 {
            let h = (real(&device, &[4, 8], step).matmul(&w) + &state).tanh();
            state = (&h * 0.5).detach();
            let loss = (&h * &h).mean_all();
            drop(h);
            let grad = grad_of(&loss, &[&w]).unwrap().remove(0);
            let (before, misses) = (device.counters(), plan_stats(&device).misses);
            eval(&[&loss, &grad]).unwrap();
            assert!(state.is_ready() && !other.is_ready(), "step {step} on {}", device.info().name);
            let counters = device.counters() - before;
            spent.push((counters.dispatches, counters.submits, plan_stats(&device).misses - misses));
        }
        // From the second step on the state is one of the plan's results like any other.
        assert!(spent[2..].iter().all(|s| *s == (spent[2].0, 1, 0)), "{spent:?}");
    }
}

#[test]
fn intermediate_buffers_are_reused() {
    for device in own() {
        let x = real(&device, &[64, 64], 1);
        let mut y = x.clone();
        for _ in 0..20 {
            y = y.matmul(&x) * 0.1;
        }
        let plan = explain(&[&y]).unwrap();
        let one = 64 * 64 * 4;
        assert!(plan.footprint.workspace <= 2 * one as u64, "20 products need two buffers in turn:\n{plan}");
        assert!(plan.peak.1 <= 2 * one, "{plan}");
        eval(&[&y]).unwrap();
        device.reset_peak();
        let before = device.memory();
        let again = (0..20).fold(x.clone(), |y, _| y.matmul(&x) * 0.1);
        eval(&[&again]).unwrap();
        let grown = device.memory().peak - before.current;
        assert!(grown <= 2 * one as u64, "{grown} bytes more at the peak");
    }
}

#[test]
fn equal_graphs_share_a_plan_whatever_their_numbers() {
    for device in own() {
        let before = plan_stats(&device);
        for k in 0..5 {
            let x = real(&device, &[3, 7], k);
            let y = (x * Tensor::scalar(&device, k as f32)).exp().dropout(0.5, RandomKey::new(k));
            eval(&[&y]).unwrap();
        }
        let after = plan_stats(&device);
        assert_eq!((after.misses - before.misses, after.hits - before.hits), (1, 4));
        // A constant is part of the definition.
        for k in 0..2 {
            eval(&[&(real(&device, &[3, 7], 1) * k as f32)]).unwrap();
        }
        assert_eq!(plan_stats(&device).misses - after.misses, 2);
    }
}

#[test]
fn the_null_device_plans_like_a_gpu() {
    let device = Device::null();
    assert_eq!(device.info().kind, DeviceKind::Null);
    let x = real(&device, &[2, 3], 1);
    assert_eq!((&x + 1.0).to_vec::<f32>().unwrap().len(), 6);
}
