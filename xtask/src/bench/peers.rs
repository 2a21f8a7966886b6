//! `cargo xtask bench peers`: the same work by other engines and by this library, interleaved.
//!
//! Rounds are the outermost loop, then workloads, then engines: a slow spell of a shared machine falls on all of
//! them alike. A cell is the median over rounds of each round's median; one that never came says why.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::report::{Column, Kind, Report, column};
use super::spawn::{Outcome, measure};
use super::{Common, program};
use crate::error::{Error, Result};
use crate::run;

/// Options of `cargo xtask bench peers`.
#[derive(clap::Args)]
pub struct Options {
    /// Engines whose names contain one of these; those on Vulkan and the library itself if not given. `all` is
    /// all of them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Workloads; all if not given.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Times that everything is run.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure the first step alone, with empty caches: the driver's is off, and burn's tuning begins anew.
    #[arg(long)]
    cold: bool,
    /// Where the engines are built, or were: a folder for each of them.
    #[arg(long, value_name = "FOLDER")]
    built: Option<PathBuf>,
    /// Build them again, even if they are there.
    #[arg(long)]
    rebuild: bool,
    /// A Python that has torch; without it, PyTorch's rows say that it is missing.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// The workloads and kernels, in the order of the table.
const WORKLOADS: [&str; 12] =
    ["W1", "W2", "W3", "W4", "W5", "K1-256", "K1-512", "K1-1024", "K2", "K3", "K4", "K5"];

/// An engine on a device.
struct Peer {
    name: &'static str,
    how: How,
    /// Whether it is measured if nothing is said: the peers on Vulkan, against which the library is judged.
    usual: bool,
}

/// How an engine is started.
enum How {
    /// This library, on a device.
    Own(&'static str),
    /// A package of benches/peers: its name, its folder of built files, cargo's further arguments, the backend,
    /// and variables.
    Rust {
        package: &'static str,
        target: &'static str,
        features: &'static [&'static str],
        backend: &'static str,
        variables: &'static [(&'static str, &'static str)],
    },
    /// benches/peers/torch, in a mode.
    Torch(&'static str),
}

/// burn's default SPIR-V compiler crashes on lavapipe, so it is built without.
const BURN: [&str; 3] = ["--no-default-features", "--features", "avx512"];

const fn burn(
    name: &'static str,
    backend: &'static str,
    variables: &'static [(&'static str, &'static str)],
) -> Peer {
    let how = How::Rust { package: "burn", target: "tgt-burn-wgsl", features: &BURN, backend, variables };
    Peer { name, how, usual: matches!(backend.as_bytes(), b"wgpu") }
}

const fn rust(
    name: &'static str,
    package: &'static str,
    target: &'static str,
    backend: &'static str,
    usual: bool,
) -> Peer {
    let how = How::Rust { package, target, features: &[], backend, variables: &[] };
    Peer { name, how, usual }
}

static PEERS: [Peer; 10] = [
    Peer { name: "versant/lavapipe", how: How::Own("lavapipe"), usual: true },
    burn("burn/wgpu-wgsl", "wgpu", &[]),
    burn("burn/wgpu-minimal", "wgpu", &[("CUBECL_AUTOTUNE_LEVEL", "minimal")]),
    rust("meganeura/vulkan", "meganeura", "tgt-mega", "vulkan", true),
    Peer { name: "versant/cpu", how: How::Own("cpu"), usual: false },
    burn("burn/flex", "flex", &[]),
    rust("candle/cpu", "candle", "tgt-candle", "cpu", false),
    Peer { name: "torch/eager", how: How::Torch("eager"), usual: false },
    Peer { name: "torch/tuned", how: How::Torch("tuned"), usual: false },
    Peer { name: "torch/compile", how: How::Torch("compile"), usual: false },
];

/// An engine ready to be started.
struct Ready {
    peer: &'static Peer,
    /// Programs for steps and for kernels, which may be one.
    programs: [PathBuf; 2],
}

/// Builds what is missing, runs everything, and joins the rounds.
pub fn run(options: &Options, common: &Common) -> Result<Report> {
    let known = |w: &&String| !WORKLOADS.contains(&w.as_str());
    if let Some(unknown) = options.workloads.iter().find(known) {
        return Err(Error::Missing(format!(
            "no workload is called {unknown}; there are {}",
            WORKLOADS.join(" ")
        )));
    }
    let mut ready = Vec::new();
    for peer in PEERS.iter().filter(|p| chosen(p, options)) {
        ready.push(Ready { peer, programs: prepare(peer, options, common)? });
    }
    if ready.is_empty() {
        return Err(Error::Missing("no engine has such a name".to_owned()));
    }
    let mut found = Vec::new();
    for round in 0..options.rounds.max(1) {
        for workload in WORKLOADS {
            if !options.workloads.is_empty() && !options.workloads.iter().any(|w| w == workload) {
                continue;
            }
            for engine in &ready {
                let row = one(engine, workload, round, options, common)?;
                eprintln!("{row}");
                found.push(row);
            }
        }
    }
    Ok(join(&ready, &found, options.cold))
}

fn chosen(peer: &Peer, options: &Options) -> bool {
    if options.only.is_empty() {
        return peer.usual;
    }
    options.only.iter().any(|o| o == "all" || peer.name.contains(o.as_str()))
}

/// The programs of an engine, built if they are not there.
fn prepare(peer: &Peer, options: &Options, common: &Common) -> Result<[PathBuf; 2]> {
    let folder = |package: &str| run::root().join("benches/peers").join(package);
    match &peer.how {
        How::Own(_) => Ok([program("steps", &common.profile)?, program("kernels", &common.profile)?]),
        How::Torch(_) => Ok([folder("torch/bench.py"), folder("torch/bench.py")]),
        How::Rust { package, target, features, .. } => {
            let built = options.built.clone().unwrap_or_else(|| run::target().join("peers")).join(target);
            let name = format!("peer-{package}{}", std::env::consts::EXE_SUFFIX);
            let program = built.join("release").join(name);
            if options.rebuild || !program.exists() {
                let mut cargo = run::cargo();
                cargo.args(["build", "--release", "--locked"]).args(*features);
                run::run(cargo.current_dir(folder(package)).env("CARGO_TARGET_DIR", &built))?;
            }
            Ok([program.clone(), program])
        }
    }
}

/// The command that measures one workload.
fn start(engine: &Ready, workload: &str, options: &Options, common: &Common) -> Command {
    let program: &Path = &engine.programs[usize::from(!workload.starts_with('W'))];
    let mut command = match &engine.peer.how {
        How::Own(device) => {
            let mut command = Command::new(program);
            command.args(["--device", device, "--budget", &common.budget.to_string()]);
            if !workload.starts_with('W') {
                command.arg("--alone");
            }
            if options.cold {
                command.arg("--cold");
            }
            command
        }
        How::Rust { backend, variables, .. } => {
            let mut command = Command::new(program);
            command.arg(backend).envs(variables.iter().copied());
            command
        }
        How::Torch(mode) => {
            let mut command = Command::new(&options.python);
            command.arg("-B").arg(program).arg(mode);
            command
        }
    };
    command.arg(workload).env("PEER_BUDGET_S", common.budget.to_string());
    command
}

/// One run as a row; a run that fails is a row without a time.
fn one(engine: &Ready, workload: &str, round: usize, options: &Options, common: &Common) -> Result<Value> {
    let mut command = start(engine, workload, options, common);
    // burn keeps what it tuned in a database of this name: one for a whole run of this command, so that the first
    // round tunes and later ones do not; one for each start where that is what is measured.
    let mut database = format!("versant-bench-{}", std::process::id());
    if options.cold {
        database += &format!("-{round}-{}-{workload}", engine.peer.name.replace('/', "-"));
        command.env("MESA_SHADER_CACHE_DISABLE", "1");
        // A peer has no option to stop after its first step: the least that it can be asked for.
        for (name, least) in
            [("PEER_BUDGET_S", "0"), ("PEER_MIN_WARM", "1"), ("PEER_MIN_N", "1"), ("PEER_MAX_N", "1")]
        {
            command.env(name, least);
        }
    }
    command.env("CUBECL_ENVIRONMENT", database);
    let mut row = match measure(&mut command, common.timeout)? {
        Outcome::Done(mut rows) => rows.pop().unwrap_or_default(),
        Outcome::TimedOut => json!({"failure": "timed out"}),
        Outcome::Failed(why) => json!({"failure": "fails", "note": why}),
    };
    row["engine"] = json!(engine.peer.name);
    row["workload"] = json!(workload);
    row["round"] = json!(round);
    Ok(row)
}

/// A row for each engine and workload: medians over rounds.
fn join(ready: &[Ready], found: &[Value], cold: bool) -> Report {
    let measure = if cold { "cold_ms" } else { "ms" };
    let mut rows = Vec::new();
    for workload in WORKLOADS {
        let cells: Vec<&Value> = found.iter().filter(|r| r["workload"] == workload).collect();
        for engine in ready {
            let own: Vec<&Value> =
                cells.iter().filter(|r| r["engine"] == engine.peer.name).copied().collect();
            if let Some(row) = summary(&own, measure) {
                rows.push(row);
            }
        }
        compare(workload, measure, &mut rows);
    }
    let title = if cold { "cold ms" } else { "ms" };
    let columns: Vec<Column> = vec![
        column("workload", "workload", Kind::Key),
        column("engine", "engine", Kind::Key),
        column(measure, title, Kind::Measure),
        column("times", "versant is faster by", Kind::Measure),
        column("least", "least", Kind::Measure),
        column("most", "most", Kind::Measure),
        column("rounds", "rounds", Kind::Note),
        column("rss_mb", "RSS MB", Kind::Measure),
        column("load", "load", Kind::Note),
    ];
    Report { columns, rows }
}

/// One engine's rounds of one workload as a row; none if it was not run.
fn summary(rounds: &[&Value], measure: &str) -> Option<Value> {
    let last = rounds.last()?;
    let mut times: Vec<f64> = rounds.iter().filter_map(|r| r[measure].as_f64()).collect();
    times.sort_unstable_by(f64::total_cmp);
    let mut row = json!({
        "workload": last["workload"], "engine": last["engine"],
        "rounds": format!("{}/{}", times.len(), rounds.len()),
        "note": last["note"], "load": last["load"],
    });
    match times[..] {
        [] => row[measure] = last["failure"].clone(),
        [least, ..] => {
            row[measure] = json!(median(&times));
            row["least"] = json!(least);
            row["most"] = json!(times[times.len() - 1]);
            let rss = rounds.iter().filter_map(|r| r["rss_mb"].as_f64());
            row["rss_mb"] = json!(rss.fold(0.0, f64::max));
        }
    }
    Some(row)
}

/// How many times longer than this library on Vulkan the others take.
fn compare(workload: &str, measure: &str, rows: &mut [Value]) {
    let own = rows.iter().find(|r| r["workload"] == workload && r["engine"] == "versant/lavapipe");
    let Some(own) = own.and_then(|r| r[measure].as_f64()).filter(|&ms| ms > 0.0) else { return };
    for row in rows.iter_mut().filter(|r| r["workload"] == workload) {
        if let Some(ms) = row[measure].as_f64() {
            row["times"] = json!((100.0 * ms / own).round() / 100.0);
        }
    }
}

/// The middle of ascending numbers, of which there is at least one.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    static TWO: [Peer; 2] = [
        Peer { name: "versant/lavapipe", how: How::Own("lavapipe"), usual: true },
        burn("burn/wgpu-wgsl", "wgpu", &[]),
    ];

    #[test]
    fn rounds_become_medians_and_ratios() {
        let ready: Vec<Ready> = TWO.iter().map(|peer| Ready { peer, programs: Default::default() }).collect();
        let row =
            |engine: &str, workload: &str, ms: f64| json!({"engine": engine, "workload": workload, "ms": ms});
        let found = [
            row("versant/lavapipe", "W1", 2.0),
            row("burn/wgpu-wgsl", "W1", 9.0),
            row("versant/lavapipe", "W1", 4.0),
            row("burn/wgpu-wgsl", "W1", 7.0),
            row("versant/lavapipe", "W2", 1.0),
            json!({"engine": "burn/wgpu-wgsl", "workload": "W2", "failure": "timed out"}),
        ];
        let rows = join(&ready, &found, false).rows;
        assert_eq!(rows.len(), 4);
        assert_eq!(
            (&rows[0]["ms"], &rows[1]["ms"], &rows[1]["times"]),
            (&json!(3.0), &json!(8.0), &json!(2.67))
        );
        assert_eq!((&rows[3]["ms"], &rows[3]["rounds"]), (&json!("timed out"), &json!("0/1")));
    }

    #[test]
    fn the_usual_engines_are_those_on_vulkan() {
        let usual: Vec<&str> = PEERS.iter().filter(|p| p.usual).map(|p| p.name).collect();
        assert_eq!(usual, ["versant/lavapipe", "burn/wgpu-wgsl", "burn/wgpu-minimal", "meganeura/vulkan"]);
    }
}
