//! One workload on one device in a process of its own: one line of JSON.
//!
//! `cargo run --release -p versant-benches --bin steps -- --device lavapipe W1`

use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use versant::graph::{Counters, Device, latest_plan, plan_stats};
use versant_benches::measure::{Effort, load, median, ms, peak_rss_mb, processor_time, short};
use versant_benches::{Result, workloads::Training};

/// Measures the training step of one workload.
#[derive(Parser)]
struct Options {
    /// W1 to W5.
    workload: String,
    /// cpu, lavapipe, gpu, null, or part of an adapter's name.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Seconds to measure for, after a warm-up of a quarter of that.
    #[arg(long, default_value_t = 12.0)]
    budget: f64,
    /// Print the plan of the step instead, after two steps.
    #[arg(long)]
    explain: bool,
    /// Stop after the first step: its time is all that is wanted.
    #[arg(long)]
    cold: bool,
}

/// One timed step.
struct Step {
    /// Until the host was free again: recording, planning, encoding, submitting.
    host: Duration,
    /// Processor time of all threads, until the loss was read.
    processor: Duration,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let load = load();
    let begun = Instant::now();
    let device = Device::by_name(&options.device)?;
    let mut training = Training::new(&options.workload, &device)?;
    let setup = begun.elapsed();
    let first = training.step()?;
    let cold = begun.elapsed();
    if options.explain {
        training.step()?;
        let plan = latest_plan(&device).ok_or("no plan was made")?;
        println!("{plan}");
        return Ok(());
    }
    let mut report = json!({
        "peer": "versant", "backend": options.device, "workload": options.workload,
        "adapter": device.info().name, "driver": device.info().driver, "load": load,
        "parameters": training.parameters(),
        "setup_ms": short(ms(setup)), "cold_ms": short(ms(cold)), "loss0": number(first),
    });
    if !options.cold {
        measure(&options, &mut training, &mut report)?;
    }
    report["rss_mb"] = json!(short(peak_rss_mb()));
    println!("{report}");
    Ok(())
}

/// Fills in what the steady state shows.
fn measure(options: &Options, training: &mut Training, report: &mut Value) -> Result<()> {
    let device = training.device().clone();
    // The first steps of a run differ in their plans; memory and counts are those of later ones.
    training.step()?;
    training.step()?;
    device.reset_peak();
    let mut steps = Vec::new();
    let mut last = 0.0;
    let mut after_warm_up = (device.counters(), plan_stats(&device).misses);
    let times = Effort::seconds(options.budget).times(|| {
        let (at, before) = (Instant::now(), processor_time());
        let loss = training.submit()?;
        let host = at.elapsed();
        last = loss.item::<f32>()?;
        steps.push(Step { host, processor: processor_time() - before });
        if steps.len() == 3 {
            after_warm_up = (device.counters(), plan_stats(&device).misses);
        }
        Ok(())
    })?;
    let counted = (steps.len() - 3) as u64;
    let done = device.counters() - after_warm_up.0;
    let plan = latest_plan(&device).ok_or("no plan was made")?;
    let launches = done.dispatches as f64 / counted as f64;
    // The warm-up comes first, and its host times do not count.
    let timed = &steps[steps.len() - times.len()..];
    let mut host: Vec<f64> = timed.iter().map(|s| s.host.as_secs_f64() * 1e6).collect();
    host.sort_unstable_by(f64::total_cmp);
    let mut processor: Vec<f64> = timed.iter().map(|s| ms(s.processor)).collect();
    processor.sort_unstable_by(f64::total_cmp);
    let all: Vec<f64> = times.iter().map(|&t| ms(t)).collect();
    let more = json!({
        "ms": short(median(&all)), "min_ms": short(all[0]), "p90_ms": short(all[(all.len() - 1) * 9 / 10]),
        "n": all.len(), "processor_ms": short(median(&processor)), "processor_ms_min": short(processor[0]), "lossN": number(last),
        "launches": launches, "submits": done.submits as f64 / counted as f64,
        "host_us": short(median(&host)), "host_us_per_launch": short(median(&host) / launches),
        "host_us_per_launch_min": short(host[0] / launches),
        "made": made(&done), "plans": plan_stats(&device).misses - after_warm_up.1,
        "plan_bytes": plan.footprint.total(), "plan_slot_bytes": plan.footprint.workspace,
        "peak_bytes": device.memory().peak,
        "mflop": plan.launches.iter().map(|l| l.cost.times(l.trips).flops).sum::<u64>() as f64 / 1e6,
        "mb_moved": plan.launches.iter().map(|l| l.cost.times(l.trips).bytes).sum::<u64>() as f64 / 1e6,
    });
    if let (Some(report), Value::Object(more)) = (report.as_object_mut(), more) {
        report.extend(more);
    }
    report["run_us_per_launch"] = json!(short(host_of_a_run(training, options.budget / 4.0)?));
    Ok(())
}

/// Host microseconds a launch of replaying loss and gradients: what is left of a step's host time when nothing is
/// recorded and no plan is looked up. Comes last: it leaves the statistics of normalisations recorded.
fn host_of_a_run(training: &Training, seconds: f64) -> Result<f64> {
    let device = training.device();
    let replay = training.replay()?;
    training.call(&replay)?;
    device.wait()?;
    let before = device.counters();
    let (mut times, begun) = (Vec::new(), Instant::now());
    while times.len() < 3 || (times.len() < 100 && begun.elapsed().as_secs_f64() < seconds) {
        let at = Instant::now();
        training.call(&replay)?;
        times.push(at.elapsed().as_secs_f64() * 1e6);
        device.wait()?;
    }
    let launches = (device.counters() - before).dispatches as f64 / times.len() as f64;
    times.sort_unstable_by(f64::total_cmp);
    Ok(median(&times) / launches.max(1.0))
}

/// Number of bind groups, buffers and pipelines that were made; none, in steady state.
fn made(done: &Counters) -> u64 {
    done.bind_groups + done.buffers_allocated + done.pipelines + done.shader_modules + done.prepares
}

/// JSON has no NaN.
fn number(loss: f32) -> Value {
    if loss.is_finite() { json!(loss) } else { json!(loss.to_string()) }
}
