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

fn lhs_element(i: i32) -> f32 {
    return lhs[i];
}
fn rhs_element(i: i32) -> f32 {
    return rhs[i];
}
// end standalone

// Offsets of a batch's matrices.
fn bases(batch: u32) -> vec2<i32> {
    var at = vec2<i32>(i32(params[3].x), i32(params[4].x));
    var rest = batch;
    // Not a parameter alone, for whose value lavapipe would compile again at every dispatch: no batch has 32 bits.
    let dims = params[3].w + (batch >> 31u);
    for (var i = 0u; i < dims; i += 1u) {
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
    return vec3<i32>(base + i32(n) * i32(params[4].z), 0, 0);
}
// begin columns
// Four neighbouring columns; those beyond the last repeat it.
fn rhs_columns(base: i32, n: u32, last: u32) -> array<vec3<i32>, 4> {
    return array<vec3<i32>, 4>(
        rhs_n(base, min(n, last)),
        rhs_n(base, min(n + 1u, last)),
        rhs_n(base, min(n + 2u, last)),
        rhs_n(base, min(n + 3u, last)),
    );
}
// end columns
fn rhs_k(k: vec3<u32>) -> vec3<i32> {
    return vec3<i32>(i32(k.x) * i32(params[4].y), 0, 0);
}
// begin narrow rhs
fn rhs_load(k: vec3<i32>, n: vec3<i32>) -> f32 {
    return rhs_element(k.x + n.x);
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
