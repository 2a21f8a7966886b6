//! `cargo xtask check`, `devices` and `shaders`: commands that are a few calls of cargo.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::test::Counts;
use crate::{run, tidy};

/// Formatting, lints, documentation and tidy, in order of how soon each can answer.
pub fn run() -> Result<()> {
    step("fmt", || run::run(run::cargo().args(["fmt", "--all", "--check"])))?;
    step("tidy", tidy::run)?;
    step("clippy", || {
        run::run(run::cargo().args(["clippy", "--workspace", "--all-targets"]).args(["--", "-D", "warnings"]))
    })?;
    step("doc", || {
        run::run(run::cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
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
    run::run(run::cargo().args(["run", "--quiet", "--package", "versant-device", "--example", "devices"]))
}

/// The files, then what the families generate and cut from them: both are tests of the kernels crate, which
/// alone knows every shader and tile.
pub fn shaders() -> Result<()> {
    let mut passed = 0;
    for what in [["--test", "shaders"].as_slice(), &["--lib"]] {
        let mut command = run::cargo();
        command.args(["test", "--package", "versant-kernels"]).args(what);
        if what == ["--lib"] {
            command.args(["--", "emit::", "gpu_tests::", "shader"]);
        }
        let mut counts = Counts::default();
        if !run::watch(&mut command, |line| counts.see(line))? || counts.passed == 0 {
            return Err(Error::Found("the shaders have faults, or no test looked".to_string()));
        }
        passed += counts.passed;
    }
    println!("shaders: {passed} tests passed");
    Ok(())
}
