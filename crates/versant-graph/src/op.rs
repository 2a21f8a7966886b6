//! The op vocabulary: small and closed. A composite function is a method written with these.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use versant_kernels::attention::Pass;
use versant_kernels::contract::ConvKind;
use versant_kernels::{MAX_RANK, ReduceKind, Shape, SortPass, View};

use crate::Tensor;
use crate::ops::elementwise::Elementwise;
use crate::ops::half::Half;
use crate::scan::{Body, Item};

/// A user's own vector-Jacobian product: from the output's gradient and the inputs to one gradient per input.
pub type CustomVjp = dyn Fn(&Tensor, &[Tensor]) -> Vec<Option<Tensor>> + Send + Sync;

/// Geometry of a 2-D convolution, shared by the three members of its family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConvAttrs {
    /// Elements per output step.
    pub stride: [usize; 2],
    /// Zeros in front of each spatial axis.
    pub padding: [usize; 2],
    /// Elements between taps.
    pub dilation: [usize; 2],
    /// Number of channel groups.
    pub groups: usize,
}

/// What attention computes, beside its operands' extents.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AttentionAttrs {
    /// Forward or backward.
    pub pass: Pass,
    /// Factor of the scores, as bits.
    pub scale: u32,
    /// Keys that are seen before a query's own position.
    pub left: usize,
    /// Keys that are seen behind it.
    pub right: usize,
    /// Position of query 0 among the keys.
    pub start: usize,
    /// Whether a mask follows the values.
    pub masked: bool,
    /// What the result is kept in: a row's log-sum-exp then has several elements.
    pub kept: Option<Half>,
}

/// How a view node rearranges its input; extents are those of the node and of its input.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Movement {
    /// The same row-major order under other extents.
    Reshape,
    /// Axis `i` is the input's axis `axes[i]`.
    Permute([u8; MAX_RANK]),
    /// Size-1 and missing leading axes repeat.
    Broadcast,
    /// Element `i` of each axis is the input's `start + i * step`.
    Slice {
        /// First element of each axis.
        start: [isize; MAX_RANK],
        /// Elements per step of each axis; may be negative.
        step: [isize; MAX_RANK],
    },
    /// Zeros around the input.
    Pad([usize; MAX_RANK]),
    /// Sliding windows over an axis; the taps are a new last axis.
    Window {
        /// The axis.
        axis: usize,
        /// Elements between windows.
        stride: usize,
        /// Elements between taps.
        dilation: usize,
    },
}

impl Movement {
    /// The name that messages show.
    pub fn name(&self) -> &'static str {
        match self {
            Movement::Reshape => "reshape",
            Movement::Permute(_) => "permute",
            Movement::Broadcast => "broadcast_to",
            Movement::Slice { .. } => "slice",
            Movement::Pad(_) => "pad",
            Movement::Window { .. } => "window",
        }
    }

    /// The affine map from coordinates of `shape` to row-major offsets of `input`.
    pub fn view(&self, input: Shape, shape: Shape) -> View {
        let dense = View::contiguous(input);
        let rank = input.rank();
        match self {
            Movement::Reshape => View::contiguous(shape),
            Movement::Permute(axes) => {
                let axes: Vec<usize> = axes[..rank].iter().map(|&a| a.into()).collect();
                dense.permute(&axes)
            }
            Movement::Broadcast => dense.broadcast(shape),
            Movement::Slice { start, step } => dense.slice(&start[..rank], &step[..rank], shape),
            Movement::Pad(before) => {
                let before: Vec<isize> = before[..rank].iter().map(|&b| b as isize).collect();
                dense.pad(&before, shape)
            }
            Movement::Window { axis, stride, dilation } => {
                dense.window(*axis, shape[*axis], shape[rank], *stride, *dilation)
            }
        }
    }
}

/// One node's operation with its attributes.
#[derive(Clone)]
pub enum Op {
    /// A realised tensor.
    Buffer,
    /// A constant of the definition, as bits; rank 0.
    Literal(u32),
    /// A host number that may change every step; rank 0. Never part of a plan's key.
    Scalar(u32),
    /// 0, 1, 2, … along a single axis.
    Iota,
    /// Philox words by row-major index; inputs are the two key words (U32, rank 0).
    Random,
    /// An elementwise row. Inputs have the output's shape or rank 0.
    Map(&'static Elementwise),
    /// Conversion to the node's type.
    Cast,
    /// Reinterpretation of the bits.
    Bitcast,
    /// A movement of elements without arithmetic.
    View(Box<Movement>),
    /// Reduction over the axes in the bit set; they stay with extent 1.
    Reduce(ReduceKind, u8),
    /// Running sum along an axis, from the front or from the back.
    CumSum {
        /// The axis.
        axis: usize,
        /// From the back.
        reverse: bool,
    },
    /// Batched matrix product; batch dimensions are equal.
    MatMul,
    /// A member of the 2-D convolution family.
    Conv(ConvKind, Box<ConvAttrs>),
    /// Attention of operands `[batch, heads, position, element]`, or its gradient, as one flat result; see
    /// [`versant_kernels::attention`].
    Attention(Box<AttentionAttrs>),
    /// The adjoint of [`View::window`]: overlapping windows are summed.
    Fold {
        /// The axis that the windows slide over.
        axis: usize,
        /// Elements between windows.
        stride: usize,
        /// Elements between taps.
        dilation: usize,
    },
    /// `out[.., i, ..] = src[.., idx[.., i, ..], ..]`; inputs: source, indices of the output's shape or of
    /// extent 1 off the axis. Indices are clamped.
    Gather(usize),
    /// `out[.., v, ..] = base[.., v, ..] + Σ src[.., i, ..]` over `i` with `idx[i] == v`; inputs: base (of
    /// the output's shape, or rank 0), indices (one-dimensional, or of the source's shape), source.
    ScatterAdd(usize),
    /// Of every block of candidates along the last axis, the positions of the first few by the order of their keys,
    /// stably; inputs: keys, and candidates (positions in a row of keys; all of them without). NaN is the greatest.
    ArgSort {
        /// The blocks, and how much of each is kept.
        pass: SortPass,
        /// Whether the greatest comes first.
        descending: bool,
    },
    /// Joins the inputs along an axis.
    Concat(usize),
    /// What a scan's body is recorded over: a carry, an element, a constant.
    Hole,
    /// Runs its body for every element of a leading axis; inputs: carries, what is run over, constants. Its results
    /// are [`Op::Item`]s.
    Scan(Arc<Body>),
    /// A result of a scan.
    Item(Item),
    /// The input itself, through which no gradient flows.
    Detach,
    /// The first input itself; gradients go to the other inputs by a user's rule.
    Custom(CustomOp),
}

/// A named user rule.
#[derive(Clone)]
pub struct CustomOp(pub &'static str, pub Arc<CustomVjp>);

impl Op {
    /// The name shown in messages and by `explain()`.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Buffer => "buffer",
            Op::Literal(_) => "literal",
            Op::Scalar(_) => "scalar",
            Op::Iota => "iota",
            Op::Random => "random",
            Op::Map(row) => row.f.name,
            Op::Cast => "cast",
            Op::Bitcast => "bitcast",
            Op::View(movement) => movement.name(),
            Op::Reduce(kind, _) => reduce_name(*kind),
            Op::CumSum { .. } => "cumsum",
            Op::MatMul => "matmul",
            Op::Conv(ConvKind::Forward, _) => "conv2d",
            Op::Conv(ConvKind::InputGrad, _) => "conv2d_input_grad",
            Op::Conv(ConvKind::WeightGrad, _) => "conv2d_weight_grad",
            Op::Attention(attrs) if attrs.pass == Pass::Forward => "attention",
            Op::Attention(_) => "attention_grad",
            Op::Fold { .. } => "fold",
            Op::Gather(_) => "gather",
            Op::ScatterAdd(_) => "scatter_add",
            Op::ArgSort { .. } => "argsort",
            Op::Concat(_) => "concat",
            Op::Hole => "hole",
            Op::Scan(_) => "scan",
            Op::Item(Item::Final(_)) => "last_of_scan",
            Op::Item(Item::Stack(_)) => "stack_of_scan",
            Op::Detach => "detach",
            Op::Custom(custom) => custom.0,
        }
    }
}

/// The lower-case name of a reduction.
pub fn reduce_name(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "sum",
        ReduceKind::Prod => "prod",
        ReduceKind::Max => "max",
        ReduceKind::Min => "min",
        ReduceKind::ArgMax => "argmax",
        ReduceKind::ArgMin => "argmin",
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Structural equality: what makes two nodes the same to a plan. A host scalar's value is not part of it.
impl PartialEq for Op {
    fn eq(&self, other: &Op) -> bool {
        match (self, other) {
            (Op::Literal(a), Op::Literal(b)) => a == b,
            (Op::Map(a), Op::Map(b)) => std::ptr::eq(*a, *b),
            (Op::View(a), Op::View(b)) => a == b,
            (Op::Reduce(a, x), Op::Reduce(b, y)) => a == b && x == y,
            (Op::CumSum { axis: a, reverse: x }, Op::CumSum { axis: b, reverse: y }) => a == b && x == y,
            (Op::Conv(a, x), Op::Conv(b, y)) => a == b && x == y,
            (Op::Fold { axis, stride, dilation }, Op::Fold { axis: a, stride: s, dilation: d }) => {
                axis == a && stride == s && dilation == d
            }
            (Op::ArgSort { pass: a, descending: x }, Op::ArgSort { pass: b, descending: y }) => {
                a == b && x == y
            }
            (Op::Attention(a), Op::Attention(b)) => a == b,
            (Op::Scan(a), Op::Scan(b)) => Arc::ptr_eq(a, b) || a == b,
            (Op::Item(a), Op::Item(b)) => a == b,
            (Op::Gather(a), Op::Gather(b))
            | (Op::ScatterAdd(a), Op::ScatterAdd(b))
            | (Op::Concat(a), Op::Concat(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Eq for Op {}

impl Hash for Op {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Op::Literal(bits) => bits.hash(state),
            Op::Map(row) => std::ptr::from_ref(*row).hash(state),
            Op::View(view) => view.hash(state),
            Op::Reduce(kind, axes) => (kind, axes).hash(state),
            Op::CumSum { axis, reverse } => (axis, reverse).hash(state),
            Op::Conv(kind, attrs) => (kind, attrs).hash(state),
            Op::ArgSort { pass, descending } => (pass, descending).hash(state),
            Op::Attention(attrs) => attrs.hash(state),
            Op::Scan(body) => body.hash(state),
            Op::Item(item) => item.hash(state),
            Op::Fold { axis, stride, dilation } => (axis, stride, dilation).hash(state),
            Op::Gather(axis) | Op::ScatterAdd(axis) | Op::Concat(axis) => axis.hash(state),
            _ => {}
        }
    }
}
