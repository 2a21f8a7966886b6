//! A plan: the launches of a key, prepared on a device.

use std::ops::Range;
use std::panic::Location;
use std::sync::Mutex;

use rustc_hash::FxHashMap;
use versant_device::{
    AdapterClass, Backend, BufferRef, Cost, Device, DeviceKind, Launch, Prepared, Recording, Repeat,
};
use versant_kernels::attention::{self, Attention};
use versant_kernels::contract::{self, Contraction, Operand, VariantId};
use versant_kernels::{Caps, Class, DType, InstrKind, Target};

use crate::batch::{batches, split_sums};
use crate::capture::Key;
use crate::error::Result;
use crate::explain::{Explanation, LaunchNote};
use crate::fuse::{Form, Fused, Limits, fuse, place_of};
use crate::ir;
use crate::launches::{Maker, contraction, launch};
use crate::loops::{Moves, plan_loops};
use crate::lower::Place;
use crate::memory::{self, Memory, Output};
use crate::op::Op;
use crate::problem::{describe, describe_attention};
use crate::tune::{SCRATCH, Trial, Tuning};

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

/// The variant of each contraction on a GPU.
fn variants_of(
    device: &Device,
    fused: &Fused,
    target: Target,
    tuning: &Tuning,
) -> Result<FxHashMap<usize, VariantId>> {
    let mut variants = FxHashMap::default();
    let Target::Gpu(caps) = &target else { return Ok(variants) };
    for kernel in &fused.kernels {
        // One without results is no launch and needs no variant.
        if let Form::Contraction(node, _) = kernel.form
            && fused.ir.nodes[node].shape.numel() > 0
        {
            variants.insert(node, tuning.choose(device, &describe(&fused.ir, node), caps)?);
        }
    }
    Ok(variants)
}

/// What of a device decides how plans are made.
pub(crate) fn limits_of(device: &Device, merge: bool, again: bool) -> Limits {
    let info = device.info();
    let bindings = match info.kind {
        DeviceKind::Cpu => 16,
        _ => {
            // Metal takes one binding for itself.
            let taken = u32::from(info.backend == Backend::Metal);
            (info.limits.max_storage_buffers.saturating_sub(taken) as usize).clamp(3, 16)
        }
    };
    let join = merge && info.kind != DeviceKind::Cpu;
    Limits { bindings, merge, join, in_place: true, hopeful: true, remat: merge && again }
}

pub(crate) fn target_of(device: &Device) -> Target {
    match device.info().kind {
        DeviceKind::Cpu => Target::Cpu,
        _ => Target::Gpu(caps_of(device)),
    }
}

/// What kernels may know of an adapter. Where its sort cannot be told, it is taken for a card.
pub(crate) fn caps_of(device: &Device) -> Caps {
    let info = device.info();
    let tuning = device.attachment::<Tuning>();
    let caps = Caps {
        class: match info.class {
            AdapterClass::Software => Class::Software,
            AdapterClass::Integrated => Class::Integrated,
            _ => Class::Discrete,
        },
        min_subgroup: info.limits.min_subgroup,
        max_subgroup: info.limits.max_subgroup,
        subgroup_rows: info.limits.min_subgroup >= 4 && tuning.rows_by_subgroup(),
        f16: info.features.f16,
        int64: info.features.int64,
        coop_matrix: info.features.cooperative,
        workgroup_bytes: info.limits.max_workgroup_bytes,
        invocations: info.limits.max_invocations,
        storage_buffers: info.limits.max_storage_buffers,
        precision: tuning.precision(),
    };
    #[cfg(test)]
    let caps = Caps { class: tuning.class().unwrap_or(caps.class), ..caps };
    caps
}

impl Plan {
    /// Compiles a key. A kernel variant that has not run on this adapter yet is tried first; if it is wrong, the plan
    /// is made again without it, so there are at most as many rounds as variants.
    pub fn new(
        device: &Device,
        key: Key,
        locations: &[&'static Location<'static>],
        limits: Limits,
    ) -> Result<Plan> {
        let tuning = device.attachment::<Tuning>();
        let draft = loop {
            let draft = Draft::new(device, &key, locations, limits, &tuning, None)?;
            if device.info().kind != DeviceKind::Wgpu || !tuning.improve(device, &draft)? {
                break draft;
            }
        };
        let Draft { fused, memory, launches, notes, loops, externals, scalar_words, .. } = draft;
        let recording = Recording { launches, loops, slots: memory.slots.clone(), externals, scalar_words };
        let prepared = device.prepare(recording)?;
        let explanation = Explanation::new(&fused.ir, &memory, &key, notes, &prepared);
        Ok(Plan { key, prepared, outputs: memory.outputs, recent: Mutex::default(), explanation })
    }
}

/// A plan whose kernel variants may still change.
pub(crate) struct Draft {
    pub fused: Fused,
    pub memory: Memory,
    pub target: Target,
    /// The kernels of each launch.
    pub steps: Vec<Range<usize>>,
    /// The variant of each contraction on a GPU, and the texts of its launches.
    pub variants: FxHashMap<usize, VariantId>,
    texts: FxHashMap<usize, Vec<String>>,
    /// The variant of each attention on a GPU.
    pub attentions: FxHashMap<usize, attention::Variant>,
    pub launches: Vec<Launch>,
    pub notes: Vec<LaunchNote>,
    loops: Vec<Repeat>,
    externals: Vec<usize>,
    scalar_words: usize,
    /// Whether this is the body of a scan.
    moving: bool,
}

impl Draft {
    /// Plans a key; with `moves` that of a scan's body.
    pub fn new(
        device: &Device,
        key: &Key,
        locations: &[&'static Location<'static>],
        mut limits: Limits,
        tuning: &Tuning,
        moves: Option<&Moves>,
    ) -> Result<Draft> {
        let mut graph = ir::build(key, locations);
        if let Some(moves) = moves {
            graph = graph.with_copies(&moves.copies(&graph));
        }
        let target = target_of(device);
        let (fused, memory, steps, variants) = loop {
            let mut fused = fuse(graph.clone(), limits);
            plan_loops(device, &mut fused, limits, tuning)?;
            if let (Some(moves), Target::Gpu(_)) = (moves, &target) {
                moves.loosen(&mut fused);
            }
            // Contractions choose their kernels first: a split sum is a launch more, and memory must know.
            let variants = variants_of(device, &fused, target, tuning)?;
            split_sums(&mut fused, |fused, node| {
                contract::scratch_words(&describe(&fused.ir, node), target, variants.get(&node).copied())
            });
            let steps = batches(&mut fused, limits);
            let memory = memory::plan(&mut fused, key, &steps);
            if !limits.in_place || fused.kernels.iter().all(|k| k.bindings() <= limits.bindings) {
                break (fused, memory, steps, variants);
            }
            // Fusion counted on buffers being overwritten that could not be.
            limits.in_place = limits.hopeful;
            limits.hopeful = false;
        };
        let mut externals: Vec<usize> = key.externals.iter().map(|e| e.0).collect();
        externals.resize(memory.externals, 0);
        for output in &memory.outputs {
            if let Output::Fresh { external, words } = output {
                externals[*external] = *words;
            }
        }
        let scalar_words = key.nodes.iter().filter(|n| matches!(n.op, Op::Scalar(_))).count();
        let mut attentions = FxHashMap::default();
        if let Target::Gpu(caps) = &target {
            for kernel in &fused.kernels {
                if let Form::Family(node) = kernel.form
                    && let Some(problem) = describe_attention(&fused.ir, node)
                {
                    attentions.insert(node, tuning.choose_attention(device, &problem, caps)?);
                }
            }
        }
        let mut maker = Maker::new(&fused, &memory, target, &variants, &attentions);
        for (step, kernels) in steps.iter().enumerate() {
            maker.step(step, kernels.clone());
        }
        let Maker { launches, notes, texts, loops, .. } = maker;
        Ok(Draft {
            fused,
            memory,
            target,
            steps,
            variants,
            texts,
            attentions,
            launches,
            notes,
            loops,
            externals,
            scalar_words,
            moving: moves.is_some(),
        })
    }

    /// The attentions, with the variants that were chosen for them.
    pub fn attentions(&self) -> impl Iterator<Item = (Attention, attention::Variant)> + '_ {
        self.attentions.iter().filter_map(|(&n, &v)| Some((describe_attention(&self.fused.ir, n)?, v)))
    }

    /// The kernels that end in a contraction's results, with the variants that were chosen for them.
    pub fn contractions(&self) -> impl Iterator<Item = (usize, Contraction, VariantId)> + '_ {
        (0..self.fused.kernels.len()).filter_map(|k| {
            let node = self.contracted(k)?;
            Some((k, describe(&self.fused.ir, node), *self.variants.get(&node)?))
        })
    }

    /// The contraction whose results a kernel makes.
    fn contracted(&self, k: usize) -> Option<usize> {
        match self.fused.kernels[k].form {
            Form::Contraction(node, _) | Form::Total { node, .. } => Some(node),
            _ => None,
        }
    }

    /// Whether it is for the CPU.
    pub fn is_cpu(&self) -> bool {
        matches!(self.target, Target::Cpu)
    }

    /// What the adapter can do.
    pub fn caps(&self) -> &Caps {
        match &self.target {
            Target::Gpu(caps) => caps,
            Target::Cpu => unreachable!("kernels for the CPU have no variants"),
        }
    }

    /// The texts of a contraction's launches, each before it is joined with others.
    pub fn texts(&self, k: usize) -> Vec<&str> {
        let texts = self.contracted(k).and_then(|node| self.texts.get(&node));
        texts.into_iter().flatten().map(String::as_str).collect()
    }

    /// A contraction of the plan in some variant, to be run alone, over a buffer for each place: in the plan an
    /// epilogue's results may lie where operands lay.
    pub fn trial(&self, k: usize, problem: &Contraction, variant: VariantId) -> Trial {
        let (Some(node), Some(lowered)) = (self.contracted(k), &self.fused.kernels[k].lowered) else {
            unreachable!("only contractions are tried")
        };
        let ir = &self.fused.ir;
        let operands = ir.nodes[node].inputs.iter().map(|e| (place_of(ir, e.node), ir.nodes[e.node].dtype));
        let bound = lowered.places.iter().zip(&lowered.program.bindings).map(|(p, b)| (*p, b.dtype));
        let mut places: Vec<Place> = Vec::new();
        let mut buffers: FxHashMap<BufferRef, (DType, usize)> = FxHashMap::default();
        for (place, dtype) in operands.chain(bound) {
            let words = match place {
                Place::External(e) => self.externals[e],
                Place::Node(n) => ir.nodes[n].words(),
            };
            // The views of a loop's body may be loosened.
            let words = if self.moving { words + words / 3 + 1 } else { words };
            let at = places.iter().position(|p| *p == place).unwrap_or(places.len());
            if at == places.len() {
                places.push(place);
            }
            buffers.insert(BufferRef::External(at as u32), (dtype, words));
        }
        let at = |place: Place| {
            let at = places.iter().position(|p| *p == place).expect("every place was just numbered");
            BufferRef::External(at as u32)
        };
        let bind = |operand: &Operand| match operand {
            Operand::A => at(place_of(ir, ir.nodes[node].inputs[0].node)),
            Operand::B => at(place_of(ir, ir.nodes[node].inputs[1].node)),
            Operand::Scratch => SCRATCH,
            Operand::Epilogue(binding) => at(lowered.places[*binding]),
        };
        let launches = |target| {
            let made = contraction(ir, node, lowered, "trial", target, Some(variant)).into_iter();
            made.map(|l| {
                let (reads, writes) = (l.reads.iter().map(bind), l.writes.iter().map(bind));
                launch(l.source, reads.collect(), writes.collect(), Cost::default())
            })
            .collect()
        };
        let scratch = contract::scratch_words(problem, self.target, Some(variant));
        if scratch > 0 {
            buffers.insert(SCRATCH, (DType::F32, scratch));
        }
        Trial {
            launches: launches(self.target),
            twin: launches(Target::Cpu),
            buffers,
            scalar_words: self.scalar_words,
            rounding: variant.rounding(),
            stepped: lowered.program.instrs().any(|i| matches!(i.kind, InstrKind::Map { .. })),
        }
    }
}
