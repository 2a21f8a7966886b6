// Tests and constants by bits. Drivers may assume that no value is NaN, and then `x != x` is false and `x - x` is
// zero: only the bits can be trusted. An infinity cannot be written as a constant in WGSL, hence `from_bits`.

// A float from its bits, at run time, so that no compiler rejects an infinity or a NaN.
fn v_from_bits(bits: u32) -> f32 {
    return bitcast<f32>(bits);
}

// Whether `x` is NaN.
fn v_isnan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// Whether `x` is an infinity of either sign.
fn v_is_inf(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}

// Whether the sign bit of `x` is set, also for zeros.
fn v_is_negative(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x80000000u) != 0u;
}

// `magnitude` with the sign bit of `sign_of`.
fn v_copy_sign(magnitude: f32, sign_of: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(magnitude) & 0x7fffffffu) | (bitcast<u32>(sign_of) & 0x80000000u));
}

// A quiet NaN.
fn v_nan() -> f32 {
    return v_from_bits(0x7fc00000u);
}

// Positive infinity.
fn v_inf() -> f32 {
    return v_from_bits(0x7f800000u);
}
