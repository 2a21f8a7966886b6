//! Several nets that answer together.
//!
//! ```
//! use versant_graph::{Device, Tensor};
//! use versant_nn::ensemble::{average, vote};
//! let dev = Device::cpu();
//! let logits = [[2.0f32, 0.0], [0.0, 1.0], [0.0, 1.5]].map(|z| Tensor::from_slice(&dev, &z, &[1, 2]));
//! let nets: Vec<&Tensor> = logits.iter().collect();
//! assert_eq!(vote(&nets).unwrap().to_vec::<f32>()?, [1.0 / 3.0, 2.0 / 3.0]);
//! let p = average(&nets).unwrap().to_vec::<f32>()?;
//! assert!((p[0] - 0.4441).abs() < 1e-4 && (p[0] + p[1] - 1.0).abs() < 1e-6);
//! # Ok::<(), versant_graph::GraphError>(())
//! ```

use std::panic::Location;

use versant_graph::{DType, Tensor};

use crate::Result;
use crate::fault::invalid;
use crate::params::{HostMap, Params};

/// The mean of what `f` makes of each member's logits, or the mistake; `None` without members.
#[track_caller]
fn mean(op: &'static str, logits: &[&Tensor], f: impl Fn(&Tensor) -> Tensor) -> Option<Tensor> {
    let shape = logits.first()?.shape();
    let fits =
        |t: &&Tensor| t.error().is_none() && t.shape() == shape && t.dtype() == DType::F32 && t.rank() == 2;
    if !logits.iter().all(fits) {
        return Some(invalid(op, logits, Location::caller(), "needs f32 logits [N, C] of one shape"));
    }
    let sum = logits.iter().map(|z| f(z)).reduce(|a, b| a + b)?;
    Some(sum * (1.0 / logits.len() as f32))
}

/// The mean of the members' probabilities, `[N, C]`, from their logits `[N, C]`; `None` without members.
#[track_caller]
#[must_use]
pub fn average(logits: &[&Tensor]) -> Option<Tensor> {
    mean("ensemble average", logits, |z| z.softmax(-1))
}

/// The share of the members that choose each class, `[N, C]`, from their logits `[N, C]`. Its largest is the majority's
/// class, of equal ones the first. `None` without members.
#[track_caller]
#[must_use]
pub fn vote(logits: &[&Tensor]) -> Option<Tensor> {
    mean("ensemble vote", logits, |z| z.argmax(-1, false).one_hot(z.shape()[1]).cast(DType::F32))
}

/// Members from one training run: the parameters at the ends of cycles of the learning rate (Huang et al., "Snapshot
/// Ensembles", ICLR 2017; see [`Schedule::restarts`](crate::Schedule::restarts)). Kept on the host.
#[derive(Clone, Debug, Default)]
pub struct Snapshots(Vec<HostMap>);

impl Snapshots {
    /// None yet.
    pub fn new() -> Snapshots {
        Snapshots::default()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parameters as they are become a member.
    ///
    /// # Errors
    /// As [`Params::to_host`].
    pub fn take(&mut self, params: &Params) -> Result<()> {
        self.0.push(params.to_host()?);
        Ok(())
    }

    /// What `f` gives for each member, whose values the parameters have meanwhile; afterwards they have their own again.
    ///
    /// # Errors
    /// Those of `f`, and of loading; the parameters have their own values then, too, unless the device failed.
    pub fn each<T, E: From<crate::NnError>>(
        &self,
        params: &Params,
        mut f: impl FnMut() -> std::result::Result<T, E>,
    ) -> std::result::Result<Vec<T>, E> {
        let own = params.to_host()?;
        let mut member = |values: &HostMap| {
            params.from_host(values)?;
            f()
        };
        let all = self.0.iter().map(&mut member).collect();
        params.from_host(&own)?;
        all
    }
}
