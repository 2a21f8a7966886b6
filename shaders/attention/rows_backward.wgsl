// import: attention
// Attention, backward, without workgroup memory or barriers: an invocation computes the gradients of THREAD_ROWS
// queries, or of as many keys and their values. The first workgroups do the former, the others the latter.
//
// Layout: see lib/attention.wgsl. The result is dq [batch, queries, heads, width], dk [batch, keys, kv heads, width],
// dv [batch, keys, kv heads, value].
// Tile: WORKGROUP * THREAD_ROWS rows of one head, their operands and sums in registers; the rows of the other side are
// read at addresses that all invocations share.
// Bound by: loads; each element that is read serves WORKGROUP * THREAD_ROWS or twice as many multiply-adds.

const WORKGROUP: u32 = 8u;
const THREAD_ROWS: u32 = 2u;
const ROWS: u32 = WORKGROUP * THREAD_ROWS;

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
    let blocks = (queries + ROWS - 1u) / ROWS;
    let i0 = group % blocks * ROWS;
    let h = group / blocks % size.y;
    let b = group / blocks / size.y;
    let kv = h / size.w;
    let last = min(i0 + ROWS, queries) - 1u;
    let scale = bitcast<f32>(params[2].w);
    var query: array<array<vec4<f32>, WIDTH_QUADS>, THREAD_ROWS>;
    var g: array<array<vec4<f32>, VALUE_QUADS>, THREAD_ROWS>;
    var dq: array<array<vec4<f32>, WIDTH_QUADS>, THREAD_ROWS>;
    var delta: array<f32, THREAD_ROWS>;
    var sum: array<f32, THREAD_ROWS>;
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        let i = min(i0 + r * WORKGROUP + lid, last);
        let row = (b * queries + i) * size.y + h;
        let q_row = row_at(0u, b, h, i);
        let g_row = row_at(3u, b, h, i);
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            query[r][c] = q_quad(q_row, 4u * c) * scale;
        }
        var product: vec4<f32>;
        for (var c = 0u; c < VALUE_QUADS; c += 1u) {
            g[r][c] = gradient_quad(g_row, 4u * c);
            product = fma(g[r][c], forward_quad(row, 4u * c), product);
        }
        delta[r] = total(product);
        sum[r] = forward_sum(row);
    }
    let keys = span(i0, last);
    for (var j = keys.x; j < keys.y; j += 1u) {
        let k_row = row_at(1u, b, kv, j);
        let v_row = row_at(2u, b, kv, j);
        var key: array<vec4<f32>, WIDTH_QUADS>;
        var x: array<vec4<f32>, THREAD_ROWS>;
        var y: array<vec4<f32>, THREAD_ROWS>;
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            key[c] = k_quad(k_row, 4u * c);
            for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                x[r] = fma(query[r][c], key[c], x[r]);
            }
        }
        for (var c = 0u; c < VALUE_QUADS; c += 1u) {
            let value = v_quad(v_row, 4u * c);
            for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                y[r] = fma(g[r][c], value, y[r]);
            }
        }
        for (var r = 0u; r < THREAD_ROWS; r += 1u) {
            let i = min(i0 + r * WORKGROUP + lid, last);
            let p = select(0.0, exp2(masked(total(x[r]), b, h, i, j) - sum[r]), sees(i, j));
            let ds = p * (total(y[r]) - delta[r]);
            for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                dq[r][c] = fma(vec4<f32>(ds), key[c], dq[r][c]);
            }
        }
    }
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        let i = i0 + r * WORKGROUP + lid;
        if i < queries {
            let row = (b * queries + i) * size.y + h;
            for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                store(row * params[1].z, 4u * c, params[1].z, dq[r][c] * (scale / LOG2E));
            }
        }
    }
}

fn of_key(group: u32, lid: u32) {
    let size = params[0];
    let extents = params[1];
    let blocks = (extents.y + ROWS - 1u) / ROWS;
    let j0 = group % blocks * ROWS;
    let kv = group / blocks % size.z;
    let b = group / blocks / size.z;
    if b >= size.x {
        return;
    }
    let last = min(j0 + ROWS, extents.y) - 1u;
    let scale = bitcast<f32>(params[2].w);
    var key: array<array<vec4<f32>, WIDTH_QUADS>, THREAD_ROWS>;
    var dk: array<array<vec4<f32>, WIDTH_QUADS>, THREAD_ROWS>;
    var value: array<array<vec4<f32>, VALUE_QUADS>, THREAD_ROWS>;
    var dv: array<array<vec4<f32>, VALUE_QUADS>, THREAD_ROWS>;
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        let j = min(j0 + r * WORKGROUP + lid, last);
        let k_row = row_at(1u, b, kv, j);
        let v_row = row_at(2u, b, kv, j);
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            key[r][c] = k_quad(k_row, 4u * c) * scale;
        }
        for (var c = 0u; c < VALUE_QUADS; c += 1u) {
            value[r][c] = v_quad(v_row, 4u * c);
        }
    }
    let rows = viewers(j0, last);
    for (var h = kv * size.w; h < (kv + 1u) * size.w; h += 1u) {
        for (var i = rows.x; i < rows.y; i += 1u) {
            let row = (b * extents.x + i) * size.y + h;
            let q_row = row_at(0u, b, h, i);
            let g_row = row_at(3u, b, h, i);
            var query: array<vec4<f32>, WIDTH_QUADS>;
            var g: array<vec4<f32>, VALUE_QUADS>;
            var product: vec4<f32>;
            var x: array<vec4<f32>, THREAD_ROWS>;
            var y: array<vec4<f32>, THREAD_ROWS>;
            for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                query[c] = q_quad(q_row, 4u * c);
                for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                    x[r] = fma(key[r][c], query[c], x[r]);
                }
            }
            for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                g[c] = gradient_quad(g_row, 4u * c);
                product = fma(g[c], forward_quad(row, 4u * c), product);
                for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                    y[r] = fma(value[r][c], g[c], y[r]);
                }
            }
            let sum = forward_sum(row);
            for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                let j = min(j0 + r * WORKGROUP + lid, last);
                let p = select(0.0, exp2(masked(total(x[r]), b, h, i, j) - sum), sees(i, j));
                let ds = p * (total(y[r]) - total(product));
                for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                    dk[r][c] = fma(vec4<f32>(ds), query[c], dk[r][c]);
                }
                for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                    dv[r][c] = fma(vec4<f32>(p), g[c], dv[r][c]);
                }
            }
        }
    }
    let dk_at = size.x * extents.x * size.y * extents.z;
    let dv_at = dk_at + size.x * extents.y * size.z * extents.z;
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        let j = j0 + r * WORKGROUP + lid;
        if j < extents.y {
            let row = (b * extents.y + j) * size.z + kv;
            for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                store(dk_at + row * extents.z, 4u * c, extents.z, dk[r][c] * (scale / LOG2E));
            }
            for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                store(dv_at + row * extents.w, 4u * c, extents.w, dv[r][c]);
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let blocks = (params[1].x + ROWS - 1u) / ROWS;
    let of_queries = params[0].x * params[0].y * blocks;
    let group = wid.x + wid.y * groups.x;
    if group < of_queries {
        of_query(group, lid);
    } else {
        of_key(group - of_queries, lid);
    }
}
