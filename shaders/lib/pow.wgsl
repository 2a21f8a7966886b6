// import: exp
// x^y with the special cases of C's pow, which PyTorch follows: anything to the 0 is 1 and 1 to anything is 1, NaN
// included; a negative base needs a whole exponent; a zero to a negative exponent is infinite. At most 3 ulp: log2|x|
// is held in two floats, whose first has few enough bits that products with it are exact. The masks that cut
// numbers also keep drivers from undoing the compensation.

// The leading 12 bits of a float.
fn v_head(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}

// log2(x) for finite x > 0 as a sum of two floats, good to about 2^-33 of the value. With c = 1, 3/2 or 2, whichever is
// near the mantissa, log2(m/c) is a series in s = (m - c) / (m + c): (2 / (3 ln 2)) s (3 + s^2 + 3/5 s^4 + …).
fn v_log2_two(x: f32) -> vec2<f32> {
    let bits = bitcast<u32>(x);
    let tiny = bits < 0x00800000u;
    let normal = select(bits, bitcast<u32>(f32(bits)), tiny);
    let e = bitcast<i32>(normal >> 23u) - select(127i, 276i, tiny);
    let m1 = bitcast<f32>((normal & 0x007fffffu) | 0x3f800000u);
    let middle = m1 >= 1.2247449 && m1 < 1.7320508;
    let upper = m1 >= 1.7320508;
    let m = select(m1, m1 * 0.5, upper);
    let c = select(1.0, 1.5, middle);
    let d = m - c;
    let sum = m + c;
    let sum_head = v_head(sum);
    let sum_tail = m - (sum_head - c);
    let inverse = 1.0 / sum;
    let s = d * inverse;
    let s_head = v_head(s);
    let s_tail = inverse * ((d - s_head * sum_head) - s_head * sum_tail);
    let s2 = s * s;
    let s2_head = s_head * s_head;
    var r = 0.272727281;
    r = r * s2 + 0.333333343;
    r = r * s2 + 0.428571433;
    r = r * s2 + 0.6;
    r = r * s2 * s2 + s_tail * (s_head + s);
    let q_head = v_head(3.0 + s2_head + r);
    let q_tail = r - ((q_head - 3.0) - s2_head);
    let p = s_head * q_head;
    let p_rest = s_tail * q_head + q_tail * s;
    let p_head = v_head(p + p_rest);
    let p_tail = p_rest - (p_head - p);
    // 2 / (3 ln 2) and log2(3/2), each in two parts.
    let z = 0.961669921875 * p_head;
    let z_tail = 0.000126772051 * p_head + 0.961796701 * p_tail + select(0.0, 0.00000156322116, middle);
    let start = select(0.0, 0.5849609375, middle);
    let whole = f32(select(e, e + 1i, upper));
    let high = v_head(((z + z_tail) + start) + whole);
    return vec2<f32>(high, z_tail - (((high - whole) - start) - z));
}

fn v_pow(x: f32, y: f32) -> f32 {
    let a = abs(x);
    // Beyond 2^100 an exponent acts as an infinite one, and stays clear of inf - inf.
    let limited = clamp(y, -1.26765060e30, 1.26765060e30);
    let l = v_log2_two(a);
    let y_head = v_head(limited);
    let high = y_head * l.x;
    let low = (limited - y_head) * l.x + limited * l.y;
    // Outside this range the result is 0 or infinite whatever follows.
    let z = clamp(high + low, -160.0, 160.0);
    let k = round(z);
    let inside = abs(z) < 160.0;
    let rest = select(0.0, (high - k) + low, inside);
    var result = v_scale_by_power(1.0 + v_expm1_near_zero(rest * 0.693147182), i32(k));
    let inf = v_inf();
    // Zero and infinite bases, and a base of -1 with an infinite exponent.
    result = select(result, select(inf, 0.0, y > 0.0), a == 0.0);
    result = select(result, select(0.0, inf, y > 0.0), v_is_inf(x));
    result = select(result, 1.0, a == 1.0);
    // From 2^24 on every float is even.
    let whole = trunc(limited) == limited;
    let odd = abs(limited) < 16777216.0 && (i32(clamp(limited, -16777216.0, 16777216.0)) & 1i) != 0i && whole;
    if (v_is_negative(x)) {
        result = select(result, -result, odd);
        result = select(result, v_nan(), !whole && a != 0.0 && !v_is_inf(x));
    }
    result = select(result, v_nan(), v_isnan(x) || v_isnan(y));
    return select(result, 1.0, (bitcast<u32>(y) & 0x7fffffffu) == 0u || bitcast<u32>(x) == 0x3f800000u);
}
