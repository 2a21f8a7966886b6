//! The voice detector of Silero (Silero Team, "Silero VAD", 2021, version 6), for sound of 16 kHz.

use versant_graph::Tensor;

use crate::fault::invalid;
use crate::layers::{Conv1d, Mode, Module};
use crate::{Init, Param, Scope};

/// Samples of a piece.
const PIECE: usize = 512;
/// Samples from before a piece that it is seen with.
const CONTEXT: usize = 64;
/// Samples of a frame of the Fourier transform, a convolution with fixed weights here, and half of them and one.
const FRAME: usize = 256;
const BINS: usize = FRAME / 2 + 1;
/// Elements of the recurrent state.
const HIDDEN: usize = 128;

/// What the detector carries from one piece of sound to the next.
#[derive(Clone, Debug)]
pub struct VadState {
    /// The end of the piece before, `[N, 64]`.
    context: Tensor,
    hidden: Tensor,
    cell: Tensor,
}

/// Says how probable it is that somebody speaks, for pieces of 32 ms.
///
/// ```no_run
/// use versant_graph::{Device, Tensor};
/// use versant_nn::models::SileroVad;
/// use versant_nn::{Params, Seed};
/// let dev = Device::cpu();
/// let params = Params::new(&dev, Seed(1));
/// let vad = SileroVad::new(&params.root());
/// params.load("data/fetched/silero-vad/silero_vad_16k.safetensors")?;
/// let (mut state, sound) = (None, vec![0.0f32; 16_000]);
/// for piece in sound.chunks_exact(512) {
///     let (p, next) = vad.hear(&Tensor::from_slice(&dev, piece, &[1, 512]), state.as_ref());
///     println!("{:.3}", p.item::<f32>()?);
///     state = Some(next);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SileroVad {
    transform: Conv1d,
    encoder: [Conv1d; 4],
    input: [Param; 2],
    hidden: [Param; 2],
    head: Conv1d,
}

impl SileroVad {
    /// The net, with random weights until the file's are loaded.
    #[track_caller]
    pub fn new(scope: &Scope) -> SileroVad {
        let conv = |name: &str, inputs, outputs, stride| {
            Conv1d::new(&(scope / name), inputs, outputs, 3).stride(stride).pad(1)
        };
        let cell = scope / "lstm_cell";
        let pair = |which: &str| {
            let weight = cell.parameter(&format!("weight_{which}"), &[4 * HIDDEN, HIDDEN], Init::Zeros);
            [weight, cell.parameter(&format!("bias_{which}"), &[4 * HIDDEN], Init::Zeros)]
        };
        SileroVad {
            transform: Conv1d::new(&(scope / "stft_conv"), 1, 2 * BINS, FRAME).stride(FRAME / 2).no_bias(),
            encoder: [
                conv("conv1", BINS, 128, 1),
                conv("conv2", 128, 64, 2),
                conv("conv3", 64, 64, 2),
                conv("conv4", 64, HIDDEN, 1),
            ],
            input: pair("ih"),
            hidden: pair("hh"),
            head: Conv1d::new(&(scope / "final_conv"), HIDDEN, 1, 1),
        }
    }

    /// The probability of speech in the next 512 samples (32 ms at 16 kHz, from -1 to 1) of each of N sounds, `[N]`, and
    /// the state to go on from; without a state, the sound begins here.
    #[track_caller]
    #[must_use]
    pub fn hear(&self, piece: &Tensor, state: Option<&VadState>) -> (Tensor, VadState) {
        let fits = piece.error().is_none() && piece.rank() == 2 && piece.shape()[1] == PIECE;
        if !fits {
            let location = std::panic::Location::caller();
            let failed = invalid("SileroVad::hear", &[piece], location, format!("needs f32[N, {PIECE}]"));
            return (
                failed.clone(),
                VadState { context: failed.clone(), hidden: failed.clone(), cell: failed },
            );
        }
        let (device, n) = (piece.device(), piece.shape()[0]);
        let begin = || VadState {
            context: Tensor::zeros(device, &[n, CONTEXT]),
            hidden: Tensor::zeros(device, &[n, HIDDEN]),
            cell: Tensor::zeros(device, &[n, HIDDEN]),
        };
        let VadState { context, hidden, cell } = state.cloned().unwrap_or_else(begin);
        // The end is mirrored, so that the last samples stand in the middle of a frame.
        let mirrored = piece.narrow(1, PIECE - CONTEXT - 1, CONTEXT).flip(&[1]);
        let sound = Tensor::cat(&[&context, piece, &mirrored], 1).unsqueeze(1);
        let spectrum = self.transform.forward(&sound, Mode::Eval);
        let part = |start| spectrum.narrow(1, start, BINS).square();
        let mut y = (part(0) + part(BINS)).sqrt();
        for conv in &self.encoder {
            y = conv.forward(&y, Mode::Eval).relu();
        }
        let product = |x: &Tensor, [weight, bias]: &[Param; 2]| x.matmul(&weight.get().t()) + bias.get();
        let gates = product(&y.squeeze(2), &self.input) + product(&hidden, &self.hidden);
        let gate = |i: usize| gates.narrow(1, i * HIDDEN, HIDDEN);
        let cell = gate(1).sigmoid() * cell + gate(0).sigmoid() * gate(2).tanh();
        let hidden = gate(3).sigmoid() * cell.tanh();
        let p = self.head.forward(&hidden.relu().unsqueeze(2), Mode::Eval).sigmoid().reshape(&[n as isize]);
        let context = piece.narrow(1, PIECE - CONTEXT, CONTEXT);
        // Each piece is computed by itself: the states do not remember how they came about.
        let next = VadState { context, hidden: hidden.detach(), cell: cell.detach() };
        match versant_graph::eval(&[&p, &next.context, &next.hidden, &next.cell]) {
            Ok(()) => (p, next),
            Err(error) => (Tensor::failed(device, error), next),
        }
    }
}
