//! What a plan does, as text for people.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use versant_device::{BufferRef, Cost, Footprint, Kernel, Peak, Prepared};
use versant_kernels::{DType, Shape};

use crate::capture::Key;
use crate::ir::Ir;
use crate::memory::Memory;

/// One launch of a plan.
#[derive(Clone, Debug)]
pub struct LaunchNote {
    /// The kernel's label, with its tile where it has one.
    pub label: String,
    /// The operations computed in it, in order.
    pub ops: Vec<&'static str>,
    /// Extents of its last result.
    pub shape: Shape,
    /// Work and traffic at least.
    pub cost: Cost,
    /// Buffers read.
    pub reads: Vec<BufferRef>,
    /// Buffers written.
    pub writes: Vec<BufferRef>,
    /// Source lines that recorded the results.
    pub lines: Vec<&'static Location<'static>>,
    /// The kernel, with its WGSL where it is one for a GPU.
    pub source: Arc<Kernel>,
    /// How often it runs: once for each step of a scan.
    pub trips: usize,
    pub(crate) kernel: usize,
}

/// A plan's launches and memory.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// In order of execution.
    pub launches: Vec<LaunchNote>,
    /// Number of recorded nodes that it covers.
    pub nodes: usize,
    /// The device memory that a run needs: what [`MemoryStats::peak`](versant_device::MemoryStats) will be on a device
    /// that holds nothing else.
    pub footprint: Footprint,
    /// How many submissions a run takes; more than one only if it may else be taken for a hang.
    pub submissions: usize,
    /// Launches that may take longer than a submission should even by themselves.
    pub overlong: Vec<usize>,
    /// Measured times, after [`explain_timed`](crate::explain_timed).
    pub measured: Option<Measured>,
    /// The launch at which most intermediate bytes are in use, those bytes, and what is alive there.
    pub peak: (usize, usize, Vec<String>),
    /// Those of them that lie in 16 bits.
    pub peak_in_halves: usize,
}

/// What the launches of a plan took.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Nanoseconds of each launch.
    pub nanos: Vec<u64>,
    /// The device's own limits.
    pub peak: Peak,
}

impl Explanation {
    pub(crate) fn new(
        ir: &Ir,
        memory: &Memory,
        key: &Key,
        launches: Vec<LaunchNote>,
        prepared: &Prepared,
    ) -> Self {
        let bytes = |k: usize, count: fn(DType) -> bool| -> usize {
            let alive = memory.live[k].iter().map(|&(n, _)| &ir.nodes[n]);
            alive.filter(|node| count(node.dtype)).map(|node| 4 * node.words()).sum()
        };
        let top = (0..memory.live.len()).max_by_key(|&k| bytes(k, |_| true));
        let peak = top.map_or((0, 0, Vec::new()), |k| {
            let mut alive = memory.live[k].clone();
            alive.sort_by_key(|&(n, _)| std::cmp::Reverse(ir.nodes[n].words()));
            let name = |&(n, holder): &(usize, u32)| {
                let (node, slot) = (&ir.nodes[n], memory.slot_of[holder as usize]);
                format!("{} {}{} in slot {slot}, {}", node.name(), node.dtype, node.shape, node.location)
            };
            let at = launches.iter().position(|l| l.kernel >= k).unwrap_or(0);
            (at, bytes(k, |_| true), alive.iter().map(name).collect())
        });
        Explanation {
            launches,
            nodes: key.nodes.len(),
            footprint: prepared.footprint(),
            submissions: prepared.submissions(),
            overlong: prepared.overlong(),
            measured: None,
            peak,
            peak_in_halves: top.map_or(0, |k| bytes(k, DType::is_half)),
        }
    }

    /// The launches that compute an operation of this name.
    pub fn launches_with<'a>(&'a self, op: &'a str) -> impl Iterator<Item = &'a LaunchNote> {
        self.launches.iter().filter(move |l| l.ops.contains(&op))
    }
}

/// A byte count for people.
fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

fn buffer(b: &BufferRef) -> String {
    match b {
        BufferRef::Slot(i) => format!("s{i}"),
        BufferRef::Part(i, start, _) => format!("s{i}@{start}"),
        BufferRef::External(i) => format!("x{i}"),
    }
}

/// A launch's time, rates, and how near it comes to what the device can do.
fn speed(nanos: u64, cost: Cost, peak: &Peak) -> String {
    let seconds = nanos as f64 / 1e9;
    if nanos == 0 {
        return "not measured".to_owned();
    }
    let (least, memory) = peak.bound(cost);
    format!(
        "{:.1} us, {:.2} GB/s, {:.2} GFLOP/s, {:.0} % of the {} bound",
        seconds * 1e6,
        cost.bytes as f64 / seconds / 1e9,
        cost.flops as f64 / seconds / 1e9,
        100.0 * least / seconds,
        if memory { "memory" } else { "arithmetic" },
    )
}

impl Explanation {
    /// The lines before the launches.
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} launches for {} nodes", self.launches.len(), self.nodes)?;
        let memory = &self.footprint;
        writeln!(
            f,
            "{} of device memory: {} given and returned, {} of intermediates, {} of parameters",
            bytes(memory.total()),
            bytes(memory.externals),
            bytes(memory.workspace),
            bytes(memory.uniforms),
        )?;
        if self.submissions > 1 {
            writeln!(f, "{} submissions, so that none runs too long", self.submissions)?;
        }
        for &launch in &self.overlong {
            writeln!(f, "launch {launch} may run so long that the driver takes it for a hang")?;
        }
        if let Some(Measured { nanos, peak }) = &self.measured {
            let sum = nanos.iter().sum::<u64>() as f64 / 1e3;
            let (memory, arithmetic) = (peak.bytes_per_second / 1e9, peak.flops_per_second / 1e9);
            writeln!(f, "{sum:.1} us in all; the device can {memory:.1} GB/s and {arithmetic:.1} GFLOP/s")?;
        }
        Ok(())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        for (i, l) in self.launches.iter().enumerate() {
            let list = |all: &[BufferRef]| all.iter().map(buffer).collect::<Vec<_>>().join(" ");
            let trips = if l.trips > 1 { format!("  {} times", l.trips) } else { String::new() };
            writeln!(f, "{i:>4}  {}  {}{trips}", l.label, l.shape)?;
            writeln!(f, "      ops    {}", l.ops.join(" "))?;
            writeln!(
                f,
                "      work   {:.3} MFLOP, {}, {} -> {}",
                l.cost.flops as f64 / 1e6,
                bytes(l.cost.bytes),
                list(&l.reads),
                list(&l.writes),
            )?;
            if let Some(Measured { nanos, peak }) = &self.measured {
                writeln!(f, "      time   {}", speed(nanos[i], l.cost.times(l.trips), peak))?;
            }
            let lines: Vec<String> =
                l.lines.iter().take(4).map(|l| format!("{}:{}", l.file(), l.line())).collect();
            writeln!(f, "      from   {}", lines.join(", "))?;
        }
        let (at, top, alive) = &self.peak;
        let [all, halves] = [*top, self.peak_in_halves].map(|n| bytes(n as u64));
        writeln!(f, "peak at launch {at}: {all} of intermediates, {halves} in 16 bits")?;
        for line in alive.iter().take(12) {
            writeln!(f, "      {line}")?;
        }
        Ok(())
    }
}
