//! Misuse and misfortune come back as typed errors.

mod common;

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::*;
use versant_device::{
    AdapterClass, Cost, Device, DeviceError, DeviceKind, DeviceOptions, Kernel, Launch, Recording,
};

/// A copy of `add` whose kernel was changed.
fn altered(change: impl FnOnce(&mut Kernel)) -> Launch {
    let mut launch = add(10, 0, [External(0), External(1), External(2)]);
    let mut kernel = (*launch.kernel).clone();
    change(&mut kernel);
    launch.kernel = Arc::new(kernel);
    launch
}

fn prepare(device: &Device, launch: Launch) -> DeviceError {
    let plan = recording(vec![launch], &[8], &[10; 4]);
    device.prepare(plan).expect_err("must not prepare")
}

/// Set for a test that another test runs as a process of its own.
const CHILD: &str = "VERSANT_TEST_CHILD";

#[test]
fn invalid_kernels_name_themselves() {
    let Some(device) = gpu() else { return };
    type Change = Box<dyn Fn(&mut Kernel)>;
    let cases: [(&str, Change); 5] = [
        ("syntax", Box::new(|k| k.wgsl.push('}'))),
        ("type", Box::new(|k| k.wgsl = k.wgsl.replace("out[i] =", "out[i] = 1.5 +"))),
        ("entry point", Box::new(|k| k.wgsl = k.wgsl.replace("fn main", "fn other"))),
        ("params too short", Box::new(|k| k.wgsl = k.wgsl.replace("vec4<u32>, 1>", "vec4<u32>, 9>"))),
        ("workgroup too large", Box::new(|k| k.wgsl = k.wgsl.replace("size(64)", "size(64, 64, 64)"))),
    ];
    for (label, change) in &cases {
        let launch = altered(|k| {
            change(k);
            k.label = (*label).to_string();
        });
        match prepare(&device, launch) {
            DeviceError::InvalidKernel { label: l, message } => {
                assert!(l == *label && message.len() > 20, "{label}: {message}");
            }
            other => panic!("{label}: {other:?}"),
        }
    }
    // And the device works on.
    assert_eq!(device.counters().pipelines, 0);
    device.prepare(two_slots(5)).unwrap();
    let no_text = altered(|k| k.wgsl.clear());
    assert!(matches!(prepare(&device, no_text), DeviceError::InvalidKernel { .. }));
    let no_native = altered(|k| k.native = None);
    let error = prepare(&Device::cpu(), no_native);
    assert!(matches!(error, DeviceError::InvalidKernel { .. }), "{error}");
}

#[test]
fn limits_are_named() {
    let frugal = gpu_with(DeviceOptions { default_limits: true, ..DeviceOptions::default() });
    for device in frugal.into_iter().chain([Device::null()]) {
        let limits = device.info().limits;
        assert_eq!(limits, versant_device::Limits::webgpu(), "{device:?}");
        let exceeded = |error: DeviceError| match error {
            DeviceError::LimitExceeded { what, asked, limit } => (what, asked, limit),
            other => panic!("{device:?}: {other:?}"),
        };
        let error = device.alloc((64 << 20) + 1).expect_err("too long");
        assert_eq!(exceeded(error).2, 256 << 20);
        device.alloc(64 << 20).unwrap();

        let mut launch = altered(|_| {});
        launch.grid = [1, 65_536, 1];
        let (what, asked, limit) = exceeded(prepare(&device, launch));
        assert_eq!((what, asked, limit), ("workgroups in one dimension", 65_536, 65_535));

        let mut launch = altered(|k| k.reads = 8);
        launch.reads = vec![External(0); 8];
        let (what, asked, limit) = exceeded(prepare(&device, launch));
        assert_eq!((what, asked, limit), ("storage buffers of a kernel", 9, 8));

        let mut launch = altered(|_| {});
        launch.params = vec![0; 16_385];
        assert_eq!(exceeded(prepare(&device, launch)).1, 65_552);

        let plan = recording(vec![altered(|_| {})], &[], &[10, 10, (32 << 20) + 1]);
        let error = device.prepare(plan).expect_err("too long a binding");
        assert_eq!(exceeded(error).0, "bytes of a storage binding");

        let plan = Recording { scalar_words: 1025, ..Recording::default() };
        let error = device.prepare(plan).expect_err("too many scalars");
        assert_eq!(exceeded(error).1, 1025);
    }
    // The grid's bound holds on the CPU, too, so that plans stay portable.
    let mut launch = altered(|_| {});
    launch.grid = [70_000, 1, 1];
    let error = prepare(&Device::cpu(), launch);
    assert!(matches!(error, DeviceError::LimitExceeded { .. }), "{error}");
}

#[test]
fn impossible_allocations_are_out_of_memory() {
    let device = Device::cpu();
    let error = device.alloc(1 << 60).expect_err("four exbibytes");
    assert!(matches!(error, DeviceError::OutOfMemory { asked } if asked >= 1 << 62));
    let error = device.alloc(usize::MAX).expect_err("more than there are addresses");
    assert!(matches!(error, DeviceError::LimitExceeded { .. }));
    assert_eq!(device.memory().current, 0);
}

#[test]
fn child_with_little_memory() {
    // Only `a_gpu_out_of_memory_works_on` gives it a small address space.
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let Some(device) = gpu() else { return };
    let mut held = Vec::new();
    let error = loop {
        match device.alloc(120 << 20) {
            Ok(buffer) => held.push(buffer),
            Err(error) => break error,
        }
        assert!(held.len() < 100, "the address space is not bounded");
    };
    assert_eq!(error, DeviceError::OutOfMemory { asked: 480 << 20 });
    let stats = device.memory();
    assert_eq!(stats.current, held.len() as u64 * (480 << 20));
    // Of another size: the pool must give back what it holds.
    held.clear();
    let buffer = device.alloc(200 << 20).unwrap();
    device.write(&buffer, &[1, 2, 3]).unwrap();
    assert_eq!(device.read(&buffer, 3).unwrap(), [1, 2, 3]);
    println!("out of memory after {}, then fine", stats.current);
}

#[test]
#[cfg(target_os = "linux")]
fn a_gpu_out_of_memory_works_on() {
    let Some(device) = gpu() else { return };
    if !device.info().is_software() {
        println!("SKIPPED: a card's memory cannot be made small");
        return;
    }
    let out = Command::new("sh")
        .args(["-c", "ulimit -v 6000000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_with_little_memory", "--nocapture"])
        .env(CHILD, "1")
        .env("LP_NUM_THREADS", "1")
        .env_remove(versant_device::DEFAULT_LIMITS_VAR)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("then fine"), "{text}{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn contradictions_in_recordings_are_found() {
    for device in devices() {
        let mut few = altered(|_| {});
        few.reads.pop();
        let mut many = altered(|_| {});
        many.writes.push(External(3));
        let mut slot = altered(|_| {});
        slot.reads[1] = Slot(1);
        let mut external = altered(|_| {});
        external.writes[0] = External(4);
        let scalars = mix(4, [External(0), External(1), External(2)]);
        for launch in [few, many, slot, external, scalars] {
            let error = prepare(&device, launch);
            assert!(
                matches!(error, DeviceError::InvalidRecording { launch: 0, .. }),
                "{device:?}: {error:?}"
            );
        }
    }
}

#[test]
fn aliases_are_refused() {
    for device in devices() {
        let launch = add(10, 0, [External(0), External(1), External(1)]);
        assert!(matches!(prepare(&device, launch), DeviceError::Aliased { .. }));
        let plan = device.prepare(recording(vec![altered(|_| {})], &[], &[10; 3])).unwrap();
        let (a, b) = (device.alloc(10).unwrap(), device.alloc(10).unwrap());
        let same = [a.clone(), b.clone(), b.clone()];
        let error = device.run(&plan, &same, &[]).expect_err("b is read and written");
        assert_eq!(error, DeviceError::Aliased { label: "add".into() });
        // One buffer may be read twice, and the device works on.
        device.run(&plan, &[a.clone(), a, b], &[]).unwrap();
    }
}

#[test]
fn arguments_must_fit() {
    for device in devices() {
        let plan = device.prepare(recording(vec![altered(|_| {})], &[], &[10; 3])).unwrap();
        let mut bufs = [(); 3].map(|()| device.alloc(10).unwrap());
        let is_size = |e| matches!(e, Err(DeviceError::WrongSize { .. }));
        assert!(is_size(device.run(&plan, &bufs[..2], &[])));
        assert!(is_size(device.run(&plan, &bufs, &[1])));
        assert!(is_size(device.write(&bufs[0], &[0; 11])));
        assert!(is_size(device.read(&bufs[0], 11).map(drop)));
        bufs[1] = device.alloc(9).unwrap();
        assert!(is_size(device.run(&plan, &bufs, &[])));

        let other = Device::null();
        bufs[1] = other.alloc(10).unwrap();
        let is_foreign = |e| e == Err(DeviceError::WrongDevice);
        assert!(is_foreign(device.run(&plan, &bufs, &[])));
        assert!(is_foreign(device.write(&bufs[1], &[1])));
        assert!(is_foreign(device.read(&bufs[1], 1).map(drop)));
        let mine = [(); 3].map(|()| other.alloc(10).unwrap());
        assert!(is_foreign(other.run(&plan, &mine, &[])));
    }
}

#[test]
fn a_lost_device_says_so_everywhere() {
    for device in devices() {
        let plan = device.prepare(two_slots(10)).unwrap();
        let bufs = [(); 3].map(|()| device.upload(&[1; 10]).unwrap());
        device.run(&plan, &bufs, &[]).unwrap();
        device.destroy();
        let lost = |e: Result<(), DeviceError>| {
            assert!(matches!(e, Err(DeviceError::DeviceLost { .. })), "{device:?}: {e:?}");
        };
        lost(device.run(&plan, &bufs, &[]));
        lost(device.alloc(5).map(drop));
        lost(device.upload(&[5]).map(drop));
        lost(device.write(&bufs[0], &[5]));
        lost(device.read(&bufs[0], 5).map(drop));
        lost(device.prepare(two_slots(10)).map(drop));
        lost(device.wait());
        drop((plan, bufs));
        device.trim().unwrap();
        assert_eq!(device.memory().pooled, 0);
    }
}

#[test]
fn devices_may_be_dropped_before_their_buffers() {
    for device in devices() {
        let plan = device.prepare(two_slots(10)).unwrap();
        let buffer = device.upload(&[1; 10]).unwrap();
        drop(device);
        assert_eq!(buffer.words(), 10);
        drop((plan, buffer));
    }
}

/// What a small launch costs, which runs on the caller's thread, and a large one, which a thread of the pool starts.
const COSTS: [Cost; 2] = [Cost { flops: 0, bytes: 0 }, Cost { flops: 1 << 30, bytes: 0 }];

#[test]
fn a_kernel_that_calls_its_device_gets_an_error() {
    let device = Device::cpu();
    for cost in COSTS {
        let answer = Arc::new(OnceLock::new());
        let (inner, slot) = (device.clone(), answer.clone());
        let kernel = Kernel {
            label: "caller".into(),
            wgsl: String::new(),
            reads: 0,
            writes: 0,
            uses_scalars: false,
            trusted: false,
            native: Some(Arc::new(move |_, _, _| {
                slot.get_or_init(|| (std::thread::current().id(), inner.wait()));
            })),
        };
        let launch = Launch {
            kernel: Arc::new(kernel),
            params: vec![],
            grid: [1; 3],
            reads: vec![],
            writes: vec![],
            cost,
        };
        let plan = device.prepare(recording(vec![launch], &[], &[])).unwrap();
        device.run(&plan, &[], &[]).unwrap();
        let (thread, result) = answer.get().expect("it ran");
        assert_eq!(*result, Err(DeviceError::Reentrant));
        assert_eq!(*thread == std::thread::current().id(), cost.flops == 0, "{cost:?}");
        device.wait().unwrap();
    }
}

#[test]
fn a_panicking_kernel_does_not_block_the_device() {
    let device = Device::cpu();
    for cost in COSTS {
        let panics = altered(|k| k.native = Some(Arc::new(|_, _, _| panic!("on purpose"))));
        let launch = Launch { cost, ..panics };
        let plan = device.prepare(recording(vec![launch], &[], &[10; 3])).unwrap();
        let bufs = [(); 3].map(|()| device.upload(&[1; 10]).unwrap());
        let run = || device.run(&plan, &bufs, &[]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).expect_err("it panics");
        let good = device.prepare(two_slots(10)).unwrap();
        device.run(&good, &bufs, &[]).unwrap();
        assert_eq!(device.read(&bufs[2], 1).unwrap(), [7]);
    }
}

#[test]
fn waiting_ends_at_the_timeout() {
    for default_limits in [false, true] {
        let Some(device) = gpu_with(DeviceOptions {
            timeout: Duration::from_micros(1),
            default_limits,
            ..DeviceOptions::default()
        }) else {
            return;
        };
        let n = 1 << 20;
        let one = add(n, 1, [External(0), External(1), External(2)]);
        let plan = recording(vec![one; 100], &[], &[n; 3]);
        let plan = device.prepare(plan).unwrap();
        let bufs = [1, 2, 3].map(|s| device.upload(&noise(n, s)).unwrap());
        device.run(&plan, &bufs, &[]).unwrap();
        let mut timeouts = 0;
        let value = loop {
            match device.read(&bufs[2], 1) {
                Ok(value) => break value,
                Err(DeviceError::Timeout { .. }) if timeouts < 10_000 => timeouts += 1,
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // lavapipe does a staging copy's work within the submission itself, where no timeout reaches.
        let told = timeouts > 0;
        assert!(told || !device.info().features.mapped, "{device:?}");
        // A buffer whose read timed out can be read later.
        let want = noise(n, 1)[0].wrapping_add(noise(n, 2)[0]).wrapping_add(1);
        assert_eq!(value, [want]);
    }
}

#[test]
fn unknown_devices_are_named() {
    let error = Device::by_name("Voodoo 2").expect_err("long gone");
    assert!(matches!(&error, DeviceError::UnknownDevice { asked, .. } if asked == "Voodoo 2"));
    assert!(error.to_string().starts_with("no device is named `Voodoo 2`; found: "));
    let foreign = if cfg!(target_os = "macos") { "dx12" } else { "metal" };
    let error = Device::by_name(foreign).expect_err("of another system");
    assert!(matches!(error, DeviceError::NoAdapter { asked, .. } if asked == foreign));
    assert_eq!(Device::by_name("cpu").unwrap().info().kind, DeviceKind::Cpu);
    assert_eq!(Device::by_name("null").unwrap().info().kind, DeviceKind::Null);
    if let Some(device) = gpu() {
        let part = device.info().name[1..5].to_uppercase();
        let again = Device::by_name(&part).unwrap();
        assert_eq!(again.info(), device.info());
    }
}

#[test]
fn all_devices_are_listed_best_first() {
    let all = Device::all();
    for info in &all {
        println!("{info}");
    }
    assert_eq!(all.last().map(|i| i.kind), Some(DeviceKind::Cpu));
    assert!(all.is_sorted_by_key(|i| i.class));
    let real = all.iter().any(|i| i.class < AdapterClass::Software);
    if std::env::var_os(versant_device::DEVICE_VAR).is_none() {
        let best = Device::best().unwrap();
        let is_gpu = best.info().kind == DeviceKind::Wgpu;
        assert_eq!(is_gpu, real, "a software adapter is not the best: {best:?}");
    }
}

#[test]
fn child_of_the_environment() {
    // Only `the_environment_selects` gives it an environment to look at.
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let device = Device::best().unwrap();
    println!("kind={:?} invocations={}", device.info().kind, device.info().limits.max_invocations);
}

#[test]
fn the_environment_selects() {
    let child = |device: &str, limits: &str| {
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_of_the_environment", "--nocapture"])
            .env(CHILD, "1")
            .env(versant_device::DEVICE_VAR, device)
            .env(versant_device::DEFAULT_LIMITS_VAR, limits)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(child("null", "").contains("kind=Null"));
    assert!(child("CPU", "").contains("kind=Cpu"));
    if gpu().is_some() {
        assert!(child("gpu", "1").contains("kind=Wgpu invocations=256"));
    }
}

#[test]
fn time_stamps_must_be_asked_for() {
    let Some(device) = gpu() else { return };
    let plan = device.prepare(two_slots(1)).unwrap();
    let bufs = [(); 3].map(|()| device.alloc(1).unwrap());
    let error = device.run_timed(&plan, &bufs, &[]).expect_err("not asked for");
    assert!(matches!(error, DeviceError::Unsupported { .. }));
}
