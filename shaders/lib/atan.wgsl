// import: bits
// The angle of a point; at most 4 ulp. Zeros and infinities of either sign as in C. Polynomial: minimax fit of this
// project.

// atan(t) for t in [0, 1].
fn v_atan_unit(t: f32) -> f32 {
    let z = t * t;
    var p = -0.00182120444;
    p = p * z + 0.0110390913;
    p = p * z - 0.031411346;
    p = p * z + 0.0581929274;
    p = p * z - 0.0841719806;
    p = p * z + 0.109568611;
    p = p * z - 0.1426512;
    p = p * z + 0.199986279;
    p = p * z - 0.333333015;
    return t + t * z * p;
}

// The angle of (x, y) in radians, in [-pi, pi].
fn v_atan2(y: f32, x: f32) -> f32 {
    let a = abs(y);
    let b = abs(x);
    let small = min(a, b);
    let large = max(a, b);
    // Two zeros count as the ratio 0 and two infinities as 1.
    let ratio = select(small / select(large, 1.0, large == 0.0), 1.0, v_is_inf(a) && v_is_inf(b));
    let first = v_atan_unit(ratio);
    let steep = select(first, 1.57079637 - first, a > b);
    let angle = select(steep, 3.14159274 - steep, v_is_negative(x));
    return select(v_copy_sign(angle, y), v_nan(), v_isnan(x) || v_isnan(y));
}
