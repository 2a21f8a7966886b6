//! All parameters of an optimiser in one flat buffer (or a few, where the device limits a binding).
//!
//! Each parameter in the store is a view of its part. A step records the new flat values, gives up every
//! handle of the old ones, and evaluates: the plan then owns the old buffers and writes over them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use versant_graph::{DType, Gradients, Tensor, eval};

use super::{Now, OptimizerState, Rule, at_least_zero};
use crate::error::{NnError, Result};
use crate::params::{HostTensor, Params, Slot, matches_glob, read_all, upload};

/// The flat form of a store's parameters, and what the update of all of them needs.
pub(super) struct Flat {
    pub lr: f64,
    pub steps: u64,
    pub clip_norm: Option<f64>,
    pub clip_value: Option<f64>,
    /// The gradient norm of the latest step.
    pub norm: Option<Tensor>,
    params: Params,
    pattern: Option<String>,
    /// The store's version that the groups were laid out for.
    version: Option<u64>,
    groups: Vec<Group>,
    /// States of parameters that are in no group: frozen ones, and those just loaded.
    parked: HashMap<Arc<str>, Parked>,
}

struct Parked {
    count: u64,
    states: Vec<Tensor>,
}

/// Parameters that share their flat buffers and have taken part in equally many steps.
struct Group {
    members: Vec<Member>,
    value: Tensor,
    states: Vec<Tensor>,
    count: u64,
}

/// One parameter's part of a group.
struct Member {
    slot: Arc<Slot>,
    start: usize,
    len: usize,
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
    /// Puts views of the flat value in the place of its parameters. The pieces they are cut from are added to
    /// `kept`: while those live, evaluating the views makes them share the buffer without a launch.
    fn hand_out(&mut self, kept: &mut Vec<Tensor>) {
        for member in &mut self.members {
            let piece = self.value.narrow(0, member.start, member.len);
            let shape: Vec<isize> = member.slot.shape.iter().map(|&d| d as isize).collect();
            let view = piece.reshape(&shape);
            kept.extend([piece, view.clone()]);
            member.generation = member.slot.replace(view);
        }
    }

    /// Adds states of zeros until there are `n`.
    fn ensure_states(&mut self, n: usize) -> Result<()> {
        while self.states.len() < n {
            let numel = self.value.numel();
            let zeros = Tensor::from_slice(self.value.device(), &vec![0.0f32; numel], &[numel]);
            if let Some(error) = zeros.error() {
                return Err(error.into());
            }
            self.states.push(zeros);
        }
        Ok(())
    }
}

impl Flat {
    /// Lays the parameters out at once, so that already the first loss is recorded on their final places.
    pub fn new(params: &Params, lr: f64) -> Flat {
        let mut flat = Flat {
            lr,
            steps: 0,
            clip_norm: None,
            clip_value: None,
            norm: None,
            params: params.clone(),
            pattern: None,
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
        self.version = None;
        let _ = self.lay_out();
    }

    /// The parameters to train.
    fn selected(&self) -> Result<Vec<Arc<Slot>>> {
        let mut slots = self.params.slots();
        slots.retain(|s| s.trainable && !s.held().frozen && self.matches(&s.name));
        if slots.is_empty() {
            return Err(NnError::NoParameters { pattern: self.pattern.clone() });
        }
        Ok(slots)
    }

    fn matches(&self, name: &str) -> bool {
        self.pattern.as_ref().is_none_or(|p| matches_glob(p, name))
    }

    /// Whether the groups hold exactly what is to be trained, at its current values.
    fn is_laid_out(&self) -> bool {
        let unchanged = |m: &Member| m.slot.held().generation == m.generation;
        self.version == Some(self.params.version())
            && self.groups.iter().flat_map(|g| &g.members).all(unchanged)
    }

    /// Gathers values and states into new groups. If it fails, nothing has changed.
    fn lay_out(&mut self) -> Result<()> {
        let version = self.params.version();
        let slots = self.selected()?;
        let (parked, mut kept) = self.park();
        let order = self.arrange(slots, &parked);
        let mut groups = Vec::new();
        for members in order {
            groups.push(gather(members, &parked)?);
        }
        let flats = groups.iter().flat_map(|g: &Group| std::iter::once(&g.value).chain(&g.states));
        eval(&flats.chain(&kept).collect::<Vec<_>>())?;
        kept.clear();
        groups.iter_mut().for_each(|g| g.hand_out(&mut kept));
        eval(&kept.iter().collect::<Vec<_>>())?;
        self.parked = parked;
        for member in groups.iter().flat_map(|g| &g.members) {
            self.parked.remove(&member.slot.name);
        }
        self.groups = groups;
        self.version = Some(version);
        Ok(())
    }

    /// Every known parameter's states, as views of the groups; and the tensors that must live until the
    /// views are evaluated.
    fn park(&self) -> (HashMap<Arc<str>, Parked>, Vec<Tensor>) {
        let mut kept = Vec::new();
        let again = |p: &Parked| Parked { count: p.count, states: p.states.clone() };
        let mut parked: HashMap<Arc<str>, Parked> =
            self.parked.iter().map(|(name, p)| (Arc::clone(name), again(p))).collect();
        for group in &self.groups {
            for member in &group.members {
                let cut = |state: &Tensor| state.narrow(0, member.start, member.len);
                let states: Vec<Tensor> = group.states.iter().map(cut).collect();
                kept.extend(states.iter().cloned());
                let name = Arc::clone(&member.slot.name);
                parked.insert(name, Parked { count: group.count, states });
            }
        }
        (parked, kept)
    }

    /// Splits parameters into groups: by the number of steps they have taken, and by the largest binding.
    /// Sizes that are multiples of four come first, so that they stay aligned to 16 bytes without padding.
    fn arrange(
        &self,
        mut slots: Vec<Arc<Slot>>,
        parked: &HashMap<Arc<str>, Parked>,
    ) -> Vec<(u64, Vec<Member>)> {
        let limit = (self.params.device().info().limits.max_binding_bytes / 4) as usize;
        let count = |s: &Slot| parked.get(&s.name).map_or(0, |p| p.count);
        let numel = |s: &Slot| s.shape.iter().product::<usize>();
        slots.sort_by_key(|s| (count(s), numel(s) % 4 != 0));
        let mut groups: Vec<(u64, Vec<Member>)> = Vec::new();
        let mut end = 0;
        for slot in slots {
            let (count, len) = (count(&slot), numel(&slot));
            if groups.last().is_none_or(|g| g.0 != count) || end + len > limit {
                groups.push((count, Vec::new()));
                end = 0;
            }
            let generation = slot.held().generation;
            let member = Member { slot, start: end, len, generation };
            end += len;
            groups.last_mut().expect("a group was just made").1.push(member);
        }
        groups
    }

    /// Computes a step that an earlier failure left pending.
    fn settle(&mut self) -> Result<()> {
        let flats = self.groups.iter().flat_map(|g| std::iter::once(&g.value).chain(&g.states));
        eval(&flats.collect::<Vec<_>>())?;
        Ok(())
    }

    pub fn step(&mut self, rule: &dyn Rule, grads: Gradients) -> Result<()> {
        self.params.check()?;
        at_least_zero("the learning rate", self.lr)?;
        rule.check()?;
        self.check_clipping()?;
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
            group.ensure_states(rule.states().len())?;
        }
        let mut kept = self.record(rule, &mut grads);
        drop(grads);
        let buffers = self.params.pending_buffers();
        let flats = self.groups.iter().flat_map(|g| std::iter::once(&g.value).chain(&g.states));
        // The loss goes first: what reads the parameters after their update would keep it from happening in place.
        let roots = [&loss].into_iter().chain(flats).chain(&self.norm).chain(&buffers);
        let roots: Vec<&Tensor> = roots.collect();
        eval(&roots)?;
        eval(&kept.iter().collect::<Vec<_>>())?;
        kept.clear();
        Ok(())
    }

    fn check_clipping(&self) -> Result<()> {
        at_least_zero("the norm to clip to", self.clip_norm.unwrap_or(1.0))?;
        at_least_zero("the value to clip to", self.clip_value.unwrap_or(1.0))
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
        self.clip(&mut flat);
        let mut kept = Vec::new();
        for (group, grad) in self.groups.iter_mut().zip(&flat) {
            group.count = group.count.saturating_add(1);
            let now = Now { lr: self.lr, count: group.count };
            let (value, states) = rule.update(now, &group.value, grad, &group.states);
            group.value = value;
            group.states = states;
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

    pub fn state(&self, rule: &dyn Rule) -> Result<OptimizerState> {
        let (parked, kept) = self.park();
        eval(&kept.iter().collect::<Vec<_>>())?;
        let mut state = OptimizerState {
            kind: rule.kind().to_owned(),
            lr: self.lr,
            steps: self.steps,
            ..OptimizerState::default()
        };
        let mut keys = Vec::new();
        let mut tensors = Vec::new();
        let sorted: BTreeMap<&Arc<str>, &Parked> = parked.iter().collect();
        for (name, parked) in sorted {
            state.counts.insert(name.to_string(), parked.count);
            for (what, tensor) in rule.states().iter().zip(&parked.states) {
                let shape = self.params.get(name).map(|p| p.shape().to_vec());
                keys.push((format!("{what}/{name}"), shape.unwrap_or_default()));
                tensors.push(tensor.clone());
            }
        }
        let values = read_all(&tensors)?;
        for ((key, shape), data) in keys.into_iter().zip(values) {
            state.tensors.insert(key, HostTensor { shape, data });
        }
        Ok(state)
    }

    pub fn check_state(&self, rule: &dyn Rule, state: &OptimizerState) -> Result<()> {
        if state.kind != rule.kind() {
            let (saved, wanted) = (state.kind.clone(), rule.kind().to_owned());
            return Err(NnError::OtherOptimizer { saved, wanted });
        }
        let (mut missing, mut extra, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for slot in self.selected()? {
            if !state.counts.contains_key(&*slot.name) {
                missing.push(slot.name.to_string());
            }
        }
        for (name, &count) in &state.counts {
            let Some(param) = self.params.get(name).filter(|p| p.is_trainable()) else {
                extra.push(name.clone());
                continue;
            };
            for what in rule.states() {
                let key = format!("{what}/{name}");
                match state.tensors.get(&key) {
                    // Before its first step, a parameter has no states yet.
                    None if count == 0 => {}
                    None => missing.push(key),
                    Some(t) if t.shape == param.shape() => {}
                    Some(t) => shapes.push((key, param.shape().to_vec(), t.shape.clone())),
                }
            }
        }
        if missing.is_empty() && extra.is_empty() && shapes.is_empty() {
            return Ok(());
        }
        Err(NnError::Mismatch { origin: "the optimiser state".to_owned(), missing, extra, shapes })
    }

    pub fn load_state(&mut self, rule: &dyn Rule, state: &OptimizerState) -> Result<()> {
        self.check_state(rule, state)?;
        let mut parked = HashMap::new();
        for (name, &count) in &state.counts {
            let tensors = rule.states().iter().filter_map(|w| state.tensors.get(&format!("{w}/{name}")));
            let states = tensors.map(|t| Ok(flatten(&upload(&self.params, t)?))).collect::<Result<_>>()?;
            parked.insert(Arc::from(name.as_str()), Parked { count, states });
        }
        let groups = std::mem::take(&mut self.groups);
        let before = std::mem::replace(&mut self.parked, parked);
        if let Err(error) = self.lay_out() {
            (self.groups, self.parked) = (groups, before);
            return Err(error);
        }
        (self.lr, self.steps) = (state.lr, state.steps);
        Ok(())
    }
}

/// Records the flat values of a group.
fn gather((count, members): (u64, Vec<Member>), parked: &HashMap<Arc<str>, Parked>) -> Result<Group> {
    let values: Vec<Tensor> = members.iter().map(|m| flatten(&m.slot.held().tensor)).collect();
    let states = |m: &Member| parked.get(&m.slot.name).map_or(0, |p| p.states.len());
    let most = members.iter().map(states).max().unwrap_or(0);
    let value = join(&values);
    let mut group = Group { members, value, states: Vec::new(), count };
    for i in 0..most {
        let part = |m: &Member| {
            let known = parked.get(&m.slot.name).and_then(|p| p.states.get(i)).cloned();
            known.unwrap_or_else(|| Tensor::zeros(values[0].device(), &[m.len]))
        };
        let parts: Vec<Tensor> = group.members.iter().map(part).collect();
        group.states.push(join(&parts));
    }
    Ok(group)
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
