//! W2, W3 and W5 on real data in f32, f16 and bf16: whether 16 bits follow, and what they save.
//!
//! `cargo run --release -p versant-benches --bin half -- --device lavapipe W2`
//!
//! The images are the embedded part of Fashion-MNIST (for W3 in three channels with a border), the text is Moby Dick
//! (`cargo xtask data moby-dick`), its characters by their number modulo 64. Losses are means over windows of steps, because
//! those of single steps scatter.

use clap::Parser;
use versant::data::sampling::batches;
use versant::data::sets::moby_dick;
use versant::data::text::{Characters, Windows};
use versant::data::{Dataset, fashion_mnist};
use versant::graph::{Half, latest_plan};
use versant::prelude::*;
use versant_benches::{Result, workloads::Training};

/// Compares training in 16 bits with f32.
#[derive(Parser)]
struct Options {
    /// W2, W3 or W5.
    workload: String,
    /// cpu, lavapipe, gpu, or part of an adapter's name.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Steps of each run.
    #[arg(long, default_value_t = 300)]
    steps: usize,
    /// Steps of a window.
    #[arg(long, default_value_t = 50)]
    window: usize,
    /// Print each run's plan, too: what is in memory at the peak stands at its end.
    #[arg(long)]
    explain: bool,
}

/// Where batches come from.
enum Source {
    Images(Dataset, usize),
    Text(Windows),
}

impl Source {
    fn new(workload: &str) -> Result<Source> {
        Ok(match workload {
            "W2" => Source::Images(fashion_mnist::embedded()?.train, 64),
            "W3" => Source::Images(fashion_mnist::embedded()?.train, 32),
            "W5" => {
                let book = moby_dick("data/fetched/moby-dick")?;
                let ids = Characters::of(&book).encode(&book)?;
                Source::Text(Windows::new(ids.into_iter().map(|id| id % 64).collect(), 128)?)
            }
            other => return Err(format!("{other} is none of W2, W3 and W5").into()),
        })
    }

    /// The batch of a step: equal for all runs.
    fn batch(&self, device: &Device, step: usize) -> Result<(Tensor, Tensor)> {
        match self {
            Source::Images(set, batch) => {
                let each = set.len() / batch;
                let order = batches(set.len(), *batch, 1, (step / each) as u64);
                let (mut x, mut y) = (Vec::new(), Vec::new());
                for &sample in &order[step % each] {
                    let mut image = Vec::new();
                    set.images().append(sample, &mut image)?;
                    image.iter_mut().for_each(|v| *v = (*v - 0.29) / 0.35);
                    match batch {
                        64 => x.extend(image),
                        _ => (0..3).for_each(|_| x.extend(bordered(&image))),
                    }
                    y.push(set.labels()[sample]);
                }
                let shape = if *batch == 64 { [64, 1, 28, 28] } else { [32, 3, 32, 32] };
                Ok((Tensor::from_slice(device, &x, &shape), Tensor::from_slice(device, &y, &[*batch])))
            }
            Source::Text(text) => {
                let order = batches(text.len(), 16, 1, 0);
                let (x, y) = text.batch_on(device, &order[step])?;
                Ok((x, y.reshape(&[16 * 128])))
            }
        }
    }
}

/// An image of 28 by 28 in one of 32 by 32.
fn bordered(image: &[f32]) -> Vec<f32> {
    let at = |i: usize| ((i / 32).checked_sub(2), (i % 32).checked_sub(2));
    let pixel = |i: usize| match at(i) {
        (Some(y), Some(x)) if y < 28 && x < 28 => image[y * 28 + x],
        _ => -0.29 / 0.35,
    };
    (0..32 * 32).map(pixel).collect()
}

/// Mean losses of the windows, bytes of intermediates, and steps skipped.
fn train(options: &Options, source: &Source, half: Option<Half>) -> Result<(Vec<f32>, u64, f32)> {
    let device = Device::by_name(&options.device)?;
    let mut training = Training::in_half(&options.workload, &device, half)?;
    let mut losses = Vec::new();
    for step in 0..options.steps {
        let (x, y) = source.batch(&device, step)?;
        training.set_batch(x, y);
        losses.push(training.step()?);
    }
    let plan = latest_plan(&device).ok_or("no plan was made")?;
    if options.explain {
        println!("{plan}");
    }
    let bytes = plan.footprint.workspace;
    let means = losses.chunks(options.window).map(|w| w.iter().sum::<f32>() / w.len() as f32);
    Ok((means.collect(), bytes, training.skipped()?.unwrap_or(0.0)))
}

fn main() -> Result<()> {
    let options = Options::parse();
    let source = Source::new(&options.workload)?;
    let (exact, whole, _) = train(&options, &source, None)?;
    println!(
        "{} on {}, {} steps, {whole} bytes of intermediates in f32",
        options.workload, options.device, options.steps
    );
    println!("f32   {exact:.4?}");
    for half in [Half::F16, Half::BF16] {
        let (losses, bytes, skipped) = train(&options, &source, Some(half))?;
        let off = losses.iter().zip(&exact).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
        println!("{:<5} {losses:.4?}", half.name());
        println!(
            "      at most {:.2} % off, {skipped} steps skipped, {bytes} bytes: {:.2} of f32",
            100.0 * off,
            bytes as f64 / whole as f64
        );
    }
    Ok(())
}
