//! Drawing one token from logits.

use std::collections::BTreeSet;

use versant_graph::{RandomKey, random};

use super::{GenerateError, Result, checked, log_probabilities, ranked};
use crate::Seed;

/// How a token is drawn from logits: the most likely, or by chance, from all tokens or the most likely ones.
///
/// In this order: the repetition penalty changes logits of tokens that were seen; the temperature divides them; the
/// softmax gives probabilities; `top_k` and then `top_p` keep the most likely, whose probabilities are divided by their
/// sum. Draw `n` of a sampler depends on its seed and on `n` alone.
///
/// ```
/// use versant_nn::Seed;
/// use versant_nn::generate::Sampler;
/// let logits = [3f32.ln(), 1f32.ln(), 4f32.ln(), 2f32.ln()];
/// // Of 3, 1, 4 and 2 tenths the two largest; then sevenths.
/// let p = Sampler::new(Seed(1)).top_k(2).distribution(&logits, &[])?;
/// assert!((p[0] - 3.0 / 7.0).abs() < 1e-6 && (p[2] - 4.0 / 7.0).abs() < 1e-6 && p[1] + p[3] == 0.0);
/// assert_eq!(Sampler::greedy().sample(&logits, &[])?, 2);
/// # Ok::<(), versant_nn::generate::GenerateError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    top_k: Option<usize>,
    top_p: Option<f32>,
    penalty: f32,
    key: RandomKey,
    drawn: u64,
}

impl Sampler {
    /// By chance, from all tokens, as likely as the model says.
    pub fn new(seed: Seed) -> Sampler {
        let key = RandomKey::new(seed.0).split("sampler");
        Sampler { temperature: 1.0, top_k: None, top_p: None, penalty: 1.0, key, drawn: 0 }
    }

    /// Always the most likely token; of equals the one of the lowest number.
    pub fn greedy() -> Sampler {
        Sampler { temperature: 0.0, ..Sampler::new(Seed(0)) }
    }

    /// Divides logits: below 1 likely tokens become likelier; 0 is [`Sampler::greedy`].
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Sampler {
        self.temperature = temperature;
        self
    }

    /// Only the `k` most likely tokens (Fan et al., ACL 2018), at least 1; of equals those of lower numbers.
    #[must_use]
    pub fn top_k(mut self, k: usize) -> Sampler {
        self.top_k = Some(k);
        self
    }

    /// Only the fewest most likely tokens that have the share `p` of the probability together, above 0 and at most 1
    /// (Holtzman et al., "The curious case of neural text degeneration", ICLR 2020).
    #[must_use]
    pub fn top_p(mut self, p: f32) -> Sampler {
        self.top_p = Some(p);
        self
    }

    /// Divides positive logits of tokens that were seen by this, and multiplies negative ones (Keskar et al., "CTRL",
    /// 2019): above 1 they become less likely. 1.2 is what the paper uses.
    #[must_use]
    pub fn repetition_penalty(mut self, penalty: f32) -> Sampler {
        self.penalty = penalty;
        self
    }

    fn check(&self) -> Result<()> {
        let bad = |what, value: f64, range| Err(GenerateError::Parameter { what, value, range });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return bad("the temperature", self.temperature.into(), "finite and at least 0");
        }
        if !(self.penalty.is_finite() && self.penalty > 0.0) {
            return bad("the repetition penalty", self.penalty.into(), "finite and above 0");
        }
        if self.top_k == Some(0) {
            return bad("top_k", 0.0, "at least 1");
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => bad("top_p", p.into(), "above 0 and at most 1"),
            _ => Ok(()),
        }
    }

    /// The probability of each token, of which it is drawn; `seen` are the tokens before it.
    ///
    /// # Errors
    /// Logits of which one is NaN or none possible; a number of this sampler that is out of its range.
    pub fn distribution(&self, logits: &[f32], seen: &[u32]) -> Result<Vec<f64>> {
        self.check()?;
        checked(logits)?;
        let mut logits = logits.to_vec();
        for token in seen.iter().copied().collect::<BTreeSet<u32>>() {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / self.penalty } else { *logit * self.penalty };
            }
        }
        let mut p = vec![0.0; logits.len()];
        if self.temperature == 0.0 {
            let likely = ranked(&log_probabilities(&logits)?)[0];
            p[likely] = 1.0;
            return Ok(p);
        }
        // The maximum is taken off first: a small temperature must not make infinities of large logits.
        let max = checked(&logits)?;
        let cooled = |&l: &f32| if l == max { 0.0 } else { (l - max) / self.temperature };
        let log = log_probabilities(&logits.iter().map(cooled).collect::<Vec<_>>())?;
        let order = ranked(&log);
        let mut kept = order.len().min(self.top_k.unwrap_or(usize::MAX));
        let weights: Vec<f64> = order.iter().take(kept).map(|&token| log[token].exp()).collect();
        if let Some(share) = self.top_p {
            let total: f64 = weights.iter().sum();
            let mut sum = 0.0;
            let enough = weights.iter().position(|w| {
                sum += w;
                sum >= f64::from(share) * total
            });
            kept = enough.map_or(kept, |last| last + 1);
        }
        let total: f64 = weights[..kept].iter().sum();
        for (&token, weight) in order[..kept].iter().zip(&weights) {
            p[token] = weight / total;
        }
        Ok(p)
    }

    /// Draws a token; `seen` are the tokens before it.
    ///
    /// # Errors
    /// As [`Sampler::distribution`].
    pub fn sample(&mut self, logits: &[f32], seen: &[u32]) -> Result<u32> {
        let p = self.distribution(logits, seen)?;
        let draw = random::uniform(self.key.fold(self.drawn).words(), 2);
        self.drawn += 1;
        // 48 bits, so that tokens below 2^-24 come, too.
        let u = f64::from(draw[0]) + f64::from(draw[1]) / f64::from(1u32 << 24);
        let mut sum = 0.0;
        let at = p.iter().position(|&w| {
            sum += w;
            u < sum
        });
        // Rounding may leave the sum just below 1.
        let token = at.or_else(|| p.iter().rposition(|&w| w > 0.0)).unwrap_or(0);
        Ok(u32::try_from(token).unwrap_or(u32::MAX))
    }
}
