//! Averages of the weights over the steps.

use crate::error::{NnError, Result};

/// An average of the parameters that an optimiser keeps beside them: `a ← a + w (p - a)` after each step, in the
/// launch of the step. Use it by [`crate::Optimizer::swap_average`] for evaluation, or read it by
/// [`crate::Optimizer::averages`]; it is part of [`crate::OptimizerState`]. Buffers are not averaged: swapped
/// parameters see the running statistics of the training ones. Where that matters (equal averages of weights that are far
/// apart, with batch normalisation), pass training data through the swapped net in training mode once.
///
/// The first average is the parameters themselves, as in PyTorch's `AveragedModel`.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{Average, Init, Optimizer, Params, Seed, Sgd};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[1], Init::Ones);
/// let mut opt = Sgd::new(&vs, 1.0).average(Average::exponential(0.5));
/// for _ in 0..3 {
///     opt.step(w.get().sum_all().backward()?)?; // w = 0, -1, -2
/// }
/// opt.swap_average()?;
/// assert_eq!(w.get().to_vec::<f32>()?, [-1.25]);
/// opt.swap_average()?;
/// assert_eq!(w.get().to_vec::<f32>()?, [-2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Average {
    kind: Kind,
    from: u64,
    every: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Exponential { decay: f64, warm_up: bool },
    Equal,
}

impl Average {
    /// An exponential moving average, `a ← d a + (1 - d) p` (Polyak and Juditsky, 1992, with a memory of about
    /// `1 / (1 - d)` steps), with the decay `d` in `[0, 1)`.
    pub fn exponential(decay: f64) -> Average {
        Average { kind: Kind::Exponential { decay, warm_up: false }, from: 1, every: 1 }
    }

    /// The plain mean of all weights taken: stochastic weight averaging (Izmailov et al., UAI 2018), usually with
    /// [`Average::since`] and [`Average::every`].
    pub fn equal() -> Average {
        Average { kind: Kind::Equal, from: 1, every: 1 }
    }

    /// Lets the decay of an exponential average rise, `min(d, (1 + n) / (10 + n))` after `n` averagings, so that
    /// the first weights are forgotten sooner (TensorFlow's `num_updates`). Other averages stay as they are.
    #[must_use]
    pub fn warm_up(mut self) -> Average {
        if let Kind::Exponential { warm_up, .. } = &mut self.kind {
            *warm_up = true;
        }
        self
    }

    /// Takes the weights after this step for the first time; steps count from one.
    #[must_use]
    pub fn since(mut self, step: u64) -> Average {
        self.from = step;
        self
    }

    /// Takes the weights after each `steps`-th step only.
    #[must_use]
    pub fn every(mut self, steps: u64) -> Average {
        self.every = steps;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if let Kind::Exponential { decay, .. } = self.kind {
            super::below_one("the decay of the average", decay)?;
        }
        let positive = |what, value: u64| match value {
            0 => Err(NnError::Hyperparameter { what, value: 0.0, range: "at least 1" }),
            _ => Ok(()),
        };
        positive("the first step to average", self.from)?;
        positive("the number of steps between averagings", self.every)
    }

    /// How often the weights have been taken after this many steps.
    pub(super) fn taken(&self, count: u64) -> u64 {
        count.checked_sub(self.from).map_or(0, |since| since / self.every.max(1) + 1)
    }

    /// The weight `w` of the parameters after step `count`: a function of that alone, so that nothing but the
    /// averages need be saved.
    pub(super) fn weight(&self, count: u64) -> f64 {
        let before = self.taken(count.saturating_sub(1));
        let n = before as f64;
        match self.kind {
            _ if self.taken(count) == before => 0.0,
            _ if before == 0 => 1.0,
            Kind::Exponential { decay, warm_up: false } => 1.0 - decay,
            Kind::Exponential { decay, .. } => 1.0 - decay.min((1.0 + n) / (10.0 + n)),
            Kind::Equal => 1.0 / (n + 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_a_mean() {
        let mean = Average::equal().since(3).every(2);
        let weights: Vec<f64> = (1..=8).map(|t| mean.weight(t)).collect();
        assert_eq!(weights, [0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 1.0 / 3.0, 0.0]);
        assert_eq!((mean.taken(2), mean.taken(8)), (0, 3));
        let warm = Average::exponential(0.5).warm_up();
        assert_eq!(warm.weight(1), 1.0);
        assert!((warm.weight(2) - (1.0 - 2.0 / 11.0)).abs() < 1e-15);
        assert_eq!(warm.weight(1000), 0.5);
        assert_eq!(warm.weight(u64::MAX), 0.5);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!(Average::exponential(1.0).check().is_err());
        assert!(Average::equal().since(0).check().is_err());
        assert!(Average::equal().every(0).check().is_err());
        assert!(Average::equal().since(7).every(7).check().is_ok());
    }
}
