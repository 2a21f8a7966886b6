//! One measured run: a process that prints a line of JSON, and may hang, crash or print nothing of use.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::run;

/// What came of a run.
pub enum Outcome {
    /// The objects that it printed, each on a line, at least one.
    Done(Vec<Value>),
    /// It did not end in time and was ended.
    TimedOut,
    /// It failed, or printed no JSON; its last words.
    Failed(String),
}

/// Runs to the end, but at most for `seconds`.
///
/// # Errors
/// The program cannot be started or waited for.
pub fn measure(command: &mut Command, seconds: f64) -> Result<Outcome> {
    let text = run::shown(command);
    eprintln!("$ {text}");
    let failed = |source| Error::Start { command: text.clone(), source };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // Both pipes are emptied while it runs: a program that fills one would wait for ever.
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let Some(status) = wait(&mut child, seconds).map_err(failed)? else {
        return Ok(Outcome::TimedOut);
    };
    let out = stdout.join().unwrap_or_default();
    let err = stderr.join().unwrap_or_default();
    Ok(outcome(&out, &err, status))
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks ends the text; the exit status tells why.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for the end; `None` if it had to be ended.
fn wait(child: &mut Child, seconds: f64) -> std::io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed().as_secs_f64() > seconds {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(Duration::from_millis(50));
    }
}

fn outcome(out: &str, err: &str, status: ExitStatus) -> Outcome {
    let object = |line: &str| serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
    let objects: Vec<Value> = out.lines().filter_map(object).collect();
    if status.success() && !objects.is_empty() {
        return Outcome::Done(objects);
    }
    let words: Vec<&str> = out.lines().chain(err.lines()).filter(|l| !l.trim().is_empty()).collect();
    let tail = words[words.len().saturating_sub(3)..].join(" | ");
    let short: String = tail.chars().take(300).collect();
    Outcome::Failed(format!("{status}: {short}"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str, seconds: f64) -> Outcome {
        measure(Command::new("sh").args(["-c", script]), seconds).expect("a system has a shell")
    }

    #[test]
    fn objects_are_found_among_other_lines() {
        let out = shell(r#"echo '{"a": 1}'; echo done; echo 3; echo '{"a": 2}'"#, 60.0);
        assert!(matches!(out, Outcome::Done(v) if v.len() == 2 && v[1]["a"] == 2));
    }

    #[test]
    fn crashes_and_hangs_are_told() {
        let out = shell("echo one; echo two >&2; exit 3", 60.0);
        assert!(matches!(out, Outcome::Failed(why) if why.contains("one | two") && why.contains('3')));
        let begun = Instant::now();
        assert!(matches!(shell("exec sleep 60", 0.1), Outcome::TimedOut));
        assert!(begun.elapsed().as_secs() < 30);
    }

    #[test]
    fn much_output_does_not_block() {
        let out = shell("head -c 300000 /dev/zero >&2; echo '{}'", 60.0);
        assert!(matches!(out, Outcome::Done(_)));
    }
}
