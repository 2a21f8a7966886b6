//! Development commands: `cargo xtask --help` lists them.
//!
//! This program deliberately knows none of the workspace's crates: it has to build in seconds on a fresh
//! machine, so whatever needs wgpu or naga runs as an example or a test of the crate that has them.

mod apt;
mod bench;
mod check;
mod data;
mod error;
mod examples;
mod golden;
mod kill;
mod programs;
mod run;
mod test;
mod tidy;
mod vulkan;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::Result;

/// Versant's development commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test, on the CPU and on software Vulkan, which is installed if missing.
    Test(test::Options),
    /// Formatting, clippy, rustdoc and tidy, each with warnings as errors.
    Check,
    /// The rules of the tree that no compiler checks: sizes, dependency arrows, leftovers.
    Tidy,
    /// List the devices of this machine with their limits and features.
    Devices,
    /// Validate every shader and every generated kernel of the corpus.
    Shaders,
    /// Fetch a data set that is too large to commit into data/fetched.
    Data(data::Options),
    /// Run the examples and their twins in PyTorch, and write docs/gallery.md.
    Examples(examples::Options),
    /// Recompute the golden values of tests/golden with PyTorch.
    Golden(golden::Options),
    /// Kill the example `fashion` at random moments and resume it, checking its checkpoints.
    Kill(kill::Options),
    /// Measure the library, and other engines beside it.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    match task {
        Task::Test(options) => test::run(&options),
        Task::Check => check::run(),
        Task::Tidy => tidy::run(),
        Task::Devices => check::devices(),
        Task::Shaders => check::shaders(),
        Task::Data(options) => data::run(&options),
        Task::Examples(options) => examples::run(&options),
        Task::Golden(options) => golden::run(&options),
        Task::Kill(options) => kill::run(&options),
        Task::Bench(options) => bench::run(&options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
