//! The small families: scatter-add, cumulative sum, the fold of sliding windows, and sorting.
//!
//! The first three own their output elements one by one (or in short runs) and add in a stated order; a sort is
//! stable. None uses atomics, so a result depends neither on the device's scheduling nor on the number of threads.
//! Operands are dense and row-major from an offset. On a GPU each has fewer than 2^31 elements, as a buffer
//! binding cannot hold more.

pub mod cumsum;
pub mod fold_windows;
pub mod scatter;
pub mod sort;

#[cfg(test)]
pub(crate) mod check;
#[cfg(test)]
mod speed;

use crate::{DType, KernelSource, NativeFn, Target};

/// Invocations of a workgroup in the shaders of these families (`WORKGROUP` there), but for the sort in workgroup memory.
const WORKGROUP: usize = 64;

/// Elements below which a CPU twin stays on the calling thread: these loops take about a nanosecond an element,
/// and handing work to another thread costs tens of microseconds.
const SERIAL: usize = 1 << 16;

/// The two arithmetics of these families. I32 and U32 share `u32`: wrapping sums have the same bits.
trait Sum: bytemuck::Pod + Send + Sync {
    /// The empty sum.
    const ZERO: Self;
    /// The sum of two.
    fn plus(self, other: Self) -> Self;
}

impl Sum for f32 {
    const ZERO: f32 = 0.0;
    fn plus(self, other: f32) -> f32 {
        self + other
    }
}

impl Sum for u32 {
    const ZERO: u32 = 0;
    fn plus(self, other: u32) -> u32 {
        self.wrapping_add(other)
    }
}

/// Adds `src` to `dst`, element by element.
fn add_into<T: Sum>(dst: &mut [T], src: &[T]) {
    for (d, &s) in dst.iter_mut().zip(src) {
        *d = d.plus(s);
    }
}

/// How many parts each of `slabs` equal pieces of work is cut into to occupy every thread. Only for cuts
/// that do not change the order of any sum.
fn parts_per_slab(slabs: usize) -> usize {
    rayon::current_num_threads().div_ceil(slabs.max(1))
}

/// A size, offset or grid extent as a word of a GPU launch.
fn word(n: usize) -> u32 {
    u32::try_from(n).expect("an operand on a GPU has fewer than 2^31 elements")
}

/// What the families have in common when a [`KernelSource`] is put together.
struct Parts<'a> {
    label: &'a str,
    /// The shader, written for f32.
    wgsl: &'a str,
    dtype: DType,
    params: &'a [usize],
    reads: usize,
    /// GPU invocations wanted.
    threads: usize,
}

impl Parts<'_> {
    /// The kernel for `target`, whose CPU form is `float` or `int` by element type.
    ///
    /// # Panics
    /// If the type is not f32, i32 or u32: the recorder refuses these operations for other types.
    fn build(self, target: Target, float: NativeFn, int: NativeFn) -> KernelSource {
        let is_float = match self.dtype {
            DType::F32 => true,
            DType::I32 | DType::U32 => false,
            other => panic!("the recorder refuses {other} for {}", self.label),
        };
        let mut source = KernelSource {
            label: self.label.to_owned(),
            wgsl: String::new(),
            reads: self.reads,
            writes: 1,
            params: Vec::new(),
            uses_scalars: false,
            trusted: true,
            grid: [1; 3],
            native: None,
        };
        match target {
            Target::Cpu => source.native = Some(if is_float { float } else { int }),
            Target::Gpu(_) => {
                source.wgsl = if is_float {
                    self.wgsl.to_owned()
                } else {
                    self.wgsl.replace("alias Elem = f32;", "alias Elem = u32;")
                };
                source.params = self.params.iter().map(|&n| word(n)).collect();
                let padded = source.params.len().next_multiple_of(4);
                source.params.resize(padded, 0);
                source.grid = linear_grid(self.threads);
            }
        }
        source
    }
}

/// Workgroups for this many invocations, folded into y above 65,535. At least one, whose invocations find
/// themselves outside the domain if it is empty.
fn linear_grid(threads: usize) -> [u32; 3] {
    let groups = threads.div_ceil(WORKGROUP).max(1);
    let rows = groups.div_ceil(65_535);
    [word(groups.div_ceil(rows)), word(rows), 1]
}
