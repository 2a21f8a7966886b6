//! Boxes in pictures: overlap, non-maximum suppression and average precision.

use std::collections::{BTreeMap, BTreeSet};

use crate::dataset::check_lengths;
use crate::error::{DataError, Result};

/// A rectangle with sides along the axes, in pixels or any other unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BoundingBox {
    /// Left edge.
    pub x0: f32,
    /// Upper edge.
    pub y0: f32,
    /// Right edge.
    pub x1: f32,
    /// Lower edge.
    pub y1: f32,
}

impl BoundingBox {
    /// The box between two corners: left, top, right, bottom.
    pub fn new(x0: f32, y0: f32, x1: f32, y1: f32) -> BoundingBox {
        BoundingBox { x0, y0, x1, y1 }
    }

    /// Width times height; 0 for a box that is inside out.
    pub fn area(&self) -> f32 {
        (self.x1 - self.x0).max(0.0) * (self.y1 - self.y0).max(0.0)
    }

    /// The area that both share over the area that either covers; 0 if they do not meet or have no area.
    ///
    /// ```
    /// use versant_data::metrics::BoundingBox;
    /// let a = BoundingBox::new(0.0, 0.0, 2.0, 2.0);
    /// assert_eq!(a.iou(&BoundingBox::new(1.0, 0.0, 3.0, 2.0)), 1.0 / 3.0);
    /// ```
    pub fn iou(&self, other: &BoundingBox) -> f32 {
        let shared = BoundingBox {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        };
        let (shared, own, others) = (shared.area(), self.area(), other.area());
        // A NaN makes an area 0.
        if shared > 0.0 && own > 0.0 && others > 0.0 { shared / (own + others - shared) } else { 0.0 }
    }
}

/// The numbers of the boxes to keep, the highest score first: a box goes if it overlaps one that was kept by more
/// than the threshold. Of equal scores the first box ranks higher; scores that are NaN rank last. For boxes of
/// several classes there is [`class_aware_suppression`], for tensors [`nms`](super::nms).
///
/// ```
/// use versant_data::metrics::{BoundingBox, non_maximum_suppression};
/// let at = |x| BoundingBox::new(x, 0.0, x + 10.0, 10.0);
/// assert_eq!(non_maximum_suppression(&[at(0.0), at(1.0), at(8.0)], &[0.6, 0.9, 0.5], 0.5)?, [1, 2]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Lengths`].
pub fn non_maximum_suppression(boxes: &[BoundingBox], scores: &[f32], threshold: f32) -> Result<Vec<usize>> {
    suppress(boxes, scores, |_, _| true, threshold)
}

/// [`non_maximum_suppression`] among the boxes of each class; the boxes of all classes that are kept, the highest
/// score first. torchvision calls it `batched_nms`.
///
/// ```
/// use versant_data::metrics::{BoundingBox, class_aware_suppression};
/// let same = BoundingBox::new(0.0, 0.0, 10.0, 10.0);
/// assert_eq!(class_aware_suppression(&[same; 3], &[0.6, 0.9, 0.5], &[4, 7, 7], 0.5)?, [1, 0]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Lengths`].
pub fn class_aware_suppression(
    boxes: &[BoundingBox],
    scores: &[f32],
    classes: &[i32],
    threshold: f32,
) -> Result<Vec<usize>> {
    check_lengths(("boxes", boxes.len()), ("classes", classes.len()))?;
    suppress(boxes, scores, |a, b| classes[a] == classes[b], threshold)
}

/// Takes boxes by their scores, but for those that overlap one that was taken and may suppress them.
fn suppress(
    boxes: &[BoundingBox],
    scores: &[f32],
    rivals: impl Fn(usize, usize) -> bool,
    threshold: f32,
) -> Result<Vec<usize>> {
    check_lengths(("boxes", boxes.len()), ("scores", scores.len()))?;
    let mut kept: Vec<usize> = Vec::new();
    for at in by_score(scores.iter().copied()) {
        if kept.iter().all(|&other| !rivals(at, other) || boxes[at].iou(&boxes[other]) <= threshold) {
            kept.push(at);
        }
    }
    Ok(kept)
}

/// Numbers in the order of descending scores, equal ones in their own order, NaN last.
fn by_score(scores: impl Iterator<Item = f32>) -> Vec<usize> {
    let scores: Vec<f32> = scores.map(|s| if s.is_nan() { f32::NEG_INFINITY } else { s }).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// A box that a model found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// The number of the picture.
    pub image: usize,
    /// The class, from 0.
    pub class: usize,
    /// How sure the model is.
    pub score: f32,
    /// Where.
    pub bounds: BoundingBox,
}

/// A box that is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// The number of the picture.
    pub image: usize,
    /// The class, from 0.
    pub class: usize,
    /// Where.
    pub bounds: BoundingBox,
}

/// The average precision of one class at one overlap: detections are taken from the highest score down, each is right
/// if the box of the same picture that it overlaps most was not found before and overlaps by at least `iou`; the
/// result is the area under the precision-recall curve after precision was made to fall monotonically (Everingham et
/// al., "The PASCAL Visual Object Classes Challenge", 2010, as from VOC 2010 on, at every recall).
///
/// ```
/// use versant_data::metrics::{BoundingBox, Detection, Truth, average_precision};
/// let at = |x| BoundingBox::new(x, 0.0, x + 10.0, 10.0);
/// let truth = [0.0, 50.0].map(|x| Truth { image: 0, class: 0, bounds: at(x) });
/// let found = [(0.9, 1.0), (0.8, 20.0), (0.7, 49.0)];
/// let found = found.map(|(score, x)| Detection { image: 0, class: 0, score, bounds: at(x) });
/// assert!((average_precision(&found, &truth, 0, 0.5)? - 5.0 / 6.0).abs() < 1e-12);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Empty`] if no box of this class is there.
pub fn average_precision(detections: &[Detection], truths: &[Truth], class: usize, iou: f32) -> Result<f64> {
    let mut there: BTreeMap<usize, Vec<(BoundingBox, bool)>> = BTreeMap::new();
    for truth in truths.iter().filter(|truth| truth.class == class) {
        there.entry(truth.image).or_default().push((truth.bounds, false));
    }
    let all: usize = there.values().map(Vec::len).sum();
    if all == 0 {
        return Err(DataError::Empty { what: "true boxes of the class" });
    }
    let own: Vec<&Detection> = detections.iter().filter(|d| d.class == class).collect();
    let (mut precision, mut right, mut hits) = (Vec::new(), Vec::new(), 0);
    for (place, at) in by_score(own.iter().map(|d| d.score)).into_iter().enumerate() {
        let candidates = there.get_mut(&own[at].image).into_iter().flatten();
        let best = candidates
            .map(|candidate| (candidate.0.iou(&own[at].bounds), candidate))
            // Of equal overlaps the first box.
            .reduce(|best, other| if other.0 > best.0 { other } else { best });
        let hit = best.is_some_and(|(overlap, (_, found))| {
            overlap >= iou && overlap > 0.0 && !std::mem::replace(found, true)
        });
        right.push(hit);
        hits += usize::from(hit);
        precision.push(hits as f64 / (place + 1) as f64);
    }
    // From the end: the best precision at this recall or a higher one.
    let mut best: f64 = 0.0;
    let mut sum = 0.0;
    for (&precision, &hit) in precision.iter().zip(&right).rev() {
        best = best.max(precision);
        sum += if hit { best } else { 0.0 };
    }
    Ok(sum / all as f64)
}

/// The mean of [`average_precision`] over the classes that are there and over the overlaps: `&[0.5]` gives VOC's
/// figure, 0.5 to 0.95 in steps of 0.05 COCO's (but for COCO's sampling of the curve at 101 recalls).
///
/// # Errors
/// [`DataError::Empty`] without boxes or overlaps.
pub fn mean_average_precision(detections: &[Detection], truths: &[Truth], ious: &[f32]) -> Result<f64> {
    let classes: BTreeSet<usize> = truths.iter().map(|truth| truth.class).collect();
    if classes.is_empty() || ious.is_empty() {
        return Err(DataError::Empty { what: "mean average precision" });
    }
    let mut sum = 0.0;
    for &class in &classes {
        for &iou in ious {
            sum += average_precision(detections, truths, class, iou)?;
        }
    }
    Ok(sum / (classes.len() * ious.len()) as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(x: f32) -> BoundingBox {
        BoundingBox::new(x, 0.0, x + 10.0, 10.0)
    }

    #[test]
    fn a_box_found_twice_counts_once_and_pictures_are_kept_apart() {
        let truths = [Truth { image: 1, class: 0, bounds: at(0.0) }];
        let found = |image, score| Detection { image, class: 0, score, bounds: at(0.0) };
        let ap = |found: &[Detection]| average_precision(found, &truths, 0, 0.5).unwrap();
        assert_eq!(ap(&[found(1, 0.9), found(1, 0.8)]), 1.0);
        assert_eq!(ap(&[found(0, 0.9), found(1, 0.8)]), 0.5);
        assert_eq!(ap(&[found(0, 0.9)]), 0.0);
        assert_eq!(ap(&[found(1, f32::NAN), found(0, 0.1)]), 0.5);
        assert_eq!(ap(&[]), 0.0);
        assert!(average_precision(&[], &truths, 1, 0.5).is_err());
        let map = mean_average_precision(&[found(1, 1.0)], &truths, &[0.5, 1.0]).unwrap();
        assert_eq!(map, 1.0);
        assert!(mean_average_precision(&[], &[], &[0.5]).is_err());
    }

    #[test]
    fn odd_boxes_overlap_nothing() {
        let inside_out = BoundingBox::new(5.0, 5.0, 1.0, 1.0);
        let nan = BoundingBox::new(f32::NAN, 0.0, 1.0, 1.0);
        for odd in [inside_out, nan, BoundingBox::default()] {
            assert_eq!((odd.iou(&at(0.0)), odd.iou(&odd)), (0.0, 0.0), "{odd:?}");
        }
        assert!(non_maximum_suppression(&[at(0.0)], &[], 0.5).is_err());
        let all = non_maximum_suppression(&[at(0.0), at(0.0)], &[f32::NAN, 0.1], 0.5).unwrap();
        assert_eq!(all, [1]);
    }

    proptest! {
        #[test]
        fn suppression_keeps_what_is_far_and_only_that(
            boxes in proptest::collection::vec((0..30i8, 0..30i8, 1..20i8, 1..20i8, 0..9i8), 0..20),
        ) {
            let scores: Vec<f32> = boxes.iter().map(|b| f32::from(b.4)).collect();
            let boxes: Vec<BoundingBox> = boxes
                .iter()
                .map(|&(x, y, w, h, _)| [x, y, x + w, y + h].map(f32::from))
                .map(|[a, b, c, d]| BoundingBox::new(a, b, c, d))
                .collect();
            let kept = non_maximum_suppression(&boxes, &scores, 0.4).unwrap();
            for (place, &a) in kept.iter().enumerate() {
                prop_assert!(kept[..place].iter().all(|&b| boxes[a].iou(&boxes[b]) <= 0.4));
            }
            for a in (0..boxes.len()).filter(|a| !kept.contains(a)) {
                prop_assert!(kept.iter().any(|&b| boxes[a].iou(&boxes[b]) > 0.4 && scores[b] >= scores[a]));
            }
        }
    }
}
