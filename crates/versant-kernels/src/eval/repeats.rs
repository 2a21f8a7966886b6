//! Values of a plan that are computed once for several uses, and operands that are one word for all lanes.

use super::blocking::Order;
use super::compile::{Compiler, FEW_BLOCKS, operands};
use crate::{Instr, InstrKind, ReduceOut, Reg, Step};

/// From this cost on, a value that several steps want is kept rather than computed again.
const DEAR: u32 = 8;
/// Words that such a value may take, for the columns of a block of rows: 128 KiB.
const KEPT: usize = 1 << 15;

impl Compiler<'_> {
    /// Finds what several `Col` steps compute alike, a softmax's exponentials: the first keeps it for a block of rows.
    pub(super) fn find_repeats(&mut self) {
        let plan = &self.plan;
        let in_jobs_of_columns = plan.rows < FEW_BLOCKS * plan.row_block;
        if plan.order != Order::ColsInner || in_jobs_of_columns || plan.row_block * plan.cols > KEPT {
            return;
        }
        let mut number = self.alias.clone();
        let mut seen: Vec<(&Instr, usize)> = Vec::new();
        let steps = self.p.steps.iter().enumerate().flat_map(|(i, step)| {
            let (block, is_col) = match step {
                Step::Row(block) => (block, false),
                Step::Col(block, _) => (block, true),
            };
            block.instrs.iter().map(move |instr| (i, is_col, instr))
        });
        for (step, is_col, instr) in steps {
            number[instr.reg as usize] = number[self.alias[instr.reg as usize] as usize];
            let same = |(other, _): &&(&Instr, usize)| self.same(other, instr, &number);
            let Some(&(first, at)) = seen.iter().find(same) else {
                seen.push((instr, step));
                continue;
            };
            number[instr.reg as usize] = first.reg;
            let dear = matches!(instr.kind, InstrKind::Map { f, .. } if f.cost >= DEAR);
            if dear && is_col && at != step {
                let slot = self.repeats[first.reg as usize].map_or_else(
                    || {
                        let temp = self.lasting_temp();
                        self.plan.kept.push(temp);
                        temp
                    },
                    |(_, slot)| slot,
                );
                self.repeats[first.reg as usize] = Some((first.reg, slot));
                self.repeats[instr.reg as usize] = Some((first.reg, slot));
            }
        }
    }

    /// Whether two instructions give the same value, if registers of the same number do.
    fn same(&self, a: &Instr, b: &Instr, number: &[Reg]) -> bool {
        let unchanged = |binding: usize| !self.p.bindings[binding].written;
        let alike = match (&a.kind, &b.kind) {
            (InstrKind::Const(x), InstrKind::Const(y)) | (InstrKind::Scalar(x), InstrKind::Scalar(y)) => {
                std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind) && x == y
            }
            (InstrKind::Load { binding: x, view: v }, InstrKind::Load { binding: y, view: w }) => {
                x == y && v == w && unchanged(*x)
            }
            (InstrKind::Map { f, operand, .. }, InstrKind::Map { f: g, operand: other, .. }) => {
                std::ptr::eq(*f, *g) && operand == other
            }
            _ => false,
        };
        let same_operands = || {
            let of = |i: &Instr| operands(i).into_iter().map(|r| number[r as usize]).collect::<Vec<_>>();
            of(a) == of(b)
        };
        alike && a.dtype == b.dtype && same_operands()
    }

    /// Which instructions of a step have a use: not what only repeated ones read.
    pub(super) fn live(&self, block: &crate::Block, reduces: &[ReduceOut], is_col: bool) -> Vec<bool> {
        let mut wanted = vec![!is_col; self.p.regs as usize];
        let ends = block.stores.iter().map(|s| s.value).chain(reduces.iter().map(|r| r.value));
        ends.for_each(|reg| wanted[self.alias[reg as usize] as usize] = true);
        for instr in block.instrs.iter().rev() {
            let again = self.again(instr.reg).is_some();
            if wanted[instr.reg as usize] && !again {
                operands(instr).into_iter().for_each(|r| wanted[self.alias[r as usize] as usize] = true);
            }
        }
        wanted
    }

    /// The temporary that holds a register's value already.
    pub(super) fn again(&self, reg: Reg) -> Option<usize> {
        self.repeats[reg as usize].filter(|&(first, _)| first != reg).map(|(_, slot)| slot)
    }

    /// Finds the registers of which one word for all lanes is not enough.
    pub(super) fn find_spread(&mut self) {
        for (number, step) in self.p.steps.iter().enumerate() {
            let (block, reduces) = match step {
                Step::Row(block) => (block, &[][..]),
                Step::Col(block, reduces) => (block, &reduces[..]),
            };
            let by_instr = block.instrs.iter().flat_map(|instr| {
                let regs = operands(instr);
                let count = regs.len();
                let one = matches!(instr.kind, InstrKind::Map { .. });
                regs.into_iter()
                    .enumerate()
                    .filter(move |&(i, _)| !(one && takes_one(count, i)))
                    .map(|(_, r)| r)
            });
            let ends = block.stores.iter().map(|s| s.value).chain(reduces.iter().map(|r| r.value));
            for reg in by_instr.chain(ends) {
                self.spread[self.alias[reg as usize] as usize] = true;
            }
            // What a later step reads is kept, lane by lane.
            let later = block.instrs.iter().filter(|i| self.last_step[i.reg as usize] > number);
            later.for_each(|i| self.spread[i.reg as usize] = true);
        }
    }
}

/// Whether argument number `arg` of a function of so many may be one word for all lanes.
pub(super) fn takes_one(arity: usize, arg: usize) -> bool {
    arity == 2 || (arity == 3 && arg > 0)
}
