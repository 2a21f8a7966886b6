//! The nets of the workloads, with the shapes that `benches/peers` gives the same nets elsewhere.

use versant::graph::Attention;
use versant::nn::Init;
use versant::nn::mixed::{kept, policy};
use versant::prelude::*;

/// W1: 784-512-512-10.
pub fn mlp(scope: &Scope) -> impl Module + 'static {
    (
        Linear::new(&(scope / "a"), 784, 512),
        Relu,
        Linear::new(&(scope / "b"), 512, 512),
        Relu,
        Linear::new(&(scope / "c"), 512, 10),
    )
}

/// W2: two convolutions with pooling, two dense layers.
pub fn cnn(scope: &Scope) -> impl Module + 'static {
    (
        Conv2d::new(&(scope / "c1"), 1, 32, 5).pad(2),
        Relu,
        MaxPool2d::new(2),
        Conv2d::new(&(scope / "c2"), 32, 64, 5).pad(2),
        Relu,
        MaxPool2d::new(2),
        Flatten::new(),
        Linear::new(&(scope / "f1"), 64 * 7 * 7, 128),
        Relu,
        Linear::new(&(scope / "f2"), 128, 10),
    )
}

/// A convolution without bias, and the normalisation that follows it.
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl ConvNorm {
    fn new(scope: &Scope, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> ConvNorm {
        let conv = Conv2d::new(&(scope / "conv"), inputs, outputs, kernel);
        let conv = conv.stride(stride).pad(kernel / 2).no_bias();
        ConvNorm { conv, norm: BatchNorm2d::new(&(scope / "norm"), outputs) }
    }
}

impl Module for ConvNorm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.norm.forward(&self.conv.forward(x, mode), mode)
    }
}

/// A basic block (He et al., CVPR 2016); the short cut is a convolution where the shape changes.
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    short: Option<ConvNorm>,
}

impl Block {
    fn new(scope: &Scope, inputs: usize, outputs: usize, stride: usize) -> Block {
        let changes = stride != 1 || inputs != outputs;
        Block {
            first: ConvNorm::new(&(scope / "first"), inputs, outputs, 3, stride),
            second: ConvNorm::new(&(scope / "second"), outputs, outputs, 3, 1),
            short: changes.then(|| ConvNorm::new(&(scope / "short"), inputs, outputs, 1, stride)),
        }
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.first.forward(x, mode).relu();
        let y = self.second.forward(&y, mode);
        let short = self.short.as_ref().map_or_else(|| x.clone(), |s| s.forward(x, mode));
        kept(&(y + short).relu())
    }
}

/// W3: a stem and three stages of two basic blocks, then the global average.
pub struct Residual {
    stem: ConvNorm,
    blocks: Vec<Block>,
    head: Linear,
}

impl Residual {
    /// 32, 64 and 128 channels.
    pub fn new(scope: &Scope) -> Residual {
        let mut blocks = Vec::new();
        let mut inputs = 32;
        for (stage, outputs) in [32, 64, 128].into_iter().enumerate() {
            let stride = if stage == 0 { 1 } else { 2 };
            let stage = &(scope / &*format!("stage{stage}"));
            blocks.push(Block::new(&(stage / "0"), inputs, outputs, stride));
            blocks.push(Block::new(&(stage / "1"), outputs, outputs, 1));
            inputs = outputs;
        }
        let stem = ConvNorm::new(&(scope / "stem"), 3, 32, 3, 1);
        Residual { stem, blocks, head: Linear::new(&(scope / "head"), 128, 10) }
    }
}

impl Module for Residual {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let stem = kept(&self.stem.forward(x, mode).relu());
        let y = self.blocks.iter().fold(stem, |y, block| block.forward(&y, mode));
        self.head.forward(&y.mean(&[2, 3], false), mode)
    }
}

/// The vocabulary of W4 and W5.
pub const VOCABULARY: usize = 64;

/// W4: characters through one LSTM layer; a prediction after every one.
pub struct CharLstm {
    embedding: Embedding,
    lstm: Lstm,
    head: Linear,
}

/// Hidden elements of W4.
const HIDDEN: usize = 128;

impl CharLstm {
    /// Embedding 64, hidden 128.
    pub fn new(scope: &Scope) -> CharLstm {
        CharLstm {
            embedding: Embedding::new(&(scope / "embedding"), VOCABULARY, 64),
            lstm: Lstm::new(&(scope / "lstm"), 64, HIDDEN),
            head: Linear::new(&(scope / "head"), HIDDEN, VOCABULARY),
        }
    }
}

impl Module for CharLstm {
    /// Indices `[steps, batch]` give logits `[steps * batch, VOCABULARY]`.
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.lstm.forward(&self.embedding.forward(x, mode), mode);
        self.head.forward(&y.reshape(&[-1, HIDDEN as isize]), mode)
    }
}

/// Rows attend to themselves and to what is before them: queries, keys and values `[N, heads, L, D]`.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    q.attention(k, v, &Attention { is_causal: true, kept: policy(), ..Attention::default() })
}

struct GptBlock {
    norm1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

/// Elements of a position, attention heads and positions of W5.
const WIDTH: usize = 128;
const HEADS: usize = 4;
const POSITIONS: usize = 128;

impl GptBlock {
    fn new(scope: &Scope) -> GptBlock {
        GptBlock {
            norm1: LayerNorm::new(&(scope / "norm1"), &[WIDTH]),
            qkv: Linear::new(&(scope / "qkv"), WIDTH, 3 * WIDTH),
            projection: Linear::new(&(scope / "projection"), WIDTH, WIDTH),
            norm2: LayerNorm::new(&(scope / "norm2"), &[WIDTH]),
            up: Linear::new(&(scope / "up"), WIDTH, 4 * WIDTH),
            down: Linear::new(&(scope / "down"), 4 * WIDTH, WIDTH),
        }
    }
}

impl Module for GptBlock {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let (batch, length) = (x.shape()[0], x.shape()[1]);
        let qkv = self.qkv.forward(&self.norm1.forward(x, mode), mode);
        let split = |i: usize| {
            let extents = [batch, length, HEADS, WIDTH / HEADS].map(|d| d as isize);
            qkv.narrow(2, i * WIDTH, WIDTH).reshape(&extents).transpose(1, 2)
        };
        let attended = causal_attention(&split(0), &split(1), &split(2));
        let joined = attended.transpose(1, 2).reshape(&[batch as isize, length as isize, WIDTH as isize]);
        let x = x + self.projection.forward(&joined, mode);
        let up = self.up.forward(&self.norm2.forward(&x, mode), mode).gelu();
        &x + self.down.forward(&up, mode)
    }
}

/// W5: a transformer over characters with four blocks.
pub struct Gpt {
    tokens: Embedding,
    positions: Param,
    blocks: Vec<GptBlock>,
    norm: LayerNorm,
    head: Linear,
}

impl Gpt {
    /// Width 128, four layers of four heads, 128 positions.
    pub fn new(scope: &Scope) -> Gpt {
        let small = Init::Normal { mean: 0.0, std: 0.02 };
        Gpt {
            tokens: Embedding::new(&(scope / "tokens"), VOCABULARY, WIDTH),
            positions: scope.parameter("positions", &[POSITIONS, WIDTH], small),
            blocks: (0..4).map(|i| GptBlock::new(&(scope / &*format!("block{i}")))).collect(),
            norm: LayerNorm::new(&(scope / "norm"), &[WIDTH]),
            head: Linear::new(&(scope / "head"), WIDTH, VOCABULARY).no_bias(),
        }
    }
}

impl Module for Gpt {
    /// Indices `[batch, POSITIONS]` give logits `[batch * POSITIONS, VOCABULARY]`.
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let start = self.tokens.forward(x, mode) + self.positions.get();
        let y = self.blocks.iter().fold(start, |y, block| block.forward(&y, mode));
        self.head.forward(&self.norm.forward(&y, mode), mode).reshape(&[-1, VOCABULARY as isize])
    }
}
