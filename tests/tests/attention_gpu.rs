//! Every variant of attention on a GPU against its CPU twin, whatever the adapter's own choice.

use std::sync::Arc;

use versant_device::{BufferRef, Cost, Device, DeviceKind, Kernel, Launch, Recording};
use versant_kernels::attention::{Attention, MaskKind, Pass, attention, attention_with, sum_parts, variants};
use versant_kernels::{Caps, Class, DType, KernelSource, Shape, Target, View};
use versant_tests::cases::Rng;

/// Words around the result that no kernel may touch.
const GUARD: usize = 5;
const UNTOUCHED: u32 = 0xdead_beef;

/// What differs in data alone: heads and kv heads, queries and keys, window to the left and right, start.
struct Data([usize; 2], [usize; 2], [usize; 2], usize);

const FAR: usize = 1 << 29;

const DATA: &[Data] = &[
    Data([1, 1], [1, 1], [FAR, FAR], 0),
    Data([2, 1], [64, 64], [FAR, 0], 0),
    Data([2, 2], [130, 97], [FAR, 0], 0),
    Data([3, 1], [7, 131], [FAR, 0], 60),
    Data([2, 2], [100, 100], [17, 0], 0),
    Data([4, 2], [90, 257], [90, 5], 3),
];

/// What makes a text: widths of queries and values, the mask, and whether heads lie behind positions; and whether every
/// variant is tried, or an adapter class's first alone, which leaves out those whose texts differ in constants; and what the forward
/// result is kept in.
struct Text([usize; 2], MaskKind, bool, bool, Option<DType>);

/// In two halves, which are compiled beside each other.
const TEXTS: [&[Text]; 2] = [
    &[
        Text([32, 32], MaskKind::Words, true, true, None),
        Text([36, 40], MaskKind::Added, false, false, Some(DType::F16)),
    ],
    &[
        Text([19, 13], MaskKind::Added, false, true, Some(DType::BF16)),
        Text([20, 68], MaskKind::None, true, false, None),
    ],
];

fn problem(text: &Text, data: &Data, pass: Pass) -> Attention {
    let Text([width, value], mask, behind, _, kept) = *text;
    let Data([heads, kv_heads], [queries, keys], [left, right], start) = *data;
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
    if pass == Pass::Backward {
        views.push(view([batch, heads, queries, value]));
        let words = batch * heads * queries * (value + sum_parts(kept));
        views.push(View::contiguous(Shape::new(&[words]).expect("rank 1")));
    }
    let mut types = vec![DType::F32; views.len()];
    if let (Pass::Backward, Some(half), Some(forward)) = (pass, kept, types.last_mut()) {
        *forward = half;
    }
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
        kept,
        types,
        views,
    }
}

/// Words of halves that are nearest to some f32.
fn packed(values: &[u32], half: DType) -> Vec<u32> {
    let bits = |&x: &u32| match half {
        DType::F16 => half::f16::from_f32(f32::from_bits(x)).to_bits(),
        _ => half::bf16::from_f32(f32::from_bits(x)).to_bits(),
    };
    let word = |pair: &[u32]| pair.iter().rev().fold(0, |word, x| word << 16 | u32::from(bits(x)));
    values.chunks(2).map(word).collect()
}

/// A result as numbers. Where a sum is cut in two depends on its last bits: the parts of them as one.
fn numbers(a: &Attention, words: &[u32]) -> Vec<f32> {
    let mut numbers: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();
    if a.kept.is_some() && a.pass == Pass::Forward {
        let sums = numbers.split_off(a.batch * a.heads * a.queries * a.value);
        numbers.extend(sums.chunks(sum_parts(a.kept)).map(|parts| parts.iter().sum::<f32>()));
    }
    numbers
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

fn check(gpu: &Device, text: &Text, data: &Data) {
    let Text(_, mask, _, every, kept) = *text;
    let cpu = Device::cpu();
    let mut rng = Rng(7);
    let mut inputs: Vec<Vec<u32>> = Vec::new();
    for pass in [Pass::Forward, Pass::Backward] {
        let a = problem(text, data, pass);
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
            let forward = problem(text, data, Pass::Forward);
            let source = attention(&forward, "twin", Target::Cpu);
            let before = forward.views.len();
            let made = run(&cpu, &source, &inputs[..before], forward.len());
            *inputs.last_mut().expect("there are operands") =
                kept.map_or(made.clone(), |half| packed(&made, half));
        }
        let want = run(&cpu, &attention(&a, "twin", Target::Cpu), &inputs, a.len());
        for class in [Class::Discrete, Class::Software] {
            let variants = variants(&a, &Caps::webgpu(class));
            for &variant in variants.iter().take(if every { variants.len() } else { 1 }) {
                let begun = std::time::Instant::now();
                let got = run(gpu, &attention_with(&a, "gpu", variant), &inputs, a.len());
                println!("{pass:?} {} of {:?}: {:.1?}", variant.label(), [a.width, a.value], begun.elapsed());
                for (i, (g, w)) in numbers(&a, &got).into_iter().zip(numbers(&a, &want)).enumerate() {
                    let close = g == w || (g - w).abs() <= 3e-5 * w.abs().max(1.0);
                    assert!(close, "element {i}: {g} for {w}, {}, {a:?}", variant.label());
                }
            }
        }
    }
}

/// Checks a half of the texts on a device of its own, as a device compiles one kernel at a time.
fn check_half(texts: &[Text]) {
    if versant_tests::devices().iter().all(|d| d.info().kind != DeviceKind::Wgpu) {
        return;
    }
    let name = std::env::var("VERSANT_TEST_DEVICE").unwrap_or_default();
    let gpu = if name.is_empty() { Device::gpu() } else { Device::by_name(&name) };
    let gpu = gpu.expect("it was opened before");
    for text in texts {
        for data in DATA {
            check(&gpu, text, data);
        }
    }
}

#[test]
fn every_variant_agrees_with_its_twin() {
    check_half(TEXTS[0]);
}

#[test]
fn every_variant_agrees_with_its_twin_for_other_texts() {
    check_half(TEXTS[1]);
}
