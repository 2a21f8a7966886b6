//! From a program to a plan: lane order, block sizes, and a place for every register.

use super::BLOCK;
use super::access::Access;
use super::ahead::Ask;
use super::blocking::{Order, access_cost, axes, blocking};
use super::pairs::Update;
use super::repeats::takes_one;
use crate::{DType, Instr, InstrKind, MapFn, Program, ReduceKind, ReduceOut, Reg, Step, View};

/// Fewer blocks of rows than this are cut by columns.
pub(super) const FEW_BLOCKS: usize = 8;

/// Where an operand lies: temporaries live in a step, frame slots for a block of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Src {
    Temp(usize),
    Frame(usize),
    /// The first word of a slot, which stands for all lanes.
    One(usize),
    /// The word of a slot that belongs to the only row of a tile.
    Row(usize),
}

/// An operation on a block.
pub(super) enum OpKind {
    Load {
        binding: usize,
        access: Box<Access>,
        /// Where the first lane lies, if all others lie behind it in order.
        dense: Option<usize>,
        /// After how many lanes the same elements come again; the temporary is no other's then.
        period: Option<usize>,
    },
    LoadAt {
        binding: usize,
        access: Box<Access>,
        signed: bool,
        stride: isize,
        bound: usize,
    },
    Index(Box<Access>),
    InBounds(Box<Access>),
    Map {
        f: &'static MapFn,
        operand: DType,
    },
    Cast {
        from: DType,
        to: DType,
    },
    Philox,
    Acc,
    /// What an earlier step kept.
    Kept,
}

pub(super) struct Op {
    pub kind: OpKind,
    /// The temporary that takes the result.
    pub dst: usize,
    pub args: [Src; 3],
    pub arity: usize,
    /// The store of the step that this operation may evaluate into directly, since nobody else reads
    /// its result.
    pub direct: Option<usize>,
    /// The result is kept for later steps, or lies in a home, for so many lanes at once.
    pub kept: Option<usize>,
    /// Whether the result may be one word for all lanes, which all that read it take.
    pub one: bool,
    /// The temporary of that home.
    pub home: Option<usize>,
    /// The first operand lies in the home and becomes the result there.
    pub update: Option<Update>,
    /// What is asked for before it runs.
    pub asks: Box<[Ask]>,
}

pub(super) struct PlanStore {
    /// Index among the written bindings.
    pub write: usize,
    pub access: Access,
    pub value: Src,
    /// The written buffer is a home: its temporary, and for how many lanes.
    pub home: Option<(usize, usize)>,
}

pub(super) struct PlanReduce {
    pub value: Src,
    /// Frame slot of the result.
    pub out: usize,
    /// Number over the whole program.
    pub index: usize,
    /// The arg-reduction of the same values, which finds the extreme one, too.
    pub found_by: Option<usize>,
}

pub(super) struct PlanStep {
    pub is_col: bool,
    pub ops: Vec<Op>,
    pub stores: Vec<PlanStore>,
    /// What this `Row` step computes for later ones: value and frame slot.
    pub keep: Vec<(Src, usize)>,
    /// Row registers that this `Col` step reads: frame slot by row, and by lane.
    pub expand: Vec<(usize, usize)>,
    pub reduces: Vec<PlanReduce>,
}

impl PlanStep {
    /// Whether an operation may give one word: a load, or a function of such words.
    fn may_be_one(&self, kind: &OpKind, args: &[Src]) -> bool {
        let is_one = |arg: &Src| match arg {
            Src::One(_) | Src::Row(_) => true,
            Src::Frame(_) => false,
            Src::Temp(temp) => self.ops.iter().rfind(|op| op.dst == *temp).is_some_and(|op| op.one),
        };
        match kind {
            OpKind::Load { .. } => true,
            OpKind::Map { .. } => args.iter().all(is_one),
            _ => false,
        }
    }
}

/// A constant for the whole run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Uniform {
    Const(u32),
    Scalar(u32),
}

pub(super) struct Plan {
    pub rows: usize,
    pub cols: usize,
    pub order: Order,
    /// Rows of a block: the unit that runs through all steps.
    pub row_block: usize,
    /// Rows of a tile of a `Col` step; divides the work of a block.
    pub tile_rows: usize,
    /// Columns of a tile.
    pub tile_cols: usize,
    /// Number of read-only bindings.
    pub reads: usize,
    /// The types of all bindings.
    pub types: Vec<DType>,
    pub steps: Vec<PlanStep>,
    /// Frame slots to be filled before anything runs.
    pub uniforms: Vec<(usize, Uniform)>,
    pub frame_slots: usize,
    /// The temporaries that hold all columns of a block of rows.
    pub kept: Vec<usize>,
    /// Written buffers of which each job is lent its rows (`home.rs`), and the temporaries that stand for them.
    pub homes: Vec<(usize, usize)>,
    /// Read-only bindings of which jobs that write past the caches ask for the next block.
    pub ahead: Vec<usize>,
    pub temps: usize,
    pub reduces: Vec<ReduceOut>,
    /// Cost of a row without its columns and of a column, in simple vector instructions a lane.
    pub row_cost: usize,
    pub col_cost: usize,
}

/// What is known of a register while compiling.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Unknown,
    Temp(usize),
    /// Equal in all lanes.
    Uniform(usize),
    /// One value a row.
    Row(usize),
}

pub(super) struct Compiler<'a> {
    pub p: &'a Program,
    /// Registers that are the bits of another one.
    pub alias: Vec<Reg>,
    place: Vec<Place>,
    /// Frame slot of a row register expanded to lanes.
    expanded: Vec<Option<usize>>,
    /// For each register the last step that reads it.
    pub last_step: Vec<usize>,
    /// For registers of `Col` steps that are dear and wanted by several: the first with that value, and its temporary.
    pub repeats: Vec<Option<(Reg, usize)>>,
    /// The registers whose lanes somebody reads who does not take one word for all of them.
    pub spread: Vec<bool>,
    free: Vec<usize>,
    /// Temporaries that hold their values from block to block.
    lasting: Vec<usize>,
    pub plan: Plan,
}

pub(super) fn compile(p: &Program) -> Plan {
    let regs = p.regs as usize;
    let (order, row_block, tile_rows, tile_cols) = blocking(p);
    let plan = Plan {
        rows: p.rows.numel(),
        cols: p.cols.numel(),
        order,
        row_block,
        tile_rows,
        tile_cols,
        reads: p.reads(),
        types: p.bindings.iter().map(|b| b.dtype).collect(),
        steps: Vec::new(),
        uniforms: Vec::new(),
        frame_slots: 0,
        kept: Vec::new(),
        homes: Vec::new(),
        ahead: Vec::new(),
        temps: 0,
        reduces: Vec::new(),
        row_cost: 0,
        col_cost: 0,
    };
    let mut compiler = Compiler {
        p,
        alias: (0..p.regs).collect(),
        place: vec![Place::Unknown; regs],
        expanded: vec![None; regs],
        last_step: vec![0; regs],
        repeats: vec![None; regs],
        spread: vec![false; regs],
        free: Vec::new(),
        lasting: Vec::new(),
        plan,
    };
    compiler.find_aliases();
    compiler.find_last_steps();
    compiler.find_spread();
    compiler.find_repeats();
    for (number, step) in p.steps.iter().enumerate() {
        compiler.step(number, step);
    }
    compiler.plan
}

/// The registers that an instruction reads.
pub(super) fn operands(instr: &Instr) -> Vec<Reg> {
    match &instr.kind {
        InstrKind::LoadAt { index, .. } => vec![*index],
        InstrKind::Map { f, args, .. } => args[..f.arity].to_vec(),
        InstrKind::Cast { arg, .. } | InstrKind::Bitcast { arg, .. } => vec![*arg],
        InstrKind::Philox { index, key } => vec![*index, key[0], key[1]],
        _ => Vec::new(),
    }
}

impl Compiler<'_> {
    /// Bitcasts, and casts that keep the word, cost nothing.
    fn find_aliases(&mut self) {
        let is_word = |d| matches!(d, DType::I32 | DType::U32 | DType::Bool);
        for instr in self.p.instrs() {
            let same = match instr.kind {
                InstrKind::Bitcast { arg, .. } => Some(arg),
                InstrKind::Cast { arg, from }
                    if from == instr.dtype
                        || (is_word(from) && is_word(instr.dtype) && instr.dtype != DType::Bool) =>
                {
                    Some(arg)
                }
                _ => None,
            };
            if let Some(arg) = same {
                self.alias[instr.reg as usize] = self.alias[arg as usize];
            }
        }
    }

    fn find_last_steps(&mut self) {
        for (number, step) in self.p.steps.iter().enumerate() {
            let (block, reduces) = match step {
                Step::Row(block) => (block, &[][..]),
                Step::Col(block, reduces) => (block, &reduces[..]),
            };
            let used = block.instrs.iter().flat_map(operands);
            let used = used.chain(block.stores.iter().map(|s| s.value));
            for reg in used.chain(reduces.iter().map(|r| r.value)) {
                let reg = self.alias[reg as usize];
                self.last_step[reg as usize] = number;
            }
        }
    }

    fn new_temp(&mut self) -> usize {
        self.plan.temps += 1;
        self.plan.temps - 1
    }

    /// A temporary that holds its values from block to block.
    pub(super) fn lasting_temp(&mut self) -> usize {
        let temp = self.new_temp();
        self.lasting.push(temp);
        temp
    }

    fn frame_slot(&mut self) -> usize {
        self.plan.frame_slots += 1;
        self.plan.frame_slots - 1
    }

    fn uniform(&mut self, value: Uniform) -> Place {
        let known = self.plan.uniforms.iter().find(|(_, v)| *v == value);
        let slot = known.map(|(slot, _)| *slot).unwrap_or_else(|| {
            let slot = self.frame_slot();
            self.plan.uniforms.push((slot, value));
            slot
        });
        Place::Uniform(slot)
    }

    /// Where argument number `arg` of an operation is read from in `step`: one word if that is all there is to it.
    fn arg(&mut self, kind: &OpKind, arity: usize, arg: usize, reg: Reg, step: &mut PlanStep) -> Src {
        if matches!(kind, OpKind::Map { .. }) && takes_one(arity, arg) {
            match self.place[self.alias[reg as usize] as usize] {
                Place::Uniform(slot) => return Src::One(slot),
                Place::Row(slot) if step.is_col && self.plan.rows_are_alone() => return Src::Row(slot),
                _ => {}
            }
        }
        self.src(reg, step)
    }

    /// Where `reg` is read from in `step`, all lanes of it.
    fn src(&mut self, reg: Reg, step: &mut PlanStep) -> Src {
        let reg = self.alias[reg as usize] as usize;
        match self.place[reg] {
            Place::Temp(temp) => Src::Temp(temp),
            Place::Uniform(slot) => Src::Frame(slot),
            Place::Row(slot) if step.is_col && !self.plan.rows_are_lanes() => {
                let lanes = self.expanded[reg].unwrap_or_else(|| self.frame_slot());
                self.expanded[reg] = Some(lanes);
                if !step.expand.contains(&(slot, lanes)) {
                    step.expand.push((slot, lanes));
                }
                Src::Frame(lanes)
            }
            Place::Row(slot) => Src::Frame(slot),
            Place::Unknown => {
                panic!("register {reg} of a verified program is used before its definition")
            }
        }
    }

    fn step(&mut self, number: usize, step: &Step) {
        let (block, reduces, is_col) = match step {
            Step::Row(block) => (block, &[][..], false),
            Step::Col(block, reduces) => (block, &reduces[..], true),
        };
        let axes = axes(self.p, is_col, self.plan.order);
        let mut out = PlanStep {
            is_col,
            ops: Vec::new(),
            stores: Vec::new(),
            keep: Vec::new(),
            expand: Vec::new(),
            reduces: Vec::new(),
        };
        self.free = (0..self.plan.temps).filter(|temp| !self.lasting.contains(temp)).collect();
        // How often each register is still to be read in this step.
        let mut uses = vec![0usize; self.p.regs as usize];
        let live = self.live(block, reduces, is_col);
        let instrs = || block.instrs.iter().filter(|i| live[i.reg as usize]);
        let reads = instrs().filter(|i| self.again(i.reg).is_none()).flat_map(operands);
        let reads = reads.chain(block.stores.iter().map(|s| s.value));
        for reg in reads.chain(reduces.iter().map(|r| r.value)) {
            uses[self.alias[reg as usize] as usize] += 1;
        }
        let mut cost = 2 * (block.stores.len() + reduces.len());
        for instr in instrs() {
            cost += self.instr(instr, &axes, &mut uses, &mut out);
        }
        for instr in instrs() {
            let reg = instr.reg as usize;
            let Place::Temp(temp) = self.place[reg] else { continue };
            if !is_col && self.last_step[reg] > number {
                let slot = self.frame_slot();
                out.keep.push((Src::Temp(temp), slot));
            }
        }
        for store in &block.stores {
            let value = self.src(store.value, &mut out);
            out.stores.push(PlanStore {
                write: store.binding - self.plan.reads,
                access: Access::new(&unguarded(&store.view), &axes),
                value,
                home: None,
            });
        }
        self.direct_stores(number, block, &mut out);
        let first = self.plan.reduces.len();
        for (number, reduce) in reduces.iter().enumerate() {
            let value = self.src(reduce.value, &mut out);
            self.plan.reduces.push(reduce.clone());
            let slot = self.frame_slot();
            self.place[reduce.out as usize] = Place::Row(slot);
            let finds = |other: &ReduceOut| {
                let same = self.alias[other.value as usize] == self.alias[reduce.value as usize];
                same && reduce.kind.arg() == Some(other.kind)
            };
            let found_by = reduces.iter().position(finds).map(|i| first + i);
            out.reduces.push(PlanReduce { value, out: slot, index: first + number, found_by });
        }
        // From here on the kept registers are row registers, and the other temporaries are gone.
        for instr in &block.instrs {
            let reg = instr.reg as usize;
            if let Place::Temp(temp) = self.place[reg] {
                let kept = out.keep.iter().find(|(src, _)| *src == Src::Temp(temp));
                let kept = kept.filter(|_| self.last_step[reg] > number);
                self.place[reg] = kept.map_or(Place::Unknown, |(_, slot)| Place::Row(*slot));
            }
        }
        match is_col {
            true => self.plan.col_cost += cost,
            false => self.plan.row_cost += cost,
        }
        self.plan.steps.push(out);
    }

    /// Compiles one instruction, and gives its cost.
    fn instr(&mut self, instr: &Instr, axes: &[usize], uses: &mut [usize], step: &mut PlanStep) -> usize {
        let reg = instr.reg as usize;
        if self.alias[reg] != instr.reg {
            for arg in operands(instr) {
                uses[self.alias[arg as usize] as usize] -= 1;
            }
            return 0;
        }
        let value = match instr.kind {
            InstrKind::Const(bits) => Some(Uniform::Const(bits)),
            InstrKind::Scalar(word) => Some(Uniform::Scalar(word)),
            _ => None,
        };
        if let Some(value) = value {
            self.place[reg] = self.uniform(value);
            return 0;
        }
        let ((kind, cost), regs) = match self.again(instr.reg) {
            Some(_) => ((OpKind::Kept, 1), Vec::new()),
            None => (self.kind(instr, axes), operands(instr)),
        };
        let mut args = [Src::Temp(0); 3];
        for (i, (arg, &reg)) in args.iter_mut().zip(&regs).enumerate() {
            *arg = self.arg(&kind, regs.len(), i, reg, step);
        }
        let repeated = self.repeats[reg];
        let kept = repeated.map(|_| self.plan.row_block * self.plan.cols);
        let lasts = matches!(kind, OpKind::Load { period: Some(_), .. });
        let dst = match repeated {
            Some((_, temp)) => temp,
            None if lasts => self.lasting_temp(),
            None => self.free.pop().unwrap_or_else(|| self.new_temp()),
        };
        // Operands that nobody else reads give back their place, after the result has got its own.
        for &arg in &regs {
            let arg = self.alias[arg as usize] as usize;
            uses[arg] -= 1;
            self.release(arg, uses, step);
        }
        let one = !self.spread[reg] && kept.is_none() && step.may_be_one(&kind, &args[..regs.len()]);
        self.place[reg] = Place::Temp(dst);
        self.release(reg, uses, step);
        step.ops.push(Op {
            kind,
            dst,
            args,
            arity: regs.len(),
            direct: None,
            kept,
            one,
            home: None,
            update: None,
            asks: Box::default(),
        });
        cost
    }

    /// The operation of an instruction that is neither a constant nor an alias, and its cost.
    fn kind(&self, instr: &Instr, axes: &[usize]) -> (OpKind, usize) {
        match &instr.kind {
            &InstrKind::Load { binding, ref view } => {
                let access = Access::new(view, axes);
                let cost = access_cost(&access);
                let period = access.period().filter(|&period| period <= BLOCK && binding < self.plan.reads);
                let lanes = view.shape.numel();
                let dense = if lanes > 1 { access.dense(0, lanes) } else { None };
                (OpKind::Load { binding, access: Box::new(access), dense, period }, cost)
            }
            &InstrKind::LoadAt { binding, ref view, index, stride, bound } => {
                let kind = OpKind::LoadAt {
                    binding,
                    access: Box::new(Access::new(view, axes)),
                    signed: self.signed(index),
                    stride,
                    bound,
                };
                (kind, 16)
            }
            InstrKind::Index(view) => (OpKind::Index(Box::new(Access::new(&unguarded(view), axes))), 2),
            InstrKind::InBounds(view) => (OpKind::InBounds(Box::new(Access::new(view, axes))), 2),
            &InstrKind::Map { f, operand, .. } => (OpKind::Map { f, operand }, 1 + f.cost as usize),
            &InstrKind::Cast { from, .. } => {
                let to = instr.dtype;
                (OpKind::Cast { from, to }, 2)
            }
            InstrKind::Philox { .. } => (OpKind::Philox, 24),
            InstrKind::Acc => (OpKind::Acc, 1),
            InstrKind::Const(_) | InstrKind::Scalar(_) | InstrKind::Bitcast { .. } => {
                unreachable!("constants and aliases are no operations")
            }
        }
    }

    /// Frees the temporary of a register that is not read any more.
    fn release(&mut self, reg: usize, uses: &[usize], step: &PlanStep) {
        let later = !step.is_col && self.last_step[reg] > self.plan.steps.len();
        if let (Place::Temp(temp), 0, false) = (self.place[reg], uses[reg], later)
            && !self.free.contains(&temp)
            && !self.lasting.contains(&temp)
        {
            self.free.push(temp);
        }
    }

    /// Lets the last definition of a value go straight to its store, where it is read by that store alone
    /// and its buffer is not loaded from.
    fn direct_stores(&mut self, number: usize, block: &crate::Block, out: &mut PlanStep) {
        for (index, store) in block.stores.iter().enumerate() {
            let reg = self.alias[store.value as usize];
            let loaded = self.p.instrs().any(|i| match i.kind {
                InstrKind::Load { binding, .. } | InstrKind::LoadAt { binding, .. } => {
                    binding == store.binding
                }
                _ => false,
            });
            let stored_once = block.stores.iter().filter(|s| s.binding == store.binding).count() == 1;
            let value = out.stores[index].value;
            let kept = self.repeats[reg as usize].is_some();
            if loaded || !stored_once || kept || self.last_step[reg as usize] > number {
                continue;
            }
            let Src::Temp(temp) = value else { continue };
            let reads = |op: &Op| op.args[..op.arity].contains(&value);
            let Some(at) = out.ops.iter().rposition(|op| op.dst == temp) else {
                continue;
            };
            let read_later = out.ops[at + 1..].iter().any(reads)
                || out.stores.iter().filter(|s| s.value == value).count() > 1
                || self.reduced(number, reg);
            if !read_later && matches!(out.ops[at].kind, OpKind::Map { .. }) {
                out.ops[at].direct = Some(index);
            }
        }
    }

    fn reduced(&self, number: usize, reg: Reg) -> bool {
        match &self.p.steps[number] {
            Step::Row(_) => false,
            Step::Col(_, reduces) => reduces.iter().any(|r| self.alias[r.value as usize] == reg),
        }
    }

    /// Whether an index register is signed.
    fn signed(&self, reg: Reg) -> bool {
        let mut instrs = self.p.instrs();
        let mut reduces = self.plan.reduces.iter();
        match instrs.find(|i| i.reg == reg) {
            Some(instr) => instr.dtype == DType::I32,
            None => reduces.any(|r| {
                let is_arg = matches!(r.kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
                r.out == reg && (is_arg || r.dtype == DType::I32)
            }),
        }
    }
}

impl Plan {
    /// Whether a tile is some columns of one row.
    fn rows_are_alone(&self) -> bool {
        self.order == Order::ColsInner && self.tile_rows == 1
    }

    /// Whether a tile is one column of some rows, so that a row register's lanes serve a `Col` step as they are.
    fn rows_are_lanes(&self) -> bool {
        self.order == Order::RowsInner && self.tile_cols == 1
    }
}

/// The view without its guards.
fn unguarded(view: &View) -> View {
    View { guards: Vec::new(), ..view.clone() }
}
