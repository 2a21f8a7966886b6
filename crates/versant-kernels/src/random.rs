//! Random numbers drawn on the host: the same on every device, platform and number of threads.
//!
//! Initial parameters, shuffles and augmentation come from here. Every draw is a function of a key and an
//! element number (Philox4x32-10, Salmon et al., SC 2011), so nothing depends on the order of calls. The
//! transcendental functions are `libm`'s, written in Rust, because those of the platform differ in last bits.

use rayon::prelude::*;

use crate::math::philox4x32;

/// Elements that a thread takes at a time; a multiple of the block of four words.
const CHUNK: usize = 1 << 13;

/// A reproducible source of randomness: name it, split it, and draw with its [`words`](Self::words).
///
/// Children are mixed through Philox itself. Different labels or numbers give children of one key that are
/// distinct (for numbers, always: a Philox block is a bijection of its counter) and statistically unrelated to
/// each other and to their parent. The two fields are the whole state: save them to continue later.
///
/// ```
/// use versant_kernels::random::{self, RandomKey};
/// let layer = RandomKey::new(42).split("conv1/weight");
/// let weights = random::uniform(layer.words(), 9);
/// assert_eq!(weights, random::uniform(RandomKey::new(42).split("conv1/weight").words(), 9));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RandomKey {
    /// The Philox key.
    pub seed: u64,
    /// The upper half of the Philox counter.
    pub stream: u64,
}

// What a Philox block is used for: added to the key, so that uses with equal counters differ.
const FOLD: u64 = 0;
const SPLIT: u64 = 0x5851_f42d_4c95_7f2d;
const WORDS: u64 = 0x2545_f491_4f6c_dd1d;

impl RandomKey {
    /// The root key of a user's seed.
    pub fn new(seed: u64) -> RandomKey {
        RandomKey { seed, stream: 0 }
    }

    /// The child named `label`, e.g. a parameter's path.
    pub fn split(&self, label: &str) -> RandomKey {
        // The length comes first, so that no label's blocks are a prefix of another's.
        let length = self.mix(SPLIT, label.len() as u64);
        label.as_bytes().chunks(8).fold(length, |key, bytes| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            key.mix(SPLIT, u64::from_le_bytes(word))
        })
    }

    /// The child numbered `data`, e.g. an epoch or a step.
    pub fn fold(&self, data: u64) -> RandomKey {
        self.mix(FOLD, data)
    }

    /// The Philox key for the samplers of this module and for the random instruction of a program.
    pub fn words(&self) -> [u32; 2] {
        halves(self.mix(WORDS, 0).seed)
    }

    fn mix(&self, purpose: u64, data: u64) -> RandomKey {
        let ([d0, d1], [s0, s1]) = (halves(data), halves(self.stream));
        let key = halves(self.seed.wrapping_add(purpose));
        let [w0, w1, w2, w3] = philox4x32([d0, d1, s0, s1], key);
        RandomKey { seed: join(w0, w1), stream: join(w2, w3) }
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Block `index`: words `4 * index ..` of the key's sequence, as the random instruction of a program counts
/// them (which stops at 2^32 elements; a longer sequence carries into the second counter word).
fn block(key: [u32; 2], index: u64) -> [u32; 4] {
    let [low, high] = halves(index);
    philox4x32([low, high, 0, 0], key)
}

/// `n` elements, each group of four made of one block.
fn sample(key: [u32; 2], n: usize, from_block: impl Fn([u32; 4]) -> [f32; 4] + Sync) -> Vec<f32> {
    let mut out = vec![0.0; n];
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let first = (chunk * CHUNK / 4) as u64;
        for (i, out) in (first..).zip(out.chunks_mut(4)) {
            out.copy_from_slice(&from_block(block(key, i))[..out.len()]);
        }
    });
    out
}

/// `n` numbers uniform over the multiples of 2^-24 in `[0, 1)`: the upper 24 bits of a word each.
pub fn uniform(key: [u32; 2], n: usize) -> Vec<f32> {
    const STEP: f32 = 1.0 / (1 << 24) as f32;
    sample(key, n, |words| words.map(|w| (w >> 8) as f32 * STEP))
}

/// `n` standard normal numbers by the Box–Muller transform, in f64.
///
/// Words `2j` and `2j + 1` make elements `2j = r cos φ` and `2j + 1 = r sin φ` with `r = sqrt(-2 ln u₁)` and
/// `φ = 2π u₂`, where `u₁ = (word + 1) / 2^32` is in `(0, 1]` and `u₂ = word / 2^32` in `[0, 1)`; so the largest
/// magnitude is 6.66.
pub fn normal(key: [u32; 2], n: usize) -> Vec<f32> {
    let pair = |w1: u32, w2: u32| {
        const SCALE: f64 = 1.0 / (1u64 << 32) as f64;
        let radius = libm::sqrt(-2.0 * libm::log((f64::from(w1) + 1.0) * SCALE));
        let (sin, cos) = libm::sincos(std::f64::consts::TAU * (f64::from(w2) * SCALE));
        ((radius * cos) as f32, (radius * sin) as f32)
    };
    sample(key, n, |[a, b, c, d]| {
        let ((x, y), (z, w)) = (pair(a, b), pair(c, d));
        [x, y, z, w]
    })
}

/// A permutation of `0..n`, each of the `n!` equally likely up to the 2^64 keys (Fisher–Yates from the end).
pub fn permutation(key: [u32; 2], n: usize) -> Vec<usize> {
    let mut draws = (0..).flat_map(|i| {
        let [a, b, c, d] = block(key, i);
        [join(a, b), join(c, d)]
    });
    let mut out: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        out.swap(i, bounded(&mut draws, i as u64 + 1) as usize);
    }
    out
}

/// An unbiased draw from `0..bound` (Lemire, "Fast random integer generation in an interval", 2019): the
/// upper half of the product, unless the lower half falls among the `2^64 mod bound` surplus values.
fn bounded(draws: &mut impl Iterator<Item = u64>, bound: u64) -> u64 {
    let surplus = bound.wrapping_neg() % bound;
    loop {
        let draw = draws.next().expect("the sequence does not end");
        let product = u128::from(draw) * u128::from(bound);
        if product as u64 >= surplus {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u32; 2] = [0x1234_5678, 0x9abc_def0];

    /// The known-answer vectors published with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        let ones = u32::MAX;
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn an_element_is_a_function_of_its_number() {
        let long = uniform(KEY, 3 * CHUNK + 7);
        for n in [0, 1, 3, 4, 5, CHUNK + 1] {
            assert_eq!(uniform(KEY, n), long[..n]);
        }
        for i in [0, 1, 6, CHUNK, 2 * CHUNK + 3] {
            let word = philox4x32([i as u32 / 4, 0, 0, 0], KEY)[i % 4];
            assert_eq!(long[i], (word >> 8) as f32 / 16_777_216.0);
        }
        let long = normal(KEY, CHUNK + 9);
        for n in [0, 1, 2, 5, CHUNK + 3] {
            assert_eq!(normal(KEY, n), long[..n]);
        }
    }

    #[test]
    fn uniform_fills_the_unit_interval_evenly() {
        let n = 160_000;
        let mut bins = [0i64; 16];
        for x in uniform(KEY, n) {
            assert!((0.0..1.0).contains(&x));
            bins[(x * 16.0) as usize] += 1;
        }
        // 15 degrees of freedom: chi squared exceeds 37.7 with probability 0.001.
        let want = n as f64 / 16.0;
        let chi: f64 = bins.iter().map(|&b| (b as f64 - want).powi(2) / want).sum();
        assert!(chi < 37.7, "{chi}");
    }

    #[test]
    fn normal_has_the_moments_of_a_standard_normal() {
        let n = 400_000;
        let x = normal(KEY, n);
        let moment = |p: i32| x.iter().map(|&x| f64::from(x).powi(p)).sum::<f64>() / n as f64;
        // Four standard errors: sqrt(1, 2, 15, 96) / sqrt(n).
        let error = 4.0 / (n as f64).sqrt();
        assert!(moment(1).abs() < error);
        assert!((moment(2) - 1.0).abs() < 1.5 * error);
        assert!(moment(3).abs() < 3.9 * error);
        assert!((moment(4) - 3.0).abs() < 9.8 * error);
        let neighbours: f64 = x.windows(2).map(|w| f64::from(w[0] * w[1])).sum();
        assert!((neighbours / n as f64).abs() < error);
    }

    #[test]
    fn permutation_is_one_and_every_order_is_equally_likely() {
        for n in [0, 1, 2, 7, 1000] {
            let mut p = permutation(KEY, n);
            p.sort_unstable();
            assert_eq!(p, (0..n).collect::<Vec<_>>());
        }
        let mut seen = std::collections::BTreeMap::new();
        let draws = 24_000;
        for i in 0..draws {
            *seen.entry(permutation([i, 7], 4)).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 24);
        // 23 degrees of freedom: chi squared exceeds 49.7 with probability 0.001.
        let chi: f64 = seen.values().map(|&c| f64::from(c - 1000).powi(2) / 1000.0).sum();
        assert!(chi < 49.7, "{chi}");
    }

    #[test]
    fn bounded_rejects_the_surplus() {
        // For a bound of 3 * 2^62 a quarter of the draws is surplus: those whose product's low half is small.
        let bound = 3u64 << 62;
        let surplus = bound.wrapping_neg() % bound;
        assert_eq!(surplus, 1 << 62);
        let mut draws = [0u64, 1 << 62, u64::MAX].into_iter();
        // 0 gives a low half of 0 and is refused; 2^62 gives 3 * 2^124 = (3 * 2^60) * 2^64, low half 0, refused.
        assert_eq!(bounded(&mut draws, bound), bound - 1);
        assert_eq!(draws.next(), None);
    }

    /// Pinned against an independent implementation in Python: saved keys must keep their meaning.
    #[test]
    fn keys_and_draws_are_stable() {
        let key = RandomKey::new(42).split("conv1/weight");
        assert_eq!((key.seed, key.stream), (0xa413_fe95_1085_bff3, 0xa463_973c_1053_0727));
        let key = key.fold(7);
        assert_eq!((key.seed, key.stream), (0x14aa_c6d3_985f_410f, 0x4ea6_4047_c24b_3b6b));
        let words = key.words();
        assert_eq!(words, [0xe544_52a7, 0x7357_0fa3]);
        let drawn = uniform(words, 5).into_iter().map(|x| x * 16_777_216.0);
        let want = [15_196_690.0, 12_868_723.0, 12_518_138.0, 9_751_145.0, 12_472_900.0];
        assert!(drawn.eq(want));
        let drawn: Vec<u32> = normal(words, 6).into_iter().map(f32::to_bits).collect();
        let want = [0x3d42_a961, 0xbee2_752f, 0xbf2a_f578, 0xbebf_6157, 0xbe2f_2900, 0x3f40_32f7];
        assert_eq!(drawn, want);
        assert_eq!(permutation(words, 10), [8, 0, 6, 1, 4, 3, 9, 2, 5, 7]);
    }

    #[test]
    fn children_differ_from_each_other_and_from_their_parent() {
        let root = RandomKey::new(42);
        let mut keys = vec![root, RandomKey::new(43), RandomKey::new(0)];
        for label in ["", "a", "b", "aa", "a\0", "conv1/weight", "conv1/weighu"] {
            keys.push(root.split(label));
            keys.push(root.split(label).split("a"));
        }
        for n in [0, 1, 2, u64::MAX, 1 << 32] {
            keys.push(root.fold(n));
        }
        let words: std::collections::HashSet<_> = keys.iter().map(RandomKey::words).collect();
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(words.len(), keys.len());
        assert_ne!(root.split("a").split("b"), root.split("b").split("a"));
    }
}
