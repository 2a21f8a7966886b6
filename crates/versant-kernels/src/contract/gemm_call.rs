//! The one call into the `gemm` crate, which takes raw pointers: bounds are asserted here.

use gemm::Parallelism;

use super::panel::Mat;

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
