// import: bits
// The remainder of a division of floats, exact, with the sign of the dividend, as C's fmod and Rust's `%`. The
// operator of WGSL loses everything once the quotient has more than 24 bits.

// A float's magnitude as a whole number times 2^(exponent - 150); subnormals have exponent 1 and fewer bits.
fn v_mantissa(magnitude: u32) -> u32 {
    let hidden = select(0u, 0x00800000u, magnitude >= 0x00800000u);
    return (magnitude & 0x007fffffu) | hidden;
}

fn v_rem_f32(a: f32, b: f32) -> f32 {
    let ua = bitcast<u32>(a) & 0x7fffffffu;
    let ub = bitcast<u32>(b) & 0x7fffffffu;
    if (ua >= 0x7f800000u || ub > 0x7f800000u || ub == 0u) {
        return v_nan();
    }
    if (ua < ub) {
        return a;
    }
    let eb = max(ub >> 23u, 1u);
    let mb = v_mantissa(ub);
    var rest = v_mantissa(ua) % mb;
    // Bring the rest down from the dividend's exponent, eight binary places at a time.
    for (var e = max(ua >> 23u, 1u) - eb; e != 0u; e -= min(e, 8u)) {
        rest = (rest << min(e, 8u)) % mb;
    }
    // The rest has at most 24 bits: scale it as the whole number it is.
    let shift = countLeadingZeros(rest | 1u) - 8u;
    let by = min(shift, eb - 1u);
    let scaled = rest << by;
    let exponent = eb - by - u32(scaled < 0x00800000u);
    let bits = (exponent << 23u) | (scaled & 0x007fffffu);
    let sign = bitcast<u32>(a) & 0x80000000u;
    return bitcast<f32>(select(bits, 0u, rest == 0u) | sign);
}
