//! The intermediate buffers that all plans of a device share.

use std::sync::Arc;

use crate::error::Result;
use crate::executor::{Executor, Usage};
use crate::pool::{Fixed, Pool};

/// One list of buffers for all plans: a plan's slots take its first places by descending size, so the
/// footprint is that of the largest plan and not the sum. Runs of a device follow one another,
/// hence no two plans use a place at the same time.
#[derive(Default)]
pub(crate) struct Workspace {
    places: Vec<Fixed>,
}

impl Workspace {
    /// The places of a plan's slots.
    pub fn assign(slots: &[usize]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|&slot| std::cmp::Reverse(slots[slot]));
        let mut places = vec![0; slots.len()];
        for (place, slot) in order.into_iter().enumerate() {
            places[slot] = place;
        }
        places
    }

    /// Makes every place large enough for a plan. In steady state it only compares sizes.
    pub fn fit(
        &mut self,
        executor: &dyn Executor,
        pool: &Arc<Pool>,
        slots: &[usize],
        places: &[usize],
    ) -> Result<()> {
        let fits = |place: usize, words: usize| {
            let has = self.places.get(place).map(|p| p.memory().words);
            has.is_some_and(|has| has >= words)
        };
        let mut grow: Vec<(usize, usize)> = Vec::new();
        for (&words, &place) in slots.iter().zip(places) {
            if !fits(place, words) {
                grow.push((place, words));
            }
        }
        if grow.is_empty() {
            return Ok(());
        }
        grow.sort_unstable();
        // Places hold descending sizes for every plan, so what must grow may stand anywhere; what
        // follows the first one is given up first, that old and new need not fit side by side.
        for &(place, _) in grow.iter().rev() {
            if place < self.places.len() {
                self.places.swap_remove(place);
            }
        }
        let mut wanted: Vec<usize> = grow.iter().map(|&(_, words)| words).collect();
        wanted.sort_unstable_by(|a, b| b.cmp(a));
        for words in wanted {
            self.places.push(pool.fixed(executor, words, Usage::Storage)?);
        }
        self.places.sort_by_key(|p| std::cmp::Reverse(p.memory().words));
        // After a failure half-way the next call finds places missing and tries again.
        Ok(())
    }

    pub fn places(&self) -> &[Fixed] {
        &self.places
    }

    /// Gives up all memory; the next run allocates what it needs.
    pub fn clear(&mut self) {
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_take_places_by_descending_size() {
        assert_eq!(Workspace::assign(&[3, 9, 5, 9]), [3, 0, 2, 1]);
        assert!(Workspace::assign(&[]).is_empty());
    }
}
