//! All parameters of an optimiser in one flat buffer (or a few, where the device limits a binding).
//!
//! Each parameter in the store is a view of its part. A step records the new flat values, gives up every
//! handle of the old ones, and evaluates: the plan then owns the old buffers and writes over them.

mod layout;
mod saved;

use std::collections::HashMap;
use std::sync::Arc;

use versant_graph::{DType, Gradients, Tensor, eval};

use super::average::Average;
use super::group::{Now, ParamGroup, Segment, Settings};
use super::scale::{LossScale, Scaling, chosen};
use super::{Rule, at_least_zero, scalar};
use crate::error::{NnError, Result};
use crate::params::{Params, Slot, matches_glob};

pub(super) use layout::Order;

/// The flat form of a store's parameters, and what the update of all of them needs.
pub(super) struct Flat {
    pub lr: f64,
    pub steps: u64,
    pub clip_norm: Option<f64>,
    pub clip_value: Option<f64>,
    /// The gradient norm of the latest step.
    pub norm: Option<Tensor>,
    pub average: Option<Average>,
    pub scaling: Option<Scaling>,
    /// Skipped steps that the groups' counts contain no more.
    taken_off: u64,
    /// What the rule's states are before the first step.
    pub start: f32,
    params: Params,
    pattern: Option<String>,
    order: Order,
    parts: Vec<ParamGroup>,
    /// Whether the store holds the averages, and the groups' averages are the parameters.
    swapped: bool,
    /// The store's version that the groups were laid out for.
    version: Option<u64>,
    groups: Vec<Group>,
    /// States of parameters that are in no group: frozen ones, and those just loaded.
    parked: HashMap<Arc<str>, Parked>,
}

#[derive(Clone)]
struct Parked {
    count: u64,
    states: Vec<Tensor>,
    average: Option<Tensor>,
}

/// Parameters that share their flat buffers and have taken part in equally many steps.
struct Group {
    class: usize,
    count: u64,
    value: Tensor,
    states: Vec<Tensor>,
    average: Option<Tensor>,
    /// For each element the number of its segment, where the order asks for it.
    index: Option<Tensor>,
    /// Where each member lies.
    segments: Vec<Segment>,
    members: Vec<Member>,
}

/// One parameter of a group.
struct Member {
    slot: Arc<Slot>,
    /// The parameter group that it is in, or their number.
    part: usize,
    /// The slot's generation when this optimiser last wrote it.
    generation: u64,
}

/// One dimension, without a copy.
fn flatten(t: &Tensor) -> Tensor {
    t.reshape(&[t.numel() as isize])
}

fn join(parts: &[Tensor]) -> Tensor {
    Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0)
}

impl Group {
    /// Everything that lives from step to step.
    fn flats(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.value).chain(&self.states).chain(&self.average)
    }

    /// Puts views of the flat value in the place of its parameters. The pieces they are cut from are added to
    /// `kept`: while those live, evaluating the views makes them share the buffer without a launch.
    fn hand_out(&mut self, kept: &mut Vec<Tensor>) {
        for (member, segment) in self.members.iter_mut().zip(&self.segments) {
            let piece = self.value.narrow(0, segment.start, segment.len);
            let shape: Vec<isize> = segment.shape.iter().map(|&d| d as isize).collect();
            let view = piece.reshape(&shape);
            kept.extend([piece, view.clone()]);
            member.generation = member.slot.replace(view);
        }
    }

    fn filled(&self, value: f32) -> Result<Tensor> {
        let numel = self.value.numel();
        let filled = Tensor::from_slice(self.value.device(), &vec![value; numel], &[numel]);
        filled.error().map_or(Ok(filled), |error| Err(error.into()))
    }

    /// Adds states until there are `n`, and an average if there is to be one.
    fn ensure_states(&mut self, n: usize, start: f32, averaged: bool) -> Result<()> {
        while self.states.len() < n {
            self.states.push(self.filled(start)?);
        }
        if averaged && self.average.is_none() {
            self.average = Some(self.filled(0.0)?);
        }
        Ok(())
    }

    /// The settings of neighbouring members, each with where it ends.
    fn settings(&self, of: impl Fn(usize) -> Settings) -> Vec<(usize, Settings)> {
        let mut parts: Vec<(usize, Settings)> = Vec::new();
        let mut current = None;
        for (member, segment) in self.members.iter().zip(&self.segments) {
            if current != Some(member.part) {
                current = Some(member.part);
                parts.push((0, of(member.part)));
            }
            if let Some(last) = parts.last_mut() {
                last.0 = segment.start + segment.len;
            }
        }
        parts
    }
}

impl Flat {
    /// Lays the parameters out at once, so that already the first loss is recorded on their final places.
    pub fn new(params: &Params, lr: f64) -> Flat {
        Flat::ordered(params, lr, Order::Stored)
    }

    /// As [`Flat::new`], in another order.
    pub fn ordered(params: &Params, lr: f64, order: Order) -> Flat {
        let mut flat = Flat {
            lr,
            steps: 0,
            clip_norm: None,
            clip_value: None,
            norm: None,
            average: None,
            scaling: None,
            taken_off: 0,
            start: 0.0,
            params: params.clone(),
            pattern: None,
            order,
            parts: Vec::new(),
            swapped: false,
            version: None,
            groups: Vec::new(),
            parked: HashMap::new(),
        };
        // What fails here fails again in the first step, which returns it.
        let _ = flat.lay_out();
        flat
    }

    pub fn select(&mut self, pattern: &str) {
        self.pattern = Some(pattern.to_owned());
        self.lay_out_again();
    }

    /// Adds a parameter group.
    pub fn add(&mut self, group: ParamGroup) {
        self.parts.push(group);
        self.lay_out_again();
    }

    pub fn reorder(&mut self, change: impl FnOnce(&mut Order)) {
        change(&mut self.order);
        self.lay_out_again();
    }

    /// Scales the loss from here on.
    pub fn scale_by(&mut self, rule: LossScale) {
        self.scaling = Some(Scaling::new(self.params.device(), rule));
        self.taken_off = 0;
    }

    /// Everything that lives from step to step.
    fn lasting(&self) -> impl Iterator<Item = &Tensor> {
        self.groups.iter().flat_map(Group::flats).chain(self.scaling.iter().flat_map(Scaling::tensors))
    }

    /// Sets the rate of a group by its pattern; whether there is such a group.
    pub fn set_scale(&mut self, pattern: &str, scale: f64) -> bool {
        let group = self.parts.iter_mut().find(|g| g.pattern == pattern);
        group.map(|g| g.scale = scale).is_some()
    }

    fn lay_out_again(&mut self) {
        self.version = None;
        let _ = self.lay_out();
    }

    /// The parameter group of this name, or their number.
    fn part(&self, name: &str) -> usize {
        let found = self.parts.iter().position(|g| matches_glob(&g.pattern, name));
        found.unwrap_or(self.parts.len())
    }

    /// Skipped steps that the groups' counts still contain; the device is waited for if it scales the loss.
    fn skips(&self) -> Result<u64> {
        let all = self.scaling.as_ref().filter(|_| !self.groups.is_empty()).map(Scaling::skips);
        Ok(all.transpose()?.unwrap_or(0).saturating_sub(self.taken_off))
    }

    /// Computes a step that an earlier failure left pending.
    fn settle(&mut self) -> Result<()> {
        eval(&self.lasting().collect::<Vec<_>>())?;
        Ok(())
    }

    pub fn step(&mut self, rule: &dyn Rule, grads: Gradients) -> Result<()> {
        self.params.check()?;
        self.check_not_swapped()?;
        at_least_zero("the learning rate", self.lr)?;
        rule.check()?;
        self.check_settings()?;
        let loss = grads.loss().clone();
        let mut grads = if self.is_laid_out() {
            let slots: Vec<&Slot> = self.groups.iter().flat_map(|g| &g.members).map(|m| &*m.slot).collect();
            self.collect(&slots, grads)?
        } else {
            let slots = self.selected()?;
            let slots: Vec<&Slot> = slots.iter().map(|s| &**s).collect();
            let found = self.collect(&slots, grads)?;
            let names = slots.iter().map(|s| Arc::clone(&s.name));
            let mut found: HashMap<Arc<str>, Tensor> = names.zip(found).collect();
            self.settle()?;
            self.lay_out()?;
            let members = self.groups.iter().flat_map(|g| &g.members);
            members.filter_map(|m| found.remove(&m.slot.name)).collect()
        };
        self.settle()?;
        for group in &mut self.groups {
            let wanted = rule.states(group.class).len();
            group.ensure_states(wanted, self.start, self.average.is_some())?;
        }
        let mut kept = self.record(rule, &mut grads);
        drop(grads);
        let buffers = self.params.pending_buffers();
        let flats = self.lasting();
        // The loss goes first: what reads the parameters after their update would keep it from happening in place.
        let roots = [&loss].into_iter().chain(flats).chain(&self.norm).chain(&buffers);
        let roots: Vec<&Tensor> = roots.collect();
        eval(&roots)?;
        eval(&kept.iter().collect::<Vec<_>>())?;
        kept.clear();
        Ok(())
    }

    fn check_settings(&self) -> Result<()> {
        at_least_zero("the norm to clip to", self.clip_norm.unwrap_or(1.0))?;
        at_least_zero("the value to clip to", self.clip_value.unwrap_or(1.0))?;
        self.average.map_or(Ok(()), |a| a.check())?;
        self.scaling.as_ref().map_or(Ok(()), Scaling::check)?;
        self.parts.iter().try_for_each(ParamGroup::check)
    }

    /// What holds for a parameter group.
    fn settings(&self, rule: &dyn Rule, class: usize, part: usize) -> Settings {
        let group = self.parts.get(part);
        let scale = group.map_or(1.0, |g| g.scale);
        let decay = group.and_then(|g| g.decay).unwrap_or_else(|| rule.decay(class));
        Settings { lr: self.lr * scale, scale, decay }
    }

    /// Records the update of every group and lets go of everything old. Returns what must live until the
    /// parameters' views are evaluated.
    fn record(&mut self, rule: &dyn Rule, grads: &mut Vec<Tensor>) -> Vec<Tensor> {
        // A checkpoint may come from anywhere: its counts must not overflow.
        self.steps = self.steps.saturating_add(1);
        let mut parts = grads.drain(..).map(|g| flatten(&g));
        let mut flat: Vec<Tensor> = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            flat.push(join(&parts.by_ref().take(group.members.len()).collect::<Vec<_>>()));
        }
        drop(parts);
        let before = self.scaling.as_ref().map(|s| s.skipped().clone());
        let fewer = before.map(|s| &s - scalar(&s, self.taken_off as f64));
        let fine = self.scaling.as_mut().and_then(|s| s.unscale(&mut flat));
        let fine = fine.as_ref();
        self.clip(&mut flat);
        let mut kept = Vec::new();
        let parts = |g: &Group| g.settings(|part| self.settings(rule, g.class, part));
        let parts: Vec<_> = self.groups.iter().map(parts).collect();
        for ((group, grad), parts) in self.groups.iter_mut().zip(&flat).zip(parts) {
            group.count = group.count.saturating_add(1);
            let (count, class) = (group.count, group.class);
            let (segments, index) = (&group.segments, group.index.as_ref());
            let now = Now { count, fewer: fewer.as_ref(), class, parts, segments, index };
            let (value, states) = rule.update(&now, &group.value, grad, &group.states);
            if let (Some(rule), Some(average)) = (self.average, &mut group.average) {
                let new = &*average + (&value - &*average) * scalar(&value, rule.weight(count));
                *average = chosen(fine, new, average);
            }
            group.value = chosen(fine, value, &group.value);
            let states = states.into_iter().zip(&group.states);
            group.states = states.map(|(new, old)| chosen(fine, new, old)).collect();
            group.hand_out(&mut kept);
        }
        kept
    }

    fn clip(&mut self, flat: &mut [Tensor]) {
        if let Some(max) = self.clip_value {
            for g in flat.iter_mut() {
                *g = crate::clip::clamp(g, max as f32);
            }
        }
        self.norm = None;
        let Some(max) = self.clip_norm else { return };
        let norm = crate::clip::norm(flat);
        let factor = crate::clip::factor(&norm, max as f32);
        for g in flat.iter_mut() {
            *g = &*g * &factor;
        }
        self.norm = Some(norm);
    }

    /// The gradient of each slot, in order; every problem is found before anything changes.
    fn collect(&self, slots: &[&Slot], grads: Gradients) -> Result<Vec<Tensor>> {
        let mut found = Vec::with_capacity(slots.len());
        let mut absent: Vec<String> = Vec::new();
        for slot in slots {
            match grads.get(&slot.get()) {
                Some(grad) => {
                    check_gradient(slot, grad)?;
                    found.push(grad.clone());
                }
                None => absent.push(slot.name.to_string()),
            }
        }
        if !absent.is_empty() {
            let recorded: Vec<&str> = grads.iter().map(|(name, _)| name).collect();
            let (stale, names): (Vec<String>, Vec<String>) =
                absent.into_iter().partition(|name| recorded.contains(&name.as_str()));
            return Err(match stale.is_empty() {
                true => NnError::NotReached { names },
                false => NnError::StaleGradients { names: stale },
            });
        }
        if grads.len() > found.len() {
            let known = |name: &str| {
                slots.iter().any(|s| &*s.name == name)
                    || self.params.get(name).is_some_and(|p| p.is_frozen() || !self.matches(name))
            };
            let strange = grads.iter().map(|(name, _)| name).filter(|name| !known(name));
            let names: Vec<String> = strange.map(str::to_owned).collect();
            if !names.is_empty() {
                return Err(NnError::UnknownGradients { names });
            }
        }
        Ok(found)
    }
}

fn check_gradient(slot: &Slot, grad: &Tensor) -> Result<()> {
    if let Some(error) = grad.error() {
        return Err(error.into());
    }
    if grad.dtype() == DType::F32 && grad.shape() == slot.shape {
        return Ok(());
    }
    Err(NnError::GradientShape {
        name: slot.name.to_string(),
        shape: slot.shape.clone(),
        gradient: format!("{}{:?}", grad.dtype(), grad.shape()),
    })
}
