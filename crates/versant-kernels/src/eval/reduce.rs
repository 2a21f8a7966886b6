//! Reductions over columns, tile by tile, in an order that depends on shapes only.

use bytemuck::Pod;
use pulp::NullaryFnOnce;

use super::blocking::Order;
use crate::lanes::{extreme, fold_lanes, fold_slice, vectorised};
use crate::{DType, ReduceKind};

/// Columns that a lane adds up one after the other before the sum goes to the pairwise tree.
const SEQUENTIAL: usize = 32;

/// A number as reductions see it.
trait Number: Pod {
    const ZERO: Self;
    const ONE: Self;
    const LOW: Self;
    const HIGH: Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The larger; NaN if either is.
    fn larger(self, other: Self) -> Self;
    /// The smaller; NaN if either is.
    fn smaller(self, other: Self) -> Self;
    /// The same for values in registers, where a choice between the two is the fastest.
    #[inline(always)]
    fn largest(self, other: Self) -> Self {
        if self.below(other) { other } else { self }
    }
    #[inline(always)]
    fn smallest(self, other: Self) -> Self {
        if self.above(other) { other } else { self }
    }
    /// Whether `other` replaces `self` as the maximum: it is larger, or the first NaN.
    fn below(self, other: Self) -> bool;
    /// Whether `other` replaces `self` as the minimum.
    fn above(self, other: Self) -> bool;
    /// The largest of some values, or the smallest.
    #[inline(always)]
    fn largest_of(values: &[Self]) -> Self {
        fold_slice(values, Self::LOW, Self::largest)
    }
    #[inline(always)]
    fn smallest_of(values: &[Self]) -> Self {
        fold_slice(values, Self::HIGH, Self::smallest)
    }
}

impl Number for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const LOW: f32 = f32::NEG_INFINITY;
    const HIGH: f32 = f32::INFINITY;
    #[inline(always)]
    fn add(self, other: f32) -> f32 {
        self + other
    }
    #[inline(always)]
    fn mul(self, other: f32) -> f32 {
        self * other
    }
    // Not a choice between the two operands: where one of them is the accumulator, LLVM would make that a
    // masked store, which costs AMD processors ten times the time.
    #[inline(always)]
    fn larger(self, other: f32) -> f32 {
        let nan = self.is_nan() | other.is_nan();
        if nan { self + other } else { f32::max(self, other) }
    }
    #[inline(always)]
    fn smaller(self, other: f32) -> f32 {
        let nan = self.is_nan() | other.is_nan();
        if nan { self + other } else { f32::min(self, other) }
    }
    // Not `<=` is larger or NaN.
    #[inline(always)]
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    fn below(self, other: f32) -> bool {
        !(other <= self) & !self.is_nan()
    }
    #[inline(always)]
    #[allow(clippy::neg_cmp_op_on_partial_ord)]
    fn above(self, other: f32) -> bool {
        !(other >= self) & !self.is_nan()
    }
    // Without a NaN the comparison is one instruction.
    #[inline(always)]
    fn largest_of(values: &[f32]) -> f32 {
        let best = extreme(values, true);
        best.unwrap_or_else(|| fold_slice(values, f32::LOW, f32::largest))
    }
    #[inline(always)]
    fn smallest_of(values: &[f32]) -> f32 {
        let best = extreme(values, false);
        best.unwrap_or_else(|| fold_slice(values, f32::HIGH, f32::smallest))
    }
}

macro_rules! integer {
    ($type:ty) => {
        impl Number for $type {
            const ZERO: $type = 0;
            const ONE: $type = 1;
            const LOW: $type = <$type>::MIN;
            const HIGH: $type = <$type>::MAX;
            #[inline(always)]
            fn add(self, other: $type) -> $type {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn mul(self, other: $type) -> $type {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn larger(self, other: $type) -> $type {
                Ord::max(self, other)
            }
            #[inline(always)]
            fn smaller(self, other: $type) -> $type {
                Ord::min(self, other)
            }
            #[inline(always)]
            fn below(self, other: $type) -> bool {
                other > self
            }
            #[inline(always)]
            fn above(self, other: $type) -> bool {
                other < self
            }
        }
    };
}

integer!(i32);
integer!(u32);

/// The value of an empty reduction, as a word; for arg-reductions the extreme that nothing loses against.
fn neutral(kind: ReduceKind, dtype: DType) -> u32 {
    fn of<T: Number>(kind: ReduceKind) -> T {
        match kind {
            ReduceKind::Sum => T::ZERO,
            ReduceKind::Prod => T::ONE,
            ReduceKind::Max | ReduceKind::ArgMax => T::LOW,
            ReduceKind::Min | ReduceKind::ArgMin => T::HIGH,
        }
    }
    match dtype {
        DType::I32 => of::<i32>(kind) as u32,
        DType::U32 => of::<u32>(kind),
        DType::Bool => of::<u32>(kind).min(1),
        DType::F32 | DType::F16 | DType::BF16 => of::<f32>(kind).to_bits(),
    }
}

/// A tile of values handed to a reduction.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub order: Order,
    pub rows: usize,
    pub cols: usize,
    /// Column number of the tile's first column.
    pub first_col: usize,
}

/// A reduction in progress, for some rows at once.
pub(super) struct State {
    kind: ReduceKind,
    dtype: DType,
    /// The value so far of each row.
    acc: Vec<u32>,
    /// Column number of that value, for arg-reductions.
    index: Vec<u32>,
    /// For float sums: columns in `acc` that are not in `sums` yet.
    pending: usize,
    sums: Pairwise,
}

impl State {
    pub fn new(kind: ReduceKind, dtype: DType) -> State {
        State { kind, dtype, acc: Vec::new(), index: Vec::new(), pending: 0, sums: Pairwise::default() }
    }

    /// Starts over with `rows` rows.
    pub fn reset(&mut self, rows: usize) {
        self.acc.clear();
        self.acc.resize(rows, neutral(self.kind, self.dtype));
        if self.is_arg() {
            self.index.clear();
            self.index.resize(rows, 0);
        }
        self.pending = 0;
        self.sums.occupied = 0;
    }

    fn is_arg(&self) -> bool {
        matches!(self.kind, ReduceKind::ArgMax | ReduceKind::ArgMin)
    }

    fn is_float_sum(&self) -> bool {
        self.kind == ReduceKind::Sum && self.dtype.is_float()
    }

    /// Takes in the values of a tile.
    pub fn add(&mut self, values: &[u32], tile: Tile) {
        if self.is_float_sum() && self.pending >= SEQUENTIAL {
            self.flush();
        }
        match self.dtype {
            DType::I32 => self.add_as::<i32>(values, tile),
            DType::U32 | DType::Bool => self.add_as::<u32>(values, tile),
            DType::F32 | DType::F16 | DType::BF16 => self.add_as::<f32>(values, tile),
        }
        if self.is_float_sum() {
            self.pending += match tile.order {
                Order::ColsInner => SEQUENTIAL,
                Order::RowsInner => tile.cols,
            };
        }
    }

    fn flush(&mut self) {
        if self.pending > 0 {
            self.sums.push(bytemuck::cast_slice(&self.acc));
            self.acc.fill(0);
            self.pending = 0;
        }
    }

    fn add_as<T: Number>(&mut self, values: &[u32], tile: Tile) {
        let values: &[T] = bytemuck::cast_slice(values);
        match self.kind {
            ReduceKind::Sum => self.fold(values, tile, T::add, T::add, |v| fold_slice(v, T::ZERO, T::add)),
            ReduceKind::Prod => self.fold(values, tile, T::mul, T::mul, |v| fold_slice(v, T::ONE, T::mul)),
            ReduceKind::Max => self.fold(values, tile, T::larger, T::largest, T::largest_of),
            ReduceKind::Min => self.fold(values, tile, T::smaller, T::smallest, T::smallest_of),
            ReduceKind::ArgMax => self.find(values, tile, T::LOW, T::below),
            ReduceKind::ArgMin => self.find(values, tile, T::HIGH, T::above),
        }
    }

    /// Combines by `f` in memory, by `g`, which is the same, in registers, and by `all` many values in a row.
    #[inline(always)]
    fn fold<T: Number>(
        &mut self,
        values: &[T],
        tile: Tile,
        f: impl Fn(T, T) -> T,
        g: impl Fn(T, T) -> T,
        all: impl Fn(&[T]) -> T,
    ) {
        let acc: &mut [T] = bytemuck::cast_slice_mut(&mut self.acc);
        match tile.order {
            Order::ColsInner => {
                for (acc, row) in acc.iter_mut().zip(values.chunks_exact(tile.cols)) {
                    *acc = g(*acc, all(row));
                }
            }
            Order::RowsInner => {
                for column in values.chunks_exact(tile.rows) {
                    fold_lanes(acc, column, &f);
                }
            }
        }
    }

    /// Keeps the first value that no other `beats`, and its column.
    #[inline(always)]
    fn find<T: Number>(&mut self, values: &[T], tile: Tile, start: T, beaten: impl Fn(T, T) -> bool) {
        let acc: &mut [T] = bytemuck::cast_slice_mut(&mut self.acc);
        match tile.order {
            Order::ColsInner => {
                for (row, values) in values.chunks_exact(tile.cols).enumerate() {
                    let best = fold_slice(values, start, |a, b| if beaten(a, b) { b } else { a });
                    // The first value that loses against no other: neither beats the other.
                    let first = values.iter().position(|&v| !beaten(best, v) && !beaten(v, best));
                    if beaten(acc[row], best) {
                        acc[row] = best;
                        self.index[row] = (tile.first_col + first.unwrap_or(0)) as u32;
                    }
                }
            }
            Order::RowsInner => {
                for (column, values) in values.chunks_exact(tile.rows).enumerate() {
                    let column = (tile.first_col + column) as u32;
                    vectorised(Keep { acc, index: &mut self.index, values, column, beaten: &beaten });
                }
            }
        }
    }

    /// Takes in the result of `other`, which reduced the columns that follow.
    pub fn merge(&mut self, other: &mut State) {
        if self.is_float_sum() {
            let mut total = vec![0; self.acc.len()];
            other.finish(&mut total);
            self.flush();
            self.sums.push(bytemuck::cast_slice(&total));
            return;
        }
        let tile = Tile { order: Order::RowsInner, rows: other.acc.len(), cols: 1, first_col: 0 };
        if !self.is_arg() {
            return self.add(&other.acc, tile);
        }
        for row in 0..other.acc.len() {
            let (mine, theirs) = (self.acc[row], other.acc[row]);
            let wins = match self.dtype {
                DType::I32 => self.beaten(mine as i32, theirs as i32),
                DType::U32 | DType::Bool => self.beaten(mine, theirs),
                _ => self.beaten(f32::from_bits(mine), f32::from_bits(theirs)),
            };
            if wins {
                self.acc[row] = theirs;
                self.index[row] = other.index[row];
            }
        }
    }

    fn beaten<T: Number>(&self, mine: T, theirs: T) -> bool {
        match self.kind {
            ReduceKind::ArgMin => mine.above(theirs),
            _ => mine.below(theirs),
        }
    }

    /// Writes what an arg-reduction found at its results.
    pub fn extremes(&self, out: &mut [u32]) {
        out.copy_from_slice(&self.acc);
    }

    /// Writes the result of each row.
    pub fn finish(&mut self, out: &mut [u32]) {
        if self.is_arg() {
            out.copy_from_slice(&self.index);
        } else if self.is_float_sum() && self.sums.occupied != 0 {
            self.flush();
            self.sums.total(bytemuck::cast_slice_mut(out));
        } else {
            out.copy_from_slice(&self.acc);
        }
    }
}

/// Takes in one more value a row, of one column.
struct Keep<'a, T, F> {
    acc: &'a mut [T],
    index: &'a mut [u32],
    values: &'a [T],
    column: u32,
    beaten: F,
}

impl<T: Number, F: Fn(T, T) -> bool> NullaryFnOnce for Keep<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        /// Rows whose new values are stored together, whether they changed or not: see `Number::larger`.
        const WIDTH: usize = 16;
        let rows = self.acc.chunks_mut(WIDTH).zip(self.index.chunks_mut(WIDTH));
        for ((acc, index), values) in rows.zip(self.values.chunks(WIDTH)) {
            let (mut best, mut at) = ([T::ZERO; WIDTH], [0; WIDTH]);
            let lanes = acc.iter().zip(index.iter()).zip(values).zip(best.iter_mut().zip(&mut at));
            for (((&acc, &index), &value), (best, at)) in lanes {
                let wins = (self.beaten)(acc, value);
                *best = if wins { value } else { acc };
                *at = if wins { self.column } else { index };
            }
            acc.copy_from_slice(&best[..acc.len()]);
            index.copy_from_slice(&at[..index.len()]);
        }
    }
}

/// Partial sums combined like the digits of a binary counter, so that the rounding error grows with the
/// logarithm of their number.
#[derive(Default)]
struct Pairwise {
    levels: Vec<Vec<f32>>,
    /// Bit `i` is set while `levels[i]`, the sum of `2^i` partial sums, waits for its equal.
    occupied: u64,
}

impl Pairwise {
    fn push(&mut self, partial: &[f32]) {
        let level = self.occupied.trailing_ones() as usize;
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        let (below, at) = self.levels.split_at_mut(level);
        at[0].clear();
        at[0].extend_from_slice(partial);
        for older in below {
            fold_lanes(&mut at[0], older, |new, old| old + new);
        }
        self.occupied += 1;
    }

    fn total(&self, out: &mut [f32]) {
        let mut first = true;
        for (level, sum) in self.levels.iter().enumerate() {
            if self.occupied >> level & 1 == 1 {
                match first {
                    true => out.copy_from_slice(sum),
                    false => fold_lanes(out, sum, |low, high| high + low),
                }
                first = false;
            }
        }
    }
}
