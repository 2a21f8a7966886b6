//! Predicted numbers.

use super::check_finite;
use crate::dataset::check_lengths;
use crate::error::Result;

/// How far predicted numbers are from the true ones.
///
/// ```
/// use versant_data::metrics::Regression;
/// let errors = Regression::new(&[2.5, 0.0, 2.0, 8.0], &[3.0, -0.5, 2.0, 7.0])?;
/// assert_eq!(errors.mae, 0.5);
/// assert!((errors.r2.expect("the targets differ") - 0.948608).abs() < 1e-6);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regression {
    /// Mean absolute error.
    pub mae: f64,
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Mean absolute error relative to the target, as a fraction; `None` if a target is 0.
    pub mape: Option<f64>,
    /// The part of the targets' variance that is explained, `1 - Σ (y - ŷ)² / Σ (y - mean)²`: 1 is perfect, 0 as good
    /// as the mean, below 0 worse; `None` if all targets are equal.
    pub r2: Option<f64>,
}

impl Regression {
    /// The errors of predictions of these targets.
    ///
    /// # Errors
    /// [`DataError::Lengths`](crate::DataError::Lengths), [`DataError::Empty`](crate::DataError::Empty), and
    /// [`DataError::Option`](crate::DataError::Option) for a number that is not finite.
    pub fn new(predicted: &[f32], target: &[f32]) -> Result<Regression> {
        check_lengths(("predictions", predicted.len()), ("targets", target.len()))?;
        check_finite("targets", target)?;
        check_finite("predictions", predicted)?;
        let n = target.len() as f64;
        let pairs = || predicted.iter().zip(target).map(|(&p, &t)| (f64::from(p), f64::from(t)));
        let mean = pairs().map(|(_, t)| t).sum::<f64>() / n;
        let squares: f64 = pairs().map(|(p, t)| (p - t).powi(2)).sum();
        let spread: f64 = pairs().map(|(_, t)| (t - mean).powi(2)).sum();
        let relative = pairs().map(|(p, t)| ((p - t) / t).abs()).sum::<f64>() / n;
        Ok(Regression {
            mae: pairs().map(|(p, t)| (p - t).abs()).sum::<f64>() / n,
            rmse: (squares / n).sqrt(),
            mape: target.iter().all(|&t| t != 0.0).then_some(relative),
            r2: target.iter().any(|&t| t != target[0]).then(|| 1.0 - squares / spread),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undefined_is_none() {
        let constant = Regression::new(&[1.0, 3.0], &[2.0, 2.0]).unwrap();
        assert_eq!((constant.r2, constant.mape, constant.rmse), (None, Some(0.5), 1.0));
        assert_eq!(Regression::new(&[1.0, 3.0], &[0.0, 2.0]).unwrap().mape, None);
        assert!(Regression::new(&[], &[]).is_err() && Regression::new(&[f32::NAN], &[1.0]).is_err());
        assert!(Regression::new(&[1.0], &[]).is_err());
    }
}
