//! The kernels of `cargo xtask bench kernels` through criterion. `VERSANT_DEVICE` chooses the device.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use versant::graph::{Device, DeviceOptions, Select};
use versant_benches::kernels::{KERNELS, run};

fn kernels(c: &mut Criterion) {
    let mut options = DeviceOptions::from_env();
    if options.select == Select::Best {
        // The best device may be any; a benchmark says which it means.
        options.select = Select::Cpu;
    }
    let device = Device::open(&options).expect("VERSANT_DEVICE names a device");
    let mut group = c.benchmark_group(device.info().name.clone());
    // Some take a second on a software adapter.
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    for kernel in &KERNELS {
        let amount = if kernel.flops > 0.0 { kernel.flops } else { kernel.bytes };
        group.throughput(match kernel.flops > 0.0 {
            true => Throughput::Elements(amount as u64),
            false => Throughput::Bytes(amount as u64),
        });
        // Operands of kernels that are filtered out are never uploaded.
        let mut made = None;
        group.bench_function(kernel.name, |b| {
            let made = made.get_or_insert_with(|| kernel.prepare(&device));
            b.iter(|| run(&device, made).expect("the device works"));
        });
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
