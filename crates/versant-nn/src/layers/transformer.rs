//! Blocks of transformers (Vaswani et al., "Attention is all you need", NeurIPS 2017) and stacks of them.

use std::panic::Location;

use versant_graph::{GraphError, Tensor};

use super::kv_cache::KvCache;
use super::transformer_config::Norm;
use super::{Attend, Dropout, FeedForward, Linear, Mode, Module, MultiHeadAttention, TransformerConfig};
use crate::Scope;
use crate::fault::invalid;

/// What all layers have: the feed-forward net, norms and dropouts by number.
#[derive(Debug)]
struct Body {
    config: TransformerConfig,
    linear1: Linear,
    linear2: Linear,
    /// Inside the feed-forward net.
    dropout: Dropout,
    /// A norm, and what is dropped of the row that is added, for each part.
    parts: Vec<(Norm, Dropout)>,
}

impl Body {
    #[track_caller]
    fn new(scope: &Scope, config: &TransformerConfig, parts: usize) -> Body {
        let doubled = if config.feed_forward == FeedForward::SwiGlu { 2 } else { 1 };
        let rows = config.hidden.saturating_mul(doubled);
        let linear1 = config.linear(&scope.sub("linear1"), config.width, rows);
        let linear2 = config.linear(&scope.sub("linear2"), config.hidden, config.width);
        let drop = |name: &str| Dropout::new(&scope.sub(name), config.dropout);
        let mut list = Vec::with_capacity(parts);
        for i in 1..=parts {
            list.push((config.norm(&scope.sub(&format!("norm{i}"))), drop(&format!("dropout{i}"))));
        }
        let dropout = drop("dropout");
        Body { config: config.clone(), linear1, linear2, dropout, parts: list }
    }

    // No closures from here on: a mistake names the line of the layer's caller.

    /// What goes into part `i` of the layer, of the row `x`.
    #[track_caller]
    fn before(&self, i: usize, x: &Tensor, mode: Mode) -> Tensor {
        if self.config.norm_first { self.parts[i].0.forward(x, mode) } else { x.clone() }
    }

    /// The row `x` with what part `i` makes of it.
    #[track_caller]
    fn after(&self, i: usize, x: &Tensor, y: &Tensor, mode: Mode) -> Tensor {
        let (norm, dropout) = &self.parts[i];
        let sum = x + dropout.forward(y, mode);
        if self.config.norm_first { sum } else { norm.forward(&sum, mode) }
    }

    /// The feed-forward net as the last part.
    #[track_caller]
    fn feed_forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let last = self.parts.len() - 1;
        let h = self.linear1.forward(&self.before(last, x, mode), mode);
        let h = match self.config.feed_forward {
            FeedForward::Relu => h.relu(),
            FeedForward::Gelu => h.gelu(),
            FeedForward::GeluTanh => h.gelu_tanh(),
            FeedForward::SwiGlu if h.error().is_some() => h,
            FeedForward::SwiGlu => {
                let (axis, hidden) = (h.rank() - 1, self.config.hidden);
                h.narrow(axis, 0, hidden).silu() * h.narrow(axis, hidden, hidden)
            }
        };
        let y = self.linear2.forward(&self.dropout.forward(&h, mode), mode);
        self.after(last, x, &y, mode)
    }
}

/// A layer of a transformer with self-attention and a feed-forward net: `[batch, length, width] → [batch, length, width]`.
/// With [`TransformerConfig::causal`] it is the layer of a language model.
///
/// `x = norm1(x + attention(x))`, `x = norm2(x + linear2(f(linear1(x))))`; with
/// [`norm_first`](TransformerConfig::norm_first) `x + attention(norm1(x))` and so on. Parameters are those of
/// `torch.nn.TransformerEncoderLayer`: `self_attn.…` as [`MultiHeadAttention`], `linear1`, `linear2`, `norm1`, `norm2`
/// with `weight` and `bias`. Batches come first.
///
/// ```
/// use versant_nn::layers::{Mode, Module, TransformerConfig, TransformerEncoderLayer};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = TransformerEncoderLayer::new(&(&vs / "layer"), &TransformerConfig::new(8, 2).hidden(16));
/// assert_eq!(vs.names()[..2], ["layer.self_attn.in_proj_weight", "layer.self_attn.in_proj_bias"]);
/// let y = layer.forward(&Tensor::ones(&dev, &[2, 5, 8]), Mode::Train);
/// assert_eq!(y.shape(), [2, 5, 8]);
/// assert!(y.sum_all().item::<f32>()?.abs() < 1e-4);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct TransformerEncoderLayer {
    attention: MultiHeadAttention,
    body: Body,
}

impl TransformerEncoderLayer {
    /// A layer as the configuration describes it.
    #[track_caller]
    pub fn new(scope: &Scope, config: &TransformerConfig) -> TransformerEncoderLayer {
        let attention = config.attention(&scope.sub("self_attn"), true);
        TransformerEncoderLayer { attention, body: Body::new(scope, config, 2) }
    }

    /// The layer's result under the masks of `given`, which may have no memory.
    #[track_caller]
    #[must_use]
    pub fn run(&self, x: &Tensor, given: &Attend<'_>, mode: Mode) -> Tensor {
        let own = self.body.config.own(given);
        let y = self.attention.run(&self.body.before(0, x, mode), &own, mode);
        let x = self.body.after(0, x, &y, mode);
        self.body.feed_forward(&x, mode)
    }

    /// The result for the rows after those in the cache, as [`MultiHeadAttention::step`].
    #[track_caller]
    #[must_use]
    pub fn step(&self, x: &Tensor, given: &Attend<'_>, cache: &mut KvCache, layer: usize) -> Tensor {
        let y = self.attention.step(&self.body.before(0, x, Mode::Eval), given, cache, layer);
        let x = self.body.after(0, x, &y, Mode::Eval);
        self.body.feed_forward(&x, Mode::Eval)
    }
}

impl Module for TransformerEncoderLayer {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.run(x, &Attend::default(), mode)
    }
}

/// A layer of a transformer with self-attention, attention to a memory and a feed-forward net.
///
/// As [`TransformerEncoderLayer`], with `multihead_attn` and a third norm; parameters are those of
/// `torch.nn.TransformerDecoderLayer`. [`TransformerConfig::causal`] concerns self-attention.
///
/// ```
/// use versant_nn::layers::{Attend, Mode, TransformerConfig, TransformerDecoderLayer};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = TransformerDecoderLayer::new(&(&vs / "layer"), &TransformerConfig::new(8, 2).causal());
/// let memory = Tensor::ones(&dev, &[2, 7, 8]);
/// let cross = Attend { memory: Some(&memory), ..Attend::default() };
/// let y = layer.run(&Tensor::ones(&dev, &[2, 5, 8]), &Attend::default(), &cross, Mode::Train);
/// assert_eq!(y.shape(), [2, 5, 8]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct TransformerDecoderLayer {
    attention: MultiHeadAttention,
    cross: MultiHeadAttention,
    body: Body,
}

impl TransformerDecoderLayer {
    /// A layer as the configuration describes it.
    #[track_caller]
    pub fn new(scope: &Scope, config: &TransformerConfig) -> TransformerDecoderLayer {
        let attention = config.attention(&scope.sub("self_attn"), true);
        let cross = config.attention(&scope.sub("multihead_attn"), false);
        TransformerDecoderLayer { attention, cross, body: Body::new(scope, config, 3) }
    }

    /// The layer's result; `own` has the masks of self-attention, `cross` the memory and its masks.
    #[track_caller]
    #[must_use]
    pub fn run(&self, x: &Tensor, own: &Attend<'_>, cross: &Attend<'_>, mode: Mode) -> Tensor {
        if cross.memory.is_none() {
            let why = "needs a memory to attend to";
            return invalid("TransformerDecoderLayer", &[x], Location::caller(), why);
        }
        let own = self.body.config.own(own);
        let y = self.attention.run(&self.body.before(0, x, mode), &own, mode);
        let x = self.body.after(0, x, &y, mode);
        let y = self.cross.run(&self.body.before(1, &x, mode), cross, mode);
        let x = self.body.after(1, &x, &y, mode);
        self.body.feed_forward(&x, mode)
    }

    /// The result for the rows after those in the cache, which has the memory's keys and values, too; masks as in
    /// [`TransformerDecoderLayer::run`].
    #[track_caller]
    #[must_use]
    pub fn step(
        &self,
        x: &Tensor,
        own: &Attend<'_>,
        cross: &Attend<'_>,
        cache: &mut KvCache,
        layer: usize,
    ) -> Tensor {
        let Some(memory) = cache.memory(layer) else {
            let why = "the cache has no memory to attend to";
            return invalid("TransformerDecoderLayer", &[x], Location::caller(), why);
        };
        let y = self.attention.step(&self.body.before(0, x, Mode::Eval), own, cache, layer);
        let x = self.body.after(0, x, &y, Mode::Eval);
        let y = self.cross.with(&self.body.before(1, &x, Mode::Eval), cross, memory);
        let x = self.body.after(1, &x, &y, Mode::Eval);
        self.body.feed_forward(&x, Mode::Eval)
    }
}

/// A stack of [`TransformerEncoderLayer`]s: an encoder, or with [`TransformerConfig::causal`] a language model's trunk.
///
/// Parameters are those of `torch.nn.TransformerEncoder`: `layers.0.…` and, with [`final_norm`](Self::final_norm), `norm`.
///
/// ```
/// use versant_nn::layers::{Embedding, Linear, Mode, Module, TransformerConfig, TransformerEncoder};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let config = TransformerConfig::new(16, 2).norm_first().causal();
/// let trunk = TransformerEncoder::new(&(&vs / "trunk"), &config, 2).final_norm();
/// let x = Tensor::ones(&dev, &[1, 6, 16]);
/// let whole = trunk.forward(&x, Mode::Eval).narrow(1, 5, 1).to_vec::<f32>()?;
/// // The same in steps: four rows, then each of two.
/// let mut cache = trunk.cache(1, 8);
/// let mut last = trunk.step(&x.narrow(1, 0, 4), &mut cache);
/// for i in 4..6 {
///     last = trunk.step(&x.narrow(1, i, 1), &mut cache);
/// }
/// let last = last.to_vec::<f32>()?;
/// assert!(whole.iter().zip(&last).all(|(a, b)| (a - b).abs() < 1e-5));
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct TransformerEncoder {
    scope: Scope,
    config: TransformerConfig,
    layers: Vec<TransformerEncoderLayer>,
    norm: Option<Norm>,
}

impl TransformerEncoder {
    /// So many layers of one configuration.
    #[track_caller]
    pub fn new(scope: &Scope, config: &TransformerConfig, layers: usize) -> TransformerEncoder {
        let mut list = Vec::with_capacity(layers);
        for i in 0..layers {
            list.push(TransformerEncoderLayer::new(&scope.sub(&format!("layers.{i}")), config));
        }
        TransformerEncoder { scope: scope.clone(), config: config.clone(), layers: list, norm: None }
    }

    /// With a norm behind the last layer, as [`TransformerConfig::norm_first`] asks for.
    #[track_caller]
    #[must_use]
    pub fn final_norm(mut self) -> TransformerEncoder {
        self.norm = Some(self.config.norm(&self.scope.sub("norm")));
        self
    }

    /// The result of all layers under the masks of `given`.
    #[track_caller]
    #[must_use]
    pub fn run(&self, x: &Tensor, given: &Attend<'_>, mode: Mode) -> Tensor {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.run(&x, given, mode);
        }
        finished(self.norm.as_ref(), x, mode)
    }

    /// Room for the keys and values of `capacity` positions of so many sequences.
    #[track_caller]
    #[must_use]
    pub fn cache(&self, batch: usize, capacity: usize) -> KvCache {
        match self.layers.first() {
            Some(layer) => layer.attention.caches(self.layers.len(), batch, capacity),
            None => KvCache::new(self.scope.device(), 0, [batch, capacity, 0, 0]),
        }
    }

    /// The result for the rows after those in the cache, each of which sees itself and all before, in evaluation.
    #[track_caller]
    #[must_use]
    pub fn step(&self, x: &Tensor, cache: &mut KvCache) -> Tensor {
        self.step_with(x, &Attend::default(), cache)
    }

    /// The same under masks that are of the cache's capacity: [`Attend::present`] hides the filling of shorter prompts.
    #[track_caller]
    #[must_use]
    pub fn step_with(&self, x: &Tensor, given: &Attend<'_>, cache: &mut KvCache) -> Tensor {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.step(&x, given, cache, i);
        }
        cache.advance(if x.rank() == 3 { x.shape()[1] } else { 0 });
        finished(self.norm.as_ref(), x, Mode::Eval)
    }
}

#[track_caller]
fn finished(norm: Option<&Norm>, x: Tensor, mode: Mode) -> Tensor {
    match norm {
        Some(norm) => norm.forward(&x, mode),
        None => x,
    }
}

impl Module for TransformerEncoder {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.run(x, &Attend::default(), mode)
    }
}

/// A stack of [`TransformerDecoderLayer`]s, which attend to a memory, usually of a [`TransformerEncoder`].
///
/// Parameters are those of `torch.nn.TransformerDecoder`: `layers.0.…` and, with [`final_norm`](Self::final_norm), `norm`.
///
/// ```
/// use versant_nn::layers::{Attend, Mode, TransformerConfig, TransformerDecoder};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let decoder = TransformerDecoder::new(&(&vs / "decoder"), &TransformerConfig::new(8, 2).causal(), 2);
/// let (x, memory) = (Tensor::ones(&dev, &[1, 3, 8]), Tensor::ones(&dev, &[1, 5, 8]));
/// let cross = Attend { memory: Some(&memory), ..Attend::default() };
/// let whole = decoder.run(&x, &Attend::default(), &cross, Mode::Eval).narrow(1, 2, 1).to_vec::<f32>()?;
/// let mut cache = decoder.cache(&memory, 4)?;
/// let _ = decoder.step(&x.narrow(1, 0, 2), &Attend::default(), &mut cache);
/// let last = decoder.step(&x.narrow(1, 2, 1), &Attend::default(), &mut cache).to_vec::<f32>()?;
/// assert!(whole.iter().zip(&last).all(|(a, b)| (a - b).abs() < 1e-5));
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct TransformerDecoder {
    scope: Scope,
    config: TransformerConfig,
    layers: Vec<TransformerDecoderLayer>,
    norm: Option<Norm>,
}

impl TransformerDecoder {
    /// So many layers of one configuration.
    #[track_caller]
    pub fn new(scope: &Scope, config: &TransformerConfig, layers: usize) -> TransformerDecoder {
        let mut list = Vec::with_capacity(layers);
        for i in 0..layers {
            list.push(TransformerDecoderLayer::new(&scope.sub(&format!("layers.{i}")), config));
        }
        TransformerDecoder { scope: scope.clone(), config: config.clone(), layers: list, norm: None }
    }

    /// With a norm behind the last layer, as [`TransformerConfig::norm_first`] asks for.
    #[track_caller]
    #[must_use]
    pub fn final_norm(mut self) -> TransformerDecoder {
        self.norm = Some(self.config.norm(&self.scope.sub("norm")));
        self
    }

    /// The result of all layers; `own` and `cross` as in [`TransformerDecoderLayer::run`].
    #[track_caller]
    #[must_use]
    pub fn run(&self, x: &Tensor, own: &Attend<'_>, cross: &Attend<'_>, mode: Mode) -> Tensor {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.run(&x, own, cross, mode);
        }
        finished(self.norm.as_ref(), x, mode)
    }

    /// Room for `capacity` positions, and the keys and values of the memory `[batch, keys, width]`, which are computed
    /// here once.
    ///
    /// # Errors
    /// A memory that does not fit; a failing device.
    #[track_caller]
    pub fn cache(&self, memory: &Tensor, capacity: usize) -> Result<KvCache, GraphError> {
        let batch = memory.shape().first().copied().unwrap_or(0);
        let mut cache = match self.layers.first() {
            Some(layer) => layer.attention.caches(self.layers.len(), batch, capacity),
            None => KvCache::new(self.scope.device(), 0, [batch, capacity, 0, 0]),
        };
        let mut all = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            match layer.cross.keys_values(memory) {
                Ok(both) => all.push(both),
                Err(failed) => return Err(failed.error().expect("a mistake has an error")),
            }
        }
        versant_graph::eval(&all.iter().flatten().collect::<Vec<_>>())?;
        cache.remember(all);
        Ok(cache)
    }

    /// The result for the rows after those in the cache, in evaluation; `cross` has the masks of the memory.
    #[track_caller]
    #[must_use]
    pub fn step(&self, x: &Tensor, cross: &Attend<'_>, cache: &mut KvCache) -> Tensor {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.step(&x, &Attend::default(), cross, cache, i);
        }
        cache.advance(if x.rank() == 3 { x.shape()[1] } else { 0 });
        finished(self.norm.as_ref(), x, Mode::Eval)
    }
}
