//! What the host pays for a step: recording a node, and finding a plan again.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use versant_graph::{Device, Tensor, eval, is_planned};

/// `layers` layers of a net of small matrices with an activation and a residual: four nodes each.
fn layers(x: &Tensor, w: &Tensor, layers: usize) -> Tensor {
    let mut h = x.clone();
    for _ in 0..layers {
        h = &h + (h.matmul(w) + w).tanh();
    }
    h
}

const LAYERS: usize = 250;
const NODES: u64 = 4 * LAYERS as u64;

fn graph(c: &mut Criterion) {
    let dev = Device::null();
    let x = Tensor::from_slice(&dev, &[0.5f32; 16], &[4, 4]);
    let w = Tensor::from_slice(&dev, &[0.1f32; 16], &[4, 4]);
    let mut group = c.benchmark_group("graph");
    group.throughput(Throughput::Elements(NODES));
    group.bench_function("record", |b| b.iter_with_large_drop(|| layers(&x, &w, LAYERS)));
    group.bench_function("drop", |b| {
        b.iter_batched(|| layers(&x, &w, LAYERS), drop, criterion::BatchSize::LargeInput);
    });
    let pending = layers(&x, &w, LAYERS);
    let again = layers(&x, &w, LAYERS);
    eval(&[&pending]).expect("the null device runs everything");
    assert!(is_planned(&[&again]).expect("no error was recorded"));
    group.bench_function("look-up", |b| b.iter(|| is_planned(&[&again])));
    group.finish();
}

criterion_group!(benches, graph);
criterion_main!(benches);
