//! A prepared recording: pipelines, bind groups, and the encoding of a run.

use std::num::NonZeroU64;
use std::sync::Arc;

use wgpu::{CommandEncoder, SubmissionIndex};

use super::buffer;
use super::context::Context;
use super::pipelines::{PARAMS, Pipeline, SCALAR_BYTES, SCALARS, STORAGE};
use super::stamps::Stamps;
use super::translate;
use crate::bind_cache::BindCache;
use crate::counters::bump;
use crate::error::Result;
use crate::executor::{Job, Memory, Program};
use crate::recording::{Launch, ParamLayout, ParamSpan, Recording};
use crate::repeat::Dispatch;
use crate::trace::Trace;

/// A recording's launches, compiled.
pub(super) struct GpuProgram {
    context: Arc<Context>,
    steps: Vec<Step>,
}

struct Step {
    pipeline: Arc<Pipeline>,
    binds: BindCache<wgpu::BindGroup>,
    block: Option<ParamSpan>,
}

impl GpuProgram {
    pub fn new(context: &Arc<Context>, recording: &Recording, params: &ParamLayout) -> Result<Self> {
        let mut steps = Vec::with_capacity(recording.launches.len());
        for (key, &block) in recording.pipeline_keys(params).zip(&params.blocks) {
            steps.push(Step { pipeline: context.pipeline(key)?, binds: BindCache::default(), block });
        }
        Ok(GpuProgram { context: context.clone(), steps })
    }

    /// Sends the run's scalars.
    fn send_scalars(&self, job: &Job<'_>) {
        if let (Some(memory), false) = (job.scalar_memory, job.scalars.is_empty()) {
            let bytes = bytemuck::cast_slice(job.scalars);
            let target = buffer(&memory.storage);
            self.context.queue.write_buffer(target, 0, bytes);
        }
    }

    /// Encodes every launch that has work: into one pass, or with time stamps into one each. What precedes a cut
    /// is submitted; returns the commands after the last one, if any.
    fn encode(&mut self, job: &Job<'_>, mut stamps: Option<&mut Stamps>) -> Result<Option<CommandEncoder>> {
        let context = &self.context;
        let mut encoder: Option<CommandEncoder> = None;
        let mut pass: Option<wgpu::ComputePass<'static>> = None;
        for (dispatch, &cut) in job.recording.dispatches().zip(job.cuts) {
            // An open pass locks its encoder, so the last one ends before anything else begins.
            if cut || stamps.is_some() {
                drop(pass.take());
            }
            if let Some(full) = encoder.take_if(|_| cut) {
                context.submit_run(full)?;
            }
            if dispatch.launch.is_empty() {
                continue;
            }
            let step = &mut self.steps[dispatch.index];
            let group = step.binds.get(job.ids(dispatch), || {
                job.check_aliases(dispatch)?;
                bind(context, &step.pipeline, step.block, job, dispatch)
            })?;
            let pass = match &mut pass {
                Some(open) => open,
                None => {
                    bump(&context.meter.passes);
                    let encoder = encoder.get_or_insert_with(|| context.encoder());
                    let writes = stamps.as_deref_mut().map(Stamps::next);
                    let begun = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: None,
                        timestamp_writes: writes,
                    });
                    pass.insert(begun.forget_lifetime())
                }
            };
            pass.set_pipeline(&step.pipeline.pipeline);
            match step.block {
                Some(block) => pass.set_bind_group(0, group, &[block.on(dispatch.trip)]),
                None => pass.set_bind_group(0, group, &[]),
            }
            let [x, y, z] = dispatch.launch.grid;
            pass.dispatch_workgroups(x, y, z);
            bump(&context.meter.dispatches);
        }
        drop(pass);
        Ok(encoder)
    }

    /// Runs with time stamps; `None` if there is nothing to do.
    fn stamped(&mut self, job: &Job<'_>, mut stamps: Stamps) -> Result<Option<(Stamps, SubmissionIndex)>> {
        let context = self.context.clone();
        let span = context.span("encode");
        let Some(mut encoder) = self.encode(job, Some(&mut stamps))? else {
            return Ok(None);
        };
        drop(span);
        stamps.resolve(&mut encoder);
        let index = context.submit_run(encoder)?;
        Ok(Some((stamps, index)))
    }
}

impl Program for GpuProgram {
    fn run(&mut self, job: &Job<'_>) -> Result<()> {
        self.send_scalars(job);
        match self.encode(job, None)? {
            Some(encoder) => self.context.submit_run(encoder).map(drop),
            None => Ok(()),
        }
    }

    fn run_timed(&mut self, job: &Job<'_>) -> Result<Vec<u64>> {
        self.send_scalars(job);
        let mut total = vec![0; job.recording.launches.len()];
        let busy = || job.recording.dispatches().filter(|d| !d.launch.is_empty());
        let active = busy().count();
        if active > 0 {
            let context = self.context.clone();
            let stamps = Stamps::new(&context, active)?;
            if let Some((stamps, index)) = self.stamped(job, stamps)? {
                let times = stamps.read(&context, index)?;
                busy().zip(times).for_each(|(d, (_, nanos))| total[d.index] += nanos);
            }
        }
        Ok(total)
    }

    fn run_traced(&mut self, job: &Job<'_>, trace: &Trace) -> Result<()> {
        let context = self.context.clone();
        let active = job.recording.dispatches().map(|d| d.launch).filter(|l| !l.is_empty());
        let launches: Vec<_> = active.map(|l| (l.kernel.clone(), l.cost)).collect();
        let Some(profiler) = context.profiler.as_ref().filter(|_| !launches.is_empty()) else {
            return self.run(job);
        };
        self.send_scalars(job);
        let stamps = profiler.stamps(&context, launches.len())?;
        let submitted = trace.now();
        match self.stamped(job, stamps)? {
            Some((stamps, index)) => profiler.add(&context, stamps, index, launches, submitted),
            None => Ok(()),
        }
    }
}

/// A launch's bind group. Storage bindings cover the words that the recording uses, not the whole
/// capacity, so that checks in the kernel hold at the buffer's own end.
fn bind(
    context: &Context,
    pipeline: &Pipeline,
    block: Option<ParamSpan>,
    job: &Job<'_>,
    dispatch: Dispatch<'_>,
) -> Result<wgpu::BindGroup> {
    fn entry(binding: u32, memory: &Memory, offset: u64, bytes: u64) -> wgpu::BindGroupEntry<'_> {
        wgpu::BindGroupEntry {
            binding,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: buffer(&memory.storage),
                offset,
                size: NonZeroU64::new(bytes),
            }),
        }
    }
    let Launch { kernel, .. } = dispatch.launch;
    let mut entries = Vec::new();
    if let (Some(memory), Some(block)) = (job.param_memory, block) {
        // Where the block is, is said at the launch: a loop has one for each trip.
        entries.push(entry(PARAMS, memory, 0, block.bytes));
    }
    if let (Some(memory), true) = (job.scalar_memory, kernel.uses_scalars) {
        entries.push(entry(SCALARS, memory, 0, SCALAR_BYTES));
    }
    for (binding, reference) in (STORAGE..).zip(dispatch.bindings()) {
        let (memory, words) = job.resolve(reference);
        // Whole vectors of four, and at least one: kernels declare arrays of them. A capacity is a number of those, and
        // so is where a part begins.
        let bytes = words.len().div_ceil(4).max(1) as u64 * 16;
        entries.push(entry(binding, memory, words.start as u64 * 4, bytes));
    }
    let (group, error) = context.scoped(|| {
        context.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&kernel.label),
            layout: &pipeline.layout,
            entries: &entries,
        })
    });
    context.health.check()?;
    if let Some(error) = error {
        return Err(translate(error, 0));
    }
    bump(&context.meter.bind_groups);
    Ok(group)
}
