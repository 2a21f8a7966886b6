//! Every file under shaders/ is valid WGSL by itself (with the parts of lib/ that it imports), translates to
//! SPIR-V, MSL and HLSL, and stays inside what every adapter is sure to have. The generated kernels and the
//! tiles that the families make of these files are checked beside the families.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};

/// WebGPU's default limits; Metal takes one storage buffer for itself.
const STORAGE_BUFFERS: usize = 7;
const WORKGROUP_BYTES: u32 = 16 << 10;
const INVOCATIONS: u32 = 256;

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

fn validate(text: &str) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    Ok((module, info))
}

fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    spv::write_vec(module, info, &spv::Options::default(), None)
        .map_err(|error| format!("SPIR-V: {error}"))?;
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

/// Whether the module stays inside the limits on which every adapter can be relied.
fn within_limits(module: &Module) -> Result<(), String> {
    let mut storage = 0;
    let mut workgroup = 0;
    for (_, variable) in module.global_variables.iter() {
        match variable.space {
            AddressSpace::Storage { .. } => storage += 1,
            AddressSpace::WorkGroup => {
                workgroup += module.types[variable.ty].inner.size(module.to_ctx());
            }
            _ => {}
        }
    }
    if storage > STORAGE_BUFFERS {
        return Err(format!("{storage} storage buffers, at most {STORAGE_BUFFERS}"));
    }
    if workgroup > WORKGROUP_BYTES {
        return Err(format!("{workgroup} bytes of workgroup memory, at most {WORKGROUP_BYTES}"));
    }
    for entry in &module.entry_points {
        let size: u32 = entry.workgroup_size.iter().product();
        if size > INVOCATIONS {
            return Err(format!("{size} invocations in `{}`, at most {INVOCATIONS}", entry.name));
        }
    }
    Ok(())
}

fn check(text: &str) -> Result<(), String> {
    let (module, info) = validate(text)?;
    within_limits(&module)?;
    translate(&module, &info)
}

#[test]
fn every_shader_file_is_valid_and_translates() {
    let files = files(&shaders());
    assert!(!files.is_empty(), "there are shaders");
    let faults: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let fault = check(&with_imports(path, &mut BTreeSet::new())).err()?;
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
