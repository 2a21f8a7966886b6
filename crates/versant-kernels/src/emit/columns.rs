//! Programs with columns: the loop over them, and how reductions combine.
//!
//! On a software adapter one invocation evaluates a row, unless the row is too long for lavapipe, which ends every
//! loop of an invocation, silently, after 65,535 iterations in all. On hardware, and there, `lanes` of them do, a power of two up to the
//! workgroup: lane `l` takes columns `l, l + lanes, …`, then the lanes' results combine in a tree through
//! workgroup memory, or where a row is short and lies along memory, by exchanges within a subgroup. `lanes` is a parameter,
//! so the same text serves every extent. All lanes evaluate what belongs
//! to the row; lane 0 stores it. Rows beyond the last one repeat the last row without storing, so that every
//! barrier is reached by all. Float sums add up runs of 64 terms first, which keeps the error of long rows small
//! where a driver may undo compensated summation.

use super::block::Emitter;
use super::params::ParamBlock;
use super::reduce::{
    EXCHANGES, FOUR, RESULT, accumulate, declare, exchanges, join_four, result, shared_memory, trees,
};
use super::wide::{Access, Array, Axis, WIDTH, Widths, register_type};
use super::{SOFT_ROW_GROUP, TREE_GROUP, declarations, entry, entry_by_subgroups};
use crate::{Block, Caps, DType, Instr, InstrKind, Program, ReduceKind, ReduceOut, Step};

/// Terms that a float sum adds up before it adds to the total.
const RUN: usize = 64;

/// Columns that a lane should have to itself before another lane joins in.
const COLUMNS_PER_LANE: usize = 4;

/// The same in vectors of columns.
const VECTORS_PER_LANE: usize = 4;

/// Vectors of rows side by side that a workgroup reads at once.
const NEIGHBOURS: usize = 8;

/// Columns that each invocation of a subgroup may have before a whole workgroup shares the row.
const COLUMNS_OF_SUBGROUP: usize = 64;

/// Vectors of columns that a software adapter takes in one round of a loop over a long row, whose own cost is that of two
/// loads; and from how many columns on, since each is compiled.
const WRITTEN_OUT: usize = 4;
const LONG: usize = 4096;
/// Instructions of a column that are worth it.
const FEW: usize = 4;

/// Iterations that an invocation may spend on a software adapter: below lavapipe's 65,535, with room
/// for the runs of float sums, which add one in 64.
const SOFT_ITERATIONS: usize = 60_000;

/// Who evaluates a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Crew {
    /// One invocation.
    One,
    /// Invocations of one subgroup, which exchange what they have without memory or barriers.
    Subgroup,
    /// Invocations of one workgroup.
    Workgroup,
}

impl Crew {
    fn of(p: &Program, wide: &Widths, caps: &Caps) -> Crew {
        if caps.is_software() && iterations(p, wide.axis) <= SOFT_ITERATIONS {
            return Crew::One;
        }
        // The columns of a row that lies along memory are features, not a batch that may be short once.
        let along = wide.axis == Axis::Cols && caps.subgroup_rows;
        let short = p.cols.numel() <= COLUMNS_OF_SUBGROUP * caps.min_subgroup as usize;
        if along && short { Crew::Subgroup } else { Crew::Workgroup }
    }
}

/// The kernel of a program with columns, and its number of workgroups.
pub(super) fn rows_and_cols(
    p: &Program,
    params: &mut ParamBlock,
    mut wide: Widths,
    caps: &Caps,
) -> (String, usize) {
    let crew = Crew::of(p, &wide, caps);
    let alone = crew == Crew::One;
    let long = |s: &Step| matches!(s, Step::Col(block, _) if is_written_out(p, &wide, block));
    let pairs = alone && caps.int64 && p.steps.iter().any(long);
    if pairs {
        wide.pair(p);
    }
    let (rows, cols) = (p.rows.numel(), p.cols.numel());
    let together = if wide.axis == Axis::Rows { WIDTH } else { 1 };
    let (own, most) = match wide.axis {
        Axis::None => (COLUMNS_PER_LANE, TREE_GROUP),
        Axis::Rows => (COLUMNS_PER_LANE, TREE_GROUP / NEIGHBOURS),
        Axis::Cols if crew == Crew::Subgroup => {
            (VECTORS_PER_LANE * WIDTH, (caps.min_subgroup as usize).min(2 * EXCHANGES[0]))
        }
        Axis::Cols => (VECTORS_PER_LANE * WIDTH, TREE_GROUP),
    };
    let lanes = if alone { 1 } else { cols.div_ceil(own).next_power_of_two().clamp(1, most) };
    let mut e = Emitter::new(p, params, wide);
    let group = if alone { SOFT_ROW_GROUP } else { TREE_GROUP };
    header(&mut e, rows, cols, lanes, crew);
    let mut touched = Touched::default();
    for step in &p.steps {
        if !alone && touched.conflicts(step) {
            e.line("storageBarrier();");
        }
        match step {
            Step::Row(block) => row_step(&mut e, block, alone),
            Step::Col(block, outs) => col_step(&mut e, step, block, outs, crew),
        }
        touched.note(step);
    }
    let shared = if crew == Crew::Workgroup { shared_memory(&e) } else { String::new() };
    let entry = if crew == Crew::Subgroup { entry_by_subgroups } else { entry };
    let text = format!("{}{shared}{}", declarations(p, &e), entry(group, &e.text));
    (text, rows.div_ceil(group / lanes * together))
}

/// Whether one invocation takes several vectors of columns of a row in a round of its loop: where that is the work.
/// Whether the extent is a multiple of them is structure, as it is of one vector.
fn is_written_out(p: &Program, wide: &Widths, block: &Block) -> bool {
    let cols = p.cols.numel();
    let in_fours = |i: &Instr| match &i.kind {
        InstrKind::Load { binding, view } => match wide.axis.access(p.rows.rank(), view) {
            Access::Same => true,
            Access::Whole => wide.bindings[*binding] != Array::Words,
            Access::Each => false,
        },
        InstrKind::LoadAt { .. } => false,
        _ => true,
    };
    let few = block.stores.is_empty() && block.instrs.len() <= FEW && block.instrs.iter().all(in_fours);
    let whole = p.cols.rank() == 1 && cols.is_multiple_of(WRITTEN_OUT * WIDTH);
    wide.axis == Axis::Cols && cols >= LONG && whole && few
}

/// Loop iterations of an invocation that has a row to itself.
fn iterations(p: &Program, axis: Axis) -> usize {
    let cols = p.cols.numel();
    let (times, rems) = match axis {
        Axis::None => (cols, 1),
        Axis::Rows => (cols, WIDTH),
        Axis::Cols => (cols / WIDTH + WIDTH, WIDTH),
    };
    let per_column = |block: &Block| -> usize {
        // The exact float remainder is a loop too, of up to 32 iterations.
        let is_rem = |i: &&Instr| match &i.kind {
            InstrKind::Map { f, operand, .. } => *operand == DType::F32 && f.wgsl.contains("v_rem_"),
            _ => false,
        };
        1 + 33 * rems * block.instrs.iter().filter(is_rem).count()
    };
    let steps = p.steps.iter().map(|s| match s {
        Step::Row(_) => 0,
        Step::Col(block, _) => per_column(block),
    });
    steps.sum::<usize>() * times
}

/// Which row an invocation works on, and how many columns there are.
fn header(e: &mut Emitter, rows: usize, cols: usize, lanes: usize, crew: Crew) {
    let rows = e.params.push(rows as u32);
    let cols = e.params.push(cols as u32);
    let group = "(wid.x + wid.y * groups.x)";
    if crew == Crew::One {
        let by = if e.wide.axis == Axis::Rows { " * 4u" } else { "" };
        e.line(&format!("let row = ({group} * {SOFT_ROW_GROUP}u + lid){by};"));
        e.line(&format!("if (row >= {rows}) {{ return; }}"));
    } else {
        let lanes = e.params.push(lanes as u32);
        e.line(&format!("let lanes = {lanes};"));
        let all = if crew == Crew::Subgroup { "sub_size".to_owned() } else { format!("{TREE_GROUP}u") };
        e.line(&format!("let per = {all} / lanes;"));
        // Neighbouring invocations read neighbouring words.
        let (lane, slot, one) = match e.wide.axis {
            _ if crew == Crew::Subgroup => {
                ("sub_lane & (lanes - 1u)", format!("({group} * subs + sub) * per + sub_lane / lanes"), "1u")
            }
            Axis::Rows => ("lid / per", format!("({group} * per + lid % per) * 4u"), "4u"),
            _ => ("lid & (lanes - 1u)", format!("{group} * per + lid / lanes"), "1u"),
        };
        e.line(&format!("let lane = {lane};"));
        e.line(&format!("let slot = {slot};"));
        e.line(&format!("let live = slot < {rows};"));
        e.line(&format!("let row = min(slot, {rows} - {one});"));
    }
    e.line(&format!("let cols = {cols};"));
    if e.wide.axis == Axis::Cols {
        e.line("let full = cols - (cols & 3u);");
    }
    e.row_coords();
    if e.p.steps.iter().any(|s| e.needs_col_coords(s)) {
        (0..e.p.cols.rank()).for_each(|k| e.line(&format!("var y{k} = 0i;")));
    }
}

/// A step that is evaluated once per row.
fn row_step(e: &mut Emitter, block: &Block, alone: bool) {
    e.instrs(block, false);
    if block.stores.is_empty() {
    } else if alone {
        e.stores(&block.stores);
    } else {
        let stored = |b: usize| block.stores.iter().any(|s| s.binding == b);
        if loads(block).any(stored) {
            // Every lane must have loaded the old value before lane 0 replaces it.
            e.line("storageBarrier();");
        }
        e.nested("if (live && lane == 0u) {", |e| e.stores(&block.stores));
    }
}

/// A step that is evaluated once per column, and its reductions.
fn col_step(e: &mut Emitter, step: &Step, block: &Block, outs: &[ReduceOut], crew: Crew) {
    let alone = crew == Crew::One;
    let over_cols = e.wide.axis == Axis::Cols;
    let names = if over_cols { FOUR } else { RESULT };
    declare(e, outs, names);
    let is_run = |r: &&ReduceOut| r.kind == ReduceKind::Sum && r.dtype == DType::F32;
    let runs: Vec<&ReduceOut> = outs.iter().filter(is_run).collect();
    let coords = e.needs_col_coords(step).then(|| start_coords(e, alone));
    let body = e.in_loop(if runs.is_empty() { 2 } else { 3 }, |e| {
        column(e, block, alone, false);
        for out in outs {
            accumulate(e, out, if is_run(&out) { ["p", "p"] } else { names });
        }
        if let Some(digits) = &coords {
            advance(e, digits);
        }
    });
    let long = alone && is_written_out(e.p, &e.wide, block);
    let body = if long { written_out(&body) } else { body };
    let (mut first, mut by, mut end) = if alone { ("0u", "1u", "cols") } else { ("lane", "lanes", "cols") };
    if over_cols {
        (first, by, end) = if alone { ("0u", "4u", "full") } else { ("lane * 4u", "lanes * 4u", "full") };
    }
    let mut run = RUN;
    if long {
        (by, run) = ("16u", RUN / WRITTEN_OUT);
    }
    if runs.is_empty() {
        e.line(&format!("for (var col = {first}; col < {end}; col += {by}) {{\n{body}    }}"));
    } else {
        run_loop(e, &runs, &body, names[0], run, [first, by, end]);
    }
    if over_cols {
        join_four(e, outs);
        if e.p.cols.rank() == 1 && !long {
            rest(e, block, outs, alone);
        }
    }
    match crew {
        Crew::One => {}
        Crew::Subgroup => exchanges(e, outs),
        Crew::Workgroup => trees(e, outs),
    }
    for out in outs {
        let (prefix, dtype) = result(out);
        e.line(&format!("let r{0} = {prefix}{0};", out.out));
        e.define(out.out, dtype, true);
    }
}

/// A loop's body for so many vectors of columns, one after the other, so that sums keep their order.
fn written_out(body: &str) -> String {
    let one = |k: usize| {
        let y = format!("let y = i32(col + {}u);", k * WIDTH);
        format!("            {{\n{}            }}\n", body.replacen("let y = i32(col);", &y, 1))
    };
    (0..WRITTEN_OUT).map(one).collect()
}

/// The instructions and stores of a column; `again` as for [`Emitter::instrs`].
fn column(e: &mut Emitter, block: &Block, alone: bool, again: bool) {
    e.here("let y = i32(col);");
    e.instrs(block, again);
    if alone || block.stores.is_empty() {
        e.stores(&block.stores);
    } else {
        e.nested("if (live) {", |e| e.stores(&block.stores));
    }
}

/// The up to three columns after the last vector, one by one.
fn rest(e: &mut Emitter, block: &Block, outs: &[ReduceOut], alone: bool) {
    let scalar = Widths::scalar(e.p, e.wide.bindings.clone());
    let wide = std::mem::replace(&mut e.wide, scalar);
    let body = e.in_loop(2, |e| {
        column(e, block, alone, true);
        outs.iter().for_each(|out| accumulate(e, out, RESULT));
    });
    e.wide = wide;
    let (first, by) = if alone { ("full", "1u") } else { ("full + lane", "lanes") };
    e.line(&format!("for (var col = {first}; col < cols; col += {by}) {{\n{body}    }}"));
}

/// The loop over columns in runs, so that float sums add short partial sums.
fn run_loop(
    e: &mut Emitter,
    runs: &[&ReduceOut],
    body: &str,
    total: &str,
    run: usize,
    [first, by, end]: [&str; 3],
) {
    let zero = format!("{}(0.0)", register_type(DType::F32, e.wide.axis != Axis::None));
    let mut text = format!("for (var base = {first}; base < {end}; base += {run}u * {by}) {{\n");
    text += &format!("        let end = min(base + {run}u * {by}, {end});\n");
    for out in runs {
        text += &format!("        var p{} = {zero};\n", out.out);
    }
    text += &format!("        for (var col = base; col < end; col += {by}) {{\n{body}        }}\n");
    for out in runs {
        text += &format!("        {total}{0} += p{0};\n", out.out);
    }
    e.line(&format!("{text}    }}"));
}

/// Sets the coordinates `y0…` to the first column, and how far a step of the loop moves each (empty for none).
fn start_coords(e: &mut Emitter, alone: bool) -> Vec<String> {
    let cols = e.p.cols;
    // They become divisors; an extent of 0 leaves nothing to divide.
    let extents: Vec<String> = cols.iter().map(|&d| e.params.push(d.max(1) as u32)).collect();
    if alone {
        (0..cols.rank()).for_each(|k| e.line(&format!("y{k} = 0i;")));
        return vec![String::new(); cols.rank()];
    }
    let n = e.fresh();
    let times = if e.wide.axis == Axis::Cols { " * 4u" } else { "" };
    let (mut from, mut step) = (format!("(lane{times})"), format!("(lanes{times})"));
    for k in (1..cols.rank()).rev() {
        let extent = &extents[k];
        e.line(&format!("y{k} = i32({from} % {extent});"));
        e.line(&format!("let d{n}_{k} = i32({step} % {extent});"));
        e.line(&format!("let f{n}_{k} = {from} / {extent};"));
        e.line(&format!("let s{n}_{k} = {step} / {extent};"));
        (from, step) = (format!("f{n}_{k}"), format!("s{n}_{k}"));
    }
    e.line(&format!("y0 = i32({from});"));
    e.line(&format!("let d{n}_0 = i32({step});"));
    (0..cols.rank()).map(|k| format!("d{n}_{k}")).collect()
}

/// Moves the coordinates to the next column without a division: add digit by digit, with carries.
fn advance(e: &mut Emitter, digits: &[String]) {
    let last = digits.len() - 1;
    for k in (0..=last).rev() {
        let mut terms: Vec<String> = digits[k..=k].iter().filter(|d| !d.is_empty()).cloned().collect();
        if terms.is_empty() && k == last {
            terms.push(if e.wide.axis == Axis::Cols { "4i" } else { "1i" }.to_owned());
        }
        if k < last {
            terms.push(format!("c{}", k + 1));
        }
        e.here(&format!("y{k} += {};", terms.join(" + ")));
        if k > 0 {
            let extent = e.params.push(e.p.cols[k] as u32);
            let extent = e.hoist(format!("i32({extent})"));
            e.here(&format!("let c{k} = select(0i, 1i, y{k} >= {extent});"));
            e.here(&format!("y{k} -= c{k} * {extent};"));
        }
    }
}

/// The bindings that a block loads from.
fn loads(block: &Block) -> impl Iterator<Item = usize> {
    block.instrs.iter().filter_map(|i| match i.kind {
        InstrKind::Load { binding, .. } | InstrKind::LoadAt { binding, .. } => Some(binding),
        _ => None,
    })
}

/// Bindings that earlier steps used. Lanes of a row drift apart between barriers, so a step that stores what an
/// earlier one touched, or loads what an earlier one stored, waits for all of them.
#[derive(Default)]
struct Touched {
    loaded: Vec<usize>,
    stored: Vec<usize>,
}

impl Touched {
    fn conflicts(&self, step: &Step) -> bool {
        let (Step::Row(block) | Step::Col(block, _)) = step;
        let mut stores = block.stores.iter().map(|s| s.binding);
        loads(block).any(|b| self.stored.contains(&b))
            || stores.any(|b| self.stored.contains(&b) || self.loaded.contains(&b))
    }

    fn note(&mut self, step: &Step) {
        let (Step::Row(block) | Step::Col(block, _)) = step;
        self.loaded.extend(loads(block));
        self.stored.extend(block.stores.iter().map(|s| s.binding));
    }
}
