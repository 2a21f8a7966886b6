//! Lane order and block sizes.
//!
//! A `Col` step runs over tiles of rows × columns whose lanes are a contiguous range of the domain in
//! one of two orders. [`Order::ColsInner`] walks whole rows (softmax over contiguous rows: several short
//! rows or a piece of a long one a tile); [`Order::RowsInner`] holds one accumulator a lane and walks the
//! columns one after the other (sum over the first axis, pooling windows).

use super::BLOCK;
use super::access::Access;
use crate::{Instr, InstrKind, Program, Step, View};

/// Which coordinate varies from lane to lane in a `Col` step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// `rows ++ cols`.
    ColsInner,
    /// `cols ++ rows`.
    RowsInner,
}

/// The axes of a step's views in lane order.
pub(super) fn axes(p: &Program, is_col: bool, order: Order) -> Vec<usize> {
    let (r, c) = (p.rows.rank(), p.cols.rank());
    match (is_col, order) {
        (false, _) => (0..r).collect(),
        (true, Order::ColsInner) => (0..r + c).collect(),
        (true, Order::RowsInner) => (r..r + c).chain(0..r).collect(),
    }
}

/// Cost of accessing one lane in simple vector instructions: strided lanes move one by one, short runs
/// by a table of their addresses, and each run costs about as much as fifty lanes that move together.
pub(super) fn access_cost(access: &Access) -> usize {
    if access.has_table() {
        return 4;
    }
    let (extent, stride) = access.inner();
    let lane = if matches!(stride, 0 | 1) { 1 } else { 6 };
    lane + 50 / extent.max(1)
}

/// Lane order, rows of a block, and rows and columns of a tile.
pub(super) fn blocking(p: &Program) -> (Order, usize, usize, usize) {
    let (rows, cols) = (p.rows.numel(), p.cols.numel());
    let has_cols = p.steps.iter().any(|s| matches!(s, Step::Col(..)));
    if !has_cols || rows == 0 || cols == 0 {
        let block = block_of(p);
        return (Order::ColsInner, block, block, 1);
    }
    let cost = |order| -> usize {
        let axes = axes(p, true, order);
        let mut sum = 0;
        for step in &p.steps {
            let Step::Col(block, reduces) = step else {
                continue;
            };
            let loads = block.instrs.iter().filter_map(|i| match &i.kind {
                InstrKind::Load { view, .. } => Some(view),
                _ => None,
            });
            let views = loads.chain(block.stores.iter().map(|s| &s.view));
            sum += views.map(|v| access_cost(&Access::new(v, &axes))).sum::<usize>();
            sum += reduces.len() * (2 + 40 / if order == Order::ColsInner { cols } else { rows });
        }
        sum
    };
    if cost(Order::RowsInner) < cost(Order::ColsInner) {
        let block = rows.min(BLOCK);
        return (Order::RowsInner, block, block, if rows == block { BLOCK / block } else { 1 });
    }
    if 2 * cols <= BLOCK {
        let tile = BLOCK / cols;
        // Several tiles make a block, so that row steps have more than a few lanes, where enough blocks are left for jobs.
        let tiles = [8, 4, 2].into_iter().find(|tiles| rows >= 16 * tiles * tile).unwrap_or(1);
        return (Order::ColsInner, (tiles * tile).min(BLOCK), tile, cols);
    }
    let most = if only_reads(p) { LONG } else { BLOCK };
    let tile = cols.div_ceil(cols.div_ceil(most)).next_multiple_of(16).min(cols);
    // Several long rows make a block, so that row steps have more than one lane.
    let block = (8 * BLOCK / cols).clamp(1, 8);
    (Order::ColsInner, block, 1, tile)
}

/// Lanes of a block without columns: if that does not take many more blocks, one whose lanes share what a channel's pixels
/// share, or begin where an operand's elements come again.
fn block_of(p: &Program) -> usize {
    let axes = axes(p, false, Order::ColsInner);
    let (mut run, mut period) = (usize::MAX, 1);
    for instr in p.instrs() {
        let InstrKind::Load { view, .. } = &instr.kind else { continue };
        let access = Access::new(view, &axes);
        match (access.inner(), access.period()) {
            ((extent, 0), _) if !access.guarded() && extent >= BLOCK / 4 => run = run.min(extent),
            (_, Some(lanes)) => period = period.max(lanes),
            _ => {}
        }
    }
    if run < 8 * BLOCK {
        // The largest equal pieces of such a run; of long ones most blocks lie within one anyway.
        let pieces = (run.div_ceil(BLOCK)..=run / (BLOCK / 4)).find(|&pieces| run.is_multiple_of(pieces));
        return pieces.map_or(BLOCK, |pieces| run / pieces);
    }
    if period <= BLOCK { BLOCK / period * period } else { BLOCK }
}

/// Columns of a tile that only reduces what lies in memory.
const LONG: usize = 1 << 13;

/// Whether a program does nothing over its columns but reduce what lies there in a row, so that no value takes a block.
fn only_reads(p: &Program) -> bool {
    let axes = axes(p, true, Order::ColsInner);
    let read = |view: &View| {
        let access = Access::new(view, &axes);
        let (extent, stride) = access.inner();
        !access.guarded() && stride == 1 && extent.is_multiple_of(p.cols.numel())
    };
    p.steps.iter().all(|step| match step {
        Step::Row(_) => true,
        Step::Col(block, reduces) => {
            let load = |i: &Instr| match &i.kind {
                InstrKind::Load { binding, view } => {
                    let of = &p.bindings[*binding];
                    !of.written && !of.dtype.is_half() && read(view)
                }
                _ => false,
            };
            // What is reduced is one of these loads: another register would be spread over the lanes of a block.
            let loaded = |value| block.instrs.iter().any(|i| i.reg == value);
            let all = block.instrs.iter().all(load) && reduces.iter().all(|r| loaded(r.value));
            all && block.stores.is_empty()
        }
    })
}
