//! What a long run on the CPU takes of the process's memory. This is a program of its own with a single test, because the
//! system counts the pages of a whole process: beside tests that open an adapter, whose driver takes 100 MB and gives
//! some of them back, 300 steps "took" anything from nothing to 18 MB.

#![cfg(target_os = "linux")]

use versant_graph::{DType, Device, Tensor};
use versant_nn::layers::{Linear, Relu};
use versant_nn::{AdamW, Losses, Mode, Module, Optimizer, Params, Seed};
use versant_tests::cases::Input;

/// Pages of this process in memory, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a process has pages");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// Working memory that threads take and do not give back to one another grew by 80 KiB a step here (and by 32 when the
/// defect was put back, 10 MB). What threads take whose first task comes late, once for all, is 1.4 MB with 64 of them.
#[test]
fn a_long_run_takes_no_more_memory() {
    let device = Device::cpu();
    let vs = Params::new(&device, Seed(3));
    let net = (Linear::new(&(&vs / "a"), 256, 256), Relu, Linear::new(&(&vs / "b"), 256, 256));
    let mut opt = AdamW::new(&vs, 1e-3);
    let x = Input::random(&[64, 256], DType::F32, (-0.5, 0.5), 1).tensor(&device);
    let y = Tensor::from_slice(&device, &[7i32; 64], &[64]);
    let mut run = |steps: usize| {
        for _ in 0..steps {
            let loss = net.forward(&x, Mode::Train).cross_entropy(&y);
            opt.step(loss.backward().unwrap()).unwrap();
        }
    };
    run(100);
    let before = resident();
    run(300);
    let more = resident().saturating_sub(before);
    println!("300 steps took {more} KiB");
    assert!(more < 4 << 10, "300 steps took {more} KiB");
}
