//! Which nodes get a buffer of their own; all others are recomputed inside their users' expressions.

use smallvec::SmallVec;

use crate::ir::{Ir, IrOp};
use crate::op::Op;

/// An expression that costs no more than this is recomputed rather than stored for several users.
const CHEAP: u64 = 4;
/// Inline expressions do not grow beyond this many nodes.
pub(crate) const MAX_INLINE: usize = 48;

/// Decides for every node, inputs first, whether it gets a buffer.
pub(crate) fn choose(ir: &Ir, is_output: &[bool], bindings: usize) -> Vec<bool> {
    let n = ir.nodes.len();
    let mut stored = vec![false; n];
    let mut uses = vec![0u32; n];
    let mut widened = vec![false; n];
    let mut in_memory = vec![false; n];
    for node in &ir.nodes {
        for (k, edge) in node.inputs.iter().enumerate() {
            uses[edge.node] += 1;
            let read = edge.view.as_ref().map_or(0, |v| v.shape.numel());
            widened[edge.node] |= read > ir.nodes[edge.node].shape.numel();
            in_memory[edge.node] |= node.memory_operand(k).is_some();
        }
    }
    let mut cost = vec![0u64; n];
    let mut size = vec![0usize; n];
    let mut loads: Vec<SmallVec<[usize; 4]>> = vec![SmallVec::new(); n];
    // A kernel also binds what it writes.
    let max_loads = bindings.saturating_sub(2).max(2);
    for i in 0..n {
        let node = &ir.nodes[i];
        if matches!(node.op, IrOp::Leaf(_)) {
            continue;
        }
        let (c, s) = own_cost(&node.op);
        (cost[i], size[i]) = (c, s);
        let mut inline: SmallVec<[usize; 3]> = SmallVec::new();
        for edge in &node.inputs {
            let j = edge.node;
            if stored[j] || matches!(ir.nodes[j].op, IrOp::Leaf(_)) {
                insert(&mut loads, i, &[j]);
                cost[i] += 1;
            } else if !inline.contains(&j) {
                inline.push(j);
            }
        }
        inline.sort_by_key(|&j| std::cmp::Reverse(loads[j].len()));
        for &j in &inline {
            let union = loads[j].iter().filter(|l| !loads[i].contains(l)).count();
            let wide = union + loads[i].len() > max_loads;
            if wide || (size[i] + size[j] > MAX_INLINE && !loads[j].is_empty()) {
                stored[j] = true;
                insert(&mut loads, i, &[j]);
                cost[i] += 1;
            } else {
                let from = loads[j].clone();
                insert(&mut loads, i, &from);
                cost[i] += cost[j];
                size[i] += size[j];
            }
        }
        let constant = loads[i].is_empty() && node.shape.numel() == 1;
        let generator = node.inputs.is_empty();
        let shared = (uses[i] > 1 || widened[i]) && cost[i] > CHEAP && !constant && !generator;
        let must = is_output[i]
            || node.is_heavy()
            || node.is_reduce()
            || matches!(node.op, IrOp::Copy | IrOp::Piece)
            || in_memory[i];
        stored[i] |= must || shared;
    }
    stored
}

fn insert(loads: &mut [SmallVec<[usize; 4]>], at: usize, more: &[usize]) {
    for &l in more {
        if !loads[at].contains(&l) {
            loads[at].push(l);
        }
    }
}

/// Instructions and nodes that an operation adds to an expression.
fn own_cost(op: &IrOp) -> (u64, usize) {
    match op {
        IrOp::Core(Op::Map(row)) => (u64::from(row.f.cost), 1),
        IrOp::Core(Op::Random) => (20, 1),
        IrOp::Core(Op::Gather(_)) => (4, 1),
        IrOp::Core(Op::Literal(_) | Op::Iota) | IrOp::Scalar(_) => (0, 0),
        _ => (1, 1),
    }
}
