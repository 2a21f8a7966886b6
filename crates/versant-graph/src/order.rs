//! The order of execution of a plan's kernels.

use std::collections::BTreeSet;

use crate::fuse::{Form, Kernel};
use crate::ir::{Ir, IrOp};

/// Above this many kernels that could run next, the first recorded one does.
const MAX_CHOICE: usize = 256;

/// Orders kernels: inputs first; what does not add to the memory in use as soon as it can run, otherwise as recorded.
/// So a weight's gradient is computed while its operands are there, and they are freed.
///
/// `refs` are the stored nodes that each stored node reads.
pub(crate) fn order(ir: &Ir, groups: Vec<Option<Kernel>>, refs: &[impl AsRef<[u32]>]) -> Vec<Kernel> {
    let mut o = Order::new(ir, &groups, refs);
    let mut groups = groups;
    let mut order = Vec::new();
    while let Some(g) = o.next() {
        order.extend(groups[g].take());
    }
    assert!(groups.iter().all(Option::is_none), "fusion made a cycle");
    order
}

struct Order {
    /// Kernels that wait for each kernel, and the number of those that each waits for.
    feeds: Vec<Vec<usize>>,
    waits: Vec<usize>,
    /// With their ranks.
    ready: BTreeSet<(usize, usize)>,
    /// Where each kernel stands in the order of recording.
    rank: Vec<usize>,
    /// Words of the buffers that each kernel makes.
    made: Vec<usize>,
    /// Nodes that each kernel reads.
    reads: Vec<Vec<usize>>,
    /// For each node the kernels that are still to read it, and the words that are free after the last of them.
    readers: Vec<(usize, usize)>,
}

impl Order {
    fn new(ir: &Ir, groups: &[Option<Kernel>], refs: &[impl AsRef<[u32]>]) -> Order {
        let mut of = vec![usize::MAX; ir.nodes.len()];
        let mut is_output = vec![false; ir.nodes.len()];
        ir.outputs.iter().for_each(|&o| is_output[o] = true);
        for (g, kernel) in groups.iter().enumerate() {
            kernel.iter().flat_map(|k| &k.members).for_each(|&m| of[m] = g);
        }
        // Pieces lie in their whole, and what is given or returned is in use in any case.
        let words = |n: usize| match ir.nodes[n].op {
            IrOp::Piece | IrOp::Leaf(_) => 0,
            _ if is_output[n] => 0,
            _ => ir.nodes[n].shape.numel(),
        };
        let n = groups.len();
        let mut o = Order {
            feeds: vec![Vec::new(); n],
            waits: vec![0; n],
            ready: BTreeSet::new(),
            rank: vec![0; n],
            made: vec![0; n],
            reads: vec![Vec::new(); n],
            readers: (0..ir.nodes.len()).map(|i| (0, words(i))).collect(),
        };
        for (g, kernel) in groups.iter().enumerate() {
            let Some(kernel) = kernel else { continue };
            let read = kernel.members.iter().flat_map(|&m| refs[m].as_ref());
            let mut reads: Vec<usize> = read.map(|&r| r as usize).filter(|&r| of[r] != g).collect();
            reads.sort_unstable();
            reads.dedup();
            let mut sources: Vec<usize> = reads.iter().map(|&r| of[r]).collect();
            sources.sort_unstable();
            sources.dedup();
            o.waits[g] = sources.len();
            sources.into_iter().for_each(|s| o.feeds[s].push(g));
            for &r in &reads {
                // A buffer is made if anybody else reads it.
                o.made[of[r]] += if o.readers[r].0 == 0 { words(r) } else { 0 };
                o.readers[r].0 += 1;
            }
            o.reads[g] = reads;
            // A piece is recorded where its whole is; its kernel belongs where the value was.
            let value = |m: &&usize| !matches!(ir.nodes[**m].op, IrOp::Piece);
            let last = kernel.members.iter().rfind(value).or(kernel.members.last());
            let first = matches!(kernel.form, Form::Loop(_)).then_some(&kernel.members[0]);
            o.rank[g] = *first.or(last).expect("a kernel has members");
        }
        let free = (0..n).filter(|&g| groups[g].is_some() && o.waits[g] == 0);
        o.ready = free.map(|g| (o.rank[g], g)).collect();
        o
    }

    /// Words more in use after a kernel than before it.
    fn growth(&self, g: usize) -> isize {
        let freed = self.reads[g].iter().filter(|&&r| self.readers[r].0 == 1);
        self.made[g] as isize - freed.map(|&r| self.readers[r].1 as isize).sum::<isize>()
    }

    /// The kernel to run next; later ones may then be ready.
    fn next(&mut self) -> Option<usize> {
        let mut chosen = *self.ready.first()?;
        if self.ready.len() <= MAX_CHOICE {
            let growths = self.ready.iter().map(|&(rank, g)| (self.growth(g), (rank, g)));
            chosen = growths.min().filter(|best| best.0 <= 0).map_or(chosen, |best| best.1);
        }
        self.ready.remove(&chosen);
        let g = chosen.1;
        for r in std::mem::take(&mut self.reads[g]) {
            self.readers[r].0 -= 1;
        }
        for next in std::mem::take(&mut self.feeds[g]) {
            self.waits[next] -= 1;
            if self.waits[next] == 0 {
                self.ready.insert((self.rank[next], next));
            }
        }
        Some(g)
    }
}
