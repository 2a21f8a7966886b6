// import: bits
// The exponential family. Polynomials are minimax fits of this project (weighted, coefficients rounded one by
// one). Errors are in units in the last place of the result, over all of f32 where the result is normal;
// subnormal results may be flushed.

// 2^k * y for whole k in -252..=254, in two steps because 2^k itself may not be representable.
fn v_scale_by_power(y: f32, k: i32) -> f32 {
    let half = k >> 1u;
    let first = bitcast<f32>(bitcast<u32>(127i + half) << 23u);
    let second = bitcast<f32>(bitcast<u32>(127i + k - half) << 23u);
    return y * first * second;
}

// exp(r) - 1 for |r| <= 0.347.
fn v_expm1_near_zero(r: f32) -> f32 {
    var q = 0.000199442715;
    q = q * r + 0.00139326707;
    q = q * r + 0.00833320804;
    q = q * r + 0.0416664891;
    q = q * r + 0.166666672;
    q = q * r + 0.5;
    return r + r * r * q;
}

// What is left of x after taking out k ln 2. The two parts of ln 2 multiply different values on purpose, so
// that no compiler joins the products into one.
fn v_reduce_ln2(x: f32, k: f32) -> f32 {
    let same_k = f32(i32(k));
    return (x - k * 0.693359375) + same_k * 0.000212194440;
}

// e^x; at most 2 ulp.
fn v_exp(x: f32) -> f32 {
    let inside = clamp(x, -104.0, 89.0);
    let k = round(inside * 1.44269502);
    let y = 1.0 + v_expm1_near_zero(v_reduce_ln2(inside, k));
    return select(v_scale_by_power(y, i32(k)), x, v_isnan(x));
}

// 2^x; at most 2 ulp, and exact for whole x.
fn v_exp2(x: f32) -> f32 {
    let inside = clamp(x, -150.0, 128.0);
    let k = round(inside);
    let y = 1.0 + v_expm1_near_zero((inside - k) * 0.693147182);
    return select(v_scale_by_power(y, i32(k)), x, v_isnan(x));
}

// e^x - 1, also near zero; at most 3 ulp.
fn v_expm1(x: f32) -> f32 {
    let inside = clamp(x, -18.0, 89.0);
    let k = round(inside * 1.44269502);
    let p = v_expm1_near_zero(v_reduce_ln2(inside, k));
    // (1 + p) 2^k - 1 = (p + (1 - 2^-k)) 2^k, where the bracket is exact enough because 2^-k is.
    let small = bitcast<f32>(bitcast<u32>(127i - min(i32(k), 126i)) << 23u);
    let y = v_scale_by_power(p + (1.0 - small), i32(k));
    return select(select(y, p, k == 0.0), x, v_isnan(x));
}

// 1 / (1 + e^-x) without overflow on either side; at most 4 ulp.
fn v_sigmoid(x: f32) -> f32 {
    let e = v_exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

// The hyperbolic tangent; at most 4 ulp.
fn v_tanh(x: f32) -> f32 {
    let a = abs(x);
    let z = x * x;
    var p = 0.00215763575;
    p = p * z - 0.00819508638;
    p = p * z + 0.0217087492;
    p = p * z - 0.053948462;
    p = p * z + 0.133332223;
    p = p * z - 0.333333313;
    let near = a + a * z * p;
    let far = 1.0 - 2.0 / (v_exp(2.0 * min(a, 20.0)) + 1.0);
    return select(v_copy_sign(select(far, near, a < 0.625), x), x, v_isnan(x));
}
