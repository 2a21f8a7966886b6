// import: bits
// The sign as a number: -1, 0 or 1. A NaN stays NaN and a zero gives zero (the built-in is free in both).

fn v_sign_f32(x: f32) -> f32 {
    let one = v_copy_sign(1.0, x);
    let magnitude = bitcast<u32>(x) & 0x7fffffffu;
    return select(select(one, x, magnitude == 0u), x, v_isnan(x));
}

fn v_sign_i32(x: i32) -> i32 {
    return i32(x > 0i) - i32(x < 0i);
}

fn v_sign_u32(x: u32) -> u32 {
    return min(x, 1u);
}
