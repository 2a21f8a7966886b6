//! MobileNetV2 (Sandler et al., "Inverted Residuals and Linear Bottlenecks", CVPR 2018).

use versant_graph::Tensor;

use crate::Scope;
use crate::layers::{BatchNorm2d, Conv2d, Dropout, Linear, Mode, Module};

/// Mean of ImageNet's red, green and blue in pictures of 0 to 1, which torchvision's weights want subtracted.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of the same, to divide by.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Expansion, output channels, repeats and first stride of each stage: table 2 of the paper.
const STAGES: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

/// Channels of the last feature map.
const FEATURES: usize = 1280;

/// A convolution without bias, batch normalisation, and ReLU6 where it is not linear.
#[derive(Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
    linear: bool,
}

impl ConvNorm {
    /// `[inputs, outputs, kernel, stride]`; with as many groups as channels if `depthwise`.
    fn new(scopes: [Scope; 2], [inputs, outputs, kernel, stride]: [usize; 4], depthwise: bool) -> ConvNorm {
        let [conv, norm] = scopes;
        let conv = Conv2d::new(&conv, inputs, outputs, kernel).stride(stride).pad(kernel / 2).no_bias();
        let conv = if depthwise { conv.groups(inputs) } else { conv };
        ConvNorm { conv, norm: BatchNorm2d::new(&norm, outputs), linear: false }
    }
}

impl Module for ConvNorm {
    #[track_caller]
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.norm.forward(&self.conv.forward(x, mode), mode);
        if self.linear { y } else { y.clamp(0.0, 6.0) }
    }
}

/// Expand, filter each channel, project; the input goes by where shapes allow.
#[derive(Debug)]
struct Inverted {
    parts: Vec<ConvNorm>,
    residual: bool,
}

impl Inverted {
    fn new(scope: &Scope, inputs: usize, outputs: usize, stride: usize, expansion: usize) -> Inverted {
        let inner = inputs * expansion;
        let pair = |at: usize| {
            let of = scope / "conv" / &*at.to_string();
            [&of / "0", &of / "1"]
        };
        let mut parts = Vec::new();
        if expansion != 1 {
            parts.push(ConvNorm::new(pair(0), [inputs, inner, 1, 1], false));
        }
        let at = parts.len();
        parts.push(ConvNorm::new(pair(at), [inner, inner, 3, stride], true));
        // torchvision does not put the last convolution and its normalisation into a pair.
        let last = [at + 1, at + 2].map(|at| scope / "conv" / &*at.to_string());
        let project = ConvNorm::new(last, [inner, outputs, 1, 1], false);
        parts.push(ConvNorm { linear: true, ..project });
        Inverted { parts, residual: stride == 1 && inputs == outputs }
    }
}

impl Module for Inverted {
    #[track_caller]
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.parts.iter().fold(x.clone(), |y, part| part.forward(&y, mode));
        if self.residual { y + x } else { y }
    }
}

/// MobileNetV2 of width 1 with torchvision's parameter names, for pictures `[N, 3, H, W]` that are normalised by
/// [`IMAGENET_MEAN`] and [`IMAGENET_STD`]; H and W are 224 for ImageNet, and at least 32.
///
/// ```no_run
/// use versant_graph::{Device, Tensor};
/// use versant_nn::models::MobileNetV2;
/// use versant_nn::{Mode, Module, Params, Seed, torch};
/// let dev = Device::cpu();
/// let params = Params::new(&dev, Seed(1));
/// let net = MobileNetV2::new(&params.root(), 1000);
/// params.from_host_partial(&torch::read("data/fetched/mobilenet-v2/mobilenet_v2-b0353104.pth")?)?;
/// let logits = net.forward(&Tensor::zeros(&dev, &[1, 3, 224, 224]), Mode::Eval);
/// assert_eq!(logits.shape(), [1, 1000]);
/// # Ok::<(), versant_nn::NnError>(())
/// ```
#[derive(Debug)]
pub struct MobileNetV2 {
    stem: ConvNorm,
    blocks: Vec<Inverted>,
    last: ConvNorm,
    dropout: Dropout,
    classifier: Linear,
}

impl MobileNetV2 {
    /// A net for so many classes, with random weights.
    #[track_caller]
    pub fn new(scope: &Scope, classes: usize) -> MobileNetV2 {
        let features = scope / "features";
        let pair = |at: usize| {
            let of = &features / &*at.to_string();
            [&of / "0", &of / "1"]
        };
        let mut blocks = Vec::new();
        let mut inputs = 32;
        for [expansion, outputs, repeats, first] in STAGES {
            for repeat in 0..repeats {
                let place = &features / &*(blocks.len() + 1).to_string();
                let stride = if repeat == 0 { first } else { 1 };
                blocks.push(Inverted::new(&place, inputs, outputs, stride, expansion));
                inputs = outputs;
            }
        }
        let classifier = scope / "classifier";
        MobileNetV2 {
            stem: ConvNorm::new(pair(0), [3, 32, 3, 2], false),
            last: ConvNorm::new(pair(blocks.len() + 1), [inputs, FEATURES, 1, 1], false),
            blocks,
            dropout: Dropout::new(&(&classifier / "0"), 0.2),
            classifier: Linear::new(&(&classifier / "1"), FEATURES, classes),
        }
    }

    /// The last feature map, `[N, 1280, H / 32, W / 32]`.
    #[track_caller]
    #[must_use]
    pub fn features(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = self.stem.forward(x, mode);
        let y = self.blocks.iter().fold(y, |y, block| block.forward(&y, mode));
        self.last.forward(&y, mode)
    }

    /// Logits `[N, classes]` of a feature map: its mean, dropout, and a linear layer.
    #[track_caller]
    #[must_use]
    pub fn classify(&self, features: &Tensor, mode: Mode) -> Tensor {
        self.classifier.forward(&self.dropout.forward(&features.mean(&[2, 3], false), mode), mode)
    }
}

impl Module for MobileNetV2 {
    #[track_caller]
    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.classify(&self.features(x, mode), mode)
    }
}
