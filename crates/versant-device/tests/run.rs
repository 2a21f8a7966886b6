//! Recordings end to end: what they compute, and what they cost.

mod common;

use std::sync::Arc;
use std::thread;

use common::*;
use versant_device::BufferRef::{External, Slot};
use versant_device::{
    Buffer, BufferRef, Cost, Counters, Device, DeviceError, DeviceOptions, Kernel, Launch, Recording, Repeat,
    Turn, Window,
};

#[test]
fn results_are_right_on_every_device() {
    for device in real_devices() {
        for n in [1, 63, 64, 65, 5000] {
            let (a, b) = (noise(n, 1), noise(n, 2));
            let plan = device.prepare(two_slots(n)).unwrap();
            let bufs = [device.upload(&a).unwrap(), device.upload(&b).unwrap(), device.alloc(n).unwrap()];
            device.run(&plan, &bufs, &[]).unwrap();
            let got = device.read(&bufs[2], n).unwrap();
            assert_eq!(got, two_slots_expected(&a, &b), "{device:?}, {n} words");
        }
    }
}

#[test]
fn grids_fold_into_y() {
    let n = 64 * 65_535 + 7;
    for device in real_devices() {
        let (a, b) = (noise(n, 3), noise(n, 4));
        let launch = add(n, 9, [External(0), External(1), External(2)]);
        assert_eq!(launch.grid, [65_535, 2, 1]);
        let plan = device.prepare(recording(vec![launch], &[], &[n; 3])).unwrap();
        let bufs = [device.upload(&a).unwrap(), device.upload(&b).unwrap(), device.alloc(n).unwrap()];
        device.run(&plan, &bufs, &[]).unwrap();
        let got = device.read(&bufs[2], n).unwrap();
        let last = a[n - 1].wrapping_add(b[n - 1]).wrapping_add(9);
        assert_eq!(got[n - 1], last, "{device:?}");
        assert_eq!(got[0], a[0].wrapping_add(b[0]).wrapping_add(9));
    }
}

#[test]
fn scalars_change_from_run_to_run() {
    let n = 100;
    for device in real_devices() {
        let (a, b) = (noise(n, 5), noise(n, 6));
        let plan = device
            .prepare(Recording {
                launches: vec![mix(n, [External(0), External(1), External(2)])],
                externals: vec![n; 3],
                scalar_words: 6,
                ..Recording::default()
            })
            .unwrap();
        let bufs: Vec<Buffer> = [&a, &b, &a].map(|x| device.upload(x).unwrap()).into();
        let outs: Vec<Buffer> = (0..20).map(|_| device.alloc(n).unwrap()).collect();
        // Without a read in between: each run must see its own scalars, though many are under way.
        for (s, out) in (0u32..).zip(&outs) {
            let bufs = [bufs[0].clone(), bufs[1].clone(), out.clone()];
            device.run(&plan, &bufs, &[s, 0, 0, 0, 0, 7 * s]).unwrap();
        }
        for (s, out) in (0u32..).zip(&outs) {
            let mix = |(a, b): (&u32, &u32)| a.wrapping_mul(s).wrapping_add(b.wrapping_mul(7 * s));
            let want: Vec<u32> = a.iter().zip(&b).map(mix).collect();
            assert_eq!(device.read(out, n).unwrap(), want, "{device:?}, run {s}");
        }
    }
}

/// Runs a life of a device and returns its counters after each part of it.
fn life(device: &Device) -> Vec<Counters> {
    let mut seen = vec![device.counters()];
    let mut mark = |device: &Device| seen.push(device.counters());
    let n = 1000;
    let plan = device.prepare(two_slots(n)).unwrap();
    let bufs: Vec<Buffer> = (0..3).map(|s| device.upload(&noise(n, s)).unwrap()).collect();
    device.run(&plan, &bufs, &[]).unwrap();
    mark(device);
    for _ in 0..10 {
        device.run(&plan, &bufs, &[]).unwrap();
    }
    mark(device);
    // A larger batch: no new pipeline, the workspace grows, bind groups of the first plan are remade.
    let larger = device.prepare(two_slots(2 * n)).unwrap();
    let more: Vec<Buffer> = (0..3).map(|_| device.alloc(2 * n).unwrap()).collect();
    device.run(&larger, &more, &[]).unwrap();
    device.run(&plan, &bufs, &[]).unwrap();
    mark(device);
    // A loop that takes its buffers from the pool.
    drop(more);
    for _ in 0..5 {
        let more: Vec<Buffer> = (0..3).map(|_| device.alloc(2 * n).unwrap()).collect();
        device.run(&larger, &more, &[]).unwrap();
    }
    mark(device);
    let mut with_scalars = recording(vec![mix(n, [External(0), External(1), External(2)])], &[], &[n; 3]);
    with_scalars.scalar_words = 6;
    let with_scalars = device.prepare(with_scalars).unwrap();
    device.run(&with_scalars, &bufs, &[1; 6]).unwrap();
    device.read(&bufs[2], 5).unwrap();
    mark(device);
    drop((plan, larger, with_scalars, bufs));
    device.trim().unwrap();
    mark(device);
    seen
}

#[test]
fn steady_state_makes_nothing_and_null_counts_as_wgpu_does() {
    let null = life(&Device::null());
    let first = null[1] - null[0];
    assert_eq!((first.shader_modules, first.pipelines), (1, 1));
    assert_eq!((first.bind_groups, first.submits, first.passes), (3, 1, 1));
    // Three uploads, two workspace places, one parameter block.
    assert_eq!((first.buffers_allocated, first.uploads), (6, 3));
    let steady = null[2] - null[1];
    let mut wanted = Counters::default();
    (wanted.submits, wanted.passes, wanted.dispatches) = (10, 10, 30);
    assert_eq!(steady, wanted);
    let growth = null[3] - null[2];
    assert_eq!((growth.pipelines, growth.bind_groups), (0, 6));
    // Three buffers, two workspace places, one parameter block.
    assert_eq!(growth.buffers_allocated, 6);
    let pooled = null[4] - null[3];
    assert_eq!((pooled.buffers_allocated, pooled.pool_hits), (0, 15));
    // Last in, first out: the first turn sees the buffers in another order, the others do not.
    assert!(pooled.bind_groups <= 6, "{pooled:?}");
    let end = null[6];
    assert_eq!(end.buffers_allocated, end.buffers_freed + 1, "scalars stay");

    if let Some(gpu) = gpu() {
        assert_eq!(life(&gpu), null);
    }
    let cpu = life(&Device::cpu());
    let steady_cpu = cpu[2] - cpu[1];
    assert_eq!(steady_cpu, wanted);
}

#[test]
fn plans_share_one_workspace() {
    for device in devices() {
        let real = device.info().kind != versant_device::DeviceKind::Null;
        let sizes = [500, 4000, 100, 4000, 1500];
        let plans: Vec<_> = sizes.map(|n| device.prepare(two_slots(n)).unwrap()).into();
        let before = device.memory().fixed;
        for _ in 0..2 {
            for (plan, n) in plans.iter().zip(sizes) {
                let (a, b) = (noise(n, 1), noise(n, 2));
                let bufs = [&a, &b, &a].map(|x| device.upload(x).unwrap());
                device.run(plan, &bufs, &[]).unwrap();
                let got = device.read(&bufs[2], n).unwrap();
                assert!(!real || got == two_slots_expected(&a, &b), "{device:?}, {n}");
            }
        }
        // 4,000 words are rounded up to whole lines of 64.
        assert_eq!(device.memory().fixed - before, 2 * 4032 * 4, "{device:?}");
        // As much as the largest plan says; parameters are there from the start.
        let workspace = plans.iter().map(|p| p.footprint().workspace).max();
        assert_eq!(Some(device.memory().fixed - before), workspace);
    }
}

#[test]
fn unequal_slots_find_large_enough_places() {
    for device in real_devices() {
        for (small, large) in [(100, 9000), (9000, 100), (20_000, 200)] {
            let n = small.min(large);
            let plan = recording(
                vec![
                    add(n, 1, [External(0), External(1), Slot(0)]),
                    add(n, 2, [External(0), External(0), Slot(1)]),
                    add(n, 0, [Slot(0), Slot(1), External(2)]),
                ],
                &[small, large],
                &[n; 3],
            );
            let plan = device.prepare(plan).unwrap();
            let (a, b) = (noise(n, 1), noise(n, 2));
            let bufs = [&a, &b, &a].map(|x| device.upload(x).unwrap());
            device.run(&plan, &bufs, &[]).unwrap();
            assert_eq!(device.read(&bufs[2], n).unwrap(), two_slots_expected(&a, &b));
        }
        assert_eq!(device.memory().fixed % 4, 0);
    }
}

#[test]
fn empty_launches_are_skipped_and_empty_buffers_work() {
    for device in devices() {
        let mut plan = recording(
            vec![
                add(0, 1, [External(0), External(0), External(1)]),
                add(3, 1, [External(2), External(2), External(3)]),
            ],
            &[0],
            &[0, 0, 3, 3],
        );
        assert_eq!(plan.launches[0].grid[0], 0);
        // Runs over nothing, with empty buffers bound.
        plan.launches.push(add(0, 1, [Slot(0), External(0), External(1)]));
        plan.launches[2].grid = [1, 1, 1];
        let plan = device.prepare(plan).unwrap();
        let empty = [device.upload(&[]).unwrap(), device.alloc(0).unwrap()];
        assert_eq!(empty[0].words(), 0);
        let full = [device.upload(&[1, 2, 3]).unwrap(), device.alloc(3).unwrap()];
        let bufs: Vec<Buffer> = empty.iter().chain(&full).cloned().collect();
        let before = device.counters();
        device.run(&plan, &bufs, &[]).unwrap();
        assert_eq!((device.counters() - before).dispatches, 2, "{device:?}");
        assert!(device.read(&bufs[0], 0).unwrap().is_empty());
        if device != Device::null() && device.info().name != "null" {
            assert_eq!(device.read(&bufs[3], 3).unwrap(), [3, 5, 7], "{device:?}");
        }
        let nothing = device.prepare(Recording::default()).unwrap();
        let before = device.counters();
        device.run(&nothing, &[], &[]).unwrap();
        assert_eq!(device.counters() - before, Counters::default());
    }
}

#[test]
fn times_come_one_a_launch() {
    let stamped = gpu_with(DeviceOptions { timestamps: true, ..DeviceOptions::default() });
    for device in stamped.into_iter().chain([Device::cpu(), Device::null()]) {
        let n = 100_000;
        let mut plan = two_slots(n);
        plan.launches[1].grid = [0, 1, 1];
        let plan = device.prepare(plan).unwrap();
        let bufs: Vec<Buffer> = (0..3).map(|s| device.upload(&noise(n, s)).unwrap()).collect();
        let before = device.counters();
        let times = device.run_timed(&plan, &bufs, &[]).unwrap();
        let did = device.counters() - before;
        assert_eq!((times.len(), times[1], did.dispatches), (3, 0, 2));
        if device.info().name != "null" {
            assert!(times[0] > 0 && times[2] > 0, "{device:?}: {times:?}");
            assert!(times.iter().sum::<u64>() < 10_000_000_000, "{times:?}");
        }
    }
}

#[test]
fn more_launches_than_one_query_set_holds_are_timed() {
    let Some(device) = gpu_with(DeviceOptions { timestamps: true, ..DeviceOptions::default() }) else {
        return;
    };
    let one = add(1, 1, [External(0), External(1), External(2)]);
    let plan = device.prepare(recording(vec![one; 2500], &[], &[1; 3])).unwrap();
    let bufs = [1, 2, 3].map(|w| device.upload(&[w]).unwrap());
    let times = device.run_timed(&plan, &bufs, &[]).unwrap();
    let measured = times.iter().filter(|&&t| t > 0).count();
    assert!(times.len() == 2500 && measured > 2000, "{measured} of {}", times.len());
    assert_eq!(device.read(&bufs[2], 1).unwrap(), [4]);
}

#[test]
fn threads_share_a_device() {
    for device in real_devices() {
        let n = 2000;
        let plan = Arc::new(device.prepare(two_slots(n)).unwrap());
        thread::scope(|scope| {
            for seed in 0..4 {
                let (device, plan) = (device.clone(), plan.clone());
                scope.spawn(move || {
                    for turn in 0..20 {
                        let (a, b) = (noise(n, seed), noise(n, 100 + turn));
                        let bufs = [&a, &b, &a].map(|x| device.upload(x).unwrap());
                        device.run(&plan, &bufs, &[]).unwrap();
                        let got = device.read(&bufs[2], n).unwrap();
                        assert_eq!(got, two_slots_expected(&a, &b));
                    }
                });
            }
        });
    }
}

#[test]
fn large_uploads_do_not_pile_up() {
    for device in real_devices() {
        let data = noise(10 << 20, 1);
        let buffer = device.alloc(data.len()).unwrap();
        for _ in 0..4 {
            device.write(&buffer, &data).unwrap();
        }
        let got = device.read(&buffer, data.len()).unwrap();
        assert!(got == data, "{device:?}");
    }
}

/// Three launches that claim to take this many milliseconds on a discrete card.
fn slow(n: usize, ms: [u64; 3]) -> Recording {
    let mut plan = two_slots(n);
    for (launch, ms) in plan.launches.iter_mut().zip(ms) {
        launch.cost = versant_device::Cost { flops: ms * 200_000_000, bytes: 0 };
    }
    plan
}

#[test]
fn long_runs_are_cut_between_launches() {
    let device = Device::null();
    for (ms, submits) in
        [([1, 1, 1], 1), ([200, 200, 100], 1), ([200, 200, 200], 2), ([400; 3], 3), ([9000, 1, 1], 2)]
    {
        let plan = device.prepare(slow(10, ms)).unwrap();
        assert_eq!(plan.submissions() as u64, submits);
        assert_eq!(plan.overlong(), if ms[0] > 500 { vec![0] } else { vec![] });
        let bufs = [(); 3].map(|()| device.alloc(10).unwrap());
        let before = device.counters();
        device.run(&plan, &bufs, &[]).unwrap();
        let did = device.counters() - before;
        assert_eq!((did.submits, did.passes, did.dispatches), (submits, submits, 3), "{ms:?}");
        // Once the run was timed its real times count, which are zero here.
        device.run_timed(&plan, &bufs, &[]).unwrap();
        assert_eq!((plan.submissions(), plan.overlong()), (1, vec![]));
    }
}

#[test]
fn a_run_in_several_submissions_computes_the_same() {
    for device in real_devices() {
        let n = 5000;
        let (a, b) = (noise(n, 1), noise(n, 2));
        let mut plan = slow(n, [400; 3]);
        // One that uses scalars, behind the last cut.
        plan.launches.push(mix(n, [External(0), External(1), External(3)]));
        plan.launches[3].cost.flops = u64::MAX;
        plan.externals.push(n);
        plan.scalar_words = 6;
        let plan = device.prepare(plan).unwrap();
        let bufs: Vec<Buffer> = [&a, &b, &a, &a].map(|x| device.upload(x).unwrap()).into();
        let before = device.counters();
        device.run(&plan, &bufs, &[3, 0, 0, 0, 0, 1]).unwrap();
        let submits = (device.counters() - before).submits;
        assert_eq!(submits, if device.info().name.contains("CPU") { 1 } else { 4 }, "{device:?}");
        assert_eq!(device.read(&bufs[2], n).unwrap(), two_slots_expected(&a, &b), "{device:?}");
        let mixed = a[7].wrapping_mul(3).wrapping_add(b[7]);
        assert_eq!(device.read(&bufs[3], n).unwrap()[7], mixed, "{device:?}");
    }
}

/// `acc += a[trip]` over windows of the CPU; on a GPU the part of `a` is chosen by a parameter.
#[test]
fn a_loop_runs_its_launches_again_with_what_changes() {
    let (n, trips) = (100, 5);
    for device in devices() {
        let kernel = Kernel {
            label: "row".into(),
            wgsl: "
                @group(0) @binding(0) var<uniform> params: array<vec4<u32>, 1>;
                @group(0) @binding(2) var<storage, read> rows: array<u32>;
                @group(0) @binding(3) var<storage, read> old: array<u32>;
                @group(0) @binding(4) var<storage, read_write> out: array<u32>;
                @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                    let i = id.x;
                    if (i >= params[0].x) { return; }
                    out[i] = old[i] * 2u + rows[params[0].y + i];
                }"
            .into(),
            reads: 2,
            writes: 1,
            uses_scalars: false,
            trusted: true,
            native: Some(Arc::new(|reads, writes, _| {
                for (i, out) in writes[0].iter_mut().enumerate() {
                    *out = reads[1][i].wrapping_mul(2).wrapping_add(reads[0][i]);
                }
            })),
        };
        let launch = |reads: [BufferRef; 2], write| Launch {
            kernel: Arc::new(kernel.clone()),
            params: vec![n as u32, 400],
            grid: [2, 1, 1],
            reads: reads.to_vec(),
            writes: vec![write],
            cost: Cost::default(),
        };
        // From the last row to the first; the sum is in two buffers in turn.
        let window = Window { start: 400, step: -100, words: n };
        let turn = Turn {
            params: vec![0, 100u32.wrapping_neg()],
            windows: vec![Some(window), None, None],
            odd: vec![External(0), Slot(0), External(2)],
        };
        let recording = Recording {
            launches: vec![
                launch([External(0), External(1)], External(2)),
                launch([External(0), External(2)], Slot(0)),
            ],
            loops: vec![Repeat { launches: 1..2, trips: trips - 1, turns: vec![turn] }],
            slots: vec![n],
            externals: vec![n * trips, n, n],
            scalar_words: 0,
        };
        let mut wrong = recording.clone();
        wrong.loops[0].trips = 7;
        let error = device.prepare(wrong).err();
        assert!(matches!(error, Some(DeviceError::InvalidRecording { launch: 1, .. })), "{error:?}");
        let plan = device.prepare(recording).unwrap();
        let (rows, start) = (noise(n * trips, 1), noise(n, 2));
        let bufs = [device.upload(&rows).unwrap(), device.upload(&start).unwrap(), device.alloc(n).unwrap()];
        device.run(&plan, &bufs, &[]).unwrap();
        let before = device.counters();
        device.run(&plan, &bufs, &[]).unwrap();
        let did = device.counters() - before;
        assert_eq!((did.dispatches, did.submits, did.bind_groups), (trips as u64, 1, 0));
        if device.info().kind != versant_device::DeviceKind::Null {
            // The first launch reads the last row, as the CPU's window of everything does not: it starts at 0.
            let cpu = device.info().kind == versant_device::DeviceKind::Cpu;
            let first = if cpu { 0 } else { 400 };
            let want: Vec<u32> = (0..n)
                .map(|i| {
                    let begin = start[i].wrapping_mul(2).wrapping_add(rows[first + i]);
                    (0..trips - 1)
                        .fold(begin, |sum, t| sum.wrapping_mul(2).wrapping_add(rows[400 - 100 * t + i]))
                })
                .collect();
            assert_eq!(device.read(&bufs[2], n).unwrap(), want, "{device:?}");
        }
    }
}
