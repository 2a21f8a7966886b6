//! Keys and values of earlier positions, kept for the positions that follow.

use std::panic::Location;

use versant_graph::{DType, Device, Tensor};

use super::Start;
use crate::fault::invalid;

/// Keys and values of the positions that a transformer has seen, so that a new token costs one position's work.
///
/// Its tensors have room for `capacity` positions from the beginning, and how many are filled is a run-time number. So
/// every step of as many rows is the same plan: nothing is planned, compiled or allocated for a token. A step writes its
/// rows over the old tensors in place, where nobody else holds them, by one elementwise kernel a tensor that passes over
/// the whole of it, as attention over it does anyway; and it attends to all of the capacity, under a mask.
///
/// ```
/// use versant_nn::layers::{Attend, Mode, MultiHeadAttention};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = MultiHeadAttention::new(&(&vs / "attention"), 8, 2);
/// let x = Tensor::rand_uniform(&dev, &[1, 3, 8], vs.root().random().next_key());
/// let whole = layer.run(&x, &Attend { is_causal: true, ..Attend::default() }, Mode::Eval);
/// let mut cache = layer.cache(1, 16);
/// for i in 0..3 {
///     let y = layer.step(&x.narrow(1, i, 1), &Attend::default(), &mut cache, 0);
///     cache.advance(1);
///     let (y, want) = (y.to_vec::<f32>()?, whole.narrow(1, i, 1).to_vec::<f32>()?);
///     assert!(y.iter().zip(&want).all(|(y, w)| (y - w).abs() < 1e-5));
/// }
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KvCache {
    /// Keys and values of each layer, `[batch, capacity, heads, width]`.
    layers: Vec<[Tensor; 2]>,
    /// Keys and values of each layer's memory, `[batch, length, heads, width]`; empty without cross-attention.
    memory: Vec<[Tensor; 2]>,
    batch: usize,
    capacity: usize,
    len: usize,
    /// `len` as a run-time number, one tensor for all layers of a step.
    start: Tensor,
}

impl KvCache {
    /// Room for `capacity` positions of `[batch, heads, width]` in each of so many layers.
    #[track_caller]
    pub(super) fn new(
        device: &Device,
        layers: usize,
        [batch, capacity, heads, width]: [usize; 4],
    ) -> KvCache {
        // Not a constant of the plan: the first token's step shall be that of all.
        let zeros = vec![0f32; batch * capacity * heads * width];
        let empty = || Tensor::from_slice(device, &zeros, &[batch, capacity, heads, width]);
        let layers = (0..layers).map(|_| [empty(), empty()]).collect();
        let start = Tensor::scalar(device, 0i32);
        KvCache { layers, memory: Vec::new(), batch, capacity, len: 0, start }
    }

    /// Positions that are filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sequences that run side by side.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Where the rows of the next step stand, for layers of positions.
    pub fn start(&self) -> Start<'_> {
        Start::Runtime(&self.start)
    }

    /// Takes the rows that a step has written in every layer as seen. The stacks of this crate call it themselves.
    pub fn advance(&mut self, rows: usize) {
        self.set_len(self.len.saturating_add(rows));
    }

    /// Forgets the positions from `len` on: the next step writes over them. More than are filled changes nothing.
    pub fn rewind(&mut self, len: usize) {
        self.set_len(len.min(self.len));
    }

    fn set_len(&mut self, len: usize) {
        self.len = len;
        self.start = Tensor::scalar(self.start.device(), i32::try_from(len).unwrap_or(i32::MAX));
    }

    /// Sequence `i` goes on from what sequence `parents[i]` has seen, as beam search asks for; there may be more or
    /// fewer of them than before. A parent that is not there counts as the last.
    #[track_caller]
    pub fn select(&mut self, parents: &[usize]) {
        let last = i32::try_from(self.batch.saturating_sub(1)).unwrap_or(i32::MAX);
        let index: Vec<i32> = parents.iter().map(|&p| i32::try_from(p).unwrap_or(last).min(last)).collect();
        let index = Tensor::from_slice(self.start.device(), &index, &[index.len()]);
        for tensor in self.layers.iter_mut().chain(&mut self.memory).flatten() {
            *tensor = tensor.index_select(0, &index);
        }
        self.batch = parents.len();
    }

    /// Every tensor of it, to be evaluated or looked at.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.layers.iter().chain(&self.memory).flatten()
    }

    /// Keeps the keys and values of what all steps attend to.
    pub(super) fn remember(&mut self, memory: Vec<[Tensor; 2]>) {
        self.memory = memory;
    }

    /// The keys and values of a layer's memory.
    pub(super) fn memory(&self, layer: usize) -> Option<[Tensor; 2]> {
        self.memory.get(layer).cloned()
    }

    /// Writes the rows of this step, `[batch, rows, heads, width]`, and returns all of the layer's.
    #[track_caller]
    pub(super) fn write(&mut self, layer: usize, new: [&Tensor; 2]) -> Result<[Tensor; 2], Tensor> {
        let location = Location::caller();
        let rows = new[0].shape().get(1).copied().unwrap_or(0);
        let (len, capacity, batch) = (self.len, self.capacity, self.batch);
        let Some(old) = self.layers.get_mut(layer) else {
            let why = format!("the cache has no layer {layer}");
            return Err(invalid("KvCache", &new, location, why));
        };
        if new[0].error().is_none() && len.saturating_add(rows) > capacity {
            let why = format!("{rows} positions after {len} are more than the {capacity} there is room for");
            return Err(invalid("KvCache", &new, location, why));
        }
        let same = |t: &Tensor| t.shape()[2..] == old[0].shape()[2..] && t.shape()[0] == batch;
        if let Some(odd) = new.iter().find(|t| t.error().is_some() || !same(t)) {
            let why = format!("a cache of {batch} sequences has layers of {:?}", old[0].shape());
            return Err(invalid("KvCache", &[odd], location, why));
        }
        let device = self.start.device();
        let from_start = Tensor::arange(device, capacity, DType::I32) - &self.start;
        let first = Tensor::constant(device, 0i32);
        // Of one row a single comparison, which is cheap enough to be a part of both kernels that ask for it.
        let written = match rows {
            1 => from_start.eq(&first),
            _ => from_start.ge(&first).and(&from_start.lt(&Tensor::constant(device, rows as i32))),
        };
        let written = written.reshape(&[1, -1, 1, 1]);
        for (old, new) in old.iter_mut().zip(new) {
            // One row is the same for every place; of several, each place takes its own.
            let row = if rows == 1 { new.clone() } else { new.index_select(1, &from_start) };
            if rows > 0 {
                *old = written.select(&row, old);
            }
        }
        Ok(old.clone())
    }

    /// Which positions each of so many rows of this step sees: itself and all before, bool `[rows, capacity]`.
    #[track_caller]
    pub(super) fn seen(&self, rows: usize) -> Tensor {
        let device = self.start.device();
        let last = Tensor::arange(device, rows, DType::I32).unsqueeze(1) + &self.start;
        Tensor::arange(device, self.capacity, DType::I32).unsqueeze(0).le(&last)
    }
}
