//! Optimisers. However many parameters there are, an update is a few launches: all of them live in one flat
//! buffer, so a rule is tensor code on three or four flat tensors.
//!
//! [`ParamGroup`]s give some parameters other rates, and an [`Average`] of the weights is kept by any optimiser, both
//! within the same launches.

mod adagrad;
mod adam;
mod adamax;
mod average;
mod flat;
mod group;
mod lamb;
mod lion;
mod muon;
mod nadam;
mod rmsprop;
mod scale;
mod sgd;

use std::collections::BTreeMap;

use versant_graph::{Gradients, Tensor};

pub use adagrad::Adagrad;
pub use adam::{Adam, AdamW};
pub use adamax::Adamax;
pub use average::Average;
use group::Now;
pub use group::ParamGroup;
pub use lamb::Lamb;
pub use lion::Lion;
pub use muon::Muon;
pub use nadam::NAdam;
pub use rmsprop::RmsProp;
pub use scale::LossScale;
pub use sgd::Sgd;

use crate::error::{NnError, Result};
use crate::params::HostMap;

/// Something that improves parameters by gradients.
pub trait Optimizer: Send {
    /// Updates every parameter by its gradient: computes the loss, the gradients, the new parameters and the
    /// store's pending buffers in one plan. Drop what refers to old parameter values before
    /// (everything but the loss), so that they can be updated in place.
    ///
    /// # Errors
    /// Before anything changes: parameters that the loss does not reach, gradients of unknown parameters or
    /// older values, a mistake in the store or in the optimiser's numbers. If the device fails on the way, the
    /// step stays recorded: the next call computes it first.
    fn step(&mut self, grads: Gradients) -> Result<()>;

    /// The learning rate.
    fn lr(&self) -> f64;

    /// Sets the learning rate of the steps to come; no new plan is made.
    fn set_lr(&mut self, lr: f64);

    /// Sets what multiplies the learning rate of the [`ParamGroup`] with this pattern, from the next step on; no new
    /// plan is made. False where there is no such group.
    fn set_lr_scale(&mut self, pattern: &str, scale: f64) -> bool;

    /// Sets the momentum (the first beta of the kin of Adam) of the steps to come, for schedules such as
    /// [`crate::Schedule::one_cycle_momentum`]; no new plan is made. False where the rule has none, or was made without.
    fn set_momentum(&mut self, momentum: f64) -> bool;

    /// Number of steps taken.
    fn steps(&self) -> u64;

    /// The global gradient norm before clipping in the latest step, if the optimiser clips by it.
    fn grad_norm(&self) -> Option<&Tensor>;

    /// The loss times the factor of [`LossScale`], to differentiate in its place; the loss itself without scaling.
    fn scaled(&self, loss: &Tensor) -> Tensor;

    /// The factor of the next step and the number of steps skipped so far, f32 `[1]` both, if the loss is scaled.
    fn loss_scale(&self) -> Option<(&Tensor, &Tensor)>;

    /// Everything that a resumed run needs.
    ///
    /// # Errors
    /// A failing device.
    fn state(&self) -> Result<OptimizerState>;

    /// Whether [`Optimizer::load_state`] would accept a state.
    ///
    /// # Errors
    /// As there.
    fn check_state(&self, state: &OptimizerState) -> Result<()>;

    /// Continues from a saved state.
    ///
    /// # Errors
    /// A state of another kind of optimiser, or of other parameters; nothing has changed then. A failing
    /// device.
    fn load_state(&mut self, state: &OptimizerState) -> Result<()>;

    /// Exchanges the parameters and their averages ([`Average`]), without copying: once for evaluation, and once more to
    /// train on. In between, steps and saving are refused.
    ///
    /// # Errors
    /// [`NnError::NoAverage`] where a parameter in training has none yet; a failing device.
    fn swap_average(&mut self) -> Result<()>;

    /// The averages of the parameters in training by name, as [`Params::from_host_partial`] takes them.
    ///
    /// [`Params::from_host_partial`]: crate::Params::from_host_partial
    ///
    /// # Errors
    /// As [`Optimizer::swap_average`].
    fn averages(&self) -> Result<HostMap>;
}

/// An optimiser's memory, by parameter.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OptimizerState {
    /// The rule's name.
    pub kind: String,
    /// The learning rate.
    pub lr: f64,
    /// Number of steps taken.
    pub steps: u64,
    /// Number of steps that each parameter took part in.
    pub counts: BTreeMap<String, u64>,
    /// Moments: `KIND/PARAMETER`, shaped as the parameter.
    pub tensors: HostMap,
}

/// The arithmetic of an optimiser on flat tensors.
trait Rule: Send {
    /// Name in checkpoints.
    fn kind(&self) -> &'static str;

    /// What is remembered for every parameter of a class between steps.
    fn states(&self, class: usize) -> &'static [&'static str];

    /// Whether the numbers that configure the rule make sense.
    fn check(&self) -> Result<()>;

    /// The weight decay of parameters of a class that are in no group with another.
    fn decay(&self, class: usize) -> f64;

    /// The number that [`Optimizer::set_momentum`] sets.
    fn momentum(&mut self) -> Option<&mut f64> {
        None
    }

    /// The new value and states.
    fn update(
        &self,
        now: &Now<'_>,
        value: &Tensor,
        grad: &Tensor,
        states: &[Tensor],
    ) -> (Tensor, Vec<Tensor>);
}

/// A number that may change from step to step without a new plan.
fn scalar(like: &Tensor, value: f64) -> Tensor {
    Tensor::scalar(like.device(), value as f32)
}

fn at_least_zero(what: &'static str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(NnError::Hyperparameter { what, value, range: "a finite number that is not negative" })
}

fn above_zero(what: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(NnError::Hyperparameter { what, value, range: "a finite positive number" })
}

fn below_one(what: &'static str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(NnError::Hyperparameter { what, value, range: "in [0, 1)" })
}

/// A setting of a rule, as a method of its optimiser.
macro_rules! setting {
    ($(#[$doc:meta])* $method:ident: $type:ty => $($field:ident).+) => {
        $(#[$doc])*
        #[must_use]
        pub fn $method(mut self, $method: $type) -> Self {
            self.rule.$($field).+ = $method;
            self
        }
    };
}
use setting;

/// The settings that the kin of Adam share, as methods of an optimiser: betas, eps and weight decay.
macro_rules! adam_settings {
    () => {
        /// Sets (β₁, β₂), each in `[0, 1)`.
        #[must_use]
        pub fn betas(mut self, first: f64, second: f64) -> Self {
            self.rule.betas = (first, second);
            self
        }

        $crate::optim::setting! {
            /// Sets ε.
            eps: f64 => eps
        }
        $crate::optim::setting! {
            /// Sets λ.
            weight_decay: f64 => weight_decay
        }
    };
}
use adam_settings;

/// What follows from those settings, as methods of a rule.
macro_rules! adam_rule {
    () => {
        fn check(&self) -> $crate::Result<()> {
            $crate::optim::below_one("the first beta", self.betas.0)?;
            $crate::optim::below_one("the second beta", self.betas.1)?;
            $crate::optim::at_least_zero("eps", self.eps)?;
            $crate::optim::at_least_zero("weight decay", self.weight_decay)
        }

        fn decay(&self, _class: usize) -> f64 {
            self.weight_decay
        }

        fn momentum(&mut self) -> Option<&mut f64> {
            Some(&mut self.betas.0)
        }
    };
}
use adam_rule;

/// The parts that all optimisers share: a rule over [`flat::Flat`].
macro_rules! optimizer {
    ($name:ident) => {
        impl $name {
            /// Trains only parameters whose names match; `*` in the pattern stands for any text.
            #[must_use]
            pub fn only(mut self, pattern: &str) -> Self {
                self.flat.select(pattern);
                self
            }

            /// Gives parameters whose names match a pattern other settings. Of several groups that match, the
            /// first counts.
            #[must_use]
            pub fn group(mut self, group: $crate::optim::ParamGroup) -> Self {
                self.flat.add(group);
                self
            }

            /// Keeps an average of the parameters beside them.
            #[must_use]
            pub fn average(mut self, average: $crate::optim::Average) -> Self {
                self.flat.average = Some(average);
                self
            }

            /// Scales the loss ([`Optimizer::scaled`](crate::Optimizer::scaled)) and skips steps that overflow.
            #[must_use]
            pub fn loss_scaling(mut self, rule: $crate::optim::LossScale) -> Self {
                self.flat.scale_by(rule);
                self
            }

            /// Scales all gradients of a step by one factor, so that their global L2 norm is at most `max`:
            /// `g · min(1, max / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`. Costs one reduction.
            #[must_use]
            pub fn clip_norm(mut self, max: f64) -> Self {
                self.flat.clip_norm = Some(max);
                self
            }

            /// Limits every element of the gradients to `[-max, max]`, before the norm is taken.
            #[must_use]
            pub fn clip_value(mut self, max: f64) -> Self {
                self.flat.clip_value = Some(max);
                self
            }
        }

        impl $crate::optim::Optimizer for $name {
            fn step(&mut self, grads: versant_graph::Gradients) -> $crate::Result<()> {
                self.flat.step(&self.rule, grads)
            }

            fn lr(&self) -> f64 {
                self.flat.lr
            }

            fn set_lr(&mut self, lr: f64) {
                self.flat.lr = lr;
            }

            fn set_lr_scale(&mut self, pattern: &str, scale: f64) -> bool {
                self.flat.set_scale(pattern, scale)
            }

            fn set_momentum(&mut self, momentum: f64) -> bool {
                $crate::optim::Rule::momentum(&mut self.rule).map(|m| *m = momentum).is_some()
            }

            fn steps(&self) -> u64 {
                self.flat.steps
            }

            fn grad_norm(&self) -> Option<&versant_graph::Tensor> {
                self.flat.norm.as_ref()
            }

            fn scaled(&self, loss: &versant_graph::Tensor) -> versant_graph::Tensor {
                self.flat.scaling.as_ref().map_or_else(|| loss.clone(), |s| loss * s.factor())
            }

            fn loss_scale(&self) -> Option<(&versant_graph::Tensor, &versant_graph::Tensor)> {
                self.flat.scaling.as_ref().map(|s| (s.factor(), s.skipped()))
            }

            fn state(&self) -> $crate::Result<$crate::optim::OptimizerState> {
                self.flat.state(&self.rule)
            }

            fn check_state(&self, state: &$crate::optim::OptimizerState) -> $crate::Result<()> {
                self.flat.check_state(&self.rule, state)
            }

            fn load_state(&mut self, state: &$crate::optim::OptimizerState) -> $crate::Result<()> {
                self.flat.load_state(&self.rule, state)
            }

            fn swap_average(&mut self) -> $crate::Result<()> {
                self.flat.swap_average()
            }

            fn averages(&self) -> $crate::Result<$crate::HostMap> {
                self.flat.averages()
            }
        }
    };
}
use optimizer;
