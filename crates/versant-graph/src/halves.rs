//! Which stored nodes lie in memory as halves: those that were rounded to 16 bits anyway.
//!
//! That is decided once kernels are, and changes types of buffers only: programs are the same, and so is every result.

use crate::fuse::{Form, Kernel, place_of};
use crate::ir::{Ir, IrOp};
use crate::lower::{Lowered, Place};
use crate::memory::{reads, writes};
use crate::op::Op;
use crate::ops::half::{Half, rounds_to};
use crate::problem::describe;

/// What the node at a place was rounded to, if it is a node that was.
fn rounded(ir: &Ir, place: Place) -> Option<Half> {
    match place {
        Place::Node(node) => match &ir.nodes[node].op {
            IrOp::Core(op) => rounds_to(op),
            _ => None,
        },
        Place::External(_) => None,
    }
}

/// Whether all that a kernel stores of such nodes could be stored as halves: a kernel that cannot had better leave that to
/// another one.
pub(crate) fn may_store(ir: &Ir, form: &Form, lowered: &Lowered) -> bool {
    let bindings = lowered.places.iter().zip(&lowered.program.bindings).enumerate();
    let pairs = || match form {
        Form::Contraction(node, _) => describe(ir, *node).may_halve(),
        _ => true,
    };
    let mut halves = bindings.filter(|(_, (place, b))| b.written && rounded(ir, **place).is_some());
    halves.all(|(b, _)| lowered.program.may_halve(b) && pairs())
}

/// Makes halves of what can be.
pub(crate) fn choose(ir: &mut Ir, kernels: &mut [Kernel]) {
    let mut chosen: Vec<Option<Half>> = (0..ir.nodes.len()).map(|n| rounded(ir, Place::Node(n))).collect();
    ir.outputs.iter().for_each(|&o| chosen[o] = None);
    for kernel in &*kernels {
        // Contractions, attention and programs load halves, the other families do not.
        let own = Kernel { form: kernel.form.clone(), members: Vec::new(), lowered: None };
        let mut words = match own.form {
            Form::Contraction(..) => Vec::new(),
            Form::Family(node) if let IrOp::Core(Op::Attention(a)) = &ir.nodes[node].op => {
                let mask = a.masked.then(|| place_of(ir, ir.nodes[node].inputs[3].node));
                mask.into_iter().collect()
            }
            _ => reads(ir, &own),
        };
        if kernel.lowered.as_ref().is_none_or(|lowered| !may_store(ir, &kernel.form, lowered)) {
            words.extend(writes(kernel).into_iter().map(Place::Node));
        }
        for place in words {
            if let Place::Node(node) = place {
                chosen[node] = None;
            }
        }
    }
    for (node, half) in ir.nodes.iter_mut().zip(&chosen) {
        node.dtype = half.map_or(node.dtype, Half::dtype);
    }
    for lowered in kernels.iter_mut().filter_map(|k| k.lowered.as_mut()) {
        for (place, binding) in lowered.places.iter().zip(&mut lowered.program.bindings) {
            if let Place::Node(node) = *place
                && let Some(half) = chosen[node]
            {
                binding.dtype = half.dtype();
            }
        }
    }
}
