//! Hooks and ensembles on every device.

use versant_graph::{Device, Tensor, explain};
use versant_nn::ensemble::{Snapshots, average, vote};
use versant_nn::layers::{Linear, Relu, Taps};
use versant_nn::{Losses, Mode, Module, NnError, Optimizer, Params, Seed, Sgd};
use versant_tests::devices;

fn batch(dev: &Device) -> (Tensor, Tensor) {
    let x: Vec<f32> = (0..12).map(|i| (i * 7 % 5) as f32 - 2.0).collect();
    (Tensor::from_slice(dev, &x, &[4, 3]), Tensor::from_slice(dev, &[0i32, 1, 1, 0], &[4]))
}

#[test]
fn taps_show_activations_and_gradients_and_cost_nothing_unwatched() {
    for dev in devices() {
        let params = Params::new(&dev, Seed(5));
        let taps = Taps::new();
        let (a, b) = (Linear::new(&(&params / "a"), 3, 4), Linear::new(&(&params / "b"), 4, 2));
        let net = (taps.on("hidden", (&a, Relu)), taps.on("logits", &b));
        let (x, y) = batch(&dev);
        let launches = |loss: &Tensor| {
            let grads = loss.backward().unwrap();
            let all: Vec<&Tensor> = grads.iter().map(|(_, g)| g).collect();
            explain(&all).unwrap().launches.len()
        };
        let plain = launches(&(&a, Relu, &b).forward(&x, Mode::Train).cross_entropy(&y));
        assert_eq!(launches(&net.forward(&x, Mode::Train).cross_entropy(&y)), plain, "{dev:?}");
        let (loss, seen) = taps.watch(|| net.forward(&x, Mode::Train).cross_entropy(&y));
        assert!(launches(&loss) <= plain + 1, "{dev:?}");
        let names: Vec<&str> = seen.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["hidden", "logits"]);
        let gradients = seen.gradients(&loss).unwrap();
        let hidden = seen.get("hidden").unwrap().to_vec::<f32>().unwrap();
        assert_eq!(hidden, a.forward(&x, Mode::Train).relu().to_vec::<f32>().unwrap());
        // The gradient of the logits is known: probabilities less the truth, over the batch.
        let p = seen.get("logits").unwrap().softmax(-1).to_vec::<f32>().unwrap();
        let g = gradients[1].1.to_vec::<f32>().unwrap();
        for (i, (g, p)) in g.iter().zip(&p).enumerate() {
            let truth = f32::from(u8::from([0, 1, 1, 0][i / 2] == i % 2));
            assert!((g - (p - truth) / 4.0).abs() < 1e-6, "{dev:?}: {g} of {p}");
        }
        assert!(seen.get("other").is_none());
    }
}

#[test]
fn snapshots_answer_in_turn_and_leave_the_parameters() {
    for dev in devices() {
        let params = Params::new(&dev, Seed(5));
        let net = Linear::new(&(&params / "a"), 3, 2);
        let mut opt = Sgd::new(&params, 0.5);
        let (x, y) = batch(&dev);
        let mut snapshots = Snapshots::new();
        let mut each = Vec::new();
        for _ in 0..3 {
            let loss = net.forward(&x, Mode::Train).cross_entropy(&y);
            opt.step(loss.backward().unwrap()).unwrap();
            snapshots.take(&params).unwrap();
            each.push(net.forward(&x, Mode::Eval).to_vec::<f32>().unwrap());
        }
        let now = params.to_host().unwrap();
        let logits = snapshots
            .each(&params, || {
                let logits = net.forward(&x, Mode::Eval);
                versant_graph::eval(&[&logits])?;
                Ok::<_, NnError>(logits)
            })
            .unwrap();
        assert_eq!(logits.iter().map(|z| z.to_vec::<f32>().unwrap()).collect::<Vec<_>>(), each);
        assert_eq!(params.to_host().unwrap(), now);
        let all: Vec<&Tensor> = logits.iter().collect();
        let p = average(&all).unwrap().to_vec::<f32>().unwrap();
        assert!(p.chunks(2).all(|row| (row[0] + row[1] - 1.0).abs() < 1e-6));
        assert!(vote(&all).unwrap().to_vec::<f32>().unwrap().iter().all(|v| (0.0..=1.0).contains(v)));
        let failed = snapshots.each(&params, || {
            net.forward(&Tensor::zeros(&dev, &[1, 7]), Mode::Eval).to_vec::<f32>()?;
            Ok::<_, NnError>(())
        });
        assert!(failed.is_err());
        assert_eq!(params.to_host().unwrap(), now);
        // After a step by the optimiser everything still goes on.
        let loss = net.forward(&x, Mode::Train).cross_entropy(&y);
        opt.step(loss.backward().unwrap()).unwrap();
        assert_eq!(snapshots.len(), 3);
    }
    assert!(average(&[]).is_none());
    let dev = Device::cpu();
    let error = vote(&[&Tensor::zeros(&dev, &[2, 3]), &Tensor::zeros(&dev, &[3, 2])]).unwrap();
    assert!(error.to_vec::<f32>().unwrap_err().to_string().contains("ensemble vote"));
}
