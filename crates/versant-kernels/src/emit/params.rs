//! The parameter block: numbers that a shape decides, kept out of the text.

use crate::Shape;

/// Most workgroups in one dimension of a dispatch (the default limit of WebGPU).
pub const MAX_GROUPS: usize = 65_535;

/// Words that a kernel reads from `var<uniform> params: array<vec4<u32>, N>`, in the order of `push`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamBlock {
    /// The words so far.
    pub words: Vec<u32>,
}

impl ParamBlock {
    /// Appends a word; returns the WGSL that reads it as `u32`, such as `params[3].y`.
    pub fn push(&mut self, word: u32) -> String {
        let at = self.words.len();
        self.words.push(word);
        format!("params[{}].{}", at / 4, ["x", "y", "z", "w"][at % 4])
    }

    /// Appends a signed word; returns the WGSL that reads it as `i32`.
    ///
    /// Index arithmetic wraps at 32 bits, so a value outside them keeps its low word.
    pub fn push_i32(&mut self, word: isize) -> String {
        format!("bitcast<i32>({})", self.push(word as u32))
    }

    /// Appends the bits of a float; returns the WGSL that reads it as `f32`.
    pub fn push_f32(&mut self, word: f32) -> String {
        format!("bitcast<f32>({})", self.push(word.to_bits()))
    }

    /// The declaration of binding 0, to be written once everything is pushed; empty if nothing was.
    pub fn declaration(&self) -> String {
        match self.words.len().div_ceil(4) {
            0 => String::new(),
            n => format!("@group(0) @binding(0) var<uniform> params: array<vec4<u32>, {n}>;\n"),
        }
    }

    /// The words, padded with zeros to whole vectors as the declaration needs them.
    pub fn into_words(mut self) -> Vec<u32> {
        self.words.resize(self.words.len().next_multiple_of(4), 0);
        self.words
    }
}

/// A dispatch of `groups` workgroups, folded into y above [`MAX_GROUPS`]; kernels number their group
/// `wid.x + wid.y * num_workgroups.x` and check their bounds, since folding may add some groups.
pub fn grid(groups: usize) -> [u32; 3] {
    let y = groups.div_ceil(MAX_GROUPS).max(1);
    [groups.div_ceil(y) as u32, y as u32, 1]
}

/// How the strides of one affine form walk one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Not at all.
    Still,
    /// In step with the row-major linear index, times the last stride.
    Linear,
    /// Each coordinate on its own.
    Coords,
}

/// Classifies `strides` over `domain`, which is folded (so no extent is 1).
pub(super) fn walk(strides: &[isize], domain: &Shape) -> Walk {
    let dense = domain.strides();
    match strides.last() {
        None => Walk::Still,
        Some(_) if strides.iter().all(|&s| s == 0) => Walk::Still,
        Some(&k) if strides.iter().zip(dense).all(|(&s, d)| s == k * d) => Walk::Linear,
        Some(_) => Walk::Coords,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_where_they_were_pushed() {
        let mut p = ParamBlock::default();
        assert_eq!(p.declaration(), "");
        let names: Vec<String> = (0..6).map(|w| p.push(w)).collect();
        assert_eq!(names[0], "params[0].x");
        assert_eq!(names[5], "params[1].y");
        assert!(p.declaration().contains("array<vec4<u32>, 2>"));
        assert_eq!(p.push_i32(-1), "bitcast<i32>(params[1].z)");
        assert_eq!(p.into_words(), [0, 1, 2, 3, 4, 5, u32::MAX, 0]);
    }

    #[test]
    fn grids_cover_and_respect_the_limit() {
        for groups in [0, 1, 65_535, 65_536, 131_070, 131_071, 10_000_000] {
            let [x, y, z] = grid(groups).map(|g| g as usize);
            assert!(x <= MAX_GROUPS && y <= MAX_GROUPS && z == 1);
            assert!(x * y >= groups && x * y < groups + y, "{groups}: {x} {y}");
        }
    }

    #[test]
    fn walks() {
        let s = Shape::new(&[4, 6]).expect("rank 2");
        assert_eq!(walk(&[0, 0], &s), Walk::Still);
        assert_eq!(walk(&[6, 1], &s), Walk::Linear);
        assert_eq!(walk(&[-12, -2], &s), Walk::Linear);
        assert_eq!(walk(&[1, 4], &s), Walk::Coords);
        assert_eq!(walk(&[], &Shape::SCALAR), Walk::Still);
    }
}
