//! Muon.

use versant_graph::Tensor;

use super::adam::AdamRule;
use super::flat::{Flat, Order};
use super::group::Segment;
use super::{Now, Rule, above_zero, at_least_zero, below_one, optimizer, scalar, setting};
use crate::error::Result;
use crate::params::Params;

/// Muon, momentum made orthogonal by Newton and Schulz's iteration (Jordan et al., "Muon: an optimizer for hidden layers
/// in neural networks", 2024), as PyTorch's `Muon`, for matrices; AdamW for everything else.
///
/// `b ← b + (1 - μ)(g - b); u = g + μ (b - g) if Nesterov, else b; p ← p (1 - η λ) - η s O(u)`
///
/// where `O(u)` is near the closest matrix with orthogonal rows or columns: from `x = u / max(‖u‖, ε)`, transposed if
/// it is taller than wide, five times `a = x xᵀ; x ← 3.4445 x + (-4.775 a + 2.0315 a²) x`. μ = 0.95 with Nesterov,
/// λ = 0.1, ε = 1e-7 and `s = √max(1, rows / columns)` by default. PyTorch iterates in bf16, this in f32.
///
/// A matrix is a parameter of two dimensions `[rows, columns]`. Embeddings and the last layer are better left to AdamW,
/// says the paper: name them by [`Muon::except`]. AdamW's learning rate is a fixed multiple of η.
///
/// Matrices of one shape are neighbours and are iterated together: a step takes 15 products for each *shape*.
///
/// ```
/// use versant_graph::{Device, Tensor};
/// use versant_nn::{Init, Muon, Optimizer, Params, Seed};
/// let vs = Params::new(&Device::cpu(), Seed(1));
/// let w = vs.root().parameter("w", &[2, 2], Init::Zeros);
/// let b = vs.root().parameter("b", &[2], Init::Zeros);
/// let mut opt = Muon::new(&vs, 0.1).adam_lr_scale(0.1);
/// let slopes = Tensor::from_slice(vs.device(), &[3.0f32, 0.0, 0.0, 1.0], &[2, 2]);
/// opt.step(((w.get() * slopes).sum_all() + b.get().sum_all()).backward()?)?;
/// // The step is as long in both directions, nearly.
/// let w = w.get().to_vec::<f32>()?;
/// assert!((-0.13..-0.06).contains(&w[0]) && (-0.13..-0.06).contains(&w[3]), "{w:?}");
/// assert!((b.get().to_vec::<f32>()?[0] + 0.01).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Muon {
    flat: Flat,
    rule: MuonRule,
}

struct MuonRule {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    eps: f64,
    steps: usize,
    match_rms: bool,
    adam: AdamRule,
    adam_scale: f64,
}

/// The coefficients of the iteration: its slope at zero is as large as it can be.
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];

impl Muon {
    /// Trains all parameters of the store. The usual learning rate is 0.02; with [`Muon::match_rms`], AdamW's.
    pub fn new(params: &Params, lr: f64) -> Muon {
        let rule = MuonRule {
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            eps: 1e-7,
            steps: 5,
            match_rms: false,
            adam: AdamRule::new(0.01, true),
            adam_scale: 1.0,
        };
        Muon { flat: Flat::ordered(params, lr, Order::Matrices { except: Vec::new() }), rule }
    }

    /// Leaves matrices whose names match to AdamW; `*` in the pattern stands for any text.
    #[must_use]
    pub fn except(mut self, pattern: &str) -> Muon {
        self.flat.reorder(|order| {
            if let Order::Matrices { except } = order {
                except.push(pattern.to_owned());
            }
        });
        self
    }

    setting! {
        /// Sets μ, in `[0, 1)`.
        momentum: f64 => momentum
    }
    setting! {
        /// Whether to look ahead along the momentum.
        nesterov: bool => nesterov
    }
    setting! {
        /// Sets λ of the matrices.
        weight_decay: f64 => weight_decay
    }
    setting! {
        /// Sets ε of the norm.
        eps: f64 => eps
    }
    setting! {
        /// Sets the number of iterations.
        iterations: usize => steps
    }
    setting! {
        /// Makes `s = 0.2 √max(rows, columns)`, so that updates are as large as AdamW's (Liu et al., "Muon is scalable
        /// for LLM training", 2025).
        match_rms: bool => match_rms
    }
    setting! {
        /// What multiplies η for AdamW's parameters.
        adam_lr_scale: f64 => adam_scale
    }
    setting! {
        /// AdamW's (β₁, β₂); (0.9, 0.999) by default.
        adam_betas: (f64, f64) => adam.betas
    }
    setting! {
        /// AdamW's ε; 1e-8 by default.
        adam_eps: f64 => adam.eps
    }
    setting! {
        /// AdamW's λ; 0.01 by default.
        adam_weight_decay: f64 => adam.weight_decay
    }
}

optimizer!(Muon);

impl Rule for MuonRule {
    fn kind(&self) -> &'static str {
        "muon"
    }

    fn states(&self, class: usize) -> &'static [&'static str] {
        if class == 0 { &["momentum"] } else { self.adam.states(0) }
    }

    fn check(&self) -> Result<()> {
        below_one("momentum", self.momentum)?;
        at_least_zero("weight decay", self.weight_decay)?;
        above_zero("eps", self.eps)?;
        at_least_zero("AdamW's share of the learning rate", self.adam_scale)?;
        self.adam.check()
    }

    fn decay(&self, class: usize) -> f64 {
        if class == 0 { self.weight_decay } else { self.adam.weight_decay }
    }

    fn momentum(&mut self) -> Option<&mut f64> {
        Some(&mut self.momentum)
    }

    fn update(
        &self,
        now: &Now<'_>,
        value: &Tensor,
        grad: &Tensor,
        states: &[Tensor],
    ) -> (Tensor, Vec<Tensor>) {
        if now.class != 0 {
            return self.adam.update(&now.scaled(self.adam_scale), value, grad, states);
        }
        let buffer = &states[0] + (grad - &states[0]) * scalar(value, 1.0 - self.momentum);
        let ahead = match self.nesterov {
            true => grad + (&buffer - grad) * scalar(value, self.momentum),
            false => buffer.clone(),
        };
        let runs = now.runs(|a, b| a.shape == b.shape);
        let updates: Vec<Tensor> = runs.into_iter().map(|(s, n)| self.orthogonal(&ahead, s, n)).collect();
        let update = Tensor::cat(&updates.iter().collect::<Vec<_>>(), 0);
        (now.decayed(value) - update * now.lr(value), vec![buffer])
    }
}

impl MuonRule {
    /// The updates of `n` neighbouring matrices of one shape, in one dimension.
    fn orthogonal(&self, flat: &Tensor, first: &Segment, n: usize) -> Tensor {
        let &[rows, columns] = first.shape.as_slice() else { return flat.clone() };
        let u = flat.narrow(0, first.start, n * first.len);
        let u = u.reshape(&[n as isize, rows as isize, columns as isize]);
        let tall = rows > columns;
        let u = if tall { u.transpose(1, 2) } else { u };
        let norm = u.square().sum(&[2], true).sum(&[1], true).sqrt();
        let mut x = u / norm.maximum(&Tensor::constant(flat.device(), self.eps as f32));
        let [a, b, c] = QUINTIC;
        for _ in 0..self.steps {
            let gram = x.matmul(&x.transpose(1, 2));
            let poly = &gram * b + gram.matmul(&gram) * c;
            x = &x * a + poly.matmul(&x);
        }
        let x = if tall { x.transpose(1, 2) } else { x };
        let (rows, columns) = (rows as f64, columns as f64);
        let scale = match self.match_rms {
            true => 0.2 * rows.max(columns).sqrt(),
            false => (rows / columns).max(1.0).sqrt(),
        };
        (x * scale as f32).reshape(&[-1])
    }
}
