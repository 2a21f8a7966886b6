//! Every file under shaders/ is valid WGSL by itself (with the parts of lib/ that it imports), translates to
//! SPIR-V, MSL and HLSL, and stays inside what every adapter is sure to have. The generated kernels and the
//! tiles that the families make of these files are checked beside the families.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use naga::Module;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

mod lint;

/// WebGPU's default limits; Metal takes one storage buffer for itself.
const BOUNDS: lint::Bounds = lint::Bounds { storage_buffers: 7, workgroup_bytes: 16 << 10, invocations: 256 };
/// Files of variants that run only where an adapter has more than WebGPU guarantees.
const OPTIONAL: [(&str, Capabilities); 4] = [
    ("shuffle.wgsl", Capabilities::SUBGROUP),
    ("long.wgsl", Capabilities::SHADER_INT64),
    ("half.wgsl", Capabilities::SHADER_FLOAT16),
    ("coop.wgsl", Capabilities::SHADER_FLOAT16.union(Capabilities::COOPERATIVE_MATRIX)),
];

fn shaders() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shaders")
}

/// Every `.wgsl` file under `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder of shaders is readable") {
        let path = entry.expect("the folder of shaders is readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|end| end == "wgsl") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text of a file after the parts of lib/ that it names in lines `// import: NAME, NAME`, each once.
fn with_imports(path: &Path, done: &mut BTreeSet<PathBuf>) -> String {
    if !done.insert(path.to_path_buf()) {
        return String::new();
    }
    let own = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut text = String::new();
    for line in own.lines() {
        let Some(names) = line.trim().strip_prefix("// import:") else {
            continue;
        };
        for name in names.split(',') {
            let part = shaders().join(format!("lib/{}.wgsl", name.trim()));
            text += &with_imports(&part, done);
        }
    }
    text + &own
}

fn validate(text: &str, optional: Capabilities) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let info = Validator::new(ValidationFlags::all(), optional)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    Ok((module, info))
}

fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    spv::write_vec(module, info, &spv::Options::default(), None)
        .map_err(|error| format!("SPIR-V: {error}"))?;
    // Cooperative matrices are used through SPIR-V alone.
    let cooperative = |inner: &naga::TypeInner| matches!(inner, naga::TypeInner::CooperativeMatrix { .. });
    if module.types.iter().any(|(_, t)| cooperative(&t.inner)) {
        return Ok(());
    }
    let options = msl::Options { fake_missing_bindings: true, ..msl::Options::default() };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .map_err(|error| format!("MSL: {error}"))?;
    let options = hlsl::Options::default();
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(String::new(), &options, &pipeline)
        .write(module, info, None)
        .map_err(|error| format!("HLSL: {error}"))?;
    Ok(())
}

fn check(text: &str) -> Result<(), String> {
    check_with(text, Capabilities::empty())
}

fn check_with(text: &str, optional: Capabilities) -> Result<(), String> {
    let (module, info) = validate(text, optional)?;
    let faults = lint::faults(&module, BOUNDS);
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    translate(&module, &info)
}

#[test]
fn every_shader_file_is_valid_and_translates() {
    let files = files(&shaders());
    assert!(!files.is_empty(), "there are shaders");
    let faults: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let optional = OPTIONAL.iter().find(|(file, _)| *file == name);
            let optional = optional.map_or(Capabilities::empty(), |(_, needs)| *needs);
            let fault = check_with(&with_imports(path, &mut BTreeSet::new()), optional).err()?;
            Some(format!("{}: {fault}", path.display()))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{} shader files", files.len());
}

#[test]
fn faults_are_found() {
    let entry = "@compute @workgroup_size(257) fn main() {}";
    assert!(check(entry).unwrap_err().contains("257 invocations"));
    let memory = "var<workgroup> a: array<u32, 4097>;";
    assert!(check(memory).unwrap_err().contains("16388 bytes"));
    let buffers: String =
        (0..8).map(|i| format!("@group(0) @binding({i}) var<storage, read> b{i}: array<u32>;\n")).collect();
    assert!(check(&buffers).unwrap_err().contains("8 storage buffers"));
    assert!(check("fn f() -> u32 { return 1.5; }").is_err());
    assert!(check("fn f() -> u32 { return g(); }").is_err());
}

/// A kernel whose body has a barrier somewhere.
fn with_barrier(body: &str) -> Result<(), String> {
    check(&format!(
        "@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 1>;
        @group(0) @binding(2) var<storage, read_write> out: array<u32>;
        var<workgroup> shared_word: u32;
        fn limit(n: u32) -> u32 {{ return n + params[0].y; }}
        fn wait() {{ workgroupBarrier(); }}
        @compute @workgroup_size(64)
        fn main(
            @builtin(workgroup_id) wid: vec3<u32>,
            @builtin(local_invocation_index) lid: u32,
        ) {{ {body} }}"
    ))
}

#[test]
fn barriers_that_all_reach_pass() {
    for body in [
        "workgroupBarrier();",
        "if wid.x >= params[0].x { return; } workgroupBarrier();",
        "for (var i = wid.x; i < limit(wid.y); i += 1u) { out[i + lid] = 1u; wait(); }",
        "var n = params[0].x; loop { storageBarrier(); n = n >> 1u; if n == 0u { break; } }",
        "for (var i = 0u; i < 4u; i++) { if lid > i { out[lid] = i; continue; } } workgroupBarrier();",
        "for (var i = lid; i < 9u; i++) { if i == 5u { break; } } workgroupBarrier();",
        "if workgroupUniformLoad(&shared_word) == 0u { workgroupBarrier(); }",
        "switch params[0].x { case 1u: { workgroupBarrier(); } default: { } } workgroupBarrier();",
    ] {
        assert_eq!(with_barrier(body), Ok(()), "{body}");
    }
}

#[test]
fn barriers_that_some_miss_are_found() {
    for body in [
        "if lid < 3u { workgroupBarrier(); }",
        "if lid >= params[0].x { return; } workgroupBarrier();",
        "if lid >= params[0].x { return; } wait();",
        "if out[0] == 0u { wait(); }",
        "for (var i = lid; i < 9u; i++) { workgroupBarrier(); }",
        "for (var i = 0u; i < 9u; i++) { if lid == i { break; } workgroupBarrier(); }",
        "for (var i = 0u; i < 9u; i++) { workgroupBarrier(); if lid == i { break; } }",
        "for (var i = 0u; i < 9u; i++) { if lid == i { continue; } workgroupBarrier(); }",
        "for (var i = 0u; i < 9u; i++) { if lid == i { return; } } workgroupBarrier();",
        "var n = 3u; if lid == 0u { n = 4u; } for (var i = 0u; i < n; i++) { storageBarrier(); }",
        "var n = limit(lid); if n > 2u { workgroupBarrier(); }",
        "if shared_word == 0u { workgroupBarrier(); }",
        "switch lid { case 1u: { workgroupBarrier(); } default: { } }",
        "let n = workgroupUniformLoad(&shared_word); if n + lid == 0u { workgroupBarrier(); }",
        "loop { workgroupBarrier(); continuing { break if lid > 2u; } }",
    ] {
        let fault = with_barrier(body).expect_err(body);
        assert!(fault.contains("not every invocation reaches"), "{body}: {fault}");
    }
}
