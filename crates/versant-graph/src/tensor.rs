//! The tensor handle and the recorded graph behind it.
//!
//! A [`Tensor`] is a counted handle of a [`Node`]; edges between nodes are plain `Arc`s. The difference
//! tells an evaluation which values somebody can still ask for. Nodes are immutable but for their state,
//! which goes from pending (with inputs) to ready (with a buffer) once.

use std::panic::Location;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use versant_device::{Buffer, Device};
use versant_kernels::{DType, MAX_NUMEL, Shape, View};

use crate::error::{GraphError, Operand, Result};
use crate::op::Op;

/// The inputs of a node: rarely more than three.
pub(crate) type Inputs = SmallVec<[Arc<Node>; 3]>;

/// A realised value: a buffer read through a view.
#[derive(Clone)]
pub(crate) struct Value {
    pub buffer: Buffer,
    pub view: View,
}

/// Where a node is in its life.
pub(crate) enum State {
    /// Recorded, not computed.
    Pending(Inputs),
    /// Computed; the inputs are forgotten. Boxed: most nodes are never ready, and should be small.
    Ready(Box<Value>),
    /// Recorded with an error, which every later operation inherits.
    Failed(Box<GraphError>),
}

/// One recorded operation.
pub(crate) struct Node {
    pub id: u64,
    pub op: Op,
    pub shape: Shape,
    pub dtype: DType,
    pub device: Device,
    pub location: &'static Location<'static>,
    /// Whether the state is failed: it is from the beginning, so no lock is needed to see it.
    pub failed: bool,
    /// The name of a parameter: differentiation stops here and reports a gradient.
    pub parameter: Option<Arc<str>>,
    /// Number of [`Tensor`] handles; edges do not count.
    pub handles: AtomicU32,
    /// Scratch of the traversal that holds the device's plan lock.
    pub mark: AtomicU64,
    state: Mutex<State>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Node {
    pub fn state(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half-written: it is only ever replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inputs of a pending node; empty for any other.
    pub fn inputs(&self) -> Inputs {
        match &*self.state() {
            State::Pending(inputs) => inputs.clone(),
            _ => Inputs::new(),
        }
    }

    pub fn error(&self) -> Option<GraphError> {
        if !self.failed {
            return None;
        }
        match &*self.state() {
            State::Failed(error) => Some((**error).clone()),
            _ => None,
        }
    }

    fn new(draft: Draft, state: State) -> Node {
        Node {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            op: draft.op,
            shape: draft.shape,
            dtype: draft.dtype,
            device: draft.device,
            location: draft.location,
            failed: matches!(state, State::Failed(_)),
            parameter: None,
            handles: AtomicU32::new(0),
            mark: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }
}

/// The fixed part of a node about to be made.
struct Draft {
    op: Op,
    shape: Shape,
    dtype: DType,
    device: Device,
    location: &'static Location<'static>,
}

/// Takes a dying node's inputs apart one by one: a chain of a million nodes must not recurse.
impl Drop for Node {
    fn drop(&mut self) {
        let mut dying = take_inputs(&mut self.state);
        while let Some(node) = dying.pop() {
            // Just one of several last owners gets the node, weak links or not, and empties it before it is dropped itself.
            if let Some(mut node) = Arc::into_inner(node) {
                dying.append(&mut take_inputs(&mut node.state));
            }
        }
    }
}

fn take_inputs(state: &mut Mutex<State>) -> Inputs {
    match state.get_mut().unwrap_or_else(PoisonError::into_inner) {
        State::Pending(inputs) => std::mem::take(inputs),
        _ => Inputs::new(),
    }
}

/// A multi-dimensional array on a device, or the recipe of one.
///
/// Cloning shares the value. Recording methods never fail and never panic: a mistake is kept in the
/// result and returned by the first call that needs a value ([`Tensor::to_vec`], [`Tensor::item`],
/// [`Tensor::backward`], [`crate::eval`]), with the operation, both shapes and the caller's line.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let a = Tensor::from_slice(&dev, &[1.0f32, 2.0, 3.0], &[3]);
/// let b = (&a * 2.0 + 1.0).exp().ln();
/// assert_eq!(b.shape(), &[3]);
/// assert!((b.to_vec::<f32>()?[2] - 7.0).abs() < 1e-4);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
pub struct Tensor {
    pub(crate) node: Arc<Node>,
}

impl Clone for Tensor {
    fn clone(&self) -> Tensor {
        Tensor::from_node(Arc::clone(&self.node))
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.node.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &*self.node.state() {
            State::Pending(_) => "pending",
            State::Ready(_) => "ready",
            State::Failed(_) => "failed",
        };
        write!(f, "Tensor({} {}{}, {state})", self.node.op.name(), self.dtype(), self.node.shape)
    }
}

impl Tensor {
    pub(crate) fn from_node(node: Arc<Node>) -> Tensor {
        node.handles.fetch_add(1, Ordering::Relaxed);
        Tensor { node }
    }

    /// A realised leaf.
    pub(crate) fn from_value(
        device: &Device,
        value: Value,
        dtype: DType,
        location: &'static Location<'static>,
    ) -> Tensor {
        let shape = value.view.shape;
        let device = device.clone();
        let draft = Draft { op: Op::Buffer, shape, dtype, device, location };
        Tensor::from_node(Arc::new(Node::new(draft, State::Ready(Box::new(value)))))
    }

    /// A node without inputs.
    pub(crate) fn leaf(
        device: &Device,
        op: Op,
        shape: Shape,
        dtype: DType,
        location: &'static Location<'static>,
    ) -> Tensor {
        let draft = Draft { op, shape, dtype, device: device.clone(), location };
        Tensor::from_node(Arc::new(Node::new(draft, State::Pending(Inputs::new()))))
    }

    /// A tensor that carries an error; its shape is that of a scalar. For layers and functions of other
    /// crates, whose own mistakes then surface where a value is asked for, like those of any operation.
    #[must_use]
    pub fn failed(device: &Device, error: GraphError) -> Tensor {
        let location = Location::caller();
        let device = device.clone();
        let draft = Draft { op: Op::Buffer, shape: Shape::SCALAR, dtype: DType::F32, device, location };
        Tensor::from_node(Arc::new(Node::new(draft, State::Failed(Box::new(error)))))
    }

    /// An error about these operands at this line.
    pub(crate) fn invalid(
        op: &'static str,
        operands: &[&Tensor],
        location: &'static Location<'static>,
        why: impl Into<String>,
    ) -> Tensor {
        let inherited = operands.iter().find_map(|t| t.node.error());
        let error = inherited.unwrap_or_else(|| GraphError::Invalid {
            op,
            why: why.into(),
            operands: operands.iter().map(|t| t.operand()).collect(),
            location,
        });
        Tensor::failed(operands[0].device(), error)
    }

    /// Records an operation whose result has this shape and type. Errors of the inputs are inherited.
    pub(crate) fn record(
        op: Op,
        inputs: &[&Tensor],
        shape: Shape,
        dtype: DType,
        location: &'static Location<'static>,
    ) -> Tensor {
        let device = inputs[0].device();
        for input in inputs {
            if let Some(error) = input.error() {
                return Tensor::failed(device, error);
            }
            if input.device() != device {
                let error = GraphError::MixedDevices {
                    op: op.name(),
                    left: device.info().name.clone(),
                    right: input.device().info().name.clone(),
                    location,
                };
                return Tensor::failed(device, error);
            }
        }
        if shape.numel() > MAX_NUMEL {
            let why = format!("the result {shape} would have more than 2^31 - 1 elements");
            return Tensor::invalid(op.name(), inputs, location, why);
        }
        let draft = Draft { op, shape, dtype, device: device.clone(), location };
        let edges = inputs.iter().map(|t| Arc::clone(&t.node)).collect();
        Tensor::from_node(Arc::new(Node::new(draft, State::Pending(edges))))
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.node.shape.dims()
    }

    /// The extents as a value.
    pub(crate) fn dims(&self) -> Shape {
        self.node.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.node.shape.rank()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.node.shape.numel()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.node.dtype
    }

    /// The device that holds the value, or will.
    pub fn device(&self) -> &Device {
        &self.node.device
    }

    /// The error that this tensor carries, if a mistake was recorded.
    pub fn error(&self) -> Option<GraphError> {
        self.node.error()
    }

    /// The parameter's name, if this is one.
    pub fn parameter_name(&self) -> Option<&str> {
        self.node.parameter.as_deref()
    }

    /// This tensor as one operand of a message.
    pub(crate) fn operand(&self) -> Operand {
        Operand { dtype: self.dtype(), shape: self.shape().to_vec() }
    }

    /// Whether the value is computed (and not only recorded).
    pub fn is_ready(&self) -> bool {
        matches!(&*self.node.state(), State::Ready(_))
    }

    /// A realised tensor as a named parameter: a leaf by which [`Tensor::backward`] differentiates. The
    /// buffer is shared. A pending tensor is evaluated first.
    ///
    /// # Errors
    /// Whatever evaluating the tensor returns.
    #[track_caller]
    pub fn into_parameter(self, name: impl Into<Arc<str>>) -> Result<Tensor> {
        let location = Location::caller();
        crate::eval(&[&self])?;
        let value = match &*self.node.state() {
            State::Ready(value) => (**value).clone(),
            _ => unreachable!("an evaluated tensor is ready"),
        };
        let draft = Draft {
            op: Op::Buffer,
            shape: self.dims(),
            dtype: self.dtype(),
            device: self.device().clone(),
            location,
        };
        let mut node = Node::new(draft, State::Ready(Box::new(value)));
        node.parameter = Some(name.into());
        Ok(Tensor::from_node(Arc::new(node)))
    }
}
