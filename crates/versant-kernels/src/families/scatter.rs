//! Scatter-add: the gradient of a gather, deterministic and without atomics.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Parts, SERIAL, Sum, add_into, parts_per_slab};
use crate::{DType, KernelSource, NativeFn, Target};

/// Which source elements an index speaks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IndexForm {
    /// `index` has shape `[count]` and is shared by every `outer` and `inner` coordinate: the gradient of an
    /// embedding look-up or an `index_select`.
    Shared,
    /// `index` has the shape of `src`: the gradient of `gather` (`take_along_axis`).
    Full,
}

/// `out[o, v, k] = base[o, v, k] + Σ src[o, i, k]` over the `i` whose index equals `v`, in ascending `i`.
///
/// Shapes: `base` and `out` `[outer, bound, inner]`, `src` `[outer, count, inner]`, `index` by its form.
/// The index is I32 or U32; both are compared as bits, so one kernel serves them. **An index outside
/// `0..bound` is skipped** (a gather clamps it instead; the recorder that differentiates a gather of
/// unchecked indices must clamp them before it scatters).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScatterAdd {
    /// Product of the extents before the indexed axis.
    pub outer: usize,
    /// Extent of the indexed axis of the output.
    pub bound: usize,
    /// Product of the extents after the indexed axis.
    pub inner: usize,
    /// Extent of the indexed axis of the source.
    pub count: usize,
    /// Shape of the index.
    pub form: IndexForm,
    /// Element type of base, source and output: F32, I32 or U32.
    pub dtype: DType,
    /// Where the base begins, in elements.
    pub base_offset: usize,
    /// Whether the base is a single element, repeated (a zero, for a gradient) instead of `[outer, bound,
    /// inner]`.
    pub base_is_scalar: bool,
    /// Where the index begins, in elements.
    pub index_offset: usize,
    /// Where the source begins, in elements.
    pub src_offset: usize,
}

/// The kernel of a [`ScatterAdd`]. Reads: base, index, source. Writes: out, from element 0.
///
/// # Panics
/// If the type is not F32, I32 or U32, or an operand for a GPU has 2^31 elements or more; the recorder refuses both.
pub fn scatter_add(desc: &ScatterAdd, label: &str, target: Target) -> KernelSource {
    let d = *desc;
    let (wgsl, per_row) = match d.form {
        // Four elements an invocation, `LANES` in the shader.
        IndexForm::Shared => (include_str!("../../../../shaders/scatter/shared.wgsl"), d.inner.div_ceil(4)),
        IndexForm::Full => (include_str!("../../../../shaders/scatter/full.wgsl"), d.inner),
    };
    Parts {
        label,
        wgsl,
        dtype: d.dtype,
        params: &[
            d.outer,
            d.bound,
            d.inner,
            d.count,
            d.base_offset,
            d.index_offset,
            d.src_offset,
            usize::from(!d.base_is_scalar),
        ],
        reads: 3,
        threads: d.outer * d.bound * per_row,
    }
    .build(target, d.native::<f32>(), d.native::<u32>())
}

impl ScatterAdd {
    /// Additions made at most (every index in range).
    pub fn flops(&self) -> u64 {
        (self.outer * self.count * self.inner) as u64
    }

    /// Bytes of the operands and the output, each touched once. The GPU form reads the index again for every
    /// output element, mostly from cache.
    pub fn bytes(&self) -> u64 {
        let out = self.outer * self.bound * self.inner;
        let src = self.outer * self.count * self.inner;
        let index = match self.form {
            IndexForm::Shared => self.count,
            IndexForm::Full => src,
        };
        let base = if self.base_is_scalar { 1 } else { out };
        4 * (out + base + src + index) as u64
    }

    fn native<T: Sum>(self) -> NativeFn {
        Arc::new(move |reads, writes, _| {
            let slab = self.outer * self.count * self.inner;
            let indices = match self.form {
                IndexForm::Shared => self.count,
                IndexForm::Full => slab,
            };
            let size = self.outer * self.bound * self.inner;
            if size == 0 {
                return;
            }
            let job = Job {
                d: self,
                base: bytemuck::cast_slice::<u32, T>(&reads[0][self.base_offset..]),
                index: &reads[1][self.index_offset..][..indices],
                src: bytemuck::cast_slice::<u32, T>(&reads[2][self.src_offset..][..slab]),
            };
            let out = bytemuck::cast_slice_mut::<u32, T>(&mut writes[0][..size]);
            // Sorting pays where there are threads to occupy and rows long enough to be worth it.
            let sort = self.form == IndexForm::Shared
                && parts_per_slab(self.outer) > 1
                && self.inner >= 16
                && size + slab > SERIAL;
            if sort {
                job.sorted(out);
            } else {
                job.by_slab(out);
            }
        })
    }
}

/// The operands of one run on the CPU.
struct Job<'a, T> {
    d: ScatterAdd,
    base: &'a [T],
    index: &'a [u32],
    src: &'a [T],
}

impl<T: Sum> Job<'_, T> {
    /// Fills a piece of the output that begins at element `start` with the base.
    fn fill(&self, start: usize, piece: &mut [T]) {
        if self.d.base_is_scalar {
            piece.fill(self.base[0]);
        } else {
            piece.copy_from_slice(&self.base[start..start + piece.len()]);
        }
    }

    /// The shared form in few slabs: a stable counting sort lists the source rows of every output row, then output rows
    /// are independent, and each adds its source rows in ascending order.
    fn sorted(&self, out: &mut [T]) {
        let ScatterAdd { bound, inner, count, .. } = self.d;
        let mut starts = vec![0usize; bound + 1];
        for &v in self.index {
            if (v as usize) < bound {
                starts[v as usize + 1] += 1;
            }
        }
        for v in 0..bound {
            starts[v + 1] += starts[v];
        }
        let mut next = starts.clone();
        let mut sorted = vec![0usize; starts[bound]];
        for (i, &v) in self.index.iter().enumerate() {
            if (v as usize) < bound {
                sorted[next[v as usize]] = i;
                next[v as usize] += 1;
            }
        }
        let rows = (SERIAL / 4 / inner).max(1);
        out.par_chunks_mut(rows * inner).enumerate().for_each(|(chunk, piece)| {
            self.fill(chunk * rows * inner, piece);
            for (r, row) in piece.chunks_exact_mut(inner).enumerate() {
                let at = chunk * rows + r;
                let (o, v) = (at / bound, at % bound);
                for &i in &sorted[starts[v]..starts[v + 1]] {
                    add_into(row, &self.src[(o * count + i) * inner..][..inner]);
                }
            }
        });
    }

    /// Walks the source in order, a slab to a thread. Cutting a slab by output rows was measured and lost:
    /// every part must test every index, and the test mispredicts where the addition would not.
    fn by_slab(&self, out: &mut [T]) {
        let slab = self.d.bound * self.d.inner;
        if out.len() + self.src.len() <= SERIAL {
            self.slabs(0, out);
            return;
        }
        let work = slab + self.d.count * self.d.inner;
        let bundle = (SERIAL / 4 / work).max(1);
        out.par_chunks_mut(bundle * slab).enumerate().for_each(|(b, piece)| self.slabs(b * bundle, piece));
    }

    /// Slabs `first..`, as many as `piece` holds.
    fn slabs(&self, first: usize, piece: &mut [T]) {
        let ScatterAdd { bound, inner, count, form, .. } = self.d;
        let slab = bound * inner;
        self.fill(first * slab, piece);
        for (o, out) in (first..).zip(piece.chunks_exact_mut(slab)) {
            let rows = o * count * inner..(o + 1) * count * inner;
            let src = &self.src[rows.clone()];
            let index = match form {
                IndexForm::Shared => self.index,
                IndexForm::Full => &self.index[rows],
            };
            if inner == 1 {
                for (&v, &s) in index.iter().zip(src) {
                    if let Some(sum) = out.get_mut(v as usize) {
                        *sum = sum.plus(s);
                    }
                }
                continue;
            }
            match form {
                IndexForm::Shared => {
                    for (&v, src) in index.iter().zip(src.chunks_exact(inner)) {
                        if (v as usize) < bound {
                            add_into(&mut out[v as usize * inner..][..inner], src);
                        }
                    }
                }
                IndexForm::Full => {
                    let rows = index.chunks_exact(inner).zip(src.chunks_exact(inner));
                    for (index, src) in rows {
                        for (k, (&v, &s)) in index.iter().zip(src).enumerate() {
                            if (v as usize) < bound {
                                let sum = &mut out[v as usize * inner + k];
                                *sum = sum.plus(s);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, GPU, TYPES};
    use super::*;

    const FORMS: [IndexForm; 2] = [IndexForm::Shared, IndexForm::Full];

    fn desc([outer, bound, inner, count]: [usize; 4], form: IndexForm, dtype: DType) -> ScatterAdd {
        ScatterAdd {
            outer,
            bound,
            inner,
            count,
            form,
            dtype,
            base_offset: 3,
            base_is_scalar: false,
            index_offset: 1,
            src_offset: 2,
        }
    }

    /// The definition, one output element at a time.
    fn reference(d: &ScatterAdd, base: &[u32], index: &[u32], src: &[u32]) -> Vec<u32> {
        let mut out = Vec::new();
        for o in 0..d.outer {
            for v in 0..d.bound {
                for k in 0..d.inner {
                    let mut sum = match d.base_is_scalar {
                        true => base[d.base_offset],
                        false => base[d.base_offset + out.len()],
                    };
                    for i in 0..d.count {
                        let at = (o * d.count + i) * d.inner + k;
                        let index = match d.form {
                            IndexForm::Shared => index[d.index_offset + i],
                            IndexForm::Full => index[d.index_offset + at],
                        };
                        if i64::from(index as i32) == v as i64 {
                            sum = check::plus(d.dtype, sum, src[d.src_offset + at]);
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    fn agrees(d: &ScatterAdd, base: &[u32], index: &[u32], src: &[u32]) {
        let source = scatter_add(d, &format!("{d:?}"), Target::Cpu);
        let want = reference(d, base, index, src);
        check::equal(&source, &[base, index, src], &want);
    }

    fn case(mut d: ScatterAdd) {
        let slab = d.outer * d.count * d.inner;
        let size = d.outer * d.bound * d.inner;
        // About one index in five is out of range, some of them negative.
        let low = (d.bound / 10 + 1) as u32;
        let index: Vec<u32> = check::words(1 + slab.max(d.count), d.bound as u32 + 2 * low, 7)
            .iter()
            .map(|w| w.wrapping_sub(low))
            .collect();
        let base = check::data(d.dtype, 3 + size.max(1), 8);
        let src = check::data(d.dtype, 2 + slab, 9);
        agrees(&d, &base, &index, &src);
        d.base_is_scalar = true;
        agrees(&d, &base, &index, &src);
    }

    #[test]
    fn shaders_are_valid_and_bind_as_declared() {
        for form in FORMS {
            for dtype in TYPES {
                let source = scatter_add(&desc([2, 3, 5, 7], form, dtype), "scatter", GPU);
                check::valid_wgsl(&source);
            }
        }
    }

    #[test]
    fn text_depends_on_no_shape() {
        for form in FORMS {
            let a = scatter_add(&desc([2, 3, 5, 7], form, DType::F32), "scatter", GPU);
            let b = scatter_add(&desc([9, 1, 6, 0], form, DType::F32), "scatter", GPU);
            assert_eq!(a.wgsl, b.wgsl);
            assert_ne!(a.params, b.params);
        }
    }

    #[test]
    fn small_odd_and_empty_extents_match_the_definition() {
        let extents = [
            [1, 1, 1, 1],
            [2, 3, 5, 7],
            [3, 7, 1, 20],
            [1, 4, 9, 3],
            [2, 3, 4, 0],
            [0, 3, 4, 2],
            [2, 0, 4, 3],
            [2, 3, 0, 3],
        ];
        for form in FORMS {
            for dtype in TYPES {
                for dims in extents {
                    case(desc(dims, form, dtype));
                }
            }
        }
    }

    #[test]
    fn parallel_sizes_match_the_definition_on_any_number_of_threads() {
        for form in FORMS {
            case(desc([1, 23, 64, 1_101], form, DType::F32));
            case(desc([7, 23, 15, 701], form, DType::F32));
            case(desc([3_000, 5, 1, 19], form, DType::F32));
            case(desc([1, 41, 1, 70_000], form, DType::F32));
        }
    }

    #[test]
    fn cost_counts_every_operand_once() {
        let mut d = desc([2, 3, 5, 7], IndexForm::Shared, DType::F32);
        assert_eq!(d.flops(), 70);
        assert_eq!(d.bytes(), 4 * (30 + 30 + 70 + 7));
        d.form = IndexForm::Full;
        d.base_is_scalar = true;
        assert_eq!(d.bytes(), 4 * (30 + 1 + 70 + 70));
    }
}
