//! Programs with columns: the loop over them, and how reductions combine.
//!
//! On a software adapter one invocation evaluates a row, unless the row is too long for lavapipe, which ends every
//! loop of an invocation, silently, after 65,535 iterations in all. On hardware, and there, `lanes` of them do, a power of two up to the
//! workgroup: lane `l` takes columns `l, l + lanes, …`, then the lanes' results combine in a tree through
//! workgroup memory. `lanes` is a parameter, so the same text serves every extent. All lanes evaluate what belongs
//! to the row; lane 0 stores it. Rows beyond the last one repeat the last row without storing, so that every
//! barrier is reached by all. Float sums add up runs of 64 terms first, which keeps the error of long rows small
//! where a driver may undo compensated summation.

use super::block::Emitter;
use super::instr::{from_bits, to_bits};
use super::params::ParamBlock;
use super::{SOFT_ROW_GROUP, TREE_GROUP, declarations, entry, value_type};
use crate::{Block, DType, Instr, InstrKind, Program, ReduceKind, ReduceOut, Step};

/// Terms that a float sum adds up before it adds to the total.
const RUN: usize = 64;

/// Columns that a lane should have to itself before another lane joins in.
const COLUMNS_PER_LANE: usize = 4;

/// Reductions that go through the tree together; each needs up to two words per invocation.
const TREE_WIDTH: usize = 4;

/// Iterations that an invocation may spend on a software adapter: below lavapipe's 65,535, with room
/// for the runs of float sums, which add one in 64.
const SOFT_ITERATIONS: usize = 60_000;

/// Writes the steps of a program that has `Row` steps only.
pub(super) fn row_steps(e: &mut Emitter) {
    for step in &e.p.steps {
        let Step::Row(block) = step else { unreachable!("the caller looked for columns") };
        e.instrs(block);
        e.stores(&block.stores);
    }
}

/// The kernel of a program with columns, and its number of workgroups.
pub(super) fn rows_and_cols(p: &Program, params: &mut ParamBlock, software: bool) -> (String, usize) {
    let (rows, cols) = (p.rows.numel(), p.cols.numel());
    let alone = software && iterations(p) <= SOFT_ITERATIONS;
    let lanes = match alone {
        true => 1,
        false => cols.div_ceil(COLUMNS_PER_LANE).next_power_of_two().clamp(1, TREE_GROUP),
    };
    let mut e = Emitter::new(p, params);
    let (group, per_group) = match alone {
        true => (SOFT_ROW_GROUP, SOFT_ROW_GROUP),
        false => (TREE_GROUP, TREE_GROUP / lanes),
    };
    header(&mut e, rows, cols, lanes, alone);
    let mut touched = Touched::default();
    for step in &p.steps {
        if !alone && touched.conflicts(step) {
            e.line("storageBarrier();");
        }
        match step {
            Step::Row(block) => row_step(&mut e, block, alone),
            Step::Col(block, outs) => col_step(&mut e, step, block, outs, alone),
        }
        touched.note(step);
    }
    let shared = match alone {
        true => String::new(),
        false => shared_memory(p),
    };
    let text = format!("{}{shared}{}", declarations(p, 0, &e), entry(group, &e.text));
    (text, rows.div_ceil(per_group))
}

/// Loop iterations of an invocation that has a row to itself.
fn iterations(p: &Program) -> usize {
    let per_column = |block: &Block| -> usize {
        // The exact float remainder is a loop too, of up to 32 iterations.
        let is_rem = |i: &&Instr| match &i.kind {
            InstrKind::Map { f, operand, .. } => *operand == DType::F32 && f.wgsl.contains("v_rem_"),
            _ => false,
        };
        1 + 33 * block.instrs.iter().filter(is_rem).count()
    };
    let steps = p.steps.iter().map(|s| match s {
        Step::Row(_) => 0,
        Step::Col(block, _) => per_column(block),
    });
    steps.sum::<usize>() * p.cols.numel()
}

/// Which row an invocation works on, and how many columns there are.
fn header(e: &mut Emitter, rows: usize, cols: usize, lanes: usize, alone: bool) {
    let rows = e.params.push(rows as u32);
    let cols = e.params.push(cols as u32);
    let group = "(wid.x + wid.y * groups.x)";
    if alone {
        e.line(&format!("let row = {group} * {SOFT_ROW_GROUP}u + lid;"));
        e.line(&format!("if (row >= {rows}) {{ return; }}"));
    } else {
        let lanes = e.params.push(lanes as u32);
        e.line(&format!("let lanes = {lanes};"));
        e.line("let lane = lid & (lanes - 1u);");
        e.line(&format!("let slot = {group} * ({TREE_GROUP}u / lanes) + lid / lanes;"));
        e.line(&format!("let live = slot < {rows};"));
        e.line(&format!("let row = min(slot, {rows} - 1u);"));
    }
    e.line(&format!("let cols = {cols};"));
    e.row_coords();
    if e.p.steps.iter().any(|s| e.needs_col_coords(s)) {
        (0..e.p.cols.rank()).for_each(|k| e.line(&format!("var y{k} = 0i;")));
    }
}

/// A step that is evaluated once per row.
fn row_step(e: &mut Emitter, block: &Block, alone: bool) {
    e.instrs(block);
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
fn col_step(e: &mut Emitter, step: &Step, block: &Block, outs: &[ReduceOut], alone: bool) {
    let is_run = |r: &&ReduceOut| r.kind == ReduceKind::Sum && r.dtype == DType::F32;
    let runs: Vec<&ReduceOut> = outs.iter().filter(is_run).collect();
    for out in outs {
        let first = identity(e, out);
        e.line(&format!("var a{}: {} = {first};", out.out, value_type(out.dtype)));
        if is_arg(out.kind) {
            e.line(&format!("var n{} = 0i;", out.out));
        }
    }
    let coords = e.needs_col_coords(step).then(|| start_coords(e, alone));
    let body = e.in_loop(if runs.is_empty() { 2 } else { 3 }, |e| {
        e.here("let y = i32(col);");
        e.instrs(block);
        if alone || block.stores.is_empty() {
            e.stores(&block.stores);
        } else {
            e.nested("if (live) {", |e| e.stores(&block.stores));
        }
        for out in outs {
            accumulate(e, out, if is_run(&out) { "p" } else { "a" });
        }
        if let Some(digits) = &coords {
            advance(e, digits);
        }
    });
    let (first, by) = if alone { ("0u", "1u") } else { ("lane", "lanes") };
    if runs.is_empty() {
        e.line(&format!("for (var col = {first}; col < cols; col += {by}) {{\n{body}    }}"));
    } else {
        run_loop(e, &runs, &body, first, by);
    }
    for batch in outs.chunks(TREE_WIDTH) {
        if !alone {
            tree(e, batch);
        }
    }
    for out in outs {
        let (prefix, dtype) = result(out);
        e.line(&format!("let r{0} = {prefix}{0};", out.out));
        e.define(out.out, dtype, true);
    }
}

/// The loop over columns in runs, so that float sums add short partial sums.
fn run_loop(e: &mut Emitter, runs: &[&ReduceOut], body: &str, first: &str, by: &str) {
    let mut text = format!("for (var base = {first}; base < cols; base += {RUN}u * {by}) {{\n");
    text += &format!("        let end = min(base + {RUN}u * {by}, cols);\n");
    for out in runs {
        text += &format!("        var p{} = 0.0;\n", out.out);
    }
    text += &format!("        for (var col = base; col < end; col += {by}) {{\n{body}        }}\n");
    for out in runs {
        text += &format!("        a{0} += p{0};\n", out.out);
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
    let (mut from, mut step) = ("lane".to_owned(), "lanes".to_owned());
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
            terms.push("1i".to_owned());
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

fn is_arg(kind: ReduceKind) -> bool {
    matches!(kind, ReduceKind::ArgMax | ReduceKind::ArgMin)
}

/// The prefix of the variable that ends up as the result, and the result's type.
fn result(out: &ReduceOut) -> (&'static str, DType) {
    match is_arg(out.kind) {
        true => ("n", DType::I32),
        false => ("a", out.dtype),
    }
}

/// What a reduction starts from: what it gives over nothing, or for an arg-reduction the worst value.
fn identity(e: &mut Emitter, out: &ReduceOut) -> String {
    use ReduceKind::{ArgMax, ArgMin, Max, Min, Prod, Sum};
    let text = match (out.kind, out.dtype) {
        (Sum, DType::F32) => "0.0",
        (Sum, DType::I32) => "0i",
        (Sum, DType::U32) | (Max | ArgMax, DType::U32) => "0u",
        (Prod, DType::F32) => "1.0",
        (Prod, DType::I32) => "1i",
        (Prod, DType::U32) => "1u",
        (Sum | Max | ArgMax, DType::Bool) => "false",
        (Prod | Min | ArgMin, DType::Bool) => "true",
        (Max | ArgMax, DType::I32) => "i32(-2147483648)",
        (Min | ArgMin, DType::I32) => "2147483647i",
        (Min | ArgMin, DType::U32) => "4294967295u",
        (Max | ArgMax, _) => return e.params.push_f32(f32::NEG_INFINITY),
        (Min | ArgMin, _) => return e.params.push_f32(f32::INFINITY),
        (Sum | Prod, _) => unreachable!("16-bit types are refused when an op is recorded"),
    };
    text.to_owned()
}

/// Takes the current column into an accumulator, `p…` or `a…`.
fn accumulate(e: &mut Emitter, out: &ReduceOut, acc: &str) {
    let acc = format!("{acc}{}", out.out);
    let value = format!("r{}", out.value);
    if !is_arg(out.kind) {
        let sum = combine(out, &acc, &value);
        return e.here(&format!("{acc} = {sum};"));
    }
    let better = better(out, &value, &acc);
    e.nested(&format!("if ({better}) {{"), |e| {
        e.here(&format!("{acc} = {value};"));
        e.here(&format!("n{} = y;", out.out));
    });
}

/// Two values of a plain reduction in one.
fn combine(out: &ReduceOut, a: &str, b: &str) -> String {
    let dtype = value_type(out.dtype);
    match (out.kind, out.dtype) {
        (ReduceKind::Sum, DType::Bool) | (ReduceKind::Max, DType::Bool) => format!("{a} || {b}"),
        (ReduceKind::Prod, DType::Bool) => format!("{a} && {b}"),
        (ReduceKind::Sum, _) => format!("{a} + {b}"),
        (ReduceKind::Prod, _) => format!("{a} * {b}"),
        (ReduceKind::Min, _) => format!("v_min_{dtype}({a}, {b})"),
        _ => format!("v_max_{dtype}({a}, {b})"),
    }
}

/// Whether `a` replaces `b` in an arg-reduction if it stands later.
fn better(out: &ReduceOut, a: &str, b: &str) -> String {
    let order = match out.kind {
        ReduceKind::ArgMax => "v_above",
        _ => "v_below",
    };
    format!("{order}_{}({a}, {b})", value_type(out.dtype))
}

/// Combines the lanes' accumulators; afterwards every lane holds the row's result.
fn tree(e: &mut Emitter, outs: &[ReduceOut]) {
    // Variables and the shared array of each.
    let mut vars = Vec::new();
    for out in outs {
        vars.push((format!("a{}", out.out), out.dtype));
        if is_arg(out.kind) {
            vars.push((format!("n{}", out.out), DType::I32));
        }
    }
    let share = |e: &mut Emitter| {
        for (i, (var, dtype)) in vars.iter().enumerate() {
            e.here(&format!("shared{i}[lid] = {};", to_bits(*dtype, var)));
        }
    };
    share(e);
    e.nested("for (var half = lanes >> 1u; half > 0u; half = half >> 1u) {", |e| {
        e.here("workgroupBarrier();");
        e.nested("if (lane < half) {", |e| {
            for (i, (var, dtype)) in vars.iter().enumerate() {
                let other = from_bits(*dtype, &format!("shared{i}[lid + half]"));
                e.here(&format!("let o_{var} = {other};"));
            }
            outs.iter().for_each(|out| join(e, out));
            share(e);
        });
    });
    e.line("workgroupBarrier();");
    for (i, (var, dtype)) in vars.iter().enumerate() {
        let value = from_bits(*dtype, &format!("shared{i}[lid - lane]"));
        e.line(&format!("{var} = {value};"));
    }
    // The arrays are written again by the next tree.
    e.line("workgroupBarrier();");
}

/// Takes another lane's accumulator, `o_a…` (and `o_n…`), into this lane's.
fn join(e: &mut Emitter, out: &ReduceOut) {
    let n = out.out;
    let (acc, other) = (format!("a{n}"), format!("o_a{n}"));
    if !is_arg(out.kind) {
        let sum = combine(out, &acc, &other);
        return e.here(&format!("{acc} = {sum};"));
    }
    // Of equal values the one that stands first wins, whichever lane found it.
    let (wins, loses) = (better(out, &other, &acc), better(out, &acc, &other));
    e.nested(&format!("if ({wins} || (o_n{n} < n{n} && !{loses})) {{"), |e| {
        e.here(&format!("{acc} = {other};"));
        e.here(&format!("n{n} = o_n{n};"));
    });
}

/// The arrays that trees use.
fn shared_memory(p: &Program) -> String {
    let words = |o: &ReduceOut| 1 + usize::from(is_arg(o.kind));
    let trees = p.steps.iter().flat_map(|s| match s {
        Step::Row(_) => [].chunks(TREE_WIDTH),
        Step::Col(_, outs) => outs.chunks(TREE_WIDTH),
    });
    let most = trees.map(|t| t.iter().map(words).sum()).max().unwrap_or(0);
    (0..most).map(|i: usize| format!("var<workgroup> shared{i}: array<u32, {TREE_GROUP}>;\n")).collect()
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
