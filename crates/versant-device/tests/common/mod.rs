//! What the tests of this crate share: devices, and kernels in both forms.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::sync::Arc;

use versant_device::{
    BufferRef, Cost, Device, DeviceError, DeviceOptions, Kernel, Launch, Recording, Select,
};

pub use BufferRef::{External, Slot};

/// A graphics device, or `None` after saying what is skipped. With `VERSANT_REQUIRE_GPU=1` in the
/// environment a missing adapter fails the test.
pub fn gpu_with(options: DeviceOptions) -> Option<Device> {
    let options = DeviceOptions { select: Select::Gpu, ..options };
    match Device::open(&options) {
        Ok(device) => Some(device),
        Err(error @ DeviceError::NoAdapter { .. }) => {
            let required = std::env::var("VERSANT_REQUIRE_GPU").is_ok_and(|v| v == "1");
            assert!(!required, "VERSANT_REQUIRE_GPU=1, but {error}");
            println!("SKIPPED: the part on a graphics device ({error})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub fn gpu() -> Option<Device> {
    gpu_with(DeviceOptions::default())
}

/// The CPU, a graphics device with all its limits, and one with WebGPU's default limits.
pub fn real_devices() -> Vec<Device> {
    let frugal = gpu_with(DeviceOptions { default_limits: true, ..DeviceOptions::default() });
    let all = [Some(Device::cpu()), gpu(), frugal];
    all.into_iter().flatten().collect()
}

/// The real devices and the null one.
pub fn devices() -> Vec<Device> {
    let mut all = real_devices();
    all.push(Device::null());
    all
}

const HEAD: &str = "
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 1>;
@group(0) @binding(1) var<uniform> scalars: array<vec4<u32>, 256>;
@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) lid: vec3<u32>,
) {
    let i = (wid.x + wid.y * groups.x) * 64u + lid.x;
    if (i >= params[0].x) { return; }
";

/// Groups of 64 for `n` words, folded into y.
pub fn grid(n: usize) -> [u32; 3] {
    let groups = u32::try_from(n.div_ceil(64)).unwrap();
    let y = groups.div_ceil(65_535);
    [groups.min(65_535), y, 1]
}

fn launch(kernel: Kernel, params: Vec<u32>, n: usize, bufs: [BufferRef; 3]) -> Launch {
    Launch {
        kernel: Arc::new(kernel),
        params,
        grid: grid(n),
        reads: vec![bufs[0], bufs[1]],
        writes: vec![bufs[2]],
        cost: Cost { flops: n as u64, bytes: 12 * n as u64 },
    }
}

/// `out = a + b + bias` over the first `n` words, modulo 2³².
pub fn add(n: usize, bias: u32, bufs: [BufferRef; 3]) -> Launch {
    let kernel = Kernel {
        label: "add".into(),
        wgsl: HEAD.replace("@group(0) @binding(1) var<uniform> scalars: array<vec4<u32>, 256>;", "")
            + "out[i] = a[i] + b[i] + params[0].y; }",
        reads: 2,
        writes: 1,
        uses_scalars: false,
        trusted: true,
        native: Some(Arc::new(move |reads, writes, _| {
            for i in 0..n {
                let sum = reads[0][i].wrapping_add(reads[1][i]);
                writes[0][i] = sum.wrapping_add(bias);
            }
        })),
    };
    launch(kernel, vec![n as u32, bias], n, bufs)
}

/// `out = a * s0 + b * s5` with the host scalars 0 and 5, modulo 2³².
pub fn mix(n: usize, bufs: [BufferRef; 3]) -> Launch {
    let kernel = Kernel {
        label: "mix".into(),
        wgsl: HEAD.to_string() + "out[i] = a[i] * scalars[0].x + b[i] * scalars[1].y; }",
        reads: 2,
        writes: 1,
        uses_scalars: true,
        trusted: true,
        native: Some(Arc::new(move |reads, writes, scalars| {
            for i in 0..n {
                let left = reads[0][i].wrapping_mul(scalars[0]);
                let right = reads[1][i].wrapping_mul(scalars[5]);
                writes[0][i] = left.wrapping_add(right);
            }
        })),
    };
    launch(kernel, vec![n as u32], n, bufs)
}

/// A recording without scalars.
pub fn recording(launches: Vec<Launch>, slots: &[usize], externals: &[usize]) -> Recording {
    Recording { launches, slots: slots.to_vec(), externals: externals.to_vec(), ..Recording::default() }
}

/// `out = (a + b) + (a + a) + 3` through two slots.
pub fn two_slots(n: usize) -> Recording {
    recording(
        vec![
            add(n, 1, [External(0), External(1), Slot(0)]),
            add(n, 2, [External(0), External(0), Slot(1)]),
            add(n, 0, [Slot(0), Slot(1), External(2)]),
        ],
        &[n, n],
        &[n, n, n],
    )
}

/// What [`two_slots`] makes.
pub fn two_slots_expected(a: &[u32], b: &[u32]) -> Vec<u32> {
    let add = |(a, b): (&u32, &u32)| a.wrapping_mul(3).wrapping_add(*b).wrapping_add(3);
    a.iter().zip(b).map(add).collect()
}

/// Distinct words.
pub fn noise(n: usize, seed: u32) -> Vec<u32> {
    let word = |i: u32| (i ^ seed).wrapping_mul(2_654_435_761).rotate_left(13) ^ seed;
    (0..n as u32).map(word).collect()
}
