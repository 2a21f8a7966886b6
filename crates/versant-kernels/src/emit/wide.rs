//! Four neighbouring elements at once: along which dimension they lie, and which accesses are one vector of memory.
//!
//! Registers that differ among the four are vectors, and so are loads and stores of four aligned words in a row;
//! what lies between is scalar text for each of the four, since compilers for GPUs take vectors apart anyway and a
//! row of the table of functions then needs no second text. Whether an offset or a stride is a multiple of four is
//! structure, and so is an innermost extent that is one of several; the extent of a domain of one dimension is not,
//! because a batch is usually part of it: there a remainder of up to three elements has scalar text of its own.

use crate::{Block, DType, Guard, Instr, InstrKind, Program, Reg, Step, View, fold};

/// Elements of a vector.
pub(super) const WIDTH: usize = 4;

/// The dimension along which elements go together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Axis {
    /// None: everything is scalar.
    None,
    /// The innermost of the rows.
    Rows,
    /// The innermost of the columns; what belongs to a row is scalar.
    Cols,
}

/// How the four elements of a view lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// They are one and the same.
    Same,
    /// They are four words in a row, the first at a multiple of four.
    Whole,
    /// Anything else.
    Each,
}

impl Axis {
    /// Which coordinate of a step it is, of `coords` in all after `rank` of rows.
    pub fn at(self, rank: usize, coords: usize) -> Option<usize> {
        match self {
            Axis::None => None,
            Axis::Rows => rank.checked_sub(1),
            Axis::Cols => (coords > rank).then(|| coords - 1),
        }
    }

    /// How far apart the four are.
    pub fn stride(self, rank: usize, strides: &[isize]) -> isize {
        self.at(rank, strides.len()).map_or(0, |at| strides[at])
    }

    /// Whether the values of a form are four in a row from a multiple of four.
    fn in_a_row(self, rank: usize, strides: &[isize], offset: isize) -> bool {
        const WORDS: isize = WIDTH as isize;
        let at = self.at(rank, strides.len());
        let fits = |(i, &s): (usize, &isize)| if Some(i) == at { s == 1 } else { s % WORDS == 0 };
        at.is_some() && offset % WORDS == 0 && strides.iter().enumerate().all(fits)
    }

    /// Whether a guard can hold for some of the four and fail for others.
    pub fn splits(self, rank: usize, guard: &Guard) -> bool {
        let together =
            guard.extent.is_multiple_of(WIDTH) && self.in_a_row(rank, &guard.strides, guard.offset);
        self.stride(rank, &guard.strides) != 0 && !together
    }

    /// How the four elements of a view lie.
    pub fn access(self, rank: usize, view: &View) -> Access {
        if view.guards.iter().any(|g| self.splits(rank, g)) {
            Access::Each
        } else if self.stride(rank, &view.strides) == 0 {
            Access::Same
        } else if self.in_a_row(rank, &view.strides, view.offset) {
            Access::Whole
        } else {
            Access::Each
        }
    }
}

/// What the array of a binding is declared as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Array {
    /// Of words.
    Words,
    /// Of vectors of four words.
    Fours,
    /// Of two words of 64 bits: what lavapipe takes to load, and to compile a load, is by component and lane.
    Pairs,
}

/// What is a vector in the text of a program.
#[derive(Clone, Debug)]
pub(super) struct Widths {
    pub axis: Axis,
    /// Of every register, whether it may differ among the four.
    pub regs: Vec<bool>,
    /// Of every binding, how it is declared.
    pub bindings: Vec<Array>,
    /// Whether four accesses that are done once are a loop over one: shorter to compile on a software adapter.
    pub short: bool,
}

impl Widths {
    /// Has vectors of what is only read loaded as words of 64 bits.
    pub fn pair(&mut self, p: &Program) {
        // Of what is written, two invocations may store the words of one pair.
        let read =
            self.bindings.iter_mut().zip(&p.bindings).filter(|(_, b)| !b.written && !b.dtype.is_half());
        read.filter(|(array, _)| **array == Array::Fours).for_each(|(array, _)| *array = Array::Pairs);
    }

    /// Everything scalar, but for arrays that are declared as vectors.
    pub fn scalar(p: &Program, bindings: Vec<Array>) -> Widths {
        Widths { axis: Axis::None, regs: vec![false; p.regs as usize], bindings, short: false }
    }

    /// The widths of a folded program on this axis, and how many accesses are whole vectors and how many are not.
    /// Only what is done for every element counts, and makes an array one of vectors.
    fn along(p: &Program, axis: Axis) -> (Widths, usize, usize) {
        let rank = p.rows.rank();
        let mut widths = Widths { axis, ..Widths::scalar(p, words(p)) };
        let (mut whole, mut each) = (0, 0);
        let has_cols = p.steps.iter().any(|s| matches!(s, Step::Col(..)));
        for step in &p.steps {
            let (block, hot) = match step {
                Step::Row(block) => (block, !has_cols),
                Step::Col(block, _) => (block, true),
            };
            for instr in &block.instrs {
                widths.regs[instr.reg as usize] = widths.is_wide(rank, instr);
            }
            if hot {
                widths.count(rank, has_cols, block, &mut whole, &mut each);
            }
            if let (Step::Col(_, outs), Axis::Rows) = (step, axis) {
                outs.iter().for_each(|out| widths.regs[out.out as usize] = true);
            }
        }
        (widths, whole, each)
    }

    fn count(&mut self, rank: usize, has_cols: bool, block: &Block, whole: &mut usize, each: &mut usize) {
        let loads = block.instrs.iter().filter_map(|i| match &i.kind {
            InstrKind::Load { binding, view } => Some((*binding, self.axis.access(rank, view), view)),
            InstrKind::LoadAt { binding, view, index, stride, .. } => {
                Some((*binding, self.access_at(rank, view, *index, *stride), view))
            }
            _ => None,
        });
        let stores = block.stores.iter().map(|s| (s.binding, self.axis.access(rank, &s.view), &s.view));
        let all: Vec<_> = loads.chain(stores).collect();
        for (binding, access, view) in all {
            // What is the same for every column of a row is read once.
            if has_cols && view.strides[rank..].iter().all(|&s| s == 0) {
                continue;
            }
            match access {
                Access::Same => {}
                Access::Each => *each += 1,
                Access::Whole => {
                    *whole += 1;
                    self.bindings[binding] = Array::Fours;
                }
            }
        }
    }

    /// How the four elements lie whose place is partly data.
    pub fn access_at(&self, rank: usize, view: &View, index: Reg, stride: isize) -> Access {
        match self.axis.access(rank, view) {
            _ if self.regs[index as usize] => Access::Each,
            Access::Whole if stride % WIDTH as isize != 0 => Access::Each,
            access => access,
        }
    }

    fn is_wide(&self, rank: usize, instr: &Instr) -> bool {
        let reg = |r: &Reg| self.regs[*r as usize];
        match &instr.kind {
            InstrKind::Const(_) | InstrKind::Scalar(_) | InstrKind::Acc => false,
            InstrKind::Load { view, .. } => self.axis.access(rank, view) != Access::Same,
            InstrKind::LoadAt { view, index, stride, .. } => {
                self.access_at(rank, view, *index, *stride) != Access::Same
            }
            InstrKind::Index(view) => self.axis.stride(rank, &view.strides) != 0,
            InstrKind::InBounds(view) => view.guards.iter().any(|g| self.axis.splits(rank, g)),
            InstrKind::Map { f, args, .. } => args[..f.arity].iter().any(reg),
            InstrKind::Cast { arg, .. } | InstrKind::Bitcast { arg, .. } => reg(arg),
            InstrKind::Philox { index, key } => reg(index) || key.iter().any(reg),
        }
    }
}

/// Chooses the axis for a folded program: the one on which most accesses are whole vectors, if any are. A software
/// adapter takes ten milliseconds to compile a component of an access: there columns that are read element by element
/// more often than not have scalar text, an access of each once in place of five times.
pub(super) fn choose(p: &Program, software: bool) -> Widths {
    let scalar = Widths::scalar(p, words(p));
    let has_cols = p.steps.iter().any(|s| matches!(s, Step::Col(..)));
    if !has_cols {
        let (widths, whole, _) = Widths::along(p, Axis::Rows);
        return if fits(&p.rows) && whole > 0 { widths } else { scalar };
    }
    let (by_col, cols, apart) = Widths::along(p, Axis::Cols);
    let (mut by_row, rows, each) = Widths::along(p, Axis::Rows);
    by_row.short = software;
    // Rows that go together have no remainder.
    let whole_rows = fits(&p.rows) && p.rows[p.rows.rank() - 1].is_multiple_of(WIDTH);
    let worth = cols > 0 && !(software && apart > cols);
    let worth = worth && (cols >= rows || !whole_rows);
    if fits(&p.cols) && (worth || p.stores_halves()) {
        by_col
    } else if whole_rows && rows > each {
        by_row
    } else {
        scalar
    }
}

/// Whether the innermost extent is of whole vectors, or the only one.
fn fits(shape: &crate::Shape) -> bool {
    shape.rank() > 0 && (shape.rank() == 1 || shape[shape.rank() - 1].is_multiple_of(WIDTH))
}

impl Program {
    /// Whether it stores to a buffer of halves.
    pub(crate) fn stores_halves(&self) -> bool {
        self.bindings.iter().any(|b| b.written && b.dtype.is_half())
    }

    /// Whether what it stores to a binding can be halves: both of a word must be written by one invocation. Without columns
    /// that is so where elements are stored in the order of rows; with columns, where whole vectors of them are.
    pub fn may_halve(&self, binding: usize) -> bool {
        let p = fold(self);
        let rank = p.rows.rank();
        let has_cols = p.steps.iter().any(|s| matches!(s, Step::Col(..)));
        let whole = fits(&p.cols) && p.cols.numel().is_multiple_of(WIDTH);
        p.steps.iter().all(|step| {
            let (Step::Row(block) | Step::Col(block, _)) = step;
            let mut stores = block.stores.iter().filter(|s| s.binding == binding);
            match step {
                Step::Row(_) => stores.all(|s| !has_cols && s.view.is_identity()),
                Step::Col(..) => stores.all(|s| whole && Axis::Cols.access(rank, &s.view) == Access::Whole),
            }
        })
    }
}

fn words(p: &Program) -> Vec<Array> {
    vec![Array::Words; p.bindings.len()]
}

/// A vector of four expressions.
pub(super) fn vector(dtype: &str, f: impl FnMut(usize) -> String) -> String {
    let all: Vec<String> = (0..WIDTH).map(f).collect();
    format!("vec4<{dtype}>({})", all.join(", "))
}

/// Component `k` of a vector.
pub(super) fn part(name: &str, k: usize) -> String {
    format!("{name}.{}", ["x", "y", "z", "w"][k])
}

/// The WGSL type of a register.
pub(super) fn register_type(dtype: DType, wide: bool) -> String {
    match wide {
        true => format!("vec4<{}>", super::value_type(dtype)),
        false => super::value_type(dtype).to_owned(),
    }
}
