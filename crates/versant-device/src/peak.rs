//! What a device can do at best, measured: the roof under which kernels work.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::buffer::Buffer;
use crate::device::{Device, Prepared};
use crate::error::{DeviceError, Result};
use crate::info::{AdapterClass, DeviceKind};
use crate::recording::{BufferRef, Cost, Kernel, Launch, Recording};

/// The rates that no kernel of a device exceeds by much.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Peak {
    /// Bytes read and written a second by a copy of a large buffer.
    pub bytes_per_second: f64,
    /// Floating-point operations a second of independent multiply-adds in registers, two each.
    pub flops_per_second: f64,
}

impl Peak {
    /// The least seconds that work of this cost takes, and whether it is bound by memory.
    pub fn bound(&self, cost: Cost) -> (f64, bool) {
        let memory = cost.bytes as f64 / self.bytes_per_second;
        let arithmetic = cost.flops as f64 / self.flops_per_second;
        (memory.max(arithmetic), memory >= arithmetic)
    }
}

/// Copies in one run, forth and back.
const COPIES: usize = 4;

/// Runs of which the best counts.
const ROUNDS: usize = 3;

/// Invocations of the arithmetic kernel: enough to fill a large card.
const INVOCATIONS: usize = 1 << 16;

/// Operations of one iteration of an invocation: 16 multiply-adds of four lanes.
const FLOPS: usize = 2 * 16 * 4;

/// Most iterations: lavapipe ends every loop of an invocation after 65,535.
const MAX_ITERATIONS: usize = 1 << 15;

/// A run that takes this long is long enough to be measured.
const LONG_ENOUGH: f64 = 5e-3;

/// Both rates of a device.
pub(crate) fn measure(device: &Device) -> Result<Peak> {
    let info = device.info();
    if info.kind == DeviceKind::Null {
        return Err(DeviceError::Unsupported { what: "speed: it executes nothing" });
    }
    // A card may have more cache than others have memory bandwidth.
    let wanted: u64 = if info.class == AdapterClass::Discrete { 128 << 20 } else { 32 << 20 };
    let bytes = wanted.min(info.limits.max_binding_bytes) as usize / 4096 * 4096;
    let recording = copies(bytes / 4, info.is_software());
    let moved = recording.cost().bytes as f64;
    let plan = device.prepare(recording)?;
    let buffers = [device.alloc(bytes / 4)?, device.alloc(bytes / 4)?];
    let copy = best(device, &plan, &buffers)?;
    let out = [device.alloc(INVOCATIONS * 4)?];
    let mut iterations = 16;
    loop {
        let recording = arithmetic(iterations);
        let flops = recording.cost().flops as f64;
        let time = best(device, &device.prepare(recording)?, &out)?;
        if time >= LONG_ENOUGH || iterations == MAX_ITERATIONS {
            return Ok(Peak { bytes_per_second: moved / copy, flops_per_second: flops / time });
        }
        iterations = (iterations * 4).min(MAX_ITERATIONS);
    }
}

/// Seconds of the fastest run, the first one not counted.
fn best(device: &Device, plan: &Prepared, buffers: &[Buffer]) -> Result<f64> {
    let mut best = f64::MAX;
    for round in 0..=ROUNDS {
        let seconds = if device.info().features.timestamps {
            device.run_timed(plan, buffers, &[])?.iter().sum::<u64>() as f64 / 1e9
        } else {
            device.wait()?;
            let begin = Instant::now();
            device.run(plan, buffers, &[])?;
            device.wait()?;
            begin.elapsed().as_secs_f64()
        };
        if round > 0 {
            // A clock may stand still for a moment; no device is infinitely fast.
            best = best.min(seconds.max(1e-9));
        }
    }
    Ok(best)
}

const COPY: &str = "
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 1>;
@group(0) @binding(2) var<storage, read> src: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> dst: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let first = wid.x * 256u + lid * params[0].x;
    let step = params[0].y;
    dst[first] = src[first];
    dst[first + step] = src[first + step];
    dst[first + 2u * step] = src[first + 2u * step];
    dst[first + 3u * step] = src[first + 3u * step];
}
";

/// Copies of `words` words, a multiple of 1,024. Neighbouring invocations copy neighbouring elements, but for
/// software adapters, where each copies four neighbours.
fn copies(words: usize, software: bool) -> Recording {
    let kernel = Arc::new(Kernel {
        label: "copy".into(),
        wgsl: COPY.into(),
        reads: 1,
        writes: 1,
        uses_scalars: false,
        trusted: true,
        native: Some(Arc::new(|reads, writes, _| {
            let part = reads[0].len().div_ceil(threads()).max(1);
            thread::scope(|scope| {
                for (dst, src) in writes[0].chunks_mut(part).zip(reads[0].chunks(part)) {
                    scope.spawn(|| dst.copy_from_slice(src));
                }
            });
        })),
    });
    let launch = |i: usize| Launch {
        kernel: kernel.clone(),
        params: if software { vec![4, 1, 0, 0] } else { vec![1, 64, 0, 0] },
        grid: [(words / 1024) as u32, 1, 1],
        reads: vec![BufferRef::External(i as u32 % 2)],
        writes: vec![BufferRef::External(1 - i as u32 % 2)],
        cost: Cost { flops: 0, bytes: 8 * words as u64 },
    };
    Recording {
        launches: (0..COPIES).map(launch).collect(),
        externals: vec![words; 2],
        ..Recording::default()
    }
}

/// One launch of `iterations` rounds of multiply-adds.
fn arithmetic(iterations: usize) -> Recording {
    let round = "a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y); d = fma(d, x, y);\n".repeat(4);
    let wgsl = format!(
        "@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 1>;
        @group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
        @compute @workgroup_size(64)
        fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {{
            let i = wid.x * 64u + lid;
            let x = vec4<f32>(bitcast<f32>(params[0].y));
            let y = vec4<f32>(bitcast<f32>(params[0].z));
            var a = vec4<f32>(f32(i));
            var b = a + y;
            var c = b + y;
            var d = c + y;
            for (var k = 0u; k < params[0].x; k += 1u) {{\n{round}}}
            out[i] = a + b + c + d;
        }}"
    );
    let flops = FLOPS * iterations * INVOCATIONS;
    let kernel = Kernel {
        label: "multiply-add".into(),
        wgsl,
        reads: 0,
        writes: 1,
        uses_scalars: false,
        trusted: true,
        native: Some(Arc::new(move |_, writes, _| {
            let threads = threads().min(writes[0].len());
            thread::scope(|scope| {
                for out in &mut writes[0][..threads] {
                    let chain = Chains { flops: flops / threads };
                    scope.spawn(|| *out = pulp::Arch::new().dispatch(chain).to_bits());
                }
            });
        })),
    };
    let words = [0.999f32, 0.001].map(f32::to_bits);
    Recording {
        launches: vec![Launch {
            kernel: Arc::new(kernel),
            params: vec![iterations as u32, words[0], words[1], 0],
            grid: [(INVOCATIONS / 64) as u32, 1, 1],
            reads: vec![],
            writes: vec![BufferRef::External(0)],
            cost: Cost { flops: flops as u64, bytes: 16 * INVOCATIONS as u64 },
        }],
        externals: vec![INVOCATIONS * 4],
        ..Recording::default()
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Independent chains of multiply-adds in the widest vectors of the processor.
struct Chains {
    flops: usize,
}

/// As many as hide the latency of two units, and fit the registers of every machine.
const CHAINS: usize = 10;

impl pulp::WithSimd for Chains {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> f32 {
        let (x, y) = (simd.splat_f32s(0.999), simd.splat_f32s(0.001));
        let mut chains = [y; CHAINS];
        for _ in 0..self.flops / (2 * CHAINS * S::F32_LANES) {
            for chain in &mut chains {
                *chain = simd.mul_add_f32s(*chain, x, y);
            }
        }
        simd.reduce_sum_f32s(chains.into_iter().fold(y, |a, b| simd.add_f32s(a, b)))
    }
}
