//! The workloads and kernels by meganeura: `peer-meganeura vulkan WORKLOAD`
//!
//! What its graph API cannot express, and what stands in for it here:
//!   W2  SGD has no momentum: plain SGD. Its max-pool backward is an averaging
//!       approximation, so the step costs less than an exact one and learns
//!       something else.
//!   W3  no trainable BatchNorm: GroupNorm with 8 groups; plain SGD.
//!   W4  no LSTM: unrolled by hand, 64 steps, gates sliced with split ops.
//!   W5  attention has no batch axis: rows are split per sample and joined
//!       again. Its GELU is x*sigmoid(1.702x).
//!   K3  no scalar broadcast: a and b are full-size constants.

#[path = "../../bench.rs"]
mod bench;

use meganeura::{Graph, Mode, NodeId, Session, SessionConfig};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }
    fn uniform(&mut self) -> f32 {
        self.next() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }
    /// Mean 0, standard deviation about 1 (sum of uniforms).
    fn normal(&mut self) -> f32 {
        (self.uniform() + self.uniform() + self.uniform()) as f32
    }
}

/// A graph and the values its parameters start with.
struct Net {
    g: Graph,
    init: Vec<(String, Vec<f32>)>,
    rng: Rng,
}

impl Net {
    fn new() -> Self {
        Self { g: Graph::new(), init: Vec::new(), rng: Rng(0x2545_f491_4f6c_dd1d) }
    }
    fn param(&mut self, shape: &[usize], bound: f32) -> NodeId {
        let name = format!("p{}", self.init.len());
        let n = shape.iter().product();
        let data = (0..n).map(|_| self.rng.uniform() * bound).collect();
        self.init.push((name.clone(), data));
        self.g.parameter(&name, shape)
    }
    fn fill(&mut self, shape: &[usize], value: f32) -> NodeId {
        let name = format!("p{}", self.init.len());
        self.init.push((name.clone(), vec![value; shape.iter().product()]));
        self.g.parameter(&name, shape)
    }
    fn linear(&mut self, x: NodeId, i: usize, o: usize, bias: bool) -> NodeId {
        let w = self.param(&[i, o], 1.0 / (i as f32).sqrt());
        let y = self.g.matmul(x, w);
        if !bias {
            return y;
        }
        let b = self.fill(&[o], 0.0);
        self.g.bias_add(y, b)
    }
    #[allow(clippy::too_many_arguments)]
    fn conv(&mut self, x: NodeId, n: u32, i: u32, o: u32, hw: u32, k: u32, s: u32, p: u32) -> NodeId {
        let fan = (i * k * k) as f32;
        let w = self.param(&[(o * i * k * k) as usize], 1.0 / fan.sqrt());
        self.g.conv2d(x, w, n, i, hw, hw, o, k, k, s, p)
    }
    fn group_norm(&mut self, x: NodeId, n: u32, c: u32, spatial: u32) -> NodeId {
        let w = self.fill(&[c as usize], 1.0);
        let b = self.fill(&[c as usize], 0.0);
        self.g.group_norm(x, w, b, n, c, spatial, 8, 1e-5)
    }
    fn layer_norm(&mut self, x: NodeId, d: usize) -> NodeId {
        let w = self.fill(&[d], 1.0);
        let b = self.fill(&[d], 0.0);
        self.g.layer_norm(x, w, b, 1e-5)
    }
    /// Cut `parts` equal runs of channels out of [n, parts*each, spatial].
    fn cut(&mut self, x: NodeId, n: u32, parts: u32, each: u32, spatial: u32) -> Vec<NodeId> {
        if parts == 1 {
            return vec![x];
        }
        let (a, b) = (parts / 2, parts - parts / 2);
        let (ca, cb) = (a * each, b * each);
        let xa = self.g.split_a(x, n, ca, cb, spatial);
        let xb = self.g.split_b(x, n, ca, cb, spatial);
        let mut out = self.cut(xa, n, a, each, spatial);
        out.extend(self.cut(xb, n, b, each, spatial));
        out
    }
    /// Join equal row blocks, each [rows, width] flat, into one flat tensor.
    fn join(&mut self, parts: &[NodeId], rows: u32, width: u32) -> NodeId {
        if parts.len() == 1 {
            return parts[0];
        }
        let (l, r) = parts.split_at(parts.len() / 2);
        let (a, b) = (self.join(l, rows, width), self.join(r, rows, width));
        self.g.concat(a, b, 1, l.len() as u32 * rows, r.len() as u32 * rows, width)
    }
}

type Step = Box<dyn FnMut() -> Option<f32>>;

enum Input {
    F32(String, Vec<f32>),
    U32(String, Vec<u32>),
}

fn one_hot(rng: &mut Rng, n: usize, classes: usize) -> Vec<f32> {
    let mut v = vec![0.0; n * classes];
    for i in 0..n {
        v[i * classes + rng.next() as usize % classes] = 1.0;
    }
    v
}

fn open(net: &Net, mode: Mode, inputs: &[Input]) -> Session {
    let cfg = SessionConfig { mode, ..SessionConfig::from_env() };
    let (mut s, _) = meganeura::build(&net.g, cfg);
    eprintln!(
        "plan: {} dispatches, {} buffers on {}",
        s.plan().dispatches.len(),
        s.plan().buffers.len(),
        s.device_information().device_name
    );
    for (name, data) in &net.init {
        s.set_parameter(name, data);
    }
    for i in inputs {
        match i {
            Input::F32(n, d) => s.set_input(n, d),
            Input::U32(n, d) => s.set_input_u32(n, d),
        }
    }
    s
}

fn lstm(net: &mut Net, inputs: &mut Vec<Input>) -> NodeId {
    let (vocab, e, h, t, b) = (64usize, 64usize, 128usize, 64usize, 32usize);
    let table = net.param(&[vocab, e], 1.0);
    let w_ih = net.param(&[e, 4 * h], 1.0 / (h as f32).sqrt());
    let w_hh = net.param(&[h, 4 * h], 1.0 / (h as f32).sqrt());
    let bias = net.fill(&[4 * h], 0.0);
    let mut hs = net.g.constant(vec![0.0; b * h], &[b, h]);
    let mut c = net.g.constant(vec![0.0; b * h], &[b * h]);
    let mut outs = Vec::new();
    for i in 0..t {
        let name = format!("x{i}");
        let idx = net.g.input_u32(&name, &[b]);
        inputs.push(Input::U32(name, (0..b).map(|_| net.rng.next() % vocab as u32).collect()));
        let x = net.g.embedding(idx, table);
        let xi = net.g.matmul(x, w_ih);
        let hi = net.g.matmul(hs, w_hh);
        let z = net.g.add(xi, hi);
        let z = net.g.bias_add(z, bias);
        let z = net.g.reshape(z, &[b * 4 * h]);
        let q = net.cut(z, b as u32, 4, 1, h as u32);
        let (i_, f_) = (net.g.sigmoid(q[0]), net.g.sigmoid(q[1]));
        let (g_, o_) = (net.g.tanh(q[2]), net.g.sigmoid(q[3]));
        let keep = net.g.mul(f_, c);
        let new = net.g.mul(i_, g_);
        c = net.g.add(keep, new);
        let tc = net.g.tanh(c);
        let flat = net.g.mul(o_, tc);
        outs.push(flat);
        hs = net.g.reshape(flat, &[b, h]);
    }
    let all = net.join(&outs, b as u32, h as u32);
    let all = net.g.reshape(all, &[t * b, h]);
    net.linear(all, h, vocab, true)
}

fn gpt(net: &mut Net, inputs: &mut Vec<Input>) -> NodeId {
    let (vocab, d, layers, heads, s, b) = (64usize, 128usize, 4, 4u32, 128usize, 16usize);
    let ids = net.g.input_u32("ids", &[b * s]);
    let at = net.g.input_u32("at", &[b * s]);
    let data = (0..b * s).map(|_| net.rng.next() % vocab as u32).collect();
    inputs.push(Input::U32("ids".into(), data));
    inputs.push(Input::U32("at".into(), (0..b * s).map(|i| (i % s) as u32).collect()));
    let tok = net.param(&[vocab, d], 1.0);
    let pos = net.param(&[s, d], 0.02);
    let te = net.g.embedding(ids, tok);
    let pe = net.g.embedding(at, pos);
    let mut x = net.g.add(te, pe);
    for _ in 0..layers {
        let n = net.layer_norm(x, d);
        let mut cut = Vec::new();
        for _ in 0..3 {
            let y = net.linear(n, d, d, true);
            let y = net.g.reshape(y, &[b * s * d]);
            cut.push(net.cut(y, 1, b as u32, s as u32, d as u32));
        }
        let mut parts = Vec::new();
        for i in 0..b {
            let [q, k, v] = [0, 1, 2].map(|j| net.g.reshape(cut[j][i], &[s, d]));
            let a = net.g.causal_attention(q, k, v, heads, heads, d as u32 / heads);
            parts.push(net.g.reshape(a, &[s * d]));
        }
        let a = net.join(&parts, s as u32, d as u32);
        let a = net.g.reshape(a, &[b * s, d]);
        let p = net.linear(a, d, d, true);
        x = net.g.add(x, p);
        let n = net.layer_norm(x, d);
        let u = net.linear(n, d, 4 * d, true);
        let u = net.g.gelu(u);
        let u = net.linear(u, 4 * d, d, true);
        x = net.g.add(x, u);
    }
    let n = net.layer_norm(x, d);
    net.linear(n, d, vocab, false)
}

fn block(net: &mut Net, x: NodeId, n: u32, i: u32, o: u32, hw: u32, s: u32) -> NodeId {
    let out = hw / s;
    let y = net.conv(x, n, i, o, hw, 3, s, 1);
    let y = net.group_norm(y, n, o, out * out);
    let y = net.g.relu(y);
    let y = net.conv(y, n, o, o, out, 3, 1, 1);
    let y = net.group_norm(y, n, o, out * out);
    let short = if s != 1 || i != o {
        let c = net.conv(x, n, i, o, hw, 1, s, 0);
        net.group_norm(c, n, o, out * out)
    } else {
        x
    };
    let z = net.g.add(y, short);
    net.g.relu(z)
}

fn training(w: &str) -> Step {
    let mut net = Net::new();
    let mut inputs = Vec::new();
    let image = |net: &mut Net, inputs: &mut Vec<Input>, shape: &[usize]| {
        let n: usize = shape.iter().product();
        let data = (0..n).map(|_| net.rng.normal()).collect();
        inputs.push(Input::F32("x".into(), data));
        net.g.input("x", shape)
    };
    let (logits, rows, classes) = match w {
        "W1" => {
            let x = image(&mut net, &mut inputs, &[128, 784]);
            let y = net.linear(x, 784, 512, true);
            let y = net.g.relu(y);
            let y = net.linear(y, 512, 512, true);
            let y = net.g.relu(y);
            (net.linear(y, 512, 10, true), 128, 10)
        }
        "W2" => {
            let n = 64u32;
            let x = image(&mut net, &mut inputs, &[(n * 28 * 28) as usize]);
            let y = net.conv(x, n, 1, 32, 28, 5, 1, 2);
            let b = net.fill(&[32], 0.0);
            let y = net.g.add_per_channel(y, b, 32, 28 * 28);
            let y = net.g.relu(y);
            let y = net.g.max_pool_2d(y, n, 32, 28, 28, 2, 2, 2, 0);
            let y = net.conv(y, n, 32, 64, 14, 5, 1, 2);
            let b = net.fill(&[64], 0.0);
            let y = net.g.add_per_channel(y, b, 64, 14 * 14);
            let y = net.g.relu(y);
            let y = net.g.max_pool_2d(y, n, 64, 14, 14, 2, 2, 2, 0);
            let y = net.g.reshape(y, &[n as usize, 64 * 7 * 7]);
            let y = net.linear(y, 64 * 7 * 7, 128, true);
            let y = net.g.relu(y);
            (net.linear(y, 128, 10, true), 64, 10)
        }
        "W3" => {
            let n = 32u32;
            let x = image(&mut net, &mut inputs, &[(n * 3 * 32 * 32) as usize]);
            let y = net.conv(x, n, 3, 32, 32, 3, 1, 1);
            let y = net.group_norm(y, n, 32, 32 * 32);
            let mut y = net.g.relu(y);
            let (mut c, mut hw) = (32, 32);
            for (i, o) in [32, 64, 128].into_iter().enumerate() {
                let s = if i == 0 { 1 } else { 2 };
                y = block(&mut net, y, n, c, o, hw, s);
                hw /= s;
                y = block(&mut net, y, n, o, o, hw, 1);
                c = o;
            }
            let y = net.g.global_avg_pool(y, n, 128, hw * hw);
            (net.linear(y, 128, 10, true), 32, 10)
        }
        "W4" => (lstm(&mut net, &mut inputs), 32 * 64, 64),
        _ => (gpt(&mut net, &mut inputs), 16 * 128, 64),
    };
    let labels = net.g.input("labels", &[rows, classes]);
    inputs.push(Input::F32("labels".into(), one_hot(&mut net.rng, rows, classes)));
    let loss = net.g.cross_entropy_loss(logits, labels);
    net.g.set_outputs(vec![loss]);
    let mut s = open(&net, Mode::Training, &inputs);
    match w {
        "W1" | "W4" => s.set_adam(1e-3, 0.9, 0.999, 1e-8),
        "W5" => {
            s.set_adam(3e-4, 0.9, 0.999, 1e-8);
            s.set_weight_decay(0.01);
        }
        _ => s.set_learning_rate(0.01),
    }
    Box::new(move || {
        s.step();
        s.wait();
        Some(s.read_loss())
    })
}

fn kernel(w: &str) -> Step {
    let mut net = Net::new();
    let out = match w {
        "K2" => {
            let x = net.param(&[4 * 64 * 56 * 56], 1.0);
            let k = net.param(&[64 * 64 * 9], 1.0);
            net.g.conv2d(x, k, 4, 64, 56, 56, 64, 3, 3, 1, 1)
        }
        "K3" => {
            let n = bench::N_ELEM;
            let x = net.param(&[n], 1.0);
            let a = net.g.constant(vec![1.5; n], &[n]);
            let b = net.g.constant(vec![0.25; n], &[n]);
            let y = net.g.mul(x, a);
            let y = net.g.add(y, b);
            let y = net.g.gelu(y);
            net.g.add(y, x)
        }
        "K4" => {
            let x = net.param(&[4096, 1024], 1.0);
            net.g.softmax(x)
        }
        "K5" => {
            let x = net.param(&[bench::N_ELEM], 1.0);
            net.g.sum_all(x)
        }
        _ => {
            let n = bench::extent(w);
            let (a, b) = (net.param(&[n, n], 1.0), net.param(&[n, n], 1.0));
            net.g.matmul(a, b)
        }
    };
    net.g.set_outputs(vec![out]);
    let mut s = open(&net, Mode::Inference, &[]);
    Box::new(move || {
        s.step();
        s.wait();
        None
    })
}

fn main() {
    let [backend, workload] = bench::arguments("peer-meganeura vulkan WORKLOAD");
    assert_eq!(backend, "vulkan", "there is no other backend");
    let w = workload.clone();
    let note = match w.as_str() {
        "W2" => "plain SGD; max-pool backward approximated by the peer",
        "W3" => "GroupNorm(8) for BatchNorm; plain SGD",
        "W4" => "unrolled by hand",
        "W5" => "per-sample attention via split/concat; sigmoid GELU",
        "K3" => "a, b full-size constants; sigmoid GELU",
        _ => "",
    };
    bench::run("meganeura", "0.3.0", "vulkan", &workload, note, move || {
        if w.starts_with('W') { training(&w) } else { kernel(&w) }
    });
}
