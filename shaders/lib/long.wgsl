// Words of 64 bits, for software adapters, which pay for each component that is loaded, whatever its size.

// Two f32 from a word of 64 bits.
fn v_two(pair: u64) -> array<f32, 2> {
    return array<f32, 2>(bitcast<f32>(u32(pair)), bitcast<f32>(u32(pair >> 32u)));
}

// Four words from two of 64 bits.
fn v_words(pair: vec2<u64>) -> vec4<u32> {
    return vec4<u32>(u32(pair.x), u32(pair.x >> 32u), u32(pair.y), u32(pair.y >> 32u));
}
