//! Sorting: every kernel on the GPU against its CPU twin, whatever the adapter's own choice; launches; what waits for the
//! device; draws and their chances; gradients of long rows.

use std::sync::Arc;

use versant_device::{BufferRef, Cost, Kernel, Launch, Recording};
use versant_graph::{DType, Device, DeviceKind, RandomKey, Tensor, eval, explain, grad_of};
use versant_kernels::{ArgSort, Caps, Class, KernelSource, Target, argsort, sort_passes};
use versant_tests::cases::Rng;
use versant_tests::devices;

/// Words behind the result that no kernel may touch.
const GUARD: usize = 5;
const UNTOUCHED: u32 = 0xdead_beef;

fn run(device: &Device, source: &KernelSource, inputs: &[&[u32]], len: usize) -> Vec<u32> {
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
    let mut externals: Vec<usize> = inputs.iter().map(|i| i.len()).collect();
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

/// Words of which many are equal; as f32 some are NaN, infinite or a zero of either sign.
fn keys(n: usize, seed: u64) -> Vec<u32> {
    let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0].map(f32::to_bits);
    let mut rng = Rng(seed);
    let mut word = || {
        let any = rng.bits() as u32;
        odd.get(rng.below(20)).copied().unwrap_or(if any.is_multiple_of(2) { any } else { any >> 28 })
    };
    (0..n).map(|_| word()).collect()
}

#[test]
fn every_pass_agrees_with_its_twin() {
    let cpu = Device::cpu();
    for gpu in devices().iter().filter(|d| d.info().kind == DeviceKind::Wgpu) {
        for class in [Class::Discrete, Class::Software] {
            let target = Target::Gpu(Caps::webgpu(class));
            for (rows, n, keep) in [
                (1, 1, 1),
                (700, 10, 10),
                (3, 257, 257),
                (2, 2048, 2048),
                (2, 5003, 5003),
                (1, 100_000, 100_000),
                (3, 9001, 6),
                (2, 4099, 256),
            ] {
                let keys = keys(3 + rows * n, n as u64);
                let (mut count, mut listed) = (n, None::<Vec<u32>>);
                for pass in sort_passes(n, keep, target) {
                    let dtype = [DType::F32, DType::I32, DType::U32][(rows + n) % 3];
                    let d = ArgSort {
                        rows,
                        n,
                        count,
                        pass,
                        descending: n % 2 == 0,
                        dtype,
                        keys_offset: 3,
                        candidates_offset: listed.as_ref().map(|_| 0),
                    };
                    let reads: Vec<&[u32]> = [keys.as_slice()].into_iter().chain(listed.as_deref()).collect();
                    let len = rows * pass.left(count);
                    let want = run(&cpu, &argsort(&d, "twin", Target::Cpu), &reads, len);
                    let got = run(gpu, &argsort(&d, "gpu", target), &reads, len);
                    let wrong = got.iter().zip(&want).position(|(g, w)| g != w);
                    assert_eq!(wrong, None, "{class:?} {d:?}");
                    count = pass.left(count);
                    listed = Some(want);
                }
            }
        }
    }
}

/// Counts that docs/kernels.md states, of a card.
#[test]
fn launches_are_few() {
    let null = Device::null();
    let launches = |shape: &[usize], f: &dyn Fn(&Tensor) -> Tensor| {
        let x = Tensor::from_slice(&null, &vec![1.0f32; shape.iter().product()], shape);
        explain(&[&f(&x)]).expect("a plan").launches.len()
    };
    assert_eq!(launches(&[64, 1000], &|x| x.argsort(1, false)), 1);
    assert_eq!(launches(&[64, 2048], &|x| x.argsort(1, false)), 1);
    assert_eq!(launches(&[100_000], &|x| x.argsort(0, false)), 7);
    // Values are gathered by one more.
    assert_eq!(launches(&[64, 1000], &|x| x.sort(1, false).0), 2);
    // The most likely words of a vocabulary.
    assert_eq!(launches(&[16, 50_257], &|x| x.topk(50, 1, true).1), 2);
    assert_eq!(launches(&[1_000_000], &|x| x.topk(10, 0, true).1), 3);
    // Sorting columns takes a copy, and another one if positions lie as asked for.
    assert_eq!(launches(&[100, 7], &|x| x.argsort(0, false)), 3);
    assert_eq!(launches(&[100, 7], &|x| x.sort(0, false).0), 3);
    let replays = null.counters().pipelines;
    assert_eq!(launches(&[33, 999], &|x| x.argsort(1, false)), 1);
    assert_eq!(null.counters().pipelines, replays, "another extent compiles nothing");
}

#[test]
fn what_waits_gives_what_is_there() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[1.0f32, 0.0, -0.0, f32::NAN, 5.0, 0.0], &[2, 3]);
        let at = x.nonzero().expect("it runs");
        assert_eq!(at.shape(), [3, 2]);
        assert_eq!(at.to_vec::<i32>().expect("it runs"), [0, 0, 1, 0, 1, 1]);
        let none = x.gt(&Tensor::constant(&device, 9.0f32));
        assert_eq!(none.nonzero().expect("it runs").shape(), [0, 2]);
        assert_eq!(x.masked_select(&none).expect("it runs").to_vec::<f32>().expect("it runs"), [0f32; 0]);
        // A rank of 0: a single element that is there has no coordinates.
        assert_eq!(Tensor::constant(&device, 3i32).nonzero().expect("it runs").shape(), [1, 0]);
        // A mask that broadcasts, of a view; the gradient goes to what was selected.
        let y = Tensor::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        let mask = Tensor::from_slice(&device, &[true, false], &[2]);
        let chosen = y.t().masked_select(&mask).expect("it runs");
        let grad = grad_of(&chosen.square().sum_all(), &[&y]).expect("it has one").remove(0);
        assert_eq!(chosen.to_vec::<f32>().expect("it runs"), [1.0, 2.0, 3.0]);
        assert_eq!(grad.to_vec::<f32>().expect("it runs"), [2.0, 4.0, 6.0, 0.0, 0.0, 0.0]);
    }
}

/// More elements than a loop on lavapipe may take in sequence.
#[test]
fn counts_of_many_are_exact() {
    const MANY: usize = 100_003;
    let values: Vec<i32> = (0..MANY as i32).map(|i| i.wrapping_mul(i) % 9 - 1).collect();
    let mut want = [0i32; 7];
    values.iter().filter(|v| (0..7).contains(*v)).for_each(|&v| want[v as usize] += 1);
    for device in devices() {
        let x = Tensor::from_slice(&device, &values, &[MANY]);
        assert_eq!(x.bincount(7, None).to_vec::<i32>().expect("it runs"), want);
        let half = Tensor::full(&device, 0.5, &[MANY]);
        let halves = x.bincount(7, Some(&half)).to_vec::<f32>().expect("it runs");
        assert_eq!(halves, want.map(|count| count as f32 * 0.5));
    }
}

/// Frequencies over many draws, within four standard deviations; and no class twice without replacement.
#[test]
fn draws_have_their_chances() {
    const DRAWS: usize = 20_000;
    for device in devices() {
        let weights = [0.0f32, 1.0, 2.0, 5.0];
        let w = Tensor::from_slice(&device, &weights, &[4]);
        let drawn = w.multinomial(DRAWS, true, RandomKey::new(11));
        let counts = drawn.bincount(4, None).to_vec::<i32>().expect("it runs");
        for (count, weight) in counts.iter().zip(weights) {
            let p = f64::from(weight) / 8.0;
            let slack = 4.0 * (p * (1.0 - p) * DRAWS as f64).sqrt();
            assert!((f64::from(*count) - p * DRAWS as f64).abs() <= slack, "{counts:?}");
        }
        let rows = w.broadcast_to(&[DRAWS, 4]);
        let pairs = rows.multinomial(2, false, RandomKey::new(12)).to_vec::<i32>().expect("it runs");
        assert!(pairs.chunks(2).all(|p| p[0] != p[1] && p[0] > 0 && p[1] > 0));
        // First 3 and then 1: 5/8 * 1/3.
        let hits = pairs.chunks(2).filter(|p| p == &[3, 1]).count() as f64 / DRAWS as f64;
        assert!((hits - 5.0 / 24.0).abs() < 4.0 * (0.2f64 * 0.8 / DRAWS as f64).sqrt(), "{hits}");
    }
}

/// Rows so long that a GPU sorts back by the inverse order; and second derivatives of them.
#[test]
fn gradients_of_long_rows_go_back() {
    let n = 1500;
    let mut rng = Rng(5);
    let values: Vec<f32> = (0..2 * n).map(|_| rng.between(-1.0, 1.0)).collect();
    let factors: Vec<f32> = (0..2 * n).map(|i| (i % 7) as f32).collect();
    for device in devices() {
        let x = Tensor::from_slice(&device, &values, &[2, n]);
        let c = Tensor::from_slice(&device, &factors, &[2, n]);
        let (sorted, order) = x.sort(1, true);
        let loss = (&sorted * &sorted * &c).sum_all();
        let first = grad_of(&loss, &[&x]).expect("it has one").remove(0);
        let second = grad_of(&first.sum_all(), &[&x]).expect("it has one").remove(0);
        eval(&[&first, &second, &order]).expect("it runs");
        let (first, second) = (first.to_vec::<f32>().expect("f32"), second.to_vec::<f32>().expect("f32"));
        for (i, &from) in order.to_vec::<i32>().expect("i32").iter().enumerate() {
            let from = i / n * n + from as usize;
            assert_eq!(first[from], 2.0 * values[from] * factors[i], "{}", device.info().name);
            assert_eq!(second[from], 2.0 * factors[i], "{}", device.info().name);
        }
    }
}
