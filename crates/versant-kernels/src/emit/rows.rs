//! Programs without columns: some rows an invocation, four at once where they lie side by side.

use super::block::Emitter;
use super::params::ParamBlock;
use super::wide::{Axis, WIDTH, Widths};
use super::{ROW_GROUP, declarations, entry};
use crate::{Program, Step};

/// The most units of work (rows, or vectors of them) that an invocation takes in turn: on hardware, and on a software
/// adapter.
const MAX_ITEMS: [usize; 2] = [4, 8];

/// Workgroups that should be there before an invocation takes more than one unit.
const BUSY_GROUPS: usize = 512;

/// Writes the steps of a program that has `Row` steps only; `again` as for [`Emitter::instrs`].
pub(super) fn steps(e: &mut Emitter, again: bool) {
    for step in &e.p.steps {
        let Step::Row(block) = step else { unreachable!("the caller looked for columns") };
        e.instrs(block, again);
        e.stores(&block.stores);
    }
}

/// The body of a program without columns, and the number of workgroups.
///
/// On a software adapter an invocation takes neighbouring units, so that it stays within a page of memory; on
/// hardware the invocations of a workgroup take neighbouring units at once, as its memory wants it.
pub(super) fn elementwise(
    p: &Program,
    params: &mut ParamBlock,
    wide: Widths,
    software: bool,
) -> (String, usize) {
    let rows = p.rows.numel();
    let width = if wide.axis == Axis::None { 1 } else { WIDTH };
    let units = rows / width;
    let mut items = (units / (ROW_GROUP * BUSY_GROUPS)).clamp(1, MAX_ITEMS[usize::from(software)]);
    // The halves of a word belong to one invocation.
    let halves = p.stores_halves();
    if halves && width == 1 {
        items = items.next_multiple_of(2);
    }
    let mut e = Emitter::new(p, params, wide);
    let units_word = e.params.push(units as u32);
    let items_word = e.params.push(items as u32);
    e.line("let group = wid.x + wid.y * groups.x;");
    let (first, end, by) = match software || halves && width == 1 {
        true => {
            e.line(&format!("let first = (group * {ROW_GROUP}u + lid) * {items_word};"));
            ("first", format!("first + {items_word}"), "1u".to_owned())
        }
        false => {
            e.line(&format!("let first = group * {ROW_GROUP}u * {items_word};"));
            ("first + lid", format!("first + {ROW_GROUP}u * {items_word}"), format!("{ROW_GROUP}u"))
        }
    };
    e.line(&format!("let end = min({end}, {units_word});"));
    let body = e.in_loop(2, |e| {
        e.here(&format!("let row = unit{};", if width > 1 { " * 4u" } else { "" }));
        e.row_coords();
        steps(e, false);
    });
    e.line(&format!("for (var unit = {first}; unit < end; unit += {by}) {{\n{body}    }}"));
    let mut groups = units.div_ceil(ROW_GROUP * items);
    if width > 1 && p.rows.rank() == 1 {
        // The first invocations of all take what is left, or the first of them the halves of words.
        let bindings = std::mem::take(&mut e.wide.bindings);
        e.wide = Widths::scalar(p, bindings);
        let body = e.in_loop(2, |e| {
            e.row_coords();
            steps(e, true);
        });
        let all = e.params.push(rows as u32);
        if halves {
            e.line(&format!("let rest = select({units_word} * 4u, {all}, group + lid > 0u);"));
            e.line(&format!("for (var row = rest; row < {all}; row += 1u) {{\n{body}    }}"));
        } else {
            e.line(&format!("let row = {units_word} * 4u + group * {ROW_GROUP}u + lid;"));
            e.line(&format!("if (row < {all}) {{\n{body}    }}"));
        }
        groups = groups.max(usize::from(!rows.is_multiple_of(WIDTH)));
    }
    let text = format!("{}{}", declarations(p, &e), entry(ROW_GROUP, &e.text));
    (text, groups)
}
