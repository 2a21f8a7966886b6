//! `cargo xtask bench kernels`: single kernels on one device, in one process.

use super::report::{Column, Kind, Report, column};
use super::spawn::{Outcome, measure};
use super::{Common, command, program};
use crate::error::{Error, Result};
use crate::run;

/// Options of `cargo xtask bench kernels`.
#[derive(clap::Args)]
pub struct Options {
    /// Which of them, such as K1-512,softmax; all if not given. The device's peaks are always measured.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Through criterion, which keeps its results in target/criterion and tells what changed.
    #[arg(long)]
    criterion: bool,
}

const COLUMNS: [Column; 9] = [
    column("workload", "kernel", Kind::Key),
    column("what", "what", Kind::Note),
    column("backend", "device", Kind::Key),
    column("launches", "launches", Kind::Measure),
    column("ms", "ms", Kind::Measure),
    column("gflops", "GFLOP/s", Kind::Measure),
    column("gbs", "GB/s", Kind::Measure),
    column("peak_percent", "% of peak", Kind::Measure),
    column("bound", "by", Kind::Note),
];

/// Measures the chosen kernels.
pub fn run(options: &Options, common: &Common) -> Result<Report> {
    let columns = COLUMNS.to_vec();
    if options.criterion {
        let mut cargo = run::cargo();
        cargo.args(["bench", "-p", "versant-benches", "--bench", "kernels", "--"]);
        if !options.only.is_empty() {
            cargo.arg(options.only.join("|"));
        }
        run::run(cargo.env("VERSANT_DEVICE", &common.device))?;
        return Ok(Report { columns, rows: Vec::new() });
    }
    let program = program("kernels", &common.profile)?;
    let mut command = command(&program, common);
    command.args(&options.only);
    // All kernels in one process, so that peaks and kernels meet the same machine.
    match measure(&mut command, 20.0 * common.timeout)? {
        Outcome::Done(rows) => Ok(Report { columns, rows }),
        Outcome::TimedOut => Err(Error::Found("the kernels did not end in time".to_owned())),
        Outcome::Failed(why) => Err(Error::Found(why)),
    }
}
