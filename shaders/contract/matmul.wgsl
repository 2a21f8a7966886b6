// Loaders of a batched matrix product, for the templates tile.wgsl and lanes.wgsl.
//
// An operand's element lies at offset + batch part + row part + column part, each part a stride from the
// parameter block (any sign, or 0), so that slices, transposes and broadcasts cost nothing.
// Parameters: [3] lhs offset, m, k; number of batch dimensions. [4] rhs offset, k, n. [5..] one vector per batch
// dimension, innermost first: extent, lhs stride, rhs stride.

// begin standalone
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 11>;
@group(0) @binding(2) var<storage, read> lhs: array<f32>;
@group(0) @binding(3) var<storage, read> rhs: array<f32>;
// end standalone

// Offsets of a batch's matrices.
fn bases(batch: u32) -> vec2<i32> {
    var at = vec2<i32>(i32(params[3].x), i32(params[4].x));
    var rest = batch;
    for (var i = 0u; i < params[3].w; i += 1u) {
        let dim = params[5u + i];
        let q = rest / dim.x;
        at += vec2<i32>(i32(dim.y), i32(dim.z)) * i32(rest - q * dim.x);
        rest = q;
    }
    return at;
}

// A position along k, and the one after it.
fn k_at(k: u32) -> vec3<u32> {
    return vec3<u32>(k, 0u, 0u);
}
fn k_next(k: vec3<u32>) -> vec3<u32> {
    return vec3<u32>(k.x + 1u, 0u, 0u);
}

fn lhs_m(base: i32, m: u32) -> i32 {
    return base + i32(m) * i32(params[3].y);
}
fn lhs_k(k: vec3<u32>) -> i32 {
    return i32(k.x) * i32(params[3].z);
}
fn lhs_load(m: i32, k: i32) -> f32 {
    return lhs[m + k];
}

fn rhs_n(base: i32, n: u32) -> vec3<i32> {
    return vec3<i32>(base + i32(n) * i32(params[4].z), 0, 0);
}
fn rhs_k(k: vec3<u32>) -> vec3<i32> {
    return vec3<i32>(i32(k.x) * i32(params[4].y), 0, 0);
}
fn rhs_load(k: vec3<i32>, n: vec3<i32>) -> f32 {
    return rhs[k.x + n.x];
}
