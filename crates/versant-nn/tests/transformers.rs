//! Norms within a sample, attention with several heads, positions and caches: the store, mistakes, edges, launches.

use versant_graph::{Attention, Device, GraphError, RandomKey, Tensor, explain, grad_of, latest_plan};
use versant_nn::layers::{
    Alibi, Attend, Embedding, FeedForward, GroupNorm, InstanceNorm1d, InstanceNorm2d, LearnedPositions,
    Linear, MultiHeadAttention, RmsNorm, Rotary, SinusoidalPositions, Start, TransformerConfig,
    TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer,
};
use versant_nn::{AdamW, Losses, Mode, Module, Optimizer, Params, Seed};

fn store() -> Params {
    Params::new(&Device::cpu(), Seed(7))
}

fn random(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    Tensor::rand_uniform(device, shape, RandomKey::new(seed)) - 0.5
}

/// The message of a recorded mistake, which must name this file and the line given.
#[track_caller]
fn message(t: &Tensor, line: u32) -> String {
    match t.to_vec::<f32>() {
        Err(error @ GraphError::Invalid { .. }) => {
            let text = error.to_string();
            let place = format!(" at crates/versant-nn/tests/transformers.rs:{line}:");
            assert!(text.contains(&place), "line {line}: {text}");
            text
        }
        other => panic!("a mistake was expected, not {other:?}"),
    }
}

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor) {
    assert_eq!(got.shape(), want.shape());
    let [got, want] = [got, want].map(|t| t.to_vec::<f32>().expect("values"));
    for (g, w) in got.iter().zip(&want) {
        assert!((g - w).abs() <= 1e-5 + 1e-4 * w.abs(), "{g} for {w}");
    }
}

#[test]
fn a_mistake_in_construction_is_returned_by_the_first_value() {
    let vs = store();
    let x = Tensor::zeros(vs.device(), &[2, 4, 6]);
    let config = TransformerConfig::new(6, 4);
    let at = line!() + 2;
    let layers: Vec<Box<dyn Module>> = vec![
        Box::new(RmsNorm::new(&(&vs / "a"), &[]).no_affine()),
        Box::new(GroupNorm::new(&(&vs / "b"), 3, 4)),
        Box::new(GroupNorm::new(&(&vs / "c"), 0, 4).no_affine()),
        Box::new(InstanceNorm1d::new(&(&vs / "d"), 0).affine().track()),
        Box::new(LearnedPositions::new(&(&vs / "e"), 0, 6)),
        Box::new(MultiHeadAttention::new(&(&vs / "f"), 6, 4)),
        Box::new(MultiHeadAttention::new(&(&vs / "g"), 6, 0).no_bias()),
        Box::new(MultiHeadAttention::new(&(&vs / "h"), 6, 3).kv_heads(2)),
        Box::new(MultiHeadAttention::new(&(&vs / "i"), 6, 3).kv_widths(0, 4)),
    ];
    for (i, layer) in layers.iter().enumerate() {
        message(&layer.forward(&x, Mode::Train), at + i as u32);
    }
    assert!(vs.names().is_empty(), "{:?}", vs.names());
    // Of a layer the attention says it, at the layer's line.
    let layer = TransformerEncoderLayer::new(&(&vs / "j"), &config);
    assert!(message(&layer.forward(&x, Mode::Eval), line!() - 1).contains("divide the width 6"));
    let text = message(&Rotary::new(vs.device(), 4, 5).rotate(&x, Start::Fixed(0)), line!());
    assert!(text.contains("even"), "{text}");
    let text = message(&Rotary::new(vs.device(), 4, 4).base(-1.0).rotate(&x, Start::Fixed(0)), line!());
    assert!(text.contains("base"), "{text}");
}

#[test]
fn a_mistake_in_use_names_the_callers_line() {
    let vs = store();
    let dev = vs.device().clone();
    let [x, narrow, int] = [&[2, 4, 6][..], &[2, 4, 5], &[2, 4]].map(|s| Tensor::zeros(&dev, s));
    let norm = RmsNorm::new(&(&vs / "rms"), &[5]);
    assert!(message(&norm.forward(&x, Mode::Eval), line!()).contains("[5]"));
    let norm = GroupNorm::new(&(&vs / "group"), 2, 6);
    assert!(message(&norm.forward(&x, Mode::Eval), line!()).contains("6 channels"));
    let norm = InstanceNorm2d::new(&(&vs / "instance"), 4);
    assert!(message(&norm.forward(&x, Mode::Eval), line!()).contains("H, W"));
    let norm = InstanceNorm1d::new(&(&vs / "one"), 4);
    assert!(message(&norm.forward(&x.narrow(2, 0, 1), Mode::Train), line!()).contains("more than one"));

    let layer = MultiHeadAttention::new(&(&vs / "mha"), 6, 2);
    let none = Attend::default();
    assert!(message(&layer.forward(&narrow, Mode::Eval), line!()).contains("length, 6"));
    assert!(message(&layer.forward(&int, Mode::Eval), line!()).contains("f32[2, 4]"));
    let wrong = |given: Attend<'_>| layer.run(&x, &given, Mode::Eval);
    let at = line!() - 1;
    let other = Tensor::zeros(&dev, &[3, 4, 6]);
    assert!(message(&wrong(Attend { memory: Some(&other), ..none }), at).contains("one batch"));
    assert!(message(&wrong(Attend { memory: Some(&narrow), ..none }), at).contains("length, 6"));
    let values = x.narrow(1, 0, 3);
    assert!(message(&wrong(Attend { values: Some(&values), ..none }), at).contains("value each"));
    for present in
        [Tensor::zeros(&dev, &[3, 4]), Tensor::zeros(&dev, &[4]), int.cast(versant_graph::DType::I32)]
    {
        assert!(message(&wrong(Attend { present: Some(&present), ..none }), at).contains("[2, keys]"));
    }
    // Masks that do not broadcast to the scores are seen where attention is.
    let mask = Tensor::zeros(&dev, &[4, 3]);
    assert!(message(&wrong(Attend { mask: Some(&mask), ..none }), at).contains("mask"));

    let cache = &mut layer.cache(2, 5);
    let _ = layer.step(&x, &none, cache, 0);
    cache.advance(4);
    assert!(message(&layer.step(&x, &none, cache, 0), line!()).contains("4 positions after 4"));
    let row = x.narrow(1, 0, 1);
    assert!(message(&layer.step(&row, &none, cache, 1), line!()).contains("no layer 1"));
    let given = Attend { memory: Some(&x), ..none };
    assert!(message(&layer.step(&row, &given, cache, 0), line!()).contains("no memory"));
    assert!(message(&layer.step(&row.narrow(0, 0, 1), &none, cache, 0), line!()).contains("2 sequences"));
    let short = MultiHeadAttention::new(&(&vs / "short"), 6, 1).rotary(&Rotary::new(&dev, 4, 6));
    assert!(message(&short.step(&row, &none, &mut short.cache(2, 5), 0), line!()).contains("not 4"));
    let decoder = TransformerDecoderLayer::new(&(&vs / "decoder"), &TransformerConfig::new(6, 2));
    assert!(message(&decoder.run(&x, &none, &none, Mode::Eval), line!()).contains("memory"));
    assert!(message(&decoder.step(&row, &none, &none, cache, 0), line!()).contains("memory"));

    let learned = LearnedPositions::new(&(&vs / "learned"), 4, 6);
    assert!(message(&learned.at(&x, Start::Fixed(1)), line!()).contains("from 1 on"));
    let far = Start::Fixed(usize::MAX);
    assert!(message(&learned.at(&x, far), line!()).contains("more than the 4"));
    assert!(message(&learned.at(&x, Start::Runtime(&int)), line!()).contains("rank 0"));
    let waves = SinusoidalPositions::new(&dev, 4, 6);
    assert!(message(&waves.forward(&narrow, Mode::Eval), line!()).contains("length, 6"));
    let rotary = Rotary::new(&dev, 4, 6);
    assert!(message(&rotary.rotate(&x, Start::Fixed(0)), line!()).contains("heads, 6"));
}

#[test]
fn nothing_and_one_row_are_no_mistakes() {
    let vs = store();
    // Heads of three elements have no pairs.
    let config = TransformerConfig::new(6, 2).rotary(&Rotary::new(vs.device(), 8, 3));
    assert!(
        TransformerEncoderLayer::new(&(&vs / "odd"), &config)
            .forward(&Tensor::ones(vs.device(), &[1, 1, 6]), Mode::Eval)
            .error()
            .is_some()
    );
    let config = TransformerConfig::new(8, 2).rotary(&Rotary::new(vs.device(), 8, 4)).causal();
    let encoder = TransformerEncoder::new(&(&vs / "encoder"), &config, 2).final_norm();
    let decoder = TransformerDecoder::new(&(&vs / "decoder"), &config, 1).final_norm();
    for [batch, length] in [[0, 3], [2, 0], [2, 1], [0, 0]] {
        let x = Tensor::ones(vs.device(), &[batch, length, 8]);
        let y = encoder.forward(&x, Mode::Train);
        assert_eq!(y.to_vec::<f32>().expect("values").len(), batch * length * 8);
        let cross = Attend { memory: Some(&x), ..Attend::default() };
        let y = decoder.run(&x, &Attend::default(), &cross, Mode::Train);
        assert_eq!(y.to_vec::<f32>().expect("values").len(), batch * length * 8);
        let mut cache = encoder.cache(batch, 4);
        let y = encoder.step(&x, &mut cache);
        assert_eq!((y.to_vec::<f32>().expect("values").len(), cache.len()), (batch * length * 8, length));
        let norms = (GroupNorm::new(&(&vs / "group"), 1, 8), InstanceNorm1d::new(&(&vs / "i"), 8).track());
        let y = norms.forward(&Tensor::ones(vs.device(), &[batch, 8, 3]), Mode::Train);
        assert_eq!(y.to_vec::<f32>().expect("values").len(), batch * 24);
    }
    let mean = vs.get("i.running_mean").expect("it is tracked").get().to_vec::<f32>().expect("values");
    assert!(mean.iter().all(|m| m.is_finite()), "an empty batch has no mean");
    // No layers pass rows on.
    let none = TransformerEncoder::new(&(&vs / "none"), &config, 0);
    let x = random(vs.device(), &[2, 3, 8], 1);
    assert_close(&none.step(&x, &mut none.cache(2, 4)), &x);
}

#[test]
fn builders_keep_names_and_shapes_of_the_store() {
    let vs = store();
    let layer = MultiHeadAttention::new(&(&vs / "a"), 8, 4).kv_heads(2).kv_widths(3, 5).no_bias();
    let shapes: Vec<(String, Vec<usize>)> =
        vs.iter().map(|p| (p.name().to_owned(), p.shape().to_vec())).collect();
    let want = [
        ("a.q_proj_weight", [8, 8]),
        ("a.k_proj_weight", [4, 3]),
        ("a.v_proj_weight", [4, 5]),
        ("a.out_proj.weight", [8, 8]),
    ];
    assert_eq!(shapes, want.map(|(name, shape)| (name.to_owned(), shape.to_vec())));
    drop(layer);
    let vs = store();
    let layer = InstanceNorm2d::new(&(&vs / "b"), 3).track().affine();
    assert_eq!(vs.names(), ["b.running_mean", "b.running_var", "b.weight", "b.bias"]);
    drop(layer);
    let vs = store();
    let config =
        TransformerConfig::new(4, 2).feed_forward(FeedForward::SwiGlu).rms_norm().hidden(6).no_bias();
    let layer = TransformerDecoder::new(&vs.root(), &config, 1).final_norm();
    assert_eq!(vs.get("layers.0.linear1.weight").expect("it is there").shape(), [12, 4]);
    assert_eq!(vs.count(), 2 * 64 + 48 + 24 + 3 * 4 + 4);
    drop(layer);
}

/// A norm with its name, the shape of its input, and the most launches of its gradients.
type Norm = (&'static str, Box<dyn Module>, Vec<usize>, usize);

/// Norms are one kernel forward; what the gradients take.
#[test]
fn norms_are_one_launch() {
    let vs = Params::new(&Device::null(), Seed(1));
    let dev = vs.device().clone();
    let norms: Vec<Norm> = vec![
        ("rms", Box::new(RmsNorm::new(&(&vs / "rms"), &[64])), vec![32, 16, 64], 3),
        ("group", Box::new(GroupNorm::new(&(&vs / "group"), 4, 16)), vec![8, 16, 4, 4], 3),
        ("instance", Box::new(InstanceNorm2d::new(&(&vs / "instance"), 16).affine()), vec![8, 16, 6, 6], 4),
    ];
    for (name, norm, shape, most) in norms {
        let x = Tensor::from_slice(&dev, &vec![0.5f32; shape.iter().product()], &shape);
        let plan = explain(&[&norm.forward(&x, Mode::Train)]).expect("a plan");
        assert_eq!(plan.launches.len(), 1, "{name}: {plan}");
        let weights: Vec<Tensor> =
            vs.iter().filter(|p| p.name().starts_with(name)).map(|p| p.get()).collect();
        let y = norm.forward(&x, Mode::Train);
        let at: Vec<&Tensor> = weights.iter().chain([&x]).collect();
        let grads = grad_of(&y.square(), &at).expect("gradients");
        drop(y);
        let plan = explain(&grads.iter().collect::<Vec<_>>()).expect("a plan");
        println!("{name}: {} launches of the gradients", plan.launches.len());
        assert!(plan.launches.len() <= most, "{name}: {plan}");
    }
}

/// Scores of turned queries and keys depend on distances alone, in both styles.
#[test]
fn rotary_scores_depend_on_distances() {
    let dev = Device::cpu();
    let plain = Rotary::new(&dev, 64, 8);
    for rotary in [plain.clone(), plain.clone().interleaved(), plain.base(500.0)] {
        let (q, k) = (random(&dev, &[1, 1, 2, 8], 1), random(&dev, &[1, 1, 2, 8], 2));
        let score = |at: usize, key: usize| {
            let runtime = Tensor::scalar(&dev, key as i32);
            (rotary.rotate(&q, Start::Fixed(at)) * rotary.rotate(&k, Start::Runtime(&runtime))).sum_all()
        };
        let length = |t: &Tensor| t.square().sum_all();
        assert_close(&score(7, 3), &score(54, 50));
        assert_close(&length(&rotary.rotate(&q, Start::Fixed(63))), &length(&q));
        let (near, far) = (score(0, 0).item::<f32>().unwrap(), score(40, 3).item::<f32>().unwrap());
        assert!((near - far).abs() > 1e-3);
    }
}

#[test]
fn alibi_has_the_papers_slopes() {
    let dev = Device::cpu();
    let first = |heads: usize| {
        let mask = Alibi::new(&dev, heads).mask(1, 2, Start::Fixed(0)).to_vec::<f32>().expect("values");
        mask.chunks(2).map(|row| -row[1]).collect::<Vec<f32>>()
    };
    assert_eq!(first(4), [0.25, 0.0625, 2f32.powi(-6), 2f32.powi(-8)]);
    assert_eq!(first(3), [2f32.powi(-4), 2f32.powi(-8), 2f32.powi(-2)]);
    assert_eq!(first(1), [2f32.powi(-8)]);
    assert!(first(0).is_empty());
}

#[test]
fn masks_of_both_kinds_say_the_same() {
    let vs = store();
    let dev = vs.device().clone();
    let layer = MultiHeadAttention::new(&vs.root(), 8, 2);
    let x = random(&dev, &[2, 4, 8], 1);
    let bools = [true, true, true, false, true, true, false, false];
    let there = Tensor::from_slice(&dev, &bools, &[2, 4]);
    let numbers = Tensor::from_slice(&dev, &bools.map(|b| f32::from(u8::from(b))), &[2, 4]);
    let causal = Attend { is_causal: true, ..Attend::default() };
    let run = |given: Attend<'_>| layer.run(&x, &given, Mode::Eval);
    let want = run(Attend { present: Some(&there), ..causal });
    assert_close(&run(Attend { present: Some(&numbers), ..causal }), &want);
    // As one mask of each kind.
    let i = Tensor::arange(&dev, 4, versant_graph::DType::I32);
    let seen = there.reshape(&[2, 1, 1, 4]).and(&i.unsqueeze(1).ge(&i.unsqueeze(0)));
    assert_close(&run(Attend { mask: Some(&seen), ..Attend::default() }), &want);
    let added = seen.select(&Tensor::constant(&dev, 0f32), &Tensor::constant(&dev, f32::NEG_INFINITY));
    assert_close(&run(Attend { mask: Some(&added), ..Attend::default() }), &want);
    assert_close(&run(Attend { mask: Some(&added), present: Some(&there), ..causal }), &want);
    // What is hidden has no say, and no gradient.
    let y = run(Attend { present: Some(&there), ..Attend::default() }).narrow(1, 0, 1);
    let grad = grad_of(&y.square(), &[&x]).expect("a gradient").remove(0);
    let grad = grad.reshape(&[8, 8]).abs().sum(&[1], false).to_vec::<f32>().expect("values");
    for (g, there) in grad.iter().zip(bools) {
        assert_eq!(*g > 0.0, there, "{grad:?}");
    }
}

#[test]
fn dropout_of_weights_is_reproducible_and_off_in_evaluation() {
    let vs = store();
    let dev = vs.device().clone();
    let (q, v) = (random(&dev, &[1, 50, 4], 1), Tensor::ones(&dev, &[1, 50, 1]));
    let drop = |p: f32, seed: u64| {
        let options =
            Attention { dropout: Some((p, RandomKey::new(seed))), fused: Some(true), ..Attention::default() };
        q.attention(&q, &v, &options).to_vec::<f32>().expect("values")
    };
    // Every row is a sum of weights, whose mean stays 1.
    let rows = drop(0.3, 5);
    assert_eq!(rows, drop(0.3, 5));
    assert_ne!(rows, drop(0.3, 6));
    let mean = rows.iter().sum::<f32>() / 50.0;
    assert!((mean - 1.0).abs() < 0.1 && rows.iter().any(|r| (r - 1.0).abs() > 0.02), "{mean}");
    assert!(drop(0.0, 5).iter().all(|r| (r - 1.0).abs() < 1e-6));
    let error =
        q.attention(&q, &v, &Attention { dropout: Some((1.5, RandomKey::new(1))), ..Attention::default() });
    assert!(error.error().expect("a mistake").to_string().contains("probability"));

    let layer = MultiHeadAttention::new(&(&vs / "mha"), 8, 2).dropout(0.5);
    let x = random(&dev, &[2, 6, 8], 2);
    let values = |mode| layer.forward(&x, mode).to_vec::<f32>().expect("values");
    assert_eq!(values(Mode::Eval), values(Mode::Eval));
    assert_ne!(values(Mode::Train), values(Mode::Train));
}

/// The training step of W5 (benches/src/nets.rs), which is written by hand there and has 101 launches: the layers cost
/// no more.
#[test]
fn a_gpts_step_takes_no_more_launches_than_one_by_hand() {
    let dev = Device::null();
    let vs = Params::new(&dev, Seed(1));
    let config = TransformerConfig::new(128, 4).feed_forward(FeedForward::Gelu).norm_first().causal();
    let net = (
        Embedding::new(&(&vs / "tokens"), 64, 128),
        LearnedPositions::new(&(&vs / "positions"), 128, 128),
        TransformerEncoder::new(&(&vs / "trunk"), &config, 4).final_norm(),
        Linear::new(&(&vs / "head"), 128, 64).no_bias(),
    );
    let mut optimizer = AdamW::new(&vs, 1e-3);
    let ids = |n: usize| (0..n).map(|i| (i * 7 % 64) as i32).collect::<Vec<_>>();
    let x = Tensor::from_slice(&dev, &ids(16 * 128), &[16, 128]);
    let y = Tensor::from_slice(&dev, &ids(16 * 128), &[16 * 128]);
    for _ in 0..2 {
        let loss = net.forward(&x, Mode::Train).reshape(&[-1, 64]).cross_entropy(&y);
        optimizer.step(loss.backward().expect("gradients")).expect("a step");
    }
    let plan = latest_plan(&dev).expect("a step ran");
    println!("{} launches, {} bytes at the peak", plan.launches.len(), plan.peak.1);
    assert!(plan.launches.len() <= 101, "{plan}");
}
