//! The transforms of Winograd's F(2 x 2, 3 x 3), for numbers and for vectors of them.

use std::ops::{Add, Mul, Sub};

use bytemuck::cast;
use pulp::Simd;

use crate::contract::panel::COLS;

/// A number, or those of a panel.
pub(super) trait Number:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<f32, Output = Self>
{
}
impl Number for f32 {}
impl<S: Simd, const V: usize> Number for Panel<S, V> {}

/// The numbers of a panel in `V` vectors.
#[derive(Clone, Copy)]
pub(super) struct Panel<S: Simd, const V: usize>(S, [S::f32s; V]);

impl<S: Simd, const V: usize> Panel<S, V> {
    #[inline(always)]
    pub fn new(simd: S, numbers: [f32; COLS]) -> Self {
        Panel(simd, cast(numbers))
    }

    #[inline(always)]
    pub fn numbers(self) -> [f32; COLS] {
        cast(self.1)
    }

    #[inline(always)]
    fn zip(mut self, other: Self, f: impl Fn(S::f32s, S::f32s) -> S::f32s) -> Self {
        for (a, b) in self.1.iter_mut().zip(other.1) {
            *a = f(*a, b);
        }
        self
    }
}

impl<S: Simd, const V: usize> Add for Panel<S, V> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| self.0.add_f32s(a, b))
    }
}

impl<S: Simd, const V: usize> Sub for Panel<S, V> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| self.0.sub_f32s(a, b))
    }
}

impl<S: Simd, const V: usize> Mul<f32> for Panel<S, V> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: f32) -> Self {
        let other = Panel(self.0, [self.0.splat_f32s(other); V]);
        self.zip(other, |a, b| self.0.mul_f32s(a, b))
    }
}

/// Bᵀ: pixels to frequencies.
#[inline(always)]
pub(super) fn pixels<T: Number>([a, b, c, d]: [T; 4]) -> [T; 4] {
    [a - c, b + c, c - b, b - d]
}

/// G: weights to frequencies.
#[inline(always)]
pub(super) fn weights<T: Number>([a, b, c]: [T; 3]) -> [T; 4] {
    [a, (a + c + b) * 0.5, (a + c - b) * 0.5, c]
}

/// Aᵀ: sums of products to results.
#[inline(always)]
pub(super) fn results<T: Number>([a, b, c, d]: [T; 4]) -> [T; 2] {
    [a + b + c, b - c - d]
}

/// A, but for the sign of the last: gradients of results to frequencies.
#[inline(always)]
pub(super) fn gradients<T: Number>([a, b]: [T; 2]) -> [T; 4] {
    [a, a + b, a - b, b]
}

/// Gᵀ with that sign: sums of products to gradients of weights.
#[inline(always)]
pub(super) fn taps<T: Number>([a, b, c, d]: [T; 4]) -> [T; 3] {
    [a + (b + c) * 0.5, (b - c) * 0.5, (b + c) * 0.5 - d]
}

/// A transform of a square along its lines, and then along its columns.
#[inline(always)]
pub(super) fn both<T: Copy, const N: usize, const M: usize>(
    from: [[T; N]; N],
    f: impl Fn([T; N]) -> [T; M],
) -> [[T; M]; M] {
    // Loops, not `map` or `from_fn`: those may be calls, which do without the wide vectors.
    let mut half = [[from[0][0]; M]; N];
    for (to, line) in half.iter_mut().zip(from) {
        *to = f(line);
    }
    let mut all = [[from[0][0]; M]; M];
    for x in 0..M {
        let mut column = from[0];
        for (to, line) in column.iter_mut().zip(&half) {
            *to = line[x];
        }
        for (line, value) in all.iter_mut().zip(f(column)) {
            line[x] = value;
        }
    }
    all
}

/// The elements of a square, row-major.
#[inline(always)]
pub(super) fn square<T: Copy, const N: usize>(at: impl Fn(usize) -> T) -> [[T; N]; N] {
    let mut all = [[at(0); N]; N];
    for (i, to) in all.as_flattened_mut().iter_mut().enumerate() {
        *to = at(i);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::array;

    use super::*;

    /// A line of four pixels, three weights and two results, with values that f32 has exactly.
    const PIXELS: [f32; 4] = [3.0, -2.0, 5.0, 7.0];
    const WEIGHTS: [f32; 3] = [2.0, -4.0, 6.0];
    const GRADIENTS: [f32; 2] = [-3.0, 4.0];

    fn products(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        array::from_fn(|i| a[i] * b[i])
    }

    #[test]
    fn products_of_frequencies_are_a_convolution_and_its_weight_gradient() {
        let direct = array::from_fn(|x| (0..3).map(|k| PIXELS[x + k] * WEIGHTS[k]).sum());
        assert_eq!(results(products(pixels(PIXELS), weights(WEIGHTS))), direct);
        let direct = array::from_fn(|k| (0..2).map(|x| PIXELS[x + k] * GRADIENTS[x]).sum());
        assert_eq!(taps(products(pixels(PIXELS), gradients(GRADIENTS))), direct);
    }

    #[test]
    fn a_square_is_transformed_along_both_of_its_sides() {
        let image = square(|i| PIXELS[i / 4] * PIXELS[i % 4]);
        let once = pixels(PIXELS);
        assert_eq!(both(image, pixels), array::from_fn(|y| array::from_fn(|x| once[y] * once[x])));
    }
}
