//! What a resumed run needs of an optimiser, and averages of the weights.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use versant_graph::{Tensor, eval};

use super::{Flat, Parked, flatten};
use crate::error::{NnError, Result};
use crate::optim::scale::Scaling;
use crate::optim::{OptimizerState, Rule};
use crate::params::{HostMap, HostTensor, Param, read_all, upload};

/// The averages' name among states.
const AVERAGE: &str = "average";

impl Flat {
    /// The names of a parameter's states.
    fn names(&self, rule: &dyn Rule, param: &Param) -> Vec<&'static str> {
        let class = self.order.class(param.name(), param.shape());
        let average = self.average.is_some().then_some(AVERAGE);
        rule.states(class).iter().copied().chain(average).collect()
    }

    pub fn state(&self, rule: &dyn Rule) -> Result<OptimizerState> {
        self.check_not_swapped()?;
        let (parked, kept) = self.park(self.skips()?);
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
            let shape = self.params.get(name).map(|p| p.shape().to_vec()).unwrap_or_default();
            let class = self.order.class(name, &shape);
            let named = rule.states(class).iter().copied().zip(&parked.states);
            for (what, tensor) in named.chain(parked.average.iter().map(|a| (AVERAGE, a))) {
                keys.push((format!("{what}/{name}"), shape.clone()));
                tensors.push(tensor.clone());
            }
        }
        let values = read_all(&tensors)?;
        for ((key, shape), data) in keys.into_iter().zip(values) {
            state.tensors.insert(key, HostTensor { shape, data });
        }
        if let Some(scaling) = &self.scaling {
            state.tensors.extend([scaling.saved()?]);
        }
        Ok(state)
    }

    pub fn check_state(&self, rule: &dyn Rule, state: &OptimizerState) -> Result<()> {
        self.check_not_swapped()?;
        if state.kind != rule.kind() {
            let (saved, wanted) = (state.kind.clone(), rule.kind().to_owned());
            return Err(NnError::OtherOptimizer { saved, wanted });
        }
        Scaling::fits(state.tensors.get(Scaling::NAME))?;
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
            for what in self.names(rule, &param) {
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
            let shape = self.params.get(name).map(|p| p.shape().to_vec()).unwrap_or_default();
            let find = |what: &str| state.tensors.get(&format!("{what}/{name}"));
            let up = |t: &HostTensor| Ok::<_, NnError>(flatten(&upload(&self.params, t)?));
            let names = rule.states(self.order.class(name, &shape));
            let states = names.iter().filter_map(|w| find(w)).map(up).collect::<Result<_>>()?;
            let average = self.average.and_then(|_| find(AVERAGE)).map(up).transpose()?;
            parked.insert(Arc::from(name.as_str()), Parked { count, states, average });
        }
        let groups = std::mem::take(&mut self.groups);
        let before = std::mem::replace(&mut self.parked, parked);
        if let Err(error) = self.lay_out() {
            (self.groups, self.parked) = (groups, before);
            return Err(error);
        }
        (self.lr, self.steps) = (state.lr, state.steps);
        if let Some(scaling) = &mut self.scaling {
            scaling.load(&self.params, state.tensors.get(Scaling::NAME))?;
            self.taken_off = scaling.skips()?;
        }
        Ok(())
    }

    pub(super) fn check_not_swapped(&self) -> Result<()> {
        if self.swapped { Err(NnError::AverageInPlace) } else { Ok(()) }
    }

    /// Whether every parameter in training has an average.
    fn check_averaged(&self) -> Result<()> {
        let taken = |count| self.average.is_some_and(|a| a.taken(count) > 0);
        let ready = |g: &super::Group| g.average.is_some() && taken(g.count);
        match !self.groups.is_empty() && self.groups.iter().all(ready) {
            true => Ok(()),
            false => Err(NnError::NoAverage),
        }
    }

    /// The averages by name.
    pub fn averages(&self) -> Result<HostMap> {
        self.check_averaged()?;
        let mut keys = Vec::new();
        let mut tensors = Vec::new();
        for group in &self.groups {
            let flat = if self.swapped { Some(&group.value) } else { group.average.as_ref() };
            for (member, s) in group.members.iter().zip(&group.segments) {
                keys.push((member.slot.name.to_string(), s.shape.clone()));
                tensors.extend(flat.map(|flat: &Tensor| flat.narrow(0, s.start, s.len)));
            }
        }
        let values = read_all(&tensors)?.into_iter().zip(keys);
        Ok(values.map(|(data, (name, shape))| (name, HostTensor { shape, data })).collect())
    }

    /// Exchanges parameters and averages: other views are handed out, no value is copied.
    pub fn swap_average(&mut self) -> Result<()> {
        self.check_averaged()?;
        if !self.is_laid_out() {
            // Somebody else has replaced values or changed what is trained: they would be lost.
            if self.swapped {
                return Err(NnError::AverageInPlace);
            }
            self.settle()?;
            self.lay_out()?;
            self.check_averaged()?;
        }
        self.settle()?;
        let mut kept = Vec::new();
        for group in &mut self.groups {
            if let Some(average) = &mut group.average {
                std::mem::swap(&mut group.value, average);
            }
            group.hand_out(&mut kept);
        }
        self.swapped = !self.swapped;
        eval(&kept.iter().collect::<Vec<_>>())?;
        Ok(())
    }
}
