//! A prepared recording: pipelines, bind groups, and the encoding of a run.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::buffer;
use super::context::Context;
use super::pipelines::{PARAMS, Pipeline, SCALAR_BYTES, SCALARS, STORAGE};
use super::translate;
use crate::bind_cache::BindCache;
use crate::counters::bump;
use crate::error::Result;
use crate::executor::{Job, Memory, Program};
use crate::recording::{Launch, ParamLayout, Recording};

/// Time stamps in one query set: the most that WebGPU allows.
const STAMPS: u32 = wgpu::QUERY_SET_MAX_QUERIES;

/// A recording's launches, compiled.
pub(super) struct GpuProgram {
    context: Arc<Context>,
    steps: Vec<Step>,
}

struct Step {
    pipeline: Arc<Pipeline>,
    binds: BindCache<wgpu::BindGroup>,
    /// Offset and length in bytes of the launch's parameters.
    block: Option<(u64, u64)>,
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

    /// Encodes every launch that has work: into one pass, or with time stamps into one each. Returns
    /// whether there was any.
    fn encode(
        &mut self,
        job: &Job<'_>,
        encoder: &mut wgpu::CommandEncoder,
        mut stamps: Option<&mut Stamps>,
    ) -> Result<bool> {
        let context = &self.context;
        let mut pass: Option<wgpu::ComputePass<'static>> = None;
        for (launch, step) in job.recording.launches.iter().zip(&mut self.steps) {
            if launch.is_empty() {
                continue;
            }
            let group = step.binds.get(job.ids(launch), || {
                job.check_aliases(launch)?;
                bind(context, &step.pipeline, step.block, job, launch)
            })?;
            // An open pass locks its encoder, so the last one ends before the next begins.
            if stamps.is_some() {
                drop(pass.take());
            }
            let pass = match &mut pass {
                Some(open) => open,
                None => {
                    bump(&context.meter.passes);
                    let writes = stamps.as_deref_mut().map(Stamps::next);
                    let begun = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: None,
                        timestamp_writes: writes,
                    });
                    pass.insert(begun.forget_lifetime())
                }
            };
            pass.set_pipeline(&step.pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            let [x, y, z] = launch.grid;
            pass.dispatch_workgroups(x, y, z);
            bump(&context.meter.dispatches);
        }
        Ok(pass.is_some())
    }
}

impl Program for GpuProgram {
    fn run(&mut self, job: &Job<'_>) -> Result<()> {
        self.send_scalars(job);
        let mut encoder = self.context.encoder();
        if !self.encode(job, &mut encoder, None)? {
            return Ok(());
        }
        bump(&self.context.meter.submits);
        self.context.submit_run(encoder)
    }

    fn run_timed(&mut self, job: &Job<'_>) -> Result<Vec<u64>> {
        self.send_scalars(job);
        let launches = &job.recording.launches;
        let active = launches.iter().filter(|l| !l.is_empty()).count();
        if active == 0 {
            return Ok(vec![0; launches.len()]);
        }
        let context = self.context.clone();
        let mut stamps = Stamps::new(&context, active)?;
        let mut encoder = context.encoder();
        self.encode(job, &mut encoder, Some(&mut stamps))?;
        stamps.resolve(&mut encoder);
        bump(&context.meter.submits);
        let index = context.submit(Some(encoder));
        let mut times = stamps.read(&context, index)?.into_iter();
        let time = |launch: &Launch| match launch.is_empty() {
            true => 0,
            false => times.next().unwrap_or(0),
        };
        Ok(launches.iter().map(time).collect())
    }
}

/// A launch's bind group. Storage bindings cover the words that the recording uses, not the whole
/// capacity, so that checks in the kernel hold at the buffer's own end.
fn bind(
    context: &Context,
    pipeline: &Pipeline,
    block: Option<(u64, u64)>,
    job: &Job<'_>,
    launch: &Launch,
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
    let mut entries = Vec::new();
    if let (Some(memory), Some((offset, bytes))) = (job.param_memory, block) {
        entries.push(entry(PARAMS, memory, offset, bytes));
    }
    if let (Some(memory), true) = (job.scalar_memory, launch.kernel.uses_scalars) {
        entries.push(entry(SCALARS, memory, 0, SCALAR_BYTES));
    }
    for (binding, reference) in (STORAGE..).zip(launch.bindings()) {
        let (memory, words) = job.resolve(reference);
        // An empty buffer is bound, too; kernels declare arrays of up to four words an element.
        entries.push(entry(binding, memory, 0, (words as u64 * 4).max(16)));
    }
    let (group, error) = context.scoped(|| {
        context.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&launch.kernel.label),
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

/// Time stamps before and after each of a run's passes.
struct Stamps {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    used: u32,
    total: u32,
}

impl Stamps {
    /// Room for this many passes.
    fn new(context: &Context, passes: usize) -> Result<Self> {
        let total = u32::try_from(passes * 2).unwrap_or(u32::MAX);
        let (sets, error) = context.scoped(|| {
            let starts = (0..total).step_by(STAMPS as usize);
            let set = |start| {
                context.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: None,
                    ty: wgpu::QueryType::Timestamp,
                    count: STAMPS.min(total - start),
                })
            };
            starts.map(set).collect()
        });
        if let Some(error) = error {
            return Err(translate(error, u64::from(total) * 8));
        }
        let size = u64::from(total) * 8;
        let resolve = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let read = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Stamps {
            sets,
            resolved: context.create_buffer(size, resolve)?,
            readable: context.create_buffer(size, read)?,
            used: 0,
            total,
        })
    }

    /// The stamps of the next pass.
    fn next(&mut self) -> wgpu::ComputePassTimestampWrites<'_> {
        let (set, begin) = (self.used / STAMPS, self.used % STAMPS);
        self.used += 2;
        wgpu::ComputePassTimestampWrites {
            query_set: &self.sets[set as usize],
            beginning_of_pass_write_index: Some(begin),
            end_of_pass_write_index: Some(begin + 1),
        }
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        for (i, set) in (0..).zip(&self.sets) {
            let start = i * STAMPS;
            let count = STAMPS.min(self.total - start);
            encoder.resolve_query_set(set, 0..count, &self.resolved, u64::from(start) * 8);
        }
        let size = self.resolved.size();
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, size);
    }

    /// Nanoseconds of each pass.
    fn read(&self, context: &Context, index: wgpu::SubmissionIndex) -> Result<Vec<u64>> {
        let words = context.map(&self.readable, self.readable.size(), Some(index))?;
        let stamp = |w: &[u32]| u64::from(w[0]) | u64::from(w[1]) << 32;
        let period = f64::from(context.queue.get_timestamp_period());
        let nanos = |w: &[u32]| stamp(&w[2..]).saturating_sub(stamp(w)) as f64 * period;
        Ok(words.chunks_exact(4).map(|w| nanos(w) as u64).collect())
    }
}
