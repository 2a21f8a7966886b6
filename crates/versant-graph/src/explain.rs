//! What a plan does, as text for people.

use std::fmt;
use std::panic::Location;

use versant_device::{BufferRef, Cost};
use versant_kernels::Shape;

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
    pub(crate) kernel: usize,
}

/// A plan's launches and memory.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// In order of execution.
    pub launches: Vec<LaunchNote>,
    /// Number of recorded nodes that it covers.
    pub nodes: usize,
    /// Bytes of the plan's intermediate buffers.
    pub slot_bytes: usize,
    /// Bytes of the buffers given and returned.
    pub external_bytes: usize,
    /// The launch at which most intermediate bytes are in use, those bytes, and what is alive there.
    pub peak: (usize, usize, Vec<String>),
}

impl Explanation {
    pub(crate) fn new(ir: &Ir, memory: &Memory, key: &Key, launches: Vec<LaunchNote>) -> Self {
        let bytes = |alive: &[(usize, u32)]| -> usize {
            alive.iter().map(|&(n, _)| 4 * ir.nodes[n].shape.numel()).sum()
        };
        let top = (0..memory.live.len()).max_by_key(|&k| bytes(&memory.live[k]));
        let peak = top.map_or((0, 0, Vec::new()), |k| {
            let mut alive = memory.live[k].clone();
            alive.sort_by_key(|&(n, _)| std::cmp::Reverse(ir.nodes[n].shape.numel()));
            let name = |&(n, slot): &(usize, u32)| {
                let node = &ir.nodes[n];
                format!("{} {}{} in slot {slot}, {}", node.name(), node.dtype, node.shape, node.location)
            };
            let at = launches.iter().position(|l| l.kernel >= k).unwrap_or(0);
            (at, bytes(&memory.live[k]), alive.iter().map(name).collect())
        });
        Explanation {
            launches,
            nodes: key.nodes.len(),
            slot_bytes: memory.slots.iter().map(|w| 4 * w).sum(),
            external_bytes: key.externals.iter().map(|e| 4 * e.0).sum(),
            peak,
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
        BufferRef::External(i) => format!("x{i}"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} launches for {} nodes; {} of intermediate buffers, {} given",
            self.launches.len(),
            self.nodes,
            bytes(self.slot_bytes as u64),
            bytes(self.external_bytes as u64),
        )?;
        for (i, l) in self.launches.iter().enumerate() {
            let list = |all: &[BufferRef]| all.iter().map(buffer).collect::<Vec<_>>().join(" ");
            writeln!(f, "{i:>4}  {}  {}", l.label, l.shape)?;
            writeln!(f, "      ops    {}", l.ops.join(" "))?;
            writeln!(
                f,
                "      work   {:.3} MFLOP, {}, {} -> {}",
                l.cost.flops as f64 / 1e6,
                bytes(l.cost.bytes),
                list(&l.reads),
                list(&l.writes),
            )?;
            let lines: Vec<String> =
                l.lines.iter().take(4).map(|l| format!("{}:{}", l.file(), l.line())).collect();
            writeln!(f, "      from   {}", lines.join(", "))?;
        }
        let (at, top, alive) = &self.peak;
        writeln!(f, "peak at launch {at}: {} of intermediates", bytes(*top as u64))?;
        for line in alive.iter().take(12) {
            writeln!(f, "      {line}")?;
        }
        Ok(())
    }
}
