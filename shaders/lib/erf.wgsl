// import: bits
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
    // 1 - s / g^8, where g = (s / erfc(1 + u))^(1/8) is smooth and s makes it 1.875 at 1: an error of g counts eight
    // times, but of what is at most 0.16.
    let u = min(a, 4.0) - 1.0;
    var g = 0.000813853752;
    g = g * u - 0.000315504702;
    g = g * u + 0.0077105975;
    g = g * u + 0.0218682345;
    g = g * u + 0.0864695609;
    g = g * u + 0.299572378;
    g = g * u + 0.618510067;
    g = g * u + 1.875;
    let g2 = g * g;
    let g4 = g2 * g2;
    let far = 1.0 - 24.0290565 / (g4 * g4);
    return select(v_copy_sign(select(far, near, a < 1.0), x), x, v_isnan(x));
}
