//! The examples of the gallery.

/// An example: a file of crates/versant/examples, and its twin in benches/reference.
pub struct Example {
    /// The name of both files.
    pub name: &'static str,
    /// What it does.
    pub title: &'static str,
    /// What it learns from.
    pub data: &'static str,
    /// The figure that is compared with the twin's.
    pub metric: &'static str,
    /// Whether less of it is better.
    pub lower: bool,
    /// Whether the twin reads what the example writes with `--dump`.
    pub dumps: bool,
    /// What the example draws, in out/NAME.
    pub pictures: &'static [&'static str],
}

const fn example(
    name: &'static str,
    title: &'static str,
    data: &'static str,
    metric: &'static str,
    lower: bool,
    pictures: &'static [&'static str],
) -> Example {
    Example { name, title, data, metric, lower, dumps: true, pictures }
}

/// All of them, in the order of the page.
pub const EXAMPLES: &[Example] = &[
    example(
        "residual",
        "Image classification, residual net",
        "Fashion-MNIST",
        "test accuracy",
        false,
        &["mistakes.png"],
    ),
    example(
        "detect",
        "Object detection in one look",
        "digits in scenes",
        "mAP at IoU 0.5",
        false,
        &["boxes.png"],
    ),
    example(
        "vae",
        "Image generation, variational autoencoder",
        "Fashion-MNIST",
        "negative ELBO, nats an image",
        true,
        &["samples.png", "reconstructions.png"],
    ),
    example(
        "diffusion",
        "Image generation, diffusion",
        "Fashion-MNIST, 14 x 14",
        "test error of the noise",
        true,
        &["samples.png"],
    ),
    example("text", "Text generation, LSTM", "Moby Dick", "test bits a character", true, &["loss.svg"]),
    example(
        "gpt",
        "Text generation, GPT with a cache",
        "Moby Dick",
        "test bits a character",
        true,
        &["loss.svg"],
    ),
    example("translate", "Translation, encoder and decoder", "English to German", "BLEU", false, &[]),
    example("sentiment", "Sentiment, bidirectional GRU", "rated tweets", "test accuracy", false, &[]),
    example(
        "language",
        "Spoken language, convolution and GRU",
        "telephone prompts",
        "test accuracy",
        false,
        &["spectrograms.png"],
    ),
    example(
        "spoken",
        "Spoken digits, connectionist temporal classification",
        "telephone prompts",
        "digit error rate",
        true,
        &["spectrograms.png"],
    ),
    example(
        "diagnosis",
        "Diagnosis: cross-validation, ensemble, calibration",
        "breast tumours",
        "cross-validated accuracy",
        false,
        &["reliability.svg"],
    ),
    example(
        "credit",
        "A rare class: denied mortgages",
        "Boston mortgages",
        "PR AUC with class weights",
        false,
        &["precision-recall.svg"],
    ),
    example(
        "forecast",
        "Forecasting against naive baselines, GRU",
        "five stocks",
        "range error over that of 22 days",
        true,
        &["range.svg"],
    ),
    example(
        "transfer",
        "Transfer learning: MobileNetV2, frozen, then tuned",
        "Fashion-MNIST, 1,000 images",
        "test accuracy, tuned",
        false,
        &["grad-cam.png"],
    ),
    example(
        "fairness",
        "Fairness before and after mitigation",
        "Adult",
        "accuracy reweighed",
        false,
        &["trade.svg"],
    ),
    Example {
        name: "physics",
        title: "A differential equation by its derivatives",
        data: "none",
        metric: "relative L2 error",
        lower: true,
        dumps: false,
        pictures: &["solution.svg", "loss.svg"],
    },
];
