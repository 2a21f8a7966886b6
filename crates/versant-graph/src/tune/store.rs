//! What is known of kernel variants on one adapter, remembered on disk between processes.
//!
//! One small JSON file per adapter, driver and interface. It is a cache: whatever is wrong with it (missing,
//! cut short, not ours, not writable) costs a check or a measurement, never a failure.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Names the folder of the files; empty or `off` keeps nothing. Without it, the user's cache folder.
pub(crate) const CACHE_VAR: &str = "VERSANT_CACHE_DIR";
/// Longest file that is read. A verdict takes some 50 bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Verdicts and choices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Known {
    /// The adapter, its driver and interface: two that share a file name by chance do not share a file.
    pub adapter: String,
    /// By hash of a kernel's text: whether its results were right, or why not.
    pub verdicts: BTreeMap<String, Option<String>>,
    /// By problem and hash of all kernel sources: the label of the fastest variant.
    pub choices: BTreeMap<String, String>,
}

/// The file for an adapter; `None` if nothing is to be kept.
pub(crate) fn file_for(adapter: &str) -> Option<PathBuf> {
    let folder = match std::env::var(CACHE_VAR) {
        Ok(folder) if folder.is_empty() || folder == "off" => return None,
        Ok(folder) => PathBuf::from(folder),
        Err(_) => dirs::cache_dir()?.join("versant"),
    };
    Some(folder.join(format!("kernels-{}.json", super::hash(&[adapter]))))
}

/// What a file says of this adapter; nothing if it says nothing that can be used.
pub(crate) fn read(path: &Path, adapter: &str) -> Known {
    let fresh = || Known { adapter: adapter.to_owned(), ..Known::default() };
    let Ok(file) = fs::File::open(path) else {
        return fresh();
    };
    let mut text = Vec::new();
    if file.take(MAX_BYTES + 1).read_to_end(&mut text).is_err() || text.len() as u64 > MAX_BYTES {
        return fresh();
    }
    match serde_json::from_slice::<Known>(&text) {
        Ok(known) if known.adapter == adapter => known,
        _ => fresh(),
    }
}

/// Replaces a file, as a whole or not at all. Processes that write at the same time lose no verdict that matters:
/// the last one stays, and the others are found again.
pub(crate) fn write(path: &Path, known: &Known) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec_pretty(known)?)?;
        file.sync_all()?;
        fs::rename(&part, path)
    })();
    if written.is_err() {
        // What is left of the attempt is of no use; a failure to remove it changes nothing.
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_survives_and_a_broken_one_is_ignored() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep").join("kernels.json");
        assert_eq!(read(&path, "card").verdicts.len(), 0);
        let mut known = Known { adapter: "card".to_owned(), ..Known::default() };
        known.verdicts.insert("1".to_owned(), None);
        known.verdicts.insert("2".to_owned(), Some("off by 3".to_owned()));
        known.choices.insert("p".to_owned(), "tile".to_owned());
        write(&path, &known).expect("the folder is writable");
        assert_eq!(read(&path, "card"), known);
        assert_eq!(read(&path, "another card").verdicts.len(), 0);
        let text = fs::read(&path).expect("it was written");
        for cut in 0..text.len() {
            fs::write(&path, &text[..cut]).expect("the folder is writable");
            assert_eq!(read(&path, "card").choices.len(), 0, "cut at {cut}");
        }
        fs::write(&path, vec![b' '; MAX_BYTES as usize + 1]).expect("the folder is writable");
        assert_eq!(read(&path, "card").choices.len(), 0);
        let beside = fs::read_dir(path.parent().expect("it has one")).expect("it exists").count();
        assert_eq!(beside, 1, "no part is left behind");
    }
}
