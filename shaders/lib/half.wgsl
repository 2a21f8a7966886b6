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

// The bits of the binary16 that the f32 with these bits is exactly.
fn v_f16_exact(x: u32) -> u32 {
    let size = x & 0x7fffffffu;
    let small = u32(bitcast<f32>(select(0u, size, size < 0x38800000u)) * 16777216.0);
    let normal = (size >> 13u) - select(0x1c000u, 0x38000u, size >= 0x7f800000u);
    return ((x >> 16u) & 0x8000u) | select(normal, small, size < 0x38800000u);
}

// Element `i` of a buffer of halves, from the word that holds it; the even one is in the lower half.
fn v_at_f16(word: u32, i: u32) -> f32 {
    return bitcast<f32>(v_f16_value((word >> ((i & 1u) << 4u)) & 0xffffu));
}

fn v_at_bf16(word: u32, i: u32) -> f32 {
    return bitcast<f32>((word >> ((i & 1u) << 4u)) << 16u);
}

// Four elements from two words, and their words.
fn v_four_f16(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(v_at_f16(words.x, 0u), v_at_f16(words.x, 1u), v_at_f16(words.y, 0u), v_at_f16(words.y, 1u));
}

fn v_four_bf16(words: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}

fn v_pack_f16(four: vec4<f32>) -> vec2<u32> {
    let x = bitcast<vec4<u32>>(four);
    return vec2<u32>(
        v_f16_exact(x.x) | (v_f16_exact(x.y) << 16u),
        v_f16_exact(x.z) | (v_f16_exact(x.w) << 16u),
    );
}

fn v_pack_bf16(four: vec4<f32>) -> vec2<u32> {
    let x = bitcast<vec4<u32>>(four);
    return vec2<u32>((x.x >> 16u) | (x.y & 0xffff0000u), (x.z >> 16u) | (x.w & 0xffff0000u));
}

// A word with this value, rounded before, as its half of element `i`.
fn v_with_f16(word: u32, i: u32, value: f32) -> u32 {
    let shift = (i & 1u) << 4u;
    return (word & (0xffff0000u >> shift)) | (v_f16_exact(bitcast<u32>(value)) << shift);
}

fn v_with_bf16(word: u32, i: u32, value: f32) -> u32 {
    let shift = (i & 1u) << 4u;
    return (word & (0xffff0000u >> shift)) | ((bitcast<u32>(value) >> 16u) << shift);
}
