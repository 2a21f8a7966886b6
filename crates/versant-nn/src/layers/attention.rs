//! Attention with several heads.

use std::panic::Location;

use versant_graph::{Attention, DType, GraphError, Tensor};

use super::kv_cache::KvCache;
use super::weights::Origin;
use super::{Mode, Module, Rotary, Start};
use crate::fault::invalid;
use crate::mixed::{kept, operand, policy};
use crate::{Init, Param, RandomSource, Scope};

/// What [`MultiHeadAttention`] may be given beside the queries. The default is self-attention to everything.
///
/// **A mask says what counts**, as in [`Tensor::attention`] and PyTorch's `scaled_dot_product_attention`. Boolean masks
/// of `torch.nn.MultiheadAttention` say the opposite.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attend<'a> {
    /// What keys and values are made of, `[batch, keys, width]`; the queries' own rows without it.
    pub memory: Option<&'a Tensor>,
    /// What values are made of if not of the same as keys.
    pub values: Option<&'a Tensor>,
    /// Whether a row sees no row behind its own position.
    pub is_causal: bool,
    /// Which keys are there, `[batch, keys]`: bool, or f32 that is not zero, as `Padded::on` of the data crate gives it.
    /// With a cache `keys` is its capacity.
    pub present: Option<&'a Tensor>,
    /// A mask that broadcasts to the scores `[batch, heads, queries, keys]`: bool says which count, f32 is added to them.
    pub mask: Option<&'a Tensor>,
}

/// Attention with several heads (Vaswani et al., "Attention is all you need", NeurIPS 2017):
/// `[batch, length, width] → [batch, length, width]`.
///
/// Queries, keys and values are linear maps of what is given; head `h` is `softmax(q kᵀ / √(width / heads) + mask) v` of
/// its share of them, by [`Tensor::attention`]; the heads side by side go through one more linear map. Batches come
/// first, PyTorch's `batch_first`.
///
/// Parameters are those of `torch.nn.MultiheadAttention`: `in_proj_weight` `[3 width, width]` (queries, keys, values),
/// `in_proj_bias`, `out_proj.weight`, `out_proj.bias`; with [`kv_widths`](Self::kv_widths) `q_proj_weight`,
/// `k_proj_weight` and `v_proj_weight` in the place of the first. With fewer [`kv_heads`](Self::kv_heads) (Ainslie et
/// al., "GQA", 2023) the rows of keys and values are fewer. Weights are uniform by Xavier, biases zero.
///
/// A query that sees no key gives the bias of the last map alone, where PyTorch gives NaN. Self-attention has one product
/// for queries, keys and values; dropout of weights forms the matrix of scores, as [`Attention::dropout`] says.
///
/// ```
/// use versant_nn::layers::{Attend, Mode, Module, MultiHeadAttention};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = MultiHeadAttention::new(&(&vs / "attention"), 12, 3);
/// let x = Tensor::ones(&dev, &[2, 5, 12]);
/// assert_eq!(layer.forward(&x, Mode::Eval).shape(), [2, 5, 12]);
/// // Of a memory, the second sequence of which has two rows only.
/// let memory = Tensor::ones(&dev, &[2, 4, 12]);
/// let present = Tensor::from_slice(&dev, &[true, true, true, true, true, true, false, false], &[2, 4]);
/// let given = Attend { memory: Some(&memory), present: Some(&present), ..Attend::default() };
/// let y = layer.run(&x, &given, Mode::Train);
/// assert!(y.sum_all().item::<f32>()?.is_finite());
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct MultiHeadAttention {
    scope: Scope,
    origin: Origin,
    width: usize,
    heads: usize,
    kv_heads: usize,
    /// Widths of what keys and values are made of, if they are not the queries'.
    kv_widths: Option<[usize; 2]>,
    has_bias: bool,
    dropout: Option<(f32, RandomSource)>,
    rotary: Option<Rotary>,
    made: Result<Maps, GraphError>,
}

/// The parameters.
#[derive(Debug)]
struct Maps {
    input: Input,
    bias: Option<Param>,
    out: Param,
    out_bias: Option<Param>,
}

#[derive(Debug)]
enum Input {
    Packed(Param),
    Separate([Param; 3]),
}

impl Maps {
    fn all(self) -> impl Iterator<Item = Param> {
        let input = match self.input {
            Input::Packed(only) => vec![only],
            Input::Separate(all) => all.into(),
        };
        input.into_iter().chain([self.out]).chain(self.bias).chain(self.out_bias)
    }
}

impl MultiHeadAttention {
    /// So many heads, which share the width, with biases.
    #[track_caller]
    pub fn new(scope: &Scope, width: usize, heads: usize) -> MultiHeadAttention {
        let origin = Origin { layer: "MultiHeadAttention::new", location: Location::caller() };
        let made = Err(origin.error("it is being built".to_owned()));
        let mut layer = MultiHeadAttention {
            scope: scope.clone(),
            origin,
            width,
            heads,
            kv_heads: heads,
            kv_widths: None,
            has_bias: true,
            dropout: None,
            rotary: None,
            made,
        };
        layer.declare();
        layer
    }

    /// So many heads of keys and values, each for several heads of queries.
    #[must_use]
    pub fn kv_heads(mut self, kv_heads: usize) -> MultiHeadAttention {
        self.kv_heads = kv_heads;
        self.declare();
        self
    }

    /// Keys and values are made of rows of these widths, by matrices of their own: PyTorch's `kdim` and `vdim`.
    #[must_use]
    pub fn kv_widths(mut self, keys: usize, values: usize) -> MultiHeadAttention {
        self.kv_widths = Some([keys, values]);
        self.declare();
        self
    }

    /// Does without the biases.
    #[must_use]
    pub fn no_bias(mut self) -> MultiHeadAttention {
        self.has_bias = false;
        self.declare();
        self
    }

    /// Drops weights after the softmax with this probability in training.
    #[must_use]
    pub fn dropout(mut self, p: f32) -> MultiHeadAttention {
        self.dropout = (p != 0.0).then(|| (p, self.scope.random()));
        self
    }

    /// Turns queries and keys by their positions.
    #[must_use]
    pub fn rotary(mut self, rotary: &Rotary) -> MultiHeadAttention {
        self.rotary = Some(rotary.clone());
        self
    }

    /// Elements of a head.
    fn head(&self) -> usize {
        self.width / self.heads.max(1)
    }

    /// Rows of the maps to queries, keys and values.
    fn rows(&self) -> [usize; 3] {
        let own = self.kv_heads * self.head();
        [self.width, own, own]
    }

    /// Declares the parameters anew.
    fn declare(&mut self) {
        let gone = Err(self.origin.error("it is being rebuilt".to_owned()));
        if let Ok(maps) = std::mem::replace(&mut self.made, gone) {
            maps.all().for_each(|param| self.scope.retract(param));
        }
        let (width, heads, kv_heads) = (self.width, self.heads, self.kv_heads);
        let fits = width > 0 && heads > 0 && width.is_multiple_of(heads);
        if !fits
            || kv_heads == 0
            || !heads.is_multiple_of(kv_heads)
            || self.kv_widths.is_some_and(|w| w.contains(&0))
        {
            let why = format!(
                "{heads} heads must divide the width {width}, and {kv_heads} heads of keys those; widths are positive"
            );
            self.made = Err(self.origin.error(why));
            return;
        }
        let xavier = Init::XavierUniform { gain: 1.0 };
        let rows = self.rows();
        let input = match self.kv_widths {
            None => {
                let shape = [rows.iter().sum(), width];
                Input::Packed(self.scope.parameter("in_proj_weight", &shape, xavier))
            }
            Some([keys, values]) => {
                let of = |name: &str, i: usize, width| self.scope.parameter(name, &[rows[i], width], xavier);
                Input::Separate([
                    of("q_proj_weight", 0, width),
                    of("k_proj_weight", 1, keys),
                    of("v_proj_weight", 2, values),
                ])
            }
        };
        let bias = |scope: &Scope, name: &str, n: usize| {
            self.has_bias.then(|| scope.parameter(name, &[n], Init::Zeros))
        };
        let bias_in = bias(&self.scope, "in_proj_bias", rows.iter().sum());
        let out = self.scope.sub("out_proj");
        let weight = out.parameter("weight", &[width, width], Init::KaimingUniform { a: 5f32.sqrt() });
        self.made = Ok(Maps { input, bias: bias_in, out: weight, out_bias: bias(&out, "bias", width) });
    }

    /// Room for the keys and values of `capacity` positions of so many sequences.
    #[track_caller]
    #[must_use]
    pub fn cache(&self, batch: usize, capacity: usize) -> KvCache {
        self.caches(1, batch, capacity)
    }

    /// The same for so many layers like this one.
    #[track_caller]
    pub(super) fn caches(&self, layers: usize, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(self.scope.device(), layers, [batch, capacity, self.kv_heads, self.head()])
    }

    /// Attention of these queries, `[batch, queries, width]`.
    #[track_caller]
    #[must_use]
    pub fn run(&self, x: &Tensor, given: &Attend<'_>, mode: Mode) -> Tensor {
        let maps = match self.checked(x, given) {
            Ok(maps) => maps,
            Err(failed) => return failed,
        };
        let [q, k, v] = match self.inputs(maps, x, given, Start::Fixed(0)) {
            Ok(all) => all,
            Err(failed) => return failed,
        };
        let counts = given.present.map(keys_there);
        self.attend(maps, [&q, &k, &v], counts, given, given.is_causal, mode)
    }

    /// Attention of the rows after those in the cache to themselves and all before, in evaluation. It writes their keys
    /// and values to layer `layer` of the cache; [`KvCache::advance`] follows when every layer has. Of `given`, a memory
    /// is a mistake, and masks are of the cache's capacity.
    #[track_caller]
    #[must_use]
    pub fn step(&self, x: &Tensor, given: &Attend<'_>, cache: &mut KvCache, layer: usize) -> Tensor {
        let maps = match self.checked(x, given) {
            Ok(maps) => maps,
            Err(failed) => return failed,
        };
        if given.memory.is_some() || given.values.is_some() {
            let why = "a step attends to its cache, and takes no memory";
            return invalid("MultiHeadAttention", &[x], Location::caller(), why);
        }
        if let Some(rotary) = self.rotary.as_ref().filter(|r| r.positions() < cache.capacity()) {
            let why = format!(
                "a cache of {} positions needs as many of the rotary ones, not {}",
                cache.capacity(),
                rotary.positions()
            );
            return invalid("MultiHeadAttention", &[x], Location::caller(), why);
        }
        let [q, k, v] = match self.inputs(maps, x, given, cache.start()) {
            Ok(all) => all,
            Err(failed) => return failed,
        };
        let mut counts = cache.seen(x.shape()[1]);
        if let Some(present) = given.present {
            counts = counts.and(&keys_there(present));
        }
        match cache.write(layer, [&k, &v]) {
            Ok([k, v]) => self.attend(maps, [&q, &k, &v], Some(counts), given, false, Mode::Eval),
            Err(failed) => failed,
        }
    }

    /// Keys and values of a memory, `[batch, keys, heads, width]`, for [`Self::with`].
    #[track_caller]
    pub(super) fn keys_values(&self, memory: &Tensor) -> Result<[Tensor; 2], Tensor> {
        let width = self.width;
        let none = Tensor::zeros(memory.device(), &[memory.shape().first().copied().unwrap_or(0), 0, width]);
        let given = Attend { memory: Some(memory), ..Attend::default() };
        let maps = self.checked(&none, &given)?;
        let [_, k, v] = self.inputs(maps, &none, &given, Start::Fixed(0))?;
        Ok([k, v])
    }

    /// Attention to keys and values made before, in evaluation.
    #[track_caller]
    pub(super) fn with(&self, x: &Tensor, given: &Attend<'_>, [k, v]: [Tensor; 2]) -> Tensor {
        let maps = match self.checked(x, &Attend { memory: None, values: None, ..*given }) {
            Ok(maps) => maps,
            Err(failed) => return failed,
        };
        let q = self.heads_of(&self.map(maps, 0..1, x), self.heads);
        if q.error().is_some() {
            return q;
        }
        let counts = given.present.map(keys_there);
        self.attend(maps, [&q, &k, &v], counts, given, given.is_causal, Mode::Eval)
    }

    /// The parameters, if the operands fit them.
    #[track_caller]
    fn checked(&self, x: &Tensor, given: &Attend<'_>) -> Result<&Maps, Tensor> {
        let maps = match &self.made {
            Ok(maps) => maps,
            Err(error) => return Err(Tensor::failed(x.device(), error.clone())),
        };
        let [keys, values] = self.kv_widths.unwrap_or([self.width; 2]);
        let memory = given.memory.unwrap_or(x);
        let source = given.values.unwrap_or(memory);
        for (t, width) in [(x, self.width), (memory, keys), (source, values)] {
            if t.error().is_some() || t.rank() != 3 || t.shape()[2] != width || t.dtype() != DType::F32 {
                let why = format!("needs f32[batch, length, {width}]");
                return Err(invalid("MultiHeadAttention", &[t], Location::caller(), why));
            }
        }
        let (batch, length) = (x.shape()[0], memory.shape()[1]);
        if memory.shape()[0] != batch || source.shape()[..2] != [batch, length] {
            let why = "queries, keys and values must be of one batch, and keys have a value each";
            return Err(invalid("MultiHeadAttention", &[x, memory, source], Location::caller(), why));
        }
        if let Some(present) = given.present {
            let fits = matches!(present.dtype(), DType::Bool | DType::F32) && present.rank() == 2;
            if present.error().is_some() || !fits || present.shape()[0] != batch {
                let why = format!("the keys there are must be bool or f32 [{batch}, keys]");
                return Err(invalid("MultiHeadAttention", &[present], Location::caller(), why));
            }
        }
        Ok(maps)
    }

    /// The maps in a row from one to another of queries, keys and values, as one product.
    #[track_caller]
    fn map(&self, maps: &Maps, which: std::ops::Range<usize>, x: &Tensor) -> Tensor {
        let rows = self.rows();
        let from: usize = rows[..which.start].iter().sum();
        let count: usize = rows[which.clone()].iter().sum();
        let whole = which == (0..3);
        let part = |t: Tensor| if whole { t } else { t.narrow(0, from, count) };
        let weight = match &maps.input {
            Input::Packed(weight) => part(weight.get()),
            Input::Separate(all) => all[which.start].get(),
        };
        let y = operand(x).matmul(&operand(&weight).t());
        kept(&match &maps.bias {
            Some(bias) => y + part(bias.get()),
            None => y,
        })
    }

    /// `[batch, length, heads · width]` with an axis for the heads.
    #[track_caller]
    fn heads_of(&self, t: &Tensor, heads: usize) -> Tensor {
        if t.error().is_some() {
            return t.clone();
        }
        let extents = [t.shape()[0], t.shape()[1], heads, self.head()].map(|d| d as isize);
        t.reshape(&extents)
    }

    #[track_caller]
    fn turned(&self, t: Tensor, start: Start<'_>) -> Tensor {
        match &self.rotary {
            Some(rotary) => rotary.rotate(&t, start),
            None => t,
        }
    }

    /// Queries, keys and values `[batch, length, heads, width]`.
    #[track_caller]
    fn inputs(
        &self,
        maps: &Maps,
        x: &Tensor,
        given: &Attend<'_>,
        start: Start<'_>,
    ) -> Result<[Tensor; 3], Tensor> {
        let (heads, own) = (self.heads, self.kv_heads);
        let packed = matches!(maps.input, Input::Packed(_));
        let all = match (given.memory, given.values) {
            (None, None) if packed => {
                let all = self.heads_of(&self.map(maps, 0..3, x), heads + 2 * own);
                if all.error().is_some() {
                    return Err(all);
                }
                // Queries and keys stand side by side: one expression turns both.
                let turned = self.turned(all.narrow(2, 0, heads + own), start);
                if turned.error().is_some() {
                    return Err(turned);
                }
                [turned.narrow(2, 0, heads), turned.narrow(2, heads, own), all.narrow(2, heads + own, own)]
            }
            (memory, values) => {
                let memory = memory.unwrap_or(x);
                let q = self.turned(self.heads_of(&self.map(maps, 0..1, x), heads), start);
                let [k, v] = match values {
                    None if packed => {
                        let both = self.heads_of(&self.map(maps, 1..3, memory), 2 * own);
                        if both.error().is_some() {
                            return Err(both);
                        }
                        [both.narrow(2, 0, own), both.narrow(2, own, own)]
                    }
                    _ => {
                        let values = values.unwrap_or(memory);
                        let [k, v] = [self.map(maps, 1..2, memory), self.map(maps, 2..3, values)];
                        [self.heads_of(&k, own), self.heads_of(&v, own)]
                    }
                };
                // A memory has positions of its own, from zero on.
                let start = if given.memory.is_some() { Start::Fixed(0) } else { start };
                [q, self.turned(k, start), v]
            }
        };
        match all.iter().find(|t| t.error().is_some()) {
            Some(failed) => Err(failed.clone()),
            None => Ok(all),
        }
    }

    /// Attention of operands `[batch, length, heads, width]`, and the last map. `counts` says in bool which keys count.
    #[track_caller]
    fn attend(
        &self,
        maps: &Maps,
        [q, k, v]: [&Tensor; 3],
        counts: Option<Tensor>,
        given: &Attend<'_>,
        is_causal: bool,
        mode: Mode,
    ) -> Tensor {
        let mask = match (counts, given.mask) {
            (None, mask) => mask.cloned(),
            (counts, None) => counts,
            (Some(counts), Some(mask)) if mask.dtype() == DType::Bool => Some(counts.and(mask)),
            (Some(counts), Some(mask)) => {
                Some(counts.select(mask, &Tensor::constant(q.device(), f32::NEG_INFINITY)))
            }
        };
        let dropout = match (&self.dropout, mode) {
            (Some((p, random)), Mode::Train) => Some((*p, random.next_key())),
            _ => None,
        };
        let (attn_mask, kept_in) = (mask.as_ref(), policy());
        let options = Attention { is_causal, attn_mask, dropout, kept: kept_in, ..Attention::default() };
        let [q, k, v] = [q, k, v].map(|t| t.transpose(1, 2));
        let y = q.attention(&k, &v, &options);
        if y.error().is_some() {
            return y;
        }
        let shape = [y.shape()[0], y.shape()[2], self.width].map(|d| d as isize);
        let y = y.transpose(1, 2).reshape(&shape).matmul(&operand(&maps.out.get()).t());
        kept(&match &maps.out_bias {
            Some(bias) => y + bias.get(),
            None => y,
        })
    }
}

/// Which keys are there, `[batch, 1, 1, keys]` of bool.
#[track_caller]
fn keys_there(present: &Tensor) -> Tensor {
    let present = match present.dtype() {
        DType::F32 => present.ne(&Tensor::constant(present.device(), 0.0f32)),
        _ => present.clone(),
    };
    present.unsqueeze(1).unsqueeze(1)
}

impl Module for MultiHeadAttention {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.run(x, &Attend::default(), mode)
    }
}
