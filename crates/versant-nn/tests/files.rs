//! Safetensors files: round trips, and files that somebody damaged or made to do damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use versant_graph::Device;
use versant_nn::{AdamW, Checkpoint, Init, NnError, Optimizer, Params, Seed};

fn store() -> Params {
    let vs = Params::new(&Device::cpu(), Seed(3));
    vs.root().parameter("weight", &[3, 2], Init::XavierUniform { gain: 1.0 });
    vs.root().parameter("bias", &[3], Init::FanIn { fan_in: 2 });
    vs.root().buffer("count", &[], Init::Constant(f32::NAN));
    vs.root().buffer("empty", &[0, 4], Init::Ones);
    vs
}

/// A file with these bytes, of its own name; removed with the folder.
fn file(folder: &Path, bytes: &[u8]) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!("{}.safetensors", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&path, bytes).expect("writable");
    path
}

fn with_header(header: &str, body: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(std::iter::repeat_n(0, body));
    bytes
}

#[test]
fn values_survive_a_round_trip_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (a, b) = (store(), Params::new(&Device::cpu(), Seed(4)));
    a.save(&path).expect("writable");
    a.save(&path).expect("a file is replaced");
    for param in a.iter() {
        match param.is_trainable() {
            true => b.root().parameter(param.name(), param.shape(), Init::Zeros),
            false => b.root().buffer(param.name(), param.shape(), Init::Zeros),
        };
    }
    b.load(&path).expect("it fits");
    let bits = |vs: &Params| -> BTreeMap<String, Vec<u32>> {
        let map = vs.to_host().expect("readable");
        map.into_iter().map(|(n, t)| (n, t.data.iter().map(|x| x.to_bits()).collect())).collect()
    };
    assert_eq!(bits(&a), bits(&b));
    // Nothing else is left in the folder.
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1);
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    store().save(&path).expect("writable");
    let before = std::fs::read(&path).expect("readable");
    let broken = store();
    broken.root().buffer("count", &[7], Init::Ones);
    assert!(broken.save(&path).is_err());
    assert!(store().save(folder.path().join("no/such/folder.safetensors")).is_err());
    // A folder in the place of the file cannot be replaced; the temporary file goes.
    std::fs::create_dir(folder.path().join("taken")).expect("writable");
    assert!(matches!(store().save(folder.path().join("taken")), Err(NnError::Io { .. })));
    assert_eq!(std::fs::read(&path).expect("readable"), before);
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 2);
}

#[test]
fn hostile_headers_are_errors() {
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"weight":{}}}"#, entry(dtype, shape, from, to))
    };
    let huge = u64::MAX / 8;
    // Eight tensors whose lengths sum to nearly 2^64: the sum must not overflow.
    let eight: Vec<String> = (0..8)
        .map(|i| format!(r#""t{i}":{}"#, entry("U8", &format!("[{huge}]"), i * huge, (i + 1) * huge)))
        .collect();
    let files = [
        vec![],
        vec![1, 2, 3],
        with_header("", 0),
        with_header("[]", 0),
        with_header("{", 0),
        with_header("\u{0}", 0),
        u64::MAX.to_le_bytes().to_vec(),
        (1u64 << 40).to_le_bytes().into_iter().chain([0; 100]).collect(),
        with_header(&one("F32", "[6]", 0, 1 << 50), 24),
        with_header(&one("F32", "[3,2]", 0, 20), 20),
        with_header(&one("F32", "[3,2]", 4, 28), 28),
        with_header(&one("F32", "[3,2]", 24, 0), 24),
        with_header(&one("F32", "[18446744073709551615,18446744073709551615]", 0, 4), 4),
        with_header(&one("F32", "[4611686018427387905]", 0, 4), 4),
        with_header(&one("F32", "[-3,2]", 0, 24), 24),
        with_header(&one("F99", "[3,2]", 0, 24), 24),
        with_header(&one("I32", "[3,2]", 0, 24), 24),
        with_header(&format!("{{{}}}", eight.join(",")), 100),
        with_header(&one("F32", "[3,2]", 0, 24).replace('}', &"[".repeat(100_000)), 24),
        with_header(&format!(r#"{{"weight":{0},"bias":{0}}}"#, entry("F32", "[3,2]", 0, 24)), 24),
        with_header(&one("F32", "[3,2]", 0, 24), 25),
        with_header(&" ".repeat(17 << 20), 0),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let vs = store();
    let before = vs.to_host().expect("readable").remove("weight");
    for (i, bytes) in files.iter().enumerate() {
        let path = file(folder.path(), bytes);
        assert!(vs.load(&path).is_err(), "file {i} was loaded");
        assert!(vs.load_partial(&path).is_err(), "file {i} was loaded in part");
        assert!(Checkpoint::load(&path).is_err(), "file {i} is a checkpoint");
    }
    assert!(matches!(vs.load(folder.path()), Err(NnError::Io { .. })));
    assert_eq!(vs.to_host().expect("readable").remove("weight"), before);
    let good = file(folder.path(), &with_header(&one("F32", "[3,2]", 0, 24), 24));
    assert_eq!(vs.load_partial(&good).expect("it is valid").loaded, ["weight"]);
}

#[test]
fn a_file_that_is_no_checkpoint_says_which_entry_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    store().save(&path).expect("writable");
    let error = Checkpoint::load(&path).expect_err("it has only parameters");
    assert!(matches!(&error, NnError::BadCheckpoint { entry, .. } if entry == "versant.checkpoint"));
}

/// A valid checkpoint's bytes.
fn checkpoint() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        let vs = store();
        let mut adam = AdamW::new(&vs, 0.1);
        let loss = vs.iter().filter(|p| p.is_trainable()).map(|p| p.get().sum_all());
        let loss = loss.reduce(|a, b| a + b).expect("two parameters");
        adam.step(loss.backward().expect("a sum")).expect("it runs");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.safetensors");
        Checkpoint::take(&vs, Some(&adam)).and_then(|c| c.save(&path)).expect("writable");
        std::fs::read(&path).expect("readable")
    })
}

/// Loads the bytes in every way; an error is fine, a panic is not.
fn load(bytes: &[u8]) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = file(folder.path(), bytes);
    let vs = store();
    let mut adam = AdamW::new(&vs, 0.1);
    let _ = vs.load(&path);
    let _ = vs.load_partial(&path);
    if let Ok(found) = Checkpoint::load(&path) {
        let _ = found.restore(&vs, Some(&mut adam));
    }
    let shapes: Vec<Vec<usize>> = vs.iter().map(|p| p.get().shape().to_vec()).collect();
    prop_assert_eq!(shapes, [vec![3, 2], vec![3], vec![], vec![0, 4]]);
    Ok(())
}

#[test]
fn the_unchanged_checkpoint_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    let vs = store();
    let found = Checkpoint::load(file(folder.path(), checkpoint())).expect("it is valid");
    found.restore(&vs, Some(&mut AdamW::new(&vs, 0.1))).expect("it fits");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_checkpoints_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = checkpoint().to_vec();
        for (at, to) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *to;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        load(&bytes)?;
    }

    #[test]
    fn digits_of_the_header_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 1..4),
    ) {
        // Only digits change, so that the header stays JSON and the checks behind it are reached.
        let mut bytes = checkpoint().to_vec();
        let digits: Vec<usize> = (8..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
        for (at, to) in &changes {
            bytes[digits[at.index(digits.len())]] = *to;
        }
        load(&bytes)?;
    }
}
