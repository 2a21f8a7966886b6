//! Layers, losses, initialisation, optimisers, schedules, the parameter store and checkpoints: everything
//! of a neural net, written with tensors.
//!
//! This crate deliberately knows **no kernel, no plan and no graphics API**: a layer is a few calls of
//! `versant-graph`, and an optimiser is tensor code on flat buffers. It knows no data set either.

pub mod init;

pub use init::{Gain, Init};
