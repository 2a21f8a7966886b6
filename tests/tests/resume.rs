//! A run that is stopped, rebuilt from its checkpoint and continued has the bits of one that never stopped.

use std::path::Path;

use versant_graph::{Device, RandomKey, Tensor};
use versant_nn::{
    Adagrad, AdamW, Adamax, Average, Checkpoint, HostMap, Init, Lamb, Lion, Muon, NAdam, NnError, Optimizer,
    Param, ParamGroup, Params, RandomSource, RmsProp, Schedule, Seed, Sgd,
};
use versant_tests::devices;

/// A net with everything that a checkpoint must hold: weights, a running mean, and noise.
struct Run {
    params: Params,
    weight: Param,
    bias: Param,
    mean: Param,
    noise: RandomSource,
    optimizer: Box<dyn Optimizer>,
}

impl Run {
    fn new(device: &Device, seed: u64, adam: bool) -> Run {
        Run::with(device, seed, if adam { "adamw" } else { "sgd" })
    }

    fn with(device: &Device, seed: u64, rule: &str) -> Run {
        let params = Params::new(device, Seed(seed));
        let layer = &params / "layer";
        let weight = layer.parameter("weight", &[6, 5], Init::KaimingUniform { a: 0.0 });
        let bias = layer.parameter("bias", &[5], Init::FanIn { fan_in: 6 });
        let mean = layer.buffer("mean", &[5], Init::Zeros);
        let noise = layer.random();
        let optimizer: Box<dyn Optimizer> = match rule {
            "adamw" => Box::new(AdamW::new(&params, 0.0).clip_norm(0.5)),
            "rmsprop" => Box::new(RmsProp::new(&params, 0.0).centered(true).momentum(0.5)),
            "adagrad" => Box::new(Adagrad::new(&params, 0.0).lr_decay(0.1).initial_accumulator(0.3)),
            "adamax" => Box::new(Adamax::new(&params, 0.0)),
            "nadam" => Box::new(NAdam::new(&params, 0.0)),
            "lion" => Box::new(Lion::new(&params, 0.0)),
            "lamb" => Box::new(Lamb::new(&params, 0.0)),
            "muon" => Box::new(Muon::new(&params, 0.0)),
            "grouped" => Box::new(
                AdamW::new(&params, 0.0)
                    .amsgrad(true)
                    .group(ParamGroup::new("*.bias").weight_decay(0.0).lr_scale(0.5))
                    .average(Average::equal().since(3).every(3)),
            ),
            _ => Box::new(Sgd::new(&params, 0.0).momentum(0.9)),
        };
        Run { params, weight, bias, mean, noise, optimizer }
    }

    fn train(&mut self, steps: u64) -> Vec<f32> {
        let schedule = Schedule::warmup(0.1, 0.3, 3).then(3, Schedule::cosine(0.1, 9));
        let device = self.params.device().clone();
        let draw = |key: RandomKey| Tensor::rand_uniform(&device, &[4, 6], key);
        let mut losses = Vec::new();
        for _ in 0..steps {
            let h = draw(self.noise.next_key()).matmul(&self.weight.get()) + self.bias.get();
            self.mean.set(self.mean.get() * 0.9 + h.detach().mean(&[0], false) * 0.1);
            let d = h.tanh() - self.mean.get();
            let loss = (&d * &d).mean_all();
            drop((h, d));
            self.optimizer.set_lr(schedule.at(self.optimizer.steps()));
            let grads = loss.backward().expect("the net is differentiable");
            self.optimizer.step(grads).expect("it runs");
            losses.push(loss.item().expect("it is ready"));
        }
        losses
    }

    fn save(&self, folder: &Path) {
        let mut now = Checkpoint::take(&self.params, Some(&*self.optimizer)).expect("it is readable");
        now.epoch = 4;
        now.user.insert("shuffle".to_owned(), "17 \"quoted\" \u{e9}".to_owned());
        now.save_in(folder, 2).expect("the folder is writable");
    }
}

fn bits(map: &HostMap) -> Vec<(&str, Vec<u32>)> {
    map.iter().map(|(n, t)| (n.as_str(), t.data.iter().map(|x| x.to_bits()).collect())).collect()
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for device in devices() {
        for adam in [true, false] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut whole = Run::new(&device, 5, adam);
            let losses = whole.train(10);

            let mut first = Run::new(&device, 5, adam);
            assert_eq!(first.train(5), losses[..5]);
            first.save(folder.path());
            drop(first);
            // Another seed: the checkpoint's counts.
            let mut second = Run::new(&device, 99, adam);
            let found = Checkpoint::latest(folder.path()).expect("the folder is readable");
            let (_, saved) = found.checkpoint.expect("it was saved");
            assert_eq!((saved.step, saved.epoch, saved.seed), (5, 4, 5));
            assert_eq!(saved.user["shuffle"], "17 \"quoted\" \u{e9}");
            saved.restore(&second.params, Some(&mut *second.optimizer)).expect("it fits");
            assert_eq!(second.train(5), losses[5..], "on {}", device.info().name);
            let (a, b) = (whole.params.to_host(), second.params.to_host());
            let (a, b) = (a.expect("readable"), b.expect("readable"));
            assert_eq!(bits(&a), bits(&b), "on {}", device.info().name);
            let (a, b) = (whole.optimizer.state(), second.optimizer.state());
            assert_eq!(a.expect("readable"), b.expect("readable"));
        }
    }
}

/// Every rule's memory is in its state, also what parameter groups and averages add.
#[test]
fn every_rule_resumes() {
    let rules = ["rmsprop", "adagrad", "adamax", "nadam", "lion", "lamb", "muon", "grouped"];
    for (i, device) in devices().into_iter().enumerate() {
        // Kernels are the same before and after: on a graphics card one rule of each kind must do.
        let rules = if i == 0 { &rules[..] } else { &rules[5..] };
        for rule in rules {
            let folder = tempfile::tempdir().expect("a folder");
            let mut whole = Run::with(&device, 5, rule);
            let losses = whole.train(7);
            let mut first = Run::with(&device, 5, rule);
            first.train(4);
            first.save(folder.path());
            let mut second = Run::with(&device, 99, rule);
            let saved = Checkpoint::latest(folder.path()).expect("readable").checkpoint.expect("saved").1;
            saved.restore(&second.params, Some(&mut *second.optimizer)).expect("it fits");
            assert_eq!(second.train(3), losses[4..], "{rule} on {}", device.info().name);
            let [a, b] = [&whole, &second].map(|run| run.params.to_host().expect("readable"));
            assert_eq!(bits(&a), bits(&b), "{rule} on {}", device.info().name);
            let [a, b] = [&whole, &second].map(|run| run.optimizer.state().expect("readable"));
            assert_eq!(a, b, "{rule}");
            assert_eq!(*rule == "grouped", whole.optimizer.averages().is_ok());
        }
    }
}

#[test]
fn the_comparison_notices_what_is_not_restored() {
    let device = Device::cpu();
    let folder = tempfile::tempdir().expect("a folder");
    let mut whole = Run::new(&device, 5, true);
    let losses = whole.train(10);
    let mut first = Run::new(&device, 5, true);
    first.train(5);
    first.save(folder.path());
    let saved = Checkpoint::latest(folder.path()).expect("readable").checkpoint.expect("saved").1;
    // Parameters without the optimiser's memory and the random streams.
    let mut half = Run::new(&device, 5, true);
    half.params.from_host(saved.params()).expect("it fits");
    assert_ne!(half.train(5), losses[5..]);
}

#[test]
fn the_last_few_are_kept_and_damaged_ones_passed_over() {
    let device = Device::cpu();
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Checkpoint::latest(folder.path().join("none")).expect("no folder").checkpoint.is_none());
    let mut run = Run::new(&device, 5, true);
    for _ in 0..4 {
        run.train(1);
        run.save(folder.path());
    }
    let names = || {
        let entries = std::fs::read_dir(folder.path()).expect("readable");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("readable").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["step-000000000003.safetensors", "step-000000000004.safetensors"]);
    // What a killed writer leaves is no checkpoint, and goes with the next one.
    let leftover = folder.path().join(".step-000000000005.safetensors.123-0.tmp");
    std::fs::write(&leftover, b"half").expect("writable");
    let newest = folder.path().join("step-000000000004.safetensors");
    let whole = std::fs::read(&newest).expect("readable");
    std::fs::write(&newest, &whole[..whole.len() / 2]).expect("writable");
    let found = Checkpoint::latest(folder.path()).expect("readable");
    assert_eq!(found.checkpoint.expect("the older one").1.step, 3);
    assert!(matches!(found.skipped[..], [NnError::Truncated { .. }]), "{:?}", found.skipped);
    run.train(1);
    run.save(folder.path());
    assert!(!leftover.exists());
    assert_eq!(Checkpoint::latest(folder.path()).expect("readable").checkpoint.expect("new").1.step, 5);
}

#[test]
fn a_checkpoint_of_another_run_is_refused_whole() {
    let device = Device::cpu();
    let folder = tempfile::tempdir().expect("a folder");
    let mut adam = Run::new(&device, 5, true);
    adam.train(2);
    adam.save(folder.path());
    let (_, saved) = Checkpoint::latest(folder.path()).expect("readable").checkpoint.expect("saved");
    let mut sgd = Run::new(&device, 6, false);
    let before = sgd.params.to_host().expect("readable");
    let error = saved.restore(&sgd.params, Some(&mut *sgd.optimizer)).expect_err("another optimiser");
    assert!(matches!(error, NnError::OtherOptimizer { .. }), "{error}");
    (&sgd.params / "more").parameter("w", &[1], Init::Ones);
    let error = saved.restore(&sgd.params, None).expect_err("another net");
    assert!(error.to_string().contains("missing more.w"), "{error}");
    let mut after = sgd.params.to_host().expect("readable");
    after.remove("more.w");
    assert_eq!(before, after);
}
