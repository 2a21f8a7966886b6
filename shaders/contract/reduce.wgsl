// Second half of a contraction whose sum over k was split: adds the partial results in order, then the epilogue.
//
// Layout: partial [split, output], row-major over the natural output.
// Tile: one invocation per result, or per two that share a word. Memory: registers only.
// Bound by: memory, `splits` words read per result.
// Parameters: [0] results, splits.

const WORKGROUP: u32 = 64u;
// As in tile.wgsl.
const RUN: u32 = 1u;

// begin standalone
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 1>;
@group(0) @binding(2) var<storage, read> partial: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

fn epilogue(i: u32, acc: f32) {
    out[i] = acc;
}
// end standalone

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let count = params[0].x;
    let first = ((wid.x + wid.y * groups.x) * WORKGROUP + lid) * RUN;
    for (var i = first; i < min(first + RUN, count); i += 1u) {
        var sum = partial[i];
        // Not a parameter alone, for whose value lavapipe would compile again at every dispatch: no place has 32 bits.
        let splits = params[0].y + (i >> 31u);
        for (var s = 1u; s < splits; s += 1u) {
            sum += partial[s * count + i];
        }
        epilogue(i, sum);
    }
}
