//! Vector-Jacobian products, written in the same ops.

use std::panic::Location;

use versant_kernels::contract::ConvKind;
use versant_kernels::{DType, MAX_RANK, ReduceKind};

use crate::Tensor;
use crate::op::{Movement, Op};
use crate::ops::attention::attention_vjp;
use crate::ops::elementwise::Derivative;
use crate::tensor::Node;

type Pulled = Option<Vec<Option<Tensor>>>;

/// The gradients of a node's inputs, or `None` where the operation has no derivative.
pub(crate) fn vjp(node: &Node, g: &Tensor, x: &[Tensor], y: &Tensor, need: &[bool]) -> Pulled {
    let location = node.location;
    let mut out = vec![None; x.len()];
    match &node.op {
        Op::Map(row) => match &row.derivative {
            Derivative::Rule(rule) => return Some(rule(g, x, y).into_iter().collect()),
            Derivative::Straight(rule) => out[0] = Some(rule(g)),
            Derivative::Zero => out[0] = Some(Tensor::number(g, 0.0).broadcast_to(x[0].shape())),
        },
        Op::Cast => out[0] = Some(g.cast(x[0].dtype())),
        Op::View(movement) => out[0] = Some(move_back(movement, g, &x[0], location)),
        Op::Reduce(kind, axes) => out[0] = reduce_vjp(*kind, *axes, g, &x[0], y, location),
        Op::CumSum { axis, reverse } => out[0] = Some(g.running_sum(*axis, !reverse, location)),
        Op::MatMul => out = matmul_vjp(g, x, need),
        Op::Conv(kind, attrs) => {
            let options = crate::ops::contraction::ConvOptions {
                stride: attrs.stride,
                padding: attrs.padding,
                dilation: attrs.dilation,
                groups: attrs.groups,
            };
            let conv = |a: &Tensor, w: &Tensor, like: &Tensor| forward(a, w, &options, like, location);
            let input =
                |g: &Tensor, w: &Tensor, like: &Tensor| g.conv_input_grad(w, **attrs, like.shape(), location);
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
        Op::Attention(attrs) => return Some(attention_vjp(attrs, g, x, y, need, location)),
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
            for (grad, pulled) in out[1..].iter_mut().zip((custom.1)(g, &x[1..])) {
                *grad = pulled;
            }
        }
        Op::Bitcast | Op::ArgSort { .. } => return None,
        // Scans and their results are the walk's own business.
        Op::Scan(_) | Op::Item(_) | Op::Hole => {}
        Op::Buffer | Op::Literal(_) | Op::Scalar(_) | Op::Iota | Op::Random | Op::Detach => {}
    }
    Some(out)
}

/// A transposed operand gets its gradient as a transposed view: its own transpose undoes that, and the
/// product is stored as the operand's source lies.
fn matmul_vjp(g: &Tensor, x: &[Tensor], need: &[bool]) -> Vec<Option<Tensor>> {
    let (a, b) = (&x[0], &x[1]);
    let left = || match is_transposed(a) {
        true => b.matmul(&g.t()).t(),
        false => g.matmul(&b.t()),
    };
    let right = || match is_transposed(b) {
        true => g.t().matmul(a).t(),
        false => a.t().matmul(g),
    };
    vec![need[0].then(left), need[1].then(right)]
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
    let inside =
        index.ge(&Tensor::number(&index, 0.0)).and(&index.lt(&Tensor::number(&index, extent as f32)));
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
            let arg = if kind == ReduceKind::Max { ReduceKind::ArgMax } else { ReduceKind::ArgMin };
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
    Tensor::arange(x.device(), count, DType::I32).shaped(&reduced, location).broadcast_to(x.shape())
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
fn move_back(movement: &Movement, g: &Tensor, x: &Tensor, location: &'static Location<'static>) -> Tensor {
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
