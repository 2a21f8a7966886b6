// Loaders of four elements at once, in place of the narrow ones of matmul.wgsl and conv.wgsl: for an operand whose
// neighbours along k (or m, n) are neighbours in memory, and whose quads all start at multiples of four elements. A
// quad is addressed by its first element.

// begin standalone
@group(0) @binding(2) var<storage, read> lhs: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rhs: array<vec4<f32>>;

fn lhs_four(i: u32) -> vec4<f32> {
    return lhs[i];
}
fn rhs_four(i: u32) -> vec4<f32> {
    return rhs[i];
}
// end standalone

// begin wide lhs
fn lhs_some(m: i32, k: i32) -> vec4<f32> {
    return lhs_four(u32(m + k) / 4u);
}
fn lhs_quad_m(m: vec4<i32>, k: i32) -> vec4<f32> {
    return lhs_four(u32(m.x + k) / 4u);
}
fn lhs_quad_k(m: i32, k: vec4<i32>) -> vec4<f32> {
    return lhs_four(u32(m + k.x) / 4u);
}
// end wide lhs

// begin wide rhs
fn rhs_some(k: vec3<i32>, n: vec3<i32>) -> vec4<f32> {
    return rhs_four(u32(k.x + n.x) / 4u);
}
fn rhs_quad_n(k: vec3<i32>, n: array<vec3<i32>, 4>) -> vec4<f32> {
    return rhs_four(u32(k.x + n[0].x) / 4u);
}
fn rhs_quad_k(k: array<vec3<i32>, 4>, n: vec3<i32>) -> vec4<f32> {
    return rhs_four(u32(k[0].x + n.x) / 4u);
}
// end wide rhs
