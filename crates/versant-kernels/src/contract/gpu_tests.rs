//! Every template, tile, loader and epilogue form is valid WGSL, translates, and does not mention a shape.

use std::collections::HashSet;

use super::tests::{KINDS, LAYOUTS, Layout, Spec, matmul, specs};
use super::tiles::{self, Template, VARIANTS};
use super::{
    Contraction, ContractionKernels, Operand, VariantId, contraction, contraction_with, gpu, probe, variants,
};
use crate::emit::check::{Build, check_kernel, translate, validate};
use crate::{Caps, Class, DType, InstrKind, Precision, Program, Target, View};

/// Stores the accumulator.
pub(super) fn plain(c: &Contraction) -> Program {
    let rows = c.output_shape();
    let mut b = Build::new(&rows, &[], &[], &[DType::F32]);
    let acc = b.push(DType::F32, InstrKind::Acc);
    b.store(0, View::contiguous(rows), acc);
    b.row();
    b.p
}

/// Stores the accumulator, and beside it a second buffer's element, broadcast over all but the last dimension.
pub(super) fn with_operand(c: &Contraction) -> Program {
    let rows = c.output_shape();
    let mut b = Build::new(&rows, &[], &[DType::F32], &[DType::F32; 2]);
    let mut view = View::splat(rows);
    view.strides[rows.rank() - 1] = 1;
    let acc = b.push(DType::F32, InstrKind::Acc);
    let other = b.load(0, view);
    b.store(1, View::contiguous(rows), acc);
    b.store(2, View::contiguous(rows), other);
    b.row();
    b.p
}

const CLASSES: [Class; 3] = [Class::Software, Class::Integrated, Class::Discrete];

/// The default choices.
fn gpu_kernels(c: &Contraction, p: Program) -> [ContractionKernels; 3] {
    CLASSES.map(|class| contraction(c, p.clone(), "test", Target::Gpu(Caps::webgpu(class))))
}

/// Every variant that fits some adapter.
fn every_variant(c: &Contraction, p: Program) -> Vec<ContractionKernels> {
    let lavapipe = Caps { int64: true, min_subgroup: 8, max_subgroup: 8, ..Caps::webgpu(Class::Software) };
    let with = |caps: Caps| {
        let ids = variants(c, &caps).into_iter();
        ids.map(|id| contraction_with(c, p.clone(), "test", Target::Gpu(caps), id)).collect::<Vec<_>>()
    };
    let card = Caps::webgpu(Class::Discrete);
    let half = Caps { f16: true, precision: Precision::F16, ..card };
    let coop = |size| Caps { coop_matrix: true, min_subgroup: 32, max_subgroup: size, ..half };
    [lavapipe, card, coop(32), coop(64)].map(with).concat()
}

#[test]
fn files_are_valid_on_their_own() {
    for (_, text) in gpu::FILES {
        let (module, info) = validate(text);
        if module.entry_points.is_empty() {
            continue;
        }
        translate(&module, &info);
    }
}

#[test]
fn every_variant_validates_and_translates() {
    let mut cases: Vec<Contraction> = Vec::new();
    for (la, lb) in LAYOUTS.into_iter().flat_map(|a| LAYOUTS.map(|b| (a, b))) {
        cases.push(matmul(&[], [70, 70, 9], la, lb).0);
        cases.push(matmul(&[2, 3], [70, 10, 9], la, lb).0);
    }
    cases.push(matmul(&[], [70, 70, 10_000], Layout::Transposed, Layout::Dense).0);
    cases.push(matmul(&[], [1, 70, 9], Layout::Dense, Layout::Dense).0);
    cases.push(matmul(&[], [1, 70, 9], Layout::Dense, Layout::Transposed).0);
    cases.push(matmul(&[2], [5, 1, 3000], Layout::Dense, Layout::Dense).0);
    cases.push(matmul(&[], [5, 6, 3000], Layout::Dense, Layout::Transposed).0);
    for spec in specs() {
        cases.extend(KINDS.map(|kind| spec.build(kind, Layout::Dense, Layout::Dense).0));
    }
    let (mut seen, mut tiles_seen) = (HashSet::new(), HashSet::new());
    for c in &cases {
        let all = [plain(c), with_operand(c)].into_iter().flat_map(|p| every_variant(c, p));
        for kernels in all {
            for launch in &kernels.launches {
                let source = &launch.source;
                assert_eq!(launch.reads.len(), source.reads);
                assert_eq!(launch.writes.len(), source.writes);
                let uses = |o: &Operand| *o == Operand::Scratch;
                let scratch = launch.reads.iter().chain(&launch.writes).any(uses);
                assert_eq!(scratch, kernels.scratch_words > 0);
                let tile = VARIANTS.iter().find(|t| source.label.contains(t.label));
                if seen.insert(source.wgsl.clone()) {
                    check_kernel(source);
                    let (module, _) = validate(&source.wgsl);
                    let group = module.entry_points[0].workgroup_size[0] as usize;
                    assert_eq!(group, tile.map_or(64, |t| t.threads()));
                }
                tiles_seen.extend(tile.map(|t| t.label));
            }
        }
    }
    assert_eq!(tiles_seen.len(), VARIANTS.len(), "every row of the table is used by some case");
}

#[test]
fn tiles_fit_the_default_limits() {
    for tile in &VARIANTS {
        let threads = tile.threads();
        assert!(threads <= 256 && tile.workgroup_bytes() <= 16 << 10, "{tile:?}");
        for extent in tile.size {
            let loads = extent * tile.step / 4;
            let staged = matches!(tile.template, Template::Tile | Template::Half | Template::Coop);
            // A workgroup takes whole rows of a tile at a time, element by element or four at once.
            assert!(!staged || loads.is_multiple_of(threads) && threads.is_multiple_of(extent), "{tile:?}");
        }
        if tile.template == Template::Dot {
            continue;
        }
        let results = threads * tile.thread[0] * tile.thread[1];
        assert_eq!(results, tile.size[0] * tile.size[1], "{tile:?}");
        // A round of results fits into the staged tiles, and an invocation stays in its column.
        let round = results / tile.thread[0];
        let room = tile.step * (tile.size[0] + tile.size[1]);
        assert!(
            tile.template != Template::Tile || round <= room && threads.is_multiple_of(tile.size[1]),
            "{tile:?}"
        );
    }
}

#[test]
fn a_short_batch_has_the_text_of_a_long_one() {
    let text = |c: &Contraction| {
        gpu_kernels(c, plain(c)).map(|k| {
            let texts = k.launches.iter().map(|l| l.source.wgsl.clone());
            texts.collect::<Vec<_>>()
        })
    };
    for kind in KINDS {
        let conv =
            |n| Spec { n, c: [32, 64], input: [14, 14], kernel: [5, 5], padding: [2, 2], ..Spec::default() };
        let dense = |n| text(&conv(n).build(kind, Layout::Dense, Layout::Dense).0);
        assert!(dense(64) == dense(3), "{kind:?}");
    }
    // A linear layer forward (weights stored [out, in]), its input gradient and its weight gradient.
    let linear = |m, n, k, la, lb| text(&matmul(&[], [m, n, k], la, lb).0);
    for (full, short) in [(64, 5), (256, 7), (100, 64)] {
        let forward = |rows| linear(rows, 128, 300, Layout::Dense, Layout::Transposed);
        let input = |rows| linear(rows, 300, 128, Layout::Dense, Layout::Dense);
        let weight = |rows| linear(128, 300, rows, Layout::Transposed, Layout::Dense);
        assert!(forward(full) == forward(short));
        assert!(input(full) == input(short));
        assert!(weight(full) == weight(short));
    }
}

#[test]
fn splits_cover_k_once() {
    for k in [0, 1, 255, 256, 1000, 4096, 12_544, 1_000_003] {
        let spec = Spec { n: k, c: [3, 5], input: [1, 1], kernel: [1, 1], ..Spec::default() };
        let (c, _) = spec.build(super::ConvKind::WeightGrad, Layout::Dense, Layout::Dense);
        for id in VariantId::all().filter(|id| id.split) {
            let plan = tiles::plan(&c, id);
            assert!(plan.splits >= 1 && plan.splits * plan.k_per_split >= k, "{k}: {plan:?}");
            assert!(k == 0 || (plan.splits - 1) * plan.k_per_split < k, "{k}: {plan:?}");
        }
    }
}

#[test]
fn a_probe_has_the_text_of_its_problem() {
    let mut cases: Vec<Contraction> = Vec::new();
    for (la, lb) in LAYOUTS.into_iter().flat_map(|a| LAYOUTS.map(|b| (a, b))) {
        cases.push(matmul(&[], [300, 200, 1000], la, lb).0);
        cases.push(matmul(&[12, 5], [301, 203, 1025], la, lb).0);
    }
    for layout in [Layout::Dense, Layout::Transposed] {
        cases.push(matmul(&[], [1, 64, 2048], Layout::Dense, layout).0);
        cases.push(matmul(&[3], [302, 1, 33], layout, Layout::Dense).0);
    }
    for c in &cases {
        for id in VariantId::all() {
            let text = |c: &Contraction| {
                let target = Target::Gpu(Caps::webgpu(Class::Discrete));
                let launches = contraction_with(c, plain(c), "test", target, id).launches;
                launches.into_iter().map(|l| l.source.wgsl).collect::<Vec<_>>()
            };
            let small = probe(id, c);
            assert!(text(c) == text(&small), "{id:?} {c:?} {small:?}");
            let span = |v: &View| {
                v.shape.iter().zip(&v.strides).map(|(d, s)| (d - 1) * s.unsigned_abs()).sum::<usize>()
            };
            assert!(small.operands().iter().all(|v| span(v) < 1 << 21), "{small:?}");
        }
    }
}

#[test]
fn loops_are_written_out_by_whole_words() {
    for (line, expected) in [
        ("acc[c] += cc.c + c.x;", "acc[2u] += cc.c + 2u.x;"),
        ("c(c)ccc_c", "2u(2u)ccc_c"),
        ("nothing", "nothing"),
        ("", ""),
    ] {
        assert_eq!(gpu::replace_word(line, "c", "2u"), expected);
    }
    let text = "for (var c = 0u; c < N; c += 1u) {\n    acc[c] = 0.0;\n}\n";
    assert_eq!(gpu::unroll(text, &[("N", 2)]), "    acc[0u] = 0.0;\n    acc[1u] = 0.0;\n");
}

#[test]
fn labels_name_variants() {
    for id in VariantId::all() {
        assert_eq!(VariantId::parse(&id.label()), Some(id));
    }
    assert_eq!(VariantId::parse("tile of another version"), None);
}
