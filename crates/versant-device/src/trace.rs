//! `VERSANT_PROFILE`: what host and device do when, as a file for Perfetto or chrome://tracing.
//!
//! Events are written as they come through a buffer of fixed size, into a file of another name that takes its own
//! when it is complete: a reader never sees half of one, and memory stays bounded however long a program runs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Instant;

use crate::error::{DeviceError, Result};
use crate::executor::{SharedHealth, lock};
use crate::info::DeviceInfo;
use crate::options::DeviceOptions;
use crate::recording::Cost;

/// The track of the device; the host's threads follow.
const DEVICE_TRACK: usize = 0;

/// The profile of one device.
pub(crate) struct Trace {
    begun: Instant,
    path: PathBuf,
    health: SharedHealth,
    state: Mutex<State>,
}

struct State {
    /// `None` once the file is complete or could not be written.
    out: Option<BufWriter<File>>,
    /// Host threads in the order of their tracks.
    threads: Vec<ThreadId>,
}

impl Trace {
    /// The profile that the options ask for.
    pub fn of(
        options: &DeviceOptions,
        info: &DeviceInfo,
        health: &SharedHealth,
    ) -> Result<Option<Arc<Self>>> {
        let begin = |path| Self::create(path, &info.name, health).map(Arc::new);
        options.profile.as_deref().map(begin).transpose()
    }

    /// Begins a file. The second device that a process profiles writes `NAME-2.json`, and so on.
    fn create(path: &Path, device: &str, health: &SharedHealth) -> Result<Self> {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let mut path = path.to_path_buf();
        let number = OPENED.fetch_add(1, Ordering::Relaxed) + 1;
        if number > 1 {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let end = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
            path.set_file_name(format!("{stem}-{number}{end}"));
        }
        let out = File::create(unfinished(&path)).map_err(|e| fault(&path, &e))?;
        let state = State { out: Some(BufWriter::with_capacity(1 << 18, out)), threads: Vec::new() };
        let trace = Trace { begun: Instant::now(), path, health: health.clone(), state: Mutex::new(state) };
        let mut head = String::from("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
        name(&mut head, "process_name", DEVICE_TRACK, device);
        head.push_str(",\n");
        name(&mut head, "thread_name", DEVICE_TRACK, "device");
        trace.write(&mut lock(&trace.state), &head);
        Ok(trace)
    }

    /// Nanoseconds since the profile began.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Adds what this thread did from `begin` until now.
    pub fn host(&self, what: &str, begin: u64) {
        let end = self.now();
        let mut text = String::new();
        let mut state = lock(&self.state);
        let me = std::thread::current().id();
        let known = state.threads.iter().position(|&t| t == me);
        let track = known.unwrap_or(state.threads.len()) + 1;
        if known.is_none() {
            state.threads.push(me);
            text.push_str(",\n");
            name(&mut text, "thread_name", track, &format!("host {track}"));
        }
        event(&mut text, what, track, begin, end - begin);
        text.push('}');
        self.write(&mut state, &text);
    }

    /// Adds launches of the device: label, cost, begin since the profile began and length in nanoseconds.
    pub fn launches<'a>(&self, launches: impl Iterator<Item = (&'a str, Cost, u64, u64)>) {
        let mut text = String::new();
        for (label, cost, begin, nanos) in launches {
            event(&mut text, label, DEVICE_TRACK, begin, nanos);
            let _ = write!(text, ",\"args\":{{\"bytes\":{},\"flops\":{}}}}}", cost.bytes, cost.flops);
        }
        self.write(&mut lock(&self.state), &text);
    }

    /// Completes the file; what comes later is dropped.
    pub fn finish(&self) {
        let mut state = lock(&self.state);
        self.write(&mut state, "\n]}\n");
        if let Some(mut out) = state.out.take() {
            let done = out.flush().and_then(|()| std::fs::rename(unfinished(&self.path), &self.path));
            self.report(done);
        }
    }

    fn write(&self, state: &mut State, text: &str) {
        let Some(out) = &mut state.out else { return };
        let done = out.write_all(text.as_bytes());
        if done.is_err() {
            state.out = None;
        }
        self.report(done);
    }

    fn report(&self, done: io::Result<()>) {
        if let Err(error) = done {
            self.health.report(fault(&self.path, &error));
        }
    }
}

/// Measures what the host does until it is dropped, if the device is profiled; costs nothing else. See
/// [`Device::span`](crate::Device::span).
pub struct Span<'a>(Option<(&'a Trace, &'static str, u64)>);

impl<'a> Span<'a> {
    pub(crate) fn new(trace: Option<&'a Trace>, what: &'static str) -> Self {
        Span(trace.map(|t| (t, what, t.now())))
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        if let Some((trace, what, begin)) = self.0 {
            trace.host(what, begin);
        }
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn fault(path: &Path, error: &io::Error) -> DeviceError {
    DeviceError::Profile { path: path.display().to_string(), message: error.to_string() }
}

/// An event without its last brace, after a comma.
fn event(text: &mut String, what: &str, track: usize, begin: u64, nanos: u64) {
    let us = |n: u64| n as f64 / 1e3;
    text.push_str(",\n{\"ph\":\"X\",\"pid\":1,\"name\":");
    quote(text, what);
    // Writing to a string cannot fail.
    let _ = write!(text, ",\"tid\":{track},\"ts\":{:.3},\"dur\":{:.3}", us(begin), us(nanos));
}

/// A complete event that gives a track or the process its name.
fn name(text: &mut String, kind: &str, track: usize, value: &str) {
    let _ = write!(text, "{{\"ph\":\"M\",\"pid\":1,\"tid\":{track},\"name\":\"{kind}\",\"args\":{{\"name\":");
    quote(text, value);
    text.push_str("}}");
}

/// Appends a JSON string.
fn quote(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
