//! Sorting: the stable order of rows, or of parts of them, by keys of any number type.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Parts, SERIAL, WORKGROUP, parts_per_slab};
use crate::{Class, DType, KernelSource, NativeFn, Target};

/// Candidates that a workgroup sorts (`TILE` in `tile.wgsl`).
pub const TILE: usize = 2048;

/// Candidates that are ranked by comparing all of them, where barriers are dear.
const RANKED: usize = 32;

/// Results that an invocation merges: on software adapters more, as there are few lanes to fill.
const CHUNK: usize = 16;
const CHUNK_SOFTWARE: usize = 32;

const KEY: &str = include_str!("../../../../shaders/lib/sort_key.wgsl");
const TILES: &str = include_str!("../../../../shaders/sort/tile.wgsl");
const RANKS: &str = include_str!("../../../../shaders/sort/rank.wgsl");
const MERGES: &str = include_str!("../../../../shaders/sort/merge.wgsl");

/// What one launch of a sort does to candidates, which are columns of a row of keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SortPass {
    /// Candidates in a block; each block is put in order for itself.
    pub block: usize,
    /// How many of each block, from its first on, are left.
    pub keep: usize,
    /// The length of the runs in which the candidates are in order already; 0 if they are not. Otherwise it is half a
    /// block, of which everything is kept.
    pub run: usize,
}

impl SortPass {
    /// The candidates of a row that are left of so many.
    pub fn left(&self, count: usize) -> usize {
        count / self.block * self.keep.min(self.block) + self.keep.min(count % self.block)
    }
}

/// The passes that put the first `keep` of rows of `n` in order; the last one leaves at least `keep`.
///
/// On the CPU there is one. A GPU sorts blocks of [`TILE`] in workgroup memory and merges pairs of runs, so that there
/// are 1 + log2(n / [`TILE`]); if few are wanted, each pass leaves the first few of every block instead. Software
/// adapters do the same without workgroup memory.
pub fn sort_passes(n: usize, keep: usize, target: Target) -> Vec<SortPass> {
    let (base, few) = match target {
        Target::Cpu => return vec![SortPass { block: n.max(1), keep: keep.max(1), run: 0 }],
        Target::Gpu(caps) if caps.is_software() => (RANKED, keep <= RANKED / 4),
        Target::Gpu(_) => (TILE, keep <= TILE / 8),
    };
    let mut passes = Vec::new();
    if few {
        let pass = SortPass { block: base, keep: keep.max(1), run: 0 };
        let mut count = n;
        while count > base {
            passes.push(pass);
            count = pass.left(count);
        }
        passes.push(pass);
        return passes;
    }
    passes.push(SortPass { block: base, keep: base, run: 0 });
    let mut run = base;
    while run < n {
        passes.push(SortPass { block: 2 * run, keep: 2 * run, run });
        run *= 2;
    }
    passes
}

/// One pass of a sort of rows: of every block of candidates the columns of the first few, in the order of their keys.
///
/// The order is stable: of equal keys the earlier candidate comes first, also when sorting downwards. A NaN is greater
/// than every number and equal to every NaN; the two zeros are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArgSort {
    /// Rows.
    pub rows: usize,
    /// Keys in a row.
    pub n: usize,
    /// Candidates in a row; without a list of them, all columns.
    pub count: usize,
    /// What is done to them.
    pub pass: SortPass,
    /// Whether the greatest key comes first.
    pub descending: bool,
    /// Type of the keys: F32, I32 or U32.
    pub dtype: DType,
    /// Where the keys begin, in elements.
    pub keys_offset: usize,
    /// Where the list of candidates begins, in elements, if there is one.
    pub candidates_offset: Option<usize>,
}

/// The kernel of an [`ArgSort`]. Reads: keys, then candidates if they are listed. Writes: the columns as I32, from element
/// 0. Candidates must be columns of the keys.
///
/// # Panics
/// If the type is not F32, I32 or U32, or an operand for a GPU has 2^31 elements or more; the recorder refuses both.
pub fn argsort(desc: &ArgSort, label: &str, target: Target) -> KernelSource {
    let d = *desc;
    let software = matches!(target, Target::Gpu(caps) if caps.class == Class::Software);
    let [keys_offset, candidates_offset] = [d.keys_offset, d.candidates_offset.unwrap_or(0)];
    let (kind, flip) = (d.kind(), if d.descending { u32::MAX as usize } else { 0 });
    let merges = d.pass.run > 0 && target != Target::Cpu;
    let (text, params, threads) = if merges {
        let chunk = if software { CHUNK_SOFTWARE } else { CHUNK };
        let params = vec![d.rows, d.n, d.pass.run, chunk, keys_offset, candidates_offset, kind, flip];
        (MERGES.to_owned(), params, d.rows * d.n.div_ceil(chunk))
    } else {
        let ranks = software || d.block() > TILE;
        let text = if ranks { RANKS } else { TILES };
        let text = if d.candidates_offset.is_some() { text.to_owned() } else { unlisted(text) };
        let (width, blocks) = (d.block().next_power_of_two(), d.count.div_ceil(d.pass.block).max(1));
        let tiles = (d.rows * blocks).div_ceil(TILE / width.min(TILE));
        let params = vec![
            // No row: nothing is divided by an extent of 0.
            if d.count == 0 { 0 } else { d.rows },
            d.n,
            d.count,
            d.block(),
            blocks,
            width,
            d.pass.keep.min(d.block()),
            d.pass.left(d.count),
            keys_offset,
            candidates_offset,
            kind,
            flip,
        ];
        (text, params, if ranks { d.rows * d.count } else { tiles * WORKGROUP })
    };
    Parts {
        label,
        wgsl: &format!("{KEY}{text}"),
        dtype: d.dtype,
        params: &params,
        reads: 1 + usize::from(d.candidates_offset.is_some()),
        threads,
    }
    .build(target, d.native(), d.native())
}

/// A text whose candidates are all columns.
fn unlisted(text: &str) -> String {
    let listed = "return candidates[params[2].y + row * params[0].z + at];";
    let binding = "@group(0) @binding(3) var<storage, read> candidates: array<u32>;\n";
    text.replace(listed, "return at;").replace(binding, "").replace("@binding(4)", "@binding(3)")
}

/// A word that orders like the element: see `lib/sort_key.wgsl`.
fn sort_key(bits: u32, dtype: DType, descending: bool) -> u32 {
    const SIGN: u32 = 1 << 31;
    let key = match dtype {
        DType::F32 if bits & !SIGN > f32::INFINITY.to_bits() => u32::MAX,
        DType::F32 if bits & !SIGN == 0 => SIGN,
        DType::F32 if bits >= SIGN => !bits,
        DType::F32 => bits | SIGN,
        DType::I32 => bits ^ SIGN,
        _ => bits,
    };
    if descending { !key } else { key }
}

impl ArgSort {
    /// Elements of the longest block.
    fn block(&self) -> usize {
        self.pass.block.min(self.count.max(1))
    }

    /// The number of the type in the shaders.
    fn kind(&self) -> usize {
        match self.dtype {
            DType::F32 => 0,
            DType::I32 => 1,
            _ => 2,
        }
    }

    /// Comparisons made: those of a sort by merging.
    pub fn flops(&self) -> u64 {
        let levels = if self.pass.run > 0 { 1 } else { self.block().max(2).ilog2() };
        (self.rows * self.count) as u64 * u64::from(levels)
    }

    /// Bytes read and written: candidates if they are listed, their keys, and the result.
    pub fn bytes(&self) -> u64 {
        let reads = 1 + usize::from(self.candidates_offset.is_some());
        4 * (self.rows * (reads * self.count + self.pass.left(self.count))) as u64
    }

    fn native(self) -> NativeFn {
        Arc::new(move |reads, writes, _| {
            let length = self.pass.left(self.count);
            if self.rows * length == 0 {
                return;
            }
            let keys = &reads[0][self.keys_offset..][..self.rows * self.n];
            let listed = self.candidates_offset.map(|at| &reads[1][at..][..self.rows * self.count]);
            let out = &mut writes[0][..self.rows * length];
            let size = self.rows * self.count;
            let row = |(at, out): (usize, &mut [u32]), scratch: &mut Vec<u64>, threads: bool| {
                let keys = &keys[at * self.n..][..self.n];
                let listed = listed.map(|l| &l[at * self.count..][..self.count]);
                self.row(keys, listed, out, scratch, threads);
            };
            if size <= SERIAL || parts_per_slab(self.rows) > 1 {
                // A few long rows: the threads share each of them.
                let mut scratch = Vec::new();
                let rows = out.chunks_exact_mut(length).enumerate();
                rows.for_each(|piece| row(piece, &mut scratch, size > SERIAL));
            } else {
                let rows = out.par_chunks_exact_mut(length).enumerate();
                let least = (SERIAL / 4 / self.count).max(1);
                rows.with_min_len(least).for_each_init(Vec::new, |scratch, piece| row(piece, scratch, false));
            }
        })
    }

    /// The blocks of one row. A key with its place behind it is a number of its own: any sort of those is stable.
    fn row(
        &self,
        keys: &[u32],
        listed: Option<&[u32]>,
        out: &mut [u32],
        scratch: &mut Vec<u64>,
        threads: bool,
    ) {
        let column = |at: usize| listed.map_or(at as u32, |l| l[at]);
        let pieces = out.chunks_mut(self.pass.keep.min(self.block()));
        for (start, out) in (0..self.count).step_by(self.pass.block).zip(pieces) {
            let end = self.count.min(start + self.pass.block);
            scratch.clear();
            scratch.extend((start..end).map(|at| {
                let key = sort_key(keys[column(at) as usize], self.dtype, self.descending);
                u64::from(key) << 32 | at as u64
            }));
            let first = if out.len() < scratch.len() / 2 {
                scratch.select_nth_unstable(out.len()).0
            } else {
                &mut scratch[..]
            };
            if threads {
                first.par_sort_unstable();
            } else {
                first.sort_unstable();
            }
            for (out, packed) in out.iter_mut().zip(first) {
                *out = column(*packed as u32 as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, GPU, TYPES};
    use super::*;
    use crate::Caps;

    const SOFTWARE: Target = Target::Gpu(Caps::webgpu(Class::Software));

    /// The definition: a stable sort of each block by a comparison of the elements themselves.
    fn reference(d: &ArgSort, keys: &[u32], listed: Option<&[u32]>) -> Vec<u32> {
        use std::cmp::Ordering;
        let compare = |a: u32, b: u32| match d.dtype {
            DType::F32 => {
                let (a, b) = (f32::from_bits(a), f32::from_bits(b));
                a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
            }
            DType::I32 => (a as i32).cmp(&(b as i32)),
            _ => a.cmp(&b),
        };
        let mut out = Vec::new();
        for row in 0..d.rows {
            let keys = &keys[d.keys_offset + row * d.n..][..d.n];
            let all: Vec<u32> = match listed {
                Some(l) => l[d.candidates_offset.unwrap() + row * d.count..][..d.count].to_vec(),
                None => (0..d.n as u32).collect(),
            };
            for block in all.chunks(d.pass.block) {
                let mut block = block.to_vec();
                block.sort_by(|&a, &b| {
                    let order: Ordering = compare(keys[a as usize], keys[b as usize]);
                    if d.descending { order.reverse() } else { order }
                });
                out.extend(block.iter().take(d.pass.keep));
            }
        }
        out
    }

    /// Many equal keys, NaN of either sign, infinities, both zeros and subnormal numbers.
    fn keys(dtype: DType, n: usize, seed: u32) -> Vec<u32> {
        let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-41, -1e-41, 1.5];
        let any = check::data(dtype, n, seed);
        let few = check::words(n, 40, seed + 1);
        any.into_iter()
            .zip(few)
            .map(|(any, few)| match special.get(few as usize) {
                Some(s) if dtype == DType::F32 => s.to_bits(),
                _ if few < 30 => any % 7,
                _ => any,
            })
            .collect()
    }

    fn desc(rows: usize, n: usize, pass: SortPass, dtype: DType) -> ArgSort {
        let descending = n % 2 == 1;
        ArgSort { rows, n, count: n, pass, descending, dtype, keys_offset: 5, candidates_offset: None }
    }

    #[test]
    fn shaders_are_valid_and_bind_as_declared() {
        let sorts = SortPass { block: 4000, keep: 4000, run: 0 };
        for (target, pass, size) in [
            (GPU, SortPass { block: TILE, keep: 3, run: 0 }, 256),
            (GPU, SortPass { block: 2 * TILE, keep: 2 * TILE, run: TILE }, WORKGROUP),
            (SOFTWARE, sorts, WORKGROUP),
        ] {
            for dtype in TYPES {
                let mut d = desc(2, 4000, pass, dtype);
                d.candidates_offset = Some(0);
                check::valid_wgsl_of(&argsort(&d, "listed", target), size);
                if pass.run == 0 {
                    d.candidates_offset = None;
                    check::valid_wgsl_of(&argsort(&d, "unlisted", target), size);
                }
            }
        }
        assert!(TILES.contains(&format!("const TILE: u32 = {TILE}u;")));
        assert!(KEY.contains("const SORT_F32: u32 = 0u;") && KEY.contains("const SORT_I32: u32 = 1u;"));
    }

    #[test]
    fn rows_are_sorted_on_any_number_of_threads() {
        for dtype in TYPES {
            for (rows, n) in [(1, 0), (0, 3), (3, 1), (5, 2), (7, 255), (2, 256), (300, 257), (2, 70_001)] {
                for keep in [1, n.max(1) / 3 + 1, n.max(1)] {
                    let pass = SortPass { block: n.max(1), keep, run: 0 };
                    let d = desc(rows, n, pass, dtype);
                    let keys = keys(dtype, 5 + rows * n, 3);
                    let want = reference(&d, &keys, None);
                    check::equal(&argsort(&d, &format!("{d:?}"), Target::Cpu), &[&keys], &want);
                }
            }
        }
    }

    #[test]
    fn blocks_of_candidates_are_sorted() {
        for (count, block, keep) in [(100, 32, 32), (100, 32, 3), (7, 32, 9), (64, 16, 16), (33, 32, 2)] {
            let pass = SortPass { block, keep, run: 0 };
            let mut d = desc(3, 90, pass, DType::F32);
            (d.count, d.candidates_offset) = (count, Some(2));
            let keys = keys(DType::F32, 5 + 3 * 90, 8);
            let listed = check::words(2 + 3 * count, 90, 9);
            let want = reference(&d, &keys, Some(&listed));
            assert_eq!(want.len(), 3 * pass.left(count));
            check::equal(&argsort(&d, &format!("{d:?}"), Target::Cpu), &[&keys, &listed], &want);
        }
    }

    /// Whatever a target's passes are, one after the other they sort.
    #[test]
    fn passes_lead_to_the_first_of_all() {
        for target in [GPU, SOFTWARE, Target::Cpu] {
            for n in [1, 31, 32, 33, 1000, 2048, 2049, 5000, 100_000] {
                for keep in [1, 7, 200, n] {
                    let keep = keep.min(n);
                    let keys = keys(DType::F32, 5 + n, 5);
                    let (mut count, mut listed) = (n, None::<Vec<u32>>);
                    let passes = sort_passes(n, keep, target);
                    let most = if target == SOFTWARE { 14 } else { 7 };
                    assert!(passes.len() <= most, "{} passes for {keep} of {n}", passes.len());
                    for pass in passes {
                        let mut d = desc(1, n, pass, DType::F32);
                        (d.count, d.candidates_offset) = (count, listed.as_ref().map(|_| 0));
                        let reads: Vec<&[u32]> =
                            [keys.as_slice()].into_iter().chain(listed.as_deref()).collect();
                        let source = argsort(&d, "pass", Target::Cpu);
                        listed = Some(check::run(&source, &reads, pass.left(count), 2));
                        count = pass.left(count);
                    }
                    let whole = desc(1, n, SortPass { block: n, keep, run: 0 }, DType::F32);
                    assert_eq!(listed.unwrap()[..keep], reference(&whole, &keys, None), "{keep} of {n}");
                }
            }
        }
    }
}
