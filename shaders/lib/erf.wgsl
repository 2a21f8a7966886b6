// import: exp
// The error function; at most 3 ulp. Polynomials: minimax fits of this project.

fn v_erf(x: f32) -> f32 {
    let a = abs(x);
    let z = x * x;
    var p = 0.0000780690316;
    p = p * z - 0.00079978531;
    p = p * z + 0.0051871622;
    p = p * z - 0.0268533472;
    p = p * z + 0.112835787;
    p = p * z - 0.37612626;
    p = p * z + 0.128379166;
    let near = a + a * p;
    // 1 - exp(-q), where q = -ln(erfc(1 + u)).
    let u = min(a, 4.0) - 1.0;
    var q = 0.0000371732676;
    q = q * u - 0.000433769106;
    q = q * u + 0.00237743696;
    q = q * u - 0.010418023;
    q = q * u + 0.0417223386;
    q = q * u + 0.843083262;
    q = q * u + 2.63896775;
    q = q * u + 1.84960556;
    // Where it counts, q lies between 1.8 and 19, so that one scale does for the exponential, and no case is special.
    let k = round(q * -1.44269502);
    let scale = bitcast<f32>(bitcast<u32>(127i + i32(k)) << 23u);
    let far = 1.0 - (1.0 + v_expm1_near_zero(v_reduce_ln2(-q, k))) * scale;
    return select(v_copy_sign(select(far, near, a < 1.0), x), x, v_isnan(x));
}
