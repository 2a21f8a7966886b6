//! Tensors that record what is done to them, differentiate it, and run it as fused plans.
//!
//! This crate deliberately knows **no layer, no optimiser and no data set** (those are written with its
//! tensors), and **no graphics API** (that is `versant-device`).
//!
//! Read in this order: [`op`] → [`ops::elementwise`] → [`interp`] → [`autodiff`] → `vjp` → `capture` → `ir` →
//! `lower` → `stored` → `fuse` → `remat` → `memory` → `plan` → `run`; then `scan` → `scan_vjp` → `loops`.

pub mod autodiff;
mod batch;
mod capture;
mod error;
mod explain;
mod fuse;
mod halves;
pub mod interp;
mod ir;
mod launches;
mod loops;
mod lower;
mod memory;
pub mod op;
pub mod ops;
mod order;
mod plan;
mod problem;
mod remat;
mod replay;
mod run;
mod scan;
mod scan_vjp;
mod stored;
mod tensor;
mod tune;
mod vjp;

pub use autodiff::{Gradients, grad_of};
pub use error::{GraphError, Operand, Result};
pub use explain::{Explanation, LaunchNote, Measured};
pub use ops::attention::Attention;
pub use ops::contraction::ConvOptions;
pub use ops::create::Element;
pub use ops::half::Half;
pub use ops::pooling::PoolOptions;
pub use replay::{Replay, capture};
pub use run::{
    PlanStats, eval, explain, explain_timed, is_planned, latest_plan, plan_stats, set_fusion, set_recomputing,
};
pub use scan::{scan, scan_reversed};
pub use tensor::Tensor;
pub use tune::{Excluded, excluded_variants, set_precision, set_tuning};
pub use versant_device::{
    AdapterClass, Backend, Counters, Device, DeviceError, DeviceInfo, DeviceKind, DeviceOptions, MemoryStats,
    Select,
};
pub use versant_kernels::{DType, MAX_RANK, MapFn, RandomKey, ReduceKind, Shape, View, lanes, math, random};
