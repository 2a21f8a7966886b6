//! Time stamps around the passes of a run: read at once, or later for a profile that waits for nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::context::{Context, IN_FLIGHT};
use super::translate;
use crate::error::Result;
use crate::executor::lock;
use crate::recording::{Cost, Kernel};
use crate::trace::Trace;

/// Time stamps in one query set: the most that WebGPU allows.
const STAMPS: u32 = wgpu::QUERY_SET_MAX_QUERIES;

/// Runs whose stamps a profile keeps: more than may be under way, so that reading the oldest never waits.
const MAX_PENDING: usize = 2 * IN_FLIGHT;

/// Time stamps before and after each of a run's passes.
pub(super) struct Stamps {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    used: u32,
    total: u32,
}

impl Stamps {
    /// Room for this many passes.
    pub fn new(context: &Context, passes: usize) -> Result<Self> {
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
    pub fn next(&mut self) -> wgpu::ComputePassTimestampWrites<'_> {
        let (set, begin) = (self.used / STAMPS, self.used % STAMPS);
        self.used += 2;
        wgpu::ComputePassTimestampWrites {
            query_set: &self.sets[set as usize],
            beginning_of_pass_write_index: Some(begin),
            end_of_pass_write_index: Some(begin + 1),
        }
    }

    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        for (i, set) in (0..).zip(&self.sets) {
            let start = i * STAMPS;
            let count = STAMPS.min(self.total - start);
            encoder.resolve_query_set(set, 0..count, &self.resolved, u64::from(start) * 8);
        }
        let size = self.resolved.size();
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, size);
    }

    /// Begin and length of each pass in nanoseconds of the device's clock, once the run is done.
    pub fn read(&self, context: &Context, index: wgpu::SubmissionIndex) -> Result<Vec<(u64, u64)>> {
        let words = context.map(&self.readable, self.readable.size(), Some(index))?;
        let period = f64::from(context.queue.get_timestamp_period());
        let stamp = |w: &[u32]| ((u64::from(w[0]) | u64::from(w[1]) << 32) as f64 * period) as u64;
        let pass = |w: &[u32]| (stamp(w), stamp(&w[2..]).saturating_sub(stamp(w)));
        Ok(words.chunks_exact(4).map(pass).collect())
    }
}

/// The stamps of runs under way, for a profile.
pub(super) struct Profiler {
    trace: Arc<Trace>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Pending>,
    /// Sets of runs that are done, for the next run of the same plan.
    free: Vec<Stamps>,
    /// What is to be added to the device's clock to get the profile's.
    offset: Option<i128>,
}

struct Pending {
    stamps: Stamps,
    index: wgpu::SubmissionIndex,
    /// The launches that had work.
    launches: Vec<(Arc<Kernel>, Cost)>,
    submitted: u64,
}

impl Profiler {
    pub fn new(trace: Arc<Trace>) -> Self {
        Profiler { trace, state: Mutex::default() }
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Stamps for this many passes.
    pub fn stamps(&self, context: &Context, passes: usize) -> Result<Stamps> {
        let mut state = lock(&self.state);
        let fits = |s: &Stamps| s.total as usize == 2 * passes;
        match state.free.iter().position(fits) {
            Some(i) => Ok(Stamps { used: 0, ..state.free.swap_remove(i) }),
            None => Stamps::new(context, passes),
        }
    }

    /// Keeps a run's stamps until it is done, and takes in those of runs that are.
    pub fn add(
        &self,
        context: &Context,
        stamps: Stamps,
        index: wgpu::SubmissionIndex,
        launches: Vec<(Arc<Kernel>, Cost)>,
        submitted: u64,
    ) -> Result<()> {
        let pending = Pending { stamps, index, launches, submitted };
        let mut state = lock(&self.state);
        state.pending.push_back(pending);
        self.collect(context, &mut state, MAX_PENDING)
    }

    /// Takes in the stamps of all runs; waits for those under way.
    pub fn finish(&self, context: &Context) -> Result<()> {
        self.collect(context, &mut lock(&self.state), 0)
    }

    /// Takes in the oldest stamps until no more than `keep` are left.
    fn collect(&self, context: &Context, state: &mut State, keep: usize) -> Result<()> {
        while state.pending.len() > keep {
            let Some(run) = state.pending.pop_front() else { break };
            let times = run.stamps.read(context, run.index)?;
            let Some(&(first, _)) = times.first() else { continue };
            // No launch begins before it was submitted: the least delay seen sets the clocks.
            let least = i128::from(run.submitted) - i128::from(first);
            let offset = state.offset.map_or(least, |known| known.max(least));
            state.offset = Some(offset);
            let begin = |t: u64| u64::try_from(i128::from(t) + offset).unwrap_or(0);
            let rows = run.launches.iter().zip(&times);
            self.trace
                .launches(rows.map(|((k, cost), &(at, nanos))| (&k.label[..], *cost, begin(at), nanos)));
            if state.free.len() < MAX_PENDING {
                state.free.push(run.stamps);
            }
        }
        Ok(())
    }
}
