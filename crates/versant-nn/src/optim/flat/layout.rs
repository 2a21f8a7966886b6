//! Which parameters share a flat buffer, and in which order they lie there.

use std::collections::HashMap;
use std::sync::Arc;

use versant_graph::{Tensor, eval};

use super::{Flat, Group, Member, Parked, flatten, join};
use crate::error::{NnError, Result};
use crate::optim::group::{ParamGroup, Segment};
use crate::params::{Slot, matches_glob};

/// The order of parameters in their flat buffers.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::optim) enum Order {
    /// In that of the store.
    Stored,
    /// Neighbours have one length, for rules that take norms of parameters: one reduction for all of a length.
    ByLength,
    /// Matrices by shape in buffers of their own (class 0), and everything else, with the matrices whose names match
    /// one of the patterns, in others (class 1).
    Matrices { except: Vec<String> },
}

impl Order {
    /// The rule's kind of parameter; those of different kinds share no buffer.
    pub fn class(&self, name: &str, shape: &[usize]) -> usize {
        match self {
            Order::Matrices { except } => {
                let other = shape.len() != 2 || shape.contains(&0);
                usize::from(other || except.iter().any(|p| matches_glob(p, name)))
            }
            _ => 0,
        }
    }

    /// What decides within a group, before the order of the store.
    fn key(&self, class: usize, shape: &[usize]) -> Vec<usize> {
        match self {
            Order::ByLength => vec![shape.iter().product()],
            Order::Matrices { .. } if class == 0 => shape.to_vec(),
            _ => Vec::new(),
        }
    }
}

/// What parameters must have in common to share a buffer.
type Kind = (usize, u64);

impl Flat {
    /// The parameters to train.
    pub(super) fn selected(&self) -> Result<Vec<Arc<Slot>>> {
        let mut slots = self.params.slots();
        slots.retain(|s| s.trainable && !s.held().frozen && self.matches(&s.name));
        if slots.is_empty() {
            return Err(NnError::NoParameters { pattern: self.pattern.clone() });
        }
        Ok(slots)
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.pattern.as_ref().is_none_or(|p| matches_glob(p, name))
    }

    /// Whether the groups hold exactly what is to be trained, at its current values.
    pub(super) fn is_laid_out(&self) -> bool {
        let unchanged = |m: &Member| m.slot.held().generation == m.generation;
        self.version == Some(self.params.version())
            && self.groups.iter().flat_map(|g| &g.members).all(unchanged)
    }

    /// Gathers values and states into new groups. If it fails, nothing has changed.
    pub(super) fn lay_out(&mut self) -> Result<()> {
        let version = self.params.version();
        let slots = self.selected()?;
        self.check_groups()?;
        let skips = self.skips()?;
        let (parked, mut kept) = self.park(skips);
        let mut groups = Vec::new();
        for (kind, members) in self.arrange(slots, &parked) {
            groups.push(self.gather(kind, members, &parked)?);
        }
        eval(&groups.iter().flat_map(Group::flats).chain(&kept).collect::<Vec<_>>())?;
        kept.clear();
        groups.iter_mut().for_each(|g| g.hand_out(&mut kept));
        eval(&kept.iter().collect::<Vec<_>>())?;
        self.parked = parked;
        for member in groups.iter().flat_map(|g| &g.members) {
            self.parked.remove(&member.slot.name);
        }
        self.groups = groups;
        self.taken_off += skips;
        self.version = Some(version);
        Ok(())
    }

    /// A group without parameters is a pattern with a mistake in it.
    fn check_groups(&self) -> Result<()> {
        let slots = self.params.slots();
        let fits = |g: &ParamGroup| slots.iter().any(|s| s.trainable && matches_glob(&g.pattern, &s.name));
        match self.parts.iter().find(|g| !fits(g)) {
            Some(group) => Err(NnError::NoParameters { pattern: Some(group.pattern.clone()) }),
            None => Ok(()),
        }
    }

    /// Every known parameter's states, as views of the groups; and the tensors that must live until the
    /// views are evaluated. `skips` steps that the groups count were skipped.
    pub(super) fn park(&self, skips: u64) -> (HashMap<Arc<str>, Parked>, Vec<Tensor>) {
        let mut kept = Vec::new();
        let mut parked: HashMap<Arc<str>, Parked> =
            self.parked.iter().map(|(name, p)| (Arc::clone(name), p.clone())).collect();
        for group in &self.groups {
            for (member, segment) in group.members.iter().zip(&group.segments) {
                let cut = |state: &Tensor| state.narrow(0, segment.start, segment.len);
                let states: Vec<Tensor> = group.states.iter().map(cut).collect();
                let average = group.average.as_ref().map(cut);
                kept.extend(states.iter().chain(&average).cloned());
                let name = Arc::clone(&member.slot.name);
                parked.insert(name, Parked { count: group.count.saturating_sub(skips), states, average });
            }
        }
        (parked, kept)
    }

    /// Splits parameters into groups: by the rule's kinds, by the number of steps they have taken, and by the largest
    /// binding. Those of a parameter group are neighbours. Sizes that are multiples of four come first, so
    /// that they stay aligned to 16 bytes without padding.
    fn arrange(
        &self,
        mut slots: Vec<Arc<Slot>>,
        parked: &HashMap<Arc<str>, Parked>,
    ) -> Vec<(Kind, Vec<(Member, Segment)>)> {
        let limit = (self.params.device().info().limits.max_binding_bytes / 4) as usize;
        let kind =
            |s: &Slot| (self.order.class(&s.name, &s.shape), parked.get(&s.name).map_or(0, |p| p.count));
        let numel = |s: &Slot| s.shape.iter().product::<usize>();
        slots.sort_by_cached_key(|s| {
            let kind = kind(s);
            (kind, self.part(&s.name), numel(s) % 4 != 0, self.order.key(kind.0, &s.shape))
        });
        let mut groups: Vec<(Kind, Vec<(Member, Segment)>)> = Vec::new();
        let mut end = 0;
        for slot in slots {
            let (kind, len) = (kind(&slot), numel(&slot));
            if groups.last().is_none_or(|g| g.0 != kind) || end + len > limit {
                groups.push((kind, Vec::new()));
                end = 0;
            }
            let segment = Segment { start: end, len, shape: slot.shape.clone() };
            let (generation, part) = (slot.held().generation, self.part(&slot.name));
            end += len;
            let member = Member { slot, part, generation };
            groups.last_mut().expect("a group was just made").1.push((member, segment));
        }
        groups
    }

    /// Records the flat values of a group.
    fn gather(
        &self,
        (class, count): Kind,
        members: Vec<(Member, Segment)>,
        parked: &HashMap<Arc<str>, Parked>,
    ) -> Result<Group> {
        let (members, segments): (Vec<Member>, Vec<Segment>) = members.into_iter().unzip();
        let device = self.params.device();
        let known: Vec<Option<&Parked>> = members.iter().map(|m| parked.get(&m.slot.name)).collect();
        // A parameter that is new to some state starts as all do.
        let joined = |start: f32, find: &dyn Fn(&Parked) -> Option<Tensor>| {
            let part = |(k, s): (&Option<&Parked>, &Segment)| {
                k.and_then(find).unwrap_or_else(|| Tensor::full(device, start, &[s.len]))
            };
            join(&known.iter().zip(&segments).map(part).collect::<Vec<_>>())
        };
        let most = known.iter().flatten().map(|p| p.states.len()).max().unwrap_or(0);
        let states = (0..most).map(|i| joined(self.start, &|p| p.states.get(i).cloned())).collect();
        let averaged = known.iter().flatten().any(|p| p.average.is_some());
        let average = averaged.then(|| joined(0.0, &|p| p.average.clone()));
        let index = match self.order {
            Order::ByLength if segments.len() > 1 => Some(index(&segments, device)?),
            _ => None,
        };
        let values: Vec<Tensor> = members.iter().map(|m| flatten(&m.slot.held().tensor)).collect();
        Ok(Group { class, count, value: join(&values), states, average, index, segments, members })
    }
}

/// For each element the number of its segment.
fn index(segments: &[Segment], device: &versant_graph::Device) -> Result<Tensor> {
    let numbered = (0u32..).zip(segments);
    let words: Vec<u32> = numbered.flat_map(|(i, s)| std::iter::repeat_n(i, s.len)).collect();
    let index = Tensor::from_slice(device, &words, &[words.len()]);
    index.error().map_or(Ok(index), |error| Err(error.into()))
}
