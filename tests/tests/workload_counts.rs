//! What the training steps of the speed figures cost, counted where no hardware is needed: launches on a device of
//! WebGPU's default limits, and the memory that the plan asks for.

mod workloads;

use versant_graph::{Device, Explanation, latest_plan, plan_stats};
use workloads::Workload;

/// The plan of a step from the second on.
fn plan(name: &str, make: fn(&Device) -> Workload) -> Explanation {
    let device = Device::null();
    let mut workload = make(&device);
    let _ = workload.step();
    let misses = plan_stats(&device).misses;
    let before = device.counters();
    for _ in 0..3 {
        let _ = workload.step();
    }
    let did = device.counters() - before;
    assert_eq!(plan_stats(&device).misses, misses, "{name}: plans");
    assert_eq!((did.pipelines, did.prepares), (0, 0), "{name}: {did:?}");
    let plan = latest_plan(&device).expect("a step ran");
    assert_eq!(did.dispatches, 3 * plan.launches.len() as u64, "{name}: {did:?}");
    let most = plan.launches.iter().map(|l| l.reads.len() + l.writes.len()).max();
    assert!(most <= Some(8), "{name}: {most:?} storage buffers");
    let (peak, slots) = (plan.peak.1, plan.footprint.workspace);
    println!("{name}: {} launches, peak {peak} bytes in {slots} of slots", plan.launches.len());
    plan
}

/// At most so many launches, bytes of intermediates at the peak, and bytes of the slots that they lie in.
fn at_most(plan: &Explanation, launches: usize, peak: usize, slots: u64) {
    assert!(plan.launches.len() <= launches, "more than {launches} launches:\n{plan}");
    assert!(plan.peak.1 <= peak, "more than {peak} bytes:\n{plan}");
    let workspace = plan.footprint.workspace;
    assert!(workspace <= slots, "{workspace} bytes of slots, more than {slots}:\n{plan}");
}

#[test]
fn mlp() {
    at_most(&plan("mlp", workloads::mlp), 14, 3_500_000, 3_500_000);
}

#[test]
fn cnn() {
    at_most(&plan("cnn", workloads::cnn), 22, 17_000_000, 17_500_000);
}

#[test]
fn resnet() {
    at_most(&plan("resnet", workloads::resnet), 110, 75_000_000, 79_000_000);
}

#[test]
fn gpt() {
    at_most(&plan("gpt", workloads::gpt), 101, 73_000_000, 74_500_000);
}

/// Unrolled. Its slots are far larger than what is alive at any time: many sizes take turns in them, and a slot grows
/// to the largest it ever holds.
#[test]
fn lstm() {
    at_most(&plan("lstm", workloads::lstm), 680, 13_500_000, 23_500_000);
}
