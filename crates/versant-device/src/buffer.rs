//! A handle on device memory.

use std::fmt;
use std::sync::Arc;

use crate::executor::Memory;
use crate::pool::Pool;

/// Words in a device's memory. Clones share them; the last one to be dropped returns the memory
/// to the device's pool, whence a later buffer may get it with whatever it holds then.
#[derive(Clone)]
pub struct Buffer(Arc<Inner>);

struct Inner {
    words: usize,
    /// `None` only while it is dropped.
    memory: Option<Memory>,
    pool: Arc<Pool>,
}

impl Buffer {
    pub(crate) fn new(memory: Memory, words: usize, pool: Arc<Pool>) -> Self {
        Buffer(Arc::new(Inner { words, memory: Some(memory), pool }))
    }

    /// Length in words, as asked for.
    pub fn words(&self) -> usize {
        self.0.words
    }

    /// Identity of the memory behind the buffer. No two live buffers of a device share it; a
    /// buffer that the pool recycles has the identity of its predecessor.
    pub fn id(&self) -> u64 {
        self.memory().id
    }

    /// How many handles there are.
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub(crate) fn memory(&self) -> &Memory {
        let memory = self.0.memory.as_ref();
        memory.expect("memory is taken in drop only")
    }

    pub(crate) fn is_from(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.0.pool, pool)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer #{} of {} words", self.id(), self.words())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give(memory);
        }
    }
}
