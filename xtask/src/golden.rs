//! `cargo xtask golden`: recomputes the golden values of tests/golden with PyTorch.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Error, Result};
use crate::run;

/// What tests/golden/make.py imports; the version is the one that made the committed values.
const REQUIREMENTS: [&str; 3] = ["torch==2.15.0", "numpy", "safetensors"];

/// Options of `cargo xtask golden`.
#[derive(clap::Args)]
pub struct Options {
    /// A Python that has torch, numpy and safetensors. Without it a virtual environment is made in
    /// target/golden-venv, which needs Python 3.9 or later with venv, and pip's access to its packages.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Runs the scripts, which rewrite the files beside them; `git diff` then tells what changed.
pub fn run(options: &Options) -> Result<()> {
    let python = match &options.python {
        Some(python) => python.clone(),
        None => environment()?,
    };
    for script in ["make.py", "make_training.py"] {
        let script = run::root().join("tests/golden").join(script);
        run::run(Command::new(&python).arg(&script))?;
    }
    println!("`git diff --stat tests/golden` tells what changed; nothing should, with the same torch");
    Ok(())
}

fn environment() -> Result<PathBuf> {
    let folder = run::target().join("golden-venv");
    let python = if cfg!(windows) { folder.join("Scripts/python.exe") } else { folder.join("bin/python") };
    if !run::works(Command::new(&python).args(["-c", "import torch, numpy, safetensors"])) {
        eprintln!("making a virtual environment with {} in {}", REQUIREMENTS.join(", "), folder.display());
        make(&folder, &python).map_err(|error| {
            Error::Missing(format!(
                "{error}; golden values need a Python with {}: name one with --python",
                REQUIREMENTS.join(", ")
            ))
        })?;
    }
    Ok(python)
}

fn make(folder: &PathBuf, python: &PathBuf) -> Result<()> {
    run::run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    run::run(Command::new(python).args(["-m", "pip", "install", "--quiet"]).args(REQUIREMENTS))
}
