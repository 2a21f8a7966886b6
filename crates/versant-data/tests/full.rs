//! The whole Fashion-MNIST, if `cargo xtask data fashion-mnist` has fetched it.

use std::path::Path;

use versant_data::{Loader, Normalisation, RandomCrop, RandomFlip, fashion_mnist};

#[test]
fn the_fetched_set_is_whole_and_begins_like_the_embedded_one() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/fetched/fashion-mnist");
    if !dir.exists() {
        eprintln!("skipped: {} is not there", dir.display());
        return;
    }
    let full = fashion_mnist::full(&dir).unwrap();
    let embedded = fashion_mnist::embedded().unwrap();
    assert_eq!(full.train.class_counts(), [6000; 10]);
    assert_eq!(full.test.class_counts(), [1000; 10]);
    let head = |set: &versant_data::Dataset, n| set.subset(&(0..n).collect::<Vec<_>>()).unwrap();
    assert_eq!(head(&full.train, 3000), embedded.train);
    assert_eq!(head(&full.test, 500), embedded.test);

    let norm = Normalisation::fit(full.train.images()).unwrap();
    // The customary figures of this set.
    assert!((norm.mean()[0] - 0.2860).abs() < 1e-4 && (norm.std()[0] - 0.3530).abs() < 1e-4);
    let loader = Loader::new(full.train).batch(256).shuffle(1).normalise(norm);
    let loader = loader.augment(RandomCrop::new(28, 28).padding(2)).augment(RandomFlip::horizontal(0.5));
    let start = std::time::Instant::now();
    let samples: usize = loader.epoch(0).unwrap().map(|b| b.unwrap().y.len()).sum();
    assert_eq!(samples, 60_000);
    let rate = samples as f64 / start.elapsed().as_secs_f64();
    eprintln!("loader with crop, flip and normalisation: {rate:.0} images/s");
}
