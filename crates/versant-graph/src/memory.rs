//! Memory: which buffer each stored node lives in, by liveness over the order of execution.
//!
//! A slot is reused as soon as its last reader has run. A program may write over a buffer that dies with it,
//! or that the plan was given to keep (*donated*), if it loads each element only where it stores it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use versant_device::{BufferRef, PART_ALIGN};
use versant_kernels::{InstrKind, Reg, Step};

use crate::capture::Key;
use crate::fuse::{Form, Fused, Kernel, place_of};
use crate::ir::Ir;
use crate::lower::{Lowered, Place};

/// Where a plan's results are found after a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    /// In a buffer of this many words that is allocated for the run; its number among the externals.
    Fresh { external: usize, words: usize },
    /// In an input buffer that was overwritten.
    Donated { external: usize },
}

/// The assignment of buffers.
#[derive(Default)]
pub(crate) struct Memory {
    /// Buffers of stored nodes.
    pub buffers: FxHashMap<usize, BufferRef>,
    /// Words of each slot.
    pub slots: Vec<usize>,
    /// For each output of the key.
    pub outputs: Vec<Output>,
    /// Number of externals, inputs and fresh outputs.
    pub externals: usize,
    /// For each launch the nodes alive while it runs, with the number of what holds each; and the slot of each number.
    pub live: Vec<Vec<(usize, u32)>>,
    pub slot_of: Vec<usize>,
}

struct Planner<'a> {
    key: &'a Key,
    memory: Memory,
    /// The last launch that reads each place.
    last_read: FxHashMap<Place, usize>,
    /// What is to lie in one slot from some launch to another, in order of the first.
    values: Vec<Value>,
    /// Outputs of the key by node.
    output_of: FxHashMap<usize, usize>,
    taken: Vec<bool>,
    alive: FxHashMap<usize, u32>,
}

/// A node's value, or several, each written over the one before.
struct Value {
    words: usize,
    steps: Range<usize>,
    /// The launches that bind it, and whether they write it.
    bound: Vec<(usize, bool)>,
    /// The slot that it lies in, and the first word there.
    slot: usize,
    start: usize,
}

impl Value {
    /// Whether the two can be parts of one slot in what their launches bind: a launch that writes a buffer binds it once.
    fn may_share(&self, other: &Value) -> bool {
        let mut theirs = other.bound.iter().peekable();
        self.bound.iter().all(|&(step, written)| {
            while theirs.next_if(|&&(at, _)| at < step).is_some() {}
            theirs.peek().is_none_or(|&&(at, theirs)| at > step || !written && !theirs)
        })
    }
}

/// Plans memory for the kernels in their order; those of one range of `steps` run in one launch.
pub(crate) fn plan(fused: &mut Fused, key: &Key, steps: &[Range<usize>]) -> Memory {
    let mut p = Planner {
        key,
        memory: Memory { externals: key.externals.len(), ..Memory::default() },
        last_read: FxHashMap::default(),
        values: Vec::new(),
        output_of: FxHashMap::default(),
        taken: vec![false; key.externals.len()],
        alive: FxHashMap::default(),
    };
    for (i, &node) in fused.ir.outputs.iter().enumerate() {
        p.output_of.insert(node, i);
    }
    p.memory.outputs = vec![Output::Donated { external: usize::MAX }; fused.ir.outputs.len()];
    for (step, range) in steps.iter().enumerate() {
        for place in fused.kernels[range.clone()].iter().flat_map(|k| reads(&fused.ir, k)) {
            p.last_read.insert(place, step);
        }
    }
    for (step, range) in steps.iter().enumerate() {
        p.step(fused, step, range.clone());
    }
    p.assign();
    p.memory
}

/// Every place that a kernel reads.
pub(crate) fn reads(ir: &Ir, kernel: &Kernel) -> Vec<Place> {
    let operands = |node: usize| ir.nodes[node].inputs.iter().map(|e| place_of(ir, e.node));
    let mut places: Vec<Place> = match kernel.form {
        Form::Contraction(node, _) | Form::Family(node) | Form::Loop(node) | Form::Product { node, .. } => {
            operands(node).collect()
        }
        Form::Total { partial, .. } => vec![Place::Node(partial)],
        Form::Virtual(node) => vec![Place::Node(node)],
        Form::Fused(_) => Vec::new(),
    };
    places.extend(kernel.lowered.iter().flat_map(Lowered::loaded));
    places
}

/// The nodes whose buffers a kernel writes.
pub(crate) fn writes(kernel: &Kernel) -> Vec<usize> {
    match (&kernel.form, &kernel.lowered) {
        (Form::Family(node) | Form::Product { partial: node, .. }, _) => vec![*node],
        // The scan itself has no value.
        (Form::Loop(_), _) => kernel.members[1..].to_vec(),
        (Form::Virtual(_), _) | (_, None) => Vec::new(),
        (_, Some(lowered)) => lowered
            .places
            .iter()
            .zip(&lowered.program.bindings)
            .filter(|(_, b)| b.written)
            .filter_map(|(p, _)| match p {
                Place::Node(node) => Some(*node),
                Place::External(_) => None,
            })
            .collect(),
    }
}

impl Planner<'_> {
    fn step(&mut self, fused: &mut Fused, step: usize, kernels: Range<usize>) {
        for k in kernels.clone() {
            // What one kernel of a launch writes, the others must not read.
            let others = kernels.clone().filter(|&other| other != k);
            let others: Vec<Place> = others.flat_map(|o| reads(&fused.ir, &fused.kernels[o])).collect();
            self.overwrite(fused, k, step, &others);
            if let Form::Loop(scan) = fused.kernels[k].form {
                let kept = fused.loops.get(&scan).map_or(&[][..], |l| &l.kept);
                kept.iter().for_each(|&(first, last)| self.hand_over(Place::Node(first), Place::Node(last)));
            }
        }
        for node in fused.kernels[kernels.clone()].iter().flat_map(writes) {
            if self.memory.buffers.contains_key(&node) {
                continue;
            }
            let words = fused.ir.nodes[node].words();
            let buffer = match self.output_of.get(&node) {
                Some(&output) => {
                    let external = self.memory.externals;
                    self.memory.externals += 1;
                    self.memory.outputs[output] = Output::Fresh { external, words };
                    BufferRef::External(external as u32)
                }
                None => {
                    let value = self.values.len() as u32;
                    self.values.push(Value {
                        words,
                        steps: step..usize::MAX,
                        bound: Vec::new(),
                        slot: 0,
                        start: 0,
                    });
                    self.alive.insert(node, value);
                    BufferRef::Slot(value)
                }
            };
            self.memory.buffers.insert(node, buffer);
        }
        self.bind(&fused.ir, step, &fused.kernels[kernels]);
        self.memory.live.push(self.alive.iter().map(|(&n, &v)| (n, v)).collect());
        // Whatever nobody reads after this launch gives its slot back. The pieces of a concatenation are written
        // before anybody reads it.
        let last_read = &self.last_read;
        let values = &mut self.values;
        self.alive.retain(|&node, &mut value| {
            let over = last_read.get(&Place::Node(node)).is_none_or(|&last| last <= step);
            if over {
                values[value as usize].steps.end = step + 1;
            }
            !over
        });
    }

    /// Notes which values a launch binds.
    fn bind(&mut self, ir: &Ir, step: usize, kernels: &[Kernel]) {
        for kernel in kernels {
            let read = reads(ir, kernel).into_iter().map(|place| (place, false));
            let written = writes(kernel).into_iter().map(|node| (Place::Node(node), true));
            for (place, written) in read.chain(written) {
                let Place::Node(node) = place else { continue };
                if let Some(BufferRef::Slot(value)) = self.memory.buffers.get(&node) {
                    let bound = &mut self.values[*value as usize].bound;
                    match bound.last_mut().filter(|last| last.0 == step) {
                        Some(last) => last.1 |= written,
                        None => bound.push((step, written)),
                    }
                }
            }
        }
    }

    /// Gives every value its place: the largest first, so that no slot grows; what is equally large in the order of
    /// execution, in a slot of that size that is free again, or else in the smallest gap that a larger one has.
    fn assign(&mut self) {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by_key(|&v| Reverse(self.values[v].words));
        // What lies in each slot, and the slots of the size at hand by the time from which they are free.
        let mut slots: Vec<Vec<usize>> = Vec::new();
        let (mut size, mut larger, mut free) = (0, 0, BinaryHeap::new());
        for v in order {
            let value = &self.values[v];
            if value.words != size {
                (size, larger) = (value.words, slots.len());
                free.clear();
            }
            let is_free = free.peek().is_some_and(|&Reverse((end, _))| end <= value.steps.start);
            let again = is_free.then(|| free.pop()).flatten().map(|Reverse((_, slot))| slot);
            let gaps = (0..larger).filter(|_| again.is_none());
            let gaps = gaps.filter_map(|s| Some((self.gap(value, &slots[s], self.memory.slots[s])?, s)));
            let found = gaps.min().map(|((_, start), slot)| (slot, start));
            let (slot, start) = again.map(|slot| (slot, 0)).or(found).unwrap_or((slots.len(), 0));
            if slot == slots.len() {
                slots.push(Vec::new());
                self.memory.slots.push(size);
            }
            if slot >= larger {
                free.push(Reverse((value.steps.end, slot)));
            }
            slots[slot].push(v);
            let value = &mut self.values[v];
            (value.slot, value.start) = (slot, start);
        }
        let part = |v: u32| {
            let Value { words, slot, start, .. } = self.values[v as usize];
            match start == 0 && words == self.memory.slots[slot] {
                true => BufferRef::Slot(slot as u32),
                false => BufferRef::Part(slot as u32, start as u32, words as u32),
            }
        };
        for buffer in self.memory.buffers.values_mut() {
            if let BufferRef::Slot(value) = *buffer {
                *buffer = part(value);
            }
        }
        self.memory.slot_of = self.values.iter().map(|v| v.slot).collect();
    }

    /// The smallest gap for a value in a slot of `words` that holds others: its words, and where it begins.
    fn gap(&self, value: &Value, others: &[usize], words: usize) -> Option<(usize, usize)> {
        let mut busy: SmallVec<[(usize, usize); 8]> = SmallVec::new();
        for other in others.iter().map(|&v| &self.values[v]) {
            if other.steps.start >= value.steps.end || value.steps.start >= other.steps.end {
                continue;
            }
            if !other.may_share(value) {
                return None;
            }
            busy.push((other.start, (other.start + other.words).next_multiple_of(PART_ALIGN)));
        }
        busy.sort_unstable();
        busy.push((words, words));
        let (mut at, mut best) = (0, None);
        for (start, end) in busy {
            if start >= at + value.words && best.is_none_or(|(gap, _)| start - at < gap) {
                best = Some((start - at, at));
            }
            at = at.max(end);
        }
        best
    }

    /// Lets the kernel's results take over buffers that die with it, the closest operands first.
    fn overwrite(&mut self, fused: &mut Fused, k: usize, step: usize, others: &[Place]) {
        let mut kept = others.to_vec();
        if let Form::Contraction(node, _) = fused.kernels[k].form {
            kept.extend(fused.ir.nodes[node].inputs.iter().map(|e| place_of(&fused.ir, e.node)));
        }
        loop {
            let Some(lowered) = &fused.kernels[k].lowered else {
                return;
            };
            let mut best: Option<(usize, usize, usize)> = None;
            for (w, place) in lowered.places.iter().enumerate() {
                let Place::Node(node) = *place else { continue };
                if !lowered.program.bindings[w].written || self.memory.buffers.contains_key(&node) {
                    continue;
                }
                let words = fused.ir.nodes[node].words();
                for (r, source) in lowered.places.iter().enumerate() {
                    let dies = self.last_read.get(source) == Some(&step) && !kept.contains(source);
                    if lowered.program.bindings[r].written
                        || !dies
                        || !self.may_take(*source, node, words, fused)
                    {
                        continue;
                    }
                    if let Some(distance) = lowered.overwritable(r, w)
                        && best.is_none_or(|(d, ..)| distance < d)
                    {
                        best = Some((distance, r, w));
                    }
                }
            }
            let Some((_, r, w)) = best else { return };
            let (source, target) = (lowered.places[r], lowered.places[w]);
            self.hand_over(source, target);
            fused.kernels[k].lowered.as_mut().expect("it was just read").merge_bindings(r, w);
        }
    }

    /// Whether the buffer at `source` can become that of `node`.
    fn may_take(&self, source: Place, node: usize, words: usize, fused: &Fused) -> bool {
        match source {
            // Only a plan's output is worth a donated buffer: it stays there after the run.
            Place::External(e) => {
                let (have, donated) = self.key.externals[e];
                let pair = |output: &usize| !self.key.paired || *output == e;
                let output = self.output_of.get(&node).filter(|output| pair(output));
                donated && !self.taken[e] && have == words && output.is_some()
            }
            Place::Node(old) => {
                let same = fused.ir.nodes[old].words() == words;
                same && !self.output_of.contains_key(&old) && !self.output_of.contains_key(&node)
            }
        }
    }

    fn hand_over(&mut self, source: Place, target: Place) {
        let Place::Node(node) = target else { unreachable!("programs write nodes only") };
        match source {
            Place::External(external) => {
                self.taken[external] = true;
                self.memory.outputs[self.output_of[&node]] = Output::Donated { external };
                self.memory.buffers.insert(node, BufferRef::External(external as u32));
            }
            Place::Node(old) => {
                let slot = self.alive.remove(&old).expect("a dying node is alive");
                self.alive.insert(node, slot);
                self.memory.buffers.insert(node, BufferRef::Slot(slot));
            }
        }
    }
}

impl Lowered {
    /// The places that the program loads from.
    pub fn loaded(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self
            .program
            .instrs()
            .filter_map(|i| match &i.kind {
                InstrKind::Load { binding, .. } | InstrKind::LoadAt { binding, .. } => {
                    Some(self.places[*binding])
                }
                _ => None,
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Whether written binding `w` may be the same buffer as read binding `r`: every load of `r` is at the
    /// position that `w` stores, and not after the store. Returns how far the load is from the stored value
    /// in instructions.
    pub fn overwritable(&self, r: usize, w: usize) -> Option<usize> {
        let mut stores = Vec::new();
        let mut loads: Vec<(usize, Reg)> = Vec::new();
        for (s, step) in self.program.steps.iter().enumerate() {
            let (Step::Row(block) | Step::Col(block, _)) = step;
            stores.extend(block.stores.iter().filter(|x| x.binding == w).map(|x| (s, x)));
        }
        let [(store_step, store)] = stores[..] else {
            return None;
        };
        for (s, step) in self.program.steps.iter().enumerate() {
            let (Step::Row(block) | Step::Col(block, _)) = step;
            for instr in &block.instrs {
                match &instr.kind {
                    InstrKind::Load { binding, view } if *binding == r => {
                        if *view != store.view || s > store_step {
                            return None;
                        }
                        loads.push((s, instr.reg));
                    }
                    InstrKind::LoadAt { binding, .. } if *binding == r => return None,
                    _ => {}
                }
            }
        }
        let dtype = |b: usize| self.program.bindings[b].dtype;
        if dtype(r) != dtype(w) {
            return None;
        }
        self.distance(store.value, loads.last()?.1)
    }

    /// Instructions between a value and one it is computed from; a large number where it is not.
    fn distance(&self, from: Reg, to: Reg) -> Option<usize> {
        let mut arguments: FxHashMap<Reg, Vec<Reg>> = FxHashMap::default();
        for i in self.program.instrs() {
            let args = match &i.kind {
                InstrKind::Map { f, args, .. } => args[..f.arity].to_vec(),
                InstrKind::Cast { arg, .. } | InstrKind::Bitcast { arg, .. } => vec![*arg],
                InstrKind::LoadAt { index, .. } => vec![*index],
                _ => Vec::new(),
            };
            arguments.insert(i.reg, args);
        }
        let mut layer = vec![from];
        for depth in 0..arguments.len() {
            if layer.contains(&to) {
                return Some(depth);
            }
            layer = layer.iter().flat_map(|r| arguments.get(r).cloned().unwrap_or_default()).collect();
            layer.sort_unstable();
            layer.dedup();
        }
        Some(usize::MAX)
    }

    /// Makes read binding `r` the written binding `w`.
    fn merge_bindings(&mut self, r: usize, w: usize) {
        let renumber = |b: usize| match b {
            _ if b == r => w - usize::from(w > r),
            _ => b - usize::from(b > r),
        };
        for step in &mut self.program.steps {
            let (Step::Row(block) | Step::Col(block, _)) = step;
            for instr in &mut block.instrs {
                if let InstrKind::Load { binding, .. } | InstrKind::LoadAt { binding, .. } = &mut instr.kind {
                    *binding = renumber(*binding);
                }
            }
            for store in &mut block.stores {
                store.binding = renumber(store.binding);
            }
        }
        self.program.bindings.remove(r);
        self.places.remove(r);
    }
}
