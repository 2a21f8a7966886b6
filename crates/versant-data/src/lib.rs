//! Data sets, loader, transforms, splits and metrics.
//!
//! Everything up to the last step lives in host memory; only a batch that is about to be used becomes tensors.
//! This crate deliberately does **not** know layers, losses or optimisers, and never uses the network.
//!
//! Files are taken as hostile: readers bound what they read, allocate for what is there rather than for what a
//! header claims, and answer with a [`ReadError`] that names the place.
//!
//! Read in this order: [`dataset`] → [`idx`], [`csv`] → [`fashion_mnist`], [`digits`] → [`transform`],
//! [`normalise`], [`split`] → [`loader`] → [`Batch`] → [`metrics`].

mod batch;
pub mod csv;
pub mod dataset;
pub mod digits;
mod error;
pub mod fashion_mnist;
pub mod file;
pub mod idx;
pub mod loader;
pub mod metrics;
pub mod normalise;
pub mod split;
pub mod transform;

pub use batch::{Batch, Batches};
pub use dataset::{Dataset, Image, Images, Parts};
pub use error::{DataError, ReadError, Result};
pub use loader::{Epoch, HostBatch, Loader};
pub use metrics::{ConfusionMatrix, RunningMean, accuracy, top_k_accuracy};
pub use normalise::Normalisation;
pub use split::Split;
pub use transform::{RandomCrop, RandomFlip, RandomShift, SampleRng, Transform};
