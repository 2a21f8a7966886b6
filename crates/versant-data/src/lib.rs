//! Data sets, loader, transforms, splits and metrics, for pictures, tables, texts and sounds.
//!
//! Everything up to the last step lives in host memory; only a batch that is about to be used becomes tensors.
//! This crate deliberately does **not** know layers, losses or optimisers, and never uses the network.
//!
//! Files are taken as hostile: readers bound what they read, allocate for what is there rather than for what a
//! header claims, and answer with a [`ReadError`] that names the place.
//!
//! Read in this order: [`dataset`] → [`idx`], [`csv`], [`encode`], [`picture`], [`voc`] → [`fashion_mnist`], [`digits`],
//! [`sets`] → [`transform`], [`augment`], [`normalise`], [`split`], [`sampling`] → [`loader`] → [`Batch`] →
//! [`metrics`]. [`text`] and [`audio`] stand by themselves.

pub mod audio;
pub mod augment;
mod batch;
pub mod csv;
pub mod dataset;
pub mod digits;
pub mod encode;
mod error;
pub mod fashion_mnist;
pub mod file;
pub mod idx;
pub mod loader;
pub mod metrics;
mod mix;
pub mod normalise;
pub mod picture;
pub mod sampling;
pub mod sets;
pub mod split;
pub mod text;
pub mod transform;
pub mod voc;

pub use batch::{Batch, Batches};
pub use dataset::{Dataset, Image, Images, Parts};
pub use error::{DataError, ReadError, Result};
pub use loader::{Epoch, HostBatch, Loader};
pub use metrics::{ConfusionMatrix, RunningMean, accuracy, top_k_accuracy};
pub use mix::Mix;
pub use normalise::Normalisation;
pub use sampling::{Fold, KFold, class_weights};
pub use split::Split;
pub use transform::{RandomCrop, RandomFlip, RandomShift, SampleRng, Transform};
