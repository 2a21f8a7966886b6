//! Written buffers of which jobs have their rows for themselves.
//!
//! A job of a plan computes some rows of the domain. Where these are a piece of a written buffer, nobody else needs it in between: the
//! job is lent the piece. Its values go there without locks, each of which would wait until all that was stored before lies in the
//! cache, and what it loads from there (a buffer that is updated) is read where it lies. A value that is kept for several steps, a
//! softmax's exponentials, lies there until the result takes its place: so the lines of the result come from memory while there is
//! still much to compute.

use super::blocking::Order;
use super::compile::{FEW_BLOCKS, Op, OpKind, Plan, PlanStep, PlanStore, Src};
use super::pairs;
use crate::{DType, stream};

impl Plan {
    /// Finds the buffers that jobs, of so many rows each, are lent, and who writes and reads there. Not for epilogues, whose rows come
    /// in pieces of other sizes.
    pub fn find_homes(&mut self, job_rows: usize) {
        let in_jobs_of_columns = self.cols > 1 && self.rows < FEW_BLOCKS * self.row_block;
        if self.rows * self.cols == 0 || in_jobs_of_columns || self.order != Order::ColsInner {
            return;
        }
        for write in 0..self.types.len() - self.reads {
            let Some((number, at)) = self.home_store(write) else { continue };
            let (home, job, binding) = (self.temps, job_rows * self.cols, self.reads + write);
            let loaded = self.steps.iter().flat_map(|step| &step.ops).any(|op| op.loads(binding));
            let is_last = number + 1 == self.steps.len();
            let step = &mut self.steps[number];
            // The operation that takes its result there.
            let direct = step.ops.iter().position(|op| op.direct == Some(at));
            match (&self.kept[..], direct) {
                (&[kept], _) if !loaded && is_last && step.stores.len() == 1 && step.reduces.is_empty() => {
                    direct.into_iter().for_each(|op| step.take_over(op, kept, (home, job)));
                    let ops = self.steps.iter_mut().flat_map(|step| &mut step.ops);
                    ops.filter(|op| op.dst == kept)
                        .for_each(|op| (op.home, op.kept) = (Some(home), Some(job)));
                }
                (_, Some(op)) => {
                    let op = &mut step.ops[op];
                    (op.direct, op.home, op.kept) = (None, Some(home), Some(job));
                }
                _ => {}
            }
            for op in self.steps.iter_mut().flat_map(|step| &mut step.ops).filter(|op| op.loads(binding)) {
                (op.home, op.kept) = (Some(home), Some(job));
            }
            self.steps[number].stores[at].home = Some((home, job));
            self.homes.push((home, write));
            self.temps += 1;
        }
        if self.streams() {
            self.find_ahead();
        }
    }

    /// Finds the operands whose words lie in order.
    fn find_ahead(&mut self) {
        let lanes = self.rows * self.cols;
        for op in self.steps.iter().flat_map(|step| &step.ops) {
            let OpKind::Load { binding, access, .. } = &op.kind else { continue };
            let words = *binding < self.reads && !self.types[*binding].is_half();
            if words && access.in_run(0, lanes) == Some((0, 1)) && !self.ahead.contains(binding) {
                self.ahead.push(*binding);
            }
        }
    }

    /// The only store to a buffer, if each of its lanes and each lane that is loaded from there is the element of that number.
    fn home_store(&self, write: usize) -> Option<(usize, usize)> {
        let (lanes, binding) = (self.rows * self.cols, self.reads + write);
        let stores = self.steps.iter().enumerate().flat_map(|(number, step)| {
            let here = step.stores.iter().enumerate().filter(|(_, store)| store.write == write);
            here.map(move |(at, _)| (number, at))
        });
        let [(number, at)] = stores.collect::<Vec<_>>()[..] else { return None };
        let step = &self.steps[number];
        let in_order = |op: &Op| match &op.kind {
            OpKind::Load { access, .. } => access.in_run(0, lanes) == Some((0, 1)),
            _ => false,
        };
        let all = self.steps.iter().flat_map(|step| &step.ops).filter(|op| op.loads(binding)).all(in_order);
        let stored = step.stores[at].access.in_run(0, lanes) == Some((0, 1));
        let fits = stored && all && !self.types[binding].is_half() && !step.reads_late(binding);
        fits.then_some((number, at))
    }

    /// Whether the value that is kept lies in a home.
    pub fn kept_at_home(&self) -> bool {
        let mut ops = self.steps.iter().flat_map(|step| &step.ops);
        ops.any(|op| op.home.is_some() && self.kept.contains(&op.dst))
    }

    /// Whether results are too long for a cache, and no job reads what it is lent.
    pub fn streams(&self) -> bool {
        let reads = |op: &Op| op.home.is_some() && matches!(op.kind, OpKind::Load { .. });
        let read = self.steps.iter().flat_map(|step| &step.ops).any(reads);
        !self.homes.is_empty() && self.kept.is_empty() && !read && self.rows * self.cols >= stream::LONG
    }
}

impl PlanStep {
    /// Has an operation, which went right into its store, not do so while a value is kept in that home: it changes that value
    /// where it lies if it is the last to read it.
    fn take_over(&mut self, at: usize, kept: usize, (home, job): (usize, usize)) {
        let is_last = at + 1 == self.ops.len();
        let op = &mut self.ops[at];
        op.direct = None;
        if let OpKind::Map { f, operand: DType::F32 } = op.kind
            && let ([first, others @ ..], true) = (&op.args[..op.arity], is_last)
            && (*first == Src::Temp(kept) && !others.contains(first))
            && let Some(update) = pairs::update(f)
        {
            (op.update, op.home, op.kept) = (Some(update), Some(home), Some(job));
        }
    }

    /// Whether what is loaded from a buffer is still read when the step has stored there.
    fn reads_late(&self, binding: usize) -> bool {
        let loaded = |value: Src| self.ops.iter().any(|op| op.loads(binding) && value == Src::Temp(op.dst));
        let stored = |store: &PlanStore| loaded(store.value);
        self.stores.iter().any(stored)
            || self.reduces.iter().any(|reduce| loaded(reduce.value))
            || self.keep.iter().any(|&(value, _)| loaded(value))
    }
}

impl Op {
    fn loads(&self, from: usize) -> bool {
        matches!(self.kind, OpKind::Load { binding, .. } | OpKind::LoadAt { binding, .. } if binding == from)
    }
}
