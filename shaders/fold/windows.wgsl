// Sums overlapping windows back onto the axis they were cut from: the adjoint of a sliding-window view.
//
//   out[o, h, i] = sum over ascending k with q = (h - k * dilation) / stride whole and in 0..count
//                  of src[o, q, i, k]
//
// Layout: src [outer, count, inner, size], out [outer, extent, inner], dense and row-major, src from its
// offset.
// Tile: one invocation owns one output element and gathers its taps, so no atomics are needed and the order
// is fixed.
// Bound by: memory. Every src word is read once over the whole launch, but neighbours in `inner` read words
// `size` apart, so a cache line is shared by as many invocations as it holds taps of one output row. Once a
// tap fits, the next that can is tap_step = stride / gcd(stride, dilation) further.
//
// I32 and U32 elements both use `Elem = u32`: wrapping sums have the same bits.

alias Elem = f32;

const WORKGROUP: u32 = 64u;

// [outer, extent, inner, count], [size, stride, dilation, tap_step], [src_offset, 0, 0, 0]
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 3>;
@group(0) @binding(2) var<storage, read> src: array<Elem>;
@group(0) @binding(3) var<storage, read_write> dst: array<Elem>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let outer = params[0].x;
    let extent = params[0].y;
    let inner = params[0].z;
    let count = params[0].w;
    let size = params[1].x;
    let stride = params[1].y;
    let dilation = params[1].z;
    let tap_step = params[1].w;
    let thread = (wid.x + wid.y * groups.x) * WORKGROUP + lid;
    if thread >= outer * extent * inner {
        return;
    }
    let row = thread / inner;
    let i = thread % inner;
    let o = row / extent;
    let h = row % extent;

    var acc = Elem();
    // Taps beyond this one lie past h; stopping there also keeps k * dilation from wrapping.
    let taps = min(size, h / dilation + 1u);
    var step = 1u;
    for (var k = 0u; k < taps; k += step) {
        let rest = h - k * dilation;
        let q = rest / stride;
        if q * stride == rest {
            step = tap_step;
            if q < count {
                acc += src[params[2].x + ((o * count + q) * inner + i) * size + k];
            }
        }
    }
    dst[thread] = acc;
}
