//! Scans as loops: a plan of its own for the body, whose launches are repeated.
//!
//! The body's plan reads its holes and writes its results as buffers from outside. Here these are found places in the
//! plan around it: an element is a part of what the scan runs over and a stacked result a part of a stack, each moving
//! along with the steps; a carry is written over itself where that can be, and else lies in two buffers in turn.
//!
//! A kernel on a GPU has the position of such a part among its parameters. Which of them change, and by how much from
//! step to step, is seen by making the kernels a second and a third time with all those views moved: their texts are the
//! same, and parameters are linear in positions.

use std::rc::Rc;

use rustc_hash::FxHashMap;
use smallvec::smallvec;
use versant_device::{BufferRef, Device, DeviceError, DeviceKind, Launch, Repeat, Turn, Window};
use versant_kernels::{DType, InstrKind, Shape, Step, View};

use crate::capture::{Key, KeyNode};
use crate::error::Result;
use crate::explain::LaunchNote;
use crate::fuse::{Form, Fused, Limits, place_of};
use crate::ir::{IrNode, IrOp, RESULT};
use crate::launches::Maker;
use crate::lower::Place;
use crate::memory::{Memory, Output};
use crate::op::Op;
use crate::plan::Draft;
use crate::scan::{Body, Item};
use crate::tune::Tuning;

/// Most words of what a scan runs over on a GPU: four times as many are a position there.
const MAX_MOVED: usize = 1 << 28;

/// A part of a buffer that moves along with the steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    /// The first word at the first step.
    start: usize,
    /// Words from one step to the next.
    step: isize,
    /// Number of words.
    words: usize,
}

impl Move {
    /// A part of `words` words for each element; the first element's begins at `first`.
    fn new(first: isize, step: isize, words: usize, body: &Body) -> Move {
        let last = first + step * (body.steps as isize - 1);
        let (start, step) = if body.reverse { (last, -step) } else { (first, step) };
        Move { start: start as usize, step: if body.steps > 1 { step } else { 0 }, words }
    }

    /// Whether nothing may be assumed of how its elements are aligned.
    fn loose(&self) -> bool {
        !self.start.is_multiple_of(4) || self.step % 4 != 0
    }
}

/// What of the buffers that a body's plan is given moves: by the number of the external.
pub(crate) struct Moves {
    inputs: Vec<Option<Move>>,
    /// By the number of the output.
    outputs: Vec<Option<Move>>,
}

/// The loop of a scan.
pub(crate) struct Loop {
    steps: usize,
    launches: Vec<Launch>,
    notes: Vec<LaunchNote>,
    /// What each step adds to the parameters of each launch.
    params: Vec<Vec<u32>>,
    /// What the body's external buffers are in the plan around it: at even and at odd steps.
    places: Vec<[Place; 2]>,
    moves: Vec<Option<Move>>,
    /// Nodes for the body's own buffers.
    scratch: Vec<usize>,
    /// Carries whose buffer becomes that of the result.
    pub kept: Vec<(usize, usize)>,
}

/// Plans the bodies of all scans.
pub(crate) fn plan_loops(device: &Device, fused: &mut Fused, limits: Limits, tuning: &Tuning) -> Result<()> {
    for k in 0..fused.kernels.len() {
        if let Form::Loop(scan) = fused.kernels[k].form {
            let made = plan_loop(device, fused, k, scan, limits, tuning)?;
            fused.loops.insert(scan, Rc::new(made));
        }
    }
    Ok(())
}

fn plan_loop(
    device: &Device,
    fused: &mut Fused,
    k: usize,
    scan: usize,
    limits: Limits,
    tuning: &Tuning,
) -> Result<Loop> {
    let IrOp::Core(Op::Scan(body)) = fused.ir.nodes[scan].op.clone() else {
        unreachable!("the caller matched a scan")
    };
    let mut finals: FxHashMap<usize, usize> = FxHashMap::default();
    let mut stacks: Vec<(u32, usize)> = Vec::new();
    for &m in &fused.kernels[k].members[1..] {
        match fused.ir.nodes[m].op {
            IrOp::Core(Op::Item(Item::Final(carry))) => drop(finals.insert(carry, m)),
            IrOp::Core(Op::Item(Item::Stack(node))) => stacks.push((node, m)),
            _ => unreachable!("a loop computes its results"),
        }
    }
    let (key, moves) = body_key(fused, scan, &body, &stacks);
    moves.check(device)?;
    let draft = loop {
        let draft = Draft::new(device, &key, &body.locations, limits, tuning, Some(&moves))?;
        if device.info().kind != DeviceKind::Wgpu || !tuning.improve(device, &draft)? {
            break draft;
        }
    };
    let operands: Vec<usize> = fused.ir.nodes[scan].inputs.iter().map(|e| e.node).collect();
    let externals = draft.memory.externals;
    let given = (0..body.holes).map(|h| [place_of(&fused.ir, operands[h]); 2]);
    let mut places: Vec<[Place; 2]> = given.collect();
    places.resize(externals, [Place::External(usize::MAX); 2]);
    let mut kept = Vec::new();
    let mut of_external: Vec<Option<Move>> = moves.inputs.clone();
    of_external.resize(externals, None);
    for (i, output) in draft.memory.outputs.iter().enumerate() {
        let carry = (i < body.carries()).then(|| (Place::Node(operands[i]), finals.get(&i).copied()));
        match (*output, carry) {
            (Output::Donated { .. }, Some((_, last))) => kept.extend(last.map(|l| (operands[i], l))),
            (Output::Fresh { external, words }, Some((first, last))) => {
                // After an even number of steps the last value is where the first was.
                let even = body.steps % 2 == 0;
                kept.extend(last.filter(|_| even).map(|l| (operands[i], l)));
                let other = last.filter(|_| !even).unwrap_or_else(|| scratch(fused, k, words));
                places[i] = [first, Place::Node(other)];
                places[external] = [Place::Node(other), first];
            }
            (Output::Fresh { external, .. }, None) => {
                places[external] = [Place::Node(stacks[i - body.carries()].1); 2];
                of_external[external] = moves.outputs[i];
            }
            (Output::Donated { .. }, None) => unreachable!("only carries may be overwritten"),
        }
    }
    let scratch: Vec<usize> = draft.memory.slots.iter().map(|&words| scratch(fused, k, words)).collect();
    fused.kernels[k].members.extend(&operands[..body.carries()]);
    let (launches, params) = draft.turned(&moves);
    let notes = draft.notes;
    Ok(Loop { steps: body.steps, launches, notes, params, places, moves: of_external, scratch, kept })
}

/// A node for words that are needed while a loop runs.
fn scratch(fused: &mut Fused, k: usize, words: usize) -> usize {
    let shape = Shape::new(&[words]).expect("rank 1");
    let location = fused.ir.nodes[fused.kernels[k].members[0]].location;
    let node = IrNode { op: IrOp::Partial, inputs: smallvec![], shape, dtype: DType::F32, location };
    fused.ir.nodes.push(node);
    fused.stored.push(true);
    fused.kernels[k].members.push(fused.ir.nodes.len() - 1);
    fused.ir.nodes.len() - 1
}

/// The body as a graph to plan: its holes are external buffers, its results outputs.
fn body_key(fused: &Fused, scan: usize, body: &Body, stacks: &[(u32, usize)]) -> (Key, Moves) {
    let ir = &fused.ir;
    let mut nodes: Vec<KeyNode> = body.nodes.clone();
    let mut externals = Vec::with_capacity(body.holes);
    let mut inputs = Vec::with_capacity(body.holes);
    for (h, edge) in ir.nodes[scan].inputs.iter().enumerate() {
        let full = edge.full_view(ir);
        let (view, moves, words) = if h < body.carries() {
            (full, None, nodes[h].shape.numel())
        } else if body.is_constant(h) {
            (full, None, ir.nodes[edge.node].shape.numel())
        } else {
            let (view, moves) = element(&full, body, nodes[h].shape);
            (view, Some(moves), moves.words)
        };
        nodes[h].op = Op::Buffer;
        nodes[h].leaf = Some((h as u32, view));
        externals.push((words, h < body.carries()));
        inputs.push(moves);
    }
    let stacked = stacks.iter().map(|s| {
        let words = body.nodes[s.0 as usize].shape.numel();
        Some(Move::new(0, words as isize, words, body))
    });
    let moves = Moves { inputs, outputs: vec![None; body.carries()].into_iter().chain(stacked).collect() };
    let outputs = body.next.iter().copied().chain(stacks.iter().map(|s| s.0)).collect();
    (Key { nodes, outputs, externals, paired: true }, moves)
}

/// The view of an element in the part of the buffer that has it at the first step, and how that part moves.
fn element(full: &View, body: &Body, shape: Shape) -> (View, Move) {
    let (step, strides) = (full.strides[0], full.strides[1..].to_vec());
    if shape.numel() == 0 {
        return (View::splat(shape), Move { start: 0, step: 0, words: 0 });
    }
    let reach = |s: isize, d: usize| s * (d as isize - 1);
    let below: isize = strides.iter().zip(shape.iter()).map(|(&s, &d)| reach(s, d).min(0)).sum();
    let above: isize = strides.iter().zip(shape.iter()).map(|(&s, &d)| reach(s, d).max(0)).sum();
    let view = View { shape, strides, offset: -below, guards: Vec::new() };
    (view, Move::new(full.offset + below, step, (above - below) as usize + 1, body))
}

impl Loop {
    /// The launches of the loop in the plan around it, behind `before` others.
    pub fn place(
        &self,
        memory: &Memory,
        cpu: bool,
        before: usize,
        step: usize,
    ) -> (Vec<Launch>, Vec<LaunchNote>, Repeat) {
        let node = |n: usize| memory.buffers[&n];
        let buffer = |b: BufferRef, odd: usize| match b {
            BufferRef::Slot(s) => node(self.scratch[s as usize]),
            BufferRef::Part(s, start, words) => match node(self.scratch[s as usize]) {
                BufferRef::Slot(slot) => BufferRef::Part(slot, start, words),
                BufferRef::Part(slot, first, _) => BufferRef::Part(slot, first + start, words),
                BufferRef::External(_) => unreachable!("scratch is in slots"),
            },
            BufferRef::External(e) => match self.places[e as usize][odd] {
                Place::External(e) => BufferRef::External(e as u32),
                Place::Node(n) => node(n),
            },
        };
        let window = |b: BufferRef| match b {
            BufferRef::External(e) if cpu => {
                self.moves[e as usize].map(|m| Window { start: m.start, step: m.step, words: m.words })
            }
            _ => None,
        };
        let all = |list: &[BufferRef], odd| list.iter().map(|&b| buffer(b, odd)).collect::<Vec<_>>();
        let mut launches = Vec::with_capacity(self.launches.len());
        let mut turns = Vec::with_capacity(self.launches.len());
        for (launch, params) in self.launches.iter().zip(&self.params) {
            let bound: Vec<BufferRef> = launch.bindings().collect();
            let windows: Vec<Option<Window>> = bound.iter().map(|&b| window(b)).collect();
            let odd = if all(&bound, 0) == all(&bound, 1) { Vec::new() } else { all(&bound, 1) };
            turns.push(Turn { params: params.clone(), windows, odd });
            let (reads, writes) = (all(&launch.reads, 0), all(&launch.writes, 0));
            launches.push(Launch { reads, writes, ..launch.clone() });
        }
        let notes = self.notes.iter().map(|note| LaunchNote {
            reads: all(&note.reads, 0),
            writes: all(&note.writes, 0),
            kernel: step,
            trips: self.steps,
            ..note.clone()
        });
        let repeat = Repeat { launches: before..before + launches.len(), trips: self.steps, turns };
        (launches, notes.collect(), repeat)
    }
}

impl Moves {
    /// Fails if positions do not fit the parameters of a kernel.
    fn check(&self, device: &Device) -> Result<()> {
        let all = self.inputs.iter().chain(&self.outputs).flatten();
        let most = all.map(|m| m.start.max(m.start.wrapping_add_signed(m.step)) + m.words).max().unwrap_or(0);
        if device.info().kind != DeviceKind::Cpu && most > MAX_MOVED {
            let (asked, limit) = (most as u64, MAX_MOVED as u64);
            let what = "words of what a scan runs over, or makes";
            return Err(DeviceError::LimitExceeded { what, asked, limit }.into());
        }
        Ok(())
    }

    /// The results of kernels that can only write at a fixed place, although they move.
    pub fn copies(&self, ir: &crate::ir::Ir) -> Vec<(usize, usize)> {
        let moved = ir.outputs.iter().zip(&self.outputs).filter(|(_, m)| m.is_some()).map(|(&o, _)| o);
        let fixed = |o: &usize| {
            let op = &ir.nodes[*o].op;
            ir.nodes[*o].is_heavy() && !matches!(op, IrOp::Core(Op::MatMul | Op::Conv(..) | Op::Concat(_)))
        };
        moved.filter(fixed).map(|o| (o, RESULT)).collect()
    }

    fn of(&self, fused: &Fused, place: Place) -> Option<Move> {
        match place {
            Place::External(e) => self.inputs.get(e).copied().flatten(),
            Place::Node(n) => {
                let at = fused.ir.outputs.iter().position(|&o| o == n)?;
                self.outputs[at]
            }
        }
    }

    /// Makes the offsets of all views whose alignment is not known such that they are no multiples of four, each in a
    /// way that can be undone.
    pub fn loosen(&self, fused: &mut Fused) {
        self.shift(fused, |m, offset| if m.loose() { offset.div_euclid(3) + 1 } else { 0 });
    }

    /// Moves every view of what moves.
    fn shift(&self, fused: &mut Fused, by: impl Fn(&Move, isize) -> isize) {
        let moves = |fused: &Fused, place| self.of(fused, place);
        for i in 0..fused.ir.nodes.len() {
            for k in 0..fused.ir.nodes[i].inputs.len() {
                let edge = &fused.ir.nodes[i].inputs[k];
                if let Some(m) = moves(fused, place_of(&fused.ir, edge.node)) {
                    let mut view = edge.full_view(&fused.ir);
                    view.offset += by(&m, view.offset);
                    fused.ir.nodes[i].inputs[k].view = Some(view);
                }
            }
        }
        for k in 0..fused.kernels.len() {
            let Some(mut lowered) = fused.kernels[k].lowered.take() else { continue };
            let of: Vec<Option<Move>> = lowered.places.iter().map(|&p| moves(fused, p)).collect();
            let shift = |binding: usize, view: &mut View| {
                if let Some(m) = &of[binding] {
                    view.offset += by(m, view.offset);
                }
            };
            for step in &mut lowered.program.steps {
                let (Step::Row(block) | Step::Col(block, _)) = step;
                for instr in &mut block.instrs {
                    if let InstrKind::Load { binding, view } | InstrKind::LoadAt { binding, view, .. } =
                        &mut instr.kind
                    {
                        shift(*binding, view);
                    }
                }
                block.stores.iter_mut().for_each(|s| shift(s.binding, &mut s.view));
            }
            fused.kernels[k].lowered = Some(lowered);
        }
    }
}

impl Draft {
    /// The launches at the first step, and what each step adds to their parameters.
    fn turned(&self, moves: &Moves) -> (Vec<Launch>, Vec<Vec<u32>>) {
        if self.is_cpu() {
            return (self.launches.clone(), vec![Vec::new(); self.launches.len()]);
        }
        // Four times as far as it should be: alignment stays, and so do the texts. Never backwards: some kernels take
        // positions that are not negative only.
        let moved = |by: &dyn Fn(&Move, isize) -> isize| {
            let mut fused = self.fused.clone();
            moves.shift(&mut fused, |m, offset| 4 * by(m, offset));
            let mut maker = Maker::new(&fused, &self.memory, self.target, &self.variants, &self.attentions);
            for (step, kernels) in self.steps.iter().enumerate() {
                maker.step(step, kernels.clone());
            }
            maker.launches
        };
        // A loosened offset is 4 q + r for what was 3 q + r - 1.
        let extra = |m: &Move, offset: isize| if m.loose() { offset.div_euclid(4) + 1 } else { 0 };
        let first = moved(&|m, _| m.start as isize);
        let next = moved(&|m, _| m.start as isize + m.step);
        let loosened = moved(&extra);
        let quarter = |from: &Launch, to: &Launch| -> Vec<u32> {
            assert_eq!(
                from.kernel.wgsl, to.kernel.wgsl,
                "the text of a kernel depends on where its views begin"
            );
            let words = from.params.iter().zip(&to.params);
            words.map(|(&a, &b)| ((b.wrapping_sub(a) as i32) / 4) as u32).collect()
        };
        let mut launches = self.launches.clone();
        let mut steps = Vec::with_capacity(launches.len());
        for (i, launch) in launches.iter_mut().enumerate() {
            let (start, extra) = (quarter(launch, &first[i]), quarter(launch, &loosened[i]));
            steps.push(quarter(&first[i], &next[i]));
            for (word, (start, extra)) in launch.params.iter_mut().zip(start.iter().zip(extra)) {
                *word = word.wrapping_add(*start).wrapping_sub(extra);
            }
        }
        (launches, steps)
    }
}
