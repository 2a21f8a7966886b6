//! `cargo xtask check`, `devices` and `shaders`: commands that are a few calls of cargo.

use std::time::Instant;

use crate::error::Result;
use crate::{run, tidy};

/// Formatting, lints, documentation and tidy, in order of how soon each can answer.
pub fn run() -> Result<()> {
    step("fmt", || {
        run::run(run::cargo().args(["fmt", "--all", "--check"]))
    })?;
    step("tidy", tidy::run)?;
    step("clippy", || {
        run::run(
            run::cargo()
                .args(["clippy", "--workspace", "--all-targets"])
                .args(["--", "-D", "warnings"]),
        )
    })?;
    step("doc", || {
        run::run(
            run::cargo()
                .args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    })
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    work()?;
    eprintln!("{name}: fine ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// The listing is an example of the device crate, because only that crate names wgpu.
pub fn devices() -> Result<()> {
    run::run(run::cargo().args([
        "run",
        "--quiet",
        "--package",
        "versant-device",
        "--example",
        "devices",
    ]))
}

/// The corpus is a test of the kernels crate, because that crate knows every shader and tile.
pub fn shaders() -> Result<()> {
    run::run(run::cargo().args(["test", "--package", "versant-kernels", "--test", "shaders"]))
}
