// import: attention
// Attention, forward, without workgroup memory or barriers: an invocation computes THREAD_ROWS queries.
//
// Layout: see lib/attention.wgsl. The result is out [batch, queries, heads, value], then each row's log-sum-exp.
// Tile: WORKGROUP * THREAD_ROWS queries of one head; queries and sums of values stay in registers, keys and values are read
// a few at a time at addresses that all invocations share.
// Bound by: loads; each element of a key or value serves WORKGROUP * THREAD_ROWS multiply-adds.

const WORKGROUP: u32 = 8u;
const THREAD_ROWS: u32 = 4u;
const ROWS: u32 = WORKGROUP * THREAD_ROWS;
const STEPS: u32 = 2u;

// Elements `d` to `d + 3` of a result row, as far as there are so many.
fn store(at: u32, d: u32, limit: u32, x: vec4<f32>) {
    for (var e = 0u; e < 4u; e += 1u) {
        if d + e < limit {
            out[at + d + e] = x[e];
        }
    }
}

// Stores a row's log-sum-exp; the factor that makes its shares add up to one. A row that sees nothing is zero, and so are its
// probabilities when they are made again.
fn finish(row: u32, top: f32, sum: f32) -> f32 {
    let found = sum != 0.0;
    put_sum(row, found, top + log2(sum));
    return select(0.0, 1.0 / sum, found);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let size = params[0];
    let blocks = (params[1].x + ROWS - 1u) / ROWS;
    let group = wid.x + wid.y * groups.x;
    let i0 = group % blocks * ROWS;
    let h = group / blocks % size.y;
    let b = group / blocks / size.y;
    if b >= size.x {
        return;
    }
    let kv = h / size.w;
    let last = min(i0 + ROWS, params[1].x) - 1u;
    var query: array<array<vec4<f32>, WIDTH_QUADS>, THREAD_ROWS>;
    var acc: array<array<vec4<f32>, VALUE_QUADS>, THREAD_ROWS>;
    var top: array<f32, THREAD_ROWS>;
    var sum: array<f32, THREAD_ROWS>;
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        // Beyond the last query the last one is computed again, and dropped.
        let q_row = row_at(0u, b, h, min(i0 + r * WORKGROUP + lid, last));
        for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
            query[r][c] = q_quad(q_row, 4u * c) * bitcast<f32>(params[2].w);
        }
        top[r] = HIDDEN;
    }
    let keys = span(i0, last);
    for (var j0 = keys.x; j0 < keys.y; j0 += STEPS) {
        var s: array<vec2<f32>, THREAD_ROWS>;
        for (var t = 0u; t < STEPS; t += 1u) {
            // Beyond the last key the last one is read again, and hidden.
            let j = min(j0 + t, keys.y - 1u);
            let k_row = row_at(1u, b, kv, j);
            var x: array<vec4<f32>, THREAD_ROWS>;
            for (var c = 0u; c < WIDTH_QUADS; c += 1u) {
                let key = k_quad(k_row, 4u * c);
                for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                    x[r] = fma(query[r][c], key, x[r]);
                }
            }
            for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                let i = min(i0 + r * WORKGROUP + lid, last);
                let score = masked((x[r].x + x[r].y) + (x[r].z + x[r].w), b, h, i, j);
                s[r][t] = select(2.0 * HIDDEN, score, sees(i, j) && j0 + t < keys.y);
            }
        }
        for (var r = 0u; r < THREAD_ROWS; r += 1u) {
            let above = max(max(s[r].x, s[r].y), top[r]);
            let factor = exp2(top[r] - above);
            s[r] = exp2(s[r] - above);
            sum[r] = fma(sum[r], factor, s[r].x + s[r].y);
            top[r] = above;
            for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                acc[r][c] *= factor;
            }
        }
        for (var t = 0u; t < STEPS; t += 1u) {
            let v_row = row_at(2u, b, kv, min(j0 + t, keys.y - 1u));
            for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                let value = v_quad(v_row, 4u * c);
                for (var r = 0u; r < THREAD_ROWS; r += 1u) {
                    acc[r][c] = fma(vec4<f32>(s[r][t]), value, acc[r][c]);
                }
            }
        }
    }
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        let i = i0 + r * WORKGROUP + lid;
        if i < params[1].x {
            let row = (b * params[1].x + i) * size.y + h;
            let inverse = finish(row, top[r], sum[r]);
            for (var c = 0u; c < VALUE_QUADS; c += 1u) {
                // Not a parameter alone, for whose value lavapipe would compile again at every dispatch: wid.z is zero.
                store(row * params[1].w, 4u * c, params[1].w + wid.z, acc[r][c] * inverse);
            }
        }
    }
}
