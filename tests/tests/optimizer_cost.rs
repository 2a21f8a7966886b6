//! What a training step costs from the second on: one replayed plan, updated in place, whatever the number of
//! parameters.
//!
//! The counters belong to a device, so nothing else runs beside these tests.

use versant_device::Counters;
use versant_graph::{Device, DeviceKind, Tensor, latest_plan, plan_stats};
use versant_nn::{
    Adagrad, Adam, AdamW, Adamax, Average, Init, Lamb, Lion, Muon, NAdam, Optimizer, Param, ParamGroup,
    Params, RmsProp, Seed, Sgd,
};
use versant_tests::{alone, devices};

fn all_devices() -> Vec<Device> {
    let mut all = devices();
    all.push(Device::null());
    all
}

/// A net of `layers` linear layers with biases, of odd sizes.
struct Net(Vec<(Param, Param)>);

impl Net {
    fn new(params: &Params, layers: usize) -> Net {
        let layer = |i: usize| {
            let scope = params / format!("layer{i}");
            let (n, m) = (5 + i % 3, 5 + (i + 1) % 3);
            let weight = scope.parameter("weight", &[n, m], Init::XavierUniform { gain: 1.0 });
            (weight, scope.parameter("bias", &[m], Init::FanIn { fan_in: n }))
        };
        Net((0..layers).map(layer).collect())
    }

    fn loss(&self, x: &Tensor) -> Tensor {
        let h = self.0.iter().fold(x.clone(), |h, (w, b)| (h.matmul(&w.get()) + b.get()).tanh());
        (&h * &h).mean_all()
    }
}

/// The optimisers of the test by name. The further rules are elementwise like these: of them the null device counts.
const OPTIMIZERS: [&str; 6] = ["sgd", "nesterov", "adam", "adamw", "clipped", "grouped"];
const FURTHER: [&str; 6] = ["rmsprop", "adagrad", "adamax", "nadam", "lion", "amsgrad"];

fn optimizer(name: &str, params: &Params) -> Box<dyn Optimizer> {
    match name {
        "sgd" => Box::new(Sgd::new(params, 0.1)),
        "nesterov" => Box::new(Sgd::new(params, 0.1).momentum(0.9).nesterov(true).weight_decay(1e-3)),
        "adam" => Box::new(Adam::new(params, 0.01).weight_decay(1e-3)),
        "adamw" => Box::new(AdamW::new(params, 0.01)),
        "rmsprop" => Box::new(RmsProp::new(params, 0.01).centered(true).momentum(0.5)),
        "adagrad" => Box::new(Adagrad::new(params, 0.01).lr_decay(0.1)),
        "adamax" => Box::new(Adamax::new(params, 0.01)),
        "nadam" => Box::new(NAdam::new(params, 0.01)),
        "lion" => Box::new(Lion::new(params, 0.01).weight_decay(0.1)),
        "amsgrad" => Box::new(AdamW::new(params, 0.01).amsgrad(true)),
        "lamb" => Box::new(Lamb::new(params, 0.01)),
        "muon" => Box::new(Muon::new(params, 0.01)),
        // Three groups and an average cost no launch, no buffer and no plan either.
        "grouped" => Box::new(
            AdamW::new(params, 0.01)
                .group(ParamGroup::new("*.bias").weight_decay(0.0))
                .group(ParamGroup::new("layer0.*").lr_scale(0.1))
                .average(Average::exponential(0.99).warm_up()),
        ),
        _ => Box::new(AdamW::new(params, 0.01).clip_norm(1.0)),
    }
}

/// Trains, and checks what every step after the first does.
fn run(device: &Device, layers: usize, name: &str, most: usize) {
    let params = Params::new(device, Seed(7));
    let net = Net::new(&params, layers);
    let mut optimizer = optimizer(name, &params);
    let what = format!("{name}, {layers} layers on {}", device.info().name);
    let values: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Tensor::from_slice(device, &values, &[4, 5]);
    let mut before = None;
    let steps = 8;
    for step in 0..steps {
        let misses = plan_stats(device).misses;
        let loss = net.loss(&x);
        optimizer.set_lr(0.01 + 0.001 * f64::from(step));
        optimizer.step(loss.backward().expect("the net is differentiable")).expect("it runs");
        let made = plan_stats(device).misses - misses;
        assert_eq!(made, u64::from(step == 0), "{what}: plans made in step {step}");
        // In the first two steps the pool has no buffer for the loss, because the previous one is alive.
        match before {
            None if step == 1 => before = Some(device.counters()),
            None => {}
            Some(counters) => {
                let steps = u64::try_from(step - 1).expect("it is positive");
                steady(&what, device.counters() - counters, steps);
            }
        }
    }
    launches(device, &what, most);
}

fn steady(what: &str, did: Counters, steps: u64) {
    assert_eq!(did.buffers_allocated, 0, "{what}: {did:?}");
    assert_eq!((did.bind_groups, did.pipelines, did.shader_modules), (0, 0, 0), "{what}: {did:?}");
    assert_eq!(did.submits, steps, "{what}: {did:?}");
    // The loss, and the norm where it is taken: parameters and states stay where they are.
    let fresh = if what.starts_with("clipped") { 2 } else { 1 };
    assert_eq!(did.pool_hits, fresh * steps, "{what}: {did:?}");
    assert_eq!((did.prepares, did.uploads, did.readbacks), (0, 0, 0), "{what}: {did:?}");
}

fn launches(device: &Device, what: &str, most: usize) {
    let plan = latest_plan(device).expect("a step ran");
    // Gradient kernels write straight into the joined gradient, which is recorded in `optim/flat.rs`.
    let ours = |file: &str| {
        (file.contains("src/optim/") && !file.contains("flat")) || file.ends_with("nn/src/clip.rs")
    };
    let here = |l: &&versant_graph::LaunchNote| l.lines.iter().any(|l| ours(l.file()));
    let count = plan.launches.iter().filter(here).count();
    println!("{what}: {} launches, {count} of them the optimiser's", plan.launches.len());
    assert!(count <= most, "{what}: {count} launches\n{plan}");
}

#[test]
fn a_step_is_one_replayed_plan() {
    let _alone = alone();
    for device in all_devices() {
        for layers in [1, 15] {
            for name in OPTIMIZERS {
                run(&device, layers, name, 2);
            }
        }
    }
    for name in FURTHER {
        run(&Device::null(), 15, name, 2);
    }
}

/// What rules that need each parameter for itself cost, by kinds of parameters and not by their number.
#[test]
fn norms_and_products_are_taken_by_kinds() {
    let _alone = alone();
    // Weights have 3 shapes, each of which takes 15 products. All norms are one launch, whatever the lengths.
    for (name, most) in [("lamb", 3), ("muon", 58)] {
        for layers in [6, 15] {
            run(&Device::null(), layers, name, most);
        }
    }
}

/// Sum of squares of every parameter, and a step by its gradient.
fn shrink(params: &Params, optimizer: &mut dyn Optimizer) -> versant_nn::Result<()> {
    let squares = params.iter().filter(Param::is_trainable).map(|p| (p.get() * p.get()).sum_all());
    let loss = squares.reduce(|a, b| a + b).expect("there are parameters");
    optimizer.step(loss.backward()?)
}

#[test]
fn pending_buffers_are_computed_with_the_step() {
    let _alone = alone();
    for device in all_devices() {
        let params = Params::new(&device, Seed(1));
        params.root().parameter("p", &[3], Init::Ones);
        let mean = params.root().buffer("mean", &[1], Init::Zeros);
        let mut sgd = Sgd::new(&params, 0.25);
        let mut before = device.counters();
        for step in 0..4 {
            if step == 2 {
                before = device.counters();
            }
            mean.set(mean.get() * 0.5 + 1.0);
            shrink(&params, &mut sgd).expect("it runs");
            assert!(mean.get().is_ready());
        }
        let did = device.counters() - before;
        // The loss of each step is the only new value.
        assert_eq!((did.submits, did.prepares, did.pool_hits), (2, 0, 2), "{did:?}");
        if device.info().kind != DeviceKind::Null {
            assert_eq!(mean.get().to_vec::<f32>().expect("it is ready"), [1.875]);
        }
    }
}
