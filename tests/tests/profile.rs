//! The profile that `VERSANT_PROFILE` or an option asks for: a file that other tools can read.

use std::path::Path;

use serde_json::Value;
use versant_device::{DeviceError, DeviceOptions, Select};
use versant_graph::{Device, Tensor};

fn options(select: Select, profile: &Path) -> DeviceOptions {
    DeviceOptions { profile: Some(profile.to_path_buf()), ..DeviceOptions::select(select) }
}

/// The graphics adapter of the tests; `None` for the CPU alone.
fn selections() -> Vec<Select> {
    let name = std::env::var("VERSANT_TEST_DEVICE").unwrap_or_default();
    match name.as_str() {
        "cpu" => vec![Select::Cpu],
        "" => vec![Select::Cpu, Select::Gpu],
        name => vec![Select::Cpu, name.parse().expect("every name is a selection")],
    }
}

/// Runs a plan of three launches twenty times, more than may be under way at once.
fn work(device: &Device) {
    let x = Tensor::from_slice(device, &[0.5f32; 4096], &[64, 64]);
    for step in 0..20 {
        let y = (&x * step as f32).matmul(&x).softmax(-1).matmul(&x);
        let total = y.sum_all().item::<f32>().expect("a sum");
        assert!(total.is_finite());
    }
}

/// Events of kind `X` on a track, as (name, begin, length), checked to be whole.
fn spans(events: &[Value], device: bool) -> Vec<(&str, f64, f64)> {
    let spans = events.iter().filter(|e| e["ph"] == "X" && (e["tid"] == 0) == device);
    let number = |v: &Value| v.as_f64().filter(|n| *n >= 0.0).expect("a time");
    spans.map(|e| (e["name"].as_str().expect("a name"), number(&e["ts"]), number(&e["dur"]))).collect()
}

#[test]
fn a_profile_holds_every_launch_and_what_the_host_did() {
    let folder = tempfile::tempdir().expect("a folder");
    for select in selections() {
        let path = folder.path().join(format!("{select}.json"));
        let device = match Device::open(&options(select, &path)) {
            Ok(device) => device,
            Err(DeviceError::NoAdapter { .. }) if std::env::var_os("VERSANT_REQUIRE_GPU").is_none() => {
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        work(&device);
        let dispatches = device.counters().dispatches as usize;
        let name = device.info().name.clone();
        let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let before = files();
        drop(device);
        assert_eq!(files(), before, "the file took its name, and nothing else is left");
        // Another device of this process may have taken the plain name.
        let newest = std::fs::read_dir(folder.path()).expect("a folder").map(|f| f.expect("a file").path());
        let newest = newest.max_by_key(|f| std::fs::metadata(f).and_then(|m| m.modified()).ok());
        let text = std::fs::read_to_string(newest.expect("a file")).expect("text");
        let profile: Value = serde_json::from_str(&text).expect("JSON");
        let events = profile["traceEvents"].as_array().expect("a list");
        let named = |e: &&Value| e["name"] == "process_name" && e["args"]["name"] == name.as_str();
        assert!(events.iter().any(|e| named(&e)), "{name}");
        let launches = spans(events, true);
        assert_eq!(launches.len(), dispatches, "{name}");
        assert!(launches.iter().all(|l| !l.0.is_empty()) && launches.iter().any(|l| l.2 > 0.0));
        // Launches follow one another.
        assert!(launches.is_sorted_by(|a, b| a.1 <= b.1), "{name}");
        let host = spans(events, false);
        for what in ["capture", "plan", "prepare", "run", "read"] {
            assert!(host.iter().any(|s| s.0 == what), "{name}: {what}");
        }
        // The clocks agree: no launch begins before the first run or ends after the last read.
        let first = host.iter().filter(|s| s.0 == "run").map(|s| s.1).fold(f64::MAX, f64::min);
        let last = host.iter().filter(|s| s.0 == "read").map(|s| s.1 + s.2).fold(0.0, f64::max);
        let slack = 1e4;
        for (label, begin, length) in launches {
            assert!(begin >= first - slack && begin + length <= last + slack, "{name}: {label} at {begin}");
        }
    }
}

#[test]
fn a_profile_that_cannot_be_written_is_an_error() {
    let error = Device::open(&options(Select::Cpu, Path::new("/nowhere/at/all.json"))).unwrap_err();
    assert!(matches!(&error, DeviceError::Profile { path, .. } if path.contains("nowhere")), "{error}");
}
