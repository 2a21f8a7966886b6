//! What a device did so far, in numbers that tests can assert.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Totals since a device was opened. Subtract two to see what happened in between.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        /// The live form of [`Counters`].
        #[derive(Debug, Default)]
        pub(crate) struct Meter { $(pub $name: AtomicU64,)* }

        impl Meter {
            pub fn snapshot(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Sub for Counters {
            type Output = Counters;

            /// What happened between `earlier` and `self`.
            fn sub(self, earlier: Counters) -> Counters {
                Counters { $($name: self.$name.saturating_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    /// Shader modules compiled.
    shader_modules,
    /// Compute pipelines made.
    pipelines,
    /// Bind groups made.
    bind_groups,
    /// Buffers for which memory was asked from the driver or the system.
    buffers_allocated,
    /// Buffers served from the pool.
    pool_hits,
    /// Buffers whose memory was given back to the driver or the system.
    buffers_freed,
    /// Recordings prepared.
    prepares,
    /// Submissions of runs. Those that a read-back or a bulk upload may need are not among them.
    submits,
    /// Compute passes.
    passes,
    /// Launches executed; those with an empty grid are not.
    dispatches,
    /// Buffers read back to the host.
    readbacks,
    /// Buffers written by the host, parameters and scalars of runs not counted.
    uploads,
}

/// Adds one.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
