//! `cargo xtask bench steps`: the workloads W1 to W5, each in a process of its own.

use serde_json::{Value, json};

use super::report::{Column, Kind, Report, column};
use super::spawn::{Outcome, measure};
use super::{Common, command, program};
use crate::error::Result;

/// Options of `cargo xtask bench steps`.
#[derive(clap::Args)]
pub struct Options {
    /// Which of W1 to W5; all if not given.
    #[arg(long, value_delimiter = ',', value_parser = ["W1", "W2", "W3", "W4", "W5"])]
    only: Vec<String>,
    /// Measure the first step alone, with the driver's cache of compiled shaders off.
    #[arg(long)]
    cold: bool,
}

/// The workloads, in order.
pub const WORKLOADS: [&str; 5] = ["W1", "W2", "W3", "W4", "W5"];

const COLUMNS: [Column; 14] = [
    column("workload", "step", Kind::Key),
    column("backend", "device", Kind::Key),
    column("ms", "ms", Kind::Measure),
    column("cold_ms", "cold ms", Kind::Measure),
    column("launches", "launches", Kind::Measure),
    column("host_us", "host us", Kind::Measure),
    column("host_us_per_launch", "us/launch", Kind::Measure),
    column("run_us_per_launch", "of it run", Kind::Measure),
    column("made", "made", Kind::Measure),
    column("plan_bytes", "plan MB", Kind::Bytes),
    column("peak_bytes", "peak MB", Kind::Bytes),
    column("rss_mb", "RSS MB", Kind::Measure),
    column("lossN", "loss", Kind::Note),
    column("load", "load", Kind::Note),
];

/// Measures the chosen workloads.
pub fn run(options: &Options, common: &Common) -> Result<Report> {
    let program = program("steps", &common.profile)?;
    let mut rows = Vec::new();
    for workload in WORKLOADS {
        if !options.only.is_empty() && !options.only.iter().any(|o| o == workload) {
            continue;
        }
        let mut command = command(&program, common);
        if options.cold {
            command.arg("--cold").env("MESA_SHADER_CACHE_DISABLE", "1");
        }
        let note = |ms: &str, why: Value| json!({"workload": workload, "backend": common.device, "ms": ms, "note": why});
        match measure(command.arg(workload), common.timeout)? {
            Outcome::Done(found) => rows.extend(found),
            Outcome::TimedOut => rows.push(note("timed out", Value::Null)),
            Outcome::Failed(why) => {
                eprintln!("{workload}: {why}");
                rows.push(note("fails", json!(why)));
            }
        }
    }
    Ok(Report { columns: COLUMNS.to_vec(), rows })
}
