//! A plan: the launches of a key, prepared on a device.

use std::panic::Location;
use std::sync::{Arc, Mutex};

use versant_device::{BufferRef, Cost, Device, DeviceKind, Kernel, Launch, Prepared, Recording};
use versant_kernels::contract::{self, Contraction, Conv, ConvKind, MatMul, Operand};
use versant_kernels::{
    CumSum, FoldWindows, IndexForm, KernelSource, ScatterAdd, Shape, Target, cumsum, fold_windows,
    program_native, program_wgsl, scatter_add,
};

use crate::capture::Key;
use crate::error::Result;
use crate::explain::{Explanation, LaunchNote};
use crate::fuse::{Form, Fused, Limits, fuse, place_of};
use crate::ir::{self, Ir};
use crate::lower::{Lowered, Place};
use crate::memory::{self, Memory, Output};
use crate::op::Op;

/// A compiled graph.
pub(crate) struct Plan {
    pub key: Key,
    pub prepared: Prepared,
    pub outputs: Vec<Output>,
    /// The buffers that the last run gave its fresh outputs, by number: the next asks for them again, so
    /// that its bind groups exist.
    pub recent: Mutex<Vec<u64>>,
    pub explanation: Explanation,
}

/// What of a device decides how plans are made.
pub(crate) fn limits_of(device: &Device, merge: bool) -> Limits {
    let info = device.info();
    let bindings = match info.kind {
        DeviceKind::Cpu => 16,
        // Metal takes one binding for itself.
        _ => (info.limits.max_storage_buffers as usize).saturating_sub(1).clamp(3, 16),
    };
    Limits { bindings, merge }
}

fn target_of(device: &Device) -> Target {
    match device.info().kind {
        DeviceKind::Cpu => Target::Cpu,
        _ => Target::Gpu { software: device.info().class == versant_device::AdapterClass::Software },
    }
}

impl Plan {
    /// Compiles a key.
    pub fn new(
        device: &Device,
        key: Key,
        locations: &[&'static Location<'static>],
        merge: bool,
    ) -> Result<Plan> {
        let graph = ir::build(&key, locations);
        let mut fused = fuse(graph, limits_of(device, merge));
        let target = target_of(device);
        // Contractions choose their kernels first: a split sum needs scratch, which memory must know.
        let scratch: Vec<usize> =
            (0..fused.kernels.len()).map(|k| scratch_words(&fused, k, target)).collect();
        let memory = memory::plan(&mut fused, &key, &scratch);
        let mut maker =
            Maker { fused: &fused, memory: &memory, target, launches: Vec::new(), notes: Vec::new() };
        for k in 0..fused.kernels.len() {
            maker.kernel(k);
        }
        let Maker { launches, notes, .. } = maker;
        let mut externals: Vec<usize> = key.externals.iter().map(|e| e.0).collect();
        externals.extend(
            memory
                .outputs
                .iter()
                .filter_map(|o| match o {
                    Output::Fresh { external, words } => Some((*external, *words)),
                    Output::Donated { .. } => None,
                })
                .fold(vec![0; memory.externals - key.externals.len()], |mut all, (external, words)| {
                    all[external - key.externals.len()] = words;
                    all
                }),
        );
        let scalar_words = key.nodes.iter().filter(|n| matches!(n.op, Op::Scalar(_))).count();
        let recording = Recording { launches, slots: memory.slots.clone(), externals, scalar_words };
        let explanation = Explanation::new(&fused.ir, &memory, &key, notes);
        let prepared = device.prepare(recording)?;
        Ok(Plan { key, prepared, outputs: memory.outputs, recent: Mutex::default(), explanation })
    }
}

/// Turns kernels of the plan into launches of the device.
struct Maker<'a> {
    fused: &'a Fused,
    memory: &'a Memory,
    target: Target,
    launches: Vec<Launch>,
    notes: Vec<LaunchNote>,
}

impl Maker<'_> {
    fn buffer(&self, place: Place) -> BufferRef {
        match place {
            Place::External(external) => BufferRef::External(external as u32),
            Place::Node(node) => self.memory.buffers[&node],
        }
    }

    fn kernel(&mut self, k: usize) {
        let kernel = &self.fused.kernels[k];
        let label = label(&self.fused.ir, &kernel.members);
        match (&kernel.form, &kernel.lowered) {
            (Form::Virtual(_), _) => {}
            (Form::Fused(_), Some(lowered)) => {
                let source = match self.target {
                    Target::Cpu => program_native(lowered.program.clone(), &label),
                    Target::Gpu { software } => program_wgsl(&lowered.program, &label, software),
                };
                let places = lowered.places.iter().map(|&p| self.buffer(p)).collect::<Vec<_>>();
                let (reads, writes) = places.split_at(lowered.program.reads());
                let domain = lowered.program.rows.numel() * lowered.program.cols.numel();
                let flops = lowered.cost.saturating_mul(domain as u64);
                let cost = Cost { flops, bytes: program_bytes(lowered) };
                self.launch(k, source, reads.to_vec(), writes.to_vec(), cost);
            }
            (Form::Contraction(node, _), Some(lowered)) => {
                self.contraction(k, *node, lowered, &label);
            }
            (Form::Family(node), _) => {
                let (source, cost) = family(&self.fused.ir, *node, &label, self.target);
                let inputs = &self.fused.ir.nodes[*node].inputs;
                let reads = inputs.iter().map(|e| self.buffer(place_of(&self.fused.ir, e.node)));
                let reads = reads.collect();
                let writes = vec![self.buffer(Place::Node(*node))];
                self.launch(k, source, reads, writes, cost);
            }
            (_, None) => unreachable!("a fused kernel has a program"),
        }
    }

    fn contraction(&mut self, k: usize, node: usize, lowered: &Lowered, label: &str) {
        let description = describe(&self.fused.ir, node);
        let kernels = contract::contraction(&description, lowered.program.clone(), label, self.target);
        let (flops, bytes) = contract::cost(&description);
        let epilogue = lowered.cost.saturating_mul(lowered.program.rows.numel() as u64);
        let count = kernels.launches.len() as u64;
        let cost = Cost {
            flops: (flops + epilogue) / count.max(1),
            bytes: (bytes + program_bytes(lowered)) / count.max(1),
        };
        let inputs = &self.fused.ir.nodes[node].inputs;
        for launch in kernels.launches {
            let bind = |operand: &Operand| match operand {
                Operand::A => self.buffer(place_of(&self.fused.ir, inputs[0].node)),
                Operand::B => self.buffer(place_of(&self.fused.ir, inputs[1].node)),
                Operand::Scratch => BufferRef::Slot(self.memory.scratch[&k]),
                Operand::Epilogue(binding) => self.buffer(lowered.places[*binding]),
            };
            let reads = launch.reads.iter().map(bind).collect();
            let writes = launch.writes.iter().map(bind).collect();
            self.launch(k, launch.source, reads, writes, cost);
        }
    }

    fn launch(
        &mut self,
        k: usize,
        source: KernelSource,
        reads: Vec<BufferRef>,
        writes: Vec<BufferRef>,
        cost: Cost,
    ) {
        let kernel = &self.fused.kernels[k];
        let ops = ops_of(&self.fused.ir, &self.fused.stored, &kernel.members);
        let last = kernel.members[kernel.members.len() - 1];
        let mut lines: Vec<&'static Location<'static>> =
            kernel.members.iter().map(|&m| self.fused.ir.nodes[m].location).collect();
        lines.sort_by_key(|l| (l.file(), l.line()));
        lines.dedup();
        self.notes.push(LaunchNote {
            label: source.label.clone(),
            ops,
            shape: self.fused.ir.nodes[last].shape,
            cost,
            reads: reads.clone(),
            writes: writes.clone(),
            lines,
            kernel: k,
        });
        self.launches.push(Launch {
            kernel: Arc::new(Kernel {
                label: source.label,
                wgsl: source.wgsl,
                reads: source.reads,
                writes: source.writes,
                uses_scalars: source.uses_scalars,
                native: source.native,
            }),
            params: source.params,
            grid: source.grid,
            reads,
            writes,
            cost,
        });
    }
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
    words.iter().map(|&w| 4 * w as u64).sum()
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

fn scratch_words(fused: &Fused, k: usize, target: Target) -> usize {
    match fused.kernels[k].form {
        Form::Contraction(node, _) => contract::scratch_words(&describe(&fused.ir, node), target),
        _ => 0,
    }
}

/// The kernel crate's description of a contraction node.
fn describe(ir: &Ir, node: usize) -> Contraction {
    let n = &ir.nodes[node];
    let (a, b) = (n.inputs[0].full_view(ir), n.inputs[1].full_view(ir));
    let crate::ir::IrOp::Core(op) = &n.op else { unreachable!("a contraction is a core op") };
    match op {
        Op::MatMul => {
            let rank = n.shape.rank();
            let batch = Shape::new(&n.shape[..rank - 2]).expect("a part of a shape");
            let (m, n, k) = (n.shape[rank - 2], n.shape[rank - 1], a.shape[rank - 1]);
            Contraction::MatMul(MatMul { batch, m, n, k, a, b })
        }
        Op::Conv(kind, attrs) => {
            let (input, weight, output) = match kind {
                ConvKind::Forward => (a.shape, b.shape, n.shape),
                ConvKind::InputGrad => (n.shape, b.shape, a.shape),
                ConvKind::WeightGrad => (a.shape, n.shape, b.shape),
            };
            Contraction::Conv(Conv {
                kind: *kind,
                n: input[0],
                groups: attrs.groups,
                c_in: input[1],
                c_out: output[1],
                input: [input[2], input[3]],
                kernel: [weight[2], weight[3]],
                output: [output[2], output[3]],
                stride: attrs.stride,
                padding: attrs.padding,
                dilation: attrs.dilation,
                a,
                b,
            })
        }
        _ => unreachable!("not a contraction"),
    }
}

/// The kernel of a node of the small families.
fn family(ir: &Ir, node: usize, label: &str, target: Target) -> (KernelSource, Cost) {
    let n = &ir.nodes[node];
    let views: Vec<_> = n.inputs.iter().map(|e| e.full_view(ir)).collect();
    let offset = |k: usize| views[k].offset as usize;
    let around = |shape: &[usize], axis: usize| -> (usize, usize) {
        (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
    };
    let crate::ir::IrOp::Core(op) = &n.op else { unreachable!("a family node is a core op") };
    match op {
        Op::CumSum { axis, reverse } => {
            let (outer, inner) = around(&n.shape, *axis);
            let desc = CumSum {
                outer,
                n: n.shape[*axis],
                inner,
                reverse: *reverse,
                dtype: n.dtype,
                src_offset: offset(0),
            };
            let cost = Cost { flops: desc.flops(), bytes: desc.bytes() };
            (cumsum(&desc, label, target), cost)
        }
        Op::Fold { axis, stride, dilation } => {
            let windows = views[0].shape;
            let (outer, inner) = around(&n.shape, *axis);
            let desc = FoldWindows {
                outer,
                extent: n.shape[*axis],
                inner,
                count: windows[*axis],
                size: windows[windows.rank() - 1],
                stride: *stride,
                dilation: *dilation,
                dtype: n.dtype,
                src_offset: offset(0),
            };
            let cost = Cost { flops: desc.flops(), bytes: desc.bytes() };
            (fold_windows(&desc, label, target), cost)
        }
        Op::ScatterAdd(axis) => {
            let (base, index, source) = (&views[0], &views[1], &views[2]);
            let (outer, inner) = around(&n.shape, *axis);
            let shared = index.shape.rank() == 1 && source.shape.rank() > 1 || index.shape != source.shape;
            let desc = ScatterAdd {
                outer,
                bound: n.shape[*axis],
                inner,
                count: source.shape[*axis],
                form: if shared { IndexForm::Shared } else { IndexForm::Full },
                dtype: n.dtype,
                base_offset: base.offset as usize,
                base_is_scalar: base.shape.rank() == 0,
                index_offset: index.offset as usize,
                src_offset: source.offset as usize,
            };
            let cost = Cost { flops: desc.flops(), bytes: desc.bytes() };
            (scatter_add(&desc, label, target), cost)
        }
        _ => unreachable!("not of a small family"),
    }
}
