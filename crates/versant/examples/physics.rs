//! A net that solves a differential equation: Burgers' equation, `u_t + u u_x = ν u_xx`, whose solution grows a steep front.
//!
//! Physics-informed (Raissi, Perdikaris and Karniadakis, 2019): there are no data but the equation, the start and the
//! walls. The loss holds first and second derivatives of the net by its inputs, and training differentiates through them.
//!
//! `cargo run --release --example physics`

mod common;

use std::f64::consts::PI;

use common::plot::{Line, lines};
use common::{Example, Outcome};
use versant::data::SampleRng;
use versant::nn::schedule::Schedule;
use versant::prelude::*;

/// The viscosity ν.
const NU: f64 = 0.02;
/// Points in the inside, and as many again on the borders, for each step.
const POINTS: usize = 512;

/// `u(x, t)` from the two coordinates.
fn net(params: &Params) -> impl Module + use<> {
    (
        Linear::new(&(params / "1"), 2, 32),
        Tanh,
        Linear::new(&(params / "2"), 32, 32),
        Tanh,
        Linear::new(&(params / "3"), 32, 32),
        Tanh,
        Linear::new(&(params / "4"), 32, 1),
    )
}

/// The net at points given as columns `[n, 1]`.
fn u(net: &impl Module, x: &Tensor, t: &Tensor) -> Tensor {
    net.forward(&Tensor::cat(&[x, t], 1), Mode::Train)
}

/// The exact solution for `u(x, 0) = -sin πx` by the transformation of Cole and Hopf: a quotient of two integrals of
/// Gaussian weight, summed by the trapezoidal rule, which converges faster than any power here.
fn exact(x: f64, t: f64) -> f64 {
    if t <= 0.0 {
        return -(PI * x).sin();
    }
    let spread = (4.0 * NU * t).sqrt();
    let weight = |y: f64| (-(PI * y).cos() / (2.0 * PI * NU)).exp();
    let (mut above, mut below) = (0.0, 0.0);
    for at in -400..=400 {
        let z = f64::from(at) * 0.02;
        let y = x - spread * z;
        let w = (-z * z).exp() * weight(y);
        above -= (PI * y).sin() * w;
        below += w;
    }
    above / below
}

fn main() {
    common::main("physics", run);
}

fn run(ex: &Example) -> Outcome {
    let params = ex.store(0);
    let net = net(&params);
    let mut opt = Adam::new(&params, 3e-3);
    let steps = ex.size(6000, 60);
    let rate = Schedule::cosine(3e-3, steps as u64).floor(3e-5);
    let bar = ex.bar(steps, "training");
    let mut history = Vec::new();
    for step in 0..steps {
        let mut rng = SampleRng::new(ex.options.seed, 0, step as u64);
        let mut column = |low: f32, high: f32| {
            let values: Vec<f32> = (0..POINTS).map(|_| rng.between(low, high)).collect();
            Tensor::from_slice(&ex.dev, &values, &[POINTS, 1])
        };
        let (x, t) = (column(-1.0, 1.0), column(0.0, 1.0));
        let inside = u(&net, &x, &t);
        let [ux, ut] = grad_of(&inside, &[&x, &t])?.try_into().expect("two gradients for two inputs");
        let uxx = grad_of(&ux, &[&x])?.remove(0);
        let residual = ut + &inside * ux - uxx * NU as f32;
        // The start, and the walls, where u is 0.
        let (x0, t0, wall) = (column(-1.0, 1.0), column(0.0, 1.0), column(-1.0, 1.0));
        let begin = u(&net, &x0, &Tensor::zeros(&ex.dev, &[POINTS, 1])) + (&x0 * PI as f32).sin();
        let side = wall.gt(&Tensor::constant(&ex.dev, 0.0f32)).cast(DType::F32) * 2.0 - 1.0;
        let walls = u(&net, &side, &t0);
        let loss = residual.square().mean_all() + begin.square().mean_all() + walls.square().mean_all();
        drop((residual, begin, walls, inside));
        opt.set_lr(rate.at(step as u64));
        opt.step(loss.backward()?)?;
        if step % 50 == 0 || step + 1 == steps {
            let loss = f64::from(loss.item::<f32>()?);
            history.push((step as f64, loss.log10()));
            bar.set_message(format!("loss {loss:.2e}"));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(ex, &net, &history)
}

/// Compares with the exact solution, and draws both.
fn report(ex: &Example, net: &impl Module, history: &[(f64, f64)]) -> Outcome {
    let xs: Vec<f64> = (0..=200).map(|i| f64::from(i) / 100.0 - 1.0).collect();
    let column = |values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        Tensor::from_slice(&ex.dev, &values, &[values.len(), 1])
    };
    let (mut error, mut norm) = (0.0, 0.0);
    let mut profiles = Vec::new();
    for t in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let learned = u(net, &column(&xs), &column(&vec![t; xs.len()])).to_vec::<f32>()?;
        let truth: Vec<f64> = xs.iter().map(|&x| exact(x, t)).collect();
        let off = learned.iter().zip(&truth).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum::<f64>();
        let size = truth.iter().map(|b| b * b).sum::<f64>();
        println!("t = {t:.2}: relative error {:.4}", (off / size).sqrt());
        (error, norm) = (error + off, norm + size);
        profiles.push((t, learned, truth));
    }
    let mut drawn = Vec::new();
    for (at, name) in [(0, "net, t = 0"), (2, "net, t = 0.5"), (4, "net, t = 1")] {
        let (_, learned, truth) = &profiles[at];
        drawn.push(Line::new(name, xs.iter().copied().zip(learned.iter().map(|&v| f64::from(v)))));
        let some = xs.iter().copied().zip(truth.iter().copied()).step_by(8);
        drawn.push(Line::new("", some).dots());
    }
    lines(&ex.out("solution.svg")?, "Burgers' equation, ν = 0.02 (dots: exact)", ["x", "u"], &drawn)?;
    let history = [Line::new("loss", history.iter().copied())];
    lines(&ex.out("loss.svg")?, "training", ["step", "log10 of the loss"], &history)?;
    ex.result("relative L2 error", (error / norm).sqrt())
}
