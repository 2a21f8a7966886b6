//! What the families of tests share is in `tests/tests/attention_gpu.rs`; here the text: valid, within limits, and of
//! structure only.

use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::*;
use crate::Class;

fn problem(pass: Pass, [queries, keys]: [usize; 2], [width, value]: [usize; 2], mask: MaskKind) -> Attention {
    let (batch, heads, kv_heads) = (2, 4, 2);
    let view = |dims: [usize; 4]| View::contiguous(Shape::new(&dims).expect("rank 4"));
    let result = [batch, heads, queries, value];
    let mut views = vec![
        view([batch, heads, queries, width]),
        view([batch, kv_heads, keys, width]),
        view([batch, kv_heads, keys, value]),
    ];
    if mask != MaskKind::None {
        views.push(view([batch, heads, queries, keys]));
    }
    if pass == Pass::Backward {
        views.push(view(result));
        views.push(View::contiguous(Shape::new(&[result.iter().product::<usize>()]).expect("rank 1")));
    }
    let (left, right, start) = (1 << 29, 0, 0);
    let scale = 0.5;
    Attention {
        pass,
        batch,
        heads,
        kv_heads,
        queries,
        keys,
        width,
        value,
        scale,
        left,
        right,
        start,
        mask,
        kept: None,
        types: vec![DType::F32; views.len()],
        views,
    }
}

fn all_variants(a: &Attention) -> Vec<Variant> {
    let classes = [Class::Discrete, Class::Software].map(Caps::webgpu);
    classes.iter().flat_map(|caps| variants(a, caps)).collect()
}

#[test]
fn every_text_is_valid_and_within_the_limits() {
    for pass in [Pass::Forward, Pass::Backward] {
        for widths in [[32, 32], [64, 64], [128, 128], [33, 31], [4, 1], [80, 96]] {
            for mask in [MaskKind::None, MaskKind::Added, MaskKind::Words] {
                let a = problem(pass, [70, 90], widths, mask);
                let types = vec![DType::F16; a.types.len()];
                let halves = Attention { types, kept: Some(DType::BF16), ..a.clone() };
                for (a, variant) in
                    [a, halves].iter().flat_map(|a| all_variants(a).into_iter().map(move |v| (a, v)))
                {
                    let source = attention_with(a, "attention", variant);
                    let name = format!("{pass:?} {widths:?} {mask:?} {}", variant.label());
                    let module = naga::front::wgsl::parse_str(&source.wgsl)
                        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source.wgsl)));
                    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
                    validator
                        .validate(&module)
                        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source.wgsl)));
                    assert!(source.reads + source.writes <= 7, "{name}");
                    let groups = module
                        .global_variables
                        .iter()
                        .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
                    let memory: u32 =
                        groups.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
                    assert!(memory <= 16 << 10, "{name}: {memory} bytes");
                    assert!(source.params.len() == 40, "{name}");
                }
            }
        }
    }
}

#[test]
fn lengths_do_not_change_the_text() {
    for pass in [Pass::Forward, Pass::Backward] {
        let [a, b] = [[70, 90], [7, 900]].map(|n| problem(pass, n, [32, 32], MaskKind::None));
        for variant in all_variants(&a) {
            assert_eq!(attention_with(&a, "", variant).wgsl, attention_with(&b, "", variant).wgsl);
        }
    }
}

#[test]
fn a_probe_has_the_same_text() {
    for pass in [Pass::Forward, Pass::Backward] {
        for (width, offset) in [(32, 0), (32, 1), (31, 0)] {
            for mask in [MaskKind::None, MaskKind::Words] {
                let mut a = problem(pass, [700, 900], [width, width], mask);
                a.views[2].offset = offset;
                for variant in all_variants(&a) {
                    let text = |a: &Attention| attention_with(a, "", variant).wgsl;
                    assert_eq!(text(&a), text(&probe(&a)), "{pass:?} {width} {offset} {mask:?}");
                }
            }
        }
    }
}

/// Writes the texts of the usual heads to the folder `VERSANT_DUMP`, for `radvstat`.
#[test]
fn texts_can_be_dumped() {
    let Some(folder) = std::env::var_os("VERSANT_DUMP") else { return };
    for pass in [Pass::Forward, Pass::Backward] {
        for width in [32, 64, 128] {
            let a = problem(pass, [512, 512], [width, width], MaskKind::None);
            for variant in variants(&a, &Caps::webgpu(Class::Discrete)) {
                let name = format!("{pass:?}-{width}-{}.wgsl", variant.label().replace([' ', ','], "-"));
                let text = attention_with(&a, "", variant).wgsl;
                std::fs::write(std::path::Path::new(&folder).join(name), text)
                    .expect("the folder can be written");
            }
        }
    }
}

#[test]
fn parts_of_a_sum_hold_it() {
    let sums = |kept: Option<DType>| {
        let mut a = problem(Pass::Forward, [5, 7], [4, 3], MaskKind::None);
        (a.kept, a.scale) = (kept, 300.0);
        let inputs: Vec<Vec<u32>> = (a.views.iter().map(|v| v.shape.numel()))
            .map(|n| (0..n).map(|i| (i as f32 * 0.7).sin().to_bits()).collect())
            .collect();
        let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut out = vec![0; a.len()];
        let native = attention(&a, "", Target::Cpu).native.expect("a CPU kernel");
        native(&inputs, &mut [&mut out[..]], &[]);
        let numbers: Vec<f32> = out.iter().map(|&w| f32::from_bits(w)).collect();
        let parts = numbers[a.batch * a.queries * a.heads * a.value..].chunks(sum_parts(kept));
        parts.map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    let whole = sums(None);
    assert!(whole.iter().any(|s| s[0].abs() > 100.0), "{whole:?}");
    for (whole, parts) in whole.iter().zip(sums(Some(DType::BF16))) {
        assert!(parts.iter().all(|x| x.to_bits() as u16 == 0), "{parts:?}");
        assert_eq!(parts.iter().sum::<f32>(), whole[0]);
    }
    for (whole, parts) in whole.iter().zip(sums(Some(DType::F16))) {
        assert!(parts.iter().all(|&x| half::f16::from_f32(x).to_f32() == x), "{parts:?}");
        assert!((parts.iter().sum::<f32>() - whole[0]).abs() <= whole[0].abs() * 2f32.powi(-20));
    }
}
