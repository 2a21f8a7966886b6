//! The counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011).

/// Multipliers of a round.
const MULTIPLY: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What the key words grow by from round to round.
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

#[inline(always)]
fn round([c0, c1, c2, c3]: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let p0 = u64::from(c0) * MULTIPLY[0];
    let p1 = u64::from(c2) * MULTIPLY[1];
    [(p1 >> 32) as u32 ^ c1 ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c3 ^ key[1], p0 as u32]
}

/// The four random words of a counter under a key.
#[inline(always)]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut words = counter;
    let mut key = key;
    for _ in 0..10 {
        words = round(words, key);
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    words
}

/// Counters that are computed side by side.
const SIDE: usize = 16;

/// The ten rounds of [`philox4x32`] on counters side by side, each under the key of its lane.
#[inline(always)]
fn rounds(words: &mut [[u32; SIDE]; 4], key: impl Fn(usize) -> [u32; 2]) {
    for number in 0..10 {
        let grown = WEYL.map(|w| w.wrapping_mul(number));
        for i in 0..SIDE {
            let [a, b, c, d] = &mut *words;
            let [low, high] = key(i);
            let key = [low.wrapping_add(grown[0]), high.wrapping_add(grown[1])];
            [a[i], b[i], c[i], d[i]] = round([a[i], b[i], c[i], d[i]], key);
        }
    }
}

struct Blocks<'a> {
    dst: &'a mut [[u32; 4]],
    first: u32,
    key: [u32; 2],
}

impl pulp::NullaryFnOnce for Blocks<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let mut first = self.first;
        for dst in self.dst.chunks_mut(SIDE) {
            let mut words = [[0; SIDE]; 4];
            for (i, w) in words[0].iter_mut().enumerate() {
                *w = first.wrapping_add(i as u32);
            }
            rounds(&mut words, |_| self.key);
            for (i, d) in dst.iter_mut().enumerate() {
                *d = [words[0][i], words[1][i], words[2][i], words[3][i]];
            }
            first = first.wrapping_add(SIDE as u32);
        }
    }
}

struct Each<'a> {
    dst: &'a mut [u32],
    index: &'a [u32],
    low: &'a [u32],
    high: &'a [u32],
}

impl pulp::NullaryFnOnce for Each<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let (dst, dst_rest) = self.dst.as_chunks_mut::<SIDE>();
        let (index, index_rest) = self.index.as_chunks::<SIDE>();
        let (low, low_rest) = self.low.as_chunks::<SIDE>();
        let (high, high_rest) = self.high.as_chunks::<SIDE>();
        for (((dst, index), low), high) in dst.iter_mut().zip(index).zip(low).zip(high) {
            let mut words = [index.map(|i| i / 4), [0; SIDE], [0; SIDE], [0; SIDE]];
            rounds(&mut words, |i| [low[i], high[i]]);
            for (i, d) in dst.iter_mut().enumerate() {
                let [a, b, c, d4] = words.map(|w| w[i]);
                let pair = if index[i] & 1 == 0 { [a, c] } else { [b, d4] };
                *d = if index[i] & 2 == 0 { pair[0] } else { pair[1] };
            }
        }
        let rest = dst_rest.iter_mut().zip(index_rest).zip(low_rest.iter().zip(high_rest));
        for ((d, &index), (&low, &high)) in rest {
            *d = philox4x32([index / 4, 0, 0, 0], [low, high])[(index % 4) as usize];
        }
    }
}

/// Word `index[i]`, counted as [`philox_lanes`] does, under key `[low[i], high[i]]` for each lane. A lane costs
/// a whole block here, four times as much as where lanes count.
pub fn philox_each(dst: &mut [u32], index: &[u32], low: &[u32], high: &[u32]) {
    crate::lanes::vectorised(Each { dst, index, low, high });
}

/// Words `first..first + dst.len()` under `key`, where word `i` is word `i % 4` of counter
/// `(i / 4, 0, 0, 0)`. The last index must fit 32 bits.
pub fn philox_lanes(dst: &mut [u32], first: u32, key: [u32; 2]) {
    let head = (first.wrapping_neg() % 4).min(dst.len() as u32);
    let (front, rest) = dst.split_at_mut(head as usize);
    let (blocks, back) = rest.as_chunks_mut::<4>();
    let counter = (first + head) / 4;
    let after = counter.wrapping_add(blocks.len() as u32);
    if !front.is_empty() {
        let words = philox4x32([first / 4, 0, 0, 0], key);
        let from = (first % 4) as usize;
        front.copy_from_slice(&words[from..from + front.len()]);
    }
    crate::lanes::vectorised(Blocks { dst: blocks, first: counter, key });
    if !back.is_empty() {
        back.copy_from_slice(&philox4x32([after, 0, 0, 0], key)[..back.len()]);
    }
}
