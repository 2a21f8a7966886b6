// Attention, forward, for graphics hardware: a workgroup computes ROWS queries of one head over blocks of KEYS keys.
//
// Layout: see operands.wgsl. The result is out [batch, queries, heads, value], then each row's log-sum-exp.
// Tile: LANES invocations share a row. Of the scores an invocation has THREAD_ROWS x 4 in registers, of the result
// THREAD_ROWS x 4 * COLS. Queries and keys are staged sixteen elements at a time, values STEP rows at a time, in the same
// memory; probabilities go from the one product to the other through workgroup memory. Rows of a tile are LANES apart in
// an invocation, and quads are exchanged by the row's number, so that the lanes of a load lie in different banks.
// Memory: 6 KiB of staged operands and 8 KiB of probabilities, for 64 x 32.
// Bound by: arithmetic; THREAD_ROWS + 4 quads from workgroup memory for 16 * THREAD_ROWS multiply-adds of the first product,
// THREAD_ROWS + 4 * COLS for 16 * THREAD_ROWS * COLS of the second.
// import of operands.wgsl: the loaders.

const THREAD_ROWS: u32 = 8u;
// Quads of a result row that an invocation has; values of a block that are staged at once.
const COLS: u32 = 1u;
const STEP: u32 = 32u;

const ROWS: u32 = 64u;
const KEYS: u32 = 32u;
const LANES: u32 = 8u;
const GROUPS: u32 = ROWS / THREAD_ROWS;
const WORKGROUP: u32 = GROUPS * LANES;
const Q_LOADS: u32 = ROWS * 4u / WORKGROUP;
const K_LOADS: u32 = KEYS * 4u / WORKGROUP;
const V_LOADS: u32 = STEP * LANES * COLS / WORKGROUP;
const V_QUADS: u32 = STEP / 4u;
const FOUR: u32 = 4u;
const K_AT: u32 = ROWS * 4u;

// begin standalone
const LOG2E: f32 = 1.44269504;
const HIDDEN: f32 = -6e37 * LOG2E;
const WIDTH: u32 = 32u;
const VALUE: u32 = 32u;
const MASKED: bool = false;
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 10>;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
fn row_at(operand: u32, b: u32, h: u32, i: u32) -> i32 {
    return i32((b + h) * params[1].x + i + operand);
}
fn q_quad(row: i32, d: u32) -> vec4<f32> {
    return q[u32(row) + d / 4u];
}
fn k_quad(row: i32, d: u32) -> vec4<f32> {
    return k[u32(row) + d / 4u];
}
fn v_quad(row: i32, d: u32) -> vec4<f32> {
    return v[u32(row) + d / 4u];
}
fn masked(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
    return score;
}
fn span(first: u32, last: u32) -> vec2<u32> {
    return vec2<u32>(first, last);
}
fn sees(i: u32, j: u32) -> bool {
    return i >= j;
}
// end standalone

var<workgroup> staged: array<vec4<f32>, (ROWS + KEYS) * 4u>;
var<workgroup> shares: array<vec4<f32>, ROWS * KEYS / 4u>;

// Where an invocation's queries and keys lie, its scores, its part of the result, and of its rows the highest score and the
// sum. They are private, so that the steps of a block are functions of their own.
var<private> q_rows: array<i32, Q_LOADS>;
var<private> k_rows: array<i32, K_LOADS>;
var<private> s: array<vec4<f32>, THREAD_ROWS>;
var<private> acc: array<array<vec4<f32>, COLS>, THREAD_ROWS>;
var<private> top: array<f32, THREAD_ROWS>;
var<private> sum: array<f32, THREAD_ROWS>;

// The queries of a workgroup, from the first to the last, of a batch and a head.
struct Tile {
    b: u32,
    h: u32,
    first: u32,
    last: u32,
}

// Where an invocation is, and how its quads of queries, keys and probabilities are exchanged. Made once, outside of the
// loops, as compilers leave in a loop what is in it.
struct Place {
    lid: u32,
    lane: u32,
    group: u32,
    quad: u32,
    q_swap: u32,
    k_swap: u32,
    p_swap: u32,
}

fn clear() {
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        top[i] = HIDDEN;
        sum[i] = 0.0;
        for (var n = 0u; n < COLS; n += 1u) {
            acc[i][n] = vec4<f32>();
        }
    }
}

// Stages sixteen elements, from d0, of the tile's queries and of the block's keys.
fn stage_operands(d0: u32, scale: f32, at: Place) {
    let d = d0 + 4u * at.quad;
    for (var l = 0u; l < Q_LOADS; l += 1u) {
        let row = (l * WORKGROUP + at.lid) / 4u;
        var x = vec4<f32>();
        if WIDTH % 16u == 0u || d < WIDTH {
            x = q_quad(q_rows[l], d) * scale;
        }
        staged[row * 4u + (at.quad ^ (row / 2u % 4u))] = x;
    }
    for (var l = 0u; l < K_LOADS; l += 1u) {
        let key = (l * WORKGROUP + at.lid) / 4u;
        let row = key % 4u * LANES + key / 4u;
        var x = vec4<f32>();
        if WIDTH % 16u == 0u || d < WIDTH {
            x = k_quad(k_rows[l], d);
        }
        staged[K_AT + row * 4u + (at.quad ^ (row / 2u % 4u))] = x;
    }
}

// Adds the products of what is staged to the scores.
fn add_scores(at: Place) {
    for (var f = 0u; f < FOUR; f += 1u) {
        let first = K_AT + at.lane * 4u + (f ^ at.k_swap);
        let k0 = staged[first];
        let k1 = staged[first + LANES * 4u];
        let k2 = staged[first + LANES * 8u];
        let k3 = staged[first + LANES * 12u];
        let kx = vec4<f32>(k0.x, k1.x, k2.x, k3.x);
        let ky = vec4<f32>(k0.y, k1.y, k2.y, k3.y);
        let kz = vec4<f32>(k0.z, k1.z, k2.z, k3.z);
        let kw = vec4<f32>(k0.w, k1.w, k2.w, k3.w);
        for (var i = 0u; i < THREAD_ROWS; i += 1u) {
            let x = staged[(at.group + i * GROUPS) * 4u + (f ^ at.q_swap)];
            s[i] = fma(vec4<f32>(x.x), kx, s[i]);
            s[i] = fma(vec4<f32>(x.y), ky, s[i]);
            s[i] = fma(vec4<f32>(x.z), kz, s[i]);
            s[i] = fma(vec4<f32>(x.w), kw, s[i]);
        }
    }
}

// Masks the scores of the keys from j0, and hides those that are not seen or not before `end`.
fn hide(tile: Tile, j0: u32, end: u32, at: Place) {
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        let row = min(tile.first + at.group + i * GROUPS, tile.last);
        for (var c = 0u; c < FOUR; c += 1u) {
            let j = j0 + at.lane * 4u + c;
            let score = masked(s[i][c], tile.b, tile.h, row, min(j, end - 1u));
            s[i][c] = select(2.0 * HIDDEN, score, sees(row, j) && j < end);
        }
    }
}

// Makes probabilities of the scores and shares them; what was summed before is scaled to the new highest score.
fn share_scores(at: Place) {
    workgroupBarrier();
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        let most = max(max(s[i].x, s[i].y), max(s[i].z, s[i].w));
        staged[(at.group + i * GROUPS) * 2u + at.lane / 4u][at.lane % 4u] = most;
    }
    workgroupBarrier();
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        let row = at.group + i * GROUPS;
        let most = max(staged[row * 2u], staged[row * 2u + 1u]);
        let above = max(max(max(most.x, most.y), max(most.z, most.w)), top[i]);
        let factor = exp2(top[i] - above);
        let p = exp2(s[i] - above);
        sum[i] = fma(sum[i], factor, (p.x + p.y) + (p.z + p.w));
        top[i] = above;
        shares[row * LANES + (at.lane ^ at.p_swap)] = p;
        for (var n = 0u; n < COLS; n += 1u) {
            acc[i][n] *= factor;
        }
    }
}

// Stages STEP values from number j0; what lies beyond the last repeats it.
fn stage_values(b: u32, kv: u32, j0: u32, last: u32, lid: u32) {
    for (var l = 0u; l < V_LOADS; l += 1u) {
        let at = l * WORKGROUP + lid;
        let d = at % (LANES * COLS) * 4u;
        let j = min(j0 + at / (LANES * COLS), last);
        var x = vec4<f32>();
        if VALUE % 32u == 0u || d < VALUE {
            x = v_quad(row_at(2u, b, kv, j), d);
        }
        staged[at] = x;
    }
}

// Adds the products of the staged values, number t0 of the block and on, to the result.
fn add_values(t0: u32, at: Place) {
    for (var t = 0u; t < V_QUADS; t += 1u) {
        var p: array<vec4<f32>, THREAD_ROWS>;
        for (var i = 0u; i < THREAD_ROWS; i += 1u) {
            p[i] = shares[(at.group + i * GROUPS) * LANES + ((t0 / 4u + t) ^ at.p_swap)];
        }
        for (var n = 0u; n < COLS; n += 1u) {
            let first = t * 4u * LANES * COLS + at.lane + n * LANES;
            let v0 = staged[first];
            let v1 = staged[first + LANES * COLS];
            let v2 = staged[first + 2u * LANES * COLS];
            let v3 = staged[first + 3u * LANES * COLS];
            for (var i = 0u; i < THREAD_ROWS; i += 1u) {
                acc[i][n] = fma(vec4<f32>(p[i].x), v0, acc[i][n]);
                acc[i][n] = fma(vec4<f32>(p[i].y), v1, acc[i][n]);
                acc[i][n] = fma(vec4<f32>(p[i].z), v2, acc[i][n]);
                acc[i][n] = fma(vec4<f32>(p[i].w), v3, acc[i][n]);
            }
        }
    }
}

// Stores the rows divided by their sums, and the log-sum-exp of each.
fn store(tile: Tile, at: Place) {
    let size = params[0];
    let queries = params[1].x;
    let value = params[1].w;
    workgroupBarrier();
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        staged[(at.group + i * GROUPS) * 2u + at.lane / 4u][at.lane % 4u] = sum[i];
    }
    workgroupBarrier();
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        let local = at.group + i * GROUPS;
        let part = staged[local * 2u] + staged[local * 2u + 1u];
        let total = (part.x + part.y) + (part.z + part.w);
        // A row that sees nothing is zero, and so are its probabilities when they are made again.
        let found = total != 0.0;
        let inverse = select(0.0, 1.0 / total, found);
        let row = (tile.b * queries + tile.first + local) * size.y + tile.h;
        if tile.first + local < queries {
            for (var n = 0u; n < COLS; n += 1u) {
                let d = 4u * (at.lane + n * LANES);
                for (var e = 0u; e < FOUR; e += 1u) {
                    if d + e < value {
                        out[row * value + d + e] = acc[i][n][e] * inverse;
                    }
                }
            }
            if at.lane == 0u {
                let sum_at = size.x * queries * size.y * value + row;
                out[sum_at] = select(-HIDDEN, top[i] + log2(total), found) / LOG2E;
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
    let size = params[0];
    let queries = params[1].x;
    let blocks = (queries + ROWS - 1u) / ROWS;
    var rest = wid.x + wid.y * groups.x;
    // The last rows of a causal problem take longest, and go first.
    let i0 = (blocks - 1u - rest % blocks) * ROWS;
    rest /= blocks;
    let h = rest % size.y;
    let b = rest / size.y;
    if b >= size.x {
        return;
    }
    let kv = h / size.w;
    let lane = lid % LANES;
    let group = lid / LANES;
    let last = min(i0 + ROWS, queries) - 1u;
    let at = Place(lid, lane, group, lid % 4u, group / 2u % 4u, lane / 2u % 4u, group % 8u);
    let scale = bitcast<f32>(params[2].w);
    let tile = Tile(b, h, i0, last);
    for (var l = 0u; l < Q_LOADS; l += 1u) {
        q_rows[l] = row_at(0u, b, h, min(i0 + (l * WORKGROUP + lid) / 4u, last));
    }
    clear();
    let keys = span(i0, last);
    // The bounds of the loops over d0 and t0 are not constant, so that compilers leave them loops: unrolled, their loads are
    // moved ahead, and a quarter of the registers with them.
    for (var j0 = keys.x; j0 < keys.y; j0 += KEYS) {
        for (var l = 0u; l < K_LOADS; l += 1u) {
            k_rows[l] = row_at(1u, b, kv, min(j0 + (l * WORKGROUP + lid) / 4u, keys.y - 1u));
        }
        for (var i = 0u; i < THREAD_ROWS; i += 1u) {
            s[i] = vec4<f32>();
        }
        for (var d0 = 0u; d0 < params[1].z; d0 += 16u) {
            workgroupBarrier();
            stage_operands(d0, scale, at);
            workgroupBarrier();
            add_scores(at);
        }
        // Only blocks at the edge of what is seen ask of each key; the band is monotonic.
        let whole = j0 + KEYS <= keys.y && sees(i0, j0 + KEYS - 1u) && sees(i0, j0) && sees(last, j0);
        if MASKED || !whole {
            hide(tile, j0, keys.y, at);
        }
        share_scores(at);
        for (var t0 = 0u; t0 < min(KEYS, keys.y - j0); t0 += STEP) {
            workgroupBarrier();
            stage_values(b, kv, j0 + t0, keys.y - 1u, lid);
            workgroupBarrier();
            add_values(t0, at);
        }
    }
    store(tile, at);
}
