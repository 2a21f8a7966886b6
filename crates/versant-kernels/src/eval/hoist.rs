//! What a step over columns computes alike for all columns of a row is computed once a row.

use super::compile::operands;
use crate::{Block, Instr, InstrKind, Program, Step};

/// The same program with such instructions in steps over rows of their own.
pub(super) fn hoist(p: &Program) -> Program {
    let mut by_row = vec![false; p.regs as usize];
    let mut steps = Vec::new();
    for step in &p.steps {
        let (block, reduces) = match step {
            Step::Row(block) => {
                block.instrs.iter().for_each(|i| by_row[i.reg as usize] = true);
                steps.push(step.clone());
                continue;
            }
            Step::Col(block, reduces) => (block, reduces),
        };
        let (mut rows, mut cols): (Vec<Instr>, Vec<Instr>) = (Vec::new(), Vec::new());
        for instr in &block.instrs {
            let same = match instr.kind {
                InstrKind::Const(_) | InstrKind::Scalar(_) => true,
                InstrKind::Map { .. } | InstrKind::Cast { .. } | InstrKind::Bitcast { .. } => {
                    operands(instr).iter().all(|&arg| by_row[arg as usize])
                }
                _ => false,
            };
            by_row[instr.reg as usize] = same;
            if same { &mut rows } else { &mut cols }.push(instr.clone());
        }
        if rows.iter().any(|i| !matches!(i.kind, InstrKind::Const(_) | InstrKind::Scalar(_))) {
            steps.push(Step::Row(Block { instrs: rows, stores: Vec::new() }));
        } else {
            cols = block.instrs.clone();
        }
        steps.push(Step::Col(Block { instrs: cols, stores: block.stores.clone() }, reduces.clone()));
        reduces.iter().for_each(|r| by_row[r.out as usize] = true);
    }
    Program { steps, ..p.clone() }
}
