//! The workloads and kernels by candle: `peer-candle cpu WORKLOAD`
//!
//! candle-nn has no momentum in its SGD, so the momentum update is written here
//! with tensor operations. Its fused `LayerNorm`/`softmax_last_dim` have no
//! backward, so W5 uses the composed forms, as candle's own training code must.

#[path = "../../bench.rs"]
mod bench;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::rnn::{LSTM, LSTMConfig, RNN};
use candle_nn::{
    AdamW, BatchNorm, Conv2d, Conv2dConfig, Embedding, Linear, Module, ModuleT, Optimizer, ParamsAdamW,
    VarBuilder, VarMap, loss, ops,
};

type Forward = Box<dyn Fn() -> Result<Tensor>>;

// ---------------------------------------------------------------- models

fn mlp(vb: VarBuilder, x: Tensor) -> Result<Forward> {
    let a = candle_nn::linear(784, 512, vb.pp("a"))?;
    let b = candle_nn::linear(512, 512, vb.pp("b"))?;
    let c = candle_nn::linear(512, 10, vb.pp("c"))?;
    Ok(Box::new(move || c.forward(&b.forward(&a.forward(&x)?.relu()?)?.relu()?)))
}

fn conv(i: usize, o: usize, k: usize, s: usize, p: usize, vb: VarBuilder) -> Result<Conv2d> {
    let cfg = Conv2dConfig { stride: s, padding: p, ..Default::default() };
    candle_nn::conv2d_no_bias(i, o, k, cfg, vb)
}

fn lenet(vb: VarBuilder, x: Tensor) -> Result<Forward> {
    let cfg = Conv2dConfig { padding: 2, ..Default::default() };
    let c1 = candle_nn::conv2d(1, 32, 5, cfg, vb.pp("c1"))?;
    let c2 = candle_nn::conv2d(32, 64, 5, cfg, vb.pp("c2"))?;
    let f1 = candle_nn::linear(64 * 7 * 7, 128, vb.pp("f1"))?;
    let f2 = candle_nn::linear(128, 10, vb.pp("f2"))?;
    Ok(Box::new(move || {
        let y = c1.forward(&x)?.relu()?.max_pool2d(2)?;
        let y = c2.forward(&y)?.relu()?.max_pool2d(2)?;
        f2.forward(&f1.forward(&y.flatten_from(1)?)?.relu()?)
    }))
}

struct Block {
    c1: Conv2d,
    n1: BatchNorm,
    c2: Conv2d,
    n2: BatchNorm,
    short: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(i: usize, o: usize, s: usize, vb: VarBuilder) -> Result<Self> {
        let bn = |n: &str| candle_nn::batch_norm(o, 1e-5, vb.pp(n));
        Ok(Self {
            c1: conv(i, o, 3, s, 1, vb.pp("c1"))?,
            n1: bn("n1")?,
            c2: conv(o, o, 3, 1, 1, vb.pp("c2"))?,
            n2: bn("n2")?,
            short: if s != 1 || i != o { Some((conv(i, o, 1, s, 0, vb.pp("sc"))?, bn("sn")?)) } else { None },
        })
    }
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.n1.forward_t(&self.c1.forward(x)?, true)?.relu()?;
        let y = self.n2.forward_t(&self.c2.forward(&y)?, true)?;
        let s = match &self.short {
            Some((c, n)) => n.forward_t(&c.forward(x)?, true)?,
            None => x.clone(),
        };
        (y + s)?.relu()
    }
}

fn resnet(vb: VarBuilder, x: Tensor) -> Result<Forward> {
    let stem = conv(3, 32, 3, 1, 1, vb.pp("stem"))?;
    let norm = candle_nn::batch_norm(32, 1e-5, vb.pp("norm"))?;
    let mut blocks = Vec::new();
    let mut cin = 32;
    for (i, c) in [32, 64, 128].into_iter().enumerate() {
        let stride = if i == 0 { 1 } else { 2 };
        blocks.push(Block::new(cin, c, stride, vb.pp(format!("b{i}.0")))?);
        blocks.push(Block::new(c, c, 1, vb.pp(format!("b{i}.1")))?);
        cin = c;
    }
    let fc = candle_nn::linear(128, 10, vb.pp("fc"))?;
    Ok(Box::new(move || {
        let mut y = norm.forward_t(&stem.forward(&x)?, true)?.relu()?;
        for b in &blocks {
            y = b.forward(&y)?;
        }
        fc.forward(&y.mean((2, 3))?)
    }))
}

fn char_lstm(vb: VarBuilder, x: Tensor) -> Result<Forward> {
    let emb: Embedding = candle_nn::embedding(64, 64, vb.pp("emb"))?;
    let rnn: LSTM = candle_nn::lstm(64, 128, LSTMConfig::default(), vb.pp("rnn"))?;
    let out: Linear = candle_nn::linear(128, 64, vb.pp("out"))?;
    Ok(Box::new(move || {
        let states = rnn.seq(&emb.forward(&x)?)?;
        out.forward(&rnn.states_to_tensor(&states)?.flatten(0, 1)?)
    }))
}

struct GptBlock {
    n1: (Tensor, Tensor),
    qkv: Linear,
    proj: Linear,
    n2: (Tensor, Tensor),
    up: Linear,
    down: Linear,
}

fn norm_params(d: usize, vb: VarBuilder) -> Result<(Tensor, Tensor)> {
    Ok((
        vb.get_with_hints(d, "weight", candle_nn::Init::Const(1.0))?,
        vb.get_with_hints(d, "bias", candle_nn::Init::Const(0.0))?,
    ))
}

fn norm(x: &Tensor, p: &(Tensor, Tensor)) -> Result<Tensor> {
    ops::layer_norm_slow(x, &p.0, &p.1, 1e-5)
}

impl GptBlock {
    fn forward(&self, x: &Tensor, mask: &Tensor, heads: usize) -> Result<Tensor> {
        let (b, s, d) = x.dims3()?;
        let qkv = self.qkv.forward(&norm(x, &self.n1)?)?;
        let head = |i: usize| {
            qkv.narrow(2, i * d, d)?.reshape((b, s, heads, d / heads))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (head(0)?, head(1)?, head(2)?);
        let scale = 1.0 / ((d / heads) as f64).sqrt();
        let att = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?.broadcast_add(mask)?;
        let a = ops::softmax(&att, D::Minus1)?.matmul(&v)?;
        let x = (x + self.proj.forward(&a.transpose(1, 2)?.reshape((b, s, d))?)?)?;
        let y = self.down.forward(&self.up.forward(&norm(&x, &self.n2)?)?.gelu_erf()?)?;
        x + y
    }
}

fn gpt(vb: VarBuilder, ids: Tensor) -> Result<Forward> {
    let (vocab, d, layers, heads, seq) = (64, 128, 4, 4, 128);
    let tok = candle_nn::embedding(vocab, d, vb.pp("tok"))?;
    let pos = vb.get_with_hints((seq, d), "pos", candle_nn::Init::Randn { mean: 0.0, stdev: 0.02 })?;
    let mut blocks = Vec::new();
    for i in 0..layers {
        let vb = vb.pp(format!("b{i}"));
        blocks.push(GptBlock {
            n1: norm_params(d, vb.pp("n1"))?,
            qkv: candle_nn::linear(d, 3 * d, vb.pp("qkv"))?,
            proj: candle_nn::linear(d, d, vb.pp("proj"))?,
            n2: norm_params(d, vb.pp("n2"))?,
            up: candle_nn::linear(d, 4 * d, vb.pp("up"))?,
            down: candle_nn::linear(4 * d, d, vb.pp("down"))?,
        });
    }
    let last = norm_params(d, vb.pp("norm"))?;
    let head = candle_nn::linear_no_bias(d, vocab, vb.pp("head"))?;
    let mask: Vec<f32> =
        (0..seq * seq).map(|i| if i % seq > i / seq { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (seq, seq), ids.device())?;
    Ok(Box::new(move || {
        let mut x = tok.forward(&ids)?.broadcast_add(&pos)?;
        for b in &blocks {
            x = b.forward(&x, &mask, heads)?;
        }
        head.forward(&norm(&x, &last)?.flatten(0, 1)?)
    }))
}

// ---------------------------------------------------------------- steps

enum Opt {
    Adam(AdamW),
    Momentum { vars: Vec<Var>, vel: Vec<Option<Tensor>>, lr: f64 },
}

impl Opt {
    fn step(&mut self, grads: &candle_core::backprop::GradStore) -> Result<()> {
        match self {
            Opt::Adam(o) => o.step(grads),
            Opt::Momentum { vars, vel, lr } => {
                for (var, v) in vars.iter().zip(vel.iter_mut()) {
                    let Some(g) = grads.get(var) else { continue };
                    let next = match v.take() {
                        Some(v) => ((v * 0.9)? + g)?,
                        None => g.clone(),
                    };
                    var.set(&(var.as_tensor() - (&next * *lr)?)?)?;
                    *v = Some(next);
                }
                Ok(())
            }
        }
    }
}

fn ids(shape: &[usize], n: u32, d: &Device) -> Result<Tensor> {
    let count = shape.iter().product::<usize>();
    let mut state = 0x9e37_79b9u32;
    let data: Vec<u32> = (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % n
        })
        .collect();
    Tensor::from_vec(data, shape, d)
}

type Step = Box<dyn FnMut() -> Option<f32>>;

fn training(w: &str) -> Result<Step> {
    let d = Device::Cpu;
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &d);
    let normal = |shape: &[usize]| Tensor::randn(0f32, 1f32, shape, &d);
    let (forward, y) = match w {
        "W1" => (mlp(vb, normal(&[128, 784])?)?, ids(&[128], 10, &d)?),
        "W2" => (lenet(vb, normal(&[64, 1, 28, 28])?)?, ids(&[64], 10, &d)?),
        "W3" => (resnet(vb, normal(&[32, 3, 32, 32])?)?, ids(&[32], 10, &d)?),
        "W4" => (char_lstm(vb, ids(&[32, 64], 64, &d)?)?, ids(&[32 * 64], 64, &d)?),
        _ => (gpt(vb, ids(&[16, 128], 64, &d)?)?, ids(&[16 * 128], 64, &d)?),
    };
    // running_mean / running_var are Vars of the VarMap too; they get no gradient.
    let vars = map.all_vars();
    let mut opt = match w {
        "W2" | "W3" => {
            let vel = vec![None; vars.len()];
            Opt::Momentum { vars, vel, lr: 0.01 }
        }
        "W5" => {
            Opt::Adam(AdamW::new(vars, ParamsAdamW { lr: 3e-4, weight_decay: 0.01, ..Default::default() })?)
        }
        _ => Opt::Adam(AdamW::new(vars, ParamsAdamW { lr: 1e-3, weight_decay: 0.0, ..Default::default() })?),
    };
    Ok(Box::new(move || {
        let mut run = || -> Result<f32> {
            let l = loss::cross_entropy(&forward()?, &y)?;
            opt.step(&l.backward()?)?;
            l.to_scalar::<f32>()
        };
        Some(run().expect("the CPU works"))
    }))
}

fn kernel(w: &str) -> Result<Step> {
    let d = Device::Cpu;
    let normal = |shape: &[usize]| Tensor::randn(0f32, 1f32, shape, &d);
    let f: Forward = match w {
        "K2" => {
            let (x, k) = (normal(&[4, 64, 56, 56])?, normal(&[64, 64, 3, 3])?);
            Box::new(move || x.conv2d(&k, 1, 1, 1, 1))
        }
        "K3" => {
            let x = normal(&[bench::N_ELEM])?;
            Box::new(move || x.affine(1.5, 0.25)?.gelu_erf()? + &x)
        }
        "K4" => {
            let x = normal(&[4096, 1024])?;
            Box::new(move || ops::softmax_last_dim(&x))
        }
        "K5" => {
            let x = normal(&[bench::N_ELEM])?;
            Box::new(move || x.sum_all())
        }
        _ => {
            let n = bench::extent(w);
            let (a, b) = (normal(&[n, n])?, normal(&[n, n])?);
            Box::new(move || a.matmul(&b))
        }
    };
    Ok(Box::new(move || {
        f().expect("the CPU works");
        None
    }))
}

fn main() {
    let [backend, workload] = bench::arguments("peer-candle cpu WORKLOAD");
    assert_eq!(backend, "cpu", "there is no other backend");
    let label = if cfg!(feature = "avx512") { "cpu-avx512" } else { "cpu" };
    let w = workload.clone();
    bench::run("candle", "0.11.1", label, &workload, "", move || {
        let made = if w.starts_with('W') { training(&w) } else { kernel(&w) };
        made.expect("the CPU works")
    });
}
