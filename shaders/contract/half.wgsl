// Staged tiles of f16, in place of those of f32 in tile.wgsl: operands are rounded to 16 bits while they are staged,
// products and sums are of 32 bits. Half of the bytes of workgroup memory for each multiply-add.

// begin standalone
enable f16;
const TILE_K: u32 = 8u;
const PITCH_M: u32 = 132u;
const PITCH_N: u32 = 132u;
const ROUND_RESULTS: u32 = 2048u;
// end standalone

var<workgroup> staged: array<f16, TILE_K * (PITCH_M + PITCH_N)>;
var<workgroup> results: array<f32, ROUND_RESULTS>;

fn put(at: u32, value: f32) {
    staged[at] = f16(value);
}
fn quad(at: u32) -> vec4<f32> {
    return vec4<f32>(vec4<f16>(staged[at], staged[at + 1u], staged[at + 2u], staged[at + 3u]));
}
fn keep(at: u32, value: f32) {
    results[at] = value;
}
fn kept(at: u32) -> f32 {
    return results[at];
}
