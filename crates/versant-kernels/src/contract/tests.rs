//! The CPU twin against a naive sum in f64, over shapes and layouts of the operands.

use std::sync::Mutex;

use super::cpu::accumulate;
use super::cpu_conv::Extents;
use super::gpu_tests::{plain, with_operand};
use super::{Contraction, Conv, ConvKind, MatMul, Operand, contraction, winograd};
use crate::{Shape, Target, View};

/// A fixed sequence of values in (-1, 1).
pub(super) fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        })
        .collect()
}

/// How a test operand lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    Dense,
    /// A slice of a longer buffer.
    Offset,
    /// Stored with all dimensions reversed.
    Reversed,
    /// Stored with the last two dimensions exchanged.
    Transposed,
    /// The first dimension repeats one element.
    Broadcast,
    /// Every second element along the last dimension, backwards.
    Flipped,
}

pub(super) const LAYOUTS: [Layout; 6] =
    [Layout::Dense, Layout::Offset, Layout::Reversed, Layout::Transposed, Layout::Broadcast, Layout::Flipped];

/// A view of `dims` in this layout and the length of the buffer that it needs.
fn lay(dims: &[usize], layout: Layout) -> (View, usize) {
    let rank = dims.len();
    let shape = Shape::new(dims).expect("small rank");
    let permuted = |axes: Vec<usize>| {
        let stored: Vec<usize> = axes.iter().map(|&a| dims[a]).collect();
        let mut back = vec![0; rank];
        axes.iter().enumerate().for_each(|(i, &a)| back[a] = i);
        View::contiguous(Shape::new(&stored).expect("small rank")).permute(&back)
    };
    let mut view = View::contiguous(shape);
    match layout {
        Layout::Dense => (view, shape.numel()),
        Layout::Offset => {
            view.offset = 7;
            (view, shape.numel() + 11)
        }
        Layout::Reversed => (permuted((0..rank).rev().collect()), shape.numel()),
        Layout::Transposed => {
            let mut axes: Vec<usize> = (0..rank).collect();
            axes.swap(rank - 1, rank - 2);
            (permuted(axes), shape.numel())
        }
        Layout::Broadcast => {
            view.strides[0] = 0;
            (view, shape.numel())
        }
        Layout::Flipped => {
            view.strides.iter_mut().for_each(|s| *s *= 2);
            view.strides[rank - 1] = -2;
            view.offset = 2 * dims[rank - 1] as isize;
            (view, 2 * shape.numel() + 1)
        }
    }
}

/// The elements of a view in row-major order.
fn elements(view: &View, data: &[f32]) -> Vec<f64> {
    let dense = view.shape.strides();
    let offset = |i: usize| {
        (0..view.shape.rank()).fold(view.offset, |sum, k| {
            sum + view.strides[k] * ((i / dense[k] as usize) % view.shape[k]) as isize
        })
    };
    (0..view.shape.numel()).map(|i| f64::from(data[offset(i) as usize])).collect()
}

/// The result and, for a bound on rounding, the sum of absolute products.
pub(super) fn reference(c: &Contraction, a: &[f32], b: &[f32]) -> Vec<(f64, f64)> {
    let [va, vb] = c.operands();
    let (a, b) = (elements(va, a), elements(vb, b));
    let mut out = vec![(0.0, 0.0); c.output_shape().numel()];
    let mut add = |i: usize, x: f64, y: f64| {
        out[i].0 += x * y;
        out[i].1 += (x * y).abs();
    };
    match c {
        Contraction::MatMul(mm) => {
            let [m, n, k] = [mm.m, mm.n, mm.k];
            for batch in 0..mm.batch.numel() {
                for i in 0..m {
                    for j in 0..n {
                        for l in 0..k {
                            let (x, y) = (a[(batch * m + i) * k + l], b[(batch * k + l) * n + j]);
                            add((batch * m + i) * n + j, x, y);
                        }
                    }
                }
            }
        }
        Contraction::Conv(cv) => each_tap(cv, |x, w, y| match cv.kind {
            ConvKind::Forward => add(y, a[x], b[w]),
            ConvKind::InputGrad => add(x, a[y], b[w]),
            ConvKind::WeightGrad => add(w, a[x], b[y]),
        }),
    }
    out
}

/// Calls `f(x, w, y)` with the row-major indices of input, weight and output of every product.
fn each_tap(c: &Conv, mut f: impl FnMut(usize, usize, usize)) {
    let [ci, co] = [c.c_in / c.groups, c.c_out / c.groups];
    let ([h, w], [kh, kw], [oh, ow]) = (c.input, c.kernel, c.output);
    let inside = |o: usize, k: usize, axis: usize| {
        let i = (o * c.stride[axis] + k * c.dilation[axis]).checked_sub(c.padding[axis])?;
        (i < c.input[axis]).then_some(i)
    };
    for (n, oc) in (0..c.n).flat_map(|n| (0..c.c_out).map(move |oc| (n, oc))) {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            let y = ((n * c.c_out + oc) * oh + oy) * ow + ox;
            for (ic, ky) in (0..ci).flat_map(|ic| (0..kh).map(move |ky| (ic, ky))) {
                for kx in 0..kw {
                    if let (Some(iy), Some(ix)) = (inside(oy, ky, 0), inside(ox, kx, 1)) {
                        let channel = oc / co * ci + ic;
                        let x = ((n * c.c_in + channel) * h + iy) * w + ix;
                        f(x, ((oc * ci + ic) * kh + ky) * kw + kx, y);
                    }
                }
            }
        }
    }
}

/// Runs the CPU twin, asserting that every result element arrives exactly once.
fn run(c: &Contraction, a: &[f32], b: &[f32]) -> Vec<f32> {
    let out = Mutex::new(vec![None; c.output_shape().numel()]);
    accumulate(c, a, b, &|runs, acc| {
        let mut out = out.lock().expect("no sink panicked");
        for (i, &value) in acc.iter().enumerate() {
            let at = runs.start + i / runs.len * runs.apart + i % runs.len;
            assert!(out[at].replace(value).is_none(), "element {at} came twice");
        }
    });
    let all = out.into_inner().expect("no sink panicked");
    all.into_iter().map(|v| v.expect("every element came")).collect()
}

fn check(c: &Contraction, lengths: [usize; 2]) {
    let (a, b) = (noise(1, lengths[0]), noise(2, lengths[1]));
    let got = run(c, &a, &b);
    for (i, (&got, (want, bound))) in got.iter().zip(reference(c, &a, &b)).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= 1e-5 * bound + 1e-30, "element {i}: {got} for {want}, {c:?}");
    }
}

pub(super) fn matmul(
    batch: &[usize],
    [m, n, k]: [usize; 3],
    la: Layout,
    lb: Layout,
) -> (Contraction, [usize; 2]) {
    let dims = |tail: [usize; 2]| [batch, &tail[..]].concat();
    let (a, alen) = lay(&dims([m, k]), la);
    let (b, blen) = lay(&dims([k, n]), lb);
    let batch = Shape::new(batch).expect("small rank");
    (Contraction::MatMul(MatMul { batch, m, n, k, a, b, types: [crate::DType::F32; 2] }), [alen, blen])
}

#[test]
fn matmul_agrees_with_the_sum() {
    let sizes = [
        [1, 1, 1],
        [1, 7, 5],
        [7, 1, 5],
        [2, 3, 1],
        [5, 3, 2],
        [17, 13, 19],
        [64, 64, 64],
        [33, 70, 129],
        [3, 500, 40],
        [200, 3, 130],
    ];
    for batch in [&[][..], &[3], &[2, 5]] {
        for size in sizes {
            for la in LAYOUTS {
                for lb in LAYOUTS {
                    let (c, lengths) = matmul(batch, size, la, lb);
                    check(&c, lengths);
                }
            }
        }
    }
}

#[test]
fn a_large_matmul_is_cut_into_tasks_that_agree() {
    for size in [[300, 200, 600], [4, 3000, 400], [1500, 5, 700]] {
        let (c, lengths) = matmul(&[], size, Layout::Dense, Layout::Transposed);
        check(&c, lengths);
    }
    // Rows a page apart.
    let (c, lengths) = matmul(&[], [130, 260, 1024], Layout::Dense, Layout::Dense);
    check(&c, lengths);
    let (c, lengths) = matmul(&[300], [4, 9, 40], Layout::Transposed, Layout::Broadcast);
    check(&c, lengths);
}

#[test]
fn empty_extents_give_zeros_or_nothing() {
    for size in [[0, 3, 4], [3, 0, 4], [3, 4, 0], [0, 0, 0]] {
        for batch in [&[][..], &[2], &[0]] {
            let (c, lengths) = matmul(batch, size, Layout::Dense, Layout::Dense);
            check(&c, lengths);
        }
    }
    for (field, kind) in (0..6).flat_map(|f| KINDS.map(|k| (f, k))) {
        let mut spec = Spec { n: 2, c: [3, 4], ..Spec::default() };
        match field {
            0 => spec.n = 0,
            1 => spec.c[0] = 0,
            2 => spec.c[1] = 0,
            3 => spec.kernel = [0, 3],
            4 => spec.output = Some([0, 4]),
            _ => spec.input = [5, 0],
        }
        let (c, lengths) = spec.build(kind, Layout::Dense, Layout::Dense);
        check(&c, lengths);
    }
}

pub(super) const KINDS: [ConvKind; 3] = [ConvKind::Forward, ConvKind::InputGrad, ConvKind::WeightGrad];

#[derive(Clone, Copy)]
pub(super) struct Spec {
    pub n: usize,
    pub groups: usize,
    /// Input and output channels per group.
    pub c: [usize; 2],
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    /// Explicit output size, which may leave the last input pixels unused or reach beyond the padding.
    pub output: Option<[usize; 2]>,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            n: 1,
            groups: 1,
            c: [1, 1],
            input: [5, 5],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            output: None,
        }
    }
}

impl Spec {
    pub(super) fn build(self, kind: ConvKind, la: Layout, lb: Layout) -> (Contraction, [usize; 2]) {
        let extent = |i: usize| {
            let reach = self.dilation[i] * self.kernel[i].saturating_sub(1) + 1;
            (self.input[i] + 2 * self.padding[i]).checked_sub(reach).map_or(0, |d| d / self.stride[i] + 1)
        };
        let empty = View::splat(Shape::SCALAR);
        let mut conv = Conv {
            kind,
            n: self.n,
            groups: self.groups,
            c_in: self.groups * self.c[0],
            c_out: self.groups * self.c[1],
            input: self.input,
            kernel: self.kernel,
            output: self.output.unwrap_or([extent(0), extent(1)]),
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            a: empty.clone(),
            b: empty,
            types: [crate::DType::F32; 2],
        };
        let [a, b] = conv.operand_shapes();
        let ((a, alen), (b, blen)) = (lay(&a, la), lay(&b, lb));
        (conv.a, conv.b) = (a, b);
        (Contraction::Conv(conv), [alen, blen])
    }
}

/// Samples, channels per group, input and kernel extents; the rest as by default.
fn spec(n: usize, c: [usize; 2], input: [usize; 2], kernel: [usize; 2]) -> Spec {
    Spec { n, c, input, kernel, ..Spec::default() }
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
    fn output(self, y: usize, x: usize) -> Spec {
        let output = Some([y, x]);
        Spec { output, ..self }
    }
}

/// Convolutions that differ in every attribute.
pub(super) fn specs() -> Vec<Spec> {
    vec![
        Spec::default(),
        spec(3, [2, 3], [5, 5], [3, 3]).pad(1, 1),
        spec(2, [3, 5], [7, 6], [1, 1]),
        spec(2, [3, 5], [7, 6], [1, 1]).stride(2, 3),
        spec(2, [2, 3], [11, 13], [5, 3]).stride(2, 1).pad(2, 1),
        spec(2, [2, 3], [11, 13], [3, 2]).stride(3, 2).pad(1, 0).dilation(2, 3),
        spec(5, [2, 2], [4, 3], [4, 3]),
        // Lines of whole panels and a part of one, read in place, and short lines that are taken together.
        spec(1, [2, 9], [6, 40], [3, 3]).pad(1, 1),
        spec(2, [3, 20], [9, 30], [3, 3]).stride(2, 2).pad(1, 1),
        spec(1, [2, 2], [9, 50], [2, 3]).stride(2, 3).pad(0, 2).dilation(1, 2),
        spec(2, [2, 3], [40, 6], [3, 3]).pad(1, 1),
        spec(130, [3, 4], [3, 3], [3, 3]).stride(2, 2).pad(1, 1),
        spec(2, [2, 4], [6, 7], [3, 3]).groups(3).pad(1, 2),
        spec(3, [1, 1], [9, 8], [3, 3]).groups(6).stride(2, 2).pad(1, 1),
        spec(2, [1, 2], [9, 8], [3, 3]).groups(5).pad(1, 1).dilation(2, 2),
        spec(1, [4, 8], [40, 50], [5, 5]).pad(2, 2),
        spec(40, [8, 16], [14, 14], [3, 3]).pad(1, 1),
        spec(2, [40, 6], [30, 31], [5, 5]).pad(2, 2),
        // Lines of whole fourteens: an even and an odd number of panels of channels, strides, groups.
        spec(3, [32, 32], [14, 14], [3, 3]).pad(1, 1),
        spec(1, [13, 48], [9, 28], [3, 3]).pad(1, 1).groups(2),
        spec(2, [13, 32], [29, 27], [3, 4]).stride(2, 2).pad(1, 2).dilation(2, 1),
        // Phases: of odd extents, of groups, some without taps, more of them than pixels.
        spec(2, [9, 17], [17, 19], [3, 3]).groups(2).stride(2, 2).pad(1, 1),
        spec(3, [8, 9], [14, 70], [2, 3]).stride(3, 4).pad(1, 2),
        spec(2, [5, 6], [3, 2], [2, 2]).stride(4, 5).pad(0, 1),
        // Padding wider than the kernel, and an output that ends before or beyond the padded input.
        spec(2, [2, 2], [5, 5], [3, 3]).pad(4, 5),
        spec(2, [2, 2], [8, 8], [3, 3]).output(3, 2),
        spec(2, [2, 2], [5, 5], [3, 3]).stride(2, 2).output(6, 7),
        spec(2, [2, 3], [1, 37], [1, 5]).pad(0, 2).stride(1, 2),
    ]
}

/// Many groups of one channel: lines shorter than a panel, whole ones, and some panels and a part; more taps than are summed at
/// once; what no tap reads; planes that are cut.
fn depthwise() -> Vec<Spec> {
    let of = |input, kernel| spec(2, [1, 1], input, kernel).groups(19);
    vec![
        of([7, 7], [3, 3]).pad(1, 1),
        of([5, 32], [3, 3]).pad(1, 1),
        of([8, 39], [3, 5]).pad(1, 2).stride(2, 2),
        of([14, 15], [5, 5]).pad(2, 2).stride(3, 2),
        of([9, 20], [3, 2]).pad(3, 5).dilation(2, 3),
        of([9, 9], [1, 1]).stride(2, 3),
        of([6, 8], [3, 3]).stride(2, 2).output(4, 3),
        of([8, 9], [2, 2]).output(3, 2),
        spec(1, [1, 1], [210, 330], [3, 3]).groups(8).pad(1, 1).stride(1, 2),
    ]
}

/// Convolutions by Winograd's tiles: lines of whole panels of tiles, of parts of them, of odd extents, samples together, groups, more
/// padding, an output that ends beyond the input.
fn of_tiles() -> Vec<Spec> {
    vec![
        spec(2, [32, 32], [16, 32], [3, 3]).pad(1, 1),
        spec(5, [24, 20], [8, 8], [3, 3]).pad(1, 1),
        spec(3, [33, 40], [13, 27], [3, 3]).pad(1, 2),
        spec(2, [40, 24], [6, 38], [3, 3]).groups(2),
        spec(9, [64, 60], [4, 4], [3, 3]).pad(1, 1).groups(3),
        spec(1, [130, 140], [7, 9], [3, 3]).pad(2, 2),
        spec(2, [32, 32], [8, 8], [3, 3]).output(12, 9),
    ]
}

#[test]
fn tiles_are_used_where_they_are_tested() {
    for spec in of_tiles() {
        let (c, _) = spec.build(ConvKind::Forward, Layout::Dense, Layout::Dense);
        let Contraction::Conv(conv) = &c else { panic!("a convolution") };
        assert!(winograd::suits(&Extents::new(conv)), "{c:?}");
    }
}

#[test]
fn convolutions_agree_with_the_sum() {
    for spec in specs().into_iter().chain(depthwise()).chain(of_tiles()) {
        for kind in KINDS {
            for (la, lb) in [(0, 0), (1, 1), (2, 3), (3, 2), (4, 5), (5, 4)] {
                let (c, lengths) = spec.build(kind, LAYOUTS[la], LAYOUTS[lb]);
                check(&c, lengths);
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
    };
    let conv = Spec { n: 9, c: [32, 32], input: [14, 14], padding: [1, 1], ..Spec::default() };
    let mut cases: Vec<_> = KINDS.map(|k| conv.build(k, Layout::Dense, Layout::Dense)).to_vec();
    let depthwise =
        Spec { n: 3, groups: 40, stride: [2, 2], input: [30, 31], padding: [1, 1], ..Spec::default() };
    cases.extend(KINDS.map(|k| depthwise.build(k, Layout::Dense, Layout::Dense)));
    cases.push(matmul(&[], [150, 200, 700], Layout::Dense, Layout::Dense));
    cases.push(matmul(&[20], [40, 70, 90], Layout::Dense, Layout::Dense));
    for (c, lengths) in cases {
        let (a, b) = (noise(1, lengths[0]), noise(2, lengths[1]));
        let one = pool(1).install(|| run(&c, &a, &b));
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for threads in [2, 7] {
            let many = pool(threads).install(|| run(&c, &a, &b));
            assert_eq!(bits(&one), bits(&many));
        }
    }
}

/// Tasks of whole rows, as many as threads can use: some that are all of a block, and a last one whose rows fill no tile.
#[test]
fn a_product_that_is_only_stored_goes_straight_to_its_place() {
    for (size, lb) in [([901, 203, 530], Layout::Dense), ([896, 64, 1024], Layout::Transposed)] {
        let (c, lengths) = matmul(&[], size, Layout::Dense, lb);
        let (a, b) = (noise(1, lengths[0]), noise(2, lengths[1]));
        let words = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let (left, right, by_blocks) = (words(&a), words(&b), run(&c, &a, &b));
        let kernels = contraction(&c, plain(&c), "test", Target::Cpu);
        let source = &kernels.launches[0].source;
        check(&c, lengths);
        crate::families::check::equal(source, &[&left, &right], &words(&by_blocks));
    }
}

#[test]
fn the_epilogue_sees_every_accumulator_and_its_coordinates() {
    let spec = Spec { n: 3, groups: 2, c: [2, 3], padding: [1, 1], ..Spec::default() };
    let mut cases: Vec<_> = KINDS.map(|k| spec.build(k, Layout::Dense, Layout::Dense)).to_vec();
    cases.push(matmul(&[3], [9, 7, 5], Layout::Offset, Layout::Broadcast));
    cases.push(matmul(&[2], [9, 7, 0], Layout::Dense, Layout::Dense));
    for (c, lengths) in cases {
        let words = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
        let (a, b) = (noise(1, lengths[0]), noise(2, lengths[1]));
        let shape = c.output_shape();
        let width = shape[shape.rank() - 1];
        let row = noise(3, width);
        let kernels = contraction(&c, with_operand(&c), "test", Target::Cpu);
        let [launch] = &kernels.launches[..] else { panic!("one launch on the CPU") };
        let operands = [Operand::A, Operand::B, Operand::Epilogue(0)];
        assert_eq!(launch.reads, operands);
        assert_eq!(launch.writes, [Operand::Epilogue(1), Operand::Epilogue(2)]);
        let native = launch.source.native.as_ref().expect("a CPU kernel");
        let (mut first, mut second) = (vec![7; shape.numel()], vec![7; shape.numel()]);
        let reads = [words(a.clone()), words(b.clone()), words(row.clone())];
        native(&[&reads[0], &reads[1], &reads[2]], &mut [&mut first, &mut second], &[]);
        assert_eq!(first, words(run(&c, &a, &b)));
        let spread: Vec<f32> = (0..shape.numel()).map(|i| row[i % width]).collect();
        assert_eq!(second, words(spread));
    }
}
