//! Versant trains neural networks on the graphics card you already own: Vulkan, Metal or DX12 through one set
//! of WGSL kernels, and a CPU fallback with the same answers.
//!
//! This crate is the facade: it re-exports what users need and deliberately contains no logic of its own.
//! [`prelude`] is the usual import.
//!
//! ```
//! use versant::prelude::*;
//!
//! let dev = Device::cpu();
//! let params = Params::new(&dev, Seed(42));
//! let net = (Linear::new(&(&params / "hidden"), 2, 16), Relu, Linear::new(&(&params / "out"), 16, 2));
//! let mut opt = AdamW::new(&params, 0.02);
//!
//! // Exclusive or.
//! let x = Tensor::from_slice(&dev, &[0.0f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], &[4, 2]);
//! let y = Tensor::from_slice(&dev, &[0i32, 1, 1, 0], &[4]);
//! for _ in 0..200 {
//!     let loss = net.forward(&x, Mode::Train).cross_entropy(&y);
//!     opt.step(loss.backward()?)?; // Forward, backward and update run here, as one plan.
//! }
//! let predicted = net.forward(&x, Mode::Eval).argmax(-1, false).to_vec::<i32>()?;
//! assert_eq!(predicted, [0, 1, 1, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use versant_data as data;
pub use versant_graph as graph;
pub use versant_nn as nn;

/// What most programs import: `use versant::prelude::*`.
pub mod prelude {
    pub use versant_data::{Batch, ConfusionMatrix, Dataset, Loader, Normalisation, accuracy};
    pub use versant_graph::{
        ConvOptions, DType, Device, DeviceKind, PoolOptions, Tensor, capture, eval, explain, grad_of,
    };
    pub use versant_nn::layers::*;
    pub use versant_nn::{
        Adagrad, Adam, AdamW, Adamax, Average, Init, Lamb, Lion, Losses, Mode, Module, Muon, NAdam,
        Optimizer, Param, ParamGroup, Params, Plateau, RmsProp, Schedule, Scope, Seed, Sgd,
    };
}

/// The worked examples of the contributor's guide and of the README, compiled and run as tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../CONTRIBUTING.md")]
    struct Contributing;
    #[doc = include_str!("../../../README.md")]
    struct Readme;
}
