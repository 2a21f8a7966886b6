//! `cargo xtask tidy`: the rules of the tree that no compiler checks.

mod budget;
mod packages;
mod rules;
mod scan;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::run;

/// A fault, with the place where it is mended.
#[derive(Debug, PartialEq)]
pub struct Finding {
    /// The file, from the root of the workspace.
    pub path: String,
    /// The line from 1, or 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    /// A fault of a line (0: of the whole file).
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_string(), line, what: what.into() }
    }
}

/// A text file of the tree.
pub struct File {
    /// From the root of the workspace, with forward slashes.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl File {
    /// Whether its name ends in `.end`.
    pub fn is(&self, end: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|e| e == end)
    }
}

/// Runs every rule, prints each fault, and fails if there is one.
pub fn run() -> Result<()> {
    let files = files()?;
    let mut findings = rules::check(&files);
    findings.extend(budget::check(&files));
    findings.extend(packages::check(&packages::read()?));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        match finding.line {
            0 => println!("{}: {}", finding.path, finding.what),
            line => println!("{}:{line}: {}", finding.path, finding.what),
        }
    }
    if findings.is_empty() {
        println!("tidy: {} files, no fault", files.len());
        Ok(())
    } else {
        Err(Error::Found(format!("tidy: {} faults", findings.len())))
    }
}

/// The text files that git tracks, or would if asked (new files that are not ignored).
fn files() -> Result<Vec<File>> {
    let root = run::root();
    let listing = run::output(Command::new("git").current_dir(&root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut files = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        let place = root.join(path);
        if !place.is_file() {
            continue; // Deleted, and the deletion is not committed yet.
        }
        let bytes = fs::read(&place).map_err(Error::at(&place))?;
        // What is not UTF-8 is data.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path: path.to_string(), text });
        }
    }
    Ok(files)
}
