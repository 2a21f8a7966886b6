//! Evaluation: find or make the plan of a pending graph, run it, and hand out the values.

use std::panic::Location;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustc_hash::FxHashMap;
use versant_device::{Buffer, Device};
use versant_kernels::View;

use crate::Tensor;
use crate::capture::{Capture, capture};
use crate::error::{GraphError, Result};
use crate::explain::{Explanation, Measured};
use crate::memory::Output;
use crate::ops::create::Element;
use crate::plan::{Plan, limits_of};
use crate::tensor::{Node, State, Value};

/// Most plans that a device keeps; the oldest is dropped first.
const MAX_PLANS: usize = 512;

/// A device's plans, and the lock that makes evaluations take turns.
#[derive(Default)]
pub(crate) struct Plans {
    inner: Mutex<Inner>,
    /// Values to compute with what they depend on, if somebody holds them then.
    alongside: Mutex<Vec<Weak<Node>>>,
}

#[derive(Default)]
struct Inner {
    epoch: u32,
    by_hash: FxHashMap<u64, Vec<Arc<Plan>>>,
    order: std::collections::VecDeque<u64>,
    latest: Option<Arc<Plan>>,
    stats: PlanStats,
    separate: bool,
    keep: bool,
}

/// Counts of a device's plan cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanStats {
    /// Evaluations that replayed a plan.
    pub hits: u64,
    /// Evaluations that had to make one.
    pub misses: u64,
}

impl Plans {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What it guards is consistent between statements: a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a value computed with what it depends on, if somebody holds it then.
    pub fn alongside(&self, node: &Arc<Node>) {
        let mut all = self.alongside.lock().unwrap_or_else(PoisonError::into_inner);
        // Nodes that died without an evaluation: a link keeps their memory.
        if all.len() == all.capacity() {
            all.retain(|node| node.strong_count() > 0);
            let room = all.len().max(64);
            all.reserve(room);
        }
        all.push(Arc::downgrade(node));
    }

    /// Those values that somebody holds and that are not computed.
    fn held(&self) -> Vec<Arc<Node>> {
        let mut all = self.alongside.lock().unwrap_or_else(PoisonError::into_inner);
        let held: Vec<Arc<Node>> = all
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|n| n.handles.load(Ordering::Relaxed) > 0 && matches!(*n.state(), State::Pending(_)))
            .collect();
        *all = held.iter().map(Arc::downgrade).collect();
        held
    }
}

impl Inner {
    fn capture(&mut self, roots: &[Arc<Node>], alongside: &[Arc<Node>]) -> Result<Capture> {
        // Marks of an epoch of 2^32 evaluations ago would look current; nodes do not live that long.
        self.epoch = self.epoch.wrapping_add(1).max(1);
        capture(roots, alongside, self.epoch)
    }

    fn forget(&mut self) {
        self.by_hash.clear();
        self.order.clear();
    }

    fn plan(&mut self, device: &Device, found: &Capture) -> Result<Arc<Plan>> {
        let known = self.by_hash.get(&found.hash).into_iter().flatten();
        if let Some(plan) = known.into_iter().find(|p| found.matches(&p.key)) {
            self.stats.hits += 1;
            return Ok(Arc::clone(plan));
        }
        self.stats.misses += 1;
        let _span = device.span("plan");
        let (key, locations) = found.to_key();
        let limits = limits_of(device, !self.separate, !self.keep);
        let plan = Arc::new(Plan::new(device, key, &locations, limits)?);
        self.by_hash.entry(found.hash).or_default().push(Arc::clone(&plan));
        self.order.push_back(found.hash);
        if self.order.len() > MAX_PLANS
            && let Some(old) = self.order.pop_front()
        {
            let plans = self.by_hash.get_mut(&old);
            if let Some(plans) = plans.filter(|p| !p.is_empty()) {
                plans.remove(0);
            }
        }
        Ok(plan)
    }
}

/// Computes these tensors, everything pending that somebody holds on the way, and what is to be computed
/// [alongside](Tensor::alongside) something on the way, in one plan.
///
/// # Errors
/// An error recorded in one of the tensors or in what they depend on; tensors of different devices; a
/// failing device (the tensors then stay pending).
#[track_caller]
pub fn eval(tensors: &[&Tensor]) -> Result<()> {
    let location = Location::caller();
    let Some(first) = tensors.first() else {
        return Ok(());
    };
    let device = first.device().clone();
    for t in tensors {
        if let Some(error) = t.error() {
            return Err(error);
        }
        if *t.device() != device {
            return Err(GraphError::MixedDevices {
                op: "eval",
                left: device.info().name.clone(),
                right: t.device().info().name.clone(),
                location,
            });
        }
    }
    let roots: Vec<Arc<Node>> =
        tensors.iter().filter(|t| !t.is_ready()).map(|t| Arc::clone(&t.node)).collect();
    if roots.is_empty() {
        return Ok(());
    }
    let plans = device.attachment::<Plans>();
    let mut inner = plans.lock();
    let span = device.span("capture");
    let found = inner.capture(&roots, &plans.held())?;
    drop(span);
    if found.outputs.is_empty() {
        return Ok(());
    }
    let plan = inner.plan(&device, &found)?;
    inner.latest = Some(Arc::clone(&plan));
    execute(&device, &plan, found)
}

/// The plan that computes these tensors over buffers given at each call; none is donated.
pub(crate) fn capture_for_replay(device: &Device, results: &[Tensor]) -> Result<(Capture, Arc<Plan>)> {
    let roots: Vec<Arc<Node>> = results.iter().map(|t| Arc::clone(&t.node)).collect();
    let plans = device.attachment::<Plans>();
    let mut inner = plans.lock();
    let mut found = inner.capture(&roots, &[])?;
    found.keep_inputs();
    let plan = inner.plan(device, &found)?;
    Ok((found, plan))
}

/// Runs a plan over what was captured and makes its outputs ready.
fn execute(device: &Device, plan: &Plan, found: Capture) -> Result<()> {
    let (mut externals, values) = buffers(device, plan, &found.externals)?;
    device.run(&plan.prepared, &externals, &found.scalars)?;
    externals.clear();
    let outputs = found.outputs();
    for (node, buffer) in outputs.iter().zip(values) {
        let value = Value { buffer, view: View::contiguous(node.shape) };
        let old = std::mem::replace(&mut *node.state(), State::Ready(Box::new(value)));
        drop(old);
    }
    Ok(())
}

/// The externals of a run, inputs then fresh outputs, and the buffer of each output.
pub(crate) fn buffers(device: &Device, plan: &Plan, inputs: &[Buffer]) -> Result<(Vec<Buffer>, Vec<Buffer>)> {
    let mut externals = inputs.to_vec();
    let fresh = plan.outputs.iter().filter(|o| matches!(o, Output::Fresh { .. })).count();
    let mut new: Vec<Option<Buffer>> = vec![None; fresh];
    let mut recent = plan.recent.lock().unwrap_or_else(PoisonError::into_inner);
    recent.resize(fresh, 0);
    for output in &plan.outputs {
        if let Output::Fresh { external, words } = output {
            let i = external - inputs.len();
            let buffer = device.alloc_again(*words, recent[i])?;
            recent[i] = buffer.id();
            new[i] = Some(buffer);
        }
    }
    drop(recent);
    externals.extend(new.into_iter().flatten());
    let values = plan
        .outputs
        .iter()
        .map(|o| match o {
            Output::Fresh { external, .. } | Output::Donated { external } => externals[*external].clone(),
        })
        .collect();
    Ok((externals, values))
}

/// The plan that computing these tensors would run, as text and data; nothing is computed.
///
/// # Errors
/// As [`eval`].
#[track_caller]
pub fn explain(tensors: &[&Tensor]) -> Result<Explanation> {
    let mut roots = Vec::new();
    for t in tensors {
        if let Some(error) = t.error() {
            return Err(error);
        }
        roots.push(Arc::clone(&t.node));
    }
    let Some(first) = tensors.first() else {
        return Ok(Explanation::default());
    };
    let plans = first.device().attachment::<Plans>();
    let mut inner = plans.lock();
    let found = inner.capture(&roots, &plans.held())?;
    Ok(inner.plan(first.device(), &found)?.explanation.clone())
}

/// Runs of a timed explanation, besides a first one that is not counted.
const ROUNDS: usize = 5;

/// As [`explain`], with the time of every launch (the median of some runs) beside what the device can do. The plan
/// runs on copies of what it would overwrite, so still nothing is computed.
///
/// # Errors
/// As [`eval`]; a graphics device that was opened without [time stamps](versant_device::DeviceOptions::timestamps).
#[track_caller]
pub fn explain_timed(tensors: &[&Tensor]) -> Result<Explanation> {
    let mut explanation = explain(tensors)?;
    let Some(first) = tensors.first() else {
        return Ok(explanation);
    };
    let device = first.device();
    let roots: Vec<Arc<Node>> = tensors.iter().map(|t| Arc::clone(&t.node)).collect();
    let plans = device.attachment::<Plans>();
    let mut inner = plans.lock();
    let found = inner.capture(&roots, &plans.held())?;
    let plan = inner.plan(device, &found)?;
    let mut inputs = Vec::with_capacity(found.externals.len());
    for (buffer, &(_, donated)) in found.externals.iter().zip(&plan.key.externals) {
        inputs.push(match donated {
            true => device.upload(&device.read(buffer, buffer.words())?)?,
            false => buffer.clone(),
        });
    }
    let (externals, _) = buffers(device, &plan, &inputs)?;
    let mut runs = Vec::with_capacity(ROUNDS);
    for _ in 0..=ROUNDS {
        runs.push(device.run_timed(&plan.prepared, &externals, &found.scalars)?);
    }
    let median = |launch: usize| {
        let mut times: Vec<u64> = runs[1..].iter().map(|run| run[launch]).collect();
        times.sort_unstable();
        times[ROUNDS / 2]
    };
    let nanos = (0..explanation.launches.len()).map(median).collect();
    explanation.measured = Some(Measured { nanos, peak: device.peak()? });
    Ok(explanation)
}

/// Whether computing these tensors would replay a plan that is already made. Nothing is computed.
///
/// # Errors
/// An error recorded in one of the tensors.
pub fn is_planned(tensors: &[&Tensor]) -> Result<bool> {
    let Some(first) = tensors.first() else {
        return Ok(true);
    };
    let roots: Vec<Arc<Node>> = tensors.iter().map(|t| Arc::clone(&t.node)).collect();
    let plans = first.device().attachment::<Plans>();
    let mut inner = plans.lock();
    let found = inner.capture(&roots, &plans.held())?;
    let known = inner.by_hash.get(&found.hash);
    Ok(known.is_some_and(|plans| plans.iter().any(|p| found.matches(&p.key))))
}

/// What the device ran last.
pub fn latest_plan(device: &Device) -> Option<Explanation> {
    device.attachment::<Plans>().lock().latest.as_ref().map(|p| p.explanation.clone())
}

/// How often the device's plan cache was hit.
pub fn plan_stats(device: &Device) -> PlanStats {
    device.attachment::<Plans>().lock().stats
}

/// Whether plans of this device merge kernels. Only tests and benchmarks turn it off, to compare; plans made
/// before are forgotten.
pub fn set_fusion(device: &Device, on: bool) {
    let plans = device.attachment::<Plans>();
    let mut inner = plans.lock();
    inner.separate = !on;
    inner.forget();
}

/// Whether plans of this device compute again what would be in memory for long. Only tests and benchmarks turn it
/// off, to compare; plans made before are forgotten.
pub fn set_recomputing(device: &Device, on: bool) {
    let plans = device.attachment::<Plans>();
    let mut inner = plans.lock();
    inner.keep = !on;
    inner.forget();
}

impl Tensor {
    /// The elements in row-major order, computed if need be.
    ///
    /// # Errors
    /// As [`eval`]; another element type than the tensor's.
    #[track_caller]
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let location = Location::caller();
        if let Some(error) = self.error() {
            return Err(error);
        }
        if self.dtype() != T::DTYPE {
            return Err(GraphError::WrongType {
                op: "to_vec",
                have: self.dtype(),
                asked: T::DTYPE,
                location,
            });
        }
        eval(&[self])?;
        let value = match &*self.node.state() {
            State::Ready(value) => (**value).clone(),
            State::Failed(error) => return Err((**error).clone()),
            State::Pending(_) => unreachable!("an evaluated tensor is ready"),
        };
        let numel = self.numel();
        if numel == 0 {
            return Ok(Vec::new());
        }
        if value.view.is_dense() {
            let start = value.view.offset as usize;
            let words = self.device().read(&value.buffer, start + numel)?;
            return Ok(words[start..].iter().map(|&w| T::from_word(w)).collect());
        }
        let words = self.device().read(&value.buffer, value.buffer.words())?;
        Ok(offsets(&value.view).map(|o| T::from_word(words[o])).collect())
    }

    /// The only element of a tensor, computed if need be.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`]; another number of elements than one.
    #[track_caller]
    pub fn item<T: Element>(&self) -> Result<T> {
        let location = Location::caller();
        if let Some(error) = self.error() {
            return Err(error);
        }
        if self.numel() != 1 {
            return Err(GraphError::Invalid {
                op: "item",
                why: "needs exactly one element".to_owned(),
                operands: vec![self.operand()],
                location,
            });
        }
        Ok(self.to_vec::<T>()?[0])
    }
}

/// Buffer offsets in row-major order of a guard-free view's coordinates.
pub(crate) fn offsets(view: &View) -> impl Iterator<Item = usize> + '_ {
    let dense = view.shape.strides();
    (0..view.shape.numel()).map(move |i| {
        let mut offset = view.offset;
        for (k, (&dim, stride)) in view.shape.iter().zip(&view.strides).enumerate() {
            offset += stride * ((i / dense[k] as usize) % dim) as isize;
        }
        offset as usize
    })
}
