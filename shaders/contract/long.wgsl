// Loaders of four elements at once as two 64-bit words, in place of those of wide.wgsl: for software adapters, which
// pay for each component of each lane (a branch on the lane, a check of the bounds, an insertion), whatever its size.

// begin standalone
@group(0) @binding(2) var<storage, read> lhs: array<vec2<u64>>;
@group(0) @binding(3) var<storage, read> rhs: array<vec2<u64>>;
const STEPS: u32 = 2u;

fn lhs_four(i: u32) -> vec4<f32> {
    return vec4<f32>(f32(lhs[i].x));
}
fn lhs_two(i: u32) -> array<f32, STEPS> {
    return array<f32, STEPS>(f32(lhs[i / 4u].x), 0.0);
}
fn rhs_four(i: u32) -> vec4<f32> {
    return vec4<f32>(f32(rhs[i].x));
}
fn rhs_two(i: u32) -> array<f32, STEPS> {
    return array<f32, STEPS>(f32(rhs[i / 4u].x), 0.0);
}
// end standalone

// begin long lhs
fn lhs_quad_m(m: vec4<i32>, k: i32) -> vec4<f32> {
    return lhs_four(u32(m.x + k) / 4u);
}
// Two steps of one row, the first of which is even.
fn lhs_steps(m: i32, k: array<i32, STEPS>) -> array<f32, STEPS> {
    let at = u32(m + k[0]);
    return lhs_two(at);
}
// end long lhs

// begin long rhs
fn rhs_quad_n(k: vec3<i32>, n: array<vec3<i32>, 4>) -> vec4<f32> {
    return rhs_four(u32(k.x + n[0].x) / 4u);
}
// The same of one column.
fn rhs_steps(k: array<vec3<i32>, STEPS>, n: vec3<i32>) -> array<f32, STEPS> {
    let at = u32(k[0].x + n.x);
    return rhs_two(at);
}
// end long rhs
