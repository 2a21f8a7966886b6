//! Reductions of many elements to few results, which a plan takes in two passes: right for odd, prime and even
//! extents, through views, and the same on every run.

use versant_graph::{Device, Tensor, explain, grad_of};
use versant_tests::devices;

const LONG: usize = 1 << 16;

/// Whole numbers of both signs whose sums in f32 are exact.
fn whole(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 - 50.0).collect()
}

fn check(what: &str, device: &Device, got: &Tensor, want: &[f32]) {
    let values = got.to_vec::<f32>().expect("it runs");
    assert_eq!(values, want, "{what} on {}", device.info().name);
}

fn extremes(row: &[f32]) -> [f32; 3] {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = row.iter().copied().fold(f32::INFINITY, f32::min);
    [row.iter().sum(), max, min]
}

#[test]
fn every_extent_is_right() {
    for device in devices() {
        for n in [LONG - 1, LONG, LONG + 1, 65_537, 3 * LONG, 5 * 70_001, 1 << 18] {
            // All below zero, so that a padding of zeros would win; small, so that every partial sum is exact.
            let mut values: Vec<f32> = (0..n).map(|i| (i * 37 % 11) as f32 - 16.0).collect();
            values[n - 1] = -5.0;
            let x = Tensor::from_slice(&device, &values, &[n]);
            let [sum, max, min] = extremes(&values);
            check(&format!("sum of {n}"), &device, &x.sum_all(), &[sum]);
            check(&format!("max of {n}"), &device, &x.max(&[0], false), &[max]);
            check(&format!("min of {n}"), &device, &x.min(&[0], false), &[min]);
            check(&format!("sum of {n} squares"), &device, &(&x * 0.0 + 1.0).square().sum_all(), &[n as f32]);
        }
    }
}

#[test]
fn rows_columns_and_views() {
    for device in devices() {
        let (rows, cols) = (3, LONG + 64);
        let values = whole(rows * cols);
        let x = Tensor::from_slice(&device, &values, &[rows, cols]);
        let row = |r: usize| &values[r * cols..(r + 1) * cols];
        let by_row: Vec<[f32; 3]> = (0..rows).map(|r| extremes(row(r))).collect();
        let pick = |k: usize| by_row.iter().map(|e| e[k]).collect::<Vec<f32>>();
        check("rows", &device, &x.sum(&[1], false), &pick(0));
        check("rows' maxima", &device, &x.max(&[1], true).flatten(0), &pick(1));
        check("columns of the transpose", &device, &x.t().sum(&[0], false), &pick(0));
        check("rows' minima backwards", &device, &x.flip(&[1]).min(&[1], false), &pick(2));
        check("all, transposed", &device, &x.t().sum_all(), &[by_row.iter().map(|e| e[0]).sum()]);
        let half: f32 = row(1)[cols / 2..].iter().sum();
        let part = x.narrow(0, 1, 1).narrow(1, cols / 2, cols - cols / 2);
        check("a part", &device, &part.pad(&[(1, 1), (5, 70_000)], 0.0).sum_all(), &[half]);
    }
}

/// Loops over whole lines, which lavapipe would end early.
#[test]
fn running_sums_and_scatters_of_long_lines() {
    for device in devices() {
        for n in [4097, 70_001] {
            let values: Vec<f32> = (0..n).map(|i| (i * 37 % 11) as f32 - 4.0).collect();
            let running = |values: &mut dyn Iterator<Item = &f32>| -> Vec<f32> {
                values
                    .scan(0.0, |sum, v| {
                        *sum += v;
                        Some(*sum)
                    })
                    .collect()
            };
            let x = Tensor::from_slice(&device, &values, &[n]);
            check(&format!("running sum of {n}"), &device, &x.cumsum(0), &running(&mut values.iter()));
            let two = Tensor::stack(&[&x, &x], 1).cumsum(0).narrow(1, 1, 1).flatten(0);
            check(&format!("running sums of {n} x 2"), &device, &two, &running(&mut values.iter()));
            let back = grad_of(&(x.cumsum(0) * &x.detach()).sum_all(), &[&x]).expect("it has one").remove(0);
            let mut want = running(&mut values.iter().rev());
            want.reverse();
            check(&format!("reversed running sum of {n}"), &device, &back, &want);
            let index: Vec<i32> = (0..n as i32).map(|i| i % 3).collect();
            let index = Tensor::from_slice(&device, &index, &[n]);
            let sum = |k: usize| values.iter().skip(k).step_by(3).sum::<f32>() + 1.0;
            let ones = Tensor::ones(&device, &[3]);
            check(
                &format!("scatter of {n}"),
                &device,
                &ones.scatter_add(0, &index, &x),
                &[sum(0), sum(1), sum(2)],
            );
        }
    }
}

#[test]
fn two_launches_that_keep_their_structure_and_their_bits() {
    let null = Device::null();
    let sum = |n: usize| {
        let x = Tensor::from_slice(&null, &vec![1.0f32; n * LONG], &[n, LONG]);
        let y = x.sum_all();
        let before = null.counters().pipelines;
        let launches = explain(&[&y]).expect("a sum").launches.len();
        (launches, null.counters().pipelines - before)
    };
    let (first, _) = sum(16);
    assert_eq!(first, 2);
    assert_eq!(sum(7), (2, 0), "another batch compiles nothing");
    for device in devices() {
        let values: Vec<f32> = (0..LONG + 3).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Tensor::from_slice(&device, &values, &[LONG + 3]);
        let bits = |x: &Tensor| x.sum_all().item::<f32>().expect("it runs").to_bits();
        let exact: f64 = values.iter().map(|&v| f64::from(v)).sum();
        let first = bits(&x);
        assert!((f64::from(f32::from_bits(first)) - exact).abs() < 1e-2, "{}", device.info().name);
        for _ in 0..3 {
            assert_eq!(bits(&x), first, "{}", device.info().name);
        }
    }
}
