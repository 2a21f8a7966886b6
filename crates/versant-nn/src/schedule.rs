//! Learning rates as pure functions of the step or epoch: nothing to save, nothing to advance.

use std::f64::consts::PI;

/// A learning rate that depends on a step or epoch, counted from zero. The values are those of PyTorch's
/// schedulers of the same kind.
///
/// ```
/// use versant_nn::Schedule;
/// // From 0.01 to 0.1 in five epochs, then down a cosine to 0.001 in 25.
/// let lr = Schedule::warmup(0.1, 0.1, 5).then(5, Schedule::cosine(0.1, 25).floor(0.001));
/// assert!((lr.at(0) - 0.01).abs() < 1e-12);
/// assert!((lr.at(5) - 0.1).abs() < 1e-12);
/// assert!((lr.at(30) - 0.001).abs() < 1e-12);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule(Kind);

#[derive(Clone, PartialEq, Debug)]
enum Kind {
    Constant { lr: f64 },
    Step { lr: f64, every: u64, gamma: f64 },
    Exponential { lr: f64, gamma: f64 },
    Cosine { lr: f64, over: u64, floor: f64 },
    Warmup { lr: f64, from: f64, over: u64 },
    Then { first: Box<Schedule>, at: u64, next: Box<Schedule> },
}

impl Schedule {
    /// Always `lr`.
    pub fn constant(lr: f64) -> Schedule {
        Schedule(Kind::Constant { lr })
    }

    /// `lr · gamma^⌊t / every⌋`.
    pub fn step(lr: f64, every: u64, gamma: f64) -> Schedule {
        Schedule(Kind::Step { lr, every, gamma })
    }

    /// `lr · gamma^t`.
    pub fn exponential(lr: f64, gamma: f64) -> Schedule {
        Schedule(Kind::Exponential { lr, gamma })
    }

    /// `floor + (lr - floor)(1 + cos(π t / over)) / 2`, and the floor from `over` on (Loshchilov and Hutter,
    /// ICLR 2017). The floor is zero.
    pub fn cosine(lr: f64, over: u64) -> Schedule {
        Schedule(Kind::Cosine { lr, over, floor: 0.0 })
    }

    /// Sets the floor of a cosine; other schedules stay as they are.
    #[must_use]
    pub fn floor(mut self, rate: f64) -> Schedule {
        if let Kind::Cosine { floor, .. } = &mut self.0 {
            *floor = rate;
        }
        self
    }

    /// In a line from `from · lr` at zero to `lr` at `over`, and `lr` from there.
    pub fn warmup(lr: f64, from: f64, over: u64) -> Schedule {
        Schedule(Kind::Warmup { lr, from, over })
    }

    /// `lr (t + 1) / warmup` while `t < warmup`, then a cosine to zero at `total`.
    pub fn warmup_cosine(lr: f64, warmup: u64, total: u64) -> Schedule {
        let cosine = Schedule::cosine(lr, total.saturating_sub(warmup));
        match warmup {
            0 => cosine,
            _ => Schedule::warmup(lr, 1.0 / warmup as f64, warmup - 1).then(warmup, cosine),
        }
    }

    /// This schedule before `at`, and `next`, counted from `at`, from there.
    #[must_use]
    pub fn then(self, at: u64, next: Schedule) -> Schedule {
        Schedule(Kind::Then { first: Box::new(self), at, next: Box::new(next) })
    }

    /// The learning rate at a step or epoch.
    pub fn at(&self, t: u64) -> f64 {
        match &self.0 {
            Kind::Constant { lr } => *lr,
            Kind::Step { lr, every, gamma } => lr * gamma.powf((t / (*every).max(1)) as f64),
            Kind::Exponential { lr, gamma } => lr * gamma.powf(t as f64),
            Kind::Cosine { floor, over, .. } if t >= *over => *floor,
            Kind::Cosine { lr, over, floor } => {
                floor + (lr - floor) * (1.0 + (PI * t as f64 / *over as f64).cos()) / 2.0
            }
            Kind::Warmup { lr, over, .. } if t >= *over => *lr,
            Kind::Warmup { lr, from, over } => lr * (from + (1.0 - from) * t as f64 / *over as f64),
            Kind::Then { first, at, .. } if t < *at => first.at(t),
            Kind::Then { at, next, .. } => next.at(t - at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degenerate_lengths_are_harmless() {
        assert_eq!(Schedule::cosine(1.0, 0).at(0), 0.0);
        assert_eq!(Schedule::warmup(1.0, 0.0, 0).at(0), 1.0);
        assert_eq!(Schedule::step(1.0, 0, 0.5).at(1), 0.5);
        assert_eq!(Schedule::warmup_cosine(1.0, 0, 0).at(7), 0.0);
        assert_eq!(Schedule::warmup_cosine(1.0, 9, 3).at(8), 1.0);
    }

    #[test]
    fn exponential_is_a_power() {
        assert!((Schedule::exponential(0.5, 0.9).at(3) - 0.5 * 0.729).abs() < 1e-15);
        assert_eq!(Schedule::constant(0.5).at(u64::MAX), 0.5);
    }
}
