//! Nets with trained weights that are around, under the names that the weights' files use, so that they load by name.
//!
//! No weights are part of the library: `cargo xtask data mobilenet-v2` and `silero-vad` fetch these two.

mod mobilenet;
mod silero;

pub use mobilenet::{IMAGENET_MEAN, IMAGENET_STD, MobileNetV2};
pub use silero::{SileroVad, VadState};
