//! What a killed and resumed program may claim, checked line by line.

/// Follows the lines `resumed at step N` and `checkpoint step N` over any number of runs.
///
/// A printed checkpoint is a promise: whatever happens afterwards, the next run starts there or later. It may
/// start one interval later, when the kill came between writing a checkpoint and printing its line.
#[derive(Debug)]
pub struct Tracker {
    every: u64,
    /// The last step that is promised to be safe.
    safe: u64,
    /// Where this run stands, once it has said anything.
    reached: Option<u64>,
    /// How many resumes were held against an earlier promise.
    pub resumes: usize,
}

impl Tracker {
    /// Starts before the first run of a program that writes a checkpoint every `every` steps.
    pub fn new(every: u64) -> Self {
        Self { every, safe: 0, reached: None, resumes: 0 }
    }

    /// The last step that is promised to be safe.
    pub fn safe(&self) -> u64 {
        self.safe
    }

    /// A new run of the program begins.
    pub fn begin(&mut self) {
        self.reached = None;
    }

    /// Reads a line; `Ok(true)` if it was one of the two kinds, an error if it breaks the promise.
    pub fn see(&mut self, line: &str) -> Result<bool, String> {
        if let Some(step) = number(line, "resumed at step ") {
            self.start(step)?;
            return Ok(true);
        }
        let Some(step) = number(line, "checkpoint step ") else {
            return Ok(false);
        };
        let before = match self.reached {
            Some(before) => before,
            // A run that does not say where it resumed has started from the beginning.
            None => self.start(0)?,
        };
        if step <= before || step > before + self.every {
            return Err(format!(
                "checkpoint step {step} follows step {before}, with an interval of {}",
                self.every
            ));
        }
        self.reached = Some(step);
        self.safe = step;
        Ok(true)
    }

    fn start(&mut self, step: u64) -> Result<u64, String> {
        if self.reached.is_some() {
            return Err(format!("resumed at step {step} in the middle of a run"));
        }
        if step < self.safe {
            return Err(format!(
                "started at step {step}, though a checkpoint of step {} was reported before the kill",
                self.safe
            ));
        }
        if step > self.safe + self.every {
            return Err(format!(
                "started at step {step}, though the last reported checkpoint was of step {}, and the next \
                 one was due {} steps later",
                self.safe, self.every
            ));
        }
        self.resumes += usize::from(self.safe > 0);
        self.safe = step;
        self.reached = Some(step);
        Ok(step)
    }
}

fn number(line: &str, prefix: &str) -> Option<u64> {
    line.trim().strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of lines; the error of the first bad line, or the last safe step.
    fn follow(runs: &[&[&str]]) -> Result<u64, String> {
        let mut tracker = Tracker::new(10);
        for run in runs {
            tracker.begin();
            for line in *run {
                tracker.see(line)?;
            }
        }
        Ok(tracker.safe())
    }

    #[test]
    fn honest_programs_pass() {
        let first: &[&str] = &["epoch 1", "checkpoint step 10", "checkpoint step 20"];
        assert_eq!(follow(&[first, &["resumed at step 20"]]), Ok(20));
        assert_eq!(follow(&[first, &["resumed at step 30", "checkpoint step 40"]]), Ok(40));
        assert_eq!(follow(&[&[], &["resumed at step 0", "checkpoint step 3"]]), Ok(3));
        assert_eq!(follow(&[first, &[], &["resumed at step 20"]]), Ok(20));
    }

    #[test]
    fn every_broken_promise_is_found() {
        let first: &[&str] = &["checkpoint step 10", "checkpoint step 20"];
        let broken: [&[&str]; 6] = [
            &["resumed at step 10"],
            &["checkpoint step 10"],
            &["resumed at step 31"],
            &["resumed at step 20", "checkpoint step 31"],
            &["resumed at step 20", "checkpoint step 20"],
            &["resumed at step 20", "resumed at step 20"],
        ];
        for second in broken {
            assert!(follow(&[first, second]).is_err(), "{second:?}");
        }
    }
}
