//! Layers, losses, initialisation, optimisers, schedules, the parameter store, checkpoints and generation: everything
//! of a neural net, written with tensors.
//!
//! This crate deliberately knows **no kernel, no plan and no graphics API**: a layer is a few calls of
//! `versant-graph`, and an optimiser is tensor code on flat buffers. It knows no data set either.

pub mod attribution;
pub mod checkpoint;
pub mod clip;
pub mod ensemble;
mod error;
mod fault;
mod file;
pub mod generate;
pub mod init;
pub mod layers;
pub mod loss;
pub mod mixed;
pub mod models;
pub mod optim;
pub mod params;
pub mod schedule;
pub mod torch;

pub use checkpoint::{Checkpoint, Latest};
pub use clip::{clip_grad_norm, clip_grad_value};
pub use error::{NnError, Result};
pub use init::{Gain, Init};
pub use layers::{Mode, Module};
pub use loss::Losses;
pub use optim::{
    Adagrad, Adam, AdamW, Adamax, Average, Lamb, Lion, Muon, NAdam, Optimizer, OptimizerState, ParamGroup,
    RmsProp, Sgd,
};
pub use params::{HostMap, HostTensor, LoadReport, Param, Params, RandomSource, Scope, Seed};
pub use schedule::{Plateau, Schedule};
