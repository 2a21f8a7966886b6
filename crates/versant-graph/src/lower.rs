//! From a group of nodes to an expression [`Program`].
//!
//! The builder walks the expression of each member from the group's domain towards memory, composing views
//! on the way. Where a view cannot be composed it says at which operand, and the caller puts a copy there;
//! where a member is needed at another position than it is computed at, the group is refused.

use rustc_hash::FxHashMap;
use versant_kernels::program::ProgramBinding;
use versant_kernels::{Block, DType, Instr, InstrKind, Program, ReduceOut, Reg, Shape, Step, Store, View};

use crate::ir::{Ir, IrOp, RESULT};
use crate::op::Op;

/// Why a group did not become a program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The view of operand `k` of this node, or of its [`RESULT`], does not compose: it must be copied.
    Copy(usize, usize),
    /// The members do not fit one domain, or the program grows beyond a limit.
    Apart,
}

/// A place in memory, as the plan names it before it has buffers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A buffer handed in from outside.
    External(usize),
    /// The buffer of a stored node.
    Node(usize),
}

/// What the members of a group are computed over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Domain {
    /// Row-major positions; members have as many elements as the shape.
    Flat(Shape),
    /// Rows reduced along columns: `order` permutes the axes of `full` so that the kept ones come first.
    Rows { full: Shape, axes: u8 },
}

impl Domain {
    /// Extents of rows and columns.
    fn split(&self) -> (Shape, Shape) {
        match self {
            Domain::Flat(shape) => (*shape, Shape::SCALAR),
            Domain::Rows { full, axes } => {
                let pick = |bit: u8| -> Vec<usize> {
                    (0..full.rank()).filter(|a| axes >> a & 1 == bit).map(|a| full[a]).collect()
                };
                let shape = |dims: Vec<usize>| Shape::new(&dims).expect("a part of a shape");
                (shape(pick(0)), shape(pick(1)))
            }
        }
    }

    /// From coordinates `rows ++ cols` to row-major positions of `full`.
    fn full_view(&self) -> View {
        match self {
            Domain::Flat(shape) => View::contiguous(*shape),
            Domain::Rows { full, axes } => {
                let order: Vec<usize> = (0..full.rank())
                    .filter(|a| axes >> a & 1 == 0)
                    .chain((0..full.rank()).filter(|a| axes >> a & 1 == 1))
                    .collect();
                View::contiguous(*full).permute(&order)
            }
        }
    }
}

/// A finished program with the places of its bindings, in order (reads, then writes).
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    pub program: Program,
    pub places: Vec<Place>,
    /// For each written binding: the read place whose element it may overwrite, because the program loads
    /// that place only at the very positions that it stores.
    pub cost: u64,
}

/// Which part of the program is being built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Row,
    Col,
}

/// What a group is made of, and how its surroundings see it.
pub(crate) struct Group<'a> {
    pub ir: &'a Ir,
    /// Nodes with a buffer of their own.
    pub stored: &'a [bool],
    /// For a piece: the concatenation it belongs to, and where in it.
    pub pieces: &'a FxHashMap<usize, (usize, View)>,
    pub domain: Domain,
    /// Stored nodes computed here, inputs first.
    pub members: &'a [usize],
    /// The contraction whose accumulator is the first member.
    pub accumulator: Option<usize>,
    /// Members that somebody outside needs.
    pub exported: &'a dyn Fn(usize) -> bool,
    pub max_instrs: usize,
}

struct Lowerer<'a> {
    group: &'a Group<'a>,
    rows: Shape,
    full: View,
    row_view: View,
    steps: Vec<Step>,
    block: Block,
    memo: FxHashMap<(usize, View), Reg>,
    /// Registers of members known per row.
    row_regs: FxHashMap<usize, Reg>,
    places: Vec<(Place, DType, bool)>,
    level: Level,
    regs: Reg,
    cost: u64,
}

/// Builds the program of a group.
pub(crate) fn lower(group: &Group<'_>) -> Result<Lowered, Refusal> {
    let (rows, cols) = group.domain.split();
    let full = group.domain.full_view();
    let mut row_view = View::contiguous(rows);
    row_view.shape = full.shape;
    row_view.strides.resize(full.shape.rank(), 0);
    let mut l = Lowerer {
        group,
        rows,
        full,
        row_view,
        steps: Vec::new(),
        block: Block::default(),
        memo: FxHashMap::default(),
        row_regs: FxHashMap::default(),
        places: Vec::new(),
        level: Level::Row,
        regs: 0,
        cost: 0,
    };
    let stages = l.stages();
    let last = stages.values().copied().max().unwrap_or(0);
    for stage in 0..=last {
        let here: Vec<usize> = group.members.iter().copied().filter(|m| stages[m] == stage).collect();
        l.row_block(&here)?;
        l.col_block(&here)?;
    }
    l.finish(cols)
}

/// Equality of views that ignores the strides of extents of 1.
fn same_view(a: &View, b: &View) -> bool {
    a.offset == b.offset
        && a.shape == b.shape
        && a.guards == b.guards
        && a.shape.iter().zip(a.strides.iter().zip(&b.strides)).all(|(&d, (x, y))| d == 1 || x == y)
}

impl Lowerer<'_> {
    fn is_member(&self, node: usize) -> bool {
        self.group.members.contains(&node)
    }

    /// Whether a member has a value for every column (else one for every row).
    fn is_full(&self, node: usize) -> bool {
        let ir = self.group.ir;
        match &self.group.domain {
            Domain::Flat(_) => false,
            Domain::Rows { full, .. } => {
                !ir.nodes[node].is_reduce()
                    && ir.nodes[node].shape.numel() == full.numel()
                    && full.numel() != self.rows.numel()
            }
        }
    }

    /// The step pair in which each member can be computed: a reduction's result is known one stage later.
    fn stages(&self) -> FxHashMap<usize, usize> {
        let mut stages: FxHashMap<usize, usize> = FxHashMap::default();
        for &member in self.group.members {
            let mut stage = 0;
            let mut stack: Vec<usize> = self.group.ir.nodes[member].inputs.iter().map(|e| e.node).collect();
            let mut seen: Vec<usize> = Vec::new();
            while let Some(node) = stack.pop() {
                if seen.contains(&node) {
                    continue;
                }
                seen.push(node);
                if let Some(&of) = stages.get(&node) {
                    let late = usize::from(self.group.ir.nodes[node].is_reduce());
                    stage = stage.max(of + late);
                } else if !self.group.stored[node] {
                    stack.extend(self.group.ir.nodes[node].inputs.iter().map(|e| e.node));
                }
            }
            stages.insert(member, stage);
        }
        stages
    }

    /// Members known per row that need no column.
    fn row_block(&mut self, members: &[usize]) -> Result<(), Refusal> {
        self.level = Level::Row;
        self.memo.clear();
        for &member in members {
            if self.group.ir.nodes[member].is_reduce() || self.is_full(member) {
                continue;
            }
            let view = View::contiguous(self.rows);
            let node = &self.group.ir.nodes[member];
            if node.shape.numel() != self.rows.numel() {
                return Err(Refusal::Apart);
            }
            let reg = if self.group.accumulator == Some(member) {
                self.push(InstrKind::Acc, DType::F32)
            } else {
                self.expand(member, &view)?
            };
            self.row_regs.insert(member, reg);
            self.export(member, reg, &view)?;
        }
        let block = std::mem::take(&mut self.block);
        if !block.instrs.is_empty() || !block.stores.is_empty() {
            self.steps.push(Step::Row(block));
        }
        Ok(())
    }

    /// Reductions and members with a value for every column.
    fn col_block(&mut self, members: &[usize]) -> Result<(), Refusal> {
        self.level = Level::Col;
        self.memo.clear();
        let mut reduces = Vec::new();
        for &member in members {
            let node = &self.group.ir.nodes[member];
            if let IrOp::Core(Op::Reduce(kind, axes)) = &node.op {
                let edge = &node.inputs[0];
                let inner = edge.full_view(self.group.ir);
                match &self.group.domain {
                    Domain::Rows { full, axes: own } if *full == inner.shape && own == axes => {}
                    _ => return Err(Refusal::Apart),
                }
                let view = self.full.compose(&inner).ok_or(Refusal::Copy(member, 0))?;
                let dtype = self.group.ir.nodes[edge.node].dtype;
                let value = self.value(edge.node, &view)?;
                let out = self.fresh();
                reduces.push((member, ReduceOut { kind: *kind, value, dtype, out }));
            } else if self.is_full(member) {
                let view = self.full.clone();
                let reg = self.expand(member, &view)?;
                self.memo.insert((member, view.clone()), reg);
                self.export(member, reg, &view)?;
            }
        }
        let block = std::mem::take(&mut self.block);
        // A value known per row that is only spread over the columns needs no instruction there, but a store.
        if !block.instrs.is_empty() || !block.stores.is_empty() || !reduces.is_empty() {
            let outs = reduces.iter().map(|(_, r)| r.clone()).collect();
            self.steps.push(Step::Col(block, outs));
        }
        self.level = Level::Row;
        for (member, reduce) in reduces {
            self.row_regs.insert(member, reduce.out);
            self.export(member, reduce.out, &View::contiguous(self.rows))?;
        }
        let block = std::mem::take(&mut self.block);
        if !block.stores.is_empty() {
            self.steps.push(Step::Row(block));
        }
        Ok(())
    }

    fn fresh(&mut self) -> Reg {
        self.regs += 1;
        self.regs - 1
    }

    fn push(&mut self, kind: InstrKind, dtype: DType) -> Reg {
        let reg = self.fresh();
        self.block.instrs.push(Instr { reg, dtype, kind });
        reg
    }

    fn binding(&mut self, place: Place, dtype: DType, written: bool) -> usize {
        match self.places.iter_mut().position(|p| p.0 == place) {
            Some(at) => {
                self.places[at].2 |= written;
                at
            }
            None => {
                self.places.push((place, dtype, written));
                self.places.len() - 1
            }
        }
    }

    /// Stores a member, if somebody outside needs it.
    fn export(&mut self, member: usize, value: Reg, view: &View) -> Result<(), Refusal> {
        let dtype = self.group.ir.nodes[member].dtype;
        let (node, view) = match self.group.pieces.get(&member) {
            Some((whole, place)) => (*whole, view.compose(place).ok_or(Refusal::Apart)?),
            None if (self.group.exported)(member) => (member, view.clone()),
            None => return Ok(()),
        };
        let binding = self.binding(Place::Node(node), dtype, true);
        self.block.stores.push(Store { binding, view, value, dtype });
        Ok(())
    }

    /// The value of a node at the positions that `view` gives in it.
    fn value(&mut self, node: usize, view: &View) -> Result<Reg, Refusal> {
        if self.is_member(node) && !self.is_full(node) {
            let own = match self.level {
                Level::Row => same_view(view, &View::contiguous(self.rows)) || self.reads_in_order(view),
                Level::Col => same_view(view, &self.row_view),
            };
            return match self.row_regs.get(&node) {
                Some(&reg) if own => Ok(reg),
                _ => Err(Refusal::Apart),
            };
        }
        let key = (node, view.clone());
        if let Some(&reg) = self.memo.get(&key) {
            return Ok(reg);
        }
        let source = &self.group.ir.nodes[node];
        let reg = if let IrOp::Leaf(external) = source.op {
            self.load(Place::External(external), view, source.dtype)
        } else if self.group.stored[node] && !self.is_member(node) {
            self.load(Place::Node(node), view, source.dtype)
        } else {
            if self.is_member(node) && !same_view(view, &self.full) {
                return Err(Refusal::Apart);
            }
            let reg = self.expand(node, view)?;
            self.guarded(reg, view, source.dtype)
        };
        self.memo.insert(key, reg);
        Ok(reg)
    }

    /// A dense view over other extents of the same size is the same position.
    fn reads_in_order(&self, view: &View) -> bool {
        view.is_identity() && view.shape.numel() == self.rows.numel()
    }

    fn load(&mut self, place: Place, view: &View, dtype: DType) -> Reg {
        let binding = self.binding(place, dtype, false);
        self.cost += 2;
        self.push(InstrKind::Load { binding, view: view.clone() }, dtype)
    }

    /// Zero where the view's guards fail: a computed value is padded like a loaded one.
    fn guarded(&mut self, value: Reg, view: &View, dtype: DType) -> Reg {
        if view.guards.is_empty() {
            return value;
        }
        let inside = self.push(InstrKind::InBounds(view.clone()), DType::Bool);
        let zero = self.push(InstrKind::Const(0), dtype);
        let f = &crate::ops::elementwise::SELECT.f;
        self.push(InstrKind::Map { f, args: [inside, value, zero], operand: dtype }, dtype)
    }

    /// Operand `k` of a node, at the positions that `view` gives in the node.
    fn operand(&mut self, node: usize, k: usize, view: &View) -> Result<Reg, Refusal> {
        let edge = &self.group.ir.nodes[node].inputs[k];
        match &edge.view {
            None => self.value(edge.node, view),
            Some(inner) => {
                let composed = view.compose(inner).ok_or(Refusal::Copy(node, k))?;
                self.value(edge.node, &composed)
            }
        }
    }

    /// The instructions of an expression node.
    fn expand(&mut self, node: usize, view: &View) -> Result<Reg, Refusal> {
        let n = &self.group.ir.nodes[node];
        if self.block.instrs.len() > self.group.max_instrs {
            return Err(Refusal::Apart);
        }
        self.cost += 1;
        let kind = match &n.op {
            IrOp::Copy | IrOp::Piece => return self.operand(node, 0, view),
            IrOp::Scalar(word) => InstrKind::Scalar(*word),
            IrOp::Core(Op::Literal(bits)) => InstrKind::Const(*bits),
            IrOp::Core(Op::Iota) => InstrKind::Index(view.clone()),
            IrOp::Core(Op::Random) => {
                let key = [
                    self.value(n.inputs[0].node, &View::splat(view.shape))?,
                    self.value(n.inputs[1].node, &View::splat(view.shape))?,
                ];
                let index = self.push(InstrKind::Index(view.clone()), DType::U32);
                self.cost += 20;
                InstrKind::Philox { index, key }
            }
            IrOp::Core(Op::Map(row)) => {
                let mut args = [0; 3];
                for (k, arg) in args.iter_mut().enumerate().take(row.f.arity) {
                    *arg = self.operand(node, k, view)?;
                }
                self.cost += u64::from(row.f.cost);
                let operand = self.group.ir.nodes[n.inputs[n.inputs.len() - 1].node].dtype;
                InstrKind::Map { f: &row.f, args, operand }
            }
            IrOp::Core(Op::Cast) => {
                let from = self.group.ir.nodes[n.inputs[0].node].dtype;
                InstrKind::Cast { arg: self.operand(node, 0, view)?, from }
            }
            IrOp::Core(Op::Bitcast) => {
                let from = self.group.ir.nodes[n.inputs[0].node].dtype;
                InstrKind::Bitcast { arg: self.operand(node, 0, view)?, from }
            }
            IrOp::Core(Op::Gather(axis)) => self.gather(node, *axis, view)?,
            _ => return Err(Refusal::Apart),
        };
        Ok(self.push(kind, n.dtype))
    }

    fn gather(&mut self, node: usize, axis: usize, view: &View) -> Result<InstrKind, Refusal> {
        let ir = self.group.ir;
        let n = &ir.nodes[node];
        let source = n.inputs[0].full_view(ir);
        let place = match ir.nodes[n.inputs[0].node].op {
            IrOp::Leaf(external) => Place::External(external),
            _ if self.is_member(n.inputs[0].node) => return Err(Refusal::Apart),
            _ => Place::Node(n.inputs[0].node),
        };
        let (stride, bound) = (source.strides[axis], source.shape[axis]);
        let mut base = source;
        base.shape = n.shape;
        base.strides[axis] = 0;
        // Where a reader's positions are no coordinates of the result, the result has to be in memory.
        let base = view.compose(&base).ok_or(Refusal::Copy(node, RESULT))?;
        let mut along = n.inputs[1].full_view(ir);
        if along.shape != n.shape {
            along = along.broadcast(n.shape);
        }
        let at = view.compose(&along).ok_or(Refusal::Copy(node, RESULT))?;
        let index = self.value(n.inputs[1].node, &at)?;
        let binding = self.binding(place, n.dtype, false);
        self.cost += 4;
        Ok(InstrKind::LoadAt { binding, view: base, index, stride, bound })
    }

    /// Numbers the bindings (reads first) and assembles the program.
    fn finish(mut self, cols: Shape) -> Result<Lowered, Refusal> {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_by_key(|&i| self.places[i].2);
        let mut number = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            number[old] = new;
        }
        for step in &mut self.steps {
            let (Step::Row(block) | Step::Col(block, _)) = step;
            for instr in &mut block.instrs {
                if let InstrKind::Load { binding, .. } | InstrKind::LoadAt { binding, .. } = &mut instr.kind {
                    *binding = number[*binding];
                }
            }
            for store in &mut block.stores {
                store.binding = number[store.binding];
            }
        }
        let bindings = order
            .iter()
            .map(|&i| ProgramBinding { dtype: self.places[i].1, written: self.places[i].2 })
            .collect();
        let places = order.iter().map(|&i| self.places[i].0).collect();
        let program = Program { rows: self.rows, cols, bindings, steps: self.steps, regs: self.regs };
        Ok(Lowered { program, places, cost: self.cost })
    }
}
