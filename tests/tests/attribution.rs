//! Attributions of functions whose derivatives are known, on every device, and their misuse.

use versant_graph::{Device, RandomKey, Tensor};
use versant_nn::attribution::{
    grad_cam, input_gradient, integrated_gradients, occlusion, permutation_importance, saliency, smooth_grad,
};
use versant_tests::devices;

/// Scores of rows of three: `a * b` and `c³`.
fn scores(x: &Tensor) -> Tensor {
    let column = |i| x.narrow(1, i, 1);
    Tensor::cat(&[&(column(0) * column(1)), &(column(2).square() * column(2))], 1)
}

fn near(got: &Tensor, want: &[f32], within: f32) {
    let got = got.to_vec::<f32>().unwrap();
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() <= within), "{got:?} instead of {want:?}");
}

#[test]
fn known_functions_are_explained() {
    for dev in devices() {
        let x = Tensor::from_slice(&dev, &[2.0f32, -3.0, 1.0, 1.0, 1.0, 2.0], &[2, 3]);
        near(&input_gradient(scores, &x, &[0, 1]).unwrap(), &[-3.0, 2.0, 0.0, 0.0, 0.0, 12.0], 1e-5);
        near(&saliency(scores, &x, &[0, 1]).unwrap(), &[3.0, 2.0, 0.0, 0.0, 0.0, 12.0], 1e-5);
        // Shares of a product from zero are equal, and all shares add up to the score.
        let zero = Tensor::zeros(&dev, &[2, 3]);
        let shares = integrated_gradients(scores, &x, &zero, &[0, 1], 100).unwrap();
        near(&shares, &[-3.0, -3.0, 0.0, 0.0, 0.0, 8.0], 1e-3);
        // A linear function's gradient does not mind noise.
        let linear = |x: &Tensor| x.narrow(1, 0, 2) * 2.0;
        let smooth = smooth_grad(linear, &x, &[1, 0], 3, 0.5, RandomKey::new(1)).unwrap();
        near(&smooth, &[0.0, 2.0, 0.0, 2.0, 0.0, 0.0], 1e-6);
    }
}

#[test]
fn maps_show_where() {
    for dev in devices() {
        // Two channels of 2 by 2; the score is the first's mean less the second's.
        let map = Tensor::from_slice(&dev, &[1.0f32, 2.0, 0.0, 4.0, 0.0, 3.0, 0.0, 1.0], &[1, 2, 2, 2]);
        let head = |f: &Tensor| {
            let mean = f.mean(&[2, 3], false);
            let difference = mean.narrow(1, 0, 1) - mean.narrow(1, 1, 1);
            Tensor::cat(&[&difference, &-&difference], 1)
        };
        near(&grad_cam(head, &map, &[0]).unwrap(), &[0.25, 0.0, 0.0, 0.75], 1e-6);
        // Hiding pixels of a sum takes them away.
        let picture = Tensor::from_slice(&dev, &(0..9).map(|i| i as f32).collect::<Vec<_>>(), &[1, 1, 3, 3]);
        let sum = |x: &Tensor| x.sum(&[1, 2, 3], false).unsqueeze(1);
        let falls = occlusion(sum, &picture, &[0], [2, 1], 0.0).unwrap();
        assert_eq!(falls.shape(), [1, 2, 2]);
        near(&falls, &[8.0, 12.0, 20.0, 24.0], 1e-5);
    }
}

#[test]
fn shuffling_what_matters_lowers_the_score() {
    for dev in devices() {
        // Pictures of two by two pixels in three channels, whose score is minus the error of a sum that weighs the channels
        // 1, 3 and 0. The mean of (a - b)² over shuffled values is twice their variance, up to chance.
        let samples = 257;
        let x = Tensor::rand_normal(&dev, &[samples, 3, 2, 2], RandomKey::new(3));
        let sum = |x: &Tensor| x.narrow(1, 0, 1) + x.narrow(1, 1, 1) * 3.0;
        let truth = sum(&x).detach();
        let score = |x: &Tensor| Ok(-f64::from((sum(x) - &truth).square().mean_all().item::<f32>()?));
        let found = permutation_importance(score, &x, 4, RandomKey::new(9)).unwrap();
        assert_eq!(found.len(), 3);
        for (importance, want) in found.iter().zip([2.0, 18.0, 0.0]) {
            assert_eq!(importance.falls.len(), 4);
            assert!((importance.mean() - want).abs() <= 0.15 * want, "{importance:?} instead of {want}");
            assert!(importance.deviation() <= 0.15 * want, "{importance:?}");
        }
        assert!(found[0].falls[0] != found[0].falls[1], "each repetition has an order of its own");
        // Transposed views are shuffled alike, and no sample at all is no trouble.
        let turned = permutation_importance(score, &x.permute(&[0, 1, 3, 2]), 1, RandomKey::new(9));
        assert!(turned.is_ok());
        let none = Tensor::zeros(&dev, &[0, 2]);
        assert_eq!(permutation_importance(|_| Ok(1.0), &none, 2, RandomKey::new(9)).unwrap()[1].mean(), 0.0);
    }
}

#[test]
fn misuse_is_an_error() {
    let dev = Device::cpu();
    let x = Tensor::zeros(&dev, &[2, 3]);
    for (classes, what) in
        [(&[0][..], "one class for two samples"), (&[0, 2], "no such class"), (&[0, -1], "below zero")]
    {
        let error = saliency(scores, &x, classes).expect_err(what).to_string();
        assert!(error.contains("attribution") && error.contains("attribution.rs"), "{error}");
    }
    assert!(integrated_gradients(scores, &x, &x, &[0, 0], 0).is_err());
    assert!(integrated_gradients(scores, &x, &Tensor::zeros(&dev, &[3]), &[0, 0], 5).is_err());
    assert!(smooth_grad(scores, &x, &[0, 0], 0, 0.1, RandomKey::new(1)).is_err());
    assert!(grad_cam(scores, &x, &[0, 0]).unwrap_err().to_string().contains("feature map"));
    assert!(occlusion(scores, &x, &[0, 0], [1, 1], 0.0).is_err());
    let picture = Tensor::zeros(&dev, &[1, 1, 4, 4]);
    assert!(occlusion(scores, &picture, &[0], [5, 1], 0.0).is_err());
    let score = |x: &Tensor| Ok(f64::from(x.sum_all().item::<f32>()?));
    let shuffled = |x: &Tensor, times| permutation_importance(score, x, times, RandomKey::new(1));
    // A mistake is handed on, whatever the score makes of it.
    let failed = x.matmul(&x);
    let blind = permutation_importance(|_| Ok(0.0), &failed, 1, RandomKey::new(1));
    assert!(blind.unwrap_err().to_string().contains("matmul"));
    for refused in [shuffled(&x, 0), shuffled(&Tensor::zeros(&dev, &[3]), 1)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("permutation_importance") && error.contains("attribution.rs"), "{error}");
    }
}
