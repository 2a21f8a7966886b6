//! How reductions combine: columns into an accumulator, the four of a vector into one, and lanes in a tree.

use super::block::Emitter;
use super::instr::{from_bits, to_bits};
use super::value_type;
use super::wide::{Axis, WIDTH, part, register_type, vector};
use crate::{DType, ReduceKind, ReduceOut, Step};

use super::TREE_GROUP;

/// Reductions that go through the tree together; each needs up to two words per invocation.
const TREE_WIDTH: usize = 4;

/// What the variables of an accumulator are called: the value, and the column of an arg-reduction.
pub(super) type Names = [&'static str; 2];

/// Those that end up as results.
pub(super) const RESULT: Names = ["a", "n"];

/// Those of vectors over columns, before the four are one.
pub(super) const FOUR: Names = ["w", "m"];

/// Defines the accumulators of reductions.
pub(super) fn declare(e: &mut Emitter, outs: &[ReduceOut], [acc, at]: Names) {
    let wide = e.wide.axis != Axis::None;
    for out in outs {
        let of = register_type(out.dtype, wide);
        let first = identity(e, out);
        e.line(&format!("var {acc}{} = {of}({first});", out.out));
        if is_arg(out.kind) {
            e.line(&format!("var {at}{} = {}(0i);", out.out, register_type(DType::I32, wide)));
        }
    }
}

/// Makes one accumulator of the four of a vector over columns.
pub(super) fn join_four(e: &mut Emitter, outs: &[ReduceOut]) {
    for out in outs {
        let n = out.out;
        for i in 0..1 + usize::from(is_arg(out.kind)) {
            e.line(&format!("var {}{n} = {}{n}.x;", RESULT[i], FOUR[i]));
        }
        for k in 1..WIDTH {
            e.nested("{", |e| {
                e.here(&format!("let o_a{n} = {};", part(&format!("w{n}"), k)));
                if is_arg(out.kind) {
                    e.here(&format!("let o_n{n} = {};", part(&format!("m{n}"), k)));
                }
                join(e, out);
            });
        }
    }
}

/// Combines the lanes' accumulators of all reductions of a step.
pub(super) fn trees(e: &mut Emitter, outs: &[ReduceOut]) {
    outs.chunks(tree_width(e)).for_each(|batch| tree(e, batch));
}

/// How far apart the lanes of a subgroup are that exchange what they have, one distance after the other.
pub(super) const EXCHANGES: [usize; 6] = [32, 16, 8, 4, 2, 1];

/// Combines the accumulators of a row's lanes within their subgroup: after each exchange twice as many lanes hold the
/// same. Distances are constants, for which cards have moves between registers.
pub(super) fn exchanges(e: &mut Emitter, outs: &[ReduceOut]) {
    let share = |e: &mut Emitter, var: String, dtype: DType, apart: usize| {
        let other = format!("subgroupShuffleXor({}, {apart}u)", to_bits(dtype, &var));
        e.here(&format!("let o_{var} = {};", from_bits(dtype, &other)));
    };
    for apart in EXCHANGES.into_iter().filter(|_| !outs.is_empty()) {
        e.nested(&format!("if (lanes > {apart}u) {{"), |e| {
            for out in outs {
                share(e, format!("a{}", out.out), out.dtype, apart);
                if is_arg(out.kind) {
                    share(e, format!("n{}", out.out), DType::I32, apart);
                }
                join(e, out);
            }
        });
    }
}

pub(super) fn is_arg(kind: ReduceKind) -> bool {
    matches!(kind, ReduceKind::ArgMax | ReduceKind::ArgMin)
}

/// The prefix of the variable that ends up as the result, and the result's type.
pub(super) fn result(out: &ReduceOut) -> (&'static str, DType) {
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

/// Takes the current column, or the current four, into an accumulator.
pub(super) fn accumulate(e: &mut Emitter, out: &ReduceOut, [acc, at]: Names) {
    let (acc, at) = (format!("{acc}{}", out.out), format!("{at}{}", out.out));
    let axis = e.wide.axis;
    if !is_arg(out.kind) {
        let sum = match axis {
            Axis::None => combine(out, &acc, &e.name(out.value, 0)),
            _ => vector(value_type(out.dtype), |k| combine(out, &part(&acc, k), &e.name(out.value, k))),
        };
        return e.here(&format!("{acc} = {sum};"));
    }
    for k in 0..if axis == Axis::None { 1 } else { WIDTH } {
        let place = |name: &str| if axis == Axis::None { name.to_owned() } else { part(name, k) };
        let value = e.name(out.value, k);
        let better = better(out, &value, &place(&acc));
        let column = if axis == Axis::Cols && k > 0 { format!("y + {k}i") } else { "y".to_owned() };
        e.nested(&format!("if ({better}) {{"), |e| {
            e.here(&format!("{} = {value};", place(&acc)));
            e.here(&format!("{} = {column};", place(&at)));
        });
    }
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
    let wide = e.wide.axis == Axis::Rows;
    // Lanes of a row lie side by side, or one for each of the rows of a workgroup.
    let apart = if wide { " * per" } else { "" };
    // Variables and the shared array of each.
    let mut vars = Vec::new();
    for out in outs {
        vars.push((format!("a{}", out.out), out.dtype));
        if is_arg(out.kind) {
            vars.push((format!("n{}", out.out), DType::I32));
        }
    }
    let words = |var: &str, dtype: DType| match wide {
        true => vector("u32", |k| to_bits(dtype, &part(var, k))),
        false => to_bits(dtype, var),
    };
    let share = |e: &mut Emitter| {
        for (i, (var, dtype)) in vars.iter().enumerate() {
            e.here(&format!("{}{i}[lid] = {};", array(e), words(var, *dtype)));
        }
    };
    let values = |e: &mut Emitter, i: usize, at: &str, dtype: DType| match wide {
        true => {
            let n = e.fresh();
            e.here(&format!("let s{n} = {}{i}[{at}];", array(e)));
            vector(value_type(dtype), |k| from_bits(dtype, &part(&format!("s{n}"), k)))
        }
        false => from_bits(dtype, &format!("{}{i}[{at}]", array(e))),
    };
    share(e);
    e.nested("for (var half = lanes >> 1u; half > 0u; half = half >> 1u) {", |e| {
        e.here("workgroupBarrier();");
        e.nested("if (lane < half) {", |e| {
            for (i, (var, dtype)) in vars.iter().enumerate() {
                let other = values(e, i, &format!("lid + half{apart}"), *dtype);
                e.here(&format!("let o_{var} = {other};"));
            }
            outs.iter().for_each(|out| join(e, out));
            share(e);
        });
    });
    e.line("workgroupBarrier();");
    for (i, (var, dtype)) in vars.iter().enumerate() {
        let value = values(e, i, &format!("lid - lane{apart}"), *dtype);
        e.line(&format!("{var} = {value};"));
    }
    // The arrays are written again by the next tree.
    e.line("workgroupBarrier();");
}

/// Takes another accumulator, `o_a…` (and `o_n…`), into this one.
fn join(e: &mut Emitter, out: &ReduceOut) {
    let n = out.out;
    let (acc, other) = (format!("a{n}"), format!("o_a{n}"));
    let wide = e.wide.axis == Axis::Rows;
    let place = |name: &str, k: usize| if wide { part(name, k) } else { name.to_owned() };
    if !is_arg(out.kind) {
        let sum = match wide {
            true => vector(value_type(out.dtype), |k| combine(out, &part(&acc, k), &part(&other, k))),
            false => combine(out, &acc, &other),
        };
        return e.here(&format!("{acc} = {sum};"));
    }
    for k in 0..if wide { WIDTH } else { 1 } {
        let (acc, other) = (place(&acc, k), place(&other, k));
        let (at, from) = (place(&format!("n{n}"), k), place(&format!("o_n{n}"), k));
        // Of equal values the one that stands first wins, whichever lane found it.
        let (wins, loses) = (better(out, &other, &acc), better(out, &acc, &other));
        e.nested(&format!("if ({wins} || ({from} < {at} && !{loses})) {{"), |e| {
            e.here(&format!("{acc} = {other};"));
            e.here(&format!("{at} = {from};"));
        });
    }
}

/// How many reductions share the trees' memory: 16 KiB hold four words an invocation, or their vectors.
fn tree_width(e: &Emitter) -> usize {
    if e.wide.axis == Axis::Rows { TREE_WIDTH / 2 } else { TREE_WIDTH }
}

/// What a tree's arrays are called: kernels that share a launch share those that are alike.
fn array(e: &Emitter) -> &'static str {
    if e.wide.axis == Axis::Rows { "shared_four" } else { "shared" }
}

/// The arrays that trees use.
pub(super) fn shared_memory(e: &Emitter) -> String {
    let words = |o: &ReduceOut| 1 + usize::from(is_arg(o.kind));
    let trees = e.p.steps.iter().flat_map(|s| match s {
        Step::Row(_) => [].chunks(TREE_WIDTH),
        Step::Col(_, outs) => outs.chunks(tree_width(e)),
    });
    let most: usize = trees.map(|t| t.iter().map(words).sum()).max().unwrap_or(0);
    let of = if e.wide.axis == Axis::Rows { "vec4<u32>" } else { "u32" };
    let name = array(e);
    (0..most).map(|i| format!("var<workgroup> {name}{i}: array<{of}, {TREE_GROUP}>;\n")).collect()
}
