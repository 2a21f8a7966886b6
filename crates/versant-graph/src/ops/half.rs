//! Values in 16 bits: rounded where they are made, and two in each 32-bit word of memory, on every device.
//!
//! To the recorder they are f32. What is rounded needs no more than half a word where it lies in memory, so
//! `halves.rs` has kernels store and load it so wherever they can.

use std::panic::Location;

use versant_kernels::DType;

use crate::Tensor;
use crate::op::{Movement, Op};

/// A type of 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Half {
    /// IEEE 754 binary16: 11 bits of precision, up to 65,504. Its small range wants the loss scaled.
    F16,
    /// The upper half of an f32: 8 bits of precision, the whole range.
    BF16,
}

impl Half {
    /// The name, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        self.dtype().name()
    }

    /// The element type that it stands for.
    pub fn dtype(self) -> DType {
        match self {
            Half::F16 => DType::F16,
            Half::BF16 => DType::BF16,
        }
    }
}

/// What an operation rounds to, if it does nothing else.
pub(crate) fn rounds_to(op: &Op) -> Option<Half> {
    let Op::Map(row) = op else { return None };
    row.rounds_to
}

/// What a node is kept in, if it is a result of [`Tensor::kept_in`].
pub(crate) fn kept_as(op: &Op) -> Option<Half> {
    rounds_to(op).filter(|_| matches!(op, Op::Map(row) if row.in_memory))
}

impl Tensor {
    /// The nearest f16 or bf16 of each element, as f32; where it has to be in memory, in 16 bits. See [`Tensor::round_f16`].
    #[track_caller]
    #[must_use]
    pub fn rounded_to(&self, half: Half) -> Tensor {
        match half {
            Half::F16 => self.round_f16(),
            Half::BF16 => self.round_bf16(),
        }
    }

    /// What these values are kept in, if they are the result of [`Tensor::kept_in`] or a view of one, recorded and not yet computed.
    pub fn kept_as(&self) -> Option<Half> {
        match self.node.op {
            Op::View(_) => Tensor::from_node(self.node.inputs().into_iter().next()?).kept_as(),
            _ => kept_as(&self.node.op),
        }
    }

    /// The same values, rounded, and kept in 16 bits as long as somebody may need them: what is computed next, and the
    /// gradient much later, which sees the kept value wherever a rule asks for this one. It is rounded and kept likewise, as
    /// in training with 16-bit activations (Micikevicius et al., "Mixed Precision Training", ICLR 2018).
    ///
    /// ```
    /// use versant_graph::{Device, Half, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[1.0f32, 2049.0], &[2]);
    /// assert_eq!(x.kept_in(Half::F16).to_vec::<f32>()?, [1.0, 2048.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn kept_in(&self, half: Half) -> Tensor {
        // Zeros around what is kept need no memory.
        if let Op::View(movement) = &self.node.op
            && let (Movement::Pad(_), Some(inner)) = (&**movement, self.node.inputs().into_iter().next())
        {
            let inner = Tensor::from_node(inner).kept_in(half);
            return inner.moved(**movement, self.dims(), Location::caller());
        }
        match half {
            Half::F16 => self.keep_f16(),
            Half::BF16 => self.keep_bf16(),
        }
    }
}
