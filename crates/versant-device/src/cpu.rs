//! The executor that calls each launch's native function on the host.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use bytemuck::{cast_slice, cast_slice_mut};

use crate::counters::{Meter, bump};
use crate::error::{DeviceError, Result};
use crate::executor::{Executor, Job, Line, Memory, Program, Storage, Usage};
use crate::options::THREADS_VAR;
use crate::recording::{BufferRef, ParamLayout, Recording};
use crate::repeat::Dispatch;

/// The number of threads that kernels share. The first call starts them, as [`THREADS_VAR`] says.
pub(crate) fn threads() -> usize {
    let asked = std::env::var(THREADS_VAR).ok().and_then(|n| n.trim().parse().ok());
    if let Some(threads @ 1..) = asked {
        // Fails where the pool is there already: then its size stands.
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().ok();
    }
    rayon::current_num_threads()
}

/// Operations, and a quarter of the bytes, below which kernels seldom share a launch among threads.
const SHARED: u64 = 1 << 18;

/// Native functions on host memory. They own their parameters and use what threads they like.
pub(crate) struct CpuExecutor {
    pub meter: Arc<Meter>,
}

impl Executor for CpuExecutor {
    fn allocate(&self, words: usize, _usage: Usage) -> Result<Storage> {
        let lines = words.div_ceil(16).max(1);
        let memory = bytemuck::allocation::try_zeroed_vec::<Line>(lines);
        let memory = memory.map_err(|()| DeviceError::OutOfMemory { asked: lines as u64 * 64 })?;
        Ok(Storage::Host(RwLock::new(memory)))
    }

    fn write(&self, storage: &Storage, data: &[u32]) -> Result<()> {
        let mut lines = write_lock(host(storage));
        cast_slice_mut::<Line, u32>(&mut lines)[..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read(&self, storage: &Storage, words: usize) -> Result<Vec<u32>> {
        let lines = read_lock(host(storage));
        Ok(cast_slice::<Line, u32>(&lines)[..words].to_vec())
    }

    fn has_uniforms(&self) -> bool {
        false
    }

    fn prepare(&self, _recording: &Recording, _params: &ParamLayout) -> Result<Box<dyn Program>> {
        Ok(Box::new(CpuProgram { meter: self.meter.clone() }))
    }

    /// From a thread of the pool, if some launch may be shared among threads: from outside each such launch would wake one, and wait
    /// for it to wake the caller again.
    fn enter(&self, recording: &Recording, f: &mut (dyn FnMut() + Send)) {
        match recording.launches.iter().any(|l| l.cost.flops >= SHARED || l.cost.bytes >= 4 * SHARED) {
            true => rayon::scope(|_| f()),
            false => f(),
        }
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn destroy(&self) {}
}

/// A recording needs no compilation here.
struct CpuProgram {
    meter: Arc<Meter>,
}

impl CpuProgram {
    fn launch(&self, job: &Job<'_>, dispatch: Dispatch<'_>) -> Result<()> {
        // Also what keeps the locks below from waiting for one another.
        job.check_aliases(dispatch)?;
        let launch = dispatch.launch;
        let place = |(binding, &r): (usize, &BufferRef)| {
            let (memory, words) = job.resolve(r);
            let window = dispatch.window(binding).map(|w| words.start + w.start..words.start + w.end);
            (memory, window.unwrap_or(words))
        };
        let native = launch.kernel.native.as_ref();
        let native = native.ok_or_else(|| DeviceError::InvalidKernel {
            label: launch.kernel.label.clone(),
            message: "it has no native function".to_string(),
        })?;
        let reads: Vec<(RwLockReadGuard<'_, Vec<Line>>, Range<usize>)> =
            (dispatch.reads().iter().enumerate())
                .map(place)
                .map(|(memory, words)| (read_lock(lines(memory)), words))
                .collect();
        let mut writes: Vec<(RwLockWriteGuard<'_, Vec<Line>>, Range<usize>)> =
            (dispatch.writes().iter().enumerate())
                .map(|(w, r)| place((w + launch.reads.len(), r)))
                .map(|(memory, words)| (write_lock(lines(memory)), words))
                .collect();
        let inputs: Vec<&[u32]> =
            (reads.iter()).map(|(lines, words)| &cast_slice::<Line, u32>(lines)[words.clone()]).collect();
        let mut outputs: Vec<&mut [u32]> = (writes.iter_mut())
            .map(|(lines, words)| &mut cast_slice_mut::<Line, u32>(lines)[words.clone()])
            .collect();
        native(&inputs, &mut outputs, job.scalars);
        bump(&self.meter.dispatches);
        Ok(())
    }
}

impl Program for CpuProgram {
    fn run(&mut self, job: &Job<'_>) -> Result<()> {
        self.run_timed(job).map(drop)
    }

    fn run_timed(&mut self, job: &Job<'_>) -> Result<Vec<u64>> {
        let launches = &job.recording.launches;
        if launches.iter().any(|l| !l.is_empty()) {
            bump(&self.meter.submits);
            bump(&self.meter.passes);
        }
        let mut times = vec![0; launches.len()];
        for dispatch in job.recording.dispatches().filter(|d| !d.launch.is_empty()) {
            let start = Instant::now();
            self.launch(job, dispatch)?;
            times[dispatch.index] += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        Ok(times)
    }
}

fn lines(memory: &Memory) -> &RwLock<Vec<Line>> {
    host(&memory.storage)
}

fn host(storage: &Storage) -> &RwLock<Vec<Line>> {
    match storage {
        Storage::Host(lines) => lines,
        _ => unreachable!("the device refuses buffers of other devices"),
    }
}

fn read_lock(lines: &RwLock<Vec<Line>>) -> RwLockReadGuard<'_, Vec<Line>> {
    lines.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock(lines: &RwLock<Vec<Line>>) -> RwLockWriteGuard<'_, Vec<Line>> {
    lines.write().unwrap_or_else(PoisonError::into_inner)
}
