//! `cargo xtask bench`: the library's speed, in tables and in JSON.
//!
//! Each subcommand makes a [`report::Report`]: rows of JSON with a table's columns. What is measured runs in
//! processes of its own, which print one line of JSON each; this module starts them and knows no engine.

mod isa;
mod kernels;
mod peers;
mod report;
mod spawn;
mod steps;

use std::path::PathBuf;
use std::process::Command;

use crate::error::Result;
use crate::run;
use report::Report;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

/// Options that every subcommand understands.
#[derive(clap::Args)]
pub struct Common {
    /// Print JSON lines in place of a table: what `--against` reads.
    #[arg(long, global = true)]
    json: bool,
    /// Compare with this file, which an earlier run with `--json` printed.
    #[arg(long, global = true, value_name = "FILE")]
    against: Option<PathBuf>,
    /// cpu, lavapipe, gpu, null, or part of an adapter's name.
    #[arg(long, global = true, default_value = "lavapipe")]
    device: String,
    /// Seconds to time each thing for.
    #[arg(long, global = true, default_value_t = 12.0)]
    budget: f64,
    /// Seconds after which a run is ended.
    #[arg(long, global = true, default_value_t = 400.0)]
    timeout: f64,
    /// Cargo's profile for the library; `dev` builds faster and measures the host side wrong.
    #[arg(long, global = true, default_value = "release")]
    profile: String,
}

#[derive(clap::Subcommand)]
enum What {
    /// Single kernels: GFLOP/s, GB/s and the share of what the device was measured to reach.
    Kernels(kernels::Options),
    /// Training steps of the workloads W1 to W5: time, launches, host time, memory.
    Steps(steps::Options),
    /// What Mesa's compiler makes of each tuned kernel for AMD cards (needs radvstat).
    Isa(isa::Options),
    /// The same work by other engines, interleaved.
    Peers(peers::Options),
}

/// Measures, and prints what came out.
pub fn run(options: &Options) -> Result<()> {
    let common = &options.common;
    let before = common.against.as_deref().map(report::read).transpose()?;
    let report: Report = match &options.what {
        What::Kernels(options) => kernels::run(options, common)?,
        What::Steps(options) => steps::run(options, common)?,
        What::Isa(options) => isa::run(options, common)?,
        What::Peers(options) => peers::run(options, common)?,
    };
    if common.json {
        print!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    if let Some(before) = before {
        print!("{}", report.ratios(&before));
    }
    Ok(())
}

/// Builds a program of `benches/src/bin` and returns its path.
fn program(name: &str, profile: &str) -> Result<PathBuf> {
    run::run(run::cargo().args(["build", "--profile", profile, "-p", "versant-benches", "--bin", name]))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(run::target().join(folder).join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

/// The arguments that all programs of `benches/src/bin` share.
fn command(program: &std::path::Path, common: &Common) -> Command {
    let mut command = Command::new(program);
    command.args(["--device", &common.device, "--budget", &common.budget.to_string()]);
    command
}
