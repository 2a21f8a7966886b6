//! The product of packed panels, the inner loop of convolutions on the CPU.
//!
//! A left operand lies in panels of [`rows`] rows, a right one in panels of [`COLS`] columns, each with the contracted
//! index outermost, so that a step reads both in a row: on AVX2 two vectors and six broadcasts for twelve
//! multiply-adds, whose accumulators are twelve of the sixteen registers; on AVX-512 two panels of columns side by side,
//! two vectors and eight broadcasts for sixteen. Patches of an image are packed straight into panels (`patches.rs`): a
//! library's product would want them as a matrix first, which it then packs once more.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::transpose::transposed;
use crate::lanes::{arch, isa};

/// Rows of a tile where vectors have sixteen lanes, and where they have fewer.
pub(super) const WIDE: usize = 8;
pub(super) const NARROW: usize = 6;
/// Columns of a panel.
pub(super) const COLS: usize = 16;
/// Most steps of the contracted index that are packed at once: a panel of columns then fits the first-level cache.
pub(super) const DEPTH: usize = 384;

/// Rows of a tile on this machine.
pub(super) fn rows() -> usize {
    if isa() == "avx512" { WIDE } else { NARROW }
}

/// A strided matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    /// The buffer.
    pub data: &'a [f32],
    /// Offset of element (0, 0).
    pub offset: isize,
    /// Extents: rows, columns.
    pub size: [usize; 2],
    /// Elements per row and per column; any sign, or 0.
    pub strides: [isize; 2],
}

impl<'a> Mat<'a> {
    /// A row-major matrix from the beginning of `data`.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        Mat { data, offset: 0, size: [rows, cols], strides: [cols as isize, 1] }
    }

    /// The transpose.
    pub fn t(self) -> Mat<'a> {
        Mat { size: [self.size[1], self.size[0]], strides: [self.strides[1], self.strides[0]], ..self }
    }

    /// Rows and columns from `start`, `size` of them.
    pub fn block(self, start: [usize; 2], size: [usize; 2]) -> Mat<'a> {
        let at = |i: usize| start[i] as isize * self.strides[i];
        Mat { offset: self.offset + at(0) + at(1), size, ..self }
    }

    /// Whether every element lies inside the slice.
    pub fn in_bounds(&self) -> bool {
        let (mut low, mut high) = (self.offset, self.offset);
        for (&extent, &stride) in self.size.iter().zip(&self.strides) {
            if extent == 0 {
                return true;
            }
            let span = (extent as isize - 1).checked_mul(stride);
            let Some(span) = span else { return false };
            low = low.saturating_add(span.min(0));
            high = high.saturating_add(span.max(0));
        }
        low >= 0 && high < self.data.len() as isize
    }

    /// Packs the columns into panels of `W`, the last filled up with zeros; `out` holds exactly those.
    pub fn pack<const W: usize>(self, out: &mut [f32]) {
        let [depth, lanes] = self.size;
        let [down, across] = self.strides;
        for (number, panel) in out.chunks_exact_mut(depth * W).enumerate() {
            let panel = panel.as_chunks_mut::<W>().0;
            let width = W.min(lanes - number * W);
            let first = self.offset + (number * W) as isize * across;
            if across == 1 && width == W {
                for (p, row) in panel.iter_mut().enumerate() {
                    let at = (first + p as isize * down) as usize;
                    row.copy_from_slice(&self.data[at..at + W]);
                }
                continue;
            }
            if width < W {
                panel.fill([0.0; W]);
            }
            let line = |lane: usize| &self.data[(first + lane as isize * across) as usize..][..depth];
            let mut done = 0;
            if down == 1 && width == W {
                let mut lines: [&[f32]; W] = [&[]; W];
                lines.iter_mut().enumerate().for_each(|(lane, to)| *to = line(lane));
                done = transposed(lines, panel);
            }
            for lane in 0..width {
                let at = first + lane as isize * across;
                if down == 1 {
                    panel.iter_mut().zip(line(lane)).skip(done).for_each(|(row, &x)| row[lane] = x);
                } else {
                    for (p, row) in panel.iter_mut().enumerate() {
                        row[lane] = self.data[(at + p as isize * down) as usize];
                    }
                }
            }
        }
    }

    /// [`Mat::pack`] for a number of lanes that only the machine tells.
    pub fn pack_by(self, lanes: usize, out: &mut [f32]) {
        match lanes {
            COLS => self.pack::<COLS>(out),
            WIDE => self.pack::<WIDE>(out),
            _ => self.pack::<NARROW>(out),
        }
    }
}

/// The steps that a contracted extent is cut into, as equal as can be.
pub(super) fn depths(k: usize) -> usize {
    k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1)
}

/// A product over tiles. What differs is where rows and sums lie.
pub(super) trait Tiles: Sized {
    /// The number of panels of columns.
    fn panels(&self) -> usize;

    /// All rows of some panels of columns, `P` at once.
    fn tiles<S: Simd, const R: usize, const P: usize, const V: usize>(
        &mut self,
        simd: S,
        panels: Range<usize>,
    );

    /// Computes it on the calling thread.
    fn run(self) {
        arch().dispatch(OverTiles(self));
    }
}

struct OverTiles<T>(T);

impl<T: Tiles> WithSimd for OverTiles<T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let panels = self.0.panels();
        let pairs = panels / 2 * 2;
        match S::F32_LANES {
            16 => {
                self.0.tiles::<S, WIDE, 2, 1>(simd, 0..pairs);
                self.0.tiles::<S, WIDE, 1, 1>(simd, pairs..panels);
            }
            8 => self.0.tiles::<S, NARROW, 1, 2>(simd, 0..panels),
            4 => self.0.tiles::<S, NARROW, 1, 4>(simd, 0..panels),
            _ => self.0.tiles::<S, NARROW, 1, 16>(simd, 0..panels),
        }
    }
}

/// `acc = a · b` or `acc += a · b` over panels of one depth.
pub(super) struct Product<'a> {
    /// Panels of rows.
    pub a: &'a [f32],
    /// Panels of columns.
    pub b: &'a [f32],
    /// Steps of the contracted index.
    pub depth: usize,
    /// The result, row-major.
    pub acc: &'a mut [f32],
    /// Elements of the result per row.
    pub ld: usize,
    /// Extents of the result.
    pub size: [usize; 2],
    /// What becomes of the sums.
    pub sums: Sums<'a>,
}

/// What becomes of a product's sums.
#[derive(Clone, Copy)]
pub(super) enum Sums<'a> {
    /// They are the result.
    Store,
    /// They are added to it.
    Add,
    /// They are kept in place of the result, for the next steps of the contracted index to add theirs: whole tiles one behind the
    /// other, since rows a page or more apart share few places of the caches.
    Keep {
        /// Whether these are added to what is kept.
        more: bool,
    },
    /// Added to what is kept they are the result.
    Finish(&'a [f32]),
}

impl Sums<'_> {
    /// Whether the result is there already, in part.
    pub fn stored_or_added(add: bool) -> Self {
        if add { Sums::Add } else { Sums::Store }
    }
}

/// The same with the rows of `a` read where they lie; they are dense.
pub(super) struct RowsProduct<'a> {
    pub a: Mat<'a>,
    /// Panels of columns.
    pub b: &'a [f32],
    /// The result, row-major and dense.
    pub acc: &'a mut [f32],
    /// Its columns.
    pub cols: usize,
    /// What becomes of the sums.
    pub sums: Sums<'a>,
}

impl Tiles for RowsProduct<'_> {
    fn panels(&self) -> usize {
        self.b.len() / (self.a.size[1] * COLS)
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const P: usize, const V: usize>(
        &mut self,
        simd: S,
        panels: Range<usize>,
    ) {
        let [rows, depth] = self.a.size;
        let (size, cols) = (depth * COLS, self.cols);
        for first in panels.step_by(P) {
            let b: [&[[f32; COLS]]; P] =
                std::array::from_fn(|p| self.b[(first + p) * size..][..size].as_chunks::<COLS>().0);
            for top in (0..rows).step_by(R) {
                let mut from: [&[f32]; R] = [&[]; R];
                for (r, line) in from.iter_mut().enumerate() {
                    // Rows beyond the last one repeat it, and are not stored.
                    let row = (top + r).min(rows - 1) as isize;
                    *line = &self.a.data[(self.a.offset + row * self.a.strides[0]) as usize..][..depth];
                }
                let mut tile = [[[simd.splat_f32s(0.0); V]; P]; R];
                steps(simd, &mut tile, from, b);
                let at = [top, first * COLS];
                place::<S, R, P, V>(simd, self.acc, [rows, cols], cols, at, tile, self.sums);
            }
        }
    }
}

/// The accumulators of a tile of `R` rows over `P` panels of columns, `V` vectors a row of a panel.
pub(super) type Tile<S, const R: usize, const P: usize, const V: usize> = [[[<S as Simd>::f32s; V]; P]; R];

impl Tiles for Product<'_> {
    fn panels(&self) -> usize {
        self.b.len() / (self.depth * COLS)
    }

    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const P: usize, const V: usize>(
        &mut self,
        simd: S,
        panels: Range<usize>,
    ) {
        let size = self.depth * COLS;
        for first in panels.step_by(P) {
            let b: [&[[f32; COLS]]; P] =
                std::array::from_fn(|p| self.b[(first + p) * size..][..size].as_chunks::<COLS>().0);
            for (i, a) in self.a.chunks_exact(self.depth * R).enumerate() {
                let a = a.as_chunks::<R>().0;
                let b = b.map(|b| &b[..a.len()]);
                let mut tile = [[[simd.splat_f32s(0.0); V]; P]; R];
                for (step_number, a) in a.iter().enumerate() {
                    step(simd, &mut tile, *a, b.map(|b| &b[step_number]));
                }
                let at = [i * R, first * COLS];
                place::<S, R, P, V>(simd, self.acc, self.size, self.ld, at, tile, self.sums);
            }
        }
    }
}

/// As many steps as the panels of columns have, over rows that are read where they lie.
#[inline(always)]
pub(super) fn steps<S: Simd, const R: usize, const P: usize, const V: usize>(
    simd: S,
    tile: &mut Tile<S, R, P, V>,
    mut from: [&[f32]; R],
    mut panels: [&[[f32; COLS]]; P],
) {
    // In a place of their own, or the sums would go through memory at each step.
    let mut sums = *tile;
    let depth = panels[0].len();
    // Equal lengths, so that no step checks bounds.
    for line in &mut from {
        *line = &line[..depth];
    }
    for panel in &mut panels {
        *panel = &panel[..depth];
    }
    for x in 0..depth {
        let (mut a, mut b) = ([0.0; R], [&[0.0; COLS]; P]);
        for (a, line) in a.iter_mut().zip(from) {
            *a = line[x];
        }
        for (b, panel) in b.iter_mut().zip(panels) {
            *b = &panel[x];
        }
        step(simd, &mut sums, a, b);
    }
    *tile = sums;
}

/// One step of the contracted index.
#[inline(always)]
pub(super) fn step<S: Simd, const R: usize, const P: usize, const V: usize>(
    simd: S,
    tile: &mut Tile<S, R, P, V>,
    a: [f32; R],
    b: [&[f32; COLS]; P],
) {
    let b: [[S::f32s; V]; P] = b.map(|b| bytemuck::cast(*b));
    for (row, a) in tile.iter_mut().zip(a) {
        let a = simd.splat_f32s(a);
        for (sums, b) in row.iter_mut().zip(&b) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = simd.mul_add_e_f32s(a, b, *sum);
            }
        }
    }
}

/// Has a method run with the vectors of this machine, `V` of which make a panel of [`COLS`] lanes.
macro_rules! over_panels {
    ($name:ident, $method:ident) => {
        impl pulp::WithSimd for $name<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, simd: S) {
                match S::F32_LANES {
                    16 => self.$method::<S, 1>(simd),
                    8 => self.$method::<S, 2>(simd),
                    4 => self.$method::<S, 4>(simd),
                    _ => self.$method::<S, 16>(simd),
                }
            }
        }
    };
}
pub(super) use over_panels;

/// Stores or adds what of a tile lies within a row-major matrix, a whole one straight from registers; or keeps it.
#[inline(always)]
fn place<S: Simd, const R: usize, const P: usize, const V: usize>(
    simd: S,
    acc: &mut [f32],
    [rows, cols]: [usize; 2],
    ld: usize,
    [top, left]: [usize; 2],
    mut tile: Tile<S, R, P, V>,
    sums: Sums<'_>,
) {
    let kept = left * rows.next_multiple_of(R) + top * P * COLS;
    if let Sums::Keep { more } = sums {
        let dst = acc[kept..][..R * P * COLS].as_chunks_mut::<COLS>().0;
        for (dst, row) in dst.chunks_exact_mut(P).zip(&tile) {
            for (dst, row) in dst.iter_mut().zip(row) {
                put(dst, bytemuck::cast(*row), more);
            }
        }
        return;
    }
    if let Sums::Finish(from) = sums {
        let from = from[kept..][..R * P * COLS].as_chunks::<COLS>().0;
        for (row, from) in tile.iter_mut().zip(from.chunks_exact(P)) {
            for (row, from) in row.iter_mut().zip(from) {
                let from: [S::f32s; V] = bytemuck::cast(*from);
                row.iter_mut().zip(from).for_each(|(sum, from)| *sum = simd.add_f32s(from, *sum));
            }
        }
    }
    let add = matches!(sums, Sums::Add);
    if top + R <= rows && left + P * COLS <= cols {
        for (r, row) in tile.iter().enumerate() {
            let dst = acc[(top + r) * ld + left..][..P * COLS].as_chunks_mut::<COLS>().0;
            for (dst, row) in dst.iter_mut().zip(row) {
                put(dst, bytemuck::cast(*row), add);
            }
        }
        return;
    }
    // A copy, or the sums of every tile would have places in memory.
    let tile = tile;
    for (r, row) in (top..rows).zip(&tile) {
        for (row, col) in row.iter().zip((left..cols).step_by(COLS)) {
            put(&mut acc[r * ld + col..][..COLS.min(cols - col)], bytemuck::cast(*row), add);
        }
    }
}

/// Stores or adds a row of a tile.
#[inline(always)]
pub(super) fn put(dst: &mut [f32], row: [f32; COLS], add: bool) {
    match dst.first_chunk_mut::<COLS>() {
        Some(dst) if add => dst.iter_mut().zip(&row).for_each(|(d, x)| *d += x),
        Some(dst) => *dst = row,
        None if add => dst.iter_mut().zip(&row).for_each(|(d, x)| *d += x),
        None => dst.iter_mut().zip(&row).for_each(|(d, x)| *d = *x),
    }
}
