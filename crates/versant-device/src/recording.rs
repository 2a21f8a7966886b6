//! Commands as data: what a plan hands to a device.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::{DeviceError, Result};
use crate::info::{DeviceKind, Limits};
use crate::repeat::Repeat;

/// A kernel's CPU twin: `(reads, writes, scalars)`, all in words.
pub type NativeFn = Arc<dyn Fn(&[&[u32]], &mut [&mut [u32]], &[u32]) + Send + Sync>;

/// Most host scalars (words) that one recording may use.
pub const MAX_SCALARS: usize = 1024;

/// A kernel in the forms that an executor can run.
///
/// In the WGSL, all in group 0: binding 0 is the parameter block (absent if launches have no
/// params), binding 1 the scalars `array<vec4<u32>, 256>` (only if `uses_scalars`), storage buffers
/// from binding 2, reads before writes; the entry point is `main`.
#[derive(Clone)]
pub struct Kernel {
    /// Shown in errors and profiles.
    pub label: String,
    /// The module's text; may be empty if only the CPU runs it.
    pub wgsl: String,
    /// Number of read-only storage buffers.
    pub reads: usize,
    /// Number of read-write storage buffers.
    pub writes: usize,
    /// Whether binding 1 is used.
    pub uses_scalars: bool,
    /// Whether whoever wrote the text vouches for it: every index is in range, every loop ends, no integer
    /// is divided by zero, and workgroup memory is written before it is read, for every parameter block that
    /// the kernel is launched with. Such a kernel is compiled without run-time checks, unless the device was
    /// opened [checked](crate::DeviceOptions::checked).
    pub trusted: bool,
    /// The CPU twin; may be `None` if only GPUs run it.
    pub native: Option<NativeFn>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("label", &self.label)
            .field("wgsl_bytes", &self.wgsl.len())
            .field("reads", &self.reads)
            .field("writes", &self.writes)
            .field("uses_scalars", &self.uses_scalars)
            .field("trusted", &self.trusted)
            .field("native", &self.native.is_some())
            .finish()
    }
}

/// A buffer that a launch uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BufferRef {
    /// One of the recording's own intermediate buffers.
    Slot(u32),
    /// Some words of an intermediate buffer: which, the first of them (a multiple of [`PART_ALIGN`]) and their number.
    /// To aliasing it is the whole buffer.
    Part(u32, u32, u32),
    /// One of the buffers given at run time.
    External(u32),
}

/// Words to a multiple of which parts of a buffer begin: every adapter can bind them at 256 bytes.
pub const PART_ALIGN: usize = 64;

impl BufferRef {
    /// The buffer that this is a part of.
    fn whole(self) -> BufferRef {
        match self {
            BufferRef::Part(slot, ..) => BufferRef::Slot(slot),
            whole => whole,
        }
    }
}

/// What a launch costs at best: the roofline's two axes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

impl Cost {
    /// That of so many.
    #[must_use]
    pub fn times(self, n: usize) -> Cost {
        let n = n as u64;
        Cost { flops: self.flops.saturating_mul(n), bytes: self.bytes.saturating_mul(n) }
    }
}

/// One kernel launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What is launched.
    pub kernel: Arc<Kernel>,
    /// Words of the parameter block. Every launch of one kernel has as many.
    pub params: Vec<u32>,
    /// Workgroups in x, y, z. With a 0 among them the launch is skipped.
    pub grid: [u32; 3],
    /// The read-only buffers.
    pub reads: Vec<BufferRef>,
    /// The read-write buffers. None may be bound twice in a launch.
    pub writes: Vec<BufferRef>,
    /// What it costs.
    pub cost: Cost,
}

impl Launch {
    /// All buffers in binding order: reads before writes.
    pub fn bindings(&self) -> impl Iterator<Item = BufferRef> + Clone + '_ {
        self.reads.iter().chain(&self.writes).copied()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

/// Launches in order, with the buffers they need.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Executed in this order; each sees what earlier ones wrote.
    pub launches: Vec<Launch>,
    /// Those that are repeated: ranges in order that do not overlap.
    pub loops: Vec<Repeat>,
    /// Sizes in words of the intermediate buffers, whose contents are undefined before a run.
    pub slots: Vec<usize>,
    /// Sizes in words that the launches use of the buffers given at run time.
    pub externals: Vec<usize>,
    /// Number of host scalars (words) given at run time, at most [`MAX_SCALARS`].
    pub scalar_words: usize,
}

impl Recording {
    /// What all launches cost together.
    pub fn cost(&self) -> Cost {
        let costs = self.launches.iter().zip(self.trips()).map(|(l, trips)| l.cost.times(trips));
        costs.fold(Cost::default(), |sum, cost| Cost {
            flops: sum.flops.saturating_add(cost.flops),
            bytes: sum.bytes.saturating_add(cost.bytes),
        })
    }

    /// Checks everything that can be checked without compiling.
    pub(crate) fn validate(&self, kind: DeviceKind, limits: &Limits) -> Result<()> {
        limit("host scalars (words)", self.scalar_words, MAX_SCALARS)?;
        if let Some((launch, message)) = self.loop_fault() {
            let label = self.launches.get(launch).map_or_else(String::new, |l| l.kernel.label.clone());
            return Err(DeviceError::InvalidRecording { launch, label, message });
        }
        for (index, launch) in self.launches.iter().enumerate() {
            self.validate_launch(launch, kind, limits).map_err(|fault| match fault {
                Fault::Shape(message) => DeviceError::InvalidRecording {
                    launch: index,
                    label: launch.kernel.label.clone(),
                    message,
                },
                Fault::Typed(error) => error,
            })?;
        }
        Ok(())
    }

    fn validate_launch(
        &self,
        launch: &Launch,
        kind: DeviceKind,
        limits: &Limits,
    ) -> std::result::Result<(), Fault> {
        let kernel = &launch.kernel;
        let missing = match kind {
            DeviceKind::Cpu => kernel.native.is_none(),
            DeviceKind::Wgpu => kernel.wgsl.is_empty(),
            DeviceKind::Null => false,
        };
        if missing {
            return Err(Fault::Typed(DeviceError::InvalidKernel {
                label: kernel.label.clone(),
                message: format!("it has no form for {kind:?} devices"),
            }));
        }
        for (what, wants, has) in
            [("read", kernel.reads, launch.reads.len()), ("written", kernel.writes, launch.writes.len())]
        {
            if wants != has {
                let message = format!("{has} {what} buffers are bound, its kernel has {wants}");
                return Err(Fault::Shape(message));
            }
        }
        if kernel.uses_scalars && self.scalar_words == 0 {
            let message = "its kernel uses scalars, the recording has none".to_string();
            return Err(Fault::Shape(message));
        }
        let most = limits.max_storage_buffers as usize;
        limit("storage buffers of a kernel", kernel.reads + kernel.writes, most)?;
        for groups in launch.grid {
            limit("workgroups in one dimension", groups, limits.max_groups)?;
        }
        let params = launch.params.len().div_ceil(4) as u64 * 16;
        limit("parameter bytes of a launch", params, limits.max_uniform_bytes)?;
        for (position, buffer) in launch.bindings().enumerate() {
            let words =
                self.words(buffer).ok_or_else(|| Fault::Shape(format!("{buffer:?} does not exist")))?;
            let bytes = (words as u64).saturating_mul(4);
            limit("bytes of a storage binding", bytes, limits.max_binding_bytes)?;
            let written = position >= launch.reads.len();
            if written && launch.bindings().take(position).any(|b| b.whole() == buffer.whole()) {
                let label = kernel.label.clone();
                return Err(Fault::Typed(DeviceError::Aliased { label }));
            }
        }
        Ok(())
    }

    /// The pipeline that each launch needs.
    pub(crate) fn pipeline_keys<'a>(
        &'a self,
        params: &'a ParamLayout,
    ) -> impl Iterator<Item = PipelineKey> + 'a {
        let launches = self.launches.iter().zip(&params.blocks);
        launches.map(|(launch, block)| PipelineKey {
            kernel: launch.kernel.clone(),
            param_bytes: block.map_or(0, |b| b.bytes),
        })
    }

    /// The size of a buffer in words, if it exists.
    pub(crate) fn words(&self, buffer: BufferRef) -> Option<usize> {
        match buffer {
            BufferRef::Slot(i) => self.slots.get(i as usize).copied(),
            BufferRef::Part(i, start, words) => {
                let (start, words) = (start as usize, words as usize);
                let fits = |&&has: &&usize| start % PART_ALIGN == 0 && start + words <= has;
                self.slots.get(i as usize).filter(fits).map(|_| words)
            }
            BufferRef::External(i) => self.externals.get(i as usize).copied(),
        }
    }
}

/// An error in a launch: either one that wants the launch's position, or a complete one.
enum Fault {
    Shape(String),
    Typed(DeviceError),
}

impl From<DeviceError> for Fault {
    fn from(error: DeviceError) -> Self {
        Fault::Typed(error)
    }
}

/// Fails if `asked` exceeds `most`.
pub(crate) fn limit<A, B>(what: &'static str, asked: A, most: B) -> Result<()>
where
    A: TryInto<u64>,
    B: TryInto<u64>,
{
    let asked = asked.try_into().unwrap_or(u64::MAX);
    let limit = most.try_into().unwrap_or(u64::MAX);
    if asked > limit {
        return Err(DeviceError::LimitExceeded { what, asked, limit });
    }
    Ok(())
}

/// Where each launch's parameters lie in their common uniform buffer.
#[derive(Debug, Default)]
pub(crate) struct ParamLayout {
    /// The buffer's contents.
    pub words: Vec<u32>,
    /// Each launch's block; `None` without parameters.
    pub blocks: Vec<Option<ParamSpan>>,
}

/// Where in the uniform buffer a launch's parameters lie, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParamSpan {
    pub offset: u64,
    pub bytes: u64,
    /// How far apart the blocks of successive trips lie; 0 if all have the same.
    pub step: u64,
}

impl ParamSpan {
    /// The offset of a trip's block, as a dynamic offset.
    pub fn on(&self, trip: usize) -> u32 {
        (self.offset + self.step * trip as u64) as u32
    }
}

impl ParamLayout {
    /// Lays the blocks out, each at a multiple of `align` bytes and padded to whole `vec4<u32>`s: one a launch, or one
    /// a trip where they differ.
    pub fn new(recording: &Recording, align: u32) -> Self {
        let step = (align as usize / 4).max(4);
        let mut layout = ParamLayout::default();
        let launches = recording.launches.iter().zip(recording.trips()).zip(recording.turns());
        for ((launch, trips), turn) in launches {
            if launch.params.is_empty() {
                layout.blocks.push(None);
                continue;
            }
            let start = layout.words.len().next_multiple_of(step);
            let len = launch.params.len().next_multiple_of(4);
            let apart = len.next_multiple_of(step);
            let turn = turn.filter(|t| t.params.iter().any(|&p| p != 0));
            let mut block = launch.params.clone();
            for trip in 0..turn.map_or(1, |_| trips) {
                layout.words.resize(start + trip * apart, 0);
                layout.words.extend_from_slice(&block);
                turn.iter().for_each(|t| add(&mut block, &t.params));
            }
            layout.words.resize(layout.words.len().next_multiple_of(4), 0);
            let step = turn.map_or(0, |_| apart as u64 * 4);
            layout.blocks.push(Some(ParamSpan { offset: start as u64 * 4, bytes: len as u64 * 4, step }));
        }
        layout
    }
}

fn add(block: &mut [u32], more: &[u32]) {
    block.iter_mut().zip(more).for_each(|(word, more)| *word = word.wrapping_add(*more));
}

/// A pipeline's key: a kernel's text and layout. Two kernels of equal text share a pipeline.
#[derive(Clone, Debug)]
pub(crate) struct PipelineKey {
    pub kernel: Arc<Kernel>,
    /// Bytes of the parameter block, which the text fixes.
    pub param_bytes: u64,
}

impl PipelineKey {
    fn parts(&self) -> (&str, [usize; 2], [bool; 2], u64) {
        let k = &*self.kernel;
        // Kernels without text exist on the null device only, where labels stand in for it.
        let text = if k.wgsl.is_empty() { &k.label } else { &k.wgsl };
        (text, [k.reads, k.writes], [k.uses_scalars, k.trusted], self.param_bytes)
    }
}

impl PartialEq for PipelineKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for PipelineKey {}

impl Hash for PipelineKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}
