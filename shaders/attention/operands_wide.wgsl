// Loaders of four elements at once, in place of the narrow ones of lib/attention.wgsl: for operands whose elements are
// neighbours, whose rows begin at multiples of four elements, and whose widths are whole quads.

// begin standalone
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 10>;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> forward: array<vec4<f32>>;

fn q_four(i: u32) -> vec4<f32> {
    return q[i];
}
fn k_four(i: u32) -> vec4<f32> {
    return k[i];
}
fn v_four(i: u32) -> vec4<f32> {
    return v[i];
}
fn gradient_four(i: u32) -> vec4<f32> {
    return gradient[i];
}
fn forward_four(i: u32) -> vec4<f32> {
    return forward[i];
}
// end standalone

fn q_quad(row: i32, d: u32) -> vec4<f32> {
    return q_four((u32(row) + d) / 4u);
}
fn k_quad(row: i32, d: u32) -> vec4<f32> {
    return k_four((u32(row) + d) / 4u);
}
fn v_quad(row: i32, d: u32) -> vec4<f32> {
    return v_four((u32(row) + d) / 4u);
}
// begin wide backward
fn gradient_quad(row: i32, d: u32) -> vec4<f32> {
    return gradient_four((u32(row) + d) / 4u);
}
fn forward_quad(row: u32, d: u32) -> vec4<f32> {
    return forward_four((params[9].y + row * params[1].w + d) / 4u);
}
fn forward_element(i: i32) -> f32 {
    return forward_four(u32(i) / 4u)[u32(i) % 4u];
}
// end wide backward
