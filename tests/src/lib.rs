//! Helpers shared by the cross-crate tests: the list of devices to run on, and the golden values.
//!
//! Deliberately knows nothing of how the engine works: it sees only what a user of the crates sees.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use versant_device::Device;

pub mod cases;
pub mod golden;

/// The devices that a test runs on: the CPU always, and a GPU where there is one.
///
/// * `VERSANT_TEST_DEVICE=NAME` names the GPU (any name that `VERSANT_DEVICE` accepts), or is `cpu` for the
///   CPU alone. Without it any adapter will do.
/// * `VERSANT_REQUIRE_GPU=1` makes a list without a GPU a failure; otherwise a line on standard error
///   (not captured by the test harness) says that the GPU half was skipped.
///
/// # Panics
/// If a GPU is required, or named, and cannot be opened.
pub fn devices() -> Vec<Device> {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(open_devices).clone()
}

fn open_devices() -> Vec<Device> {
    let required = std::env::var("VERSANT_REQUIRE_GPU").is_ok_and(|v| v == "1");
    let name = std::env::var("VERSANT_TEST_DEVICE").unwrap_or_default();
    let mut devices = vec![Device::cpu()];
    match name.as_str() {
        "cpu" if required => panic!("VERSANT_REQUIRE_GPU=1 contradicts VERSANT_TEST_DEVICE=cpu"),
        "cpu" => announce("SKIPPED on the GPU: VERSANT_TEST_DEVICE=cpu"),
        "" => match Device::gpu() {
            Ok(gpu) => devices.push(gpu),
            Err(e) if required => panic!("VERSANT_REQUIRE_GPU=1, but no GPU can be opened: {e}"),
            Err(e) => announce(&format!("SKIPPED on the GPU: {e}")),
        },
        name => match Device::by_name(name) {
            Ok(gpu) => devices.push(gpu),
            Err(e) => panic!("VERSANT_TEST_DEVICE={name} cannot be opened: {e}"),
        },
    }
    devices
}

/// Lets the tests of a program that call it take turns: they share [`devices`], whose counters, latest plans and times would be
/// each other's. If one test of a program reads such figures, all that use these devices take turns with it; one that reads
/// figures of the whole process, its memory, is a program of its own (`long_run.rs`).
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the present pass takes a check with this number. `cargo xtask test` makes two passes, each under other
/// conditions, and compiling kernels is most of what tests do: where a table is large, one pass takes the even rows
/// (`VERSANT_TEST_HALF=0`) and the other the odd ones (`1`). Without the variable every check is taken.
pub fn in_this_pass(number: usize) -> bool {
    static HALF: OnceLock<Option<usize>> = OnceLock::new();
    let half = HALF.get_or_init(|| std::env::var("VERSANT_TEST_HALF").ok()?.parse().ok());
    half.is_none_or(|half| number % 2 == half)
}

/// Writes a line to the real standard error, which the test harness does not capture.
fn announce(line: &str) {
    // If even standard error is closed, there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}
