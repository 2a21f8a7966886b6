//! The product of packed panels, the inner loop of convolutions on the CPU.
//!
//! A left operand lies in panels of [`ROWS`] rows, a right one in panels of [`COLS`] columns, each with the contracted
//! index outermost, so that a step reads both in a row: on AVX2 two vectors and six broadcasts for twelve
//! multiply-adds, whose accumulators are twelve of the sixteen registers. Patches of an image are packed straight into
//! panels (`patches.rs`): a library's product would want them as a matrix first, which it then packs once more.

use pulp::{Simd, WithSimd};

use crate::lanes::arch;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;
/// Columns of a tile.
pub(super) const COLS: usize = 16;
/// Most steps of the contracted index that are packed at once: a panel of columns then fits the first-level cache.
pub(super) const DEPTH: usize = 384;

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
            for lane in 0..width {
                let at = first + lane as isize * across;
                if down == 1 {
                    let from = &self.data[at as usize..at as usize + depth];
                    panel.iter_mut().zip(from).for_each(|(row, &x)| row[lane] = x);
                } else {
                    for (p, row) in panel.iter_mut().enumerate() {
                        row[lane] = self.data[(at + p as isize * down) as usize];
                    }
                }
            }
        }
    }
}

/// The steps that a contracted extent is cut into, as equal as can be.
pub(super) fn depths(k: usize) -> usize {
    k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1)
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
    /// Whether to add to what is there.
    pub add: bool,
}

impl Product<'_> {
    /// Computes it on the calling thread.
    pub fn run(self) {
        arch().dispatch(self);
    }
}

/// The accumulators of a tile, `V` vectors a row.
type Tile<S, const V: usize> = [[<S as Simd>::f32s; V]; ROWS];

impl WithSimd for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.tiles::<S, 1>(simd),
            8 => self.tiles::<S, 2>(simd),
            4 => self.tiles::<S, 4>(simd),
            _ => self.tiles::<S, 16>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const V: usize>(self, simd: S) {
        let [rows, cols] = self.size;
        for (j, b) in self.b.chunks_exact(self.depth * COLS).enumerate() {
            let b = b.as_chunks::<COLS>().0;
            let cols = COLS.min(cols - j * COLS);
            for (i, a) in self.a.chunks_exact(self.depth * ROWS).enumerate() {
                let mut tile = [[simd.splat_f32s(0.0); V]; ROWS];
                for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b) {
                    step(simd, &mut tile, *a, b);
                }
                let rows = ROWS.min(rows - i * ROWS);
                let at = i * ROWS * self.ld + j * COLS;
                for (r, row) in tile.iter().enumerate().take(rows) {
                    put(&mut self.acc[at + r * self.ld..][..cols], bytemuck::cast(*row), self.add);
                }
            }
        }
    }
}

/// One step of the contracted index.
#[inline(always)]
pub(super) fn step<S: Simd, const V: usize>(simd: S, tile: &mut Tile<S, V>, a: [f32; ROWS], b: &[f32; COLS]) {
    let b: [S::f32s; V] = bytemuck::cast(*b);
    for (row, a) in tile.iter_mut().zip(a) {
        let a = simd.splat_f32s(a);
        for (sum, &b) in row.iter_mut().zip(&b) {
            *sum = simd.mul_add_e_f32s(a, b, *sum);
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
