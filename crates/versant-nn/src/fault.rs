//! Mistakes of layers and losses, recorded like those of any tensor operation.

use std::panic::Location;

use versant_graph::{DType, GraphError, Operand, Tensor};

/// An error about these operands at this line, kept in a tensor. The first operand's own error goes first:
/// the cause matters, not what followed from it.
pub(crate) fn invalid(
    op: &'static str,
    operands: &[&Tensor],
    location: &'static Location<'static>,
    why: impl Into<String>,
) -> Tensor {
    let inherited = operands.iter().find_map(|t| t.error());
    let error = inherited.unwrap_or_else(|| GraphError::Invalid {
        op,
        why: why.into(),
        operands: operands.iter().map(|t| operand(t)).collect(),
        location,
    });
    Tensor::failed(operands[0].device(), error)
}

fn operand(t: &Tensor) -> Operand {
    Operand { dtype: t.dtype(), shape: t.shape().to_vec() }
}

/// Where an index is from 0 to below `count`.
#[track_caller]
pub(crate) fn in_range(index: &Tensor, count: usize) -> Tensor {
    let dev = index.device();
    if index.dtype() == DType::U32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        return index.lt(&Tensor::constant(dev, count));
    }
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let below = index.lt(&Tensor::constant(dev, count));
    index.ge(&Tensor::constant(dev, 0i32)).and(&below)
}
