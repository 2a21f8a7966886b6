//! WGSL of attention: a template from `shaders/attention`, the loaders, the constants of the head.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Attention, MaskKind, Pass, Variant};
use crate::contract::gpu::{WIDE_QUADS, set, strip, unroll};
use crate::emit::{ParamBlock, grid, lib_for};
use crate::{Caps, Class, KernelSource, View};

const OPERANDS: &str = include_str!("../../../../shaders/lib/attention.wgsl");
const WIDE: &str = include_str!("../../../../shaders/attention/operands_wide.wgsl");
const ROWS: &str = include_str!("../../../../shaders/attention/rows.wgsl");
const PRODUCTS: &str = include_str!("../../../../shaders/lib/attention_tile.wgsl");
const TILE: &str = include_str!("../../../../shaders/attention/tile.wgsl");
const TILE_BACKWARD: &str = include_str!("../../../../shaders/attention/tile_backward.wgsl");
const ROWS_BACKWARD: &str = include_str!("../../../../shaders/attention/rows_backward.wgsl");

/// The templates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Template {
    /// rows.wgsl and rows_backward.wgsl.
    Rows,
    /// tile.wgsl, whose invocations have so many rows each.
    Tile(usize),
    /// tile_backward.wgsl.
    TileBackward,
}

/// Extents of a tile's products; see lib/attention_tile.wgsl.
struct Extents {
    rows: usize,
    block: usize,
    thread_rows: usize,
    cols: usize,
}

impl Extents {
    /// Of a result as wide as this.
    fn new(rows: usize, block: usize, thread_rows: usize, width: usize) -> Extents {
        Extents { rows, block, thread_rows, cols: width.div_ceil(block) }
    }

    /// Sets the constants of a template.
    fn configure(&self, mut text: String) -> String {
        let &Extents { rows, block, thread_rows, cols } = self;
        let lanes = block / 4;
        let threads = rows / thread_rows * lanes;
        // As many rows as the staged operands of the scores leave room for.
        let step = block.min(1 << ((rows + block) * 4 / (lanes * cols)).ilog2());
        let set_by =
            [("ROWS", rows), ("BLOCK", block), ("THREAD_ROWS", thread_rows), ("COLS", cols), ("STEP", step)];
        for (name, value) in set_by {
            set(&mut text, name, &format!("{value}u"));
        }
        let loads = [rows * 4 / threads, block * 4 / threads];
        unroll(
            &text,
            &[
                ("THREAD_ROWS", thread_rows),
                ("COLS", cols),
                ("FOUR", 4),
                ("TILE_LOADS", loads[0]),
                ("BLOCK_LOADS", loads[1]),
                ("MOST_LOADS", loads[0].max(loads[1])),
                ("ROW_LOADS", step * lanes * cols / threads),
            ],
        )
    }
}

/// A row of the table of variants.
pub(super) struct Row {
    pub label: &'static str,
    template: Template,
    /// Invocations of a workgroup of rows.wgsl.
    rows: usize,
}

/// In no order; see [`Row::rank`].
pub(super) const VARIANTS: [Row; 5] = [
    Row { label: "rows of 8", template: Template::Rows, rows: 8 },
    Row { label: "rows of 64", template: Template::Rows, rows: 64 },
    Row { label: "tile of 64, 8 a thread", template: Template::Tile(8), rows: 0 },
    Row { label: "tile of 64, 4 a thread", template: Template::Tile(4), rows: 0 },
    Row { label: "tile, backward", template: Template::TileBackward, rows: 0 },
];

impl Row {
    /// Whether an adapter can run it for a problem.
    pub fn fits(&self, a: &Attention, caps: &Caps) -> bool {
        let software = caps.class == Class::Software;
        match self.template {
            Template::Rows => software == (self.rows == 8),
            Template::Tile(_) => !software && a.pass == Pass::Forward,
            Template::TileBackward => !software && a.pass == Pass::Backward,
        }
    }

    /// The lowest is the default.
    pub fn rank(&self) -> usize {
        match self.template {
            // Eight rows read less, but leave fewer waves to wait with.
            Template::Tile(rows) => rows / 8,
            Template::TileBackward => 0,
            Template::Rows => 2,
        }
    }

    /// Rows of an invocation of rows.wgsl. Several share what is read, where that is dear and compiling them is not.
    fn thread_rows(&self, a: &Attention) -> usize {
        if self.rows == 8 && a.pass == Pass::Forward { 4 } else { 1 }
    }

    /// The extents of a tile; `None` of rows.wgsl.
    fn extents(&self, a: &Attention) -> Option<Extents> {
        let wide = a.width.max(a.value);
        match self.template {
            Template::Rows => None,
            Template::Tile(thread_rows) => Some(Extents::new(64, 32, thread_rows, a.value)),
            // A wide head has fewer rows, whose results would not fit the registers.
            Template::TileBackward if wide > 64 => Some(Extents::new(32, 64, 4, wide)),
            Template::TileBackward => Some(Extents::new(64, 32, 4, wide)),
        }
    }

    /// The text for a problem, without the loaders.
    fn text(&self, a: &Attention) -> String {
        let mut text = strip(
            match (self.template, a.pass) {
                (Template::Rows, Pass::Forward) => ROWS,
                (Template::Rows, Pass::Backward) => ROWS_BACKWARD,
                (Template::Tile(_), _) => TILE,
                (Template::TileBackward, _) => TILE_BACKWARD,
            },
            &[],
        );
        if let Some(extents) = self.extents(a) {
            return extents.configure(strip(PRODUCTS, &[]) + &text);
        }
        set(&mut text, "WORKGROUP", &format!("{}u", self.rows));
        set(&mut text, "THREAD_ROWS", &format!("{}u", self.thread_rows(a)));
        text
    }

    /// Workgroups.
    fn groups(&self, a: &Attention) -> usize {
        let rows = self.extents(a).map_or(self.rows * self.thread_rows(a), |e| e.rows);
        let of_queries = a.batch * a.heads * a.queries.div_ceil(rows);
        match a.pass {
            Pass::Forward => of_queries,
            Pass::Backward => of_queries + a.batch * a.kv_heads * a.keys.div_ceil(rows),
        }
    }
}

/// A hash of the shaders: what was measured holds for them only.
pub fn source_hash() -> u64 {
    let mut hasher = DefaultHasher::new();
    [OPERANDS, WIDE, ROWS, ROWS_BACKWARD, PRODUCTS, TILE, TILE_BACKWARD].hash(&mut hasher);
    hasher.finish()
}

pub(super) fn kernel(a: &Attention, label: &str, variant: Variant) -> KernelSource {
    let row = &VARIANTS[variant.0];
    let wide = is_wide(a);
    let mut sections = Vec::new();
    if a.mask != MaskKind::None {
        sections.push("masked");
    }
    if !wide {
        sections.push("narrow");
    }
    match a.pass {
        Pass::Forward => sections.push("forward"),
        Pass::Backward => {
            sections.extend(["backward", if wide { "wide backward" } else { "narrow backward" }])
        }
    }
    let mut loaders = strip(OPERANDS, &sections);
    set(&mut loaders, "WIDTH", &format!("{}u", a.width.next_multiple_of(4)));
    set(&mut loaders, "VALUE", &format!("{}u", a.value.next_multiple_of(4)));
    set(&mut loaders, "MASKED", &(a.mask != MaskKind::None).to_string());
    set(&mut loaders, "MASK_ADDS", &(a.mask == MaskKind::Added).to_string());
    let (blind, most, bits) = a.sum_limits();
    set(&mut loaders, "SUMS", &format!("{}u", a.sums()));
    set(&mut loaders, "BLIND", &format!("{blind:e}"));
    set(&mut loaders, "MOST", &format!("{most:e}"));
    set(&mut loaders, "PART_BITS", &format!("{bits:#x}u"));
    if a.mask == MaskKind::None {
        loaders += "fn masked(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 { return score; }\n";
    }
    if wide {
        loaders += &strip(WIDE, &sections);
    }
    for (name, operand) in operands(a) {
        loaders += &WIDE_QUADS.access(name, a.types[operand], wide);
        if !wide {
            let each = ["x", "y", "z", "w"].map(|c| format!("{name}_element(i.{c})")).join(", ");
            loaders +=
                &format!("fn {name}_some(i: vec4<i32>) -> vec4<f32> {{\n    return vec4<f32>({each});\n}}\n");
        }
    }
    loaders = lib_for(&loaders) + &loaders;
    let body = row.text(a);
    let params = params(a);
    let wgsl = format!("{}{}{loaders}{body}", params.declaration(), bindings(a, wide));
    KernelSource {
        label: format!("{label} [{}]", row.label),
        wgsl,
        reads: a.views.len(),
        writes: 1,
        params: params.into_words(),
        uses_scalars: false,
        trusted: true,
        grid: grid(row.groups(a)),
        native: None,
    }
}

/// The operands that may be halves, each with its number among the reads.
fn operands(a: &Attention) -> impl Iterator<Item = (&'static str, usize)> {
    let gradient = a.gradient();
    let all = [("q", 0), ("k", 1), ("v", 2), ("gradient", gradient), ("forward", gradient + 1)];
    all.into_iter().take(if a.pass == Pass::Backward { 5 } else { 3 })
}

/// Declarations of the buffers in order.
fn bindings(a: &Attention, wide: bool) -> String {
    let element = |operand: usize| WIDE_QUADS.element(a.types[operand], wide);
    let mut all = vec![("q", element(0)), ("k", element(1)), ("v", element(2))];
    if a.mask != MaskKind::None {
        all.push(("mask", "u32"));
    }
    if a.pass == Pass::Backward {
        all.extend([("gradient", element(a.gradient())), ("forward", element(a.gradient() + 1))]);
    }
    let mut text = String::new();
    for (i, (name, element)) in all.iter().enumerate() {
        let at = i + 2;
        let _ = writeln!(text, "@group(0) @binding({at}) var<storage, read> {name}: array<{element}>;");
    }
    let at = all.len() + 2;
    let _ = writeln!(text, "@group(0) @binding({at}) var<storage, read_write> out: array<f32>;");
    text
}

/// Whether q, k, v and the gradient can be read by quads.
pub(super) fn is_wide(a: &Attention) -> bool {
    let quads = |v: &View| {
        let apart = v.shape.iter().zip(&v.strides).take(3).all(|(&d, s)| d == 1 || s % 4 == 0);
        v.strides[3] == 1 && v.shape[3].is_multiple_of(4) && v.offset % 4 == 0 && apart
    };
    let backward = (a.pass == Pass::Backward).then(|| &a.views[a.gradient()..]);
    let dense = backward.is_none_or(|views| views[1].offset % 4 == 0);
    dense && a.views[..3].iter().chain(backward.map(|views| &views[0])).all(quads)
}

/// The words that lib/attention.wgsl describes.
fn params(a: &Attention) -> ParamBlock {
    let mut params = ParamBlock::default();
    let farthest = a.queries + a.keys + a.start;
    let scale = (a.scale * std::f32::consts::LOG2_E).to_bits() as usize;
    for word in [
        [a.batch, a.heads, a.kv_heads, a.heads / a.kv_heads],
        [a.queries, a.keys, a.width, a.value],
        [a.left.min(farthest), a.right.min(farthest), a.start, scale],
    ]
    .as_flattened()
    {
        params.push(*word as u32);
    }
    let none = View::splat(a.views[0].shape);
    let mask = if a.mask == MaskKind::None { &none } else { &a.views[3] };
    let backward = a.pass == Pass::Backward;
    let gradient = if backward { &a.views[a.gradient()] } else { &none };
    let operands = [&a.views[0], &a.views[1], &a.views[2], gradient];
    for view in operands.into_iter().chain([mask]) {
        view.strides.iter().for_each(|&s| drop(params.push_i32(s)));
    }
    operands.iter().for_each(|v| drop(params.push_i32(v.offset)));
    params.push_i32(mask.offset);
    params.push_i32(if backward { a.views[a.gradient() + 1].offset } else { 0 });
    params.push((a.batch * a.queries * a.heads * a.value) as u32);
    params.push(0);
    params
}
