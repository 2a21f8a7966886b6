//! Reverse-mode differentiation: the walk. The rules are in `vjp.rs`; a gradient is a graph like any other
//! and can be differentiated again.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;

use crate::Tensor;
use crate::error::{GraphError, Result};
use crate::op::{Movement, Op};
use crate::ops::half::kept_as;
use crate::scan::Item;
use crate::scan_vjp::Pull;
use crate::tensor::{Node, State};
use crate::vjp::vjp;

/// The gradients of a loss by the parameters it reaches, recorded and not yet computed.
#[derive(Clone, Debug)]
pub struct Gradients {
    loss: Tensor,
    by_node: HashMap<u64, Tensor>,
    names: Vec<(Arc<str>, u64)>,
}

impl Gradients {
    /// What was differentiated. An optimiser computes it with its step: later its own plan would repeat the
    /// forward pass, and until then the old parameters would have to be kept for it.
    pub fn loss(&self) -> &Tensor {
        &self.loss
    }

    /// The gradient of this parameter, if the loss reaches it.
    pub fn get(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.by_node.get(&parameter.node.id)
    }

    /// Every reached parameter's name with its gradient, in the order of the graph.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(|(name, id)| (&**name, &self.by_node[id]))
    }

    /// Applies `f` to every gradient: clipping, scaling.
    #[must_use]
    pub fn map(mut self, mut f: impl FnMut(&Tensor) -> Tensor) -> Gradients {
        for (_, id) in &self.names {
            let changed = f(&self.by_node[id]);
            self.by_node.insert(*id, changed);
        }
        self
    }

    /// Number of gradients.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the loss reached no parameter.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// The pending graph above a tensor, inputs before users.
pub(crate) struct Tape {
    nodes: Vec<Arc<Node>>,
    inputs: Vec<Vec<usize>>,
    index: HashMap<u64, usize>,
    /// Whether gradients of slices that make up a whole are joined.
    joins: bool,
}

impl Tape {
    /// Walks the graph with an explicit stack: depth must not overflow it.
    pub fn new(roots: &[&Tensor], joins: bool) -> Tape {
        let mut tape = Tape { nodes: Vec::new(), inputs: Vec::new(), index: HashMap::new(), joins };
        let mut stack: Vec<_> = roots.iter().map(|t| (Arc::clone(&t.node), false)).collect();
        while let Some((node, expanded)) = stack.pop() {
            if tape.index.contains_key(&node.id) {
                continue;
            }
            let inputs = node.inputs();
            if expanded || inputs.is_empty() {
                tape.inputs.push(inputs.iter().map(|i| tape.index[&i.id]).collect());
                tape.index.insert(node.id, tape.nodes.len());
                tape.nodes.push(node);
            } else {
                stack.push((node, true));
                stack.extend(inputs.into_iter().rev().map(|i| (i, false)));
            }
        }
        tape
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Where a tensor is, if the walk met it.
    pub fn find(&self, t: &Tensor) -> Option<usize> {
        self.index.get(&t.node.id).copied()
    }

    /// Where a root is.
    pub fn at(&self, root: &Tensor) -> usize {
        self.index[&root.node.id]
    }

    /// The sum of what arrived at a node. In the body of a scan, where the slices of a product's result are worked on by
    /// one kernel, pieces that make up a whole are joined: that kernel then writes the whole.
    fn total(&self, parts: Vec<Tensor>) -> Option<Tensor> {
        if let Some((pieces, axis)) = pieces(&parts).filter(|_| self.joins) {
            return Some(Tensor::cat(&pieces.iter().collect::<Vec<_>>(), axis));
        }
        parts.into_iter().reduce(|sum, more| sum + more)
    }

    /// Which nodes depend on a wanted one, or are it, where a gradient flows.
    pub fn leads(&self, wanted: &[bool]) -> Vec<bool> {
        let mut leads = wanted.to_vec();
        for i in 0..self.nodes.len() {
            let from = match self.nodes[i].op {
                Op::Detach => &[],
                Op::Custom(_) => &self.inputs[i][1..],
                _ => &self.inputs[i][..],
            };
            leads[i] |= from.iter().any(|&j| leads[j]);
        }
        leads
    }

    /// Cotangents of the wanted nodes, from those of some others.
    pub fn pull_back(
        &self,
        seeds: Vec<(usize, Tensor)>,
        wanted: &[bool],
        location: &'static Location<'static>,
    ) -> Result<Vec<Option<Tensor>>> {
        let leads = self.leads(wanted);
        let mut arrived: Vec<Vec<Tensor>> = vec![Vec::new(); self.nodes.len()];
        let mut cotangents: Vec<Option<Tensor>> = vec![None; self.nodes.len()];
        seeds.into_iter().for_each(|(at, seed)| arrived[at].push(seed));
        // What is kept in 16 bits is what a gradient sees: the exact value is not kept for it.
        let mut kept: HashMap<usize, usize> = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let mut from = kept_as(&node.op).and_then(|_| self.inputs[i].first());
            while let Some(&j) = from {
                kept.insert(j, i);
                // A rule of its own asks for what it is the gradient of by another name.
                from = matches!(self.nodes[j].op, Op::Custom(_)).then(|| &self.inputs[j][0]);
            }
        }
        let seen = |j: usize| Tensor::from_node(Arc::clone(&self.nodes[*kept.get(&j).unwrap_or(&j)]));
        // What arrives at the results of each scan, until its turn comes.
        let mut items: HashMap<usize, Vec<(Item, Tensor)>> = HashMap::new();
        for i in (0..self.nodes.len()).rev() {
            let node = &self.nodes[i];
            let worthwhile = leads[i] && self.inputs[i].iter().any(|&j| leads[j]);
            let parts = std::mem::take(&mut arrived[i]);
            let g = if worthwhile || wanted[i] { self.total(parts) } else { None };
            if wanted[i] {
                cotangents[i].clone_from(&g);
            }
            if !worthwhile {
                continue;
            }
            let x: Vec<Tensor> = self.inputs[i].iter().map(|&j| seen(j)).collect();
            let y = match node.op {
                Op::Scan(_) => Tensor::from_node(Arc::clone(node)),
                _ => seen(i),
            };
            let need: Vec<bool> = self.inputs[i].iter().map(|&j| leads[j]).collect();
            let grads = match (&node.op, g) {
                (Op::Item(item), Some(g)) => {
                    items.entry(self.inputs[i][0]).or_default().push((*item, g));
                    continue;
                }
                (Op::Scan(body), _) => {
                    let Some(given) = items.remove(&i) else { continue };
                    Pull { scan: &y, body, x: &x, need: &need, given, location }.gradients()?
                }
                (_, Some(g)) => vjp(node, &g, &x, &y, &need).ok_or(GraphError::NoDerivative {
                    op: node.op.name(),
                    recorded: node.location,
                    location,
                })?,
                (_, None) => continue,
            };
            for ((&j, x), grad) in self.inputs[i].iter().zip(&x).zip(grads) {
                let Some(grad) = grad.filter(|_| leads[j] && x.dtype().is_float()) else {
                    continue;
                };
                arrived[j].push(fit(grad, x, node.location));
            }
        }
        Ok(cotangents)
    }
}

/// The pieces that these are, each with zeros around it, and the axis along which they make up the whole.
fn pieces(parts: &[Tensor]) -> Option<(Vec<Tensor>, usize)> {
    let mut placed: Vec<(usize, Tensor)> = Vec::new();
    let mut along = None;
    for part in parts {
        let Op::View(movement) = &part.node.op else { return None };
        let Movement::Pad(before) = **movement else { return None };
        let piece = Tensor::from_node(part.node.inputs().pop()?);
        let mut axes = (0..part.rank()).filter(|&a| piece.shape()[a] != part.shape()[a]);
        let axis = axes.next().filter(|a| axes.next().is_none() && along.is_none_or(|known| known == *a))?;
        along = Some(axis);
        placed.push((before[axis], piece));
    }
    let axis = along?;
    placed.sort_by_key(|p| p.0);
    let end = placed.iter().try_fold(0, |end, (start, p)| (*start == end).then(|| end + p.shape()[axis]));
    (end == parts.first().map(|p| p.shape()[axis])).then(|| (placed.into_iter().map(|p| p.1).collect(), axis))
}

/// A rank-0 operand of a map was broadcast: its gradient is the sum.
fn fit(grad: Tensor, x: &Tensor, location: &'static Location<'static>) -> Tensor {
    if grad.dims() == x.dims() {
        grad
    } else if x.rank() == 0 {
        grad.sum_all()
    } else {
        grad.broadcast_to(x.shape()).shaped(x.shape(), location)
    }
}

const EVALUATED: &str =
    " (a tensor that was already evaluated has forgotten its inputs: differentiate first)";

impl Tensor {
    /// The gradients of this loss (one element, f32) by every parameter it depends on.
    ///
    /// # Errors
    /// An error recorded in the loss; a loss that is no single f32; a loss that reaches no parameter; an
    /// operation without derivative on the way.
    #[track_caller]
    pub fn backward(&self) -> Result<Gradients> {
        let location = Location::caller();
        check_differentiable(self, location)?;
        if self.numel() != 1 {
            let why = "the loss must have one element; take its sum or mean";
            return Err(invalid("backward", self, why, location));
        }
        let tape = Tape::new(&[self], false);
        let wanted: Vec<bool> = tape.nodes.iter().map(|n| n.parameter.is_some()).collect();
        if !wanted.contains(&true) {
            let what = "any parameter".to_owned();
            return Err(GraphError::NotReached { what, location, hint: hint(self) });
        }
        let seed = Tensor::number(self, 1.0).broadcast_to(self.shape());
        let cotangents = tape.pull_back(vec![(tape.len() - 1, seed)], &wanted, location)?;
        let loss = self.clone();
        let mut grads = Gradients { loss, by_node: HashMap::new(), names: Vec::new() };
        for (node, grad) in tape.nodes.iter().zip(cotangents) {
            if let (Some(name), Some(grad)) = (&node.parameter, grad) {
                grads.names.push((Arc::clone(name), node.id));
                grads.by_node.insert(node.id, grad);
            }
        }
        if grads.is_empty() {
            // Every way to a parameter is cut, by a detach or by integers.
            let what = "any parameter".to_owned();
            return Err(GraphError::NotReached { what, location, hint: "" });
        }
        Ok(grads)
    }

    /// This value, with a user's own vector-Jacobian product: `rule` takes the output's gradient and
    /// returns one gradient (or none) for each of `inputs`. `name` appears in messages. How this tensor was
    /// computed is ignored by differentiation.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor, grad_of};
    /// let dev = Device::cpu();
    /// let x = Tensor::from_slice(&dev, &[0.4f32, 1.6], &[2]);
    /// // Rounding with the straight-through estimator (Bengio et al., 2013).
    /// let y = x.round().with_vjp("round_ste", &[&x], |g| vec![Some(g.clone())]);
    /// let g = &grad_of(&y.sum_all(), &[&x])?[0];
    /// assert_eq!(g.to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    #[track_caller]
    #[must_use]
    pub fn with_vjp(
        &self,
        name: &'static str,
        inputs: &[&Tensor],
        rule: impl Fn(&Tensor) -> Vec<Option<Tensor>> + Send + Sync + 'static,
    ) -> Tensor {
        self.with_vjp_of(name, inputs, move |g, _| rule(g))
    }

    /// As [`Tensor::with_vjp`], with a rule that also takes the inputs. A rule that held tensors itself would keep
    /// them from being freed, and have them computed where nobody asks for them.
    #[track_caller]
    #[must_use]
    pub fn with_vjp_of(
        &self,
        name: &'static str,
        inputs: &[&Tensor],
        rule: impl Fn(&Tensor, &[Tensor]) -> Vec<Option<Tensor>> + Send + Sync + 'static,
    ) -> Tensor {
        let op = Op::Custom(crate::op::CustomOp(name, Arc::new(rule)));
        let all: Vec<&Tensor> = std::iter::once(self).chain(inputs.iter().copied()).collect();
        Tensor::record(op, &all, self.dims(), self.dtype(), Location::caller())
    }
}

fn hint(y: &Tensor) -> &'static str {
    match (&y.node.op, &*y.node.state()) {
        (Op::Buffer, _) => "",
        (_, State::Ready(_)) => EVALUATED,
        _ => "",
    }
}

fn invalid(op: &'static str, y: &Tensor, why: &str, location: &'static Location<'static>) -> GraphError {
    GraphError::Invalid { op, why: why.to_owned(), operands: vec![y.operand()], location }
}

fn check_differentiable(y: &Tensor, location: &'static Location<'static>) -> Result<()> {
    if let Some(error) = y.error() {
        return Err(error);
    }
    if !y.dtype().is_float() {
        return Err(invalid("backward", y, "only floats have gradients", location));
    }
    Ok(())
}

/// The gradients of `y` (any shape; its elements are summed) by each of `xs`, as recorded tensors that can
/// be differentiated again.
///
/// # Errors
/// As [`Tensor::backward`]; a tensor that `y` does not depend on is named by its position.
///
/// ```
/// use versant_graph::{Device, Tensor, grad_of};
/// let dev = Device::cpu();
/// let x = Tensor::from_slice(&dev, &[3.0f32], &[1]);
/// let y = &x * &x * &x;
/// let dy = grad_of(&y, &[&x])?.remove(0);
/// let ddy = grad_of(&dy, &[&x])?.remove(0);
/// assert_eq!(ddy.to_vec::<f32>()?, [18.0]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
pub fn grad_of(y: &Tensor, xs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let location = Location::caller();
    check_differentiable(y, location)?;
    let tape = Tape::new(&[y], false);
    let mut wanted = vec![false; tape.nodes.len()];
    for x in xs {
        if let Some(&i) = tape.index.get(&x.node.id) {
            wanted[i] = true;
        }
    }
    let seed = Tensor::number(y, 1.0).broadcast_to(y.shape());
    let cotangents = tape.pull_back(vec![(tape.len() - 1, seed)], &wanted, location)?;
    let named = |(i, x): (usize, &&Tensor)| {
        let at = tape.index.get(&x.node.id);
        at.and_then(|&i| cotangents[i].clone()).ok_or_else(|| GraphError::NotReached {
            what: x.parameter_name().map_or_else(|| format!("tensor {i} of the list"), str::to_owned),
            location,
            hint: hint(y),
        })
    };
    xs.iter().enumerate().map(named).collect()
}
