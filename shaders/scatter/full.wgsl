// Scatter-add with an index for every source element: the gradient of gather (take_along_axis).
//
//   out[o, v, k] = base[o, v, k] + sum over ascending i with index[o, i, k] == v of src[o, i, k]
//
// Layout: base and out [outer, bound, inner], index and src [outer, count, inner], all dense and
// row-major from their offsets. With base_step 0 the base is one element, repeated.
// Tile: one invocation owns one output element and walks the index column above it, so no two invocations
// write the same element, no atomics are needed and the order is fixed.
// Bound by: outer * bound * inner * count index reads (coalesced when inner is large), `bound` times as
// many as there are indices: cheap for class counts, dear for vocabularies.
//
// Indices are compared as bits, so that an i32 below zero is out of range like one at or above `bound`, and
// is skipped. I32 and U32 elements both use `Elem = u32`: wrapping sums have the same bits.

alias Elem = f32;

const WORKGROUP: u32 = 64u;

// [outer, bound, inner, count], [base_offset, index_offset, src_offset, base_step]
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 2>;
@group(0) @binding(2) var<storage, read> base: array<Elem>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> src: array<Elem>;
@group(0) @binding(5) var<storage, read_write> dst: array<Elem>;

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
    let thread = (wid.x + wid.y * groups.x) * WORKGROUP + lid;
    if thread >= outer * bound * inner {
        return;
    }
    let row = thread / inner;
    let k = thread % inner;
    let o = row / bound;
    let v = row % bound;

    var acc = base[params[1].x + thread * params[1].w];
    let column = o * count * inner + k;
    let from_index = params[1].y + column;
    let from_src = params[1].z + column;
    for (var i = 0u; i < count; i++) {
        if index[from_index + i * inner] == v {
            acc += src[from_src + i * inner];
        }
    }
    dst[thread] = acc;
}
