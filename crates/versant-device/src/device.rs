//! The device: the crate's front door.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::buffer::Buffer;
use crate::counters::{Counters, Meter, bump};
use crate::cpu::CpuExecutor;
use crate::error::{DeviceError, Result};
use crate::executor::{Executor, Job, Program, SharedHealth, Usage, lock};
use crate::gpu;
use crate::info::{DeviceInfo, Limits};
use crate::null::NullExecutor;
use crate::options::{DeviceOptions, Select};
use crate::pace::Pace;
use crate::peak::{self, Peak};
use crate::pool::{Fixed, MemoryStats, Pool, Role};
use crate::recording::{MAX_SCALARS, ParamLayout, Recording};
use crate::run_lock::RunLock;
use crate::trace::{Span, Trace};
use crate::workspace::Workspace;

/// An open device. Clones share it; `==` tells whether two handles mean the same one.
///
/// Calls may come from any thread; runs, reads and writes of one device follow one another. Errors of
/// the driver are returned, at the latest by the next call; once a device is lost every call says so.
#[derive(Clone)]
pub struct Device(Arc<Shared>);

struct Shared {
    id: u64,
    info: DeviceInfo,
    executor: Box<dyn Executor>,
    health: SharedHealth,
    meter: Arc<Meter>,
    pool: Arc<Pool>,
    runs: RunLock<RunState>,
    /// The profile, if there is to be one.
    trace: Option<Arc<Trace>>,
    peak: OnceLock<Peak>,
    attachments: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Shared {
    /// Completes the profile.
    fn finish_trace(&self) {
        if let Some(trace) = &self.trace {
            if let Err(error) = self.executor.finish_trace() {
                self.health.report(error);
            }
            trace.finish();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.finish_trace();
    }
}

/// What runs share.
#[derive(Default)]
struct RunState {
    workspace: Workspace,
    /// The run's host scalars; `None` on the CPU.
    scalars: Option<Fixed>,
}

/// A recording that is ready to run: pipelines compiled, parameters uploaded. Clones share it.
///
/// It keeps no handle on its device, so it may live in the device's own [attachments](Device::attachment).
#[derive(Clone)]
pub struct Prepared(Arc<PreparedInner>);

struct PreparedInner {
    device: u64,
    recording: Recording,
    /// Places in the workspace of the slots.
    places: Vec<usize>,
    params: Option<Fixed>,
    footprint: Footprint,
    pace: Mutex<Pace>,
    program: Mutex<Box<dyn Program>>,
}

/// Device memory of one run in bytes, as [`MemoryStats`] counts it: sizes rounded up as the pool does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    /// The buffers given at run time, inputs and results.
    pub externals: u64,
    /// The intermediate buffers; plans of a device share theirs, so several need what the largest does.
    pub workspace: u64,
    /// Parameters and host scalars, of this plan and of those that the device held when it was prepared.
    pub uniforms: u64,
}

impl Footprint {
    /// All of it: the peak of a device that holds no other buffers and ran no larger plan.
    pub fn total(&self) -> u64 {
        self.externals + self.workspace + self.uniforms
    }
}

impl Prepared {
    /// What was prepared.
    pub fn recording(&self) -> &Recording {
        &self.0.recording
    }

    /// The device memory that a run needs.
    pub fn footprint(&self) -> Footprint {
        self.0.footprint
    }

    /// How many submissions a run takes: one, unless its launches may together take longer than
    /// [`MAX_SUBMISSION`](crate::MAX_SUBMISSION). Estimated from their costs until a run was timed.
    pub fn submissions(&self) -> usize {
        1 + lock(&self.0.pace).cuts().iter().filter(|&&cut| cut).count()
    }

    /// The launches that may even by themselves take longer than a submission should.
    pub fn overlong(&self) -> Vec<usize> {
        lock(&self.0.pace).overlong().collect()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("launches", &self.0.recording.launches.len())
            .field("slots", &self.0.recording.slots.len())
            .finish()
    }
}

/// Opening devices.
impl Device {
    /// The device that the environment names, else real graphics hardware if there is any, else the CPU.
    /// A software adapter is never the best: the CPU executor is faster.
    ///
    /// # Errors
    /// If the environment names a device that does not exist, or if an adapter cannot be opened.
    pub fn best() -> Result<Device> {
        Device::from_env()
    }

    /// The device that [`DEVICE_VAR`](crate::DEVICE_VAR) names; the best one if it is not set.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn from_env() -> Result<Device> {
        Device::open(&DeviceOptions::from_env())
    }

    /// The host's processor, never profiled.
    pub fn cpu() -> Device {
        Device::cpu_with(SharedHealth::default(), None)
    }

    fn cpu_with(health: SharedHealth, trace: Option<Arc<Trace>>) -> Device {
        let meter = Arc::<Meter>::default();
        let executor = CpuExecutor { meter: Arc::clone(&meter) };
        Device::new(DeviceInfo::cpu(), Box::new(executor), health, meter, trace)
    }

    /// Any graphics adapter, real ones before software ones.
    ///
    /// # Errors
    /// [`DeviceError::NoAdapter`] if there is none; as [`Device::open`] else.
    pub fn gpu() -> Result<Device> {
        Device::open(&DeviceOptions::select(Select::Gpu))
    }

    /// A device with WebGPU's default limits that executes nothing and counts everything.
    pub fn null() -> Device {
        Device::null_with(Limits::webgpu())
    }

    /// As [`Device::null`], with other limits: those of a device whose plans are to be studied.
    pub fn null_with(limits: Limits) -> Device {
        let (health, meter) = Default::default();
        let executor = NullExecutor::new(Arc::clone(&meter));
        Device::new(DeviceInfo::null(limits), Box::new(executor), health, meter, None)
    }

    /// A device by what [`Select`] understands: `cpu`, `vulkan`, part of an adapter's name, ….
    ///
    /// # Errors
    /// [`DeviceError::UnknownDevice`] if no adapter has the name; as [`Device::open`] else.
    pub fn by_name(name: &str) -> Result<Device> {
        match name.parse() {
            Ok(select) => Device::open(&DeviceOptions::select(select)),
            Err(never) => match never {},
        }
    }

    /// Opens a device.
    ///
    /// # Errors
    /// [`DeviceError::NoAdapter`] or [`DeviceError::UnknownDevice`] if nothing fits the selection,
    /// [`DeviceError::CannotOpen`] if a driver refuses, [`DeviceError::Unsupported`] if time stamps are
    /// asked for (a profile needs them) and the adapter has none, [`DeviceError::Profile`] if a profile cannot
    /// be written.
    pub fn open(options: &DeviceOptions) -> Result<Device> {
        let (health, meter): (SharedHealth, Arc<Meter>) = Default::default();
        let adapter = match options.select {
            Select::Null => return Ok(Device::null()),
            Select::Cpu => None,
            _ => gpu::find(&options.select)?,
        };
        let Some(adapter) = adapter else {
            let trace = Trace::of(options, &DeviceInfo::cpu(), &health)?;
            return Ok(Device::cpu_with(health, trace));
        };
        let (info, executor, trace) = gpu::open(&adapter, options, &health, &meter)?;
        let device = Device::new(info, Box::new(executor), health, meter, trace);
        device.0.health.settle()?;
        Ok(device)
    }

    /// All devices of this machine, the best adapters first, the CPU last.
    pub fn all() -> Vec<DeviceInfo> {
        let mut all = gpu::list();
        all.push(DeviceInfo::cpu());
        all
    }

    fn new(
        info: DeviceInfo,
        executor: Box<dyn Executor>,
        health: SharedHealth,
        meter: Arc<Meter>,
        trace: Option<Arc<Trace>>,
    ) -> Device {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Device(Arc::new(Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            pool: Arc::new(Pool::new(meter.clone(), info.limits.max_buffer_bytes)),
            info,
            executor,
            health,
            meter,
            runs: RunLock::new(RunState::default()),
            trace,
            peak: OnceLock::new(),
            attachments: Mutex::default(),
        }))
    }
}

/// Buffers.
impl Device {
    /// A buffer of `words` words, whose contents are undefined. 0 is allowed.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], [`DeviceError::LimitExceeded`] above
    /// [`Limits::max_buffer_bytes`], [`DeviceError::DeviceLost`].
    pub fn alloc(&self, words: usize) -> Result<Buffer> {
        self.take(words, Role::Result, None)
    }

    /// As [`Device::alloc`], but the memory of an earlier buffer with [`Buffer::id`] `again` if that is
    /// free: a loop that asks for what it had keeps its bind groups.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn alloc_again(&self, words: usize, again: u64) -> Result<Buffer> {
        self.take(words, Role::Result, Some(again))
    }

    fn take(&self, words: usize, role: Role, again: Option<u64>) -> Result<Buffer> {
        self.0.health.check()?;
        let shared = &*self.0;
        let memory = shared.pool.take(&*shared.executor, words, role, again)?;
        Ok(Buffer::new(memory, words, shared.pool.clone()))
    }

    /// A buffer with these contents.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn upload(&self, data: &[u32]) -> Result<Buffer> {
        let buffer = self.take(data.len(), Role::Upload, None)?;
        // Nobody else has a handle yet, so there is no run to wait for.
        self.copy_in(&buffer, data)?;
        Ok(buffer)
    }

    /// Writes `data` to the start of a buffer, after all runs called before.
    ///
    /// # Errors
    /// [`DeviceError::WrongSize`] if the buffer is shorter, [`DeviceError::WrongDevice`],
    /// [`DeviceError::DeviceLost`].
    pub fn write(&self, buffer: &Buffer, data: &[u32]) -> Result<()> {
        self.check_buffer(buffer, "words to write to a buffer", data.len())?;
        let _order = self.0.runs.lock()?;
        self.copy_in(buffer, data)
    }

    /// The first `words` words of a buffer, after all runs called before.
    ///
    /// # Errors
    /// [`DeviceError::WrongSize`] if the buffer is shorter, [`DeviceError::WrongDevice`],
    /// [`DeviceError::Timeout`], [`DeviceError::DeviceLost`].
    pub fn read(&self, buffer: &Buffer, words: usize) -> Result<Vec<u32>> {
        self.check_buffer(buffer, "words to read from a buffer", words)?;
        if words == 0 {
            return Ok(Vec::new());
        }
        let _span = self.span("read");
        let _order = self.0.runs.lock()?;
        let data = self.0.executor.read(&buffer.memory().storage, words)?;
        self.0.health.settle()?;
        bump(&self.0.meter.readbacks);
        Ok(data)
    }

    fn copy_in(&self, buffer: &Buffer, data: &[u32]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let _span = self.span("write");
        self.0.executor.write(&buffer.memory().storage, data)?;
        bump(&self.0.meter.uploads);
        self.0.health.settle()
    }

    fn check_buffer(&self, buffer: &Buffer, what: &'static str, words: usize) -> Result<()> {
        self.0.health.check()?;
        if !buffer.is_from(&self.0.pool) {
            return Err(DeviceError::WrongDevice);
        }
        if words > buffer.words() {
            return Err(DeviceError::WrongSize { what, asked: words, has: buffer.words() });
        }
        Ok(())
    }
}

/// Running.
impl Device {
    /// Compiles a recording's pipelines and uploads all its parameters into one buffer. Pipelines are
    /// shared by all recordings of the device whose kernels have equal text.
    ///
    /// # Errors
    /// [`DeviceError::InvalidRecording`], [`DeviceError::Aliased`], [`DeviceError::InvalidKernel`],
    /// [`DeviceError::LimitExceeded`], [`DeviceError::OutOfMemory`], [`DeviceError::DeviceLost`].
    pub fn prepare(&self, recording: Recording) -> Result<Prepared> {
        let shared = &*self.0;
        shared.health.check()?;
        let _span = self.span("prepare");
        let limits = &shared.info.limits;
        recording.validate(shared.info.kind, limits)?;
        let mut footprint = Footprint::default();
        for &words in &recording.slots {
            footprint.workspace += 4 * shared.pool.granule(words)? as u64;
        }
        for &words in &recording.externals {
            footprint.externals += 4 * shared.pool.capacity(words)? as u64;
        }
        let layout = ParamLayout::new(&recording, limits.uniform_align);
        let program = shared.executor.prepare(&recording, &layout)?;
        let mut params = None;
        if shared.executor.has_uniforms() {
            if !layout.words.is_empty() {
                params = Some(self.uniform(layout.words.len(), &layout.words)?);
            }
            let mut state = shared.runs.lock()?;
            if recording.scalar_words > 0 && state.scalars.is_none() {
                state.scalars = Some(self.uniform(MAX_SCALARS, &[])?);
            }
            let places = state.workspace.places().iter();
            let workspace: u64 = places.map(|p| 4 * p.memory().words as u64).sum();
            footprint.uniforms = shared.pool.stats().fixed.saturating_sub(workspace);
        }
        shared.health.settle()?;
        bump(&shared.meter.prepares);
        Ok(Prepared(Arc::new(PreparedInner {
            device: shared.id,
            places: Workspace::assign(&recording.slots),
            pace: Mutex::new(Pace::guess(&recording, shared.info.class)),
            recording,
            params,
            footprint,
            program: Mutex::new(program),
        })))
    }

    /// Runs a prepared recording: in steady state one submission (see [`Prepared::submissions`]), and nothing is allocated or
    /// compiled. A GPU may still be at work when this returns; [`Device::read`] waits for it.
    ///
    /// `externals` are the recording's external buffers in order, at least as long as it says; `scalars`
    /// its host scalars.
    ///
    /// # Errors
    /// [`DeviceError::WrongSize`] and [`DeviceError::WrongDevice`] if the arguments do not fit,
    /// [`DeviceError::Aliased`] if a launch would write a buffer that it also binds elsewhere,
    /// [`DeviceError::OutOfMemory`] if the workspace cannot grow, [`DeviceError::Reentrant`],
    /// [`DeviceError::Timeout`], [`DeviceError::DeviceLost`].
    pub fn run(&self, plan: &Prepared, externals: &[Buffer], scalars: &[u32]) -> Result<()> {
        let _span = self.span("run");
        self.execute(plan, externals, scalars, |program, job| match &self.0.trace {
            Some(trace) => program.run_traced(job, trace),
            None => program.run(job),
        })
    }

    /// As [`Device::run`], but every launch has a pass of its own; waits for the end and returns the
    /// nanoseconds of each launch (0 for skipped ones, and for all on the null device).
    ///
    /// # Errors
    /// As [`Device::run`]; [`DeviceError::Unsupported`] on a GPU opened without time stamps.
    pub fn run_timed(&self, plan: &Prepared, externals: &[Buffer], scalars: &[u32]) -> Result<Vec<u64>> {
        if !self.0.info.features.timestamps {
            return Err(DeviceError::Unsupported { what: "time stamps (or was opened without them)" });
        }
        let times = self.execute(plan, externals, scalars, |program, job| program.run_timed(job))?;
        lock(&plan.0.pace).learn(&times);
        Ok(times)
    }

    fn execute<T: Send>(
        &self,
        plan: &Prepared,
        externals: &[Buffer],
        scalars: &[u32],
        go: impl Fn(&mut dyn Program, &Job<'_>) -> Result<T> + Sync,
    ) -> Result<T> {
        let (shared, plan) = (&*self.0, &*plan.0);
        self.check_arguments(plan, externals, scalars)?;
        let recording = &plan.recording;
        let mut state = shared.runs.lock()?;
        let owner = state.owner();
        let RunState { workspace, scalars: scalar_memory } = &mut *state;
        workspace.fit(&*shared.executor, &shared.pool, &recording.slots, &plan.places)?;
        let pace = lock(&plan.pace);
        let job = Job {
            recording,
            cuts: pace.cuts(),
            slots: &plan.places,
            workspace: workspace.places(),
            externals,
            scalars,
            scalar_memory: scalar_memory.as_ref().map(Fixed::memory),
            param_memory: plan.params.as_ref().map(Fixed::memory),
        };
        let mut result = None;
        shared.executor.enter(recording, &mut || {
            result = Some(owner.lend(|| go(&mut **lock(&plan.program), &job)));
        });
        let result = result.expect("an executor calls what it is given");
        // A loss explains a failure better than the failure does.
        shared.health.check()?;
        let result = result?;
        shared.health.settle()?;
        Ok(result)
    }

    fn check_arguments(&self, plan: &PreparedInner, externals: &[Buffer], scalars: &[u32]) -> Result<()> {
        self.0.health.check()?;
        let recording = &plan.recording;
        if plan.device != self.0.id {
            return Err(DeviceError::WrongDevice);
        }
        let counts = [
            ("buffers", externals.len(), recording.externals.len()),
            ("scalar words", scalars.len(), recording.scalar_words),
        ];
        for (what, asked, has) in counts {
            if asked != has {
                return Err(DeviceError::WrongSize { what, asked, has });
            }
        }
        for (buffer, &words) in externals.iter().zip(&recording.externals) {
            self.check_buffer(buffer, "words that a plan wants of a buffer", words)?;
        }
        Ok(())
    }

    /// Waits until everything submitted is done.
    ///
    /// # Errors
    /// [`DeviceError::Timeout`], [`DeviceError::DeviceLost`].
    pub fn wait(&self) -> Result<()> {
        self.0.health.check()?;
        let _span = self.span("wait");
        let _order = self.0.runs.lock()?;
        self.0.executor.wait()?;
        self.0.health.settle()
    }

    /// Uniform memory outside the pool with these words at its start.
    fn uniform(&self, words: usize, data: &[u32]) -> Result<Fixed> {
        let shared = &*self.0;
        let fixed = shared.pool.fixed(&*shared.executor, words, Usage::Uniform)?;
        if !data.is_empty() {
            shared.executor.write(&fixed.memory().storage, data)?;
        }
        Ok(fixed)
    }
}

/// Knowing.
impl Device {
    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        self.0.meter.snapshot()
    }

    /// Its memory.
    pub fn memory(&self) -> MemoryStats {
        self.0.pool.stats()
    }

    /// What it can do at best: measured at the first call, which takes some tenths of a second and memory for two
    /// large buffers (left out of [`MemoryStats::peak`], given back at once along with all idle memory).
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] on the null device; as [`Device::run`] and [`Device::alloc`].
    pub fn peak(&self) -> Result<Peak> {
        if let Some(&known) = self.0.peak.get() {
            return Ok(known);
        }
        let used = self.memory().peak;
        let measured = peak::measure(self);
        self.0.pool.trim();
        self.0.pool.reset_peak(used);
        let measured = measured?;
        Ok(*self.0.peak.get_or_init(|| measured))
    }

    /// Makes the memory's present use its peak.
    pub fn reset_peak(&self) {
        self.0.pool.reset_peak(0);
    }

    /// Gives idle memory back to the system: what the pool holds, and the workspace.
    ///
    /// # Errors
    /// [`DeviceError::Reentrant`].
    pub fn trim(&self) -> Result<()> {
        self.0.runs.lock()?.workspace.clear();
        self.0.pool.trim();
        Ok(())
    }

    /// Adds the time until the span is dropped to the device's profile, as a host event of this name. Without a
    /// profile it costs a test.
    pub fn span(&self, what: &'static str) -> Span<'_> {
        Span::new(self.0.trace.as_deref(), what)
    }

    /// Gives the device up. Every later call returns [`DeviceError::DeviceLost`].
    pub fn destroy(&self) {
        self.0.finish_trace();
        self.0.health.lose("it was destroyed");
        self.0.executor.destroy();
    }

    /// This device's one `T`, made by default at the first call: where upper layers keep what belongs
    /// to a device (a plan cache). It must not hold the device, which could then never be freed.
    pub fn attachment<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let mut all = lock(&self.0.attachments);
        let entry = all.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
        let entry = entry.clone().downcast::<T>();
        entry.expect("an attachment is filed under its own type")
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device #{} {}", self.0.id, self.0.info.name)
    }
}
