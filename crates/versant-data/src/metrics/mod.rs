//! How good predictions are: classes, rankings, probabilities, numbers, texts, boxes, and whether groups of people
//! are treated alike. Everything but [`pairwise_iou`] is computed on the host, scores in `f64`; formulas name their source.
//!
//! | what is predicted | what judges it |
//! | --- | --- |
//! | a class | [`accuracy`], [`top_k_accuracy`], [`ConfusionMatrix`] (precision, recall, F1) |
//! | a score, larger for positives | [`RocCurve`], [`PrecisionRecallCurve`], [`roc_auc_one_vs_rest`] |
//! | a probability | [`Reliability`], [`brier`], [`log_loss`], [`Temperature`] |
//! | a number | [`Regression`] |
//! | a text | [`perplexity`], [`bleu`](fn@bleu), [`word_errors`], [`character_errors`] |
//! | boxes | [`BoundingBox::iou`], [`pairwise_iou`], [`non_maximum_suppression`], [`class_aware_suppression`], [`nms`], [`average_precision`], [`mean_average_precision`] |
//! | a decision about people | [`Fairness`], [`reweighing`] |

mod bleu;
mod calibration;
mod classes;
mod detection;
mod fairness;
mod overlap;
mod ranking;
mod regression;
mod text;

pub use bleu::{Bleu, bleu, tokenize_13a};
pub use calibration::{Reliability, ReliabilityBin, Temperature, brier, log_loss};
pub use classes::{Average, ConfusionMatrix, RunningMean, Scores, accuracy, top_k_accuracy};
pub use detection::{
    BoundingBox, Detection, Truth, average_precision, class_aware_suppression, mean_average_precision,
    non_maximum_suppression,
};
pub use fairness::{Fairness, GroupRates, reweighing};
pub use overlap::{nms, pairwise_iou};
pub use ranking::{PrecisionRecallCurve, RocCurve, roc_auc_one_vs_rest};
pub use regression::Regression;
pub use text::{EditErrors, character_errors, edit_errors, perplexity, word_errors};

use crate::error::{DataError, Result};

/// That there is something to judge and no value is NaN or infinite.
fn check_finite<'a>(what: &'static str, values: impl IntoIterator<Item = &'a f32>) -> Result<()> {
    let mut count = 0;
    for (index, value) in values.into_iter().enumerate() {
        if !value.is_finite() {
            return Err(DataError::Option {
                option: what,
                value: format!("{value} at {index}"),
                rule: "every value must be finite",
            });
        }
        count += 1;
    }
    if count == 0 { Err(DataError::Empty { what }) } else { Ok(()) }
}

/// That every value is a probability, and that there are some.
fn check_probabilities(values: &[f32]) -> Result<()> {
    check_finite("probabilities", values)?;
    match values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        None => Ok(()),
        Some(p) => {
            Err(DataError::Option { option: "probability", value: p.to_string(), rule: "from 0 to 1" })
        }
    }
}
