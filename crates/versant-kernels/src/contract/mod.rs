//! The contraction family: batched matrix multiplication, 2-D convolution and its two gradients.
//!
//! All of them are one computation, a batched matrix product `acc[m, n] = Σ_k A[m, k] · B[k, n]`, whose
//! operands are read through loader functions; a convolution is an *implicit* product (no im2col buffer on
//! the GPU). Each accumulator then goes through an epilogue [`Program`] (bias, activation, residual, cast)
//! before anything is stored.
//!
//! | description | batch | m | n | k |
//! | --- | --- | --- | --- | --- |
//! | [`MatMul`] | `batch` | `m` | `n` | `k` |
//! | [`ConvKind::Forward`] | groups | out channels / groups | samples · out pixels | in channels / groups · taps |
//! | [`ConvKind::InputGrad`] | groups | in channels / groups | samples · in pixels | out channels / groups · taps |
//! | [`ConvKind::WeightGrad`] | groups | out channels / groups | in channels / groups · taps | samples · out pixels |

mod choice;
pub(crate) mod cpu;
mod cpu_conv;
mod cpu_weight;
mod depthwise;
mod gemm_call;
pub(crate) mod gpu;
#[cfg(test)]
mod gpu_tests;
pub(crate) mod panel;
mod patches;
mod phases;
#[cfg(test)]
mod tests;
mod tiles;
mod transpose;
mod winograd;

pub use choice::{probe, variants};
pub use gpu::source_hash;
pub use tiles::VariantId;

use crate::{DType, KernelSource, Program, Shape, Target, View};

/// A batched matrix product or a convolution.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Contraction {
    /// Batched matrix multiplication.
    MatMul(MatMul),
    /// 2-D convolution or one of its gradients.
    Conv(Conv),
}

/// `out[batch, m, n] = Σ_k a[batch, m, k] · b[batch, k, n]`, summed in F32.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MatMul {
    /// Extents of the batch dimensions; at most six.
    pub batch: Shape,
    /// Rows of `a` and of the result.
    pub m: usize,
    /// Columns of `b` and of the result.
    pub n: usize,
    /// The contracted extent.
    pub k: usize,
    /// Where `a` lies: a view of shape `batch ++ [m, k]` without guards, in elements of its buffer.
    pub a: View,
    /// Where `b` lies: a view of shape `batch ++ [k, n]` without guards.
    pub b: View,
    /// What both buffers hold, F32 or halves.
    pub types: [DType; 2],
}

/// Which member of the convolution family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConvKind {
    /// `a` = x `[N, Cin, H, W]`, `b` = w `[Cout, Cin/g, KH, KW]`, result `[N, Cout, OH, OW]`.
    Forward,
    /// `a` = g `[N, Cout, OH, OW]`, `b` = w, result `[N, Cin, H, W]`; also transposed convolution.
    InputGrad,
    /// `a` = x `[N, Cin, H, W]`, `b` = g `[N, Cout, OH, OW]`, result `[Cout, Cin/g, KH, KW]`.
    WeightGrad,
}

/// A 2-D cross-correlation (what deep learning calls convolution) or one of its gradients, summed in F32.
///
/// Output pixel `(oy, ox)` meets tap `(ky, kx)` at input pixel
/// `(oy·stride + ky·dilation − padding, …)`; pixels outside the input are zero. The three kinds share this
/// relation, so `input`, `output` and the channel counts always describe the *forward* convolution.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Conv {
    /// Which of the three products.
    pub kind: ConvKind,
    /// Samples.
    pub n: usize,
    /// Channel groups; divides `c_in` and `c_out`.
    pub groups: usize,
    /// Input channels of all groups together.
    pub c_in: usize,
    /// Output channels of all groups together.
    pub c_out: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Input pixels per output pixel; at least 1.
    pub stride: [usize; 2],
    /// Zero pixels before the first input row and column; what follows the last one is implied by `output`.
    pub padding: [usize; 2],
    /// Input pixels per tap; at least 1.
    pub dilation: [usize; 2],
    /// The first operand (see [`ConvKind`]), a view without guards over its natural shape.
    pub a: View,
    /// The second operand, likewise.
    pub b: View,
    /// What both buffers hold, F32 or halves.
    pub types: [DType; 2],
}

/// What a buffer of a [`ContractLaunch`] is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operand {
    /// The buffer of the first operand.
    A,
    /// The buffer of the second operand.
    B,
    /// The scratch buffer of [`ContractionKernels::scratch_words`] words; contents undefined at first.
    Scratch,
    /// Buffer number `.0` of the epilogue's [`Program::bindings`].
    Epilogue(usize),
}

/// One launch of a contraction and its buffers in the order of its bindings.
#[derive(Clone)]
pub struct ContractLaunch {
    /// The kernel.
    pub source: KernelSource,
    /// What to bind as read buffers, `source.reads` of them.
    pub reads: Vec<Operand>,
    /// What to bind as written buffers, `source.writes` of them.
    pub writes: Vec<Operand>,
}

/// The launches of a contraction, to be run in order.
#[derive(Clone)]
pub struct ContractionKernels {
    /// None if the result has no elements, two where the sum over `k` is split, else one.
    pub launches: Vec<ContractLaunch>,
    /// Words of scratch that the launches share; 0 if there is none.
    pub scratch_words: usize,
}

impl MatMul {
    /// `batch ++ [m, n]`.
    pub fn output_shape(&self) -> Shape {
        let dims: Vec<usize> = self.batch.iter().copied().chain([self.m, self.n]).collect();
        Shape::new(&dims).expect("a matmul has at most six batch dimensions")
    }
}

impl MatMul {
    fn absorb_last_batch(&mut self) -> bool {
        let Some(last) = self.batch.rank().checked_sub(1) else {
            return false;
        };
        let extent = self.batch[last];
        let strides = &self.a.strides;
        let follows = strides[last] == strides[last + 1] * self.m as isize;
        let idle = extent == 1 || (self.b.strides[last] == 0 && (follows || self.m == 1));
        if !idle {
            return false;
        }
        if extent != 1 && self.m == 1 {
            self.a.strides[last + 1] = self.a.strides[last];
        }
        self.m *= extent;
        self.batch = Shape::new(&self.batch[..last]).expect("fewer dimensions than before");
        let shape = |tail: [usize; 2]| [self.batch.dims(), &tail[..]].concat();
        for (view, dims) in [(&mut self.a, shape([self.m, self.k])), (&mut self.b, shape([self.k, self.n]))] {
            view.strides.remove(last);
            view.shape = Shape::new(&dims).expect("fewer dimensions than before");
        }
        true
    }
}

impl Conv {
    /// `[N, Cin, H, W]`.
    pub fn input_shape(&self) -> Shape {
        shape4([self.n, self.c_in, self.input[0], self.input[1]])
    }

    /// `[N, Cout, OH, OW]`.
    pub fn result_shape(&self) -> Shape {
        shape4([self.n, self.c_out, self.output[0], self.output[1]])
    }

    /// `[Cout, Cin/g, KH, KW]`.
    pub fn weight_shape(&self) -> Shape {
        let c_in = self.c_in / self.groups.max(1);
        shape4([self.c_out, c_in, self.kernel[0], self.kernel[1]])
    }

    /// The natural shape of what this kind computes.
    pub fn output_shape(&self) -> Shape {
        match self.kind {
            ConvKind::Forward => self.result_shape(),
            ConvKind::InputGrad => self.input_shape(),
            ConvKind::WeightGrad => self.weight_shape(),
        }
    }

    /// A convolution of one tap that meets each pixel once, or its input gradient, as a product of each sample's
    /// pixels with the weights; its result lies as the convolution's does.
    fn as_product(&self) -> Option<MatMul> {
        let pointwise = self.kernel == [1; 2] && self.stride == [1; 2] && self.padding == [0; 2];
        let image = &self.a.strides;
        let [height, width] = self.input;
        // Rows of pixels that follow one another are one run of them.
        let along_n = if width == 1 { image[2] } else { image[3] };
        let run = height <= 1 || width <= 1 || image[2] == image[3] * width as isize;
        if !pointwise || !run || self.output != self.input || self.kind == ConvKind::WeightGrad {
            return None;
        }
        let [c_in, c_out] = [self.c_in, self.c_out].map(|channels| channels / self.groups);
        let w = &self.b.strides;
        let (m, k, along_m, along_k) = match self.kind {
            ConvKind::Forward => (c_out, c_in, w[0], w[1]),
            _ => (c_in, c_out, w[1], w[0]),
        };
        let n = height * width;
        let view = |tail: [usize; 2], strides: [isize; 4], offset| View {
            shape: shape4([self.n, self.groups, tail[0], tail[1]]),
            strides: strides.into_iter().collect(),
            offset,
            ..self.a.clone()
        };
        let a = view([m, k], [0, c_out as isize * w[0], along_m, along_k], self.b.offset);
        let b = view([k, n], [image[0], k as isize * image[1], image[1], along_n], self.a.offset);
        let batch = Shape::new(&[self.n, self.groups]).expect("two is below the largest rank");
        let types = [self.types[1], self.types[0]];
        Some(MatMul { batch, m, n, k, a, b, types })
    }

    /// The natural shapes of the operands `a` and `b`.
    pub fn operand_shapes(&self) -> [Shape; 2] {
        match self.kind {
            ConvKind::Forward => [self.input_shape(), self.weight_shape()],
            ConvKind::InputGrad => [self.result_shape(), self.weight_shape()],
            ConvKind::WeightGrad => [self.input_shape(), self.result_shape()],
        }
    }
}

fn shape4(dims: [usize; 4]) -> Shape {
    Shape::new(&dims).expect("four is below the largest rank")
}

impl Contraction {
    /// The natural shape of the result, which is the epilogue's `rows`.
    pub fn output_shape(&self) -> Shape {
        match self {
            Contraction::MatMul(m) => m.output_shape(),
            Contraction::Conv(c) => c.output_shape(),
        }
    }

    fn assert_consistent(&self) {
        let shapes = match self {
            Contraction::MatMul(mm) => {
                let dims = |tail: [usize; 2]| [mm.batch.dims(), &tail[..]].concat();
                [dims([mm.m, mm.k]), dims([mm.k, mm.n])]
            }
            Contraction::Conv(c) => {
                let divides = |channels: usize| c.groups > 0 && channels.is_multiple_of(c.groups);
                assert!(divides(c.c_in) && divides(c.c_out), "groups divide the channels");
                let steps = [c.stride, c.dilation].concat();
                assert!(steps.iter().all(|&s| s > 0), "strides and dilations are positive");
                c.operand_shapes().map(|s| s.to_vec())
            }
        };
        for (view, shape) in self.operands().into_iter().zip(shapes) {
            assert!(view.guards.is_empty(), "a contraction reads views without guards");
            assert_eq!(view.shape.dims(), shape, "a view has its operand's shape");
        }
    }

    /// Makes trailing batch dimensions that `b` does not have part of the rows of `a` where memory allows it: many
    /// products with one right operand are one larger product, with the same result in the same order.
    fn without_idle_batch(mut self) -> Contraction {
        if let Contraction::MatMul(mm) = &mut self {
            while mm.absorb_last_batch() {}
        }
        self
    }

    /// The same contraction in the form that a GPU's kernels are made for.
    fn simplified(self) -> Contraction {
        let product = match &self {
            Contraction::Conv(conv) => conv.as_product(),
            Contraction::MatMul(_) => None,
        };
        product.map_or(self, Contraction::MatMul).without_idle_batch()
    }

    /// The views of the operands.
    pub fn operands(&self) -> [&View; 2] {
        match self {
            Contraction::MatMul(m) => [&m.a, &m.b],
            Contraction::Conv(c) => [&c.a, &c.b],
        }
    }

    /// What the operands' buffers hold.
    pub fn types(&self) -> [DType; 2] {
        match self {
            Contraction::MatMul(m) => m.types,
            Contraction::Conv(c) => c.types,
        }
    }

    /// Whether an epilogue may store halves: its results come in runs of whole words.
    pub fn may_halve(&self) -> bool {
        let run = match self {
            Contraction::MatMul(m) => m.n,
            Contraction::Conv(c) => match c.kind {
                ConvKind::Forward => c.output[0] * c.output[1],
                ConvKind::InputGrad => c.input[0] * c.input[1],
                ConvKind::WeightGrad => c.c_in / c.groups * c.kernel[0] * c.kernel[1],
            },
        };
        run.is_multiple_of(2)
    }
}

/// The kernels of a contraction with its epilogue.
///
/// `epilogue` has the natural output shape as its `rows`, or one that splits its dimensions but the last; no columns, one `Row` step, and takes each
/// accumulator as [`InstrKind::Acc`](crate::InstrKind::Acc); the plain one is that and a dense store. A launch
/// binds at most two buffers besides the epilogue's.
///
/// # Panics
/// If the description contradicts itself: a view with guards or of another shape than its operand, groups that
/// do not divide the channels, a stride or dilation of 0. The recorder refuses all of these.
pub fn contraction(c: &Contraction, epilogue: Program, label: &str, target: Target) -> ContractionKernels {
    build(c, epilogue, label, target, None)
}

/// The same by one of the [`variants`], where the target is a GPU. Any variant of the table will do whose limits the
/// adapter meets.
///
/// # Panics
/// As [`contraction`].
pub fn contraction_with(
    c: &Contraction,
    epilogue: Program,
    label: &str,
    target: Target,
    variant: VariantId,
) -> ContractionKernels {
    build(c, epilogue, label, target, Some(variant))
}

fn build(
    c: &Contraction,
    epilogue: Program,
    label: &str,
    target: Target,
    variant: Option<VariantId>,
) -> ContractionKernels {
    c.assert_consistent();
    let (rows, natural) = (epilogue.rows, c.output_shape());
    let same = rows.numel() == natural.numel() && rows.last() == natural.last();
    assert!(same, "an epilogue runs over the natural output");
    if epilogue.rows.numel() == 0 {
        return ContractionKernels { launches: Vec::new(), scratch_words: 0 };
    }
    match target {
        Target::Gpu(caps) => {
            let simple = c.clone().simplified();
            let variant = variant.unwrap_or_else(|| choice::default(&simple, &caps));
            let mut kernels = gpu::kernels(&simple, &epilogue, label, variant);
            // The weights, second operand of a convolution, are the first one of a product.
            if matches!((c, &simple), (Contraction::Conv(_), Contraction::MatMul(_))) {
                for operand in kernels.launches.iter_mut().flat_map(|l| &mut l.reads) {
                    *operand = match *operand {
                        Operand::A => Operand::B,
                        Operand::B => Operand::A,
                        other => other,
                    };
                }
            }
            kernels
        }
        Target::Cpu => {
            let c = c.clone().without_idle_batch();
            ContractionKernels { launches: vec![cpu::kernel(&c, epilogue, label)], scratch_words: 0 }
        }
    }
}

/// The [`ContractionKernels::scratch_words`] that [`contraction`] (or [`contraction_with`], where a variant is
/// named) will ask for. It does not depend on the epilogue, so memory can be planned before epilogues are final,
/// and no text is made.
pub fn scratch_words(c: &Contraction, target: Target, variant: Option<VariantId>) -> usize {
    match target {
        Target::Gpu(caps) if c.output_shape().numel() > 0 => {
            let c = c.clone().simplified();
            let variant = variant.unwrap_or_else(|| choice::default(&c, &caps));
            gpu::scratch_words(&c, variant)
        }
        _ => 0,
    }
}

/// The work of a contraction without its epilogue: floating-point operations (two per multiply-add, with the
/// taps that fall into the padding counted) and bytes, each operand element read once and each result
/// element written once.
pub fn cost(c: &Contraction) -> (u64, u64) {
    let out = c.output_shape().numel();
    let (macs, [a, b]) = match c {
        Contraction::MatMul(mm) => {
            let batch = mm.batch.numel();
            (out * mm.k, [mm.m, mm.n].map(|extent| batch * mm.k * extent))
        }
        Contraction::Conv(cv) => {
            let taps = cv.weight_shape().numel();
            let pixels = cv.n * cv.output[0] * cv.output[1];
            (pixels * taps, cv.operand_shapes().map(|s| s.numel()))
        }
    };
    let types = c.types();
    (2 * macs as u64, 4 * (types[0].words(a) + types[1].words(b) + out) as u64)
}
