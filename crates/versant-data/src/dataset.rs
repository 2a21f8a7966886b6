//! Labelled images in host memory.

use std::sync::Arc;

use crate::error::{DataError, Result};

/// Pixels of many images as they are stored.
#[derive(Clone, Debug, PartialEq)]
enum Pixels {
    /// Byte `b` stands for the value `b / 255`.
    U8(Vec<u8>),
    F32(Vec<f32>),
}

/// Images of one size in host memory: `n` of them, each `[channels, height, width]`, row-major.
///
/// Bytes are kept as bytes (a quarter of the memory) and read as values from 0 to 1.
///
/// ```
/// use versant_data::Images;
/// let two = Images::from_bytes(vec![0, 51, 255, 102], [2, 1, 1, 2])?;
/// assert_eq!(two.get(1)?.data(), [1.0, 0.4]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    pixels: Pixels,
    shape: [usize; 4],
}

/// One image, `[channels, height, width]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    data: Vec<f32>,
    shape: [usize; 3],
}

impl Image {
    /// An image of these values.
    ///
    /// # Errors
    /// [`DataError::Elements`] if `data` has another number of elements than `shape`.
    pub fn new(data: Vec<f32>, shape: [usize; 3]) -> Result<Image> {
        check_elements("image", data.len(), &shape)?;
        Ok(Image { data, shape })
    }

    /// The values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }
}

/// That `found` is the product of `shape`, and that no product of some of its extents overflows.
pub(crate) fn check_elements(what: &'static str, found: usize, shape: &[usize]) -> Result<()> {
    let product = |smallest: usize| {
        let mut extents = shape.iter().map(|&d| d.max(smallest));
        extents.try_fold(1usize, |n, extent| n.checked_mul(extent))
    };
    // First as if nothing were 0, so that "no images of an impossible size" is refused too.
    let expected = product(1).and_then(|_| product(0));
    if expected == Some(found) {
        return Ok(());
    }
    Err(DataError::Elements { what, shape: shape.to_vec(), expected: expected.unwrap_or(usize::MAX), found })
}

impl Images {
    /// Images whose byte `b` stands for the value `b / 255`; `shape` is `[n, channels, height, width]`.
    ///
    /// # Errors
    /// [`DataError::Elements`] if the number of bytes is not the product of `shape`.
    pub fn from_bytes(bytes: Vec<u8>, shape: [usize; 4]) -> Result<Images> {
        check_elements("images", bytes.len(), &shape)?;
        Ok(Images { pixels: Pixels::U8(bytes), shape })
    }

    /// Images of these values; `shape` is `[n, channels, height, width]`.
    ///
    /// # Errors
    /// [`DataError::Elements`] if the number of values is not the product of `shape`.
    pub fn from_values(values: Vec<f32>, shape: [usize; 4]) -> Result<Images> {
        check_elements("images", values.len(), &shape)?;
        Ok(Images { pixels: Pixels::F32(values), shape })
    }

    /// `[n, channels, height, width]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Shape of one image, `[channels, height, width]`.
    pub fn image_shape(&self) -> [usize; 3] {
        let [_, c, h, w] = self.shape;
        [c, h, w]
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of one image.
    ///
    /// # Errors
    /// [`DataError::Index`].
    pub fn get(&self, index: usize) -> Result<Image> {
        let mut data = Vec::new();
        self.append(index, &mut data)?;
        Ok(Image { data, shape: self.image_shape() })
    }

    /// Appends one image's values to `out`.
    ///
    /// # Errors
    /// [`DataError::Index`].
    pub fn append(&self, index: usize, out: &mut Vec<f32>) -> Result<()> {
        let range = self.range(index)?;
        match &self.pixels {
            Pixels::U8(bytes) => out.extend(bytes[range].iter().map(|&b| f32::from(b) / 255.0)),
            Pixels::F32(values) => out.extend_from_slice(&values[range]),
        }
        Ok(())
    }

    /// The images with these numbers, in that order; a number may come twice.
    ///
    /// # Errors
    /// [`DataError::Index`].
    pub fn select(&self, indices: &[usize]) -> Result<Images> {
        fn gather<T: Copy>(images: &Images, all: &[T], indices: &[usize]) -> Result<Vec<T>> {
            let mut out = Vec::with_capacity(indices.len() * images.image_len());
            for &index in indices {
                out.extend_from_slice(&all[images.range(index)?]);
            }
            Ok(out)
        }
        let [_, c, h, w] = self.shape;
        let pixels = match &self.pixels {
            Pixels::U8(bytes) => Pixels::U8(gather(self, bytes, indices)?),
            Pixels::F32(values) => Pixels::F32(gather(self, values, indices)?),
        };
        Ok(Images { pixels, shape: [indices.len(), c, h, w] })
    }

    fn image_len(&self) -> usize {
        self.image_shape().iter().product()
    }

    fn range(&self, index: usize) -> Result<std::ops::Range<usize>> {
        if index >= self.len() {
            return Err(DataError::Index { index, len: self.len() });
        }
        let len = self.image_len();
        Ok(index * len..(index + 1) * len)
    }
}

/// A data set in two parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// For training.
    pub train: Dataset,
    /// Held out.
    pub test: Dataset,
}

/// Images with a class label each, and the classes' names. Cloning shares the memory.
///
/// ```
/// use versant_data::{Dataset, Images};
/// let images = Images::from_bytes(vec![10, 20, 30], [3, 1, 1, 1])?;
/// let set = Dataset::new(images, vec![0, 1, 1], ["dark", "light"])?;
/// assert_eq!(set.subset(&[2, 0])?.labels(), [1, 0]);
/// assert_eq!(set.class_counts(), [1, 2]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    images: Arc<Images>,
    labels: Arc<[i32]>,
    classes: Arc<[String]>,
}

impl Dataset {
    /// A data set of `images`, the class of each (from 0) and the classes' names.
    ///
    /// # Errors
    /// [`DataError::Lengths`] if there are not as many labels as images, [`DataError::Label`] if a label is not
    /// the number of a class.
    pub fn new<S: Into<String>>(
        images: Images,
        labels: Vec<i32>,
        classes: impl IntoIterator<Item = S>,
    ) -> Result<Dataset> {
        let classes: Arc<[String]> = classes.into_iter().map(Into::into).collect();
        check_lengths(("images", images.len()), ("labels", labels.len()))?;
        check_labels("label", &labels, classes.len())?;
        Ok(Dataset { images: Arc::new(images), labels: labels.into(), classes })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The class of each image, from 0.
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }

    /// The classes' names, by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of samples of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for &label in self.labels.iter() {
            counts[label as usize] += 1;
        }
        counts
    }

    /// The samples with these numbers, in that order.
    ///
    /// # Errors
    /// [`DataError::Index`].
    pub fn subset(&self, indices: &[usize]) -> Result<Dataset> {
        Ok(Dataset {
            images: Arc::new(self.images.select(indices)?),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            classes: self.classes.clone(),
        })
    }
}

pub(crate) fn check_lengths(
    (left, left_len): (&'static str, usize),
    (right, right_len): (&'static str, usize),
) -> Result<()> {
    if left_len == right_len {
        return Ok(());
    }
    Err(DataError::Lengths { left, left_len, right, right_len })
}

pub(crate) fn check_labels(what: &'static str, labels: &[i32], classes: usize) -> Result<()> {
    let wrong = |label: i32| usize::try_from(label).map_or(true, |label| label >= classes);
    match labels.iter().position(|&label| wrong(label)) {
        None => Ok(()),
        Some(index) => Err(DataError::Label { what, index, label: labels[index], classes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_labels_and_indices_are_checked() {
        assert!(Images::from_bytes(vec![0; 5], [2, 1, 1, 3]).is_err());
        assert!(Images::from_values(vec![0.0; 4], [usize::MAX, 2, 2, 1]).is_err());
        assert!(Images::from_bytes(vec![], [0, 1, usize::MAX, 2]).is_err());
        let images = || Images::from_bytes(vec![0; 4], [2, 1, 1, 2]).unwrap();
        let lengths = Dataset::new(images(), vec![0], ["a"]).unwrap_err();
        assert_eq!(lengths.to_string(), "2 images and 1 labels: they must be as many");
        for wrong in [-1, 1, i32::MIN] {
            let error = Dataset::new(images(), vec![0, wrong], ["a"]).unwrap_err();
            assert!(matches!(error, DataError::Label { index: 1, label, .. } if label == wrong));
        }
        let set = Dataset::new(images(), vec![0, 0], ["a"]).unwrap();
        assert!(matches!(set.subset(&[0, 2]), Err(DataError::Index { index: 2, len: 2 })));
        assert!(set.subset(&[]).unwrap().is_empty());
    }

    #[test]
    fn bytes_and_values_read_alike() {
        let bytes: Vec<u8> = (0..=255).collect();
        let values: Vec<f32> = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
        let a = Images::from_bytes(bytes, [4, 2, 4, 8]).unwrap();
        let b = Images::from_values(values, [4, 2, 4, 8]).unwrap();
        for i in 0..4 {
            assert_eq!(a.get(i).unwrap(), b.get(i).unwrap());
        }
        assert_eq!(a.select(&[3, 1, 3]).unwrap().get(2).unwrap(), a.get(3).unwrap());
    }
}
