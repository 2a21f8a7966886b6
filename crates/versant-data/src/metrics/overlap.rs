//! Boxes as tensors: how far each of some overlaps each of others, and non-maximum suppression of what a model gave.

use std::panic::Location;

use versant_graph::{DType, GraphError, Tensor};

use super::{BoundingBox, class_aware_suppression, non_maximum_suppression};
use crate::error::{DataError, Result};

/// The overlap (intersection over union) of every one of these boxes `[n, 4]` with every one of others `[m, 4]`, given as
/// left, top, right, bottom: `[n, m]`, on the device and differentiable. As [`BoundingBox::iou`], 0 where one has no
/// area; torchvision calls it `box_iou`.
///
/// ```
/// use versant_data::metrics::pairwise_iou;
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let a = Tensor::from_slice(&dev, &[0.0f32, 0.0, 2.0, 2.0], &[1, 4]);
/// let b = Tensor::from_slice(&dev, &[0.0f32, 0.0, 2.0, 2.0, 1.0, 0.0, 3.0, 2.0], &[2, 4]);
/// assert_eq!(pairwise_iou(&a, &b).to_vec::<f32>()?, [1.0, 1.0 / 3.0]);
/// # Ok::<(), versant_graph::GraphError>(())
/// ```
///
/// # Errors
/// Kept in the tensor: operands that are not f32 of shape `[.., 4]` and rank 2.
#[track_caller]
#[must_use]
pub fn pairwise_iou(a: &Tensor, b: &Tensor) -> Tensor {
    let location = Location::caller();
    for boxes in [a, b] {
        if let Some(error) = boxes.error() {
            return Tensor::failed(a.device(), error);
        }
        if boxes.rank() != 2 || boxes.shape()[1] != 4 || boxes.dtype() != DType::F32 {
            let operand = |t: &Tensor| versant_graph::Operand { dtype: t.dtype(), shape: t.shape().to_vec() };
            let why = "boxes are f32[n, 4]: left, top, right, bottom".to_owned();
            let operands = vec![operand(a), operand(b)];
            return Tensor::failed(
                a.device(),
                GraphError::Invalid { op: "pairwise_iou", why, operands, location },
            );
        }
    }
    let zero = Tensor::constant(a.device(), 0f32);
    let area = |edges: &[Tensor; 4]| {
        let [x0, y0, x1, y1] = edges;
        (x1 - x0).maximum(&zero) * (y1 - y0).maximum(&zero)
    };
    // A column of edges against a row of edges.
    let a = [0, 1, 2, 3].map(|edge| a.narrow(1, edge, 1));
    let b = [0, 1, 2, 3].map(|edge| b.narrow(1, edge, 1).t());
    let inner = [a[0].maximum(&b[0]), a[1].maximum(&b[1]), a[2].minimum(&b[2]), a[3].minimum(&b[3])];
    let (shared, areas) = (area(&inner), [area(&a), area(&b)]);
    let some = shared.gt(&zero).and(&areas[0].gt(&zero)).and(&areas[1].gt(&zero));
    // The quotient that is not chosen must not be one by zero: its gradient would be.
    let union = some.select(&(&areas[0] + &areas[1] - &shared), &Tensor::constant(zero.device(), 1f32));
    some.select(&(shared / union), &zero)
}

/// [`non_maximum_suppression`] of boxes `[n, 4]` with scores `[n]`, or with `classes` (i32 `[n]`)
/// [`class_aware_suppression`]: the rows that are kept, the highest score first, as i32 `[kept]` on the same device, to
/// take with `index_select`.
///
/// How many there are decides the shape, so this **waits for the device** and reads boxes and scores back: suppression
/// goes box by box, and the boxes of a picture are some hundred.
///
/// ```
/// use versant_data::metrics::nms;
/// use versant_graph::{Device, Tensor};
/// let dev = Device::cpu();
/// let boxes = [0.0f32, 0.0, 10.0, 10.0, 1.0, 0.0, 11.0, 10.0, 8.0, 0.0, 18.0, 10.0];
/// let boxes = Tensor::from_slice(&dev, &boxes, &[3, 4]);
/// let scores = Tensor::from_slice(&dev, &[0.6f32, 0.9, 0.5], &[3]);
/// assert_eq!(nms(&boxes, &scores, None, 0.5)?.to_vec::<i32>()?, [1, 2]);
/// let classes = Tensor::from_slice(&dev, &[0i32, 1, 1], &[3]);
/// assert_eq!(nms(&boxes, &scores, Some(&classes), 0.5)?.to_vec::<i32>()?, [1, 0, 2]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Lengths`], other element types or shapes, and what evaluation returns.
#[track_caller]
pub fn nms(boxes: &Tensor, scores: &Tensor, classes: Option<&Tensor>, threshold: f32) -> Result<Tensor> {
    if boxes.error().is_none() && (boxes.rank() != 2 || boxes.shape()[1] != 4) {
        let value = format!("{:?}", boxes.shape());
        return Err(DataError::Option { option: "boxes", value, rule: "their shape must be [n, 4]" });
    }
    let edges = boxes.to_vec::<f32>()?;
    let bounds: Vec<BoundingBox> =
        edges.chunks_exact(4).map(|e| BoundingBox::new(e[0], e[1], e[2], e[3])).collect();
    let scores = scores.to_vec::<f32>()?;
    let kept = match classes {
        None => non_maximum_suppression(&bounds, &scores, threshold)?,
        Some(classes) => class_aware_suppression(&bounds, &scores, &classes.to_vec::<i32>()?, threshold)?,
    };
    let kept: Vec<i32> = kept.into_iter().map(|at| at as i32).collect();
    Ok(Tensor::from_slice(boxes.device(), &kept, &[kept.len()]))
}

#[cfg(test)]
mod tests {
    use versant_graph::{Device, grad_of};

    use super::*;

    /// Boxes on a grid, some without area or inside out.
    fn boxes(n: usize, seed: u32) -> Vec<BoundingBox> {
        let mut state = seed;
        let mut next = |limit: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % limit
        };
        (0..n)
            .map(|_| {
                let [x, y, w, h] = [next(20), next(20), next(12), next(12)].map(|v| v as f32);
                BoundingBox::new(x, y, x + w - 1.0, y + h - 1.0)
            })
            .collect()
    }

    fn tensor(device: &Device, boxes: &[BoundingBox]) -> Tensor {
        let edges: Vec<f32> = boxes.iter().flat_map(|b| [b.x0, b.y0, b.x1, b.y1]).collect();
        Tensor::from_slice(device, &edges, &[boxes.len(), 4])
    }

    #[test]
    fn the_matrix_holds_the_overlap_of_every_pair() {
        let device = Device::cpu();
        let (a, b) = (boxes(13, 1), boxes(9, 2));
        let all = pairwise_iou(&tensor(&device, &a), &tensor(&device, &b)).to_vec::<f32>().unwrap();
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate() {
                assert!((all[i * 9 + j] - a.iou(b)).abs() < 1e-6, "{a:?} {b:?}");
            }
        }
        assert_eq!(pairwise_iou(&tensor(&device, &[]), &tensor(&device, &b)).shape(), [0, 9]);
        let (a, b) = (tensor(&device, &a), tensor(&device, &b));
        let grads = grad_of(&pairwise_iou(&a, &b).sum_all(), &[&a, &b]).unwrap();
        assert!(grads.iter().all(|g| g.to_vec::<f32>().unwrap().iter().all(|v| v.is_finite())));
        assert!(pairwise_iou(&a.t(), &b).error().is_some());
        assert!(pairwise_iou(&a.cast(DType::I32), &b).error().is_some());
    }

    #[test]
    fn tensors_are_suppressed_like_boxes() {
        let found = boxes(60, 3);
        let scores: Vec<f32> = (0..60).map(|i| (i * 37 % 23) as f32).collect();
        let classes: Vec<i32> = (0..60).map(|i| i % 3).collect();
        let device = Device::cpu();
        let rows = tensor(&device, &found);
        let column = Tensor::from_slice(&device, &scores, &[60]);
        let plain = nms(&rows, &column, None, 0.3).unwrap().to_vec::<i32>().unwrap();
        let want = non_maximum_suppression(&found, &scores, 0.3).unwrap();
        assert_eq!(plain.iter().map(|&k| k as usize).collect::<Vec<_>>(), want);
        // Classes far apart from each other do not meet, which is how others suppress class by class.
        let apart: Vec<BoundingBox> = found
            .iter()
            .zip(&classes)
            .map(|(b, &c)| {
                let shift = 1000.0 * c as f32;
                BoundingBox::new(b.x0 + shift, b.y0 + shift, b.x1 + shift, b.y1 + shift)
            })
            .collect();
        let want = non_maximum_suppression(&apart, &scores, 0.3).unwrap();
        let of = Tensor::from_slice(&device, &classes, &[60]);
        let aware = nms(&rows, &column, Some(&of), 0.3).unwrap().to_vec::<i32>().unwrap();
        assert_eq!(aware.iter().map(|&k| k as usize).collect::<Vec<_>>(), want);
        assert!(aware.len() > plain.len());
        assert_eq!(nms(&tensor(&device, &[]), &column.narrow(0, 0, 0), None, 0.5).unwrap().shape(), [0]);
        assert!(matches!(nms(&rows, &column.narrow(0, 0, 2), None, 0.5), Err(DataError::Lengths { .. })));
        assert!(matches!(nms(&rows.t(), &column, None, 0.5), Err(DataError::Option { .. })));
        assert!(nms(&rows, &of, None, 0.5).is_err() && nms(&rows, &column, Some(&column), 0.5).is_err());
    }
}
