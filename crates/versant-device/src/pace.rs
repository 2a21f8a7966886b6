//! How long launches take, and where a run is cut so that no submission trips a driver's watchdog.
//!
//! A driver resets a device that does not answer for about two seconds. So a run whose launches may take longer
//! than [`MAX_SUBMISSION`] together goes out in several submissions; a launch is never cut. Until a run was timed,
//! a launch's time is guessed from its [`Cost`] and from rates that even a slow adapter of the class reaches with a
//! kernel that does not suit it: a submission too many costs some 20 us, one too few costs the device.

use std::time::Duration;

use crate::info::AdapterClass;
use crate::recording::{Cost, Recording};

/// Longest time that the launches of one submission should take together.
pub const MAX_SUBMISSION: Duration = Duration::from_millis(500);

/// The times of a recording's launches in nanoseconds, guessed or measured, and the cuts that follow from them.
#[derive(Debug)]
pub(crate) struct Pace {
    nanos: Vec<u64>,
    /// The launches in the order of their executions, those of a loop once for each trip.
    order: Vec<u32>,
    /// Whether a new submission begins with each execution.
    cuts: Vec<bool>,
}

/// FLOP and bytes a nanosecond.
fn rates(class: AdapterClass) -> (u64, u64) {
    match class {
        AdapterClass::Discrete | AdapterClass::Null => (200, 20),
        AdapterClass::Integrated | AdapterClass::Virtual => (20, 4),
        AdapterClass::Software | AdapterClass::Cpu => (2, 1),
    }
}

impl Pace {
    pub fn guess(recording: &Recording, class: AdapterClass) -> Self {
        let (flops, bytes) = rates(class);
        let time = |cost: Cost| (cost.flops / flops).max(cost.bytes / bytes);
        let launches = recording.launches.iter();
        let nanos = launches.map(|l| if l.is_empty() { 0 } else { time(l.cost) }).collect();
        let order = recording.dispatches().map(|d| d.index as u32).collect();
        let mut pace = Pace { nanos, order, cuts: Vec::new() };
        pace.cut();
        pace
    }

    /// Replaces guesses by what the launches of a run took, all trips of each together.
    pub fn learn(&mut self, nanos: &[u64]) {
        let mut trips = vec![0; nanos.len()];
        self.order.iter().for_each(|&i| trips[i as usize] += 1);
        self.nanos = nanos.iter().zip(trips).map(|(n, trips)| n / u64::max(trips, 1)).collect();
        self.cut();
    }

    fn cut(&mut self) {
        let mut sum = 0u64;
        let begins = self.order.iter().map(|&i| {
            let n = self.nanos[i as usize];
            let full = n > 0 && sum > 0 && sum.saturating_add(n) > limit();
            sum = if full { n } else { sum.saturating_add(n) };
            full
        });
        self.cuts = begins.collect();
    }

    pub fn cuts(&self) -> &[bool] {
        &self.cuts
    }

    /// Launches that take longer than a submission should even by themselves.
    pub fn overlong(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nanos.len()).filter(|&i| self.nanos[i] > limit())
    }
}

fn limit() -> u64 {
    MAX_SUBMISSION.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_are_cut_where_the_sum_is_too_long() {
        let ms = |list: &[u64]| {
            let nanos = list.iter().map(|m| m * 1_000_000).collect();
            let order = (0..list.len() as u32).collect();
            let mut pace = Pace { nanos, order, cuts: vec![] };
            pace.cut();
            let cuts: Vec<usize> = (0..list.len()).filter(|&i| pace.cuts[i]).collect();
            (cuts, pace.overlong().collect::<Vec<_>>())
        };
        assert_eq!(ms(&[]), (vec![], vec![]));
        assert_eq!(ms(&[250, 250, 0]), (vec![], vec![]));
        assert_eq!(ms(&[250, 250, 1, 499, 1]), (vec![2, 4], vec![]));
        // One that is too long alone has a submission to itself.
        assert_eq!(ms(&[1, 900, 1]), (vec![1, 2], vec![1]));
        assert_eq!(ms(&[900, 0, 1]), (vec![2], vec![0]));
    }
}
