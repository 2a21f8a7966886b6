//! Launches that a recording repeats: data of the size of one trip, however many there are.

use std::ops::Range;

use crate::recording::{BufferRef, Launch, Recording};

/// Launches in a row that run again and again.
#[derive(Clone, Debug, Default)]
pub struct Repeat {
    /// Which of the recording's launches.
    pub launches: Range<usize>,
    /// How often they run, at least once.
    pub trips: usize,
    /// For each of them, what changes from trip to trip.
    pub turns: Vec<Turn>,
}

/// What of a launch changes from one trip of a loop to the next.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// What every trip adds to each word of the parameter block; empty if it stays as it is.
    pub params: Vec<u32>,
    /// The words of each buffer that a native function is given; empty if all of all buffers. Kernels on a GPU have
    /// the whole buffer, and an offset among their parameters.
    pub windows: Vec<Option<Window>>,
    /// The buffers of odd trips, reads before writes; empty if they are those of even ones.
    pub odd: Vec<BufferRef>,
}

/// Words of a buffer that move along with the trips.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The first word on trip 0.
    pub start: usize,
    /// Words from one trip to the next.
    pub step: isize,
    /// Number of words.
    pub words: usize,
}

impl Window {
    /// The words of a trip.
    pub(crate) fn on(&self, trip: usize) -> Range<usize> {
        let start = self.start.wrapping_add_signed(self.step.wrapping_mul(trip as isize));
        start..start.saturating_add(self.words)
    }
}

/// One execution of a launch.
#[derive(Clone, Copy)]
pub(crate) struct Dispatch<'a> {
    /// Which launch of the recording.
    pub index: usize,
    pub launch: &'a Launch,
    /// The trip of its loop, 0 outside of one.
    pub trip: usize,
    turn: Option<&'a Turn>,
}

impl<'a> Dispatch<'a> {
    fn odd(&self) -> Option<&'a [BufferRef]> {
        self.turn.filter(|t| self.trip % 2 == 1 && !t.odd.is_empty()).map(|t| &t.odd[..])
    }

    /// The read-only buffers.
    pub fn reads(&self) -> &'a [BufferRef] {
        self.odd().map_or(&self.launch.reads, |odd| &odd[..self.launch.reads.len()])
    }

    /// The read-write buffers.
    pub fn writes(&self) -> &'a [BufferRef] {
        self.odd().map_or(&self.launch.writes, |odd| &odd[self.launch.reads.len()..])
    }

    /// All buffers in binding order: reads before writes.
    pub fn bindings(&self) -> impl Iterator<Item = BufferRef> + Clone + use<'a> {
        self.reads().iter().chain(self.writes()).copied()
    }

    /// The words of a binding's buffer that a native function is given.
    pub fn window(&self, binding: usize) -> Option<Range<usize>> {
        let window = self.turn?.windows.get(binding)?.as_ref()?;
        Some(window.on(self.trip))
    }
}

impl Recording {
    /// Every execution of a launch, in order.
    pub(crate) fn dispatches(&self) -> impl Iterator<Item = Dispatch<'_>> {
        let once = |index| Dispatch { index, launch: &self.launches[index], trip: 0, turn: None };
        let mut at = 0;
        self.loops.iter().map(Some).chain([None]).flat_map(move |repeat| {
            let len = self.launches.len();
            let (start, end) = repeat.map_or((len, len), |r| (r.launches.start, r.launches.end));
            let before = std::mem::replace(&mut at, end)..start;
            before.map(once).chain(repeat.into_iter().flat_map(move |r| r.dispatches(self)))
        })
    }

    /// How often each launch runs.
    pub(crate) fn trips(&self) -> Vec<usize> {
        let mut trips = vec![1; self.launches.len()];
        for repeat in &self.loops {
            trips[repeat.launches.clone()].fill(repeat.trips);
        }
        trips
    }

    /// What changes from trip to trip of each launch.
    pub(crate) fn turns(&self) -> Vec<Option<&Turn>> {
        let mut turns = vec![None; self.launches.len()];
        for repeat in &self.loops {
            repeat.launches.clone().zip(&repeat.turns).for_each(|(launch, turn)| turns[launch] = Some(turn));
        }
        turns
    }

    /// What is wrong with the loops, and with which launch.
    pub(crate) fn loop_fault(&self) -> Option<(usize, String)> {
        let mut end = 0;
        for repeat in &self.loops {
            let (range, turns) = (repeat.launches.clone(), repeat.turns.len());
            let apart = range.start >= end && range.start < range.end && range.end <= self.launches.len();
            if !apart || repeat.trips == 0 || turns != range.len() {
                let why = format!("{} trips of the launches {range:?} with {turns} turns", repeat.trips);
                return Some((range.start, why));
            }
            end = range.end;
            for (index, turn) in range.zip(&repeat.turns) {
                let (launch, last) = (&self.launches[index], repeat.trips - 1);
                let params = turn.params.is_empty() || turn.params.len() == launch.params.len();
                let count = launch.reads.len() + launch.writes.len();
                let odd = turn.odd.is_empty() || turn.odd.len() == count;
                let odd = odd && turn.odd.iter().all(|&b| self.words(b).is_some());
                let even = launch.bindings().zip(&turn.windows);
                let fits = |(buffer, window): (BufferRef, &Option<Window>)| {
                    let has = self.words(buffer).unwrap_or(0);
                    window
                        .is_none_or(|w| [0, last].iter().all(|&t| w.on(t).start <= has && w.on(t).end <= has))
                };
                if !params || !odd || !even.into_iter().all(fits) {
                    return Some((index, "a turn does not fit its launch".to_owned()));
                }
            }
        }
        None
    }
}

impl Repeat {
    fn dispatches<'a>(&'a self, recording: &'a Recording) -> impl Iterator<Item = Dispatch<'a>> {
        (0..self.trips).flat_map(move |trip| {
            self.launches.clone().zip(&self.turns).map(move |(index, turn)| Dispatch {
                index,
                launch: &recording.launches[index],
                trip,
                turn: Some(turn),
            })
        })
    }
}
