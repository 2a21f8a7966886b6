//! The fold of sliding windows: the adjoint of [`View::window`](crate::View::window).

use std::sync::Arc;

use rayon::prelude::*;

use super::{Parts, SERIAL, Sum, parts_per_slab};
use crate::{DType, KernelSource, NativeFn, Target};

/// `out[o, h, i] = Σ src[o, q, i, k]` over the taps `k`, ascending, for which `h = q * stride + k * dilation`
/// with `q` in `0..count`.
///
/// Shapes: `src` `[outer, count, inner, size]` (the window axis last, as a window view puts it), `out`
/// `[outer, extent, inner]`. Windows may overlap, leave gaps (zeros there) or reach past `extent` (those taps
/// are dropped).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FoldWindows {
    /// Product of the extents before the axis.
    pub outer: usize,
    /// Extent of the axis of the output.
    pub extent: usize,
    /// Product of the extents between the axis and the window axis.
    pub inner: usize,
    /// Number of windows.
    pub count: usize,
    /// Taps of a window.
    pub size: usize,
    /// Distance of neighbouring windows, at least 1.
    pub stride: usize,
    /// Distance of neighbouring taps, at least 1.
    pub dilation: usize,
    /// Element type: F32, I32 or U32.
    pub dtype: DType,
    /// Where the source begins, in elements.
    pub src_offset: usize,
}

/// The kernel of a [`FoldWindows`]. Reads: source. Writes: out, from element 0.
///
/// # Panics
/// If stride or dilation is 0, the type is not F32, I32 or U32, or an operand for a GPU has 2^31 elements or more; the
/// recorder refuses all of them.
pub fn fold_windows(desc: &FoldWindows, label: &str, target: Target) -> KernelSource {
    let d = *desc;
    assert!(d.stride > 0 && d.dilation > 0, "the recorder refuses a stride or dilation of 0 for {label}");
    Parts {
        label,
        wgsl: include_str!("../../../../shaders/fold/windows.wgsl"),
        dtype: d.dtype,
        params: &[
            d.outer,
            d.extent,
            d.inner,
            d.count,
            d.size,
            d.stride,
            d.dilation,
            // A longer step ends the loop over taps, too, and cannot wrap.
            (d.stride / gcd(d.stride, d.dilation)).min(d.size.max(1)),
            d.src_offset,
        ],
        reads: 1,
        threads: d.outer * d.extent * d.inner,
    }
    .build(target, d.native::<f32>(), d.native::<u32>())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl FoldWindows {
    /// Additions made at most (every tap inside the extent).
    pub fn flops(&self) -> u64 {
        (self.outer * self.count * self.inner * self.size) as u64
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        4 * self.flops() + 4 * (self.outer * self.extent * self.inner) as u64
    }

    fn native<T: Sum>(self) -> NativeFn {
        Arc::new(move |reads, writes, _| {
            let from = self.outer * self.count * self.inner * self.size;
            let slab = self.extent * self.inner;
            let size = self.outer * slab;
            if size == 0 {
                return;
            }
            let src = bytemuck::cast_slice::<u32, T>(&reads[0][self.src_offset..][..from]);
            let out = bytemuck::cast_slice_mut::<u32, T>(&mut writes[0][..size]);
            if size + from <= SERIAL {
                for (o, piece) in out.chunks_exact_mut(slab).enumerate() {
                    self.range(src, o, 0, piece);
                }
                return;
            }
            let rows = self.extent.div_ceil(parts_per_slab(self.outer));
            // Short slabs are handed out in bundles, long ones cut into ranges of rows.
            let work = slab + self.count * self.inner * self.size;
            let bundle = (SERIAL / 4 / work).max(1);
            out.par_chunks_mut(bundle * slab).enumerate().for_each(|(b, slabs)| {
                for (o, slab) in slabs.chunks_exact_mut(slab).enumerate() {
                    slab.par_chunks_mut(rows * self.inner).enumerate().for_each(|(part, piece)| {
                        self.range(src, b * bundle + o, part * rows, piece);
                    });
                }
            });
        })
    }

    /// Output rows `first..` of slab `o`, as many as `piece` holds. The windows are visited from the last to
    /// the first, so that an output receives its taps in ascending order while the source is read densely.
    fn range<T: Sum>(&self, src: &[T], o: usize, first: usize, piece: &mut [T]) {
        let FoldWindows { inner, count, size, stride, dilation, .. } = *self;
        piece.fill(T::ZERO);
        if size == 0 {
            return;
        }
        let last = first + piece.len() / inner;
        let reach = (size - 1).saturating_mul(dilation);
        // The windows with a tap in first..last: those that end at or after `first` and start before `last`.
        let from = first.saturating_sub(reach).div_ceil(stride);
        let to = last.div_ceil(stride).min(count);
        for q in (from..to).rev() {
            let start = q * stride;
            let low = first.saturating_sub(start).div_ceil(dilation);
            let high = (last - start).div_ceil(dilation).min(size);
            let window = &src[(o * count + q) * inner * size..][..inner * size];
            if inner == 1 {
                if low >= high {
                    continue;
                }
                let at = start + low * dilation - first;
                let outs = piece[at..].iter_mut().step_by(dilation);
                for (out, &s) in outs.zip(&window[low..high]) {
                    *out = out.plus(s);
                }
                continue;
            }
            for k in low..high {
                let row = &mut piece[(start + k * dilation - first) * inner..][..inner];
                for (out, taps) in row.iter_mut().zip(window.chunks_exact(size)) {
                    *out = out.plus(taps[k]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, GPU, TYPES};
    use super::*;
    use crate::{Shape, View};

    /// `[outer, extent, inner]` and `[count, size, stride, dilation]`.
    fn desc(dims: [usize; 3], window: [usize; 4], dtype: DType) -> FoldWindows {
        FoldWindows {
            outer: dims[0],
            extent: dims[1],
            inner: dims[2],
            count: window[0],
            size: window[1],
            stride: window[2],
            dilation: window[3],
            dtype,
            src_offset: 2,
        }
    }

    /// The definition, tap by tap.
    fn reference(d: &FoldWindows, src: &[u32]) -> Vec<u32> {
        let mut out = vec![0; d.outer * d.extent * d.inner];
        for k in 0..d.size {
            for line in 0..d.outer * d.count * d.inner {
                let (i, q) = (line % d.inner, line / d.inner % d.count);
                let (o, h) = (line / d.inner / d.count, q * d.stride + k * d.dilation);
                if h < d.extent {
                    let sum = &mut out[(o * d.extent + h) * d.inner + i];
                    *sum = check::plus(d.dtype, *sum, src[d.src_offset + line * d.size + k]);
                }
            }
        }
        out
    }

    fn case(d: FoldWindows) {
        let src = check::data(d.dtype, 2 + d.outer * d.count * d.inner * d.size, 4);
        let source = fold_windows(&d, &format!("{d:?}"), Target::Cpu);
        check::equal(&source, &[&src], &reference(&d, &src));
    }

    #[test]
    fn shader_is_valid_and_binds_as_declared() {
        for dtype in TYPES {
            let d = desc([2, 9, 3], [3, 3, 2, 1], dtype);
            check::valid_wgsl(&fold_windows(&d, "fold", GPU));
        }
    }

    #[test]
    fn matches_the_definition_for_every_small_geometry() {
        for extent in [1, 2, 7, 8] {
            for count in [0, 1, 3] {
                for size in [0, 1, 2, 3] {
                    for (stride, dilation) in [(1, 1), (2, 1), (3, 2), (2, 2), (4, 6), (1, 3)] {
                        for inner in [1, 3] {
                            let window = [count, size, stride, dilation];
                            case(desc([2, extent, inner], window, DType::F32));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn integers_and_empty_extents() {
        for dtype in TYPES {
            case(desc([2, 9, 3], [4, 3, 2, 1], dtype));
            for dims in [[0, 4, 2], [2, 0, 2], [2, 4, 0]] {
                case(desc(dims, [2, 3, 1, 1], dtype));
            }
        }
    }

    #[test]
    fn parallel_sizes_match_on_any_number_of_threads() {
        case(desc([1, 30_001, 1], [14_999, 5, 2, 1], DType::F32));
        case(desc([3, 601, 17], [199, 5, 3, 1], DType::F32));
        case(desc([1_400, 29, 1], [14, 3, 2, 1], DType::F32));
        case(desc([1, 803, 31], [397, 3, 2, 5], DType::F32));
    }

    /// `<window(x), y> == <x, fold(y)>` over integers, where both sides are exact.
    #[test]
    fn is_the_adjoint_of_the_window_view() {
        for (count, size, stride, dilation) in [(5, 3, 2, 1), (3, 2, 3, 4), (11, 1, 1, 1)] {
            let (outer, extent, inner) = (2, 11, 3);
            let shape = Shape::new(&[outer, extent, inner]).expect("rank 3");
            let view = View::contiguous(shape).window(1, count, size, stride, dilation);
            let x = check::words(shape.numel(), 1000, 5);
            let y = check::words(view.shape.numel(), 1000, 6);
            let dense = view.shape.strides();
            let windowed = |at: usize| {
                let form = view.strides.iter().zip(dense).zip(view.shape.iter());
                let offset: isize = form.map(|((s, d), &n)| s * ((at / d as usize) % n) as isize).sum();
                x[offset as usize]
            };
            let left: u32 = (0..y.len()).map(|at| windowed(at) * y[at]).sum();

            let mut d = desc([outer, extent, inner], [count, size, stride, dilation], DType::U32);
            d.src_offset = 0;
            let source = fold_windows(&d, "fold", Target::Cpu);
            let folded = check::run(&source, &[&y], x.len(), 2);
            let right: u32 = folded.iter().zip(&x).map(|(a, b)| a * b).sum();
            assert_eq!(left, right);
        }
    }
}
