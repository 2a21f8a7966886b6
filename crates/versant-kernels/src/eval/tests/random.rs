//! Random programs.

use crate::math::philox4x32;
use crate::program::ProgramBinding;
use crate::{
    Block, DType, Guard, Instr, InstrKind, MapFn, Program, ReduceKind, ReduceOut, Reg, Shape, Step, Store,
    View, lanes,
};

static ADD: MapFn = MapFn {
    name: "add",
    arity: 2,
    wgsl: "{a} + {b}",
    lib: "",
    cpu: |_, dst, a, b, _| lanes::binary_u32(dst, a, b, u32::wrapping_add),
    cost: 1,
};

static MUL: MapFn = MapFn {
    name: "mul",
    arity: 2,
    wgsl: "{a} * {b}",
    lib: "",
    cpu: |_, dst, a, b, _| lanes::binary_u32(dst, a, b, u32::wrapping_mul),
    cost: 1,
};

static MAX: MapFn = MapFn {
    name: "max",
    arity: 2,
    wgsl: "max({a}, {b})",
    lib: "",
    cpu: |dtype, dst, a, b, _| match dtype {
        DType::F32 => lanes::binary_f32(dst, a, b, f32::max),
        DType::I32 => lanes::binary_i32(dst, a, b, i32::max),
        _ => lanes::binary_u32(dst, a, b, u32::max),
    },
    cost: 1,
};

static NEG: MapFn = MapFn {
    name: "neg",
    arity: 1,
    wgsl: "-{a}",
    lib: "",
    cpu: |dtype, dst, a, _, _| match dtype {
        DType::F32 => lanes::unary_f32(dst, a, |x| -x),
        _ => lanes::unary_u32(dst, a, u32::wrapping_neg),
    },
    cost: 1,
};

static LESS: MapFn = MapFn {
    name: "lt",
    arity: 2,
    wgsl: "{a} < {b}",
    lib: "",
    cpu: |dtype, dst, a, b, _| match dtype {
        DType::F32 => lanes::compare_f32(dst, a, b, |x, y| x < y),
        DType::I32 => lanes::compare_i32(dst, a, b, |x, y| x < y),
        _ => lanes::compare_u32(dst, a, b, |x, y| x < y),
    },
    cost: 1,
};

static SELECT: MapFn = MapFn {
    name: "select",
    arity: 3,
    wgsl: "select({c}, {b}, {a})",
    lib: "",
    cpu: |_, dst, c, a, b| lanes::ternary_u32(dst, c, a, b, |c, a, b| if c != 0 { a } else { b }),
    cost: 1,
};

static MASK: MapFn = MapFn {
    name: "and",
    arity: 2,
    wgsl: "{a} & {b}",
    lib: "",
    cpu: |_, dst, a, b, _| lanes::binary_u32(dst, a, b, |x, y| x & y),
    cost: 1,
};

/// Random choices from Philox.
struct Rng(u32, u32);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        philox4x32([self.1, 0, 0, 0], [self.0, 7])[0] as usize % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Builds a random program and its buffers.
struct Builder {
    rng: Rng,
    rows: Shape,
    cols: Shape,
    /// Type, whether written, words.
    reads: Vec<(DType, Vec<u32>)>,
    writes: Vec<(DType, Vec<u32>)>,
    /// Row registers, then the step's own.
    regs: Vec<(Reg, DType)>,
    next: Reg,
    epilogue: bool,
}

/// Bindings of the program under construction: written ones are renumbered at the end.
const WRITTEN: usize = 1 << 20;

impl Builder {
    fn shape(&mut self, rank: usize, sizes: &[usize]) -> Shape {
        let dims: Vec<usize> = (0..rank).map(|_| self.rng.pick(sizes)).collect();
        Shape::new(&dims).unwrap()
    }

    /// A random view over `shape` and the words of source it needs. A store's view is injective and unguarded.
    fn view(&mut self, shape: Shape, store: bool) -> (View, usize) {
        let mut axes: Vec<usize> = (0..shape.rank()).collect();
        if self.rng.chance(50) {
            axes.rotate_left(self.rng.below(shape.rank().max(1)));
        }
        let mut view = View { shape, strides: vec![0; shape.rank()], offset: 0, guards: vec![] };
        let mut span = 1isize;
        let plain = self.rng.chance(40);
        while let Some(axis) = axes.pop() {
            let extent = shape[axis].max(1) as isize;
            let kind = if plain { 0 } else { self.rng.below(if store { 3 } else { 6 }) };
            let mut form = vec![0; shape.rank()];
            form[axis] = 1;
            // The coordinate of a source dimension: `form · coords + start`, in 0..size where it exists.
            let (start, size) = match kind {
                1 => {
                    form[axis] = -1;
                    (extent - 1, extent)
                }
                2 => {
                    form[axis] = 2;
                    (0, 2 * extent)
                }
                3 => (-1, (extent - 2).max(0)),
                4 if !axes.is_empty() => {
                    let other = axes.remove(self.rng.below(axes.len()));
                    form[other] = 2;
                    (-2, (extent + 2 * shape[other] as isize - 4).max(1))
                }
                5 => continue,
                _ => (0, extent),
            };
            if matches!(kind, 3 | 4) {
                view.guards.push(Guard { strides: form.clone(), offset: start, extent: size as usize });
            }
            for (stride, f) in view.strides.iter_mut().zip(&form) {
                *stride += f * span;
            }
            view.offset += start * span;
            span *= size.max(1);
            if self.rng.chance(20) {
                span += 3;
            }
        }
        (view, span as usize)
    }

    fn words(&mut self, dtype: DType, len: usize) -> Vec<u32> {
        (0..len)
            .map(|_| match dtype {
                DType::F32 => (self.rng.below(17) as f32 - 8.0).to_bits(),
                DType::Bool => self.rng.below(2) as u32,
                _ => self.rng.below(17) as u32,
            })
            .collect()
    }

    fn def(&mut self, dtype: DType, kind: InstrKind, block: &mut Block) -> Reg {
        let reg = self.next;
        self.next += 1;
        block.instrs.push(Instr { reg, dtype, kind });
        self.regs.push((reg, dtype));
        reg
    }

    /// A register of this type, made if there is none.
    fn reg(&mut self, dtype: DType, block: &mut Block) -> Reg {
        let fit: Vec<Reg> = self.regs.iter().filter(|r| r.1 == dtype).map(|r| r.0).collect();
        if fit.is_empty() || self.rng.chance(6) {
            let bits = self.words(dtype, 1)[0];
            let scalar = self.rng.chance(30) && dtype == DType::U32;
            let kind = if scalar { InstrKind::Scalar(1) } else { InstrKind::Const(bits) };
            return self.def(dtype, kind, block);
        }
        // Mostly a recent one.
        match self.rng.chance(60) {
            true => fit[fit.len() - 1],
            false => self.rng.pick(&fit),
        }
    }

    fn instr(&mut self, shape: Shape, block: &mut Block) {
        let dtype = self.rng.pick(&[DType::F32, DType::F32, DType::I32, DType::U32, DType::Bool]);
        match self.rng.below(10) {
            0..=2 => {
                let (view, len) = self.view(shape, false);
                let words = self.words(dtype, len);
                self.reads.push((dtype, words));
                let binding = self.reads.len() - 1;
                self.def(dtype, InstrKind::Load { binding, view }, block);
            }
            3 => {
                let (view, len) = self.view(shape, false);
                let index_type = self.rng.pick(&[DType::I32, DType::U32]);
                let index = self.reg(index_type, block);
                let bound = self.rng.pick(&[0, 1, 5]);
                let stride = self.rng.pick(&[1, 3]);
                let words = self.words(dtype, len + 5 * stride as usize);
                self.reads.push((dtype, words));
                let binding = self.reads.len() - 1;
                let kind = InstrKind::LoadAt { binding, view, index, stride, bound };
                self.def(dtype, kind, block);
            }
            4 => {
                let (view, _) = self.view(shape, false);
                match self.rng.chance(50) {
                    true => self.def(DType::U32, InstrKind::Index(View { offset: 3, ..view }), block),
                    false => self.def(DType::Bool, InstrKind::InBounds(view), block),
                };
            }
            5 => {
                let from = self.rng.pick(&[DType::F32, DType::I32, DType::U32, DType::Bool]);
                let arg = self.reg(from, block);
                let bits = dtype != DType::F32 && from != DType::F32 && dtype != DType::Bool;
                match bits && self.rng.chance(50) {
                    true => self.def(dtype, InstrKind::Bitcast { arg, from }, block),
                    false => self.def(dtype, InstrKind::Cast { arg, from }, block),
                };
            }
            6 if self.rng.chance(40) => {
                let [index, low, high] = [(); 3].map(|()| self.reg(DType::U32, block));
                let kind = InstrKind::Philox { index, key: [low, high] };
                let word = self.def(DType::U32, kind, block);
                // Small again, so that sums stay exact.
                let mask = self.def(DType::U32, InstrKind::Const(7), block);
                let map = InstrKind::Map { f: &MASK, args: [word, mask, 0], operand: DType::U32 };
                self.regs.retain(|r| r.0 != word);
                self.def(DType::U32, map, block);
            }
            7 if self.epilogue => {
                self.def(DType::F32, InstrKind::Acc, block);
            }
            _ => self.map(dtype, block),
        }
    }

    fn map(&mut self, dtype: DType, block: &mut Block) {
        let a = self.reg(dtype, block);
        let b = self.reg(dtype, block);
        let (f, args, out): (&'static MapFn, _, _) = match self.rng.below(5) {
            0 => (&LESS, [a, b, 0], DType::Bool),
            1 => {
                let cond = self.reg(DType::Bool, block);
                (&SELECT, [cond, a, b], dtype)
            }
            2 if dtype != DType::Bool => (&NEG, [a, 0, 0], dtype),
            3 if matches!(dtype, DType::I32 | DType::U32) => (self.rng.pick(&[&ADD, &MUL]), [a, b, 0], dtype),
            _ => (&MAX, [a, b, 0], dtype),
        };
        self.def(out, InstrKind::Map { f, args, operand: dtype }, block);
    }

    /// Fills a block; some of its stores update a buffer in place.
    fn block(&mut self, shape: Shape) -> Block {
        let mut block = Block::default();
        for _ in 0..1 + self.rng.below(7) {
            self.instr(shape, &mut block);
        }
        for _ in 0..self.rng.below(3) {
            let (view, len) = self.view(shape, true);
            let dtype = self.rng.pick(&[DType::F32, DType::I32]);
            let words = self.words(dtype, len);
            self.writes.push((dtype, words));
            let binding = WRITTEN + self.writes.len() - 1;
            if self.rng.chance(40) {
                let view = view.clone();
                self.def(dtype, InstrKind::Load { binding, view }, &mut block);
                self.map(dtype, &mut block);
            }
            let value = self.reg(dtype, &mut block);
            block.stores.push(Store { binding, view, value, dtype });
        }
        block
    }

    fn reduces(&mut self, block: &mut Block) -> Vec<ReduceOut> {
        let kinds = [
            ReduceKind::Sum,
            ReduceKind::Sum,
            ReduceKind::Prod,
            ReduceKind::Max,
            ReduceKind::Min,
            ReduceKind::ArgMax,
            ReduceKind::ArgMin,
        ];
        (0..self.rng.below(3))
            .map(|_| {
                let kind = self.rng.pick(&kinds);
                let dtype = match kind {
                    // Products of floats overflow; their exactness is not what is tested here.
                    ReduceKind::Prod => DType::I32,
                    ReduceKind::Sum => self.rng.pick(&[DType::F32, DType::U32]),
                    _ => self.rng.pick(&[DType::F32, DType::I32, DType::U32, DType::Bool]),
                };
                let value = self.reg(dtype, block);
                self.next += 1;
                ReduceOut { kind, value, dtype, out: self.next - 1 }
            })
            .collect()
    }

    /// The program with its buffers, read ones first.
    fn program(mut self, steps: usize) -> (Program, Vec<Vec<u32>>) {
        let mut dims = self.rows.to_vec();
        dims.extend(self.cols.iter());
        let both = Shape::new(&dims).unwrap();
        let mut out = Vec::new();
        for _ in 0..steps {
            if self.cols.rank() == 0 || self.rng.chance(30) {
                out.push(Step::Row(self.block(self.rows)));
                continue;
            }
            let outer = self.regs.len();
            let mut block = self.block(both);
            let reduces = self.reduces(&mut block);
            self.regs.truncate(outer);
            for r in &reduces {
                let is_arg = matches!(r.kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
                self.regs.push((r.out, if is_arg { DType::I32 } else { r.dtype }));
            }
            out.push(Step::Col(block, reduces));
        }
        // Whatever is left of the last reductions is stored, so that it is seen.
        let mut last = Block::default();
        for (value, dtype) in self.regs.iter().rev().take(2).copied().collect::<Vec<_>>() {
            let (view, len) = self.view(self.rows, true);
            let words = self.words(dtype, len);
            self.writes.push((dtype, words));
            let binding = WRITTEN + self.writes.len() - 1;
            last.stores.push(Store { binding, view, value, dtype });
        }
        out.push(Step::Row(last));
        self.number(out)
    }

    fn number(self, mut steps: Vec<Step>) -> (Program, Vec<Vec<u32>>) {
        let reads = self.reads.len();
        let fix = |b: &mut usize| *b = if *b >= WRITTEN { *b - WRITTEN + reads } else { *b };
        for step in &mut steps {
            let (Step::Row(block) | Step::Col(block, _)) = step;
            for instr in &mut block.instrs {
                if let InstrKind::Load { binding, .. } | InstrKind::LoadAt { binding, .. } = &mut instr.kind {
                    fix(binding);
                }
            }
            block.stores.iter_mut().for_each(|s| fix(&mut s.binding));
        }
        let (mut bindings, mut buffers) = (Vec::new(), Vec::new());
        for (written, list) in [(false, self.reads), (true, self.writes)] {
            for (dtype, words) in list {
                bindings.push(ProgramBinding { dtype, written });
                buffers.push(words);
            }
        }
        let (rows, cols, regs) = (self.rows, self.cols, self.next);
        (Program { rows, cols, bindings, steps, regs }, buffers)
    }
}

/// The host scalars of every program.
pub(super) const SCALARS: [u32; 4] = [5, 3, 12345, 9];

/// A program of one or several steps and its buffers; as an epilogue without columns.
pub(super) fn random(seed: u32, epilogue: bool) -> (Program, Vec<Vec<u32>>) {
    let mut builder = Builder {
        rng: Rng(seed, 0),
        rows: Shape::SCALAR,
        cols: Shape::SCALAR,
        reads: Vec::new(),
        writes: Vec::new(),
        regs: Vec::new(),
        next: 0,
        epilogue,
    };
    let sizes: &[usize] = match seed % 8 {
        0 => &[0, 1, 2],
        1 => &[1, 17, 33],
        2 => &[2, 3],
        _ => &[1, 2, 3, 5, 7, 16],
    };
    let (row_rank, col_rank) = (builder.rng.below(4), builder.rng.below(3));
    builder.rows = builder.shape(row_rank, sizes);
    if !epilogue {
        builder.cols = builder.shape(col_rank, sizes);
        match seed % 16 {
            // More rows, more columns, than a block holds.
            3 => builder.rows = Shape::new(&[builder.rng.pick(&[600, 1100])]).unwrap(),
            4 => builder.cols = Shape::new(&[builder.rng.pick(&[300, 513, 1300])]).unwrap(),
            _ => {}
        }
        if builder.rows.numel() * builder.cols.numel() > 10_000 {
            match seed % 16 {
                3 => builder.cols = Shape::new(&[3, 1][..col_rank]).unwrap(),
                _ => builder.rows = Shape::new(&[3, 1, 2][..row_rank]).unwrap(),
            }
        }
    }
    let steps = if epilogue { 1 } else { 1 + builder.rng.below(4) };
    builder.program(steps)
}
