//! Captured functions: record once, replay without recording.

use std::panic::Location;
use std::sync::Arc;

use versant_device::{Buffer, Device};
use versant_kernels::{DType, Shape, View};

use crate::Tensor;
use crate::error::{GraphError, Result};
use crate::op::Op;
use crate::plan::Plan;
use crate::run::{buffers, capture_for_replay};
use crate::tensor::{State, Value};

/// Where a buffer of the plan comes from at each call.
enum Source {
    Input(usize),
    Constant(Buffer),
}

/// A function of tensors whose plan is fixed.
pub struct Replay {
    device: Device,
    plan: Arc<Plan>,
    inputs: Vec<(Shape, DType)>,
    sources: Vec<Source>,
    scalars: Vec<u32>,
    /// Position among the plan's outputs, extents and type of each result.
    results: Vec<(usize, Shape, DType)>,
}

/// Records `f` once over inputs like `examples` (their values do not matter) and returns what replays it:
/// no recording, no look-up, one submit. Values that `f` takes from elsewhere are frozen as they are now.
///
/// ```
/// use versant_graph::{Device, Tensor, capture};
/// let dev = Device::cpu();
/// let x = Tensor::from_slice(&dev, &[1.0f32, 2.0], &[2]);
/// let double = capture(&dev, &[&x], |v| vec![&v[0] * 2.0])?;
/// let y = Tensor::from_slice(&dev, &[5.0f32, 7.0], &[2]);
/// assert_eq!(double.call(&[&y])?[0].to_vec::<f32>()?, [10.0, 14.0]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
///
/// # Errors
/// An error recorded by `f`, results on another device, or a failing device.
#[track_caller]
pub fn capture(
    device: &Device,
    examples: &[&Tensor],
    f: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
) -> Result<Replay> {
    let location = Location::caller();
    let mut placeholders = Vec::with_capacity(examples.len());
    let mut ids = Vec::with_capacity(examples.len());
    for example in examples {
        if let Some(error) = example.error() {
            return Err(error);
        }
        let buffer = device.alloc(example.numel())?;
        ids.push(buffer.id());
        let value = Value { buffer, view: View::contiguous(example.dims()) };
        placeholders.push(Tensor::from_value(device, value, example.dtype(), location));
    }
    // A result of its own for each output, even where `f` returns an input or one tensor twice.
    let results: Vec<Tensor> = f(&placeholders).iter().map(Tensor::copied).collect();
    for result in &results {
        if let Some(error) = result.error() {
            return Err(error);
        }
        if result.device() != device {
            return Err(GraphError::MixedDevices {
                op: "capture",
                left: device.info().name.clone(),
                right: result.device().info().name.clone(),
                location,
            });
        }
    }
    let (found, plan) = capture_for_replay(device, &results)?;
    let sources = found
        .externals
        .iter()
        .map(|b| match ids.iter().position(|&id| id == b.id()) {
            Some(input) => Source::Input(input),
            None => Source::Constant(b.clone()),
        })
        .collect();
    let place = |t: &Tensor| {
        let mine = |&&o: &&u32| Arc::ptr_eq(&found.nodes[o as usize], &t.node);
        let at = found.outputs.iter().position(|o| mine(&o));
        (at.expect("a root is an output"), t.dims(), t.dtype())
    };
    Ok(Replay {
        device: device.clone(),
        plan,
        inputs: examples.iter().map(|t| (t.dims(), t.dtype())).collect(),
        sources,
        scalars: found.scalars.clone(),
        results: results.iter().map(place).collect(),
    })
}

impl Replay {
    /// Runs the captured function.
    ///
    /// # Errors
    /// Inputs of another number, shape, type or device than the examples, or a failing device.
    #[track_caller]
    pub fn call(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let location = Location::caller();
        let fits = inputs.len() == self.inputs.len()
            && inputs.iter().zip(&self.inputs).all(|(t, (shape, dtype))| {
                t.dims() == *shape && t.dtype() == *dtype && *t.device() == self.device
            });
        if let Some(error) = inputs.iter().find_map(|t| t.error()) {
            return Err(error);
        }
        if !fits {
            return Err(GraphError::Invalid {
                op: "call",
                why: "the inputs differ from those of the capture".to_owned(),
                operands: inputs.iter().map(|t| t.operand()).collect(),
                location,
            });
        }
        let given: Vec<Buffer> = inputs.iter().map(|t| dense_buffer(t)).collect::<Result<_>>()?;
        let externals: Vec<Buffer> = self
            .sources
            .iter()
            .map(|s| match s {
                Source::Input(i) => given[*i].clone(),
                Source::Constant(buffer) => buffer.clone(),
            })
            .collect();
        let (externals, values) = buffers(&self.device, &self.plan, &externals)?;
        self.device.run(&self.plan.prepared, &externals, &self.scalars)?;
        let result = |&(at, shape, dtype): &(usize, Shape, DType)| {
            let value = Value { buffer: values[at].clone(), view: View::contiguous(shape) };
            Tensor::from_value(&self.device, value, dtype, location)
        };
        Ok(self.results.iter().map(result).collect())
    }
}

/// The tensor's elements as a buffer of exactly them, in row-major order.
fn dense_buffer(t: &Tensor) -> Result<Buffer> {
    crate::eval(&[t])?;
    let value = ready(t);
    if value.view.is_identity() && value.buffer.words() == t.numel() {
        return Ok(value.buffer);
    }
    let copy = t.copied();
    crate::eval(&[&copy])?;
    Ok(ready(&copy).buffer)
}

fn ready(t: &Tensor) -> Value {
    match &*t.node.state() {
        State::Ready(value) => (**value).clone(),
        _ => unreachable!("an evaluated tensor is ready"),
    }
}

impl Tensor {
    /// The same elements in a buffer of their own.
    #[track_caller]
    pub(crate) fn copied(&self) -> Tensor {
        let location = Location::caller();
        let op = if self.dtype() == DType::Bool { Op::Cast } else { Op::Bitcast };
        Tensor::record(op, &[self], self.dims(), self.dtype(), location)
    }
}
