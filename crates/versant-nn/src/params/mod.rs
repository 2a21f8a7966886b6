//! The parameter store: named tensors that layers read and optimisers replace.
//!
//! A layer holds [`Param`]s, which are names for a place in the store, and asks for the current value at
//! every use. So an optimiser can lay all values out in one buffer, and nobody keeps an old value alive.

mod host;
mod random;
mod retract;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use versant_graph::RandomKey;
use versant_graph::{Device, MAX_RANK, Tensor};

pub use host::{HostMap, HostTensor, LoadReport};
pub(crate) use host::{read_all, upload};
pub use random::RandomSource;

use crate::error::{NnError, Result};
use crate::init::Init;

/// The number from which everything random about a net follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seed(pub u64);

/// Separates the keys of initial values from those of [`RandomSource`]s.
const INIT: u64 = 0;

/// A store of named parameters and buffers. Clones share it.
///
/// ```
/// use versant_nn::{Init, Params, Seed};
/// use versant_graph::Device;
/// let vs = Params::new(&Device::cpu(), Seed(42));
/// let layer = &vs / "encoder" / "0";
/// let weight = layer.parameter("weight", &[4, 3], Init::XavierUniform { gain: 1.0 });
/// assert_eq!(weight.name(), "encoder.0.weight");
/// assert_eq!(weight.get().shape(), [4, 3]);
/// assert_eq!(vs.count(), 12);
/// ```
#[derive(Clone)]
pub struct Params {
    store: Arc<Store>,
}

/// What all handles of a store share.
pub(crate) struct Store {
    device: Device,
    seed: AtomicU64,
    state: Mutex<State>,
    /// Counts changes of what there is to train.
    version: AtomicU64,
}

#[derive(Default)]
struct State {
    slots: Vec<Arc<Slot>>,
    by_name: HashMap<Arc<str>, usize>,
    draws: BTreeMap<String, Arc<AtomicU64>>,
    mistakes: Vec<Mistake>,
}

/// A mistake made while layers were built, where nothing can be returned.
#[derive(Clone)]
enum Mistake {
    Duplicate { name: String, first: String, second: String },
    Name { name: String, why: &'static str },
    Shape { name: String, shape: Vec<usize> },
}

impl From<Mistake> for NnError {
    fn from(mistake: Mistake) -> NnError {
        match mistake {
            Mistake::Duplicate { name, first, second } => NnError::DuplicateName { name, first, second },
            Mistake::Name { name, why } => NnError::BadName { name, why },
            Mistake::Shape { name, shape } => NnError::BadShape { name, shape },
        }
    }
}

/// One place of the store.
pub(crate) struct Slot {
    pub name: Arc<str>,
    pub shape: Vec<usize>,
    pub trainable: bool,
    value: Mutex<Held>,
}

/// A slot's value.
pub(crate) struct Held {
    pub tensor: Tensor,
    /// Counts replacements, by which an optimiser sees that somebody else changed the value.
    pub generation: u64,
    pub frozen: bool,
}

/// A panic elsewhere does not spoil what these locks guard: it is replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    pub fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.value)
    }

    /// Replaces the value; returns the generation it has now.
    pub fn replace(&self, tensor: Tensor) -> u64 {
        let mut held = self.held();
        held.generation += 1;
        let generation = held.generation;
        let old = std::mem::replace(&mut held.tensor, tensor);
        drop(held);
        drop(old);
        generation
    }

    /// The current value: a differentiation leaf if the slot is trainable and not frozen.
    pub fn get(&self) -> Tensor {
        let mut held = self.held();
        let leaf = self.trainable && !held.frozen && held.tensor.parameter_name().is_none();
        if leaf && held.tensor.error().is_none() {
            // Only after an evaluation that failed is the value still pending here. If it fails again,
            // the pending tensor is handed out and returns the error where its value is needed.
            if let Ok(named) = held.tensor.clone().into_parameter(Arc::clone(&self.name)) {
                held.tensor = named;
            }
        }
        held.tensor.clone()
    }

    fn describe(&self) -> String {
        describe(self.trainable, &self.shape)
    }
}

fn describe(trainable: bool, shape: &[usize]) -> String {
    format!("{}{shape:?}", if trainable { "parameter" } else { "buffer" })
}

impl Params {
    /// An empty store on a device. All initial values and random streams follow from the seed.
    pub fn new(device: &Device, seed: Seed) -> Params {
        let store = Store {
            device: device.clone(),
            seed: AtomicU64::new(seed.0),
            state: Mutex::default(),
            version: AtomicU64::new(0),
        };
        Params { store: Arc::new(store) }
    }

    /// The device that holds the values.
    pub fn device(&self) -> &Device {
        &self.store.device
    }

    /// The seed.
    pub fn seed(&self) -> Seed {
        Seed(self.store.seed.load(Ordering::Relaxed))
    }

    /// The scope without a path.
    pub fn root(&self) -> Scope {
        Scope { store: Arc::clone(&self.store), path: "".into() }
    }

    /// A number that changes when parameters are added, frozen or unfrozen.
    pub fn version(&self) -> u64 {
        self.store.version.load(Ordering::Acquire)
    }

    /// Names of all parameters and buffers in the order in which they were made.
    pub fn names(&self) -> Vec<String> {
        self.slots().iter().map(|s| s.name.to_string()).collect()
    }

    /// All parameters and buffers in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = Param> + use<> {
        self.slots().into_iter().map(|slot| Param { slot })
    }

    /// The parameter or buffer of this name.
    pub fn get(&self, name: &str) -> Option<Param> {
        let state = lock(&self.store.state);
        let &at = state.by_name.get(name)?;
        Some(Param { slot: Arc::clone(&state.slots[at]) })
    }

    /// Number of elements of all parameters; buffers do not count.
    pub fn count(&self) -> usize {
        self.slots().iter().filter(|s| s.trainable).map(|s| s.shape.iter().product::<usize>()).sum()
    }

    /// Excludes parameters from training: no gradient is computed for them. `*` in the pattern stands for
    /// any text. Returns how many are frozen by it that were not.
    ///
    /// # Errors
    /// As evaluating a pending value.
    pub fn freeze(&self, pattern: &str) -> Result<usize> {
        self.set_frozen(pattern, true)
    }

    /// Trains frozen parameters again. Returns how many of them the pattern matches.
    ///
    /// # Errors
    /// As evaluating a pending value.
    pub fn unfreeze(&self, pattern: &str) -> Result<usize> {
        self.set_frozen(pattern, false)
    }

    fn set_frozen(&self, pattern: &str, frozen: bool) -> Result<usize> {
        let mut changed = 0;
        for slot in self.slots() {
            if !slot.trainable || !matches_glob(pattern, &slot.name) {
                continue;
            }
            let mut held = slot.held();
            if held.frozen != frozen {
                if frozen {
                    held.tensor = without_name(&held.tensor)?;
                }
                held.frozen = frozen;
                changed += 1;
            }
        }
        if changed > 0 {
            self.store.version.fetch_add(1, Ordering::AcqRel);
        }
        Ok(changed)
    }

    /// The first mistake made while parameters were made: a name used twice, a bad name or shape.
    ///
    /// # Errors
    /// That mistake. [`crate::Optimizer::step`] and everything that saves or loads returns it too.
    pub fn check(&self) -> Result<()> {
        match lock(&self.store.state).mistakes.first() {
            Some(mistake) => Err(mistake.clone().into()),
            None => Ok(()),
        }
    }

    /// All slots in order.
    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        lock(&self.store.state).slots.clone()
    }

    /// Buffers whose new value is recorded and not computed.
    pub(crate) fn pending_buffers(&self) -> Vec<Tensor> {
        let state = lock(&self.store.state);
        let buffers = state.slots.iter().filter(|s| !s.trainable);
        buffers.map(|s| s.held().tensor.clone()).filter(|t| !t.is_ready()).collect()
    }
}

impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.slots().iter().map(|s| (s.name.to_string(), s.describe()))).finish()
    }
}

/// A realised tensor that shares the parameter's buffer and is no differentiation leaf.
fn without_name(named: &Tensor) -> Result<Tensor> {
    // Two reshapes, there and back, are views of the buffer; both handles live until they are realised, so
    // that no kernel runs.
    let shape: Vec<isize> = named.shape().iter().map(|&d| d as isize).collect();
    let there = match named.rank() {
        1 => named.reshape(&[1, named.numel() as isize]),
        _ => named.reshape(&[named.numel() as isize]),
    };
    let back = there.reshape(&shape);
    versant_graph::eval(&[&there, &back])?;
    Ok(back)
}

/// Whether `text` has the form of `pattern`, in which `*` stands for any text.
pub(crate) fn matches_glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A place under which a layer names its parameters: `&params / "conv1"`. Cheap to clone.
#[derive(Clone)]
pub struct Scope {
    store: Arc<Store>,
    path: Arc<str>,
}

impl Scope {
    /// The path, with dots between its parts; empty at the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The device that holds the values.
    pub fn device(&self) -> &Device {
        &self.store.device
    }

    /// The scope of this name below.
    #[must_use]
    pub fn sub(&self, name: &str) -> Scope {
        Scope { store: Arc::clone(&self.store), path: self.join(name).into() }
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A trainable parameter, made on first use. Its initial value depends on the store's seed, its
    /// path and its shape alone.
    ///
    /// Never fails: a name that is taken by another shape, an unusable name or shape, is remembered and
    /// returned by [`Params::check`], by the optimiser's first step, and by saving.
    pub fn parameter(&self, name: &str, shape: &[usize], init: Init) -> Param {
        self.slot(name, shape, init, true)
    }

    /// State that is saved with the parameters and not trained, such as a running mean. Never fails, as
    /// [`Scope::parameter`].
    pub fn buffer(&self, name: &str, shape: &[usize], init: Init) -> Param {
        self.slot(name, shape, init, false)
    }

    fn slot(&self, name: &str, shape: &[usize], init: Init, trainable: bool) -> Param {
        let name: Arc<str> = self.join(name).into();
        let mut state = lock(&self.store.state);
        let taken = state.by_name.get(&name).map(|&at| Arc::clone(&state.slots[at]));
        if let Some(slot) = taken {
            if slot.trainable == trainable && slot.shape == shape {
                return Param { slot };
            }
            let second = describe(trainable, shape);
            let first = slot.describe();
            state.mistakes.push(Mistake::Duplicate { name: name.to_string(), first, second });
            drop(state);
            return Param { slot: self.make(name, shape, init, trainable) };
        }
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bad_shape = shape.len() > MAX_RANK || elements.is_none_or(|n| n > u32::MAX as usize);
        let why = match &*name {
            "" => Some("it is empty"),
            "__metadata__" => Some("safetensors files reserve it"),
            _ => None,
        };
        if let Some(why) = why {
            state.mistakes.push(Mistake::Name { name: name.to_string(), why });
        }
        if bad_shape {
            state.mistakes.push(Mistake::Shape { name: name.to_string(), shape: shape.to_vec() });
            drop(state);
            // The layer gets something to compute with; what it computes is never used.
            return Param { slot: self.make(name, &[], Init::Zeros, trainable) };
        }
        let slot = self.make(Arc::clone(&name), shape, init, trainable);
        let at = state.slots.len();
        state.slots.push(Arc::clone(&slot));
        state.by_name.insert(name, at);
        drop(state);
        if trainable {
            self.store.version.fetch_add(1, Ordering::AcqRel);
        }
        Param { slot }
    }

    fn make(&self, name: Arc<str>, shape: &[usize], init: Init, trainable: bool) -> Arc<Slot> {
        let seed = self.store.seed.load(Ordering::Relaxed);
        let key = RandomKey::new(seed).fold(INIT).split(&name);
        let tensor = Tensor::from_slice(&self.store.device, &init.fill(shape, key), shape);
        // An upload that failed stays in the tensor as its error.
        let tensor = match tensor.clone().into_parameter(Arc::clone(&name)) {
            Ok(named) if trainable => named,
            _ => tensor,
        };
        let held = Held { tensor, generation: 0, frozen: false };
        Arc::new(Slot { name, shape: shape.to_vec(), trainable, value: Mutex::new(held) })
    }

    /// A stream of random keys of this scope, for dropout and the like.
    pub fn random(&self) -> RandomSource {
        RandomSource::new(Arc::clone(&self.store), &self.path)
    }
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scope({:?})", self.path)
    }
}

macro_rules! division {
    ($($left:ty, $root:ident;)*) => {$(
        division!($left, $root, &str);
        division!($left, $root, String);
        division!($left, $root, &String);
    )*};
    ($left:ty, $root:ident, $right:ty) => {
        impl std::ops::Div<$right> for $left {
            type Output = Scope;

            fn div(self, name: $right) -> Scope {
                self.$root().sub(name.as_ref())
            }
        }
    };
}

impl Scope {
    fn itself(&self) -> &Scope {
        self
    }
}

division! {
    &Params, root;
    Scope, itself;
    &Scope, itself;
}

/// One parameter or buffer of a store. Cheap to clone; all clones name the same place.
#[derive(Clone)]
pub struct Param {
    slot: Arc<Slot>,
}

impl Param {
    /// The path in the store.
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.slot.shape
    }

    /// Whether it is a parameter (and not a buffer).
    pub fn is_trainable(&self) -> bool {
        self.slot.trainable
    }

    /// Whether it is excluded from training.
    pub fn is_frozen(&self) -> bool {
        self.slot.held().frozen
    }

    /// The current value: for a trainable parameter, a leaf by which a loss is differentiated.
    ///
    /// The value changes with every step, so ask at every use. A tensor kept across a step stays what it
    /// was, and costs the update its place: the step then writes to new memory.
    pub fn get(&self) -> Tensor {
        self.slot.get()
    }

    /// Replaces the value; for a buffer it may be pending, and is computed with the next step. A tensor of
    /// another shape, type or device becomes an error where the value is used.
    pub fn set(&self, value: Tensor) {
        let value = if value.shape() == self.shape() {
            value
        } else {
            // Records the error with both shapes; a broadcast or a copy is never meant here.
            value.reshape(&self.slot.shape.iter().map(|&d| d as isize).collect::<Vec<_>>())
        };
        self.slot.replace(value);
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.slot.name, self.slot.describe())
    }
}
