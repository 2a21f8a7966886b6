//! What the tests of the families share: validation of the WGSL, runs of the CPU twin, test data.

use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::{Caps, Class, DType, KernelSource, Target};

/// The GPU target; of these families only sorting has variants for software adapters.
pub const GPU: Target = Target::Gpu(Caps::webgpu(Class::Discrete));

/// Validates the text and translates it to SPIR-V, MSL and HLSL; its bindings, parameter block and workgroup
/// must be what the source and the families' grid say.
pub fn valid_wgsl(source: &KernelSource) {
    valid_wgsl_of(source, super::WORKGROUP);
}

/// The same of a text with this many invocations in a workgroup.
pub fn valid_wgsl_of(source: &KernelSource, invocations: usize) {
    let name = &source.label;
    let module = naga::front::wgsl::parse_str(&source.wgsl)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source.wgsl)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source.wgsl)));
    reflect(&module, source, invocations);

    let spv = naga::back::spv::Options::default();
    naga::back::spv::write_vec(&module, &info, &spv, None).expect("SPIR-V");
    let msl = naga::back::msl::Options { fake_missing_bindings: true, ..Default::default() };
    naga::back::msl::write_string(&module, &info, &msl, &Default::default()).expect("MSL");
    let mut text = String::new();
    let hlsl = naga::back::hlsl::Options::default();
    naga::back::hlsl::Writer::new(&mut text, &hlsl, &Default::default())
        .write(&module, &info, None)
        .expect("HLSL");
}

fn reflect(module: &naga::Module, source: &KernelSource, invocations: usize) {
    use naga::{AddressSpace, StorageAccess, TypeInner};
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for (_, var) in module.global_variables.iter().filter(|(_, var)| var.space != AddressSpace::WorkGroup) {
        let at = var.binding.as_ref().expect("only bound globals");
        assert_eq!(at.group, 0);
        match var.space {
            AddressSpace::Uniform => {
                assert_eq!(at.binding, 0);
                let size = match &module.types[var.ty].inner {
                    TypeInner::Array { size, .. } => *size,
                    other => panic!("params is {other:?}"),
                };
                let words = source.params.len() as u32;
                let want = std::num::NonZeroU32::new(words / 4).expect("some params");
                assert_eq!(size, naga::ArraySize::Constant(want));
                assert_eq!(words % 4, 0);
            }
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => {
                writes.push(at.binding as usize);
            }
            AddressSpace::Storage { .. } => reads.push(at.binding as usize),
            other => panic!("unexpected address space {other:?}"),
        }
    }
    let first_write = 2 + source.reads;
    assert_eq!(reads, (2..first_write).collect::<Vec<_>>());
    assert_eq!(writes, [first_write]);
    assert!(!source.uses_scalars);
    let entry = &module.entry_points[0];
    assert_eq!(entry.name, "main");
    assert_eq!(entry.workgroup_size, [invocations as u32, 1, 1]);
}

/// Runs the CPU twin on `threads` threads over an output of `len` words full of garbage, with three guard
/// words behind it that must survive.
pub fn run(source: &KernelSource, reads: &[&[u32]], len: usize, threads: usize) -> Vec<u32> {
    const GARBAGE: u32 = 0xdead_beef;
    let native = source.native.clone().expect("a CPU target has a twin");
    let mut out = vec![GARBAGE; len + 3];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool.build().expect("threads");
    pool.install(|| native(reads, &mut [&mut out], &[]));
    assert_eq!(out[len..], [GARBAGE; 3], "{}", source.label);
    out.truncate(len);
    out
}

/// Asserts that the twin gives `want`, bit for bit, on 1, 2 and 7 threads.
pub fn equal(source: &KernelSource, reads: &[&[u32]], want: &[u32]) {
    for threads in [1, 2, 7] {
        let got = run(source, reads, want.len(), threads);
        let wrong = got.iter().zip(want).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "{} on {threads} threads", source.label);
    }
}

/// `n` pseudo-random words below `limit`, or of any value if `limit` is 0 (a linear congruential generator).
pub fn words(n: usize, limit: u32, seed: u32) -> Vec<u32> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u32
    };
    (0..n)
        .map(|_| match limit {
            0 => next() << 1,
            _ => next() % limit,
        })
        .collect()
}

/// `n` pseudo-random elements of `dtype` as words; floats of mixed sign and size, whose sums round.
pub fn data(dtype: DType, n: usize, seed: u32) -> Vec<u32> {
    let any = words(n, 0, seed);
    if dtype != DType::F32 {
        return any;
    }
    any.iter().map(|&w| ((w as i32 as f32) * 2f32.powi(-31) * (1.0 + (w % 97) as f32)).to_bits()).collect()
}

/// The sum of two elements of `dtype`, as words.
pub fn plus(dtype: DType, a: u32, b: u32) -> u32 {
    match dtype {
        DType::F32 => (f32::from_bits(a) + f32::from_bits(b)).to_bits(),
        DType::I32 => (a as i32).wrapping_add(b as i32) as u32,
        _ => a.wrapping_add(b),
    }
}

/// The types that the families take.
pub const TYPES: [DType; 3] = [DType::F32, DType::I32, DType::U32];
