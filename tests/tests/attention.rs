//! Fused attention against the products and the softmax that it stands for, and what its plans hold.

use versant_graph::{Attention, DType, Device, Half, Tensor, eval, explain, grad_of};
use versant_tests::cases::{Input, Rng};
use versant_tests::devices;
use versant_tests::golden::Report;

fn real(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    Input::random(shape, DType::F32, (-1.0, 1.0), seed).tensor(device)
}

/// One random problem.
#[derive(Debug)]
struct Problem {
    q: Vec<usize>,
    k: Vec<usize>,
    v: Vec<usize>,
    mask: Option<(Vec<usize>, DType)>,
    is_causal: bool,
    window: Option<usize>,
    start: usize,
    /// Whether operands lie with heads behind positions.
    behind: bool,
    scale: Option<f32>,
    /// What the result is kept in, and how far rounding may take what depends on it.
    kept: Option<(Half, f32)>,
}

impl Problem {
    fn new(rng: &mut Rng) -> Problem {
        fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
            of[rng.below(of.len())]
        }
        let (batch, kv_heads, group) = (1 + rng.below(2), 1 + rng.below(2), 1 + rng.below(3));
        let lengths = [1, 2, 3, 7, 16, 31, 32, 33, 63, 64, 65, 97, 128, 130];
        let widths = [1, 3, 4, 8, 20, 31, 32];
        let (queries, keys) = (pick(rng, &lengths), pick(rng, &lengths));
        let (width, value) = (pick(rng, &widths), pick(rng, &widths));
        let heads = kv_heads * group;
        let mask = (rng.below(3) == 0).then(|| {
            let keep = |rng: &mut Rng, extent| if rng.below(2) == 0 { 1 } else { extent };
            let shape = vec![keep(rng, batch), keep(rng, heads), keep(rng, queries), keys];
            (shape, if rng.below(2) == 0 { DType::F32 } else { DType::Bool })
        });
        Problem {
            q: vec![batch, heads, queries, width],
            k: vec![batch, kv_heads, keys, width],
            v: vec![batch, kv_heads, keys, value],
            mask,
            is_causal: rng.below(2) == 0,
            window: (rng.below(3) == 0).then(|| 1 + rng.below(40)),
            start: if rng.below(3) == 0 { rng.below(50) } else { 0 },
            behind: rng.below(2) == 0,
            // Sums of large scores, to whose logarithm a rounding of 16 bits would add as much as 0.1.
            scale: (rng.below(3) == 0).then_some(4.0),
            kept: pick(rng, &[None, Some((Half::F16, 2f32.powi(-10))), Some((Half::BF16, 2f32.powi(-7)))]),
        }
    }

    /// The result and the gradients of queries, keys and values.
    fn compute(&self, device: &Device, fused: bool) -> Result<Vec<Vec<f32>>, String> {
        let operand = |shape: &[usize], seed| {
            let stored = [shape[0], shape[2], shape[1], shape[3]];
            if self.behind { real(device, &stored, seed).transpose(1, 2) } else { real(device, shape, seed) }
        };
        let (q, k, v) = (operand(&self.q, 1), operand(&self.k, 2), operand(&self.v, 3));
        let mask = self.mask.as_ref().map(|(s, t)| Input::random(s, *t, (-1.0, 1.0), 4).tensor(device));
        let options = Attention {
            scale: self.scale,
            is_causal: self.is_causal,
            window: self.window,
            start: self.start,
            attn_mask: mask.as_ref(),
            dropout: None,
            fused: Some(true),
            kept: self.kept.filter(|_| fused).map(|k| k.0),
        };
        let y = if fused { q.attention(&k, &v, &options) } else { q.attention_composite(&k, &v, &options) };
        let weights = operand(y.shape(), 5);
        let grads = grad_of(&(&y * &weights), &[&q, &k, &v]).map_err(|e| e.to_string())?;
        let all: Vec<&Tensor> = [&y].into_iter().chain(&grads).collect();
        eval(&all).map_err(|e| e.to_string())?;
        all.iter().map(|t| t.to_vec::<f32>().map_err(|e| e.to_string())).collect()
    }
}

#[test]
fn random_problems_agree_with_the_composite() {
    let mut report = Report::new("attention");
    let cpu = Device::cpu();
    let count = 24;
    for seed in 0..count {
        let problem = Problem::new(&mut Rng(seed));
        let want = problem.compute(&cpu, false).expect("the composite runs");
        for device in devices() {
            report.check(&device, &format!("{seed}"), || {
                let got = problem.compute(&device, true)?;
                for (name, (got, want)) in ["out", "dq", "dk", "dv"].iter().zip(got.iter().zip(&want)) {
                    let size = want.iter().fold(0f32, |m, x| m.max(x.abs())).max(1.0);
                    let far = |(g, w): &(&f32, &f32)| {
                        let near = (*g - *w).abs() <= problem.kept.map_or(2e-5, |k| 2.0 * k.1) * size;
                        !near
                    };
                    if let Some(at) = got.iter().zip(want).position(|pair| far(&pair)) {
                        return Err(format!("{name}[{at}] is {} for {}: {problem:?}", got[at], want[at]));
                    }
                }
                Ok(())
            });
        }
    }
    report.finish(count as usize);
}

/// Four launches forward and backward, none of whose buffers has an element for every pair of positions.
#[test]
fn no_buffer_holds_the_scores() {
    let (batch, length, heads, width) = (2, 512, 4, 16);
    for device in [Device::null(), Device::cpu()] {
        let qkv = real(&device, &[batch, length, 3 * heads * width], 1);
        let part = |i: usize| {
            let part = qkv.narrow(2, i * heads * width, heads * width);
            part.reshape(&[batch as isize, length as isize, heads as isize, width as isize]).transpose(1, 2)
        };
        let options = Attention { is_causal: true, ..Attention::default() };
        let y = part(0)
            .attention(&part(1), &part(2), &options)
            .transpose(1, 2)
            .reshape(&[(batch * length) as isize, (heads * width) as isize]);
        let loss = y.square().sum_all();
        let grad = grad_of(&loss, &[&qkv]).unwrap().remove(0);
        drop(y);
        let plan = explain(&[&loss, &grad]).unwrap();
        assert_eq!(plan.launches_with("attention").count(), 1, "{plan}");
        assert_eq!(plan.launches_with("attention_grad").count(), 1, "{plan}");
        assert!(plan.launches.len() <= 6, "{plan}");
        let pairs = (4 * batch * heads * length * length) as u64;
        assert!(plan.footprint.workspace < pairs / 4, "{plan}");
    }
}

/// Wide heads take the composite, and the plan says so.
#[test]
fn wide_heads_are_composed_visibly() {
    let device = Device::null();
    for (width, composed) in [(128, false), (129, true)] {
        let x = real(&device, &[1, 2, 8, width], 1);
        let plan = explain(&[&x.attention(&x, &x, &Attention::default())]).unwrap();
        assert_eq!(plan.launches_with("matmul").count() > 0, composed, "{plan}");
        assert_eq!(plan.launches_with("attention").count() == 0, composed, "{plan}");
    }
}

/// Another batch or another position of the first query compiles nothing.
#[test]
fn batches_are_data() {
    // Devices of its own, whose counters no other test moves.
    let gpu = devices().get(1).map(|_| Device::gpu().expect("it was opened before"));
    for device in [Device::cpu()].into_iter().chain(gpu) {
        let run = |batch: usize, length: usize, start: usize| {
            let x = real(&device, &[batch, 2, length, 8], 1);
            let options = Attention {
                is_causal: true,
                start,
                scale: Some(0.3),
                fused: Some(true),
                ..Attention::default()
            };
            let y = x.attention(&x, &x, &options);
            let grads = grad_of(&y.square(), &[&x]).unwrap();
            eval(&[&grads[0]]).unwrap();
        };
        run(3, 40, 0);
        let before = device.counters();
        run(2, 40, 0);
        run(5, 40, 4);
        let did = device.counters() - before;
        assert_eq!((did.shader_modules, did.pipelines), (0, 0), "{did:?} on {}", device.info().name);
    }
}

/// Scores whose sums f16 cannot hold make gradients that are no numbers, as any overflow of a step in f16: loss scaling sees it.
#[test]
fn sums_beyond_f16_are_seen() {
    for device in devices() {
        for half in [Half::F16, Half::BF16] {
            let x = real(&device, &[1, 1, 3, 4], 1).abs() + 0.5;
            let options =
                Attention { scale: Some(1e5), fused: Some(true), kept: Some(half), ..Attention::default() };
            let grad = grad_of(&x.attention(&x, &x, &options).sum_all(), &[&x]).unwrap().remove(0);
            let grad = grad.to_vec::<f32>().unwrap();
            let want = half == Half::BF16;
            assert_eq!(
                grad.iter().all(|g| g.is_finite()),
                want,
                "{half:?} on {}: {grad:?}",
                device.info().name
            );
        }
    }
}
