//! WGSL of a contraction: a template from `shaders/contract`, the loaders, the tile's constants, the epilogue.

use super::tiles::{self, Plan, Template};
use super::{ContractLaunch, Contraction, ContractionKernels, Conv, ConvKind, MatMul, Operand};
use crate::emit::{ParamBlock, epilogue_wgsl, grid};
use crate::{KernelSource, Program};

const TILE: &str = include_str!("../../../../shaders/contract/tile.wgsl");
const LANES: &str = include_str!("../../../../shaders/contract/lanes.wgsl");
const REDUCE: &str = include_str!("../../../../shaders/contract/reduce.wgsl");
const MATMUL: &str = include_str!("../../../../shaders/contract/matmul.wgsl");
const CONV: &str = include_str!("../../../../shaders/contract/conv.wgsl");

/// Invocations of a workgroup of reduce.wgsl.
const REDUCE_GROUP: usize = 64;

/// The launches of a contraction whose result is not empty.
pub(super) fn kernels(
    c: &Contraction,
    epilogue: &Program,
    label: &str,
    software: bool,
) -> ContractionKernels {
    let plan = tiles::plan(c, software);
    let results = c.output_shape().numel();
    let product = product(c, &plan, (!plan.scratch).then_some(epilogue), label);
    if !plan.scratch {
        return ContractionKernels {
            launches: vec![product],
            scratch_words: 0,
        };
    }
    ContractionKernels {
        launches: vec![product, reduce(results, plan.splits, epilogue, label)],
        scratch_words: results * plan.splits,
    }
}

/// The launch that multiplies; without an epilogue its results go to scratch, `[split, result]`.
fn product(
    c: &Contraction,
    plan: &Plan,
    epilogue: Option<&Program>,
    label: &str,
) -> ContractLaunch {
    let tile = plan.tile;
    let mut params = ParamBlock::default();
    common_params(c, plan, &mut params);
    let (loaders, order) = match c {
        Contraction::MatMul(mm) => (matmul_loaders(mm, &mut params), [Operand::A, Operand::B]),
        Contraction::Conv(cv) => (conv_loaders(cv, &mut params), [Operand::B, Operand::A]),
    };
    let mut body = strip(match tile.template {
        Template::Tile => TILE,
        Template::Lanes => LANES,
    });
    set(&mut body, "THREAD_M", &format!("{}u", tile.thread[0]));
    set(&mut body, "THREAD_N", &format!("{}u", tile.thread[1]));
    if tile.template == Template::Tile {
        let [along_m, along_n] = along_k(c);
        set(&mut body, "TILE_M", &format!("{}u", tile.size[0]));
        set(&mut body, "TILE_N", &format!("{}u", tile.size[1]));
        set(&mut body, "TILE_K", &format!("{}u", tile.step));
        set(&mut body, "LHS_ALONG_K", &along_m.to_string());
        set(&mut body, "RHS_ALONG_K", &along_n.to_string());
    }
    let (store, bindings, uses_scalars) = match epilogue {
        Some(p) => {
            let e = epilogue_wgsl(p, 2, &mut params);
            (
                format!("{}{}", e.decls, e.func),
                epilogue_bindings(p),
                e.uses_scalars,
            )
        }
        None => {
            let store = "@group(0) @binding(4) var<storage, read_write> partial: array<f32>;\n\
                         fn epilogue(i: u32, acc: f32) {\n    partial[i] = acc;\n}\n";
            (store.to_owned(), (vec![], vec![Operand::Scratch]), false)
        }
    };
    let (mut reads, writes) = bindings;
    reads.splice(0..0, order);
    let wgsl = format!(
        "{}@group(0) @binding(2) var<storage, read> lhs: array<f32>;\n\
         @group(0) @binding(3) var<storage, read> rhs: array<f32>;\n{store}{loaders}{body}",
        params.declaration()
    );
    launch(
        format!("{label} [{}]", tile.label),
        wgsl,
        params,
        uses_scalars,
        grid(plan.groups),
        reads,
        writes,
    )
}

/// The launch that adds the partial results of all splits and runs the epilogue.
fn reduce(results: usize, splits: usize, epilogue: &Program, label: &str) -> ContractLaunch {
    let mut params = ParamBlock::default();
    params.push(results as u32);
    params.push(splits as u32);
    let e = epilogue_wgsl(epilogue, 1, &mut params);
    let (mut reads, writes) = epilogue_bindings(epilogue);
    reads.insert(0, Operand::Scratch);
    let wgsl = format!(
        "{}@group(0) @binding(2) var<storage, read> partial: array<f32>;\n{}{}{}",
        params.declaration(),
        e.decls,
        e.func,
        strip(REDUCE)
    );
    launch(
        format!("{label} [sum of splits]"),
        wgsl,
        params,
        e.uses_scalars,
        grid(results.div_ceil(REDUCE_GROUP)),
        reads,
        writes,
    )
}

fn launch(
    label: String,
    wgsl: String,
    params: ParamBlock,
    uses_scalars: bool,
    grid: [u32; 3],
    reads: Vec<Operand>,
    writes: Vec<Operand>,
) -> ContractLaunch {
    ContractLaunch {
        source: KernelSource {
            label,
            wgsl,
            reads: reads.len(),
            writes: writes.len(),
            params: params.into_words(),
            uses_scalars,
            grid,
            native: None,
        },
        reads,
        writes,
    }
}

/// The epilogue's buffers as reads and writes.
pub(super) fn epilogue_bindings(p: &Program) -> (Vec<Operand>, Vec<Operand>) {
    let all = (0..p.bindings.len()).map(Operand::Epilogue);
    let (reads, writes): (Vec<_>, Vec<_>) = all.zip(&p.bindings).partition(|(_, b)| !b.written);
    let names = |list: Vec<(Operand, _)>| list.into_iter().map(|(operand, _)| operand).collect();
    (names(reads), names(writes))
}

/// Parameters 0 to 2, which the templates name.
fn common_params(c: &Contraction, plan: &Plan, params: &mut ParamBlock) {
    let [batch, m, n, k] = tiles::extents(c);
    // Results of a run of n, and the output strides of a run, of a batch, of m.
    let output = match c {
        Contraction::MatMul(_) => [n, 0, m * n, n],
        Contraction::Conv(cv) => {
            let images = |channels: usize, area: usize| {
                let per_group = channels / cv.groups;
                [area, channels * area, per_group * area, area]
            };
            match cv.kind {
                ConvKind::Forward => images(cv.c_out, cv.output[0] * cv.output[1]),
                ConvKind::InputGrad => images(cv.c_in, cv.input[0] * cv.input[1]),
                ConvKind::WeightGrad => [n, 0, m * n, n],
            }
        }
    };
    let plan = [plan.tiles[0], plan.tiles[1], plan.splits, plan.k_per_split];
    for word in [[m, n, k, batch], plan, output].concat() {
        params.push(word as u32);
    }
}

fn push_signed(params: &mut ParamBlock, words: [isize; 4]) {
    for word in words {
        params.push_i32(word);
    }
}

fn matmul_loaders(mm: &MatMul, params: &mut ParamBlock) -> String {
    let lead = mm.batch.rank();
    let (a, b) = (&mm.a, &mm.b);
    // Dimensions innermost first; neighbours are one where both operands walk them as one.
    let mut dims: Vec<[isize; 4]> = Vec::new();
    for axis in (0..lead).rev().filter(|&axis| mm.batch[axis] != 1) {
        let (extent, sa, sb) = (mm.batch[axis] as isize, a.strides[axis], b.strides[axis]);
        match dims.last_mut() {
            Some([inner, ia, ib, _]) if sa == *ia * *inner && sb == *ib * *inner => {
                *inner *= extent
            }
            _ => dims.push([extent, sa, sb, 0]),
        }
    }
    let rank = dims.len() as isize;
    push_signed(
        params,
        [a.offset, a.strides[lead], a.strides[lead + 1], rank],
    );
    push_signed(params, [b.offset, b.strides[lead], b.strides[lead + 1], 0]);
    for dim in dims {
        push_signed(params, dim);
    }
    strip(MATMUL)
}

fn conv_loaders(cv: &Conv, params: &mut ParamBlock) -> String {
    let (image, other) = (&cv.a, &cv.b);
    let per_group = |channels: usize| (channels / cv.groups) as isize;
    let (ci, co) = (per_group(cv.c_in), per_group(cv.c_out));
    let pair = |p: [usize; 2]| [p[0] as isize, p[1] as isize];
    let s = &other.strides;
    // Offset steps of the other operand: of a group, of m, of the three parts of k.
    let (group, along_m, k) = match cv.kind {
        ConvKind::Forward => (co * s[0], s[0], [s[1], s[2], s[3]]),
        ConvKind::InputGrad => (co * s[0], s[1], [s[0], s[2], s[3]]),
        ConvKind::WeightGrad => (co * s[1], s[1], [s[0], s[2], s[3]]),
    };
    let ([kh, kw], [oh, ow], [h, w]) = (pair(cv.kernel), pair(cv.output), pair(cv.input));
    let ([ky, kx], [image_h, image_w], [ny, nx], channels) = match cv.kind {
        ConvKind::Forward => ([kh, kw], [h, w], [oh, ow], ci),
        ConvKind::InputGrad => ([kh, kw], [oh, ow], [h, w], co),
        ConvKind::WeightGrad => ([oh, ow], [h, w], [kh, kw], ci),
    };
    // Divisors; an extent of 0 leaves nothing to divide.
    let [ky, kx, ny, nx] = [ky, kx, ny, nx].map(|extent| extent.max(1));
    let ([sy, sx], [py, px], [dy, dx]) = (pair(cv.stride), pair(cv.padding), pair(cv.dilation));
    let t = &image.strides;
    push_signed(params, [other.offset, group, along_m, 0]);
    push_signed(params, [k[0], k[1], k[2], 0]);
    push_signed(params, [image.offset, channels * t[1], t[0], t[1]]);
    push_signed(params, [t[2], t[3], ky, kx]);
    push_signed(params, [image_h, image_w, sy, sx]);
    push_signed(params, [py, px, dy, dx]);
    push_signed(params, [ny, nx, 0, 0]);
    let mut text = strip(CONV);
    set(
        &mut text,
        "INPUT_GRAD",
        &(cv.kind == ConvKind::InputGrad).to_string(),
    );
    set(
        &mut text,
        "WEIGHT_GRAD",
        &(cv.kind == ConvKind::WeightGrad).to_string(),
    );
    set(&mut text, "UNIT_STRIDE", &(cv.stride == [1, 1]).to_string());
    text
}

/// Whether neighbouring elements of the left and of the right operand lie along k.
fn along_k(c: &Contraction) -> [bool; 2] {
    match c {
        Contraction::MatMul(mm) => {
            let lead = mm.batch.rank();
            let steps = |s: &[isize]| [s[lead].unsigned_abs(), s[lead + 1].unsigned_abs()];
            let ([am, ak], [bk, bn]) = (steps(&mm.a.strides), steps(&mm.b.strides));
            [ak < am, bk < bn]
        }
        // Weights lie along taps, an output gradient and an image along pixels.
        Contraction::Conv(cv) => [true, cv.kind == ConvKind::WeightGrad],
    }
}

/// A shader file without what only makes it valid on its own, and without its comments.
fn strip(text: &str) -> String {
    let (mut out, mut inside) = (String::new(), true);
    for line in text.lines() {
        match line.trim() {
            "// begin standalone" => inside = false,
            "// end standalone" => inside = true,
            comment if comment.starts_with("//") => {}
            _ if inside => {
                out += line;
                out.push('\n');
            }
            _ => {}
        }
    }
    out
}

/// Gives a constant of a template its value.
fn set(text: &mut String, name: &str, value: &str) {
    let start = text
        .find(&format!("const {name}: "))
        .expect("templates declare the constants that are set");
    let from = start + text[start..].find('=').expect("a constant has a value") + 1;
    let to = from + text[from..].find(';').expect("a declaration ends");
    text.replace_range(from..to, &format!(" {value}"));
}

/// The plain WGSL files, for tests that each is valid on its own.
#[cfg(test)]
pub(super) const FILES: [(&str, &str); 5] = [
    ("tile", TILE),
    ("lanes", LANES),
    ("reduce", REDUCE),
    ("matmul", MATMUL),
    ("conv", CONV),
];

/// A tile's workgroup size in the Rust table, to be compared with the reflected one.
#[cfg(test)]
pub(super) fn workgroup(tile: &tiles::Tile) -> usize {
    match tile.template {
        Template::Tile => tile.size[0] / tile.thread[0] * (tile.size[1] / tile.thread[1]),
        Template::Lanes => tile.size[1] / tile.thread[1],
    }
}
