// 16-bit floats in integer arithmetic: drivers may flush what is small in binary16, and leave open what is too large. Words
// are the bits of an f32; halves stand in the low 16 bits.

// The bits of the binary16 nearest to the f32 with these bits, ties to even; what is too large becomes an infinity.
fn v_f16_bits(x: u32) -> u32 {
    let sign = (x >> 16u) & 0x8000u;
    let size = x & 0x7fffffffu;
    // The exponent's bias is 112 less.
    let normal = size - 0x38000000u;
    let rounded = min((normal + 0xfffu + ((normal >> 13u) & 1u)) >> 13u, 0x7c00u);
    // Below 2^-14 the unit is 2^-24: the fraction with its leading one is shifted there. What is under half a unit is 0.
    let shift = clamp(126u - (size >> 23u), 1u, 25u);
    let fraction = (size & 0x7fffffu) | 0x800000u;
    let whole = fraction >> shift;
    let rest = fraction & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    let small = whole + u32(rest > tie || (rest == tie && (whole & 1u) == 1u));
    let finite = select(rounded, select(small, 0u, size < 0x33000000u), size < 0x38800000u);
    let all = select(finite, 0x7c00u, size >= 0x47800000u);
    return sign | select(all, 0x7e00u, size > 0x7f800000u);
}

// The bits of the f32 that is the binary16 in the low half; exact.
fn v_f16_value(h: u32) -> u32 {
    let sign = (h & 0x8000u) << 16u;
    let size = h & 0x7fffu;
    // An integer times 2^-24 is exact and a normal f32.
    let small = bitcast<u32>(f32(size) * 5.9604644775390625e-8);
    let normal = (size << 13u) + select(0x38000000u, 0x70000000u, size >= 0x7c00u);
    return sign | select(normal, small, size < 0x400u);
}

// The bits of the bfloat16 nearest to the f32 with these bits, ties to even.
fn v_bf16_bits(x: u32) -> u32 {
    let rounded = (x + 0x7fffu + ((x >> 16u) & 1u)) >> 16u;
    return select(rounded, (x >> 16u) | 0x40u, (x & 0x7fffffffu) > 0x7f800000u);
}

// The half of a packed word that `odd` names.
fn v_half_of(word: u32, odd: u32) -> u32 {
    return (word >> ((odd & 1u) << 4u)) & 0xffffu;
}
