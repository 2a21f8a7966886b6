//! What a kernel family hands to an executor.

use std::sync::Arc;

/// A kernel's CPU twin: `(reads, writes, scalars)`.
///
/// Buffers are words whatever the element type. A buffer that the kernel both reads and writes
/// stands among the writes only. The function owns everything else (shapes, strides, parameters).
pub type NativeFn = Arc<dyn Fn(&[&[u32]], &mut [&mut [u32]], &[u32]) + Send + Sync>;

/// Which form of a kernel to build: text for a GPU is not made for the CPU, and the reverse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Target {
    /// The native function only.
    Cpu,
    /// WGSL only; `lanes` is how many invocations may share a row (1 on software adapters, which
    /// pay dearly for barriers).
    Gpu {
        /// Whether the adapter is a software rasteriser.
        software: bool,
    },
}

/// One kernel launch without its buffers: what the device layer needs to compile and to run it.
///
/// Binding convention of the WGSL, all in group 0: binding 0 is the parameter block
/// `var<uniform> params: array<vec4<u32>, N>` (absent if `params` is empty); binding 1 is
/// `var<uniform> scalars: array<vec4<u32>, 256>` (only if `uses_scalars`); storage buffers follow from
/// binding 2: first `reads` read-only ones, then `writes` read-write ones. The entry point is `main`.
#[derive(Clone)]
pub struct KernelSource {
    /// Shown by `explain()` and in profiles.
    pub label: String,
    /// The module's text; empty for [`Target::Cpu`]. It must depend on structure only, never on a
    /// shape, so that a new batch size compiles nothing.
    pub wgsl: String,
    /// Number of read-only storage buffers.
    pub reads: usize,
    /// Number of read-write storage buffers.
    pub writes: usize,
    /// Words of the parameter block: shapes, strides, offsets.
    pub params: Vec<u32>,
    /// Whether binding 1 (host scalars) is used.
    pub uses_scalars: bool,
    /// Workgroups in x, y, z, each at most 65,535.
    pub grid: [u32; 3],
    /// The CPU twin; `None` for a GPU target.
    pub native: Option<NativeFn>,
}
