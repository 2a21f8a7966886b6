//! From the kernels of a plan to the launches of a device.

use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use versant_device::{BufferRef, Cost, Kernel, Launch, Repeat};
use versant_kernels::attention;
use versant_kernels::contract::{self, Operand, VariantId};
use versant_kernels::{
    ContractLaunch, KernelSource, Target, join, program_beside, program_native, program_wgsl,
};

use crate::explain::LaunchNote;
use crate::fuse::{Form, Fused, place_of};
use crate::ir::Ir;
use crate::lower::{Lowered, Place};
use crate::memory::Memory;
use crate::problem::{describe, family};

/// A kernel of the plan that is ready to be launched.
struct Made {
    kernel: usize,
    source: KernelSource,
    /// Reads before writes.
    buffers: Vec<BufferRef>,
    cost: Cost,
}

/// Turns kernels of the plan into launches of the device.
pub(crate) struct Maker<'a> {
    fused: &'a Fused,
    memory: &'a Memory,
    target: Target,
    /// For each contraction whose sum is split, the kernel of the second half; and the launches once they are made.
    totals: FxHashMap<usize, usize>,
    second: FxHashMap<usize, ContractLaunch>,
    /// The variant of each contraction on a GPU, and the texts of its launches.
    variants: &'a FxHashMap<usize, VariantId>,
    attentions: &'a FxHashMap<usize, attention::Variant>,
    pub texts: FxHashMap<usize, Vec<String>>,
    pub launches: Vec<Launch>,
    pub notes: Vec<LaunchNote>,
    pub loops: Vec<Repeat>,
}

impl<'a> Maker<'a> {
    pub fn new(
        fused: &'a Fused,
        memory: &'a Memory,
        target: Target,
        variants: &'a FxHashMap<usize, VariantId>,
        attentions: &'a FxHashMap<usize, attention::Variant>,
    ) -> Self {
        let total = |(k, kernel): (usize, &crate::fuse::Kernel)| match kernel.form {
            Form::Total { node, .. } => Some((node, k)),
            _ => None,
        };
        let totals = fused.kernels.iter().enumerate().filter_map(total).collect();
        Maker {
            fused,
            memory,
            target,
            totals,
            second: FxHashMap::default(),
            variants,
            attentions,
            texts: FxHashMap::default(),
            launches: Vec::new(),
            notes: Vec::new(),
            loops: Vec::new(),
        }
    }

    /// The launch of these kernels; several, if their texts cannot be joined.
    pub fn step(&mut self, step: usize, kernels: Range<usize>) {
        if let Form::Loop(scan) = self.fused.kernels[kernels.start].form {
            let (cpu, before) = (matches!(self.target, Target::Cpu), self.launches.len());
            let (launches, notes, repeat) = self.fused.loops[&scan].place(self.memory, cpu, before, step);
            self.launches.extend(launches);
            self.notes.extend(notes);
            self.loops.extend(Some(repeat).filter(|r| !r.turns.is_empty()));
            return;
        }
        let mut made: Vec<Made> = kernels.filter_map(|k| self.make(k)).collect();
        let all: Vec<BufferRef> = made.iter().flat_map(|m| m.buffers.iter().copied()).collect();
        let mut joined = joined(&made, &all);
        if joined.is_none() && made.len() > 1 {
            // A buffer that one part binds as vectors and another as words: all take it as words.
            let beside: Vec<_> = (0..made.len()).map(|at| self.beside(&made, at)).collect();
            let own: Vec<_> = made.iter().map(|m| m.source.clone()).collect();
            for (m, source) in made.iter_mut().zip(beside) {
                m.source = source.unwrap_or_else(|| m.source.clone());
            }
            joined = self::joined(&made, &all);
            if joined.is_none() {
                made.iter_mut().zip(own).for_each(|(m, source)| m.source = source);
            }
        }
        if let Some((source, buffers)) = joined {
            let cost = made.iter().fold(Cost::default(), |sum, m| Cost {
                flops: sum.flops + m.cost.flops,
                bytes: sum.bytes + m.cost.bytes,
            });
            let members = made.iter().flat_map(|m| &self.fused.kernels[m.kernel].members);
            let members = members.copied().collect();
            return self.launch(step, members, source, buffers.into_iter().map(|i| all[i]).collect(), cost);
        }
        for m in made {
            let members = self.fused.kernels[m.kernel].members.clone();
            self.launch(step, members, m.source, m.buffers, m.cost);
        }
    }

    /// A generated kernel again, with the buffers that other kernels of the launch bind, too, as words.
    fn beside(&self, made: &[Made], at: usize) -> Option<KernelSource> {
        let m = &made[at];
        let (Form::Fused(_), Some(lowered), Target::Gpu(caps)) =
            (&self.fused.kernels[m.kernel].form, &self.fused.kernels[m.kernel].lowered, self.target)
        else {
            return None;
        };
        let others = || made.iter().enumerate().filter(|(i, _)| *i != at).flat_map(|(_, o)| &o.buffers);
        let shared = |b: &usize| others().any(|other| *other == m.buffers[*b]);
        let words: Vec<usize> = (0..m.buffers.len()).filter(shared).collect();
        Some(program_beside(&lowered.program, &m.source.label, &caps, &words))
    }

    fn buffer(&self, place: Place) -> BufferRef {
        match place {
            Place::External(external) => BufferRef::External(external as u32),
            Place::Node(node) => self.memory.buffers[&node],
        }
    }

    fn make(&mut self, k: usize) -> Option<Made> {
        let kernel = &self.fused.kernels[k];
        let label = label(&self.fused.ir, &kernel.members);
        match (&kernel.form, &kernel.lowered) {
            (Form::Virtual(_) | Form::Loop(_), _) => None,
            (Form::Fused(_), Some(lowered)) => {
                let source = match self.target {
                    Target::Cpu => program_native(lowered.program.clone(), &label),
                    Target::Gpu(caps) => program_wgsl(&lowered.program, &label, &caps),
                };
                let buffers = lowered.places.iter().map(|&p| self.buffer(p)).collect::<Vec<_>>();
                let domain = lowered.program.rows.numel() * lowered.program.cols.numel();
                let flops = lowered.cost.saturating_mul(domain as u64);
                let cost = Cost { flops, bytes: program_bytes(lowered) };
                Some(Made { kernel: k, source, buffers, cost })
            }
            (Form::Contraction(node, _), Some(lowered)) => {
                let launch = self.contraction(*node, lowered, &label).into_iter().next()?;
                Some(self.contracted(k, *node, lowered, launch, None))
            }
            (Form::Product { node, partial }, _) => {
                let total = &self.fused.kernels[self.totals[node]];
                let lowered = total.lowered.as_ref().expect("a contraction has an epilogue");
                let label = self::label(&self.fused.ir, &total.members);
                let mut launches = self.contraction(*node, lowered, &label).into_iter();
                let first = launches.next()?;
                self.second.extend(launches.next().map(|second| (*node, second)));
                Some(self.contracted(k, *node, lowered, first, Some(*partial)))
            }
            (Form::Total { node, partial }, Some(lowered)) => {
                let second = self.second.remove(node)?;
                Some(self.contracted(k, *node, lowered, second, Some(*partial)))
            }
            (Form::Family(node), _) => {
                let (source, cost) = {
                    let variant = self.attentions.get(node).copied();
                    family(&self.fused.ir, *node, &label, self.target, variant)
                };
                let inputs = &self.fused.ir.nodes[*node].inputs;
                let reads = inputs.iter().map(|e| self.buffer(place_of(&self.fused.ir, e.node)));
                let buffers = reads.chain([self.buffer(Place::Node(*node))]).collect();
                Some(Made { kernel: k, source, buffers, cost })
            }
            (_, None) => unreachable!("a fused kernel has a program"),
        }
    }

    fn contraction(&mut self, node: usize, lowered: &Lowered, label: &str) -> Vec<ContractLaunch> {
        let variant = self.variants.get(&node).copied();
        let launches = contraction(&self.fused.ir, node, lowered, label, self.target, variant);
        if variant.is_some() {
            let texts = launches.iter().map(|l| l.source.wgsl.clone());
            self.texts.insert(node, texts.collect());
        }
        launches
    }

    /// A launch of a contraction; `partial` is what lies between the two of a split one.
    fn contracted(
        &self,
        k: usize,
        node: usize,
        lowered: &Lowered,
        launch: ContractLaunch,
        partial: Option<usize>,
    ) -> Made {
        let (flops, bytes) = contract::cost(&describe(&self.fused.ir, node));
        let epilogue = Cost {
            flops: lowered.cost.saturating_mul(lowered.program.rows.numel() as u64),
            bytes: program_bytes(lowered),
        };
        let between = partial.map_or(0, |p| 4 * self.fused.ir.nodes[p].shape.numel() as u64);
        let cost = match self.fused.kernels[k].form {
            Form::Product { .. } => Cost { flops, bytes: bytes + between },
            Form::Total { .. } => {
                Cost { flops: epilogue.flops + between / 4, bytes: epilogue.bytes + between }
            }
            _ => Cost { flops: flops + epilogue.flops, bytes: bytes + epilogue.bytes },
        };
        let inputs = &self.fused.ir.nodes[node].inputs;
        let bind = |operand: &Operand| match operand {
            Operand::A => self.buffer(place_of(&self.fused.ir, inputs[0].node)),
            Operand::B => self.buffer(place_of(&self.fused.ir, inputs[1].node)),
            Operand::Scratch => self.buffer(Place::Node(partial.expect("only a split sum has scratch"))),
            Operand::Epilogue(binding) => self.buffer(lowered.places[*binding]),
        };
        let buffers = launch.reads.iter().chain(&launch.writes).map(bind).collect();
        Made { kernel: k, source: launch.source, buffers, cost }
    }

    fn launch(
        &mut self,
        step: usize,
        members: Vec<usize>,
        source: KernelSource,
        mut reads: Vec<BufferRef>,
        cost: Cost,
    ) {
        let writes = reads.split_off(source.reads);
        let ops = ops_of(&self.fused.ir, &self.fused.stored, &members);
        let last = members[members.len() - 1];
        let mut lines: Vec<&'static Location<'static>> =
            members.iter().map(|&m| self.fused.ir.nodes[m].location).collect();
        lines.sort_by_key(|l| (l.file(), l.line()));
        lines.dedup();
        let launch = launch(source, reads.clone(), writes.clone(), cost);
        self.notes.push(LaunchNote {
            label: launch.kernel.label.clone(),
            ops,
            shape: self.fused.ir.nodes[last].shape,
            cost,
            reads,
            writes,
            lines,
            source: Arc::clone(&launch.kernel),
            kernel: step,
            trips: 1,
        });
        self.launches.push(launch);
    }
}

/// The launches of a contraction with an epilogue: two if its sum is split, none if there are no results.
pub(crate) fn contraction(
    ir: &Ir,
    node: usize,
    lowered: &Lowered,
    label: &str,
    target: Target,
    variant: Option<VariantId>,
) -> Vec<ContractLaunch> {
    let (problem, program) = (describe(ir, node), lowered.program.clone());
    let kernels = match variant {
        Some(variant) => contract::contraction_with(&problem, program, label, target, variant),
        None => contract::contraction(&problem, program, label, target),
    };
    kernels.launches
}

/// One launch for several kernels, with the numbers of its buffers among `all`, if their texts can be joined.
fn joined(made: &[Made], all: &[BufferRef]) -> Option<(KernelSource, Vec<usize>)> {
    let numbered = |b: &BufferRef| all.iter().position(|other| other == b).expect("it is among all");
    let busy = made.iter().filter(|m| !m.source.grid.contains(&0));
    let parts: Vec<_> = busy.map(|m| (&m.source, m.buffers.iter().map(numbered).collect())).collect();
    if parts.len() > 1 { join(&joined_label(made), &parts) } else { None }
}

/// What kernels that share a launch are called.
fn joined_label(made: &[Made]) -> String {
    let first = made.first().map_or("", |m| &m.source.label);
    format!("{first} and {} more", made.len().saturating_sub(1))
}

/// A kernel over buffers, as the device takes it.
pub(crate) fn launch(
    source: KernelSource,
    reads: Vec<BufferRef>,
    writes: Vec<BufferRef>,
    cost: Cost,
) -> Launch {
    let kernel = Arc::new(Kernel {
        label: source.label,
        wgsl: source.wgsl,
        reads: source.reads,
        writes: source.writes,
        uses_scalars: source.uses_scalars,
        trusted: source.trusted,
        native: source.native,
    });
    Launch { kernel, params: source.params, grid: source.grid, reads, writes, cost }
}

/// Bytes that a program must move at least: every binding once.
fn program_bytes(lowered: &Lowered) -> u64 {
    use versant_kernels::{InstrKind, Step};
    let mut words = vec![0usize; lowered.places.len()];
    let mut touch = |binding: usize, view: &versant_kernels::View| {
        let distinct: usize =
            view.shape.iter().zip(&view.strides).filter(|(_, s)| **s != 0).map(|(d, _)| *d).product();
        words[binding] = words[binding].max(distinct);
    };
    for step in &lowered.program.steps {
        let (Step::Row(block) | Step::Col(block, _)) = step;
        for instr in &block.instrs {
            if let InstrKind::Load { binding, view } | InstrKind::LoadAt { binding, view, .. } = &instr.kind {
                touch(*binding, view);
            }
        }
        for store in &block.stores {
            touch(store.binding, &store.view);
        }
    }
    let all = words.iter().zip(&lowered.program.bindings);
    all.map(|(&elements, b)| 4 * b.dtype.words(elements) as u64).sum()
}

/// The names of a kernel's members, shortened.
fn label(ir: &Ir, members: &[usize]) -> String {
    let mut names: Vec<&str> = members.iter().map(|&m| ir.nodes[m].name()).collect();
    let more = names.len().saturating_sub(4);
    names.truncate(4);
    let list = names.join("+");
    if more > 0 { format!("{list}+{more}") } else { list }
}

/// Every operation computed inside a kernel, inline ones included, in order.
fn ops_of(ir: &Ir, stored: &[bool], members: &[usize]) -> Vec<&'static str> {
    let mut seen: Vec<usize> = Vec::new();
    let mut stack: Vec<usize> = members.to_vec();
    while let Some(i) = stack.pop() {
        let outside = stored[i] && !members.contains(&i);
        if outside || ir.nodes[i].inputs.is_empty() || seen.contains(&i) || seen.len() > 512 {
            continue;
        }
        seen.push(i);
        stack.extend(ir.nodes[i].inputs.iter().map(|e| e.node));
    }
    seen.sort_unstable();
    seen.into_iter().map(|i| ir.nodes[i].name()).collect()
}
