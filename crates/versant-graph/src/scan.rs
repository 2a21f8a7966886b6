//! Recurrence: a body that is recorded once and runs for each element of a leading axis.
//!
//! The body is recorded over *holes*, which stand for what changes from step to step. [`record`] walks from its
//! results to them: what depends on a hole is the body, everything else is computed once, outside. Of a scan, any node
//! of the body can be asked for, stacked over the steps ([`Item`]): that is how its gradient gets what it needs.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::panic::Location;
use std::sync::Arc;

use rustc_hash::FxHasher;
use versant_device::Device;
use versant_kernels::Shape;

use crate::Tensor;
use crate::capture::KeyNode;
use crate::error::{GraphError, Operand, Result};
use crate::op::Op;
use crate::tensor::{Node, State};

/// What a scan repeats, as data: equal bodies are one to a plan.
#[derive(Debug)]
pub struct Body {
    /// First the holes: carries, slices, constants.
    pub(crate) nodes: Vec<KeyNode>,
    pub(crate) locations: Vec<&'static Location<'static>>,
    /// The nodes that are the carries of the next step.
    pub(crate) next: Vec<u32>,
    /// Number of slices.
    pub(crate) slices: usize,
    /// Number of holes.
    pub(crate) holes: usize,
    pub(crate) steps: usize,
    /// Whether the last element comes first.
    pub(crate) reverse: bool,
    hash: u64,
}

/// A result of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Item {
    /// A carry after the last step.
    Final(usize),
    /// A node of the body at each step.
    Stack(u32),
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        self.hash == other.hash
            && (self.steps, self.reverse, self.slices) == (other.steps, other.reverse, other.slices)
            && self.next == other.next
            && self.nodes == other.nodes
    }
}

impl Eq for Body {}

impl Hash for Body {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl Body {
    /// The same body with its hash.
    fn hashed(mut self) -> Body {
        let mut hasher = FxHasher::default();
        (self.steps, self.reverse, self.slices, &self.next).hash(&mut hasher);
        for node in &self.nodes {
            (&node.op, node.shape, node.dtype, &node.inputs).hash(&mut hasher);
        }
        self.hash = hasher.finish();
        self
    }

    /// Number of carries.
    pub(crate) fn carries(&self) -> usize {
        self.next.len()
    }

    /// Whether a hole is the same at every step.
    pub(crate) fn is_constant(&self, hole: usize) -> bool {
        (self.carries() + self.slices..self.holes).contains(&hole)
    }

    /// A fresh hole of the extents and type of a node.
    pub(crate) fn hole(&self, device: &Device, node: usize) -> Tensor {
        let n = &self.nodes[node];
        Tensor::leaf(device, Op::Hole, n.shape, n.dtype, self.locations[node])
    }

    /// The body as tensors, one for each node, over what is in the place of the holes. `own` may put another tensor in
    /// the place of an operand.
    pub(crate) fn instantiate(
        &self,
        device: &Device,
        holes: Vec<Tensor>,
        mut own: impl FnMut(usize, usize) -> Option<Tensor>,
    ) -> Vec<Tensor> {
        let mut made = holes;
        for (i, n) in self.nodes.iter().enumerate().skip(self.holes) {
            let input = |(k, &j): (usize, &u32)| own(i, k).unwrap_or_else(|| made[j as usize].clone());
            let inputs: Vec<Tensor> = n.inputs.iter().enumerate().map(input).collect();
            made.push(match inputs.is_empty() {
                true => Tensor::leaf(device, n.op.clone(), n.shape, n.dtype, self.locations[i]),
                false => {
                    let inputs: Vec<&Tensor> = inputs.iter().collect();
                    Tensor::record(n.op.clone(), &inputs, n.shape, n.dtype, self.locations[i])
                }
            });
        }
        made
    }
}

/// A scan about to be recorded.
pub(crate) struct Draft<'a> {
    /// The holes of the carries, with the values before the first step.
    pub carries: &'a [(Tensor, Tensor)],
    /// The holes of slices. Those that the body does not read are left out.
    pub slices: &'a [Tensor],
    /// The carries of the next step.
    pub next: &'a [Tensor],
    /// What somebody will ask for.
    pub outs: &'a [Tensor],
    pub steps: usize,
    pub reverse: bool,
    pub location: &'static Location<'static>,
}

/// A recorded scan.
pub(crate) struct Recorded {
    pub scan: Tensor,
    pub body: Arc<Body>,
    /// The nodes of the draft's `outs`.
    pub outs: Vec<u32>,
}

/// What a node is to a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hole,
    /// It depends on a hole.
    Inner,
    /// A number, or a view of one: part of the body if that needs it.
    Number,
    /// Computed once, outside.
    Outer,
}

struct Found {
    node: Arc<Node>,
    inputs: Vec<usize>,
    kind: Kind,
    used: bool,
    /// Its number in the body.
    number: u32,
}

/// Every node above some results, inputs first.
fn walk(draft: &Draft<'_>, roots: &[&Tensor]) -> Result<(Vec<Found>, HashMap<u64, usize>)> {
    let carries = draft.carries.iter().map(|c| &c.0);
    let holes: HashSet<u64> = carries.chain(draft.slices).map(|hole| hole.node.id).collect();
    let mut found: Vec<Found> = Vec::new();
    let mut index: HashMap<u64, usize> = HashMap::new();
    let mut stack: Vec<(Arc<Node>, bool)> =
        roots.iter().rev().map(|t| (Arc::clone(&t.node), false)).collect();
    while let Some((node, expanded)) = stack.pop() {
        if index.contains_key(&node.id) {
            continue;
        }
        if let Some(error) = node.error() {
            return Err(error);
        }
        let is_hole = holes.contains(&node.id);
        let inputs = if is_hole { Default::default() } else { node.inputs() };
        if !expanded && !inputs.is_empty() {
            stack.push((node, true));
            stack.extend(inputs.into_iter().rev().map(|i| (i, false)));
            continue;
        }
        let inputs: Vec<usize> = inputs.iter().map(|i| index[&i.id]).collect();
        let is = |kind: Kind| inputs.iter().any(|&i| found[i].kind == kind);
        let pending = matches!(&*node.state(), State::Pending(_));
        let kind = match &node.op {
            _ if is_hole => Kind::Hole,
            _ if is(Kind::Hole) || is(Kind::Inner) => Kind::Inner,
            Op::Literal(_) if pending => Kind::Number,
            Op::View(_) if pending && is(Kind::Number) => Kind::Number,
            _ => Kind::Outer,
        };
        index.insert(node.id, found.len());
        found.push(Found { node, inputs, kind, used: false, number: u32::MAX });
    }
    Ok((found, index))
}

/// Records a scan; `stack_of` gives what a slice is cut from, once the body is known to read it.
pub(crate) fn record(draft: &Draft<'_>, mut stack_of: impl FnMut(usize) -> Tensor) -> Result<Recorded> {
    let roots: Vec<&Tensor> = draft.next.iter().chain(draft.outs).collect();
    let (mut found, index) = walk(draft, &roots)?;
    roots.iter().for_each(|t| found[index[&t.node.id]].used = true);
    for i in (0..found.len()).rev() {
        if found[i].used && matches!(found[i].kind, Kind::Inner | Kind::Number) {
            for j in found[i].inputs.clone() {
                found[j].used = true;
            }
        }
    }
    let mut body = Body {
        nodes: Vec::new(),
        locations: Vec::new(),
        next: Vec::new(),
        slices: 0,
        holes: 0,
        steps: draft.steps,
        reverse: draft.reverse,
        hash: 0,
    };
    let mut operands: Vec<Tensor> = Vec::new();
    let mut hole = |body: &mut Body, like: &Node, operand: Tensor| {
        let (shape, dtype) = (like.shape, like.dtype);
        body.nodes.push(KeyNode { op: Op::Hole, shape, dtype, inputs: Default::default(), leaf: None });
        body.locations.push(like.location);
        operands.push(operand);
        body.nodes.len() as u32 - 1
    };
    for (carry, init) in draft.carries {
        let number = hole(&mut body, &carry.node, init.clone());
        if let Some(&at) = index.get(&carry.node.id) {
            found[at].number = number;
        }
    }
    for (k, slice) in draft.slices.iter().enumerate() {
        let at = index.get(&slice.node.id).copied();
        // The device comes from an operand.
        if at.is_some() || (draft.carries.is_empty() && k == 0) {
            let number = hole(&mut body, &slice.node, stack_of(k));
            at.into_iter().for_each(|at| found[at].number = number);
            body.slices += 1;
        }
    }
    for f in found.iter_mut().filter(|f| f.used && f.kind == Kind::Outer) {
        f.number = hole(&mut body, &f.node, Tensor::from_node(Arc::clone(&f.node)));
    }
    body.holes = body.nodes.len();
    for i in 0..found.len() {
        let f = &found[i];
        if !f.used || !matches!(f.kind, Kind::Inner | Kind::Number) {
            continue;
        }
        let (op, shape, dtype) = (f.node.op.clone(), f.node.shape, f.node.dtype);
        if matches!(op, Op::Scan(_) | Op::Item(_)) {
            return Err(invalid("a scan inside the body of a scan", &[], f.node.location));
        }
        let inputs = f.inputs.iter().map(|&j| found[j].number).collect();
        body.locations.push(f.node.location);
        found[i].number = body.nodes.len() as u32;
        body.nodes.push(KeyNode { op, shape, dtype, inputs, leaf: None });
    }
    let number = |t: &Tensor| found[index[&t.node.id]].number;
    body.next = draft.next.iter().map(number).collect();
    let outs = draft.outs.iter().map(number).collect();
    let body = Arc::new(body.hashed());
    let operands: Vec<&Tensor> = operands.iter().collect();
    let op = Op::Scan(Arc::clone(&body));
    let scan = Tensor::record(op, &operands, Shape::SCALAR, versant_kernels::DType::F32, draft.location);
    scan.error().map_or(Ok(()), Err)?;
    Ok(Recorded { scan, body, outs })
}

/// A result of a recorded scan.
pub(crate) fn item(scan: &Tensor, body: &Body, item: Item) -> Tensor {
    let location = scan.node.location;
    let (node, lead) = match item {
        Item::Final(carry) => (carry, None),
        Item::Stack(node) => (node as usize, Some(body.steps)),
    };
    let n = &body.nodes[node];
    let dims: Vec<usize> = lead.into_iter().chain(n.shape.iter().copied()).collect();
    match Shape::new(&dims) {
        Some(shape) => Tensor::record(Op::Item(item), &[scan], shape, n.dtype, location),
        None => Tensor::invalid("scan", &[scan], location, "a stacked result would have a rank above 8"),
    }
}

fn invalid(why: impl Into<String>, operands: &[&Tensor], location: &'static Location<'static>) -> GraphError {
    let operands = operands.iter().map(|t| Operand { dtype: t.dtype(), shape: t.shape().to_vec() }).collect();
    GraphError::Invalid { op: "scan", why: why.into(), operands, location }
}

/// Final carries, and stacked results.
type Scanned = (Vec<Tensor>, Vec<Tensor>);

/// Runs `body` for each element of the leading axis of `xs` in turn. It is given the carries and the elements, and
/// returns the carries of the next step and what is to be stacked; the scan returns the last carries and the stacks.
///
/// The body is recorded once, so a plan is as large for a thousand steps as for one, and everything of it that depends
/// on neither carries nor elements is computed once. `xs` is read where it lies, and stacks are written in place. There
/// are derivatives of any order; of those of a matrix that all steps share, one product over all steps is made.
///
/// A mistake (no `xs`, unequal leading extents, another number, shape or type of carries than at the start, a scan
/// within the body) is in all results.
///
/// ```
/// use versant_graph::{Device, Tensor, scan};
/// let dev = Device::cpu();
/// let x = Tensor::from_slice(&dev, &[1.0f32, 2.0, 3.0], &[3]);
/// let start = Tensor::zeros(&dev, &[]);
/// // An average that forgets.
/// let (last, all) = scan(&[&start], &[&x], |carry, x| {
///     let next = &carry[0] * 0.5 + &x[0] * 0.5;
///     (vec![next.clone()], vec![next])
/// });
/// assert_eq!(all[0].to_vec::<f32>()?, [0.5, 1.25, 2.125]);
/// assert_eq!(last[0].item::<f32>()?, 2.125);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[track_caller]
pub fn scan(
    init: &[&Tensor],
    xs: &[&Tensor],
    body: impl FnOnce(&[Tensor], &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
) -> (Vec<Tensor>, Vec<Tensor>) {
    scanned(init, xs, false, Location::caller(), body)
}

/// As [`scan`], from the last element to the first; what is stacked stands where its elements stood.
#[track_caller]
pub fn scan_reversed(
    init: &[&Tensor],
    xs: &[&Tensor],
    body: impl FnOnce(&[Tensor], &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>),
) -> (Vec<Tensor>, Vec<Tensor>) {
    scanned(init, xs, true, Location::caller(), body)
}

fn scanned(
    init: &[&Tensor],
    xs: &[&Tensor],
    reverse: bool,
    location: &'static Location<'static>,
    body: impl FnOnce(&[Tensor], &[Tensor]) -> Scanned,
) -> Scanned {
    let steps = match steps(init, xs, location) {
        Ok(steps) => steps,
        Err(error) => {
            // How many results there would be, only the body knows.
            let failed = |t: &&Tensor| Tensor::failed(t.device(), error.clone());
            let (next, outs) =
                body(&Vec::from_iter(init.iter().map(failed)), &Vec::from_iter(xs.iter().map(failed)));
            let all = |some: &[Tensor]| some.iter().map(|t| failed(&t)).collect();
            return (
                init.iter().map(failed).collect(),
                if outs.is_empty() { all(&next[..0]) } else { all(&outs) },
            );
        }
    };
    let hole = |t: &Tensor, shape| Tensor::leaf(t.device(), Op::Hole, shape, t.dtype(), location);
    let carries: Vec<Tensor> = init.iter().map(|t| hole(t, t.dims())).collect();
    let element = |t: &&Tensor| hole(t, Shape::new(&t.shape()[1..]).expect("a part of a shape"));
    let slices: Vec<Tensor> = xs.iter().map(element).collect();
    let (next, outs) = body(&carries, &slices);
    let made = recorded(init, xs, &carries, &slices, (&next, &outs), (steps, reverse, location));
    made.unwrap_or_else(|error| {
        let failed = |t: &Tensor| Tensor::failed(t.device(), error.clone());
        (init.iter().map(|t| failed(t)).collect(), outs.iter().map(failed).collect())
    })
}

/// Checks the operands; the number of steps.
fn steps(init: &[&Tensor], xs: &[&Tensor], location: &'static Location<'static>) -> Result<usize> {
    let all: Vec<&Tensor> = init.iter().chain(xs).copied().collect();
    if let Some(error) = all.iter().find_map(|t| t.error()) {
        return Err(error);
    }
    let Some(&steps) = xs.first().and_then(|x| x.shape().first()) else {
        return Err(invalid("needs something to run over, of rank 1 at least", &all, location));
    };
    if xs.iter().any(|x| x.shape().first() != Some(&steps)) {
        return Err(invalid("what it runs over differs in the leading extent", xs, location));
    }
    Ok(steps)
}

fn recorded(
    init: &[&Tensor],
    xs: &[&Tensor],
    carries: &[Tensor],
    slices: &[Tensor],
    (next, outs): (&[Tensor], &[Tensor]),
    (steps, reverse, location): (usize, bool, &'static Location<'static>),
) -> Result<Scanned> {
    if let Some(error) = next.iter().chain(outs).find_map(Tensor::error) {
        return Err(error);
    }
    let like = |(a, b): (&Tensor, &&Tensor)| a.dims() == b.dims() && a.dtype() == b.dtype();
    if next.len() != init.len() || !next.iter().zip(init).all(like) {
        let mut both: Vec<&Tensor> = init.to_vec();
        both.extend(next);
        let why = "the carries of the next step differ in number, shape or type from those of the first";
        return Err(invalid(why, &both, location));
    }
    if steps == 0 {
        let empty = |t: &Tensor| {
            let dims: Vec<usize> = std::iter::once(0).chain(t.shape().iter().copied()).collect();
            Tensor::number(t, 0.0).broadcast_to(&dims)
        };
        return Ok((init.iter().map(|&t| t.clone()).collect(), outs.iter().map(empty).collect()));
    }
    let carries: Vec<(Tensor, Tensor)> =
        carries.iter().zip(init).map(|(hole, &init)| (hole.clone(), init.clone())).collect();
    let draft = Draft { carries: &carries, slices, next, outs, steps, reverse, location };
    let Recorded { scan, body, outs } = record(&draft, |k| xs[k].clone())?;
    let last = (0..init.len()).map(|i| item(&scan, &body, Item::Final(i))).collect();
    Ok((last, outs.iter().map(|&n| item(&scan, &body, Item::Stack(n))).collect()))
}
