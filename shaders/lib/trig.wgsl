// import: wide
// Sine and cosine for every finite f32; at most 3 ulp. The quadrant comes from integer arithmetic with 256 bits of
// 2/pi, so large arguments keep their accuracy on any driver. Polynomials: minimax fits of this project.

// The angle within a quarter turn around zero, and how many quarter turns were taken out (modulo 4).
struct Angle {
    rest: f32,
    quarter: u32,
}

// |x| * 2/pi as a fixed-point number of 96 bits modulo 4: |x| = m 2^e with a whole m, so the bits of 2/pi that stand
// more than e + 2 places before the window only add multiples of 4, and the window times m is what remains.
fn v_reduce_angle(magnitude: u32) -> Angle {
    var two_over_pi = array<u32, 8>(
        0x00000000u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu,
    );
    let m = (magnitude & 0x007fffffu) | 0x00800000u;
    // The window starts 30 + e bits after the first bit of the table, e = exponent field - 150.
    let start = (magnitude >> 23u) - 120u;
    let at = start >> 5u;
    let by = start & 31u;
    let w0 = two_over_pi[at];
    let w1 = two_over_pi[at + 1u];
    let w2 = two_over_pi[at + 2u];
    let w3 = two_over_pi[at + 3u];
    // A shift by 32 is not defined, hence two steps.
    let high = (w0 << by) | ((w1 >> 1u) >> (31u - by));
    let mid = (w1 << by) | ((w2 >> 1u) >> (31u - by));
    let low = (w2 << by) | ((w3 >> 1u) >> (31u - by));
    let p1 = mid * m + v_mul_high(low, m);
    let carry = u32(p1 < mid * m);
    let p0 = high * m + v_mul_high(mid, m) + carry;
    // Two bits of quarters, then 62 bits of a quarter's fraction, taken as signed so that it lies in [-1/2, 1/2).
    let f0 = (p0 << 2u) | (p1 >> 30u);
    let f1 = p1 << 2u;
    let negative = (f0 >> 31u) != 0u;
    let n1 = select(f1, 0u - f1, negative);
    let n0 = select(f0, ~f0 + u32(f1 == 0u), negative);
    // 32 significant bits of it.
    let zeros = select(countLeadingZeros(n0), 32u + countLeadingZeros(n1), n0 == 0u);
    let shift = zeros & 31u;
    let top = select((n0 << shift) | ((n1 >> 1u) >> (31u - shift)), n1 << shift, n0 == 0u);
    // The fraction is top * 2^(-32 - zeros); times pi/2.
    let unit = bitcast<f32>((95u - min(zeros, 94u)) << 23u);
    let rest = f32(top) * unit * 1.57079637;
    return Angle(select(rest, -rest, negative), (p0 >> 30u) + u32(negative));
}

fn v_sin_near_zero(r: f32) -> f32 {
    let z = r * r;
    var p = 0.00000283751206;
    p = p * z - 0.000198535112;
    p = p * z + 0.00833338033;
    p = p * z - 0.166666672;
    return r + r * z * p;
}

fn v_cos_near_zero(r: f32) -> f32 {
    let z = r * r;
    var p = 0.0000244306611;
    p = p * z - 0.00138873013;
    p = p * z + 0.0416666456;
    return 1.0 + z * (z * p - 0.5);
}

// Sine of |x| + `ahead` quarter turns.
fn v_sin_ahead(x: f32, ahead: u32) -> f32 {
    let magnitude = bitcast<u32>(x) & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) {
        // An infinity has no angle, and NaN stays.
        return bitcast<f32>(magnitude | 0x7fc00000u);
    }
    var angle = Angle(abs(x), 0u);
    if (magnitude > 0x3f490fdau) {
        angle = v_reduce_angle(magnitude);
    }
    let quarter = angle.quarter + ahead;
    let y = select(v_sin_near_zero(angle.rest), v_cos_near_zero(angle.rest), (quarter & 1u) != 0u);
    return select(y, -y, (quarter & 2u) != 0u);
}

// The sine of an angle in radians.
fn v_sin(x: f32) -> f32 {
    let y = v_sin_ahead(x, 0u);
    return bitcast<f32>(bitcast<u32>(y) ^ (bitcast<u32>(x) & 0x80000000u));
}

// The cosine of an angle in radians.
fn v_cos(x: f32) -> f32 {
    return v_sin_ahead(x, 1u);
}
