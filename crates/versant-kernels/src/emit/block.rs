//! The writer of a kernel's body: index arithmetic, and where a line goes.

use super::params::{ParamBlock, Walk, walk};
use super::wide::Widths;
use crate::{Block, DType, Guard, InstrKind, Program, Reg, Shape, Step, View};

/// Writes the body of a kernel.
pub(super) struct Emitter<'a> {
    /// The folded program.
    pub p: &'a Program,
    /// Where numbers go.
    pub params: &'a mut ParamBlock,
    /// The text so far, outside any loop over columns.
    pub text: String,
    /// Indentation of `text`.
    pub depth: usize,
    /// The loop body being written, and its indentation. Meanwhile `text` receives what is the same in
    /// every iteration.
    body: Option<(String, usize)>,
    /// Whether that is a loop over rows; else it is one over columns.
    over_rows: bool,
    /// What is a vector.
    pub wide: Widths,
    /// Of every register defined so far: its type, and whether it is the same in every iteration.
    regs: Vec<Option<(DType, bool)>>,
    /// Registers whose values are read from elsewhere.
    instead: Vec<(Reg, String)>,
    /// Number of the next helper name.
    fresh: usize,
}

impl<'a> Emitter<'a> {
    pub fn new(p: &'a Program, params: &'a mut ParamBlock, wide: Widths) -> Self {
        Self {
            p,
            params,
            text: String::new(),
            depth: 1,
            body: None,
            over_rows: !p.steps.iter().any(|s| matches!(s, Step::Col(..))),
            wide,
            regs: vec![None; p.regs as usize],
            instead: Vec::new(),
            fresh: 0,
        }
    }

    /// Appends a line outside any loop over columns.
    pub fn line(&mut self, line: &str) {
        push_line(&mut self.text, self.depth, line);
    }

    /// Appends a line where the current block is being written.
    pub fn here(&mut self, line: &str) {
        match &mut self.body {
            Some((body, depth)) => push_line(body, *depth, line),
            None => push_line(&mut self.text, self.depth, line),
        }
    }

    /// Writes `head`, what `f` writes one level deeper, and the closing brace.
    pub fn nested(&mut self, head: &str, f: impl FnOnce(&mut Self)) {
        self.here(head);
        *self.depth_here() += 1;
        f(self);
        *self.depth_here() -= 1;
        self.here("}");
    }

    fn depth_here(&mut self) -> &mut usize {
        match &mut self.body {
            Some((_, depth)) => depth,
            None => &mut self.depth,
        }
    }

    /// Runs `f` with a loop body at this indentation and returns the body. What `f` found to be the same in
    /// every iteration is in `text` by then, so the caller writes the loop after it.
    pub fn in_loop(&mut self, depth: usize, f: impl FnOnce(&mut Self)) -> String {
        self.body = Some((String::new(), depth));
        f(self);
        self.body.take().expect("only set here").0
    }

    /// Whether a loop body is being written.
    pub fn loops(&self) -> bool {
        self.body.is_some()
    }

    /// Runs `f` as if no loop body were being written.
    pub fn before_loop<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> T {
        let body = self.body.take();
        let value = f(self);
        self.body = body;
        value
    }

    /// An expression of parameters as it may be used here: inside a loop it is read once in front of it.
    pub fn hoist(&mut self, expr: String) -> String {
        if self.body.is_none() {
            return expr;
        }
        let name = format!("k{}", self.fresh);
        self.fresh += 1;
        self.line(&format!("let {name} = {expr};"));
        name
    }

    /// A number for helper names.
    pub fn fresh(&mut self) -> usize {
        self.fresh += 1;
        self.fresh - 1
    }

    /// Has a register defined by an expression in place of its instruction.
    pub fn instead(&mut self, reg: Reg, expr: String) {
        self.instead.push((reg, expr));
    }

    /// The type of a register, and whether it is the same in every iteration of the current loop.
    pub fn reg(&self, reg: Reg) -> (DType, bool) {
        self.regs[reg as usize].expect("registers are defined before they are used")
    }

    /// Notes the definition of a register.
    pub fn define(&mut self, reg: Reg, dtype: DType, still: bool) {
        self.regs[reg as usize] = Some((dtype, still));
    }

    /// Defines `x`, the linear row as `i32`, and where a view needs them the coordinates `x0…`.
    pub fn row_coords(&mut self) {
        self.here("let x = i32(row);");
        let rows = self.p.rows;
        let by_coords = |s: &[isize]| walk(&s[..rows.rank()], &rows) == Walk::Coords;
        if !self.p.steps.iter().any(|s| any_form(s, by_coords)) {
            return;
        }
        let mut rest = "row".to_owned();
        for k in (1..rows.rank()).rev() {
            let extent = self.params.push(rows[k] as u32);
            let extent = self.hoist(extent);
            self.here(&format!("let q{k} = {rest} / {extent};"));
            self.here(&format!("let x{k} = i32({rest} - q{k} * {extent});"));
            rest = format!("q{k}");
        }
        self.here(&format!("let x0 = i32({rest});"));
    }

    /// Whether any view of a `Col` step walks the columns coordinate by coordinate.
    pub fn needs_col_coords(&self, step: &Step) -> bool {
        let (rank, cols) = (self.p.rows.rank(), self.p.cols);
        matches!(step, Step::Col(..)) && any_form(step, |s| walk(&s[rank..], &cols) == Walk::Coords)
    }

    /// The terms of one domain, each with a leading `" + "`.
    fn terms(&mut self, strides: &[isize], domain: &Shape, name: &str) -> String {
        let linear = [(name.to_owned(), strides.last().copied().unwrap_or(0))];
        let each = strides.iter().enumerate();
        let coords: Vec<_> = each.map(|(i, &s)| (format!("{name}{i}"), s)).collect();
        let factors = match walk(strides, domain) {
            Walk::Still => &[],
            Walk::Linear => &linear[..],
            Walk::Coords => &coords[..],
        };
        let mut out = String::new();
        for (coord, stride) in factors.iter().filter(|f| f.1 != 0) {
            out += &format!(" + {coord}");
            if *stride != 1 {
                let stride = self.params.push_i32(*stride);
                out += &format!(" * {}", self.hoist(stride));
            }
        }
        out
    }

    /// An affine form of the coordinates as an `i32` expression.
    pub fn affine(&mut self, strides: &[isize], offset: isize) -> String {
        let (rows, cols) = (self.p.rows, self.p.cols);
        let (of_row, of_col) = strides.split_at(rows.rank());
        let over_rows = self.over_rows;
        let fixed = self.before_loop(|e| {
            let start = e.params.push_i32(offset);
            if over_rows { start } else { format!("{start}{}", e.terms(of_row, &rows, "x")) }
        });
        let mut form = self.hoist(fixed);
        if over_rows {
            form += &self.terms(of_row, &rows, "x");
        }
        if !of_col.is_empty() {
            form += &self.terms(of_col, &cols, "y");
        }
        form
    }

    /// The condition that every guard holds, or `None` where there are none.
    pub fn guards(&mut self, guards: &[Guard]) -> Option<String> {
        let mut terms = Vec::new();
        for guard in guards {
            let form = self.affine(&guard.strides, guard.offset);
            let extent = self.params.push(guard.extent as u32);
            // A negative value is a large one as u32, so one comparison tests both ends.
            terms.push(format!("u32({form}) < {}", self.hoist(extent)));
        }
        (!terms.is_empty()).then(|| terms.join(" && "))
    }

    /// Every instruction of a block; those that are the same in every iteration go in front of the loop. With
    /// `again` the block was written before, for other elements, and those are there.
    pub fn instrs(&mut self, block: &Block, again: bool) {
        for instr in &block.instrs {
            let still = self.body.is_none() || self.is_still(&instr.kind);
            if still && again {
                continue;
            }
            let write = |e: &mut Self| {
                let known = e.instead.iter().find(|(reg, _)| *reg == instr.reg).map(|(_, expr)| expr.clone());
                let expr = known.unwrap_or_else(|| e.instr(instr));
                e.here(&format!("let r{} = {expr};", instr.reg));
            };
            match still {
                true => self.before_loop(write),
                false => write(self),
            }
            self.define(instr.reg, instr.dtype, still);
        }
    }

    /// Whether an instruction gives the same value in every iteration of the current loop.
    fn is_still(&self, kind: &InstrKind) -> bool {
        let rank = if self.over_rows { 0 } else { self.p.rows.rank() };
        let fixed = |v: &View| forms(v).all(|s| s[rank..].iter().all(|&k| k == 0));
        let reg = |r: &Reg| self.reg(*r).1;
        match kind {
            InstrKind::Const(_) | InstrKind::Scalar(_) | InstrKind::Acc => true,
            InstrKind::Load { binding, view } => !self.p.bindings[*binding].written && fixed(view),
            InstrKind::LoadAt { binding, view, index, .. } => {
                !self.p.bindings[*binding].written && fixed(view) && reg(index)
            }
            InstrKind::Index(view) | InstrKind::InBounds(view) => fixed(view),
            InstrKind::Map { f, args, .. } => args[..f.arity].iter().all(reg),
            InstrKind::Cast { arg, .. } | InstrKind::Bitcast { arg, .. } => reg(arg),
            InstrKind::Philox { index, key } => reg(index) && key.iter().all(reg),
        }
    }
}

fn push_line(text: &mut String, depth: usize, line: &str) {
    *text += &"    ".repeat(depth);
    *text += line;
    text.push('\n');
}

/// The strides of a view and of its guards.
fn forms(view: &View) -> impl Iterator<Item = &[isize]> {
    let guards = view.guards.iter().map(|g| &g.strides[..]);
    std::iter::once(&view.strides[..]).chain(guards)
}

/// Whether any affine form of a step satisfies `f`.
fn any_form(step: &Step, f: impl Fn(&[isize]) -> bool) -> bool {
    let (Step::Row(block) | Step::Col(block, _)) = step;
    let of_instrs = block.instrs.iter().filter_map(|i| match &i.kind {
        InstrKind::Load { view, .. }
        | InstrKind::LoadAt { view, .. }
        | InstrKind::Index(view)
        | InstrKind::InBounds(view) => Some(view),
        _ => None,
    });
    let mut views = of_instrs.chain(block.stores.iter().map(|s| &s.view));
    views.any(|v| forms(v).any(&f))
}
