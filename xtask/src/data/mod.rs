//! `cargo xtask data NAME`: fetches a data set that is too large to commit, and checks every file of it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::{apt, run};

/// Options of `cargo xtask data`.
#[derive(clap::Args)]
pub struct Options {
    /// The data set.
    name: Name,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Fashion-MNIST whole: 60,000 + 10,000 pictures of 28x28, ten classes, MIT licence, 31 MB.
    FashionMnist,
}

/// A data set inside a Debian package.
struct Dataset {
    /// The folder under data/fetched.
    name: &'static str,
    /// The Debian package.
    package: &'static str,
    /// Where the files lie inside the package.
    inside: &'static str,
    /// File names with their SHA-256.
    files: &'static [(&'static str, &'static str)],
}

/// SHA-256 computed from dataset-fashion-mnist 0.0~git20200523.55506a9-1.
const FASHION_MNIST: Dataset = Dataset {
    name: "fashion-mnist",
    package: "dataset-fashion-mnist",
    inside: "usr/share/datasets/fashion-mnist",
    files: &[
        ("train-images-idx3-ubyte.gz", "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
        ("train-labels-idx1-ubyte.gz", "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
        ("t10k-images-idx3-ubyte.gz", "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
        ("t10k-labels-idx1-ubyte.gz", "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
    ],
};

/// Fetches the data set unless it is already there and right.
pub fn run(options: &Options) -> Result<()> {
    let set = match options.name {
        Name::FashionMnist => &FASHION_MNIST,
    };
    let fetched = run::root().join("data/fetched");
    let place = fetched.join(set.name);
    if place.exists() {
        verify(set, &place)?;
        println!("{} is already there, every checksum right", place.display());
        return Ok(());
    }
    // The name holds the process id, so that two fetches at once do not share it; `*.tmp` is ignored by git.
    let work = fetched.join(format!("{}-{}.tmp", set.name, std::process::id()));
    fs::create_dir_all(&work).map_err(Error::at(&work))?;
    let outcome = fetch(set, &work, &place);
    fs::remove_dir_all(&work).map_err(Error::at(&work))?;
    outcome?;
    println!("{} is ready, every checksum right", place.display());
    Ok(())
}

/// Downloads and unpacks inside `work`; `place` appears at once and complete, or not at all.
fn fetch(set: &Dataset, work: &Path, place: &Path) -> Result<()> {
    let package = download(set, work)?;
    let unpacked = work.join("unpacked");
    run::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    let ready = work.join("ready");
    fs::create_dir(&ready).map_err(Error::at(&ready))?;
    for (file, _) in set.files {
        let from = unpacked.join(set.inside).join(file);
        fs::rename(&from, ready.join(file)).map_err(Error::at(&from))?;
    }
    verify(set, &ready)?;
    fs::rename(&ready, place).map_err(Error::at(place))
}

/// `apt-get download` needs no privilege, only package lists; those are renewed once where that is allowed.
fn download(set: &Dataset, work: &Path) -> Result<PathBuf> {
    if !apt::present() {
        return Err(by_hand(set, "this machine has no apt-get"));
    }
    let get = || run::run(Command::new("apt-get").args(["download", set.package]).current_dir(work));
    if let Err(first) = get() {
        if !apt::may_install() {
            return Err(by_hand(set, &first.to_string()));
        }
        apt::update()?;
        get().map_err(|again| by_hand(set, &again.to_string()))?;
    }
    let entries = fs::read_dir(work).map_err(Error::at(work))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| by_hand(set, "apt-get download left no file"))
}

fn by_hand(set: &Dataset, why: &str) -> Error {
    let names: Vec<_> = set.files.iter().map(|(name, _)| *name).collect();
    Error::Missing(format!(
        "{why}. By hand: take {} from Debian's package `{}` (unpack it with `dpkg-deb -x` or \
         `ar x` and `tar`; the files are in {}), put them into data/fetched/{}, and run this \
         command again to check them",
        names.join(", "),
        set.package,
        set.inside,
        set.name
    ))
}

fn verify(set: &Dataset, folder: &Path) -> Result<()> {
    for &(name, expected) in set.files {
        let path = folder.join(name);
        let found = sha256(&path)?;
        if found != expected {
            return Err(Error::Checksum { path, found, expected });
        }
    }
    Ok(())
}

/// The SHA-256 of a file in hexadecimal, read in pieces.
fn sha256(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).map_err(Error::at(path))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut piece).map_err(Error::at(path))?;
        if length == 0 {
            break;
        }
        hash.update(&piece[..length]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_refused() {
        const SET: Dataset = Dataset {
            name: "abc",
            package: "none",
            inside: "none",
            // The value for "abc" from FIPS 180-2, appendix B.1.
            files: &[("file", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")],
        };
        let folder = std::env::temp_dir().join(format!("versant-data-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        fs::write(folder.join("file"), "abc").expect("the temporary folder is writable");
        assert!(verify(&SET, &folder).is_ok());
        fs::write(folder.join("file"), "abd").expect("the temporary folder is writable");
        assert!(matches!(verify(&SET, &folder), Err(Error::Checksum { .. })));
        fs::remove_file(folder.join("file")).expect("written above");
        assert!(matches!(verify(&SET, &folder), Err(Error::Path { .. })));
        fs::remove_dir_all(&folder).expect("made above");
    }
}
