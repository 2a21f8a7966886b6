//! Every kind of program as text: valid, translated, within limits, and independent of shapes.

use super::check::{Build, check_kernel, shape, translate, validate};
use super::*;
use crate::{Class, InstrKind, MapFn, ReduceKind, Reg, View};
use DType::{Bool, F32, I32, U32};

static ADD: MapFn = plain("add", 2, "{a} + {b}", "");
static SUB: MapFn = plain("sub", 2, "{a} - {b}", "");
static DIV: MapFn = plain("div", 2, "{a} / {b}", "");
static EXP: MapFn = plain("exp", 1, "exp({a})", "");
static MAX: MapFn = plain("max", 2, "v_max_{t}({a}, {b})", "extremes");
static SELECT: MapFn = plain("select", 3, "select({c}, {b}, {a})", "");
static LESS: MapFn = plain("lt", 2, "{a} < {b}", "");

const fn plain(name: &'static str, arity: usize, wgsl: &'static str, lib: &'static str) -> MapFn {
    MapFn { name, arity, wgsl, lib, cpu: |_, _, _, _, _| {}, cost: 1 }
}

const SOFT: Caps = Caps::webgpu(Class::Software);
const HARD: Caps = Caps::webgpu(Class::Discrete);

/// Adapters without and with what is optional.
const SORTS: [Caps; 4] = [
    SOFT,
    Caps { int64: true, ..SOFT },
    HARD,
    Caps { subgroup_rows: true, min_subgroup: 32, max_subgroup: 64, ..HARD },
];

fn both(p: &Program) -> [KernelSource; 2] {
    [SOFT, HARD].map(|caps| program_wgsl(p, "test", &caps))
}

/// `out = a + b` over any views.
fn add(rows: &[usize], a: View, b: View, out: View) -> Program {
    let mut t = Build::new(rows, &[], &[F32, F32], &[F32]);
    let (a, b) = (t.load(0, a), t.load(1, b));
    let sum = t.map(&ADD, &[a, b], F32, F32);
    t.store(2, out, sum);
    t.row();
    t.p
}

fn bias(n: usize, c: usize) -> Program {
    let dense = View::contiguous(shape(&[n, c]));
    let row = View::contiguous(shape(&[c])).broadcast(shape(&[n, c]));
    add(&[n, c], dense.clone(), row, dense)
}

/// A softmax over rows: two reductions and a store.
fn softmax(n: usize, c: usize) -> Program {
    let mut t = Build::new(&[n], &[c], &[F32], &[F32]);
    let x = View::contiguous(shape(&[n, c]));
    let v = t.load(0, x.clone());
    let max = t.col(&[(ReduceKind::Max, v, F32)])[0];
    let v = t.load(0, x.clone());
    let d = t.map(&SUB, &[v, max], F32, F32);
    let e = t.map(&EXP, &[d], F32, F32);
    let sum = t.col(&[(ReduceKind::Sum, e, F32)])[0];
    let v = t.load(0, x.clone());
    let d = t.map(&SUB, &[v, max], F32, F32);
    let e = t.map(&EXP, &[d], F32, F32);
    let y = t.map(&DIV, &[e, sum], F32, F32);
    t.store(1, x, y);
    t.col(&[]);
    t.p
}

/// Batch statistics over `[N, C, H·W]`, columns of two dimensions, and running values updated in place.
fn batch_stats(n: usize, c: usize, hw: usize) -> Program {
    let mut t = Build::new(&[c], &[n, hw], &[F32], &[F32, F32]);
    let x = View::contiguous(shape(&[n, c, hw])).permute(&[1, 0, 2]);
    let v = t.load(0, x.clone());
    let sum = t.col(&[(ReduceKind::Sum, v, F32), (ReduceKind::ArgMax, v, F32)]);
    let per_channel = View::contiguous(shape(&[c]));
    let scale = t.push(F32, InstrKind::Const((1.0 / (n * hw) as f32).to_bits()));
    let mean = t.map(&DIV, &[sum[0], scale], F32, F32);
    let old = t.load(1, per_channel.clone());
    let new = t.map(&ADD, &[old, mean], F32, F32);
    t.store(1, per_channel, new);
    t.row();
    let v = t.load(0, x.clone());
    let d = t.map(&SUB, &[v, mean], F32, F32);
    t.store(2, x, d);
    t.col(&[]);
    t.p
}

#[test]
fn elementwise_text_has_the_fewest_dimensions() {
    let dense = |dims: &[usize]| View::contiguous(shape(dims));
    let one = program_wgsl(&add(&[7], dense(&[7]), dense(&[7]), dense(&[7])), "a", &SOFT);
    check_kernel(&one);
    let dims = [2, 3, 4, 5];
    let four = program_wgsl(&add(&dims, dense(&dims), dense(&dims), dense(&dims)), "a", &SOFT);
    assert_eq!(one.wgsl, four.wgsl);
    assert_eq!(four.grid, [1, 1, 1]);
    assert!(!one.wgsl.contains('/') && !one.wgsl.contains("x0"), "{}", one.wgsl);
}

#[test]
fn shapes_do_not_reach_the_text() {
    for (a, b) in [
        (bias(128, 10), bias(100, 10)),
        (bias(3, 7), bias(70_000, 999)),
        (bias(3, 8), bias(70_000, 1000)),
        (softmax(128, 10), softmax(32, 10)),
        (softmax(128, 12), softmax(32, 1000)),
        (softmax(128, 10), softmax(1000, 4001)),
        (batch_stats(128, 32, 100), batch_stats(7, 16, 12)),
        (batch_stats(128, 32, 49), batch_stats(7, 16, 9)),
    ] {
        for (a, b) in both(&a).iter().zip(&both(&b)) {
            check_kernel(a);
            check_kernel(b);
            assert_eq!(a.wgsl, b.wgsl);
            assert_ne!(a.params, b.params);
            assert_eq!(a.params.len(), b.params.len());
        }
    }
}

#[test]
fn software_has_no_barrier_and_no_shared_memory() {
    for p in [softmax(5, 9), batch_stats(3, 4, 5)] {
        let [soft, hard] = both(&p);
        for word in ["Barrier", "workgroup>"] {
            assert!(!soft.wgsl.contains(word) && hard.wgsl.contains(word));
        }
        // Columns of a batch statistic have two dimensions; only their start is found by division.
        let loops = soft.wgsl.split("for (").nth(1).expect("a loop over columns");
        assert!(!loops.contains('/') && !loops.contains('%'), "{loops}");
    }
}

/// Barriers stand at the top level of the entry point or directly in the loop over `half`.
#[test]
fn barriers_stand_in_uniform_flow() {
    for p in [softmax(5, 9), batch_stats(3, 4, 5)] {
        let hard = program_wgsl(&p, "hard", &HARD);
        let mut open: Vec<&str> = Vec::new();
        for line in hard.wgsl.lines().map(str::trim) {
            if line.ends_with("Barrier();") {
                let inner = &open[1..];
                let uniform = inner.is_empty() || (inner.len() == 1 && inner[0].contains("half"));
                assert!(uniform, "{open:?}");
            }
            if line.ends_with('{') {
                open.push(line);
            } else if line == "}" {
                open.pop();
            }
        }
        assert!(open.is_empty());
    }
}

#[test]
fn in_place_row_stores_wait_for_all_lanes() {
    let hard = program_wgsl(&batch_stats(3, 4, 5), "hard", &HARD).wgsl;
    let at = |s: &str| hard.find(s).unwrap_or_else(|| panic!("{s} in {hard}"));
    let load = at("= buf1[");
    assert!(load < at("storageBarrier") && at("storageBarrier") < at("\n        buf1["));
    assert!(hard.contains("if (live && lane == 0u) {"));
}

#[test]
fn lanes_follow_the_columns() {
    let lanes = |c: usize| program_wgsl(&softmax(1000, c), "s", &HARD);
    // Words 0 to 2 are rows, columns, lanes.
    assert_eq!(lanes(3).params[..3], [1000, 3, 1]);
    assert_eq!(lanes(10).params[..3], [1000, 10, 4]);
    assert_eq!(lanes(64).params[..3], [1000, 64, 4]);
    assert_eq!(lanes(64).grid, [1000u32.div_ceil(64), 1, 1]);
    assert_eq!(lanes(100_000).params[..3], [1000, 100_000, 256]);
    assert_eq!(lanes(100_000).grid, [1000, 1, 1]);
}

/// What is declared as vectors, and how many loads and stores are of whole ones.
fn whole(p: &Program) -> [(usize, usize); 2] {
    both(p).map(|k| {
        check_kernel(&k);
        let accesses = k.wgsl.matches("buf").count() - k.wgsl.matches("var<storage").count();
        let narrow = k.wgsl.matches(" & 3u]").count();
        let arrays = k.wgsl.lines().filter(|l| l.contains("var<storage") && l.contains(": array<vec4<"));
        (arrays.count(), accesses - narrow)
    })
}

#[test]
fn aligned_accesses_are_of_four_words() {
    let dense = |dims: &[usize]| View::contiguous(shape(dims));
    // A chain over any number of elements, a bias, and a channel's bias that is the same for all four.
    let chain = |n: usize| add(&[n], dense(&[n]), dense(&[n]), dense(&[n]));
    for p in [chain(16), chain(17), bias(3, 8)] {
        assert_eq!(whole(&p), [(3, 3); 2]);
    }
    let channel = dense(&[5, 1]).broadcast(shape(&[2, 5, 8]));
    let p = add(&[2, 5, 8], dense(&[2, 5, 8]), channel, dense(&[2, 5, 8]));
    assert_eq!(whole(&p)[0].0, 2);
    // A transposed operand is read word by word, and so is one that begins in the middle of a vector.
    let turned = View::contiguous(shape(&[8, 4])).permute(&[1, 0]);
    for (odd, accesses) in [(turned, 6), (View { offset: 1, ..dense(&[4, 8]) }, 7)] {
        let p = add(&[4, 8], dense(&[4, 8]), odd, dense(&[4, 8]));
        assert_eq!(whole(&p), [(2, accesses); 2]);
    }
    // Nothing lies in fours where rows have an odd number of words.
    assert_eq!(whole(&bias(3, 7))[0].0, 0);
    // Padding in fours keeps vectors whole.
    let padded = dense(&[4, 8]).pad(&[1, 4], shape(&[6, 16]));
    assert_eq!(whole(&add(&[6, 16], padded.clone(), padded, dense(&[6, 16]))), [(3, 3); 2]);
    let padded = dense(&[4, 8]).pad(&[1, 3], shape(&[6, 16]));
    assert_eq!(whole(&add(&[6, 16], padded.clone(), padded, dense(&[6, 16])))[0], (1, 9));
    // Columns in a row, and rows in a row.
    assert_eq!(whole(&softmax(3, 1024))[0].0, 2);
    assert_eq!(whole(&batch_stats(3, 4, 8))[0].0, 2);
    let mut t = Build::new(&[8], &[5], &[F32], &[F32]);
    let value = t.load(0, View::contiguous(shape(&[5, 8])).permute(&[1, 0]));
    let sum = t.col(&[(ReduceKind::Sum, value, F32)])[0];
    t.store(1, dense(&[8]), sum);
    t.row();
    assert_eq!(whole(&t.p).map(|w| w.0), [1, 1]);
}

/// Constants of every type and conversions between every two, each as a float.
fn convert(t: &mut Build, values: [Reg; 4], floats: &mut Vec<Reg>) {
    let types = [F32, I32, U32, Bool];
    for dtype in [I32, U32, Bool] {
        for bits in [0, 1, u32::MAX, 77] {
            let arg = t.push(dtype, InstrKind::Const(bits));
            floats.push(t.push(F32, InstrKind::Cast { arg, from: dtype }));
        }
    }
    for (arg, from) in values.into_iter().zip(types) {
        for to in types {
            let cast = t.push(to, InstrKind::Cast { arg, from });
            floats.push(t.push(F32, InstrKind::Bitcast { arg: cast, from: to }));
            let bits = t.push(to, InstrKind::Bitcast { arg, from });
            floats.push(t.push(F32, InstrKind::Cast { arg: bits, from: to }));
        }
    }
}

/// One instruction of every kind and type in a row step and in a column step.
fn everything(cols: &[usize]) -> Program {
    let rows = [4, 3];
    let mut t = Build::new(&rows, cols, &[F32, I32, U32, Bool], &[F32, I32, U32, Bool]);
    let all = t.all();
    let turned = View::contiguous(shape(&[3, 4])).permute(&[1, 0]);
    let padded = View::contiguous(shape(&[2, 3])).pad(&[1, 0], shape(&[4, 3]));
    let (turned, padded) = (t.spread(&turned), t.spread(&padded));
    let out = match cols.is_empty() {
        true => View::contiguous(all),
        false => View::contiguous(shape(&[cols, &rows[..]].concat())).permute(&{
            let n = cols.len();
            let axes = (0..2).map(|i| n + i).chain(0..n);
            axes.collect::<Vec<_>>()
        }),
    };
    let f = t.load(0, turned.clone());
    let i = t.load(1, padded.clone());
    let u = t.load(2, out.clone());
    let b = t.load(3, padded.clone());
    let at = |index, view: &View| InstrKind::LoadAt {
        binding: 0,
        view: view.clone(),
        index,
        stride: -3,
        bound: 4,
    };
    let g = t.push(F32, at(i, &turned));
    let h = t.push(F32, at(u, &padded));
    let inside = t.push(Bool, InstrKind::InBounds(padded.clone()));
    let always = t.push(Bool, InstrKind::InBounds(out.clone()));
    let iota = t.push(I32, InstrKind::Index(out.clone()));
    let iota_u = t.push(U32, InstrKind::Index(turned.clone()));
    let scalar = t.push(F32, InstrKind::Scalar(7));
    let seeds = [5, 6].map(|w| t.push(U32, InstrKind::Scalar(w)));
    let noise = t.push(U32, InstrKind::Philox { index: iota_u, key: seeds });
    let mut floats = vec![f, g, h, scalar];
    for bits in [0, 1f32.to_bits(), 0x7fc0_0000, 0xff80_0000, 0x8000_0000] {
        floats.push(t.push(F32, InstrKind::Const(bits)));
    }
    convert(&mut t, [f, i, u, b], &mut floats);
    for arg in [inside, always] {
        floats.push(t.push(F32, InstrKind::Cast { arg, from: Bool }));
    }
    let less = t.map(&LESS, &[f, g], F32, Bool);
    floats.push(t.map(&SELECT, &[less, f, g], F32, F32));
    let sum = floats.iter().skip(1).fold(f, |a, &v| {
        let m = t.map(&MAX, &[a, v], F32, F32);
        t.map(&ADD, &[m, v], F32, F32)
    });
    let more = t.map(&MAX, &[i, iota], I32, I32);
    t.store(4, out.clone(), sum);
    t.store(5, out.clone(), more);
    t.store(6, out.clone(), noise);
    t.store(7, out, inside);
    if cols.is_empty() {
        t.row();
        return t.p;
    }
    use ReduceKind::{ArgMax, ArgMin, Max, Min, Prod, Sum};
    let mut outs = Vec::new();
    for (value, dtype) in [(sum, F32), (more, I32), (noise, U32), (less, Bool)] {
        for kind in [Sum, Prod, Max, Min, ArgMax, ArgMin] {
            outs.push((kind, value, dtype));
        }
    }
    let results = t.col(&outs);
    let total = t.map(&ADD, &[results[0], results[1]], F32, F32);
    t.store(4, View::contiguous(shape(&rows)), total);
    t.row();
    t.p
}

#[test]
fn every_instruction_and_reduction_is_valid() {
    for cols in [&[][..], &[6], &[5, 2], &[3, 2, 4]] {
        for k in SORTS.map(|caps| program_wgsl(&everything(cols), "test", &caps)) {
            check_kernel(&k);
            assert!(k.uses_scalars);
        }
    }
}

#[test]
fn rows_of_a_subgroup_have_no_barrier() {
    let caps = SORTS[3];
    let lanes = |c: usize| program_wgsl(&softmax(1000, c), "s", &caps);
    for c in [8, 60, 1024, 2048] {
        let k = lanes(c);
        check_kernel(&k);
        assert!(!k.wgsl.contains("Barrier") && !k.wgsl.contains("workgroup>"), "{}", k.wgsl);
        assert!(k.wgsl == lanes(60).wgsl && k.wgsl.contains("subgroupShuffleXor"));
        assert_eq!(k.params[2] as usize, c.div_ceil(16).next_power_of_two().min(32));
        assert_eq!(k.grid[0], 1000u32.div_ceil(256 / k.params[2]));
    }
    // Longer rows are shared by workgroups, and so are those of launches with several parts.
    assert!(lanes(2052).wgsl.contains("Barrier"));
    assert_eq!(
        program_beside(&softmax(9, 60), "s", &caps, &[]).wgsl,
        program_wgsl(&softmax(9, 60), "s", &HARD).wgsl
    );
    let texts: Vec<String> = row_probes(&caps).iter().map(|p| program_wgsl(p, "p", &caps).wgsl).collect();
    assert!(texts[0].contains("subgroupShuffleXor") && texts.iter().all(|t| *t == texts[0]));
}

#[test]
fn long_rows_take_several_vectors_a_round_on_software() {
    use super::check::row_sums;
    let text = |cols: usize, caps: &Caps| {
        let k = program_wgsl(&row_sums(3, cols), "s", caps);
        check_kernel(&k);
        k.wgsl
    };
    let [soft, long] = [&SORTS[0], &SORTS[1]];
    assert_eq!(text(16_384, soft).matches("= buf0[").count(), 4);
    assert_eq!(text(16_384, long).matches("v_words(buf0[").count(), 4);
    assert_eq!(text(16_384, long), text(4096, long));
    // Not of short rows, of others than whole rounds, or where lanes share a row.
    for cols in [1024, 16_388] {
        assert!(!text(cols, long).contains("v_words") && text(cols, long) == text(60, soft));
    }
    assert_eq!(text(16_384, &HARD), text(60, &HARD));
}

#[test]
fn what_lies_across_goes_through_workgroup_memory() {
    let dense = |dims: &[usize]| View::contiguous(shape(dims));
    let turned = |[m, n]: [usize; 2]| dense(&[n, m]).permute(&[1, 0]);
    let text =
        |dims: [usize; 2]| program_wgsl(&add(&dims, turned(dims), dense(&dims), dense(&dims)), "t", &HARD);
    let k = text([100, 70]);
    check_kernel(&k);
    assert_eq!(k.wgsl.matches("var<workgroup>").count(), 1);
    assert!(k.wgsl == text([48, 333]).wgsl && k.grid == [12, 1, 1]);
    // A narrow one is not worth it, and software adapters have none.
    assert!(!text([100, 9]).wgsl.contains("workgroup>"));
    let soft =
        program_wgsl(&add(&[64, 64], turned([64, 64]), dense(&[64, 64]), dense(&[64, 64])), "t", &SOFT);
    assert!(!soft.wgsl.contains("workgroup>"));
    // Two dimensions change places among four; a second operand lies along a third one.
    let dims = [3, 20, 5, 40];
    let swapped = dense(&[3, 40, 5, 20]).permute(&[0, 3, 2, 1]);
    let k = program_wgsl(&add(&dims, swapped.clone(), swapped, dense(&dims)), "t", &HARD);
    check_kernel(&k);
    assert_eq!((k.wgsl.matches("var<workgroup>").count(), k.grid), (2, [2 * 15, 1, 1]));
}

#[test]
fn empty_domains_and_large_grids() {
    let dense = |n: usize| View::contiguous(shape(&[n]));
    let none = program_wgsl(&add(&[0], dense(0), dense(0), dense(0)), "none", &SOFT);
    check_kernel(&none);
    assert_eq!(none.grid[0], 0);
    // Eight vectors of four for each invocation of a software adapter.
    let n = 70_000 * ROW_GROUP * 32;
    let large = program_wgsl(&add(&[n], dense(n), dense(n), dense(n)), "large", &SOFT);
    assert_eq!(large.grid, [35_000, 2, 1]);
    for k in both(&softmax(3, 0)) {
        check_kernel(&k);
        assert!(k.grid[0] > 0);
    }
}

#[test]
fn epilogues_follow_the_contraction_and_keep_its_parameters() {
    let mut t = Build::new(&[6, 5], &[], &[F32], &[F32, Bool]);
    let acc = t.push(F32, InstrKind::Acc);
    let b = t.load(0, View::contiguous(shape(&[5])).broadcast(shape(&[6, 5])));
    let rate = t.push(F32, InstrKind::Scalar(0));
    let sum = t.map(&ADD, &[acc, b], F32, F32);
    let sum = t.map(&MAX, &[sum, rate], F32, F32);
    let less = t.map(&LESS, &[acc, b], F32, Bool);
    t.store(1, View::contiguous(shape(&[6, 5])), sum);
    t.store(2, View::contiguous(shape(&[6, 5])).permute(&[0, 1]), less);
    t.row();
    let mut params = ParamBlock::default();
    params.push(99);
    let e = epilogue_wgsl(&t.p, 2, &mut params);
    assert_eq!(params.words[0], 99);
    let text = format!(
        "{}{}{}{}\
         @group(0) @binding(2) var<storage, read> lhs: array<f32>;\n\
         @group(0) @binding(3) var<storage, read> rhs: array<f32>;\n\
         @compute @workgroup_size(1) fn main() {{ epilogue(params[0].x, lhs[0] * rhs[0]); }}",
        params.declaration(),
        e.decls,
        lib_for(&e.func),
        e.func
    );
    let (module, info) = validate(&text);
    translate(&module, &info);
    let k = KernelSource {
        label: String::new(),
        wgsl: text,
        reads: 3,
        writes: 2,
        params: params.into_words(),
        uses_scalars: e.uses_scalars,
        trusted: true,
        grid: [1; 3],
        native: None,
    };
    check_kernel(&k);
}

#[test]
fn constant_parts_leave_the_loop() {
    let mut t = Build::new(&[4], &[8], &[F32, F32], &[F32]);
    let w = t.load(1, t.spread(&View::contiguous(shape(&[4]))));
    let e = t.map(&EXP, &[w], F32, F32);
    let x = t.load(0, View::contiguous(shape(&[4, 8])));
    let y = t.map(&ADD, &[x, e], F32, F32);
    t.store(2, View::contiguous(shape(&[4, 8])), y);
    t.col(&[]);
    for k in both(&t.p) {
        check_kernel(&k);
        let (before, after) = k.wgsl.split_once("for (").expect("a loop");
        let inside = after.split("\n    }").next().expect("a body");
        assert!(before.contains("exp(") && before.contains("buf1["), "{}", k.wgsl);
        assert!(!inside.contains("params[") && inside.contains("buf0["));
    }
}

/// Lavapipe silently ends the loops of an invocation after 65,535 iterations in all.
#[test]
fn long_rows_are_shared_on_software_too() {
    let shared = |c| program_wgsl(&softmax(3, c), "s", &SOFT).wgsl.contains("lanes");
    assert!(!shared(79_984) && shared(79_988));
    assert_eq!(
        program_wgsl(&softmax(3, 90_000), "s", &SOFT).wgsl,
        program_wgsl(&softmax(3, 90_000), "s", &HARD).wgsl
    );
}
