//! `cargo xtask kill`: kills a training run at random moments and resumes it, checking its checkpoints.
//!
//! The contract with the example `fashion`: it takes `--checkpoint DIR --checkpoint-every STEPS --resume
//! --steps N`, stops once N steps are done in all, starts from the beginning where DIR holds no checkpoint,
//! and prints `resumed at step N` when it has resumed and `checkpoint step N` when a checkpoint is safe.

mod tracker;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::run;
use tracker::Tracker;

/// A run that says nothing for this long hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// More steps than any run takes before it is killed.
const FAR: u64 = 1_000_000;

/// Options of `cargo xtask kill`.
#[derive(clap::Args)]
pub struct Options {
    /// How often to kill.
    #[arg(long, default_value_t = 50)]
    times: u32,
    /// Training steps between two checkpoints.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Seed of the random moments; without it the clock chooses one, and it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Further arguments for the example, such as `-- --device cpu`.
    #[arg(last = true)]
    extra: Vec<String>,
}

/// Builds the example and kills it `times` times.
pub fn run(options: &Options) -> Result<()> {
    run::run(run::cargo().args(["build", "--release", "--example", "fashion"]))?;
    let program = format!("release/examples/fashion{}", std::env::consts::EXE_SUFFIX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = options
        .seed
        .unwrap_or_else(|| now.map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs()));
    println!("seed {seed}");
    Driver {
        program: run::target().join(program),
        before: Vec::new(),
        after: options.extra.clone(),
        folder: run::target().join("kill"),
        every: options.every,
        random: Random(seed),
        patience: PATIENCE,
    }
    .drive(options.times)
}

/// Runs one program again and again on one folder of checkpoints.
struct Driver {
    program: PathBuf,
    before: Vec<String>,
    after: Vec<String>,
    folder: PathBuf,
    every: u64,
    random: Random,
    patience: Duration,
}

/// When a run is to be killed.
#[derive(Clone, Copy)]
enum Moment {
    /// So long after its start.
    Start(Duration),
    /// So long after the first line that tells a step.
    FirstLine(Duration),
    /// Once so many lines have told a step.
    Lines(usize),
    /// Never: it is to end by itself.
    Never,
}

/// What was seen of a run.
struct Outcome {
    /// Its exit status, if it ended by itself.
    ended: Option<ExitStatus>,
    /// When each line that tells a step came, from the start.
    lines: Vec<Duration>,
}

/// What was seen of a run that may go on.
struct Followed {
    /// When each line that tells a step came, from the start.
    lines: Vec<Duration>,
    /// Whether the program closed its output, which it does by ending.
    closed: bool,
}

impl Driver {
    fn drive(&mut self, times: u32) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).map_err(Error::at(&self.folder))?;
        }
        let checkpoints = self.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(Error::at(&checkpoints))?;
        let mut tracker = Tracker::new(self.every);
        let (start_up, interval) = self.measure(&mut tracker)?;
        println!("first line after {start_up:.2?}, a checkpoint every {interval:.2?}");
        for kill in 1..=times {
            // Half of the moments count from the start, so that loading is hit; half from the first line,
            // so that writing is hit however long loading takes.
            let moment = if self.random.next().is_multiple_of(2) {
                Moment::Start(self.random.up_to(start_up + 3 * interval))
            } else {
                Moment::FirstLine(self.random.up_to(3 * interval))
            };
            self.killed(&mut tracker, moment)?;
            if kill % 10 == 0 || kill == times {
                println!("{kill} kills, step {} is safe", tracker.safe());
            }
        }
        // The last word: what is on disk after all kills still trains to an end.
        let steps = tracker.safe() + 2 * self.every;
        let last = self.session(&mut tracker, Moment::Never, steps)?;
        match last.ended {
            Some(status) if status.success() => {}
            _ => return Err(self.failed("the run after the last kill did not end well")),
        }
        println!(
            "{times} kills: {} resumes held against a reported checkpoint, none unreadable, none lost more \
             than one interval of {} steps; the last run ended at step {}",
            tracker.resumes,
            self.every,
            tracker.safe()
        );
        Ok(())
    }

    /// How long the program takes to its first line, and from one checkpoint to the next.
    fn measure(&self, tracker: &mut Tracker) -> Result<(Duration, Duration)> {
        let lines = self.killed(tracker, Moment::Lines(4))?.lines;
        let (first, last) = (lines[0], lines[lines.len() - 1]);
        Ok((first, (last - first) / 3))
    }

    /// A run that must not end before it is killed.
    fn killed(&self, tracker: &mut Tracker, moment: Moment) -> Result<Outcome> {
        let outcome = self.session(tracker, moment, FAR)?;
        match outcome.ended {
            None => Ok(outcome),
            Some(status) => {
                Err(self.failed(&format!("the program ended by itself ({status}) before the kill")))
            }
        }
    }

    /// One run, from its start to its end or kill.
    fn session(&self, tracker: &mut Tracker, moment: Moment, steps: u64) -> Result<Outcome> {
        let log = self.log();
        let errors = File::create(&log).map_err(Error::at(&log))?;
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .args(&self.before)
            .arg("--checkpoint")
            .arg(self.checkpoints())
            .args(["--checkpoint-every", &self.every.to_string()])
            .args(["--resume", "--steps", &steps.to_string()])
            .args(&self.after)
            .current_dir(run::root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|source| Error::Start { command: self.program.display().to_string(), source })?;
        let lines = reader(&mut child);
        tracker.begin();
        let followed = self.follow(tracker, moment, &lines, start);
        if !matches!(followed, Ok(Followed { closed: true, .. })) {
            // SIGKILL on Unix. A program that just ended by itself is told apart by its status below.
            child.kill().map_err(Error::at(&self.program))?;
        }
        let status = child.wait().map_err(Error::at(&self.program))?;
        let mut followed = followed?;
        // What it wrote before it died is still in the pipe, and counts.
        for (line, time) in lines {
            if self.see(tracker, &line)? {
                followed.lines.push(time - start);
            }
        }
        // On Unix a killed program has no exit code: a code means that it ended by itself, kill or no kill.
        let failed = cfg!(unix) && status.code().is_some_and(|code| code != 0);
        let by_itself = followed.closed || failed;
        Ok(Outcome { ended: by_itself.then_some(status), lines: followed.lines })
    }

    /// Reads lines until the moment comes (`closed` is false) or the program closes its output.
    fn follow(
        &self,
        tracker: &mut Tracker,
        moment: Moment,
        lines: &Receiver<(String, Instant)>,
        start: Instant,
    ) -> Result<Followed> {
        let mut seen = Vec::new();
        loop {
            let due = match moment {
                Moment::Start(delay) => Some(delay),
                Moment::FirstLine(delay) => seen.first().map(|first| *first + delay),
                Moment::Lines(count) if seen.len() >= count => Some(Duration::ZERO),
                Moment::Lines(_) | Moment::Never => None,
            };
            let wait = due.map_or(self.patience, |due| due.saturating_sub(start.elapsed()));
            match lines.recv_timeout(wait) {
                Ok((line, time)) => {
                    if self.see(tracker, &line)? {
                        seen.push(time - start);
                    }
                }
                Err(RecvTimeoutError::Timeout) if due.is_some() => {
                    return Ok(Followed { lines: seen, closed: false });
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failed(&format!("no line for {:.0?}", self.patience)));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Followed { lines: seen, closed: true });
                }
            }
        }
    }

    fn see(&self, tracker: &mut Tracker, line: &str) -> Result<bool> {
        tracker.see(line).map_err(|why| self.failed(&why))
    }

    fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("stderr.log")
    }

    /// An error with the end of what the program wrote to standard error.
    fn failed(&self, why: &str) -> Error {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        Error::Found(format!("{why}\n{tail}"))
    }
}

/// The lines of a program with the time at which each came, read by a thread so that waiting can time out.
fn reader(child: &mut Child) -> Receiver<(String, Instant)> {
    let stdout = child.stdout.take().expect("standard output is piped");
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            if send.send((line, Instant::now())).is_err() {
                break;
            }
        }
    });
    receive
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough for choosing moments.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly distributed between zero and `limit`.
    fn up_to(&mut self, limit: Duration) -> Duration {
        limit.mul_f64((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A shell program that keeps the contract, but for what `load` and `save` do to it.
    fn drive(name: &str, load: &str, save: &str, times: u32) -> Result<()> {
        let folder = std::env::temp_dir().join(format!("versant-{name}-{}", std::process::id()));
        let script = format!(
            "dir=$2; every=$4; end=$7; step=0; {load}; echo resumed at step $step\n\
             while [ $step -lt $end ]; do step=$((step + every)); {save}; echo checkpoint step $step; sleep 0.002; done"
        );
        let outcome = Driver {
            program: PathBuf::from("sh"),
            before: vec!["-c".to_string(), script, "sh".to_string()],
            after: Vec::new(),
            folder: folder.clone(),
            every: 3,
            random: Random(7),
            patience: Duration::from_secs(10),
        }
        .drive(times);
        fs::remove_dir_all(&folder).expect("the driver made it");
        outcome
    }

    const LOAD: &str = "if [ -f $dir/s ]; then step=$(cat $dir/s); [ -n \"$step\" ] || exit 3; fi";
    const SAVE: &str = "echo $step > $dir/t; mv $dir/t $dir/s";

    #[test]
    fn atomic_checkpoints_survive() {
        drive("kill-good", LOAD, SAVE, 20).expect("this program keeps its promises");
    }

    #[test]
    fn checkpoints_written_in_place_are_found_unreadable() {
        let save = "printf '' > $dir/s; sleep 0.01; echo $step > $dir/s";
        let error = drive("kill-torn", LOAD, save, 40).expect_err("most kills hit the empty file");
        assert!(error.to_string().contains("ended by itself"), "{error}");
    }

    #[test]
    fn a_lost_checkpoint_is_found() {
        let error = drive("kill-lost", ":", SAVE, 5).expect_err("it never loads");
        assert!(error.to_string().contains("was reported before"), "{error}");
    }

    #[test]
    fn a_program_that_ends_early_is_no_test() {
        let error = drive("kill-early", "exit 0", SAVE, 5).expect_err("it does nothing");
        assert!(error.to_string().contains("ended by itself"), "{error}");
    }
}
