//! Fusion: which nodes get a buffer, and which of those are computed by one kernel.
//!
//! First every node is either *stored* or *inline* (recomputed inside its users' expressions). Then stored
//! nodes are merged into groups as long as one program can compute them: elementwise chains with
//! several outputs, reductions with what surrounds them, contractions with their epilogue. Whether a group is
//! possible is decided by lowering it: there is no second description of what a kernel can do.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use versant_kernels::{DType, Shape, View};

use crate::halves;
use crate::ir::{Ir, IrOp};
use crate::loops::Loop;
use crate::lower::{Domain, Group, Lowered, Place, Refusal, lower};
use crate::op::Op;
use crate::order::order;
use crate::remat::{Life, remat};
use crate::stored::{MAX_INLINE, choose};

/// What a device lets a kernel do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Storage buffers a kernel may bind.
    pub bindings: usize,
    /// Whether anything is merged (off for tests of the passes against each other).
    pub merge: bool,
    /// Whether kernels that do not depend on each other share a launch.
    pub join: bool,
    /// Whether a buffer that a kernel overwrites counts once: where it can be told, and where it is likely.
    pub in_place: bool,
    pub hopeful: bool,
    /// Whether values are computed again that would be in memory for long.
    pub remat: bool,
}

/// Programs do not grow beyond this many instructions by merging.
const MAX_MERGED: usize = 256;
/// Instructions of a program that cannot be split.
const MAX_SINGLE: usize = 8192;
/// Columns up to which elementwise work joins a reduction: a row is read again for each step.
const MAX_FUSED_COLS: usize = 8192;
/// Rows from which a reduction's parallelism is enough for the elementwise work that joins it.
const MIN_FUSED_ROWS: usize = 32;

/// How a kernel of the plan is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// An expression program.
    Fused(Domain),
    /// A contraction whose epilogue computes the other members.
    Contraction(usize, Domain),
    /// The first half of a contraction whose sum is split.
    Product { node: usize, partial: usize },
    /// The second half, with the epilogue.
    Total { node: usize, partial: usize },
    /// A kernel of a small family.
    Family(usize),
    /// A scan: launches of its body, repeated.
    Loop(usize),
    /// A concatenation: its pieces are stored by their own kernels.
    Virtual(usize),
}

/// One kernel of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub form: Form,
    /// Stored nodes it computes, inputs first.
    pub members: Vec<usize>,
    pub lowered: Option<Lowered>,
}

impl Kernel {
    /// Buffers that it binds.
    pub fn bindings(&self) -> usize {
        let operands = if matches!(self.form, Form::Contraction(..)) { 2 } else { 0 };
        operands + self.lowered.as_ref().map_or(0, |l| l.places.len())
    }
}

/// The kernels in an order of execution.
#[derive(Clone)]
pub(crate) struct Fused {
    pub ir: Ir,
    pub stored: Vec<bool>,
    pub kernels: Vec<Kernel>,
    /// By the node of the scan.
    pub loops: FxHashMap<usize, Rc<Loop>>,
}

/// How often at most nodes are looked for that can be made again: the peak may be elsewhere then.
const ROUNDS: usize = 3;

/// Fuses a graph. What is cheap to make again is not kept over the peak of memory.
pub(crate) fn fuse(ir: Ir, limits: Limits) -> Fused {
    let mut best = with_copies(ir, limits);
    if !limits.remat {
        return best;
    }
    let mut life = Life::new(&best);
    for _ in 0..ROUNDS {
        let Some(ir) = remat(&best, &life, limits.bindings.div_ceil(2)) else { break };
        let next = with_copies(ir, limits);
        let lived = Life::new(&next);
        if lived.peak().0 >= life.peak().0 {
            break;
        }
        (best, life) = (next, lived);
    }
    best
}

/// Fuses a graph, inserting copies where a view cannot be read through.
fn with_copies(mut ir: Ir, limits: Limits) -> Fused {
    // Halves are chosen anew.
    ir.nodes.iter_mut().filter(|n| n.dtype.is_half()).for_each(|n| n.dtype = DType::F32);
    // Every round copies operands that no later round has to copy, so there are fewer rounds than nodes.
    let rounds = ir.nodes.len() + 8;
    for _ in 0..rounds {
        if cfg!(debug_assertions) {
            ir.verify();
        }
        match Fusion::new(&ir, limits).run() {
            Ok((stored, mut kernels)) => {
                halves::choose(&mut ir, &mut kernels);
                return Fused { ir, stored, kernels, loops: FxHashMap::default() };
            }
            Err(copies) => ir = ir.with_copies(&copies),
        }
    }
    unreachable!("fusion asks for copies without end")
}

struct Fusion<'a> {
    ir: &'a Ir,
    limits: Limits,
    is_output: Vec<bool>,
    stored: Vec<bool>,
    pieces: FxHashMap<usize, (usize, View)>,
    /// Stored nodes that the expression of each stored node reads.
    refs: Vec<SmallVec<[u32; 4]>>,
    users: Vec<SmallVec<[u32; 4]>>,
    /// Stored nodes that read each external buffer.
    leaf_users: Vec<Vec<u32>>,
    /// The kernel of each stored node.
    group_of: Vec<usize>,
    groups: Vec<Option<Kernel>>,
}

type Finished = (Vec<bool>, Vec<Kernel>);

impl<'a> Fusion<'a> {
    fn new(ir: &'a Ir, limits: Limits) -> Self {
        let n = ir.nodes.len();
        let mut is_output = vec![false; n];
        for &o in &ir.outputs {
            is_output[o] = true;
        }
        let mut f = Fusion {
            ir,
            limits,
            is_output,
            stored: vec![false; n],
            pieces: FxHashMap::default(),
            refs: vec![SmallVec::new(); n],
            users: vec![SmallVec::new(); n],
            leaf_users: vec![Vec::new(); ir.donated.len()],
            group_of: vec![usize::MAX; n],
            groups: Vec::new(),
        };
        f.place_pieces();
        f.stored = choose(ir, &f.is_output, limits);
        f.link();
        f
    }

    fn run(mut self) -> Result<Finished, Vec<(usize, usize)>> {
        self.singles()?;
        if self.limits.merge {
            for node in 0..self.ir.nodes.len() {
                if self.stored[node] {
                    self.merge_with_producers(node);
                }
            }
            self.merge_again();
        }
        let kernels = order(self.ir, self.groups, &self.refs);
        Ok((self.stored, kernels))
    }

    fn place_pieces(&mut self) {
        for (i, node) in self.ir.nodes.iter().enumerate() {
            let IrOp::Core(Op::Concat(axis)) = node.op else {
                continue;
            };
            let mut start = vec![0; node.shape.rank()];
            for edge in &node.inputs {
                let shape = self.ir.nodes[edge.node].shape;
                let steps = vec![1; node.shape.rank()];
                let view = View::contiguous(node.shape).slice(&start, &steps, shape);
                self.pieces.insert(edge.node, (i, view));
                start[axis] += shape[axis] as isize;
            }
        }
    }

    /// Records which stored nodes each stored node's expression reads.
    fn link(&mut self) {
        for i in 0..self.ir.nodes.len() {
            if !self.stored[i] {
                continue;
            }
            let mut stack: SmallVec<[usize; 8]> = self.ir.nodes[i].inputs.iter().map(|e| e.node).collect();
            let mut seen = FxHashSet::default();
            while let Some(j) = stack.pop() {
                if !seen.insert(j) {
                    continue;
                }
                if let IrOp::Leaf(external) = self.ir.nodes[j].op {
                    self.leaf_users[external].push(i as u32);
                } else if self.stored[j] {
                    self.refs[i].push(j as u32);
                    self.users[j].push(i as u32);
                } else {
                    stack.extend(self.ir.nodes[j].inputs.iter().map(|e| e.node));
                }
            }
        }
        for &(node, first) in &self.ir.after {
            if !self.refs[node].contains(&(first as u32)) {
                self.refs[node].push(first as u32);
                self.users[first].push(node as u32);
            }
        }
    }

    fn group(
        &self,
        domain: Domain,
        members: &[usize],
        acc: Option<usize>,
        max: usize,
    ) -> Result<Lowered, Refusal> {
        let exported =
            |m: usize| self.is_output[m] || self.users[m].iter().any(|u| !members.contains(&(*u as usize)));
        lower(&Group {
            ir: self.ir,
            stored: &self.stored,
            pieces: &self.pieces,
            domain,
            members,
            accumulator: acc,
            exported: &exported,
            max_instrs: max,
        })
    }

    /// A kernel for every stored node, or the operands that need a copy first.
    fn singles(&mut self) -> Result<(), Vec<(usize, usize)>> {
        let mut copies = Vec::new();
        for i in 0..self.ir.nodes.len() {
            if !self.stored[i] {
                continue;
            }
            let node = &self.ir.nodes[i];
            if let IrOp::Core(Op::Item(_)) = node.op {
                let group = self.group_of[node.inputs[0].node];
                self.group_of[i] = group;
                self.groups[group].iter_mut().for_each(|scan| scan.members.push(i));
                continue;
            }
            let form = match &node.op {
                IrOp::Core(Op::Scan(_)) => Form::Loop(i),
                IrOp::Core(Op::Concat(_)) => Form::Virtual(i),
                IrOp::Core(Op::MatMul | Op::Conv(..)) => Form::Contraction(i, Domain::Flat(node.shape)),
                _ if node.is_heavy() => Form::Family(i),
                IrOp::Core(Op::Reduce(_, axes)) => {
                    let full = node.inputs[0].full_view(self.ir).shape;
                    Form::Fused(Domain::Rows { full, axes: *axes })
                }
                _ => Form::Fused(Domain::Flat(self.refined(i))),
            };
            let lowered = match &form {
                Form::Fused(domain) => Some(self.group(domain.clone(), &[i], None, MAX_SINGLE)),
                Form::Contraction(_, domain) => Some(self.group(domain.clone(), &[i], Some(i), MAX_SINGLE)),
                _ => None,
            };
            let lowered = match lowered {
                Some(Err(Refusal::Copy(node, k))) => {
                    if !copies.contains(&(node, k)) {
                        copies.push((node, k));
                    }
                    None
                }
                Some(Err(Refusal::Apart)) => unreachable!("a node fits its own domain: {node:?}"),
                Some(Ok(lowered)) => Some(lowered),
                None => None,
            };
            self.group_of[i] = self.groups.len();
            self.groups.push(Some(Kernel { form, members: vec![i], lowered }));
        }
        if copies.is_empty() { Ok(()) } else { Err(copies) }
    }

    /// The extents of a node, split so finely that every reshape inside its expression is affine.
    fn refined(&self, node: usize) -> Shape {
        let mut shape = self.ir.nodes[node].shape;
        let mut stack = vec![node];
        let mut steps = 0;
        while let Some(i) = stack.pop() {
            steps += 1;
            for edge in &self.ir.nodes[i].inputs {
                let source = &self.ir.nodes[edge.node];
                if let Some(view) = edge.view.as_ref().filter(|v| v.shape.numel() == shape.numel()) {
                    shape = refine(&shape, &view.shape).unwrap_or(shape);
                }
                if self.stored[edge.node] || source.inputs.is_empty() || !edge.in_order(self.ir) {
                    continue;
                }
                shape = refine(&shape, &source.shape).unwrap_or(shape);
                if steps < 4 * MAX_INLINE {
                    stack.push(edge.node);
                }
            }
        }
        shape
    }

    /// Tries to compute a node in one kernel with those it reads, the latest first.
    fn merge_with_producers(&mut self, node: usize) {
        let mut candidates: Vec<usize> = self.refs[node].iter().map(|&r| self.group_of[r as usize]).collect();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        candidates.dedup();
        candidates.truncate(16);
        for other in candidates {
            // An earlier merge may have moved either side.
            let own = self.group_of[node];
            if own != other && self.groups[other].is_some() {
                self.try_merge(other, own);
            }
        }
        self.merge_with_siblings(node);
    }

    /// Nodes that are made again join a kernel that reads the same memory.
    fn merge_again(&mut self) {
        for &(node, first) in &self.ir.after {
            let large =
                |&&r: &&u32| self.ir.nodes[r as usize].shape.numel() >= self.ir.nodes[node].shape.numel();
            let sources = self.refs[node].iter().filter(large);
            let mut beside: Vec<u32> = sources.flat_map(|&r| &self.users[r as usize]).copied().collect();
            beside.retain(|&u| u as usize > first);
            beside.sort_unstable();
            for user in beside {
                let (own, other) = (self.group_of[node], self.group_of[user as usize]);
                let alone = self.groups[own].as_ref().is_some_and(|k| k.members.len() == 1);
                if !alone || own != other && self.try_merge(other, own) {
                    break;
                }
            }
        }
    }

    /// Reductions of the same rows that read the same memory share one pass over it; and so does what a loop keeps of a
    /// carry with what reads that.
    fn merge_with_siblings(&mut self, node: usize) {
        let kept = self.ir.paired && self.ir.nodes[node].op == IrOp::Copy;
        if !self.ir.nodes[node].is_reduce() && !kept {
            return;
        }
        let own = self.group_of[node];
        let (domain, places) = match &self.groups[own] {
            Some(Kernel { form: Form::Fused(domain), lowered: Some(l), .. }) => {
                (domain.clone(), l.places.clone())
            }
            _ => return,
        };
        let first = own.saturating_sub(64);
        for other in (first..own).rev() {
            let Some(kernel) = &self.groups[other] else {
                continue;
            };
            let shares = kernel.form == Form::Fused(domain.clone())
                && kernel.lowered.as_ref().is_some_and(|l| l.places.iter().any(|p| places.contains(p)));
            if shares && self.try_merge(other, own) {
                return;
            }
        }
    }

    /// Merges two kernels into the first, if one program can be both and no third stands between.
    fn try_merge(&mut self, into: usize, from: usize) -> bool {
        let (Some(a), Some(b)) = (&self.groups[into], &self.groups[from]) else {
            return false;
        };
        let Some((form, acc)) = self.merged_form(a, b) else {
            return false;
        };
        let size = |k: &Kernel| k.lowered.as_ref().map_or(0, |l| l.program.instrs().count());
        if size(a) + size(b) > MAX_MERGED || self.between(into, from) {
            return false;
        }
        let mut members = [&a.members[..], &b.members[..]].concat();
        members.sort_unstable();
        // A contraction reads its operands from memory: its own kernel cannot be the one that writes them.
        let operand = |node: usize| self.ir.nodes[node].inputs.iter().any(|e| members.contains(&e.node));
        if acc.is_some_and(operand) {
            return false;
        }
        let (Form::Fused(domain) | Form::Contraction(_, domain)) = &form else {
            return false;
        };
        let Ok(lowered) = self.group(domain.clone(), &members, acc, MAX_MERGED) else {
            return false;
        };
        if !halves::may_store(self.ir, &form, &lowered) {
            return false;
        }
        // A contraction binds its two operands beside the epilogue's buffers.
        let operands = if acc.is_some() { 2 } else { 0 };
        let count = lowered.places.len() + operands;
        if count > self.limits.bindings
            && count - self.overwrites(&lowered, &members, acc) > self.limits.bindings
        {
            return false;
        }
        for &m in &members {
            self.group_of[m] = into;
        }
        self.groups[from] = None;
        self.groups[into] = Some(Kernel { form, members, lowered: Some(lowered) });
        true
    }

    /// How many of its results a kernel will write over buffers that it reads: [`memory`](crate::memory) lets it where
    /// nobody else reads them.
    fn overwrites(&self, lowered: &Lowered, members: &[usize], acc: Option<usize>) -> usize {
        if !self.limits.in_place {
            return 0;
        }
        let operand = |p: Place| {
            acc.is_some_and(|a| self.ir.nodes[a].inputs.iter().any(|e| place_of(self.ir, e.node) == p))
        };
        let own = |users: &[u32]| users.iter().all(|u| members.contains(&(*u as usize)));
        let mut taken = vec![false; lowered.places.len()];
        let mut count = 0;
        for (w, place) in
            lowered.places.iter().enumerate().filter(|(w, _)| lowered.program.bindings[*w].written)
        {
            let Place::Node(new) = *place else { continue };
            let words = self.ir.nodes[new].shape.numel();
            let found = (0..w).find(|&r| {
                let fits = match lowered.places[r] {
                    _ if taken[r] || lowered.program.bindings[r].written || operand(lowered.places[r]) => {
                        false
                    }
                    Place::External(e) => {
                        let pair = !self.ir.paired || self.ir.outputs.get(e) == Some(&new);
                        let fits = self.ir.donated[e] == Some(words) && self.is_output[new];
                        pair && fits && own(&self.leaf_users[e])
                    }
                    Place::Node(old) => {
                        let kept = self.is_output[old] || self.is_output[new];
                        !kept && self.ir.nodes[old].shape.numel() == words && own(&self.users[old])
                    }
                };
                fits && lowered.overwritable(r, w).is_some()
            });
            if let Some(r) = found {
                taken[r] = true;
                count += 1;
            }
        }
        count
    }

    /// The form that two kernels could have together.
    fn merged_form(&self, a: &Kernel, b: &Kernel) -> Option<(Form, Option<usize>)> {
        use Domain::{Flat, Rows};
        match (&a.form, &b.form) {
            (Form::Fused(Flat(x)), Form::Fused(Flat(y))) if x.numel() == y.numel() => {
                Some((Form::Fused(Flat(refine(x, y)?)), None))
            }
            (Form::Contraction(node, Flat(x)), Form::Fused(Flat(y)))
            | (Form::Fused(Flat(y)), Form::Contraction(node, Flat(x)))
                if x.numel() == y.numel() =>
            {
                // An epilogue runs over the contraction's own results: only outer dimensions may be split.
                let fine = refine(x, y).filter(|s| s.last() == x.last()).unwrap_or(*x);
                Some((Form::Contraction(*node, Flat(fine)), Some(*node)))
            }
            (Form::Fused(rows @ Rows { full, axes }), Form::Fused(other))
            | (Form::Fused(other), Form::Fused(rows @ Rows { full, axes })) => {
                let cols: usize = (0..full.rank()).filter(|a| axes >> a & 1 == 1).map(|a| full[a]).product();
                let count = full.numel() / cols.max(1);
                match other {
                    Rows { .. } if other == rows => Some((Form::Fused(rows.clone()), None)),
                    Flat(y) if y.numel() == count => Some((Form::Fused(rows.clone()), None)),
                    Flat(y) if y.numel() == full.numel() => {
                        let trailing = axes.trailing_zeros() + axes.count_ones() == full.rank() as u32;
                        let worth = trailing
                            && cols <= MAX_FUSED_COLS
                            && (count >= MIN_FUSED_ROWS || full.numel() <= 1 << 14);
                        worth.then(|| (Form::Fused(rows.clone()), None))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether some other kernel must run between these two.
    fn between(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) || self.reaches(b, a)
    }

    /// Whether `to` depends on `from` through a third kernel.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let Some(target) = &self.groups[from] else {
            return false;
        };
        let lowest = target.members[0];
        let mut seen = FxHashSet::default();
        let mut stack: Vec<usize> = self.sources(to).filter(|&g| g != from && g != to).collect();
        while let Some(g) = stack.pop() {
            if g == from || seen.len() > 4096 {
                return true;
            }
            let Some(kernel) = &self.groups[g] else {
                continue;
            };
            let highest = kernel.members[kernel.members.len() - 1];
            if highest < lowest || !seen.insert(g) {
                continue;
            }
            stack.extend(self.sources(g));
        }
        false
    }

    /// The kernels that a kernel reads from.
    fn sources(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let members = self.groups[group].as_ref().map_or(&[][..], |k| &k.members);
        members
            .iter()
            .flat_map(|&m| self.refs[m].iter().map(|&r| self.group_of[r as usize]))
            .filter(move |&g| g != group)
    }
}

/// The coarsest extents that both shapes (of equal size) are merges of.
pub(crate) fn refine(a: &Shape, b: &Shape) -> Option<Shape> {
    if a == b {
        return Some(*a);
    }
    if a.numel() == 0 {
        return Some(*a);
    }
    let mut cuts: Vec<usize> = Vec::new();
    for shape in [a, b] {
        let mut product = 1;
        for &dim in shape.iter().rev() {
            product *= dim;
            cuts.push(product);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut dims = Vec::new();
    let mut below = 1;
    for cut in cuts {
        if cut % below != 0 {
            return None;
        }
        if cut != below {
            dims.push(cut / below);
        }
        below = cut;
    }
    dims.reverse();
    Shape::new(&dims)
}

/// The place that holds an operand which must be in memory.
pub(crate) fn place_of(ir: &Ir, node: usize) -> Place {
    match ir.nodes[node].op {
        IrOp::Leaf(external) => Place::External(external),
        _ => Place::Node(node),
    }
}
