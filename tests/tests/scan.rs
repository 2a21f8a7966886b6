//! Scans against the definition, against the same steps written out, and what their plans hold.

use std::time::Instant;

use versant_graph::interp::interpret;
use versant_graph::{
    DType, Device, Explanation, GraphError, Tensor, eval, explain, grad_of, latest_plan, plan_stats, scan,
    scan_reversed,
};
use versant_nn::layers::{Lstm, Sequence};
use versant_nn::{Mode, Module, Optimizer, Params, Seed, Sgd};
use versant_tests::cases::Input;
use versant_tests::devices;

fn real(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    Input::random(shape, DType::F32, (-1.0, 1.0), seed).tensor(device)
}

/// An LSTM step over pre-activations `[batch, 4 hidden]`.
fn lstm(carry: &[Tensor], x: &Tensor, w: &Tensor) -> (Vec<Tensor>, Vec<Tensor>) {
    let hidden = carry[0].shape()[1];
    let gates = x + carry[0].matmul(w);
    let gate = |i: usize| gates.narrow(1, i * hidden, hidden);
    let c = gate(1).sigmoid() * &carry[1] + gate(0).sigmoid() * gate(2).tanh();
    let h = gate(3).sigmoid() * c.tanh();
    (vec![h.clone(), c], vec![h])
}

fn run_lstm(x: &Tensor, w: &Tensor, h: &Tensor, c: &Tensor, reverse: bool) -> Vec<Tensor> {
    let body = |carry: &[Tensor], x: &[Tensor]| lstm(carry, &x[0], w);
    let (last, all) = if reverse { scan_reversed(&[h, c], &[x], body) } else { scan(&[h, c], &[x], body) };
    [last, all].concat()
}

fn unrolled(x: &Tensor, w: &Tensor, h: &Tensor, c: &Tensor, reverse: bool) -> Vec<Tensor> {
    let mut carry = vec![h.clone(), c.clone()];
    let steps = x.shape()[0];
    let mut all = vec![None; steps];
    for t in 0..steps {
        let t = if reverse { steps - 1 - t } else { t };
        let (next, out) = lstm(&carry, &x.narrow(0, t, 1).squeeze(0), w);
        all[t] = Some(out[0].unsqueeze(0));
        carry = next;
    }
    let all: Vec<Tensor> = all.into_iter().flatten().collect();
    carry.push(Tensor::cat(&all.iter().collect::<Vec<_>>(), 0));
    carry
}

fn close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-5 + 1e-4 * w.abs(), "{what}: element {i} is {g}, not {w}");
    }
}

#[test]
fn steps_agree_with_the_definition_and_with_the_same_written_out() {
    for device in devices() {
        for (steps, batch, hidden) in [(1, 2, 3), (2, 3, 4), (5, 1, 7), (6, 4, 8), (7, 3, 5)] {
            for reverse in [false, true] {
                let what = format!("{} {steps} {batch} {hidden} {reverse}", device.info().name);
                let x = real(&device, &[steps, batch, 4 * hidden], 1);
                let w = real(&device, &[hidden, 4 * hidden], 2);
                let (h, c) = (real(&device, &[batch, hidden], 3), real(&device, &[batch, hidden], 4));
                let made = run_lstm(&x, &w, &h, &c, reverse);
                let defined: Vec<Vec<f32>> = made.iter().map(|t| interpret(t).unwrap().to_f32()).collect();
                eval(&made.iter().collect::<Vec<_>>()).unwrap();
                for (t, want) in made.iter().zip(&defined) {
                    close(&t.to_vec::<f32>().unwrap(), want, &what);
                }
                for (t, want) in unrolled(&x, &w, &h, &c, reverse).iter().zip(&defined) {
                    close(&t.to_vec::<f32>().unwrap(), want, &what);
                }
            }
        }
    }
}

#[test]
fn gradients_agree_with_the_same_written_out() {
    for device in devices() {
        for (steps, batch, hidden) in [(1, 2, 3), (2, 3, 4), (5, 1, 7), (6, 4, 8)] {
            for reverse in [false, true] {
                let what = format!("{} {steps} {batch} {hidden} {reverse}", device.info().name);
                type Run = fn(&Tensor, &Tensor, &Tensor, &Tensor, bool) -> Vec<Tensor>;
                let grads = |device: &Device, run: Run| {
                    let x = real(device, &[steps, batch, 4 * hidden], 1);
                    let w = real(device, &[hidden, 4 * hidden], 2);
                    let (h, c) = (real(device, &[batch, hidden], 3), real(device, &[batch, hidden], 4));
                    let made = run(&x, &w, &h, &c, reverse);
                    let loss = made[0].square().sum_all()
                        + (&made[1] * 0.3).sin().sum_all()
                        + (&made[2] * &made[2]).sum_all();
                    let first = grad_of(&loss, &[&x, &w, &h, &c]).unwrap();
                    let second = grad_of(&first[1].square().sum_all(), &[&x, &w, &h, &c]).unwrap();
                    [first, second].concat()
                };
                // Written out, second derivatives are many kernels: where they need no compiler.
                let want = grads(&Device::cpu(), unrolled);
                let got = grads(&device, run_lstm);
                for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                    close(&g.to_vec::<f32>().unwrap(), &w.to_vec::<f32>().unwrap(), &format!("{what} {i}"));
                }
            }
        }
    }
}

/// What a training step over a sequence of an LSTM layer costs on a device of WebGPU's default limits.
fn trained(steps: usize, lengths: bool) -> (Explanation, Explanation, u64) {
    let device = Device::null();
    let params = Params::new(&device, Seed(1));
    let layer = Lstm::new(&params.root(), 24, 32);
    let x = real(&device, &[steps, 16, 24], 1);
    let lengths = lengths.then(|| Tensor::from_slice(&device, &[1i32; 16], &[16]));
    let given = Sequence { state: None, lengths: lengths.as_ref() };
    let forward = explain(&[&layer.run(&x, &given, Mode::Eval).0]).unwrap();
    let mut optimizer = Sgd::new(&params, 0.1);
    let mut step = || {
        let loss = layer.run(&x, &given, Mode::Train).0.square().mean_all();
        optimizer.step(loss.backward().unwrap()).unwrap();
    };
    step();
    device.reset_peak();
    let (misses, before) = (plan_stats(&device).misses, device.counters());
    step();
    let did = device.counters() - before;
    let plan = latest_plan(&device).unwrap();
    assert_eq!(plan_stats(&device).misses, misses);
    assert_eq!((did.pipelines, did.prepares, did.bind_groups, did.submits), (0, 0, 0, 1), "{did:?}");
    let trips: usize = plan.launches.iter().map(|l| l.trips).sum();
    assert_eq!(did.dispatches, trips as u64, "each execution is counted");
    assert_eq!(device.memory().peak, plan.footprint.total(), "what the pool measures");
    (forward, plan, did.dispatches)
}

/// Launches that run once for each step.
fn inside(plan: &Explanation, steps: usize) -> usize {
    plan.launches.iter().filter(|l| l.trips == steps).count()
}

#[test]
fn a_plan_is_as_large_for_many_steps_as_for_few() {
    for lengths in [false, true] {
        let [few, many] = [64, 1024].map(|steps| {
            let (forward, plan, dispatches) = trained(steps, lengths);
            assert_eq!(inside(&forward, steps), 2, "launches a step of the forward pass:\n{forward}");
            let inner = inside(&plan, steps);
            assert!(inner <= if lengths { 6 } else { 4 }, "{inner} launches a step:\n{plan}");
            assert!(dispatches <= (inner * steps + 24) as u64, "{dispatches}:\n{plan}");
            assert!(plan.to_string().contains(&format!("{steps} times")), "{plan}");
            // Intermediates: pre-activations, cell states and their like, but nothing of the body for each step.
            let stacks = 4 * steps * 16 * (24 + 32 * 12);
            assert!(plan.footprint.workspace <= stacks as u64 + 300_000, "{plan}");
            (inner, plan.nodes, plan.launches.len())
        });
        assert_eq!((few.0, few.1), (many.0, many.1));
        // Sums over all steps may be made in parts where they are long.
        assert!(many.2 <= few.2 + 4, "{few:?} and {many:?}");
    }
}

/// The time to record and to plan a step, the least of some tries, as machines are shared.
#[test]
fn a_long_sequence_is_planned_as_fast_as_a_short_one() {
    let time = |steps: usize| {
        let device = Device::null();
        let params = Params::new(&device, Seed(1));
        let layer = Lstm::new(&params.root(), 24, 32);
        let x = real(&device, &[steps, 16, 24], 1);
        let start = Instant::now();
        let grads = layer.forward(&x, Mode::Train).square().mean_all().backward().unwrap();
        let all: Vec<&Tensor> = grads.iter().map(|g| g.1).collect();
        explain(&all).unwrap();
        start.elapsed().as_secs_f64() * 1e3
    };
    // In turn, and more often while other tests take the processors: they only make a try longer.
    let [mut short, mut long] = [f64::MAX; 2];
    for tries in 1..=60 {
        (short, long) = (short.min(time(64)), long.min(time(1024)));
        if tries >= 9 && long <= 2.0 * short {
            break;
        }
    }
    println!("64 steps: {short:.2} ms, 1,024 steps: {long:.2} ms");
    assert!(long <= 2.0 * short, "64 steps: {short} ms, 1,024 steps: {long} ms");
}

#[test]
fn mistakes_are_errors() {
    let device = Device::cpu();
    let (x, h) = (real(&device, &[4, 3], 1), real(&device, &[3], 2));
    let keep = |c: &[Tensor], s: &[Tensor]| (c.to_vec(), s.to_vec());
    let message = |made: (Vec<Tensor>, Vec<Tensor>)| {
        let errors: Vec<String> =
            made.0.iter().chain(&made.1).filter_map(Tensor::error).map(|e| e.to_string()).collect();
        assert_eq!(errors.len(), made.0.len() + made.1.len(), "all results carry the error");
        assert!(errors.iter().all(|e| e.contains("scan") && e.contains("scan.rs")), "{errors:?}");
        errors[0].clone()
    };
    assert!(message(scan(&[&h], &[], keep)).contains("something to run over"));
    assert!(message(scan(&[], &[&h.sum_all()], keep)).contains("rank 1"));
    assert!(message(scan(&[&h], &[&x, &x.narrow(0, 0, 2)], keep)).contains("leading extent"));
    assert!(message(scan(&[&h], &[&x], |_, s| (vec![], s.to_vec()))).contains("number, shape or type"));
    assert!(
        message(scan(&[&h], &[&x], |c, s| (vec![c[0].sum_all()], s.to_vec())))
            .contains("number, shape or type")
    );
    let nested = scan(&[&h], &[&x], |c, s| {
        let inner = scan(&[&c[0]], &[&s[0].unsqueeze(1).broadcast_to(&[3, 3])], keep);
        (inner.0, inner.1)
    });
    assert!(message(nested).contains("inside the body"));
    let wrong = scan(&[&h], &[&x], |c, s| (vec![&c[0] + &s[0].narrow(0, 0, 2)], vec![]));
    assert!(wrong.0[0].error().is_some());
    // What belongs to a step has no value outside.
    let mut kept = None;
    let _ = scan(&[&h], &[&x], |c, s| {
        kept = Some(&c[0] + &s[0]);
        keep(c, s)
    });
    let escaped = kept.unwrap();
    assert!(matches!(escaped.to_vec::<f32>(), Err(GraphError::Escaped { .. })));
    assert!(matches!(interpret(&escaped), Err(GraphError::Escaped { .. })));
    // A rule that gives no gradient cuts, in a body, too.
    let (_, all) = scan(&[&h], &[&x], |c, s| (c.to_vec(), vec![s[0].sin().with_vjp("cut", &[], |_| vec![])]));
    let cut = grad_of(&all[0].sum_all(), &[&x]).map(|_| ()).unwrap_err();
    assert!(matches!(cut, GraphError::NotReached { .. }), "{cut}");
}
