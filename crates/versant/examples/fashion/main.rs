//! Trains a small convolutional net on Fashion-MNIST and shows what it learned.
//!
//! `cargo run --release --example fashion` needs no network and no GPU: a part of the data set is embedded.
//! `-- --help` lists the options.

mod report;

use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use report::EpochFigures;
use versant::data::{RandomFlip, RandomShift, fashion_mnist};
use versant::nn::checkpoint::{Checkpoint, Checkpoints};
use versant::prelude::*;

/// Train a convolutional net on Fashion-MNIST.
#[derive(Parser)]
struct Options {
    /// best, cpu, gpu, vulkan, metal, dx12, lavapipe, or part of an adapter's name
    #[arg(long, env = "VERSANT_DEVICE", default_value = "best")]
    device: String,
    /// Passes over the training images
    #[arg(long)]
    epochs: Option<u64>,
    /// Stop after this many steps in total, whatever the epochs
    #[arg(long)]
    steps: Option<u64>,
    /// The whole data set (after `cargo xtask data fashion-mnist`) instead of the embedded part
    #[arg(long)]
    full: bool,
    /// Go on from the newest readable checkpoint
    #[arg(long)]
    resume: bool,
    /// Where checkpoints go; by default a folder of --out
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Steps between checkpoints; by default one each epoch
    #[arg(long)]
    checkpoint_every: Option<u64>,
    /// Where the curves and the predictions go
    #[arg(long, default_value = "out/fashion")]
    out: PathBuf,
    /// Seed of the initial weights, the order of the images, their augmentation and dropout
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Images per step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Print what the training step does, launch by launch
    #[arg(long)]
    explain: bool,
}

/// Two convolutions and two dense layers: 421,642 parameters.
fn net(params: &Params) -> impl Module {
    (
        Conv2d::new(&(params / "conv1"), 1, 32, 3).pad(1),
        Relu,
        MaxPool2d::new(2),
        Conv2d::new(&(params / "conv2"), 32, 64, 3).pad(1),
        Relu,
        MaxPool2d::new(2),
        Flatten,
        Dropout::new(&(params / "dropout"), 0.3),
        Linear::new(&(params / "dense"), 64 * 7 * 7, 128),
        Relu,
        Linear::new(&(params / "classes"), 128, 10),
    )
}

/// Predicted classes of a data set, in its order.
fn predict(net: &impl Module, loader: &Loader, dev: &Device) -> Result<Vec<i32>, Box<dyn Error>> {
    let mut predicted = Vec::new();
    for batch in loader.epoch_on(dev, 0)? {
        let logits = net.forward(&batch?.x, Mode::Eval);
        predicted.extend(logits.argmax(-1, false).to_vec::<i32>()?);
    }
    Ok(predicted)
}

fn progress(steps: u64, epoch: u64, epochs: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    let style = "{prefix} {bar:32} {pos}/{len}  {msg}  {elapsed}";
    bar.set_style(ProgressStyle::with_template(style).expect("a constant template parses"));
    bar.set_prefix(format!("epoch {epoch}/{epochs}"));
    bar
}

fn main() {
    if let Err(error) = run(&Options::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let dev = Device::by_name(&options.device)?;
    let parts = if options.full {
        fashion_mnist::full("data/fetched/fashion-mnist")?
    } else {
        fashion_mnist::embedded()?
    };
    let epochs = options.epochs.unwrap_or(if options.full { 5 } else { 15 });
    let normal = Normalisation::fit(parts.train.images())?;
    let train = Loader::new(parts.train.clone())
        .batch(options.batch)
        .shuffle(options.seed)
        .augment(RandomFlip::horizontal(0.5))
        .augment(RandomShift::new(1, 1))
        .normalise(normal.clone())
        .prefetch(4);
    let test = Loader::new(parts.test.clone()).batch(100).normalise(normal).prefetch(2);

    let params = Params::new(&dev, Seed(options.seed));
    let net = net(&params);
    let mut opt = AdamW::new(&params, 1e-3);
    let per_epoch = train.batches_per_epoch() as u64;
    let rate = Schedule::cosine(1e-3, epochs * per_epoch).min(1e-5);
    let last = options.steps.unwrap_or(epochs * per_epoch);
    println!(
        "{} images, {} for testing; {} parameters; on {}",
        parts.train.len(),
        parts.test.len(),
        params.numel(),
        dev.info().name
    );

    std::fs::create_dir_all(&options.out)?;
    let folder = options.checkpoint.clone().unwrap_or_else(|| options.out.join("checkpoints"));
    let checkpoints = Checkpoints::new(&folder, 3)?;
    let every = options.checkpoint_every.unwrap_or(per_epoch).max(1);
    let mut step = 0;
    if options.resume {
        if let Some(found) = checkpoints.latest()? {
            found.restore(&params, &mut opt)?;
            step = found.step();
        }
        println!("resumed at step {step}");
    }

    let mut figures: Vec<EpochFigures> = Vec::new();
    let start = Instant::now();
    while step < last {
        let epoch = step / per_epoch;
        let bar = progress(per_epoch, epoch + 1, epochs);
        let (mut loss_sum, mut right, mut seen, clock) = (0.0, 0.0, 0, Instant::now());
        for batch in train.epoch_from_on(&dev, epoch, (step % per_epoch) as usize)? {
            let batch = batch?;
            let logits = net.forward(&batch.x, Mode::Train);
            let loss = logits.cross_entropy(&batch.y);
            let guess = logits.argmax(-1, false);
            drop(logits);
            opt.set_lr(rate.at(step));
            opt.step(loss.backward()?)?;
            step += 1;
            if options.explain && step <= 1 {
                println!("{}", versant::graph::latest_plan(&dev).unwrap_or_default());
            }
            let n = batch.labels.len();
            loss_sum += loss.item::<f32>()? * n as f32;
            right += accuracy(&guess.to_vec::<i32>()?, &batch.labels)? * n as f64;
            seen += n;
            bar.set_message(format!(
                "loss {:.3}  accuracy {:.1} %  {:.0} images/s",
                loss_sum / seen as f32,
                100.0 * right / seen as f64,
                seen as f64 / clock.elapsed().as_secs_f64()
            ));
            bar.inc(1);
            if step % every == 0 || step == last {
                checkpoints.save(&Checkpoint::take(&params, &opt, step, epoch)?)?;
                if options.checkpoint_every.is_some() {
                    println!("checkpoint step {step}");
                }
            }
            if step == last {
                break;
            }
        }
        bar.finish_and_clear();
        if options.checkpoint_every.is_some() && step < last {
            continue;
        }
        let predicted = predict(&net, &test, &dev)?;
        let test_share = accuracy(&predicted, parts.test.labels())?;
        let seconds = clock.elapsed().as_secs_f64();
        let figure = EpochFigures {
            loss: loss_sum / seen.max(1) as f32,
            train: right / seen.max(1) as f64,
            test: test_share,
        };
        println!(
            "epoch {:>2}  loss {:.3}  training {:.1} %  test {:.1} %  {:.0} images/s",
            epoch + 1,
            figure.loss,
            100.0 * figure.train,
            100.0 * figure.test,
            seen as f64 / seconds
        );
        figures.push(figure);
    }
    finish(options, &parts.test, &predict(&net, &test, &dev)?, &figures, &dev)?;
    println!("trained in {:.1} s; checkpoints in {}", start.elapsed().as_secs_f64(), folder.display());
    Ok(())
}

/// Prints the result and writes the pictures.
fn finish(
    options: &Options,
    test: &Dataset,
    predicted: &[i32],
    figures: &[EpochFigures],
    dev: &Device,
) -> Result<(), Box<dyn Error>> {
    let mut confusion = ConfusionMatrix::new(test.classes().to_vec());
    confusion.add(predicted, test.labels())?;
    if std::io::stdout().is_terminal() {
        println!("{confusion}");
    }
    println!("test accuracy {:.1} %", 100.0 * accuracy(predicted, test.labels())?);
    let (curves, grid) = (options.out.join("curves.svg"), options.out.join("predictions.svg"));
    report::curves(&curves, figures, &dev.info().name)?;
    report::predictions(&grid, test, predicted, 40)?;
    println!("curves in {}, predictions in {}", curves.display(), grid.display());
    Ok(())
}
