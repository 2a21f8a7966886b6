//! An open wgpu device with what its calls share.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::pipelines::Pipelines;
use super::stamps::Profiler;
use super::translate;
use crate::counters::{Meter, bump};
use crate::error::{DeviceError, Result};
use crate::executor::{SharedHealth, lock};
use crate::info::DeviceInfo;
use crate::options::DeviceOptions;
use crate::trace::{Span, Trace};

/// Runs that may wait for the GPU at a time. Enough to keep it busy; a bound on what the driver keeps
/// for each, and on how late an error comes.
pub(super) const IN_FLIGHT: usize = 8;

/// A wgpu device, its queue, and their state.
pub(super) struct Context {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub health: SharedHealth,
    pub meter: Arc<Meter>,
    pub pipelines: Pipelines,
    /// Whether trusted kernels are compiled with run-time checks, too.
    pub checked: bool,
    /// Whether storage buffers can be read in place.
    pub mapped: bool,
    /// A buffer for reading through, kept for the next read.
    pub staging: Mutex<Option<wgpu::Buffer>>,
    /// Bytes written since the last submission, roughly: wgpu holds a copy of them until the next.
    pub pending: AtomicU64,
    /// Where the times of runs go, if the device is profiled.
    pub profiler: Option<Profiler>,
    timeout: Duration,
    in_flight: Mutex<VecDeque<wgpu::SubmissionIndex>>,
}

impl Context {
    pub fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: &DeviceInfo,
        options: &DeviceOptions,
        health: &SharedHealth,
        meter: &Arc<Meter>,
        trace: Option<&Arc<Trace>>,
    ) -> Self {
        let to_lose = health.clone();
        device.set_device_lost_callback(move |reason, message| {
            to_lose.lose(&format!("{reason:?}: {message}"));
        });
        let to_tell = health.clone();
        device.on_uncaptured_error(Arc::new(move |error| to_tell.report(translate(error, 0))));
        Context {
            device,
            queue,
            health: health.clone(),
            meter: meter.clone(),
            pipelines: Pipelines::default(),
            checked: options.checked,
            mapped: info.features.mapped,
            staging: Mutex::default(),
            pending: AtomicU64::new(0),
            profiler: trace.cloned().map(Profiler::new),
            timeout: options.timeout,
            in_flight: Mutex::default(),
        }
    }

    /// Calls wgpu and catches the first error it reports meanwhile.
    pub fn scoped<T>(&self, call: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
        // Scopes are a stack: the last one pushed is the first one popped.
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = call();
        let validation = pollster::block_on(validation.pop());
        let internal = pollster::block_on(internal.pop());
        let memory = pollster::block_on(memory.pop());
        (value, memory.or(validation).or(internal))
    }

    pub fn create_buffer(&self, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let (buffer, error) = self.scoped(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        });
        self.health.check()?;
        match error {
            Some(error) => Err(translate(error, size)),
            None => Ok(buffer),
        }
    }

    /// As [`Device::span`](crate::Device::span).
    pub fn span(&self, what: &'static str) -> Span<'_> {
        Span::new(self.profiler.as_ref().map(Profiler::trace), what)
    }

    pub fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&Default::default())
    }

    /// Submits commands along with all writes before them.
    pub fn submit(&self, encoder: Option<wgpu::CommandEncoder>) -> wgpu::SubmissionIndex {
        self.pending.store(0, Ordering::Relaxed);
        self.queue.submit(encoder.map(wgpu::CommandEncoder::finish))
    }

    /// Submits a run's commands, and waits for an old run if too many are under way.
    pub fn submit_run(&self, encoder: wgpu::CommandEncoder) -> Result<wgpu::SubmissionIndex> {
        let _span = self.span("submit");
        bump(&self.meter.submits);
        let index = self.submit(Some(encoder));
        let mut runs = lock(&self.in_flight);
        runs.push_back(index.clone());
        let oldest = if runs.len() > IN_FLIGHT { runs.pop_front() } else { None };
        drop(runs);
        if oldest.is_some() {
            self.wait(oldest)?;
        }
        Ok(index)
    }

    /// Waits for a submission; for all without one.
    pub fn wait(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index, timeout: Some(self.timeout) })
    }

    pub fn poll(&self, how: wgpu::PollType) -> Result<()> {
        // wgpu panics where a driver fails under its hands while it waits: the one call that does.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(how)));
        match polled {
            Ok(Ok(_)) => self.health.check(),
            Ok(Err(wgpu::PollError::Timeout)) => Err(DeviceError::Timeout { after: self.timeout }),
            Ok(Err(other)) => Err(DeviceError::Rejected { message: other.to_string() }),
            Err(_) => {
                self.health.lose("its driver failed while it was waited for");
                self.health.check()
            }
        }
    }
}
