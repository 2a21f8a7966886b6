//! What the examples share: options, data, progress, and the line that `cargo xtask examples` reads.

// Each example is a program of its own that uses a part of this.
#![allow(dead_code)]

pub mod plot;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use versant::data::sampling;
use versant::graph::Element;
use versant::prelude::*;

/// The result of everything that an example does: what fails is printed, and ends it.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// An array for the twin: name, shape and values.
pub type Array = (String, Vec<usize>, Vec<f32>);

/// Options of every example.
#[derive(Parser)]
pub struct Options {
    /// best, cpu, gpu, vulkan, metal, dx12, lavapipe, or part of an adapter's name
    #[arg(long, env = "VERSANT_DEVICE", default_value = "best")]
    pub device: String,
    /// Seed of the initial weights, the order of the samples, and everything else that is drawn
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where pictures go
    #[arg(long, default_value = "out")]
    pub out: PathBuf,
    /// A few steps on little data: to see that it runs
    #[arg(long)]
    pub quick: bool,
    /// Write the prepared data to this safetensors file for the PyTorch twin, and stop
    #[arg(long)]
    pub dump: Option<PathBuf>,
}

/// A running example.
pub struct Example {
    /// What it was started with.
    pub options: Options,
    /// Where it computes.
    pub dev: Device,
    name: &'static str,
    start: Instant,
}

/// Runs an example and prints what went wrong.
pub fn main(name: &'static str, run: impl FnOnce(&Example) -> Outcome) {
    let options = Options::parse();
    let outcome = Device::by_name(&options.device)
        .map_err(Into::into)
        .and_then(|dev| run(&Example { options, dev, name, start: Instant::now() }));
    if let Err(error) = outcome {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

impl Example {
    /// A store of parameters for the example's net number `net`.
    pub fn store(&self, net: usize) -> Params {
        Params::new(&self.dev, Seed(1000 * self.options.seed + net as u64))
    }

    /// The folder of a fetched data set.
    pub fn data(&self, set: &str) -> Outcome<PathBuf> {
        let folder = PathBuf::from("data/fetched").join(set);
        if !folder.is_dir() {
            return Err(
                format!("{} is not there: `cargo xtask data {set}` fetches it", folder.display()).into()
            );
        }
        Ok(folder)
    }

    /// A path for a picture, in a folder of the example's.
    pub fn out(&self, file: &str) -> Outcome<PathBuf> {
        let folder = self.options.out.join(self.name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder.join(file))
    }

    /// `full`, or `quick` with `--quick`.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.options.quick { quick } else { full }
    }

    /// A progress bar on the terminal.
    pub fn bar(&self, steps: usize, what: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix} {bar:32} {pos}/{len}  {msg}  {elapsed}");
        bar.set_style(style.expect("a constant template parses"));
        bar.set_prefix(what.to_owned());
        bar
    }

    /// Prints the figure of the run: the last line, which `cargo xtask examples` reads.
    pub fn result(&self, metric: &str, value: f64) -> Outcome {
        let (name, seconds) = (&self.dev.info().name, self.start.elapsed().as_secs_f64());
        println!("result: {metric} = {value:.4} after {seconds:.1} s on {name}");
        Ok(())
    }

    /// With `--dump`: writes arrays for the twin in PyTorch, which so sees the same data. Whether that is all to do.
    pub fn dump(&self, arrays: impl FnOnce() -> Outcome<Vec<Array>>) -> Outcome<bool> {
        let Some(path) = &self.options.dump else { return Ok(false) };
        let host = Device::cpu();
        let file = Params::new(&host, Seed(0));
        for (name, shape, values) in arrays()? {
            let value = Tensor::from_slice(&host, &values, &shape);
            file.root().buffer(&name, &shape, Init::Zeros).set(value);
        }
        file.save(path)?;
        println!("{}", path.display());
        Ok(true)
    }

    /// The order of an epoch: batches of sample numbers.
    pub fn order(&self, samples: usize, batch: usize, epoch: usize) -> Vec<Vec<usize>> {
        sampling::batches(samples, batch, self.options.seed, epoch as u64)
    }
}

/// Some samples of an array `[samples, ...shape]` as a tensor.
pub fn pick<T: Element>(dev: &Device, values: &[T], shape: &[usize], samples: &[usize]) -> Tensor {
    let each: usize = shape.iter().product();
    let picked: Vec<T> = samples.iter().flat_map(|&s| &values[s * each..][..each]).copied().collect();
    let shape: Vec<usize> = std::iter::once(samples.len()).chain(shape.iter().copied()).collect();
    Tensor::from_slice(dev, &picked, &shape)
}

/// Labels as numbers, for [`Example::dump`].
pub fn floats(labels: &[i32]) -> Vec<f32> {
    labels.iter().map(|&label| label as f32).collect()
}

/// Fashion-MNIST: the whole of it if it was fetched, else the embedded part (3,000 images and 500 to test).
pub fn fashion() -> Outcome<versant::data::Parts> {
    let whole = std::path::Path::new("data/fetched/fashion-mnist");
    if whole.is_dir() {
        return Ok(versant::data::fashion_mnist::full(whole)?);
    }
    eprintln!("a part of Fashion-MNIST only: `cargo xtask data fashion-mnist` fetches the rest");
    Ok(versant::data::fashion_mnist::embedded()?)
}

/// The first images of a set, one after another with values from 0 to 1, and their labels.
pub fn images(set: &Dataset, count: usize) -> Outcome<(Vec<f32>, Vec<i32>)> {
    let count = count.min(set.len());
    let mut values = Vec::new();
    for at in 0..count {
        set.images().append(at, &mut values)?;
    }
    Ok((values, set.labels()[..count].to_vec()))
}
