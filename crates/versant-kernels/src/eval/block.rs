//! Running the instructions of a step over one block of lanes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::compile::{Op, OpKind, Plan, PlanStep, PlanStore, Src, Uniform};
use super::convert;
use super::load::{self, Indices, Source};
use super::reduce::State;
use super::shared::Shared;
use super::{BLOCK, ahead};
use crate::DType;
use crate::lanes::Words;
use crate::stream::Fence;

/// Everything outside that a block reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Buffers<'a, 'w> {
    pub reads: &'a [&'a [u32]],
    /// The types of all bindings.
    pub types: &'a [DType],
    pub writes: &'a [Shared<'w>],
    pub scalars: &'a [u32],
    /// The accumulators of an epilogue, and the row number of the first.
    pub acc: &'a [u32],
    pub acc_start: usize,
    /// What is evaluated into homes goes past the caches.
    pub fence: Option<&'a Fence>,
    /// Read-only bindings of which the next block is asked for meanwhile.
    pub ahead: &'a [usize],
}

impl<'a, 'w> Buffers<'a, 'w> {
    fn source(&self, binding: usize) -> Source<'a, 'w> {
        match binding.checked_sub(self.reads.len()) {
            None if self.types[binding].is_half() => {
                Source::Halves(bytemuck::cast_slice(self.reads[binding]), self.types[binding])
            }
            None => Source::Read(self.reads[binding]),
            Some(write) => Source::Written(&self.writes[write]),
        }
    }

    /// Copies the words of `lanes` past the caches, and asks for what the block behind them reads. A call, since few programs do.
    #[inline(never)]
    fn copy(&self, fence: &Fence, to: &mut [u32], from: &[u32], lanes: &Lanes) {
        let mut next: [&[u32]; 2] = [&[]; 2];
        for (next, &binding) in next.iter_mut().zip(self.ahead) {
            let words = self.reads[binding];
            let start = (lanes.start + lanes.len).min(words.len());
            *next = &words[start..(start + lanes.len).min(words.len())];
        }
        fence.copy(to, from, &next);
    }
}

/// The words of the operands of an operation.
type Args<'a> = (&'a [u32], &'a [u32], &'a [u32]);

/// What a temporary holds.
enum Held {
    /// Its own words from one on.
    Words(usize),
    /// Its own first word, for all lanes.
    First,
    /// The words that a temporary was lent, from one on.
    Lent(usize, usize),
    /// The words of a read-only buffer from an element on.
    Read(usize, usize),
    /// One word of a read-only buffer, for all lanes.
    One(usize, usize),
    /// The accumulators from a position on.
    Acc(usize),
    /// Nothing: the value has been evaluated right into its store.
    Stored,
}

pub(super) struct Temp<'w> {
    words: Words,
    /// The job's rows of a written buffer, if the temporary stands for one.
    pub lent: &'w mut [u32],
    held: Held,
    /// Of a load that repeats itself: at which lane of its period the words begin, and how many of them there are.
    loaded: [usize; 2],
}

/// The working memory of a thread on one program.
pub(super) struct Scratch<'w> {
    /// Values that live for a block of rows or for the whole run.
    pub frame: Vec<Words>,
    pub temps: Vec<Temp<'w>>,
    pub states: Vec<State>,
}

/// Blocks that nobody has a use for at the moment. They belong to all threads: often another than the one that took a block
/// gives it back, and with a store for each thread one ran dry while the other's grew without end.
static BLOCKS: Mutex<Vec<Words>> = Mutex::new(Vec::new());

fn spare_blocks() -> MutexGuard<'static, Vec<Words>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'w> Scratch<'w> {
    /// Memory for `plan` with or without a frame, for blocks of at most `lanes` lanes.
    pub fn new(plan: &Plan, with_frame: bool, buffers: &Buffers<'_, '_>, lanes: usize) -> Self {
        let mut spare = spare_blocks();
        let mut block = || spare.pop().unwrap_or_else(|| Words::zeros(BLOCK));
        let frame_slots = if with_frame { plan.frame_slots } else { 0 };
        let mut frame: Vec<_> = (0..frame_slots).map(|_| block()).collect();
        let temp = |words| Temp { words, lent: &mut [], held: Held::Words(0), loaded: [0; 2] };
        let mut temps: Vec<_> = (0..plan.temps).map(|_| temp(block())).collect();
        drop(spare);
        for &kept in plan.kept.iter().filter(|_| !plan.kept_at_home()) {
            temps[kept].words.reserve(plan.row_block * plan.cols);
        }
        if with_frame {
            for &(slot, value) in &plan.uniforms {
                frame[slot][..lanes].fill(match value {
                    Uniform::Const(bits) => bits,
                    Uniform::Scalar(word) => buffers.scalars[word as usize],
                });
            }
        }
        let states = plan.reduces.iter();
        Scratch { frame, temps, states: states.map(|r| State::new(r.kind, r.dtype)).collect() }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let mut spare = spare_blocks();
        let temps = self.temps.drain(..).map(|t| t.words);
        // A panic may have left one without its words.
        spare.extend(self.frame.drain(..).chain(temps).filter(|words| !words.is_empty()));
    }
}

/// The operands of a block of `len` lanes from `start` on.
///
/// Handed on by reference: a copy would load at once what was stored field by field just before, and such a load waits until all
/// that the block before stored lies in the cache.
pub(super) struct Lanes {
    pub start: usize,
    pub len: usize,
    /// The first row's number in its block of rows.
    pub row: usize,
}

/// The words of an operand.
pub(super) fn operand<'b>(
    src: Src,
    frame: &'b [Words],
    temps: &'b [Temp<'_>],
    buffers: &Buffers<'b, '_>,
    &Lanes { len, row, .. }: &Lanes,
) -> &'b [u32] {
    match src {
        Src::Frame(slot) => &frame[slot][..len],
        Src::One(slot) => &frame[slot][..1],
        Src::Row(slot) => &frame[slot][row..row + 1],
        Src::Temp(temp) => match temps[temp].held {
            Held::Words(at) => &temps[temp].words[at..at + len],
            Held::First => &temps[temp].words[..1],
            Held::Lent(home, at) => &temps[home].lent[at..at + len],
            Held::Read(binding, at) => &buffers.reads[binding][at..at + len],
            Held::One(binding, at) => &buffers.reads[binding][at..at + 1],
            Held::Acc(at) => &buffers.acc[at..at + len],
            Held::Stored => panic!("a value that is evaluated into its store has no other reader"),
        },
    }
}

impl PlanStep {
    /// Evaluates the instructions and stores of the step over `lanes`.
    pub fn run(&self, frame: &[Words], temps: &mut [Temp<'_>], buffers: &Buffers<'_, '_>, lanes: &Lanes) {
        for op in &self.ops {
            if self.borrow(op, temps, buffers, lanes) {
                continue;
            }
            if !op.asks.is_empty() {
                ahead::ask(&op.asks, buffers, temps, lanes);
            }
            if let Some(home) = op.home {
                lent(op, home, frame, temps, buffers, lanes);
                continue;
            }
            let mut words = std::mem::take(&mut temps[op.dst].words);
            let args = op.arguments(frame, temps, buffers, lanes);
            let held = match op.is_one(args) {
                true => {
                    op.eval(buffers, lanes.start, &mut words[..1], args);
                    Held::First
                }
                false => {
                    let store = op.direct.map(|s| &self.stores[s]);
                    let direct = store.is_some_and(|store| store.map_into(op, buffers, lanes, args));
                    let at = op.within(lanes.start);
                    if !direct {
                        op.eval(buffers, lanes.start, &mut words[at..at + lanes.len], args);
                    }
                    if direct { Held::Stored } else { Held::Words(at) }
                }
            };
            (temps[op.dst].words, temps[op.dst].held) = (words, held);
        }
        for store in &self.stores {
            let held = match store.value {
                Src::Temp(temp) => Some(&temps[temp].held),
                _ => None,
            };
            match (held, store.home) {
                // There already.
                (Some(Held::Stored), _) => {}
                (Some(Held::Lent(from, _)), Some((home, _))) if *from == home => {}
                (_, Some((temp, size))) => {
                    let lent = std::mem::take(&mut temps[temp].lent);
                    let values = operand(store.value, frame, temps, buffers, lanes);
                    let to = &mut lent[lanes.start % size..][..lanes.len];
                    match buffers.fence {
                        Some(fence) => buffers.copy(fence, to, values, lanes),
                        None => to.copy_from_slice(values),
                    }
                    temps[temp].lent = lent;
                }
                (_, None) => {
                    let values = operand(store.value, frame, temps, buffers, lanes);
                    store.access.runs(lanes.start, lanes.len, |run| {
                        let values = &values[run.lane..run.lane + run.len];
                        buffers.writes[store.write].store(run.offset, run.stride, values);
                    });
                }
            }
        }
    }

    /// Lets the result of `op` be a part of a buffer, without a copy, if it is one.
    fn borrow(
        &self,
        op: &Op,
        temps: &mut [Temp<'_>],
        buffers: &Buffers<'_, '_>,
        &Lanes { start, len, .. }: &Lanes,
    ) -> bool {
        // Each way stores what it found by itself: handed on as a value it would be copied, see `Lanes`.
        let temp = &mut temps[op.dst];
        match (&op.kind, op.home) {
            (OpKind::Load { .. } | OpKind::Kept, Some(home)) => {
                temp.held = Held::Lent(home, op.within(start))
            }
            (OpKind::Load { binding, access, dense, period }, _)
                if *binding < buffers.reads.len() && !buffers.types[*binding].is_half() =>
            {
                let binding = *binding;
                match (dense, dense.is_none().then(|| access.in_run(start, len)).flatten(), period) {
                    (Some(at), ..) => temp.held = Held::Read(binding, at + start),
                    (_, Some((at, 0)), _) if len != 1 && op.one => temp.held = Held::One(binding, at),
                    (_, Some((at, stride)), _) if stride != 0 || len == 1 => {
                        temp.held = Held::Read(binding, at);
                    }
                    (_, _, Some(period)) => {
                        let at = start % period;
                        if temp.loaded[0] != at || temp.loaded[1] < len {
                            temp.loaded = [at, len];
                            return false;
                        }
                        temp.held = Held::Words(0);
                    }
                    _ => return false,
                }
            }
            (OpKind::Acc, _) => temp.held = Held::Acc(start - buffers.acc_start),
            (OpKind::Kept, _) => temp.held = Held::Words(op.within(start)),
            _ => return false,
        }
        true
    }
}

/// Evaluates an operation into the words that the temporary of a home was lent.
fn lent(
    op: &Op,
    home: usize,
    frame: &[Words],
    temps: &mut [Temp<'_>],
    buffers: &Buffers<'_, '_>,
    lanes: &Lanes,
) {
    let lent = std::mem::take(&mut temps[home].lent);
    let mut words = std::mem::take(&mut temps[op.dst].words);
    let at = op.within(lanes.start);
    let to = &mut lent[at..at + lanes.len];
    let args = || op.arguments(frame, temps, buffers, lanes);
    match (op.update, buffers.fence) {
        (Some(update), _) => update(to, operand(op.args[1], frame, temps, buffers, lanes)),
        (None, Some(fence)) => {
            op.eval(buffers, lanes.start, &mut words[..lanes.len], args());
            buffers.copy(fence, to, &words[..lanes.len], lanes);
        }
        (None, None) => op.eval(buffers, lanes.start, to, args()),
    }
    temps[home].lent = lent;
    (temps[op.dst].words, temps[op.dst].held) = (words, Held::Lent(home, at));
}

impl PlanStore {
    /// Evaluates a map straight into the stored elements, where the block is one run within a piece.
    fn map_into(&self, op: &Op, buffers: &Buffers<'_, '_>, lanes: &Lanes, args: Args<'_>) -> bool {
        self.access.dense(lanes.start, lanes.len).is_some_and(|at| {
            buffers.writes[self.write].in_place(at, lanes.len, |dst| {
                op.eval(buffers, lanes.start, dst, args);
            })
        })
    }
}

impl Op {
    /// Where the lanes from `start` on lie in the words of the result.
    fn within(&self, start: usize) -> usize {
        self.kept.map_or(0, |size| start % size)
    }

    /// Whether one word is enough for the result, since no operand has more.
    #[inline(always)]
    fn is_one(&self, args: Args<'_>) -> bool {
        let (a, b, c) = args;
        self.one
            && self.arity > 0
            && a.len() == 1
            && (self.arity < 2 || b.len() == 1)
            && (self.arity < 3 || c.len() == 1)
    }

    /// The words of all operands. Inlined, and no array, or they would be copied: see [`Lanes`].
    #[inline(always)]
    fn arguments<'b>(
        &self,
        frame: &'b [Words],
        temps: &'b [Temp<'_>],
        buffers: &Buffers<'b, '_>,
        lanes: &Lanes,
    ) -> Args<'b> {
        let words = |i: usize| match i < self.arity {
            true => operand(self.args[i], frame, temps, buffers, lanes),
            false => &[][..],
        };
        (words(0), words(1), words(2))
    }

    /// Computes the result into `dst`.
    fn eval(&self, buffers: &Buffers<'_, '_>, start: usize, dst: &mut [u32], (a, b, c): Args<'_>) {
        match &self.kind {
            OpKind::Load { binding, access, .. } => {
                load::gather(access, buffers.source(*binding), start, dst);
            }
            OpKind::LoadAt { binding, access, signed, stride, bound } => {
                let index = Indices { words: a, signed: *signed, stride: *stride, bound: *bound };
                load::gather_at(access, buffers.source(*binding), start, index, dst);
            }
            OpKind::Index(access) => load::iota(access, start, dst),
            OpKind::InBounds(access) => load::in_bounds(access, start, dst),
            OpKind::Map { f, operand } => (f.cpu)(*operand, dst, a, b, c),
            OpKind::Cast { from, to } => convert::cast(*from, *to, dst, a),
            OpKind::Philox => convert::philox(dst, a, b, c),
            OpKind::Acc | OpKind::Kept => unreachable!("what is in memory already is always borrowed"),
        }
    }
}
