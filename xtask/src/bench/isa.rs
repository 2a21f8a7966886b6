//! `cargo xtask bench isa`: what Mesa's compiler makes of each tuned kernel for AMD cards that are not there.
//!
//! The program `variants` writes the kernels, radvstat compiles them. Which of its numbers to trust is said in its
//! own README: registers, spills and instructions are the compiler's; what a hot loop is, is guessed.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::report::{Column, Kind, Report, column};
use super::{Common, program};
use crate::error::{Error, Result};
use crate::run;

/// Options of `cargo xtask bench isa`.
#[derive(clap::Args)]
pub struct Options {
    /// Chips, by Mesa's names.
    #[arg(long, value_delimiter = ',', default_value = "polaris10,navi21,navi31,gfx1151")]
    gpu: Vec<String>,
    /// The program radvstat.
    #[arg(long, default_value = "radvstat")]
    radvstat: PathBuf,
    /// Only kernels whose problem or variant contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// With wgpu's run-time checks, where the library does without them.
    #[arg(long)]
    checked: bool,
    /// Kernels for software adapters, too.
    #[arg(long)]
    all: bool,
}

const COLUMNS: [Column; 15] = [
    column("problem", "kernel", Kind::Key),
    column("variant", "variant", Kind::Key),
    column("gpu", "chip", Kind::Key),
    column("wave", "wave", Kind::Note),
    column("vgprs", "VGPRs", Kind::Measure),
    column("spills", "spills", Kind::Measure),
    column("lds", "LDS B", Kind::Measure),
    column("waves", "waves", Kind::Measure),
    column("max_waves", "of", Kind::Note),
    column("hot_fma", "FMA", Kind::Measure),
    column("fma_percent", "FMA %", Kind::Measure),
    column("lds_per_fma", "LDS B/FMA", Kind::Measure),
    column("wmma", "WMMA", Kind::Measure),
    column("wide", "16-byte", Kind::Measure),
    column("narrow", "narrower", Kind::Measure),
];

/// radvstat's classes of vector operations that do a kernel's multiply-adds, and the others: a dual instruction is
/// two operations, and a matrix instruction one.
const MULTIPLY: [&str; 4] = ["Fma32", "Fma16", "Dot", "Matrix"];
const OTHER_VECTOR: [&str; 7] =
    ["Float", "Convert", "Transcendental", "Integer", "IntegerMul", "Compare", "Move"];

/// Emits the kernels, compiles them, and collects what is said of them.
pub fn run(options: &Options, common: &Common) -> Result<Report> {
    if !run::works(Command::new(&options.radvstat).arg("--list-gpus")) {
        let name = options.radvstat.display();
        return Err(Error::Missing(format!("{name} does not run; name the program with --radvstat")));
    }
    let folder = run::target().join("isa");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(Error::at(&folder))?;
    }
    let mut emit = Command::new(program("variants", &common.profile)?);
    emit.arg(&folder);
    if options.all {
        emit.arg("--all");
    }
    let listing = run::output(&mut emit)?;
    let mut rows = Vec::new();
    for kernel in listing.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |field: &str| kernel[field].as_str().unwrap_or_default().to_owned();
        if !format!("{} {}", text("problem"), text("variant")).contains(&options.only) {
            continue;
        }
        rows.extend(compile(options, &kernel, &text("file"))?);
    }
    Ok(Report { columns: COLUMNS.to_vec(), rows })
}

/// The rows of one kernel, one a chip; a chip for which radvstat refuses it has a row that says so.
fn compile(options: &Options, kernel: &Value, file: &str) -> Result<Vec<Value>> {
    let report = |gpus: &str| {
        let mut radvstat = Command::new(&options.radvstat);
        radvstat.args(["--gpu", gpus, "--emit", "json"]);
        if !options.checked {
            radvstat.arg("--trusted");
        }
        let text = run::output(radvstat.arg(file)).ok()?;
        serde_json::from_str::<Vec<Value>>(&text).ok()
    };
    let named = |mut row: Value| {
        for field in ["family", "problem", "variant"] {
            row[field] = kernel[field].clone();
        }
        row
    };
    if let Some(chips) = report(&options.gpu.join(",")) {
        return Ok(chips.iter().map(|chip| named(row(chip))).collect());
    }
    // One chip that cannot run a kernel (matrix instructions on an old card) does not speak for the others.
    let alone = options.gpu.iter().map(|gpu| {
        let chip = report(gpu).and_then(|chips| chips.first().map(row));
        named(chip.unwrap_or_else(|| json!({"gpu": gpu, "wave": "fails"})))
    });
    Ok(alone.collect())
}

/// A chip's report as a row.
fn row(chip: &Value) -> Value {
    let statistic = |name: &str| {
        let all = chip["statistics"].as_array();
        let found = all.into_iter().flatten().find(|pair| pair[0] == name);
        found.map_or(0.0, |pair| pair[1].as_f64().unwrap_or(0.0)) as u64
    };
    let mut row = json!({
        "gpu": chip["gpu"], "wave": chip["wave"],
        "vgprs": statistic("VGPRs"), "spills": statistic("Spilled VGPRs") + statistic("Spilled SGPRs"),
        "lds": statistic("LDS size"), "code": statistic("Code size"),
        "waves": whole(&chip["occupancy"]["waves"]), "max_waves": chip["occupancy"]["max_waves"],
    });
    if let Some(hot) = hot(chip) {
        row["hot_fma"] = json!(hot.fma);
        let share = hot.multiply / (hot.multiply + hot.other).max(1.0);
        row["fma_percent"] = json!((1000.0 * share).round() / 10.0);
        row["lds_per_fma"] = json!((100.0 * hot.lds_bytes / hot.fma).round() / 100.0);
    }
    let names = chip["whole"]["name"].as_object();
    let count = |which: &dyn Fn(&str) -> bool| {
        let some = names.into_iter().flatten().filter(|(name, _)| which(name));
        some.filter_map(|(_, n)| n.as_u64()).sum::<u64>()
    };
    row["wmma"] = json!(count(&|name| name.starts_with("v_wmma")));
    row["wide"] = json!(count(&|name| is_memory(name) && is_wide(name)));
    row["narrow"] = json!(count(&|name| is_memory(name) && !is_wide(name)));
    row
}

/// What a loop does in one round, without the loops inside.
#[derive(Clone, Copy)]
struct Hot {
    fma: f64,
    multiply: f64,
    other: f64,
    lds_bytes: f64,
}

/// The loop with the most multiply-adds of its own. radvstat's guess is the innermost one: where the compiler has
/// written out the loop over a staged tile, that is what is left for the tile's last steps.
fn hot(chip: &Value) -> Option<Hot> {
    let loops = chip["loops"].as_array()?;
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let sum = |pair: &Value| {
        let class = |names: &[&str]| names.iter().map(|name| number(&pair[1]["class"][*name])).sum::<f64>();
        let (fma, lds_bytes) = (number(&pair[1]["fma"]), number(&pair[1]["lds_load_bytes"]));
        Hot { fma, multiply: class(&MULTIPLY), other: class(&OTHER_VECTOR), lds_bytes }
    };
    let inside = |inner: &Value, outer: &Value| {
        let at = |pair: &Value, field: &str| number(&pair[0][field]);
        at(inner, "depth") == at(outer, "depth") + 1.0
            && at(inner, "first") >= at(outer, "first")
            && at(inner, "last") <= at(outer, "last")
    };
    let own = loops.iter().map(|pair| {
        loops.iter().filter(|inner| inside(inner, pair)).map(sum).fold(sum(pair), |rest, part| Hot {
            fma: rest.fma - part.fma,
            multiply: rest.multiply - part.multiply,
            other: rest.other - part.other,
            lds_bytes: rest.lds_bytes - part.lds_bytes,
        })
    });
    own.filter(|l| l.fma > 0.0).max_by(|a, b| a.fma.total_cmp(&b.fma))
}

fn whole(n: &Value) -> Value {
    n.as_f64().map_or(Value::Null, |n| json!(n.floor() as u64))
}

/// Whether an instruction moves words between registers and buffers.
fn is_memory(name: &str) -> bool {
    ["buffer_load", "buffer_store", "global_load", "global_store", "flat_load", "flat_store"]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// Whether it moves sixteen bytes a lane.
fn is_wide(name: &str) -> bool {
    name.ends_with("x4") || name.ends_with("b128")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_a_row() {
        let chip = json!({
            "gpu": "navi31", "wave": 32, "statistics": [["VGPRs", 96.0], ["Spilled VGPRs", 2.0], ["LDS size", 8192.0]],
            "occupancy": {"waves": 8.5, "max_waves": 16},
            "hot": 1, "loops": [
                [{"depth": 1, "first": 0, "last": 9}, {
                    "fma": 80.0, "class": {"Fma32": 80, "Integer": 8, "Move": 2, "Wait": 99}, "lds_load_bytes": 160,
                }],
                [{"depth": 2, "first": 3, "last": 4}, {
                    "fma": 16.0, "class": {"Fma32": 16, "Integer": 4}, "lds_load_bytes": 64,
                }],
            ],
            "whole": {"name": {"buffer_load_b128": 4, "global_store_b32": 2, "v_wmma_f32": 1, "ds_load_b128": 9}},
        });
        let row = row(&chip);
        assert_eq!((&row["vgprs"], &row["spills"], &row["waves"]), (&json!(96), &json!(2), &json!(8)));
        assert_eq!((&row["fma_percent"], &row["lds_per_fma"]), (&json!(91.4), &json!(1.5)));
        assert_eq!((&row["wide"], &row["narrow"], &row["wmma"]), (&json!(4), &json!(2), &json!(1)));
    }
}
