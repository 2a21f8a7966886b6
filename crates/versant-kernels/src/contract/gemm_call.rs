//! The one call into the `gemm` crate, which takes raw pointers: bounds are asserted here.

use gemm::Parallelism;

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
    fn in_bounds(&self) -> bool {
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
}

/// `dst = a · b`, or `dst += a · b` if `accumulate`, on the calling thread; `dst` is dense row-major.
///
/// The order in which products are summed depends on the three extents and on the machine only.
///
/// # Panics
/// If the extents disagree or an element lies outside its slice.
pub(crate) fn gemm(dst: &mut [f32], a: Mat<'_>, b: Mat<'_>, accumulate: bool) {
    let ([m, k], n) = (a.size, b.size[1]);
    assert_eq!(k, b.size[0], "the contracted extents of a product agree");
    assert_eq!(dst.len(), m * n, "the destination has the product's size");
    assert!(a.in_bounds() && b.in_bounds(), "operands lie in their buffers");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            dst.fill(0.0);
        }
        return;
    }
    // SAFETY: every address that the callee forms is `offset + i * stride0 + j * stride1` with `i` and `j`
    // below the extents; the assertions above keep those of `a` and `b` inside their slices (no extent is 0
    // here, so the offset itself is one of them), and `dst` holds exactly `m * n` elements at strides (n, 1).
    // `dst` is borrowed mutably, so it overlaps neither operand.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.data.as_ptr().offset(a.offset),
            a.strides[1],
            a.strides[0],
            b.data.as_ptr().offset(b.offset),
            b.strides[1],
            b.strides[0],
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
