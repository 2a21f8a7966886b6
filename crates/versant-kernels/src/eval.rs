//! The CPU twin of a [`Program`]: a blocked, vectorised evaluator.
//!
//! Registers are blocks of 1,024 words that stay in the first-level cache; each instruction runs over a
//! whole block in one vectorised loop, so that interpreting costs a few nanoseconds a block. A dense
//! operand is read where it lies, and the last instruction before a dense store writes where it goes.
//!
//! How a program is cut into jobs depends on its shapes only, never on the number of threads, and so do
//! the orders of all sums: the same program on the same data gives the same bits on one thread or many.
//!
//! `access` walks views, `blocking` chooses the lane order, `hoist` and `pairs` rewrite the program, `compile` and `repeats` place
//! registers, `block` runs one block, `load`, `shared`, `home` and `ahead` touch memory, and `reduce` combines columns.

mod access;
mod ahead;
mod block;
mod blocking;
mod compile;
mod convert;
mod hoist;
mod home;
mod load;
mod pairs;
mod reduce;
mod repeats;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use crate::lanes::Words;
use crate::stream::Fence;
use crate::{DType, KernelSource, Program};
use block::{Buffers, Lanes, Scratch, operand};
use blocking::Order;
use compile::{FEW_BLOCKS, OpKind, Plan, PlanStep, Src};
use reduce::{State, Tile};
use shared::Shared;

/// Lanes of a block: 4 KiB a register.
const BLOCK: usize = 1024;

/// Work of a job that is worth a thread, in lanes times simple vector instructions: 10 to 30 µs.
const JOB: usize = 1 << 18;

/// The most jobs that the rows, or the columns, of a program are cut into.
const MAX_JOBS: usize = 256;

/// The native kernel of a program.
pub fn program_native(p: Program, label: &str) -> KernelSource {
    let (reads, writes) = (p.reads(), p.bindings.len() - p.reads());
    let uses_scalars = p.uses_scalars();
    let evaluator = Evaluator::new(p);
    KernelSource {
        label: label.to_owned(),
        wgsl: String::new(),
        reads,
        writes,
        params: Vec::new(),
        uses_scalars,
        trusted: true,
        grid: [1, 1, 1],
        native: Some(Arc::new(move |reads, writes, scalars| {
            evaluator.run(reads, writes, scalars);
        })),
    }
}

/// A program ready to run.
pub(crate) struct Evaluator {
    plan: Plan,
    /// Rows of a job: all of them for small work.
    job_rows: usize,
    /// Columns of a job, where there are too few rows to make jobs of.
    job_cols: usize,
}

/// Runs of `len` rows each, by row-major index: the first from `start` on, each of the others `apart` behind the one before.
/// Their accumulators lie after one another.
#[derive(Clone, Copy)]
pub(crate) struct Runs {
    pub start: usize,
    pub len: usize,
    pub apart: usize,
}

impl Runs {
    /// A single run.
    pub fn one(start: usize, len: usize) -> Runs {
        Runs { start, len, apart: 0 }
    }
}

impl Evaluator {
    pub(crate) fn new(p: Program) -> Evaluator {
        Evaluator::with_job(p, JOB)
    }

    /// An evaluator whose jobs have about `work` lanes times instructions.
    fn with_job(p: Program, work: usize) -> Evaluator {
        let mut evaluator = Evaluator::compiled(p, work);
        evaluator.plan.find_homes(evaluator.job_rows);
        evaluator.plan.find_asks();
        evaluator
    }

    /// What [`Evaluator::shared`] evaluates.
    pub(crate) fn epilogue(p: Program) -> Evaluator {
        Evaluator::compiled(p, JOB)
    }

    fn compiled(p: Program, work: usize) -> Evaluator {
        let plan = compile::compile(&pairs::pair(hoist::hoist(&crate::fold(&p))));
        let (job_rows, job_cols) = jobs(&plan, work);
        Evaluator { plan, job_rows, job_cols }
    }

    /// Runs the whole program.
    pub(crate) fn run<'w>(&self, reads: &[&[u32]], writes: &mut [&'w mut [u32]], scalars: &[u32]) {
        if self.plan.rows == 0 {
            return;
        }
        let jobs = self.plan.rows.div_ceil(self.job_rows);
        let homes = &self.plan.homes;
        let (lanes, size) = (self.plan.rows * self.plan.cols, self.job_rows * self.plan.cols);
        // What each job is lent, job by job.
        let mut lent: Vec<&'w mut [u32]> = Vec::with_capacity(jobs * homes.len());
        if !homes.is_empty() {
            let chunks =
                |&(_, write): &(usize, usize)| std::mem::take(&mut writes[write])[..lanes].chunks_mut(size);
            let mut chunks: Vec<_> = homes.iter().map(chunks).collect();
            (0..jobs).for_each(|_| lent.extend(chunks.iter_mut().filter_map(Iterator::next)));
        }
        let shared = self.written(writes);
        let buffers = self.buffers(reads, &shared, scalars);
        let streams = self.plan.streams();
        let job = |scratch: &mut Scratch<'w>, job: usize| {
            let start = job * self.job_rows;
            let end = (start + self.job_rows).min(self.plan.rows);
            let fence = streams.then(|| Fence);
            self.rows(start, end, &Buffers { fence: fence.as_ref(), ..buffers }, scratch);
        };
        let scratch = || Scratch::new(&self.plan, true, &buffers, self.lanes(self.plan.rows));
        if homes.is_empty() {
            return match jobs {
                1 => job(&mut scratch(), 0),
                _ => (0..jobs).into_par_iter().for_each_init(scratch, job),
            };
        }
        let at_home = |scratch: &mut Scratch<'w>, (number, lent): (usize, &mut [&'w mut [u32]])| {
            for (&(temp, _), words) in homes.iter().zip(lent) {
                scratch.temps[temp].lent = std::mem::take(words);
            }
            job(scratch, number);
        };
        match jobs {
            1 => at_home(&mut scratch(), (0, &mut lent)),
            _ => lent.par_chunks_mut(homes.len()).enumerate().for_each_init(scratch, at_home),
        }
    }

    /// Hands `f` a function that evaluates the program, an epilogue, for runs of rows and their accumulators. It may be
    /// called from several threads at once. Each row must be handed in once.
    pub(crate) fn shared<R>(
        &self,
        reads: &[&[u32]],
        writes: &mut [&mut [u32]],
        scalars: &[u32],
        f: impl FnOnce(&(dyn Fn(Runs, &[f32]) + Sync)) -> R,
    ) -> R {
        let shared = self.written(writes);
        // Working memory for each thread, which constants are filled into once: runs may be short, and a lock that threads share
        // would be most of the time then.
        let threads = rayon::current_num_threads() + 1;
        let own: Vec<Mutex<Option<Scratch>>> = (0..threads).map(|_| Mutex::new(None)).collect();
        let only_stores = self.only_stores();
        f(&|runs, acc| {
            let acc: &[u32] = bytemuck::cast_slice(acc);
            if only_stores {
                // Not by blocks: each takes a lock, whose release waits until all that was stored lies in the cache.
                for (i, acc) in acc.chunks(runs.len.max(1)).enumerate() {
                    shared[0].store((runs.start + i * runs.apart) as isize, 1, acc);
                }
                return;
            }
            let mut buffers = Buffers { acc, ..self.buffers(reads, &shared, scalars) };
            let lanes = || self.lanes(self.plan.rows);
            let new = || Scratch::new(&self.plan, true, &buffers, lanes());
            // A thread that has been here before and took up other work in between makes a new one.
            let thread = rayon::current_thread_index().map_or(0, |i| i + 1);
            let mut place = own[thread].try_lock().ok();
            let mut other = None;
            let scratch = place.as_deref_mut().unwrap_or(&mut other).get_or_insert_with(new);
            for (i, acc) in acc.chunks(runs.len.max(1)).enumerate() {
                let start = runs.start + i * runs.apart;
                (buffers.acc, buffers.acc_start) = (acc, start);
                self.rows(start, start + acc.len(), &buffers, scratch);
            }
        })
    }

    /// Whether the program, an epilogue, does no more than store its accumulators in order.
    pub(crate) fn only_stores(&self) -> bool {
        let plan = &self.plan;
        let [step] = &plan.steps[..] else { return false };
        let ([op], [store]) = (&step.ops[..], &step.stores[..]) else { return false };
        let in_order = store.access.in_run(0, plan.rows) == Some((0, 1));
        in_order && matches!(op.kind, OpKind::Acc) && plan.types[plan.reads..] == [DType::F32]
    }

    /// What a run reads and writes.
    fn buffers<'a, 'w>(
        &'a self,
        reads: &'a [&'a [u32]],
        writes: &'a [Shared<'w>],
        scalars: &'a [u32],
    ) -> Buffers<'a, 'w> {
        let Plan { types, ahead, .. } = &self.plan;
        Buffers { reads, types, writes, scalars, acc: &[], acc_start: 0, fence: None, ahead }
    }

    /// The written buffers, to be used by several jobs.
    fn written<'w>(&self, writes: &'w mut [&mut [u32]]) -> Vec<Shared<'w>> {
        let types = &self.plan.types[self.plan.reads..];
        writes.iter_mut().zip(types).map(|(words, &dtype)| Shared::new(words, dtype)).collect()
    }

    /// The most lanes that a block of at most `rows` rows has.
    fn lanes(&self, rows: usize) -> usize {
        let tile = self.plan.tile_rows.min(rows) * self.plan.tile_cols;
        tile.max(self.plan.row_block.min(rows)).min(BLOCK)
    }

    /// Evaluates rows `start..end`.
    fn rows(&self, start: usize, end: usize, buffers: &Buffers<'_, '_>, scratch: &mut Scratch<'_>) {
        for first in (start..end).step_by(self.plan.row_block) {
            let rows = self.plan.row_block.min(end - first);
            for step in &self.plan.steps {
                match step.is_col {
                    false => row_step(step, &Lanes { start: first, len: rows, row: 0 }, buffers, scratch),
                    true => self.col_step(step, first, rows, buffers, scratch),
                }
            }
        }
    }

    /// Runs a `Col` step over a block of rows.
    fn col_step(
        &self,
        step: &PlanStep,
        first: usize,
        rows: usize,
        buffers: &Buffers<'_, '_>,
        scratch: &mut Scratch<'_>,
    ) {
        for tile_row in (0..rows).step_by(self.plan.tile_rows) {
            let tile_rows = self.plan.tile_rows.min(rows - tile_row);
            self.expand(step, tile_row, tile_rows, &mut scratch.frame);
            for reduce in &step.reduces {
                scratch.states[reduce.index].reset(tile_rows);
            }
            let (first, cols) = (first + tile_row, self.plan.cols);
            let Scratch { frame, temps, states } = &mut *scratch;
            let job = ColJob { step, frame, buffers, first, row: tile_row, rows: tile_rows };
            if self.job_cols < cols {
                self.col_jobs(job, states);
            } else {
                job.run(&self.plan, 0, cols, temps, states);
            }
            for reduce in &step.reduces {
                let out = &mut scratch.frame[reduce.out][tile_row..tile_row + tile_rows];
                match reduce.found_by {
                    Some(other) => scratch.states[other].extremes(out),
                    None => scratch.states[reduce.index].finish(out),
                }
            }
        }
    }

    /// Spreads the row registers that a `Col` step reads over the lanes of a tile.
    fn expand(&self, step: &PlanStep, at: usize, rows: usize, frame: &mut [Words]) {
        let cols = self.plan.tile_cols;
        for &(by_row, by_lane) in &step.expand {
            let mut lanes = std::mem::take(&mut frame[by_lane]);
            let values = &frame[by_row][at..at + rows];
            match self.plan.order {
                Order::ColsInner => {
                    for (lanes, &value) in lanes.chunks_exact_mut(cols).zip(values) {
                        lanes.fill(value);
                    }
                }
                Order::RowsInner => {
                    for lanes in lanes.chunks_exact_mut(rows).take(cols) {
                        lanes.copy_from_slice(values);
                    }
                }
            }
            frame[by_lane] = lanes;
        }
    }

    /// Runs the columns of a `Col` step in parallel, and combines their reductions in order.
    fn col_jobs(&self, job: ColJob<'_, '_>, states: &mut [State]) {
        let (step, cols) = (job.step, self.plan.cols);
        let partial: Vec<Vec<State>> = (0..cols.div_ceil(self.job_cols))
            .into_par_iter()
            .map(|number| {
                let mut local = Scratch::new(&self.plan, false, job.buffers, 0);
                for reduce in &step.reduces {
                    local.states[reduce.index].reset(job.rows);
                }
                let start = number * self.job_cols;
                let end = (start + self.job_cols).min(cols);
                job.run(&self.plan, start, end, &mut local.temps, &mut local.states);
                std::mem::take(&mut local.states)
            })
            .collect();
        for mut part in partial {
            for reduce in &step.reduces {
                states[reduce.index].merge(&mut part[reduce.index]);
            }
        }
    }
}

/// Rows and columns of a job of about `work` lanes times instructions.
fn jobs(plan: &Plan, work: usize) -> (usize, usize) {
    let row_cost = plan.row_cost + plan.cols * plan.col_cost;
    let blocks = plan.rows.div_ceil(plan.row_block);
    let total = plan.rows * row_cost;
    let (mut job_rows, mut job_cols) = (plan.rows.max(1), plan.cols.max(1));
    if total > 2 * work {
        let blocks_a_job = (work / (plan.row_block * row_cost).max(1)).max(blocks.div_ceil(MAX_JOBS)).max(1);
        job_rows = blocks_a_job * plan.row_block;
        if blocks < FEW_BLOCKS {
            let tiles = plan.cols.div_ceil(plan.tile_cols);
            let tile_cost = plan.tile_rows * plan.tile_cols * plan.col_cost;
            let tiles_a_job = (work / tile_cost.max(1)).max(tiles.div_ceil(MAX_JOBS)).max(1);
            job_cols = (tiles_a_job * plan.tile_cols).min(job_cols);
        }
    }
    (job_rows, job_cols)
}

/// Runs a `Row` step over a block of rows, and keeps what later steps need.
fn row_step(step: &PlanStep, lanes: &Lanes, buffers: &Buffers<'_, '_>, scratch: &mut Scratch<'_>) {
    step.run(&scratch.frame, &mut scratch.temps, buffers, lanes);
    let Scratch { frame, temps, .. } = scratch;
    for &(value, slot) in &step.keep {
        let mut kept = std::mem::take(&mut frame[slot]);
        kept[..lanes.len].copy_from_slice(operand(value, frame, temps, buffers, lanes));
        frame[slot] = kept;
    }
}

/// Some columns of a `Col` step over the rows of a tile.
#[derive(Clone, Copy)]
struct ColJob<'a, 'w> {
    step: &'a PlanStep,
    frame: &'a [Words],
    buffers: &'a Buffers<'a, 'w>,
    first: usize,
    /// The number of the first row in its block.
    row: usize,
    rows: usize,
}

impl ColJob<'_, '_> {
    /// Runs columns `start..end`, tile by tile.
    fn run(
        &self,
        plan: &Plan,
        start: usize,
        end: usize,
        temps: &mut [block::Temp<'_>],
        states: &mut [State],
    ) {
        for col in (start..end).step_by(plan.tile_cols) {
            let cols = plan.tile_cols.min(end - col);
            let lanes = &Lanes {
                start: match plan.order {
                    Order::ColsInner => self.first * plan.cols + col,
                    Order::RowsInner => col * plan.rows + self.first,
                },
                len: self.rows * cols,
                row: self.row,
            };
            self.step.run(self.frame, temps, self.buffers, lanes);
            let tile = Tile { order: plan.order, rows: self.rows, cols, first_col: col };
            for reduce in self.step.reduces.iter().filter(|r| r.found_by.is_none()) {
                let values: Src = reduce.value;
                let values = operand(values, self.frame, temps, self.buffers, lanes);
                states[reduce.index].add(values, tile);
            }
        }
    }
}
