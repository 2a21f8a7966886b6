//! Devices: adapters, buffers, pipelines, and the executors of a [`Recording`].
//!
//! A recording is commands as data: launches of kernels on buffers. Three executors run one: wgpu
//! (Vulkan, Metal, DX12), the CPU (each kernel's native function), and null (executes nothing,
//! counts everything as wgpu would). This is the only crate that names wgpu.
//!
//! What it deliberately does not know: any operation, shape or element type. A buffer is words, a
//! kernel is text and a function, a plan is a list.
//!
//! ```
//! use std::sync::Arc;
//! use versant_device::{BufferRef, Cost, Device, Kernel, Launch, Recording};
//!
//! let device = Device::cpu();
//! let double = Kernel {
//!     label: "double".into(),
//!     wgsl: String::new(),
//!     reads: 1,
//!     writes: 1,
//!     uses_scalars: false,
//!     trusted: false,
//!     native: Some(Arc::new(|reads, writes, _| {
//!         for (out, x) in writes[0].iter_mut().zip(reads[0]) {
//!             *out = 2 * x;
//!         }
//!     })),
//! };
//! let plan = device.prepare(Recording {
//!     launches: vec![Launch {
//!         kernel: Arc::new(double),
//!         params: vec![],
//!         grid: [1, 1, 1],
//!         reads: vec![BufferRef::External(0)],
//!         writes: vec![BufferRef::External(1)],
//!         cost: Cost::default(),
//!     }],
//!     externals: vec![3, 3],
//!     ..Recording::default()
//! })?;
//! let (x, y) = (device.upload(&[1, 2, 3])?, device.alloc(3)?);
//! device.run(&plan, &[x, y.clone()], &[])?;
//! assert_eq!(device.read(&y, 3)?, [2, 4, 6]);
//! # Ok::<(), versant_device::DeviceError>(())
//! ```

mod bind_cache;
mod buffer;
mod counters;
mod cpu;
mod device;
mod error;
mod executor;
mod gpu;
mod info;
mod null;
mod options;
mod pace;
mod peak;
mod pool;
mod recording;
mod repeat;
mod run_lock;
mod trace;
mod workspace;

pub use buffer::Buffer;
pub use counters::Counters;
pub use device::{Device, Footprint, Prepared};
pub use error::{DeviceError, Result};
pub use info::{AdapterClass, Backend, DeviceInfo, DeviceKind, Features, Limits};
pub use options::{
    CHECKED_VAR, DEFAULT_LIMITS_VAR, DEVICE_VAR, DeviceOptions, EXPERIMENTAL_VAR, PROFILE_VAR, Select,
    THREADS_VAR,
};
pub use pace::MAX_SUBMISSION;
pub use peak::Peak;
pub use pool::{ClassStats, MemoryStats};
pub use recording::{BufferRef, Cost, Kernel, Launch, MAX_SCALARS, NativeFn, PART_ALIGN, Recording};
pub use repeat::{Repeat, Turn, Window};
pub use trace::Span;
