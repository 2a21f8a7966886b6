//! Initial values of parameters: PyTorch's formulas, drawn on the host so that every device starts equal.
//!
//! A value depends on the shape and the key alone, never on the device, the platform or the number of
//! threads.

use versant_graph::{RandomKey, random};

/// How a new parameter is filled.
///
/// Xavier: Glorot and Bengio, AISTATS 2010. Kaiming: He et al., ICCV 2015. Fans are counted as
/// [`fans`] does.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Init {
    /// Zero.
    Zeros,
    /// One.
    Ones,
    /// The same number everywhere.
    Constant(f32),
    /// Uniform in `[lo, hi)`.
    Uniform {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
    /// Normal.
    Normal {
        /// Mean.
        mean: f32,
        /// Standard deviation.
        std: f32,
    },
    /// Uniform within `gain * sqrt(6 / (fan_in + fan_out))`.
    XavierUniform {
        /// What the following activation asks for: see [`Gain`].
        gain: f32,
    },
    /// Normal with standard deviation `gain * sqrt(2 / (fan_in + fan_out))`.
    XavierNormal {
        /// What the following activation asks for: see [`Gain`].
        gain: f32,
    },
    /// Uniform within `sqrt(6 / ((1 + a²) fan_in))`. PyTorch's default for the weights of linear layers and
    /// convolutions has `a = √5`, which makes the bound `1 / sqrt(fan_in)`.
    KaimingUniform {
        /// Slope of the leaky ReLU that follows; zero for ReLU.
        a: f32,
    },
    /// Normal with standard deviation `sqrt(2 / ((1 + a²) fan_in))`.
    KaimingNormal {
        /// Slope of the leaky ReLU that follows; zero for ReLU.
        a: f32,
    },
    /// As [`Init::KaimingUniform`] with `fan_out`, which keeps the variance of gradients.
    KaimingUniformOut {
        /// Slope of the leaky ReLU that follows; zero for ReLU.
        a: f32,
    },
    /// As [`Init::KaimingNormal`] with `fan_out`, which keeps the variance of gradients.
    KaimingNormalOut {
        /// Slope of the leaky ReLU that follows; zero for ReLU.
        a: f32,
    },
    /// Uniform within `1 / sqrt(fan_in)`: PyTorch's default for a bias, whose own shape does not tell the
    /// fan of the layer it belongs to. Zero inputs give zeros.
    FanIn {
        /// Inputs that each output sums over.
        fan_in: usize,
    },
}

/// The factor by which an activation asks for wider initial weights (PyTorch's `calculate_gain`).
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Gain {
    /// No activation, or a sigmoid.
    Linear,
    /// 5/3.
    Tanh,
    /// √2.
    Relu,
    /// `sqrt(2 / (1 + slope²))`.
    LeakyRelu(f32),
    /// 3/4.
    Selu,
}

impl Gain {
    /// The factor.
    pub fn value(self) -> f32 {
        match self {
            Gain::Linear => 1.0,
            Gain::Tanh => 5.0 / 3.0,
            Gain::Relu => std::f32::consts::SQRT_2,
            Gain::LeakyRelu(slope) => leaky_gain(slope) as f32,
            Gain::Selu => 0.75,
        }
    }
}

fn leaky_gain(a: f32) -> f64 {
    (2.0 / (1.0 + f64::from(a) * f64::from(a))).sqrt()
}

/// `(fan_in, fan_out)` of a weight as PyTorch counts them: axis 0 is out, axis 1 in, the rest the receptive
/// field. A shape of fewer axes has the fans of a matrix whose missing extents are one.
pub fn fans(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [n] => (*n, *n),
        [out, inputs, field @ ..] => {
            let field = field.iter().fold(1, |n: usize, d| n.saturating_mul(*d));
            (inputs.saturating_mul(field), out.saturating_mul(field))
        }
    }
}

impl Init {
    /// The half-width of a uniform distribution, or the standard deviation of a normal one, around its
    /// middle; zero for constants.
    pub fn spread(&self, shape: &[usize]) -> f32 {
        self.spread_wide(shape) as f32
    }

    fn spread_wide(&self, shape: &[usize]) -> f64 {
        let (fan_in, fan_out) = fans(shape);
        let (fan_in, fan_out) = (fan_in.max(1) as f64, fan_out.max(1) as f64);
        let xavier = |gain: f32| f64::from(gain) * (2.0 / (fan_in + fan_out)).sqrt();
        // A uniform distribution of half-width w has the standard deviation w / √3.
        let root3 = 3f64.sqrt();
        match *self {
            Init::Zeros | Init::Ones | Init::Constant(_) => 0.0,
            Init::Uniform { lo, hi } => (f64::from(hi) - f64::from(lo)) / 2.0,
            Init::Normal { std, .. } => f64::from(std),
            Init::XavierUniform { gain } => root3 * xavier(gain),
            Init::XavierNormal { gain } => xavier(gain),
            Init::KaimingUniform { a } => root3 * leaky_gain(a) / fan_in.sqrt(),
            Init::KaimingNormal { a } => leaky_gain(a) / fan_in.sqrt(),
            Init::KaimingUniformOut { a } => root3 * leaky_gain(a) / fan_out.sqrt(),
            Init::KaimingNormalOut { a } => leaky_gain(a) / fan_out.sqrt(),
            Init::FanIn { fan_in: 0 } => 0.0,
            Init::FanIn { fan_in } => 1.0 / (fan_in as f64).sqrt(),
        }
    }

    /// The values of a parameter of `shape`, in row-major order: a function of shape and key alone.
    pub fn fill(&self, shape: &[usize], key: RandomKey) -> Vec<f32> {
        let n: usize = shape.iter().product();
        let spread = self.spread(shape);
        let uniform = |lo: f32, hi: f32| {
            let mut values = random::uniform(key.words(), n);
            values.iter_mut().for_each(|u| *u = lo + (hi - lo) * *u);
            values
        };
        let normal = |mean: f32, std: f32| {
            let mut values = random::normal(key.words(), n);
            values.iter_mut().for_each(|z| *z = mean + std * *z);
            values
        };
        match *self {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::Constant(value) => vec![value; n],
            Init::Uniform { lo, hi } => uniform(lo, hi),
            Init::Normal { mean, std } => normal(mean, std),
            Init::XavierUniform { .. }
            | Init::KaimingUniform { .. }
            | Init::KaimingUniformOut { .. }
            | Init::FanIn { .. } => uniform(-spread, spread),
            Init::XavierNormal { .. } | Init::KaimingNormal { .. } | Init::KaimingNormalOut { .. } => {
                normal(0.0, spread)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fans_are_pytorchs() {
        assert_eq!(fans(&[10, 144]), (144, 10));
        assert_eq!(fans(&[32, 16, 5, 5]), (400, 800));
        assert_eq!(fans(&[7]), (7, 7));
    }

    #[test]
    fn pytorchs_default_weight_has_the_bound_of_its_bias() {
        let weight = Init::KaimingUniform { a: 5f32.sqrt() }.spread(&[8, 4, 3, 3]);
        assert!((weight - Init::FanIn { fan_in: 36 }.spread(&[8])).abs() < 1e-7);
    }

    #[test]
    fn draws_fill_their_distribution() {
        let key = RandomKey::new(3).split("weight");
        let shape = [200, 300];
        for init in [Init::KaimingUniform { a: 0.0 }, Init::FanIn { fan_in: 9 }] {
            let (values, bound) = (init.fill(&shape, key), init.spread(&shape));
            let top = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(top <= bound && top > 0.999 * bound, "{init:?}: {top} of {bound}");
        }
        for init in [Init::XavierNormal { gain: 2.0 }, Init::KaimingNormalOut { a: 0.1 }] {
            let values = init.fill(&shape, key);
            let square: f64 = values.iter().map(|v| f64::from(v * v)).sum();
            let std = (square / values.len() as f64).sqrt() as f32;
            assert!((std / init.spread(&shape) - 1.0).abs() < 0.02, "{init:?}: {std}");
        }
        assert_ne!(Init::Normal { mean: 0.0, std: 1.0 }.fill(&[4], key)[0], 0.0);
        assert_eq!(Init::Ones.fill(&[2, 2], key), [1.0; 4]);
    }

    #[test]
    fn empty_shapes_are_filled_with_nothing() {
        let key = RandomKey::new(1);
        assert!(Init::KaimingUniform { a: 0.0 }.fill(&[0, 3], key).is_empty());
        assert_eq!(Init::FanIn { fan_in: 0 }.fill(&[2], key), [0.0; 2]);
    }
}
