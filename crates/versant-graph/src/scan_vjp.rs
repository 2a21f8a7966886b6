//! The gradient of a scan: another one, from the last step to the first.
//!
//! Its body is the gradient of the forward body. What that needs of a forward step is read from stacks of the forward
//! scan: carries, and what is dear to compute; the rest is computed again. The gradient of a constant is a carry that
//! grows with each step; but that of a matrix which multiplies something in each step is one product outside, over the
//! stacks of what it multiplied and of the gradients of the results.

use std::panic::Location;

use crate::Tensor;
use crate::autodiff::Tape;
use crate::op::{Movement, Op};
use crate::scan::{Body, Draft, Item, item, record};

/// A matrix that all steps share, in one of its products.
struct Shared {
    /// Its number among the holes.
    constant: usize,
    /// The product, and which operand it is.
    product: usize,
    side: usize,
}

/// What a scan's gradient is made from.
pub(crate) struct Pull<'a> {
    pub scan: &'a Tensor,
    pub body: &'a Body,
    /// The operands of the scan, and which of them need a gradient.
    pub x: &'a [Tensor],
    pub need: &'a [bool],
    /// Gradients of its results.
    pub given: Vec<(Item, Tensor)>,
    pub location: &'static Location<'static>,
}

/// The forward body as tensors, and the walk over it.
struct Forward {
    nodes: Vec<Tensor>,
    shared: Vec<Shared>,
    tape: Tape,
    /// The carries that have a gradient that matters.
    active: Vec<usize>,
}

/// Where the gradient of an operand is found.
enum From {
    /// The last value of a carry.
    Last(usize),
    /// The stack of a result.
    Stack(usize),
    /// Its sum over the steps.
    Sum(usize),
    /// Its product with what a shared matrix multiplied.
    Product(usize, usize),
}

/// The scan from the last step to the first, as it is put together.
#[derive(Default)]
struct Back {
    carries: Vec<(Tensor, Tensor)>,
    next: Vec<Tensor>,
    slices: Vec<Tensor>,
    /// What each slice is cut from: a gradient, or a node of the forward body.
    cut_from: Vec<Result<Tensor, usize>>,
    outs: Vec<Tensor>,
    /// For operands of the forward scan.
    found: Vec<(usize, From)>,
}

fn zeros(like: &Tensor) -> Tensor {
    Tensor::number(like, 0.0).broadcast_to(like.shape())
}

impl Pull<'_> {
    /// The gradients of the scan's operands.
    pub fn gradients(self) -> crate::error::Result<Vec<Option<Tensor>>> {
        let forward = self.forward();
        let mut back = Back::default();
        let seeds = self.seeds(&forward, &mut back);
        let cotangents = forward.tape.pull_back(seeds, &forward.wanted(&self), self.location)?;
        let of = |n: usize| forward.tape.find(&forward.nodes[n]).and_then(|at| cotangents[at].clone());
        self.collect(&forward, of, &mut back);
        let mut grads: Vec<Option<Tensor>> = vec![None; self.x.len()];
        if back.found.is_empty() {
            return Ok(grads);
        }
        let draft = Draft {
            carries: &back.carries,
            slices: &back.slices,
            next: &back.next,
            outs: &back.outs,
            steps: self.body.steps,
            reverse: !self.body.reverse,
            location: self.scan.node.location,
        };
        let made = record(&draft, |k| match &back.cut_from[k] {
            Ok(gradient) => gradient.clone(),
            Err(node) => self.stack(*node),
        })?;
        let stack = |out: usize| item(&made.scan, &made.body, Item::Stack(made.outs[out]));
        for (operand, from) in back.found {
            let g = match from {
                From::Last(carry) => item(&made.scan, &made.body, Item::Final(carry)),
                From::Stack(out) => stack(out),
                From::Sum(out) => stack(out).sum(&[0], false),
                From::Product(at, out) => self.of_shared(&forward.shared[at], &stack(out)),
            };
            grads[operand] = Some(grads[operand].take().map_or_else(|| g.clone(), |sum| sum + &g));
        }
        Ok(grads)
    }

    /// What arrives at a forward step: from the step after, and from whoever reads the stacks.
    fn seeds(&self, forward: &Forward, back: &mut Back) -> Vec<(usize, Tensor)> {
        let mut seeds = Vec::new();
        let mut seed = |node: usize, like: usize| {
            let seed = self.body.hole(self.scan.device(), like);
            seeds.push((forward.tape.at(&forward.nodes[node]), seed.clone()));
            seed
        };
        for &i in &forward.active {
            let end = seed(self.body.next[i] as usize, i);
            let given = self.given.iter().filter(|(item, _)| *item == Item::Final(i)).map(|(_, g)| g.clone());
            let given = given.reduce(|sum, more| sum + more).unwrap_or_else(|| zeros(&end));
            back.carries.push((end, given));
        }
        for (item, g) in self.given.iter().filter(|(_, g)| g.dtype().is_float()) {
            if let Item::Stack(n) = *item {
                back.slices.push(seed(n as usize, n as usize));
                back.cut_from.push(Ok(g.clone()));
            }
        }
        seeds
    }

    /// The body of the gradient, from the cotangents of the forward one.
    fn collect(&self, forward: &Forward, of: impl Fn(usize) -> Option<Tensor>, back: &mut Back) {
        let (body, device) = (self.body, self.scan.device());
        for (at, &i) in forward.active.iter().enumerate() {
            back.next.push(of(i).unwrap_or_else(|| zeros(&back.carries[at].0)));
            if self.need[i] {
                back.found.push((i, From::Last(at)));
            }
        }
        for j in (body.carries()..body.carries() + body.slices).filter(|&j| self.need[j]) {
            if let Some(g) = of(j) {
                back.found.push((j, From::Stack(back.outs.len())));
                back.outs.push(g);
            }
        }
        for (at, s) in forward.shared.iter().enumerate() {
            if let Some(g) = of(s.product) {
                back.found.push((s.constant, From::Product(at, back.outs.len())));
                back.outs.push(g);
            }
        }
        for k in (0..body.holes).filter(|&k| body.is_constant(k) && self.need[k]) {
            let Some(g) = of(k) else { continue };
            // A sum over the steps: of a stack, if there is one anyway.
            if let Some(out) = back.outs.iter().position(|out| out.node.id == g.node.id) {
                back.found.push((k, From::Sum(out)));
                continue;
            }
            let so_far = body.hole(device, k);
            back.found.push((k, From::Last(back.carries.len())));
            back.next.push(&so_far + g);
            back.carries.push((so_far.clone(), zeros(&so_far)));
        }
        // Forward values: a stack each, if the gradient reads them.
        for n in (0..body.holes).filter(|&n| !body.is_constant(n)).chain(saved(body)) {
            back.slices.push(forward.nodes[n].clone());
            back.cut_from.push(Err(n));
        }
    }

    /// The forward body, with a hole of its own for each matrix that is shared by all steps.
    fn forward(&self) -> Forward {
        let (body, device) = (self.body, self.scan.device());
        // A constant is itself, as a node of its own for each use whose gradient is wanted by itself.
        let constant =
            |k: usize| self.x[k].moved(Movement::Reshape, self.x[k].dims(), self.scan.node.location);
        let hole = |k| if body.is_constant(k) { constant(k) } else { body.hole(device, k) };
        let mut shared = Vec::new();
        let nodes = body.instantiate(device, (0..body.holes).map(hole).collect(), |product, side| {
            let n = &body.nodes[product];
            let k = n.inputs[side] as usize;
            let own = matches!(n.op, Op::MatMul) && body.is_constant(k) && self.need[k];
            own.then(|| {
                shared.push(Shared { constant: k, product, side });
                constant(k)
            })
        });
        let stacked = self.given.iter().filter_map(|(item, _)| match item {
            Item::Stack(n) => Some(*n),
            Item::Final(_) => None,
        });
        let roots: Vec<&Tensor> =
            body.next.iter().copied().chain(stacked).map(|n| &nodes[n as usize]).collect();
        let tape = Tape::new(&roots, true);
        let float: Vec<usize> = (0..body.carries()).filter(|&i| body.nodes[i].dtype.is_float()).collect();
        let active = float.iter().copied().filter(|&i| self.need[i]).collect();
        let mut forward = Forward { nodes, shared, tape, active };
        loop {
            let leads = forward.tape.leads(&forward.wanted(self));
            let leads = |i: usize| leads[forward.tape.at(&forward.nodes[body.next[i] as usize])];
            match float.iter().find(|i| !forward.active.contains(i) && leads(**i)) {
                Some(&i) => forward.active.push(i),
                None => return forward,
            }
        }
    }

    /// The values of a forward node at each step.
    fn stack(&self, node: usize) -> Tensor {
        match (self.body.carries()..self.body.carries() + self.body.slices).contains(&node) {
            true => self.x[node].clone(),
            false => item(self.scan, self.body, Item::Stack(node as u32)),
        }
    }

    /// The gradient of a shared matrix from the stacked gradients of a product.
    fn of_shared(&self, s: &Shared, g: &Tensor) -> Tensor {
        let (body, steps) = (self.body, self.body.steps);
        let other = body.nodes[s.product].inputs[1 - s.side] as usize;
        if other >= body.carries() {
            return over_steps((&self.stack(other), 0), (g, 0), steps, s.side);
        }
        // A carry is what the step before made of it: the stack of those is often there already.
        let made = self.stack(body.next[other] as usize);
        let (first, others, before) = match body.reverse {
            false => (0, 1, 0),
            true => (steps - 1, 0, 1),
        };
        let sum = over_steps((&self.x[other].unsqueeze(0), 0), (g, first), 1, s.side);
        match steps {
            1 => sum,
            _ => sum + over_steps((&made, before), (g, others), steps - 1, s.side),
        }
    }
}

impl Forward {
    /// The nodes of the walk whose gradients are asked for, or lead to what is.
    fn wanted(&self, pull: &Pull<'_>) -> Vec<bool> {
        let mut wanted = vec![false; self.tape.len()];
        let mut want = |t: &Tensor| self.tape.find(t).into_iter().for_each(|at| wanted[at] = true);
        for (i, hole) in self.nodes[..pull.body.holes].iter().enumerate() {
            let asked = if i < pull.body.carries() { self.active.contains(&i) } else { pull.need[i] };
            if asked && hole.dtype().is_float() {
                want(hole);
            }
        }
        self.shared.iter().for_each(|s| want(&self.nodes[s.product]));
        wanted
    }
}

/// The product of `steps` steps at once: with the stacks of a product's other operand and of its gradient, both from
/// some step on, the gradient of the operand `side`.
fn over_steps(other: (&Tensor, usize), g: (&Tensor, usize), steps: usize, side: usize) -> Tensor {
    let batch = g.0.rank() - 3;
    // The steps go beside the dimension that the product sums over: rows of both, or columns of both.
    let joined = |(t, from): (&Tensor, usize)| {
        let (rows, columns) = (batch + 1, batch + 2);
        let mut axes: Vec<usize> = (1..=batch).collect();
        axes.extend(if side == 1 { [0, rows, columns] } else { [rows, 0, columns] });
        let t = t.permute(&axes);
        let mut dims: Vec<isize> = t.shape()[..batch].iter().map(|&d| d as isize).collect();
        let [a, b, c] = [0, 1, 2].map(|i| t.shape()[batch + i]);
        let (axis, unit) = if side == 1 { (batch, b) } else { (batch + 1, c) };
        dims.extend(if side == 1 { [a * b, c] } else { [a, b * c] }.map(|d| d as isize));
        t.reshape(&dims).narrow(axis, from * unit, steps * unit)
    };
    let (other, g) = (joined(other), joined(g));
    if side == 1 { other.t().matmul(&g) } else { g.matmul(&other.t()) }
}

/// The nodes of a body that its gradient reads rather than computes again: what kernels of their own compute, or
/// better what follows directly from that, element by element.
fn saved(body: &Body) -> impl Iterator<Item = usize> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); body.nodes.len()];
    for (i, node) in body.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&j| users[j as usize].push(i));
    }
    let dear = |op: &Op| {
        matches!(
            op,
            Op::MatMul
                | Op::Conv(..)
                | Op::Attention(_)
                | Op::Reduce(..)
                | Op::CumSum { .. }
                | Op::Fold { .. }
                | Op::Gather(_)
                | Op::ScatterAdd(_)
                | Op::ArgSort { .. }
        )
    };
    let mut saved = Vec::new();
    for i in (body.holes..body.nodes.len()).filter(|&i| dear(&body.nodes[i].op)) {
        saved.push(i);
        let mut at = i;
        while let [user] = users[at][..]
            && matches!(body.nodes[user].op, Op::Map(_))
            && body.nodes[user].shape == body.nodes[i].shape
            && body.nodes[user].dtype.is_float()
        {
            at = user;
        }
        if at != i {
            saved.push(at);
        }
    }
    saved.sort_unstable();
    saved.dedup();
    saved.into_iter()
}
