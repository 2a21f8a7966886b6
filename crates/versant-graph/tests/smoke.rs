//! First light: the whole way from recording to values on the CPU.

use versant_graph::{ConvOptions, DType, Device, Tensor, eval, explain, grad_of, plan_stats};

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{a:?} {b:?}");
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= 1e-4 * (1.0 + y.abs()), "{a:?} {b:?}");
    }
}

#[test]
fn arithmetic_and_views() {
    let dev = device();
    let a = Tensor::from_slice(&dev, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    let b = (&a * 2.0 + 1.0).t().reshape(&[6]);
    close(&b.to_vec::<f32>().unwrap(), &[3.0, 9.0, 5.0, 11.0, 7.0, 13.0]);
    let c = Tensor::cat(&[&a, &(&a * 10.0)], 1).sum(&[0], false);
    close(&c.to_vec::<f32>().unwrap(), &[5.0, 7.0, 9.0, 50.0, 70.0, 90.0]);
    let p = a.pad(&[(1, 0), (0, 1)], 7.0);
    close(&p.to_vec::<f32>().unwrap(), &[7.0, 7.0, 7.0, 7.0, 1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0, 7.0]);
    let m = a.matmul(&a.t());
    close(&m.to_vec::<f32>().unwrap(), &[14.0, 32.0, 32.0, 77.0]);
    assert_eq!(a.argmax(1, false).to_vec::<i32>().unwrap(), [2, 2]);
    close(&a.cumsum(1).to_vec::<f32>().unwrap(), &[1.0, 3.0, 6.0, 4.0, 9.0, 15.0]);
    let i = Tensor::from_slice(&dev, &[1i32, 0, 1], &[3]);
    close(&a.index_select(0, &i).sum(&[1], false).to_vec::<f32>().unwrap(), &[15.0, 6.0, 15.0]);
    assert_eq!(Tensor::arange(&dev, 3, DType::U32).to_vec::<u32>().unwrap(), [0, 1, 2]);
}

#[test]
fn softmax_cross_entropy_is_two_launches() {
    let dev = device();
    let x: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin()).collect();
    let x = Tensor::from_slice(&dev, &x, &[4, 10]).into_parameter("x").unwrap();
    let y = Tensor::from_slice(&dev, &[1i32, 3, 9, 0], &[4]);
    let m = x.max(&[-1], true).detach();
    let shifted = &x - &m;
    let logp = &shifted - shifted.exp().sum(&[-1], true).ln();
    let hot = y.one_hot(10);
    let loss = hot.select(&logp, &Tensor::zeros(&dev, &[])).sum(&[-1], false).mean_all().neg();
    let g = loss.backward().unwrap().get(&x).unwrap().clone();
    let e = explain(&[&loss, &g]).unwrap();
    println!("{e}");
    eval(&[&loss, &g]).unwrap();
    assert!(e.launches.len() <= 2);
    let s: f32 = g.to_vec::<f32>().unwrap().iter().sum();
    assert!(s.abs() < 1e-5);
}

#[test]
fn a_small_net_trains_with_two_plans() {
    let dev = device();
    let init = |n: usize, s: f32| -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 * s - s / 2.0).collect()
    };
    let mut w1 = Tensor::from_slice(&dev, &init(8 * 9, 0.6), &[8, 1, 3, 3]).into_parameter("w1").unwrap();
    let mut w2 =
        Tensor::from_slice(&dev, &init(4 * 8 * 9, 0.2), &[8 * 9 * 4 / 8, 8]).into_parameter("w2").unwrap();
    let x = Tensor::from_slice(&dev, &init(5 * 36, 2.0), &[5, 1, 6, 6]);
    let t = Tensor::from_slice(&dev, &init(5 * 8, 2.0), &[5, 8]);
    let mut losses = vec![];
    for step in 0..20 {
        let h = x.conv2d(&w1, &ConvOptions { padding: [1; 2], ..Default::default() }).relu();
        let h = h.window(2, 2, 2, 1).window(3, 2, 2, 1);
        let h = h.max(&[-1, -2], false).reshape(&[5, -1]).narrow(1, 0, 36);
        let d = h.matmul(&w2) - &t;
        let loss = (&d * &d).mean_all();
        let grads = loss.backward().unwrap();
        let lr = Tensor::scalar(&dev, 0.1 + step as f32 * 1e-6);
        let n1 = &w1 - grads.get(&w1).unwrap() * &lr;
        let n2 = &w2 - grads.get(&w2).unwrap() * &lr;
        drop(h);
        drop(d);
        drop(lr);
        drop(grads);
        w1 = n1;
        w2 = n2;
        if step == 0 {
            println!("{}", explain(&[&w1, &w2, &loss]).unwrap());
        }
        eval(&[&w1, &w2]).unwrap();
        w1 = w1.into_parameter("w1").unwrap();
        w2 = w2.into_parameter("w2").unwrap();
        losses.push(loss.item::<f32>().unwrap());
    }
    println!("{losses:?} {:?}", plan_stats(&dev));
    assert!(losses[19] < losses[0]);
    assert!(plan_stats(&dev).misses <= 3);
}

#[test]
fn second_derivative() {
    let dev = device();
    let x = Tensor::from_slice(&dev, &[0.3f32, -0.8], &[2]);
    let y = (&x * &x).sin().sum_all();
    let g = grad_of(&y, &[&x]).unwrap().remove(0);
    let gg = grad_of(&g.sum_all(), &[&x]).unwrap().remove(0);
    let want: Vec<f32> =
        [0.3f32, -0.8].iter().map(|x| 2.0 * (x * x).cos() - 4.0 * x * x * (x * x).sin()).collect();
    close(&gg.to_vec::<f32>().unwrap(), &want);
}

#[test]
fn a_million_nodes() {
    let dev = device();
    let mut x = Tensor::from_slice(&dev, &[0.0f32; 4], &[4]);
    let t = std::time::Instant::now();
    for _ in 0..100_000 {
        x = x + 1.0;
    }
    println!("record {:?}", t.elapsed());
    let y = x.clone() * 2.0;
    let t = std::time::Instant::now();
    assert_eq!(x.to_vec::<f32>().unwrap()[0], 1e5);
    println!("eval {:?}", t.elapsed());
    drop(y);
}

fn device() -> Device {
    Device::from_env().unwrap()
}
