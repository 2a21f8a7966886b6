//! Activation functions as layers. The formulas are those of the tensor's methods.

use versant_graph::Tensor;

use super::{Mode, Module};

macro_rules! activation {
    ($($(#[doc = $doc:literal])+ $name:ident $(($field:ident: $ty:ty))? => $method:ident;)*) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub struct $name $((
            #[doc = concat!("The `", stringify!($field), "` of the formula.")]
            pub $ty
        ))?;

        impl Module for $name {
            fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
                $(let $name($field) = *self;)?
                x.$method($($field)?)
            }
        }
    )*};
}

activation! {
    /// `max(x, 0)`.
    Relu => relu;
    /// `x` where positive, else `slope * x` (Maas et al., 2013); PyTorch's default slope is 0.01.
    LeakyRelu(slope: f32) => leaky_relu;
    /// `x Φ(x)` with the normal distribution function (Hendrycks and Gimpel, 2016).
    Gelu => gelu;
    /// The hyperbolic-tangent approximation of [`Gelu`].
    GeluTanh => gelu_tanh;
    /// `x sigmoid(x)` (Elfwing et al., 2017).
    Silu => silu;
    /// `1 / (1 + exp(-x))`.
    Sigmoid => sigmoid;
    /// The hyperbolic tangent.
    Tanh => tanh;
    /// `exp(x) / sum(exp(x))` along an axis, which may count from the end.
    Softmax(axis: isize) => softmax;
    /// `ln(softmax(x))` along an axis, which may count from the end.
    LogSoftmax(axis: isize) => log_softmax;
    /// `ln(1 + exp(x))`.
    Softplus => softplus;
    /// `x` where positive, else `alpha * (exp(x) - 1)` (Clevert et al., 2015); usually `alpha` is 1.
    Elu(alpha: f32) => elu;
}
