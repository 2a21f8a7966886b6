//! Single kernels, as calls of the tensor's methods: what a user gets, with recording and submission.

use versant::graph::{RandomKey, eval, grad_of};
use versant::nn::Init;
use versant::prelude::*;

use crate::{Result, nets};

/// One measured computation.
pub struct Kernel {
    /// Its name; those that begin with K are those of `benches/peers`.
    pub name: &'static str,
    /// What it computes.
    pub what: &'static str,
    /// Floating-point operations of one run, two to a multiply-add; zero if only bytes matter.
    pub flops: f64,
    /// Bytes that one run must move at least: every operand read once, every result written once.
    pub bytes: f64,
    setup: fn(&Device) -> Run,
}

/// Records the results of one run.
pub type Run = Box<dyn Fn() -> Result<Vec<Tensor>>>;

/// Elements of the elementwise chain and of the sum.
const LONG: usize = 16 << 20;
/// Extents of the attention: samples, heads, length, width. Those of W5.
const ATTENTION: [usize; 4] = [16, 4, 128, 32];
/// The kernel that measures multiply-adds: chains, multiply-adds of each on an element, and elements.
const CHAINS: [usize; 2] = [4, 28];
const CHAINED: [usize; 2] = [1 << 14, 1024];

const fn matmul_flops(n: f64) -> f64 {
    2.0 * n * n * n
}

const fn words(count: usize) -> f64 {
    4.0 * count as f64
}

const CONV_FLOPS: f64 = 2.0 * 4.0 * 64.0 * 56.0 * 56.0 * 64.0 * 9.0;
const CONV_BYTES: f64 = words(2 * 4 * 64 * 56 * 56 + 64 * 64 * 9);
const ATTENTION_FLOPS: f64 =
    (4 * ATTENTION[0] * ATTENTION[1] * ATTENTION[2] * ATTENTION[2] * ATTENTION[3]) as f64;
const ATTENTION_WORDS: usize = ATTENTION[0] * ATTENTION[1] * ATTENTION[2] * ATTENTION[3];

const fn row(
    name: &'static str,
    what: &'static str,
    flops: f64,
    bytes: f64,
    setup: fn(&Device) -> Run,
) -> Kernel {
    Kernel { name, what, flops, bytes, setup }
}

/// The device's practical peaks: multiply-adds in registers, and a copy.
pub static PEAKS: [Kernel; 2] = [
    row(
        "peak-fma",
        "chains of multiply-adds in registers",
        2.0 * (CHAINS[0] * CHAINS[1] * CHAINED[0] * CHAINED[1]) as f64,
        words(2 * CHAINED[0]),
        fma_chains,
    ),
    row("peak-copy", "-x, 16 M", 0.0, words(2 * LONG), copy),
];

/// What is measured, in the order of the table.
pub static KERNELS: [Kernel; 16] = [
    row("K1-256", "matmul 256", matmul_flops(256.0), words(3 * 256 * 256), |d| matmul(d, 256)),
    row("K1-512", "matmul 512", matmul_flops(512.0), words(3 * 512 * 512), |d| matmul(d, 512)),
    row("K1-1024", "matmul 1024", matmul_flops(1024.0), words(3 << 20), |d| matmul(d, 1024)),
    row("K2", "conv 64-64 3x3, 56x56, batch 4", CONV_FLOPS, CONV_BYTES, |d| conv(d, None)),
    row("K2-dx", "its input gradient", CONV_FLOPS, CONV_BYTES, |d| conv(d, Some(0))),
    row("K2-dw", "its weight gradient", CONV_FLOPS, CONV_BYTES, |d| conv(d, Some(1))),
    row("K3", "gelu(1.5 x + 0.25) + x, 16 M", 0.0, words(2 * LONG), |d| {
        let x = normal(d, &[LONG]);
        one(move || (&x * 1.5 + 0.25).gelu() + &x)
    }),
    row("K4", "softmax 4096x1024", 0.0, words(2 * 4096 * 1024), |d| {
        let x = normal(d, &[4096, 1024]);
        one(move || x.softmax(-1))
    }),
    row("K5", "sum 16 M", 0.0, words(LONG), |d| {
        let x = normal(d, &[LONG]);
        one(move || x.sum_all())
    }),
    row("sort-rows", "argsort 4096x1024", 0.0, words(2 * 4096 * 1024), |d| {
        let x = normal(d, &[4096, 1024]);
        one(move || x.argsort(1, false))
    }),
    row("sort-long", "argsort 1 M", 0.0, words(2 << 20), |d| {
        let x = normal(d, &[1 << 20]);
        one(move || x.argsort(0, false))
    }),
    row("topk", "top 50 of 16x50257", 0.0, words(16 * 50_257), |d| {
        let x = normal(d, &[16, 50_257]);
        one(move || x.topk(50, 1, true).1)
    }),
    row("transpose", "-x of the transposed, 4096x4096", 0.0, words(2 * LONG), |d| {
        let x = normal(d, &[4096, LONG / 4096]);
        one(move || -&x.t())
    }),
    // Forward reads x and writes y; backward reads x and g and writes dx.
    row("norm", "layer norm 4096x1024, forward and gradients", 0.0, words(5 * 4096 * 1024), norm),
    row("attention", "causal attention 16x4x128x32", ATTENTION_FLOPS, words(4 * ATTENTION_WORDS), |d| {
        attention(d, false)
    }),
    row(
        "attention-grad",
        "its forward and gradients",
        3.0 * ATTENTION_FLOPS,
        words(8 * ATTENTION_WORDS),
        |d| attention(d, true),
    ),
];

impl Kernel {
    /// The kernel or peak of this name.
    pub fn find(name: &str) -> Option<&'static Kernel> {
        PEAKS.iter().chain(&KERNELS).find(|k| k.name == name)
    }

    /// Uploads the operands.
    pub fn prepare(&self, device: &Device) -> Run {
        (self.setup)(device)
    }
}

/// Records, computes, and waits for the end.
///
/// # Errors
/// A failing device.
pub fn run(device: &Device, run: &Run) -> Result<()> {
    let results = run()?;
    eval(&results.iter().collect::<Vec<_>>())?;
    device.wait()?;
    Ok(())
}

fn one(f: impl Fn() -> Tensor + 'static) -> Run {
    Box::new(move || Ok(vec![f()]))
}

fn normal(device: &Device, shape: &[usize]) -> Tensor {
    // The long ones repeat themselves: drawing 16 M numbers would take longer than measuring.
    let count: usize = shape.iter().product();
    let drawn = Init::Normal { mean: 0.0, std: 1.0 }.fill(&[count.min(1 << 16)], RandomKey::new(7));
    let data: Vec<f32> = drawn.iter().copied().cycle().take(count).collect();
    Tensor::from_slice(device, &data, shape)
}

/// Independent chains, so that the latency of one multiply-add does not bound the rate; their elements are made
/// of a row and a column number and summed, so that memory does not either.
fn fma_chains(device: &Device) -> Run {
    let x = normal(device, &[CHAINED[0], 1]);
    let columns = Tensor::arange(device, CHAINED[1], DType::F32);
    one(move || {
        let start = &x + &columns;
        let chain = |i: usize| {
            let (factor, term) = (0.5 + i as f32 / 64.0, 0.25 + i as f32 / 32.0);
            (0..CHAINS[1]).fold(start.clone(), |y, _| y * factor + term)
        };
        (1..CHAINS[0]).fold(chain(0), |sum, i| sum + chain(i)).sum(&[1], false)
    })
}

fn copy(device: &Device) -> Run {
    let x = normal(device, &[LONG]);
    one(move || -&x)
}

fn matmul(device: &Device, n: usize) -> Run {
    let (a, b) = (normal(device, &[n, n]), normal(device, &[n, n]));
    one(move || a.matmul(&b))
}

/// The convolution, or its gradient by operand `by` under a given gradient of the result.
fn conv(device: &Device, by: Option<usize>) -> Run {
    let operands = [normal(device, &[4, 64, 56, 56]), normal(device, &[64, 64, 3, 3])];
    let g = normal(device, &[4, 64, 56, 56]);
    let options = ConvOptions { padding: [1, 1], ..ConvOptions::default() };
    Box::new(move || {
        let y = operands[0].conv2d(&operands[1], &options);
        Ok(match by {
            None => vec![y],
            Some(by) => grad_of(&(y * &g), &[&operands[by]])?,
        })
    })
}

fn norm(device: &Device) -> Run {
    let (x, g) = (normal(device, &[4096, 1024]), normal(device, &[4096, 1024]));
    let (weight, bias) = (normal(device, &[1024]), normal(device, &[1024]));
    Box::new(move || {
        let y = x.layer_norm(1, Some(&weight), Some(&bias), 1e-5);
        let mut all = grad_of(&(&y * &g), &[&x, &weight, &bias])?;
        all.push(y);
        Ok(all)
    })
}

fn attention(device: &Device, gradients: bool) -> Run {
    let [q, k, v, g] = [(); 4].map(|()| normal(device, &ATTENTION));
    Box::new(move || {
        let y = nets::causal_attention(&q, &k, &v);
        let mut all = if gradients { grad_of(&(&y * &g), &[&q, &k, &v])? } else { Vec::new() };
        all.push(y);
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_records() {
        let device = Device::null();
        for kernel in PEAKS.iter().chain(&KERNELS) {
            let fine = run(&device, &kernel.prepare(&device));
            assert!(fine.is_ok(), "{}: {:?}", kernel.name, fine.err());
            assert!(std::ptr::eq(Kernel::find(kernel.name).expect("it is in a table"), kernel));
        }
        assert!(Kernel::find("K9").is_none());
    }
}
