//! The lock that puts a device's runs in order.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};
use std::thread::ThreadId;

use crate::error::{DeviceError, Result};
use crate::executor::lock;

/// A mutex that returns an error where a plain one would wait for its own thread: a native function
/// that calls its device back, or a thread pool's worker that picks up such a task while it waits.
#[derive(Default)]
pub(crate) struct RunLock<T> {
    state: Mutex<T>,
    owner: Mutex<Option<ThreadId>>,
}

impl<T> RunLock<T> {
    pub fn new(state: T) -> Self {
        RunLock { state: Mutex::new(state), owner: Mutex::new(None) }
    }

    pub fn lock(&self) -> Result<RunGuard<'_, T>> {
        let me = std::thread::current().id();
        // Only this thread can set or clear its own id, so the test cannot be outdated.
        if *lock(&self.owner) == Some(me) {
            return Err(DeviceError::Reentrant);
        }
        let state = lock(&self.state);
        *lock(&self.owner) = Some(me);
        Ok(RunGuard { state, owner: &self.owner })
    }
}

/// Access to the state while the lock is held.
pub(crate) struct RunGuard<'a, T> {
    state: MutexGuard<'a, T>,
    owner: &'a Mutex<Option<ThreadId>>,
}

impl<'a, T> RunGuard<'a, T> {
    /// Who holds the lock.
    pub fn owner(&self) -> Owner<'a> {
        Owner(self.owner)
    }
}

/// Who holds a lock, to be passed to a thread that works for them.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a>(&'a Mutex<Option<ThreadId>>);

impl Owner<'_> {
    /// Calls `f`, during which the lock is this thread's.
    pub fn lend<R>(self, f: impl FnOnce() -> R) -> R {
        let before = lock(self.0).replace(std::thread::current().id());
        let result = f();
        *lock(self.0) = before;
        result
    }
}

impl<T> Deref for RunGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for RunGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl<T> Drop for RunGuard<'_, T> {
    fn drop(&mut self) {
        // Before the state's own guard goes, so the next owner is not forgotten.
        *lock(self.owner) = None;
    }
}
