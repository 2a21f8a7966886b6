//! Which variant of a kernel a plan uses: only such as were found right on this adapter, and the fastest of those if
//! that was measured.
//!
//! A hand-tuned kernel is right by its tests, on the drivers that they ran on. So the first time that a text runs on
//! an adapter and driver, its results over random numbers are compared with those of its CPU twin. A wrong variant is
//! never used again there; it is listed by [`excluded_variants`] and the next best one takes its place.

mod store;
mod trial;

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use versant_device::Device;
use versant_kernels::attention::{self, Attention, Pass};
use versant_kernels::contract::{self, Contraction, ConvKind, VariantId};
use versant_kernels::{Caps, Precision, Target};

use crate::error::{GraphError, Result};
use crate::plan::Draft;
use store::Known;
pub(crate) use trial::{SCRATCH, Started, Trial};

/// Set to `1`, it makes every device measure the variants of each new problem.
const TUNE_VAR: &str = "VERSANT_TUNE";

/// Rows that are shared within subgroups, as a variant; and what is in the text of one.
const ROWS: &str = "one subgroup a row";
const FAMILY_OF_ROWS: &str = "rows";
const SUBGROUP: &str = "subgroupShuffleXor";

/// A kernel variant that gave wrong results on this adapter and is not used.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Excluded {
    /// The variant's label, as `explain()` shows it.
    pub variant: String,
    /// The family in which it is not used.
    pub family: &'static str,
    /// What was wrong.
    pub fault: String,
}

/// A device's knowledge of its kernel variants.
#[derive(Default)]
pub(crate) struct Tuning(Mutex<State>);

#[derive(Default)]
struct State {
    opened: bool,
    path: Option<PathBuf>,
    known: Known,
    excluded: Vec<Excluded>,
    measures: bool,
    /// Whether operands may be rounded to 16 bits.
    half: bool,
    /// What sort of adapter to take this one for.
    #[cfg(test)]
    class: Option<versant_kernels::Class>,
    /// Changes the text of a variant, to see that a broken one is found.
    #[cfg(test)]
    sabotage: Option<fn(&str, &mut String)>,
}

impl Tuning {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What it guards is consistent between statements: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the caller allows contractions to do.
    pub fn precision(&self) -> Precision {
        if self.lock().half { Precision::F16 } else { Precision::F32 }
    }

    /// Whether rows may be shared within subgroups: they were not found wrong.
    pub fn rows_by_subgroup(&self) -> bool {
        !self.lock().is_excluded(ROWS, FAMILY_OF_ROWS)
    }

    /// What sort of adapter a test wants this one to be taken for.
    #[cfg(test)]
    pub fn class(&self) -> Option<versant_kernels::Class> {
        self.lock().class
    }

    fn open(&self, device: &Device) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if !state.opened {
            let adapter = device.info().fingerprint();
            state.opened = true;
            state.measures |= std::env::var(TUNE_VAR).is_ok_and(|v| v == "1");
            state.path = store::file_for(&adapter);
            state.known = match &state.path {
                Some(path) => store::read(path, &adapter),
                None => Known { adapter, ..Known::default() },
            };
        }
        state
    }

    /// The variant for a problem: the measured one, else the first that is not excluded.
    pub fn choose(&self, device: &Device, c: &Contraction, caps: &Caps) -> Result<VariantId> {
        let state = self.open(device);
        let usable = state.usable(c, caps);
        let chosen = state.known.choices.get(&problem_key(c, caps.precision));
        let measured = chosen.and_then(|label| usable.iter().find(|v| v.label() == *label));
        measured.or(usable.first()).copied().ok_or_else(|| state.nothing_left(family(c)))
    }

    /// The variant for an attention: the measured one, else the first that is not excluded.
    pub fn choose_attention(
        &self,
        device: &Device,
        a: &Attention,
        caps: &Caps,
    ) -> Result<attention::Variant> {
        let state = self.open(device);
        let usable = state.usable_attention(a, caps);
        let chosen = state.known.choices.get(&attention_key(a));
        let measured = chosen.and_then(|label| usable.iter().find(|v| v.label() == *label));
        measured.or(usable.first()).copied().ok_or_else(|| state.nothing_left(family_of(a.pass)))
    }

    /// Tries what a new plan would run and was not tried on this adapter, and measures if that is asked for. True if
    /// the plan should be made again, with other variants.
    pub fn improve(&self, device: &Device, draft: &Draft) -> Result<bool> {
        let mut again = false;
        let mut fresh = self.judge(device, draft)?;
        for (k, problem, variant) in draft.contractions() {
            if self.open(device).wants_measure(&problem, draft.caps()) {
                let best = self.measure(device, draft, k, &problem)?;
                (fresh, again) = (true, again || best != Some(variant));
                continue;
            }
            let trial = || self.trial(draft, k, &problem, variant);
            let named = (variant.label(), family(&problem));
            let (right, new) = self.is_right(device, named, draft.texts(k), trial)?;
            (fresh, again) = (fresh || new, again || !right);
        }
        for (problem, variant) in draft.attentions() {
            if self.open(device).wants_attention(&problem) {
                let best = self.measure_attention(device, &problem, draft.caps())?;
                (fresh, again) = (true, again || best != Some(variant));
                continue;
            }
            let (right, new) = self.attention_is_right(device, &problem, variant)?;
            (fresh, again) = (fresh || new, again || !right);
        }
        let by_subgroups = |l: &versant_device::Launch| l.kernel.wgsl.contains(SUBGROUP);
        if draft.launches.iter().any(by_subgroups) {
            let trial = self.sabotaged(Trial::rows(draft.caps()));
            let text = trial.launches[0].kernel.wgsl.clone();
            let named = (ROWS.to_owned(), FAMILY_OF_ROWS);
            let (right, new) = self.is_right(device, named, vec![&text], || trial)?;
            (fresh, again) = (fresh || new, again || !right);
        }
        if fresh {
            self.open(device).save();
        }
        Ok(again)
    }

    /// Tries every text that was not tried on this adapter and is not going to be measured; true if there was one. While
    /// one is compiled, by a driver that does so when it first runs, the next is made ready.
    fn judge(&self, device: &Device, draft: &Draft) -> Result<bool> {
        let mut running: Option<(String, Started)> = None;
        let mut fresh = false;
        let mut go_on = |key: String, trial: &dyn Fn() -> Trial| -> Result<()> {
            let known = self.open(device).known.verdicts.contains_key(&key);
            if known || running.as_ref().is_some_and(|(other, _)| *other == key) {
                return Ok(());
            }
            fresh = true;
            let trial = trial();
            let ready = trial.ready(device)?;
            // To read the last one's results is to wait for all that runs: so before this one does.
            self.settle(device, running.take())?;
            running = Some((key, trial.start(device, ready)?));
            Ok(())
        };
        for (k, problem, variant) in draft.contractions() {
            if !self.open(device).wants_measure(&problem, draft.caps()) {
                go_on(hash(&draft.texts(k)), &|| self.trial(draft, k, &problem, variant))?;
            }
        }
        for (problem, variant) in draft.attentions() {
            if self.open(device).wants_attention(&problem) {
                continue;
            }
            let trial = self.sabotaged(Trial::attention(&problem, variant));
            let text = trial.launches[0].kernel.wgsl.as_str();
            go_on(hash(&vec![text]), &|| trial.clone())?;
        }
        self.settle(device, running)?;
        Ok(fresh)
    }

    /// Waits for a trial and keeps its verdict.
    fn settle(&self, device: &Device, trial: Option<(String, Started)>) -> Result<()> {
        if let Some((key, started)) = trial {
            let verdict = started.finish(device)?;
            self.open(device).known.verdicts.insert(key, verdict);
        }
        Ok(())
    }

    fn trial(&self, draft: &Draft, k: usize, problem: &Contraction, variant: VariantId) -> Trial {
        let mut trial = draft.trial(k, problem, variant);
        if trial.is_large() {
            trial = Trial::small(problem, variant, Target::Gpu(*draft.caps()));
        }
        self.sabotaged(trial)
    }

    /// A trial, its texts changed where a test wants that.
    #[cfg_attr(not(test), expect(clippy::unused_self, unused_mut, reason = "only tests change a text"))]
    fn sabotaged(&self, mut trial: Trial) -> Trial {
        #[cfg(test)]
        if let Some(sabotage) = self.lock().sabotage {
            trial.launches.iter_mut().for_each(|l| {
                let kernel = std::sync::Arc::make_mut(&mut l.kernel);
                sabotage(&kernel.label.clone(), &mut kernel.wgsl);
            });
        }
        trial
    }

    /// Whether a variant gives right results on this adapter, and whether that is news.
    fn is_right(
        &self,
        device: &Device,
        (variant, family): (String, &'static str),
        texts: Vec<&str>,
        trial: impl FnOnce() -> Trial,
    ) -> Result<(bool, bool)> {
        let key = hash(&texts);
        let seen = self.open(device).known.verdicts.get(&key).cloned();
        let new = seen.is_none();
        let verdict = match seen {
            Some(verdict) => verdict,
            None => {
                let trial = trial();
                let ready = trial.ready(device)?;
                trial.start(device, ready)?.finish(device)?
            }
        };
        let mut state = self.open(device);
        if new {
            state.known.verdicts.insert(key, verdict.clone());
        }
        if let Some(fault) = verdict {
            state.exclude(variant, family, fault);
            return Ok((false, new));
        }
        Ok((true, new))
    }

    /// As [`Tuning::is_right`], of a variant of attention.
    fn attention_is_right(
        &self,
        device: &Device,
        problem: &Attention,
        variant: attention::Variant,
    ) -> Result<(bool, bool)> {
        let trial = self.sabotaged(Trial::attention(problem, variant));
        let text = trial.launches[0].kernel.wgsl.clone();
        let named = (variant.label().to_owned(), family_of(problem.pass));
        self.is_right(device, named, vec![&text], || trial)
    }

    /// The fastest of the right variants of attention.
    fn measure_attention(
        &self,
        device: &Device,
        problem: &Attention,
        caps: &Caps,
    ) -> Result<Option<attention::Variant>> {
        let usable = self.open(device).usable_attention(problem, caps);
        let best = fastest(usable, |variant, enough| {
            if !self.attention_is_right(device, problem, variant)?.0 {
                return Ok(None);
            }
            let mut trial = Trial::whole_attention(problem, variant);
            if trial.is_large() {
                trial = Trial::attention(problem, variant);
            }
            Ok(Some(trial.time(device, &trial.ready(device)?, enough)?))
        })?;
        if let Some(variant) = best {
            let label = variant.label().to_owned();
            self.open(device).known.choices.insert(attention_key(problem), label);
        }
        Ok(best)
    }

    /// The fastest of the right variants.
    fn measure(
        &self,
        device: &Device,
        draft: &Draft,
        k: usize,
        problem: &Contraction,
    ) -> Result<Option<VariantId>> {
        let usable = self.open(device).usable(problem, draft.caps());
        let best = fastest(usable, |variant, enough| {
            let trial = self.trial(draft, k, problem, variant);
            let texts = trial.launches.iter().map(|l| l.kernel.wgsl.as_str()).collect();
            let named = (variant.label(), family(problem));
            if !self.is_right(device, named, texts, || trial.clone())?.0 {
                return Ok(None);
            }
            Ok(Some(trial.time(device, &trial.ready(device)?, enough)?))
        })?;
        if let Some(variant) = best {
            let label = variant.label();
            self.open(device).known.choices.insert(problem_key(problem, draft.caps().precision), label);
        }
        Ok(best)
    }
}

/// The variant of the least time. `time` gives up where a variant takes longer than `enough`, and has none for a wrong one.
fn fastest<V: Copy>(
    usable: impl IntoIterator<Item = V>,
    mut time: impl FnMut(V, u64) -> Result<Option<u64>>,
) -> Result<Option<V>> {
    let mut best: Option<(u64, V)> = None;
    for variant in usable {
        let enough = best.map_or(u64::MAX, |(time, _)| 2 * time);
        if let Some(time) = time(variant, enough)?
            && best.is_none_or(|(least, _)| time < least)
        {
            best = Some((time, variant));
        }
    }
    Ok(best.map(|(_, variant)| variant))
}

impl State {
    fn usable(&self, c: &Contraction, caps: &Caps) -> Vec<VariantId> {
        let wrong = |v: &VariantId| self.is_excluded(&v.label(), family(c));
        contract::variants(c, caps).into_iter().filter(|v| !wrong(v)).collect()
    }

    fn usable_attention(&self, a: &Attention, caps: &Caps) -> Vec<attention::Variant> {
        let wrong = |v: &attention::Variant| self.is_excluded(v.label(), family_of(a.pass));
        attention::variants(a, caps).into_iter().filter(|v| !wrong(v)).collect()
    }

    fn wants_attention(&self, a: &Attention) -> bool {
        self.measures && !self.known.choices.contains_key(&attention_key(a))
    }

    fn is_excluded(&self, variant: &str, family: &str) -> bool {
        self.excluded.iter().any(|e| e.variant == variant && e.family == family)
    }

    fn nothing_left(&self, family: &'static str) -> GraphError {
        let faults = self.excluded.iter().filter(|e| e.family == family);
        let faults: Vec<String> = faults.map(|e| format!("{}: {}", e.variant, e.fault)).collect();
        GraphError::NoVariant { family, faults: faults.join("; ") }
    }

    fn wants_measure(&self, problem: &Contraction, caps: &Caps) -> bool {
        self.measures && !self.known.choices.contains_key(&problem_key(problem, caps.precision))
    }

    fn exclude(&mut self, variant: String, family: &'static str, fault: String) {
        if !self.is_excluded(&variant, family) {
            self.excluded.push(Excluded { variant, family, fault });
        }
    }

    /// Writes what is known. A cache that cannot be written costs time in the next process only.
    fn save(&self) {
        if let Some(path) = &self.path {
            let _ = store::write(path, &self.known);
        }
    }
}

/// The variants that are not used on this device, because their results were wrong when they were first tried.
pub fn excluded_variants(device: &Device) -> Vec<Excluded> {
    device.attachment::<Tuning>().open(device).excluded.clone()
}

/// Whether plans made from now on measure the variants of each new problem and take the fastest (off unless the
/// environment has `VERSANT_TUNE=1`). Results are remembered on disk, so one tuned run serves all later ones on
/// this adapter and driver. Plans that exist stay as they are.
pub fn set_tuning(device: &Device, on: bool) {
    device.attachment::<Tuning>().open(device).measures = on;
}

/// In which precision contractions of plans made from now on may multiply; sums are in 32 bits always. The default is
/// [`Precision::F32`]. [`Precision::F16`] lets an adapter with 16-bit floats round operands to them, which changes
/// results by up to a thousandth of each product and makes infinities of operands from 65,520 on; gradients of small
/// losses may vanish. Plans that exist stay as they are.
pub fn set_precision(device: &Device, precision: Precision) {
    device.attachment::<Tuning>().lock().half = precision == Precision::F16;
}

/// A hash that is the same in every process of one build.
fn hash<T: Hash + ?Sized>(of: &T) -> String {
    // SipHash with fixed keys: names of cache entries, not a defence.
    let mut hasher = std::hash::DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Extents up to a factor of two.
fn size(extents: &[usize]) -> String {
    extents.iter().map(|&e| e.max(1).ilog2().to_string()).collect::<Vec<_>>().join(" ")
}

/// Attentions that share a choice: the same way, heads of the same widths, a mask and a window or none, extents within
/// a factor of two.
fn attention_key(a: &Attention) -> String {
    let windowed = [a.left < a.queries, a.right < a.keys];
    let extents = size(&[a.batch * a.heads, a.heads / a.kv_heads.max(1), a.queries, a.keys]);
    let family = family_of(a.pass);
    let hash = attention::source_hash();
    let halves = (a.kept, a.types.iter().map(|t| t.is_half()).collect::<Vec<_>>());
    format!("{family} {extents} {} {} {:?} {windowed:?} {halves:?} {hash:016x}", a.width, a.value, a.mask)
}

/// Problems that share a choice: the same family, layout of operands and precision, extents within a factor of two.
fn problem_key(c: &Contraction, precision: Precision) -> String {
    let shape = match c {
        Contraction::MatMul(mm) => {
            let along =
                |s: &[isize]| if s[s.len() - 1].abs() <= s[s.len() - 2].abs() { "rows" } else { "columns" };
            let layout = format!("{} {}", along(&mm.a.strides), along(&mm.b.strides));
            format!("{layout} {}", size(&[mm.batch.numel(), mm.m, mm.n, mm.k]))
        }
        Contraction::Conv(cv) => {
            let exact = format!("{:?} {:?} {:?} {}", cv.kernel, cv.stride, cv.dilation, cv.groups);
            format!("{exact} {}", size(&[cv.n, cv.c_in, cv.c_out, cv.output[0], cv.output[1]]))
        }
    };
    let [a, b] = c.types();
    format!("{} {shape} {a} {b} {precision:?} {:016x}", family(c), contract::source_hash())
}

/// The name of a family of attention.
fn family_of(pass: Pass) -> &'static str {
    match pass {
        Pass::Forward => "attention",
        Pass::Backward => "gradient of attention",
    }
}

/// The family in which a wrong variant is not used any more.
fn family(c: &Contraction) -> &'static str {
    match c {
        Contraction::MatMul(_) => "matmul",
        Contraction::Conv(cv) => match cv.kind {
            ConvKind::Forward => "convolution",
            ConvKind::InputGrad => "input gradient of a convolution",
            ConvKind::WeightGrad => "weight gradient of a convolution",
        },
    }
}

#[cfg(test)]
mod tests;
