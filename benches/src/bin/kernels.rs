//! Single kernels on one device: a line of JSON each, the device's measured peaks first.
//!
//! `cargo run --release -p versant-benches --bin kernels -- --device lavapipe K1-512 K3`
//!
//! With `--alone`, only the last of the names is measured, and the line has what `benches/peers` report: the
//! time from opening the device to the end of the first run, and the process's memory.

use std::time::Instant;

use clap::Parser;
use serde_json::{Value, json};
use versant::graph::Device;
use versant_benches::Result;
use versant_benches::kernels::{KERNELS, Kernel, PEAKS, run};
use versant_benches::measure::{Effort, load, median, ms, peak_rss_mb, short};

/// Measures kernels.
#[derive(Parser)]
struct Options {
    /// Names; all if none is given.
    names: Vec<String>,
    /// cpu, lavapipe, gpu, null, or part of an adapter's name.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Seconds to measure each for, after a warm-up of a quarter of that.
    #[arg(long, default_value_t = 3.0)]
    budget: f64,
    /// One kernel, without peaks, with the cold start.
    #[arg(long)]
    alone: bool,
    /// Stop after the first run: its time is all that is wanted.
    #[arg(long, requires = "alone")]
    cold: bool,
}

/// What the device reaches: operations and bytes a second.
struct Peaks {
    flops: f64,
    bytes: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut chosen = Vec::new();
    for name in &options.names {
        chosen.push(Kernel::find(name).ok_or_else(|| format!("no kernel is called {name}"))?);
    }
    if options.alone {
        let kernel = chosen.last().ok_or("--alone needs a kernel")?;
        return alone(&options, kernel);
    }
    if chosen.is_empty() {
        chosen.extend(&KERNELS);
    }
    let device = Device::by_name(&options.device)?;
    let mut peaks = Peaks { flops: 0.0, bytes: 0.0 };
    for kernel in &PEAKS {
        let row = measure(&options, &device, kernel, None)?;
        let rate = |field: &str| row[field].as_f64().unwrap_or(0.0) * 1e9;
        peaks.flops = peaks.flops.max(rate("gflops"));
        if kernel.flops == 0.0 {
            peaks.bytes = rate("gbs");
        }
        println!("{row}");
    }
    for kernel in chosen {
        println!("{}", measure(&options, &device, kernel, Some(&peaks))?);
    }
    Ok(())
}

/// Times one kernel; with peaks, compares it with the time that they allow.
fn measure(options: &Options, device: &Device, kernel: &Kernel, peaks: Option<&Peaks>) -> Result<Value> {
    let made = kernel.prepare(device);
    let before = device.counters();
    run(device, &made)?;
    let launches = (device.counters() - before).dispatches;
    let times = Effort::seconds(options.budget).times(|| run(device, &made))?;
    let all: Vec<f64> = times.iter().map(|&t| ms(t)).collect();
    let time = median(&all);
    let per_second = |amount: f64| short(amount / time * 1e3 / 1e9);
    let mut row = json!({
        "peer": "versant", "backend": options.device, "adapter": device.info().name,
        "workload": kernel.name, "what": kernel.what, "launches": launches,
        "ms": short(time), "min_ms": short(all[0]), "n": all.len(), "load": load(),
        "gbs": per_second(kernel.bytes),
    });
    if kernel.flops > 0.0 {
        row["gflops"] = json!(per_second(kernel.flops));
    }
    if let Some(peaks) = peaks.filter(|p| p.flops > 0.0 && p.bytes > 0.0) {
        let (compute, memory) = (kernel.flops / peaks.flops, kernel.bytes / peaks.bytes);
        row["peak_percent"] = json!(short(100.0 * compute.max(memory) / (time / 1e3)));
        row["bound"] = json!(if compute > memory { "FMA" } else { "bytes" });
    }
    Ok(row)
}

fn alone(options: &Options, kernel: &Kernel) -> Result<()> {
    let begun = Instant::now();
    let device = Device::by_name(&options.device)?;
    let made = kernel.prepare(&device);
    run(&device, &made)?;
    let cold = ms(begun.elapsed());
    let mut row = if options.cold {
        json!({"peer": "versant", "backend": options.device, "workload": kernel.name})
    } else {
        measure(options, &device, kernel, None)?
    };
    row["cold_ms"] = json!(short(cold));
    row["rss_mb"] = json!(short(peak_rss_mb()));
    println!("{row}");
    Ok(())
}
