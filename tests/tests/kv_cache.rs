//! Steps over a cache of keys and values: the same as the whole sequence at once, and one replayed plan for all tokens.

use versant_graph::{Device, RandomKey, Tensor, eval, latest_plan, plan_stats};
use versant_nn::generate::{BeamSearch, Limits, Sampler, TokenModel, generate};
use versant_nn::layers::{
    Attend, Embedding, FeedForward, KvCache, LearnedPositions, Linear, Rotary, TransformerConfig,
    TransformerDecoder, TransformerEncoder,
};
use versant_nn::{Mode, Module, Params, Seed};
use versant_tests::{alone, devices};

const TOKENS: usize = 11;
const CAPACITY: usize = 24;

/// A language model with learned or rotary positions.
struct Gpt {
    tokens: Embedding,
    positions: Option<LearnedPositions>,
    trunk: TransformerEncoder,
    head: Linear,
}

impl Gpt {
    fn new(vs: &Params, is_rotary: bool) -> Gpt {
        let config = TransformerConfig::new(16, 4).hidden(24).norm_first().causal();
        let config = if is_rotary {
            let rotary = Rotary::new(vs.device(), CAPACITY, 4);
            config.kv_heads(2).rms_norm().feed_forward(FeedForward::SwiGlu).no_bias().rotary(&rotary)
        } else {
            config.feed_forward(FeedForward::Gelu)
        };
        Gpt {
            tokens: Embedding::new(&(vs / "tokens"), TOKENS, 16),
            positions: (!is_rotary).then(|| LearnedPositions::new(&(vs / "positions"), CAPACITY, 16)),
            trunk: TransformerEncoder::new(&(vs / "trunk"), &config, 2).final_norm(),
            head: Linear::new(&(vs / "head"), 16, TOKENS),
        }
    }

    fn whole(&self, tokens: &Tensor) -> Tensor {
        let x = self.tokens.forward(tokens, Mode::Eval);
        let x = self.positions.as_ref().map_or_else(|| x.clone(), |p| p.forward(&x, Mode::Eval));
        self.head.forward(&self.trunk.forward(&x, Mode::Eval), Mode::Eval)
    }

    fn step(&self, tokens: &Tensor, cache: &mut KvCache) -> Tensor {
        let x = self.tokens.forward(tokens, Mode::Eval);
        let x = self.positions.as_ref().map_or_else(|| x.clone(), |p| p.at(&x, cache.start()));
        self.head.forward(&self.trunk.step(&x, cache), Mode::Eval)
    }
}

fn tokens(dev: &Device, batch: usize, length: usize) -> Tensor {
    let ids: Vec<i32> = (0..batch * length).map(|i| (i * 7 % TOKENS) as i32).collect();
    Tensor::from_slice(dev, &ids, &[batch, length])
}

/// The values of these on the host, none of which keeps a tensor.
fn values(t: &Tensor) -> Vec<f32> {
    t.to_vec::<f32>().expect("values")
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-5 + 1e-4 * w.abs(), "{what}: {g} for {w}");
    }
}

#[test]
fn steps_are_the_whole_sequence() {
    let _alone = alone();
    for dev in devices() {
        for is_rotary in [false, true] {
            let name = format!("{}, rotary {is_rotary}", dev.info().name);
            let vs = Params::new(&dev, Seed(3));
            let gpt = Gpt::new(&vs, is_rotary);
            let ids = tokens(&dev, 2, 9);
            let whole = gpt.whole(&ids);
            let part = |from: usize, rows: usize| values(&whole.narrow(1, from, rows));
            let mut cache = gpt.trunk.cache(2, CAPACITY);
            let mut at = 0;
            for rows in [4, 1, 1, 2, 1] {
                let got = values(&gpt.step(&ids.narrow(1, at, rows), &mut cache));
                assert_close(&got, &part(at, rows), &format!("{name}, {rows} rows from {at}"));
                at += rows;
            }
            // Back, and on again over what was written before.
            cache.rewind(3);
            let other = values(&gpt.step(&tokens(&dev, 2, 3), &mut cache));
            assert!(other != part(3, 3), "{name}");
            cache.rewind(3);
            let got = values(&gpt.step(&ids.narrow(1, 3, 3), &mut cache));
            assert_close(&got, &part(3, 3), &format!("{name}, again"));
            // The sequences change places, and one of them runs twice.
            cache.select(&[1, 0, 1]);
            let next = ids.narrow(1, 6, 1);
            let [first, second] = [0, 1].map(|i| next.narrow(0, i, 1));
            let got = values(&gpt.step(&Tensor::cat(&[&second, &first, &second], 0), &mut cache));
            let want = part(6, 1);
            let (a, b) = want.split_at(TOKENS);
            assert_close(&got, &[b, a, b].concat(), &format!("{name}, other rows"));
        }
    }
}

/// A shorter prompt is filled up in front, and hidden: rotary positions are relative, so its results are those of itself.
#[test]
fn filling_in_front_of_a_prompt_is_hidden() {
    let _alone = alone();
    let dev = Device::cpu();
    let vs = Params::new(&dev, Seed(3));
    let gpt = Gpt::new(&vs, true);
    let ids = tokens(&dev, 1, 4);
    let alone = values(&gpt.whole(&ids).narrow(1, 3, 1));
    let filled = Tensor::cat(&[&Tensor::from_slice(&dev, &[5i32, 5], &[1, 2]), &ids], 1);
    let there: Vec<bool> = (0..CAPACITY).map(|at| at >= 2).collect();
    let there = Tensor::from_slice(&dev, &there, &[1, CAPACITY]);
    let given = Attend { present: Some(&there), ..Attend::default() };
    let mut cache = gpt.trunk.cache(1, CAPACITY);
    let y = gpt.trunk.step_with(&gpt.tokens.forward(&filled, Mode::Eval), &given, &mut cache);
    let y = gpt.head.forward(&y.narrow(1, 5, 1), Mode::Eval);
    assert_close(&values(&y), &alone, "the last row");
}

#[test]
fn a_decoders_steps_are_the_whole_sequence() {
    let _alone = alone();
    for dev in devices() {
        let vs = Params::new(&dev, Seed(3));
        let config = TransformerConfig::new(8, 2).hidden(12).causal();
        let decoder = TransformerDecoder::new(&vs.root(), &config, 2).final_norm();
        let [x, memory] =
            [([2, 5, 8], 1), ([2, 3, 8], 2)].map(|(s, k)| Tensor::rand_normal(&dev, &s, RandomKey::new(k)));
        eval(&[&x, &memory]).expect("random numbers");
        let there = Tensor::from_slice(&dev, &[true, true, true, true, true, false], &[2, 3]);
        let masks = Attend { present: Some(&there), ..Attend::default() };
        let cross = Attend { memory: Some(&memory), ..masks };
        let whole = decoder.run(&x, &Attend::default(), &cross, Mode::Eval);
        let mut cache = decoder.cache(&memory, 6).expect("a cache");
        for i in 0..5 {
            let got = values(&decoder.step(&x.narrow(1, i, 1), &masks, &mut cache));
            assert_close(&got, &values(&whole.narrow(1, i, 1)), &format!("row {i} on {}", dev.info().name));
        }
    }
}

/// The model as generation wants it.
struct Steps<'a> {
    gpt: &'a Gpt,
    cache: KvCache,
}

impl TokenModel for Steps<'_> {
    fn logits(&mut self, tokens: &Tensor) -> Tensor {
        let y = self.gpt.step(tokens, &mut self.cache);
        y.narrow(1, y.shape()[1] - 1, 1).squeeze(1)
    }

    fn reorder(&mut self, parents: &[usize]) {
        self.cache.select(parents);
    }
}

/// What beam search reports of a sequence is what the whole model says of it, so its cache followed the beams.
#[test]
fn beams_keep_their_caches() {
    let _alone = alone();
    for dev in devices() {
        let vs = Params::new(&dev, Seed(4));
        let gpt = Gpt::new(&vs, false);
        let prompts = [vec![1, 2, 3], vec![9, 8, 7]];
        let mut model = Steps { gpt: &gpt, cache: gpt.trunk.cache(2, CAPACITY) };
        let search = BeamSearch::new(3, 5).end(0);
        let found = search.run(&mut model, &dev, &prompts).expect("a search");
        for (prompt, found) in prompts.iter().zip(&found) {
            assert_eq!(found.len(), 3);
            for h in found {
                let all: Vec<i32> = prompt.iter().chain(&h.tokens).map(|&t| t as i32).collect();
                let ids = Tensor::from_slice(&dev, &all, &[1, all.len()]);
                let log = values(&gpt.whole(&ids).log_softmax(-1));
                let of = |(i, &token): (usize, &u32)| {
                    f64::from(log[(prompt.len() - 1 + i) * TOKENS + token as usize])
                };
                let want: f64 = h.tokens.iter().enumerate().map(of).sum();
                assert!((h.log_probability - want).abs() < 1e-4, "{h:?} for {want} on {}", dev.info().name);
            }
        }
        let mut model = Steps { gpt: &gpt, cache: gpt.trunk.cache(2, CAPACITY) };
        let limits = Limits { tokens: 4, end: None };
        let made = generate(&mut model, &dev, &prompts, &mut Sampler::greedy(), limits).expect("tokens");
        let best = BeamSearch::new(1, 4)
            .run(&mut Steps { gpt: &gpt, cache: gpt.trunk.cache(2, CAPACITY) }, &dev, &prompts)
            .expect("a search");
        assert!(made.iter().zip(&best).all(|(made, best)| *made == best[0].tokens), "{made:?} {best:?}");
    }
}

/// After the first token nothing is planned, compiled or allocated, and the cache stays where it is.
#[test]
fn every_token_is_one_replayed_plan() {
    let _alone = alone();
    let mut all = devices();
    all.push(Device::null());
    for dev in all {
        for is_rotary in [false, true] {
            let name = format!("{}, rotary {is_rotary}", dev.info().name);
            let vs = Params::new(&dev, Seed(3));
            let gpt = Gpt::new(&vs, is_rotary);
            let mut cache = gpt.trunk.cache(2, CAPACITY);
            let token = |at: usize, cache: &mut KvCache| {
                let ids = Tensor::from_slice(&dev, &[at as i32, 3], &[2, 1]);
                let y = gpt.step(&ids, cache);
                drop(ids);
                eval(&[&y]).expect("a step");
                assert!(cache.tensors().all(Tensor::is_ready), "a step computes its cache");
            };
            token(0, &mut cache);
            let plan = latest_plan(&dev).expect("a step ran");
            let (before, misses) = (dev.counters(), plan_stats(&dev).misses);
            dev.reset_peak();
            let memory = dev.memory();
            for at in 1..10 {
                token(at, &mut cache);
            }
            let did = dev.counters() - before;
            assert_eq!(plan_stats(&dev).misses, misses, "{name}: plans");
            let made = (did.buffers_allocated, did.prepares, did.pipelines, did.shader_modules);
            assert_eq!(made, (0, 0, 0, 0), "{name}: {did:?}");
            assert_eq!(did.submits, 9, "{name}: one submit a token, {did:?}");
            assert_eq!(dev.memory().current, memory.current, "{name}: nothing stays behind");
            let launches = plan.launches.len();
            println!("{name}: {launches} launches a token, {did:?}");
            // Ten a layer at most, one of which turns queries and keys, and what is before and behind the layers.
            let most = if is_rotary { 28 } else { 23 };
            assert!(dev.info().name != "null" || launches <= most, "{name}: {launches}\n{plan}");
            // The cache is written in place: beside it a step needs the new tokens and logits.
            let bytes: u64 = cache.tensors().map(|t| 4 * t.numel() as u64).sum();
            let more = dev.memory().peak - memory.current;
            assert!(more < bytes / 4, "{name}: {more} bytes more, {bytes} of cache\n{plan}");
        }
    }
}
