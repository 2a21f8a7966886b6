//! The bind groups of one launch, kept by the buffers in them.

/// Most bind groups kept for a launch: a launch sees few combinations of buffers (those of a loader's
/// batches in flight, say), and a dead one costs a few hundred bytes.
const CAPACITY: usize = 16;

/// A bounded cache that forgets what was unused the longest. A search allocates nothing. A buffer
/// that was replaced, say because the workspace grew, has another id, so its entries are never found again.
pub(crate) struct BindCache<T> {
    entries: Vec<Entry<T>>,
    clock: u64,
}

struct Entry<T> {
    ids: Box<[u64]>,
    used: u64,
    value: T,
}

impl<T> Default for BindCache<T> {
    fn default() -> Self {
        BindCache { entries: Vec::new(), clock: 0 }
    }
}

impl<T> BindCache<T> {
    /// The value for these buffer ids; made if there is none.
    pub fn get<I, E>(&mut self, ids: I, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E>
    where
        I: Iterator<Item = u64> + Clone,
    {
        self.clock += 1;
        let found = self.entries.iter().position(|e| e.ids.iter().copied().eq(ids.clone()));
        let index = match found {
            Some(index) => index,
            None => {
                let value = make()?;
                if self.entries.len() == CAPACITY {
                    let oldest = (0..CAPACITY).min_by_key(|&i| self.entries[i].used);
                    self.entries.swap_remove(oldest.unwrap_or(0));
                }
                self.entries.push(Entry { ids: ids.collect(), used: 0, value });
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[index];
        entry.used = self.clock;
        Ok(&entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_and_stays_bounded() {
        let mut cache = BindCache::default();
        let mut made = 0;
        let mut get = |cache: &mut BindCache<u64>, id: u64| {
            let make = || {
                made += 1;
                Ok::<_, ()>(id * 10)
            };
            *cache.get([id, 7].into_iter(), make).unwrap()
        };
        for round in 0..3 {
            for id in 0..CAPACITY as u64 {
                assert_eq!(get(&mut cache, id), id * 10, "round {round}");
            }
        }
        get(&mut cache, 0);
        get(&mut cache, 99); // Evicts 1, which was unused the longest.
        get(&mut cache, 0);
        get(&mut cache, 1);
        assert_eq!(cache.entries.len(), CAPACITY);
        assert_eq!(made, CAPACITY + 2);
        assert_eq!(cache.get([5].into_iter(), || Err(3)), Err(3));
    }
}
