//! Learning rates of 30 epochs against PyTorch's schedulers. They are host numbers: no device is needed.

use versant_nn::Schedule;
use versant_tests::golden::{Case, cases};

fn schedule(case: &Case) -> Schedule {
    let lr = case.real("lr");
    let count = |key| case.int(key) as u64;
    match case.name.as_str() {
        "step_lr" => Schedule::step(lr, count("step_size"), case.real("gamma")),
        "cosine_lr" | "cosine_lr_floor" => {
            Schedule::cosine(lr, count("t_max")).floor(case.real("eta_min"))
        }
        "linear_lr" => Schedule::warmup(lr, case.real("start_factor"), count("total_iters")),
        "linear_then_cosine" => {
            let cosine = Schedule::cosine(lr, count("t_max")).floor(case.real("eta_min"));
            let warmup = count("warmup");
            Schedule::warmup(lr, case.real("start_factor"), warmup).then(warmup, cosine)
        }
        "warmup_cosine" => Schedule::warmup_cosine(lr, count("warmup"), count("total")),
        other => panic!("no schedule {other}"),
    }
}

#[test]
fn schedules_are_pytorchs() {
    let schedules: Vec<Case> = cases("optim")
        .into_iter()
        .filter(|c| c.kind == "schedule")
        .collect();
    assert_eq!(schedules.len(), 6);
    for case in &schedules {
        let schedule = schedule(case);
        let values = case.reals("values");
        assert_eq!(values.len(), 30, "{}", case.name);
        for (epoch, want) in values.into_iter().enumerate() {
            let got = schedule.at(epoch as u64);
            // PyTorch's own schedulers multiply the last rate, which rounds 30 times.
            let close = (got - want).abs() <= 1e-12;
            assert!(
                close,
                "{} in epoch {epoch}: {got} instead of {want}",
                case.name
            );
        }
    }
}
