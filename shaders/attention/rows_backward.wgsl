// Attention, backward, without workgroup memory or barriers: an invocation computes the gradient of one query, or of one
// key and its value. The first workgroups do the former, the others the latter.
//
// Layout: see operands.wgsl. The result is dq [batch, queries, heads, width], dk [batch, keys, kv heads, width],
// dv [batch, keys, kv heads, value].
// Tile: WORKGROUP neighbouring rows of one head, their operands and sums in registers; the rows of the other side are
// read at addresses that all invocations share.
// Bound by: loads; each element that is read serves WORKGROUP or twice as many multiply-adds.
// import of operands.wgsl: the loaders.

const WORKGROUP: u32 = 8u;

// begin standalone
const LOG2E: f32 = 1.44269504;
const WIDTH_QUADS: u32 = 8u;
const VALUE_QUADS: u32 = 8u;
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 10>;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
fn row_at(operand: u32, b: u32, h: u32, i: u32) -> i32 {
    return i32((b + h) * params[1].x + i + operand);
}
fn q_quad(row: i32, d: u32) -> vec4<f32> {
    return q[u32(row) + d / 4u];
}
fn k_quad(row: i32, d: u32) -> vec4<f32> {
    return q_quad(row, d);
}
fn v_quad(row: i32, d: u32) -> vec4<f32> {
    return q_quad(row, d);
}
fn gradient_quad(row: i32, d: u32) -> vec4<f32> {
    return q_quad(row, d);
}
fn forward_quad(row: u32, d: u32) -> vec4<f32> {
    return q[row + d / 4u];
}
fn forward_sum(row: u32) -> f32 {
    return q[row].x;
}
fn masked(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score;
}
fn span(first: u32, last: u32) -> vec2<u32> {
    return vec2<u32>(first, last);
}
fn viewers(first: u32, last: u32) -> vec2<u32> {
    return vec2<u32>(first, last);
}
fn sees(i: u32, j: u32) -> bool {
    return i >= j;
}
// end standalone

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

// Quads but the last are whole: only its elements ask whether they are there.
fn store(at: u32, d: u32, limit: u32, x: vec4<f32>) {
    out[at + d] = x.x;
    if d + 4u <= limit {
        out[at + d + 1u] = x.y;
        out[at + d + 2u] = x.z;
        out[at + d + 3u] = x.w;
        return;
    }
    if d + 1u < limit {
        out[at + d + 1u] = x.y;
    }
    if d + 2u < limit {
        out[at + d + 2u] = x.z;
    }
}

fn of_query(group: u32, lid: u32) {
    let size = params[0];
    let queries = params[1].x;
    let blocks = (queries + WORKGROUP - 1u) / WORKGROUP;
    let i0 = group % blocks * WORKGROUP;
    let h = group / blocks % size.y;
    let b = group / blocks / size.y;
    let kv = h / size.w;
    let i = min(i0 + lid, queries - 1u);
    let row = (b * queries + i) * size.y + h;
    let scale = bitcast<f32>(params[2].w);
    let q_row = row_at(0u, b, h, i);
    let g_row = row_at(3u, b, h, i);
    var query: array<vec4<f32>, WIDTH_QUADS>;
    for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
        query[c] = q_quad(q_row, 4u * c) * scale;
    }
    var g: array<vec4<f32>, VALUE_QUADS>;
    var product: vec4<f32>;
    for (var c = 0u; c < VALUE_QUADS; c += 1u) {
        g[c] = gradient_quad(g_row, 4u * c);
        product = fma(g[c], forward_quad(row, 4u * c), product);
    }
    let delta = total(product);
    let sum = forward_sum(row);
    var dq: array<vec4<f32>, WIDTH_QUADS>;
    let keys = span(i0, min(i0 + WORKGROUP, queries) - 1u);
    for (var j = keys.x; j < keys.y; j += 1u) {
        let k_row = row_at(1u, b, kv, j);
        let v_row = row_at(2u, b, kv, j);
        var x: vec4<f32>;
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            x = fma(query[c], k_quad(k_row, 4u * c), x);
        }
        var y: vec4<f32>;
        for (var c = 0u; c < VALUE_QUADS; c += 1u) {
            y = fma(g[c], v_quad(v_row, 4u * c), y);
        }
        let p = select(0.0, exp2(masked(total(x), b, h, i, j) - sum), sees(i, j));
        let ds = p * (total(y) - delta);
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            dq[c] = fma(vec4<f32>(ds), k_quad(k_row, 4u * c), dq[c]);
        }
    }
    if i0 + lid < queries {
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            store(row * params[1].z, 4u * c, params[1].z, dq[c] * (scale / LOG2E));
        }
    }
}

fn of_key(group: u32, lid: u32) {
    let size = params[0];
    let extents = params[1];
    let blocks = (extents.y + WORKGROUP - 1u) / WORKGROUP;
    let j0 = group % blocks * WORKGROUP;
    let kv = group / blocks % size.z;
    let b = group / blocks / size.z;
    if b >= size.x {
        return;
    }
    let j = min(j0 + lid, extents.y - 1u);
    let scale = bitcast<f32>(params[2].w);
    let k_row = row_at(1u, b, kv, j);
    let v_row = row_at(2u, b, kv, j);
    var key: array<vec4<f32>, WIDTH_QUADS>;
    var dk: array<vec4<f32>, WIDTH_QUADS>;
    for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
        key[c] = k_quad(k_row, 4u * c) * scale;
    }
    var value: array<vec4<f32>, VALUE_QUADS>;
    var dv: array<vec4<f32>, VALUE_QUADS>;
    for (var c = 0u; c < VALUE_QUADS; c += 1u) {
        value[c] = v_quad(v_row, 4u * c);
    }
    let rows = viewers(j0, min(j0 + WORKGROUP, extents.y) - 1u);
    for (var h = kv * size.w; h < (kv + 1u) * size.w; h += 1u) {
        for (var i = rows.x; i < rows.y; i += 1u) {
            let row = (b * extents.x + i) * size.y + h;
            let q_row = row_at(0u, b, h, i);
            let g_row = row_at(3u, b, h, i);
            var x: vec4<f32>;
            for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                x = fma(key[c], q_quad(q_row, 4u * c), x);
            }
            var y: vec4<f32>;
            for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                y = fma(value[c] - forward_quad(row, 4u * c), gradient_quad(g_row, 4u * c), y);
            }
            let p = select(0.0, exp2(masked(total(x), b, h, i, j) - forward_sum(row)), sees(i, j));
            let ds = p * total(y);
            for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                dk[c] = fma(vec4<f32>(ds), q_quad(q_row, 4u * c), dk[c]);
            }
            for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                dv[c] = fma(vec4<f32>(p), gradient_quad(g_row, 4u * c), dv[c]);
            }
        }
    }
    if j0 + lid < extents.y {
        let row = (b * extents.y + j) * size.z + kv;
        let dk_at = size.x * extents.x * size.y * extents.z;
        let dv_at = dk_at + size.x * extents.y * size.z * extents.z;
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            store(dk_at + row * extents.z, 4u * c, extents.z, dk[c] * (scale / LOG2E));
        }
        for (var c = 0u; c < VALUE_QUADS; c += 1u) {
            store(dv_at + row * extents.w, 4u * c, extents.w, dv[c]);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let blocks = (params[1].x + WORKGROUP - 1u) / WORKGROUP;
    let of_queries = params[0].x * params[0].y * blocks;
    let group = wid.x + wid.y * groups.x;
    if group < of_queries {
        of_query(group, lid);
    } else {
        of_key(group - of_queries, lid);
    }
}
