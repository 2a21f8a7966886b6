//! Leaves: tensors from host data, constants, host scalars, counting and random numbers.

use std::panic::Location;

use versant_device::Device;
use versant_kernels::{DType, MAX_NUMEL, RandomKey, Shape, View};

use crate::Tensor;
use crate::error::{GraphError, Operand};
use crate::op::Op;
use crate::tensor::Value;

/// A host type that a tensor can hold.
pub trait Element: Copy + Send + Sync + 'static {
    /// The tensor's element type.
    const DTYPE: DType;
    /// The word that stores it.
    fn to_word(self) -> u32;
    /// The value that a word stores.
    fn from_word(word: u32) -> Self;
}

macro_rules! element {
    ($($ty:ty, $dtype:ident, $to:expr, $from:expr;)*) => {$(
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            fn to_word(self) -> u32 { $to(self) }
            fn from_word(word: u32) -> $ty { $from(word) }
        }
    )*};
}

element! {
    f32, F32, f32::to_bits, f32::from_bits;
    i32, I32, |x| x as u32, |w| w as i32;
    u32, U32, |x| x, |w| w;
    bool, Bool, u32::from, |w| w != 0;
}

/// The word that stores `value` in a tensor of this type.
pub(crate) fn word_of(value: f32, dtype: DType) -> u32 {
    match dtype {
        DType::I32 => value as i32 as u32,
        DType::U32 => value as u32,
        DType::Bool => u32::from(value != 0.0),
        _ => value.to_bits(),
    }
}

impl Tensor {
    /// A tensor of `shape` holding `data` in row-major order, uploaded at once.
    ///
    /// # Errors
    /// Kept in the tensor: a shape of another size than the data, a rank above 8, a failing device.
    #[track_caller]
    #[must_use]
    pub fn from_slice<T: Element>(device: &Device, data: &[T], shape: &[usize]) -> Tensor {
        let location = Location::caller();
        let checked = Shape::new(shape).filter(|s| s.numel() == data.len());
        let Some(dims) = checked else {
            let operands = vec![Operand { dtype: T::DTYPE, shape: shape.to_vec() }];
            let why = format!("{} elements do not make this shape", data.len());
            let error = GraphError::Invalid { op: "from_slice", why, operands, location };
            return Tensor::failed(device, error);
        };
        let words: Vec<u32> = data.iter().map(|x| x.to_word()).collect();
        match device.upload(&words) {
            Ok(buffer) => {
                let value = Value { buffer, view: View::contiguous(dims) };
                Tensor::from_value(device, value, T::DTYPE, location)
            }
            Err(error) => Tensor::failed(device, error.into()),
        }
    }

    /// A constant of the definition, of rank 0: part of a plan's key, folded into its kernels.
    #[track_caller]
    #[must_use]
    pub fn constant<T: Element>(device: &Device, value: T) -> Tensor {
        let op = Op::Literal(value.to_word());
        Tensor::leaf(device, op, Shape::SCALAR, T::DTYPE, Location::caller())
    }

    /// A host number, of rank 0, that may differ every step without making a new plan: a learning rate,
    /// a step count, a word of a seed.
    #[track_caller]
    #[must_use]
    pub fn scalar<T: Element>(device: &Device, value: T) -> Tensor {
        let op = Op::Scalar(value.to_word());
        Tensor::leaf(device, op, Shape::SCALAR, T::DTYPE, Location::caller())
    }

    /// A constant of the type and device of `like`.
    #[track_caller]
    pub(crate) fn number(like: &Tensor, value: f32) -> Tensor {
        let op = Op::Literal(word_of(value, like.dtype()));
        Tensor::leaf(like.device(), op, Shape::SCALAR, like.dtype(), Location::caller())
    }

    /// A tensor of `shape` with every element `value`.
    #[track_caller]
    #[must_use]
    pub fn full(device: &Device, value: f32, shape: &[usize]) -> Tensor {
        Tensor::constant(device, value).broadcast_to(shape)
    }

    /// A tensor of zeros.
    #[track_caller]
    #[must_use]
    pub fn zeros(device: &Device, shape: &[usize]) -> Tensor {
        Tensor::full(device, 0.0, shape)
    }

    /// A tensor of ones.
    #[track_caller]
    #[must_use]
    pub fn ones(device: &Device, shape: &[usize]) -> Tensor {
        Tensor::full(device, 1.0, shape)
    }

    /// `0, 1, …, n - 1`, in any number type.
    #[track_caller]
    #[must_use]
    pub fn arange(device: &Device, n: usize, dtype: DType) -> Tensor {
        let location = Location::caller();
        if n > MAX_NUMEL {
            let why = format!("{n} elements are more than 2^31 - 1");
            let operands = Vec::new();
            let error = GraphError::Invalid { op: "arange", why, operands, location };
            return Tensor::failed(device, error);
        }
        let shape = Shape::new(&[n]).expect("rank 1 is a shape");
        match dtype {
            DType::I32 | DType::U32 => Tensor::leaf(device, Op::Iota, shape, dtype, location),
            _ => Tensor::leaf(device, Op::Iota, shape, DType::I32, location).cast(dtype),
        }
    }

    /// Random words: element `i` is word `i % 4` of block `i / 4` of Philox4x32-10 under the key
    /// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Equal on every device. The
    /// key is a run-time input: another one replays the same plan.
    #[track_caller]
    #[must_use]
    pub fn random_words(device: &Device, shape: &[usize], key: RandomKey) -> Tensor {
        let location = Location::caller();
        let [low, high] = key.words().map(|word| Tensor::scalar(device, word));
        match Shape::new(shape) {
            Some(dims) => Tensor::record(Op::Random, &[&low, &high], dims, DType::U32, location),
            None => Tensor::invalid("random", &[&low], location, "the rank is above 8"),
        }
    }

    /// Uniform numbers in `[0, 1)` with 24 random bits. Equal on every device.
    #[track_caller]
    #[must_use]
    pub fn rand_uniform(device: &Device, shape: &[usize], key: RandomKey) -> Tensor {
        let words = Tensor::random_words(device, shape, key);
        let bits = words.div(&Tensor::constant(device, 256u32));
        bits.cast(DType::F32) * (1.0 / (1u32 << 24) as f32)
    }

    /// Standard normal numbers by Box and Muller (1958) from two uniform streams. Devices agree within
    /// the rounding of their logarithm and cosine.
    #[track_caller]
    #[must_use]
    pub fn rand_normal(device: &Device, shape: &[usize], key: RandomKey) -> Tensor {
        let mut pair = vec![2];
        pair.extend_from_slice(shape);
        let u = Tensor::rand_uniform(device, &pair, key);
        let (u1, u2) = (u.narrow(0, 0, 1).squeeze(0), u.narrow(0, 1, 1).squeeze(0));
        let radius = ((1.0 - u1).ln() * -2.0).sqrt();
        radius * (u2 * std::f32::consts::TAU).cos()
    }

    /// True with probability `p`. Equal on every device.
    #[track_caller]
    #[must_use]
    pub fn bernoulli(device: &Device, shape: &[usize], p: f32, key: RandomKey) -> Tensor {
        Tensor::rand_uniform(device, shape, key).lt(&Tensor::constant(device, p))
    }
}
