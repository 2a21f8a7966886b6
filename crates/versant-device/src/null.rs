//! The executor that executes nothing and counts everything as the wgpu one would.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::bind_cache::BindCache;
use crate::counters::{Meter, bump};
use crate::error::Result;
use crate::executor::{Executor, Job, Program, Storage, Usage, lock};
use crate::recording::{ParamLayout, PipelineKey, Recording};

/// For tests of scheduling, memory and launch counts. What is read back is zero.
pub(crate) struct NullExecutor {
    meter: Arc<Meter>,
    pipelines: Mutex<HashSet<PipelineKey>>,
}

impl NullExecutor {
    pub fn new(meter: Arc<Meter>) -> Self {
        NullExecutor { meter, pipelines: Mutex::default() }
    }
}

impl Executor for NullExecutor {
    fn allocate(&self, _words: usize, _usage: Usage) -> Result<Storage> {
        Ok(Storage::Null)
    }

    fn write(&self, _storage: &Storage, _data: &[u32]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _storage: &Storage, words: usize) -> Result<Vec<u32>> {
        Ok(vec![0; words])
    }

    fn has_uniforms(&self) -> bool {
        true
    }

    fn prepare(&self, recording: &Recording, params: &ParamLayout) -> Result<Box<dyn Program>> {
        let mut pipelines = lock(&self.pipelines);
        for key in recording.pipeline_keys(params) {
            if pipelines.insert(key) {
                bump(&self.meter.shader_modules);
                bump(&self.meter.pipelines);
            }
        }
        let binds = recording.launches.iter().map(|_| BindCache::default());
        Ok(Box::new(NullProgram { meter: self.meter.clone(), binds: binds.collect() }))
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn destroy(&self) {}
}

struct NullProgram {
    meter: Arc<Meter>,
    binds: Vec<BindCache<()>>,
}

impl NullProgram {
    /// Looks every bind group up, then counts the passes that the launches would take.
    fn count(&mut self, job: &Job<'_>, pass_each: bool) -> Result<()> {
        let mut dispatched = false;
        for (dispatch, &cut) in job.recording.dispatches().zip(job.cuts) {
            if cut && std::mem::take(&mut dispatched) {
                bump(&self.meter.submits);
            }
            if dispatch.launch.is_empty() {
                continue;
            }
            self.binds[dispatch.index].get(job.ids(dispatch), || {
                job.check_aliases(dispatch)?;
                bump(&self.meter.bind_groups);
                Ok(())
            })?;
            if pass_each || !dispatched {
                bump(&self.meter.passes);
            }
            dispatched = true;
            bump(&self.meter.dispatches);
        }
        if dispatched {
            bump(&self.meter.submits);
        }
        Ok(())
    }
}

impl Program for NullProgram {
    fn run(&mut self, job: &Job<'_>) -> Result<()> {
        self.count(job, false)
    }

    fn run_timed(&mut self, job: &Job<'_>) -> Result<Vec<u64>> {
        self.count(job, true)?;
        Ok(vec![0; job.recording.launches.len()])
    }
}
