//! Computing again instead of keeping: what is alive over the peak of memory only for users that come much later, and
//! is cheap to make from what is in memory then anyway, is made a second time for those.
//!
//! The second time is a node like any other, so fusion finds the kernel that makes it: mostly one that reads the
//! same memory in any case. It must not find one too early, hence a node that is made again waits for another
//! ([`Ir::after`]): the one that its first user had to wait for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smallvec::SmallVec;

use crate::fuse::Fused;
use crate::ir::{Again, Ir, IrOp};
use crate::lower::Place;
use crate::memory::{reads, writes};
use crate::op::Op;
use crate::stored::{CHEAPER_THAN_MEMORY, MAX_INLINE, own_cost};

/// What is smaller than this part of the peak is kept.
const SMALL: usize = 256;

/// What saves less than this part of the peak in all is not worth another round of fusion.
const WORTH: usize = 16;

/// When the nodes of a plan are in memory, by the kernels in their order.
pub(crate) struct Life {
    /// The kernel that makes each stored node.
    made: Vec<usize>,
    /// The kernels that read it, in order.
    read: Vec<SmallVec<[usize; 4]>>,
    /// Words in use during each kernel.
    alive: Vec<usize>,
}

impl Life {
    pub fn new(fused: &Fused) -> Life {
        let (ir, n) = (&fused.ir, fused.ir.nodes.len());
        let mut life = Life { made: vec![usize::MAX; n], read: vec![SmallVec::new(); n], alive: Vec::new() };
        for (k, kernel) in fused.kernels.iter().enumerate() {
            for node in writes(kernel) {
                life.made[node] = life.made[node].min(k);
            }
            for place in reads(ir, kernel) {
                if let Place::Node(node) = place
                    && life.read[node].last() != Some(&k)
                {
                    life.read[node].push(k);
                }
            }
        }
        let mut change = vec![0isize; fused.kernels.len() + 1];
        for (i, node) in ir.nodes.iter().enumerate() {
            if let (true, Some(&last)) = (life.made[i] != usize::MAX, life.read[i].last())
                && !ir.outputs.contains(&i)
            {
                change[life.made[i]] += node.words() as isize;
                change[last + 1] -= node.words() as isize;
            }
        }
        let mut sum = 0;
        life.alive.extend(change.iter().map(|c| {
            sum += c;
            sum as usize
        }));
        life
    }

    /// The words in use at the peak, and the kernel that runs then.
    pub fn peak(&self) -> (usize, usize) {
        let at = (0..self.alive.len()).max_by_key(|&k| (self.alive[k], Reverse(k)));
        at.map_or((0, 0), |k| (self.alive[k], k))
    }
}

/// What could be made again.
struct Candidate {
    again: Again,
    /// The nodes in memory that it is made from.
    from: SmallVec<[usize; 4]>,
    /// Words that are not kept for it.
    saves: usize,
}

/// The graph with nodes that are made again so that less is in use at the peak, if there are such.
///
/// `loads` is how many buffers an expression may read: another kernel is to make it on the way.
pub(crate) fn remat(fused: &Fused, life: &Life, loads: usize) -> Option<Ir> {
    let ir = &fused.ir;
    let (peak, at) = life.peak();
    let over = |n: &usize| {
        let reads = &life.read[*n];
        life.made[*n] < at
            && reads.last().is_some_and(|&last| last > at)
            && !reads.contains(&at)
            && ir.nodes[*n].words() * SMALL >= peak
            && is_elementwise(&ir.nodes[*n].op)
    };
    let nodes: Vec<usize> = (0..ir.nodes.len()).filter(over).collect();
    if nodes.is_empty() {
        return None;
    }
    let runs = runs(fused);
    let mut users = vec![Vec::new(); ir.nodes.len()];
    for (u, node) in ir.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|e| users[e.node].push(u));
    }
    let mut all: Vec<Candidate> =
        nodes.iter().filter_map(|&n| candidate(fused, life, at, n, &users[n], &runs, loads)).collect();
    all.sort_by_key(|c| (Reverse(ir.nodes[c.again.node].words()), c.again.node));
    let mut chosen: Vec<Candidate> = Vec::new();
    for c in all {
        // What is made again is not there for others to be made from it.
        let node = c.again.node;
        if !chosen.iter().any(|other| other.from.contains(&node) || c.from.contains(&other.again.node)) {
            chosen.push(c);
        }
    }
    let saved = chosen.iter().map(|c| c.saves).sum::<usize>();
    (saved * WORTH >= peak && saved > 0).then(|| ir.with_again(chosen.into_iter().map(|c| c.again).collect()))
}

fn is_elementwise(op: &IrOp) -> bool {
    matches!(op, IrOp::Copy | IrOp::Core(Op::Map(_) | Op::Cast | Op::Bitcast))
}

/// The first and the last kernel that each node is evaluated in; for inline nodes there may be several.
fn runs(fused: &Fused) -> Vec<(usize, usize)> {
    let mut runs = vec![(usize::MAX, 0); fused.ir.nodes.len()];
    for (k, kernel) in fused.kernels.iter().enumerate() {
        let mut stack = kernel.members.clone();
        while let Some(i) = stack.pop() {
            if runs[i].0 != usize::MAX && runs[i].1 == k {
                continue;
            }
            runs[i] = (runs[i].0.min(k), k);
            let inputs = fused.ir.nodes[i].inputs.iter().map(|e| e.node);
            stack.extend(inputs.filter(|&j| !fused.stored[j]));
        }
    }
    runs
}

fn candidate(
    fused: &Fused,
    life: &Life,
    at: usize,
    node: usize,
    users: &[usize],
    runs: &[(usize, usize)],
    loads: usize,
) -> Option<Candidate> {
    let ir = &fused.ir;
    let late: SmallVec<[usize; 4]> = users.iter().copied().filter(|&u| runs[u].0 > at).collect();
    // An expression of both sides would keep it alive.
    if users.iter().any(|&u| runs[u].1 > at && runs[u].0 <= at) || ir.outputs.contains(&node) {
        return None;
    }
    let first = *life.read[node].iter().find(|&&k| k > at)?;
    let mut from: SmallVec<[usize; 4]> = SmallVec::new();
    let mut seen: SmallVec<[usize; 16]> = SmallVec::new();
    let (mut cost, mut given, mut stack) = (0, SmallVec::<[usize; 4]>::new(), vec![node]);
    while let Some(i) = stack.pop() {
        if seen.contains(&i) {
            continue;
        }
        seen.push(i);
        cost += own_cost(&ir.nodes[i].op).0;
        if cost > CHEAPER_THAN_MEMORY || seen.len() > MAX_INLINE {
            return None;
        }
        for edge in &ir.nodes[i].inputs {
            match ir.nodes[edge.node].op {
                IrOp::Leaf(external) if given.contains(&external) => {}
                IrOp::Leaf(external) => given.push(external),
                _ if fused.stored[edge.node] => from.push(edge.node),
                _ => stack.push(edge.node),
            }
        }
    }
    from.sort_unstable();
    from.dedup();
    let words = ir.nodes[node].words();
    let large = from.iter().filter(|&&f| ir.nodes[f].words() >= words).count();
    // With two tensors to read for one, keeping it would be as good.
    if large > 1 || from.len() + given.len() > loads {
        return None;
    }
    // All of it is there at that time without this, or takes at most half as much: what was packed.
    let kept = |f: &&usize| life.read[**f].last() < Some(&first) && !ir.outputs.contains(f);
    let kept: usize = from.iter().filter(kept).map(|&f| ir.nodes[f].words()).sum();
    if 2 * kept > words {
        return None;
    }
    let waited = reads(ir, &fused.kernels[first]).into_iter().filter_map(|p| match p {
        Place::Node(other) if other != node && life.made[other] > at && life.made[other] < first => {
            Some(other)
        }
        _ => None,
    });
    let after = waited.max_by_key(|&other| life.made[other])?;
    Some(Candidate { again: Again { node, after, users: late }, from, saves: words - kept })
}

impl Ir {
    /// Makes nodes again for some of their users.
    fn with_again(&self, again: Vec<Again>) -> Ir {
        let n = self.nodes.len();
        let mut nodes = self.nodes.clone();
        let mut after = self.after.clone();
        // Where each node would stand: a node that is made again, right behind the one that it waits for.
        let mut rank: Vec<(usize, usize)> = (0..n).map(|i| (i, 0)).collect();
        for Again { node, after: anchor, users } in again {
            let new = nodes.len();
            nodes.push(nodes[node].clone());
            after.push((new, anchor));
            rank.push((anchor, new));
            for user in users {
                let edges = nodes[user].inputs.iter_mut().filter(|e| e.node == node);
                edges.for_each(|e| e.node = new);
            }
        }
        let mut waits = vec![0; nodes.len()];
        let mut feeds = vec![Vec::new(); nodes.len()];
        let edges =
            nodes.iter().enumerate().flat_map(|(i, node)| node.inputs.iter().map(move |e| (i, e.node)));
        for (to, from) in edges.chain(after.iter().copied()) {
            waits[to] += 1;
            feeds[from].push(to);
        }
        let free = (0..nodes.len()).filter(|&i| waits[i] == 0);
        let mut ready: BinaryHeap<_> = free.map(|i| Reverse((rank[i], i))).collect();
        let (mut order, mut place) = (Vec::with_capacity(nodes.len()), vec![usize::MAX; nodes.len()]);
        while let Some(Reverse((_, i))) = ready.pop() {
            place[i] = order.len();
            order.push(i);
            for &next in &feeds[i] {
                waits[next] -= 1;
                if waits[next] == 0 {
                    ready.push(Reverse((rank[next], next)));
                }
            }
        }
        assert_eq!(order.len(), nodes.len(), "what is made again waits for what its users need before");
        let moved = order.iter().map(|&i| {
            let mut node = nodes[i].clone();
            node.inputs.iter_mut().for_each(|e| e.node = place[e.node]);
            node
        });
        Ir {
            nodes: moved.collect(),
            outputs: self.outputs.iter().map(|&o| place[o]).collect(),
            donated: self.donated.clone(),
            paired: self.paired,
            after: after.into_iter().map(|(new, anchor)| (place[new], place[anchor])).collect(),
        }
    }
}
