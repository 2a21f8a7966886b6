// import: sort_key
// What tile.wgsl does, without workgroup memory or barriers: for software adapters, and short blocks.
//
// Layout: see tile.wgsl.
// Tile: one invocation a candidate, which counts those of its block that come before it; that is its place.
// Bound by: block comparisons a candidate, of words that all invocations of a block read.

const WORKGROUP: u32 = 64u;

// [rows, n, count, block], [blocks, width, keep, length], [keys_offset, candidates_offset, kind, flip]
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 3>;
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read> candidates: array<u32>;
@group(0) @binding(4) var<storage, read_write> order: array<u32>;

fn candidate(row: u32, at: u32) -> u32 {
    return candidates[params[2].y + row * params[0].z + at];
}

fn key_of(row: u32, column: u32) -> u32 {
    return sort_key(keys[params[2].x + row * params[0].y + column], params[2].z, params[2].w);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let count = params[0].z;
    let block = params[0].w;
    let keep = params[1].z;
    let thread = (wid.x + wid.y * groups.x) * WORKGROUP + lid;
    if thread >= params[0].x * count {
        return;
    }
    let row = thread / count;
    let at = thread % count;
    let number = at / block;
    let start = number * block;
    let end = min(start + block, count);

    let column = candidate(row, at);
    let own = key_of(row, column);
    var before = 0u;
    for (var other = start; other < end; other += 1u) {
        let key = key_of(row, candidate(row, other));
        before += select(0u, 1u, key < own || (key == own && other < at));
    }
    if before < keep {
        order[row * params[1].w + number * keep + before] = column;
    }
}
