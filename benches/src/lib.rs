//! What `cargo xtask bench` measures: the workloads W1 to W5, single kernels, and how they are timed.
//!
//! The programs in `src/bin` each measure one thing in a process of their own and print one line of JSON;
//! `xtask` starts them and makes tables. Everything here uses the public interface of the library only,
//! as the programs in `peers` use that of other engines.

pub mod kernels;
pub mod measure;
pub mod nets;
pub mod workloads;

/// What goes wrong in a measurement is only ever printed.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
