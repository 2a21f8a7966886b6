//! Checkpoints: everything that a run needs to continue bit for bit, in one safetensors file.
//!
//! Tensors are named `model/NAME` and `optimizer/STATE/NAME`; counters and texts are metadata entries.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{NnError, Result};
use crate::file::{self, TensorFile};
use crate::optim::{Optimizer, OptimizerState};
use crate::params::{HostMap, Params};

const FORMAT: &str = "versant.checkpoint";
const VERSION: &str = "1";
const MODEL: &str = "model/";
const OPTIMIZER: &str = "optimizer/";
const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";

/// The state of a run: parameters, buffers, the optimiser's memory, random streams and progress.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::{Checkpoint, Init, Optimizer, Params, Seed, Sgd};
/// # let folder = std::env::temp_dir().join(format!("versant-doc-{}", std::process::id()));
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let w = vs.root().parameter("w", &[2], Init::Ones);
/// let mut opt = Sgd::new(&vs, 0.1).momentum(0.9);
/// opt.step((w.get() * w.get()).sum_all().backward()?)?;
///
/// let mut now = Checkpoint::take(&vs, Some(&opt))?;
/// now.epoch = 3;
/// now.save_in(&folder, 2)?; // keeps the last two
///
/// let found = Checkpoint::latest(&folder)?;
/// let (path, saved) = found.checkpoint.expect("one was saved");
/// saved.restore(&vs, Some(&mut opt))?;
/// assert_eq!((saved.epoch, saved.step), (3, 1));
/// # std::fs::remove_dir_all(folder).ok();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Checkpoint {
    /// Number of steps taken.
    pub step: u64,
    /// Number of epochs completed.
    pub epoch: u64,
    /// The user's own entries, for example the state of a data loader.
    pub user: BTreeMap<String, String>,
    /// The store's seed.
    pub seed: u64,
    params: HostMap,
    random: BTreeMap<String, u64>,
    optimizer: Option<OptimizerState>,
}

/// What [`Checkpoint::latest`] found in a folder.
#[derive(Debug, Default)]
pub struct Latest {
    /// The newest readable checkpoint and its file.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
    /// Why newer files were passed over.
    pub skipped: Vec<NnError>,
}

impl Checkpoint {
    /// Reads everything back from the device. The step is the optimiser's; epoch and user entries are the
    /// caller's to set.
    ///
    /// # Errors
    /// A mistake in the store; a failing device.
    pub fn take(params: &Params, optimizer: Option<&dyn Optimizer>) -> Result<Checkpoint> {
        Ok(Checkpoint {
            step: optimizer.map_or(0, Optimizer::steps),
            epoch: 0,
            user: BTreeMap::new(),
            seed: params.seed().0,
            params: params.to_host()?,
            random: params.draws(),
            optimizer: optimizer.map(Optimizer::state).transpose()?,
        })
    }

    /// The values of parameters and buffers.
    pub fn params(&self) -> &HostMap {
        &self.params
    }

    /// Puts everything back. The net must have been built as it was when the checkpoint was taken.
    ///
    /// # Errors
    /// Names or shapes that differ, or an optimiser of another kind, before anything changes; a failing
    /// device.
    pub fn restore(&self, params: &Params, optimizer: Option<&mut dyn Optimizer>) -> Result<()> {
        match (optimizer, &self.optimizer) {
            (Some(optimizer), Some(state)) => {
                optimizer.check_state(state)?;
                params.from_host(&self.params)?;
                optimizer.load_state(state)?;
            }
            (Some(_), None) => {
                let (saved, wanted) = ("none".to_owned(), "an optimiser".to_owned());
                return Err(NnError::OtherOptimizer { saved, wanted });
            }
            (None, _) => params.from_host(&self.params)?,
        }
        params.restore_draws(self.seed, &self.random);
        Ok(())
    }

    /// Writes the checkpoint. The file appears whole or not at all, whatever interrupts.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = HostMap::new();
        let mut entries = HashMap::new();
        let mut put = |key: &str, value: String| entries.insert(key.to_owned(), value);
        put(FORMAT, VERSION.to_owned());
        put("step", self.step.to_string());
        put("epoch", self.epoch.to_string());
        put("seed", self.seed.to_string());
        put("random", json!(self.random).to_string());
        put("user", json!(self.user).to_string());
        if let Some(state) = &self.optimizer {
            // Rust prints the shortest text that reads back as the same number.
            let lr = state.lr.to_string();
            let about = json!({"kind": state.kind, "lr": lr, "steps": state.steps, "counts": state.counts});
            put("optimizer", about.to_string());
            let named = state.tensors.iter().map(|(n, t)| (format!("{OPTIMIZER}{n}"), t.clone()));
            tensors.extend(named);
        }
        tensors.extend(self.params.iter().map(|(n, t)| (format!("{MODEL}{n}"), t.clone())));
        file::write(path.as_ref(), &tensors, entries)
    }

    /// Reads a checkpoint, as a file that anybody may have written.
    ///
    /// # Errors
    /// A file that is unreadable, damaged or no checkpoint.
    pub fn load(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let file = TensorFile::read(path.as_ref())?;
        let bad =
            |entry: &str| NnError::BadCheckpoint { path: file.path().to_owned(), entry: entry.to_owned() };
        let entry = |key: &str| file.metadata.get(key).ok_or_else(|| bad(key));
        if entry(FORMAT)? != VERSION {
            return Err(bad(FORMAT));
        }
        let number = |key: &str| entry(key)?.parse::<u64>().map_err(|_| bad(key));
        let json = |key: &str| serde_json::from_str(entry(key)?).map_err(|_| bad(key));
        let mut found = Checkpoint {
            step: number("step")?,
            epoch: number("epoch")?,
            seed: number("seed")?,
            random: counts(&json("random")?).ok_or_else(|| bad("random"))?,
            user: texts(&json("user")?).ok_or_else(|| bad("user"))?,
            ..Checkpoint::default()
        };
        let mut memory = HostMap::new();
        for name in file.shapes().into_keys() {
            let tensor = file.tensor(&name)?;
            if let Some(name) = name.strip_prefix(MODEL) {
                found.params.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                memory.insert(name.to_owned(), tensor);
            } else {
                return Err(bad(&name));
            }
        }
        if file.metadata.contains_key("optimizer") {
            let state = state(&json("optimizer")?, memory);
            found.optimizer = Some(state.ok_or_else(|| bad("optimizer"))?);
        }
        Ok(found)
    }

    /// Writes the checkpoint into a folder under a name made of its step, and removes all but the `keep`
    /// newest (at least this one) with what interrupted writers left. One run writes into one folder.
    ///
    /// # Errors
    /// The file system's.
    pub fn save_in(&self, folder: impl AsRef<Path>, keep: usize) -> Result<PathBuf> {
        let folder = folder.as_ref();
        let io = |source| NnError::Io { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(io)?;
        let path = folder.join(format!("{PREFIX}{:012}{SUFFIX}", self.step));
        self.save(&path)?;
        let mut old = numbered(folder)?;
        old.retain(|(_, other)| *other != path);
        let surplus = old.len().saturating_sub(keep.max(1) - 1);
        for (_, path) in old.into_iter().take(surplus) {
            remove(&path)?;
        }
        for entry in fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| n.contains(PREFIX) && file::is_temporary(n)) {
                remove(&entry.path())?;
            }
        }
        Ok(path)
    }

    /// The newest checkpoint of a folder that can be read, and why newer ones cannot. A folder that does not
    /// exist holds none.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn latest(folder: impl AsRef<Path>) -> Result<Latest> {
        let mut found = Latest::default();
        for (_, path) in numbered(folder.as_ref())?.into_iter().rev() {
            match Checkpoint::load(&path) {
                Ok(checkpoint) => {
                    found.checkpoint = Some((path, checkpoint));
                    break;
                }
                Err(error) => found.skipped.push(error),
            }
        }
        Ok(found)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(NnError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// A folder's checkpoints by step, the oldest first.
fn numbered(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let io = |source| NnError::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if let Some(step) = number.and_then(|n| n.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn counts(value: &Value) -> Option<BTreeMap<String, u64>> {
    value.as_object()?.iter().map(|(k, v)| Some((k.clone(), v.as_u64()?))).collect()
}

fn texts(value: &Value) -> Option<BTreeMap<String, String>> {
    value.as_object()?.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn state(about: &Value, tensors: HostMap) -> Option<OptimizerState> {
    Some(OptimizerState {
        kind: about["kind"].as_str()?.to_owned(),
        lr: about["lr"].as_str()?.parse().ok()?,
        steps: about["steps"].as_u64()?,
        counts: counts(&about["counts"])?,
        tensors,
    })
}
