//! Reading and checking the golden values that `tests/golden/make.py` writes.
//!
//! The script's header describes the layout. A test walks the cases of a file, hands each to a function that
//! builds the result from the inputs, and lets [`check_function`] compare the result and every
//! gradient. Mismatches are collected, so that one run shows all of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use versant_device::Device;
use versant_graph::{Tensor, grad_of};

/// The elements of a golden tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Real numbers.
    F32(Vec<f32>),
    /// Indices.
    I32(Vec<i32>),
    /// Truth values.
    Bool(Vec<bool>),
}

/// A golden tensor.
#[derive(Clone, Debug)]
pub struct Array {
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Data,
}

impl Array {
    /// Uploads the values.
    pub fn tensor(&self, device: &Device) -> Tensor {
        match &self.data {
            Data::F32(v) => Tensor::from_slice(device, v, &self.shape),
            Data::I32(v) => Tensor::from_slice(device, v, &self.shape),
            Data::Bool(v) => Tensor::from_slice(device, v, &self.shape),
        }
    }

    /// Entry `index` along the leading axis.
    pub fn row(&self, index: usize) -> Array {
        let shape = self.shape[1..].to_vec();
        let len: usize = shape.iter().product();
        let range = index * len..(index + 1) * len;
        let data = match &self.data {
            Data::F32(v) => Data::F32(v[range].to_vec()),
            Data::I32(v) => Data::I32(v[range].to_vec()),
            Data::Bool(v) => Data::Bool(v[range].to_vec()),
        };
        Array { shape, data }
    }

    /// The elements as real numbers.
    pub fn floats(&self) -> &[f32] {
        match &self.data {
            Data::F32(v) => v,
            other => panic!("the golden tensor is not f32 but {other:?}"),
        }
    }
}

/// One row of `index.json` with its tensors.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique name.
    pub name: String,
    /// What it is a case of: `conv2d`, `huber`, …
    pub kind: String,
    attrs: Value,
    arrays: BTreeMap<String, Array>,
}

/// The cases of one file (`layers`, `activations`, `losses`, `optim`, `train`, `ops`, `recurrent`, `transformer`), in the
/// script's order.
///
/// # Panics
/// If the committed files are unreadable or have no such cases.
pub fn cases(file: &str) -> Vec<Case> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let rows = rows(&dir);
    let bytes = std::fs::read(dir.join(format!("{file}.safetensors"))).expect("the tensor file is committed");
    let tensors = SafeTensors::deserialize(&bytes).expect("the tensor file is safetensors");
    let mut arrays: BTreeMap<String, BTreeMap<String, Array>> = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let (case, key) = name.split_once('/').expect("tensor names are case/key");
        let array = Array { shape: view.shape().to_vec(), data: decode(view.dtype(), view.data()) };
        arrays.entry(case.to_owned()).or_default().insert(key.to_owned(), array);
    }
    let text = |row: &Value, key: &str| row[key].as_str().expect("the field is a text").to_owned();
    let cases: Vec<Case> = rows
        .iter()
        .filter(|row| row["file"] == file)
        .map(|row| {
            let name = text(row, "name");
            let arrays = arrays.remove(&name).unwrap_or_default();
            Case { kind: text(row, "kind"), attrs: row["attrs"].clone(), arrays, name }
        })
        .collect();
    assert!(!cases.is_empty(), "no golden cases in {file}");
    cases
}

/// The rows of all tables: `index.json` and those that other scripts write beside it.
fn rows(dir: &std::path::Path) -> Vec<Value> {
    let files = std::fs::read_dir(dir).expect("tests/golden is committed");
    let names = files.map(|f| f.expect("the folder is readable").path());
    let is_index = |p: &PathBuf| {
        let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.starts_with("index") && name.ends_with(".json")
    };
    let mut names: Vec<PathBuf> = names.filter(is_index).collect();
    names.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(path).expect("the index is readable");
        let index: Value = serde_json::from_slice(&bytes).expect("the index is JSON");
        index["cases"].as_array().expect("the index has cases").clone()
    };
    names.into_iter().flat_map(read).collect()
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Data {
    let words = || bytes.chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]);
    match dtype {
        Dtype::F32 => Data::F32(words().map(f32::from_le_bytes).collect()),
        Dtype::I32 => Data::I32(words().map(i32::from_le_bytes).collect()),
        Dtype::BOOL => Data::Bool(bytes.iter().map(|&b| b != 0).collect()),
        other => panic!("golden tensors are f32, i32 or bool, not {other:?}"),
    }
}

impl Case {
    /// An attribute that must be there.
    fn attr(&self, key: &str) -> &Value {
        let value = &self.attrs[key];
        assert!(!value.is_null(), "{} has no attribute {key}", self.name);
        value
    }

    /// An attribute that may be missing or null.
    pub fn has_attr(&self, key: &str) -> bool {
        !self.attrs[key].is_null()
    }

    /// The same case without an attribute.
    pub fn without_attr(&self, key: &str) -> Case {
        let mut case = self.clone();
        case.attrs[key] = Value::Null;
        case
    }

    /// A text attribute.
    pub fn text(&self, key: &str) -> &str {
        self.attr(key).as_str().expect("the attribute is a text")
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Vec<String> {
        let list = self.attr(key).as_array().expect("the attribute is a list");
        list.iter().map(|v| v.as_str().expect("the list holds texts").to_owned()).collect()
    }

    /// A real attribute.
    pub fn real(&self, key: &str) -> f64 {
        self.attr(key).as_f64().expect("the attribute is a number")
    }

    /// A list of real numbers.
    pub fn reals(&self, key: &str) -> Vec<f64> {
        let list = self.attr(key).as_array().expect("the attribute is a list");
        list.iter().map(|v| v.as_f64().expect("the list holds numbers")).collect()
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> bool {
        self.attr(key).as_bool().expect("the attribute is a truth value")
    }

    /// A count, extent or axis.
    pub fn int(&self, key: &str) -> usize {
        let value = self.attr(key).as_u64().expect("the attribute is a natural number");
        usize::try_from(value).expect("the attribute fits usize")
    }

    /// An axis, where negative ones are allowed.
    pub fn axis(&self, key: &str) -> isize {
        self.int(key) as isize
    }

    /// A list of signed numbers (axes, shapes).
    pub fn signed(&self, key: &str) -> Vec<isize> {
        let list = self.attr(key).as_array().expect("the attribute is a list");
        let int = |v: &Value| v.as_i64().and_then(|v| isize::try_from(v).ok());
        list.iter().map(|v| int(v).expect("the list holds integers")).collect()
    }

    /// A list of natural numbers.
    pub fn ints(&self, key: &str) -> Vec<usize> {
        self.signed(key).iter().map(|&v| usize::try_from(v).expect("the list is not negative")).collect()
    }

    /// A pair of natural numbers: height and width.
    pub fn pair(&self, key: &str) -> [usize; 2] {
        self.ints(key).try_into().expect("the attribute has two entries")
    }

    /// Whether the case has such a tensor.
    pub fn has(&self, key: &str) -> bool {
        self.arrays.contains_key(key)
    }

    /// A tensor that must be there.
    pub fn array(&self, key: &str) -> &Array {
        self.arrays.get(key).unwrap_or_else(|| panic!("{} has no tensor {key}", self.name))
    }

    /// Every tensor by name.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.arrays.iter().map(|(k, a)| (k.as_str(), a))
    }
}

/// Uploaded inputs of a function case, by name.
pub struct Inputs(BTreeMap<String, Tensor>);

impl Inputs {
    /// Uploads every tensor of the case that is not an output, a cotangent or a gradient.
    pub fn upload(case: &Case, device: &Device) -> Inputs {
        let is_input = |key: &str| {
            let derived = |k: &str| k == "y" || case.has(k);
            key != "y" && !key.strip_prefix(['g', 'v', 'h']).is_some_and(derived)
        };
        let inputs = case.arrays().filter(|(key, _)| is_input(key));
        Inputs(inputs.map(|(key, a)| (key.to_owned(), a.tensor(device))).collect())
    }

    /// An input that must be there.
    pub fn get(&self, key: &str) -> &Tensor {
        &self.0[key]
    }

    /// Puts another tensor of the same values in an input's place, such as a layer's parameter.
    pub fn replace(&mut self, key: &str, tensor: Tensor) {
        self.0.insert(key.to_owned(), tensor);
    }

    /// An input that may be absent, such as a bias.
    pub fn find(&self, key: &str) -> Option<&Tensor> {
        self.0.get(key)
    }
}

/// Agreement wanted: `|got - want| <= absolute + relative * |want|`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative part.
    pub relative: f32,
    /// Absolute part.
    pub absolute: f32,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { relative: 1e-4, absolute: 1e-5 }
    }
}

impl Tolerance {
    /// Whether a value is close enough. NaN agrees with NaN, an infinity only with itself.
    pub fn accepts(self, got: f32, want: f32) -> bool {
        got == want
            || (got.is_nan() && want.is_nan())
            || (want.is_finite() && (got - want).abs() <= self.absolute + self.relative * want.abs())
    }
}

/// What went wrong over a walk; panics at the end if anything did.
pub struct Report {
    title: &'static str,
    checked: usize,
    failures: Vec<String>,
}

impl Report {
    /// Starts a walk.
    pub fn new(title: &'static str) -> Report {
        Report { title, checked: 0, failures: Vec::new() }
    }

    /// Checks one case on one device and notes the outcome. A panic of the engine is one, too: it should
    /// not hide the cases after it.
    pub fn check(&mut self, device: &Device, case: &str, check: impl FnOnce() -> Result<(), String>) {
        self.checked += 1;
        let outcome = catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", text.unwrap_or("with no message")))
        });
        if let Err(why) = outcome {
            self.failures.push(format!("{case} on {}: {why}", device.info().name));
        }
    }

    /// Ends the walk.
    ///
    /// # Panics
    /// If a case failed, or fewer than `at_least` were checked (a walk that checks nothing is no test).
    pub fn finish(self, at_least: usize) {
        assert!(self.checked >= at_least, "{}: only {} cases were checked", self.title, self.checked);
        assert!(
            self.failures.is_empty(),
            "{}: {} of {} cases differ:\n{}",
            self.title,
            self.failures.len(),
            self.checked,
            self.failures.join("\n")
        );
    }
}

/// Checks a function case: the result of `build` and the gradient of every input that has one.
///
/// # Errors
/// A description of everything that differs, or the engine's own error.
pub fn check_function(
    case: &Case,
    device: &Device,
    tolerance: Tolerance,
    build: impl FnOnce(&Inputs) -> Tensor,
) -> Result<(), String> {
    let inputs = Inputs::upload(case, device);
    let y = build(&inputs);
    check_outputs(case, &y, &inputs, tolerance)
}

/// The comparing half of [`check_function`], for a result that is already recorded.
///
/// # Errors
/// A description of everything that differs, or the engine's own error.
pub fn check_outputs(case: &Case, y: &Tensor, inputs: &Inputs, tolerance: Tolerance) -> Result<(), String> {
    let mut differences = String::new();
    // Everything is recorded before any value is asked for: evaluation cuts the graph.
    let mut results = vec![("y".to_owned(), y.clone())];
    let names: Vec<&str> =
        inputs.0.keys().map(String::as_str).filter(|k| case.has(&format!("g{k}"))).collect();
    if !names.is_empty() {
        let cotangent = case.array("gy").tensor(y.device());
        let at: Vec<&Tensor> = names.iter().map(|n| inputs.get(n)).collect();
        let first = grad_of(&(y * &cotangent).sum_all(), &at).map_err(|e| format!("g: {e}"))?;
        results.extend(second_derivatives(case, inputs, &names, &first)?);
        results.extend(names.iter().map(|n| format!("g{n}")).zip(first));
    }
    let roots: Vec<&Tensor> = results.iter().map(|(_, t)| t).collect();
    versant_graph::eval(&roots).map_err(|e| e.to_string())?;
    for (key, got) in &results {
        compare(&mut differences, key, got, case.array(key), tolerance)?;
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// The gradients of `sum(gn * vn)` over the differentiated inputs `names`, where the case has them.
fn second_derivatives(
    case: &Case,
    inputs: &Inputs,
    names: &[&str],
    first: &[Tensor],
) -> Result<Vec<(String, Tensor)>, String> {
    let mut total: Option<Tensor> = None;
    for (name, grad) in names.iter().zip(first).filter(|(n, _)| case.has(&format!("v{n}"))) {
        let direction = case.array(&format!("v{name}")).tensor(grad.device());
        let part = (grad * &direction).sum_all();
        total = Some(total.map_or_else(|| part.clone(), |sum| &sum + &part));
    }
    let Some(total) = total else {
        return Ok(Vec::new());
    };
    let keys: Vec<&&str> = names.iter().filter(|n| case.has(&format!("h{n}"))).collect();
    let at: Vec<&Tensor> = keys.iter().map(|n| inputs.get(n)).collect();
    let second = grad_of(&total, &at).map_err(|e| format!("h: {e}"))?;
    Ok(keys.iter().map(|n| format!("h{n}")).zip(second).collect())
}

/// Compares a tensor with a golden one and appends what differs.
///
/// # Errors
/// The engine's error if there is no value, or a shape or type that differs.
pub fn compare(
    differences: &mut String,
    key: &str,
    got: &Tensor,
    want: &Array,
    tolerance: Tolerance,
) -> Result<(), String> {
    if let Some(error) = got.error() {
        return Err(format!("{key}: {error}"));
    }
    if got.shape() != want.shape {
        return Err(format!("{key}: shape {:?} instead of {:?}", got.shape(), want.shape));
    }
    let wrong = match &want.data {
        Data::F32(want) => {
            let got = got.to_vec::<f32>().map_err(|e| format!("{key}: {e}"))?;
            first_wrong(&got, want, |g, w| tolerance.accepts(*g, *w))
        }
        Data::I32(want) => {
            let got = got.to_vec::<i32>().map_err(|e| format!("{key}: {e}"))?;
            first_wrong(&got, want, PartialEq::eq)
        }
        Data::Bool(want) => {
            let got = got.to_vec::<bool>().map_err(|e| format!("{key}: {e}"))?;
            first_wrong(&got, want, PartialEq::eq)
        }
    };
    if let Some(text) = wrong {
        write!(differences, "\n  {key} {text}").expect("writing to a String cannot fail");
    }
    Ok(())
}

/// How many elements differ, and the first of them.
fn first_wrong<T: std::fmt::Debug>(got: &[T], want: &[T], same: impl Fn(&T, &T) -> bool) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("has {} elements instead of {}", got.len(), want.len()));
    }
    let wrong: Vec<usize> = (0..want.len()).filter(|&i| !same(&got[i], &want[i])).collect();
    let &first = wrong.first()?;
    let all = if want.len() <= 12 { format!("; got {got:?}, want {want:?}") } else { String::new() };
    Some(format!(
        "differs in {} of {} elements, first at {first}: got {:?}, want {:?}{all}",
        wrong.len(),
        want.len(),
        got[first],
        want[first]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_rejects_what_differs() {
        let tolerance = Tolerance::default();
        assert!(tolerance.accepts(1.00009, 1.0) && !tolerance.accepts(1.0002, 1.0));
        assert!(tolerance.accepts(9e-6, 0.0) && !tolerance.accepts(2e-5, 0.0));
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert!(tolerance.accepts(nan, nan) && tolerance.accepts(inf, inf));
        for (got, want) in [(nan, 0.0), (0.0, nan), (inf, -inf), (inf, 1e30), (1e30, inf)] {
            assert!(!tolerance.accepts(got, want), "{got} for {want}");
        }
    }

    #[test]
    fn every_function_case_has_what_its_check_needs() {
        let trains = |c: &&Case| !c.kind.ends_with("_train") && !c.kind.starts_with("train_");
        for file in ["layers", "activations", "losses", "ops", "criteria", "transformer"] {
            for case in cases(file).iter().filter(trains) {
                let gradients = case
                    .arrays()
                    .filter(|(k, _)| *k != "gy" && k.strip_prefix('g').is_some_and(|k| case.has(k)));
                assert_eq!(gradients.count() > 0, case.has("gy"), "{}", case.name);
                assert!(case.has("y"), "{}", case.name);
            }
        }
    }

    #[test]
    #[should_panic(expected = "1 of 1 cases differ")]
    fn a_report_fails_when_a_case_does() {
        let mut report = Report::new("sample");
        report.check(&Device::cpu(), "case", || Err("why".to_owned()));
        report.finish(1);
    }

    #[test]
    #[should_panic(expected = "only 0 cases")]
    fn a_report_fails_when_nothing_was_checked() {
        Report::new("sample").finish(1);
    }
}
