//! Starting other programs: always echoed, always checked.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// The root of the workspace, which is the folder above this package's manifest.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The folder that cargo builds into.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this command, at the root of the workspace.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The command line as a person would type it, without the folder of the program.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_stem().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end with the developer's own terminal; a non-zero exit is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let text = shown(command);
    eprintln!("$ {text}");
    let status = command.status().map_err(|source| start_error(&text, source))?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: text, status }) }
}

/// Runs to the end and returns what was printed to standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let text = shown(command);
    let out = command.stderr(Stdio::inherit()).output().map_err(|source| start_error(&text, source))?;
    if !out.status.success() {
        return Err(Error::Failed { command: text, status: out.status });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs to the end, prints each line as it comes and shows it to `see`; returns whether it succeeded.
pub fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let text = shown(command);
    eprintln!("$ {text}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|source| start_error(&text, source))?;
    let stdout = child.stdout.take().expect("standard output is piped above");
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    // Lines are read as bytes because a test may print anything.
    while lines.read_until(b'\n', &mut line).map_err(|source| start_error(&text, source))? > 0 {
        let shown = String::from_utf8_lossy(&line);
        print!("{shown}");
        see(shown.trim_end());
        line.clear();
    }
    let status = child.wait().map_err(|source| start_error(&text, source))?;
    Ok(status.success())
}

/// Whether a program runs and succeeds; quiet, for probing what a machine has.
pub fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn start_error(text: &str, source: std::io::Error) -> Error {
    Error::Start { command: text.to_string(), source }
}
