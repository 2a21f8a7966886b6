//! `cargo xtask examples`: runs the examples and their twins in PyTorch, and writes docs/gallery.md with the figures and pictures.
//!
//! Figures are kept in docs/gallery.json, one example after another, so that the page can be made anew without running
//! everything again.

mod page;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::run;
use table::{EXAMPLES, Example};

/// Options of `cargo xtask examples`.
#[derive(clap::Args)]
pub struct Options {
    /// Which examples; all if not given.
    names: Vec<String>,
    /// Runs on the CPU, and of the twin, with seeds from 1 on.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// A Python that has torch; the twins are left out without one.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Leave out the short runs on software Vulkan.
    #[arg(long)]
    no_lavapipe: bool,
    /// Only a few steps of each on the CPU, to see that they run; no figure is kept.
    #[arg(long)]
    quick: bool,
    /// Only write the page from the figures that are there.
    #[arg(long)]
    page: bool,
}

/// Runs what was asked for, keeps its figures, and writes the page.
pub fn run(options: &Options) -> Result<()> {
    if let Some(name) = options.names.iter().find(|name| EXAMPLES.iter().all(|e| e.name != **name)) {
        let names: Vec<&str> = EXAMPLES.iter().map(|e| e.name).collect();
        return Err(Error::Missing(format!("there is no example {name}; there are {}", names.join(", "))));
    }
    let chosen =
        EXAMPLES.iter().filter(|e| options.names.is_empty() || options.names.iter().any(|n| n == e.name));
    let kept = run::root().join("docs/gallery.json");
    if !options.page {
        run::run(run::cargo().args(["build", "--release", "-p", "versant", "--examples"]))?;
        for example in chosen {
            if options.quick {
                own(example, "cpu", 1, true)?;
                continue;
            }
            let figures = measure(options, example)?;
            keep(&kept, example, figures)?;
            pictures(example)?;
        }
    }
    if options.quick { Ok(()) } else { page::write(&read(&kept)?) }
}

/// One run's figures by name, and its seconds.
struct Outcome {
    figures: BTreeMap<String, f64>,
    seconds: f64,
}

/// A short run of the example on each device, and whole ones of it and of its twin.
fn measure(options: &Options, example: &Example) -> Result<Value> {
    let mut found = json!({});
    if !options.no_lavapipe {
        found["quick cpu"] = gathered(&[own(example, "cpu", 1, true)?]);
        found["quick lavapipe"] = gathered(&[own(example, "lavapipe", 1, true)?]);
    }
    // The whole runs come after the short ones, whose pictures they replace; those of seed 1 are shown.
    let ours = (1..=options.seeds).rev().map(|seed| own(example, "cpu", seed, false));
    found["cpu"] = gathered(&ours.collect::<Result<Vec<_>>>()?);
    if let Some(python) = &options.python {
        let data = run::target().join(format!("{}.safetensors", example.name));
        if example.dumps {
            run::run(program(example).arg("--dump").arg(&data).args(["--device", "cpu"]))?;
        }
        let runs =
            (1..=options.seeds).map(|seed| twin(python, example, &data, seed)).collect::<Result<Vec<_>>>()?;
        found["twin"] = gathered(&runs);
    }
    Ok(found)
}

fn program(example: &Example) -> Command {
    let mut command = Command::new(run::target().join("release/examples").join(example.name));
    command.current_dir(run::root());
    command
}

/// Runs the example itself.
fn own(example: &Example, device: &str, seed: u64, quick: bool) -> Result<Outcome> {
    let mut command = program(example);
    command.args(["--device", device, "--seed", &seed.to_string()]);
    if quick {
        command.arg("--quick");
    }
    outcome(&mut command)
}

/// Runs its twin.
fn twin(python: &Path, example: &Example, data: &Path, seed: u64) -> Result<Outcome> {
    let script = run::root().join("benches/reference").join(format!("{}.py", example.name));
    outcome(Command::new(python).arg(script).arg("--data").arg(data).args(["--seed", &seed.to_string()]))
}

/// Runs a program and reads its lines `result: NAME = VALUE after SECONDS s on WHERE`.
fn outcome(command: &mut Command) -> Result<Outcome> {
    let mut found = Outcome { figures: BTreeMap::new(), seconds: 0.0 };
    let worked = run::watch(command, |line| {
        if let Some((name, value, seconds)) = parse(line) {
            found.figures.insert(name, value);
            found.seconds = seconds;
        }
    })?;
    let why = match (worked, found.figures.is_empty()) {
        (false, _) => "it failed",
        (true, true) => "no line `result: NAME = VALUE after SECONDS s`",
        (true, false) => return Ok(found),
    };
    Err(Error::Output { command: run::shown(command), why: why.to_owned() })
}

fn parse(line: &str) -> Option<(String, f64, f64)> {
    let (name, rest) = line.strip_prefix("result: ")?.split_once(" = ")?;
    let (value, rest) = rest.split_once(" after ")?;
    let (seconds, _) = rest.split_once(" s on ")?;
    Some((name.to_owned(), value.parse().ok()?, seconds.parse().ok()?))
}

/// Figures by name, each with a value for every run.
fn gathered(runs: &[Outcome]) -> Value {
    let names = runs.first().map(|run| run.figures.keys()).into_iter().flatten();
    let mut all: BTreeMap<&str, Vec<f64>> = names
        .map(|name| (&**name, runs.iter().filter_map(|run| run.figures.get(name)).copied().collect()))
        .collect();
    all.insert("seconds", runs.iter().map(|run| run.seconds).collect());
    json!(all)
}

fn read(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(json!({}));
    }
    let text = fs::read_to_string(path).map_err(Error::at(path))?;
    let unread = |e: serde_json::Error| Error::Missing(format!("{}: {e}", path.display()));
    serde_json::from_str(&text).map_err(unread)
}

/// Writes an example's figures beside the others'; what was not measured this time stays.
fn keep(path: &Path, example: &Example, figures: Value) -> Result<()> {
    let mut all = read(path)?;
    for (part, values) in figures.as_object().into_iter().flatten() {
        all[example.name][part] = values.clone();
    }
    let text = serde_json::to_string_pretty(&all).expect("plain values become text");
    fs::write(path, text + "\n").map_err(Error::at(path))
}

/// Copies the example's pictures to where the page finds them.
fn pictures(example: &Example) -> Result<()> {
    let place = run::root().join("docs/images/gallery");
    fs::create_dir_all(&place).map_err(Error::at(&place))?;
    for picture in example.pictures {
        let from = run::root().join("out").join(example.name).join(picture);
        fs::copy(&from, place.join(format!("{}-{picture}", example.name))).map_err(Error::at(&from))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = "result: test accuracy = 0.9100 after 12.5 s on cpu";
        assert_eq!(parse(line), Some(("test accuracy".to_owned(), 0.91, 12.5)));
        assert_eq!(parse("result: x = y after 1 s on z"), None);
        assert_eq!(parse("loss 0.1"), None);
    }

    #[test]
    fn every_example_has_its_files_and_every_twin_its_row() {
        let root = run::root();
        for example in EXAMPLES {
            assert!(
                root.join(format!("crates/versant/examples/{}.rs", example.name)).is_file(),
                "{}",
                example.name
            );
        }
        let twins = fs::read_dir(root.join("benches/reference")).unwrap();
        let names = twins.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut twins: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".py")?.to_owned())).collect();
        twins.retain(|name| name != "common");
        twins.sort();
        let mut rows: Vec<&str> = EXAMPLES.iter().map(|example| example.name).collect();
        rows.sort();
        assert_eq!(twins, rows);
    }
}
