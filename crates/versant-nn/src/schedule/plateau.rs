//! A learning rate that falls when a measure stops improving.

use serde_json::{Value, json};

use crate::error::{NnError, Result};

/// Multiplies the learning rate by a factor when a measure has not improved for a while: PyTorch's
/// `ReduceLROnPlateau`, with its numbers.
///
/// By default the measure is a loss (less is better), an improvement is one of more than 0.01 %, and after 10 epochs
/// without one in a row, the 11th multiplies the rate by 0.1.
///
/// ```
/// use versant_nn::Plateau;
/// let mut plateau = Plateau::new(0.1).patience(1).factor(0.5);
/// let rates: Vec<f64> = [3.0, 2.0, 2.0, 2.5, 1.0].map(|loss| plateau.observe(loss)).to_vec();
/// assert_eq!(rates, [0.1, 0.1, 0.1, 0.05, 0.05]);
/// // Into a checkpoint's `user` entries and back.
/// let mut resumed = Plateau::new(0.1).patience(1).factor(0.5);
/// resumed.load_state(&plateau.state())?;
/// assert_eq!(resumed, plateau);
/// # Ok::<(), versant_nn::NnError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Plateau {
    lr: f64,
    best: Option<f64>,
    bad: u64,
    cooling: u64,
    more_is_better: bool,
    absolute: bool,
    factor: f64,
    patience: u64,
    threshold: f64,
    cooldown: u64,
    min_lr: f64,
    eps: f64,
}

impl Plateau {
    /// Starts from this rate.
    pub fn new(lr: f64) -> Plateau {
        Plateau {
            lr,
            best: None,
            bad: 0,
            cooling: 0,
            more_is_better: false,
            absolute: false,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
        }
    }

    /// The measure is one of which more is better, such as an accuracy.
    #[must_use]
    pub fn more_is_better(mut self) -> Plateau {
        self.more_is_better = true;
        self
    }

    /// Sets what the rate is multiplied by, in `[0, 1)`.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Plateau {
        self.factor = factor;
        self
    }

    /// Sets how many measures in a row may be no improvement.
    #[must_use]
    pub fn patience(mut self, measures: u64) -> Plateau {
        self.patience = measures;
        self
    }

    /// Sets the part of the best measure by which another one must be better to count.
    #[must_use]
    pub fn threshold(mut self, part: f64) -> Plateau {
        (self.threshold, self.absolute) = (part, false);
        self
    }

    /// Sets the difference from the best measure by which another one must be better to count.
    #[must_use]
    pub fn absolute_threshold(mut self, difference: f64) -> Plateau {
        (self.threshold, self.absolute) = (difference, true);
        self
    }

    /// Sets for how many measures after a reduction bad ones are not counted.
    #[must_use]
    pub fn cooldown(mut self, measures: u64) -> Plateau {
        self.cooldown = measures;
        self
    }

    /// Sets the lowest rate.
    #[must_use]
    pub fn min_lr(mut self, rate: f64) -> Plateau {
        self.min_lr = rate;
        self
    }

    /// Sets the smallest reduction that is made.
    #[must_use]
    pub fn eps(mut self, difference: f64) -> Plateau {
        self.eps = difference;
        self
    }

    /// The learning rate now.
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// Takes a measure, usually once an epoch, and returns the learning rate from here on. A measure that is NaN is no
    /// improvement.
    pub fn observe(&mut self, measure: f64) -> f64 {
        if self.improves(measure) {
            (self.best, self.bad) = (Some(measure), 0);
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            (self.cooling, self.bad) = (self.cooling - 1, 0);
        }
        if self.bad > self.patience {
            let lower = (self.lr * self.factor).max(self.min_lr);
            if self.lr - lower > self.eps {
                self.lr = lower;
            }
            (self.cooling, self.bad) = (self.cooldown, 0);
        }
        self.lr
    }

    fn improves(&self, measure: f64) -> bool {
        let worst = if self.more_is_better { f64::NEG_INFINITY } else { f64::INFINITY };
        let best = self.best.unwrap_or(worst);
        match (self.more_is_better, self.absolute) {
            (false, false) => measure < best * (1.0 - self.threshold),
            (false, true) => measure < best - self.threshold,
            (true, false) => measure > best * (1.0 + self.threshold),
            (true, true) => measure > best + self.threshold,
        }
    }

    /// What has been seen, as a text for [`crate::Checkpoint::user`]; the settings are not in it.
    pub fn state(&self) -> String {
        // Rust prints the shortest text that reads back as the same number.
        let best = self.best.map(|b| b.to_string());
        json!({"lr": self.lr.to_string(), "best": best, "bad": self.bad, "cooling": self.cooling}).to_string()
    }

    /// Continues from [`Plateau::state`].
    ///
    /// # Errors
    /// A text that is no such state; nothing has changed then.
    pub fn load_state(&mut self, state: &str) -> Result<()> {
        let parsed = serde_json::from_str::<Value>(state).ok().and_then(|v| parse(&v));
        let Some((lr, best, bad, cooling)) = parsed else {
            return Err(NnError::BadState { what: "a plateau schedule", text: state.to_owned() });
        };
        (self.lr, self.best, self.bad, self.cooling) = (lr, best, bad, cooling);
        Ok(())
    }
}

fn parse(state: &Value) -> Option<(f64, Option<f64>, u64, u64)> {
    let number = |v: &Value| v.as_str()?.parse::<f64>().ok();
    let best = match &state["best"] {
        Value::Null => None,
        best => Some(number(best)?),
    };
    Some((number(&state["lr"])?, best, state["bad"].as_u64()?, state["cooling"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_state_changes_nothing() {
        let mut plateau = Plateau::new(0.1);
        plateau.observe(f64::NAN);
        plateau.observe(1.0 / 3.0);
        let before = plateau.clone();
        let whole = plateau.state();
        for bad in ["", "{}", "[1]", &whole[1..], &whole.replace("0.1", "x")] {
            assert!(matches!(plateau.load_state(bad), Err(NnError::BadState { .. })), "{bad}");
        }
        assert_eq!(plateau, before);
        plateau.load_state(&whole).expect("its own");
        assert_eq!(plateau, before);
    }
}
