//! The last step: a batch in host memory becomes tensors.

use versant_graph::{Device, Tensor};

use crate::error::Result;
use crate::loader::{Epoch, HostBatch, Loader};

/// A batch as tensors on a device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images, f32 `[n, channels, height, width]`.
    pub x: Tensor,
    /// The class of each image, i32 `[n]`.
    pub y: Tensor,
    /// The share of each class in each image, f32 `[n, classes]`, if the loader [mixes](Loader::mix).
    pub soft: Option<Tensor>,
    /// The same labels in host memory, for metrics: reading `y` back would wait for the device.
    pub labels: Vec<i32>,
    /// The number of each image in the data set.
    pub indices: Vec<usize>,
}

impl Batch {
    /// Number of images, `n`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl HostBatch {
    /// Uploads the batch. A failure of the device is kept in the tensors and returned by their first use.
    ///
    /// ```
    /// use versant_data::{Loader, digits};
    /// use versant_graph::Device;
    /// let mut epoch = Loader::new(digits::embedded()?).batch(10).epoch(0)?;
    /// let batch = epoch.next().expect("digits are not empty")?.on(&Device::cpu());
    /// assert_eq!(batch.x.shape(), [10, 1, 8, 8]);
    /// assert_eq!(batch.y.shape(), [10]);
    /// # Ok::<(), versant_data::DataError>(())
    /// ```
    #[track_caller]
    pub fn on(self, device: &Device) -> Batch {
        let samples = self.y.len();
        let soft = self.soft.map(|soft| {
            let classes = soft.len().checked_div(samples).unwrap_or(0);
            Tensor::from_slice(device, &soft, &[samples, classes])
        });
        Batch {
            x: Tensor::from_slice(device, &self.x, &self.shape),
            y: Tensor::from_slice(device, &self.y, &[samples]),
            soft,
            labels: self.y,
            indices: self.indices,
        }
    }
}

impl Loader {
    /// The batches of an epoch as tensors: [`Loader::epoch`], uploaded one by one as they are asked for.
    ///
    /// # Errors
    /// As [`Loader::epoch`].
    pub fn epoch_on(&self, device: &Device, epoch: u64) -> Result<Batches> {
        Ok(self.epoch(epoch)?.on(device))
    }
}

impl Epoch {
    /// The same batches as tensors, uploaded one by one as they are asked for.
    pub fn on(self, device: &Device) -> Batches {
        Batches { epoch: self, device: device.clone() }
    }
}

/// The batches of one epoch as tensors, from [`Loader::epoch_on`].
///
/// ```
/// use versant_data::{Loader, digits};
/// use versant_graph::Device;
/// let loader = Loader::new(digits::embedded()?).batch(600).shuffle(1);
/// let mut images = 0;
/// for batch in loader.epoch_on(&Device::cpu(), 0)? {
///     images += batch?.len();
/// }
/// assert_eq!(images, 1797);
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Debug)]
pub struct Batches {
    epoch: Epoch,
    device: Device,
}

impl Batches {
    /// Batches still to come, if none fails.
    pub fn remaining(&self) -> usize {
        self.epoch.remaining()
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        Some(self.epoch.next()?.map(|batch| batch.on(&self.device)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.epoch.size_hint()
    }
}

impl std::iter::FusedIterator for Batches {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Dataset, Images};

    #[test]
    fn tensors_hold_what_the_host_batch_held() {
        let images = Images::from_values((0..12).map(|v| v as f32).collect(), [3, 1, 2, 2]);
        let data = Dataset::new(images.unwrap(), vec![1, 0, 1], ["a", "b"]).unwrap();
        let loader = Loader::new(data).batch(2).shuffle(3).mix(crate::Mix::Up { alpha: 1.0 });
        let tensors = loader.epoch_on(&Device::cpu(), 0).unwrap();
        assert_eq!(tensors.remaining(), 2);
        for (host, batch) in loader.epoch(0).unwrap().zip(tensors) {
            let (host, batch) = (host.unwrap(), batch.unwrap());
            assert_eq!(batch.x.shape(), host.shape);
            assert_eq!(batch.x.to_vec::<f32>().unwrap(), host.x);
            assert_eq!(batch.y.to_vec::<i32>().unwrap(), host.y);
            let soft = batch.soft.unwrap();
            assert_eq!(soft.shape(), [host.y.len(), 2]);
            assert_eq!(soft.to_vec::<f32>().unwrap(), host.soft.unwrap());
            assert_eq!((batch.labels, batch.indices), (host.y, host.indices));
        }
    }
}
