//! The workloads and kernels by burn: `peer-burn BACKEND WORKLOAD`
//!   BACKEND: flex  pure-Rust CPU backend (rayon, SIMD, AVX-512 matmul kernels)
//!            wgpu  CubeCL on wgpu, fusion and autotune as burn ships them
//!            cpu   CubeCL CPU (only when built with the `cubecpu` feature)

#[path = "../../bench.rs"]
mod bench;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
    Lstm, LstmConfig, PaddingConfig2d,
};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::activation::{gelu, relu, softmax};
use burn::tensor::ops::{AttentionModuleOptions, ConvOptions};
use burn::tensor::{Device, Distribution, Int, Tensor};

// ---------------------------------------------------------------- models

#[derive(Module, Debug)]
struct Mlp {
    a: Linear,
    b: Linear,
    c: Linear,
}

impl Mlp {
    fn new(d: &Device) -> Self {
        Self {
            a: LinearConfig::new(784, 512).init(d),
            b: LinearConfig::new(512, 512).init(d),
            c: LinearConfig::new(512, 10).init(d),
        }
    }
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.c.forward(relu(self.b.forward(relu(self.a.forward(x)))))
    }
}

fn conv(cin: usize, cout: usize, k: usize, s: usize, p: usize, bias: bool, d: &Device) -> Conv2d {
    Conv2dConfig::new([cin, cout], [k, k])
        .with_stride([s, s])
        .with_padding(PaddingConfig2d::Explicit(p, p, p, p))
        .with_bias(bias)
        .init(d)
}

#[derive(Module, Debug)]
struct LeNet {
    c1: Conv2d,
    c2: Conv2d,
    pool: MaxPool2d,
    f1: Linear,
    f2: Linear,
}

impl LeNet {
    fn new(d: &Device) -> Self {
        Self {
            c1: conv(1, 32, 5, 1, 2, true, d),
            c2: conv(32, 64, 5, 1, 2, true, d),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            f1: LinearConfig::new(64 * 7 * 7, 128).init(d),
            f2: LinearConfig::new(128, 10).init(d),
        }
    }
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.pool.forward(relu(self.c1.forward(x)));
        let x = self.pool.forward(relu(self.c2.forward(x)));
        let [b, c, h, w] = x.dims();
        self.f2.forward(relu(self.f1.forward(x.reshape([b, c * h * w]))))
    }
}

#[derive(Module, Debug)]
struct Short {
    c: Conv2d,
    n: BatchNorm,
}

#[derive(Module, Debug)]
struct Block {
    c1: Conv2d,
    n1: BatchNorm,
    c2: Conv2d,
    n2: BatchNorm,
    short: Option<Short>,
}

impl Block {
    fn new(cin: usize, cout: usize, stride: usize, d: &Device) -> Self {
        let bn = || BatchNormConfig::new(cout).init(d);
        Self {
            c1: conv(cin, cout, 3, stride, 1, false, d),
            n1: bn(),
            c2: conv(cout, cout, 3, 1, 1, false, d),
            n2: bn(),
            short: (stride != 1 || cin != cout)
                .then(|| Short { c: conv(cin, cout, 1, stride, 0, false, d), n: bn() }),
        }
    }
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = relu(self.n1.forward(self.c1.forward(x.clone())));
        let y = self.n2.forward(self.c2.forward(y));
        let s = match &self.short {
            Some(s) => s.n.forward(s.c.forward(x)),
            None => x,
        };
        relu(y + s)
    }
}

#[derive(Module, Debug)]
struct ResNet {
    stem: Conv2d,
    norm: BatchNorm,
    blocks: Vec<Block>,
    fc: Linear,
}

impl ResNet {
    fn new(d: &Device) -> Self {
        let mut blocks = Vec::new();
        let mut cin = 32;
        for (i, c) in [32, 64, 128].into_iter().enumerate() {
            blocks.push(Block::new(cin, c, if i == 0 { 1 } else { 2 }, d));
            blocks.push(Block::new(c, c, 1, d));
            cin = c;
        }
        Self {
            stem: conv(3, 32, 3, 1, 1, false, d),
            norm: BatchNormConfig::new(32).init(d),
            blocks,
            fc: LinearConfig::new(128, 10).init(d),
        }
    }
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let mut x = relu(self.norm.forward(self.stem.forward(x)));
        for b in &self.blocks {
            x = b.forward(x);
        }
        let [b, c, h, w] = x.dims();
        let x: Tensor<3> = x.reshape([b, c, h * w]);
        self.fc.forward(x.mean_dim(2).reshape([b, c]))
    }
}

#[derive(Module, Debug)]
struct CharLstm {
    emb: Embedding,
    rnn: Lstm,
    out: Linear,
}

impl CharLstm {
    fn new(d: &Device) -> Self {
        Self {
            emb: EmbeddingConfig::new(64, 64).init(d),
            rnn: LstmConfig::new(64, 128, true).init(d),
            out: LinearConfig::new(128, 64).init(d),
        }
    }
    fn forward(&self, x: Tensor<2, Int>) -> Tensor<2> {
        let (y, _) = self.rnn.forward(self.emb.forward(x), None);
        let [b, s, h] = y.dims();
        self.out.forward(y.reshape([b * s, h]))
    }
}

#[derive(Module, Debug)]
struct GptBlock {
    n1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    n2: LayerNorm,
    up: Linear,
    down: Linear,
}

impl GptBlock {
    fn new(d: usize, dev: &Device) -> Self {
        Self {
            n1: LayerNormConfig::new(d).init(dev),
            qkv: LinearConfig::new(d, 3 * d).init(dev),
            proj: LinearConfig::new(d, d).init(dev),
            n2: LayerNormConfig::new(d).init(dev),
            up: LinearConfig::new(d, 4 * d).init(dev),
            down: LinearConfig::new(4 * d, d).init(dev),
        }
    }
    fn forward(&self, x: Tensor<3>, heads: usize) -> Tensor<3> {
        let [b, s, d] = x.dims();
        let split = |t: Tensor<3>| t.reshape([b, s, heads, d / heads]).swap_dims(1, 2);
        let qkv = self.qkv.forward(self.n1.forward(x.clone()));
        let mut parts = qkv.chunk(3, 2).into_iter().map(split);
        let mut part = || parts.next().expect("chunk makes three parts");
        let (q, k, v) = (part(), part(), part());
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let a = burn::tensor::module::attention(q, k, v, None, None, options);
        let a: Tensor<3> = a.swap_dims(1, 2).reshape([b, s, d]);
        let x = x + self.proj.forward(a);
        let y = self.down.forward(gelu(self.up.forward(self.n2.forward(x.clone()))));
        x + y
    }
}

#[derive(Module, Debug)]
struct Gpt {
    tok: Embedding,
    pos: Param<Tensor<3>>,
    blocks: Vec<GptBlock>,
    norm: LayerNorm,
    head: Linear,
}

impl Gpt {
    fn new(dev: &Device) -> Self {
        let (vocab, d, layers, seq) = (64, 128, 4, 128);
        let pos = Tensor::random([1, seq, d], Distribution::Normal(0.0, 0.02), dev);
        Self {
            tok: EmbeddingConfig::new(vocab, d).init(dev),
            pos: Param::from_tensor(pos),
            blocks: (0..layers).map(|_| GptBlock::new(d, dev)).collect(),
            norm: LayerNormConfig::new(d).init(dev),
            head: LinearConfig::new(d, vocab).with_bias(false).init(dev),
        }
    }
    fn forward(&self, x: Tensor<2, Int>) -> Tensor<2> {
        let mut x = self.tok.forward(x) + self.pos.val();
        for b in &self.blocks {
            x = b.forward(x, 4);
        }
        let [b, s, d] = x.dims();
        self.head.forward(self.norm.forward(x).reshape([b * s, d]))
    }
}

// ---------------------------------------------------------------- steps

type Step = Box<dyn FnMut() -> Option<f32>>;

fn normal<const D: usize>(shape: [usize; D], d: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), d)
}

fn labels<const D: usize>(shape: [usize; D], classes: usize, d: &Device) -> Tensor<D, Int> {
    Tensor::random(shape, Distribution::Uniform(0.0, classes as f64), d)
}

/// One training step: forward, loss, backward, update, loss read to the host.
fn train<M: Module + 'static>(
    model: M,
    mut optim: ModuleOptimizer,
    lr: f64,
    y: Tensor<1, Int>,
    forward: impl Fn(&M) -> Tensor<2> + 'static,
) -> Step {
    let loss_fn = CrossEntropyLossConfig::new().init(&y.device());
    let mut model = Some(model);
    Box::new(move || {
        let m = model.take().expect("every step puts the model back");
        let loss = loss_fn.forward(forward(&m), y.clone());
        let grads = GradientsParams::from_grads(loss.backward(), &m);
        let m = optim.step(lr, m, grads);
        model = Some(m);
        Some(loss.into_scalar::<f32>())
    })
}

fn training(workload: &str, base: Device) -> Step {
    base.seed(0);
    let d = base.autodiff();
    let adam = || AdamConfig::new().with_epsilon(1e-8).init();
    let adamw = || AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init();
    let sgd = || {
        let m = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
        SgdConfig::new().with_momentum(Some(m)).init()
    };
    match workload {
        "W1" => {
            let x = normal([128, 784], &d);
            train(Mlp::new(&d), adam(), 1e-3, labels([128], 10, &d), move |m| m.forward(x.clone()))
        }
        "W2" => {
            let x = normal([64, 1, 28, 28], &d);
            train(LeNet::new(&d), sgd(), 0.01, labels([64], 10, &d), move |m| m.forward(x.clone()))
        }
        "W3" => {
            let x = normal([32, 3, 32, 32], &d);
            train(ResNet::new(&d), sgd(), 0.01, labels([32], 10, &d), move |m| m.forward(x.clone()))
        }
        "W4" => {
            let x = labels([32, 64], 64, &d);
            let y = labels([32 * 64], 64, &d);
            train(CharLstm::new(&d), adam(), 1e-3, y, move |m| m.forward(x.clone()))
        }
        _ => {
            let x = labels([16, 128], 64, &d);
            let y = labels([16 * 128], 64, &d);
            train(Gpt::new(&d), adamw(), 3e-4, y, move |m| m.forward(x.clone()))
        }
    }
}

/// One kernel run and a device sync; the result stays on the device.
fn kernel(workload: &str, d: Device) -> Step {
    d.seed(0);
    fn once<const D: usize>(d: Device, f: impl Fn() -> Tensor<D> + 'static) -> Step {
        d.sync().expect("the device works");
        Box::new(move || {
            let y = f();
            d.sync().expect("the device works");
            drop(y);
            None
        })
    }
    match workload {
        "K2" => {
            let x = normal([4, 64, 56, 56], &d);
            let w = normal([64, 64, 3, 3], &d);
            once(d, move || {
                let o = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
                burn::tensor::module::conv2d(x.clone(), w.clone(), None, o)
            })
        }
        "K3" => {
            let x = normal([bench::N_ELEM], &d);
            once(d, move || gelu(x.clone() * 1.5 + 0.25) + x.clone())
        }
        "K4" => {
            let x = normal([4096, 1024], &d);
            once(d, move || softmax(x.clone(), 1))
        }
        "K5" => {
            let x = normal([bench::N_ELEM], &d);
            once(d, move || x.clone().sum())
        }
        _ => {
            let n = bench::extent(workload);
            let (a, b) = (normal([n, n], &d), normal([n, n], &d));
            once(d, move || a.clone().matmul(b.clone()))
        }
    }
}

fn open(backend: &str) -> Device {
    match backend {
        "flex" => Device::flex(),
        "wgpu" => Device::wgpu(Default::default()),
        #[cfg(feature = "cubecpu")]
        "cpu" => Device::cpu(),
        other => panic!("backend {other} is not built in"),
    }
}

fn main() {
    let [backend, workload] = bench::arguments("peer-burn flex|wgpu|cpu WORKLOAD");
    let label = match backend.as_str() {
        "flex" if cfg!(feature = "avx512") => "flex-avx512",
        "wgpu" if cfg!(feature = "spirv") => "wgpu-spirv",
        "wgpu" => "wgpu-wgsl",
        other => other,
    };
    let (w, name) = (workload.clone(), backend.clone());
    bench::run("burn", "0.22.1", label, &workload, "", move || {
        let d = open(&name);
        if w.starts_with('W') { training(&w, d) } else { kernel(&w, d) }
    });
}
