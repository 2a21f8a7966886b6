//! Values on the host: maps of them, and safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use versant_graph::{DType, Tensor};

use super::{Params, Slot};
use crate::error::{NnError, Result};
use crate::file::{self, TensorFile};

/// A tensor's values on the host.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HostTensor {
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f32>,
}

/// Values by name.
pub type HostMap = BTreeMap<String, HostTensor>;

/// What a partial load did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LoadReport {
    /// Names whose values were replaced.
    pub loaded: Vec<String>,
    /// Names that the store has and the source lacks; their values stayed.
    pub missing: Vec<String>,
    /// Names that the store does not have.
    pub extra: Vec<String>,
    /// `(name, shape in the store, shape in the source)`; their values stayed.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl LoadReport {
    fn strict(self, origin: String) -> Result<Vec<String>> {
        if self.missing.is_empty() && self.extra.is_empty() && self.shapes.is_empty() {
            return Ok(self.loaded);
        }
        let LoadReport { missing, extra, shapes, .. } = self;
        Err(NnError::Mismatch { origin, missing, extra, shapes })
    }
}

/// Reads f32 tensors back, as few times as the largest binding allows.
pub(crate) fn read_all(tensors: &[Tensor]) -> Result<Vec<Vec<f32>>> {
    let Some(first) = tensors.first() else {
        return Ok(Vec::new());
    };
    versant_graph::eval(&tensors.iter().collect::<Vec<_>>())?;
    let limit = (first.device().info().limits.max_binding_bytes / 4).max(1) as usize;
    let mut values = Vec::with_capacity(tensors.len());
    let mut rest = tensors;
    while !rest.is_empty() {
        let mut words = 0;
        let fits = rest.iter().take_while(|t| {
            words += t.numel();
            words <= limit
        });
        let (batch, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let flat: Vec<Tensor> = batch.iter().map(|t| t.reshape(&[t.numel() as isize])).collect();
        let joined = Tensor::cat(&flat.iter().collect::<Vec<_>>(), 0).to_vec::<f32>()?;
        let mut at = 0;
        for tensor in batch {
            values.push(joined[at..at + tensor.numel()].to_vec());
            at += tensor.numel();
        }
    }
    Ok(values)
}

/// Uploads values; everything is on the device before anything is replaced.
pub(crate) fn upload(params: &Params, tensor: &HostTensor) -> Result<Tensor> {
    let uploaded = Tensor::from_slice(params.device(), &tensor.data, &tensor.shape);
    match uploaded.error() {
        Some(error) => Err(error.into()),
        None => Ok(uploaded),
    }
}

impl Params {
    /// Reads all parameters and buffers back; pending buffers are computed.
    ///
    /// # Errors
    /// [`Params::check`]'s; a failing device.
    pub fn to_host(&self) -> Result<HostMap> {
        self.check()?;
        let slots = self.slots();
        let tensors: Vec<Tensor> = slots.iter().map(|s| s.get()).collect();
        if let Some(odd) = tensors.iter().find(|t| t.dtype() != DType::F32) {
            // Reading is where a value's error is returned, a wrong type's among them.
            odd.to_vec::<f32>()?;
        }
        let values = read_all(&tensors)?;
        let tensor = |(slot, data): (&Arc<Slot>, Vec<f32>)| {
            (slot.name.to_string(), HostTensor { shape: slot.shape.clone(), data })
        };
        Ok(slots.iter().zip(values).map(tensor).collect())
    }

    /// Replaces all values.
    ///
    /// # Errors
    /// [`NnError::Mismatch`] with every missing, unknown and mis-shaped name, before anything changes; a
    /// failing device.
    pub fn from_host(&self, map: &HostMap) -> Result<()> {
        let shapes = map.iter().map(|(n, t)| (n.clone(), t.shape.clone())).collect();
        let names = self.compare(&shapes)?.strict("the map".to_owned())?;
        self.replace(&names, |name| Ok(map[name].clone()))
    }

    /// Replaces the values whose names and shapes fit, and tells what did not.
    ///
    /// # Errors
    /// A failing device.
    pub fn from_host_partial(&self, map: &HostMap) -> Result<LoadReport> {
        let shapes = map.iter().map(|(n, t)| (n.clone(), t.shape.clone())).collect();
        let report = self.compare(&shapes)?;
        self.replace(&report.loaded, |name| Ok(map[name].clone()))?;
        Ok(report)
    }

    /// Writes all parameters and buffers as a safetensors file. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Params::check`]'s; a failing device; the file system's.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write(path.as_ref(), &self.to_host()?, HashMap::new())
    }

    /// Replaces all values by those of a safetensors file. Names and shapes must be exactly the store's.
    ///
    /// # Errors
    /// [`NnError::Mismatch`] with every missing, unknown and mis-shaped name; a file that is unreadable,
    /// damaged or of another element type. Nothing has changed then.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        let file = TensorFile::read(path.as_ref())?;
        let names = self.compare(&file.shapes())?.strict(file.path().display().to_string())?;
        self.replace(&names, |name| file.tensor(name))
    }

    /// Replaces the values whose names and shapes fit a safetensors file's, and tells what did not.
    ///
    /// # Errors
    /// A file that is unreadable or damaged, or that holds a fitting tensor of another element type.
    /// Nothing has changed then.
    pub fn load_partial(&self, path: impl AsRef<Path>) -> Result<LoadReport> {
        let file = TensorFile::read(path.as_ref())?;
        let report = self.compare(&file.shapes())?;
        self.replace(&report.loaded, |name| file.tensor(name))?;
        Ok(report)
    }

    /// What of a source fits, by name and shape.
    pub(crate) fn compare(&self, source: &BTreeMap<String, Vec<usize>>) -> Result<LoadReport> {
        self.check()?;
        let mut report = LoadReport::default();
        let slots = self.slots();
        for slot in &slots {
            let name = slot.name.to_string();
            match source.get(&name) {
                None => report.missing.push(name),
                Some(shape) if *shape == slot.shape => report.loaded.push(name),
                Some(shape) => report.shapes.push((name, slot.shape.clone(), shape.clone())),
            }
        }
        let known: std::collections::HashSet<&str> = slots.iter().map(|s| &*s.name).collect();
        report.extra = source.keys().filter(|n| !known.contains(n.as_str())).cloned().collect();
        Ok(report)
    }

    /// Uploads the values of these names, all of which the store has, and then puts them in place.
    pub(crate) fn replace(&self, names: &[String], value: impl Fn(&str) -> Result<HostTensor>) -> Result<()> {
        let new: Vec<Tensor> = names.iter().map(|n| upload(self, &value(n)?)).collect::<Result<_>>()?;
        for (name, tensor) in names.iter().zip(new) {
            if let Some(param) = self.get(name) {
                param.slot.replace(tensor);
            }
        }
        Ok(())
    }
}
