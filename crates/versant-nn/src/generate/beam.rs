//! Beam search.

use versant_graph::Device;

use super::{GenerateError, Result, TokenModel, log_probabilities, logits, ranked, tokens};

/// Looks for the likeliest sequences that follow a prompt, going on from the best few at every step.
///
/// A sequence of `n` tokens scores `log p / n^penalty` (as in the library `transformers`; the division by a power of the
/// length goes back to Wu et al., "Google's neural machine translation system", 2016). A step takes the `2 · beams` best
/// continuations of all beams; those that end are kept apart, and the first `beams` others go on. Search of a prompt
/// ends when no beam can still score above the worst of its `beams` best endings, so the score never gets worse by
/// stopping early.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::generate::{BeamSearch, TokenModel};
///
/// /// Token 0 ends. After 3: 1 (0.6) or 2 (0.4). After 1 the rest is unlikely, after 2 the end is sure.
/// struct Table;
///
/// impl TokenModel for Table {
///     fn logits(&mut self, tokens: &Tensor) -> Tensor {
///         let (rows, length) = (tokens.shape()[0], tokens.shape()[1]);
///         let all = tokens.to_vec::<i32>().unwrap();
///         let p = |row: usize| match all[row * length + length - 1] {
///             3 => [0.0f32, 0.6, 0.4, 0.0],
///             1 => [0.4, 0.3, 0.3, 0.0],
///             _ => [1.0, 0.0, 0.0, 0.0],
///         };
///         let logits: Vec<f32> = (0..rows).flat_map(p).map(f32::ln).collect();
///         Tensor::from_slice(tokens.device(), &logits, &[rows, 4])
///     }
///
///     fn reorder(&mut self, _parents: &[usize]) {} // It remembers nothing.
/// }
///
/// let search = BeamSearch::new(2, 5).end(0).length_penalty(0.0);
/// let found = search.run(&mut Table, &Device::cpu(), &[vec![3]])?;
/// // 0.4 · 1, where greedy search finds 0.6 · 0.4.
/// assert_eq!(found[0][0].tokens, [2, 0]);
/// assert!((found[0][0].log_probability - 0.4f64.ln()).abs() < 1e-6);
/// # Ok::<(), versant_nn::generate::GenerateError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BeamSearch {
    beams: usize,
    tokens: usize,
    penalty: f64,
    end: Option<u32>,
}

/// A sequence that beam search has found.
#[derive(Clone, PartialEq, Debug)]
pub struct Hypothesis {
    /// What follows the prompt, with the end's token if it came.
    pub tokens: Vec<u32>,
    /// The logarithm of its probability.
    pub log_probability: f64,
    /// That, divided by the power of the length.
    pub score: f64,
}

/// A sequence that may go on; -inf where there is none.
#[derive(Clone, Debug)]
struct Beam {
    tokens: Vec<u32>,
    log: f64,
}

/// The search of one prompt.
#[derive(Clone, Debug)]
struct Search {
    beams: Vec<Beam>,
    found: Vec<Hypothesis>,
    is_done: bool,
}

impl BeamSearch {
    /// So many beams, and at most so many tokens. Without an end every sequence has all of them.
    pub fn new(beams: usize, tokens: usize) -> BeamSearch {
        BeamSearch { beams, tokens, penalty: 1.0, end: None }
    }

    /// The power of the length; 1 if it is not given, 0 compares probabilities. Larger ones prefer longer sequences.
    #[must_use]
    pub fn length_penalty(mut self, penalty: f64) -> BeamSearch {
        self.penalty = penalty;
        self
    }

    /// The token with which a sequence ends.
    #[must_use]
    pub fn end(mut self, token: u32) -> BeamSearch {
        self.end = Some(token);
        self
    }

    /// For each prompt the sequences found, at most as many as there are beams, the best first. The model must have seen
    /// nothing yet; it runs `prompts · beams` sequences from the second step on.
    ///
    /// # Errors
    /// No beams; a penalty that is not finite; prompts of different lengths; logits of which one is NaN or none possible;
    /// a failing device.
    pub fn run(
        &self,
        model: &mut dyn TokenModel,
        device: &Device,
        prompts: &[Vec<u32>],
    ) -> Result<Vec<Vec<Hypothesis>>> {
        let bad = |what, value, range| Err(GenerateError::Parameter { what, value, range });
        if self.beams == 0 {
            return bad("the number of beams", 0.0, "at least 1");
        }
        if !self.penalty.is_finite() {
            return bad("the length penalty", self.penalty, "finite");
        }
        let start = Beam { tokens: Vec::new(), log: 0.0 };
        let search = Search { beams: vec![start], found: Vec::new(), is_done: false };
        let mut all = vec![search; prompts.len()];
        let mut input = tokens(device, prompts)?;
        for length in 1..=self.tokens {
            let count: usize = all.iter().map(|s| s.beams.len()).sum();
            let rows = logits(model, &input, count)?;
            let mut rows = rows.iter();
            let (mut parents, mut next) = (Vec::new(), Vec::new());
            let mut first = 0;
            for search in &mut all {
                let own: Vec<&Vec<f32>> = rows.by_ref().take(search.beams.len()).collect();
                let width = own.len();
                for parent in self.advance(search, &own, length)? {
                    parents.push(first + parent);
                }
                next.extend(search.beams.iter().map(|b| vec![b.tokens.last().copied().unwrap_or(0)]));
                first += width;
            }
            if length == self.tokens || all.iter().all(|s| s.is_done) {
                break;
            }
            model.reorder(&parents);
            input = tokens(device, &next)?;
        }
        Ok(all.into_iter().map(|search| self.best(search)).collect())
    }

    /// One step of a prompt's search, over a row of logits a beam; returns the beam that each new one follows.
    fn advance(&self, search: &mut Search, rows: &[&Vec<f32>], length: usize) -> Result<Vec<usize>> {
        let mut parents = Vec::with_capacity(self.beams);
        let mut beams = Vec::with_capacity(self.beams);
        if !search.is_done {
            let mut sums = Vec::new();
            let width = rows.first().map_or(0, |row| row.len());
            for (beam, row) in search.beams.iter().zip(rows) {
                // A beam that is not there may have seen anything.
                if beam.log == f64::NEG_INFINITY {
                    sums.extend(row.iter().map(|_| f64::NEG_INFINITY));
                } else {
                    sums.extend(log_probabilities(row)?.iter().map(|log| beam.log + log));
                }
            }
            for at in ranked(&sums).into_iter().take(2 * self.beams) {
                let (parent, token) = (at / width, u32::try_from(at % width).unwrap_or(u32::MAX));
                if sums[at] == f64::NEG_INFINITY || beams.len() == self.beams {
                    break;
                }
                let mut tokens = search.beams[parent].tokens.clone();
                tokens.push(token);
                if self.end == Some(token) {
                    search.found.push(self.scored(tokens, sums[at]));
                } else {
                    parents.push(parent);
                    beams.push(Beam { tokens, log: sums[at] });
                }
            }
            search.is_done = self.is_over(search, &beams, length);
        }
        // The model runs as many sequences at every step, so that all of them are one plan.
        let filling = search.beams.first().cloned().map(|b| Beam { log: f64::NEG_INFINITY, ..b });
        while let (true, Some(filling)) = (beams.len() < self.beams, &filling) {
            parents.push(0);
            beams.push(filling.clone());
        }
        search.beams = beams;
        Ok(parents)
    }

    /// Whether no beam can still become one of the best.
    fn is_over(&self, search: &mut Search, beams: &[Beam], length: usize) -> bool {
        search.found.sort_by(|a, b| b.score.total_cmp(&a.score));
        search.found.truncate(self.beams);
        let best = beams.iter().map(|b| b.log).fold(f64::NEG_INFINITY, f64::max);
        let worst = search.found.last().map(|h| h.score);
        // Logarithms only fall. What they are divided by grows with the length, or falls if the power is negative.
        let longest = if self.penalty > 0.0 { self.tokens } else { length + 1 };
        let bound = best / (longest as f64).powf(self.penalty);
        best == f64::NEG_INFINITY || search.found.len() == self.beams && worst >= Some(bound)
    }

    fn scored(&self, tokens: Vec<u32>, log: f64) -> Hypothesis {
        let score = log / (tokens.len().max(1) as f64).powf(self.penalty);
        Hypothesis { tokens, log_probability: log, score }
    }

    /// The best sequences of a search; those that have not ended count if it has not.
    fn best(&self, search: Search) -> Vec<Hypothesis> {
        let mut found = search.found;
        if !search.is_done {
            let open = search.beams.into_iter().filter(|b| b.log > f64::NEG_INFINITY);
            found.extend(open.map(|b| self.scored(b.tokens, b.log)));
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(self.beams);
        found
    }
}
