//! The seam between the device and what drives it: CPU, null or wgpu.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytemuck::{Pod, Zeroable};

use crate::buffer::Buffer;
use crate::error::{DeviceError, Result};
use crate::pool::{Fixed, Role};
use crate::recording::{BufferRef, ParamLayout, Recording};
use crate::repeat::Dispatch;
use crate::trace::Trace;

/// A cache line of words, so that host buffers are aligned for vector loads without `unsafe`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u32; 16]);

/// What a buffer will be bound as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Usage {
    /// Read and written by kernels, uploaded and read back.
    Storage,
    /// Parameters or scalars.
    Uniform,
}

/// The memory behind a buffer.
pub(crate) enum Storage {
    Host(RwLock<Vec<Line>>),
    Gpu(Box<dyn crate::gpu::GpuMemory>),
    Null,
}

/// A piece of memory with an identity that outlives its stays in the pool.
pub(crate) struct Memory {
    /// Never given twice, so bind groups can be cached by it.
    pub id: u64,
    /// Capacity in words.
    pub words: usize,
    pub role: Role,
    pub storage: Storage,
}

/// One run: a recording with the buffers it is to work on.
pub(crate) struct Job<'a> {
    pub recording: &'a Recording,
    /// Whether a new submission begins with each execution of a launch, in order.
    pub cuts: &'a [bool],
    /// Position in the workspace of each slot.
    pub slots: &'a [usize],
    pub workspace: &'a [Fixed],
    pub externals: &'a [Buffer],
    pub scalars: &'a [u32],
    /// Where the scalars go; `None` on the CPU.
    pub scalar_memory: Option<&'a Memory>,
    /// The parameter blocks; `None` on the CPU and where no launch has any.
    pub param_memory: Option<&'a Memory>,
}

impl Job<'_> {
    /// The memory behind a reference, and the words of it that the recording uses.
    pub fn resolve(&self, buffer: BufferRef) -> (&Memory, Range<usize>) {
        let slot = |i: u32| self.workspace[self.slots[i as usize]].memory();
        match buffer {
            BufferRef::Slot(i) => (slot(i), 0..self.recording.slots[i as usize]),
            BufferRef::Part(i, start, words) => (slot(i), start as usize..(start + words) as usize),
            BufferRef::External(i) => {
                (self.externals[i as usize].memory(), 0..self.recording.externals[i as usize])
            }
        }
    }

    /// The identities of a launch's buffers, reads before writes.
    pub fn ids<'j>(&'j self, launch: Dispatch<'j>) -> impl Iterator<Item = u64> + Clone + 'j {
        launch.bindings().map(|r| self.resolve(r).0.id)
    }

    /// Refuses a launch that writes a buffer which it also binds elsewhere: two externals of
    /// the recording may turn out to be the same buffer only at run time.
    pub fn check_aliases(&self, dispatch: Dispatch<'_>) -> Result<()> {
        let reads = dispatch.reads().len();
        for (w, &write) in dispatch.writes().iter().enumerate() {
            let id = self.resolve(write).0.id;
            if self.ids(dispatch).take(reads + w).any(|other| other == id) {
                return Err(DeviceError::Aliased { label: dispatch.launch.kernel.label.clone() });
            }
        }
        Ok(())
    }
}

/// What drives a device.
pub(crate) trait Executor: Send + Sync {
    /// Memory for `words` words, at least one; its contents are undefined.
    fn allocate(&self, words: usize, usage: Usage) -> Result<Storage>;
    /// Copies `data` to the start of the memory, in the order of the other calls.
    fn write(&self, storage: &Storage, data: &[u32]) -> Result<()>;
    /// The first `words` words, after everything submitted before.
    fn read(&self, storage: &Storage, words: usize) -> Result<Vec<u32>>;
    /// Whether parameters and scalars live in device memory.
    fn has_uniforms(&self) -> bool;
    /// Compiles a validated recording.
    fn prepare(&self, recording: &Recording, params: &ParamLayout) -> Result<Box<dyn Program>>;
    /// Takes in all times of a profile.
    fn finish_trace(&self) -> Result<()> {
        Ok(())
    }
    /// Calls `f`, which runs a program, on the thread that its launches had best come from.
    fn enter(&self, _recording: &Recording, f: &mut (dyn FnMut() + Send)) {
        f();
    }
    /// Waits until everything submitted is done.
    fn wait(&self) -> Result<()>;
    /// Gives the device up.
    fn destroy(&self);
}

/// A compiled recording.
pub(crate) trait Program: Send {
    /// Runs every launch in order.
    fn run(&mut self, job: &Job<'_>) -> Result<()>;
    /// Runs every launch in order and returns the nanoseconds of each, all its trips together; 0 for skipped ones.
    fn run_timed(&mut self, job: &Job<'_>) -> Result<Vec<u64>>;
    /// As `run`, and adds the time of every launch to the device's profile, at once or later.
    fn run_traced(&mut self, job: &Job<'_>, trace: &Trace) -> Result<()> {
        let mut begin = trace.now();
        let times = self.run_timed(job)?;
        let trips = job.recording.trips();
        let launches =
            job.recording.launches.iter().zip(times).zip(trips).filter(|((l, _), _)| !l.is_empty());
        trace.launches(launches.map(|((launch, nanos), trips)| {
            begin += nanos;
            (&launch.kernel.label[..], launch.cost.times(trips), begin - nanos, nanos)
        }));
        Ok(())
    }
}

/// Whether a device still works, and the first error that arrived outside any call.
#[derive(Debug, Default)]
pub(crate) struct Health {
    lost: AtomicBool,
    reason: Mutex<String>,
    fault: Mutex<Option<DeviceError>>,
}

impl Health {
    /// Fails if the device is lost.
    pub fn check(&self) -> Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(DeviceError::DeviceLost { reason: lock(&self.reason).clone() });
        }
        Ok(())
    }

    /// Fails if the device is lost or if an error arrived since the last call, which is then forgotten.
    pub fn settle(&self) -> Result<()> {
        self.check()?;
        lock(&self.fault).take().map_or(Ok(()), Err)
    }

    /// Marks the device as lost; the first reason stays.
    pub fn lose(&self, reason: &str) {
        let mut kept = lock(&self.reason);
        if !self.lost.load(Ordering::Acquire) {
            kept.push_str(reason);
            self.lost.store(true, Ordering::Release);
        }
    }

    /// Keeps an error for the next call to return; the first one stays.
    pub fn report(&self, error: DeviceError) {
        lock(&self.fault).get_or_insert(error);
    }
}

/// Locks, whether or not another thread panicked while it held the lock: every state behind
/// these locks is consistent between statements.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shared ownership of what a device and its executor both need.
pub(crate) type SharedHealth = Arc<Health>;
