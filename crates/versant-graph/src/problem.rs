//! What the kernel crate is told of a contraction or of a kernel of a small family.

use versant_device::Cost;
use versant_kernels::attention::{self, Attention, MaskKind};
use versant_kernels::contract::{Contraction, Conv, ConvKind, MatMul};
use versant_kernels::{
    ArgSort, CumSum, DType, FoldWindows, IndexForm, KernelSource, ScatterAdd, Shape, SortPass, Target, View,
    argsort, cumsum, fold_windows, scatter_add,
};

use crate::ir::{Ir, IrNode};
use crate::op::Op;
use crate::ops::half::Half;

/// The kernel crate's description of a contraction node.
pub(crate) fn describe(ir: &Ir, node: usize) -> Contraction {
    let n = &ir.nodes[node];
    let (a, b) = (n.inputs[0].full_view(ir), n.inputs[1].full_view(ir));
    let types = [0, 1].map(|k| ir.nodes[n.inputs[k].node].dtype);
    let crate::ir::IrOp::Core(op) = &n.op else { unreachable!("a contraction is a core op") };
    match op {
        Op::MatMul => {
            let rank = n.shape.rank();
            let batch = Shape::new(&n.shape[..rank - 2]).expect("a part of a shape");
            let (m, n, k) = (n.shape[rank - 2], n.shape[rank - 1], a.shape[rank - 1]);
            Contraction::MatMul(MatMul { batch, m, n, k, a, b, types })
        }
        Op::Conv(kind, attrs) => {
            let (input, weight, output) = match kind {
                ConvKind::Forward => (a.shape, b.shape, n.shape),
                ConvKind::InputGrad => (n.shape, b.shape, a.shape),
                ConvKind::WeightGrad => (a.shape, n.shape, b.shape),
            };
            Contraction::Conv(Conv {
                kind: *kind,
                n: input[0],
                groups: attrs.groups,
                c_in: input[1],
                c_out: output[1],
                input: [input[2], input[3]],
                kernel: [weight[2], weight[3]],
                output: [output[2], output[3]],
                stride: attrs.stride,
                padding: attrs.padding,
                dilation: attrs.dilation,
                a,
                b,
                types,
            })
        }
        _ => unreachable!("not a contraction"),
    }
}

/// The kernel crate's description of an attention node; `None` of any other.
pub(crate) fn describe_attention(ir: &Ir, node: usize) -> Option<Attention> {
    let n = &ir.nodes[node];
    let crate::ir::IrOp::Core(Op::Attention(attrs)) = &n.op else {
        return None;
    };
    let views: Vec<_> = n.inputs.iter().map(|e| e.full_view(ir)).collect();
    let (q, v) = (views[0].shape, views[2].shape);
    Some(Attention {
        pass: attrs.pass,
        batch: q[0],
        heads: q[1],
        kv_heads: v[1],
        queries: q[2],
        keys: v[2],
        width: q[3],
        value: v[3],
        scale: f32::from_bits(attrs.scale),
        left: attrs.left,
        right: attrs.right,
        start: attrs.start,
        mask: match attrs.masked.then(|| ir.nodes[n.inputs[3].node].dtype) {
            None => MaskKind::None,
            Some(DType::F32) => MaskKind::Added,
            Some(_) => MaskKind::Words,
        },
        kept: attrs.kept.map(Half::dtype),
        views,
        types: n.inputs.iter().map(|e| ir.nodes[e.node].dtype).collect(),
    })
}

/// What sorts the last axis of a node's keys.
fn describe_sort(ir: &Ir, n: &IrNode, views: &[View], pass: SortPass, descending: bool) -> ArgSort {
    let keys = views[0].shape;
    let width = |shape: &[usize]| shape[shape.len() - 1];
    ArgSort {
        rows: keys.numel() / width(&keys).max(1),
        n: width(&keys),
        count: views.get(1).map_or(width(&keys), |v| width(&v.shape)),
        pass,
        descending,
        dtype: ir.nodes[n.inputs[0].node].dtype,
        keys_offset: views[0].offset as usize,
        candidates_offset: views.get(1).map(|v| v.offset as usize),
    }
}

/// The kernel of a node of the small families.
///
/// `variant` is that of an attention on a GPU.
pub(crate) fn family(
    ir: &Ir,
    node: usize,
    label: &str,
    target: Target,
    variant: Option<attention::Variant>,
) -> (KernelSource, Cost) {
    if let Some(desc) = describe_attention(ir, node) {
        let (flops, bytes) = desc.cost();
        let source = match variant {
            Some(variant) => attention::attention_with(&desc, label, variant),
            None => attention::attention(&desc, label, target),
        };
        return (source, Cost { flops, bytes });
    }
    let n = &ir.nodes[node];
    let views: Vec<_> = n.inputs.iter().map(|e| e.full_view(ir)).collect();
    let offset = |k: usize| views[k].offset as usize;
    let around = |shape: &[usize], axis: usize| -> (usize, usize) {
        (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
    };
    let crate::ir::IrOp::Core(op) = &n.op else { unreachable!("a family node is a core op") };
    match op {
        Op::CumSum { axis, reverse } => {
            let (outer, inner) = around(&n.shape, *axis);
            let desc = CumSum {
                outer,
                n: n.shape[*axis],
                inner,
                reverse: *reverse,
                dtype: n.dtype,
                src_offset: offset(0),
            };
            let cost = Cost { flops: desc.flops(), bytes: desc.bytes() };
            (cumsum(&desc, label, target), cost)
        }
        Op::ArgSort { pass, descending } => {
            let desc = describe_sort(ir, n, &views, *pass, *descending);
            let cost = Cost { flops: desc.flops(), bytes: desc.bytes() };
            (argsort(&desc, label, target), cost)
        }
        Op::Fold { axis, stride, dilation } => {
            let windows = views[0].shape;
            let (outer, inner) = around(&n.shape, *axis);
            let desc = FoldWindows {
                outer,
                extent: n.shape[*axis],
                inner,
                count: windows[*axis],
                size: windows[windows.rank() - 1],
                stride: *stride,
                dilation: *dilation,
                dtype: n.dtype,
                src_offset: offset(0),
            };
            let cost = Cost { flops: desc.flops(), bytes: desc.bytes() };
            (fold_windows(&desc, label, target), cost)
        }
        Op::ScatterAdd(axis) => {
            let (base, index, source) = (&views[0], &views[1], &views[2]);
            let (outer, inner) = around(&n.shape, *axis);
            let shared = index.shape.rank() == 1 && source.shape.rank() > 1 || index.shape != source.shape;
            let desc = ScatterAdd {
                outer,
                bound: n.shape[*axis],
                inner,
                count: source.shape[*axis],
                form: if shared { IndexForm::Shared } else { IndexForm::Full },
                dtype: n.dtype,
                base_offset: base.offset as usize,
                base_is_scalar: base.shape.rank() == 0,
                index_offset: index.offset as usize,
                src_offset: source.offset as usize,
            };
            let cost = Cost { flops: desc.flops(), bytes: desc.bytes() };
            (scatter_add(&desc, label, target), cost)
        }
        _ => unreachable!("not of a small family"),
    }
}
