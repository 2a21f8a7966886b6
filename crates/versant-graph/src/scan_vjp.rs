//! The gradient of a scan: another one, from the last step to the first.
//!
//! Its body is the gradient of the forward body. What that needs of a forward step is read from stacks of the forward
//! scan: carries, and what is dear to compute; the rest is computed again. The gradient of a constant is a carry that
//! grows with each step; but that of a matrix which multiplies something in each step is one product outside, over the
//! stacks of what it multiplied and of the gradients of the results.

use std::panic::Location;

use crate::Tensor;
use crate::autodiff::Tape;
use crate::error::Result;
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
    /// Which carries have a gradient that matters.
    active: Vec<bool>,
}

impl Pull<'_> {
    /// The gradients of the scan's operands.
    pub fn gradients(self) -> Result<Vec<Option<Tensor>>> {
        let (body, device) = (self.body, self.scan.device());
        let forward = self.forward();
        let Forward { nodes, shared, tape, active } = &forward;
        let carries: Vec<usize> = (0..body.carries()).filter(|&i| active[i]).collect();
        let hole = |node: usize| body.hole(device, node);
        // Seeds: what comes from the step after, and from whoever reads the stacks.
        let ends: Vec<Tensor> = carries.iter().map(|&i| hole(i)).collect();
        let mut seeds: Vec<(usize, Tensor)> = carries
            .iter()
            .zip(&ends)
            .map(|(&i, end)| (tape.at(&nodes[body.next[i] as usize]), end.clone()))
            .collect();
        let stacks = self.given.iter().filter_map(|(item, g)| match item {
            Item::Stack(n) if g.dtype().is_float() => Some((*n as usize, g)),
            _ => None,
        });
        let mut slices: Vec<(Tensor, Option<Tensor>, Option<usize>)> = Vec::new();
        for (n, g) in stacks {
            let seed = hole(n);
            seeds.push((tape.at(&nodes[n]), seed.clone()));
            slices.push((seed, Some(g.clone()), None));
        }
        let cotangents = tape.pull_back(seeds, &forward.wanted(&self), self.location)?;
        let of = |t: &Tensor| tape.find(t).and_then(|at| cotangents[at].clone());
        // Forward values: a stack each, if the gradient reads them.
        let saved = (0..body.holes).filter(|&n| !body.is_constant(n)).chain(saved(body));
        slices.extend(saved.map(|n| (nodes[n].clone(), None, Some(n))));
        let zeros = |like: &Tensor| Tensor::number(like, 0.0).broadcast_to(like.shape());
        let sum =
            |(_, g): (_, &Tensor), rest: Option<Tensor>| Some(rest.map_or_else(|| g.clone(), |r| r + g));
        let finals = |i: usize| {
            let mine =
                self.given.iter().map(|(item, g)| (*item, g)).filter(|(item, _)| *item == Item::Final(i));
            mine.fold(None, |rest, g| sum(g, rest))
        };
        let mut held: Vec<(Tensor, Tensor)> = Vec::new();
        let mut next: Vec<Tensor> = Vec::new();
        for (&i, end) in carries.iter().zip(&ends) {
            held.push((end.clone(), finals(i).unwrap_or_else(|| zeros(end))));
            next.push(of(&nodes[i]).unwrap_or_else(|| zeros(end)));
        }
        let products: Vec<&Shared> = shared.iter().filter(|s| of(&nodes[s.product]).is_some()).collect();
        let inputs: Vec<usize> = (body.carries()..body.carries() + body.slices)
            .filter(|&j| self.need[j] && of(&nodes[j]).is_some())
            .collect();
        let outs = inputs.iter().copied().chain(products.iter().map(|s| s.product));
        let outs: Vec<Tensor> = outs.filter_map(|n| of(&nodes[n])).collect();
        // Sums over the steps: of a stack, if there is one anyway.
        let mut sums: Vec<usize> = Vec::new();
        let mut summed: Vec<(usize, usize)> = Vec::new();
        for k in (0..body.holes).filter(|&k| body.is_constant(k) && self.need[k]) {
            if let Some(g) = of(&nodes[k]) {
                if let Some(at) = outs.iter().position(|out| out.node.id == g.node.id) {
                    summed.push((k, at));
                    continue;
                }
                let so_far = hole(k);
                next.push(&so_far + g);
                held.push((so_far.clone(), zeros(&so_far)));
                sums.push(k);
            }
        }
        let mut grads: Vec<Option<Tensor>> = vec![None; self.x.len()];
        if held.is_empty() && outs.is_empty() {
            return Ok(grads);
        }
        let holes: Vec<Tensor> = slices.iter().map(|s| s.0.clone()).collect();
        let draft = Draft {
            carries: &held,
            slices: &holes,
            next: &next,
            outs: &outs,
            steps: body.steps,
            reverse: !body.reverse,
            location: self.scan.node.location,
        };
        let back = record(&draft, |k| match &slices[k] {
            (_, Some(g), _) => g.clone(),
            (_, None, n) => self.stack(n.expect("a slice is a gradient or a forward value")),
        })?;
        let result = |which: Item| item(&back.scan, &back.body, which);
        for (at, &i) in carries.iter().enumerate().filter(|(_, i)| self.need[**i]) {
            grads[i] = Some(result(Item::Final(at)));
        }
        for (at, &k) in (carries.len()..).zip(&sums) {
            grads[k] = Some(result(Item::Final(at)));
        }
        for &(k, at) in &summed {
            grads[k] = Some(result(Item::Stack(back.outs[at])).sum(&[0], false));
        }
        for (&j, &n) in inputs.iter().zip(&back.outs) {
            grads[j] = Some(result(Item::Stack(n)));
        }
        for (s, &n) in products.iter().zip(&back.outs[inputs.len()..]) {
            let g = self.of_shared(s, &result(Item::Stack(n)));
            grads[s.constant] = Some(grads[s.constant].take().map_or_else(|| g.clone(), |sum| sum + &g));
        }
        Ok(grads)
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
        let float = |i: usize| body.nodes[i].dtype.is_float();
        let active = (0..body.carries()).map(|i| float(i) && self.need[i]).collect();
        let mut forward = Forward { nodes, shared, tape, active };
        loop {
            let leads = forward.tape.leads(&forward.wanted(self));
            let more = |&i: &usize| {
                let next = &forward.nodes[body.next[i] as usize];
                !forward.active[i] && float(i) && leads[forward.tape.at(next)]
            };
            match (0..body.carries()).find(more) {
                Some(i) => forward.active[i] = true,
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
            let asked = self.active.get(i).copied().unwrap_or(pull.need[i]);
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
