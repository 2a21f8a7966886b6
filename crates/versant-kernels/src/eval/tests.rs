//! Random programs against an evaluator that does one element at a time, and the numerics of reductions.

mod random;
mod reference;

use super::*;
use crate::program::ProgramBinding;
use crate::{Block, DType, Instr, InstrKind, MapFn, ReduceKind, ReduceOut, Shape, Step, Store, View};
use random::{SCALARS, random};
use reference::Reference;

/// Runs `p` through the evaluator with jobs of about `work` and gives the written buffers.
fn run(evaluator: &Evaluator, p: &Program, buffers: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let (reads, writes) = buffers.split_at(p.reads());
    let reads: Vec<&[u32]> = reads.iter().map(|b| &b[..]).collect();
    let mut out = writes.to_vec();
    let mut writes: Vec<&mut [u32]> = out.iter_mut().map(|b| &mut b[..]).collect();
    evaluator.run(&reads, &mut writes, &SCALARS);
    out
}

#[test]
fn random_programs_agree_with_the_definition() {
    for seed in 0..3000 {
        let (p, buffers) = random(seed, false);
        let mut want = buffers.clone();
        Reference { p: &p, scalars: &SCALARS, acc: &[] }.run(&mut want);
        for work in [JOB, 1, 200] {
            let got = run(&Evaluator::with_job(p.clone(), work), &p, &buffers);
            assert!(got == want[p.reads()..], "seed {seed}, jobs of {work}: {p:?}");
        }
    }
}

#[test]
fn random_epilogues_agree_with_the_definition() {
    for seed in 0..600 {
        let (mut p, buffers) = random(seed, true);
        // An epilogue is one step.
        let blocks = p.steps.drain(..).map(|s| match s {
            Step::Row(block) => block,
            Step::Col(..) => unreachable!("there are no columns"),
        });
        let mut whole = Block::default();
        for block in blocks {
            whole.instrs.extend(block.instrs);
            whole.stores.extend(block.stores);
        }
        p.steps.push(Step::Row(whole));
        let acc: Vec<f32> = (0..p.rows.numel()).map(|i| i as f32).collect();
        let mut want = buffers.clone();
        Reference { p: &p, scalars: &SCALARS, acc: &acc }.run(&mut want);
        let mut got = buffers.clone();
        let (reads, writes) = got.split_at_mut(p.reads());
        let reads: Vec<&[u32]> = reads.iter().map(|b| &b[..]).collect();
        let mut writes: Vec<&mut [u32]> = writes.iter_mut().map(|b| &mut b[..]).collect();
        Evaluator::epilogue(p.clone()).shared(&reads, &mut writes, &SCALARS, |sink| {
            let pieces: Vec<_> = acc.chunks(7).enumerate().collect();
            pieces.par_iter().for_each(|(i, acc)| sink(Runs::one(i * 7, acc.len()), acc));
        });
        assert!(got == want, "seed {seed}: {p:?}");
    }
}

/// A program that reduces one loaded value over `cols` and stores the result.
fn reduction(kind: ReduceKind, rows: &[usize], cols: &[usize], strides: &[isize]) -> Program {
    reductions(&[kind], rows, cols, strides)
}

/// The same of several reductions, each with a buffer of its own.
fn reductions(kinds: &[ReduceKind], rows: &[usize], cols: &[usize], strides: &[isize]) -> Program {
    let dims: Vec<usize> = rows.iter().chain(cols).copied().collect();
    let (rows, cols) = (Shape::new(rows).unwrap(), Shape::new(cols).unwrap());
    let view =
        View { shape: Shape::new(&dims).unwrap(), strides: strides.to_vec(), offset: 0, guards: Vec::new() };
    let load = Instr { reg: 0, dtype: DType::F32, kind: InstrKind::Load { binding: 0, view } };
    let (mut reduces, mut stores) = (Vec::new(), Vec::new());
    for (number, &kind) in (1..).zip(kinds) {
        let is_arg = matches!(kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
        let dtype = if is_arg { DType::I32 } else { DType::F32 };
        reduces.push(ReduceOut { kind, value: 0, dtype: DType::F32, out: number });
        stores.push(Store { binding: number as usize, view: View::contiguous(rows), value: number, dtype });
    }
    let regs = 1 + kinds.len() as u32;
    let steps = vec![
        Step::Col(Block { instrs: vec![load], stores: vec![] }, reduces),
        Step::Row(Block { instrs: vec![], stores }),
    ];
    from_one(rows, cols, steps, regs, kinds.len())
}

/// A program that reads one buffer and writes one.
fn from_one_to_one(rows: Shape, cols: Shape, steps: Vec<Step>, regs: u32) -> Program {
    from_one(rows, cols, steps, regs, 1)
}

/// A program that reads one buffer and writes `writes`.
fn from_one(rows: Shape, cols: Shape, steps: Vec<Step>, regs: u32, writes: usize) -> Program {
    let binding = |i| ProgramBinding { dtype: DType::F32, written: i > 0 };
    Program { rows, cols, bindings: (0..=writes).map(binding).collect(), steps, regs }
}

/// Numbers in 0..1 with all their bits.
fn noise(len: usize) -> Vec<u32> {
    let mut words = vec![0; len];
    crate::math::philox_lanes(&mut words, 0, [1, 2]);
    words.iter().map(|w| ((w >> 8) as f32 / 16_777_216.0).to_bits()).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let cases = [
        reduction(ReduceKind::Sum, &[], &[1 << 21], &[1]),
        reduction(ReduceKind::Sum, &[3], &[700_001], &[700_001, 1]),
        reduction(ReduceKind::Sum, &[3], &[700_001], &[1, 3]),
        reduction(ReduceKind::Prod, &[2000], &[1000], &[1000, 1]),
        reduction(ReduceKind::Sum, &[2000], &[1000], &[1, 2000]),
        reduction(ReduceKind::ArgMax, &[5], &[400_000], &[1, 5]),
    ];
    let words = noise(2_100_003);
    for p in cases {
        let evaluator = Evaluator::new(p.clone());
        assert!(
            evaluator.job_rows < evaluator.plan.rows || evaluator.job_cols < evaluator.plan.cols,
            "the case is too small to be cut into jobs"
        );
        let buffers = vec![words.clone(), vec![0; p.rows.numel()]];
        let results = [1, 2, 7].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| run(&evaluator, &p, &buffers))
        });
        assert!(results.iter().all(|r| *r == results[0]));
    }
}

#[test]
fn float_sums_lose_next_to_nothing() {
    let words = noise(3_000_000);
    let cases = [
        reduction(ReduceKind::Sum, &[], &[3_000_000], &[1]),
        reduction(ReduceKind::Sum, &[3], &[1_000_000], &[1_000_000, 1]),
        reduction(ReduceKind::Sum, &[3], &[1_000_000], &[1, 3]),
        reduction(ReduceKind::Sum, &[700], &[4000], &[1, 700]),
        reduction(ReduceKind::Sum, &[700], &[40, 100], &[4000, 1, 40]),
    ];
    for p in cases {
        let buffers = vec![words.clone(), vec![0; p.rows.numel()]];
        let mut want = buffers.clone();
        Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
        // In parallel, and as a single job.
        for work in [JOB, 1 << 40] {
            let got = run(&Evaluator::with_job(p.clone(), work), &p, &buffers);
            for (&got, &want) in got[0].iter().zip(&want[1]) {
                assert!(got.abs_diff(want) <= 3, "{:e}", f32::from_bits(got));
            }
        }
    }
}

#[test]
fn nan_wins_and_the_first_of_equals() {
    use ReduceKind::{ArgMax, ArgMin, Max, Min};
    // Alone; and an extreme before and behind its place, which finds it.
    let kinds: [&[ReduceKind]; 8] = [
        &[Max],
        &[Min],
        &[ArgMax],
        &[ArgMin],
        &[Max, ArgMax],
        &[ArgMin, Min],
        &[Max, ArgMin],
        &[ArgMax, Min, Max],
    ];
    for kinds in kinds {
        for cols in [1, 5, 40, 1500] {
            for strides in [[cols as isize, 1], [1, 4]] {
                let p = reductions(kinds, &[4], &[cols], &strides);
                let mut words = noise(4 * cols);
                words.iter_mut().for_each(|w| *w &= 0xffc0_0000);
                // Three rows with NaN or infinities, one with many equal values.
                let at = |row: usize, col: usize| row * strides[0] as usize + col * strides[1] as usize;
                words[at(0, cols / 2)] = f32::NAN.to_bits();
                words[at(0, cols - 1)] = f32::NAN.to_bits();
                words[at(1, cols / 3)] = f32::NEG_INFINITY.to_bits();
                words[at(2, cols / 3)] = f32::INFINITY.to_bits();
                let mut buffers = vec![words];
                buffers.resize(1 + kinds.len(), vec![0; 4]);
                let mut want = buffers.clone();
                Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
                for work in [JOB, 1] {
                    let got = run(&Evaluator::with_job(p.clone(), work), &p, &buffers);
                    assert_eq!(got, want[1..], "{kinds:?} over {cols} columns, {strides:?}");
                }
            }
        }
    }
}

/// Something dear: `x / (x + 2)`.
static DEAR: MapFn = MapFn {
    name: "dear",
    arity: 1,
    wgsl: "",
    lib: "",
    cpu: |_, dst, a, _, _| crate::lanes::unary_f32(dst, a, |x| x / (x + 2.0)),
    cost: 12,
};
static MUL: MapFn = TIMES;
const TIMES: MapFn = MapFn {
    name: "mul",
    arity: 2,
    wgsl: "",
    lib: "",
    cpu: |_, dst, a, b, _| crate::lanes::binary_f32(dst, a, b, |x, y| x * y),
    cost: 1,
};

/// `dear(x) * max(dear(x))` along rows, and once more from what was stored, which nothing may keep.
fn twice(rows: usize, cols: usize) -> Program {
    let [rows, cols, whole] = [&[rows][..], &[cols], &[rows, cols]].map(|dims| Shape::new(dims).unwrap());
    let view = View::contiguous(whole);
    let load = |reg, binding| InstrKind::Load { binding, view: view.clone() }.of(reg);
    let map = |reg, f: &'static MapFn, args| InstrKind::Map { f, args, operand: DType::F32 }.of(reg);
    let store = |value| Store { binding: 1, view: view.clone(), value, dtype: DType::F32 };
    let dear = |x: u32, from| vec![load(x, from), map(x + 1, &DEAR, [x, x, x])];
    let max = |value| ReduceOut { kind: ReduceKind::Max, value, dtype: DType::F32, out: value + 1 };
    let col = |instrs, stores, reduces| Step::Col(Block { instrs, stores }, reduces);
    let mut last = dear(3, 0);
    last.push(map(5, &MUL, [4, 2, 2]));
    let mut again = dear(6, 1);
    again.push(map(8, &MUL, [7, 2, 2]));
    let steps = vec![
        col(dear(0, 0), vec![], vec![max(1)]),
        col(last, vec![store(5)], vec![]),
        col(again, vec![store(8)], vec![]),
    ];
    from_one_to_one(rows, cols, steps, 9)
}

impl InstrKind {
    fn of(self, reg: u32) -> Instr {
        Instr { reg, dtype: DType::F32, kind: self }
    }
}

#[test]
fn what_two_steps_want_is_kept() {
    for (rows, cols) in [(60, 1100), (70, 1025), (3000, 7), (64, 256), (3, 1100)] {
        let p = twice(rows, cols);
        let buffers = vec![noise(rows * cols), vec![0; rows * cols]];
        let mut want = buffers.clone();
        Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
        for work in [JOB, 1, 200] {
            let evaluator = Evaluator::with_job(p.clone(), work);
            assert_eq!(evaluator.plan.kept.len(), usize::from(rows > 3), "few rows are cut by columns");
            assert!(run(&evaluator, &p, &buffers)[0] == want[1], "{rows} x {cols}, jobs of {work}");
        }
    }
}

/// `dear(x)`, or of halves, of what the buffer held or into a turned view.
fn mapped(dtype: DType, from: usize, strides: [isize; 2]) -> Program {
    let rows = Shape::new(&[40, 30]).unwrap();
    let view = |strides: [isize; 2]| View { strides: strides.to_vec(), ..View::contiguous(rows) };
    let load = InstrKind::Load { binding: from, view: view([30, 1]) }.of(0);
    let map = InstrKind::Map { f: &DEAR, args: [0, 0, 0], operand: DType::F32 }.of(1);
    let store = Store { binding: 1, view: view(strides), value: 1, dtype };
    let step = Step::Row(Block { instrs: vec![load, map], stores: vec![store] });
    let mut p = from_one_to_one(rows, Shape::new(&[]).unwrap(), vec![step], 2);
    p.bindings[1].dtype = dtype;
    p
}

#[test]
fn jobs_are_lent_what_nobody_else_touches() {
    let softmax = |rows| {
        let mut p = twice(rows, 300);
        // Without the step that loads what was stored.
        p.steps.truncate(2);
        p
    };
    let cases = [
        (mapped(DType::F32, 0, [30, 1]), true),
        (softmax(100), true),
        // Few rows are cut by columns.
        (softmax(3), false),
        // Two stores to one buffer.
        (twice(100, 300), false),
        // An update.
        (mapped(DType::F32, 1, [30, 1]), true),
        (mapped(DType::F32, 0, [1, 40]), false),
        (mapped(DType::F16, 0, [30, 1]), false),
    ];
    for (number, (p, lent)) in cases.into_iter().enumerate() {
        let words = p.rows.numel() * p.cols.numel();
        let buffers = vec![noise(words), noise(words)];
        let mut want = buffers.clone();
        if p.bindings[1].dtype == DType::F32 {
            Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
        }
        for work in [JOB, 1, 3000] {
            let evaluator = Evaluator::with_job(p.clone(), work);
            assert_eq!(!evaluator.plan.homes.is_empty(), lent, "case {number}");
            // A softmax multiplies what is kept where it lies.
            let updates =
                evaluator.plan.steps.iter().flat_map(|step| &step.ops).filter(|op| op.update.is_some());
            assert_eq!(updates.count(), usize::from(number == 1), "case {number}");
            // All of so long a result goes past the caches: of the first case only, since others are read by their jobs.
            assert_eq!(evaluator.plan.streams(), number == 0, "case {number}");
            if p.bindings[1].dtype == DType::F32 {
                assert!(run(&evaluator, &p, &buffers)[0] == want[1], "case {number}, jobs of {work}");
            }
        }
    }
}

/// A result that is stored while a value is kept, and a last step that reduces what is kept beside storing over it.
#[test]
fn what_is_kept_leaves_other_results_alone() {
    let [rows, cols, whole] = [&[100][..], &[300], &[100, 300]].map(|dims| Shape::new(dims).unwrap());
    let view = View::contiguous(whole);
    let load = |reg| InstrKind::Load { binding: 0, view: view.clone() }.of(reg);
    let map = |reg, f: &'static MapFn, args| InstrKind::Map { f, args, operand: DType::F32 }.of(reg);
    let dear = |x: u32| vec![load(x), map(x + 1, &DEAR, [x, x, x])];
    let reduce = |value, out| ReduceOut { kind: ReduceKind::Max, value, dtype: DType::F32, out };
    let store = |binding, value| Store { binding, view: view.clone(), value, dtype: DType::F32 };
    let with = |x, reg| [dear(x), vec![map(reg, &MUL, [x + 1, 2, 0])]].concat();
    for reduces in [vec![], vec![reduce(7, 9)]] {
        let maxima = Store { binding: 3, view: View::contiguous(rows), value: 2, dtype: DType::F32 };
        let last = reduces.first().map_or(2, |r: &ReduceOut| r.out);
        let steps = [
            Step::Col(Block { instrs: dear(0), stores: vec![] }, vec![reduce(1, 2)]),
            Step::Col(Block { instrs: with(3, 5), stores: vec![store(1, 5)] }, vec![]),
            Step::Col(Block { instrs: with(6, 8), stores: vec![store(2, 8)] }, reduces),
            Step::Row(Block { instrs: vec![], stores: vec![Store { value: last, ..maxima }] }),
        ];
        for steps in [&steps[..], &steps[..3]] {
            let p = from_one(rows, cols, steps.to_vec(), 10, 3);
            let mut buffers = vec![noise(30_000)];
            buffers.extend([30_000, 30_000, 100].map(|words| vec![0; words]));
            let mut want = buffers.clone();
            Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
            for work in [JOB, 1, 3000] {
                let evaluator = Evaluator::with_job(p.clone(), work);
                assert_eq!((evaluator.plan.kept.len(), evaluator.plan.homes.len()), (1, 2));
                assert!(run(&evaluator, &p, &buffers) == want[1..], "{} steps, jobs of {work}", steps.len());
            }
        }
    }
}

#[test]
fn what_was_loaded_is_read_before_it_is_stored_over() {
    let rows = Shape::new(&[40, 30]).unwrap();
    let view = View::contiguous(rows);
    let load = InstrKind::Load { binding: 1, view: view.clone() }.of(0);
    let map = InstrKind::Map { f: &DEAR, args: [0, 0, 0], operand: DType::F32 }.of(1);
    let store = |binding, value| Store { binding, view: view.clone(), value, dtype: DType::F32 };
    for (stores, homes) in [
        (vec![store(1, 1), store(2, 0)], 1),
        (vec![store(2, 0), store(1, 1)], 1),
        (vec![store(1, 1), store(2, 1)], 2),
    ] {
        let step = Step::Row(Block { instrs: vec![load.clone(), map.clone()], stores });
        let p = from_one(rows, Shape::new(&[]).unwrap(), vec![step], 2, 2);
        let buffers = vec![vec![], noise(1200), vec![0; 1200]];
        let mut want = buffers.clone();
        Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
        for work in [JOB, 1, 3000] {
            let evaluator = Evaluator::with_job(p.clone(), work);
            assert_eq!(evaluator.plan.homes.len(), homes);
            assert!(run(&evaluator, &p, &buffers) == want[1..], "jobs of {work}");
        }
    }
}

#[test]
fn pairs_give_the_bits_of_both() {
    static SUB: MapFn = MapFn {
        name: "sub",
        cpu: |_, dst, a, b, _| crate::lanes::binary_f32(dst, a, b, |x, y| x - y),
        ..TIMES
    };
    static EXP: MapFn =
        MapFn { name: "exp", arity: 1, cpu: |_, dst, a, _, _| crate::math::exp_block(dst, a), ..TIMES };
    let rows = Shape::new(&[2000]).unwrap();
    let view = View::contiguous(rows);
    let load = |reg, binding| InstrKind::Load { binding, view: view.clone() }.of(reg);
    let map = |reg, f: &'static MapFn, args| InstrKind::Map { f, args, operand: DType::F32 }.of(reg);
    let store = |binding, value| Store { binding, view: view.clone(), value, dtype: DType::F32 };
    // Lanes of both, and one word for all on either side; and a difference that is stored, too.
    for (args, both) in [([0, 1], false), ([0, 2], false), ([2, 1], false), ([2, 2], false), ([0, 1], true)] {
        let constant = InstrKind::Const(0.75f32.to_bits()).of(2);
        let difference = map(3, &SUB, [args[0], args[1], 0]);
        let instrs = vec![load(0, 0), load(1, 1), constant, difference, map(4, &EXP, [3, 0, 0])];
        let stores = vec![store(2, 4), store(3, if both { 3 } else { 0 })];
        let step = Step::Row(Block { instrs, stores });
        let p = from_one(rows, Shape::new(&[]).unwrap(), vec![step], 5, 3);
        let p = Program {
            bindings: [false, false, true, true]
                .map(|written| ProgramBinding { dtype: DType::F32, written })
                .to_vec(),
            ..p
        };
        let wild =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, 88.5, -103.9].map(f32::to_bits);
        let mut buffers = vec![noise(2000), noise(2000), vec![0; 2000], vec![0; 2000]];
        buffers[0][100..108].copy_from_slice(&wild);
        buffers[1][104..112].copy_from_slice(&wild);
        let mut want = buffers.clone();
        Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
        let evaluator = Evaluator::with_job(p.clone(), JOB);
        let maps = evaluator.plan.steps[0].ops.iter().filter(|op| matches!(op.kind, OpKind::Map { .. }));
        assert_eq!(maps.count(), 1 + usize::from(both));
        assert!(run(&evaluator, &p, &buffers) == want[2..], "{args:?}, stored: {both}");
    }
}

#[test]
fn values_of_channels_and_of_columns_are_read_as_they_repeat() {
    for dims in [[1, 4, 100], [3, 4, 512], [3, 5, 256], [2, 3, 1500], [7, 1, 100], [40, 30, 10], [3, 2, 9000]]
    {
        let rows = Shape::new(&dims).unwrap();
        let view = |strides: [isize; 3]| View {
            shape: rows,
            strides: strides.to_vec(),
            offset: 0,
            guards: Vec::new(),
        };
        let load = |reg, binding, strides| InstrKind::Load { binding, view: view(strides) }.of(reg);
        let times = |reg, args| InstrKind::Map { f: &MUL, args, operand: DType::F32 }.of(reg);
        let [_, c, w] = dims.map(|d| d as isize);
        let instrs = vec![
            load(0, 0, [c * w, w, 1]),
            load(1, 1, [0, 1, 0]),
            load(2, 2, [0, 0, 1]),
            InstrKind::Const(1.5f32.to_bits()).of(3),
            times(4, [0, 1, 0]),
            times(5, [2, 3, 0]),
            times(6, [4, 5, 0]),
            // What channels and columns have alone, too.
            times(7, [1, 3, 0]),
            // And what is one word for a block, if that lies in a channel, and is read by another.
            times(8, [1, 3, 0]),
            times(9, [0, 8, 0]),
        ];
        let store =
            |binding, value| Store { binding, view: View::contiguous(rows), value, dtype: DType::F32 };
        let stores = vec![store(3, 6), store(4, 7), store(5, 1), store(6, 9)];
        let block = Block { instrs, stores };
        let binding = |written| ProgramBinding { dtype: DType::F32, written };
        let bindings = [false, false, false, true, true, true, true].map(binding).to_vec();
        let p = Program {
            rows,
            cols: Shape::new(&[]).unwrap(),
            bindings,
            steps: vec![Step::Row(block)],
            regs: 10,
        };
        let count = rows.numel();
        let mut buffers = vec![noise(count), noise(dims[1]), noise(dims[2])];
        buffers.extend((0..4).map(|_| vec![0; count]));
        let mut want = buffers.clone();
        Reference { p: &p, scalars: &[], acc: &[] }.run(&mut want);
        for work in [JOB, 1, 200] {
            let evaluator = Evaluator::with_job(p.clone(), work);
            let ops = &evaluator.plan.steps[0].ops;
            assert_eq!(ops.iter().filter(|op| op.one && op.arity > 0).count(), 1);
            // What is neither short nor so long that it goes past the caches asks for what comes next.
            assert_eq!(ops.iter().any(|op| !op.asks.is_empty()), count == 400);
            assert!(run(&evaluator, &p, &buffers) == want[3..], "{dims:?}");
        }
    }
}
