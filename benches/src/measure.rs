//! How things are timed: the same rules as in `benches/peers`, so that figures may be compared.

use std::time::{Duration, Instant};

use crate::Result;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seconds of the timed part; the warm-up takes a quarter of it.
    pub budget: f64,
    /// Least number of steps before timing.
    pub least_warm: usize,
    /// Least number of timed steps, unless they would take four budgets.
    pub least: usize,
    /// Most timed steps.
    pub most: usize,
}

impl Effort {
    /// A budget of so many seconds.
    pub fn seconds(budget: f64) -> Effort {
        Effort { budget, least_warm: 5, least: 7, most: 300 }
    }

    /// Warms up, then calls `step` until the budget is spent; returns what each timed call took, ascending.
    ///
    /// # Errors
    /// That of a step.
    pub fn times(&self, mut step: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
        let begun = Instant::now();
        let mut warm = 0;
        while warm < self.least_warm || begun.elapsed().as_secs_f64() < self.budget / 4.0 {
            step()?;
            warm += 1;
            if warm >= 3 && begun.elapsed().as_secs_f64() > 2.0 * self.budget {
                break;
            }
        }
        let mut times = Vec::new();
        let begun = Instant::now();
        while times.len() < self.most {
            let at = Instant::now();
            step()?;
            times.push(at.elapsed());
            let spent = begun.elapsed().as_secs_f64();
            let enough = if spent > 4.0 * self.budget { 3 } else { self.least };
            if spent > self.budget && times.len() >= enough {
                break;
            }
        }
        times.sort_unstable();
        Ok(times)
    }
}

/// The middle of ascending numbers; zero if there are none.
pub fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Processor time of all living threads of this process; zero where the system does not say. On a machine that
/// others use, it says more than the clock.
pub fn processor_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Most memory that this process ever held, in MB of 2^20 bytes; zero where the system does not say.
pub fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// The machine's load average over a minute; zero where the system does not say.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|l| l.parse().ok()).unwrap_or(0.0)
}

/// A number with few digits, for reports.
pub fn short(value: f64) -> f64 {
    let scale = if value.abs() >= 100.0 { 1e1 } else { 1e4 };
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn timing_warms_up_and_stops() {
        let mut calls = 0;
        let effort = Effort { budget: 0.0, least_warm: 2, least: 3, most: 10 };
        let times = effort.times(|| {
            calls += 1;
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        });
        assert_eq!(times.expect("no step fails").len(), 3);
        assert!((4..=5).contains(&calls), "{calls}");
    }
}
