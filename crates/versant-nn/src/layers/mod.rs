//! Layers: parts of a net, with their parameters in a store, and ways to put them together.
//!
//! Constructors take the [`Scope`](crate::Scope) that names the layer; builder methods follow:
//! `Conv2d::new(&(&vs / "conv1"), 1, 32, 3).pad(1)`. Names, shapes and initial distributions of parameters
//! are PyTorch's. A layer that cannot exist (no channels, groups that do not divide them) is no panic: its first
//! result carries the error, with the line of the constructor.

mod activation;
mod attention;
mod conv;
mod dropout;
mod embedding;
mod kv_cache;
mod linear;
mod norm;
mod norm_groups;
mod pool;
mod positions;
mod rnn;
mod sequential;
mod tap;
mod transformer;
mod transformer_config;
mod weights;

use versant_graph::Tensor;

pub use activation::{
    Elu, Gelu, GeluTanh, LeakyRelu, LogSoftmax, Relu, Sigmoid, Silu, Softmax, Softplus, Tanh,
};
pub use attention::{Attend, MultiHeadAttention};
pub use conv::{Conv, Conv1d, Conv2d, ConvTranspose, ConvTranspose1d, ConvTranspose2d};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use kv_cache::KvCache;
pub use linear::Linear;
pub use norm::{BatchNorm, BatchNorm1d, BatchNorm2d, LayerNorm};
pub use norm_groups::{GroupNorm, InstanceNorm, InstanceNorm1d, InstanceNorm2d, RmsNorm};
pub use pool::{AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, Flatten, MaxPool2d};
pub use positions::{Alibi, LearnedPositions, Rotary, SinusoidalPositions, Start};
pub use rnn::{Gru, Lstm, Rnn, RnnState, Sequence};
pub use sequential::Sequential;
pub use tap::{Activations, Tap, Taps};
pub use transformer::{
    TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer,
};
pub use transformer_config::{FeedForward, TransformerConfig};

/// What a forward pass is for: layers such as [`Dropout`] and [`BatchNorm2d`] behave differently.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// To learn: drops elements, normalises by the batch and follows its statistics.
    Train,
    /// To predict: a function of the input and the stored values alone.
    Eval,
}

/// A function of a tensor, usually with parameters: a layer or a whole net.
///
/// A tuple of up to twelve modules is a module that applies them in turn.
///
/// ```
/// use versant_nn::layers::{Flatten, Linear, Mode, Module, Relu};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let net = (
///     Flatten::new(),
///     Linear::new(&(&vs / "fc1"), 12, 8),
///     Relu,
///     Linear::new(&(&vs / "fc2"), 8, 3),
/// );
/// let y = net.forward(&Tensor::ones(&dev, &[2, 3, 4]), Mode::Eval);
/// assert_eq!(y.shape(), [2, 3]);
/// assert_eq!(y.to_vec::<f32>()?.len(), 6);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
pub trait Module: Send + Sync {
    /// Records the result for `x`. A mistake is kept in the result and names the caller's line.
    #[track_caller]
    #[must_use]
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor;
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        (**self).forward(x, mode)
    }
}

impl<M: Module + ?Sized> Module for &M {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        (**self).forward(x, mode)
    }
}

macro_rules! tuple {
    ($($module:ident)+) => {
        impl<$($module: Module),+> Module for ($($module,)+) {
            fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
                #[expect(non_snake_case, reason = "the type parameters name the values, too")]
                let ($($module,)+) = self;
                let x = x.clone();
                $(let x = $module.forward(&x, mode);)+
                x
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
tuple!(A B C D E F G);
tuple!(A B C D E F G H);
tuple!(A B C D E F G H I);
tuple!(A B C D E F G H I J);
tuple!(A B C D E F G H I J K);
tuple!(A B C D E F G H I J K L);

/// An extent for each of `D` spatial axes: one number for all (`3`), or one each (`[3, 5]`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extents<const D: usize>(pub [usize; D]);

impl<const D: usize> From<usize> for Extents<D> {
    fn from(all: usize) -> Self {
        Extents([all; D])
    }
}

impl<const D: usize> From<[usize; D]> for Extents<D> {
    fn from(each: [usize; D]) -> Self {
        Extents(each)
    }
}
