//! Recurrent layers against PyTorch: results, states, all gradients, second derivatives, and training.

use versant_graph::{Device, Tensor, eval};
use versant_nn::layers::{Gru, Lstm, Rnn, RnnState, Sequence};
use versant_nn::{Adam, Mode, Optimizer, Params, Scope, Seed, Sgd};
use versant_tests::devices;
use versant_tests::golden::{Case, Inputs, Report, Tolerance, cases, check_outputs, compare};

/// Runs a layer.
type Run = Box<dyn Fn(&Tensor, &Sequence<'_>, Mode) -> (Tensor, RnnState)>;

/// The layer of a case, with its parameters in the scope.
fn layer(cell: &str, scope: &Scope, [inputs, hidden, layers]: [usize; 3], both: bool, bias: bool) -> Run {
    projected(cell, scope, [inputs, hidden, layers, hidden], both, bias)
}

/// The same with so many elements handed on, the last of the sizes.
fn projected(
    cell: &str,
    scope: &Scope,
    [inputs, hidden, layers, handed]: [usize; 4],
    both: bool,
    bias: bool,
) -> Run {
    macro_rules! built {
        ($layer:expr) => {{
            let layer = $layer.layers(layers);
            let layer = if both { layer.bidirectional() } else { layer };
            let layer = if bias { layer } else { layer.no_bias() };
            Box::new(move |x: &Tensor, given: &Sequence<'_>, mode| layer.run(x, given, mode))
        }};
    }
    match cell {
        "rnn_tanh" => built!(Rnn::new(scope, inputs, hidden)),
        "rnn_relu" => built!(Rnn::new(scope, inputs, hidden).relu()),
        "lstm" if handed < hidden => built!(Lstm::new(scope, inputs, hidden).projection(handed)),
        "lstm" => built!(Lstm::new(scope, inputs, hidden)),
        "gru" => built!(Gru::new(scope, inputs, hidden)),
        other => panic!("no recurrent layer {other}"),
    }
}

/// Everything that a layer returns, as the golden values have it.
fn flat((y, state): (Tensor, RnnState)) -> Tensor {
    let parts: Vec<Tensor> = [Some(y), Some(state.hidden), state.cell].into_iter().flatten().collect();
    let parts: Vec<Tensor> = parts.iter().map(|t| t.reshape(&[-1])).collect();
    Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0)
}

fn check_layer(case: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let (x, h0) = (&case.array("x").shape, &case.array("h0").shape);
    // A projection hands on fewer elements than the cell has.
    let (cells, handed) = (case.has("c0").then(|| case.array("c0").shape[2]), h0[2]);
    let sizes = [x[2], cells.unwrap_or(handed), case.int("layers"), handed];
    let run = projected(case.text("cell"), &params.root(), sizes, case.flag("both"), case.flag("bias"));
    params.check().map_err(|e| e.to_string())?;
    let mut inputs = Inputs::upload(case, device);
    for param in params.iter() {
        param.set(case.array(param.name()).tensor(device));
        inputs.replace(param.name(), param.get());
    }
    let state = RnnState { hidden: inputs.get("h0").clone(), cell: inputs.find("c0").cloned() };
    let lengths = case.has_attr("lengths").then(|| {
        let lengths: Vec<i32> = case.ints("lengths").iter().map(|&l| l as i32).collect();
        Tensor::from_slice(device, &lengths, &[lengths.len()])
    });
    let given = Sequence { state: Some(&state), lengths: lengths.as_ref() };
    let y = flat(run(inputs.get("x"), &given, Mode::Train));
    check_outputs(case, &y, &inputs, Tolerance::default())
}

#[test]
fn layers_agree_with_pytorch() {
    let mut report = Report::new("recurrent layers");
    for case in cases("recurrent").iter().filter(|c| c.kind == "recurrent") {
        for device in devices() {
            report.check(&device, &case.name, || check_layer(case, &device));
        }
    }
    report.finish(14);
}

fn train(case: &Case, device: &Device) -> Result<(), String> {
    let params = Params::new(device, Seed(0));
    let run = layer(case.text("cell"), &params.root(), [3, 6, 2], false, true);
    for param in params.iter() {
        param.set(case.array(&format!("start/{}", param.name())).tensor(device));
    }
    let mut optimizer = Sgd::new(&params, case.real("lr")).momentum(case.real("momentum"));
    let (x, target) = (case.array("x").tensor(device), case.array("target").tensor(device));
    let mut losses = Vec::new();
    for _ in 0..case.int("steps") {
        let (y, _) = run(&x, &Sequence::default(), Mode::Train);
        let loss = (y - &target).square().mean_all();
        optimizer.step(loss.backward().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        losses.push(loss.item::<f32>().map_err(|e| e.to_string())?);
    }
    let mut differences = String::new();
    let losses = Tensor::from_slice(device, &losses, &[losses.len()]);
    compare(&mut differences, "losses", &losses, case.array("losses"), Tolerance::default())?;
    for param in params.iter() {
        let key = format!("end/{}", param.name());
        compare(&mut differences, &key, &param.get(), case.array(&key), Tolerance::default())?;
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

#[test]
fn layers_train_as_in_pytorch() {
    let mut report = Report::new("training of recurrent layers");
    for case in cases("recurrent").iter().filter(|c| c.kind == "train_recurrent") {
        for device in devices() {
            report.check(&device, &case.name, || train(case, &device));
        }
    }
    report.finish(3);
}

/// A sequence in two pieces, the state handed on, is the sequence in one; and detached, no gradient comes back.
#[test]
fn a_state_is_handed_on_and_can_be_detached() {
    for device in devices() {
        let params = Params::new(&device, Seed(3));
        let layer = Lstm::new(&params.root(), 3, 5).layers(2).batch_first();
        let x = Tensor::rand_normal(&device, &[2, 6, 3], versant_graph::RandomKey::new(7))
            .into_parameter("x")
            .unwrap();
        let none = Sequence::default();
        let (whole, _) = layer.run(&x, &none, Mode::Eval);
        let piece = |from: usize, state: Option<&RnnState>| {
            layer.run(&x.narrow(1, from, 3), &Sequence { state, ..none }, Mode::Eval)
        };
        let (first, state) = piece(0, None);
        let (second, _) = piece(3, Some(&state));
        let (cut, _) = piece(3, Some(&state.detach()));
        let through = second.sum_all().backward().unwrap().get(&x).unwrap().clone();
        let ends = cut.sum_all().backward().unwrap().get(&x).unwrap().clone();
        let pieces = Tensor::cat(&[&first, &second], 1);
        eval(&[&whole, &pieces, &through, &ends]).unwrap();
        let values = |t: &Tensor| t.to_vec::<f32>().unwrap();
        for (a, b) in values(&whole).iter().zip(values(&pieces)) {
            assert!((a - b).abs() <= 1e-5, "{a} and {b}");
        }
        let early = |t: &Tensor| values(&t.narrow(1, 0, 3)).iter().any(|&g| g != 0.0);
        assert!(early(&through) && !early(&ends));
    }
}

/// Truncated backpropagation through time: a step computes the state that the next one begins with, and no step before.
#[test]
fn a_detached_state_leaves_its_step_behind() {
    for device in [Device::cpu(), Device::null()] {
        let params = Params::new(&device, Seed(3));
        let layer = Lstm::new(&params.root(), 3, 5).layers(2).batch_first();
        let mut opt = Adam::new(&params, 0.01);
        let mut state: Option<RnnState> = None;
        let mut spent = Vec::new();
        for step in 0..6 {
            let x = Tensor::rand_normal(&device, &[2, 4, 3], versant_graph::RandomKey::new(step));
            let given = Sequence { state: state.as_ref(), lengths: None };
            let (y, next) = layer.run(&x, &given, Mode::Train);
            state = Some(next.detach());
            drop(next);
            let loss = (&y * &y).mean_all();
            drop(y);
            let before = device.counters().dispatches;
            opt.step(loss.backward().unwrap()).unwrap();
            spent.push(device.counters().dispatches - before);
        }
        assert!(spent[1..].iter().all(|s| *s == spent[1]), "{spent:?} launches on {}", device.info().name);
    }
}
