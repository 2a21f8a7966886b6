//! The parameter store: names, scopes, freezing, initial values, random streams.

use versant_graph::{Device, RandomKey, Tensor};
use versant_nn::{HostTensor, Init, NnError, Optimizer, Params, Seed, Sgd};

fn store() -> Params {
    Params::new(&Device::cpu(), Seed(42))
}

#[test]
fn scopes_make_paths() {
    fn send<T: Send + Sync + Clone>(_: &T) {}
    let vs = store();
    let block = &vs / "block" / format!("{}", 3);
    let param = (&block / &"conv".to_owned()).parameter("weight", &[2, 1, 3, 3], Init::Ones);
    block.buffer("mean", &[2], Init::Zeros);
    assert_eq!(vs.names(), ["block.3.conv.weight", "block.3.mean"]);
    assert_eq!((param.name(), vs.count(), block.path()), ("block.3.conv.weight", 18, "block.3"));
    assert_eq!(format!("{vs:?}").matches("block.3").count(), 2);
    send(&vs);
    send(&block);
    send(&param);
    send(&block.random());
    fn send_only<T: Send>(_: &T) {}
    send_only(&Sgd::new(&vs, 0.1));
}

#[test]
fn the_same_name_is_the_same_parameter_or_a_mistake() {
    let vs = store();
    let first = vs.root().parameter("w", &[2], Init::Ones);
    let again = vs.root().parameter("w", &[2], Init::Zeros);
    again.set(Tensor::zeros(vs.device(), &[2]));
    assert_eq!(first.get().to_vec::<f32>().expect("ready"), [0.0; 2]);
    assert!(vs.check().is_ok());
    // Nothing fails while the net is built, and the layer gets what it asked for.
    let other = vs.root().parameter("w", &[3], Init::Ones);
    assert_eq!(other.get().shape(), [3]);
    let message = vs.check().expect_err("a mistake").to_string();
    assert_eq!(message, "w was made as parameter[2] and then asked for as parameter[3]");
    assert!(matches!(vs.to_host(), Err(NnError::DuplicateName { .. })));
    let grads = (first.get() * 2.0).sum_all().backward().expect("a sum");
    assert!(matches!(Sgd::new(&vs, 0.1).step(grads), Err(NnError::DuplicateName { .. })));
}

#[test]
fn unusable_names_and_shapes_are_mistakes() {
    for (name, shape, wanted) in [
        ("", vec![1], "it is empty"),
        ("__metadata__", vec![1], "reserve"),
        ("huge", vec![usize::MAX, 2], "cannot have the shape"),
        ("large", vec![1 << 20, 1 << 20], "cannot have the shape"),
        ("deep", vec![1; 9], "cannot have the shape"),
    ] {
        let vs = store();
        vs.root().parameter(name, &shape, Init::Normal { mean: 0.0, std: 1.0 }).get();
        let message = vs.check().expect_err(name).to_string();
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn initial_values_depend_on_seed_and_path_alone() {
    let values = |seed, other: &[&str]| {
        let vs = Params::new(&Device::cpu(), Seed(seed));
        for name in other {
            vs.root().parameter(name, &[3], Init::FanIn { fan_in: 1 });
        }
        let w = (&vs / "a").parameter("w", &[2, 3], Init::XavierNormal { gain: 1.0 });
        w.get().to_vec::<f32>().expect("ready")
    };
    assert_eq!(values(1, &[]), values(1, &["x", "a", "z"]));
    assert_ne!(values(1, &[]), values(2, &[]));
}

#[test]
fn random_streams_are_of_scope_and_count() {
    let vs = store();
    let mut source = (&vs / "drop").random();
    let first: Vec<RandomKey> = (0..3).map(|_| source.next_key()).collect();
    assert!(first[0] != first[1] && first[1] != first[2]);
    // A clone draws from the same stream; another scope or seed has its own.
    source = source.clone();
    assert!(!first.contains(&source.next_key()));
    assert_eq!((&store() / "drop").random().next_key(), first[0]);
    assert_ne!((&vs / "other").random().next_key(), first[0]);
}

#[test]
fn patterns_freeze() {
    let vs = store();
    for name in ["enc.0.w", "enc.0.b", "enc.1.w", "dec.w", "abab"] {
        vs.root().parameter(name, &[1], Init::Ones);
    }
    vs.root().buffer("enc.mean", &[1], Init::Ones);
    let frozen = |pattern: &str| {
        vs.freeze(pattern).expect("ready");
        let names = vs.iter().filter(|p| p.is_frozen()).map(|p| p.name().to_owned()).collect();
        vs.unfreeze("*").expect("ready");
        let names: Vec<String> = names;
        names.join(" ")
    };
    assert_eq!(frozen("enc.*"), "enc.0.w enc.0.b enc.1.w");
    assert_eq!(frozen("*.w"), "enc.0.w enc.1.w dec.w");
    assert_eq!(frozen("e*.*.w"), "enc.0.w enc.1.w");
    assert_eq!(frozen("dec.w"), "dec.w");
    assert_eq!(frozen("a*ab"), "abab");
    assert_eq!(frozen("ab*bab"), "");
    assert_eq!((frozen("w"), frozen("")), (String::new(), String::new()));
    let version = vs.version();
    assert_eq!((vs.freeze("nothing").expect("ready"), vs.version()), (0, version));
}

#[test]
fn a_frozen_parameter_has_no_gradient_and_keeps_its_buffer() {
    let vs = store();
    let p = vs.root().parameter("p", &[2, 3], Init::FanIn { fan_in: 3 });
    let before = p.get().to_vec::<f32>().expect("ready");
    let counters = vs.device().counters();
    vs.freeze("p").expect("ready");
    assert!((p.get() * p.get()).sum_all().backward().is_err());
    vs.unfreeze("p").expect("ready");
    assert_eq!((p.get() * p.get()).sum_all().backward().expect("trained again").len(), 1);
    let did = vs.device().counters() - counters;
    assert_eq!((did.dispatches, did.uploads), (0, 0));
    assert_eq!(p.get().to_vec::<f32>().expect("ready"), before);
}

#[test]
fn maps_fit_exactly_or_are_refused_whole() {
    let vs = store();
    vs.root().parameter("a", &[2], Init::Ones);
    vs.root().parameter("b", &[1, 2], Init::Ones);
    vs.root().buffer("c", &[], Init::Ones);
    let before = vs.to_host().expect("readable");
    let mut map = before.clone();
    map.remove("c");
    map.insert("a".to_owned(), HostTensor { shape: vec![2], data: vec![5.0, 6.0] });
    map.insert("b".to_owned(), HostTensor { shape: vec![2], data: vec![7.0, 8.0] });
    map.insert("d".to_owned(), HostTensor { shape: vec![1], data: vec![9.0] });
    let message = vs.from_host(&map).expect_err("it does not fit").to_string();
    let want = "the map does not fit the parameters: missing c; unknown d; b has shape [2] instead of [1, 2]";
    assert_eq!(message, want);
    assert_eq!(vs.to_host().expect("readable"), before);
    let report = vs.from_host_partial(&map).expect("it runs");
    assert_eq!(
        (report.loaded, report.missing, report.extra),
        (vec!["a".to_owned()], vec!["c".to_owned()], vec!["d".to_owned()])
    );
    assert_eq!(vs.to_host().expect("readable")["a"].data, [5.0, 6.0]);
    // A map that lies about its own sizes changes nothing either.
    let mut map = before.clone();
    map.get_mut("b").expect("it is there").data.push(0.0);
    assert!(vs.from_host(&map).is_err());
    assert_eq!(vs.to_host().expect("readable")["a"].data, [5.0, 6.0]);
}

#[test]
fn a_wrong_value_is_an_error_where_it_is_used() {
    let vs = store();
    let b = vs.root().buffer("b", &[2], Init::Ones);
    b.set(Tensor::ones(vs.device(), &[3]));
    assert!(b.get().to_vec::<f32>().expect_err("wrong shape").to_string().contains("reshape"));
    b.set(Tensor::from_slice(vs.device(), &[1i32, 2], &[2]));
    assert!(vs.to_host().is_err());
    b.set(Tensor::ones(vs.device(), &[2]));
    assert!(vs.to_host().is_ok());
}
