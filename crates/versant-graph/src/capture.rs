//! From live tensors to a plan's key: the pending graph above some roots, in canonical order.
//!
//! Everything here runs on every evaluation, so it is one pass with scratch marks in the nodes (guarded by
//! the device's plan lock) and no hash map over nodes.

use std::hash::{Hash, Hasher};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;
use versant_device::Buffer;
use versant_kernels::{DType, Shape, View};

use crate::error::{GraphError, Result};
use crate::op::Op;
use crate::tensor::{Node, State, Value};

/// One node of a key.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct KeyNode {
    pub op: Op,
    pub shape: Shape,
    pub dtype: DType,
    pub inputs: SmallVec<[u32; 3]>,
    /// For a realised leaf: which external buffer, read how.
    pub leaf: Option<(u32, View)>,
}

/// The canonical structure of a pending graph: what a plan depends on, and nothing else.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Key {
    /// Inputs before users.
    pub nodes: Vec<KeyNode>,
    /// Nodes to materialise.
    pub outputs: Vec<u32>,
    /// Words of each external buffer, and whether the plan may overwrite it.
    pub externals: Vec<(usize, bool)>,
    /// Whether an external may be overwritten by the output of the same number only: those of a loop's carries.
    pub paired: bool,
}

/// A captured graph: the live nodes beside what a key is made of.
pub(crate) struct Capture {
    pub nodes: Vec<Arc<Node>>,
    /// Where the inputs of each node end in `edges`.
    ends: Vec<u32>,
    edges: Vec<u32>,
    leaves: Vec<Option<(u32, View)>>,
    pub outputs: Vec<u32>,
    pub externals: Vec<Buffer>,
    donated: Vec<bool>,
    /// Values of the host scalars in order of the nodes.
    pub scalars: Vec<u32>,
    pub hash: u64,
}

/// Most pending nodes between a value and what is computed, for it to be computed alongside.
const NEAR: usize = 64;

/// Walks from `roots` to the realised leaves, and from those of `alongside` that depend on what is found. The caller holds
/// the device's plan lock; `epoch` is new for every call.
pub(crate) fn capture(roots: &[Arc<Node>], alongside: &[Arc<Node>], epoch: u32) -> Result<Capture> {
    let mut walk = Walk {
        epoch: u64::from(epoch) << 32,
        found: Capture {
            nodes: Vec::new(),
            ends: Vec::new(),
            edges: Vec::new(),
            leaves: Vec::new(),
            outputs: Vec::new(),
            externals: Vec::new(),
            donated: Vec::new(),
            scalars: Vec::new(),
            hash: 0,
        },
        uses: Vec::new(),
        buffers: FxHashMap::default(),
    };
    for root in roots {
        walk.visit(root)?;
    }
    for node in alongside {
        if walk.leads_to(node) {
            walk.visit(node)?;
        }
    }
    walk.finish(roots);
    Ok(walk.found)
}

struct Walk {
    epoch: u64,
    found: Capture,
    /// Edges of the plan that end at each node.
    uses: Vec<u32>,
    buffers: FxHashMap<u64, u32>,
}

impl Walk {
    /// The position of a node that this walk has numbered.
    fn index(&self, node: &Node) -> Option<usize> {
        let mark = node.mark.load(Ordering::Relaxed);
        (mark & !0xffff_ffff == self.epoch).then_some((mark & 0xffff_ffff) as usize)
    }

    /// Whether a node that is not found yet depends on one that is and will be computed, with few others between.
    fn leads_to(&self, node: &Arc<Node>) -> bool {
        let (mut stack, mut seen) = (vec![Arc::clone(node)], Vec::new());
        let mut leads = false;
        while let Some(node) = stack.pop() {
            if let Some(i) = self.index(&node) {
                // What is there already, or made of nothing, says nothing.
                leads |= self.found.leaves[i].is_none() && !self.found.node_inputs(i).is_empty();
                continue;
            }
            if seen.contains(&node.id) {
                continue;
            }
            seen.push(node.id);
            match &*node.state() {
                State::Ready(_) => {}
                State::Pending(inputs) if seen.len() <= NEAR && !matches!(node.op, Op::Hole) => {
                    stack.extend(inputs.iter().cloned());
                }
                _ => return false,
            }
        }
        leads
    }

    fn visit(&mut self, root: &Arc<Node>) -> Result<()> {
        let mut stack: Vec<(Arc<Node>, bool)> = vec![(Arc::clone(root), false)];
        while let Some((node, expanded)) = stack.pop() {
            if self.index(&node).is_some() {
                continue;
            }
            let below = stack.len();
            if !expanded {
                match &*node.state() {
                    State::Failed(error) => return Err((**error).clone()),
                    State::Ready(_) => {}
                    State::Pending(_) if matches!(node.op, Op::Hole) => {
                        return Err(GraphError::Escaped { location: node.location });
                    }
                    State::Pending(inputs) => {
                        let new = inputs.iter().rev().filter(|i| self.index(i).is_none());
                        stack.extend(new.map(|i| (Arc::clone(i), false)));
                    }
                }
            }
            if stack.len() == below {
                self.number(node);
            } else {
                stack.insert(below, (node, true));
            }
        }
        Ok(())
    }

    /// Gives the node its number and mixes it into the hash.
    fn number(&mut self, node: Arc<Node>) {
        if matches!(node.op, Op::View(_)) && node.handles.load(Ordering::Relaxed) > 0 {
            alias(&node);
        }
        let index = self.found.nodes.len() as u64;
        node.mark.store(self.epoch | index, Ordering::Relaxed);
        let mut hasher = FxHasher::default();
        (node.dtype, node.shape).hash(&mut hasher);
        let leaf = match &*node.state() {
            State::Ready(value) => Some(self.leaf(value, &mut hasher)),
            State::Pending(inputs) => {
                node.op.hash(&mut hasher);
                for input in inputs {
                    let at = self.index(input).expect("inputs are numbered before their users");
                    self.uses[at] += 1;
                    self.found.edges.push(at as u32);
                    at.hash(&mut hasher);
                }
                None
            }
            State::Failed(_) => unreachable!("a failed node ends the walk"),
        };
        if let (Op::Scalar(word), None) = (&node.op, &leaf) {
            self.found.scalars.push(*word);
        }
        let mixed = self.found.hash.rotate_left(5) ^ hasher.finish();
        self.found.hash = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.found.leaves.push(leaf);
        self.found.ends.push(self.found.edges.len() as u32);
        self.found.nodes.push(node);
        self.uses.push(0);
    }

    /// Numbers the buffer of a realised value.
    fn leaf(&mut self, value: &Value, hasher: &mut FxHasher) -> (u32, View) {
        let next = self.found.externals.len() as u32;
        let external = *self.buffers.entry(value.buffer.id()).or_insert(next);
        if external == next {
            self.found.externals.push(value.buffer.clone());
        }
        (external, &value.view).hash(hasher);
        (external, value.view.clone())
    }

    /// Chooses the outputs and finds the buffers that nobody else will ever read.
    fn finish(&mut self, roots: &[Arc<Node>]) {
        let roots: Vec<usize> = roots.iter().filter_map(|r| self.index(r)).collect();
        let found = &mut self.found;
        let mut is_output = vec![false; found.nodes.len()];
        for (i, node) in found.nodes.iter().enumerate() {
            let computed = found.leaves[i].is_none() && !found.node_inputs(i).is_empty();
            is_output[i] = computed && node.handles.load(Ordering::Relaxed) > 0;
            debug_assert!(!is_output[i] || !matches!(node.op, Op::Scan(_)), "nobody holds a scan itself");
        }
        for i in roots {
            is_output[i] = found.leaves[i].is_none();
        }
        found.outputs = (0..found.nodes.len() as u32).filter(|&i| is_output[i as usize]).collect();
        // A node that outlives this evaluation unmaterialised keeps its leaves readable.
        let mut outlives = vec![false; found.nodes.len()];
        let mut donated = vec![true; found.externals.len()];
        let mut leaf_owners = vec![1; found.externals.len()];
        for i in (0..found.nodes.len()).rev() {
            // Every edge of the plan is an owner, and so is this capture; any other outlives the plan.
            let own = Arc::strong_count(&found.nodes[i]) != self.uses[i] as usize + 1;
            outlives[i] |= own && !is_output[i];
            if let Some((external, _)) = &found.leaves[i] {
                leaf_owners[*external as usize] += 1;
                donated[*external as usize] &= !outlives[i];
            }
            if outlives[i] {
                for &at in found.node_inputs(i) {
                    outlives[at as usize] |= !is_output[at as usize];
                }
            }
        }
        for ((donated, buffer), owners) in donated.iter_mut().zip(&found.externals).zip(leaf_owners) {
            *donated &= buffer.owners() == owners;
        }
        found.donated = donated;
    }
}

/// A view of a realised tensor that somebody holds becomes realised itself, sharing the buffer.
fn alias(node: &Node) {
    let inputs = node.inputs();
    let (Op::View(movement), Some(base)) = (&node.op, inputs.first()) else {
        return;
    };
    let value = match &*base.state() {
        State::Ready(value) => value.clone(),
        _ => return,
    };
    let view = movement.view(base.shape, node.shape).compose(&value.view);
    if let Some(view) = view.filter(|v| v.guards.is_empty()) {
        *node.state() = State::Ready(Box::new(Value { buffer: value.buffer, view }));
    }
}

impl Capture {
    fn node_inputs(&self, i: usize) -> &[u32] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.edges[start as usize..self.ends[i] as usize]
    }

    /// Whether this graph has exactly the structure of `key`.
    pub fn matches(&self, key: &Key) -> bool {
        self.nodes.len() == key.nodes.len()
            && self.outputs == key.outputs
            && self.externals.len() == key.externals.len()
            && self.externals.iter().zip(&self.donated).zip(&key.externals).all(
                |((buffer, donated), (words, key_donated))| {
                    buffer.words() == *words && donated == key_donated
                },
            )
            && self.nodes.iter().zip(&key.nodes).enumerate().all(|(i, (node, key))| {
                node.shape == key.shape
                    && node.dtype == key.dtype
                    && self.leaves[i] == key.leaf
                    && (key.leaf.is_some() || node.op == key.op)
                    && *self.node_inputs(i) == *key.inputs
            })
    }

    /// The key, and the source line of each node.
    pub fn to_key(&self) -> (Key, Vec<&'static Location<'static>>) {
        let nodes = (0..self.nodes.len())
            .map(|i| KeyNode {
                op: if self.leaves[i].is_some() { Op::Buffer } else { self.nodes[i].op.clone() },
                shape: self.nodes[i].shape,
                dtype: self.nodes[i].dtype,
                inputs: self.node_inputs(i).into(),
                leaf: self.leaves[i].clone(),
            })
            .collect();
        let words = self.externals.iter().map(Buffer::words);
        let externals = words.zip(self.donated.iter().copied()).collect();
        let key = Key { nodes, outputs: self.outputs.clone(), externals, paired: false };
        (key, self.nodes.iter().map(|n| n.location).collect())
    }

    /// Lets the plan overwrite nothing: its inputs are given again at the next call.
    pub fn keep_inputs(&mut self) {
        self.donated.fill(false);
    }

    /// The live nodes of the outputs, to hand the results to.
    pub fn outputs(&self) -> Vec<Arc<Node>> {
        self.outputs.iter().map(|&i| Arc::clone(&self.nodes[i as usize])).collect()
    }
}
