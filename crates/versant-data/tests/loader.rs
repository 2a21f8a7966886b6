//! The loader's promises: the same batches whatever the prefetch depth, typed errors from the worker, and no
//! thread left behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use versant_data::{
    DataError, Dataset, HostBatch, Image, Images, Loader, Normalisation, RandomCrop, RandomFlip, RandomShift,
    Result, SampleRng, Transform, fashion_mnist,
};

/// Sample `i` is a 2×3 image of the numbers `10 * i ..`.
fn numbered(n: usize) -> Dataset {
    let values = (0..n).flat_map(|i| (0..6).map(move |p| (10 * i + p) as f32));
    let images = Images::from_values(values.collect(), [n, 1, 2, 3]).unwrap();
    let labels = (0..n).map(|i| (i % 3) as i32).collect();
    Dataset::new(images, labels, ["a", "b", "c"]).unwrap()
}

fn batches(loader: &Loader, epoch: u64) -> Vec<HostBatch> {
    loader.epoch(epoch).unwrap().map(Result::unwrap).collect()
}

fn order(batches: &[HostBatch]) -> Vec<usize> {
    batches.iter().flat_map(|b| b.indices.clone()).collect()
}

fn augmented() -> Loader {
    let train = fashion_mnist::embedded().unwrap().train;
    let norm = Normalisation::fit(train.images()).unwrap();
    Loader::new(train)
        .batch(128)
        .shuffle(9)
        .augment(RandomCrop::new(28, 28).padding(2))
        .augment(RandomFlip::horizontal(0.5))
        .augment(RandomShift::new(1, 1))
        .normalise(norm)
}

#[test]
fn prefetch_depth_changes_nothing() {
    let plain = batches(&augmented().prefetch(0), 3);
    assert_eq!(plain.len(), 24);
    for depth in [1, 4, usize::MAX] {
        assert_eq!(batches(&augmented().prefetch(depth), 3), plain, "prefetch {depth}");
    }
    for (depth, workers) in [(1, 4), (5, 3), (24, 24), (4, 0)] {
        let loader = augmented().prefetch(depth).workers(workers);
        assert_eq!(batches(&loader, 3), plain, "prefetch {depth} by {workers}");
        let rest = loader.epoch_from(3, 7).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(rest, plain[7..]);
    }
    assert_ne!(batches(&augmented(), 4), plain);
}

#[test]
fn an_epoch_can_be_resumed_at_any_batch() {
    let all = batches(&augmented(), 1);
    for first in [1, 23, 24, usize::MAX] {
        let rest = augmented().epoch_from(1, first).unwrap();
        let expected = &all[first.min(24)..];
        assert_eq!(rest.remaining(), expected.len());
        assert_eq!(rest.map(Result::unwrap).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn augmentation_depends_on_seed_epoch_and_sample_alone() {
    let images = |loader: &Loader, epoch| -> BTreeMap<usize, Vec<f32>> {
        let batches = batches(loader, epoch);
        let image = |b: &HostBatch, at: usize| b.x[at * 784..(at + 1) * 784].to_vec();
        let pairs = batches.iter().flat_map(|b| (0..b.y.len()).map(|at| (b.indices[at], image(b, at))));
        pairs.collect()
    };
    let train = fashion_mnist::embedded().unwrap().train;
    let train = train.subset(&(0..200).collect::<Vec<_>>()).unwrap();
    let base = |seed| {
        let loader = Loader::new(train.clone()).seed(seed);
        loader.augment(RandomShift::new(3, 3))
    };
    let reference = images(&base(9), 0);
    // Another batch size and another order: the same pictures.
    assert_eq!(images(&base(0).shuffle(9).batch(7), 0), reference);
    for other in [images(&base(9), 1), images(&base(8), 0)] {
        let same = reference.iter().filter(|(i, x)| other[i] == **x).count();
        // 49 shifts: by chance 4 of 200 agree.
        assert!(same < 20, "{same} of 200 are alike");
    }
}

#[test]
fn every_sample_once_and_the_short_batch_by_option() {
    let loader = Loader::new(numbered(10)).batch(4);
    let plain = batches(&loader, 0);
    assert_eq!(order(&plain), (0..10).collect::<Vec<_>>());
    assert_eq!(plain[2].shape, [2, 1, 2, 3]);
    assert_eq!(plain[2].y, [2, 0]);
    assert_eq!(plain[2].x[6..], [90., 91., 92., 93., 94., 95.]);
    assert_eq!(loader.batches_per_epoch(), 3);

    let shuffled = loader.clone().shuffle(1);
    let mut seen = order(&batches(&shuffled, 0));
    assert_ne!(seen, order(&plain));
    assert_ne!(seen, order(&batches(&shuffled, 1)));
    seen.sort_unstable();
    assert_eq!(seen, order(&plain));

    let whole = loader.drop_last(true);
    assert_eq!(whole.batches_per_epoch(), 2);
    assert!(batches(&whole, 0).iter().all(|b| b.shape[0] == 4));
}

#[test]
fn weights_decide_what_is_drawn_and_repeats_are_augmented_anew() {
    let mut weights = vec![0.0; 200];
    (weights[3], weights[150]) = (1.0, 1.0);
    let train = fashion_mnist::embedded().unwrap().train;
    let train = train.subset(&(0..200).collect::<Vec<_>>()).unwrap();
    let loader = Loader::new(train.clone()).augment(RandomShift::new(3, 3)).weighted(weights, 5);
    let all = batches(&loader, 0);
    assert_eq!(all, batches(&loader.clone().prefetch(0), 0));
    let drawn = order(&all);
    assert_eq!(drawn.len(), 200);
    let threes = drawn.iter().filter(|&&i| i == 3).count();
    assert!(drawn.iter().all(|i| [3, 150].contains(i)) && threes.abs_diff(100) < 30);
    assert_ne!(drawn, order(&batches(&loader, 1)));
    let pictures: std::collections::BTreeSet<String> =
        all.iter().flat_map(|b| b.x.chunks(784).map(|x| format!("{x:?}"))).collect();
    // Two pictures in 49 places each.
    assert!(pictures.len() > 60, "{}", pictures.len());
    let short = Loader::new(train.clone()).weighted(vec![1.0], 0).epoch(0).unwrap_err();
    assert!(matches!(short, DataError::Lengths { left_len: 1, right_len: 200, .. }));
    assert!(Loader::new(train).weighted(vec![-1.0; 200], 0).epoch(0).is_err());
}

#[test]
fn extreme_sizes() {
    let error = Loader::new(numbered(3)).batch(0).epoch(0).unwrap_err();
    assert!(matches!(error, DataError::Option { option: "batch size", .. }));
    assert_eq!(batches(&Loader::new(numbered(3)).batch(usize::MAX), 0).len(), 1);
    assert!(batches(&Loader::new(numbered(0)).shuffle(0), 0).is_empty());
    assert_eq!(batches(&Loader::new(numbered(1)).shuffle(u64::MAX), u64::MAX).len(), 1);
}

/// Does what it is told on samples of a given number or above, and counts the samples it saw.
struct Fault {
    from: f32,
    act: fn(Image) -> Result<Image>,
    seen: Arc<AtomicUsize>,
}

impl Transform for Fault {
    fn name(&self) -> &str {
        "fault"
    }
    fn apply(&self, image: Image, _: &mut SampleRng) -> Result<Image> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if image.data()[0] < 10.0 * self.from {
            return Ok(image);
        }
        (self.act)(image)
    }
}

fn faulty(from: f32, prefetch: usize, act: fn(Image) -> Result<Image>) -> (Loader, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let fault = Fault { from, act, seen: seen.clone() };
    let loader = Loader::new(numbered(100)).batch(2).augment(fault);
    (loader.prefetch(prefetch), seen)
}

#[test]
fn panics_and_errors_of_the_worker_come_back_and_end_the_epoch() {
    for prefetch in [0, 1, 4] {
        let (loader, _) = faulty(5.0, prefetch, |_| panic!("sample {} is bad", 5));
        let mut epoch = loader.epoch(0).unwrap();
        assert!(epoch.next().unwrap().is_ok() && epoch.next().unwrap().is_ok());
        let error = epoch.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "assembling batch 2 panicked: sample 5 is bad");
        assert!(epoch.next().is_none() && epoch.next().is_none());

        let (loader, _) = faulty(7.0, prefetch, |_| Err(DataError::Custom("no".into())));
        let results: Vec<_> = loader.epoch(0).unwrap().collect();
        assert_eq!(results.len(), 4);
        let error = results[3].as_ref().unwrap_err().to_string();
        assert_eq!(error, "transform fault on sample 7: no");

        let (loader, _) = faulty(1.0, prefetch, |_| Image::new(vec![0.0], [1, 1, 1]));
        let error = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
        assert!(matches!(error, DataError::MixedShapes { index: 1, found: [1, 1, 1], .. }));
    }
}

#[test]
fn dropping_an_epoch_early_joins_the_thread_and_prefetch_is_bounded() {
    for (prefetch, most) in [(1, 6), (4, 12)] {
        let (loader, seen) = faulty(1e9, prefetch, Ok);
        let mut epoch = loader.epoch(0).unwrap();
        assert!(epoch.next().is_some());
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(epoch);
        drop(loader);
        // The thread owned a clone of the transform: it is gone, so the thread is.
        assert_eq!(Arc::strong_count(&seen), 1);
        // One batch taken, `prefetch` ahead, and one that may have been begun while dropping.
        let seen = seen.load(Ordering::SeqCst);
        assert!((2..=most).contains(&seen), "{seen} samples at prefetch {prefetch}");
    }
}
