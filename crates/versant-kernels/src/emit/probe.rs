//! What shows on an adapter that rows may be shared within subgroups.

use crate::program::ProgramBinding;
use crate::{
    Block, Caps, DType, Instr, InstrKind, Program, ReduceKind, ReduceOut, Reg, Shape, Step, Store, View,
};

/// Rows of a probe: more than a workgroup has, and an odd number.
const ROWS: usize = 301;

/// Programs that share rows within subgroups where the adapter may, between few lanes and between all: sum, greatest
/// element and its position of each row, read from binding 0 and stored in bindings 1 to 3. All have one text.
pub fn row_probes(caps: &Caps) -> Vec<Program> {
    [5, 20, 40, 16 * caps.min_subgroup.max(1) as usize + 3].map(probe).into()
}

fn probe(cols: usize) -> Program {
    // Rows begin at multiples of four, so that columns are read in vectors.
    let pitch = cols.next_multiple_of(4);
    let shape = |dims: &[usize]| Shape::new(dims).expect("a rank of two at most");
    let mut view = View::contiguous(shape(&[ROWS, cols]));
    view.strides[0] = pitch as isize;
    let kinds = [
        (ReduceKind::Sum, DType::F32, DType::F32),
        (ReduceKind::Max, DType::F32, DType::F32),
        (ReduceKind::ArgMax, DType::F32, DType::I32),
    ];
    let load = Instr { reg: 0, dtype: DType::F32, kind: InstrKind::Load { binding: 0, view } };
    let outs = kinds.iter().zip(1..).map(|(&(kind, dtype, _), out)| ReduceOut { kind, value: 0, dtype, out });
    let written = kinds.map(|(_, _, dtype)| dtype);
    let stores = written.iter().zip(1..).map(|(&dtype, value)| Store {
        binding: value as usize,
        view: View::contiguous(shape(&[ROWS])),
        value: value as Reg,
        dtype,
    });
    let bindings = written.map(|dtype| ProgramBinding { dtype, written: true });
    Program {
        rows: shape(&[ROWS]),
        cols: shape(&[cols]),
        bindings: [ProgramBinding { dtype: DType::F32, written: false }]
            .into_iter()
            .chain(bindings)
            .collect(),
        steps: vec![
            Step::Col(Block { instrs: vec![load], stores: vec![] }, outs.collect()),
            Step::Row(Block { instrs: vec![], stores: stores.collect() }),
        ],
        regs: 4,
    }
}
