//! The expression program: what a fused region computes, in one form for WGSL and for the CPU.
//!
//! A program runs over `rows`, and for each row over `cols`. Its steps run in order for each row:
//! a [`Step::Row`] is evaluated once per row, a [`Step::Col`] once per (row, column), and reduces over
//! the columns at its end. An elementwise kernel is a program with a single `Row` step and no columns; a
//! softmax is `Col(max) → Col(sum of exp) → Col(store)`.
//!
//! Registers are numbered once over the whole program (SSA). A register defined in a `Row` step, or by
//! a reduction, may be used by every later step; one defined inside a `Col` step only in that step.

use crate::{DType, Shape, View};

/// An SSA register: the index of its definition.
pub type Reg = u32;

/// One elementwise function: the kernel half of a row of the op table.
///
/// `wgsl` is an expression over `{a}`, `{b}`, `{c}`, the operands, e.g. `"max({a}, {b})"`; `lib` names a
/// function group of `shaders/lib` to be included with it (empty for none). The CPU functions work on
/// blocks of equal length; one of them is `None` where the operand type is not supported.
pub struct MapFn {
    /// The op's name, unique over the table.
    pub name: &'static str,
    /// Number of operands, 1 to 3.
    pub arity: usize,
    /// The WGSL expression.
    pub wgsl: &'static str,
    /// The `shaders/lib` function group that the expression calls, or `""`.
    pub lib: &'static str,
    /// The CPU twin: `(dst, a, b, c)` in words of the operand and result types; absent operands are empty.
    pub cpu: BlockFn,
    /// Rough cost of one evaluation in simple instructions, for fusion decisions.
    pub cost: u32,
}

/// A CPU function over blocks of words, given the operand type that `MapFn` was recorded with. Of two operands either, of three
/// the second and third may be one word alone, which stands for all lanes; the functions of [`lanes`](crate::lanes) see to that.
pub type BlockFn = fn(DType, &mut [u32], &[u32], &[u32], &[u32]);

/// One instruction: the type of its result, and what it does.
#[derive(Clone, Debug)]
pub struct Instr {
    /// The register it defines.
    pub reg: Reg,
    /// The type of the result. Comparisons give `Bool`.
    pub dtype: DType,
    /// The operation.
    pub kind: InstrKind,
}

/// The operations of a program. Views map the coordinates of the step (`rows` in a `Row` step,
/// `rows ++ cols` in a `Col` step) to element offsets.
#[derive(Clone, Debug)]
pub enum InstrKind {
    /// A constant, as bits of the result type.
    Const(u32),
    /// A host scalar: word number in the scalar block.
    Scalar(u32),
    /// An element of a buffer; 0 where a guard of the view fails (the element is not touched then).
    Load {
        /// Index into [`Program::bindings`].
        binding: usize,
        /// Where, in elements.
        view: View,
    },
    /// An element of a buffer whose offset is partly data: `view` offset + `index * stride`, with `index`
    /// clamped into `0..bound` (as i32 or u32). A `bound` of 0 yields 0 without a load.
    LoadAt {
        /// Index into [`Program::bindings`].
        binding: usize,
        /// The affine part of the offset.
        view: View,
        /// Register holding the index (I32 or U32).
        index: Reg,
        /// Elements per index step.
        stride: isize,
        /// Number of valid indices.
        bound: usize,
    },
    /// The affine value of the view itself, as I32 or U32 (an iota). Guards are not consulted.
    Index(View),
    /// Whether every guard of the view holds (Bool).
    InBounds(View),
    /// A row of the elementwise table; `operand` is the type of its operands.
    Map {
        /// The function.
        f: &'static MapFn,
        /// Operand registers; only the first `arity` count.
        args: [Reg; 3],
        /// Type of the first operand that is not the condition of a select.
        operand: DType,
    },
    /// Conversion of a register of type `from` to this instruction's type. Float to integer truncates
    /// and saturates (NaN gives 0); to Bool tests `!= 0`.
    Cast {
        /// Source register.
        arg: Reg,
        /// Source type.
        from: DType,
    },
    /// Reinterpretation of the bits of a register of another 32-bit type.
    Bitcast {
        /// Source register.
        arg: Reg,
        /// Source type.
        from: DType,
    },
    /// Philox4x32-10 (Salmon et al., SC 2011): word `index % 4` of block `index / 4` under a 64-bit key,
    /// as U32. The counter is `(index / 4, 0, 0, 0)`.
    Philox {
        /// U32 register: element index.
        index: Reg,
        /// U32 registers: low and high key words.
        key: [Reg; 2],
    },
    /// The accumulator handed to a contraction's epilogue (F32); only in an epilogue program.
    Acc,
}

/// A write of a register to a buffer.
#[derive(Clone, Debug)]
pub struct Store {
    /// Index into [`Program::bindings`]; must be a written binding.
    pub binding: usize,
    /// Where, in elements, as for a load; guards are not consulted.
    pub view: View,
    /// What.
    pub value: Reg,
    /// The type of the value and of the buffer.
    pub dtype: DType,
}

/// Instructions and the stores that follow them.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// In order of definition.
    pub instrs: Vec<Instr>,
    /// Executed after all instructions.
    pub stores: Vec<Store>,
}

/// How a reduction combines. NaN operands of `Max`/`Min`/`ArgMax`/`ArgMin` win (as in PyTorch); the first
/// of several equal extremes wins an arg-reduction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceKind {
    /// Sum; 0 over nothing.
    Sum,
    /// Product; 1 over nothing.
    Prod,
    /// Largest; the type's lowest value (−∞ for floats) over nothing.
    Max,
    /// Smallest; the type's highest value (+∞ for floats) over nothing.
    Min,
    /// Column number of the largest, as I32; 0 over nothing.
    ArgMax,
    /// Column number of the smallest, as I32; 0 over nothing.
    ArgMin,
}

impl ReduceKind {
    /// What finds the place of this one's result, if it is the value of one place.
    pub(crate) fn arg(self) -> Option<ReduceKind> {
        match self {
            ReduceKind::Max => Some(ReduceKind::ArgMax),
            ReduceKind::Min => Some(ReduceKind::ArgMin),
            _ => None,
        }
    }
}

/// A reduction of a column register into a row register.
#[derive(Clone, Debug)]
pub struct ReduceOut {
    /// How to combine.
    pub kind: ReduceKind,
    /// The register of the `Col` step that is reduced.
    pub value: Reg,
    /// The type of `value`.
    pub dtype: DType,
    /// The row register that it defines (type I32 for arg-reductions, else `dtype`).
    pub out: Reg,
}

/// A step of a program.
#[derive(Clone, Debug)]
pub enum Step {
    /// Evaluated once per row; views have the rank of `rows`.
    Row(Block),
    /// Evaluated once per row and column; views have the rank of `rows ++ cols`.
    Col(Block, Vec<ReduceOut>),
}

/// A buffer that a program touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramBinding {
    /// Type of its elements.
    pub dtype: DType,
    /// Whether the program stores to it (it may then also load from it, each invocation only the
    /// elements that the same invocation stores).
    pub written: bool,
}

/// A fused region.
#[derive(Clone, Debug)]
pub struct Program {
    /// Extents of the parallel domain.
    pub rows: Shape,
    /// Extents of the sequential (reduced) domain; the scalar shape (rank 0) for an elementwise kernel.
    pub cols: Shape,
    /// The buffers: all that are only read first, then all that are written.
    pub bindings: Vec<ProgramBinding>,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// Number of registers.
    pub regs: u32,
}

impl std::fmt::Debug for MapFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Program {
    /// Number of bindings that are only read.
    pub fn reads(&self) -> usize {
        self.bindings.iter().filter(|b| !b.written).count()
    }

    /// Every instruction, in order.
    pub fn instrs(&self) -> impl Iterator<Item = &Instr> {
        self.steps.iter().flat_map(|s| match s {
            Step::Row(b) | Step::Col(b, _) => b.instrs.iter(),
        })
    }

    /// Every store, in order.
    pub fn stores(&self) -> impl Iterator<Item = &Store> {
        self.steps.iter().flat_map(|s| match s {
            Step::Row(b) | Step::Col(b, _) => b.stores.iter(),
        })
    }

    /// Whether any instruction reads a host scalar.
    pub fn uses_scalars(&self) -> bool {
        self.instrs().any(|i| matches!(i.kind, InstrKind::Scalar(_)))
    }
}
