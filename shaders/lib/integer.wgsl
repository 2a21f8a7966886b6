// Integer division, remainder and power where WGSL leaves the answer open or a driver might trap: division by zero
// gives 0 and so does its remainder; the smallest i32 divided by -1 wraps to itself, with remainder 0. Remainders
// have the sign of the dividend, as in C and Rust.

fn div_i32(a: i32, b: i32) -> i32 {
    // 0 and -1 are replaced by 1, which never traps, and answered apart.
    let apart = b == 0i || b == -1i;
    let q = a / select(b, 1i, apart);
    return select(q, select(0i, -a, b == -1i), apart);
}

fn rem_i32(a: i32, b: i32) -> i32 {
    let apart = b == 0i || b == -1i;
    return select(a % select(b, 1i, apart), 0i, apart);
}

fn div_u32(a: u32, b: u32) -> u32 {
    return select(a / select(b, 1u, b == 0u), 0u, b == 0u);
}

fn rem_u32(a: u32, b: u32) -> u32 {
    return select(a % select(b, 1u, b == 0u), 0u, b == 0u);
}

// `base` to the `exponent` modulo 2^32, by squaring.
fn pow_u32(base: u32, exponent: u32) -> u32 {
    var result = 1u;
    var square = base;
    for (var e = exponent; e != 0u; e = e >> 1u) {
        if ((e & 1u) != 0u) {
            result *= square;
        }
        square *= square;
    }
    return result;
}

// The same for signed numbers. A negative exponent gives the truncated reciprocal: 0, unless the base is 1 or -1
// (and 0 for the base 0, as for a division by zero).
fn pow_i32(base: i32, exponent: i32) -> i32 {
    let power = bitcast<i32>(pow_u32(bitcast<u32>(base), bitcast<u32>(max(exponent, 0i))));
    let odd = (exponent & 1i) != 0i;
    let unit = select(select(0i, 1i, base == 1i), select(1i, -1i, odd), base == -1i);
    return select(power, unit, exponent < 0i);
}
