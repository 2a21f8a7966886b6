// import: wide
// Philox4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// Integers only, so every device draws the same numbers.

// The four words of the block with this counter and key.
fn v_philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var i = 0u; i < 10u; i += 1u) {
        let high0 = v_mul_high(0xd2511f53u, c.x);
        let high1 = v_mul_high(0xcd9e8d57u, c.z);
        c = vec4<u32>(high1 ^ c.y ^ k.x, 0xcd9e8d57u * c.z, high0 ^ c.w ^ k.y, 0xd2511f53u * c.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// Word `index % 4` of block `index / 4`.
fn v_philox_word(index: u32, key_low: u32, key_high: u32) -> u32 {
    let block = v_philox(vec4<u32>(index >> 2u, 0u, 0u, 0u), vec2<u32>(key_low, key_high));
    let pair = select(block.xy, block.zw, (index & 2u) != 0u);
    return select(pair.x, pair.y, (index & 1u) != 0u);
}
