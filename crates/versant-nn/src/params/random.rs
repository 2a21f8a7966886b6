//! Streams of random keys, counted so that a checkpoint can continue them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use versant_graph::RandomKey;

use super::{Params, Store, lock};

/// Separates the keys of random streams from those of initial values.
const STREAM: u64 = 1;

/// A stream of random keys of one scope. It depends on the store's seed, the scope's path and the number of
/// keys drawn; clones, and other sources of the same scope, draw from the same stream.
#[derive(Clone)]
pub struct RandomSource {
    store: Arc<Store>,
    path: Arc<str>,
    drawn: Arc<AtomicU64>,
}

impl RandomSource {
    pub(super) fn new(store: Arc<Store>, path: &Arc<str>) -> RandomSource {
        let drawn = Arc::clone(lock(&store.state).draws.entry(path.to_string()).or_default());
        RandomSource { store, path: Arc::clone(path), drawn }
    }

    /// The next key.
    pub fn next_key(&self) -> RandomKey {
        let seed = self.store.seed.load(Ordering::Relaxed);
        let draw = self.drawn.fetch_add(1, Ordering::Relaxed);
        RandomKey::new(seed).fold(STREAM).split(&self.path).fold(draw)
    }
}

impl std::fmt::Debug for RandomSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let drawn = self.drawn.load(Ordering::Relaxed);
        write!(f, "RandomSource({:?}, {drawn} drawn)", self.path)
    }
}

impl Params {
    /// Number of keys that each scope's stream has given out.
    pub(crate) fn draws(&self) -> BTreeMap<String, u64> {
        let state = lock(&self.store.state);
        state.draws.iter().map(|(k, n)| (k.clone(), n.load(Ordering::Relaxed))).collect()
    }

    /// Continues the streams of this seed where they were. Streams that are not named start anew.
    pub(crate) fn restore_draws(&self, seed: u64, draws: &BTreeMap<String, u64>) {
        let mut state = lock(&self.store.state);
        self.store.seed.store(seed, Ordering::Relaxed);
        for drawn in state.draws.values() {
            drawn.store(0, Ordering::Relaxed);
        }
        for (path, n) in draws {
            state.draws.entry(path.clone()).or_default().store(*n, Ordering::Relaxed);
        }
    }
}
