//! Parameter groups: other learning rates and weight decays for parameters whose names match a pattern.

use versant_graph::{DType, Tensor};

use super::{at_least_zero, scalar};
use crate::error::Result;

/// Settings of the parameters whose names match a pattern, in which `*` stands for any text.
///
/// A parameter is in the first group that it matches; without one, the optimiser's own settings hold. Groups cost no
/// launch: the parameters of a group are neighbours in the flat buffer, and the update finds an element's settings by
/// comparing its place with where the groups end. So neither is there a vector of rates in memory, nor is a new
/// plan made when a rate changes.
///
/// ```
/// use versant_graph::Device;
/// use versant_nn::{AdamW, Init, Optimizer, ParamGroup, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let layer = &vs / "head";
/// let weight = layer.parameter("weight", &[2], Init::Ones);
/// let bias = layer.parameter("bias", &[2], Init::Ones);
/// let mut opt = AdamW::new(&vs, 0.1)
///     .weight_decay(0.5)
///     .group(ParamGroup::new("*.bias").weight_decay(0.0).lr_scale(2.0));
/// opt.step(((weight.get() + bias.get()) * 0.0).sum_all().backward()?)?;
/// assert_eq!(weight.get().to_vec::<f32>()?, [0.95; 2]);
/// assert_eq!(bias.get().to_vec::<f32>()?, [1.0; 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct ParamGroup {
    pub(super) pattern: String,
    pub(super) scale: f64,
    pub(super) decay: Option<f64>,
}

impl ParamGroup {
    /// The settings of the optimiser, for now.
    pub fn new(pattern: &str) -> ParamGroup {
        ParamGroup { pattern: pattern.to_owned(), scale: 1.0, decay: None }
    }

    /// Multiplies the learning rate by this.
    #[must_use]
    pub fn lr_scale(mut self, scale: f64) -> ParamGroup {
        self.scale = scale;
        self
    }

    /// The weight decay of these parameters.
    #[must_use]
    pub fn weight_decay(mut self, decay: f64) -> ParamGroup {
        self.decay = Some(decay);
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        at_least_zero("the learning rate's scale of a group", self.scale)?;
        at_least_zero("the weight decay of a group", self.decay.unwrap_or(0.0))
    }
}

/// What holds for some neighbours in a flat buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub lr: f64,
    /// The part of `lr` that is the group's own.
    pub scale: f64,
    pub decay: f64,
}

/// One parameter's part of a flat buffer.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Segment {
    pub start: usize,
    pub len: usize,
    pub shape: Vec<usize>,
}

/// What a rule is told of a step over one flat buffer.
pub(super) struct Now<'a> {
    /// The number of this step, from one, with steps that were skipped.
    pub count: u64,
    /// How many those are, `[1]`, where the loss is scaled.
    pub fewer: Option<&'a Tensor>,
    /// Which of the rule's kinds of parameters these are.
    pub class: usize,
    /// The settings up to each of these ends, in order; the last end is the buffer's.
    pub parts: Vec<(usize, Settings)>,
    pub segments: &'a [Segment],
    /// For each element the number of its segment, if the rule wants it and there are several.
    pub index: Option<&'a Tensor>,
}

impl Now<'_> {
    /// A number that follows from the settings, and may change from step to step without a new plan: of rank 0 where
    /// it is the same for all, else one for each element.
    pub fn number(&self, like: &Tensor, f: impl Fn(&Settings) -> f64) -> Tensor {
        let Some(((_, last), before)) = self.parts.split_last() else {
            return scalar(like, 0.0);
        };
        // Whether it differs must not depend on the rate: a schedule that passes zero would make a second plan.
        let probe = |s: &Settings| f(&Settings { lr: s.scale, ..*s }).to_bits();
        let value = scalar(like, f(last));
        if before.iter().all(|(_, s)| probe(s) == probe(last)) {
            return value;
        }
        let place = Tensor::arange(like.device(), like.numel(), DType::U32);
        before.iter().rev().fold(value, |rest, (end, s)| {
            let end = Tensor::scalar(like.device(), *end as u32);
            place.lt(&end).select(&scalar(like, f(s)), &rest)
        })
    }

    /// The number of this step without skipped ones.
    pub fn taken(&self, like: &Tensor) -> Tensor {
        let count = scalar(like, self.count as f64);
        self.fewer.map_or_else(|| count.clone(), |fewer| &count - fewer)
    }

    /// `1 - βᵗ`, which brings the average of `t` steps that began at zero to its size. On the host in double precision, since
    /// the power is nearly one; where only the device knows `t`, by `expm1`, which does not cancel.
    pub fn correction(&self, like: &Tensor, beta: f64) -> Tensor {
        match self.fewer {
            None => scalar(like, 1.0 - beta.powf(self.count as f64)),
            Some(_) => (self.taken(like) * scalar(like, beta.ln())).expm1().neg(),
        }
    }

    /// The learning rate over that correction.
    pub fn corrected_lr(&self, like: &Tensor, beta: f64) -> Tensor {
        match self.fewer {
            None => self.number(like, |s| s.lr / (1.0 - beta.powf(self.count as f64))),
            Some(_) => self.lr(like) / self.correction(like, beta),
        }
    }

    /// The same with other learning rates.
    pub fn scaled(&self, by: f64) -> Now<'_> {
        let scaled =
            |&(end, s): &(usize, Settings)| (end, Settings { lr: s.lr * by, scale: s.scale * by, ..s });
        Now { parts: self.parts.iter().map(scaled).collect(), ..*self }
    }

    /// The learning rate.
    pub fn lr(&self, like: &Tensor) -> Tensor {
        self.number(like, |s| s.lr)
    }

    /// The gradient with weight decay as L2 regularisation, `g + λ p`.
    pub fn regularised(&self, value: &Tensor, grad: &Tensor) -> Tensor {
        match self.decays() {
            true => grad + value * self.number(value, |s| s.decay),
            false => grad.clone(),
        }
    }

    /// The value after decoupled weight decay, `p (1 - η λ)`.
    pub fn decayed(&self, value: &Tensor) -> Tensor {
        match self.decays() {
            true => value * self.number(value, |s| 1.0 - s.lr * s.decay),
            false => value.clone(),
        }
    }

    /// Whether anything is decayed.
    pub fn decays(&self) -> bool {
        self.parts.iter().any(|(_, s)| s.decay != 0.0)
    }

    /// Neighbouring segments of one shape: the first of them, and how many they are.
    pub fn runs(&self, same: impl Fn(&Segment, &Segment) -> bool) -> Vec<(&Segment, usize)> {
        let runs = self.segments.chunk_by(|a, b| same(a, b));
        runs.map(|run| (&run[0], run.len())).collect()
    }
}
