//! The recording methods of [`crate::Tensor`], by group of the op vocabulary.

pub mod attention;
pub mod composite;
pub mod contraction;
pub mod create;
pub mod elementwise;
pub mod half;
pub mod indexing;
pub mod movement;
pub mod operators;
pub mod pooling;

pub mod reduce;
pub mod sorting;
