//! Test programs side by side: `cargo test` runs one after another, and one whose tests share a device is busy with
//! one core most of the time, since an adapter's queue works in order.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::run;

/// A program with tests.
#[derive(Debug, PartialEq)]
pub struct Program {
    /// Its target and package, as a person would name them.
    name: String,
    /// The executable.
    path: PathBuf,
    /// Its package's folder, where tests expect to run.
    folder: PathBuf,
}

/// How a program ended.
pub struct Ended {
    /// What it printed, to both streams.
    pub text: String,
    /// Whether its exit status was zero.
    pub succeeded: bool,
}

/// Builds what `select` selects and lists its test programs.
pub fn build(select: &[&str]) -> Result<Vec<Program>> {
    let mut command = run::cargo();
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(select);
    eprintln!("$ {}", run::shown(&command));
    Ok(run::output(&mut command)?.lines().filter_map(listed).collect())
}

/// The test program that a line of cargo's messages tells of.
fn listed(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let folder = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let target = message["target"]["name"].as_str()?;
    let package = folder.file_name()?.to_string_lossy();
    Some(Program {
        name: format!("{target} of {package}"),
        path: PathBuf::from(message["executable"].as_str()?),
        folder,
    })
}

/// Runs all programs, as many at a time as there are cores, and shows each one's output when it ends.
pub fn run_all(
    programs: &[Program],
    prepare: impl Fn(&mut Command) + Sync,
    mut see: impl FnMut(&Ended) + Send,
) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(programs.iter());
    let next = || queue.lock().ok()?.next();
    let shown: Mutex<&mut (dyn FnMut(&Ended) + Send)> = Mutex::new(&mut see);
    let work = || -> Result<()> {
        while let Some(program) = next() {
            let start = Instant::now();
            let ended = one(program, &prepare)?;
            let mut see = shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            println!("\n     Ran {} ({})\n{}", program.name, seconds(start.elapsed()), ended.text.trim());
            see(&ended);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(lost())))
    })
}

fn one(program: &Program, prepare: impl Fn(&mut Command)) -> Result<Ended> {
    let mut command = Command::new(&program.path);
    command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
    prepare(&mut command);
    let output = command
        .output()
        .map_err(|source| Error::Start { command: program.path.display().to_string(), source })?;
    let Output { status, stdout, stderr } = output;
    let mut text = String::from_utf8_lossy(&stdout).into_owned();
    text += &String::from_utf8_lossy(&stderr);
    if !status.success() {
        text += &format!("\n{}: {status}", program.name);
    }
    Ok(Ended { text, succeeded: status.success() })
}

fn lost() -> Error {
    Error::Found("a thread that ran tests ended early".to_string())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_other_messages() {
        let artifact = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml",
                "target":{{"name":"shapes"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let want = Program {
            name: "shapes of a".to_string(),
            path: PathBuf::from("/t/shapes-1"),
            folder: PathBuf::from("/w/crates/a"),
        };
        assert_eq!(listed(&artifact(true, r#""/t/shapes-1""#)), Some(want));
        assert_eq!(listed(&artifact(false, r#""/t/shapes-1""#)), None);
        assert_eq!(listed(&artifact(true, "null")), None);
        assert_eq!(listed(r#"{"reason":"build-finished"}"#), None);
        assert_eq!(listed("no JSON"), None);
    }

    #[cfg(unix)]
    #[test]
    fn each_program_runs_once_and_failures_are_seen() {
        let sh = PathBuf::from("/bin/sh");
        let folder = std::env::temp_dir();
        let programs: Vec<_> = (0..5)
            .map(|i| Program { name: i.to_string(), path: sh.clone(), folder: folder.clone() })
            .collect();
        let script = "echo out; echo err >&2; exit 3";
        let mut ended = Vec::new();
        let prepare = |command: &mut Command| {
            command.args(["-c", script]);
        };
        run_all(&programs, prepare, |e| ended.push((e.succeeded, e.text.contains("out\nerr"))))
            .expect("the shell starts");
        assert_eq!(ended, [(false, true); 5]);
    }
}
