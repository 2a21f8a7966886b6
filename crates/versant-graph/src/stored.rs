//! Which nodes get a buffer of their own; all others are recomputed inside their users' expressions.

use smallvec::SmallVec;

use crate::fuse::Limits;
use crate::ir::{Edge, Ir, IrNode, IrOp};
use crate::op::Op;

/// An expression that costs no more than this is recomputed rather than stored for several users.
const CHEAP: u64 = 4;
/// The same where it reads a single tensor of its own size: its users then read that one instead, and what is
/// saved is a buffer, written once and alive for long. Eight bytes of traffic cost more than this.
pub(crate) const CHEAPER_THAN_MEMORY: u64 = 64;
/// Inline expressions do not grow beyond this many nodes.
pub(crate) const MAX_INLINE: usize = 48;

/// Decides for every node, inputs first, whether it gets a buffer.
pub(crate) fn choose(ir: &Ir, is_output: &[bool], limits: Limits) -> Vec<bool> {
    let mut stored = vec![false; ir.nodes.len()];
    // What is found to be too wide for one user was counted as inline for those before it.
    while pass(ir, is_output, limits, &mut stored) {}
    stored
}

/// Stores more nodes. True if one was stored after a user of it had counted what it loads.
fn pass(ir: &Ir, is_output: &[bool], limits: Limits, stored: &mut [bool]) -> bool {
    let n = ir.nodes.len();
    let mut late = false;
    let mut counted = vec![false; n];
    let mut uses = vec![0u32; n];
    let mut widened = vec![false; n];
    let mut in_memory = vec![false; n];
    let mut last_user = vec![0; n];
    for (i, node) in ir.nodes.iter().enumerate() {
        for (k, edge) in node.inputs.iter().enumerate() {
            uses[edge.node] += 1;
            last_user[edge.node] = i;
            let read = edge.view.as_ref().map_or(0, |v| v.shape.numel());
            widened[edge.node] |= read > ir.nodes[edge.node].shape.numel();
            in_memory[edge.node] |= node.memory_operand(k).is_some();
        }
    }
    ir.after.iter().for_each(|&(node, _)| in_memory[node] = true);
    let mut cost = vec![0u64; n];
    let mut size = vec![0usize; n];
    let mut loads: Vec<Loads> = vec![Loads::new(); n];
    // A kernel also binds what it writes.
    let max_loads = limits.bindings.saturating_sub(1).max(2);
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
                insert(&mut loads, i, &[(j, footprint(ir, edge))]);
                cost[i] += 1;
            } else if !inline.contains(&j) {
                inline.push(j);
            }
        }
        inline.sort_by_key(|&j| std::cmp::Reverse(loads[j].len()));
        for (at, &j) in inline.iter().enumerate() {
            let union = loads[j].iter().filter(|l| loads[i].iter().all(|own| own.0 != l.0)).count();
            // Each operand that comes after needs a buffer at least; but the result may have that of one that dies.
            let after = inline[at + 1..].iter().filter(|&&j| !limits.hopeful && !loads[j].is_empty()).count();
            let takes = |l: &(usize, usize)| {
                let same = ir.nodes[l.0].shape.numel() == node.shape.numel();
                same && stored[l.0] && !is_output[l.0] && last_user[l.0] <= i
            };
            let may_take = limits.hopeful && loads[j].iter().chain(&loads[i]).any(takes);
            let most = max_loads + usize::from(may_take);
            let wide = union + loads[i].len() + after > most && !loads[j].is_empty();
            if wide || (size[i] + size[j] > MAX_INLINE && !loads[j].is_empty()) {
                late |= counted[j];
                stored[j] = true;
                insert(&mut loads, i, &[(j, ir.nodes[j].shape.numel())]);
                cost[i] += 1;
            } else {
                let from = loads[j].clone();
                counted[j] = true;
                insert(&mut loads, i, &from);
                cost[i] += cost[j];
                size[i] += size[j];
            }
        }
        let constant = loads[i].is_empty() && node.shape.numel() == 1;
        let generator = node.inputs.is_empty();
        let large = |l: &&(usize, usize)| 2 * l.1 >= node.shape.numel();
        let dear = match loads[i].iter().filter(large).count() {
            0..=1 if !widened[i] => cost[i] * u64::from(uses[i].saturating_sub(1)) > CHEAPER_THAN_MEMORY,
            _ => cost[i] > CHEAP,
        };
        let shared = (uses[i] > 1 || widened[i]) && dear && !constant && !generator;
        let must = is_output[i] || in_memory[i] || has_place(node);
        stored[i] |= must || shared;
    }
    late
}

/// Whether a node is no expression, or is there to be in memory.
fn has_place(node: &IrNode) -> bool {
    node.is_heavy()
        || node.is_reduce()
        || matches!(&node.op, IrOp::Copy | IrOp::Piece)
        || matches!(&node.op, IrOp::Core(Op::Map(row)) if row.in_memory)
}

/// What an expression loads: nodes, and how many of their elements.
type Loads = SmallVec<[(usize, usize); 4]>;

fn insert(loads: &mut [Loads], at: usize, more: &[(usize, usize)]) {
    for &(node, words) in more {
        match loads[at].iter_mut().find(|l| l.0 == node) {
            Some(known) => known.1 = known.1.max(words),
            None => loads[at].push((node, words)),
        }
    }
}

/// Distinct elements that an edge reads at most.
fn footprint(ir: &Ir, edge: &Edge) -> usize {
    let numel = ir.nodes[edge.node].shape.numel();
    edge.view.as_ref().map_or(numel, |v| {
        let walked = v.shape.iter().zip(&v.strides).filter(|(_, s)| **s != 0);
        walked.map(|(d, _)| *d).product::<usize>().min(numel)
    })
}

/// Instructions and nodes that an operation adds to an expression.
pub(crate) fn own_cost(op: &IrOp) -> (u64, usize) {
    match op {
        IrOp::Core(Op::Map(row)) => (u64::from(row.f.cost), 1),
        IrOp::Core(Op::Random) => (20, 1),
        IrOp::Core(Op::Gather(_)) => (4, 1),
        IrOp::Core(Op::Literal(_) | Op::Iota) | IrOp::Scalar(_) => (0, 0),
        _ => (1, 1),
    }
}
