// Scatter-add, one index list for all rows: the gradient of an embedding look-up or an index_select.
//
//   out[o, v, k] = base[o, v, k] + sum over ascending i with index[i] == v of src[o, i, k]
//
// Layout: base and out [outer, bound, inner], index [count], src [outer, count, inner], all dense and
// row-major from their offsets. With base_step 0 the base is one element, repeated.
// Tile: one invocation owns up to LANES consecutive elements of one output row and walks the whole index
// list, so no two invocations write the same element, no atomics are needed and the order is fixed.
// Bound by: outer * bound * inner / LANES * count index reads. They are uniform over a wave and hit the
// cache, but a large vocabulary with many indices is better served by sorting the indices first.
//
// Indices are compared as bits, so that an i32 below zero is out of range like one at or above `bound`, and
// is skipped. I32 and U32 elements both use `Elem = u32`: wrapping sums have the same bits.

alias Elem = f32;
alias Lanes = vec4<Elem>;

const WORKGROUP: u32 = 64u;
const LANES: u32 = 4u;

// [outer, bound, inner, count], [base_offset, index_offset, src_offset, base_step]
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 2>;
@group(0) @binding(2) var<storage, read> base: array<Elem>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> src: array<Elem>;
@group(0) @binding(5) var<storage, read_write> dst: array<Elem>;

fn load_base(at: u32) -> Elem {
    return base[params[1].x + at * params[1].w];
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let outer = params[0].x;
    let bound = params[0].y;
    let inner = params[0].z;
    let count = params[0].w;
    let chunks = (inner + LANES - 1u) / LANES;
    let thread = (wid.x + wid.y * groups.x) * WORKGROUP + lid;
    if thread >= outer * bound * chunks {
        return;
    }
    let row = thread / chunks;
    let k = (thread % chunks) * LANES;
    let o = row / bound;
    let v = row % bound;
    let lanes = min(inner - k, LANES);
    let at = row * inner + k;

    var acc = Lanes();
    acc.x = load_base(at);
    if lanes > 1u { acc.y = load_base(at + 1u); }
    if lanes > 2u { acc.z = load_base(at + 2u); }
    if lanes > 3u { acc.w = load_base(at + 3u); }

    let from_index = params[1].y;
    let from_src = params[1].z + o * count * inner + k;
    for (var i = 0u; i < count; i++) {
        if index[from_index + i] == v {
            let s = from_src + i * inner;
            acc.x += src[s];
            if lanes > 1u { acc.y += src[s + 1u]; }
            if lanes > 2u { acc.z += src[s + 2u]; }
            if lanes > 3u { acc.w += src[s + 3u]; }
        }
    }

    dst[at] = acc.x;
    if lanes > 1u { dst[at + 1u] = acc.y; }
    if lanes > 2u { dst[at + 2u] = acc.z; }
    if lanes > 3u { dst[at + 3u] = acc.w; }
}
