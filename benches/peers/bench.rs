//! Timing loop and report line; the same rules as `torch/common.py`.

use std::time::Instant;

pub const N_ELEM: usize = 16 * 1024 * 1024;

pub fn units(workload: &str) -> (&'static str, f64) {
    let mm = |n: f64| 2.0 * n * n * n / 1e9;
    match workload {
        "W1" => ("samples/s", 128.0),
        "W2" => ("samples/s", 64.0),
        "W3" | "W4" => ("samples/s", 32.0),
        "W5" => ("samples/s", 16.0),
        "K1-256" => ("GFLOP/s", mm(256.0)),
        "K1-512" => ("GFLOP/s", mm(512.0)),
        "K1-1024" => ("GFLOP/s", mm(1024.0)),
        "K2" => ("GFLOP/s", 2.0 * 4.0 * 64.0 * 56.0 * 56.0 * 64.0 * 9.0 / 1e9),
        "K3" => ("GB/s", N_ELEM as f64 * 8.0 / 1e9),
        "K4" => ("GB/s", 4096.0 * 1024.0 * 8.0 / 1e9),
        "K5" => ("GB/s", N_ELEM as f64 * 4.0 / 1e9),
        other => panic!("unknown workload {other}"),
    }
}

/// The backend and the workload that the command line names.
pub fn arguments(usage: &str) -> [String; 2] {
    let given: Vec<String> = std::env::args().skip(1).collect();
    given.try_into().unwrap_or_else(|_| {
        eprintln!("usage: {usage}");
        std::process::exit(2)
    })
}

/// The extent in the name of a matrix product, `K1-512`.
pub fn extent(workload: &str) -> usize {
    let known = workload.strip_prefix("K1-").and_then(|n| n.parse().ok());
    known.unwrap_or_else(|| panic!("unknown workload {workload}"))
}

fn env(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn peak_rss_mb() -> f64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| {
            let line = s.lines().find(|l| l.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        })
        .unwrap_or(0.0)
        / 1024.0
}

fn json(s: &str) -> String {
    format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `setup` opens the device and builds model and data; the step it returns does
/// one unit of work, waits for it, and gives the loss (None for kernels).
pub fn run<S>(peer: &str, version: &str, backend: &str, workload: &str, note: &str, setup: S)
where
    S: FnOnce() -> Box<dyn FnMut() -> Option<f32>>,
{
    let budget = env("PEER_BUDGET_S", 12.0);
    let min_warm = env("PEER_MIN_WARM", 5.0) as usize;
    let min_n = env("PEER_MIN_N", 7.0) as usize;
    let max_n = env("PEER_MAX_N", 300.0) as usize;

    let t0 = Instant::now();
    let mut step = setup();
    let setup_ms = t0.elapsed().as_secs_f64() * 1e3;
    let loss0 = step();
    let cold_ms = t0.elapsed().as_secs_f64() * 1e3;

    let warm = Instant::now();
    let mut n_warm = 1;
    let mut first_warm = Vec::new();
    while n_warm < min_warm || warm.elapsed().as_secs_f64() < budget / 4.0 {
        let t = Instant::now();
        step();
        if first_warm.len() < 4 {
            first_warm.push(format!("{:.1}", t.elapsed().as_secs_f64() * 1e3));
        }
        n_warm += 1;
        if n_warm >= 3 && warm.elapsed().as_secs_f64() > 2.0 * budget {
            break;
        }
    }
    let mut times: Vec<f64> = Vec::new();
    let mut loss = None;
    let all = Instant::now();
    while times.len() < max_n {
        let t = Instant::now();
        loss = step();
        times.push(t.elapsed().as_secs_f64() * 1e3);
        let spent = all.elapsed().as_secs_f64();
        if (spent > budget && times.len() >= min_n) || (spent > 4.0 * budget && times.len() >= 3) {
            break;
        }
    }
    times.sort_by(|a, b| a.total_cmp(b));
    let n = times.len();
    let ms = if n % 2 == 1 { times[n / 2] } else { (times[n / 2 - 1] + times[n / 2]) / 2.0 };
    let (unit, amount) = units(workload);
    let num = |l: Option<f32>| match l {
        Some(v) if v.is_finite() => format!("{v:.4}"),
        Some(_) => "\"NaN\"".into(),
        None => "null".into(),
    };
    let note = format!("{note}; setup {setup_ms:.0} ms; steps 2-5 {} ms", first_warm.join("/"));
    println!(
        "{{\"peer\": {}, \"backend\": {}, \"workload\": {}, \"ms\": {ms:.4}, \"cold_ms\": {cold_ms:.1}, \
         \"rss_mb\": {:.1}, \"note\": {}, \"rate\": {:.2}, \"rate_unit\": {}, \"n\": {n}, \
         \"min_ms\": {:.4}, \"p90_ms\": {:.4}, \"import_ms\": 0, \"loss0\": {}, \"lossN\": {}, \"version\": {}}}",
        json(peer),
        json(backend),
        json(workload),
        peak_rss_mb(),
        json(&note),
        amount / (ms / 1e3),
        json(unit),
        times[0],
        times[(0.9 * (n - 1) as f64) as usize],
        num(loss0),
        num(loss),
        json(version),
    );
}
