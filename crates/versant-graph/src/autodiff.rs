//! Reverse-mode differentiation: vector-Jacobian products written in the same ops, so that a gradient is
//! a graph like any other and can be differentiated again.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;

use versant_kernels::contract::ConvKind;
use versant_kernels::{DType, MAX_RANK, ReduceKind};

use crate::Tensor;
use crate::error::{GraphError, Result};
use crate::op::{Movement, Op};
use crate::ops::elementwise::Derivative;
use crate::tensor::{Node, State};

/// The gradients of a loss by the parameters it reaches, recorded and not yet computed.
#[derive(Clone, Debug)]
pub struct Gradients {
    loss: Tensor,
    by_node: HashMap<u64, Tensor>,
    names: Vec<(Arc<str>, u64)>,
}

impl Gradients {
    /// What was differentiated. An optimiser computes it with its step: later its own plan would repeat the
    /// forward pass, and until then the old parameters would have to be kept for it.
    pub fn loss(&self) -> &Tensor {
        &self.loss
    }

    /// The gradient of this parameter, if the loss reaches it.
    pub fn get(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.by_node.get(&parameter.node.id)
    }

    /// Every reached parameter's name with its gradient, in the order of the graph.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(|(name, id)| (&**name, &self.by_node[id]))
    }

    /// Applies `f` to every gradient: clipping, scaling.
    #[must_use]
    pub fn map(mut self, mut f: impl FnMut(&Tensor) -> Tensor) -> Gradients {
        for (_, id) in &self.names {
            let changed = f(&self.by_node[id]);
            self.by_node.insert(*id, changed);
        }
        self
    }

    /// Number of gradients.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the loss reached no parameter.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// The pending graph above a tensor, inputs before users.
struct Tape {
    nodes: Vec<Arc<Node>>,
    inputs: Vec<Vec<usize>>,
    index: HashMap<u64, usize>,
}

impl Tape {
    /// Walks the graph with an explicit stack: depth must not overflow it.
    fn new(root: &Arc<Node>) -> Tape {
        let mut tape = Tape { nodes: Vec::new(), inputs: Vec::new(), index: HashMap::new() };
        let mut stack = vec![(Arc::clone(root), false)];
        while let Some((node, expanded)) = stack.pop() {
            if tape.index.contains_key(&node.id) {
                continue;
            }
            let inputs = node.inputs();
            if expanded || inputs.is_empty() {
                tape.inputs.push(inputs.iter().map(|i| tape.index[&i.id]).collect());
                tape.index.insert(node.id, tape.nodes.len());
                tape.nodes.push(node);
            } else {
                stack.push((node, true));
                stack.extend(inputs.into_iter().rev().map(|i| (i, false)));
            }
        }
        tape
    }

    /// Cotangents of the wanted nodes, from that of the root (the last node).
    fn pull_back(
        &self,
        seed: Tensor,
        wanted: &[bool],
        location: &'static Location<'static>,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut leads = wanted.to_vec();
        for i in 0..self.nodes.len() {
            let from = match self.nodes[i].op {
                Op::Detach => &[],
                Op::Custom(_) => &self.inputs[i][1..],
                _ => &self.inputs[i][..],
            };
            leads[i] |= from.iter().any(|&j| leads[j]);
        }
        let mut cotangents: Vec<Option<Tensor>> = vec![None; self.nodes.len()];
        *cotangents.last_mut().expect("a tape holds its root") = Some(seed);
        for i in (0..self.nodes.len()).rev() {
            let worthwhile = leads[i] && self.inputs[i].iter().any(|&j| leads[j]);
            let Some(g) = cotangents[i].clone().filter(|_| worthwhile) else { continue };
            if !wanted[i] {
                cotangents[i] = None;
            }
            let node = &self.nodes[i];
            let x: Vec<Tensor> =
                self.inputs[i].iter().map(|&j| Tensor::from_node(self.nodes[j].clone())).collect();
            let y = Tensor::from_node(Arc::clone(node));
            let need: Vec<bool> = self.inputs[i].iter().map(|&j| leads[j]).collect();
            let grads = vjp(node, &g, &x, &y, &need).ok_or(GraphError::NoDerivative {
                op: node.op.name(),
                recorded: node.location,
                location,
            })?;
            for ((&j, x), grad) in self.inputs[i].iter().zip(&x).zip(grads) {
                let Some(grad) = grad.filter(|_| leads[j] && x.dtype().is_float()) else { continue };
                let grad = fit(grad, x, node.location);
                cotangents[j] = Some(match cotangents[j].take() {
                    Some(sum) => sum + grad,
                    None => grad,
                });
            }
        }
        Ok(cotangents)
    }
}

/// A rank-0 operand of a map was broadcast: its gradient is the sum.
fn fit(grad: Tensor, x: &Tensor, location: &'static Location<'static>) -> Tensor {
    if grad.dims() == x.dims() {
        grad
    } else if x.rank() == 0 {
        grad.sum_all()
    } else {
        grad.broadcast_to(x.shape()).shaped(x.shape(), location)
    }
}

type Pulled = Option<Vec<Option<Tensor>>>;

/// The gradients of a node's inputs, or `None` where the operation has no derivative.
fn vjp(node: &Node, g: &Tensor, x: &[Tensor], y: &Tensor, need: &[bool]) -> Pulled {
    let location = node.location;
    let mut out = vec![None; x.len()];
    match &node.op {
        Op::Map(row) => match &row.derivative {
            Derivative::Rule(rule) => return Some(rule(g, x, y).into_iter().collect()),
            Derivative::Zero => out[0] = Some(Tensor::number(g, 0.0).broadcast_to(x[0].shape())),
        },
        Op::Cast => out[0] = Some(g.cast(x[0].dtype())),
        Op::View(movement) => out[0] = Some(move_back(movement, g, &x[0], location)),
        Op::Reduce(kind, axes) => out[0] = reduce_vjp(*kind, *axes, g, &x[0], y, location),
        Op::CumSum { axis, reverse } => out[0] = Some(g.running_sum(*axis, !reverse, location)),
        Op::MatMul => {
            // A transposed operand gets its gradient as a transposed view: its own transpose undoes that, and
            // the product is stored as the operand's source lies.
            if need[0] {
                let turned = is_transposed(&x[0]);
                let grad = if turned { x[1].matmul(&g.t()).t() } else { g.matmul(&x[1].t()) };
                out[0] = Some(grad);
            }
            if need[1] {
                let turned = is_transposed(&x[1]);
                let grad = if turned { g.t().matmul(&x[0]).t() } else { x[0].t().matmul(g) };
                out[1] = Some(grad);
            }
        }
        Op::Conv(kind, attrs) => {
            let options = crate::ops::contraction::ConvOptions {
                stride: attrs.stride,
                padding: attrs.padding,
                dilation: attrs.dilation,
                groups: attrs.groups,
            };
            let conv = |a: &Tensor, w: &Tensor, like: &Tensor| forward(a, w, &options, like, location);
            let input = |g: &Tensor, w: &Tensor, like: &Tensor| {
                g.conv_input_grad(w, **attrs, like.shape(), location)
            };
            let weight = |x: &Tensor, g: &Tensor, like: &Tensor| {
                x.conv_weight_grad(g, **attrs, like.shape(), location)
            };
            let (a, b) = (&x[0], &x[1]);
            let (ga, gb): (Tensor, Tensor) = match kind {
                ConvKind::Forward => (input(g, b, a), weight(a, g, b)),
                ConvKind::InputGrad => (conv(g, b, a), weight(g, a, b)),
                ConvKind::WeightGrad => (input(b, g, a), conv(a, g, b)),
            };
            out[0] = need[0].then_some(ga);
            out[1] = need[1].then_some(gb);
        }
        Op::Fold { axis, stride, dilation } => {
            let movement = Movement::Window { axis: *axis, stride: *stride, dilation: *dilation };
            out[0] = Some(g.moved(movement, x[0].dims(), location));
        }
        Op::Gather(axis) => {
            let index = &x[1];
            let lined = (0..index.rank()).all(|a| a == *axis || index.shape()[a] == 1);
            let index = if lined { index.flatten(0) } else { index.clone() };
            // The forward clamps, so the gradient goes to where it clamped to.
            let last = Tensor::number(&index, (x[0].shape()[*axis].max(1) - 1) as f32);
            let index = index.maximum(&Tensor::number(&index, 0.0)).minimum(&last);
            out[0] = Some(Tensor::scattered(*axis, &index, g, x[0].shape()[*axis], location));
        }
        Op::ScatterAdd(axis) => {
            out[0] = Some(g.clone());
            out[2] = need[2].then(|| unscatter(*axis, &x[1], g, &x[2]));
        }
        Op::Concat(axis) => {
            let mut start = 0;
            for (grad, x) in out.iter_mut().zip(x) {
                let len = x.shape()[*axis];
                *grad = Some(g.narrow(*axis, start, len));
                start += len;
            }
        }
        Op::Custom(custom) => {
            for (grad, pulled) in out[1..].iter_mut().zip((custom.1)(g)) {
                *grad = pulled;
            }
        }
        Op::Bitcast => return None,
        Op::Buffer | Op::Literal(_) | Op::Scalar(_) | Op::Iota | Op::Random | Op::Detach => {}
    }
    Some(out)
}

/// Whether a matrix is recorded as the transpose of another.
fn is_transposed(x: &Tensor) -> bool {
    let last = x.rank() - 1;
    match &x.node.op {
        Op::View(movement) => match **movement {
            Movement::Permute(axes) => usize::from(axes[last]) + 1 == last,
            _ => false,
        },
        _ => false,
    }
}

/// A forward convolution whose output extents are known: rows that the stride leaves over are not lost.
fn forward(
    a: &Tensor,
    w: &Tensor,
    options: &crate::ops::contraction::ConvOptions,
    like: &Tensor,
    location: &'static Location<'static>,
) -> Tensor {
    let op = Op::Conv(ConvKind::Forward, Box::new(options.attrs()));
    Tensor::record(op, &[a, w], like.dims(), DType::F32, location)
}

/// The gradient of a scatter by its source: what was read back at the indices, zero where they are outside.
fn unscatter(axis: usize, index: &Tensor, g: &Tensor, source: &Tensor) -> Tensor {
    let extent = g.shape()[axis];
    if extent == 0 {
        return Tensor::number(g, 0.0).broadcast_to(source.shape());
    }
    let index = if index.rank() == 1 && source.rank() > 1 {
        let mut dims = vec![1; source.rank()];
        dims[axis] = index.numel();
        index.shaped(&dims, index.node.location).broadcast_to(source.shape())
    } else {
        index.clone()
    };
    let inside = index.ge(&Tensor::number(&index, 0.0)).and(&index.lt(&Tensor::number(&index, extent as f32)));
    inside.select(&g.gather(axis, &index), &Tensor::number(g, 0.0))
}

fn reduce_vjp(
    kind: ReduceKind,
    axes: u8,
    g: &Tensor,
    x: &Tensor,
    y: &Tensor,
    location: &'static Location<'static>,
) -> Option<Tensor> {
    let wide = |t: &Tensor| t.broadcast_to(x.shape());
    match kind {
        ReduceKind::Sum => Some(wide(g)),
        ReduceKind::Max | ReduceKind::Min => {
            let arg =
                if kind == ReduceKind::Max { ReduceKind::ArgMax } else { ReduceKind::ArgMin };
            let winner = Tensor::record(Op::Reduce(arg, axes), &[x], y.dims(), DType::I32, location);
            let hit = position(x, axes, location).eq(&wide(&winner));
            Some(hit.select(&wide(g), &Tensor::number(g, 0.0)))
        }
        ReduceKind::Prod => Some(wide(g) * product_of_others(x, axes, location)),
        ReduceKind::ArgMax | ReduceKind::ArgMin => None,
    }
}

/// Row-major position of each element among the reduced axes.
fn position(x: &Tensor, axes: u8, location: &'static Location<'static>) -> Tensor {
    let reduced: Vec<usize> =
        (0..x.rank()).map(|a| if axes >> a & 1 == 1 { x.shape()[a] } else { 1 }).collect();
    let count = reduced.iter().product();
    Tensor::arange(x.device(), count, DType::I32)
        .shaped(&reduced, location)
        .broadcast_to(x.shape())
}

/// For each element the product of all others of its reduction: exact with zeros, to any order of
/// derivative, at the price of n² multiplications in one fused kernel (no n² memory).
fn product_of_others(x: &Tensor, axes: u8, location: &'static Location<'static>) -> Tensor {
    let kept: Vec<usize> = (0..x.rank()).filter(|a| axes >> a & 1 == 0).collect();
    let gone: Vec<usize> = (0..x.rank()).filter(|a| axes >> a & 1 == 1).collect();
    let order = [&kept[..], &gone[..]].concat();
    let moved = x.permute(&order);
    let count: usize = gone.iter().map(|&a| x.shape()[a]).product();
    let outer: usize = kept.iter().map(|&a| x.shape()[a]).product();
    let lines = moved.shaped(&[outer, 1, count], location).broadcast_to(&[outer, count, count]);
    let i = Tensor::arange(x.device(), count, DType::I32);
    let own = i.shaped(&[count, 1], location).eq(&i);
    let others = own.select(&Tensor::number(x, 1.0), &lines).prod(&[-1], false);
    let mut inverse = vec![0; order.len()];
    for (i, &axis) in order.iter().enumerate() {
        inverse[axis] = i;
    }
    others.shaped(moved.shape(), location).permute(&inverse)
}

/// The adjoint of a movement.
fn move_back(
    movement: &Movement,
    g: &Tensor,
    x: &Tensor,
    location: &'static Location<'static>,
) -> Tensor {
    let shape = x.dims();
    let rank = shape.rank();
    match movement {
        Movement::Reshape => g.shaped(&shape, location),
        Movement::Permute(axes) => {
            let mut inverse = vec![0; rank];
            for (i, &axis) in axes[..rank].iter().enumerate() {
                inverse[usize::from(axis)] = i;
            }
            g.permute(&inverse)
        }
        Movement::Broadcast => {
            let lead = g.rank() - rank;
            let axes: Vec<isize> = (0..g.rank())
                .filter(|&a| a < lead || shape[a - lead] != g.shape()[a])
                .map(|a| a as isize)
                .collect();
            g.sum(&axes, true).shaped(&shape, location)
        }
        Movement::Slice { start, step } => {
            (0..rank).fold(g.clone(), |g, axis| unslice(g, axis, start[axis], step[axis], shape[axis]))
        }
        Movement::Pad(before) => {
            let mut start = [0; MAX_RANK];
            for (s, b) in start.iter_mut().zip(before) {
                *s = *b as isize;
            }
            g.moved(Movement::Slice { start, step: [1; MAX_RANK] }, shape, location)
        }
        Movement::Window { axis, stride, dilation } => {
            let op = Op::Fold { axis: *axis, stride: *stride, dilation: *dilation };
            Tensor::record(op, &[g], shape, g.dtype(), location)
        }
    }
}

/// Puts the elements of a slice of one axis back among zeros.
fn unslice(g: Tensor, axis: usize, start: isize, step: isize, extent: usize) -> Tensor {
    let len = g.shape()[axis];
    let width = step.unsigned_abs();
    let pads = |rank: usize, axis: usize, pad: (usize, usize)| {
        let mut pads = vec![(0, 0); rank];
        pads[axis] = pad;
        pads
    };
    if len == 0 {
        return g.pad(&pads(g.rank(), axis, (0, extent)), 0.0);
    }
    let (mut g, mut first) = (g, start);
    if step < 0 {
        g = g.flip(&[axis]);
        first = start + step * (len as isize - 1);
    }
    if width > 1 {
        let spread = g.unsqueeze(axis + 1);
        let spread = spread.pad(&pads(spread.rank(), axis + 1, (0, width - 1)), 0.0);
        let mut dims = g.shape().to_vec();
        dims[axis] = len * width;
        let location = g.node.location;
        g = spread.shaped(&dims, location).narrow(axis, 0, (len - 1) * width + 1);
    }
    let used = g.shape()[axis];
    let first = first as usize;
    if first == 0 && used == extent {
        return g;
    }
    let rank = g.rank();
    g.pad(&pads(rank, axis, (first, extent - first - used)), 0.0)
}

const EVALUATED: &str =
    " (a tensor that was already evaluated has forgotten its inputs: differentiate first)";

impl Tensor {
    /// The gradients of this loss (one element, f32) by every parameter it depends on.
    ///
    /// # Errors
    /// An error recorded in the loss; a loss that is no single f32; a loss that reaches no parameter; an
    /// operation without derivative on the way.
    #[track_caller]
    pub fn backward(&self) -> Result<Gradients> {
        let location = Location::caller();
        check_differentiable(self, location)?;
        if self.numel() != 1 {
            let why = "the loss must have one element; take its sum or mean";
            return Err(invalid("backward", self, why, location));
        }
        let tape = Tape::new(&self.node);
        let wanted: Vec<bool> = tape.nodes.iter().map(|n| n.parameter.is_some()).collect();
        if !wanted.contains(&true) {
            let what = "any parameter".to_owned();
            return Err(GraphError::NotReached { what, location, hint: hint(self) });
        }
        let seed = Tensor::number(self, 1.0).broadcast_to(self.shape());
        let cotangents = tape.pull_back(seed, &wanted, location)?;
        let loss = self.clone();
        let mut grads = Gradients { loss, by_node: HashMap::new(), names: Vec::new() };
        for (node, grad) in tape.nodes.iter().zip(cotangents) {
            if let (Some(name), Some(grad)) = (&node.parameter, grad) {
                grads.names.push((Arc::clone(name), node.id));
                grads.by_node.insert(node.id, grad);
            }
        }
        if grads.is_empty() {
            // Every way to a parameter is cut, by a detach or by integers.
            let what = "any parameter".to_owned();
            return Err(GraphError::NotReached { what, location, hint: "" });
        }
        Ok(grads)
    }

    /// This value, with a user's own vector-Jacobian product: `rule` takes the output's gradient and
    /// returns one gradient (or none) for each of `inputs`. `name` appears in messages. How this tensor was
    /// computed is ignored by differentiation.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor, grad_of};
    /// let dev = Device::cpu();
    /// let x = Tensor::from_slice(&dev, &[0.4f32, 1.6], &[2]);
    /// // Rounding with the straight-through estimator (Bengio et al., 2013).
    /// let y = x.round().with_vjp("round_ste", &[&x], |g| vec![Some(g.clone())]);
    /// let g = &grad_of(&y.sum_all(), &[&x])?[0];
    /// assert_eq!(g.to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn with_vjp(
        &self,
        name: &'static str,
        inputs: &[&Tensor],
        rule: impl Fn(&Tensor) -> Vec<Option<Tensor>> + Send + Sync + 'static,
    ) -> Tensor {
        let op = Op::Custom(crate::op::CustomOp(name, Arc::new(rule)));
        let all: Vec<&Tensor> = std::iter::once(self).chain(inputs.iter().copied()).collect();
        Tensor::record(op, &all, self.dims(), self.dtype(), Location::caller())
    }
}

fn hint(y: &Tensor) -> &'static str {
    match (&y.node.op, &*y.node.state()) {
        (Op::Buffer, _) => "",
        (_, State::Ready(_)) => EVALUATED,
        _ => "",
    }
}

fn invalid(
    op: &'static str,
    y: &Tensor,
    why: &str,
    location: &'static Location<'static>,
) -> GraphError {
    GraphError::Invalid { op, why: why.to_owned(), operands: vec![y.operand()], location }
}

fn check_differentiable(y: &Tensor, location: &'static Location<'static>) -> Result<()> {
    if let Some(error) = y.error() {
        return Err(error);
    }
    if !y.dtype().is_float() {
        return Err(invalid("backward", y, "only floats have gradients", location));
    }
    Ok(())
}

/// The gradients of `y` (any shape; its elements are summed) by each of `xs`, as recorded tensors that can
/// be differentiated again.
///
/// # Errors
/// As [`Tensor::backward`]; a tensor that `y` does not depend on is named by its position.
///
/// ```
/// use versant_graph::{Device, Tensor, grad_of};
/// let dev = Device::cpu();
/// let x = Tensor::from_slice(&dev, &[3.0f32], &[1]);
/// let y = &x * &x * &x;
/// let dy = grad_of(&y, &[&x])?.remove(0);
/// let ddy = grad_of(&dy, &[&x])?.remove(0);
/// assert_eq!(ddy.to_vec::<f32>()?, [18.0]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
pub fn grad_of(y: &Tensor, xs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let location = Location::caller();
    check_differentiable(y, location)?;
    let tape = Tape::new(&y.node);
    let mut wanted = vec![false; tape.nodes.len()];
    for x in xs {
        if let Some(&i) = tape.index.get(&x.node.id) {
            wanted[i] = true;
        }
    }
    let seed = Tensor::number(y, 1.0).broadcast_to(y.shape());
    let cotangents = tape.pull_back(seed, &wanted, location)?;
    let named = |(i, x): (usize, &&Tensor)| {
        let at = tape.index.get(&x.node.id);
        at.and_then(|&i| cotangents[i].clone()).ok_or_else(|| GraphError::NotReached {
            what: x.parameter_name().map_or_else(|| format!("tensor {i} of the list"), str::to_owned),
            location,
            hint: hint(y),
        })
    };
    xs.iter().enumerate().map(named).collect()
}
