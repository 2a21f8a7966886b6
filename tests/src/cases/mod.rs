//! The one table of cases: every operation with the operands, types and layouts it has to cope with.
//!
//! A case is a recipe of tensors from host data. `tests/cases.rs` runs it on each device against the
//! interpreter; `tests/gradients.rs` differentiates those marked as differentiable. The expected values are
//! never written down here: `versant_graph::interp` decides.

use std::sync::Arc;

use versant_graph::interp::Array;
use versant_graph::{DType, Device, Tensor};

pub mod attention;
pub mod compound;
pub mod contraction;
pub mod elementwise;
pub mod movement;
pub mod reduction;
pub mod scan;
pub mod sorting;

/// A reproducible stream of random numbers (splitmix64, Steele et al., OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// A number in `low..high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1u32 << 24) as f32;
        low + (high - low) * unit
    }
}

/// The elements of an operand, on the host.
#[derive(Clone, Debug)]
pub struct Input {
    /// Extents.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// Elements in row-major order, as the words that store them.
    pub words: Vec<u32>,
}

impl Input {
    /// f32 elements.
    pub fn f32(shape: &[usize], values: &[f32]) -> Input {
        Input::words(shape, DType::F32, values.iter().map(|v| v.to_bits()).collect())
    }

    /// i32 elements.
    pub fn i32(shape: &[usize], values: &[i32]) -> Input {
        Input::words(shape, DType::I32, values.iter().map(|&v| v as u32).collect())
    }

    /// Elements as words.
    ///
    /// # Panics
    /// If their number does not make the shape.
    pub fn words(shape: &[usize], dtype: DType, words: Vec<u32>) -> Input {
        assert_eq!(shape.iter().product::<usize>(), words.len(), "a case with a wrong input");
        Input { shape: shape.to_vec(), dtype, words }
    }

    /// Random elements: reals in `low..high`, small integers, truth values.
    pub fn random(shape: &[usize], dtype: DType, domain: (f32, f32), seed: u64) -> Input {
        let mut rng = Rng(seed);
        let mut word = || match dtype {
            DType::F32 => rng.between(domain.0, domain.1).to_bits(),
            DType::I32 => (rng.below(41) as i32 - 20) as u32,
            DType::U32 => rng.below(41) as u32,
            _ => rng.below(2) as u32,
        };
        let words = (0..shape.iter().product()).map(|_| word()).collect();
        Input::words(shape, dtype, words)
    }

    /// Distinct reals in random order, at least `2 / count` apart: safe for the differences of extremes.
    pub fn distinct(shape: &[usize], seed: u64) -> Input {
        let count: usize = shape.iter().product();
        let mut values: Vec<f32> = (0..count).map(|i| (2.0 * i as f32 + 1.0) / count as f32 - 1.0).collect();
        let mut rng = Rng(seed);
        for i in (1..count).rev() {
            values.swap(i, rng.below(i + 1));
        }
        Input::f32(shape, &values)
    }

    /// Uploads the elements.
    pub fn tensor(&self, device: &Device) -> Tensor {
        let words = &self.words;
        match self.dtype {
            DType::F32 => {
                let values: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();
                Tensor::from_slice(device, &values, &self.shape)
            }
            DType::I32 => {
                let values: Vec<i32> = words.iter().map(|&w| w as i32).collect();
                Tensor::from_slice(device, &values, &self.shape)
            }
            DType::U32 => Tensor::from_slice(device, words, &self.shape),
            _ => {
                let values: Vec<bool> = words.iter().map(|&w| w != 0).collect();
                Tensor::from_slice(device, &values, &self.shape)
            }
        }
    }
}

/// How closely a device has to agree with the interpreter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accuracy {
    /// The same bits; any NaN for a NaN.
    Exact,
    /// `|got - want| <= .0 * max(|want|, .1)`; NaN for NaN, an infinity for itself.
    Near(f32, f32),
}

impl Accuracy {
    /// For sums of `terms` products of numbers around 1: rounding grows with their number.
    pub fn sum(terms: usize) -> Accuracy {
        Accuracy::Near(2e-6, 1.0 + terms as f32)
    }

    /// Whether a word is close enough to the one wanted.
    pub fn accepts(self, dtype: DType, got: u32, want: u32) -> bool {
        if got == want {
            return true;
        }
        if dtype != DType::F32 {
            return false;
        }
        let (g, w) = (f32::from_bits(got), f32::from_bits(want));
        match self {
            _ if w.is_nan() => g.is_nan(),
            Accuracy::Exact => false,
            Accuracy::Near(relative, floor) => {
                g == w || (w.is_finite() && (g - w).abs() <= relative * w.abs().max(floor))
            }
        }
    }
}

/// One result of a case.
pub struct Output {
    /// Which result, where there are several.
    pub label: &'static str,
    /// The recorded result.
    pub tensor: Tensor,
    /// Its tolerance.
    pub accuracy: Accuracy,
}

type Build = dyn Fn(&Device, &[Tensor]) -> Vec<Output> + Send + Sync;

/// One row of the table.
#[derive(Clone)]
pub struct Case {
    /// Unique name.
    pub name: String,
    /// Operands.
    pub inputs: Vec<Input>,
    /// Whether finite differences by the f32 inputs make sense at these values.
    pub differentiable: bool,
    build: Arc<Build>,
}

impl Case {
    /// A case of one result.
    pub fn new(
        name: impl Into<String>,
        inputs: Vec<Input>,
        accuracy: Accuracy,
        f: impl Fn(&Device, &[Tensor]) -> Tensor + Send + Sync + 'static,
    ) -> Case {
        Case::several(name, inputs, move |device, x| {
            vec![Output { label: "", tensor: f(device, x), accuracy }]
        })
    }

    /// A case of several results, which one plan computes.
    pub fn several(
        name: impl Into<String>,
        inputs: Vec<Input>,
        build: impl Fn(&Device, &[Tensor]) -> Vec<Output> + Send + Sync + 'static,
    ) -> Case {
        Case { name: name.into(), inputs, differentiable: false, build: Arc::new(build) }
    }

    /// Marks the case as one whose derivatives are tested.
    #[must_use]
    pub fn smooth(mut self) -> Case {
        self.differentiable = true;
        self
    }

    /// Uploads the operands.
    pub fn tensors(&self, device: &Device) -> Vec<Tensor> {
        self.inputs.iter().map(|i| i.tensor(device)).collect()
    }

    /// Records the results over these operands.
    pub fn build(&self, device: &Device, inputs: &[Tensor]) -> Vec<Output> {
        (self.build)(device, inputs)
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let mut all = elementwise::cases();
    all.extend(movement::cases());
    all.extend(reduction::cases());
    all.extend(contraction::cases());
    all.extend(compound::cases());
    all.extend(attention::cases());
    all.extend(scan::cases());
    all.extend(sorting::cases());
    all
}

/// The elements of a computed tensor as words.
///
/// # Errors
/// The engine's error.
pub fn words_of(t: &Tensor) -> versant_graph::Result<Vec<u32>> {
    Ok(match t.dtype() {
        DType::F32 => t.to_vec::<f32>()?.iter().map(|v| v.to_bits()).collect(),
        DType::I32 => t.to_vec::<i32>()?.iter().map(|&v| v as u32).collect(),
        DType::Bool => t.to_vec::<bool>()?.iter().map(|&v| u32::from(v)).collect(),
        _ => t.to_vec::<u32>()?,
    })
}

fn show(dtype: DType, word: u32) -> String {
    match dtype {
        DType::F32 => format!("{:e}", f32::from_bits(word)),
        DType::I32 => format!("{}", word as i32),
        _ => format!("{word}"),
    }
}

/// Compares a device's result with the interpreter's.
///
/// # Errors
/// How many elements differ, and the first of them.
pub fn compare(accuracy: Accuracy, got: &Tensor, want: &Array) -> Result<(), String> {
    if got.shape() != want.shape.dims() || got.dtype() != want.dtype {
        return Err(format!("is {}{:?}, not {}{}", got.dtype(), got.shape(), want.dtype, want.shape));
    }
    let got = words_of(got).map_err(|e| e.to_string())?;
    compare_words(accuracy, want.dtype, &got, &want.words)
}

/// Compares elements.
///
/// # Errors
/// How many elements differ, and the first of them.
pub fn compare_words(accuracy: Accuracy, dtype: DType, got: &[u32], want: &[u32]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("has {} elements, not {}", got.len(), want.len()));
    }
    let wrong: Vec<usize> = (0..want.len()).filter(|&i| !accuracy.accepts(dtype, got[i], want[i])).collect();
    let Some(&first) = wrong.first() else {
        return Ok(());
    };
    let (g, w) = (show(dtype, got[first]), show(dtype, want[first]));
    Err(format!("{} of {} elements differ, first at {first}: {g} instead of {w}", wrong.len(), want.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_tell_right_from_wrong() {
        let bits = f32::to_bits;
        let near = Accuracy::Near(1e-3, 1.0);
        assert!(near.accepts(DType::F32, bits(100.05), bits(100.0)));
        assert!(!near.accepts(DType::F32, bits(100.2), bits(100.0)));
        assert!(near.accepts(DType::F32, bits(-0.0), bits(0.0)));
        assert!(!Accuracy::Exact.accepts(DType::F32, bits(-0.0), bits(0.0)));
        for (got, want) in [(f32::NAN, 0.0), (0.0, f32::NAN), (f32::INFINITY, 1.0), (1.0, f32::INFINITY)] {
            assert!(!near.accepts(DType::F32, bits(got), bits(want)), "{got} for {want}");
        }
        assert!(Accuracy::Exact.accepts(DType::F32, 0x7fc0_0001, bits(f32::NAN)));
        assert!(!near.accepts(DType::I32, 5, 6));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().into_iter().map(|c| c.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
