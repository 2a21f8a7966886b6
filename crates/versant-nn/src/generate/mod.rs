//! Generating sequences with a model that predicts the next token: sampling and beam search.
//!
//! A [`TokenModel`] gives the logits of the next token for each of several sequences; [`generate`] draws from them with
//! a [`Sampler`], [`BeamSearch`] looks for likely sequences. Both run on the host on one row of logits a sequence, and
//! are the same every time: draws follow from a [`Seed`](crate::Seed).
//!
//! ```
//! use versant_graph::{Device, GraphError, Tensor};
//! use versant_nn::generate::{Limits, Sampler, TokenModel, generate};
//! use versant_nn::layers::{Embedding, KvCache, LearnedPositions, Linear, TransformerConfig, TransformerEncoder};
//! use versant_nn::{Mode, Module, Params, Scope, Seed};
//!
//! /// A small GPT over ten tokens.
//! struct Gpt {
//!     tokens: Embedding,
//!     positions: LearnedPositions,
//!     trunk: TransformerEncoder,
//!     head: Linear,
//!     cache: KvCache,
//! }
//!
//! impl Gpt {
//!     fn new(scope: &Scope, rows: usize) -> Gpt {
//!         let config = TransformerConfig::new(16, 2).norm_first().causal();
//!         let trunk = TransformerEncoder::new(&(scope / "trunk"), &config, 2).final_norm();
//!         Gpt {
//!             tokens: Embedding::new(&(scope / "tokens"), 10, 16),
//!             positions: LearnedPositions::new(&(scope / "positions"), 32, 16),
//!             head: Linear::new(&(scope / "head"), 16, 10),
//!             cache: trunk.cache(rows, 32),
//!             trunk,
//!         }
//!     }
//! }
//!
//! impl TokenModel for Gpt {
//!     fn logits(&mut self, tokens: &Tensor) -> Tensor {
//!         let x = self.positions.at(&self.tokens.forward(tokens, Mode::Eval), self.cache.start());
//!         let y = self.trunk.step(&x, &mut self.cache);
//!         let last = y.narrow(1, y.shape()[1] - 1, 1).squeeze(1);
//!         self.head.forward(&last, Mode::Eval)
//!     }
//!
//!     fn reorder(&mut self, parents: &[usize]) {
//!         self.cache.select(parents);
//!     }
//! }
//!
//! let dev = Device::cpu();
//! let vs = Params::new(&dev, Seed(1));
//! let mut model = Gpt::new(&vs.root(), 2);
//! let mut sampler = Sampler::new(Seed(7)).temperature(0.8).top_k(5).top_p(0.9);
//! let prompts = [vec![1, 2, 3], vec![4, 5, 6]];
//! let made = generate(&mut model, &dev, &prompts, &mut sampler, Limits { tokens: 8, end: Some(0) })?;
//! assert_eq!(made.len(), 2);
//! assert!(made.iter().all(|row| row.iter().all(|&token| token < 10)));
//! # Ok::<(), versant_nn::generate::GenerateError>(())
//! ```

mod beam;
mod sampler;

use versant_graph::{Device, GraphError, Tensor};

pub use beam::{BeamSearch, Hypothesis};
pub use sampler::Sampler;

/// What can go wrong while sequences are generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The tensor engine or the device failed.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A number that configures sampling or search is out of its range.
    #[error("{what} is {value}, which is not {range}")]
    Parameter {
        /// Its name.
        what: &'static str,
        /// The value given.
        value: f64,
        /// The values allowed.
        range: &'static str,
    },
    /// A logit is not a number.
    #[error("the logit of token {token} is NaN")]
    NotANumber {
        /// The token.
        token: usize,
    },
    /// Every token is impossible: there are none, or all logits are -inf.
    #[error("none of {tokens} tokens is possible")]
    NothingPossible {
        /// Number of tokens.
        tokens: usize,
    },
    /// The model's logits have not the shape `[sequences, tokens]`.
    #[error("the model's logits are of {shape:?}, not of [{rows}, tokens]")]
    LogitShape {
        /// Their shape.
        shape: Vec<usize>,
        /// Number of sequences.
        rows: usize,
    },
    /// Prompts that go through a model side by side are not of one positive length.
    #[error("prompts must be of one length and not empty; they have {lengths:?} tokens")]
    Prompts {
        /// Their lengths.
        lengths: Vec<usize>,
    },
    /// A token's number does not fit the tensors of the engine.
    #[error("token {token} is above 2^31 - 1")]
    Token {
        /// The token.
        token: u32,
    },
}

/// The result of everything in this module that can fail.
pub type Result<T> = std::result::Result<T, GenerateError>;

/// A model that predicts the next token of some sequences, and remembers what it has seen of them.
pub trait TokenModel {
    /// The logits `[sequences, tokens]` of what follows these tokens, i32 `[sequences, length]`, each sequence's after
    /// all that it was given before. The first call has the prompts, every other one a token for each sequence.
    fn logits(&mut self, tokens: &Tensor) -> Tensor;

    /// From here on sequence `i` goes on from what sequence `parents[i]` has seen; there may be more or fewer sequences
    /// than before. Only beam search asks for it.
    fn reorder(&mut self, parents: &[usize]);
}

/// When [`generate`] ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most tokens that are made for a sequence.
    pub tokens: usize,
    /// The token with which a sequence ends.
    pub end: Option<u32>,
}

/// Tokens that follow the prompts, by sampling: for each prompt at most [`Limits::tokens`], the last of them
/// [`Limits::end`] if it came. The model must have seen nothing yet.
///
/// Each step gives the model one token a sequence, also for those that have ended, until all have.
///
/// # Errors
/// Prompts of different lengths; whatever the sampler refuses; a failing device.
pub fn generate(
    model: &mut dyn TokenModel,
    device: &Device,
    prompts: &[Vec<u32>],
    sampler: &mut Sampler,
    limits: Limits,
) -> Result<Vec<Vec<u32>>> {
    let mut input = tokens(device, prompts)?;
    let mut made: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut ended = vec![limits.tokens == 0; prompts.len()];
    while !ended.iter().all(|&e| e) {
        let rows = logits(model, &input, prompts.len())?;
        let mut next = Vec::with_capacity(prompts.len());
        for (i, row) in rows.iter().enumerate() {
            if ended[i] {
                next.push(vec![made[i].last().copied().unwrap_or(0)]);
                continue;
            }
            let seen: Vec<u32> = prompts[i].iter().chain(&made[i]).copied().collect();
            let token = sampler.sample(row, &seen)?;
            made[i].push(token);
            ended[i] = limits.end == Some(token) || made[i].len() >= limits.tokens;
            next.push(vec![token]);
        }
        input = tokens(device, &next)?;
    }
    Ok(made)
}

/// Sequences of one length as a tensor.
fn tokens(device: &Device, rows: &[Vec<u32>]) -> Result<Tensor> {
    let lengths = || rows.iter().map(Vec::len);
    let length = lengths().next().unwrap_or(1);
    if length == 0 || lengths().any(|n| n != length) {
        return Err(GenerateError::Prompts { lengths: lengths().collect() });
    }
    let number = |&token: &u32| i32::try_from(token).map_err(|_| GenerateError::Token { token });
    let all: Vec<i32> = rows.iter().flatten().map(number).collect::<Result<_>>()?;
    Ok(Tensor::from_slice(device, &all, &[rows.len(), length]))
}

/// A row of logits for each sequence.
fn logits(model: &mut dyn TokenModel, input: &Tensor, rows: usize) -> Result<Vec<Vec<f32>>> {
    let y = model.logits(input);
    if let Some(error) = y.error() {
        return Err(error.into());
    }
    if y.rank() != 2 || y.shape()[0] != rows {
        return Err(GenerateError::LogitShape { shape: y.shape().to_vec(), rows });
    }
    let width = y.shape()[1];
    if width == 0 {
        return Err(GenerateError::NothingPossible { tokens: 0 });
    }
    Ok(y.to_vec::<f32>()?.chunks(width).map(<[f32]>::to_vec).collect())
}

/// Refuses logits that are no numbers or all impossible; returns the largest.
fn checked(logits: &[f32]) -> Result<f32> {
    if let Some(token) = logits.iter().position(|l| l.is_nan()) {
        return Err(GenerateError::NotANumber { token });
    }
    match logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) {
        f32::NEG_INFINITY => Err(GenerateError::NothingPossible { tokens: logits.len() }),
        max => Ok(max),
    }
}

/// Logits as logarithms of probabilities, in f64. Infinite logits share all of it.
fn log_probabilities(logits: &[f32]) -> Result<Vec<f64>> {
    let max = checked(logits)?;
    let shifted = |&l: &f32| if l == max { 0.0 } else { f64::from(l) - f64::from(max) };
    let log_sum = logits.iter().map(|l| shifted(l).exp()).sum::<f64>().ln();
    Ok(logits.iter().map(|l| shifted(l) - log_sum).collect())
}

/// Tokens from the most to the least likely; of equals the lower number comes first.
fn ranked(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests;
