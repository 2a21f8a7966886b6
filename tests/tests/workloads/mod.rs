//! The training steps that the speed figures are about, at their full extents.

use versant_graph::{Device, Tensor};
use versant_nn::layers::{BatchNorm2d, Conv2d, Embedding, Flatten, Gelu, LayerNorm, Linear, MaxPool2d, Relu};
use versant_nn::{Adam, AdamW, Init, Losses, Mode, Module, Optimizer, Param, Params, Scope, Seed, Sgd};

/// A net with its optimiser and a batch.
pub struct Workload {
    net: Box<dyn Module>,
    optimizer: Box<dyn Optimizer>,
    batch: (Tensor, Tensor),
}

impl Workload {
    fn new(
        params: &Params,
        net: impl Module + 'static,
        optimizer: impl Optimizer + 'static,
        x: Tensor,
        classes: usize,
    ) -> Workload {
        let y = tokens(params.device(), &[x.shape()[0]], classes);
        Workload { net: Box::new(net), optimizer: Box::new(optimizer), batch: (x, y) }
    }

    /// Forward pass, loss, backward pass and update.
    pub fn step(&mut self) -> Tensor {
        let logits = self.net.forward(&self.batch.0, Mode::Train);
        let loss = logits.cross_entropy(&self.batch.1);
        drop(logits);
        let grads = loss.backward().expect("every parameter is reached");
        self.optimizer.step(grads).expect("a step");
        loss
    }
}

fn pixels(dev: &Device, shape: &[usize]) -> Tensor {
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|i: usize| (i * 37 % 101) as f32 / 101.0).collect();
    Tensor::from_slice(dev, &values, shape)
}

fn tokens(dev: &Device, shape: &[usize], count: usize) -> Tensor {
    let values: Vec<i32> = (0..shape.iter().product()).map(|i: usize| (i * 7 % count) as i32).collect();
    Tensor::from_slice(dev, &values, shape)
}

/// W1: a multi-layer perceptron.
pub fn mlp(dev: &Device) -> Workload {
    let vs = Params::new(dev, Seed(1));
    let net = (
        Linear::new(&(&vs / "fc1"), 784, 512),
        Relu,
        Linear::new(&(&vs / "fc2"), 512, 512),
        Relu,
        Linear::new(&(&vs / "fc3"), 512, 10),
    );
    let adam = Adam::new(&vs, 1e-3);
    Workload::new(&vs, net, adam, pixels(dev, &[128, 784]), 10)
}

/// W2: a small convolutional net.
pub fn cnn(dev: &Device) -> Workload {
    let vs = Params::new(dev, Seed(1));
    let net = (
        Conv2d::new(&(&vs / "conv1"), 1, 32, 5).pad(2),
        Relu,
        MaxPool2d::new(2),
        Conv2d::new(&(&vs / "conv2"), 32, 64, 5).pad(2),
        Relu,
        MaxPool2d::new(2),
        Flatten::new(),
        Linear::new(&(&vs / "fc1"), 64 * 7 * 7, 128),
        Relu,
        Linear::new(&(&vs / "fc2"), 128, 10),
    );
    let sgd = Sgd::new(&vs, 1e-2).momentum(0.9);
    Workload::new(&vs, net, sgd, pixels(dev, &[64, 1, 28, 28]), 10)
}

struct Basic {
    main: (Conv2d, BatchNorm2d, Relu, Conv2d, BatchNorm2d),
    short: Option<(Conv2d, BatchNorm2d)>,
}

impl Basic {
    fn new(vs: &Scope, from: usize, to: usize, stride: usize) -> Basic {
        Basic {
            main: (
                Conv2d::new(&(vs / "conv1"), from, to, 3).pad(1).stride(stride).no_bias(),
                BatchNorm2d::new(&(vs / "bn1"), to),
                Relu,
                Conv2d::new(&(vs / "conv2"), to, to, 3).pad(1).no_bias(),
                BatchNorm2d::new(&(vs / "bn2"), to),
            ),
            short: (stride > 1 || from != to).then(|| {
                let conv = Conv2d::new(&(vs / "conv3"), from, to, 1).stride(stride).no_bias();
                (conv, BatchNorm2d::new(&(vs / "bn3"), to))
            }),
        }
    }
}

impl Module for Basic {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let short = self.short.as_ref().map_or_else(|| x.clone(), |s| s.forward(x, mode));
        (self.main.forward(x, mode) + short).relu()
    }
}

struct Residual {
    stem: (Conv2d, BatchNorm2d, Relu),
    blocks: Vec<Basic>,
    fc: Linear,
}

impl Module for Residual {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let h = self.blocks.iter().fold(self.stem.forward(x, mode), |h, b| b.forward(&h, mode));
        self.fc.forward(&h.mean(&[-2, -1], false), mode)
    }
}

/// W3: a residual net; a basic block is two convolutions with batch normalisation.
pub fn resnet(dev: &Device) -> Workload {
    let vs = Params::new(dev, Seed(1));
    let root = vs.root();
    let stem =
        (Conv2d::new(&(&vs / "stem"), 3, 32, 3).pad(1).no_bias(), BatchNorm2d::new(&(&vs / "bn"), 32), Relu);
    let mut blocks = Vec::new();
    let mut from = 32;
    for (stage, to) in [32, 64, 128].into_iter().enumerate() {
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            blocks.push(Basic::new(&(&root / format!("b{stage}{block}")), from, to, stride));
            from = to;
        }
    }
    let net = Residual { stem, blocks, fc: Linear::new(&(&vs / "fc"), 128, 10) };
    let sgd = Sgd::new(&vs, 1e-2).momentum(0.9);
    Workload::new(&vs, net, sgd, pixels(dev, &[32, 3, 32, 32]), 10)
}

struct Attention {
    heads: usize,
    qkv: Linear,
    out: Linear,
}

impl Module for Attention {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let (n, t, width) = (x.shape()[0], x.shape()[1], x.shape()[2]);
        let each = (width / self.heads) as isize;
        let qkv = self.qkv.forward(x, mode);
        let split = |k: usize| {
            let part = qkv.narrow(2, k * width, width);
            part.reshape(&[n as isize, t as isize, self.heads as isize, each]).permute(&[0, 2, 1, 3])
        };
        let causal = versant_graph::Attention { is_causal: true, ..Default::default() };
        let y = split(0).attention(&split(1), &split(2), &causal).permute(&[0, 2, 1, 3]);
        self.out.forward(&y.reshape(&[n as isize, t as isize, width as isize]), mode)
    }
}

/// A transformer's layer: attention and feed-forward net, each behind its normalisation.
type Layer = (LayerNorm, Attention, LayerNorm, (Linear, Gelu, Linear));

struct Transformer {
    words: Embedding,
    places: Param,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
}

impl Module for Transformer {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut h = self.words.forward(x, mode) + self.places.get();
        for (norm1, attention, norm2, feed) in &self.layers {
            h = &h + attention.forward(&norm1.forward(&h, mode), mode);
            h = &h + feed.forward(&norm2.forward(&h, mode), mode);
        }
        let y = self.head.forward(&self.norm.forward(&h, mode), mode);
        let count = y.shape()[2] as isize;
        y.reshape(&[-1, count])
    }
}

/// W5: a small GPT.
pub fn gpt(dev: &Device) -> Workload {
    let (vocabulary, width, layers, heads, length, batch) = (64, 128, 4, 4, 128, 16);
    let vs = Params::new(dev, Seed(1));
    let root = vs.root();
    let layer = |i: usize| {
        let vs = &root / format!("layer{i}");
        let attention = Attention {
            heads,
            qkv: Linear::new(&(&vs / "qkv"), width, 3 * width),
            out: Linear::new(&(&vs / "out"), width, width),
        };
        let feed = (
            Linear::new(&(&vs / "up"), width, 4 * width),
            Gelu,
            Linear::new(&(&vs / "down"), 4 * width, width),
        );
        let norm = |name: &str| LayerNorm::new(&(&vs / name), &[width]);
        (norm("norm1"), attention, norm("norm2"), feed)
    };
    let net = Transformer {
        words: Embedding::new(&(&vs / "words"), vocabulary, width),
        places: root.parameter("places", &[length, width], Init::Normal { mean: 0.0, std: 0.02 }),
        layers: (0..layers).map(layer).collect(),
        norm: LayerNorm::new(&(&vs / "norm"), &[width]),
        head: Linear::new(&(&vs / "head"), width, vocabulary),
    };
    let adam = AdamW::new(&vs, 1e-3);
    let x = tokens(dev, &[batch, length], vocabulary);
    let y = tokens(dev, &[batch * length], vocabulary);
    Workload { net: Box::new(net), optimizer: Box::new(adam), batch: (x, y) }
}

struct Lstm {
    words: Embedding,
    input: Linear,
    hidden: Linear,
    head: Linear,
    width: usize,
}

impl Module for Lstm {
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let (n, t) = (x.shape()[0], x.shape()[1]);
        let w = self.width;
        let given = self.input.forward(&self.words.forward(x, mode), mode);
        let mut h = Tensor::zeros(x.device(), &[n, w]);
        let mut c = Tensor::zeros(x.device(), &[n, w]);
        let mut all = Vec::new();
        for at in 0..t {
            let gates = given.narrow(1, at, 1).squeeze(1) + self.hidden.forward(&h, mode);
            let gate = |k: usize| gates.narrow(1, k * w, w);
            c = gate(1).sigmoid() * &c + gate(0).sigmoid() * gate(2).tanh();
            h = gate(3).sigmoid() * c.tanh();
            all.push(h.unsqueeze(1));
        }
        let all = Tensor::cat(&all.iter().collect::<Vec<_>>(), 1);
        let y = self.head.forward(&all, mode);
        let count = y.shape()[2] as isize;
        y.reshape(&[-1, count])
    }
}

/// W4: a character model with an unrolled LSTM.
pub fn lstm(dev: &Device) -> Workload {
    let (vocabulary, embedding, width, length, batch) = (64, 64, 128, 64, 32);
    let vs = Params::new(dev, Seed(1));
    let net = Lstm {
        words: Embedding::new(&(&vs / "words"), vocabulary, embedding),
        input: Linear::new(&(&vs / "input"), embedding, 4 * width),
        hidden: Linear::new(&(&vs / "hidden"), width, 4 * width).no_bias(),
        head: Linear::new(&(&vs / "head"), width, vocabulary),
        width,
    };
    let adam = Adam::new(&vs, 1e-3);
    let x = tokens(dev, &[batch, length], vocabulary);
    let y = tokens(dev, &[batch * length], vocabulary);
    Workload { net: Box::new(net), optimizer: Box::new(adam), batch: (x, y) }
}
