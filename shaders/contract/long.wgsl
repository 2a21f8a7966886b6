// Loaders of four elements at once as two 64-bit words, in place of those of wide.wgsl: for software adapters, which
// pay for each component of each lane (a branch on the lane, a check of the bounds, an insertion), whatever its size.

// begin standalone
@group(0) @binding(2) var<storage, read> lhs: array<vec2<u64>>;
@group(0) @binding(3) var<storage, read> rhs: array<vec2<u64>>;
const STEPS: u32 = 2u;
// end standalone

fn four(pair: vec2<u64>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(u32(pair.x), u32(pair.x >> 32u), u32(pair.y), u32(pair.y >> 32u)));
}
fn two(one: u64) -> array<f32, STEPS> {
    return array<f32, STEPS>(bitcast<f32>(u32(one)), bitcast<f32>(u32(one >> 32u)));
}

// begin long lhs
fn lhs_quad_m(m: vec4<i32>, k: i32) -> vec4<f32> {
    return four(lhs[u32(m.x + k) / 4u]);
}
// Two steps of one row, the first of which is even.
fn lhs_steps(m: i32, k: array<i32, STEPS>) -> array<f32, STEPS> {
    let at = u32(m + k[0]);
    return two(lhs[at / 4u][at / 2u % 2u]);
}
// end long lhs

// begin long rhs
fn rhs_quad_n(k: vec3<i32>, n: array<vec3<i32>, 4>) -> vec4<f32> {
    return four(rhs[u32(k.x + n[0].x) / 4u]);
}
// The same of one column.
fn rhs_steps(k: array<vec3<i32>, STEPS>, n: vec3<i32>) -> array<f32, STEPS> {
    let at = u32(k[0].x + n.x);
    return two(rhs[at / 4u][at / 2u % 2u]);
}
// end long rhs
