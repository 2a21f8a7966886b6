// import: bits
// Logarithms that stay accurate near 1, where drivers' are not. Polynomial: minimax fit of this project.

// A number as 2^exponent * (1 + fraction) with 1 + fraction in [sqrt(1/2), sqrt(2)).
struct Parts {
    exponent: f32,
    fraction: f32,
}

// The parts of a finite x > 0, also of a subnormal one.
fn v_log_parts(x: f32) -> Parts {
    let bits = bitcast<u32>(x);
    // A subnormal is its bits times 2^-149.
    let tiny = bits < 0x00800000u;
    let normal = select(bits, bitcast<u32>(f32(bits)), tiny);
    // Counted from the bits of sqrt(1/2), the exponent field changes at the wanted border.
    let from_border = normal - 0x3f3504f3u;
    let e = bitcast<i32>(from_border) >> 23u;
    let m = bitcast<f32>((from_border & 0x007fffffu) + 0x3f3504f3u);
    return Parts(f32(select(e, e - 149i, tiny)), m - 1.0);
}

// ln(1 + f) - f for f in [-0.293, 0.415].
fn v_log1p_rest(f: f32) -> f32 {
    var r = 0.0691558868;
    r = r * f - 0.117899001;
    r = r * f + 0.118729085;
    r = r * f - 0.123843409;
    r = r * f + 0.142186746;
    r = r * f - 0.16669251;
    r = r * f + 0.20002225;
    r = r * f - 0.249999866;
    r = r * f + 0.333333105;
    return f * f * (f * r - 0.5);
}

// `y` for a finite positive x; otherwise what every logarithm gives: -inf of 0, NaN of a negative, x of inf and NaN.
fn v_log_special(x: f32, y: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let zero = (bits & 0x7fffffffu) == 0u;
    let below = select(v_nan(), v_from_bits(0xff800000u), zero);
    let proper = select(y, below, zero || v_is_negative(x));
    return select(proper, x, (bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u);
}

// The natural logarithm; at most 2 ulp.
fn v_ln(x: f32) -> f32 {
    let p = v_log_parts(x);
    let low = p.exponent * -0.000212194440 + v_log1p_rest(p.fraction);
    return v_log_special(x, p.exponent * 0.693359375 + (low + p.fraction));
}

// The binary logarithm; at most 3 ulp, and exact for powers of two.
fn v_log2(x: f32) -> f32 {
    let p = v_log_parts(x);
    let l = p.fraction + v_log1p_rest(p.fraction);
    return v_log_special(x, p.exponent + l * 1.44269502);
}

// ln(1 + x), also near zero; at most 3 ulp.
fn v_log1p(x: f32) -> f32 {
    let u = 1.0 + x;
    let near = x > -0.2929 && x < 0.4142;
    let p = v_log_parts(u);
    let e = select(p.exponent, 0.0, near);
    let f = select(p.fraction, x, near);
    let y = e * 0.693359375 + ((e * -0.000212194440 + v_log1p_rest(f)) + f);
    // Near zero y keeps the sign of a zero, which `u` does not know.
    return select(v_log_special(u, y), y, near);
}
