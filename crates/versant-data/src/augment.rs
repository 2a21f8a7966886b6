//! More augmentation: rotation, colours, noise and erasing, each as a pure function or a transform that draws its
//! parameters, and transforms made of others.
//!
//! Values are expected from 0 to 1 with fills given on that scale: augment before
//! [`Loader::normalise`](crate::Loader::normalise), which comes last anyway.

use versant_graph::random;

use crate::dataset::Image;
use crate::error::{DataError, Result};
use crate::transform::{SampleRng, Transform};

/// The image turned by an angle about its centre, counter-clockwise, at its own size; values between pixels are
/// interpolated linearly in both directions, and what lies outside counts as `fill`.
///
/// ```
/// use versant_data::{Image, augment::rotate};
/// let image = Image::new(vec![1., 2., 3., 4.], [1, 2, 2])?;
/// let quarter: Vec<f32> = rotate(&image, 90.0, 0.0).data().iter().map(|v| v.round()).collect();
/// assert_eq!(quarter, [2., 4., 1., 3.]);
/// # Ok::<(), versant_data::DataError>(())
/// ```
pub fn rotate(image: &Image, degrees: f32, fill: f32) -> Image {
    let [channels, height, width] = image.shape();
    let (sin, cos) = libm::sincos(f64::from(degrees).to_radians());
    let centre = [height, width].map(|extent| (extent as f64 - 1.0) / 2.0);
    let mut out = image.clone();
    let to = out.data_mut();
    for row in 0..height {
        for column in 0..width {
            let (dy, dx) = (row as f64 - centre[0], column as f64 - centre[1]);
            let (y, x) = (centre[0] + sin * dx + cos * dy, centre[1] + cos * dx - sin * dy);
            let (top, left) = (y.floor(), x.floor());
            let (down, right) = ((y - top) as f32, (x - left) as f32);
            for channel in 0..channels {
                let at = |dy: isize, dx: isize| {
                    let (y, x) = (top as isize + dy, left as isize + dx);
                    let inside = y >= 0 && x >= 0 && (y as usize) < height && (x as usize) < width;
                    let from = || image.data()[(channel * height + y as usize) * width + x as usize];
                    if inside { from() } else { fill }
                };
                let upper = at(0, 0) * (1.0 - right) + at(0, 1) * right;
                let lower = at(1, 0) * (1.0 - right) + at(1, 1) * right;
                to[(channel * height + row) * width + column] = upper * (1.0 - down) + lower * down;
            }
        }
    }
    out
}

/// Turns the image by a random angle.
#[derive(Clone, Copy, Debug)]
pub struct RandomRotation {
    degrees: f32,
    fill: f32,
}

impl RandomRotation {
    /// Turns by `-degrees..degrees`.
    pub fn new(degrees: f32) -> RandomRotation {
        RandomRotation { degrees, fill: 0.0 }
    }

    /// The value of what comes into view; 0 unless said otherwise.
    pub fn fill(mut self, value: f32) -> Self {
        self.fill = value;
        self
    }
}

impl Transform for RandomRotation {
    fn name(&self) -> &str {
        "random rotation"
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let degrees = rng.between(-self.degrees, self.degrees);
        if !degrees.is_finite() {
            return Err(option("rotation", self.degrees, "must be finite"));
        }
        Ok(rotate(&image, degrees, self.fill))
    }
}

/// Brightness, contrast and saturation, each by a factor: 1 changes nothing, 0 gives black, the mean grey and a grey
/// picture; results are held to 0 to 1, as torchvision does. Grey is `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601) of
/// three channels, or the channel itself of one.
///
/// ```
/// use versant_data::{Image, augment::adjust_colour};
/// let image = Image::new(vec![0.5, 0.25, 1.0], [3, 1, 1])?;
/// let grey = 0.299 * 0.5 + 0.587 * 0.25 + 0.114;
/// assert!((adjust_colour(image, 1.0, 1.0, 0.0)?.data()[2] - grey).abs() < 1e-6);
/// # Ok::<(), versant_data::DataError>(())
/// ```
///
/// # Errors
/// [`DataError::Option`] for an image with neither 1 nor 3 channels, or a factor that is negative or not finite.
pub fn adjust_colour(mut image: Image, brightness: f32, contrast: f32, saturation: f32) -> Result<Image> {
    for factor in [brightness, contrast, saturation] {
        if !(factor.is_finite() && factor >= 0.0) {
            return Err(option("colour factor", factor, "must be finite and at least 0"));
        }
    }
    let [channels, height, width] = image.shape();
    if channels != 1 && channels != 3 {
        return Err(option("channels", channels, "colours need 1 or 3"));
    }
    let pixels = height * width;
    let blend =
        |value: f32, other: f32, factor: f32| (value * factor + other * (1.0 - factor)).clamp(0.0, 1.0);
    let grey = |data: &[f32], at: usize| match channels {
        1 => data[at],
        _ => 0.299 * data[at] + 0.587 * data[pixels + at] + 0.114 * data[2 * pixels + at],
    };
    let data = image.data_mut();
    data.iter_mut().for_each(|v| *v = blend(*v, 0.0, brightness));
    let mean = (0..pixels).map(|at| f64::from(grey(data, at))).sum::<f64>() / pixels.max(1) as f64;
    data.iter_mut().for_each(|v| *v = blend(*v, mean as f32, contrast));
    for at in 0..pixels {
        let grey = grey(data, at);
        for channel in 0..channels {
            let value = &mut data[channel * pixels + at];
            *value = blend(*value, grey, saturation);
        }
    }
    Ok(image)
}

/// Changes brightness, contrast and saturation at random.
#[derive(Clone, Copy, Debug)]
pub struct ColourJitter {
    amounts: [f32; 3],
}

impl ColourJitter {
    /// Draws each factor from `1 - amount..1 + amount`, but not below 0.
    pub fn new(brightness: f32, contrast: f32, saturation: f32) -> ColourJitter {
        ColourJitter { amounts: [brightness, contrast, saturation] }
    }
}

impl Transform for ColourJitter {
    fn name(&self) -> &str {
        "colour jitter"
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        // Not `max`, which would hide a NaN.
        let lowest = |amount: f32| if amount > 1.0 { 0.0 } else { 1.0 - amount };
        let [brightness, contrast, saturation] =
            self.amounts.map(|amount| rng.between(lowest(amount), 1.0 + amount));
        adjust_colour(image, brightness, contrast, saturation)
    }
}

/// Adds independent normal numbers to all values; what comes out may lie outside 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct GaussianNoise {
    std: f32,
}

impl GaussianNoise {
    /// Noise of this standard deviation.
    pub fn new(std: f32) -> GaussianNoise {
        GaussianNoise { std }
    }
}

impl Transform for GaussianNoise {
    fn name(&self) -> &str {
        "gaussian noise"
    }

    fn apply(&self, mut image: Image, rng: &mut SampleRng) -> Result<Image> {
        if !self.std.is_finite() {
            return Err(option("standard deviation", self.std, "must be finite"));
        }
        let noise = random::normal(rng.key().words(), image.data().len());
        image.data_mut().iter_mut().zip(noise).for_each(|(v, noise)| *v += self.std * noise);
        Ok(image)
    }
}

/// The image with the rectangle of `size` (height, width) at `origin` (row, column) filled; what reaches beyond the
/// image is cut off.
pub fn erase(mut image: Image, origin: [isize; 2], size: [usize; 2], fill: f32) -> Image {
    let [_, height, width] = image.shape();
    let range = |axis: usize, extent: usize| {
        let end = origin[axis].saturating_add_unsigned(size[axis]).max(0) as usize;
        let start = origin[axis].max(0) as usize;
        start.min(extent)..end.min(extent).max(start.min(extent))
    };
    let (rows, columns) = (range(0, height), range(1, width));
    for channel in image.data_mut().chunks_exact_mut((height * width).max(1)) {
        for row in rows.clone() {
            channel[row * width..][columns.clone()].fill(fill);
        }
    }
    image
}

/// Erases a square at a random place, parts of which may lie outside (DeVries and Taylor, "Improved Regularization of
/// Convolutional Neural Networks with Cutout", 2017).
#[derive(Clone, Copy, Debug)]
pub struct Cutout {
    size: usize,
    fill: f32,
}

impl Cutout {
    /// Squares with sides of this many pixels; the centre is a pixel of the image.
    pub fn new(size: usize) -> Cutout {
        Cutout { size, fill: 0.0 }
    }

    /// The value of what is erased; 0 unless said otherwise.
    pub fn fill(mut self, value: f32) -> Self {
        self.fill = value;
        self
    }
}

impl Transform for Cutout {
    fn name(&self) -> &str {
        "cutout"
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let [_, height, width] = image.shape();
        let half = isize::try_from(self.size / 2).unwrap_or(isize::MAX);
        let origin = [height, width].map(|extent| rng.below(extent) as isize - half);
        Ok(erase(image, origin, [self.size; 2], self.fill))
    }
}

/// With a probability, erases a rectangle that lies inside the image (Zhong et al., "Random Erasing Data
/// Augmentation", 2017).
#[derive(Clone, Copy, Debug)]
pub struct RandomErasing {
    probability: f32,
    area: [f32; 2],
    aspect: f32,
    fill: f32,
}

impl RandomErasing {
    /// Erases 2 to 33 % of the image, with height and width in a ratio from 0.3 to 1/0.3, as in the paper.
    pub fn new(probability: f32) -> RandomErasing {
        RandomErasing { probability, area: [0.02, 0.33], aspect: 0.3, fill: 0.0 }
    }

    /// The smallest and the largest part of the image to erase, each from 0 to 1.
    pub fn area(mut self, smallest: f32, largest: f32) -> Self {
        self.area = [smallest, largest];
        self
    }

    /// The value of what is erased; 0 unless said otherwise.
    pub fn fill(mut self, value: f32) -> Self {
        self.fill = value;
        self
    }
}

impl Transform for RandomErasing {
    fn name(&self) -> &str {
        "random erasing"
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let [low, high] = self.area;
        if !(0.0..=1.0).contains(&low) || !(low..=1.0).contains(&high) {
            return Err(option("erased area", format!("{low} to {high}"), "from 0 to 1, smallest first"));
        }
        let [_, height, width] = image.shape();
        if !rng.chance(self.probability) || height * width == 0 {
            return Ok(image);
        }
        // Rectangles that do not fit are drawn again, as in the paper, but not for ever.
        for _ in 0..10 {
            let area = f64::from(rng.between(low, high)) * (height * width) as f64;
            let log_ratio = f64::from(rng.between(-1.0, 1.0)) * libm::log(f64::from(self.aspect));
            let side = |sign: f64| (area * libm::exp(sign * log_ratio)).sqrt().round() as usize;
            let size = [side(1.0), side(-1.0)];
            if size[0] <= height && size[1] <= width {
                let origin = [height - size[0], width - size[1]].map(|room| rng.below(room + 1) as isize);
                return Ok(erase(image, origin, size, self.fill));
            }
        }
        Ok(image)
    }
}

/// Applies a transform to a part of the samples.
///
/// ```
/// use versant_data::{Loader, augment::{GaussianNoise, Sometimes}, digits};
/// let loader = Loader::new(digits::embedded()?).augment(Sometimes::new(0.3, GaussianNoise::new(0.1)));
/// # assert!(loader.epoch(0)?.next().is_some());
/// # Ok::<(), versant_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Sometimes<T> {
    probability: f32,
    transform: T,
}

impl<T: Transform> Sometimes<T> {
    /// Applies `transform` with this probability.
    pub fn new(probability: f32, transform: T) -> Sometimes<T> {
        Sometimes { probability, transform }
    }
}

impl<T: Transform> Transform for Sometimes<T> {
    fn name(&self) -> &str {
        self.transform.name()
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        if rng.chance(self.probability) { self.transform.apply(image, rng) } else { Ok(image) }
    }
}

/// Transforms in a fixed order as one, for instance inside [`Sometimes`]; a tuple of two is one as well.
impl<A: Transform, B: Transform> Transform for (A, B) {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let image = self.0.apply(image, &mut SampleRng::from_key(rng.key()))?;
        self.1.apply(image, &mut SampleRng::from_key(rng.key()))
    }
}

fn option(option: &'static str, value: impl ToString, rule: &'static str) -> DataError {
    DataError::Option { option, value: value.to_string(), rule }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plane(shape: [usize; 3]) -> Image {
        let [c, h, w] = shape;
        let value = |i: usize| (i / w % h) as f32 * 0.5 - (i % w) as f32 * 0.25 + (i / (h * w)) as f32;
        Image::new((0..c * h * w).map(value).collect(), shape).unwrap()
    }

    fn rng(sample: u64) -> SampleRng {
        SampleRng::new(1, 0, sample)
    }

    #[test]
    fn whole_and_quarter_turns_are_exact() {
        let image = plane([2, 5, 5]);
        let close = |a: &Image, b: &Image| a.data().iter().zip(b.data()).all(|(a, b)| (a - b).abs() < 1e-5);
        assert_eq!(rotate(&image, 0.0, 9.0), image);
        let quarter = rotate(&image, 90.0, 0.0);
        assert!(close(&rotate(&quarter, 270.0, 0.0), &image) && !close(&quarter, &image));
        // The right column of the image is the top row after a quarter turn to the left.
        let right: Vec<f32> = (0..5).map(|row| image.data()[row * 5 + 4]).collect();
        assert!(right.iter().zip(quarter.data()).all(|(a, b)| (a - b).abs() < 1e-5));
        let corner = rotate(&plane([1, 8, 8]), 45.0, 7.5).data()[0];
        assert_eq!(corner, 7.5);
        assert_eq!(rotate(&plane([1, 0, 3]), 30.0, 0.0).data(), [0f32; 0]);
    }

    #[test]
    fn colours_follow_their_definition() {
        let image = Image::new(vec![0.2, 0.4, 0.6, 0.8], [1, 2, 2]).unwrap();
        let adjust = |b, c, s| adjust_colour(image.clone(), b, c, s).unwrap();
        assert_eq!(adjust(1.0, 1.0, 1.0), image);
        assert!(adjust(0.0, 1.0, 1.0).data().iter().all(|&v| v == 0.0));
        assert!(adjust(1.0, 0.0, 1.0).data().iter().all(|&v| (v - 0.5).abs() < 1e-6));
        assert_eq!(adjust(3.0, 1.0, 5.0).data()[1..], [1.0; 3]);
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(adjust_colour(image.clone(), 1.0, bad, 1.0).is_err());
            assert!(
                ColourJitter::new(0.0, 0.0, bad.abs()).apply(image.clone(), &mut rng(0)).is_err()
                    || bad == -1.0
            );
        }
        assert!(adjust_colour(plane([2, 1, 1]), 1.0, 1.0, 1.0).is_err());
    }

    #[test]
    fn noise_has_its_deviation_and_erasing_its_area() {
        let zeros = Image::new(vec![0.0; 3 * 64 * 64], [3, 64, 64]).unwrap();
        let noisy = GaussianNoise::new(0.25).apply(zeros.clone(), &mut rng(0)).unwrap();
        let n = noisy.data().len() as f32;
        let std = (noisy.data().iter().map(|v| v * v).sum::<f32>() / n).sqrt();
        assert!((std - 0.25).abs() < 0.01, "{std}");
        for sample in 0..50 {
            let erasing = RandomErasing::new(1.0).area(0.1, 0.2).fill(1.0);
            let out = erasing.apply(zeros.clone(), &mut rng(sample)).unwrap();
            let part = out.data().iter().sum::<f32>() / n;
            assert!((0.09..0.21).contains(&part), "{part}");
            let cut = Cutout::new(9).fill(1.0).apply(zeros.clone(), &mut rng(sample)).unwrap();
            let pixels = cut.data().iter().sum::<f32>() / 3.0;
            assert!((25.0..=81.0).contains(&pixels), "{pixels}");
        }
        let all = erase(zeros.clone(), [isize::MIN, isize::MIN], [usize::MAX; 2], 1.0);
        assert!(all.data().iter().all(|&v| v == 1.0));
        assert_eq!(erase(zeros.clone(), [isize::MAX, 64], [usize::MAX, 1], 1.0), zeros);
        assert!(RandomErasing::new(1.0).area(0.5, 0.1).apply(zeros.clone(), &mut rng(0)).is_err());
        assert!(RandomErasing::new(1.0).area(f32::NAN, 1.0).apply(zeros, &mut rng(0)).is_err());
    }

    #[test]
    fn combined_transforms_apply_in_order_and_sometimes() {
        let one = || Image::new(vec![0.5], [1, 1, 1]).unwrap();
        let both = (Cutout::new(1).fill(0.25), ColourJitter::new(0.5, 0.0, 0.0));
        let out = both.apply(one(), &mut rng(2)).unwrap().data()[0];
        assert!((0.125..=0.375).contains(&out) && out != 0.25);
        let changed = (0..400).filter(|&sample| {
            let sometimes = Sometimes::new(0.25, Cutout::new(1));
            sometimes.apply(one(), &mut rng(sample)).unwrap().data()[0] == 0.0
        });
        assert!(changed.count().abs_diff(100) < 35);
    }

    proptest! {
        #[test]
        fn a_plane_stays_a_plane_inside(degrees in -360f32..360.0, h in 3usize..9, w in 3usize..9) {
            let image = plane([1, h, w]);
            let out = rotate(&image, degrees, 0.0);
            let (sin, cos) = degrees.to_radians().sin_cos();
            let (cy, cx) = ((h as f32 - 1.0) / 2.0, (w as f32 - 1.0) / 2.0);
            for i in 0..h * w {
                let (dy, dx) = ((i / w) as f32 - cy, (i % w) as f32 - cx);
                let (y, x) = (cy + sin * dx + cos * dy, cx + cos * dx - sin * dy);
                let inside = |v: f32, n: usize| v > 0.001 && v < n as f32 - 1.001;
                if inside(y, h) && inside(x, w) {
                    prop_assert!((out.data()[i] - (y * 0.5 - x * 0.25)).abs() < 1e-3);
                }
            }
        }
    }
}
