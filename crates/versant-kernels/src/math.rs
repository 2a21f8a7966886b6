//! Elementary functions of `f32` for the CPU.

macro_rules! through_f64 {
    ($($name:ident: $doc:literal;)*) => {$(
        #[doc = $doc]
        #[inline(always)]
        pub fn $name(x: f32) -> f32 { f64::from(x).$name() as f32 }
    )*};
}

through_f64! {
    exp: "e to the x.";
    exp2: "2 to the x.";
    ln: "Natural logarithm.";
    log2: "Binary logarithm.";
    tanh: "Hyperbolic tangent.";
    sin: "Sine of an angle in radians.";
    cos: "Cosine of an angle in radians.";
}

/// `ln(1 + x)`, accurate near zero.
#[inline(always)]
pub fn log1p(x: f32) -> f32 {
    f64::from(x).ln_1p() as f32
}

/// `exp(x) - 1`, accurate near zero.
#[inline(always)]
pub fn expm1(x: f32) -> f32 {
    f64::from(x).exp_m1() as f32
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

/// The error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    if x.abs() > 5.0 {
        return 1f32.copysign(x as f32);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..150 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    (sum * std::f64::consts::FRAC_2_SQRT_PI) as f32
}

/// `x` to the `y`, as in C and PyTorch.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    f64::from(x).powf(f64::from(y)) as f32
}

/// The angle of the point `(x, y)` in radians.
#[inline(always)]
pub fn atan2(y: f32, x: f32) -> f32 {
    f64::from(y).atan2(f64::from(x)) as f32
}

/// One block of Philox4x32-10 (Salmon et al., SC 2011).
#[inline(always)]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xD251_1F53;
        let p1 = u64::from(c2) * 0xCD9E_8D57;
        (c0, c2) = ((p1 >> 32) as u32 ^ c1 ^ k0, (p0 >> 32) as u32 ^ c3 ^ k1);
        (c1, c3) = (p1 as u32, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// Words `first..first + dst.len()` of the stream under `key`: word `i % 4` of block `(i / 4, 0, 0, 0)`.
pub fn philox_lanes(dst: &mut [u32], first: u32, key: [u32; 2]) {
    for (i, d) in dst.iter_mut().enumerate() {
        let index = first + i as u32;
        *d = philox4x32([index / 4, 0, 0, 0], key)[(index % 4) as usize];
    }
}
