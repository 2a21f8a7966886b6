// import: bits
// Conversions of floats that WGSL leaves to the implementation where the value does not fit: these truncate,
// saturate, and turn NaN into 0, as Rust's `as` does.

fn v_f32_to_i32(x: f32) -> i32 {
    // 2147483520 is the largest float below 2^31; above it the result saturates without a conversion.
    let inside = i32(clamp(x, -2147483648.0, 2147483520.0));
    let high = select(inside, 2147483647i, x >= 2147483648.0);
    return select(high, 0i, v_isnan(x));
}

fn v_f32_to_u32(x: f32) -> u32 {
    let inside = u32(clamp(x, 0.0, 4294967040.0));
    let high = select(inside, 0xffffffffu, x >= 4294967296.0);
    return select(high, 0u, v_isnan(x));
}

// NaN is not zero, so it is true; by bits, since a driver may assume that there is no NaN.
fn v_f32_to_bool(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) != 0u;
}
