//! Training with 16-bit activations: which operations round, and what is kept in half the bytes.
//!
//! Inside [`autocast`], layers follow PyTorch's policy for mixed precision. Parameters stay f32 (the master weights), and so do
//! all sums: only values are rounded, and kept, in 16 bits.
//!
//! | operation | operands | result |
//! | --- | --- | --- |
//! | products: `Linear`, convolutions, attention and its maps, the input maps of recurrent layers | rounded | kept in 16 bits |
//! | normalisations | kept in 16 bits | f32 |
//! | recurrent steps, activations, pooling, residual sums | as they come | f32, computed where they are read; see [`kept`] |
//! | softmax, losses, optimisers | as they come | f32 |
//!
//! Gradients are rounded where values were, so f16 wants the loss scaled
//! ([`LossScale`](crate::optim::LossScale)); bf16 has f32's range and does not.
//!
//! ```
//! use versant_graph::{Device, Half, Tensor};
//! use versant_nn::layers::{Linear, Relu};
//! use versant_nn::mixed::autocast;
//! use versant_nn::optim::LossScale;
//! use versant_nn::{AdamW, Losses, Mode, Module, Optimizer, Params, Seed};
//! let dev = Device::cpu();
//! let params = Params::new(&dev, Seed(1));
//! let net = (Linear::new(&(&params / "a"), 4, 8), Relu, Linear::new(&(&params / "b"), 8, 2));
//! let mut opt = AdamW::new(&params, 0.01).loss_scaling(LossScale::default());
//! let x = Tensor::ones(&dev, &[3, 4]);
//! let y = Tensor::from_slice(&dev, &[0i32, 1, 1], &[3]);
//! for _ in 0..3 {
//!     let loss = autocast(Half::F16, || net.forward(&x, Mode::Train)).cross_entropy(&y);
//!     opt.step(opt.scaled(&loss).backward()?)?;
//! }
//! let (factor, skipped) = opt.loss_scale().unwrap();
//! assert_eq!((factor.item::<f32>()?, skipped.item::<f32>()?), (65_536.0, 0.0));
//! # Ok::<(), versant_nn::NnError>(())
//! ```

use std::cell::Cell;

use versant_graph::{DType, Half, Tensor};

thread_local! {
    static POLICY: Cell<Option<Half>> = const { Cell::new(None) };
}

/// Records what `f` records with 16-bit activations. It may be nested; the innermost counts. Other threads are not affected.
pub fn autocast<T>(half: Half, f: impl FnOnce() -> T) -> T {
    within(Some(half), f)
}

/// Records what `f` records in f32, inside of [`autocast`].
pub fn full_precision<T>(f: impl FnOnce() -> T) -> T {
    within(None, f)
}

fn within<T>(policy: Option<Half>, f: impl FnOnce() -> T) -> T {
    struct Back(Option<Half>);
    impl Drop for Back {
        fn drop(&mut self) {
            POLICY.set(self.0);
        }
    }
    let _back = Back(POLICY.replace(policy));
    f()
}

/// What is recorded now: the type of [`autocast`], if inside of one.
pub fn policy() -> Option<Half> {
    POLICY.get()
}

/// The policy, if it is about this tensor.
fn about(x: &Tensor) -> Option<Half> {
    policy().filter(|_| x.dtype() == DType::F32 && x.error().is_none())
}

/// An operand of a product.
#[track_caller]
pub(crate) fn operand(x: &Tensor) -> Tensor {
    match about(x) {
        Some(half) if x.kept_as() != Some(half) => x.rounded_to(half),
        _ => x.clone(),
    }
}

/// What layers do with the result of a product, and with the operand of a normalisation: kept in 16 bits inside of
/// [`autocast`], and as it is elsewhere. A block's own sums are better kept, too, if they are read more than once.
///
/// ```
/// use versant_graph::{Device, Half, Tensor};
/// use versant_nn::mixed::{autocast, kept};
/// let x = Tensor::from_slice(&Device::cpu(), &[2049.0f32], &[1]);
/// let (all, rounded) = (kept(&x), autocast(Half::F16, || kept(&x)));
/// assert_eq!((all.item::<f32>()?, rounded.item::<f32>()?), (2049.0, 2048.0));
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
#[must_use]
pub fn kept(y: &Tensor) -> Tensor {
    match about(y) {
        Some(half) if y.kept_as() != Some(half) => y.kept_in(half),
        _ => y.clone(),
    }
}
