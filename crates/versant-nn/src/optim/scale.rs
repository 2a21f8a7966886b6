//! Loss scaling for training in 16 bits (Micikevicius et al., "Mixed Precision Training", ICLR 2018).

use versant_graph::{Device, Tensor, eval};

use super::{above_zero, at_least_zero};
use crate::error::{NnError, Result};
use crate::params::{HostTensor, Params, upload};

/// The factor that the loss is multiplied by, so that small gradients survive f16, and how it follows overflows: PyTorch's
/// `GradScaler`, but on the device. A step whose gradients hold an infinity or a NaN changes nothing but the factor, without
/// the host having to look: the parameters, states and averages of the optimiser are selected, not branched on.
///
/// A skipped step is none for bias corrections and for counts that are saved, as in PyTorch; it is one for schedules and for
/// averages of the weights, which the host counts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LossScale {
    /// The factor at first.
    pub start: f32,
    /// What it is multiplied by after `interval` good steps in a row.
    pub growth: f32,
    /// What it is multiplied by after an overflow.
    pub backoff: f32,
    /// Good steps before it grows.
    pub interval: u32,
}

impl Default for LossScale {
    /// PyTorch's: 65,536, doubled after 2,000 good steps, halved after an overflow.
    fn default() -> LossScale {
        LossScale { start: 65_536.0, growth: 2.0, backoff: 0.5, interval: 2000 }
    }
}

/// The largest factor: the next ones would soon be infinite, and stay so.
const LARGEST: f32 = 16_777_216.0;

/// A rule with where it stands, on the device.
pub(super) struct Scaling {
    rule: LossScale,
    /// The factor, `[1]` like the others.
    factor: Tensor,
    /// Good steps since it changed.
    good: Tensor,
    /// Steps that changed nothing.
    skipped: Tensor,
}

impl Scaling {
    /// The name of its numbers in a saved state.
    pub const NAME: &str = "loss_scale";

    pub fn new(device: &Device, rule: LossScale) -> Scaling {
        let number = |value: f32| Tensor::from_slice(device, &[value], &[1]);
        Scaling { rule, factor: number(rule.start), good: number(0.0), skipped: number(0.0) }
    }

    pub fn check(&self) -> Result<()> {
        let LossScale { start, growth, backoff, interval } = self.rule;
        above_zero("the loss scale", f64::from(start))?;
        above_zero("the growth of the loss scale", f64::from(growth))?;
        above_zero("the backoff of the loss scale", f64::from(backoff))?;
        above_zero("the interval of the loss scale", f64::from(interval))?;
        at_least_zero("the largest loss scale less the first", f64::from(LARGEST - start))
    }

    pub fn factor(&self) -> &Tensor {
        &self.factor
    }

    pub fn skipped(&self) -> &Tensor {
        &self.skipped
    }

    /// The number of skipped steps, read from the device.
    pub fn skips(&self) -> Result<u64> {
        Ok(self.skipped.item::<f32>()? as u64)
    }

    /// Everything that lives from step to step.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.factor, &self.good, &self.skipped].into_iter()
    }

    /// Divides gradients by the factor, and follows them; whether all of them are finite, as a bool `[1]`. Where they are not,
    /// they become zeros.
    pub fn unscale(&mut self, flat: &mut [Tensor]) -> Option<Tensor> {
        let device = self.factor.device().clone();
        let number = |value: f32| Tensor::constant(&device, value);
        // A NaN wins every maximum, and is not below infinity.
        let largest = flat.iter().map(|g| g.abs().max(&[0], true)).reduce(|a, b| a.maximum(&b))?;
        let fine = largest.lt(&number(f32::INFINITY));
        let inverse = 1.0 / &self.factor;
        for g in flat.iter_mut() {
            *g = fine.select(&(&*g * &inverse), &number(0.0));
        }
        let LossScale { growth, backoff, interval, .. } = self.rule;
        let good = &self.good + 1.0;
        let grows = good.ge(&number(interval as f32));
        let grown = (&self.factor * growth).minimum(&number(LARGEST));
        let next = grows.select(&grown, &self.factor);
        let next = fine.select(&next, &(&self.factor * backoff));
        self.good = fine.and(&grows.eq(&Tensor::constant(&device, false))).select(&good, &number(0.0));
        self.skipped = fine.select(&self.skipped, &(&self.skipped + 1.0));
        self.factor = next;
        Some(fine)
    }

    /// Its numbers under their name, for a checkpoint.
    pub fn saved(&self) -> Result<(String, HostTensor)> {
        eval(&self.tensors().collect::<Vec<_>>())?;
        let all = Tensor::cat(&self.tensors().collect::<Vec<_>>(), 0).to_vec::<f32>()?;
        Ok((Scaling::NAME.to_owned(), HostTensor { shape: vec![3], data: all }))
    }

    /// Whether saved numbers can be gone on from: none are fine, as of a run without scaling.
    pub fn fits(found: Option<&HostTensor>) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        let ([3], &[factor, good, skipped]) = (&found.shape[..], &found.data[..]) else {
            return Err(NnError::Mismatch {
                origin: "the optimiser state".to_owned(),
                missing: vec![],
                extra: vec![],
                shapes: vec![(Scaling::NAME.to_owned(), vec![3], found.shape.clone())],
            });
        };
        above_zero("the saved loss scale", f64::from(factor))?;
        at_least_zero("the largest loss scale less the saved one", f64::from(LARGEST - factor))?;
        at_least_zero("the saved number of good steps", f64::from(good))?;
        at_least_zero("the saved number of skipped steps", f64::from(skipped))
    }

    /// Goes on from saved numbers.
    pub fn load(&mut self, params: &Params, found: Option<&HostTensor>) -> Result<()> {
        let Some(found) = found else { return Ok(()) };
        let all = upload(params, found)?;
        let part = |i| all.narrow(0, i, 1) * 1.0;
        let parts = [part(0), part(1), part(2)];
        eval(&parts.iter().collect::<Vec<_>>())?;
        [self.factor, self.good, self.skipped] = parts;
        Ok(())
    }
}

/// Values after a step: the new ones if it was good.
pub(super) fn chosen(fine: Option<&Tensor>, new: Tensor, old: &Tensor) -> Tensor {
    match fine {
        Some(fine) => fine.select(&new, old),
        None => new,
    }
}
