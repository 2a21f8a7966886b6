//! The definition of a program, one element at a time.

use crate::math::philox4x32;
use crate::{Block, DType, Guard, Instr, InstrKind, Program, ReduceKind, Reg, Shape, Step, View};

/// The definition, one element at a time.
pub(super) struct Reference<'a> {
    pub p: &'a Program,
    pub scalars: &'a [u32],
    pub acc: &'a [f32],
}

impl Reference<'_> {
    pub fn run(&self, buffers: &mut [Vec<u32>]) {
        for row in 0..self.p.rows.numel() {
            let mut regs = vec![0u32; self.p.regs as usize];
            let at = coords(&self.p.rows, row);
            for step in &self.p.steps {
                match step {
                    Step::Row(block) => self.block(block, &at, row, &mut regs, buffers),
                    Step::Col(block, reduces) => {
                        let mut columns = vec![Vec::new(); reduces.len()];
                        for col in 0..self.p.cols.numel() {
                            let mut at = at.clone();
                            at.extend(coords(&self.p.cols, col));
                            self.block(block, &at, row, &mut regs, buffers);
                            for (values, r) in columns.iter_mut().zip(reduces) {
                                values.push(regs[r.value as usize]);
                            }
                        }
                        for (values, r) in columns.iter().zip(reduces) {
                            regs[r.out as usize] = reduced(r.kind, r.dtype, values);
                        }
                    }
                }
            }
        }
    }

    fn dtype(&self, reg: Reg) -> DType {
        if let Some(instr) = self.p.instrs().find(|i| i.reg == reg) {
            return instr.dtype;
        }
        let reduces = self.p.steps.iter().flat_map(|s| match s {
            Step::Row(_) => &[][..],
            Step::Col(_, reduces) => reduces,
        });
        let found = reduces.into_iter().find(|r| r.out == reg).unwrap();
        match found.kind {
            ReduceKind::ArgMax | ReduceKind::ArgMin => DType::I32,
            _ => found.dtype,
        }
    }

    fn block(&self, block: &Block, at: &[usize], row: usize, regs: &mut [u32], buffers: &mut [Vec<u32>]) {
        for instr in &block.instrs {
            regs[instr.reg as usize] = self.instr(instr, at, row, regs, buffers);
        }
        for store in &block.stores {
            buffers[store.binding][offset(&store.view, at) as usize] = regs[store.value as usize];
        }
    }

    fn instr(&self, instr: &Instr, at: &[usize], row: usize, regs: &[u32], buffers: &[Vec<u32>]) -> u32 {
        let reg = |r: Reg| regs[r as usize];
        match &instr.kind {
            InstrKind::Const(bits) => *bits,
            InstrKind::Scalar(word) => self.scalars[*word as usize],
            InstrKind::Load { binding, view } if inside(view, at) => {
                buffers[*binding][offset(view, at) as usize]
            }
            InstrKind::Load { .. } => 0,
            InstrKind::LoadAt { binding, view, index, stride, bound } => {
                if *bound == 0 || !inside(view, at) {
                    return 0;
                }
                let word = reg(*index);
                let index = match self.dtype(*index) {
                    DType::I32 => f64::from(word as i32),
                    _ => f64::from(word),
                };
                let index = index.clamp(0.0, *bound as f64 - 1.0);
                buffers[*binding][(offset(view, at) + index as isize * stride) as usize]
            }
            InstrKind::Index(view) => offset(view, at) as u32,
            InstrKind::InBounds(view) => inside(view, at) as u32,
            InstrKind::Map { f, args, operand } => {
                let [a, b, c] = args.map(|r| [reg(r)]);
                let mut dst = [0];
                (f.cpu)(*operand, &mut dst, &a, &b, &c);
                dst[0]
            }
            InstrKind::Cast { arg, from } => {
                let (x, to) = (reg(*arg), instr.dtype);
                let value = match from {
                    DType::F32 => f64::from(f32::from_bits(x)),
                    DType::I32 => f64::from(x as i32),
                    _ => f64::from(x),
                };
                match to {
                    DType::F32 => (value as f32).to_bits(),
                    DType::Bool => (value != 0.0) as u32,
                    DType::I32 if *from == DType::F32 => value as i32 as u32,
                    DType::U32 if *from == DType::F32 => value as u32,
                    _ => x,
                }
            }
            InstrKind::Bitcast { arg, .. } => reg(*arg),
            InstrKind::Philox { index, key } => {
                let index = reg(*index);
                let words = philox4x32([index / 4, 0, 0, 0], key.map(reg));
                words[index as usize % 4]
            }
            InstrKind::Acc => self.acc[row].to_bits(),
        }
    }
}

fn coords(shape: &Shape, mut index: usize) -> Vec<usize> {
    let mut out = vec![0; shape.rank()];
    for (c, &d) in out.iter_mut().zip(shape.iter()).rev() {
        *c = index % d;
        index /= d;
    }
    out
}

fn affine(strides: &[isize], start: isize, at: &[usize]) -> isize {
    let terms = strides.iter().zip(at).map(|(s, &c)| s * c as isize);
    start + terms.sum::<isize>()
}

fn offset(view: &View, at: &[usize]) -> isize {
    affine(&view.strides, view.offset, at)
}

fn inside(view: &View, at: &[usize]) -> bool {
    let ok = |g: &Guard| (0..g.extent as isize).contains(&affine(&g.strides, g.offset, at));
    view.guards.iter().all(ok)
}

/// The definition of the reductions; sums of floats are taken in f64.
fn reduced(kind: ReduceKind, dtype: DType, values: &[u32]) -> u32 {
    let key = |w: u32| match dtype {
        DType::F32 => f64::from(f32::from_bits(w)),
        DType::I32 => f64::from(w as i32),
        _ => f64::from(w),
    };
    let extreme = |largest: bool| {
        let mut best: Option<usize> = None;
        for (i, &w) in values.iter().enumerate() {
            let better = best.is_none_or(|b| {
                let (old, new) = (key(values[b]), key(w));
                (new.is_nan() && !old.is_nan()) || if largest { new > old } else { new < old }
            });
            best = if better { Some(i) } else { best };
        }
        best
    };
    let (low, high) = match dtype {
        DType::F32 => (f32::NEG_INFINITY.to_bits(), f32::INFINITY.to_bits()),
        DType::I32 => (i32::MIN as u32, i32::MAX as u32),
        DType::Bool => (0, 1),
        _ => (0, u32::MAX),
    };
    match (kind, dtype) {
        (ReduceKind::Sum, DType::F32) => (values.iter().map(|&w| key(w)).sum::<f64>() as f32 + 0.0).to_bits(),
        (ReduceKind::Prod, DType::F32) => (values.iter().map(|&w| key(w)).product::<f64>() as f32).to_bits(),
        (ReduceKind::Sum, _) => values.iter().fold(0, |a, &b| a.wrapping_add(b)),
        (ReduceKind::Prod, _) => values.iter().fold(1, |a, &b| a.wrapping_mul(b)),
        (ReduceKind::Max, _) => extreme(true).map_or(low, |i| values[i]),
        (ReduceKind::Min, _) => extreme(false).map_or(high, |i| values[i]),
        (ReduceKind::ArgMax, _) => extreme(true).unwrap_or(0) as u32,
        (ReduceKind::ArgMin, _) => extreme(false).unwrap_or(0) as u32,
    }
}
