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
use versant::nn::Checkpoint;
use versant::nn::schedule::Schedule;
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
fn net(params: &Params) -> impl Module + use<> {
    (
        Conv2d::new(&(params / "conv1"), 1, 32, 3).pad(1),
        Relu,
        MaxPool2d::new(2),
        Conv2d::new(&(params / "conv2"), 32, 64, 3).pad(1),
        Relu,
        MaxPool2d::new(2),
        Flatten::new(),
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

/// Everything that changes while training.
struct Run {
    params: Params,
    opt: AdamW,
    step: u64,
    figures: Vec<EpochFigures>,
    folder: PathBuf,
}

impl Run {
    /// Goes on from the newest readable checkpoint, if there is one.
    fn resume(&mut self) -> Result<(), Box<dyn Error>> {
        let found = Checkpoint::latest(&self.folder)?;
        for why in &found.skipped {
            eprintln!("skipped a checkpoint: {why}");
        }
        if let Some((_, saved)) = found.checkpoint {
            saved.restore(&self.params, Some(&mut self.opt))?;
            self.step = saved.step;
            let lines = saved.user.get("figures").map(String::as_str).unwrap_or_default();
            self.figures = lines.lines().filter_map(EpochFigures::parse).collect();
        }
        println!("resumed at step {}", self.step);
        Ok(())
    }

    /// Writes a checkpoint; the last three are kept.
    fn save(&self, epoch: u64) -> Result<(), Box<dyn Error>> {
        let mut now = Checkpoint::take(&self.params, Some(&self.opt))?;
        now.epoch = epoch;
        let lines: Vec<String> = self.figures.iter().map(EpochFigures::to_string).collect();
        now.user.insert("figures".to_owned(), lines.join("\n"));
        now.save_in(&self.folder, 3)?;
        Ok(())
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let dev = Device::by_name(&options.device)?;
    let parts = if options.full {
        let place = "data/fetched/fashion-mnist";
        fashion_mnist::full(place)
            .map_err(|e| format!("{e} (`cargo xtask data fashion-mnist` fetches it)"))?
    } else {
        fashion_mnist::embedded()?
    };
    let epochs = options.epochs.unwrap_or(if options.full { 5 } else { 15 });
    let shift = u32::from(!options.full);
    let normal = Normalisation::fit(parts.train.images())?;
    let train = Loader::new(parts.train.clone())
        .batch(options.batch)
        .shuffle(options.seed)
        .augment(RandomFlip::horizontal(0.5))
        // Few images are worth seeing a little displaced; many, in few epochs, are not.
        .augment(RandomShift::new(shift, shift))
        .normalise(normal.clone())
        .prefetch(4);
    let test = Loader::new(parts.test.clone()).batch(100).normalise(normal).prefetch(2);

    let params = Params::new(&dev, Seed(options.seed));
    let net = net(&params);
    let opt = AdamW::new(&params, 1e-3);
    println!(
        "{} images, {} for testing; {} parameters; on {}",
        parts.train.len(),
        parts.test.len(),
        params.iter().map(|p| p.shape().iter().product::<usize>()).sum::<usize>(),
        dev.info().name
    );
    std::fs::create_dir_all(&options.out)?;
    let folder = options.checkpoint.clone().unwrap_or_else(|| options.out.join("checkpoints"));
    let mut run = Run { params, opt, step: 0, figures: Vec::new(), folder };
    if options.resume {
        run.resume()?;
    }
    let per_epoch = train.batches_per_epoch() as u64;
    let last = options.steps.unwrap_or(epochs * per_epoch);
    let rate = Schedule::cosine(1e-3, epochs * per_epoch).floor(1e-5);
    let start = Instant::now();
    while run.step < last {
        let bar = progress(per_epoch, run.step / per_epoch + 1, epochs);
        let mut figure = epoch(options, &mut run, &net, &train, &rate, last, &bar)?;
        bar.finish_and_clear();
        // A run that is cut into steps for testing has no time for tests.
        if options.steps.is_none() {
            figure.test = accuracy(&predict(&net, &test, &dev)?, parts.test.labels())?;
            println!("epoch {:>2}  {figure:#}", run.step.div_ceil(per_epoch));
            run.figures.push(figure);
            run.save(run.step / per_epoch)?;
        }
    }
    finish(options, &parts.test, &predict(&net, &test, &dev)?, &run.figures, &dev)?;
    println!("trained in {:.1} s; checkpoints in {}", start.elapsed().as_secs_f64(), run.folder.display());
    Ok(())
}

/// Trains to the end of the current epoch, or to step `last`.
fn epoch(
    options: &Options,
    run: &mut Run,
    net: &impl Module,
    train: &Loader,
    rate: &Schedule,
    last: u64,
    bar: &ProgressBar,
) -> Result<EpochFigures, Box<dyn Error>> {
    let dev = run.params.device().clone();
    let per_epoch = train.batches_per_epoch() as u64;
    let (number, first) = (run.step / per_epoch, run.step % per_epoch);
    let (mut loss_sum, mut right, mut seen, clock) = (0.0, 0.0, 0, Instant::now());
    bar.set_position(first);
    for batch in train.epoch_from(number, first as usize)?.on(&dev) {
        let batch = batch?;
        let logits = net.forward(&batch.x, Mode::Train);
        let loss = logits.cross_entropy(&batch.y);
        let guess = logits.argmax(-1, false);
        // What nobody holds is not kept: the logits need no memory of their own after this.
        drop(logits);
        run.opt.set_lr(rate.at(run.step));
        run.opt.step(loss.backward()?)?;
        run.step += 1;
        if options.explain && seen == 0 {
            println!("{}", versant::graph::latest_plan(&dev).unwrap_or_default());
        }
        loss_sum += loss.item::<f32>()? * batch.len() as f32;
        right += accuracy(&guess.to_vec::<i32>()?, &batch.labels)? * batch.len() as f64;
        seen += batch.len();
        let speed = seen as f64 / clock.elapsed().as_secs_f64();
        let (loss, share) = (loss_sum / seen as f32, 100.0 * right / seen as f64);
        bar.set_message(format!("loss {loss:.3}  accuracy {share:.1} %  {speed:.0} images/s"));
        bar.inc(1);
        if let Some(every) = options.checkpoint_every
            && run.step.is_multiple_of(every.max(1))
        {
            run.save(number)?;
            println!("checkpoint step {}", run.step);
        }
        if run.step == last {
            break;
        }
    }
    Ok(EpochFigures {
        loss: loss_sum / seen.max(1) as f32,
        train: right / seen.max(1) as f64,
        test: f64::NAN,
        speed: seen as f64 / clock.elapsed().as_secs_f64(),
    })
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
