//! W1 to W5: a net, an optimiser and one fixed batch that stays on the device.

use versant::graph::{Half, RandomKey, Replay};
use versant::nn::Init;
use versant::nn::mixed::autocast;
use versant::nn::optim::LossScale;
use versant::prelude::*;

use crate::{Result, nets};

/// The names, in order.
pub const NAMES: [&str; 5] = ["W1", "W2", "W3", "W4", "W5"];

/// A training run that repeats one step.
pub struct Training {
    device: Device,
    params: Params,
    net: Box<dyn Module>,
    optimizer: Box<dyn Optimizer>,
    x: Tensor,
    y: Tensor,
    half: Option<Half>,
}

impl Training {
    /// The workload of this name.
    ///
    /// # Errors
    /// An unknown name, or a mistake in a layer.
    pub fn new(name: &str, device: &Device) -> Result<Training> {
        Training::in_half(name, device, None)
    }

    /// The same with activations in 16 bits; f16 with the loss scaled.
    ///
    /// # Errors
    /// As [`Training::new`].
    pub fn in_half(name: &str, device: &Device, half: Option<Half>) -> Result<Training> {
        let params = Params::new(device, Seed(0));
        let root = params.root();
        let net: Box<dyn Module> = match name {
            "W1" => Box::new(nets::mlp(&root)),
            "W2" => Box::new(nets::cnn(&root)),
            "W3" => Box::new(nets::Residual::new(&root)),
            "W4" => Box::new(nets::CharLstm::new(&root)),
            "W5" => Box::new(nets::Gpt::new(&root)),
            _ => return Err(format!("no workload is called {name}; there are {}", NAMES.join(" ")).into()),
        };
        // A factor that no first step overflows at: a skipped step would be compared with one that was not.
        let rule = LossScale { start: 1024.0, ..LossScale::default() };
        let optimizer: Box<dyn Optimizer> = match (name, half) {
            ("W1" | "W4", Some(Half::F16)) => Box::new(Adam::new(&params, 1e-3).loss_scaling(rule)),
            ("W1" | "W4", _) => Box::new(Adam::new(&params, 1e-3)),
            ("W5", Some(Half::F16)) => Box::new(AdamW::new(&params, 3e-4).loss_scaling(rule)),
            ("W5", _) => Box::new(AdamW::new(&params, 3e-4)),
            (_, Some(Half::F16)) => Box::new(Sgd::new(&params, 0.01).momentum(0.9).loss_scaling(rule)),
            _ => Box::new(Sgd::new(&params, 0.01).momentum(0.9)),
        };
        let (x, y) = match name {
            "W1" => (normal(device, &[128, 784]), classes(device, &[128], 10, "y")),
            "W2" => (normal(device, &[64, 1, 28, 28]), classes(device, &[64], 10, "y")),
            "W3" => (normal(device, &[32, 3, 32, 32]), classes(device, &[32], 10, "y")),
            "W4" => {
                let words = nets::VOCABULARY;
                (classes(device, &[64, 32], words, "x"), classes(device, &[64 * 32], words, "y"))
            }
            _ => {
                let words = nets::VOCABULARY;
                (classes(device, &[16, 128], words, "x"), classes(device, &[16 * 128], words, "y"))
            }
        };
        params.check()?;
        Ok(Training { device: device.clone(), params, net, optimizer, x, y, half })
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of trained elements.
    pub fn parameters(&self) -> usize {
        self.params.count()
    }

    /// Records a step and submits it, without waiting for it; returns its loss.
    ///
    /// # Errors
    /// A mistake in a layer, or a failing device.
    pub fn submit(&mut self) -> Result<Tensor> {
        let forward = || self.net.forward(&self.x, Mode::Train);
        let logits = self.half.map_or_else(forward, |half| autocast(half, forward));
        let loss = logits.cross_entropy(&self.y);
        drop(logits);
        self.optimizer.step(self.optimizer.scaled(&loss).backward()?)?;
        Ok(loss)
    }

    /// Another batch from here on, of the same shapes.
    pub fn set_batch(&mut self, x: Tensor, y: Tensor) {
        (self.x, self.y) = (x, y);
    }

    /// Steps that an overflow made no use of, if the loss is scaled.
    ///
    /// # Errors
    /// A failing device.
    pub fn skipped(&self) -> Result<Option<f32>> {
        Ok(self.optimizer.loss_scale().map(|(_, skipped)| skipped.item::<f32>()).transpose()?)
    }

    /// Loss and gradients with their plan fixed, without the update: a call of it is a look at the buffers, and a
    /// submission.
    ///
    /// # Errors
    /// As [`Training::submit`].
    pub fn replay(&self) -> Result<Replay> {
        let record = |inputs: &[Tensor]| {
            let loss = self.net.forward(&inputs[0], Mode::Train).cross_entropy(&inputs[1]);
            match loss.backward() {
                Ok(gradients) => gradients.iter().map(|(_, g)| g.clone()).chain([loss]).collect(),
                Err(error) => vec![Tensor::failed(&self.device, error)],
            }
        };
        Ok(capture(&self.device, &[&self.x, &self.y], record)?)
    }

    /// Calls what [`Training::replay`] made, on the batch; without waiting for the results.
    ///
    /// # Errors
    /// A failing device.
    pub fn call(&self, replay: &Replay) -> Result<()> {
        replay.call(&[&self.x, &self.y])?;
        Ok(())
    }

    /// A whole step, to the loss on the host.
    ///
    /// # Errors
    /// As [`Training::submit`].
    pub fn step(&mut self) -> Result<f32> {
        Ok(self.submit()?.item::<f32>()?)
    }
}

fn normal(device: &Device, shape: &[usize]) -> Tensor {
    let init = Init::Normal { mean: 0.0, std: 1.0 };
    Tensor::from_slice(device, &init.fill(shape, RandomKey::new(1).split("x")), shape)
}

/// Indices below `count`, evenly distributed.
fn classes(device: &Device, shape: &[usize], count: usize, label: &str) -> Tensor {
    let init = Init::Uniform { lo: 0.0, hi: count as f32 };
    let drawn = init.fill(shape, RandomKey::new(1).split(label));
    // The upper bound itself may come out of the rounding.
    let indices: Vec<i32> = drawn.iter().map(|&u| (u as i32).min(count as i32 - 1)).collect();
    Tensor::from_slice(device, &indices, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_have_the_parameters_of_their_peers() {
        let device = Device::null();
        let count = |name: &str| Training::new(name, &device).map(|t| t.parameters());
        // PyTorch's count of the nets in `peers/torch/bench.py`.
        let counts: Vec<usize> =
            NAMES.iter().map(|n| count(n).expect("the null device refuses nothing")).collect();
        assert_eq!(counts, [669_706, 454_922, 696_618, 111_680, 826_112]);
        assert!(count("W6").is_err());
    }

    #[test]
    fn a_step_learns() {
        let mut training = Training::new("W1", &Device::cpu()).expect("it is one of the names");
        let losses: Vec<f32> = (0..3).map(|_| training.step().expect("the CPU does not fail")).collect();
        assert!((losses[0] - 10f32.ln()).abs() < 0.2 && losses[2] < losses[0], "{losses:?}");
    }
}
