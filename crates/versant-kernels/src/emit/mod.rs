//! WGSL from a [`Program`].
//!
//! The text depends on structure only: which functions, which views step through which coordinates. Extents,
//! strides, offsets, bounds and most constants arrive in the parameter block, so another batch size is another
//! block for the same pipeline. A program without columns runs over rows, several of them an invocation. One with columns runs, on a
//! software adapter, one invocation per row; on hardware, a power of two of them, which the parameter block
//! names too, with a reduction tree through workgroup memory. Both orders of summation are fixed.
//!
//! Names in the text: `buf0…` are the program's bindings, `r0…` its registers, `row`/`x0…` the linear row and its
//! coordinates, `col`/`y0…` the same for columns.
//!
//! Functions of `shaders/lib` (all named `v_…`) are included where the text calls them, so what
//! [`MapFn::lib`](crate::MapFn) names is for the reader. In [`MapFn::wgsl`](crate::MapFn), besides `{a}`, `{b}` and
//! `{c}`, `{t}` stands for the WGSL type of the operands, as in `v_max_{t}({a}, {b})`.

mod block;
#[cfg(test)]
pub(crate) mod check;
mod columns;
mod instr;
mod join;
mod library;
mod params;
mod probe;
mod reduce;
mod rows;
#[cfg(test)]
mod tests;
mod transpose;
mod wide;

pub use join::join;
pub use library::{lib_for, lib_groups};
pub use params::{MAX_GROUPS, ParamBlock, grid};
pub use probe::row_probes;

use crate::{Caps, DType, KernelSource, Program, Step, fold};
use block::Emitter;
use wide::{Array, Widths, choose};

/// Invocations of a workgroup that evaluates a row each.
const ROW_GROUP: usize = 64;

/// The same for rows with columns on a software adapter: few, so that few rows still occupy every core.
const SOFT_ROW_GROUP: usize = 8;

/// Invocations of a workgroup whose rows are shared by several.
const TREE_GROUP: usize = 256;

/// The text of a contraction's epilogue.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// Module-scope declarations: the program's buffers, the host scalars where they are used. The declaration of `params`
    /// is left to the caller, who knows its final size, and so are the library functions ([`lib_for`]).
    pub decls: String,
    /// `fn epilogue(i: u32, acc: f32)`: evaluates the program for the row with linear index `i`, which must be
    /// less than `rows.numel()`.
    pub func: String,
    /// Whether binding 1, the host scalars, is used (and declared in `decls`).
    pub uses_scalars: bool,
}

/// The kernel of a program for a GPU with these abilities.
///
/// # Panics
/// If the program is malformed: a register used before its definition, or a type that kernels do not
/// support (see [`DType::is_supported`]).
pub fn program_wgsl(p: &Program, label: &str, caps: &Caps) -> KernelSource {
    build(p, label, caps, &[])
}

/// The same for a launch that it shares with others: these bindings are arrays of words, never of vectors, since others
/// bind their buffers as such. Launches that are shared know no subgroups.
///
/// # Panics
/// As [`program_wgsl`].
pub fn program_beside(p: &Program, label: &str, caps: &Caps, words: &[usize]) -> KernelSource {
    build(p, label, &Caps { subgroup_rows: false, ..*caps }, words)
}

fn build(p: &Program, label: &str, caps: &Caps, words: &[usize]) -> KernelSource {
    let folded = fold(p);
    let mut params = ParamBlock::default();
    let mut wide = choose(&folded, caps.is_software());
    words.iter().for_each(|&b| wide.bindings[b] = Array::Words);
    let across = if caps.is_software() || folded.stores_halves() { None } else { transpose::across(&folded) };
    let (body, groups) = if let Some(across) = across.filter(|_| folded.cols_steps() == 0) {
        transpose::tiled(&folded, &mut params, &across)
    } else if folded.cols_steps() == 0 {
        rows::elementwise(&folded, &mut params, wide, caps.is_software())
    } else {
        columns::rows_and_cols(&folded, &mut params, wide, caps)
    };
    KernelSource {
        label: label.to_owned(),
        wgsl: format!("{}{body}", params.declaration()),
        reads: p.reads(),
        writes: p.bindings.len() - p.reads(),
        params: params.into_words(),
        uses_scalars: p.uses_scalars(),
        trusted: true,
        grid: grid(groups),
        native: None,
    }
}

/// The epilogue of a contraction whose own `operands` read buffers come first: the program's read `r` is storage
/// binding `2 + operands + r`, and its writes follow. Parameters are appended to `params`.
///
/// # Panics
/// As [`program_wgsl`]; also if the program has columns.
pub fn epilogue_wgsl(p: &Program, operands: usize, params: &mut ParamBlock) -> Epilogue {
    let folded = fold(p);
    assert_eq!(folded.cols_steps(), 0, "an epilogue has rows only");
    let mut e =
        Emitter::new(&folded, params, Widths::scalar(&folded, vec![Array::Words; folded.bindings.len()]));
    e.line("let row = i;");
    e.row_coords();
    rows::steps(&mut e, false);
    Epilogue {
        decls: buffers(&folded, operands, &e),
        func: format!("fn epilogue(i: u32, acc: f32) {{\n{}}}\n", e.text),
        uses_scalars: p.uses_scalars(),
    }
}

/// The entry point around a body.
fn entry(group: usize, body: &str) -> String {
    entry_with(group, "@builtin(local_invocation_index) lid: u32", body)
}

/// The same for a body that is told its place by subgroups.
fn entry_by_subgroups(group: usize, body: &str) -> String {
    let place = "@builtin(subgroup_id) sub: u32, @builtin(num_subgroups) subs: u32,\n        \
                 @builtin(subgroup_invocation_id) sub_lane: u32, @builtin(subgroup_size) sub_size: u32";
    entry_with(group, place, body)
}

fn entry_with(group: usize, place: &str, body: &str) -> String {
    format!(
        "@compute @workgroup_size({group})\n\
         fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,\n        \
         {place}) {{\n{body}}}\n"
    )
}

/// Buffers, host scalars and library functions.
fn declarations(p: &Program, e: &Emitter) -> String {
    buffers(p, 0, e) + &lib_for(&e.text)
}

fn buffers(p: &Program, operands: usize, e: &Emitter) -> String {
    let mut out = String::new();
    if p.uses_scalars() {
        out += "@group(0) @binding(1) var<uniform> scalars: array<vec4<u32>, 256>;\n";
    }
    for (i, b) in p.bindings.iter().enumerate() {
        let access = if b.written { "read_write" } else { "read" };
        let of = stored_type(b.dtype);
        out += &format!(
            "@group(0) @binding({}) var<storage, {access}> buf{i}: array<{}>;\n",
            2 + operands + i,
            match e.wide.bindings[i] {
                Array::Words => of.to_owned(),
                Array::Fours if b.dtype.is_half() => "vec2<u32>".to_owned(),
                Array::Fours => format!("vec4<{of}>"),
                Array::Pairs => "vec2<u64>".to_owned(),
            }
        );
    }
    out
}

/// The WGSL type of a register.
fn value_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::I32 => "i32",
        DType::U32 => "u32",
        DType::Bool => "bool",
        DType::F16 | DType::BF16 => unreachable!("no register has a type of buffers only"),
    }
}

/// The WGSL type of a buffer's elements, or of the words that hold them.
fn stored_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool | DType::F16 | DType::BF16 => "u32",
        other => value_type(other),
    }
}

impl Program {
    /// Number of steps that run over columns.
    fn cols_steps(&self) -> usize {
        let is_col = |s: &&Step| matches!(s, Step::Col(..));
        self.steps.iter().filter(is_col).count()
    }
}
