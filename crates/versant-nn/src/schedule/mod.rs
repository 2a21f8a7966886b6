//! Learning rates as pure functions of the step or epoch: nothing to save, nothing to advance. [`Plateau`] alone
//! depends on what has been measured, and has a state.

mod cycle;
mod plateau;

use std::f64::consts::PI;

use cycle::OneCycle;
pub use plateau::Plateau;

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
    MultiStep { lr: f64, at: Vec<u64>, gamma: f64 },
    Polynomial { lr: f64, over: u64, power: f64 },
    Restarts { lr: f64, first: u64, factor: u64, floor: f64 },
    Cycle(OneCycle),
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

    /// `lr · gamma^(number of milestones up to t)`.
    pub fn multi_step(lr: f64, milestones: &[u64], gamma: f64) -> Schedule {
        Schedule(Kind::MultiStep { lr, at: milestones.to_vec(), gamma })
    }

    /// `lr (1 - t / over)^power`, and zero from `over` on.
    pub fn polynomial(lr: f64, over: u64, power: f64) -> Schedule {
        Schedule(Kind::Polynomial { lr, over, power })
    }

    /// A cosine as in [`Schedule::cosine`] over `first` steps, which then starts again, each time `factor` times longer
    /// (SGDR; Loshchilov and Hutter, ICLR 2017). The floor is zero.
    pub fn restarts(lr: f64, first: u64, factor: u64) -> Schedule {
        Schedule(Kind::Restarts { lr, first, factor, floor: 0.0 })
    }

    /// One cycle (Smith and Topin, "Super-convergence", 2017) of `total` steps: up a cosine from `max_lr / 25` to `max_lr`
    /// in the first 30 %, then down one to `max_lr / 250,000` at the last step, where it stays. See
    /// [`Schedule::rising_for`], [`Schedule::dividing_by`], [`Schedule::linear`] and [`Schedule::three_phases`].
    ///
    /// ```
    /// use versant_nn::Schedule;
    /// let rate = Schedule::one_cycle(0.5, 101).rising_for(0.5).linear();
    /// let momentum = Schedule::one_cycle_momentum(0.85, 0.95, 101).rising_for(0.5).linear();
    /// assert_eq!((rate.at(0), momentum.at(0)), (0.02, 0.95));
    /// assert!(rate.at(49) > 0.49 && momentum.at(49) < 0.852);
    /// assert!(rate.at(100) < 1e-5 && rate.at(1000) == rate.at(100));
    /// ```
    pub fn one_cycle(max_lr: f64, total: u64) -> Schedule {
        Schedule(Kind::Cycle(OneCycle::rate(max_lr, total)))
    }

    /// The momentum beside [`Schedule::one_cycle`], for [`crate::Optimizer::set_momentum`]: down from `max` to `base` while
    /// the rate rises, and up again. Usually 0.85 and 0.95.
    pub fn one_cycle_momentum(base: f64, max: f64, total: u64) -> Schedule {
        Schedule(Kind::Cycle(OneCycle::momentum(base, max, total)))
    }

    /// Sets the part of one cycle in which the rate rises, 0 to 1; other schedules stay as they are.
    #[must_use]
    pub fn rising_for(self, part: f64) -> Schedule {
        self.cycle(|c| c.rise = part)
    }

    /// Sets what the highest rate of one cycle is divided by for the first one, and that for the last one; other
    /// schedules stay as they are.
    #[must_use]
    pub fn dividing_by(self, first: f64, last: f64) -> Schedule {
        self.cycle(|c| c.divide(first, last))
    }

    /// Makes one cycle straight between its corners; other schedules stay as they are.
    #[must_use]
    pub fn linear(self) -> Schedule {
        self.cycle(|c| c.linear = true)
    }

    /// Lets one cycle fall to its first rate as fast as it rose, and only then to its last; other schedules stay as
    /// they are.
    #[must_use]
    pub fn three_phases(self) -> Schedule {
        self.cycle(|c| c.three = true)
    }

    fn cycle(mut self, change: impl FnOnce(&mut OneCycle)) -> Schedule {
        if let Kind::Cycle(cycle) = &mut self.0 {
            change(cycle);
        }
        self
    }

    /// Sets the floor of a cosine, also with restarts; other schedules stay as they are.
    #[must_use]
    pub fn floor(mut self, rate: f64) -> Schedule {
        if let Kind::Cosine { floor, .. } | Kind::Restarts { floor, .. } = &mut self.0 {
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
            Kind::MultiStep { lr, at, gamma } => {
                lr * gamma.powf(at.iter().filter(|&&milestone| milestone <= t).count() as f64)
            }
            Kind::Polynomial { over, .. } if t >= *over => 0.0,
            Kind::Polynomial { lr, over, power } => lr * (1.0 - t as f64 / *over as f64).powf(*power),
            Kind::Restarts { lr, first, factor, floor } => {
                let (since, over) = since_restart(t, *first, *factor);
                floor + (lr - floor) * (1.0 + (PI * since as f64 / over as f64).cos()) / 2.0
            }
            Kind::Cycle(cycle) => cycle.at(t),
            Kind::Then { first, at, .. } if t < *at => first.at(t),
            Kind::Then { at, next, .. } => next.at(t - at),
        }
    }
}

/// Steps since the latest restart, and how long this round is.
fn since_restart(t: u64, first: u64, factor: u64) -> (u64, u64) {
    let (mut since, mut over) = (t, first.max(1));
    if factor < 2 {
        return (since % over, over);
    }
    while since >= over {
        since -= over;
        over = over.saturating_mul(factor);
    }
    (since, over)
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
        assert_eq!(Schedule::polynomial(1.0, 0, 2.0).at(0), 0.0);
        assert_eq!(Schedule::restarts(1.0, 0, 0).at(3), 1.0);
        assert!(Schedule::restarts(1.0, 1, 2).at(u64::MAX).is_finite());
        for total in [0, 1, 2] {
            let cycle = Schedule::one_cycle(1.0, total).rising_for(0.0).three_phases();
            assert!((0..4).all(|t| (0.0..=1.0).contains(&cycle.at(t))), "{total}");
        }
        assert_eq!(Schedule::constant(1.0).linear().three_phases().at(1), 1.0);
    }

    #[test]
    fn exponential_is_a_power() {
        assert!((Schedule::exponential(0.5, 0.9).at(3) - 0.5 * 0.729).abs() < 1e-15);
        assert_eq!(Schedule::constant(0.5).at(u64::MAX), 0.5);
    }
}
