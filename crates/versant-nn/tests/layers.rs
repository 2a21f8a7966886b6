//! Layers: what the store holds for them, mistakes, and the running statistics of batch normalisation.

use versant_graph::{Device, GraphError, Tensor, eval, grad_of};
use versant_nn::layers::{
    BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, Dropout, Elu, Embedding,
    Flatten, Gelu, GeluTanh, Gru, LayerNorm, LeakyRelu, Linear, LogSoftmax, Lstm, MaxPool2d, Relu, Rnn,
    RnnState, Sequence, Sequential, Sigmoid, Silu, Softmax, Softplus, Tanh,
};
use versant_nn::{Losses, Mode, Module, Params, Seed};

fn store() -> Params {
    Params::new(&Device::cpu(), Seed(7))
}

/// The message of a recorded mistake, which must name this file and the line given.
#[track_caller]
fn message(t: &Tensor, line: u32) -> String {
    match t.to_vec::<f32>() {
        Err(error @ GraphError::Invalid { .. }) => {
            let text = error.to_string();
            let place = format!(" at crates/versant-nn/tests/layers.rs:{line}:");
            assert!(text.contains(&place), "line {line}: {text}");
            text
        }
        other => panic!("a mistake was expected, not {other:?}"),
    }
}

#[test]
fn a_mistake_in_construction_is_returned_by_the_first_value() {
    let vs = store();
    let x = Tensor::zeros(vs.device(), &[2, 4, 5, 5]);
    let at = line!() + 2;
    let layers: Vec<Box<dyn Module>> = vec![
        Box::new(Conv2d::new(&(&vs / "a"), 4, 6, 3).groups(4)),
        Box::new(Conv2d::new(&(&vs / "b"), 0, 6, 3)),
        Box::new(Conv2d::new(&(&vs / "c"), 4, 6, [3, 0])),
        Box::new(Conv2d::new(&(&vs / "d"), 4, 6, 3).groups(0).no_bias()),
        Box::new(Conv1d::new(&(&vs / "e"), 4, 0, 3)),
        Box::new(ConvTranspose2d::new(&(&vs / "f"), 4, 6, 3).groups(5)),
        Box::new(Linear::new(&(&vs / "g"), 0, 3).no_bias()),
        Box::new(BatchNorm2d::new(&(&vs / "h"), 0).no_affine()),
        Box::new(LayerNorm::new(&(&vs / "i"), &[]).no_affine()),
        Box::new(Embedding::new(&(&vs / "j"), 3, 0)),
    ];
    for (i, layer) in layers.iter().enumerate() {
        message(&layer.forward(&x, Mode::Train), at + i as u32);
    }
    // Half-made layers leave nothing behind, and a mistake can be mended.
    assert!(vs.names().is_empty(), "{:?}", vs.names());
    let mended = Conv2d::new(&(&vs / "a"), 4, 6, 3).groups(4).groups(2);
    assert_eq!(mended.forward(&x, Mode::Eval).shape(), [2, 6, 3, 3]);
}

#[test]
fn a_mistake_in_use_names_the_callers_line() {
    let vs = store();
    let dev = vs.device().clone();
    let flat = Tensor::zeros(&dev, &[2, 4]);
    let image = Tensor::zeros(&dev, &[2, 4, 5, 5]);
    let conv = Conv2d::new(&(&vs / "conv"), 3, 6, 3);
    let text = message(&conv.forward(&image, Mode::Eval), line!());
    assert!(text.contains("f32[2, 4, 5, 5]") && text.contains("f32[6, 3, 3, 3]"), "{text}");
    let (row, train, eval) = (Tensor::zeros(&dev, &[1, 4]), Mode::Train, Mode::Eval);
    let lazy = Conv2d::new(&(&vs / "lazy"), 4, 6, 3).stride(0);
    message(&lazy.forward(&image, eval), line!());
    let linear = Linear::new(&(&vs / "fc"), 3, 2);
    message(&linear.forward(&flat, eval), line!());
    let norm = BatchNorm2d::new(&(&vs / "bn"), 4);
    message(&norm.forward(&flat, eval), line!());
    let one = BatchNorm1d::new(&(&vs / "bn1"), 4);
    message(&one.forward(&row, train), line!());
    let rows = LayerNorm::new(&(&vs / "ln"), &[3]);
    message(&rows.forward(&flat, eval), line!());
    let drop = Dropout::new(&(&vs / "drop"), 1.5);
    message(&drop.forward(&flat, train), line!());
    let words = Embedding::new(&(&vs / "words"), 3, 2);
    message(&words.forward(&flat, eval), line!());
    message(&MaxPool2d::new(7).forward(&image, eval), line!());
    let gru = Gru::new(&(&vs / "gru"), 3, 2);
    message(&gru.forward(&flat, eval), line!());
    message(&gru.forward(&Tensor::zeros(&dev, &[4, 2, 5]), eval), line!());
    let net = (Relu, Flatten::new(), &conv);
    message(&net.forward(&image, eval), line!());
}

#[test]
fn a_sequential_names_the_layer_and_where_it_was_pushed() {
    let vs = store();
    let x = Tensor::zeros(vs.device(), &[2, 4]);
    let linear = Linear::new(&(&vs / "fc"), 3, 2);
    let pushed = line!() + 1;
    let inner = Sequential::new().named("wrong", linear);
    let net = Sequential::new().push(Relu).push(inner).push(Relu);
    let text = message(&net.forward(&x, Mode::Eval), line!());
    assert!(text.contains("in layer \"wrong\"") && text.contains("in layer 1"), "{text}");
    assert!(text.contains(&format!("layers.rs:{pushed}:")), "{text}");
    // A mistake in the input is not blamed on a layer.
    let bad = x.reshape(&[3]);
    let text = net.forward(&bad, Mode::Eval).error().expect("inherited").to_string();
    assert!(text.contains("reshape") && !text.contains("in layer"), "{text}");
}

#[test]
fn builders_keep_names_shapes_and_counts_of_the_store() {
    let vs = store();
    let conv = Conv2d::new(&(&vs / "conv"), 4, 8, [3, 5]).groups(2).no_bias();
    let up = ConvTranspose2d::new(&(&vs / "up"), 8, 6, 2).stride(2).groups(2);
    let norm = BatchNorm2d::new(&(&vs / "bn"), 6);
    let want = [
        ("conv.weight", vec![8, 2, 3, 5]),
        ("up.weight", vec![8, 3, 2, 2]),
        ("up.bias", vec![6]),
        ("bn.weight", vec![6]),
        ("bn.bias", vec![6]),
        ("bn.running_mean", vec![6]),
        ("bn.running_var", vec![6]),
    ];
    let mut names = vs.names();
    names.sort();
    let mut wanted: Vec<&str> = want.iter().map(|(name, _)| *name).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for (name, shape) in want {
        assert_eq!(vs.get(name).expect("it is there").shape(), shape, "{name}");
    }
    let weight = vs.get("conv.weight").expect("it is there").get().to_vec::<f32>().expect("values");
    let bound = 1.0 / (2f32 * 15.0).sqrt();
    let top = weight.iter().fold(0f32, |m, w| m.max(w.abs()));
    assert!(top <= bound && top > 0.9 * bound, "{top} of {bound}");
    let x = Tensor::zeros(vs.device(), &[2, 4, 6, 7]);
    assert_eq!((conv, up, norm).forward(&x, Mode::Eval).shape(), [2, 6, 8, 6]);
    assert!(vs.check().is_ok());
    // A parameter that two layers share stays when one of them does without it.
    let shared = Linear::new(&(&vs / "fc"), 3, 2);
    let without = Linear::new(&(&vs / "fc"), 3, 2).no_bias();
    assert!(vs.get("fc.bias").is_some());
    drop((shared, without));
}

/// The definition, in f64: channel means, biased and unbiased variances of `[N, C]`.
fn statistics(x: &[f32], channels: usize) -> Vec<(f64, f64, f64)> {
    let rows = x.len() / channels;
    let column = |c: usize| (0..rows).map(move |r| f64::from(x[r * channels + c]));
    (0..channels)
        .map(|c| {
            let mean = column(c).sum::<f64>() / rows as f64;
            let square: f64 = column(c).map(|v| (v - mean).powi(2)).sum();
            (mean, square / rows as f64, square / (rows as f64 - 1.0))
        })
        .collect()
}

fn close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() < 1e-5 * (1.0 + w.abs()), "{got:?} {want:?}");
    }
}

#[test]
fn running_statistics_follow_three_training_steps() {
    let (vs, channels, momentum) = (store(), 3, 0.25);
    let dev = vs.device().clone();
    let norm = BatchNorm1d::new(&(&vs / "bn"), channels).momentum(momentum as f32);
    let buffer = |name: &str| vs.get(&format!("bn.{name}")).expect("it is there").get();
    let (mut mean, mut var) = (vec![0f64; channels], vec![1f64; channels]);
    for step in 0..3 {
        let x: Vec<f32> = (0..15).map(|i| ((i * 7 + step * 5) % 11) as f32 * 0.3 + step as f32).collect();
        let loss = norm
            .forward(&Tensor::from_slice(&dev, &x, &[5, channels]), Mode::Train)
            .mse(&Tensor::ones(&dev, &[5, channels]));
        let grads = loss.backward().expect("gradients");
        // As an optimiser does: new values and pending buffers in one evaluation.
        let weight = vs.get("bn.weight").expect("it is there");
        let moved = weight.get() - grads.get(&weight.get()).expect("a gradient") * 0.1;
        let (running_mean, running_var) = (buffer("running_mean"), buffer("running_var"));
        assert!(!running_mean.is_ready(), "a pass only records the update");
        eval(&[&moved, &running_mean, &running_var]).expect("a step");
        weight.set(moved);
        for (c, (m, _, unbiased)) in statistics(&x, channels).into_iter().enumerate() {
            mean[c] = (1.0 - momentum) * mean[c] + momentum * m;
            var[c] = (1.0 - momentum) * var[c] + momentum * unbiased;
        }
        close(&buffer("running_mean").to_vec::<f32>().expect("values"), &mean);
        close(&buffer("running_var").to_vec::<f32>().expect("values"), &var);
    }
    // Evaluation uses them and leaves them alone.
    let x: Vec<f32> = (0..3).map(|i| i as f32).collect();
    let y = norm.forward(&Tensor::from_slice(&dev, &x, &[1, channels]), Mode::Eval);
    let weight = vs.get("bn.weight").expect("it is there").get().to_vec::<f32>().expect("values");
    let want: Vec<f64> =
        (0..channels).map(|c| (c as f64 - mean[c]) / (var[c] + 1e-5).sqrt() * f64::from(weight[c])).collect();
    close(&y.to_vec::<f32>().expect("values"), &want);
    close(&buffer("running_mean").to_vec::<f32>().expect("values"), &mean);
}

#[test]
fn passes_without_a_step_do_not_pile_up() {
    let vs = store();
    let norm = BatchNorm1d::new(&(&vs / "bn"), 2);
    let x = Tensor::from_slice(vs.device(), &[1.0f32, 2.0, 3.0, 6.0], &[2, 2]);
    let mut computed = 0;
    for _ in 0..40 {
        let _ = norm.forward(&x, Mode::Train);
        let mean = vs.get("bn.running_mean").expect("it is there").get();
        computed += usize::from(mean.is_ready());
    }
    assert!((3..=5).contains(&computed), "{computed}");
    let mean = vs.get("bn.running_mean").expect("it is there").get().to_vec::<f32>().expect("values");
    let left = 0.9f64.powi(40);
    close(&mean, &[2.0 * (1.0 - left), 4.0 * (1.0 - left)]);
}

#[test]
fn dropout_is_reproducible_and_off_in_evaluation() {
    let draw = || {
        let vs = store();
        let layer = Dropout::new(&(&vs / "drop"), 0.25);
        let x = Tensor::ones(vs.device(), &[4000]);
        assert_eq!(layer.forward(&x, Mode::Eval).to_vec::<f32>().expect("values"), [1.0; 4000]);
        let pass = || layer.forward(&x, Mode::Train).to_vec::<f32>().expect("values");
        (pass(), pass())
    };
    let (first, second) = draw();
    assert_ne!(first, second, "every pass draws anew");
    assert_eq!((first.clone(), second), draw());
    let kept = first.iter().filter(|&&y| y != 0.0).count();
    assert!((2850..3150).contains(&kept), "{kept}");
    assert!(first.iter().all(|&y| y == 0.0 || (y - 4.0 / 3.0).abs() < 1e-6));
}

/// Over one axis it is the layer of two, the first of which has one element.
#[test]
fn a_transposed_convolution_of_one_axis_is_a_flat_one_of_two() {
    let vs = store();
    let dev = vs.device().clone();
    let line = ConvTranspose1d::new(&(&vs / "a"), 4, 6, 3).stride(2).pad(1).output_pad(1).groups(2);
    let flat = ConvTranspose2d::new(&(&vs / "b"), 4, 6, [1, 3]);
    let flat = flat.stride([1, 2]).pad([0, 1]).output_pad([0, 1]).groups(2);
    for name in ["weight", "bias"] {
        let value = |layer: &str| vs.get(&format!("{layer}.{name}")).expect("it is there");
        let shape: Vec<isize> = value("b").shape().iter().map(|&d| d as isize).collect();
        let moved = value("a").get().detach().reshape(&shape);
        eval(&[&moved]).expect("a copy");
        value("b").set(moved);
    }
    let x = Tensor::rand_uniform(&dev, &[2, 4, 5], versant_graph::RandomKey::new(1));
    let values = |t: Tensor| t.to_vec::<f32>().expect("values");
    let y = line.forward(&x, Mode::Train);
    assert_eq!(y.shape(), [2, 6, 10]);
    assert_eq!(values(y), values(flat.forward(&x.unsqueeze(2), Mode::Train)));
    let text = message(&line.forward(&x.unsqueeze(2), Mode::Eval), line!());
    assert!(text.contains("conv_transpose1d"), "{text}");
}

#[test]
fn an_embedding_does_not_hide_a_bad_index() {
    let vs = store();
    let layer = Embedding::new(&(&vs / "words"), 3, 2);
    let table = vs.get("words.weight").expect("it is there").get().to_vec::<f32>().expect("values");
    let x = Tensor::from_slice(vs.device(), &[2i32, -1, 3, 0], &[2, 2]);
    let y = layer.forward(&x, Mode::Train);
    assert_eq!(y.shape(), [2, 2, 2]);
    let y = y.to_vec::<f32>().expect("values");
    assert_eq!((&y[..2], &y[6..]), (&table[4..], &table[..2]));
    assert!(y[2..6].iter().all(|v| v.is_nan()));
}

#[test]
fn activation_layers_are_the_tensors_methods() {
    let dev = Device::cpu();
    let x = Tensor::from_slice(&dev, &[-3.0f32, -0.5, 0.0, 0.5, 1.0, 7.0], &[2, 3]);
    let table: Vec<(Box<dyn Module>, Tensor)> = vec![
        (Box::new(Relu), x.relu()),
        (Box::new(LeakyRelu(0.3)), x.leaky_relu(0.3)),
        (Box::new(Gelu), x.gelu()),
        (Box::new(GeluTanh), x.gelu_tanh()),
        (Box::new(Silu), x.silu()),
        (Box::new(Sigmoid), x.sigmoid()),
        (Box::new(Tanh), x.tanh()),
        (Box::new(Softmax(0)), x.softmax(0)),
        (Box::new(LogSoftmax(-1)), x.log_softmax(-1)),
        (Box::new(Softplus), x.softplus()),
        (Box::new(Elu(0.5)), x.elu(0.5)),
    ];
    let values = |t: &Tensor| t.to_vec::<f32>().expect("values");
    for (i, (layer, want)) in table.iter().enumerate() {
        assert_eq!(values(&layer.forward(&x, Mode::Eval)), values(want), "{i}");
    }
}

/// The layer's variance is written so that its derivatives are exact to any order.
#[test]
fn batch_normalisation_has_the_second_derivative_of_its_definition() {
    let vs = store();
    let layer = BatchNorm1d::new(&(&vs / "bn"), 2);
    let values = |seed: usize| -> Vec<f32> {
        let number = |i: usize| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5;
        (0..10).map(number).collect()
    };
    let tensor = |seed| Tensor::from_slice(vs.device(), &values(seed), &[5, 2]);
    let second = |normalise: &dyn Fn(&Tensor) -> Tensor| {
        let x = tensor(1);
        let loss = (normalise(&x) * tensor(2)).sum_all();
        let first = grad_of(&loss, &[&x]).expect("a gradient").remove(0);
        let along = (first * tensor(3)).sum_all();
        let second = grad_of(&along, &[&x]).expect("a gradient").remove(0);
        second.to_vec::<f32>().expect("values")
    };
    let definition = second(&|x| {
        let centred = x - x.mean(&[0], true);
        let var = centred.square().mean(&[0], true);
        centred * (var + 1e-5).rsqrt()
    });
    let got = second(&|x| layer.forward(x, Mode::Train));
    let want: Vec<f64> = definition.iter().map(|&w| f64::from(w)).collect();
    assert!(want.iter().any(|w| w.abs() > 0.1), "{want:?}");
    close(&got, &want);
}

#[test]
fn recurrent_layers_name_mistakes_in_sizes_states_and_lengths() {
    let vs = store();
    let dev = vs.device().clone();
    let x = Tensor::zeros(&dev, &[4, 2, 3]);
    let none = Sequence::default();
    let error = |made: (Tensor, RnnState)| {
        let error = made.0.error().expect("a mistake").to_string();
        assert_eq!(made.1.hidden.error().expect("the state has it, too").to_string(), error);
        assert!(error.contains("layers.rs"), "{error}");
        error
    };
    let empty = Rnn::new(&(&vs / "empty"), 3, 0);
    assert!(error(empty.run(&x, &none, Mode::Eval)).contains("positive"));
    let same = Lstm::new(&(&vs / "same"), 3, 5).projection(5);
    assert!(error(same.run(&x, &none, Mode::Eval)).contains("less than the 5"));
    let layer = Lstm::new(&(&vs / "lstm"), 3, 5).layers(2);
    let right = Tensor::zeros(&dev, &[2, 2, 5]);
    for (hidden, cell) in
        [(right.clone(), None), (x.clone(), Some(right.clone())), (right.clone(), Some(x.clone()))]
    {
        let state = RnnState { hidden, cell };
        let text = error(layer.run(&x, &Sequence { state: Some(&state), ..none }, Mode::Eval));
        assert!(text.contains("state of [2, 2, 5]"), "{text}");
    }
    for lengths in [Tensor::from_slice(&dev, &[1i32, 2, 3], &[3]), Tensor::zeros(&dev, &[2])] {
        let text = error(layer.run(&x, &Sequence { lengths: Some(&lengths), ..none }, Mode::Eval));
        assert!(text.contains("lengths of [2]"), "{text}");
    }
    // Nothing to do is no mistake.
    for [steps, batch] in [[0, 2], [4, 0], [1, 1]] {
        let (y, state) = layer.run(&Tensor::zeros(&dev, &[steps, batch, 3]), &none, Mode::Train);
        assert_eq!((y.shape(), state.hidden.shape()), (&[steps, batch, 5][..], &[2, batch, 5][..]));
        assert_eq!(y.to_vec::<f32>().expect("values").len(), steps * batch * 5);
        assert_eq!(state.cell.expect("an LSTM's").to_vec::<f32>().expect("values").len(), 2 * batch * 5);
    }
    // Builders leave no parameter behind, and dropout between layers draws anew in training only.
    let deep = Gru::new(&(&vs / "gru"), 3, 16).layers(2).bidirectional().no_bias().dropout(0.5);
    let names: Vec<String> = vs.names().into_iter().filter(|n| n.starts_with("gru.")).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    assert_eq!(vs.get("gru.weight_ih_l1_reverse").expect("it is there").shape(), [48, 32]);
    let x = Tensor::ones(&dev, &[4, 2, 3]);
    let values = |mode| deep.forward(&x, mode).to_vec::<f32>().expect("values");
    assert_eq!(values(Mode::Eval), values(Mode::Eval));
    assert_ne!(values(Mode::Train), values(Mode::Train));
}
