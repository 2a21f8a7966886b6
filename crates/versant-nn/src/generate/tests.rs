//! Distributions, draws and searches whose results are known.

use super::*;
use crate::Seed;

/// Logits of tokens that have the shares 1, 2, 3 and 4 of 10.
fn tenths() -> Vec<f32> {
    [1f32, 2.0, 3.0, 4.0].map(f32::ln).to_vec()
}

#[track_caller]
fn assert_close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6);
    assert!(near && (got.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{got:?} for {want:?}");
}

#[test]
fn distributions_are_exact() {
    let plain = || Sampler::new(Seed(1));
    let p = |sampler: Sampler| sampler.distribution(&tenths(), &[]).expect("it is in range");
    assert_close(&p(plain()), &[0.1, 0.2, 0.3, 0.4]);
    let squares = [1.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0, 16.0 / 30.0];
    assert_close(&p(plain().temperature(0.5)), &squares);
    assert_close(&p(plain().temperature(1e-20)), &[0.0, 0.0, 0.0, 1.0]);
    assert_close(&p(Sampler::greedy()), &[0.0, 0.0, 0.0, 1.0]);
    assert_close(&p(plain().top_k(2)), &[0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
    assert_close(&p(plain().top_k(100)), &[0.1, 0.2, 0.3, 0.4]);
    // The share is reached with the second and just not; the first alone is always there.
    assert_close(&p(plain().top_p(0.69)), &[0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]);
    assert_close(&p(plain().top_p(0.71)), &[0.0, 2.0 / 9.0, 3.0 / 9.0, 4.0 / 9.0]);
    assert_close(&p(plain().top_p(1e-9)), &[0.0, 0.0, 0.0, 1.0]);
    assert_close(&p(plain().top_p(1.0)), &[0.1, 0.2, 0.3, 0.4]);
    // The share is of what the k likeliest leave: 4/7 is more than half.
    assert_close(&p(plain().top_k(2).top_p(0.5)), &[0.0, 0.0, 0.0, 1.0]);
    let alike = |sampler: Sampler| sampler.distribution(&[0.5; 4], &[]).expect("it is in range");
    assert_close(&alike(plain().top_k(2)), &[0.5, 0.5, 0.0, 0.0]);
    assert_close(&alike(Sampler::greedy()), &[1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn repeated_tokens_are_penalised_once() {
    let sampler = Sampler::new(Seed(1)).repetition_penalty(2.0);
    let got = sampler.distribution(&[2.0, -1.0, 0.0], &[0, 1, 1, 99]).expect("it is in range");
    let weights = [1f64.exp(), (-2f64).exp(), 1.0];
    assert_close(&got, &weights.map(|w| w / weights.iter().sum::<f64>()));
}

#[test]
fn infinite_logits_are_sure_or_impossible() {
    let sampler = Sampler::new(Seed(1)).temperature(0.7).top_p(0.9);
    let (sure, never) = (f32::INFINITY, f32::NEG_INFINITY);
    let p = |logits: &[f32]| sampler.distribution(logits, &[]).expect("it is in range");
    assert_close(&p(&[sure, 1.0, sure]), &[0.5, 0.0, 0.5]);
    assert_close(&p(&[never, 1.0, never]), &[0.0, 1.0, 0.0]);
    assert_close(&p(&[3e38, -3e38]), &[1.0, 0.0]);
}

#[test]
fn mistakes_are_values() {
    let text = |sampler: Sampler, logits: &[f32]| {
        sampler.distribution(logits, &[]).expect_err("a mistake").to_string()
    };
    let plain = || Sampler::new(Seed(1));
    for (sampler, says) in [
        (plain().top_k(0), "top_k is 0"),
        (plain().top_p(0.0), "top_p is 0"),
        (plain().top_p(1.5), "top_p is 1.5"),
        (plain().top_p(f32::NAN), "top_p is NaN"),
        (plain().temperature(-1.0), "temperature is -1"),
        (plain().temperature(f32::INFINITY), "temperature is inf"),
        (plain().repetition_penalty(0.0), "penalty is 0"),
    ] {
        let text = text(sampler, &tenths());
        assert!(text.contains(says), "{text}");
    }
    for sampler in [plain(), Sampler::greedy()] {
        let text = |logits: &[f32]| text(sampler.clone(), logits);
        assert!(text(&[0.0, f32::NAN]).contains("token 1 is NaN"));
        assert!(text(&[f32::NEG_INFINITY; 2]).contains("none of 2"));
        assert!(text(&[]).contains("none of 0"));
    }
}

#[test]
fn draws_follow_the_distribution_and_the_seed() {
    let draw = |seed: u64| -> Vec<u32> {
        let mut sampler = Sampler::new(Seed(seed)).top_k(3);
        (0..4000).map(|_| sampler.sample(&tenths(), &[]).expect("a token")).collect()
    };
    let tokens = draw(5);
    assert_eq!(tokens, draw(5));
    assert_ne!(tokens, draw(6));
    for (token, share) in [(0, 0.0), (1, 2.0 / 9.0), (2, 3.0 / 9.0), (3, 4.0 / 9.0)] {
        let count = tokens.iter().filter(|&&t| t == token).count() as f64;
        // Four standard deviations.
        let allowed = 4.0 * f64::sqrt(4000.0 * share * (1.0 - share));
        assert!((count - 4000.0 * share).abs() <= allowed, "{count} of {token}");
    }
}

/// Logits by the last token alone, for three tokens of which 0 ends.
struct Markov {
    table: [[f32; 3]; 3],
    /// Rows of each call.
    rows: Vec<usize>,
}

impl Markov {
    fn new() -> Markov {
        let table = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.36, 0.34]];
        Markov { table: table.map(|row| row.map(f32::ln)), rows: Vec::new() }
    }
}

impl TokenModel for Markov {
    fn logits(&mut self, tokens: &Tensor) -> Tensor {
        let (rows, length) = (tokens.shape()[0], tokens.shape()[1]);
        self.rows.push(rows);
        let all = tokens.to_vec::<i32>().expect("tokens were uploaded");
        let last = all.chunks(length).map(|row| self.table[row[length - 1] as usize]);
        Tensor::from_slice(tokens.device(), &last.flatten().collect::<Vec<_>>(), &[rows, 3])
    }

    fn reorder(&mut self, _parents: &[usize]) {}
}

/// Every sequence of at most `most` tokens that follows `last`, with the logarithm of its probability.
fn everything(last: u32, most: usize) -> Vec<(Vec<u32>, f64)> {
    let table = Markov::new().table;
    let mut open = vec![(Vec::new(), 0.0)];
    let mut all = Vec::new();
    for _ in 0..most {
        let mut next = Vec::new();
        for (tokens, log) in &open {
            let row = table[*tokens.last().unwrap_or(&last) as usize];
            for token in 0..3u32 {
                let tokens: Vec<u32> = tokens.iter().copied().chain([token]).collect();
                let log = log + f64::from(row[token as usize]);
                if token == 0 { all.push((tokens, log)) } else { next.push((tokens, log)) }
            }
        }
        open = next;
    }
    all.into_iter().chain(open).collect()
}

#[test]
fn a_wide_search_finds_the_best_of_all_sequences() {
    let device = Device::cpu();
    for penalty in [0.0, 1.0, 2.5, -0.5] {
        for beams in [20, 3] {
            let search = BeamSearch::new(beams, 4).end(0).length_penalty(penalty);
            let found = search.run(&mut Markov::new(), &device, &[vec![1], vec![2]]).expect("a search");
            for (found, last) in found.iter().zip([1, 2]) {
                let mut all = everything(last, 4);
                let score = |(tokens, log): &(Vec<u32>, f64)| log / (tokens.len() as f64).powf(penalty);
                all.sort_by(|a, b| score(b).total_cmp(&score(a)));
                // With room for every prefix the whole list is right; with less the best of this table still is.
                let exact = if beams == 20 { beams } else { 1 };
                for (h, want) in found.iter().zip(&all).take(exact) {
                    assert!((h.score - score(want)).abs() < 1e-5, "{penalty} {beams}: {h:?} for {want:?}");
                    assert!(
                        (h.log_probability / (h.tokens.len() as f64).powf(penalty) - h.score).abs() < 1e-12
                    );
                }
                assert_eq!(found.len(), beams.min(all.len()));
            }
        }
    }
}

#[test]
fn searches_do_not_touch_each_other_and_keep_their_rows() {
    let device = Device::cpu();
    let search = BeamSearch::new(3, 6).end(0);
    let mut model = Markov::new();
    let both = search.run(&mut model, &device, &[vec![1, 2], vec![2, 1]]).expect("a search");
    assert_eq!(model.rows[0], 2);
    assert!(model.rows[1..].iter().all(|&rows| rows == 6), "{:?}", model.rows);
    for (prompt, both) in [[1, 2], [2, 1]].into_iter().zip(both) {
        let alone = search.run(&mut Markov::new(), &device, &[prompt.to_vec()]).expect("a search");
        assert_eq!(alone[0], both);
    }
    // One beam is greedy.
    let one = BeamSearch::new(1, 5).run(&mut Markov::new(), &device, &[vec![1]]).expect("a search");
    let limits = Limits { tokens: 5, end: None };
    let greedy = generate(&mut Markov::new(), &device, &[vec![1]], &mut Sampler::greedy(), limits);
    assert_eq!(one[0][0].tokens, greedy.expect("tokens")[0]);
    assert!(BeamSearch::new(0, 5).run(&mut Markov::new(), &device, &[vec![1]]).is_err());
    let nothing = BeamSearch::new(2, 0).run(&mut Markov::new(), &device, &[vec![1]]).expect("a search");
    assert!(nothing[0][0].tokens.is_empty() && nothing[0][0].score == 0.0);
    assert!(search.run(&mut Markov::new(), &device, &[]).expect("nothing to do").is_empty());
}

#[test]
fn generation_ends_with_the_end_or_the_limit() {
    let device = Device::cpu();
    let mut sampler = Sampler::new(Seed(3));
    let prompts = vec![vec![1, 2]; 20];
    let limits = Limits { tokens: 6, end: Some(0) };
    let made = generate(&mut Markov::new(), &device, &prompts, &mut sampler, limits).expect("tokens");
    for row in &made {
        let ends = row.iter().position(|&t| t == 0).map_or(6, |at| at + 1);
        assert_eq!(row.len(), ends, "{row:?}");
    }
    assert!(made.iter().any(|row| row.len() < 6) && made.iter().any(|row| row.len() == 6));
    let again = generate(&mut Markov::new(), &device, &prompts, &mut Sampler::new(Seed(3)), limits);
    assert_eq!(made, again.expect("tokens"));
    let mistake = |prompts: &[Vec<u32>]| {
        let made = generate(&mut Markov::new(), &device, prompts, &mut Sampler::greedy(), limits);
        made.expect_err("a mistake").to_string()
    };
    assert!(mistake(&[vec![1], vec![1, 2]]).contains("[1, 2]"));
    assert!(mistake(&[vec![]]).contains("not empty"));
    assert!(mistake(&[vec![u32::MAX]]).contains("above 2^31"));
    let none = Limits { tokens: 0, ..limits };
    let made = generate(&mut Markov::new(), &device, &prompts, &mut Sampler::greedy(), none);
    assert!(made.expect("nothing").iter().all(Vec::is_empty));
}

/// Logits of another shape than the sequences', or with an error.
struct Odd(fn(&Tensor) -> Tensor);

impl TokenModel for Odd {
    fn logits(&mut self, tokens: &Tensor) -> Tensor {
        (self.0)(tokens)
    }

    fn reorder(&mut self, _parents: &[usize]) {}
}

#[test]
fn a_models_mistakes_come_back() {
    let device = Device::cpu();
    for (logits, says) in [
        ((|t| Tensor::zeros(t.device(), &[3, 4])) as fn(&Tensor) -> Tensor, "[3, 4]"),
        (|t| Tensor::zeros(t.device(), &[1, 0]), "none of 0"),
        (|t| t.reshape(&[77]), "reshape"),
        (|t| Tensor::zeros(t.device(), &[1, 4]) * f32::NAN, "NaN"),
    ] {
        let limits = Limits { tokens: 2, end: None };
        let made = generate(&mut Odd(logits), &device, &[vec![1]], &mut Sampler::greedy(), limits);
        let text = made.expect_err("a mistake").to_string();
        assert!(text.contains(says), "{text}");
        let found = BeamSearch::new(2, 2).run(&mut Odd(logits), &device, &[vec![1]]);
        assert!(found.expect_err("a mistake").to_string().contains(says));
    }
}
