//! Weights from files of `torch.save`: state dictionaries, alone or inside a checkpoint's dictionaries.
//!
//! Both forms are read: the zip archive (PyTorch 1.6 and later) and the older row of pickles, which model zoos are full of.
//! Neither executes anything: a pickle's calls are looked at, not made, so that a hostile file can at worst be refused.
//! What is read is bounded by the file's length.

mod pickle;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::result::Result;

use half::{bf16, f16};

use crate::error::NnError;
use crate::params::{HostMap, HostTensor};
use pickle::{Id, Pickle, Value};

/// The first pickle of the older form.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The tensors of a file that `torch.save` wrote, as f32, by the names of a state dictionary. Dictionaries inside others
/// give names with a dot between, as in `model.conv1.weight`; what is no tensor is left out.
///
/// f16, bf16 and f64 are converted; whole numbers, such as a batch normalisation's count of batches, if they are exact
/// in f32.
///
/// ```no_run
/// use versant_graph::Device;
/// use versant_nn::{Params, Seed, torch};
/// let params = Params::new(&Device::cpu(), Seed(1));
/// // ... make the net's layers, under PyTorch's names ...
/// let report = params.from_host_partial(&torch::read("mobilenet_v2.pth")?)?;
/// println!("{} loaded, not in the file: {:?}", report.loaded.len(), report.missing);
/// # Ok::<(), versant_nn::NnError>(())
/// ```
///
/// # Errors
/// [`NnError::Io`], and [`NnError::Torch`] for a file that is damaged, holds no tensor, or uses what is not read: sparse or
/// quantised tensors, or big-endian files.
pub fn read(path: impl AsRef<Path>) -> Result<HostMap, NnError> {
    let path = path.as_ref();
    let io = |source| NnError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.read_to_end(&mut bytes).map_err(io)?;
    parse(&bytes).map_err(|why| NnError::Torch { path: path.to_owned(), why })
}

/// The same of bytes in memory.
fn parse(bytes: &[u8]) -> Result<HostMap, String> {
    if bytes.starts_with(b"PK\x03\x04") { zipped(bytes) } else { legacy(bytes) }
}

fn unpickle(bytes: &[u8], start: usize) -> Result<Pickle, String> {
    let fault = |(at, why): pickle::Fault| format!("at byte {}: {why}", start + at);
    pickle::read(&bytes[start..]).map_err(fault)
}

/// The archive: `NAME/data.pkl`, and each storage as `NAME/data/KEY`.
fn zipped(bytes: &[u8]) -> Result<HostMap, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names = names.collect::<Result<Vec<String>, _>>().map_err(|e| e.to_string())?;
    let main = names.iter().find(|name| name.ends_with("/data.pkl")).ok_or("there is no data.pkl in it")?;
    let folder = main.trim_end_matches("data.pkl");
    let mut entry = |name: &str| {
        let mut file = archive.by_name(name).map_err(|e| format!("{name}: {e}"))?;
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(format!("{name} is compressed, which torch.save does not do"));
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|e| format!("{name}: {e}"))?;
        Ok(content)
    };
    if let Ok(order) = entry(&format!("{folder}byteorder"))
        && order != b"little"
    {
        return Err("its numbers are big-endian".to_owned());
    }
    let pickle = unpickle(&entry(main)?, 0)?;
    let mut storages = BTreeMap::new();
    for name in &names {
        if let Some(key) = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix("data/")) {
            storages.insert(key.to_owned(), entry(name)?);
        }
    }
    collect(&pickle, &|key| storages.get(key).map(Vec::as_slice))
}

/// The older form: pickles of a magic number, a version, the machine, the dictionary and the storages' names, then each
/// storage's number of elements and the elements.
fn legacy(bytes: &[u8]) -> Result<HostMap, String> {
    let magic = bytes.get(4..14).is_some_and(|found| found == MAGIC);
    if !magic {
        return Err("it is no file of torch.save".to_owned());
    }
    let mut at = 0;
    let mut next = || {
        let pickle = unpickle(bytes, at)?;
        at += pickle.length;
        Ok::<_, String>(pickle)
    };
    let (_, version, machine) = (next()?, next()?, next()?);
    if version.int(version.root) != Some(1001) {
        return Err("its version is not 1001".to_owned());
    }
    if field(&machine, machine.root, "little_endian")
        .is_some_and(|v| matches!(machine.get(v), Value::Bool(false)))
    {
        return Err("its numbers are big-endian".to_owned());
    }
    let (pickle, names) = (next()?, next()?);
    let names = names.many(names.root).map(|all| all.iter().map(|&id| names.text(id)).collect::<Vec<_>>());
    let widths = widths(&pickle);
    let mut storages: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for name in names.ok_or("the storages have no names")? {
        let name = name.ok_or("a storage has no name")?;
        let width = *widths.get(name).ok_or_else(|| format!("storage {name} has no type"))?;
        let count = bytes.get(at..at.saturating_add(8)).ok_or("the file ends before a storage")?;
        let count = u64::from_le_bytes(count.try_into().expect("eight bytes"));
        let length = usize::try_from(count).ok().and_then(|n| n.checked_mul(width));
        let end = length.and_then(|n| n.checked_add(at + 8)).filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(|| format!("storage {name} claims more bytes than the file has"))?;
        storages.insert(name, &bytes[at + 8..end]);
        at = end;
    }
    collect(&pickle, &|key| storages.get(key).copied())
}

fn field(pickle: &Pickle, map: Id, name: &str) -> Option<Id> {
    match pickle.get(map) {
        Value::Map(pairs) => pairs.iter().find(|(key, _)| pickle.text(*key) == Some(name)).map(|pair| pair.1),
        _ => None,
    }
}

/// A storage as a pickle calls it: its element type and its name.
fn storage(pickle: &Pickle, id: Id) -> Option<(&str, &str)> {
    let Value::Persistent(id) = *pickle.get(id) else { return None };
    match pickle.many(id)? {
        &[_, class, key, ..] => match pickle.get(class) {
            Value::Global(class) => Some((class, pickle.text(key)?)),
            _ => None,
        },
        _ => None,
    }
}

/// Bytes of an element of each storage that a tensor uses.
fn widths(pickle: &Pickle) -> BTreeMap<&str, usize> {
    let all = pickle.ids().filter_map(|id| storage(pickle, id));
    all.filter_map(|(class, key)| Some((key, Element::of(class)?.width()))).collect()
}

/// Types of elements.
#[derive(Clone, Copy)]
enum Element {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    U8,
    I16,
    I32,
    I64,
}

impl Element {
    fn of(class: &str) -> Option<Element> {
        Some(match class.strip_prefix("torch ")?.strip_suffix("Storage")? {
            "Half" => Element::F16,
            "BFloat16" => Element::Bf16,
            "Float" => Element::F32,
            "Double" => Element::F64,
            "Char" => Element::I8,
            "Byte" | "Bool" => Element::U8,
            "Short" => Element::I16,
            "Int" => Element::I32,
            "Long" => Element::I64,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Element::I8 | Element::U8 => 1,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::F32 | Element::I32 => 4,
            Element::F64 | Element::I64 => 8,
        }
    }

    /// An element as f32; `None` for a whole number that f32 cannot hold.
    fn read(self, bytes: &[u8]) -> Option<f32> {
        let mut low = [0; 8];
        low[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(low);
        let whole = |value: i64| (value.unsigned_abs() <= 1 << 24).then_some(value as f32);
        match self {
            Element::F16 => Some(f16::from_bits(word as u16).to_f32()),
            Element::Bf16 => Some(bf16::from_bits(word as u16).to_f32()),
            Element::F32 => Some(f32::from_bits(word as u32)),
            Element::F64 => Some(f64::from_bits(word) as f32),
            Element::I8 => Some(f32::from(word as u8 as i8)),
            Element::U8 => Some(f32::from(word as u8)),
            Element::I16 => Some(f32::from(word as u16 as i16)),
            Element::I32 => whole(i64::from(word as u32 as i32)),
            Element::I64 => whole(word as i64),
        }
    }
}

/// All tensors of a pickle's dictionaries.
fn collect<'a>(pickle: &Pickle, bytes: &dyn Fn(&str) -> Option<&'a [u8]>) -> Result<HostMap, String> {
    let mut found = HostMap::new();
    // A dictionary may hold itself: each is opened once.
    let mut opened = HashSet::new();
    let mut waiting = vec![(String::new(), pickle.root)];
    while let Some((name, id)) = waiting.pop() {
        match pickle.get(id) {
            Value::Map(pairs) if opened.insert(id) => {
                for &(key, value) in pairs {
                    let Some(key) = pickle.text(key) else { continue };
                    let dot = if name.is_empty() { "" } else { "." };
                    waiting.push((format!("{name}{dot}{key}"), value));
                }
            }
            &Value::Tensor(parts) => {
                let tensor = tensor(pickle, parts, bytes).map_err(|why| format!("{name}: {why}"))?;
                found.insert(name, tensor);
            }
            _ => {}
        }
    }
    if found.is_empty() { Err("there is no tensor in it".to_owned()) } else { Ok(found) }
}

/// The elements of a view of a storage, in row-major order.
fn tensor<'a>(
    pickle: &Pickle,
    [from, offset, size, stride]: [Id; 4],
    bytes: &dyn Fn(&str) -> Option<&'a [u8]>,
) -> Result<HostTensor, String> {
    let (class, key) = storage(pickle, from).ok_or("its storage has no name or type")?;
    let element = Element::of(class).ok_or_else(|| format!("elements of {class} are not read"))?;
    let bytes = bytes(key).ok_or_else(|| format!("its storage {key} is missing"))?;
    let (width, bad) = (element.width(), "its size, stride or offset makes no sense");
    let offset = pickle.int(offset).and_then(|n| usize::try_from(n).ok()).ok_or(bad)?;
    let (shape, strides) = (pickle.sizes(size).ok_or(bad)?, pickle.sizes(stride).ok_or(bad)?);
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or(bad)?;
    // A view that repeats elements could claim any size.
    if shape.len() != strides.len() || count > bytes.len() / width {
        return Err(bad.to_owned());
    }
    let mut data = Vec::with_capacity(count);
    let mut place = vec![0; shape.len()];
    for _ in 0..count {
        let steps = place.iter().zip(&strides).try_fold(offset, |at, (&i, &s): (&usize, &usize)| {
            i.checked_mul(s).and_then(|step| at.checked_add(step))
        });
        let start = steps.and_then(|at| at.checked_mul(width)).ok_or(bad)?;
        let element_bytes = start.checked_add(width).and_then(|end| bytes.get(start..end)).ok_or(bad)?;
        data.push(element.read(element_bytes).ok_or("a whole number is too large for f32")?);
        for axis in (0..shape.len()).rev() {
            place[axis] += 1;
            if place[axis] < shape[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    Ok(HostTensor { shape, data })
}

#[cfg(test)]
mod tests;
