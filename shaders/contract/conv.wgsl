// Loaders of a 2-D convolution and its gradients as an implicit matrix product, for tile.wgsl and lanes.wgsl.
//
// k is (c, y, x): channel and tap, or for a weight gradient sample and output pixel. One of k and n is a *tap*
// (channel, ky, kx), the other a *pixel* (sample, y, x); together they name a pixel of the image operand, which is
// zero outside it. The other operand (weights, or the output gradient) is affine in m and k.
// Parameters: [3] lhs offset, group, m. [4] lhs c, y, x. [5] rhs offset, group, sample, channel. [6] rhs y, x; extents
// of y and x of k. [7] height and width of the image; stride y, x. [8] padding y, x; dilation y, x. [9] extents of
// y and x of n.

// begin standalone
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 10>;
@group(0) @binding(2) var<storage, read> lhs: array<f32>;
@group(0) @binding(3) var<storage, read> rhs: array<f32>;
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
    var next = vec3<u32>(k.x, k.y, k.z + 1u);
    if next.z == params[6].w {
        next = vec3<u32>(k.x, k.y + 1u, 0u);
        if next.y == params[6].z {
            next = vec3<u32>(k.x + 1u, 0u, 0u);
        }
    }
    return next;
}

// Offset of the pixel's sample, and the pixel in units of input pixels, as the image's own y and x before the tap's
// part is added.
fn pixel(i: vec3<u32>) -> vec3<i32> {
    let at = vec3<i32>(i);
    let pad = vec2<i32>(params[8].xy);
    let sample = at.x * i32(params[5].z);
    if INPUT_GRAD {
        return vec3<i32>(sample, at.yz + pad);
    }
    return vec3<i32>(sample, at.yz * vec2<i32>(params[7].zw) - pad);
}

// Offset of the tap's channel, and how far the tap moves the pixel.
fn tap(i: vec3<u32>) -> vec3<i32> {
    let at = vec3<i32>(i);
    let reach = at.yz * vec2<i32>(params[8].zw);
    return vec3<i32>(at.x * i32(params[5].w), select(reach, -reach, INPUT_GRAD));
}

fn lhs_m(base: i32, m: u32) -> i32 {
    return base + i32(m) * i32(params[3].z);
}
fn lhs_k(k: vec3<u32>) -> i32 {
    let at = vec3<i32>(k) * vec3<i32>(params[4].xyz);
    return at.x + at.y + at.z;
}
fn lhs_load(m: i32, k: i32) -> f32 {
    return lhs[m + k];
}

fn rhs_n(base: i32, n: u32) -> vec3<i32> {
    let at = unfold(n, params[9].x, params[9].y);
    var form = pixel(at);
    if WEIGHT_GRAD {
        form = tap(at);
    }
    return form + vec3<i32>(base, 0, 0);
}
fn rhs_k(k: vec3<u32>) -> vec3<i32> {
    if WEIGHT_GRAD {
        return pixel(k);
    }
    return tap(k);
}
fn rhs_load(k: vec3<i32>, n: vec3<i32>) -> f32 {
    var at = k.yz + n.yz;
    var inside = true;
    if INPUT_GRAD && !UNIT_STRIDE {
        // Only every stride-th input pixel met this tap. A negative position gives a huge quotient.
        let stride = params[7].zw;
        let q = vec2<u32>(at) / stride;
        inside = all(q * stride == vec2<u32>(at));
        at = vec2<i32>(q);
    }
    // A negative coordinate is a large one as u32, so one comparison tests both ends.
    inside = inside && all(vec2<u32>(at) < params[7].xy);
    let index = k.x + n.x + at.x * i32(params[6].x) + at.y * i32(params[6].y);
    // Not a branch: lanes that lie outside read element 0 and drop it.
    let value = rhs[select(0, index, inside)];
    return select(0.0, value, inside);
}
