//! One kernel of a plan, run alone over random numbers: compared with its CPU twin, or timed.

use rustc_hash::FxHashMap;
use versant_device::{Buffer, BufferRef, Cost, Device, Launch, Prepared, Recording};
use versant_kernels::attention::{self, Attention, MaskKind};
use versant_kernels::contract::{self, Contraction, Operand, VariantId};
use versant_kernels::math::{f16_bits, f16_value};
use versant_kernels::program::ProgramBinding;
use versant_kernels::random::uniform;
use versant_kernels::{
    Block, Caps, DType, Instr, InstrKind, Program, RandomKey, Shape, Step, Store, Target, View,
    program_native, program_wgsl, row_probes,
};

use crate::error::Result;
use crate::launches::launch;

/// Relative to the largest result; sums of up to some thousand products stay far below it, and a wrong tile is
/// wrong by the size of the results.
const TOLERANCE: f32 = 1e-3;
/// Elements of a thousand that may differ where an epilogue turns a rounding error into a step (a comparison, a
/// rounding). A tile's edge is more than that of the small problems, and a wrong tile is wrong everywhere.
const STEPS_PER_MILLE: usize = 2;

/// Kernels whose buffers take more words than this (256 MiB) are checked on a small problem.
const MAX_WORDS: usize = 1 << 26;

/// The scratch buffer of a kernel that is tried alone.
pub(crate) const SCRATCH: BufferRef = BufferRef::Slot(u32::MAX);

/// A kernel and what it needs to run alone.
#[derive(Clone)]
pub(crate) struct Trial {
    /// Its launches on the device.
    pub launches: Vec<Launch>,
    /// The launches of its CPU twin, over the same buffers; scratch is not among them.
    pub twin: Vec<Launch>,
    /// Its buffers: element type and number of words.
    pub buffers: FxHashMap<BufferRef, (DType, usize)>,
    /// Host scalars of the plan.
    pub scalar_words: usize,
    /// Whether an epilogue may turn a rounding error into a step.
    pub stepped: bool,
    /// The largest relative error of a product by the variant's own precision.
    pub rounding: f32,
}

/// A trial's buffers on the device, and what they held at first.
pub(crate) struct Ready {
    prepared: Prepared,
    buffers: Vec<Buffer>,
    start: Vec<Vec<u32>>,
    scalars: Vec<u32>,
    order: FxHashMap<BufferRef, u32>,
}

/// A trial under way, and what its twin made.
pub(crate) struct Started {
    trial: Trial,
    ready: Ready,
    expected: Vec<Vec<u32>>,
}

impl Started {
    /// Waits for the kernel: `None` if it agrees with its twin, else where it does not.
    pub fn finish(self, device: &Device) -> Result<Option<String>> {
        let Started { trial, ready, expected } = self;
        let mut written: Vec<BufferRef> = trial.twin.iter().flat_map(|l| l.writes.iter().copied()).collect();
        written.dedup();
        for b in written {
            let at = ready.order[&b] as usize;
            let (dtype, words) = trial.buffers[&b];
            let found = device.read(&ready.buffers[at], words)?;
            if let Some(fault) = trial.difference(dtype, &found, &expected[at]) {
                return Ok(Some(fault));
            }
        }
        Ok(None)
    }
}

impl Trial {
    /// A small problem in the place of a large one: the same kernel text but for the epilogue, which is plain.
    pub fn small(c: &Contraction, variant: VariantId, target: Target) -> Trial {
        let c = contract::probe(variant, c);
        let rows = c.output_shape();
        let acc = Instr { reg: 0, dtype: DType::F32, kind: InstrKind::Acc };
        let store = Store { binding: 0, view: View::contiguous(rows), value: 0, dtype: DType::F32 };
        let plain = Program {
            rows,
            cols: Shape::new(&[]).expect("a rank of 0 is allowed"),
            bindings: vec![ProgramBinding { dtype: DType::F32, written: true }],
            steps: vec![Step::Row(Block { instrs: vec![acc], stores: vec![store] })],
            regs: 1,
        };
        let place = |operand: &Operand| match operand {
            Operand::A => BufferRef::External(0),
            Operand::B => BufferRef::External(1),
            Operand::Epilogue(_) => BufferRef::External(2),
            Operand::Scratch => SCRATCH,
        };
        let launches = |target| {
            let kernels = contract::contraction_with(&c, plain.clone(), "trial", target, variant);
            let launch = |l: contract::ContractLaunch| {
                let (reads, writes) = (l.reads.iter().map(place), l.writes.iter().map(place));
                launch(l.source, reads.collect(), writes.collect(), Cost::default())
            };
            kernels.launches.into_iter().map(launch).collect()
        };
        let [a, b] = c.operands().map(span);
        let scratch = contract::scratch_words(&c, target, Some(variant));
        let types = c.types();
        let sizes = [(types[0], a), (types[1], b), (DType::F32, rows.numel()), (DType::F32, scratch)];
        let places = [place(&Operand::A), place(&Operand::B), place(&Operand::Epilogue(0)), SCRATCH];
        let sizes = sizes.map(|(dtype, elements)| (dtype, dtype.words(elements)));
        let buffers = places.into_iter().zip(sizes).filter(|(_, (_, words))| *words > 0);
        Trial {
            launches: launches(target),
            twin: launches(Target::Cpu),
            buffers: buffers.collect(),
            scalar_words: 0,
            stepped: false,
            rounding: variant.rounding(),
        }
    }

    /// A small attention of the same text.
    pub fn attention(a: &Attention, variant: attention::Variant) -> Trial {
        Trial::whole_attention(&attention::probe(a), variant)
    }

    /// An attention as it is.
    pub fn whole_attention(a: &Attention, variant: attention::Variant) -> Trial {
        let result = BufferRef::External(a.views.len() as u32);
        let mut buffers = FxHashMap::default();
        for (i, view) in a.views.iter().enumerate() {
            let words_mask = i == 3 && a.mask == MaskKind::Words;
            let dtype = if words_mask { DType::Bool } else { a.types[i] };
            // Quads of the last element are read whole.
            let words = dtype.words(span(view).next_multiple_of(4));
            buffers.insert(BufferRef::External(i as u32), (dtype, words));
        }
        let reads: Vec<BufferRef> = (0..a.views.len() as u32).map(BufferRef::External).collect();
        buffers.insert(result, (DType::F32, a.len()));
        let launches = |source| vec![launch(source, reads.clone(), vec![result], Cost::default())];
        Trial {
            launches: launches(attention::attention_with(a, "trial", variant)),
            twin: launches(attention::attention(a, "trial", Target::Cpu)),
            buffers,
            scalar_words: 0,
            stepped: false,
            rounding: 0.0,
        }
    }

    /// Rows that are shared within subgroups.
    pub fn rows(caps: &Caps) -> Trial {
        let (mut launches, mut twin, mut buffers) = (Vec::new(), Vec::new(), FxHashMap::default());
        for (i, program) in (0..).zip(row_probes(caps)) {
            let place = |binding: u32| BufferRef::External(4 * i + binding);
            for (k, binding) in (0..).zip(&program.bindings) {
                let row = program.cols.numel().next_multiple_of(4);
                let words = program.rows.numel() * if binding.written { 1 } else { row };
                buffers.insert(place(k), (binding.dtype, words));
            }
            let launch =
                |source| launch(source, vec![place(0)], (1..4).map(place).collect(), Cost::default());
            launches.push(launch(program_wgsl(&program, "rows of subgroups", caps)));
            twin.push(launch(program_native(program, "rows of subgroups")));
        }
        Trial { launches, twin, buffers, scalar_words: 0, stepped: false, rounding: 0.0 }
    }

    /// Whether running it would take more memory than a check should.
    pub fn is_large(&self) -> bool {
        self.buffers.values().map(|b| b.1).sum::<usize>() > MAX_WORDS
    }

    /// Fills buffers with random numbers and prepares the launches over them.
    pub fn ready(&self, device: &Device) -> Result<Ready> {
        let mut order: Vec<BufferRef> = self.buffers.keys().copied().collect();
        order.sort_by_key(|b| match *b {
            BufferRef::Slot(i) | BufferRef::Part(i, ..) => (0, i),
            BufferRef::External(i) => (1, i),
        });
        let key = RandomKey::new(0x7e57_ab1e);
        let (mut start, mut externals) = (Vec::new(), Vec::new());
        for (i, b) in order.iter().enumerate() {
            let (dtype, words) = self.buffers[b];
            start.push(random(&key.fold(i as u64), dtype, words));
            externals.push(words);
        }
        let order: FxHashMap<BufferRef, u32> = order.into_iter().zip(0..).collect();
        let rename = |refs: &[BufferRef]| refs.iter().map(|b| BufferRef::External(order[b])).collect();
        let launches = self
            .launches
            .iter()
            .map(|l| Launch { reads: rename(&l.reads), writes: rename(&l.writes), ..l.clone() })
            .collect();
        let scalar_words = self.scalar_words;
        let recording = Recording { launches, externals, scalar_words, ..Recording::default() };
        let prepared = device.prepare(recording)?;
        let buffers = start.iter().map(|s| device.upload(s)).collect::<std::result::Result<_, _>>()?;
        // Scalars are rates, counts and keys: an ordinary number serves as each of them.
        let scalars = vec![0.5f32.to_bits(); scalar_words];
        Ok(Ready { prepared, buffers, start, scalars, order })
    }

    /// Runs the kernel, and its twin meanwhile: a driver may compile first.
    pub fn start(self, device: &Device, ready: Ready) -> Result<Started> {
        device.run(&ready.prepared, &ready.buffers, &ready.scalars)?;
        let mut expected = ready.start.clone();
        for launch in &self.twin {
            run_native(launch, &ready.order, &mut expected, &ready.scalars);
        }
        Ok(Started { trial: self, ready, expected })
    }

    fn difference(&self, dtype: DType, found: &[u32], expected: &[u32]) -> Option<String> {
        if dtype.is_half() {
            let values = |words: &[u32]| words.iter().flat_map(|&w| halves(dtype, w)).collect::<Vec<_>>();
            return self.difference(DType::F32, &values(found), &values(expected));
        }
        let float = dtype == DType::F32;
        let number = |w: u32| if float { f64::from(f32::from_bits(w)) } else { f64::from(w) };
        let finite = expected.iter().map(|&w| number(w).abs()).filter(|x| x.is_finite());
        let slack = f64::from(TOLERANCE + 2.0 * self.rounding) * finite.fold(1e-30, f64::max);
        let wrong = |&(_, (&f, &e)): &(usize, (&u32, &u32))| {
            let (f, e) = (number(f), number(e));
            let same = f == e || (f.is_nan() && e.is_nan()) || (f - e).abs() <= slack;
            !same
        };
        let mut faults = found.iter().zip(expected).enumerate().filter(wrong);
        let (at, (&f, &e)) = faults.next()?;
        let more = faults.count();
        let allowed = if self.stepped || !float { found.len() * STEPS_PER_MILLE / 1000 } else { 0 };
        (more + 1 > allowed).then(|| {
            let (f, e, all) = (number(f), number(e), found.len());
            format!("element {at} is {f} in place of {e}; {} of {all} are wrong", more + 1)
        })
    }

    /// The least time in nanoseconds of a few runs, or of the first if that is longer than `enough`.
    pub fn time(&self, device: &Device, ready: &Ready, enough: u64) -> Result<u64> {
        let mut least = u64::MAX;
        // The first run may compile.
        self.once(device, ready)?;
        for _ in 0..3 {
            least = least.min(self.once(device, ready)?);
            if least > enough {
                break;
            }
        }
        Ok(least)
    }

    fn once(&self, device: &Device, ready: &Ready) -> Result<u64> {
        if device.info().features.timestamps {
            let times = device.run_timed(&ready.prepared, &ready.buffers, &ready.scalars)?;
            return Ok(times.iter().sum());
        }
        let start = std::time::Instant::now();
        device.run(&ready.prepared, &ready.buffers, &ready.scalars)?;
        device.wait()?;
        Ok(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Words up to the farthest element of a view.
fn span(view: &View) -> usize {
    let far = view.shape.iter().zip(&view.strides).map(|(&d, &s)| (d.max(1) - 1) as isize * s.max(0));
    (view.offset + far.sum::<isize>() + 1) as usize
}

/// Calls a twin's native function over host copies of the buffers.
fn run_native(launch: &Launch, order: &FxHashMap<BufferRef, u32>, memory: &mut [Vec<u32>], scalars: &[u32]) {
    let Some(native) = &launch.kernel.native else {
        unreachable!("a CPU target gives native functions");
    };
    let place = |b: &BufferRef| order[b] as usize;
    let mut outputs: Vec<Vec<u32>> =
        launch.writes.iter().map(|b| std::mem::take(&mut memory[place(b)])).collect();
    let inputs: Vec<&[u32]> = launch.reads.iter().map(|b| memory[place(b)].as_slice()).collect();
    let mut slices: Vec<&mut [u32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
    native(&inputs, &mut slices, scalars);
    for (b, output) in launch.writes.iter().zip(outputs) {
        memory[place(b)] = output;
    }
}

/// The bits of the two f32 in a word of halves.
fn halves(dtype: DType, word: u32) -> [u32; 2] {
    [word & 0xffff, word >> 16].map(|h| if dtype == DType::F16 { f16_value(h) } else { h << 16 })
}

/// Numbers that every kernel can work on: floats around zero, small integers, and truth values.
fn random(key: &RandomKey, dtype: DType, words: usize) -> Vec<u32> {
    let map = |x: f32| match dtype {
        DType::Bool => u32::from(x < 0.5),
        DType::I32 | DType::U32 => (8.0 * x) as u32,
        // Two numbers, the same as f16 and about so as bf16.
        DType::F16 | DType::BF16 => f16_bits((2.0 * x - 1.0).to_bits()) * 0x1_0001,
        _ => (2.0 * x - 1.0).to_bits(),
    };
    uniform(key.words(), words).into_iter().map(map).collect()
}
