//! What the layers of a transformer are like.

use versant_graph::Tensor;

use super::{Attend, LayerNorm, Linear, Mode, Module, MultiHeadAttention, RmsNorm, Rotary};
use crate::Scope;

/// What stands between the two maps of a transformer's feed-forward net.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FeedForward {
    /// `max(h, 0)`, PyTorch's default.
    Relu,
    /// [`Gelu`](super::Gelu).
    Gelu,
    /// [`GeluTanh`](super::GeluTanh).
    GeluTanh,
    /// `silu(g) · u` of the two halves of what the first map gives, which has twice the rows: first those of `g` (Shazeer,
    /// "GLU variants improve transformer", 2020). Both halves come from one product.
    SwiGlu,
}

/// What the layers of a transformer are: widths, heads, norms. The builders' defaults are those of
/// `torch.nn.TransformerEncoderLayer`, but for a hidden width of four times the width and no dropout.
///
/// ```
/// use versant_nn::layers::{FeedForward, TransformerConfig};
/// // GPT-2's kind of layer; and Llama's.
/// let gpt = TransformerConfig::new(128, 4).feed_forward(FeedForward::Gelu).norm_first().causal();
/// let llama = TransformerConfig::new(128, 4)
///     .kv_heads(2)
///     .feed_forward(FeedForward::SwiGlu)
///     .hidden(344)
///     .norm_first()
///     .rms_norm()
///     .no_bias()
///     .causal();
/// ```
#[derive(Clone, Debug)]
pub struct TransformerConfig {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) hidden: usize,
    pub(super) feed_forward: FeedForward,
    pub(super) norm_first: bool,
    rms_norm: bool,
    eps: Option<f32>,
    has_bias: bool,
    pub(super) dropout: f32,
    attention_dropout: f32,
    is_causal: bool,
    rotary: Option<Rotary>,
}

impl TransformerConfig {
    /// Rows of `width` elements and so many heads.
    pub fn new(width: usize, heads: usize) -> TransformerConfig {
        TransformerConfig {
            width,
            heads,
            kv_heads: heads,
            hidden: width.saturating_mul(4),
            feed_forward: FeedForward::Relu,
            norm_first: false,
            rms_norm: false,
            eps: None,
            has_bias: true,
            dropout: 0.0,
            attention_dropout: 0.0,
            is_causal: false,
            rotary: None,
        }
    }

    /// So many heads of keys and values, each for several of queries; see [`MultiHeadAttention::kv_heads`].
    #[must_use]
    pub fn kv_heads(mut self, kv_heads: usize) -> TransformerConfig {
        self.kv_heads = kv_heads;
        self
    }

    /// Elements inside the feed-forward net: PyTorch's `dim_feedforward`.
    #[must_use]
    pub fn hidden(mut self, hidden: usize) -> TransformerConfig {
        self.hidden = hidden;
        self
    }

    /// What stands inside the feed-forward net.
    #[must_use]
    pub fn feed_forward(mut self, feed_forward: FeedForward) -> TransformerConfig {
        self.feed_forward = feed_forward;
        self
    }

    /// Normalises what goes into attention and the feed-forward net, instead of the sums that follow them (Xiong et al.,
    /// ICML 2020).
    #[must_use]
    pub fn norm_first(mut self) -> TransformerConfig {
        self.norm_first = true;
        self
    }

    /// [`RmsNorm`] in the place of [`LayerNorm`].
    #[must_use]
    pub fn rms_norm(mut self) -> TransformerConfig {
        self.rms_norm = true;
        self
    }

    /// What norms add to a variance; 1e-5, or [`RmsNorm`]'s.
    #[must_use]
    pub fn eps(mut self, eps: f32) -> TransformerConfig {
        self.eps = Some(eps);
        self
    }

    /// Does without the biases of all maps and norms.
    #[must_use]
    pub fn no_bias(mut self) -> TransformerConfig {
        self.has_bias = false;
        self
    }

    /// Drops with this probability, as PyTorch's layers do: weights of attention, hidden elements, and what is added to a
    /// row.
    #[must_use]
    pub fn dropout(mut self, p: f32) -> TransformerConfig {
        self.dropout = p;
        self.attention_dropout = p;
        self
    }

    /// Another probability for the weights of attention, after [`dropout`](Self::dropout): without it (0) attention stays
    /// one kernel where there is one, and forms no matrix of scores.
    #[must_use]
    pub fn attention_dropout(mut self, p: f32) -> TransformerConfig {
        self.attention_dropout = p;
        self
    }

    /// Self-attention sees no row behind its own position, as in a decoder and in a language model.
    #[must_use]
    pub fn causal(mut self) -> TransformerConfig {
        self.is_causal = true;
        self
    }

    /// Turns queries and keys of self-attention by their positions; heads have `width / heads` elements.
    #[must_use]
    pub fn rotary(mut self, rotary: &Rotary) -> TransformerConfig {
        self.rotary = Some(rotary.clone());
        self
    }

    #[track_caller]
    pub(super) fn attention(&self, scope: &Scope, is_self: bool) -> MultiHeadAttention {
        let mut layer =
            MultiHeadAttention::new(scope, self.width, self.heads).dropout(self.attention_dropout);
        if self.kv_heads != self.heads {
            layer = layer.kv_heads(self.kv_heads);
        }
        if let (Some(rotary), true) = (&self.rotary, is_self) {
            layer = layer.rotary(rotary);
        }
        if self.has_bias { layer } else { layer.no_bias() }
    }

    #[track_caller]
    pub(super) fn norm(&self, scope: &Scope) -> Norm {
        if self.rms_norm {
            let norm = RmsNorm::new(scope, &[self.width]);
            return Norm::Rms(match self.eps {
                Some(eps) => norm.eps(eps),
                None => norm,
            });
        }
        let norm = LayerNorm::new(scope, &[self.width]).eps(self.eps.unwrap_or(1e-5));
        Norm::Layer(if self.has_bias { norm } else { norm.no_bias() })
    }

    #[track_caller]
    pub(super) fn linear(&self, scope: &Scope, inputs: usize, outputs: usize) -> Linear {
        let linear = Linear::new(scope, inputs, outputs);
        if self.has_bias { linear } else { linear.no_bias() }
    }

    /// The options of self-attention.
    pub(super) fn own<'a>(&self, given: &Attend<'a>) -> Attend<'a> {
        Attend { is_causal: given.is_causal || self.is_causal, ..*given }
    }
}

#[derive(Debug)]
pub(super) enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Module for Norm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        match self {
            Norm::Layer(norm) => norm.forward(x, mode),
            Norm::Rms(norm) => norm.forward(x, mode),
        }
    }
}
