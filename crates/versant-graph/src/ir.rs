//! The arena form of a graph that the passes work on, and its simplification while it is built.
//!
//! Movements are gone here: they have become views on the edges. Equal nodes are one node.

use std::panic::Location;

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};
use versant_kernels::{DType, ReduceKind, Shape, View};

use crate::capture::{Key, KeyNode};
use crate::op::Op;
use crate::ops::create::word_of;
use crate::ops::half::rounds_to;
use crate::scan::Item;

/// Reductions to no more results than this and of at least so many elements each are taken in this many parts.
const LONG_ROWS: usize = 8;
const LONG_COLS: usize = 1 << 16;
const LONG_PARTS: usize = 1 << 10;

/// An operand: a node read through a view; `None` is the identity on the node's own extents.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Edge {
    pub node: usize,
    /// Its extents are those of the operand, or finer ones in the same row-major order.
    pub view: Option<View>,
}

/// An operation of the arena.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum IrOp {
    /// An external buffer; edges carry the whole way from coordinates to its elements.
    Leaf(usize),
    /// A host scalar, by its word in the scalar block.
    Scalar(u32),
    /// The operand itself, computed into a buffer of its own.
    Copy,
    /// The operand, computed into its place in a concatenation.
    Piece,
    /// The sums of parts of a product, to be added up: made after fusion.
    Partial,
    /// Anything else.
    Core(Op),
}

/// A node of the arena.
#[derive(Clone, Debug)]
pub(crate) struct IrNode {
    pub op: IrOp,
    pub inputs: SmallVec<[Edge; 3]>,
    pub shape: Shape,
    /// Of a stored node, the type of its buffer.
    pub dtype: DType,
    pub location: &'static Location<'static>,
}

/// A graph for the passes: inputs before users.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ir {
    pub nodes: Vec<IrNode>,
    /// The node that holds each output of the key.
    pub outputs: Vec<usize>,
    /// The words of each external buffer that may be overwritten.
    pub donated: Vec<Option<usize>>,
    /// Whether by the output of the same number only.
    pub paired: bool,
    /// Nodes that are made again for some users, each with a stored node that must be there first.
    pub after: Vec<(usize, usize)>,
}

/// A node that is to be made again: for which users, and behind which node.
#[derive(Debug)]
pub(crate) struct Again {
    pub node: usize,
    pub after: usize,
    pub users: SmallVec<[usize; 4]>,
}

impl IrNode {
    pub fn name(&self) -> &'static str {
        match &self.op {
            IrOp::Leaf(_) => "buffer",
            IrOp::Scalar(_) => "scalar",
            IrOp::Copy => "copy",
            IrOp::Piece => "piece",
            IrOp::Partial => "partial",
            IrOp::Core(op) => op.name(),
        }
    }

    /// Words of a buffer for it.
    pub fn words(&self) -> usize {
        self.dtype.words(self.shape.numel())
    }

    /// Whether operand `k` must lie in memory, and whether it must be dense there.
    pub fn memory_operand(&self, k: usize) -> Option<Layout> {
        match &self.op {
            IrOp::Core(Op::MatMul | Op::Conv(..) | Op::Scan(_)) => Some(Layout::Strided),
            // Last comes the forward result.
            IrOp::Core(Op::Attention(a)) if k == 4 + usize::from(a.masked) => Some(Layout::Dense),
            IrOp::Core(Op::Attention(_)) => Some(Layout::Strided),
            IrOp::Core(Op::Gather(_)) if k == 0 => Some(Layout::Strided),
            IrOp::Core(Op::CumSum { .. } | Op::Fold { .. } | Op::ScatterAdd(_) | Op::ArgSort { .. }) => {
                Some(Layout::Dense)
            }
            _ => None,
        }
    }

    /// Whether this is computed by a kernel of its own family rather than by a fused expression.
    pub fn is_heavy(&self) -> bool {
        matches!(
            &self.op,
            IrOp::Core(
                Op::MatMul
                    | Op::Conv(..)
                    | Op::Attention(_)
                    | Op::CumSum { .. }
                    | Op::Fold { .. }
                    | Op::ScatterAdd(_)
                    | Op::ArgSort { .. }
                    | Op::Concat(_)
                    | Op::Scan(_)
                    | Op::Item(_)
            )
        )
    }

    pub fn is_reduce(&self) -> bool {
        matches!(&self.op, IrOp::Core(Op::Reduce(..)))
    }
}

/// What a kernel asks of an operand in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    /// Any affine view without guards.
    Strided,
    /// Row-major from some offset.
    Dense,
}

impl Edge {
    pub fn whole(node: usize) -> Edge {
        Edge { node, view: None }
    }

    /// The view of this operand, over the operand's extents.
    pub fn full_view(&self, ir: &Ir) -> View {
        self.view.clone().unwrap_or_else(|| View::contiguous(ir.nodes[self.node].shape))
    }

    /// Whether this reads each row-major position of its node in order.
    pub fn in_order(&self, ir: &Ir) -> bool {
        self.view
            .as_ref()
            .is_none_or(|v| v.is_identity() && v.shape.numel() == ir.nodes[self.node].shape.numel())
    }
}

/// What makes two nodes the same.
type Definition = (IrOp, SmallVec<[Edge; 3]>, Shape, DType);

struct Builder<'a> {
    ir: Ir,
    known: FxHashMap<Definition, usize>,
    locations: &'a [&'static Location<'static>],
    at: usize,
}

/// Builds the arena from a key: composes movements into edges, merges equal nodes, folds constants, drops
/// identities, and makes sure that kernels find their operands in memory as they need them.
pub(crate) fn build(key: &Key, locations: &[&'static Location<'static>]) -> Ir {
    let mut b = Builder { ir: Ir::default(), known: FxHashMap::default(), locations, at: 0 };
    let mut resolved: Vec<Edge> = Vec::with_capacity(key.nodes.len());
    let mut scalars = 0;
    for (i, node) in key.nodes.iter().enumerate() {
        b.at = i;
        let (shape, dtype) = (node.shape, node.dtype);
        let inputs: SmallVec<[Edge; 3]> = node.inputs.iter().map(|&j| resolved[j as usize].clone()).collect();
        let edge = match (&node.leaf, &node.op) {
            (Some((external, view)), _) => {
                let words = key.externals[*external as usize].0;
                let flat = Shape::new(&[words]).expect("rank 1");
                let leaf = b.push(IrOp::Leaf(*external as usize), smallvec![], flat, dtype);
                let whole = view.is_identity() && shape == flat;
                Edge { node: leaf, view: (!whole).then(|| view.clone()) }
            }
            (None, Op::Scalar(_)) => {
                scalars += 1;
                Edge::whole(b.push(IrOp::Scalar(scalars - 1), smallvec![], shape, dtype))
            }
            (None, Op::View(movement)) => {
                let input = key.nodes[node.inputs[0] as usize].shape;
                b.compose(movement.view(input, shape), inputs[0].clone(), input, dtype)
            }
            (None, Op::Detach | Op::Custom(_)) => inputs[0].clone(),
            (None, Op::Map(_)) if is_rounded_whole(key, node) => {
                let Edge { node: leaf, view } = inputs[0].clone();
                let (op, flat) = (IrOp::Core(node.op.clone()), b.ir.nodes[leaf].shape);
                Edge { node: b.push(op, smallvec![Edge::whole(leaf)], flat, dtype), view }
            }
            (None, Op::Map(_)) => {
                let shapes: SmallVec<[Shape; 3]> =
                    node.inputs.iter().map(|&j| key.nodes[j as usize].shape).collect();
                b.map(&node.op, inputs, &shapes, shape, dtype)
            }
            (None, Op::Reduce(kind, axes)) => {
                let input = key.nodes[node.inputs[0] as usize].shape;
                b.long_reduce(*kind, *axes, &inputs[0], input, node)
                    .unwrap_or_else(|| Edge::whole(b.core(node.op.clone(), inputs, node, key)))
            }
            (None, op) => Edge::whole(b.core(op.clone(), inputs, node, key)),
        };
        resolved.push(edge);
    }
    for &output in &key.outputs {
        b.at = output as usize;
        let node = &key.nodes[output as usize];
        let edge = resolved[output as usize].clone();
        let source = &b.ir.nodes[edge.node];
        let held = edge.view.as_ref().is_none_or(View::is_identity)
            && source.shape.numel() == node.shape.numel()
            && !source.inputs.is_empty()
            // The buffer of a last carry may be that of the first.
            && !matches!(source.op, IrOp::Core(Op::Item(Item::Final(_))));
        let at = if held && !b.ir.outputs.contains(&edge.node) {
            edge.node
        } else {
            // A copy of its own: two outputs never share a buffer.
            b.append(IrOp::Copy, smallvec![edge], node.shape, node.dtype)
        };
        b.ir.outputs.push(at);
    }
    b.ir.paired = key.paired;
    b.ir.donated = key.externals.iter().map(|&(words, donated)| donated.then_some(words)).collect();
    b.ir.without_dead()
}

/// The external buffer that a node rounds elements of, if that is what it does.
fn rounded_leaf(key: &Key, node: &KeyNode) -> Option<u32> {
    rounds_to(&node.op)?;
    let (external, view) = key.nodes[node.inputs[0] as usize].leaf.as_ref()?;
    view.guards.is_empty().then_some(*external)
}

/// Whether a node rounds a part of a buffer most of which is rounded so: a network's parameters are parts of one, which
/// is then rounded whole, in one launch.
fn is_rounded_whole(key: &Key, node: &KeyNode) -> bool {
    let Some(external) = rounded_leaf(key, node) else { return false };
    let same = key.nodes.iter().filter(|n| n.op == node.op && rounded_leaf(key, n) == Some(external));
    let (count, words) = same.fold((0, 0), |(count, words), n| (count + 1, words + n.shape.numel()));
    count > 1 && 2 * words >= key.externals[external as usize].0
}

impl Builder<'_> {
    fn append(&mut self, op: IrOp, inputs: SmallVec<[Edge; 3]>, shape: Shape, dtype: DType) -> usize {
        let location = self.locations[self.at];
        self.ir.nodes.push(IrNode { op, inputs, shape, dtype, location });
        self.ir.nodes.len() - 1
    }

    /// The node with this definition, old or new.
    fn push(&mut self, op: IrOp, inputs: SmallVec<[Edge; 3]>, shape: Shape, dtype: DType) -> usize {
        let definition = (op, inputs, shape, dtype);
        if let Some(&node) = self.known.get(&definition) {
            return node;
        }
        let (op, inputs, ..) = definition.clone();
        let node = self.append(op, inputs, shape, dtype);
        self.known.insert(definition, node);
        node
    }

    /// Reads `edge` (of extents `input`) through `view`; a reshape that is no view copies first.
    fn compose(&mut self, view: View, edge: Edge, input: Shape, dtype: DType) -> Edge {
        let composed = match &edge.view {
            None => Some(view.clone()),
            Some(inner) => view.compose_finer(inner),
        };
        let (node, view) = match composed {
            Some(composed) => (edge.node, composed),
            None => (self.push(IrOp::Copy, smallvec![edge], input, dtype), view),
        };
        let source = &self.ir.nodes[node];
        let whole = view.is_identity() && view.shape == source.shape;
        Edge { node, view: (!whole).then_some(view) }
    }

    fn literal(&self, edge: &Edge) -> Option<u32> {
        match self.ir.nodes[edge.node].op {
            IrOp::Core(Op::Literal(bits)) => Some(bits),
            _ => None,
        }
    }

    fn map(
        &mut self,
        op: &Op,
        mut inputs: SmallVec<[Edge; 3]>,
        shapes: &[Shape],
        shape: Shape,
        dtype: DType,
    ) -> Edge {
        let Op::Map(row) = op else { unreachable!("the caller matched a map") };
        let constants: SmallVec<[Option<u32>; 3]> = inputs.iter().map(|e| self.literal(e)).collect();
        if constants.iter().all(Option::is_some) {
            let word = |k: usize| constants.get(k).copied().flatten().map_or([0; 1], |w| [w]);
            let operand = self.ir.nodes[inputs[inputs.len() - 1].node].dtype;
            let mut out = [0];
            (row.f.cpu)(operand, &mut out, &word(0), &word(1), &word(2));
            let literal = IrOp::Core(Op::Literal(out[0]));
            let node = self.push(literal, smallvec![], Shape::SCALAR, dtype);
            let view = (shape.rank() > 0).then(|| View::splat(shape));
            return Edge { node, view };
        }
        if let (Some(identity), Some(Some(word))) = (row.right_identity, constants.get(1))
            && *word == word_of(identity, dtype)
            && shapes[0] == shape
        {
            return inputs[0].clone();
        }
        for (edge, from) in inputs.iter_mut().zip(shapes) {
            if from.rank() == 0 && shape.rank() > 0 {
                let splat = View::splat(shape);
                edge.view = Some(match &edge.view {
                    Some(inner) => splat.compose(inner).expect("a splat composes with anything"),
                    None => splat,
                });
            }
        }
        Edge::whole(self.push(IrOp::Core(op.clone()), inputs, shape, dtype))
    }

    /// A long reduction to few results, first of parts that all run at once. Sums, maxima and minima of any grouping
    /// are as good. How many parts is a power of two wherever the extents have one, so that another batch size
    /// usually means the same kernels.
    fn long_reduce(
        &mut self,
        kind: ReduceKind,
        axes: u8,
        edge: &Edge,
        input: Shape,
        node: &KeyNode,
    ) -> Option<Edge> {
        let cols: usize = (0..input.rank()).filter(|a| axes >> a & 1 == 1).map(|a| input[a]).product();
        let rows = node.shape.numel();
        let groups = matches!(kind, ReduceKind::Sum | ReduceKind::Max | ReduceKind::Min);
        if !groups || rows > LONG_ROWS || cols < LONG_COLS {
            return None;
        }
        let kept = (0..input.rank()).filter(|a| axes >> a & 1 == 0);
        let reduced = (0..input.rank()).filter(|a| axes >> a & 1 == 1);
        let order: Vec<usize> = kept.clone().chain(reduced).collect();
        let mut dims: Vec<usize> = kept.map(|a| input[a]).filter(|&d| d != 1).collect();
        let mut lines = View::contiguous(input).permute(&order);
        let mut parts = 1 << cols.trailing_zeros().min(LONG_PARTS.trailing_zeros());
        let mut length = cols / parts;
        if parts < LONG_PARTS / 16 {
            // Zeros change no sum.
            if kind != ReduceKind::Sum || rows != 1 {
                return None;
            }
            (parts, length) = (LONG_PARTS, cols.div_ceil(LONG_PARTS));
            lines = View::contiguous(Shape::new(&[cols])?).pad(&[0], Shape::new(&[parts * length])?);
        }
        dims.extend([parts, length]);
        let shape = Shape::new(&dims)?;
        let mut view = View::contiguous(shape).compose(&lines)?;
        if let Some(inner) = &edge.view {
            view = view.compose(inner)?;
        }
        let at = dims.len() - 2;
        dims[at + 1] = 1;
        let first = IrOp::Core(Op::Reduce(kind, 1 << (at + 1)));
        let operand = Edge { node: edge.node, view: Some(view) };
        let first = self.push(first, smallvec![operand], Shape::new(&dims)?, node.dtype);
        dims[at] = 1;
        let second = IrOp::Core(Op::Reduce(kind, 1 << at));
        let second = self.push(second, smallvec![Edge::whole(first)], Shape::new(&dims)?, node.dtype);
        Some(Edge { node: second, view: Some(View::contiguous(node.shape)) })
    }

    /// Any other operation, with its memory operands put in order.
    fn core(&mut self, op: Op, mut inputs: SmallVec<[Edge; 3]>, node: &KeyNode, key: &Key) -> usize {
        let probe = IrNode {
            op: IrOp::Core(op.clone()),
            inputs: smallvec![],
            shape: node.shape,
            dtype: node.dtype,
            location: self.locations[self.at],
        };
        for (k, edge) in inputs.iter_mut().enumerate() {
            let input = &key.nodes[node.inputs[k] as usize];
            let plain = match (probe.memory_operand(k), &edge.view) {
                (None, _) => true,
                (Some(_), None) => {
                    let source = &self.ir.nodes[edge.node];
                    !source.inputs.is_empty() || matches!(source.op, IrOp::Leaf(_))
                }
                (Some(Layout::Strided), Some(view)) => self.in_memory(edge) && view.guards.is_empty(),
                (Some(Layout::Dense), Some(view)) => self.in_memory(edge) && view.is_dense(),
            } && edge.view.as_ref().is_none_or(|v| v.shape == input.shape);
            if !plain {
                let old = edge.clone();
                *edge = Edge::whole(self.push(IrOp::Copy, smallvec![old], input.shape, input.dtype));
            }
            if matches!(&op, Op::Scan(body) if k < body.carries()) {
                // Never shared: the loop writes over it.
                let old = edge.clone();
                *edge = Edge::whole(self.append(IrOp::Copy, smallvec![old], input.shape, input.dtype));
            }
            if matches!(op, Op::Concat(_)) {
                let old = edge.clone();
                // Never shared: a piece is a place.
                *edge = Edge::whole(self.append(IrOp::Piece, smallvec![old], input.shape, input.dtype));
            }
        }
        match op {
            Op::Concat(_) => self.append(IrOp::Core(op), inputs, node.shape, node.dtype),
            _ => self.push(IrOp::Core(op), inputs, node.shape, node.dtype),
        }
    }

    /// Whether the operand's source can be in memory at all (a constant or a counter cannot).
    fn in_memory(&self, edge: &Edge) -> bool {
        let source = &self.ir.nodes[edge.node];
        !source.inputs.is_empty() || matches!(source.op, IrOp::Leaf(_))
    }
}

/// In the place of an operand's number: the result of the node.
pub(crate) const RESULT: usize = usize::MAX;

impl Ir {
    /// Inserts a copy in front of each of these operands `(node, k)`, or behind the node if `k` is [`RESULT`].
    pub fn with_copies(&self, at: &[(usize, usize)]) -> Ir {
        let mut out = Ir::default();
        let mut place = Vec::with_capacity(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            let mut node = node.clone();
            for edge in &mut node.inputs {
                edge.node = place[edge.node];
            }
            for &(_, k) in at.iter().filter(|&&(n, k)| n == i && k != RESULT) {
                let source = &out.nodes[node.inputs[k].node];
                let (dtype, location) = (source.dtype, node.location);
                let shape = node.inputs[k].view.as_ref().map_or(source.shape, |v| v.shape);
                let inputs = smallvec![node.inputs[k].clone()];
                out.nodes.push(IrNode { op: IrOp::Copy, inputs, shape, dtype, location });
                node.inputs[k] = Edge::whole(out.nodes.len() - 1);
            }
            let (shape, dtype, location) = (node.shape, node.dtype, node.location);
            out.nodes.push(node);
            if at.contains(&(i, RESULT)) {
                let inputs = smallvec![Edge::whole(out.nodes.len() - 1)];
                out.nodes.push(IrNode { op: IrOp::Copy, inputs, shape, dtype, location });
            }
            place.push(out.nodes.len() - 1);
        }
        out.outputs = self.outputs.iter().map(|&o| place[o]).collect();
        out.donated.clone_from(&self.donated);
        out.paired = self.paired;
        out.after = self.after.iter().map(|&(node, first)| (place[node], place[first])).collect();
        out
    }

    /// Only what the outputs need.
    fn without_dead(self) -> Ir {
        let mut live = vec![false; self.nodes.len()];
        for &output in &self.outputs {
            live[output] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                for edge in &self.nodes[i].inputs {
                    live[edge.node] = true;
                }
            }
        }
        let mut place = vec![usize::MAX; self.nodes.len()];
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (i, mut node) in self.nodes.into_iter().enumerate() {
            if live[i] {
                place[i] = nodes.len();
                for edge in &mut node.inputs {
                    edge.node = place[edge.node];
                }
                nodes.push(node);
            }
        }
        let outputs = self.outputs.iter().map(|&o| place[o]).collect();
        Ir { nodes, outputs, donated: self.donated, paired: self.paired, after: Vec::new() }
    }

    /// What every pass must keep true; a violation is an engine bug.
    pub fn verify(&self) {
        for (i, node) in self.nodes.iter().enumerate() {
            for edge in &node.inputs {
                assert!(edge.node < i, "node {i} ({}) reads a later node", node.name());
            }
            let elementwise = matches!(
                &node.op,
                IrOp::Core(Op::Map(_) | Op::Cast | Op::Bitcast) | IrOp::Copy | IrOp::Piece
            );
            for edge in node.inputs.iter().filter(|_| elementwise) {
                let read = edge.view.as_ref().map_or(self.nodes[edge.node].shape, |v| v.shape);
                assert!(
                    read.numel() == node.shape.numel(),
                    "node {i} ({}) of {} reads {read}",
                    node.name(),
                    node.shape
                );
            }
        }
    }
}
