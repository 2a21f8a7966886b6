//! Buffers that are kept for the next one of their size class, and the books about them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::counters::{Meter, bump};
use crate::error::{DeviceError, Result};
use crate::executor::{Executor, Memory, Storage, Usage, lock};

/// Smallest buffer in words: below 256 bytes drivers allocate as much anyway.
const MIN_WORDS: usize = 64;

/// Size classes in each doubling: at most an eighth of a buffer is padding.
const STEPS: usize = 8;

/// Free bytes that the pool keeps whatever the peak was.
const KEEP_BYTES: u64 = 64 << 20;

/// Memory of one device, in bytes of capacity (sizes rounded up to their class). Copies under way
/// between host and device are not in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MemoryStats {
    /// In use now: live buffers, the workspace, parameter blocks.
    pub current: u64,
    /// Largest `current` since the device was opened or the peak was reset.
    pub peak: u64,
    /// Held by the pool for later buffers; not in `current`.
    pub pooled: u64,
    /// The part of `current` that is workspace and parameter blocks.
    pub fixed: u64,
    /// Live and free buffers by size class, ascending.
    pub classes: Vec<ClassStats>,
}

/// Buffers of one size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassStats {
    /// Capacity of each in bytes.
    pub bytes: u64,
    /// How many are in use.
    pub live: usize,
    /// How many wait in the pool.
    pub free: usize,
}

/// What a buffer is for. The two do not share free memory: a loop that uploads a batch and computes a loss
/// would else swap their buffers, and with them the bind groups, from step to step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Role {
    /// Filled by the host.
    Upload,
    /// Filled by a run.
    Result,
}

/// Free buffers by size class, last in first out, so that a loop gets the same buffers every time
/// and bind groups made for them stay valid.
pub(crate) struct Pool {
    state: Mutex<PoolState>,
    meter: Arc<Meter>,
    /// Longest buffer in words that the device makes.
    max_words: usize,
}

#[derive(Default)]
struct PoolState {
    classes: BTreeMap<(usize, Role), Class>,
    /// Bytes of buffers in use.
    live: u64,
    fixed: u64,
    pooled: u64,
    peak: u64,
    next_id: u64,
    clock: u64,
}

#[derive(Default)]
struct Class {
    live: usize,
    /// With the time each was given back; ascending.
    free: Vec<(u64, Memory)>,
}

impl Pool {
    pub fn new(meter: Arc<Meter>, max_bytes: u64) -> Self {
        Pool {
            state: Mutex::default(),
            meter,
            // Kernels read whole vectors of four words.
            max_words: usize::try_from(max_bytes / 16 * 4).unwrap_or(usize::MAX & !3),
        }
    }

    /// Memory for at least `words` words, from the pool or else from the executor; if it is free, that
    /// with identity `again`.
    pub fn take(
        &self,
        executor: &dyn Executor,
        words: usize,
        role: Role,
        again: Option<u64>,
    ) -> Result<Memory> {
        let class = self.capacity(words)?;
        let mut state = lock(&self.state);
        let free = state.classes.get_mut(&(class, role)).map(|c| &mut c.free);
        if let Some(free) = free.filter(|f| !f.is_empty()) {
            let wanted = free.iter().position(|(_, m)| Some(m.id) == again);
            let (_, memory) = free.remove(wanted.unwrap_or(free.len() - 1));
            state.pooled -= bytes(class);
            state.add_live(class, role);
            bump(&self.meter.pool_hits);
            return Ok(memory);
        }
        drop(state);
        let storage = self.allocate(executor, class, Usage::Storage)?;
        let mut state = lock(&self.state);
        state.add_live(class, role);
        let memory = state.identify(class, storage);
        Ok(Memory { role, ..memory })
    }

    /// Takes memory back. Gives some to the system if too much lies idle: what was free the
    /// longest goes first. Idle memory may reach twice the peak, because the size classes that
    /// one part of a program needs may differ from those of another.
    pub fn give(&self, memory: Memory) {
        let mut evicted = Vec::new();
        let mut state = lock(&self.state);
        let class = memory.words;
        state.clock += 1;
        state.live -= bytes(class);
        state.pooled += bytes(class);
        let clock = state.clock;
        let entry = state.classes.entry((class, memory.role)).or_default();
        entry.live -= 1;
        entry.free.push((clock, memory));
        while state.pooled > KEEP_BYTES.max(2 * state.peak) {
            let Some(idle) = state.evict() else { break };
            evicted.push(idle);
        }
        drop(state);
        self.free(evicted);
    }

    /// Gives all idle memory to the system.
    pub fn trim(&self) {
        let mut state = lock(&self.state);
        let evicted: Vec<Memory> = std::iter::from_fn(|| state.evict()).collect();
        drop(state);
        self.free(evicted);
    }

    /// Memory outside the pool: the workspace, parameter blocks, scalars.
    pub fn fixed(self: &Arc<Self>, executor: &dyn Executor, words: usize, usage: Usage) -> Result<Fixed> {
        let words = self.granule(words)?;
        let storage = self.allocate(executor, words, usage)?;
        let mut state = lock(&self.state);
        state.fixed += bytes(words);
        state.mark_peak();
        Ok(Fixed { memory: state.identify(words, storage), pool: self.clone() })
    }

    pub fn stats(&self) -> MemoryStats {
        let state = lock(&self.state);
        let mut classes: Vec<ClassStats> = Vec::new();
        for (&(words, _), class) in &state.classes {
            let bytes = bytes(words);
            if classes.last().is_none_or(|c| c.bytes != bytes) {
                let (live, free) = (0, 0);
                classes.push(ClassStats { bytes, live, free });
            }
            let row = classes.last_mut().expect("one was just pushed");
            row.live += class.live;
            row.free += class.free.len();
        }
        classes.retain(|c| c.live + c.free > 0);
        MemoryStats {
            current: state.live + state.fixed,
            peak: state.peak,
            pooled: state.pooled,
            fixed: state.fixed,
            classes,
        }
    }

    /// Makes the present use the peak, or `least` if that is more.
    pub fn reset_peak(&self, least: u64) {
        let mut state = lock(&self.state);
        state.peak = least.max(state.live + state.fixed);
    }

    /// The capacity in words that a request for memory outside the pool gets: it is not reused for another size, so
    /// nothing is gained by a class.
    pub fn granule(&self, words: usize) -> Result<usize> {
        self.check(words)?;
        Ok(words.next_multiple_of(MIN_WORDS).clamp(MIN_WORDS, self.max_words))
    }

    /// The capacity in words that a request gets.
    pub fn capacity(&self, words: usize) -> Result<usize> {
        self.check(words)?;
        // The class may lie beyond the largest buffer; the request does not.
        Ok(size_class(words).min(self.max_words))
    }

    fn check(&self, words: usize) -> Result<()> {
        if words > self.max_words {
            return Err(DeviceError::LimitExceeded {
                what: "bytes of a buffer",
                asked: (words as u64).saturating_mul(4),
                limit: bytes(self.max_words),
            });
        }
        Ok(())
    }

    /// Asks the executor; if it has nothing left, once more after the pool gave back what it holds.
    fn allocate(&self, executor: &dyn Executor, words: usize, usage: Usage) -> Result<Storage> {
        let storage = match executor.allocate(words, usage) {
            Err(DeviceError::OutOfMemory { .. }) => {
                self.trim();
                executor.wait()?;
                executor.allocate(words, usage)?
            }
            other => other?,
        };
        bump(&self.meter.buffers_allocated);
        Ok(storage)
    }

    fn free(&self, memory: Vec<Memory>) {
        for _ in &memory {
            bump(&self.meter.buffers_freed);
        }
    }
}

impl PoolState {
    fn add_live(&mut self, class: usize, role: Role) {
        self.live += bytes(class);
        self.classes.entry((class, role)).or_default().live += 1;
        self.mark_peak();
    }

    fn mark_peak(&mut self) {
        self.peak = self.peak.max(self.live + self.fixed);
    }

    fn identify(&mut self, words: usize, storage: Storage) -> Memory {
        self.next_id += 1;
        Memory { id: self.next_id, words, role: Role::Result, storage }
    }

    /// Removes the buffer that was idle the longest.
    fn evict(&mut self) -> Option<Memory> {
        let idle = self.classes.values_mut().filter(|c| !c.free.is_empty());
        let class = idle.min_by_key(|c| c.free[0].0)?;
        let (_, memory) = class.free.remove(0);
        self.pooled -= bytes(memory.words);
        Some(memory)
    }
}

/// Memory that never enters the pool; its bytes count as in use until it is dropped.
pub(crate) struct Fixed {
    memory: Memory,
    pool: Arc<Pool>,
}

impl Fixed {
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        lock(&self.pool.state).fixed -= bytes(self.memory.words);
        bump(&self.pool.meter.buffers_freed);
    }
}

/// The smallest size class (in words) that holds `words`: a power of two plus a multiple of its eighth.
pub(crate) fn size_class(words: usize) -> usize {
    if words <= MIN_WORDS {
        return MIN_WORDS;
    }
    // The largest power of two that is not above `words`; at least MIN_WORDS, so steps are whole.
    let octave = 1usize << words.ilog2();
    words.checked_next_multiple_of(octave / STEPS).unwrap_or(words)
}

fn bytes(words: usize) -> u64 {
    (words as u64).saturating_mul(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_their_request_and_waste_little() {
        assert_eq!(size_class(0), 64);
        assert_eq!(size_class(64), 64);
        assert_eq!(size_class(65), 72);
        assert_eq!(size_class(1 << 20), 1 << 20);
        assert_eq!(size_class((1 << 20) + 1), (1 << 20) + (1 << 17));
        for words in (65..20_000).chain([1_000_003, 33_554_433]) {
            let class = size_class(words);
            assert!(class >= words && class - words < words / 8 + 1, "{words} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
