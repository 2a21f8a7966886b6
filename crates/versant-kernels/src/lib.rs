//! Kernel families: for each, its WGSL, its applicability, its cost and a native CPU twin.
//!
//! This crate deliberately knows **no graph** (no tensors, no autodiff) and **no wgpu**: it turns a
//! description of work into a [`KernelSource`], which is text for a GPU and a function for the CPU.
//!
//! Read in this order: [`dtype`] → [`shape`] → [`view`] → [`program`] → `emit` (WGSL) → `eval` (CPU)
//! → `contract` (matmul and convolution) → the small families.

pub mod attention;
pub mod contract;
pub mod dtype;
pub mod emit;
pub mod eval;
pub mod families;
pub mod fold;
pub mod lanes;
pub mod math;
pub mod program;
pub mod random;
pub mod shape;
pub mod source;
mod stream;
pub mod view;

pub use contract::{
    ContractLaunch, Contraction, ContractionKernels, Conv, ConvKind, MatMul, Operand, VariantId, contraction,
};
pub use dtype::DType;
pub use emit::{Epilogue, ParamBlock, epilogue_wgsl, join, program_beside, program_wgsl, row_probes};
pub use eval::program_native;
pub use families::cumsum::{CumSum, cumsum};
pub use families::fold_windows::{FoldWindows, fold_windows};
pub use families::scatter::{IndexForm, ScatterAdd, scatter_add};
pub use families::sort::{ArgSort, SortPass, argsort, sort_passes};
pub use fold::fold;
pub use program::{Block, Instr, InstrKind, MapFn, Program, ReduceKind, ReduceOut, Reg, Step, Store};
pub use random::RandomKey;
pub use shape::{MAX_NUMEL, MAX_RANK, Shape};
pub use source::{Caps, Class, KernelSource, NativeFn, Precision, Target};
pub use view::{Guard, View};
