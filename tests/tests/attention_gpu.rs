//! Every variant of attention on a GPU against its CPU twin, whatever the adapter's own choice.

use std::sync::Arc;

use versant_device::{BufferRef, Cost, Device, DeviceKind, Kernel, Launch, Recording};
use versant_kernels::attention::{Attention, MaskKind, Pass, attention, attention_with, variants};
use versant_kernels::{Caps, Class, KernelSource, Shape, Target, View};
use versant_tests::cases::Rng;

/// Words around the result that no kernel may touch.
const GUARD: usize = 5;
const UNTOUCHED: u32 = 0xdead_beef;

/// Heads and kv heads, queries and keys, widths, window to the left and right, start.
struct Spec([usize; 2], [usize; 2], [usize; 2], [usize; 2], usize);

const FAR: usize = 1 << 29;

const SPECS: &[Spec] = &[
    Spec([1, 1], [1, 1], [1, 1], [FAR, FAR], 0),
    Spec([2, 1], [64, 64], [32, 32], [FAR, 0], 0),
    Spec([2, 2], [130, 97], [36, 64], [FAR, 0], 0),
    Spec([3, 1], [7, 131], [19, 13], [FAR, 0], 60),
    Spec([2, 2], [100, 100], [20, 100], [17, 0], 0),
    Spec([4, 2], [90, 257], [8, 4], [90, 5], 3),
];

fn problem(spec: &Spec, pass: Pass, mask: MaskKind, behind: bool) -> Attention {
    let Spec([heads, kv_heads], [queries, keys], [width, value], [left, right], start) = *spec;
    let batch = 2;
    let view = |dims: [usize; 4]| {
        let [b, h, n, d] = dims;
        let shape = |dims: &[usize]| Shape::new(dims).expect("a small rank");
        if behind {
            View::contiguous(shape(&[b, n, h, d])).permute(&[0, 2, 1, 3])
        } else {
            View::contiguous(shape(&dims))
        }
    };
    let mut views = vec![
        view([batch, heads, queries, width]),
        view([batch, kv_heads, keys, width]),
        view([batch, kv_heads, keys, value]),
    ];
    if mask != MaskKind::None {
        views.push(view([batch, heads, queries, keys]));
    }
    let scale = 1.0 / (width as f32).sqrt();
    let views = if pass == Pass::Backward {
        views.push(view([batch, heads, queries, value]));
        let words = batch * heads * queries * (value + 1);
        views.push(View::contiguous(Shape::new(&[words]).expect("rank 1")));
        views
    } else {
        views
    };
    Attention {
        pass,
        batch,
        heads,
        kv_heads,
        queries,
        keys,
        width,
        value,
        scale,
        left,
        right,
        start,
        mask,
        views,
    }
}

fn run(device: &Device, source: &KernelSource, inputs: &[Vec<u32>], len: usize) -> Vec<u32> {
    let kernel = Arc::new(Kernel {
        label: source.label.clone(),
        wgsl: source.wgsl.clone(),
        reads: source.reads,
        writes: source.writes,
        uses_scalars: false,
        trusted: source.trusted,
        native: source.native.clone(),
    });
    let external = |i: usize| BufferRef::External(i as u32);
    let launch = Launch {
        kernel,
        params: source.params.clone(),
        grid: source.grid,
        reads: (0..inputs.len()).map(external).collect(),
        writes: vec![external(inputs.len())],
        cost: Cost::default(),
    };
    let mut externals: Vec<usize> = inputs.iter().map(Vec::len).collect();
    externals.push(len + GUARD);
    let recording = Recording { launches: vec![launch], externals, ..Recording::default() };
    let plan = device.prepare(recording).expect("a valid kernel");
    let mut buffers: Vec<_> = inputs.iter().map(|i| device.upload(i).expect("memory")).collect();
    buffers.push(device.upload(&vec![UNTOUCHED; len + GUARD]).expect("memory"));
    device.run(&plan, &buffers, &[]).expect("a run");
    let all = device.read(&buffers[inputs.len()], len + GUARD).expect("a readback");
    assert_eq!(all[len..], [UNTOUCHED; GUARD], "{}", source.label);
    all[..len].to_vec()
}

fn check(gpu: &Device, spec: &Spec, mask: MaskKind, behind: bool) {
    let cpu = Device::cpu();
    let mut rng = Rng(7);
    let mut inputs: Vec<Vec<u32>> = Vec::new();
    for pass in [Pass::Forward, Pass::Backward] {
        let a = problem(spec, pass, mask, behind);
        for at in inputs.len()..a.views.len() {
            let words = a.views[at].shape.numel();
            let number = |rng: &mut Rng| match mask {
                MaskKind::Words if at == 3 => rng.below(3) as u32,
                _ => rng.between(-1.0, 1.0).to_bits(),
            };
            inputs.push((0..words).map(|_| number(&mut rng)).collect());
        }
        if pass == Pass::Backward {
            // The forward result, which the last round computed.
            let forward = problem(spec, Pass::Forward, mask, behind);
            let source = attention(&forward, "twin", Target::Cpu);
            let before = forward.views.len();
            let made = run(&cpu, &source, &inputs[..before], forward.len());
            *inputs.last_mut().expect("there are operands") = made;
        }
        let want = run(&cpu, &attention(&a, "twin", Target::Cpu), &inputs, a.len());
        for class in [Class::Discrete, Class::Software] {
            for variant in variants(&a, &Caps::webgpu(class)) {
                let got = run(gpu, &attention_with(&a, "gpu", variant), &inputs, a.len());
                for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                    let (g, w) = (f32::from_bits(*g), f32::from_bits(*w));
                    let close = g == w || (g - w).abs() <= 3e-5 * w.abs().max(1.0);
                    assert!(close, "element {i}: {g} for {w}, {}, {a:?}", variant.label());
                }
            }
        }
    }
}

#[test]
fn every_variant_agrees_with_its_twin() {
    for gpu in versant_tests::devices().iter().filter(|d| d.info().kind == DeviceKind::Wgpu) {
        for (i, spec) in SPECS.iter().enumerate() {
            let mask = [MaskKind::None, MaskKind::Added, MaskKind::Words][(i + 2) % 3];
            check(gpu, spec, mask, i % 2 == 0);
        }
    }
}
