// Loaders of a 2-D convolution and its gradients as an implicit matrix product, for tile.wgsl and lanes.wgsl.
//
// k is (c, y, x): channel and tap, or for a weight gradient sample and output pixel. One of k and n is a *tap*
// (channel, ky, kx), the other a *pixel* (sample, y, x); together they name a pixel of the image operand, which is
// zero outside it. The other operand (weights, or the output gradient) is affine in m and k.
// Parameters: [3] lhs offset, group, m. [4] lhs c, y, x. [5] rhs offset, group, sample, channel. [6] rhs y, x; extents
// of y and x of k. [7] height and width of the image; stride y, x. [8] padding y, x; dilation y, x. [9] extents of
// y and x of n; bits that hold a remainder by the stride, for y and x.
//
// The input gradient needs (pixel - tap) / stride, and only where that is whole: exactly where pixel and tap have the
// same remainder. So both carry quotient and remainder in one word, quotient << bits | remainder; in the difference the
// low bits are 0 iff it is whole, and the rest is the quotient. No division is left for the inner loop.

// begin standalone
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 10>;
@group(0) @binding(2) var<storage, read> lhs: array<f32>;
@group(0) @binding(3) var<storage, read> rhs: array<f32>;

fn lhs_element(i: i32) -> f32 {
    return lhs[i];
}
fn rhs_element(i: i32) -> f32 {
    return rhs[i];
}
// end standalone

// Which of the three products, and whether the stride is 1 in both directions.
const INPUT_GRAD: bool = false;
const WEIGHT_GRAD: bool = false;
const UNIT_STRIDE: bool = false;

fn bases(group: u32) -> vec2<i32> {
    return vec2<i32>(
        i32(params[3].x) + i32(group) * i32(params[3].y),
        i32(params[5].x) + i32(group) * i32(params[5].y),
    );
}

fn unfold(i: u32, height: u32, width: u32) -> vec3<u32> {
    let row = i / width;
    let c = row / height;
    return vec3<u32>(c, row - c * height, i - row * width);
}

// A position along k, and the one after it.
fn k_at(k: u32) -> vec3<u32> {
    return unfold(k, params[6].z, params[6].w);
}
fn k_next(k: vec3<u32>) -> vec3<u32> {
    return after(k, params[6].z, params[6].w);
}
fn after(i: vec3<u32>, height: u32, width: u32) -> vec3<u32> {
    var next = vec3<u32>(i.x, i.y, i.z + 1u);
    if next.z == width {
        next = vec3<u32>(i.x, i.y + 1u, 0u);
        if next.y == height {
            next = vec3<u32>(i.x + 1u, 0u, 0u);
        }
    }
    return next;
}

// Quotient and remainder by the stride in one word each, for the input gradient.
fn by_stride(at: vec2<i32>) -> vec2<i32> {
    if UNIT_STRIDE {
        return at;
    }
    let stride = vec2<i32>(params[7].zw);
    let q = at / stride;
    return (q << params[9].zw) + (at - q * stride);
}

// Offset of y and x in the image, where the sum of a pixel's and a tap's is that of where they meet.
fn within(at: vec2<i32>) -> i32 {
    if INPUT_GRAD && !UNIT_STRIDE {
        return 0;
    }
    let strides = vec2<i32>(params[6].xy);
    return at.x * strides.x + at.y * strides.y;
}

// A pixel's part of the offset, and the image's y and x before the tap's part is added.
fn pixel(i: vec3<u32>) -> vec3<i32> {
    let at = vec3<i32>(i);
    let pad = vec2<i32>(params[8].xy);
    let sample = at.x * i32(params[5].z);
    var yx = at.yz * vec2<i32>(params[7].zw) - pad;
    if INPUT_GRAD {
        yx = by_stride(at.yz + pad);
    }
    return vec3<i32>(sample + within(yx), yx);
}

// A tap's part of the offset, and how far it moves the pixel.
fn tap(i: vec3<u32>) -> vec3<i32> {
    let at = vec3<i32>(i);
    var reach = at.yz * vec2<i32>(params[8].zw);
    let channel = at.x * i32(params[5].w);
    if INPUT_GRAD {
        reach = -by_stride(reach);
    }
    return vec3<i32>(channel + within(reach), reach);
}

fn lhs_m(base: i32, m: u32) -> i32 {
    return base + i32(m) * i32(params[3].z);
}
fn lhs_k(k: vec3<u32>) -> i32 {
    let at = vec3<i32>(k) * vec3<i32>(params[4].xyz);
    return at.x + at.y + at.z;
}
// begin narrow lhs
fn lhs_load(m: i32, k: i32) -> f32 {
    return lhs_element(m + k);
}
// The same, for a tile that loads one element at a time.
fn lhs_some(m: i32, k: i32) -> vec4<f32> {
    return vec4<f32>(lhs_load(m, k), 0.0, 0.0, 0.0);
}
// Four elements along m.
fn lhs_quad_m(m: vec4<i32>, k: i32) -> vec4<f32> {
    return vec4<f32>(lhs_load(m.x, k), lhs_load(m.y, k), lhs_load(m.z, k), lhs_load(m.w, k));
}
// Four elements along k.
fn lhs_quad_k(m: i32, k: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(lhs_load(m, k.x), lhs_load(m, k.y), lhs_load(m, k.z), lhs_load(m, k.w));
}
// end narrow lhs

fn rhs_n(base: i32, n: u32) -> vec3<i32> {
    return rhs_place(base, unfold(n, params[9].x, params[9].y));
}
fn rhs_place(base: i32, at: vec3<u32>) -> vec3<i32> {
    var form = pixel(at);
    if WEIGHT_GRAD {
        form = tap(at);
    }
    return form + vec3<i32>(base, 0, 0);
}
// begin columns
// Four neighbouring columns, of which one is found by division; those beyond the last repeat it.
fn rhs_columns(base: i32, n: u32, last: u32) -> array<vec3<i32>, 4> {
    let a = unfold(min(n, last), params[9].x, params[9].y);
    let b = column_after(a, n < last);
    let c = column_after(b, n + 1u < last);
    let d = column_after(c, n + 2u < last);
    return array<vec3<i32>, 4>(rhs_place(base, a), rhs_place(base, b), rhs_place(base, c), rhs_place(base, d));
}
fn column_after(at: vec3<u32>, more: bool) -> vec3<u32> {
    return select(at, after(at, params[9].x, params[9].y), more);
}
// end columns
fn rhs_k(k: vec3<u32>) -> vec3<i32> {
    if WEIGHT_GRAD {
        return pixel(k);
    }
    return tap(k);
}
// begin narrow rhs
fn rhs_load(k: vec3<i32>, n: vec3<i32>) -> f32 {
    var at = k.yz + n.yz;
    var inside = true;
    var index = k.x + n.x;
    if INPUT_GRAD && !UNIT_STRIDE {
        let bits = params[9].zw;
        let whole = at >> bits;
        inside = all(whole << bits == at);
        at = whole;
        index += at.x * i32(params[6].x) + at.y * i32(params[6].y);
    }
    // A negative coordinate is a large one as u32, so one comparison tests both ends.
    inside = inside && all(vec2<u32>(at) < params[7].xy);
    // Not a branch: lanes that lie outside read element 0 and drop it.
    let value = rhs_element(select(0, index, inside));
    return select(0.0, value, inside);
}
fn rhs_some(k: vec3<i32>, n: vec3<i32>) -> vec4<f32> {
    return vec4<f32>(rhs_load(k, n), 0.0, 0.0, 0.0);
}
// Four elements along n.
fn rhs_quad_n(k: vec3<i32>, n: array<vec3<i32>, 4>) -> vec4<f32> {
    return vec4<f32>(rhs_load(k, n[0]), rhs_load(k, n[1]), rhs_load(k, n[2]), rhs_load(k, n[3]));
}
// Four elements along k.
fn rhs_quad_k(k: array<vec3<i32>, 4>, n: vec3<i32>) -> vec4<f32> {
    return vec4<f32>(rhs_load(k[0], n), rhs_load(k[1], n), rhs_load(k[2], n), rhs_load(k[3], n));
}
// end narrow rhs
