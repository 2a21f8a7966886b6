//! Positions of a sequence: tables of waves or learnt vectors that are added, rotations of queries and keys, and linear
//! biases of scores.

use std::panic::Location;

use versant_graph::{DType, Device, GraphError, Tensor};

use super::weights::Origin;
use super::{Mode, Module};
use crate::fault::invalid;
use crate::{Init, Param, Scope};

/// The position of the first row of a sequence.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Known when the plan is made: another one is another plan.
    Fixed(usize),
    /// An i32 of rank 0, usually a [`Tensor::scalar`], that may differ at every run of one plan. Rows beyond the table
    /// repeat its last one.
    Runtime(&'a Tensor),
}

impl Start<'_> {
    /// So many rows of a table from here.
    #[track_caller]
    fn rows(self, op: &'static str, table: &Tensor, x: &Tensor, length: usize) -> Result<Tensor, Tensor> {
        let count = table.shape()[0];
        let first = match self {
            Start::Fixed(first) => first,
            Start::Runtime(_) => 0,
        };
        if first.checked_add(length).is_none_or(|end| end > count) {
            let why = format!("{length} positions from {first} on are more than the {count} there are");
            return Err(invalid(op, &[x], Location::caller(), why));
        }
        match self {
            Start::Fixed(first) => Ok(table.narrow(0, first, length)),
            Start::Runtime(at) if at.rank() != 0 || at.dtype() != DType::I32 => {
                Err(invalid(op, &[at], Location::caller(), "the position must be an i32 of rank 0"))
            }
            Start::Runtime(at) => {
                let index = Tensor::arange(table.device(), length, DType::I32) + at;
                Ok(table.index_select(0, &index))
            }
        }
    }
}

/// Adds rows of a table `[positions, width]` to `x` `[.., length, width]`.
#[track_caller]
fn add_rows(op: &'static str, table: &Tensor, x: &Tensor, start: Start<'_>) -> Tensor {
    let width = table.shape()[1];
    if x.error().is_some() || x.rank() < 2 || x.shape()[x.rank() - 1] != width || x.dtype() != DType::F32 {
        let why = format!("needs f32[.., length, {width}]");
        return invalid(op, &[x], Location::caller(), why);
    }
    match start.rows(op, table, x, x.shape()[x.rank() - 2]) {
        Ok(rows) => x + rows,
        Err(failed) => failed,
    }
}

/// A learnt vector for each position, added to the rows of a sequence: `[.., length, width] → [.., length, width]`.
///
/// Parameter: `weight` `[positions, width]`, as a `torch.nn.Embedding` of positions has it; normal with the deviation
/// 0.02 of GPT-2 (Radford et al., 2019).
///
/// ```
/// use versant_nn::layers::{LearnedPositions, Mode, Module, Start};
/// use versant_nn::{Params, Seed};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let vs = Params::new(&dev, Seed(1));
/// let layer = LearnedPositions::new(&(&vs / "positions"), 16, 4);
/// let x = Tensor::zeros(&dev, &[2, 3, 4]);
/// let y = layer.at(&x, Start::Fixed(5)).to_vec::<f32>()?;
/// let table = vs.get("positions.weight").unwrap().get().to_vec::<f32>()?;
/// assert_eq!(y[..12], table[20..32]);
/// // More rows than there are positions is a mistake.
/// assert!(layer.forward(&Tensor::zeros(&dev, &[2, 17, 4]), Mode::Eval).error().is_some());
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Debug)]
pub struct LearnedPositions {
    weight: Result<Param, GraphError>,
}

impl LearnedPositions {
    /// A table of so many positions.
    #[track_caller]
    pub fn new(scope: &Scope, positions: usize, width: usize) -> LearnedPositions {
        let origin = Origin { layer: "LearnedPositions::new", location: Location::caller() };
        let weight = if positions == 0 || width == 0 {
            Err(origin.error(format!("positions and width must be positive, not {positions} and {width}")))
        } else {
            Ok(scope.parameter("weight", &[positions, width], Init::Normal { mean: 0.0, std: 0.02 }))
        };
        LearnedPositions { weight }
    }

    /// The rows of `x` with the vectors of the positions from `start` on.
    #[track_caller]
    #[must_use]
    pub fn at(&self, x: &Tensor, start: Start<'_>) -> Tensor {
        match &self.weight {
            Ok(weight) => add_rows("LearnedPositions", &weight.get(), x, start),
            Err(error) => Tensor::failed(x.device(), error.clone()),
        }
    }
}

impl Module for LearnedPositions {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        self.at(x, Start::Fixed(0))
    }
}

/// Waves of different lengths by position, added to the rows of a sequence (Vaswani et al., "Attention is all you need",
/// NeurIPS 2017): element `2i` of position `p` is `sin(p / 10000^(2i / width))`, element `2i + 1` the cosine of the same.
///
/// ```
/// use versant_nn::layers::{Mode, Module, SinusoidalPositions};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let layer = SinusoidalPositions::new(&dev, 8, 4);
/// let y = layer.forward(&Tensor::zeros(&dev, &[2, 4]), Mode::Eval).to_vec::<f32>()?;
/// assert_eq!(y[..4], [0.0, 1.0, 0.0, 1.0]);
/// assert_eq!(y[4..], [1f32.sin(), 1f32.cos(), 0.01f32.sin(), 0.01f32.cos()]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SinusoidalPositions {
    table: Tensor,
}

impl SinusoidalPositions {
    /// A table of so many positions, computed on the host. It is not stored with parameters.
    #[track_caller]
    pub fn new(device: &Device, positions: usize, width: usize) -> SinusoidalPositions {
        let element = |p: usize, e: usize| {
            let angle = p as f64 / 10_000f64.powf((e / 2 * 2) as f64 / width as f64);
            (if e.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
        };
        let values: Vec<f32> = (0..positions).flat_map(|p| (0..width).map(move |e| element(p, e))).collect();
        SinusoidalPositions { table: Tensor::from_slice(device, &values, &[positions, width]) }
    }

    /// The rows of `x` with the waves of the positions from `start` on.
    #[track_caller]
    #[must_use]
    pub fn at(&self, x: &Tensor, start: Start<'_>) -> Tensor {
        match self.table.error() {
            Some(error) => Tensor::failed(x.device(), error),
            None => add_rows("SinusoidalPositions", &self.table, x, start),
        }
    }
}

impl Module for SinusoidalPositions {
    fn forward(&self, x: &Tensor, _mode: Mode) -> Tensor {
        self.at(x, Start::Fixed(0))
    }
}

/// Rotary positions (Su et al., "RoFormer", 2021): turns pair `i` of a head's elements by the angle
/// `p · base^(-2i / width)` at position `p`, so that products of queries and keys depend on distances alone.
///
/// Pairs are elements `i` and `i + width / 2`, as in GPT-NeoX and Llama, or with [`interleaved`](Self::interleaved)
/// `2i` and `2i + 1`, as in the paper. Sines and cosines come from a table made on the host in f64; turning is one
/// elementwise expression, which fuses with what reads it.
///
/// ```
/// use versant_nn::layers::{Rotary, Start};
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let rotary = Rotary::new(&dev, 16, 2);
/// let x = Tensor::from_slice(&dev, &[1.0f32, 0.0, 1.0, 0.0], &[1, 2, 1, 2]);
/// let y = rotary.rotate(&x, Start::Fixed(0)).to_vec::<f32>()?;
/// assert_eq!(y, [1.0, 0.0, 1f32.cos(), 1f32.sin()]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rotary {
    origin: Origin,
    positions: usize,
    width: usize,
    base: f64,
    interleaved: bool,
    /// Cosines, and sines with the sign of what they are added to; both with axes for a pair and its two elements.
    tables: Result<[Tensor; 2], GraphError>,
}

impl Rotary {
    /// For so many positions and heads of `width` elements; the base is 10,000.
    #[track_caller]
    pub fn new(device: &Device, positions: usize, width: usize) -> Rotary {
        let origin = Origin { layer: "Rotary::new", location: Location::caller() };
        let tables = Err(origin.error(format!("the width must be even, not {width}")));
        Rotary { origin, positions, width, base: 10_000.0, interleaved: false, tables }.made(device)
    }

    /// Another base: larger ones turn more slowly, for longer sequences.
    #[must_use]
    pub fn base(mut self, base: f64) -> Rotary {
        self.base = base;
        match &self.tables {
            Ok([cos, _]) => {
                let device = cos.device().clone();
                self.made(&device)
            }
            Err(_) => self,
        }
    }

    /// Pairs of neighbours.
    #[must_use]
    pub fn interleaved(mut self) -> Rotary {
        self.interleaved = true;
        match &self.tables {
            Ok([cos, _]) => {
                let device = cos.device().clone();
                self.made(&device)
            }
            Err(_) => self,
        }
    }

    fn made(mut self, device: &Device) -> Rotary {
        let half = self.width / 2;
        if half == 0 || !self.width.is_multiple_of(2) {
            return self;
        }
        if !(self.base.is_finite() && self.base > 0.0) {
            self.tables = Err(self.origin.error(format!("the base must be positive, not {}", self.base)));
            return self;
        }
        let angle = |p: usize, i: usize| p as f64 * self.base.powf(-2.0 * i as f64 / self.width as f64);
        let all = || (0..self.positions).flat_map(|p| (0..half).map(move |i| (p, i)));
        let cos: Vec<f32> = all().map(|(p, i)| angle(p, i).cos() as f32).collect();
        let sin: Vec<f32> = all().map(|(p, i)| angle(p, i).sin() as f32).collect();
        let signed: Vec<f32> = if self.interleaved {
            sin.iter().flat_map(|&s| [-s, s]).collect()
        } else {
            sin.chunks(half).flat_map(|row| row.iter().map(|s| -s).chain(row.iter().copied())).collect()
        };
        let (one, two) = if self.interleaved { ([half, 1], [half, 2]) } else { ([1, half], [2, half]) };
        let table = |values: &[f32], [a, b]: [usize; 2]| {
            Tensor::from_slice(device, values, &[self.positions, 1, a, b])
        };
        self.tables = Ok([table(&cos, one), table(&signed, two)]);
        self
    }

    /// Positions in the table.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// `x` `[batch, length, heads, width]` turned by the positions from `start` on.
    #[track_caller]
    #[must_use]
    pub fn rotate(&self, x: &Tensor, start: Start<'_>) -> Tensor {
        let [cos, sin] = match &self.tables {
            Ok(tables) => tables,
            Err(error) => return Tensor::failed(x.device(), error.clone()),
        };
        if x.error().is_some() || x.rank() != 4 || x.shape()[3] != self.width || x.dtype() != DType::F32 {
            let why = format!("needs f32[batch, length, heads, {}]", self.width);
            return invalid("rotate", &[x], Location::caller(), why);
        }
        let half = self.width / 2;
        let (pair, axis) = if self.interleaved { ([half, 2], 4) } else { ([2, half], 3) };
        let length = x.shape()[1];
        let both = (start.rows("rotate", cos, x, length), start.rows("rotate", sin, x, length));
        let (cos, sin) = match both {
            (Ok(cos), Ok(sin)) => (cos, sin),
            (Err(failed), _) | (_, Err(failed)) => return failed,
        };
        let signed = |shape: &[usize]| shape.iter().map(|&d| d as isize).collect::<Vec<_>>();
        let pairs = x.reshape(&signed(&[&x.shape()[..3], &pair].concat()));
        // The other element of a pair is a view, so nothing is joined or copied.
        (&pairs * cos + pairs.flip(&[axis]) * sin).reshape(&signed(x.shape()))
    }
}

/// Linear biases in the place of positions (Press et al., "ALiBi", ICLR 2022): `-slope · distance` is added to the score
/// of a query and a key, with slopes `2^(-8/heads)`, `2^(-16/heads)`, …; for heads that are no power of two those of
/// the power below, and every other one of twice it.
///
/// The mask has a number for every head, query and key, and is in memory: attention with it reads them all.
///
/// ```
/// use versant_nn::layers::{Alibi, Start};
/// use versant_graph::Device;
/// let alibi = Alibi::new(&Device::cpu(), 8);
/// let mask = alibi.mask(2, 3, Start::Fixed(1));
/// assert_eq!(mask.shape(), [8, 2, 3]);
/// assert_eq!(mask.to_vec::<f32>()?[..6], [-0.5, 0.0, -0.5, -1.0, -0.5, 0.0]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Alibi {
    slopes: Tensor,
}

impl Alibi {
    /// Slopes for so many heads.
    #[track_caller]
    pub fn new(device: &Device, heads: usize) -> Alibi {
        let power = (heads + 1).next_power_of_two() / 2;
        let slope = |i: usize, of: usize| (-8.0 * (i + 1) as f64 / of as f64).exp2() as f32;
        let more = (0..heads.saturating_sub(power)).map(|i| slope(2 * i, 2 * power));
        let slopes: Vec<f32> = (0..power.min(heads)).map(|i| slope(i, power)).chain(more).collect();
        Alibi { slopes: Tensor::from_slice(device, &slopes, &[heads, 1, 1]) }
    }

    /// What is added to the scores `[heads, queries, keys]` of queries from position `start` on.
    #[track_caller]
    #[must_use]
    pub fn mask(&self, queries: usize, keys: usize, start: Start<'_>) -> Tensor {
        let device = self.slopes.device();
        let first = match start {
            Start::Fixed(first) => Tensor::scalar(device, i32::try_from(first).unwrap_or(i32::MAX)),
            Start::Runtime(first) => first.clone(),
        };
        let i = Tensor::arange(device, queries, DType::I32).unsqueeze(1) + first;
        let j = Tensor::arange(device, keys, DType::I32);
        -((i - j).abs().cast(DType::F32) * &self.slopes)
    }
}
