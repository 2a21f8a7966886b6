// What sorting compares: unsigned words that are in order where the elements of any type are.

// Kinds of elements.
const SORT_F32: u32 = 0u;
const SORT_I32: u32 = 1u;

// The word of an element. NaN is above everything, whatever its bits, and both zeros are one; `flip` is all ones to sort
// downwards, which leaves equal elements equal. By bits alone, as drivers fold comparisons of NaN and flush small numbers.
fn sort_key(bits: u32, kind: u32, flip: u32) -> u32 {
    let sign = 0x80000000u;
    let magnitude = bits & ~sign;
    var float = select(bits | sign, ~bits, bits >= sign);
    float = select(float, sign, magnitude == 0u);
    float = select(float, ~0u, magnitude > 0x7f800000u);
    let integer = select(bits, bits ^ sign, kind == SORT_I32);
    return select(integer, float, kind == SORT_F32) ^ flip;
}
