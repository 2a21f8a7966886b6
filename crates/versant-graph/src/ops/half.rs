//! Values kept in 16 bits: two in each 32-bit word, on every device, computed with as f32.
//!
//! There is no kernel of 16-bit tensors: packing and unpacking are rows of the elementwise table, so they fuse like any other.
//! A packed tensor is always in memory, and what is unpacked from it is made where it is read, so that a value needed again
//! much later, by the gradient, is kept in half the bytes.

use std::panic::Location;

use versant_kernels::DType;

use crate::Tensor;
use crate::op::Op;

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

/// What the results of [`Tensor::kept_in`] are recorded as.
const KEPT: [&str; 2] = ["kept_in_f16", "kept_in_bf16"];

/// What a node is kept in, if it is such a result; its second input is what was kept.
pub(crate) fn kept_as(op: &Op) -> Option<Half> {
    let Op::Custom(custom) = op else { return None };
    [Half::F16, Half::BF16].into_iter().find(|&half| custom.0 == KEPT[half as usize])
}

/// How a shape is packed: the axis whose two halves share words, and its extent with the padding that makes it even.
fn split(shape: &[usize]) -> (usize, usize) {
    let even = (0..shape.len()).find(|&axis| shape[axis].is_multiple_of(2));
    let axis = even.unwrap_or(0);
    (axis, shape[axis].next_multiple_of(2))
}

impl Tensor {
    /// The nearest f16 or bf16 of each element, as f32: nothing is stored differently. See [`Tensor::round_f16`].
    #[track_caller]
    #[must_use]
    pub fn rounded_to(&self, half: Half) -> Tensor {
        match half {
            Half::F16 => self.round_f16(),
            Half::BF16 => self.round_bf16(),
        }
    }

    /// The elements in 16 bits each, two to a word (U32), for [`Tensor::unpack16`]: f32 of any shape. The first axis of even
    /// extent is halved, and what it had in its second half stands in the upper bits; without such an axis the first has
    /// one more element, a zero. No gradient flows through it.
    #[track_caller]
    #[must_use]
    pub fn pack16(&self, half: Half) -> Tensor {
        let location = Location::caller();
        if self.error().is_some() || self.dtype() != DType::F32 {
            return Tensor::invalid("pack16", &[self], location, "needs f32");
        }
        let x = if self.rank() == 0 { self.unsqueeze(0) } else { self.clone() };
        let (axis, extent) = split(x.shape());
        let mut around = vec![(0, 0); x.rank()];
        around[axis].1 = extent - x.shape()[axis];
        let x = if around[axis].1 > 0 { x.pad(&around, 0.0) } else { x };
        let part = |start| x.narrow(axis, start, extent / 2).bitcast(DType::U32);
        match half {
            Half::F16 => part(0).pack_f16(&part(extent / 2)),
            Half::BF16 => part(0).pack_bf16(&part(extent / 2)),
        }
    }

    /// The f32 elements, of this shape, that [`Tensor::pack16`] made words of.
    ///
    /// ```
    /// use versant_graph::{Device, Half, Tensor};
    /// let x = Tensor::from_slice(&Device::cpu(), &[1.0f32, -2.5, 1e-3], &[3]);
    /// let words = x.pack16(Half::BF16);
    /// assert_eq!(words.shape(), [2]);
    /// assert_eq!(words.unpack16(Half::BF16, &[3]).to_vec::<f32>()?, [1.0, -2.5, 0.00099945068]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn unpack16(&self, half: Half, shape: &[usize]) -> Tensor {
        let location = Location::caller();
        let full: &[usize] = if shape.is_empty() { &[1] } else { shape };
        let (axis, extent) = split(full);
        let mut words = full.to_vec();
        words[axis] = extent / 2;
        let fits = self.error().is_none() && self.dtype() == DType::U32 && self.shape() == words;
        if !fits {
            let why = format!("needs packed words of {shape:?}, u32{words:?}");
            return Tensor::invalid("unpack16", &[self], location, why);
        }
        // Each half is read through padding, not through a reshape: that is affine on any reader's axes.
        let own = full[axis];
        let (lower, upper) = (extent / 2, own - extent / 2);
        let mut around = vec![(0, 0); full.len()];
        around[axis] = (0, upper);
        let low = self.pad(&around, 0.0);
        around[axis] = (lower, 0);
        let high = self.narrow(axis, 0, upper).pad(&around, 0.0);
        let mut line = vec![1; full.len()];
        line[axis] = upper;
        let one = Tensor::constant(self.device(), 1u32).broadcast_to(&line);
        let odd = one.pad(&around, 0.0).broadcast_to(full);
        // One of the two is zero.
        let word = low + high;
        let bits = match half {
            Half::F16 => word.unpack_f16(&odd),
            Half::BF16 => word.unpack_bf16(&odd),
        };
        let values = bits.bitcast(DType::F32);
        if shape.is_empty() { values.squeeze(0) } else { values }
    }

    /// What these values are kept in, if they are the result of [`Tensor::kept_in`], recorded and not yet computed.
    pub fn kept_as(&self) -> Option<Half> {
        kept_as(&self.node.op)
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
        let kept = self.detach().pack16(half).unpack16(half, self.shape());
        kept.with_vjp(KEPT[half as usize], &[self], move |g| vec![Some(g.kept_in(half))])
    }
}
