//! Asking for what the next block reads and writes, while this one is computed.
//!
//! A block of an elementwise program goes through some functions, during which its values lie in the first cache and memory has
//! nothing to do; then the next begins, and all wait for it. The processor asks ahead by itself, but only within a page, which a
//! block is. So each function asks for its share of the lines: all at once would wait for each other, and what comes behind for them.

use super::access::Access;
use super::block::{Buffers, Lanes, Temp};
use super::compile::{Op, OpKind, Plan};
use crate::stream::{self, LINE};

/// Some words of the next block.
pub(super) struct Ask {
    what: What,
    words: [usize; 2],
}

#[derive(Clone)]
enum What {
    Read(usize, Box<Access>),
    /// A home: its temporary, and for how many lanes.
    Home(usize, usize),
}

/// The most words that are asked for at once: some more lines than the processor keeps track of.
const MOST: usize = 48 * LINE;

/// Lanes of a program from which on it asks: of what is shorter one second cache or another holds all. Few in tests.
const LONG: usize = if cfg!(test) { 100 } else { 1 << 16 };

impl Plan {
    /// Finds what each function of an elementwise program asks for.
    pub fn find_asks(&mut self) {
        if self.rows < LONG || self.streams() {
            return;
        }
        let block = self.row_block.min(self.rows);
        let Plan { steps, types, reads, .. } = self;
        let [step] = &mut steps[..] else { return };
        if step.is_col {
            return;
        }
        let mut what: Vec<What> = Vec::new();
        for op in &step.ops {
            if let OpKind::Load { binding, access, .. } = &op.kind
                && *binding < *reads
                && !types[*binding].is_half()
                && matches!(access.in_run(0, block), Some((_, 1)))
            {
                what.push(What::Read(*binding, access.clone()));
            }
        }
        let homes = step.stores.iter().filter_map(|store| store.home);
        what.extend(homes.map(|(temp, lanes)| What::Home(temp, lanes)));
        let maps = step.ops.iter_mut().filter(|op| matches!(op.kind, OpKind::Map { .. }));
        let maps: Vec<&mut Op> = maps.collect();
        let each = block.next_multiple_of(LINE);
        let share = (what.len() * each).div_ceil(maps.len().max(1)).next_multiple_of(LINE);
        if share <= MOST {
            for (i, op) in maps.into_iter().enumerate() {
                op.asks = asks(&what, each, [i * share, (i + 1) * share]);
            }
        }
    }
}

/// The part `from..to` of all that is asked for, `each` words of everything.
fn asks(what: &[What], each: usize, part: [usize; 2]) -> Box<[Ask]> {
    let of = |(i, what): (usize, &What)| {
        let first = i * each;
        let words = part.map(|word| word.clamp(first, first + each) - first);
        (words[0] < words[1]).then(|| Ask { what: what.clone(), words })
    };
    what.iter().enumerate().filter_map(of).collect()
}

/// Asks for what lies behind `lanes`. A call, since few programs ask.
#[inline(never)]
pub(super) fn ask(asks: &[Ask], buffers: &Buffers<'_, '_>, temps: &[Temp<'_>], lanes: &Lanes) {
    asks.iter().for_each(|ask| ask.ask(buffers, temps, lanes));
}

impl Ask {
    fn ask(&self, buffers: &Buffers<'_, '_>, temps: &[Temp<'_>], lanes: &Lanes) {
        let &Lanes { start, len, .. } = lanes;
        let part = |words: &[u32], at: usize| {
            let [from, to] = self.words.map(|word| (at + word.min(len)).min(words.len()));
            stream::ask(&words[from..to]);
        };
        match &self.what {
            What::Read(binding, access) => {
                if let Some((at, 1)) = access.in_run(start + len, len) {
                    part(buffers.reads[*binding], at);
                }
            }
            What::Home(temp, size) => part(temps[*temp].lent, start % size + len),
        }
    }
}
