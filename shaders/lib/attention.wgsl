// What the attention kernels read: operands through strides of any sign, the mask, and which keys a query sees.
//
// Layout: q, k, v and the gradient of the result are views [batch, heads, position, element]; the mask is
// [batch, heads, query, key]. Results are dense, heads behind positions.
// Parameters: [0] batch, heads, kv heads, heads that share one of them. [1] queries, keys, width, value. [2] keys seen
// before and behind a query, position of query 0, scale in units of log 2. [3..7] strides of q, k, v, gradient, mask.
// [8] offsets of q, k, v, gradient. [9] offset of the mask, of the forward result; elements of its first part; scale.
// Quads of elements beyond the width read as zero.

// Elements of a query and of a value, rounded up to quads.
const WIDTH: u32 = 32u;
const VALUE: u32 = 32u;
const WIDTH_QUADS: u32 = WIDTH / 4u;
const VALUE_QUADS: u32 = VALUE / 4u;
// Whether a mask is added; else its words say which keys count.
const MASK_ADDS: bool = true;
const MASKED: bool = true;
// Elements of a row's log-sum-exp: itself, or of those of its bits that 16 bits hold, and of what that leaves.
const SUMS: u32 = 2u;
const PART_BITS: u32 = 0xffffe000u;
// In its place in a row that sees nothing, and the largest that there is: what 16 bits cannot hold becomes no number.
const BLIND: f32 = 65504.0;
const MOST: f32 = 65504.0;
// In the place of minus infinity; the row maxima start above it.
const LOG2E: f32 = 1.44269504;
const HIDDEN: f32 = -6e37 * LOG2E;

// begin standalone
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 10>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> gradient: array<f32>;
@group(0) @binding(7) var<storage, read> forward: array<f32>;
@group(0) @binding(8) var<storage, read_write> out: array<f32>;

fn q_some(i: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(q[i.x], q[i.y], q[i.z], q[i.w]);
}
fn k_some(i: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(k[i.x], k[i.y], k[i.z], k[i.w]);
}
fn v_some(i: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(v[i.x], v[i.y], v[i.z], v[i.w]);
}
fn gradient_some(i: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(gradient[i.x], gradient[i.y], gradient[i.z], gradient[i.w]);
}
fn forward_some(i: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(forward[i.x], forward[i.y], forward[i.z], forward[i.w]);
}
fn forward_element(i: i32) -> f32 {
    return forward[i];
}
// end standalone

// Where a row of an operand begins.
fn row_at(operand: u32, b: u32, h: u32, i: u32) -> i32 {
    let strides = bitcast<vec4<i32>>(params[3u + operand]);
    return i32(params[8][operand]) + i32(b) * strides.x + i32(h) * strides.y + i32(i) * strides.z;
}

// begin narrow
// Beyond the width the last element is read again, and dropped.
fn q_quad(row: i32, d: u32) -> vec4<f32> {
    let at = vec4<u32>(d) + vec4<u32>(0u, 1u, 2u, 3u);
    let inside = at < vec4<u32>(params[1].z);
    let place = row + vec4<i32>(min(at, vec4<u32>(params[1].z - 1u))) * bitcast<i32>(params[3].w);
    return select(vec4<f32>(), q_some(place), inside);
}
fn k_quad(row: i32, d: u32) -> vec4<f32> {
    let at = vec4<u32>(d) + vec4<u32>(0u, 1u, 2u, 3u);
    let inside = at < vec4<u32>(params[1].z);
    let place = row + vec4<i32>(min(at, vec4<u32>(params[1].z - 1u))) * bitcast<i32>(params[4].w);
    return select(vec4<f32>(), k_some(place), inside);
}
fn v_quad(row: i32, d: u32) -> vec4<f32> {
    let at = vec4<u32>(d) + vec4<u32>(0u, 1u, 2u, 3u);
    let inside = at < vec4<u32>(params[1].w);
    let place = row + vec4<i32>(min(at, vec4<u32>(params[1].w - 1u))) * bitcast<i32>(params[5].w);
    return select(vec4<f32>(), v_some(place), inside);
}
// end narrow
// begin narrow backward
fn gradient_quad(row: i32, d: u32) -> vec4<f32> {
    let at = vec4<u32>(d) + vec4<u32>(0u, 1u, 2u, 3u);
    let inside = at < vec4<u32>(params[1].w);
    let place = row + vec4<i32>(min(at, vec4<u32>(params[1].w - 1u))) * bitcast<i32>(params[6].w);
    return select(vec4<f32>(), gradient_some(place), inside);
}
fn forward_quad(row: u32, d: u32) -> vec4<f32> {
    let at = vec4<u32>(d) + vec4<u32>(0u, 1u, 2u, 3u);
    let inside = at < vec4<u32>(params[1].w);
    let place = params[9].y + row * params[1].w + min(at, vec4<u32>(params[1].w - 1u));
    return select(vec4<f32>(), forward_some(vec4<i32>(place)), inside);
}
// end narrow backward
// begin backward
// The log-sum-exp of a row in units of log 2.
fn forward_sum(row: u32) -> f32 {
    let at = i32(params[9].y + params[9].z + row * SUMS);
    var sum = 0.0;
    for (var i = 0; i < i32(SUMS); i += 1) {
        sum += forward_element(at + i);
    }
    return sum * LOG2E;
}
// end backward

// begin forward
// Stores the log-sum-exp of a row, if it sees anything; `x` is in units of log 2.
fn put_sum(row: u32, found: bool, x: f32) {
    let at = params[0].x * params[0].y * params[1].x * params[1].w + row * SUMS;
    var rest = select(BLIND, x / LOG2E, found);
    rest = select(rest, bitcast<f32>(bitcast<u32>(rest) | 0x7fc00000u), abs(rest) > MOST);
    for (var i = 0u; i < SUMS; i += 1u) {
        let part = bitcast<f32>(bitcast<u32>(rest) & PART_BITS);
        out[at + i] = part;
        rest -= part;
    }
}
// end forward

// begin masked
fn masked(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    let strides = bitcast<vec4<i32>>(params[7]);
    let at = i32(params[9].x) + i32(b) * strides.x + i32(h) * strides.y + i32(i) * strides.z + i32(j) * strides.w;
    let word = mask[u32(at)];
    if MASK_ADDS {
        return score + bitcast<f32>(word) * LOG2E;
    }
    return select(2.0 * HIDDEN, score, word != 0u);
}
// end masked

// The keys that queries from `first` to `last` see: from .x to before .y.
fn span(first: u32, last: u32) -> vec2<u32> {
    let low = max(i32(first + params[2].z) - i32(params[2].x), 0);
    let high = min(last + params[2].z + params[2].y + 1u, params[1].y);
    return vec2<u32>(u32(low), high);
}
// The queries that see keys from `first` to `last`, likewise.
fn viewers(first: u32, last: u32) -> vec2<u32> {
    let start = i32(params[2].z);
    let low = max(i32(first) - start - i32(params[2].y), 0);
    let high = clamp(i32(last) - start + i32(params[2].x) + 1, 0, i32(params[1].x));
    return vec2<u32>(u32(low), u32(high));
}
// Whether query `i` sees key `j`.
fn sees(i: u32, j: u32) -> bool {
    let at = i + params[2].z;
    return j <= at + params[2].y && j + params[2].x >= at;
}
