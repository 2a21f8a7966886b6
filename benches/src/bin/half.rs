//! W2, W3 and W5 on real data in f32, f16 and bf16: whether 16 bits follow, and what they save.
//!
//! `cargo run --release -p versant-benches --bin half -- --device lavapipe W2`
//!
//! The images are the embedded part of Fashion-MNIST (for W3 in three channels with a border), the text is Moby Dick
//! (`cargo xtask data moby-dick`), its characters by their number modulo 64. Losses are means over windows of steps, because
//! those of single steps scatter. How far f32 runs part by themselves is seen from one whose batches have their samples in
//! the reverse order: that is another order of all sums over them.

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
    /// Orders of the samples to take the mean of: what one run does by chance matters less in it.
    #[arg(long, default_value_t = 1)]
    orders: u64,
    /// No second run in f32.
    #[arg(long)]
    alone: bool,
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

    /// The batch of a step in one of the orders: equal for all runs, but for the order of its own samples.
    fn batch(&self, device: &Device, order: u64, step: usize, turned: bool) -> Result<(Tensor, Tensor)> {
        match self {
            Source::Images(set, batch) => {
                let each = set.len() / batch;
                let order = batches(set.len(), *batch, order, (step / each) as u64);
                let (mut x, mut y) = (Vec::new(), Vec::new());
                for sample in turn(&order[step % each], turned) {
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
                let order = batches(text.len(), 16, order, 0);
                let (x, y) = text.batch_on(device, &turn(&order[step], turned))?;
                Ok((x, y.reshape(&[16 * 128])))
            }
        }
    }
}

/// The samples of a batch, in order or in reverse.
fn turn(samples: &[usize], turned: bool) -> Vec<usize> {
    let mut all = samples.to_vec();
    if turned {
        all.reverse();
    }
    all
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

/// What a run gave.
struct Run {
    /// Mean losses of the windows.
    losses: Vec<f32>,
    /// Bytes of intermediates, those of them in 16 bits where most are in use, those in 32, and launches of a step.
    bytes: u64,
    at_peak: [usize; 2],
    launches: usize,
    /// Steps that were skipped.
    skipped: f32,
}

impl Run {
    /// The largest difference of a window from another run's, in per cent.
    fn off(&self, other: &Run) -> f32 {
        let pairs = self.losses.iter().zip(&other.losses);
        100.0 * pairs.map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max)
    }
}

/// The mean of a run in each of the orders.
fn train(options: &Options, source: &Source, half: Option<Half>, turned: bool) -> Result<Run> {
    let mut runs = (1..=options.orders).map(|order| train_in(options, source, half, order, turned));
    let mut all = runs.next().ok_or("there is no order")??;
    for run in runs {
        let run = run?;
        all.losses.iter_mut().zip(&run.losses).for_each(|(sum, loss)| *sum += loss);
        all.skipped += run.skipped;
    }
    all.losses.iter_mut().for_each(|sum| *sum /= options.orders as f32);
    Ok(all)
}

fn train_in(options: &Options, source: &Source, half: Option<Half>, order: u64, turned: bool) -> Result<Run> {
    let device = Device::by_name(&options.device)?;
    let mut training = Training::in_half(&options.workload, &device, half)?;
    let mut losses = Vec::new();
    for step in 0..options.steps {
        let (x, y) = source.batch(&device, order, step, turned)?;
        training.set_batch(x, y);
        losses.push(training.step()?);
    }
    let plan = latest_plan(&device).ok_or("no plan was made")?;
    if options.explain {
        println!("{plan}");
    }
    let means = losses.chunks(options.window).map(|w| w.iter().sum::<f32>() / w.len() as f32);
    Ok(Run {
        losses: means.collect(),
        bytes: plan.footprint.workspace,
        at_peak: [plan.peak_in_halves, plan.peak.1 - plan.peak_in_halves],
        launches: plan.launches.len(),
        skipped: training.skipped()?.unwrap_or(0.0),
    })
}

fn main() -> Result<()> {
    let options = Options::parse();
    let source = Source::new(&options.workload)?;
    let exact = train(&options, &source, None, false)?;
    let (workload, device, steps, orders) =
        (&options.workload, &options.device, options.steps, options.orders);
    println!("{workload} on {device}, {steps} steps, orders of the samples: {orders}");
    println!("f32   {:.4?}\n      {} bytes, {} launches", exact.losses, exact.bytes, exact.launches);
    if !options.alone {
        let turned = train(&options, &source, None, true)?;
        println!("      {:.4?}\n      {:.2} % off in reverse order", turned.losses, turned.off(&exact));
    }
    for half in [Half::F16, Half::BF16] {
        let run = train(&options, &source, Some(half), false)?;
        println!("{:<5} {:.4?}", half.name(), run.losses);
        let (part, skipped) = (run.bytes as f64 / exact.bytes as f64, run.skipped);
        println!("      at most {:.2} % off, {skipped} steps skipped", run.off(&exact));
        println!("      {} bytes: {part:.2} of f32; {} launches", run.bytes, run.launches);
        let [halves, words] = run.at_peak;
        println!("      at the peak {halves} bytes in 16 bits and {words} in 32; f32 {}", exact.at_peak[1]);
    }
    Ok(())
}
