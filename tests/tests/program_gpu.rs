//! Generated kernels on a GPU against their CPU twins: programs with random domains, views, offsets and guards, in
//! the form for software adapters and in that for hardware, between guard words. All values are whole numbers whose
//! sums are exact, so that results agree bit for bit whatever the order.

use std::sync::Arc;

use versant_device::{BufferRef, Cost, Device, Kernel, Launch, Recording};
use versant_kernels::program::ProgramBinding;
use versant_kernels::{
    Block, Caps, Class, DType, Guard, Instr, InstrKind, KernelSource, MapFn, Program, ReduceKind, ReduceOut,
    Reg, Shape, Step, Store, View, lanes, program_native, program_wgsl,
};
use versant_tests::devices;

static ADD: MapFn = MapFn {
    name: "add",
    arity: 2,
    wgsl: "{a} + {b}",
    lib: "",
    cpu: |_, d, a, b, _| lanes::binary_f32(d, a, b, |x, y| x + y),
    cost: 1,
};

const UNTOUCHED: u32 = 0xdead_beef;

/// Random choices.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn shape(&mut self, ranks: &[usize]) -> Vec<usize> {
        let rank = self.pick(ranks);
        (0..rank).map(|_| self.pick(&[1, 2, 3, 4, 4, 5, 8, 12, 16, 37])).collect()
    }

    /// A view of `shape` without guards, and how many words it spans. That of a store touches no word twice.
    fn view(&mut self, shape: Shape, store: bool) -> (View, usize) {
        let mut axes: Vec<usize> = (0..shape.rank()).collect();
        if self.below(4) == 0 && !axes.is_empty() {
            let by = self.below(axes.len());
            axes.rotate_left(by);
        }
        let offset = self.pick(&[0, 4, 8, 4, 5, 2]);
        let mut view = View { shape, strides: vec![0; shape.rank()], offset, guards: Vec::new() };
        let mut span = 1;
        for (i, &axis) in axes.iter().rev().enumerate() {
            if !store && self.below(4) == 0 {
                continue;
            }
            let step = if i == 0 { self.pick(&[1, 1, 1, 1, 1, 2]) } else { 1 };
            view.strides[axis] = step * span;
            // Rows that lie apart, at a distance that keeps fours together or not.
            span *= step * shape[axis] as isize;
            span += self.pick(&[0, 0, 0, 4, 3]);
            if i == 0 && self.below(3) == 0 {
                span = (span as usize).next_multiple_of(4) as isize;
            }
        }
        (view, (offset + span) as usize)
    }
}

/// Builds a program and its buffers.
struct Builder {
    rng: Rng,
    reads: Vec<(DType, Vec<u32>)>,
    writes: Vec<(DType, usize)>,
    block: Block,
    regs: Reg,
}

/// Written bindings are numbered from here until the reads are counted.
const WRITTEN: usize = 100;

impl Builder {
    fn push(&mut self, dtype: DType, kind: InstrKind) -> Reg {
        self.block.instrs.push(Instr { reg: self.regs, dtype, kind });
        self.regs += 1;
        self.regs - 1
    }

    fn float(&mut self, arg: Reg, from: DType) -> Reg {
        self.push(DType::F32, InstrKind::Cast { arg, from })
    }

    /// A load of a new buffer, as a float.
    fn load(&mut self, shape: Shape) -> Reg {
        let (mut view, words) = self.rng.view(shape, false);
        if self.rng.below(3) == 0 && shape.rank() > 0 {
            let axis = self.rng.below(shape.rank());
            let mut strides = vec![0; shape.rank()];
            strides[axis] = 1;
            let offset = -self.rng.pick(&[1, 4, 8]);
            let extent = self.rng.pick(&[1, 4, 6, 8]);
            view.guards.push(Guard { strides, offset, extent });
        }
        let dtype = self.rng.pick(&[DType::F32, DType::F32, DType::F32, DType::I32, DType::U32, DType::Bool]);
        let values = (0..words).map(|_| {
            let n = self.rng.below(9) as i32;
            match dtype {
                DType::F32 => ((n - 4) as f32).to_bits(),
                DType::I32 => (n - 4) as u32,
                DType::Bool => (n % 2) as u32,
                _ => n as u32,
            }
        });
        let values = values.collect();
        self.reads.push((dtype, values));
        let binding = self.reads.len() - 1;
        let value = self.push(dtype, InstrKind::Load { binding, view });
        self.float(value, dtype)
    }

    /// A load from a place that data decide.
    fn gather(&mut self, shape: Shape, index: Reg) -> Reg {
        let (view, words) = self.rng.view(shape, false);
        let index = self.push(DType::I32, InstrKind::Cast { arg: index, from: DType::F32 });
        let (stride, bound) = (self.rng.pick(&[1, 4, 6]), 5);
        let values = (0..words + 24).map(|i| (i as f32 % 7.0).to_bits()).collect();
        self.reads.push((DType::F32, values));
        let binding = self.reads.len() - 1;
        self.push(DType::F32, InstrKind::LoadAt { binding, view, index, stride, bound })
    }

    /// A few values of a step's domain, added up.
    fn value(&mut self, shape: Shape, from: &[Reg]) -> Reg {
        let mut sum = self.load(shape);
        for &reg in from {
            sum = self.add(sum, reg);
        }
        let view = self.rng.view(shape, true).0;
        let more = match self.rng.below(5) {
            0 => {
                let index = self.push(DType::I32, InstrKind::Index(view));
                self.float(index, DType::I32)
            }
            1 => {
                let strides = view.strides.iter().map(|_| 1).collect();
                let guards = vec![Guard { strides, offset: -2, extent: 8 }];
                let inside = self.push(DType::Bool, InstrKind::InBounds(View { guards, ..view }));
                self.float(inside, DType::Bool)
            }
            2 => self.gather(shape, sum),
            3 => {
                let index = self.load(shape);
                self.gather(shape, index)
            }
            _ => self.load(shape),
        };
        self.add(sum, more)
    }

    fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.push(DType::F32, InstrKind::Map { f: &ADD, args: [a, b, 0], operand: DType::F32 })
    }

    fn store(&mut self, shape: Shape, value: Reg) {
        let (view, words) = self.rng.view(shape, true);
        self.writes.push((DType::F32, words + 4));
        let binding = WRITTEN + self.writes.len() - 1;
        self.block.stores.push(Store { binding, view, value, dtype: DType::F32 });
    }
}

/// A random program with its buffers: reads, then writes full of guard words.
fn random(seed: u64) -> (Program, Vec<Vec<u32>>) {
    let rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut b = Builder { rng, reads: vec![], writes: vec![], block: Block::default(), regs: 0 };
    let rows = b.rng.shape(&[1, 1, 2, 3]);
    let cols = b.rng.shape(&[0, 0, 1, 2]);
    let all = Shape::new(&[&rows[..], &cols].concat()).expect("small rank");
    let rows = Shape::new(&rows).expect("small rank");
    let mut steps = Vec::new();
    if cols.is_empty() {
        let value = b.value(rows, &[]);
        b.store(rows, value);
        steps.push(Step::Row(std::mem::take(&mut b.block)));
    } else {
        let value = b.value(all, &[]);
        if b.rng.below(2) == 0 {
            b.store(all, value);
        }
        let kinds =
            [ReduceKind::Sum, ReduceKind::Max, ReduceKind::ArgMax, ReduceKind::Min, ReduceKind::ArgMin];
        let kinds: Vec<ReduceKind> = (0..2).map(|_| b.rng.pick(&kinds)).collect();
        let outs = kinds.iter().enumerate().map(|(i, &kind)| {
            let out = b.regs + i as Reg;
            ReduceOut { kind, value, dtype: DType::F32, out }
        });
        let outs: Vec<ReduceOut> = outs.collect();
        b.regs += outs.len() as Reg;
        steps.push(Step::Col(std::mem::take(&mut b.block), outs.clone()));
        let is_arg = |k| matches!(k, ReduceKind::ArgMax | ReduceKind::ArgMin);
        let results: Vec<Reg> =
            (outs.iter()).map(|o| if is_arg(o.kind) { b.float(o.out, DType::I32) } else { o.out }).collect();
        for &result in &results {
            b.store(rows, result);
        }
        steps.push(Step::Row(std::mem::take(&mut b.block)));
        if b.writes.len() + b.reads.len() < 6 {
            let value = b.load(all);
            let value = b.add(value, results[0]);
            b.store(all, value);
            steps.push(Step::Col(std::mem::take(&mut b.block), vec![]));
        }
    }
    let reads = b.reads.len();
    for step in &mut steps {
        let (Step::Row(block) | Step::Col(block, _)) = step;
        block.stores.iter_mut().for_each(|s| s.binding = s.binding - WRITTEN + reads);
    }
    let binding = |written| move |dtype| ProgramBinding { dtype, written };
    let bindings = b.reads.iter().map(|r| r.0).map(binding(false));
    let bindings = bindings.chain(b.writes.iter().map(|w| w.0).map(binding(true))).collect();
    let program =
        Program { rows, cols: Shape::new(&cols).expect("small rank"), bindings, steps, regs: b.regs };
    let buffers = b.reads.into_iter().map(|r| r.1);
    (program, buffers.chain(b.writes.into_iter().map(|w| vec![UNTOUCHED; w.1])).collect())
}

/// The written buffers after a run on a device.
fn run(device: &Device, source: &KernelSource, buffers: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let kernel = Kernel {
        label: source.label.clone(),
        wgsl: source.wgsl.clone(),
        reads: source.reads,
        writes: source.writes,
        uses_scalars: source.uses_scalars,
        trusted: source.trusted,
        native: source.native.clone(),
    };
    let all = || (0..buffers.len()).map(|i| BufferRef::External(i as u32));
    let launch = Launch {
        kernel: Arc::new(kernel),
        params: source.params.clone(),
        grid: source.grid,
        reads: all().take(source.reads).collect(),
        writes: all().skip(source.reads).collect(),
        cost: Cost::default(),
    };
    let recording = Recording {
        launches: vec![launch],
        externals: buffers.iter().map(Vec::len).collect(),
        ..Recording::default()
    };
    let plan = device.prepare(recording).unwrap_or_else(|e| panic!("{e}\n{}", source.wgsl));
    let uploaded: Vec<_> = buffers.iter().map(|b| device.upload(b).expect("memory")).collect();
    device.run(&plan, &uploaded, &[]).expect("a run");
    let written = uploaded.iter().zip(buffers).skip(source.reads);
    written.map(|(buffer, words)| device.read(buffer, words.len()).expect("a readback")).collect()
}

/// Abilities of a sort of adapter, with what is optional or without.
fn caps(gpu: &Device, software: bool, optional: bool) -> Caps {
    let info = gpu.info();
    let class = if software { Class::Software } else { Class::Discrete };
    let least = Caps::webgpu(class);
    if !optional {
        return least;
    }
    Caps {
        min_subgroup: info.limits.min_subgroup,
        max_subgroup: info.limits.max_subgroup,
        subgroup_rows: info.limits.min_subgroup > 0,
        int64: info.features.int64,
        ..least
    }
}

#[test]
fn every_form_agrees_with_the_cpu() {
    let devices = devices();
    let (cpu, gpus) = devices.split_first().expect("the CPU is always there");
    let mut vectors = [0; 3];
    let mut subgroups = 0;
    for seed in 0..260 {
        let (program, buffers) = random(seed);
        if program.bindings.len() > 7 {
            continue;
        }
        let want = run(cpu, &program_native(program.clone(), "native"), &buffers);
        for gpu in gpus {
            for software in [true, false] {
                let source = program_wgsl(&program, "generated", &caps(gpu, software, seed % 2 == 0));
                subgroups += usize::from(source.wgsl.contains("subgroupShuffleXor"));
                let kind = program.cols.rank().min(1) + usize::from(program.cols.rank() > 0 && !software);
                vectors[kind] += usize::from(
                    source.wgsl.lines().any(|l| l.contains("var<storage") && l.contains(": array<vec")),
                );
                let got = run(gpu, &source, &buffers);
                assert_eq!(
                    got, want,
                    "program {seed} for software: {software}\n{program:#?}\n{}",
                    source.wgsl
                );
            }
        }
    }
    assert!(gpus.is_empty() || vectors.iter().all(|&n| n > 8), "{vectors:?} texts have vectors");
    let has = gpus.iter().any(|d| d.info().limits.min_subgroup > 0);
    assert!(subgroups > 8 || !has, "{subgroups} texts use subgroups");
}

/// Copies along other dimensions than they read along, through workgroup memory, and what is computed on the way.
#[test]
fn transposing_copies_agree_with_the_cpu() {
    let devices = devices();
    let (cpu, gpus) = devices.split_first().expect("the CPU is always there");
    let shape = |dims: &[usize]| Shape::new(dims).expect("a small rank");
    let dense = |dims: &[usize]| View::contiguous(shape(dims));
    let padded = dense(&[40, 30]).permute(&[1, 0]).pad(&[2, 1], shape(&[35, 47]));
    let reversed = View { strides: [1, -35].into_iter().collect(), offset: 46 * 35, ..dense(&[35, 47]) };
    for (dims, a, b) in [
        (&[35, 47][..], dense(&[47, 35]).permute(&[1, 0]), dense(&[35, 47])),
        (&[35, 47], padded, reversed),
        (
            &[2, 33, 3, 65],
            dense(&[65, 33, 2, 3]).permute(&[2, 1, 3, 0]),
            dense(&[2, 65, 3, 33]).permute(&[0, 3, 2, 1]),
        ),
    ] {
        let rows = shape(dims);
        let load =
            |reg, binding, view| Instr { reg, dtype: DType::F32, kind: InstrKind::Load { binding, view } };
        let sum = InstrKind::Map { f: &ADD, args: [0, 1, 0], operand: DType::F32 };
        let instrs = vec![load(0, 0, a), load(1, 1, b), Instr { reg: 2, dtype: DType::F32, kind: sum }];
        let store = Store { binding: 2, view: View::contiguous(rows), value: 2, dtype: DType::F32 };
        let binding = |written| ProgramBinding { dtype: DType::F32, written };
        let program = Program {
            rows,
            cols: Shape::SCALAR,
            bindings: vec![binding(false), binding(false), binding(true)],
            steps: vec![Step::Row(Block { instrs, stores: vec![store] })],
            regs: 3,
        };
        let words =
            |seed: usize| (0..rows.numel()).map(|i| ((i * 7 + seed) as f32).to_bits()).collect::<Vec<u32>>();
        let buffers = [words(1), words(2), vec![0; rows.numel()]];
        let want = run(cpu, &program_native(program.clone(), "native"), &buffers);
        for gpu in gpus {
            let source = program_wgsl(&program, "generated", &caps(gpu, false, false));
            assert!(source.wgsl.contains("workgroup>"));
            assert_eq!(run(gpu, &source, &buffers), want, "{program:#?}\n{}", source.wgsl);
        }
    }
}

/// Long rows, of which a software adapter takes several vectors a round, as words of 64 bits where it has them.
#[test]
fn long_rows_agree_with_the_cpu() {
    let devices = devices();
    let (cpu, gpus) = devices.split_first().expect("the CPU is always there");
    let shape = |dims: &[usize]| Shape::new(dims).expect("a small rank");
    for (dtype, kind) in [
        (DType::F32, ReduceKind::Sum),
        (DType::F32, ReduceKind::ArgMax),
        (DType::I32, ReduceKind::Max),
        (DType::Bool, ReduceKind::Sum),
    ] {
        let (rows, cols) = (9, 4112);
        let out = if kind == ReduceKind::ArgMax { DType::I32 } else { dtype };
        let view = View::contiguous(shape(&[rows, cols]));
        let load = Instr { reg: 0, dtype, kind: InstrKind::Load { binding: 0, view } };
        let store = Store { binding: 1, view: View::contiguous(shape(&[rows])), value: 1, dtype: out };
        let reduce = ReduceOut { kind, value: 0, dtype, out: 1 };
        let program = Program {
            rows: shape(&[rows]),
            cols: shape(&[cols]),
            bindings: vec![
                ProgramBinding { dtype, written: false },
                ProgramBinding { dtype: out, written: true },
            ],
            steps: vec![
                Step::Col(Block { instrs: vec![load], stores: vec![] }, vec![reduce]),
                Step::Row(Block { instrs: vec![], stores: vec![store] }),
            ],
            regs: 2,
        };
        let word = |i: usize| match dtype {
            DType::F32 => ((i * 7 % 1009) as f32 - 100.0).to_bits(),
            DType::Bool => u32::from(i / cols == 3 && i % cols == 4000),
            _ => (i * 7 % 1009) as u32,
        };
        let buffers = [(0..rows * cols).map(word).collect(), vec![UNTOUCHED; rows]];
        let want = run(cpu, &program_native(program.clone(), "native"), &buffers);
        for gpu in gpus {
            for optional in [false, true] {
                let source = program_wgsl(&program, "generated", &caps(gpu, true, optional));
                assert_eq!(source.wgsl.matches("= buf0[").count() + source.wgsl.matches("(buf0[").count(), 4);
                assert_eq!(run(gpu, &source, &buffers), want, "{dtype} {kind:?}\n{}", source.wgsl);
            }
        }
    }
}
