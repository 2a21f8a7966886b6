//! `cargo xtask test`: every test of the workspace, on the CPU and on software Vulkan.
//!
//! What the tests read from the environment:
//! * `VERSANT_REQUIRE_GPU=1`: a missing adapter fails a GPU test instead of skipping it;
//! * `VERSANT_TEST_DEVICE`: the adapter that GPU tests open (`lavapipe` unless `--device` says otherwise);
//! * `VERSANT_DEFAULT_LIMITS=1`: devices are opened with WebGPU's default limits, no optional feature;
//! * `VERSANT_TEST_HALF`: where a table is large, each of two passes takes every other row;
//! * `VERSANT_CHECKED=1`: every kernel is compiled with run-time checks. The first pass has them, the second runs
//!   kernels as users do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::{programs, run, vulkan};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Options {
    /// The adapter for the GPU tests, as VERSANT_DEVICE names them: lavapipe, gpu, vulkan, metal, dx12 or
    /// a part of an adapter's name. Default: lavapipe on Linux (installed if missing), elsewhere gpu.
    #[arg(long)]
    device: Option<String>,
    /// Leave out the second pass, within WebGPU's default limits and without run-time checks in kernels.
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs the passes and prints one line of totals last.
pub fn run(options: &Options) -> Result<()> {
    let device = options.device.as_deref().unwrap_or(default_device());
    if device == "lavapipe" {
        vulkan::ensure_software_adapter()?;
    }
    let mut variables = vec![("VERSANT_CHECKED", "1")];
    if !options.quick {
        variables.push(("VERSANT_TEST_HALF", "0"));
    }
    let name = "the whole workspace, kernels checked";
    let mut passes = vec![pass(name, options, device, &["--workspace"], &variables)?];
    passes.push(documentation(options, device)?);
    if !options.quick {
        // Integration tests are those that open adapters. Selected from the whole workspace, because
        // naming packages would build their dependencies again with other features.
        let select = ["--workspace", "--test", "*"];
        let name = "integration tests within WebGPU's default limits, kernels unchecked";
        let variables = [("VERSANT_DEFAULT_LIMITS", "1"), ("VERSANT_TEST_HALF", "1")];
        passes.push(pass(name, options, device, &select, &variables)?);
    }
    summarise(&passes)
}

/// Software Vulkan exists on Linux; elsewhere the system always brings an adapter of its own.
fn default_device() -> &'static str {
    if cfg!(target_os = "linux") { "lavapipe" } else { "gpu" }
}

/// What one run of tests came to.
struct Pass {
    name: &'static str,
    counts: Counts,
    succeeded: bool,
    time: Duration,
}

fn pass(
    name: &'static str,
    options: &Options,
    device: &str,
    select: &[&str],
    variables: &[(&str, &str)],
) -> Result<Pass> {
    eprintln!("\n=== {name} (device for GPU tests: {device}) ===");
    let start = Instant::now();
    let programs = programs::build(select)?;
    let cache = shader_cache()?;
    let prepare = |command: &mut Command| {
        surround(command, device, &cache);
        command.envs(variables.iter().copied()).args(&options.filter);
    };
    let mut counts = Counts::default();
    let mut succeeded = true;
    programs::run_all(&programs, prepare, |ended| {
        ended.text.lines().for_each(|line| counts.see(line));
        succeeded &= ended.succeeded;
    })?;
    Ok(Pass { name, counts, succeeded, time: start.elapsed() })
}

/// The examples in the documentation, which only cargo can run.
fn documentation(options: &Options, device: &str) -> Result<Pass> {
    let name = "examples in the documentation";
    eprintln!("\n=== {name} (device for GPU tests: {device}) ===");
    let start = Instant::now();
    let mut command = run::cargo();
    command.args(["test", "--no-fail-fast", "--workspace", "--doc"]);
    surround(&mut command, device, &shader_cache()?);
    command.env("VERSANT_CHECKED", "1").args(&options.filter);
    let mut counts = Counts::default();
    let succeeded = run::watch(&mut command, |line| counts.see(line))?;
    Ok(Pass { name, counts, succeeded, time: start.elapsed() })
}

fn shader_cache() -> Result<PathBuf> {
    let cache = vulkan::shader_cache();
    std::fs::create_dir_all(&cache).map_err(Error::at(&cache))?;
    Ok(cache)
}

/// What every test finds in its environment.
fn surround(command: &mut Command, device: &str, cache: &Path) {
    command
        .env("VERSANT_REQUIRE_GPU", "1")
        .env("VERSANT_TEST_DEVICE", device)
        .env("MESA_SHADER_CACHE_DIR", cache)
        // Verdicts on kernels from this tree do not belong among the user's.
        .env("VERSANT_CACHE_DIR", cache.with_file_name("kernel-verdicts"));
    if std::env::var_os("LP_NUM_THREADS").is_none() {
        // Tests are many tiny dispatches, run side by side by the test harness: lavapipe's own worker
        // threads cost 20-40 us a dispatch where running in the caller's thread costs 1-7 us.
        command.env("LP_NUM_THREADS", "0");
    }
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Without a folder to look for a display in, Wayland's client library complains for every adapter.
        command.env("XDG_RUNTIME_DIR", run::target());
    }
}

/// Totals over the test programs of a pass, read from what the standard test harness prints.
#[derive(Debug, Default, PartialEq)]
pub struct Counts {
    /// Test programs that ran to their end.
    pub programs: usize,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests that did not run.
    pub skipped: usize,
    /// The names of the failed ones.
    pub failures: Vec<String>,
}

impl Counts {
    /// Reads one line of output: `test NAME ... FAILED` or `test result: ok. 3 passed; 0 failed; …`.
    pub fn see(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.programs += 1;
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
            self.skipped += number_before(result, " ignored");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_string());
        }
    }
}

/// The whole number that stands right before `word`, or 0.
fn number_before(text: &str, word: &str) -> usize {
    let Some(end) = text.find(word) else {
        return 0;
    };
    let digits = text[..end].rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn summarise(passes: &[Pass]) -> Result<()> {
    println!("\n=== summary ===");
    let mut total = Counts::default();
    for pass in passes {
        let counts = &pass.counts;
        println!(
            "{}: {} passed, {} failed, {} skipped in {} test programs, {:.0} s",
            pass.name,
            counts.passed,
            counts.failed,
            counts.skipped,
            counts.programs,
            pass.time.as_secs_f64()
        );
        for name in &counts.failures {
            println!("  FAILED {name}");
        }
        total.passed += counts.passed;
        total.failed += counts.failed;
        total.skipped += counts.skipped;
    }
    // A program that did not compile or was ended by a signal prints no result, yet cargo reports it.
    let broken = passes.iter().find(|pass| !pass.succeeded);
    if let Some(pass) = broken.filter(|pass| pass.counts.failed == 0) {
        println!("{}: cargo test failed without a failed test; see above", pass.name);
        total.failed += 1;
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if broken.is_some() || total.failed > 0 {
        Err(Error::Found("tests failed".to_string()))
    } else if total.passed == 0 {
        Err(Error::Found("no test ran".to_string()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        for line in lines {
            counts.see(line);
        }
        counts
    }

    #[test]
    fn results_of_all_programs_are_added() {
        let counts = counted(&[
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test d ... ignored",
            "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 5 filtered out; finished in 0.01s",
            "test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ]);
        assert_eq!(
            counts,
            Counts { programs: 2, passed: 42, failed: 1, skipped: 2, failures: vec!["a::c".to_string()] }
        );
    }

    fn finished(counts: Counts, succeeded: bool) -> Pass {
        Pass { name: "a pass", counts, succeeded, time: Duration::ZERO }
    }

    #[test]
    fn a_pass_is_good_only_if_cargo_and_the_counts_say_so() {
        let line = "test result: ok. 2 passed; 0 failed; 0 ignored;";
        assert!(summarise(&[finished(counted(&[line]), true)]).is_ok());
        assert!(summarise(&[finished(counted(&[line]), false)]).is_err());
        assert!(summarise(&[finished(counted(&[]), true)]).is_err());
        let bad = "test result: FAILED. 2 passed; 1 failed; 0 ignored;";
        assert!(summarise(&[finished(counted(&[bad]), false)]).is_err());
    }
}
