// Cumulative sum along the middle axis of [outer, n, inner], forwards or backwards.
//
// Layout: src and out [outer, n, inner], dense and row-major, src from its offset.
// Order: within each block of BLOCK steps a running sum from zero; an output is that sum plus the carry,
// the sum of the blocks before. The rounding error grows with BLOCK + n / BLOCK instead of n, and the CPU
// twin adds in the same order.
// Tile: one invocation a line, in sequence.
// Bound by: latency. There are only outer * inner invocations, each making n dependent steps; neighbours
// read adjacent words if inner is large, and words n apart if inner is 1. A long line on a big GPU wants a
// workgroup scan.
//
// I32 and U32 elements both use `Elem = u32`: wrapping sums have the same bits.

alias Elem = f32;

const WORKGROUP: u32 = 64u;
const BLOCK: u32 = 64u;

// [outer, n, inner, src_offset], [reverse, 0, 0, 0]
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 2>;
@group(0) @binding(2) var<storage, read> src: array<Elem>;
@group(0) @binding(3) var<storage, read_write> dst: array<Elem>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let outer = params[0].x;
    let n = params[0].y;
    let inner = params[0].z;
    let from_src = params[0].w;
    let reverse = params[1].x != 0u;
    let line = (wid.x + wid.y * groups.x) * WORKGROUP + lid;
    if line >= outer * inner {
        return;
    }
    let start = line / inner * n * inner + line % inner;

    var carry = Elem();
    for (var block = 0u; block < n; block += BLOCK) {
        let end = min(block + BLOCK, n);
        var sum = Elem();
        for (var i = block; i < end; i++) {
            let at = start + select(i, n - 1u - i, reverse) * inner;
            sum += src[from_src + at];
            dst[at] = carry + sum;
        }
        carry += sum;
    }
}
