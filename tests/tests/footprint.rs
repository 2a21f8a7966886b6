//! What a plan says of itself before it runs: the memory it needs, which the pool then measures, and on request the
//! time of its launches.

use versant_device::{DeviceError, DeviceOptions, Select};
use versant_graph::{Device, DeviceKind, Tensor, eval, explain, explain_timed, latest_plan};
use versant_nn::layers::{BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Relu};
use versant_nn::{AdamW, Losses, Mode, Module, Optimizer, Params, Seed};

/// Devices of one's own, which hold nothing: memory is measured.
fn own() -> Vec<Device> {
    let name = std::env::var("VERSANT_TEST_DEVICE").unwrap_or_default();
    let select = match name.as_str() {
        "cpu" => return vec![Device::null(), Device::cpu()],
        "" => Select::Gpu,
        name => name.parse().expect("every name is a selection"),
    };
    let mut all = vec![Device::null(), Device::cpu()];
    match Device::open(&DeviceOptions { timestamps: true, ..DeviceOptions::select(select) }) {
        Ok(device) => all.push(device),
        Err(DeviceError::NoAdapter { .. }) if std::env::var_os("VERSANT_REQUIRE_GPU").is_none() => {
            eprintln!("SKIPPED on the GPU: there is none");
        }
        Err(error) => panic!("{error}"),
    }
    all
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect()
}

#[test]
fn the_plan_knows_its_memory_before_the_first_run() {
    for device in own() {
        let tensor = |dims: &[usize]| Tensor::from_slice(&device, &values(dims.iter().product()), dims);
        let (x, w1, w2) = (tensor(&[33, 70]), tensor(&[70, 91]), tensor(&[91, 13]));
        let scale = Tensor::scalar(&device, 0.5);
        let hidden = (x.matmul(&w1) * &scale).tanh();
        let out = hidden.matmul(&w2).softmax(-1);
        drop(hidden);
        let plan = explain(&[&out]).unwrap();
        assert!(plan.footprint.workspace >= 4 * 33 * 91, "{plan}");
        device.reset_peak();
        eval(&[&out]).unwrap();
        assert_eq!(device.memory().peak, plan.footprint.total(), "{device:?}: {plan}");
        let text = plan.to_string();
        assert!(text.contains("of device memory"), "{text}");
    }
}

#[test]
fn a_training_step_measures_what_its_plan_says() {
    for device in own() {
        let vs = Params::new(&device, Seed(3));
        let net = (
            Conv2d::new(&(&vs / "conv"), 1, 6, 3).pad(1).no_bias(),
            BatchNorm2d::new(&(&vs / "norm"), 6),
            Relu,
            MaxPool2d::new(2),
            Flatten::new(),
            Linear::new(&(&vs / "fc"), 6 * 4 * 4, 4),
        );
        let mut opt = AdamW::new(&vs, 1e-3);
        for step in 0..4 {
            let x = Tensor::from_slice(&device, &values(13 * 64), &[13, 1, 8, 8]);
            let y = Tensor::from_slice(&device, &[step; 13], &[13]);
            device.reset_peak();
            let loss = net.forward(&x, Mode::Train).cross_entropy(&y);
            drop((x, y));
            let grads = loss.backward().unwrap();
            opt.step(grads).unwrap();
            let plan = latest_plan(&device).expect("a step ran");
            if step >= 2 {
                assert_eq!(device.memory().peak, plan.footprint.total(), "{device:?} {step}: {plan}");
            }
        }
    }
}

#[test]
fn launches_are_timed_beside_what_the_device_can_do() {
    for device in own() {
        let n = 64;
        let a = Tensor::from_slice(&device, &values(n * n), &[n, n]);
        let b = a.matmul(&a).softmax(-1);
        let timed = explain_timed(&[&b]);
        if device.info().kind == DeviceKind::Null {
            assert!(timed.is_err(), "the null device has no speed");
            continue;
        }
        let timed = timed.unwrap();
        assert!(!b.is_ready(), "nothing is computed");
        let measured = timed.measured.as_ref().expect("it was timed");
        assert_eq!(measured.nanos.len(), timed.launches.len());
        assert!(measured.nanos.iter().all(|&t| t > 0), "{timed}");
        let text = timed.to_string();
        println!("{}\n{text}", device.info());
        assert_eq!(text.matches(" GFLOP/s, ").count(), timed.launches.len(), "{text}");
        // A machine does between a hundredth and a hundred times what a core does at 10 GB/s and 10 GFLOP/s; a
        // rate outside is a mistake of a factor.
        let peak = measured.peak;
        for rate in [peak.bytes_per_second, peak.flops_per_second] {
            assert!((1e8..1e15).contains(&rate), "{peak:?}");
        }
        assert_eq!(device.peak(), Ok(peak), "it is measured once");
        assert!(b.to_vec::<f32>().unwrap().iter().all(|v| v.is_finite()));
    }
}
