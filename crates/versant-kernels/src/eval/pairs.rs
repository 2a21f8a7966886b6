//! Two functions in one, where the second alone reads what the first gives: that stays in registers then, and a pass over a block is
//! saved. And functions that change their first operand where it lies.

use super::compile::operands;
use crate::lanes::update_f32;
use crate::{Block, DType, InstrKind, MapFn, Program, Reg, Step, math};

/// A function of what another gives, and what stands for the two. It gives the same bits.
struct Pair {
    first: &'static str,
    second: &'static str,
    both: MapFn,
}

/// By the names of the op table.
static PAIRS: [Pair; 1] = [
    // Each softmax and each cross-entropy has it.
    Pair {
        first: "sub",
        second: "exp",
        both: MapFn {
            name: "exp of sub",
            arity: 2,
            wgsl: "",
            lib: "",
            cpu: |_, dst, a, b, _| math::exp_of_difference(dst, a, b),
            cost: 13,
        },
    },
];

/// Makes each lane of a block what a function gives for it and a second operand, in `f32`.
pub(super) type Update = fn(&mut [u32], &[u32]);

/// The function of that name as such.
pub(super) fn update(f: &MapFn) -> Option<Update> {
    match f.name {
        "mul" => Some(|dst, b| update_f32(dst, b, |x, y| x * y)),
        "div" => Some(|dst, b| update_f32(dst, b, |x, y| x / y)),
        _ => None,
    }
}

/// The same program with such pairs.
pub(super) fn pair(mut p: Program) -> Program {
    let mut uses = vec![0usize; p.regs as usize];
    let reduced = |step: &Step| match step {
        Step::Row(_) => Vec::new(),
        Step::Col(_, reduces) => reduces.iter().map(|r| r.value).collect(),
    };
    let read = p.instrs().flat_map(operands).chain(p.stores().map(|s| s.value));
    read.chain(p.steps.iter().flat_map(reduced)).for_each(|reg: Reg| uses[reg as usize] += 1);
    for step in &mut p.steps {
        let (Step::Row(block) | Step::Col(block, _)) = step;
        pair_block(block, &uses);
    }
    p
}

fn pair_block(block: &mut Block, uses: &[usize]) {
    let mut gone = Vec::new();
    for at in 0..block.instrs.len() {
        let InstrKind::Map { f, operand: DType::F32, args } = block.instrs[at].kind else { continue };
        let Some(first) = block.instrs[..at].iter().position(|i| i.reg == args[0]) else { continue };
        let InstrKind::Map { f: g, operand: DType::F32, args } = block.instrs[first].kind else { continue };
        let pair = PAIRS.iter().find(|pair| pair.first == g.name && pair.second == f.name);
        if let (Some(pair), 1) = (pair, uses[block.instrs[first].reg as usize]) {
            gone.push(block.instrs[first].reg);
            block.instrs[at].kind = InstrKind::Map { f: &pair.both, operand: DType::F32, args };
        }
    }
    block.instrs.retain(|instr| !gone.contains(&instr.reg));
}
