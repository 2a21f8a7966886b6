//! Batches of a data set, shuffled and augmented, assembled ahead of time by threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use versant_graph::{RandomKey, random};

use crate::dataset::{Dataset, check_lengths};
use crate::error::{DataError, Result};
use crate::mix::Mix;
use crate::normalise::Normalisation;
use crate::sampling::draw_weighted;
use crate::transform::{SampleRng, Transform};

/// The order in which samples are taken.
#[derive(Clone, Debug)]
enum Order {
    AsStored,
    Shuffled,
    /// With replacement, by these weights.
    Weighted(Arc<[f64]>),
}

/// Makes batches of a data set, epoch by epoch.
///
/// Everything that comes out is a function of the data set, the options, the seed and the epoch's number: not of
/// the prefetch depth or of what was drawn before. So a run is resumed by asking for the next epoch (or with
/// [`Loader::epoch_from`] for the next batch); there is no other state.
///
/// ```
/// use versant_data::{Loader, RandomFlip, fashion_mnist};
/// let train = fashion_mnist::embedded()?.train;
/// let loader = Loader::new(train).batch(128).shuffle(1).augment(RandomFlip::horizontal(0.5));
/// for epoch in 0..2 {
///     for batch in loader.epoch(epoch)? {
///         let batch = batch?;
///         assert_eq!(batch.shape[1..], [1, 28, 28]);
///         assert_eq!(batch.y.len(), batch.shape[0]);
///     }
/// }
/// assert_eq!(loader.batches_per_epoch(), 24); // 23 of 128 and a short one of 56
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone)]
pub struct Loader {
    data: Dataset,
    batch: usize,
    order: Order,
    seed: u64,
    transforms: Vec<Arc<dyn Transform>>,
    normalisation: Option<Arc<Normalisation>>,
    mix: Option<Mix>,
    prefetch: usize,
    workers: usize,
    drop_last: bool,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transforms: Vec<&str> = self.transforms.iter().map(|t| t.name()).collect();
        f.debug_struct("Loader")
            .field("samples", &self.data.len())
            .field("batch", &self.batch)
            .field("shuffle", &!matches!(self.order, Order::AsStored))
            .field("seed", &self.seed)
            .field("transforms", &transforms)
            .field("normalisation", &self.normalisation)
            .field("mix", &self.mix)
            .field("prefetch", &self.prefetch)
            .field("workers", &self.workers)
            .field("drop_last", &self.drop_last)
            .finish()
    }
}

impl Loader {
    /// Batches of 32 in the order of the data set, two of them assembled ahead, the last one short if need be.
    pub fn new(data: Dataset) -> Loader {
        Loader {
            data,
            batch: 32,
            order: Order::AsStored,
            seed: 0,
            transforms: Vec::new(),
            normalisation: None,
            mix: None,
            prefetch: 2,
            workers: 1,
            drop_last: false,
        }
    }

    /// Samples in a batch, at least 1.
    pub fn batch(mut self, samples: usize) -> Self {
        self.batch = samples;
        self
    }

    /// Takes the samples in an order drawn for each epoch; also sets the seed.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.order = Order::Shuffled;
        self.seed(seed)
    }

    /// Draws as many samples as there are, with replacement, each with a probability proportional to its weight;
    /// also sets the seed. A sample that comes twice in an epoch is augmented differently each time.
    ///
    /// Unusable weights are an error of [`Loader::epoch`].
    pub fn weighted(mut self, weights: Vec<f64>, seed: u64) -> Self {
        self.order = Order::Weighted(weights.into());
        self.seed(seed)
    }

    /// [`Loader::weighted`] so that every class is drawn equally often.
    ///
    /// ```
    /// use versant_data::{Dataset, Images, Loader};
    /// let images = Images::from_bytes(vec![0; 1000], [1000, 1, 1, 1])?;
    /// let labels = (0..1000).map(|i| i32::from(i < 100)).collect();
    /// let rare = Loader::new(Dataset::new(images, labels, ["common", "rare"])?).balanced(1);
    /// let drawn: i32 = rare.epoch(0)?.map(|b| b.unwrap().y.iter().sum::<i32>()).sum();
    /// assert!((drawn - 500).abs() < 70); // A tenth of the samples, half of what is drawn.
    /// # Ok::<(), versant_data::DataError>(())
    /// ```
    pub fn balanced(self, seed: u64) -> Self {
        let counts = self.data.class_counts();
        let weights = self.data.labels().iter().map(|&label| 1.0 / counts[label as usize] as f64);
        let weights = weights.collect();
        self.weighted(weights, seed)
    }

    /// Sets the seed (0 unless said otherwise) of transforms, and of the order if shuffled.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds a transform; they are applied in the order in which they were added.
    pub fn augment(mut self, transform: impl Transform + 'static) -> Self {
        self.transforms.push(Arc::new(transform));
        self
    }

    /// Normalises every image, after the transforms.
    pub fn normalise(mut self, normalisation: Normalisation) -> Self {
        self.normalisation = Some(Arc::new(normalisation));
        self
    }

    /// Mixes the samples of every batch with each other, after all else; targets are then in [`HostBatch::soft`].
    pub fn mix(mut self, mix: Mix) -> Self {
        self.mix = Some(mix);
        self
    }

    /// Assembles up to this many batches ahead on a thread; with 0, each when it is asked for.
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.prefetch = batches;
        self
    }

    /// Assembles ahead with this many threads (1 unless said otherwise), but not more than [`Loader::prefetch`]
    /// batches ahead. What comes out does not depend on it.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads;
        self
    }

    /// Whether to leave out a last batch that is short.
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// The data set.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Number of batches in an epoch; 0 if the batch size is.
    pub fn batches_per_epoch(&self) -> usize {
        let whole = self.data.len().checked_div(self.batch).unwrap_or(0);
        let short = self.batch > 0 && !self.data.len().is_multiple_of(self.batch);
        whole + usize::from(short && !self.drop_last)
    }

    /// The batches of an epoch.
    ///
    /// # Errors
    /// [`DataError::Option`] if the batch size is 0 or weights are unusable, [`DataError::Lengths`] if there are not
    /// as many weights as samples, [`DataError::Spawn`] if there is no thread to be had.
    pub fn epoch(&self, epoch: u64) -> Result<Epoch> {
        self.epoch_from(epoch, 0)
    }

    /// The batches of an epoch from number `first` on: what [`Loader::epoch`] gives after that many.
    ///
    /// # Errors
    /// As [`Loader::epoch`].
    pub fn epoch_from(&self, epoch: u64, first: usize) -> Result<Epoch> {
        if self.batch == 0 {
            return Err(DataError::Option {
                option: "batch size",
                value: "0".to_owned(),
                rule: "at least 1",
            });
        }
        let key = RandomKey::new(self.seed);
        let order = self.order(key.split("order").fold(epoch))?;
        let repeats = match self.order {
            Order::Weighted(_) => repeats(&order, self.data.len()),
            Order::AsStored | Order::Shuffled => Vec::new(),
        };
        let key = key.split("augment").fold(epoch);
        let assembler = Arc::new(Assembler { loader: self.clone(), order, repeats, key });
        let end = self.batches_per_epoch();
        let batches = first.min(end)..end;
        let source = match self.prefetch.min(batches.len()) {
            0 => Source::Inline(assembler),
            depth => Source::prefetched(&assembler, &batches, depth, self.workers.clamp(1, depth))?,
        };
        Ok(Epoch { source, first: batches.start, batches })
    }

    /// The sample number at each place of an epoch.
    fn order(&self, key: RandomKey) -> Result<Vec<usize>> {
        let samples = self.data.len();
        match &self.order {
            Order::AsStored => Ok((0..samples).collect()),
            Order::Shuffled => Ok(random::permutation(key.words(), samples)),
            Order::Weighted(weights) => {
                check_lengths(("weights", weights.len()), ("samples", samples))?;
                draw_weighted(weights, samples, &mut SampleRng::from_key(key))
            }
        }
    }
}

/// How often the sample at each place has come before in the epoch.
fn repeats(order: &[usize], samples: usize) -> Vec<u64> {
    let mut seen = vec![0; samples];
    let count = |&index: &usize| {
        seen[index] += 1;
        seen[index] - 1
    };
    order.iter().map(count).collect()
}

/// A batch in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// The images' values, row-major.
    pub x: Vec<f32>,
    /// `[n, channels, height, width]` of `x`.
    pub shape: [usize; 4],
    /// The class of each image.
    pub y: Vec<i32>,
    /// `[n, classes]`, the share of each class in each image, if [mixed](Loader::mix).
    pub soft: Option<Vec<f32>>,
    /// The number of each image in the data set.
    pub indices: Vec<usize>,
}

/// Makes any batch of one epoch.
struct Assembler {
    loader: Loader,
    order: Vec<usize>,
    /// For each place, or empty if no sample comes twice.
    repeats: Vec<u64>,
    key: RandomKey,
}

impl Assembler {
    /// Batch number `number`; a panic of a transform becomes an error.
    fn batch(&self, number: usize) -> Result<HostBatch> {
        // Nothing that outlives a panic is changed here, except what a user's transform keeps for itself.
        catch_unwind(AssertUnwindSafe(|| self.assemble(number))).unwrap_or_else(|panic| {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            Err(DataError::Panicked {
                batch: number,
                message: message.unwrap_or_else(|| "no message".to_owned()),
            })
        })
    }

    fn assemble(&self, number: usize) -> Result<HostBatch> {
        let Loader { data, batch, .. } = &self.loader;
        let start = number * batch;
        let end = start.saturating_add(*batch).min(self.order.len());
        let indices = self.order[start..end].to_vec();
        let mut x = Vec::new();
        let mut image_shape = data.images().image_shape();
        if self.loader.transforms.is_empty() {
            x.reserve(indices.len() * image_shape.iter().product::<usize>());
            for &index in &indices {
                data.images().append(index, &mut x)?;
            }
        } else {
            for (at, &index) in indices.iter().enumerate() {
                let image = self.augmented(start + at, index)?;
                if at == 0 {
                    image_shape = image.shape();
                    x.reserve(indices.len() * image.data().len());
                } else if image.shape() != image_shape {
                    return Err(DataError::MixedShapes {
                        index,
                        expected: image_shape,
                        found: image.shape(),
                    });
                }
                x.extend_from_slice(image.data());
            }
        }
        if let Some(normalisation) = &self.loader.normalisation {
            normalisation.apply(&mut x, image_shape)?;
        }
        let [c, h, w] = image_shape;
        let shape = [indices.len(), c, h, w];
        let y: Vec<i32> = indices.iter().map(|&i| data.labels()[i]).collect();
        let mut rng = SampleRng::from_key(self.key.split("mix").fold(number as u64));
        let mix = |mix: &Mix| mix.apply(&mut x, shape, &y, data.classes().len(), &mut rng);
        let soft = self.loader.mix.as_ref().map(mix).transpose()?;
        Ok(HostBatch { x, shape, y, soft, indices })
    }

    fn augmented(&self, place: usize, index: usize) -> Result<crate::dataset::Image> {
        let mut key = self.key.fold(index as u64);
        if let Some(&repeat) = self.repeats.get(place).filter(|&&repeat| repeat > 0) {
            key = key.split("repeat").fold(repeat);
        }
        let mut image = self.loader.data.images().get(index)?;
        for (place, transform) in (0..).zip(&self.loader.transforms) {
            let mut rng = SampleRng::from_key(key.fold(place));
            image = transform.apply(image, &mut rng).map_err(|source| DataError::Transform {
                transform: transform.name().to_owned(),
                index,
                source: Box::new(source),
            })?;
        }
        Ok(image)
    }
}

enum Source {
    Inline(Arc<Assembler>),
    /// Batches go round the workers in turn. Empty once the iterator has ended.
    Threads(Vec<Worker>),
}

struct Worker {
    receiver: Receiver<Result<HostBatch>>,
    thread: JoinHandle<()>,
}

impl Source {
    /// Threads that assemble `depth` batches ahead in all: worker `w` of `n` those at place `w`, `w + n`, ….
    fn prefetched(
        assembler: &Arc<Assembler>,
        batches: &std::ops::Range<usize>,
        depth: usize,
        workers: usize,
    ) -> Result<Source> {
        let start = |worker: usize| {
            let ahead = depth / workers + usize::from(worker < depth % workers);
            // The worker holds one finished batch in its hand while the channel is full.
            let (sender, receiver) = sync_channel(ahead - 1);
            let (assembler, numbers) = (assembler.clone(), batches.clone().skip(worker).step_by(workers));
            let thread = std::thread::Builder::new()
                .name("versant-data prefetch".to_owned())
                .spawn(move || {
                    for number in numbers {
                        let batch = assembler.batch(number);
                        let failed = batch.is_err();
                        if sender.send(batch).is_err() || failed {
                            return;
                        }
                    }
                })
                .map_err(|source| DataError::Spawn { source })?;
            Ok(Worker { receiver, thread })
        };
        (0..workers).map(start).collect::<Result<_>>().map(Source::Threads)
    }
}

/// The batches of one epoch, from [`Loader::epoch`]. Ends after the first error.
///
/// Dropping it early stops the threads and waits for them: at most for the batches that are being assembled.
pub struct Epoch {
    source: Source,
    /// The number that `batches` began with.
    first: usize,
    batches: std::ops::Range<usize>,
}

impl Epoch {
    /// Batches still to come, if none fails.
    pub fn remaining(&self) -> usize {
        self.batches.len()
    }

    fn stop(&mut self) {
        self.batches.start = self.batches.end;
        if let Source::Threads(workers) = &mut self.source {
            let (receivers, threads): (Vec<_>, Vec<_>) =
                std::mem::take(workers).into_iter().map(|worker| (worker.receiver, worker.thread)).unzip();
            // Without a receiver a worker's next send fails, which ends it.
            drop(receivers);
            for thread in threads {
                // The workers catch panics themselves and have reported them as errors.
                let _ = thread.join();
            }
        }
    }
}

impl Iterator for Epoch {
    type Item = Result<HostBatch>;

    fn next(&mut self) -> Option<Result<HostBatch>> {
        let Some(number) = self.batches.next() else {
            self.stop();
            return None;
        };
        let batch = match &self.source {
            Source::Inline(assembler) => assembler.batch(number),
            Source::Threads(workers) => {
                let worker = &workers[(number - self.first) % workers.len()];
                worker.receiver.recv().unwrap_or_else(|_| {
                    Err(DataError::Panicked {
                        batch: number,
                        message: "the prefetch thread ended early".to_owned(),
                    })
                })
            }
        };
        if batch.is_err() {
            self.stop();
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining().min(1), Some(self.remaining()))
    }
}

impl std::iter::FusedIterator for Epoch {}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoch").field("remaining", &self.batches).finish_non_exhaustive()
    }
}
