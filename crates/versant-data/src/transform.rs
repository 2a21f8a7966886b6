//! Augmentation: pure functions on host images, and transforms that draw their parameters. This module has what
//! moves whole images; [`augment`](crate::augment) has rotations, colours, noise and erasing.
//!
//! What a transform does to a sample depends only on the seed, the epoch, the sample's number and the
//! transform's place in the list: not on batch size, order, threads or what other transforms drew.

use versant_graph::{RandomKey, random};

use crate::dataset::Image;
use crate::error::{DataError, Result};

/// Random numbers for one sample: a counter-based sequence named by (seed, epoch, sample).
///
/// ```
/// use versant_data::SampleRng;
/// let draw = || SampleRng::new(7, 2, 31).below(1000);
/// assert_eq!(draw(), draw());
/// ```
#[derive(Clone, Debug)]
pub struct SampleRng {
    key: RandomKey,
    drawn: u64,
}

impl SampleRng {
    /// The sequence of a sample in an epoch.
    pub fn new(seed: u64, epoch: u64, sample: u64) -> SampleRng {
        Self::from_key(RandomKey::new(seed).fold(epoch).fold(sample))
    }

    /// The sequence of a key.
    pub fn from_key(key: RandomKey) -> SampleRng {
        SampleRng { key, drawn: 0 }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [low, high] = self.key.fold(self.drawn).words();
        self.drawn += 1;
        u64::from(low) | u64::from(high) << 32
    }

    /// A number from `0..bound`, each with the same probability up to `bound / 2^64`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A number from `[0, 1)`, a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// A number from `[low, high)`; `low` if they are equal.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// A key for drawing many numbers at once, distinct from everything else that this sequence gives.
    pub fn key(&mut self) -> RandomKey {
        self.drawn += 1;
        self.key.fold(self.drawn - 1).split("key")
    }

    /// A number from the Beta distribution with both parameters `alpha`, which must be above 0: from 0 to 1, near
    /// both ends for a small `alpha`, near 1/2 for a large one.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        // Logarithms, because for a small alpha both gamma numbers may be too small for a float.
        let (a, b) = (self.log_gamma(alpha), self.log_gamma(alpha));
        1.0 / (1.0 + libm::exp(b - a))
    }

    /// The logarithm of a number from the gamma distribution (Marsaglia and Tsang, "A simple method for generating
    /// gamma variables", 2000), with its rule for shapes below 1 applied to every shape.
    fn log_gamma(&mut self, shape: f64) -> f64 {
        let positive = |rng: &mut Self| ((rng.next_u64() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        let d = shape + 2.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = f64::from(random::normal(self.key().words(), 1)[0]);
            let v = (1.0 + c * x).powi(3);
            let log_u = libm::log(positive(self));
            if v > 0.0 && log_u < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return libm::log(d * v) + libm::log(positive(self)) / shape;
            }
        }
    }

    /// `true` with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }
}

/// A change to one sample, drawn anew for every sample and epoch.
///
/// ```
/// use versant_data::{Image, Result, SampleRng, Transform};
///
/// struct Brightness(f32);
///
/// impl Transform for Brightness {
///     fn name(&self) -> &str {
///         "brightness"
///     }
///     fn apply(&self, mut image: Image, rng: &mut SampleRng) -> Result<Image> {
///         let add = self.0 * (2.0 * rng.uniform() - 1.0);
///         image.data_mut().iter_mut().for_each(|v| *v += add);
///         Ok(image)
///     }
/// }
/// # let image = Image::new(vec![0.5], [1, 1, 1])?;
/// # let out = Brightness(0.1).apply(image, &mut SampleRng::new(0, 0, 0))?;
/// # assert!((out.data()[0] - 0.5).abs() <= 0.1);
/// # Ok::<(), versant_data::DataError>(())
/// ```
pub trait Transform: Send + Sync {
    /// A name for messages.
    fn name(&self) -> &str;

    /// The changed image. All samples of a batch must come out with one shape.
    ///
    /// # Errors
    /// Whatever prevents it; the loader adds the transform's name and the sample's number.
    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image>;
}

/// The largest number of values that [`crop`] makes: 2^31.
const MAX_VALUES: usize = 1 << 31;

/// The window of `size` (height, width) whose upper left corner is at `origin` (row, column); where it reaches
/// beyond the image, `fill`.
///
/// ```
/// use versant_data::{Image, transform::crop};
/// let image = Image::new(vec![1., 2., 3., 4.], [1, 2, 2])?;
/// assert_eq!(crop(&image, [1, -1], [1, 3], 0.)?.data(), [0., 3., 4.]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Option`] if the result would have more than 2^31 values.
pub fn crop(image: &Image, origin: [isize; 2], size: [usize; 2], fill: f32) -> Result<Image> {
    let [channels, height, width] = image.shape();
    let [rows, columns] = size;
    let values = rows
        .checked_mul(columns)
        .and_then(|n| n.checked_mul(channels))
        .filter(|&n| n <= MAX_VALUES)
        .ok_or_else(|| DataError::Option {
            option: "crop size",
            value: format!("{size:?} of {channels} channels"),
            rule: "at most 2^31 values",
        })?;
    let mut out = vec![fill; values];
    let (top, from_row, shared_rows) = overlap(origin[0], rows, height);
    let (left, from_column, shared_columns) = overlap(origin[1], columns, width);
    for channel in 0..channels {
        for row in 0..shared_rows {
            let to = (channel * rows + top + row) * columns + left;
            let from = (channel * height + from_row + row) * width + from_column;
            out[to..to + shared_columns].copy_from_slice(&image.data()[from..from + shared_columns]);
        }
    }
    Image::new(out, [channels, rows, columns])
}

/// Where a window of `size` beginning at `origin` meets `0..extent`: position in the window, position in the
/// extent, and length (0 if they do not meet).
fn overlap(origin: isize, size: usize, extent: usize) -> (usize, usize, usize) {
    let skipped = origin.min(0).unsigned_abs();
    let from = origin.max(0).unsigned_abs();
    let length = size.saturating_sub(skipped).min(extent.saturating_sub(from));
    if length == 0 { (0, 0, 0) } else { (skipped, from, length) }
}

/// The image moved down by `by[0]` and to the right by `by[1]` pixels; what becomes free is `fill`.
///
/// # Errors
/// As [`crop`].
pub fn shift(image: &Image, by: [isize; 2], fill: f32) -> Result<Image> {
    let [_, height, width] = image.shape();
    // A shift by isize::MIN leaves nothing of an image, and neither does one by isize::MAX.
    let origin = by.map(|d| d.checked_neg().unwrap_or(isize::MAX));
    crop(image, origin, [height, width], fill)
}

/// The image mirrored left to right.
pub fn flip_horizontal(mut image: Image) -> Image {
    let width = image.shape()[2].max(1);
    image.data_mut().chunks_exact_mut(width).for_each(<[f32]>::reverse);
    image
}

/// The image mirrored top to bottom.
pub fn flip_vertical(mut image: Image) -> Image {
    let [_, height, width] = image.shape();
    for channel in image.data_mut().chunks_exact_mut((height * width).max(1)) {
        for row in 0..height / 2 {
            let (upper, lower) = channel.split_at_mut((height - 1 - row) * width);
            upper[row * width..(row + 1) * width].swap_with_slice(&mut lower[..width]);
        }
    }
    image
}

/// Pads the image on all sides and cuts a window of a fixed size out at a random place.
#[derive(Clone, Copy, Debug)]
pub struct RandomCrop {
    size: [usize; 2],
    padding: usize,
    fill: f32,
}

impl RandomCrop {
    /// Windows of `height` × `width`, without padding.
    pub fn new(height: usize, width: usize) -> RandomCrop {
        RandomCrop { size: [height, width], padding: 0, fill: 0.0 }
    }

    /// Pads by this many pixels on each side first.
    pub fn padding(mut self, pixels: usize) -> Self {
        self.padding = pixels;
        self
    }

    /// The value of the padding (before normalisation); 0 unless said otherwise.
    pub fn fill(mut self, value: f32) -> Self {
        self.fill = value;
        self
    }
}

impl Transform for RandomCrop {
    fn name(&self) -> &str {
        "random crop"
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let too_large = || DataError::Option {
            option: "random crop",
            value: format!("{:?} with padding {}", self.size, self.padding),
            rule: "the window must fit into the padded image, the padding into 2^31 pixels",
        };
        let padding =
            isize::try_from(self.padding).ok().filter(|&p| p <= MAX_VALUES as isize).ok_or_else(too_large)?;
        let [_, height, width] = image.shape();
        let mut origin = [0; 2];
        for (axis, extent) in [height, width].into_iter().enumerate() {
            let room =
                extent.saturating_add(2 * self.padding).checked_sub(self.size[axis]).ok_or_else(too_large)?;
            origin[axis] = rng.below(room.saturating_add(1)) as isize - padding;
        }
        crop(&image, origin, self.size, self.fill)
    }
}

/// Moves the image by up to a number of pixels in each direction.
#[derive(Clone, Copy, Debug)]
pub struct RandomShift {
    max: [u32; 2],
    fill: f32,
}

impl RandomShift {
    /// Moves by `-rows..=rows` downwards and by `-columns..=columns` to the right.
    pub fn new(rows: u32, columns: u32) -> RandomShift {
        RandomShift { max: [rows, columns], fill: 0.0 }
    }

    /// The value of what becomes free (before normalisation); 0 unless said otherwise.
    pub fn fill(mut self, value: f32) -> Self {
        self.fill = value;
        self
    }
}

impl Transform for RandomShift {
    fn name(&self) -> &str {
        "random shift"
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let by = self.max.map(|max| rng.below(2 * max as usize + 1) as isize - max as isize);
        shift(&image, by, self.fill)
    }
}

/// Mirrors the image with a probability.
#[derive(Clone, Copy, Debug)]
pub struct RandomFlip {
    probability: f32,
    flip: fn(Image) -> Image,
}

impl RandomFlip {
    /// Mirrors left to right with this probability: never at 0 (or NaN), always at 1.
    pub fn horizontal(probability: f32) -> RandomFlip {
        RandomFlip { probability, flip: flip_horizontal }
    }

    /// Mirrors top to bottom with this probability.
    pub fn vertical(probability: f32) -> RandomFlip {
        RandomFlip { probability, flip: flip_vertical }
    }
}

impl Transform for RandomFlip {
    fn name(&self) -> &str {
        "random flip"
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        Ok(if rng.chance(self.probability) { (self.flip)(image) } else { image })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbered(shape: [usize; 3]) -> Image {
        let n: usize = shape.iter().product();
        Image::new((1..=n).map(|v| v as f32).collect(), shape).unwrap()
    }

    #[test]
    fn shifts_and_flips_move_every_channel() {
        let image = numbered([2, 2, 3]);
        let right = shift(&image, [0, 1], 0.0).unwrap();
        assert_eq!(right.data(), [0., 1., 2., 0., 4., 5., 0., 7., 8., 0., 10., 11.]);
        let up = shift(&image, [-1, 0], -1.0).unwrap();
        assert_eq!(up.data(), [4., 5., 6., -1., -1., -1., 10., 11., 12., -1., -1., -1.]);
        let flipped = flip_horizontal(image.clone());
        assert_eq!(flipped.data(), [3., 2., 1., 6., 5., 4., 9., 8., 7., 12., 11., 10.]);
        assert_eq!(flip_horizontal(flipped), image);
        let flipped = flip_vertical(image.clone());
        assert_eq!(flipped.data(), [4., 5., 6., 1., 2., 3., 10., 11., 12., 7., 8., 9.]);
        assert_eq!(flip_vertical(numbered([1, 3, 1])).data(), [3., 2., 1.]);
        assert_eq!(flip_vertical(numbered([2, 0, 3])).data(), [0f32; 0]);
        for far in [isize::MIN, isize::MAX, 2, -3] {
            let gone = shift(&image, [far, far], 0.5).unwrap();
            assert!(gone.data().iter().all(|&v| v == 0.5));
        }
        assert!(crop(&image, [0, 0], [usize::MAX, 2], 0.0).is_err());
        assert_eq!(flip_horizontal(numbered([1, 2, 0])).data(), [0f32; 0]);
    }

    #[test]
    fn random_crops_reach_every_place_and_refuse_what_does_not_fit() {
        let image = numbered([1, 4, 4]);
        let transform = RandomCrop::new(4, 4).padding(1).fill(0.0);
        let mut seen = std::collections::BTreeSet::new();
        for sample in 0..200 {
            let out = transform.apply(image.clone(), &mut SampleRng::new(1, 0, sample)).unwrap();
            assert_eq!(out.shape(), [1, 4, 4]);
            seen.insert(format!("{:?}", out.data()));
        }
        assert_eq!(seen.len(), 9);
        let mut rng = SampleRng::new(0, 0, 0);
        for bad in [RandomCrop::new(5, 4), RandomCrop::new(4, 4).padding(usize::MAX)] {
            assert!(bad.apply(image.clone(), &mut rng).is_err());
        }
        let whole = RandomCrop::new(4, 4).apply(image.clone(), &mut rng).unwrap();
        assert_eq!(whole, image);
    }

    #[test]
    fn beta_numbers_have_their_mean_and_variance() {
        for alpha in [0.02, 0.2, 1.0, 4.0] {
            let draws: Vec<f64> = (0..4000).map(|s| SampleRng::new(11, 0, s).beta(alpha)).collect();
            let mean = draws.iter().sum::<f64>() / 4000.0;
            let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 4000.0;
            // The mean's standard deviation is at most 0.008.
            assert!((mean - 0.5).abs() < 0.03, "{alpha}: {mean}");
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((variance / expected - 1.0).abs() < 0.1, "{alpha}: {variance}, not {expected}");
        }
    }

    #[test]
    fn draws_are_uniform_and_named() {
        let mut counts = [0; 5];
        let mut flips = 0;
        for sample in 0..5000 {
            let mut rng = SampleRng::new(3, 1, sample);
            counts[rng.below(5)] += 1;
            flips += usize::from(rng.chance(0.25));
        }
        // Binomial standard deviations: 28 and 31.
        assert!(counts.iter().all(|&c: &i32| (c - 1000).abs() < 150), "{counts:?}");
        assert!(flips.abs_diff(1250) < 160, "{flips}");
        let first = |seed, epoch, sample| SampleRng::new(seed, epoch, sample).next_u64();
        let all = [first(1, 1, 1), first(2, 1, 1), first(1, 2, 1), first(1, 1, 2)];
        assert!((1..4).all(|i| !all[..i].contains(&all[i])));
        assert!(!SampleRng::new(0, 0, 0).chance(0.0) && SampleRng::new(0, 0, 0).chance(1.0));
        assert_eq!(SampleRng::new(0, 0, 0).below(0), 0);
    }

    proptest! {
        #[test]
        fn a_crop_is_what_its_definition_says(
            h in 0usize..5, w in 0usize..5, rows in 0usize..7, columns in 0usize..7,
            top in -8isize..8, left in -8isize..8,
        ) {
            let image = numbered([2, h, w]);
            let out = crop(&image, [top, left], [rows, columns], 0.0).unwrap();
            for c in 0..2 {
                for y in 0..rows {
                    for x in 0..columns {
                        let (sy, sx) = (top + y as isize, left + x as isize);
                        let inside = (0..h as isize).contains(&sy) && (0..w as isize).contains(&sx);
                        let expected = if inside {
                            image.data()[(c * h + sy as usize) * w + sx as usize]
                        } else {
                            0.0
                        };
                        prop_assert_eq!(out.data()[(c * rows + y) * columns + x], expected);
                    }
                }
            }
        }
    }
}
