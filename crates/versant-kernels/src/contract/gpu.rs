//! WGSL of a contraction: a template from `shaders/contract`, the loaders, the tile's constants, the epilogue.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::tiles::{self, Plan, Template, Variant, VariantId};
use super::{ContractLaunch, Contraction, ContractionKernels, Conv, ConvKind, MatMul, Operand};
use crate::emit::{ParamBlock, epilogue_wgsl, grid, lib_for};
use crate::{DType, KernelSource, Program};

const TILE: &str = include_str!("../../../../shaders/contract/tile.wgsl");
const HALF: &str = include_str!("../../../../shaders/contract/half.wgsl");
const COOP: &str = include_str!("../../../../shaders/contract/coop.wgsl");
const LANES: &str = include_str!("../../../../shaders/contract/lanes.wgsl");
const DOT: &str = include_str!("../../../../shaders/contract/dot.wgsl");
const SHUFFLE: &str = include_str!("../../../../shaders/contract/shuffle.wgsl");
const REDUCE: &str = include_str!("../../../../shaders/contract/reduce.wgsl");
const MATMUL: &str = include_str!("../../../../shaders/contract/matmul.wgsl");
const WIDE: &str = include_str!("../../../../shaders/contract/wide.wgsl");
const LONG: &str = include_str!("../../../../shaders/contract/long.wgsl");
const CONV: &str = include_str!("../../../../shaders/contract/conv.wgsl");

/// Steps of k that one round of tile.wgsl's inner loop takes.
const TILE_STEPS: usize = 4;
/// Rounds in which results of coop.wgsl leave, a matrix of each subgroup in one.
const COOP_ROUNDS: usize = 8;
/// Invocations of a workgroup of reduce.wgsl.
const REDUCE_GROUP: usize = 64;

/// The launches of a contraction whose result is not empty.
pub(super) fn kernels(c: &Contraction, epilogue: &Program, label: &str, id: VariantId) -> ContractionKernels {
    let plan = tiles::plan(c, id);
    let results = c.output_shape().numel();
    let product = product(c, &plan, (!plan.scratch).then_some(epilogue), label);
    if !plan.scratch {
        return ContractionKernels { launches: vec![product], scratch_words: 0 };
    }
    ContractionKernels {
        launches: vec![product, reduce(results, plan.splits, epilogue, label)],
        scratch_words: scratch_words(c, id),
    }
}

/// Words of scratch that [`kernels`] will ask for, without making their text.
pub(super) fn scratch_words(c: &Contraction, id: VariantId) -> usize {
    let plan = tiles::plan(c, id);
    if plan.scratch { c.output_shape().numel() * plan.splits } else { 0 }
}

/// The launch that multiplies; without an epilogue its results go to scratch, `[split, result]`.
fn product(c: &Contraction, plan: &Plan, epilogue: Option<&Program>, label: &str) -> ContractLaunch {
    let variant = plan.variant;
    let mut params = ParamBlock::default();
    common_params(c, plan, &mut params);
    let wide = variant.wide(c);
    let shuffle = variant.template == Template::Shuffle;
    let quads = if shuffle { &LONG_QUADS } else { &WIDE_QUADS };
    let mut sections = quads.sections(wide).to_vec();
    sections.extend(shuffle.then_some("columns"));
    let (mut loaders, order) = match c {
        Contraction::MatMul(mm) => {
            matmul_params(mm, &mut params);
            (strip(MATMUL, &sections), [Operand::A, Operand::B])
        }
        Contraction::Conv(cv) => {
            conv_params(cv, &mut params);
            let text = conv_loaders(cv, strip(CONV, &sections));
            (text, [Operand::B, Operand::A])
        }
    };
    if wide != [false; 2] {
        loaders += &strip(quads.text, &sections);
    }
    let [lhs, rhs] = order.map(|o| c.types()[usize::from(o == Operand::B)]);
    loaders += &quads.access("lhs", lhs, wide[0]);
    loaders += &quads.access("rhs", rhs, wide[1]);
    let body = template(variant, c, wide, &sections, run(epilogue));
    let (store, bindings, uses_scalars) = match epilogue {
        Some(p) => {
            let e = epilogue_wgsl(p, 2, &mut params);
            (format!("{}{}", e.decls, e.func), epilogue_bindings(p), e.uses_scalars)
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
        "{}{}@group(0) @binding(2) var<storage, read> lhs: array<{}>;\n\
         @group(0) @binding(3) var<storage, read> rhs: array<{}>;\n{store}{}{loaders}{body}",
        enables(variant.template),
        params.declaration(),
        quads.element(lhs, wide[0]),
        quads.element(rhs, wide[1]),
        lib_for(&format!("{store}{loaders}")),
    );
    launch(
        format!("{label} [{}]", variant.label),
        wgsl,
        params,
        uses_scalars,
        grid(plan.groups),
        reads,
        writes,
    )
}

/// Neighbouring results that one invocation hands to an epilogue.
fn run(epilogue: Option<&Program>) -> usize {
    if epilogue.is_some_and(Program::stores_halves) { 2 } else { 1 }
}

/// How four neighbouring elements of an operand are loaded at once.
pub(crate) struct Quads {
    /// The loaders.
    text: &'static str,
    /// What the buffer holds.
    element: &'static str,
    /// The sections of `text` for the left and the right operand.
    sections: [&'static str; 2],
}

pub(crate) const WIDE_QUADS: Quads =
    Quads { text: WIDE, element: "vec4<f32>", sections: ["wide lhs", "wide rhs"] };
const LONG_QUADS: Quads = Quads { text: LONG, element: "vec2<u64>", sections: ["long lhs", "long rhs"] };

impl Quads {
    /// How the loaders bind an operand.
    pub fn element(&self, dtype: DType, wide: bool) -> &'static str {
        match (dtype.is_half(), wide) {
            (true, true) => "vec2<u32>",
            (true, false) => "u32",
            (false, true) => self.element,
            (false, false) => "f32",
        }
    }

    /// The functions by which they read it.
    pub fn access(&self, name: &str, dtype: DType, wide: bool) -> String {
        let half = dtype.is_half().then(|| dtype.name());
        if !wide {
            let value = match half {
                Some(half) => format!("v_at_{half}({name}[u32(i) >> 1u], u32(i))"),
                None => format!("{name}[i]"),
            };
            return format!("fn {name}_element(i: i32) -> f32 {{\n    return {value};\n}}\n");
        }
        let pair = format!("{name}[i / 4u][i / 2u % 2u]");
        let (four, two) = match half {
            Some(half) => (
                format!("v_four_{half}({name}[i])"),
                format!("array<f32, 2>(v_at_{half}({pair}, 0u), v_at_{half}({pair}, 1u))"),
            ),
            None if self.element == LONG_QUADS.element => {
                (format!("bitcast<vec4<f32>>(v_words({name}[i]))"), format!("v_two({pair})"))
            }
            None => (format!("{name}[i]"), String::new()),
        };
        let mut text = format!("fn {name}_four(i: u32) -> vec4<f32> {{\n    return {four};\n}}\n");
        if self.element == LONG_QUADS.element {
            text += &format!("fn {name}_two(i: u32) -> array<f32, 2> {{\n    return {two};\n}}\n");
        }
        text
    }

    /// The sections of the loader files for operands that are loaded so, or element by element.
    fn sections(&self, wide: [bool; 2]) -> [&'static str; 2] {
        let [lhs, rhs] = self.sections;
        [if wide[0] { lhs } else { "narrow lhs" }, if wide[1] { rhs } else { "narrow rhs" }]
    }
}

/// What a template asks of the adapter, in words of WGSL.
fn enables(template: Template) -> &'static str {
    match template {
        Template::Half => "enable f16;\n",
        Template::Coop => "enable f16;\nenable wgpu_cooperative_matrix;\n",
        _ => "",
    }
}

/// A template with a tile's constants, its loops over them written out.
fn template(variant: &Variant, c: &Contraction, wide: [bool; 2], sections: &[&str], run: usize) -> String {
    let along_k = tiles::along_k(c);
    let mut text = match variant.template {
        Template::Tile => strip(TILE, &["f32", "vector"]),
        Template::Half => strip(TILE, &["vector"]) + &strip(HALF, &[]),
        Template::Coop => strip(TILE, &[]) + &strip(COOP, &[]),
        Template::Lanes => strip(LANES, &[]),
        Template::Dot => strip(DOT, &[]),
        Template::Shuffle => strip(SHUFFLE, sections),
    };
    let ([m, n], threads) = (variant.thread, variant.threads());
    set(&mut text, "THREAD_M", &format!("{m}u"));
    set(&mut text, "THREAD_N", &format!("{n}u"));
    if text.contains("const RUN: ") {
        set(&mut text, "RUN", &format!("{run}u"));
    }
    if variant.template != Template::Dot {
        set(&mut text, "LHS_ALONG_K", &along_k[0].to_string());
        set(&mut text, "RHS_ALONG_K", &along_k[1].to_string());
    }
    let mut constants = vec![("THREAD_M", m), ("THREAD_N", n)];
    match variant.template {
        Template::Tile | Template::Half | Template::Coop => {
            set(&mut text, "TILE_M", &format!("{}u", variant.size[0]));
            set(&mut text, "TILE_N", &format!("{}u", variant.size[1]));
            set(&mut text, "TILE_K", &format!("{}u", variant.step));
            let width = wide.map(|wide| if wide { 4 } else { 1 });
            set(&mut text, "LHS_WIDTH", &format!("{}u", width[0]));
            set(&mut text, "RHS_WIDTH", &format!("{}u", width[1]));
            set(&mut text, "TABLE", &matches!(c, Contraction::Conv(_)).to_string());
            let loads = |i: usize| variant.size[i] * variant.step / width[i] / threads;
            constants.extend([("LHS_LOADS", loads(0)), ("RHS_LOADS", loads(1))]);
            constants.extend([("QUADS_M", m / 4), ("QUADS_N", n / 4), ("STEPS", TILE_STEPS)]);
        }
        Template::Lanes => {
            set(&mut text, "LANES", &format!("{threads}u"));
            let quads = m.div_ceil(4);
            constants.extend([
                ("QUADS_M", quads),
                ("ROWS", 4 * quads),
                ("QUADS_N", n / 4),
                ("STEPS", variant.step),
            ])
        }
        Template::Dot => constants.push(("STEPS", 4)),
        Template::Shuffle => {
            set(&mut text, "STEPS", &format!("{}u", variant.step));
            constants.extend([("PARTS", m / 16), ("SHARE", 16 / threads), ("STEPS", variant.step)]);
            constants.extend([("QUAD", 4), ("QUADS_N", n / 4), ("VECTORS", m * n / 4)]);
        }
    }
    if variant.template != Template::Coop {
        return unroll(&text, &constants);
    }
    // Each round's matrix has a name of its own.
    constants.push(("ROUNDS", COOP_ROUNDS));
    let text = unroll(&text, &constants);
    (0..COOP_ROUNDS).fold(text, |t, i| t.replace(&format!("keep_round({i}u, "), &format!("keep_round_{i}u(")))
}

/// The launch that adds the partial results of all splits and runs the epilogue.
fn reduce(results: usize, splits: usize, epilogue: &Program, label: &str) -> ContractLaunch {
    let mut params = ParamBlock::default();
    params.push(results as u32);
    params.push(splits as u32);
    let e = epilogue_wgsl(epilogue, 1, &mut params);
    let (run, mut body) = (run(Some(epilogue)), strip(REDUCE, &[]));
    set(&mut body, "RUN", &format!("{run}u"));
    let (mut reads, writes) = epilogue_bindings(epilogue);
    reads.insert(0, Operand::Scratch);
    let wgsl = format!(
        "{}@group(0) @binding(2) var<storage, read> partial: array<f32>;\n{}{}{}{body}",
        params.declaration(),
        e.decls,
        lib_for(&e.func),
        e.func,
    );
    launch(
        format!("{label} [sum of splits]"),
        wgsl,
        params,
        e.uses_scalars,
        grid(results.div_ceil(REDUCE_GROUP * run)),
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
            trusted: true,
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

fn matmul_params(mm: &MatMul, params: &mut ParamBlock) {
    let lead = mm.batch.rank();
    let (a, b) = (&mm.a, &mm.b);
    // Dimensions innermost first; neighbours are one where both operands walk them as one.
    let mut dims: Vec<[isize; 4]> = Vec::new();
    for axis in (0..lead).rev().filter(|&axis| mm.batch[axis] != 1) {
        let (extent, sa, sb) = (mm.batch[axis] as isize, a.strides[axis], b.strides[axis]);
        match dims.last_mut() {
            Some([inner, ia, ib, _]) if sa == *ia * *inner && sb == *ib * *inner => *inner *= extent,
            _ => dims.push([extent, sa, sb, 0]),
        }
    }
    let rank = dims.len() as isize;
    push_signed(params, [a.offset, a.strides[lead], a.strides[lead + 1], rank]);
    push_signed(params, [b.offset, b.strides[lead], b.strides[lead + 1], 0]);
    for dim in dims {
        push_signed(params, dim);
    }
}

fn conv_params(cv: &Conv, params: &mut ParamBlock) {
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
    let bits = |stride: isize| (isize::BITS - (stride - 1).leading_zeros()) as isize;
    push_signed(params, [ny, nx, bits(sy), bits(sx)]);
}

/// The text of conv.wgsl for one of the three products.
fn conv_loaders(cv: &Conv, mut text: String) -> String {
    set(&mut text, "INPUT_GRAD", &(cv.kind == ConvKind::InputGrad).to_string());
    set(&mut text, "WEIGHT_GRAD", &(cv.kind == ConvKind::WeightGrad).to_string());
    set(&mut text, "UNIT_STRIDE", &(cv.stride == [1, 1]).to_string());
    text
}

/// A shader file without its comments and without the sections (`// begin NAME` to `// end NAME`) that are not
/// among `sections`; the one called `standalone` only makes a file valid on its own.
pub(crate) fn strip(text: &str, sections: &[&str]) -> String {
    let (mut out, mut inside) = (String::new(), true);
    for line in text.lines() {
        let comment = line.trim().strip_prefix("// ");
        if let Some(name) = comment.and_then(|c| c.strip_prefix("begin ")) {
            inside = sections.contains(&name);
        } else if comment.is_some_and(|c| c.starts_with("end ")) {
            inside = true;
        } else if inside && !line.trim().starts_with("//") && !line.trim().is_empty() {
            out += line;
            out.push('\n');
        }
    }
    out
}

/// Gives a constant of a template its value.
pub(crate) fn set(text: &mut String, name: &str, value: &str) {
    let start = text.find(&format!("const {name}: ")).expect("templates declare the constants that are set");
    let from = start + text[start..].find('=').expect("a constant has a value") + 1;
    let to = from + text[from..].find(';').expect("a declaration ends");
    text.replace_range(from..to, &format!(" {value}"));
}

/// Writes out every loop over a constant of the template (`for (var i = 0u; i < NAME; i += 1u) {`), `i` replaced
/// by its value in each copy of the body. Compilers would unroll them, were it not for the bound that naga puts on
/// every loop and array index; with constant indices arrays become registers.
pub(crate) fn unroll(text: &str, constants: &[(&str, usize)]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    unroll_lines(&lines, constants, &mut out);
    out
}

fn unroll_lines(lines: &[&str], constants: &[(&str, usize)], out: &mut String) {
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        let Some((name, count)) = constant_loop(line, constants) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = at
            + lines[at..]
                .iter()
                .position(|l| l.strip_prefix(indent) == Some("}"))
                .expect("a loop ends at its own indentation");
        for i in 0..count {
            let copy: Vec<String> =
                lines[at..end].iter().map(|l| replace_word(l, name, &format!("{i}u"))).collect();
            let copy: Vec<&str> = copy.iter().map(String::as_str).collect();
            // Names declared in the body need a scope of their own.
            let scope = copy.iter().any(|l| ["let ", "var "].iter().any(|word| l.trim().starts_with(word)));
            if scope {
                *out += &format!("{indent}{{\n");
            }
            unroll_lines(&copy, constants, out);
            if scope {
                *out += &format!("{indent}}}\n");
            }
        }
        at = end + 1;
    }
}

/// The variable and the number of rounds of a loop over one of the constants.
fn constant_loop<'a>(line: &'a str, constants: &[(&str, usize)]) -> Option<(&'a str, usize)> {
    let rest = line.trim().strip_prefix("for (var ")?;
    let (name, rest) = rest.split_once(" = 0u; ")?;
    let bound = rest.strip_prefix(name)?.strip_prefix(" < ")?;
    let (bound, _) = bound.split_once(';')?;
    let known = constants.iter().find(|(constant, _)| *constant == bound)?;
    Some((name, known.1))
}

/// Replaces an identifier where it stands alone.
pub(super) fn replace_word(line: &str, word: &str, by: &str) -> String {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in line.match_indices(word) {
        // The whole line, as what stands before may be another match.
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let alone = !before.ends_with(part) && !after.starts_with(|c| part(c) && c != '.');
        out += &line[done..at];
        out += if alone { by } else { word };
        done = at + word.len();
    }
    out + &line[done..]
}

/// Differs when any of the WGSL files does: what was measured with the old ones then says nothing.
pub fn source_hash() -> u64 {
    let mut hasher = DefaultHasher::new();
    FILES.hash(&mut hasher);
    hasher.finish()
}

/// The WGSL files as they are, each valid on its own.
pub(super) const FILES: [(&str, &str); 11] = [
    ("tile", TILE),
    ("half", HALF),
    ("coop", COOP),
    ("lanes", LANES),
    ("dot", DOT),
    ("shuffle", SHUFFLE),
    ("reduce", REDUCE),
    ("matmul", MATMUL),
    ("conv", CONV),
    ("wide", WIDE),
    ("long", LONG),
];
