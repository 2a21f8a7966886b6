//! Look-up of learnt vectors.

use std::panic::Location;

use versant_graph::{DType, GraphError, Tensor};

use super::weights::Origin;
use super::{Mode, Module};
use crate::fault::{in_range, invalid};
use crate::{Init, Param, Scope};

/// A learnt vector for each index: indices (I32 or U32) `[..] → [.., width]`.
///
/// Parameter: `weight` `[count, width]`, standard normal. An index outside the table gives NaN: a device
/// cannot refuse it, and must not hide it.
///
/// ```
/// use versant_nn::layers::{Embedding, Mode, Module};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = Embedding::new(&(&vs / "words"), 100, 8);
/// let words = Tensor::from_slice(&dev, &[3i32, 99, 3, 0, 1, 2], &[2, 3]);
/// assert_eq!(layer.forward(&words, Mode::Eval).shape(), [2, 3, 8]);
/// ```
#[derive(Debug)]
pub struct Embedding {
    weight: Result<Param, GraphError>,
}

impl Embedding {
    /// A table of `count` vectors of `width` elements.
    #[track_caller]
    pub fn new(scope: &Scope, count: usize, width: usize) -> Embedding {
        let origin = Origin { layer: "Embedding::new", location: Location::caller() };
        let init = Init::Normal { mean: 0.0, std: 1.0 };
        let weight = if count == 0 || width == 0 {
            let why = format!("count and width must be positive, not {count} and {width}");
            Err(origin.error(why))
        } else {
            Ok(scope.parameter("weight", &[count, width], init))
        };
        Embedding { weight }
    }
}

impl Module for Embedding {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        let weight = match &self.weight {
            Ok(weight) => weight.get(),
            Err(error) => return Tensor::failed(x.device(), error.clone()),
        };
        if x.error().is_some() || !matches!(x.dtype(), DType::I32 | DType::U32) {
            let why = "needs indices, i32 or u32";
            return invalid("embedding", &[x, &weight], Location::caller(), why);
        }
        let count = weight.shape().first().copied().unwrap_or(0);
        let flat = x.reshape(&[x.numel() as isize]);
        let rows = weight.index_select(0, &flat);
        let nan = Tensor::constant(x.device(), f32::NAN);
        let rows = in_range(&flat, count).unsqueeze(1).select(&rows, &nan);
        let mut shape: Vec<isize> = x.shape().iter().map(|&d| d as isize).collect();
        shape.push(weight.shape().last().map_or(0, |&d| d as isize));
        rows.reshape(&shape)
    }
}
