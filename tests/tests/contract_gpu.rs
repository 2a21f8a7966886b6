//! Contractions on a GPU against their CPU twins, which the unit tests of versant-kernels hold against a sum in f64.
//! Every variant runs, whatever the adapter, except those for cooperative matrices.

use std::collections::HashMap;
use std::sync::Arc;

use versant_device::{BufferRef, Cost, Device, DeviceKind, Kernel, Launch, Recording};
use versant_kernels::program::ProgramBinding;
use versant_kernels::{
    Block, Caps, Class, Contraction, ContractionKernels, Conv, ConvKind, DType, Instr, InstrKind, MatMul,
    Operand, Precision, Program, Shape, Step, Store, Target, View, contract, contraction, math,
};

/// Words that no kernel may touch, before and after the result.
const GUARD: usize = 5;
const UNTOUCHED: u32 = 0xdead_beef;

fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).expect("small rank")
}

/// A fixed sequence of values in (-1, 1).
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Two stores: the accumulator, behind guard words, and an operand that repeats along all but the last dimension.
fn epilogue(rows: Shape) -> Program {
    let f32 = DType::F32;
    let instr = |reg, kind| Instr { reg, dtype: f32, kind };
    let mut out = View::contiguous(rows);
    out.offset = GUARD as isize;
    let mut row = View::splat(rows);
    row.strides[rows.rank() - 1] = 1;
    let store = |binding, value, view| Store { binding, view, value, dtype: f32 };
    let binding = |written| ProgramBinding { dtype: f32, written };
    Program {
        rows,
        cols: Shape::SCALAR,
        bindings: vec![binding(false), binding(true), binding(true)],
        steps: vec![Step::Row(Block {
            instrs: vec![instr(0, InstrKind::Acc), instr(1, InstrKind::Load { binding: 0, view: row })],
            stores: vec![store(1, 0, out.clone()), store(2, 1, out)],
        })],
        regs: 2,
    }
}

/// The launches with their buffers: 0 and 1 the operands, then the epilogue's three.
fn recording(kernels: &ContractionKernels, sizes: [usize; 5]) -> Recording {
    let mut shared: HashMap<String, Arc<Kernel>> = HashMap::new();
    let bind = |operand: &Operand| match *operand {
        Operand::A => BufferRef::External(0),
        Operand::B => BufferRef::External(1),
        Operand::Scratch => BufferRef::Slot(0),
        Operand::Epilogue(i) => BufferRef::External(2 + i as u32),
    };
    let launches = kernels.launches.iter().map(|l| {
        let s = &l.source;
        let kernel = shared.entry(s.wgsl.clone()).or_insert_with(|| {
            Arc::new(Kernel {
                label: s.label.clone(),
                wgsl: s.wgsl.clone(),
                reads: s.reads,
                writes: s.writes,
                uses_scalars: s.uses_scalars,
                trusted: s.trusted,
                native: s.native.clone(),
            })
        });
        Launch {
            kernel: kernel.clone(),
            params: s.params.clone(),
            grid: s.grid,
            reads: l.reads.iter().map(bind).collect(),
            writes: l.writes.iter().map(bind).collect(),
            cost: Cost::default(),
        }
    });
    Recording {
        launches: launches.collect(),
        slots: vec![kernels.scratch_words; usize::from(kernels.scratch_words > 0)],
        externals: sizes.to_vec(),
        ..Recording::default()
    }
}

/// Both stores of the epilogue, with their guard words.
fn run(device: &Device, kernels: &ContractionKernels, inputs: [&[u32]; 3], len: usize) -> [Vec<u32>; 2] {
    let size = len + 2 * GUARD;
    let sizes = [inputs[0].len(), inputs[1].len(), inputs[2].len(), size, size];
    let plan = device.prepare(recording(kernels, sizes)).expect("valid kernels");
    let mut buffers: Vec<_> = inputs.iter().map(|data| device.upload(data).expect("memory")).collect();
    for _ in 0..2 {
        buffers.push(device.upload(&vec![UNTOUCHED; size]).expect("memory"));
    }
    device.run(&plan, &buffers, &[]).expect("a run");
    [3, 4].map(|i| device.read(&buffers[i], size).expect("a readback"))
}

/// The smallest buffer that a view stays inside; at least one word.
fn span(view: &View) -> usize {
    let reach = |(&d, &s): (&usize, &isize)| (d.max(1) - 1) as isize * s.max(0);
    (view.offset + view.shape.iter().zip(&view.strides).map(reach).sum::<isize>()) as usize + 1
}

/// A software adapter with the optional abilities of this one.
fn software_caps(gpu: &Device) -> Caps {
    let info = gpu.info();
    Caps {
        int64: info.features.int64,
        min_subgroup: info.limits.min_subgroup,
        max_subgroup: info.limits.max_subgroup,
        ..Caps::webgpu(Class::Software)
    }
}

/// Which variants a problem is held against.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    /// Those of software adapters.
    Software,
    /// Those that lavapipe compiles fast, of graphics cards, too.
    Quick,
    /// All, but split sums only where that is the quick one: the split is the same code in each.
    All,
}

impl Which {
    fn takes(self, caps: &Caps, label: &str) -> bool {
        let quick = ["tile 32x32", "thin", "dot"].iter().any(|name| label.starts_with(name));
        // They differ from the small one in their constants.
        let large = ["shuffle 16x64", "shuffle 32x64"].iter().any(|name| label.starts_with(name));
        match self {
            _ if caps.is_software() => !(large && self == Which::Quick),
            Which::Software => false,
            Which::Quick => quick,
            Which::All => quick || !label.ends_with(" split"),
        }
    }
}

/// Holds variants against the CPU; of each two passes, one takes every other pair of a problem and a variant.
fn check_some(gpu: &Device, c: &Contraction, which: Which) {
    // Any number that is the same in both passes, and odd as often as even.
    let problem: usize = format!("{c:?}").bytes().map(usize::from).sum();
    let rows = c.output_shape();
    let len = rows.numel();
    let width = rows[rows.rank() - 1];
    let [va, vb] = c.operands();
    let (a, b) = (noise(1, span(va)), noise(2, span(vb)));
    let row = words(&noise(3, width.max(1)));
    let absolute = |v: &[f32]| words(&v.iter().map(|x| x.abs()).collect::<Vec<_>>());
    let native = contraction(c, epilogue(rows), "cpu", Target::Cpu);
    let cpu = Device::cpu();
    let [want, spread] = run(&cpu, &native, [&words(&a), &words(&b), &row], len);
    let [bound, _] = run(&cpu, &native, [&absolute(&a), &absolute(&b), &row], len);
    let f16 = gpu.info().features.f16;
    let caps = Caps { precision: Precision::F16, f16, ..Caps::webgpu(Class::Discrete) };
    let classes = [caps, software_caps(gpu)];
    let all = classes
        .into_iter()
        .flat_map(|caps| contract::variants(c, &caps).into_iter().map(move |id| (caps, id)));
    let taken = all.filter(|(caps, id)| which.takes(caps, &id.label())).enumerate();
    for (_, (caps, id)) in taken.filter(|(i, _)| versant_tests::in_this_pass(problem + i)) {
        let kernels = contract::contraction_with(c, epilogue(rows), "gpu", Target::Gpu(caps), id);
        let [got, got_spread] = run(gpu, &kernels, [&words(&a), &words(&b), &row], len);
        assert!(got_spread == spread, "the second store differs: {c:?}");
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            if !(GUARD..GUARD + len).contains(&i) {
                assert_eq!(got, UNTOUCHED, "guard word {i} of {len}, {c:?}");
                continue;
            }
            let (got, want) = (f32::from_bits(got), f32::from_bits(want));
            // Operands that a variant rounds have 11 bits, or a spacing of 6e-8.
            let (relative, least) = if id.rounding() > 0.0 { (id.rounding(), 1e-5) } else { (0.0, 1e-30) };
            let limit = (1e-5 + relative) * f32::from_bits(bound[i]) + least;
            let close = (got - want).abs() <= limit;
            assert!(close, "element {i}: {got} for {want}, {}, {c:?}", id.label());
        }
    }
}

fn check(gpu: &Device, c: &Contraction) {
    check_some(gpu, c, Which::Quick);
}

fn gpus() -> Vec<Device> {
    let mut all = versant_tests::devices();
    all.retain(|d| d.info().kind == DeviceKind::Wgpu);
    all
}

/// A view of `dims` stored with its dimensions in the order `axes`, from `offset` on.
fn stored(dims: &[usize], axes: &[usize], offset: isize) -> View {
    let order: Vec<usize> = axes.iter().map(|&a| dims[a]).collect();
    let mut back = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(i, &a)| back[a] = i);
    let mut view = View::contiguous(shape(&order)).permute(&back);
    view.offset = offset;
    view
}

fn matmul(batch: &[usize], [m, n, k]: [usize; 3], transposed: [bool; 2], offset: isize) -> Contraction {
    let lead = batch.len();
    let view = |tail: [usize; 2], transposed: bool| {
        let mut axes: Vec<usize> = (0..lead + 2).collect();
        if transposed {
            axes.swap(lead, lead + 1);
        }
        stored(&[batch, &tail[..]].concat(), &axes, offset)
    };
    let (a, b) = (view([m, k], transposed[0]), view([k, n], transposed[1]));
    Contraction::MatMul(MatMul { batch: shape(batch), m, n, k, a, b, types: [DType::F32; 2] })
}

#[test]
fn matmul_of_every_layout() {
    for gpu in gpus() {
        for transposed in [[false, false], [false, true], [true, false], [true, true]] {
            // Whole tiles and quads; odd extents; an offset that breaks quads; a batch.
            check(&gpu, &matmul(&[], [64, 128, 64], transposed, 0));
            check(&gpu, &matmul(&[], [67, 71, 13], transposed, 0));
            check(&gpu, &matmul(&[], [16, 64, 20], transposed, 4));
            check(&gpu, &matmul(&[], [16, 64, 20], transposed, 3));
            check(&gpu, &matmul(&[2, 3], [9, 10, 12], transposed, 0));
        }
    }
}

/// Large tiles with all that can differ in them: quads or not, edges, a last step that is moved back, few steps.
#[test]
fn matmul_of_every_tile() {
    for gpu in gpus() {
        for transposed in [[false, false], [false, true], [true, false]] {
            check_some(&gpu, &matmul(&[], [132, 136, 44], transposed, 0), Which::All);
            check_some(&gpu, &matmul(&[], [260, 68, 4], transposed, 0), Which::All);
            check_some(&gpu, &matmul(&[], [67, 71, 13], transposed, 0), Which::Software);
        }
        check_some(&gpu, &matmul(&[], [131, 137, 19], [false, false], 0), Which::All);
        check_some(&gpu, &matmul(&[2], [67, 130, 5], [false, false], 0), Which::All);
    }
}

#[test]
fn convolutions_of_every_tile() {
    let specs = [spec(3, [5, 37], [9, 7], [3, 3]), spec(2, [12, 70], [10, 10], [3, 2]).stride(2, 3)];
    for gpu in gpus() {
        for (spec, kind) in [
            (specs[0], ConvKind::Forward),
            (specs[0], ConvKind::InputGrad),
            (specs[1], ConvKind::InputGrad),
            (specs[1], ConvKind::WeightGrad),
        ] {
            check_some(&gpu, &conv(spec, kind, [0, 1, 2, 3], 0), Which::All);
        }
    }
}

#[test]
fn matmul_of_every_size() {
    for gpu in gpus() {
        for size in [
            [1, 1, 1],
            [1, 300, 7],
            [3, 301, 8],
            [300, 1, 7],
            [5, 3, 1],
            [4, 4, 4],
            [2, 3, 0],
            [0, 3, 2],
            [65, 33, 17],
        ] {
            check(&gpu, &matmul(&[], size, [false, false], 0));
        }
        // A long sum into few results, split over workgroups, with and without quads.
        check(&gpu, &matmul(&[], [12, 16, 6000], [true, false], 0));
        check(&gpu, &matmul(&[], [7, 5, 6001], [true, false], 0));
    }
}

/// Few rows, few columns, and few of both, summed along k by whole workgroups.
#[test]
fn matmul_of_thin_operands() {
    for gpu in gpus() {
        for k in [3, 256, 1000, 1301] {
            check(&gpu, &matmul(&[], [1, 9, k], [false, true], 0));
            check(&gpu, &matmul(&[2], [7, 1, k], [false, false], 4));
            check(&gpu, &matmul(&[], [6, 5, k], [false, true], 1));
        }
        check(&gpu, &matmul(&[], [1, 3, 6000], [false, true], 0));
        check(&gpu, &matmul(&[3], [1, 1, 2052], [true, true], 0));
    }
}

/// Mesa 22.3.6's lavapipe ends the loops of an invocation after 65,535 rounds.
#[test]
fn matmul_of_a_very_long_sum() {
    for gpu in gpus() {
        for transposed in [[false, false], [false, true], [true, false], [true, true]] {
            check_some(&gpu, &matmul(&[], [3, 5, 300_001], transposed, 0), Which::Software);
            check_some(&gpu, &matmul(&[], [4, 8, 300_000], transposed, 0), Which::Software);
        }
    }
}

#[test]
fn matmul_of_broadcast_and_flipped_operands() {
    for gpu in gpus() {
        let Contraction::MatMul(base) = matmul(&[3, 4], [6, 8, 12], [false, false], 0) else {
            unreachable!("matmul makes a product")
        };
        // Each operand repeated along each batch dimension: absorbed into the rows, or by strides of 0.
        for (axis, operand) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let mut mm = base.clone();
            let view = if operand == 0 { &mut mm.a } else { &mut mm.b };
            view.strides[axis] = 0;
            check(&gpu, &Contraction::MatMul(mm));
        }
        let mut mm = base.clone();
        mm.b.strides[..2].fill(0);
        check(&gpu, &Contraction::MatMul(mm));
        let mut mm = base;
        mm.a.offset = 11;
        mm.a.strides[3] = -1;
        check(&gpu, &Contraction::MatMul(mm));
    }
}

/// The forward extents of a convolution.
#[derive(Clone, Copy)]
struct Spec {
    n: usize,
    groups: usize,
    /// Input and output channels per group.
    c: [usize; 2],
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

const BASE: Spec = Spec {
    n: 2,
    groups: 1,
    c: [3, 5],
    input: [8, 9],
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
};

fn conv(spec: Spec, kind: ConvKind, axes: [usize; 4], offset: isize) -> Contraction {
    let extent = |i: usize| {
        let reach = spec.dilation[i] * (spec.kernel[i] - 1) + 1;
        (spec.input[i] + 2 * spec.padding[i] - reach) / spec.stride[i] + 1
    };
    let empty = View::splat(Shape::SCALAR);
    let mut conv = Conv {
        kind,
        n: spec.n,
        groups: spec.groups,
        c_in: spec.groups * spec.c[0],
        c_out: spec.groups * spec.c[1],
        input: spec.input,
        kernel: spec.kernel,
        output: [extent(0), extent(1)],
        stride: spec.stride,
        padding: spec.padding,
        dilation: spec.dilation,
        a: empty.clone(),
        b: empty,
        types: [DType::F32; 2],
    };
    let [a, b] = conv.operand_shapes();
    (conv.a, conv.b) = (stored(&a, &axes, offset), stored(&b, &axes, offset));
    Contraction::Conv(conv)
}

/// Samples, channels per group, input and kernel extents; the rest as in [`BASE`].
fn spec(n: usize, c: [usize; 2], input: [usize; 2], kernel: [usize; 2]) -> Spec {
    Spec { n, c, input, kernel, ..BASE }
}

impl Spec {
    fn groups(self, groups: usize) -> Spec {
        Spec { groups, ..self }
    }
    fn stride(self, y: usize, x: usize) -> Spec {
        let stride = [y, x];
        Spec { stride, ..self }
    }
    fn pad(self, y: usize, x: usize) -> Spec {
        let padding = [y, x];
        Spec { padding, ..self }
    }
    fn dilation(self, y: usize, x: usize) -> Spec {
        let dilation = [y, x];
        Spec { dilation, ..self }
    }
}

#[test]
fn convolutions() {
    let specs = [
        BASE,
        spec(1, [1, 1], [3, 3], [3, 3]),
        spec(3, [4, 8], [14, 14], [5, 5]).pad(2, 2),
        spec(3, [40, 33], [6, 6], [3, 3]),
        spec(2, [3, 5], [8, 9], [1, 1]).pad(0, 0),
        spec(2, [3, 5], [8, 9], [1, 1]).pad(0, 0).stride(2, 3),
        spec(2, [3, 5], [11, 13], [5, 2]).pad(2, 0).stride(2, 1),
        spec(2, [3, 5], [11, 13], [3, 4]).stride(3, 5).dilation(2, 1),
        spec(2, [3, 5], [16, 20], [3, 3]).pad(4, 3).stride(2, 4).dilation(3, 2),
        spec(2, [2, 4], [8, 9], [3, 3]).groups(3),
        spec(2, [1, 1], [8, 9], [3, 3]).groups(6).stride(2, 2),
        spec(40, [2, 3], [16, 16], [3, 3]),
        spec(2, [3, 5], [1, 50], [1, 7]).pad(0, 3).stride(1, 2),
    ];
    for gpu in gpus() {
        for spec in specs {
            for kind in [ConvKind::Forward, ConvKind::InputGrad, ConvKind::WeightGrad] {
                check(&gpu, &conv(spec, kind, [0, 1, 2, 3], 0));
                // Channels last, and an offset.
                check(&gpu, &conv(spec, kind, [0, 2, 3, 1], 5));
            }
        }
    }
}

/// The accumulator as a half.
fn halving(rows: Shape) -> Program {
    let round = &versant_graph::ops::elementwise::KEEP_F16.f;
    let acc = Instr { reg: 0, dtype: DType::F32, kind: InstrKind::Acc };
    let kind = InstrKind::Map { f: round, args: [0; 3], operand: DType::F32 };
    let rounded = Instr { reg: 1, dtype: DType::F32, kind };
    let store = Store { binding: 0, view: View::contiguous(rows), value: 1, dtype: DType::F32 };
    Program {
        rows,
        cols: Shape::SCALAR,
        bindings: vec![ProgramBinding { dtype: DType::F16, written: true }],
        steps: vec![Step::Row(Block { instrs: vec![acc, rounded], stores: vec![store] })],
        regs: 2,
    }
}

/// The halves that a contraction of halves gives.
fn run_halves(device: &Device, kernels: &ContractionKernels, inputs: [&[u32]; 2], len: usize) -> Vec<f32> {
    let sizes = [inputs[0].len(), inputs[1].len(), len.div_ceil(2)];
    let mut recording = recording(kernels, [0; 5]);
    recording.externals = sizes.to_vec();
    let plan = device.prepare(recording).expect("valid kernels");
    let fill = vec![UNTOUCHED; sizes[2]];
    let all = [inputs[0], inputs[1], &fill];
    let buffers: Vec<_> = all.iter().map(|data| device.upload(data).expect("memory")).collect();
    device.run(&plan, &buffers, &[]).expect("a run");
    let words = device.read(&buffers[2], sizes[2]).expect("a readback");
    let halves = words.iter().flat_map(|w| [w & 0xffff, w >> 16]);
    halves.map(|h| f32::from_bits(math::f16_value(h))).take(len).collect()
}

#[test]
fn halves_of_every_variant() {
    let odd = spec(3, [5, 6], [9, 6], [3, 3]);
    for gpu in gpus() {
        for mut c in [
            matmul(&[], [132, 136, 44], [false, false], 0),
            matmul(&[], [67, 70, 13], [false, true], 3),
            matmul(&[2], [34, 34, 9], [true, false], 0),
            matmul(&[], [1, 10, 1000], [false, true], 0),
            matmul(&[], [6, 6, 3000], [false, true], 4),
            conv(odd, ConvKind::Forward, [0, 1, 2, 3], 0),
            conv(odd, ConvKind::InputGrad, [0, 1, 2, 3], 1),
            conv(spec(2, [4, 70], [10, 10], [3, 2]).stride(2, 3), ConvKind::WeightGrad, [0, 1, 2, 3], 0),
        ] {
            assert!(c.may_halve());
            let (Contraction::MatMul(MatMul { types, .. }) | Contraction::Conv(Conv { types, .. })) = &mut c;
            *types = [DType::F16, DType::BF16];
            let [a, b] = c.operands().map(span);
            let pairs = |v: Vec<f32>, bits: fn(u32) -> u32| -> Vec<u32> {
                let pair = |p: &[f32]| p.iter().rev().fold(0, |w, x| w << 16 | bits(x.to_bits()));
                v.chunks(2).map(pair).collect()
            };
            let (a, b) = (pairs(noise(1, a), math::f16_bits), pairs(noise(2, b), math::bf16_bits));
            let rows = c.output_shape();
            let native = contraction(&c, halving(rows), "cpu", Target::Cpu);
            let want = run_halves(&Device::cpu(), &native, [&a, &b], rows.numel());
            let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(largest > 0.5 && largest < 1e3);
            for caps in [Caps::webgpu(Class::Discrete), software_caps(&gpu)] {
                for id in contract::variants(&c, &caps) {
                    if !Which::Quick.takes(&caps, &id.label()) && !id.label().ends_with("64x64x16") {
                        continue;
                    }
                    let kernels = contract::contraction_with(&c, halving(rows), "gpu", Target::Gpu(caps), id);
                    let got = run_halves(&gpu, &kernels, [&a, &b], rows.numel());
                    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                        let close = (got - want).abs() <= 1e-3 * want.abs() + 1e-5 * largest;
                        assert!(close, "element {i}: {got} for {want}, {}, {c:?}", id.label());
                    }
                }
            }
        }
    }
}
