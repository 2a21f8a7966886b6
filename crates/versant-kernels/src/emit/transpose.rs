//! Programs without columns that read along another dimension than they write along, for graphics cards.
//!
//! A workgroup takes a tile of 32 x 32 elements: it loads what lies across with neighbouring invocations along the
//! dimension that is contiguous there, puts it into workgroup memory, and goes on with neighbouring invocations along
//! the innermost dimension, where everything else lies. So both sides read or write 128 bytes in a row.

use super::block::Emitter;
use super::instr::{from_bits, to_bits};
use super::params::ParamBlock;
use super::wide::{Array, Widths};
use super::{declarations, entry, rows};
use crate::{Instr, InstrKind, Program, Reg, Step, View};

/// Extents of a tile, whose rows have a word more than that in workgroup memory, so that its columns meet all banks.
const TILE: usize = 32;

/// Invocations of a workgroup.
const GROUP: usize = 256;

/// Least extent of both dimensions: below it most of a tile would be idle.
const LEAST: usize = 16;

/// Loads of a program that go through workgroup memory: 16 KiB have room for three tiles.
const MOST: usize = 3;

/// The dimension along which loads lie that are not along the innermost one, and those loads.
pub(super) struct Across {
    axis: usize,
    loads: Vec<Reg>,
}

/// What of a folded program goes through workgroup memory; `None` if nothing does, or it would not help.
pub(super) fn across(p: &Program) -> Option<Across> {
    let last = p.rows.rank().checked_sub(1).filter(|&last| p.rows[last] >= LEAST)?;
    let steps = |v: &View, axis: usize| v.strides[axis].unsigned_abs();
    let blocks = p.steps.iter().map(|s| match s {
        Step::Row(block) | Step::Col(block, _) => block,
    });
    let stores = blocks.clone().flat_map(|b| &b.stores);
    if stores.clone().any(|s| steps(&s.view, last) != 1) {
        return None;
    }
    // An element that is written over must not be read by another invocation, nor by this one once it is written.
    let reads = |b: usize| !p.bindings[b].written;
    let mut found: Option<Across> = None;
    for instr in blocks.flat_map(|b| &b.instrs) {
        let InstrKind::Load { binding, view } = &instr.kind else { continue };
        let axis = (0..last).find(|&a| steps(view, a) == 1 && p.rows[a] >= LEAST);
        let Some(axis) = axis.filter(|_| steps(view, last) > 1 && reads(*binding)) else { continue };
        let across = found.get_or_insert(Across { axis, loads: Vec::new() });
        if across.axis == axis && across.loads.len() < MOST {
            across.loads.push(instr.reg);
        }
    }
    found
}

/// The body of such a program, and the number of workgroups.
pub(super) fn tiled(p: &Program, params: &mut ParamBlock, across: &Across) -> (String, usize) {
    let (last, axis) = (p.rows.rank() - 1, across.axis);
    let mut e = Emitter::new(p, params, Widths::scalar(p, vec![Array::Words; p.bindings.len()]));
    e.line("let group = wid.x + wid.y * groups.x;");
    let mut rest = "group".to_owned();
    let mut groups = 1;
    // Neighbouring workgroups are neighbours along the innermost dimension; what is not in the tile comes last.
    let others = (0..last).rev().filter(|&a| a != axis);
    for a in [last, axis].into_iter().chain(others) {
        let tiles = if a == last || a == axis { p.rows[a].div_ceil(TILE) } else { p.rows[a] };
        let count = e.params.push(tiles.max(1) as u32);
        e.line(&format!("let t{a} = {rest} % {count};"));
        e.line(&format!("let g{a} = {rest} / {count};"));
        rest = format!("g{a}");
        groups *= tiles;
    }
    let extents: Vec<String> = p.rows.iter().map(|&d| e.params.push(d as u32)).collect();
    e.line("let lane = lid & 31u;");
    let load = e.in_loop(2, |e| {
        place(e, &extents, [last, axis], ["line", "lane"], true);
        for (n, instr) in tiles_of(p, across) {
            let value = e.instr(instr);
            e.here(&format!("let v{n} = {value};"));
            e.here(&format!("tile{n}[line * 33u + lane] = {};", to_bits(instr.dtype, &format!("v{n}"))));
        }
    });
    e.line(&format!("for (var line = lid >> 5u; line < 32u; line += 8u) {{\n{load}    }}"));
    e.line("workgroupBarrier();");
    let body = e.in_loop(2, |e| {
        place(e, &extents, [last, axis], ["lane", "line"], false);
        let inside = format!("u{last} < {} && u{axis} < {}", extents[last], extents[axis]);
        for (n, instr) in tiles_of(p, across) {
            e.instead(instr.reg, from_bits(instr.dtype, &format!("tile{n}[lane * 33u + line]")));
        }
        e.nested(&format!("if ({inside}) {{"), |e| rows::steps(e, false));
    });
    e.line(&format!("for (var line = lid >> 5u; line < 32u; line += 8u) {{\n{body}    }}"));
    let words = TILE * (TILE + 1);
    let tiles = (0..across.loads.len()).map(|n| format!("var<workgroup> tile{n}: array<u32, {words}>;\n"));
    let text = format!("{}{}{}", declarations(p, &e), tiles.collect::<String>(), entry(GROUP, &e.text));
    (text, groups)
}

/// The instructions whose values go through workgroup memory, each with its tile's number.
fn tiles_of<'a>(p: &'a Program, across: &'a Across) -> impl Iterator<Item = (usize, &'a Instr)> {
    p.instrs().filter_map(|i| Some((across.loads.iter().position(|r| *r == i.reg)?, i)))
}

/// Coordinates of an invocation's element, whose places in the tile along both dimensions are `within`; inside of the
/// domain, if that is asked for.
fn place(e: &mut Emitter, extents: &[String], dims: [usize; 2], within: [&str; 2], inside: bool) {
    for (a, extent) in extents.iter().enumerate() {
        let at = match dims.iter().position(|d| *d == a) {
            None => format!("t{a}"),
            Some(i) if inside => format!("min(t{a} * {TILE}u + {}, {extent} - 1u)", within[i]),
            Some(i) => format!("t{a} * {TILE}u + {}", within[i]),
        };
        e.here(&format!("let u{a} = {at};"));
        e.here(&format!("let x{a} = i32(u{a});"));
    }
    let row = (1..extents.len()).fold("u0".to_owned(), |row, a| format!("({row}) * {} + u{a}", extents[a]));
    e.here(&format!("let x = i32({row});"));
}
