//! Scans against the definition, against the same steps written out, and what their plans hold.

use versant_graph::interp::interpret;
use versant_graph::{DType, Device, Tensor, eval, explain, grad_of, scan, scan_reversed};
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

#[test]
fn show() {
    let device = Device::null();
    let (steps, batch, hidden) = (64, 16, 32);
    let x = real(&device, &[steps, batch, 4 * hidden], 1);
    let w = real(&device, &[hidden, 4 * hidden], 2);
    let (h, c) = (real(&device, &[batch, hidden], 3), real(&device, &[batch, hidden], 4));
    let made = run_lstm(&x, &w, &h, &c, false);
    println!("{}", explain(&[&made[2]]).unwrap());
    let loss = made[2].square().sum_all();
    let g = grad_of(&loss, &[&x, &w]).unwrap();
    drop(made);
    println!("{}", explain(&[&g[0], &g[1]]).unwrap());
}
