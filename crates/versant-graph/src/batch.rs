//! Launches that go together: after fusion, kernels that are small or few and do not depend on each other.
//!
//! A product over a long sum is two kernels, partial sums and their total. Such totals, and sums over a batch (the
//! gradient of a bias), are small, and many of them wait only for the update at the end. So they are held back
//! until enough of them are there, or somebody needs one, and run as one launch.

use std::ops::Range;

use versant_kernels::{DType, Shape};

use crate::fuse::{Form, Fused, Kernel, Limits};
use crate::ir::{IrNode, IrOp};
use crate::lower::{Domain, Place};
use crate::memory::{reads, writes};
use crate::op::Op;

/// Words that kernels held back may keep alive.
const HELD: usize = 1 << 21;

/// Splits contractions that need `scratch` words into two kernels.
pub(crate) fn split_sums(fused: &mut Fused, scratch: impl Fn(&Fused, usize) -> usize) {
    for k in (0..fused.kernels.len()).rev() {
        let Form::Contraction(node, _) = fused.kernels[k].form else {
            continue;
        };
        let words = scratch(fused, node);
        if words == 0 {
            continue;
        }
        let partial = fused.ir.nodes.len();
        let shape = Shape::new(&[words]).expect("rank 1");
        let location = fused.ir.nodes[node].location;
        let inputs = fused.ir.nodes[node].inputs.iter().cloned().collect();
        fused.ir.nodes.push(IrNode { op: IrOp::Partial, inputs, shape, dtype: DType::F32, location });
        fused.stored.push(true);
        let total = &mut fused.kernels[k];
        total.form = Form::Total { node, partial };
        let product = Kernel { form: Form::Product { node, partial }, members: vec![partial], lowered: None };
        fused.kernels.insert(k, product);
    }
}

/// Orders the kernels so that those that run in one launch stand together, and returns their ranges.
pub(crate) fn batches(fused: &mut Fused, limits: Limits) -> Vec<Range<usize>> {
    let kernels = std::mem::take(&mut fused.kernels);
    let mut b = Batches { fused, limits, steps: Vec::new(), waiting: Vec::new(), held: Vec::new() };
    for kernel in kernels {
        b.take(kernel);
    }
    b.flush();
    let Batches { steps, fused, .. } = b;
    let mut ranges = Vec::with_capacity(steps.len());
    for step in steps {
        let start = fused.kernels.len();
        fused.kernels.extend(step);
        ranges.push(start..fused.kernels.len());
    }
    ranges
}

struct Batches<'a> {
    fused: &'a mut Fused,
    limits: Limits,
    steps: Vec<Vec<Kernel>>,
    /// Kernels that were held back.
    waiting: Vec<Kernel>,
    /// Places that they bind.
    held: Vec<Place>,
}

impl Batches<'_> {
    fn take(&mut self, kernel: Kernel) {
        let mut own = reads(&self.fused.ir, &kernel);
        let made = |node: &usize| own.contains(&Place::Node(*node));
        let needed = self.waiting.iter().any(|k| writes(k).iter().any(made));
        // Whoever reads what an update overwrites must have run, or it cannot.
        let ir = &self.fused.ir;
        let taken = |p: &&Place| matches!(p, Place::External(e) if ir.donated[*e].is_some());
        let updates = writes(&kernel).iter().any(|n| ir.outputs.contains(n));
        if needed || updates && own.iter().filter(taken).any(|p| self.held.contains(p)) {
            self.flush();
        }
        own.extend(writes(&kernel).into_iter().map(Place::Node));
        if !self.may_wait(&kernel) || self.words(&own) > HELD {
            return self.steps.push(vec![kernel]);
        }
        let union = |held: &[Place]| {
            let mut all = [held, &own].concat();
            all.sort_unstable();
            all.dedup();
            all
        };
        let mut places = union(&self.held);
        if places.len() > self.limits.bindings || self.words(&places) > HELD {
            // What somebody will soon need goes alone; the others can go on waiting.
            if !self.is_last(&kernel) {
                return self.steps.push(vec![kernel]);
            }
            self.flush();
            places = union(&[]);
        }
        self.held = places;
        self.waiting.push(kernel);
    }

    fn flush(&mut self) {
        self.held.clear();
        if !self.waiting.is_empty() {
            self.steps.push(std::mem::take(&mut self.waiting));
        }
    }

    /// Only sums: a row each, or what is left of a product.
    fn may_wait(&self, kernel: &Kernel) -> bool {
        let sums = match &kernel.form {
            Form::Total { .. } => true,
            Form::Fused(Domain::Rows { .. }) => kernel.lowered.is_some(),
            _ => false,
        };
        sums && self.limits.join
    }

    /// Whether nothing but the end of the plan needs what a kernel makes: it is returned, or a piece of a gradient.
    fn is_last(&self, kernel: &Kernel) -> bool {
        let ir = &self.fused.ir;
        let whole = |n: &usize| matches!(ir.nodes[*n].op, IrOp::Core(Op::Concat(_)));
        writes(kernel).iter().all(|n| whole(n) || ir.outputs.contains(n))
    }

    /// Words of intermediate buffers.
    fn words(&self, places: &[Place]) -> usize {
        let size = |p: &Place| match p {
            Place::Node(n) if !matches!(self.fused.ir.nodes[*n].op, IrOp::Core(Op::Concat(_))) => {
                self.fused.ir.nodes[*n].shape.numel()
            }
            _ => 0,
        };
        places.iter().map(size).sum()
    }
}
