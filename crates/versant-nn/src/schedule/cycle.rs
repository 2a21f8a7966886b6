//! One cycle of a learning rate or of the momentum beside it.

use std::f64::consts::PI;

#[derive(Clone, PartialEq, Debug)]
pub(super) struct OneCycle {
    /// The values at the start, at the first corner, and at the end.
    start: f64,
    corner: f64,
    end: f64,
    /// What the corner is divided by for the start and the end; `None` for a momentum.
    divisors: Option<(f64, f64)>,
    total: u64,
    pub rise: f64,
    pub linear: bool,
    pub three: bool,
}

impl OneCycle {
    pub fn rate(max: f64, total: u64) -> OneCycle {
        let mut cycle = OneCycle::momentum(max, max, total);
        cycle.divisors = Some((25.0, 1e4));
        cycle.divide(25.0, 1e4);
        cycle
    }

    pub fn momentum(base: f64, max: f64, total: u64) -> OneCycle {
        let divisors = None;
        OneCycle {
            start: max,
            corner: base,
            end: max,
            divisors,
            total,
            rise: 0.3,
            linear: false,
            three: false,
        }
    }

    pub fn divide(&mut self, first: f64, last: f64) {
        if self.divisors.is_some() {
            self.divisors = Some((first, last));
            self.start = self.corner / first;
            self.end = self.start / last;
        }
    }

    /// The value at a step; the last one stays.
    pub fn at(&self, t: u64) -> f64 {
        let (total, last) = (self.total as f64, self.total.saturating_sub(1));
        let t = t.min(last) as f64;
        let last = last as f64;
        let up = self.rise * total - 1.0;
        let down = 2.0 * self.rise * total - 2.0;
        match self.three {
            _ if t <= up => self.between(self.start, self.corner, t, 0.0, up),
            false => self.between(self.corner, self.end, t, up, last),
            true if t <= down => self.between(self.corner, self.start, t, up, down),
            true => self.between(self.start, self.end, t, down, last),
        }
    }

    fn between(&self, from: f64, to: f64, t: f64, start: f64, end: f64) -> f64 {
        // A phase without length is over.
        let part = if end > start { (t - start) / (end - start) } else { 1.0 };
        match self.linear {
            true => (to - from) * part + from,
            false => to + (from - to) / 2.0 * ((PI * part).cos() + 1.0),
        }
    }
}
