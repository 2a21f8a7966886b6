// Matrix product for software adapters: the same contract as tile.wgsl without workgroup memory or barriers.
//
// Layout: as tile.wgsl. The LANES invocations of a workgroup are one subgroup; each takes four neighbouring columns
// of every 4 * LANES.
// Tile: a workgroup computes THREAD_M x (THREAD_N * LANES) results, an invocation THREAD_M x THREAD_N of them, in
// registers, four steps of k at a time; operands come straight from global memory (from cache). The position along
// k is stepped, not divided. Rows and columns beyond the result repeat the last one and are dropped; steps beyond
// the last count as zero.
// Memory: registers only. The tile is small because all of it is unrolled: compile time grows with its area.
// Bound by: loads. On lavapipe one costs about 10 ns for eight lanes whether or not they agree on the address, four
// neighbouring elements at once 22 ns (see wide.wgsl), a multiply-add 0.3 ns.
// Parameters: as tile.wgsl.

const LANES: u32 = 8u;
const THREAD_M: u32 = 8u;
const THREAD_N: u32 = 8u;
// Whether an operand is read four elements along k rather than along m or n.
const LHS_ALONG_K: bool = false;
const RHS_ALONG_K: bool = false;
const TILE_M: u32 = THREAD_M;
const TILE_N: u32 = THREAD_N * LANES;
const QUADS_M: u32 = (THREAD_M + 3u) / 4u;
const QUADS_N: u32 = THREAD_N / 4u;
// Rows that are loaded: whole quads.
const ROWS: u32 = 4u * QUADS_M;
const STEPS: u32 = 4u;
const RESULTS: u32 = THREAD_M * THREAD_N;

// begin standalone
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 3>;
@group(0) @binding(2) var<storage, read> lhs: array<f32>;
@group(0) @binding(3) var<storage, read> rhs: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

fn bases(batch: u32) -> vec2<i32> {
    return vec2<i32>(0, 0);
}
fn k_at(k: u32) -> vec3<u32> {
    return vec3<u32>(k, 0u, 0u);
}
fn k_next(k: vec3<u32>) -> vec3<u32> {
    return vec3<u32>(k.x + 1u, 0u, 0u);
}
fn lhs_m(base: i32, m: u32) -> i32 {
    return base + i32(m * params[0].z);
}
fn lhs_k(k: vec3<u32>) -> i32 {
    return i32(k.x);
}
fn lhs_load(m: i32, k: i32) -> f32 {
    return lhs[m + k];
}
fn rhs_n(base: i32, n: u32) -> vec3<i32> {
    return vec3<i32>(base + i32(n), 0, 0);
}
fn rhs_k(k: vec3<u32>) -> vec3<i32> {
    return vec3<i32>(i32(k.x * params[0].y), 0, 0);
}
fn rhs_load(k: vec3<i32>, n: vec3<i32>) -> f32 {
    return rhs[k.x + n.x];
}
fn lhs_quad_m(m: vec4<i32>, k: i32) -> vec4<f32> {
    return vec4<f32>(lhs_load(m.x, k), lhs_load(m.y, k), lhs_load(m.z, k), lhs_load(m.w, k));
}
fn lhs_quad_k(m: i32, k: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(lhs_load(m, k.x), lhs_load(m, k.y), lhs_load(m, k.z), lhs_load(m, k.w));
}
fn rhs_quad_n(k: vec3<i32>, n: array<vec3<i32>, 4>) -> vec4<f32> {
    return vec4<f32>(rhs_load(k, n[0]), rhs_load(k, n[1]), rhs_load(k, n[2]), rhs_load(k, n[3]));
}
fn rhs_quad_k(k: array<vec3<i32>, 4>, n: vec3<i32>) -> vec4<f32> {
    return vec4<f32>(rhs_load(k[0], n), rhs_load(k[1], n), rhs_load(k[2], n), rhs_load(k[3], n));
}
fn epilogue(i: u32, acc: f32) {
    out[i] = acc;
}
// end standalone

// Column number j of an invocation, from the workgroup's first.
fn column(j: u32, lid: u32) -> u32 {
    return j / 4u * (4u * LANES) + lid * 4u + j % 4u;
}

// Four steps of k of an invocation's columns, zero where a step is not live.
fn rhs_block(
    rk: array<vec3<i32>, 4>,
    cols: array<array<vec3<i32>, 4>, QUADS_N>,
    live: vec4<bool>,
) -> array<array<f32, THREAD_N>, STEPS> {
    var r: array<array<f32, THREAD_N>, STEPS>;
    if RHS_ALONG_K {
        for (var j = 0u; j < THREAD_N; j += 1u) {
            let quad = select(vec4<f32>(), rhs_quad_k(rk, cols[j / 4u][j % 4u]), live);
            for (var s = 0u; s < STEPS; s += 1u) {
                r[s][j] = quad[s];
            }
        }
    } else {
        for (var s = 0u; s < STEPS; s += 1u) {
            for (var q = 0u; q < QUADS_N; q += 1u) {
                let quad = select(vec4<f32>(), rhs_quad_n(rk[s], cols[q]), live[s]);
                r[s][q * 4u] = quad.x;
                r[s][q * 4u + 1u] = quad.y;
                r[s][q * 4u + 2u] = quad.z;
                r[s][q * 4u + 3u] = quad.w;
            }
        }
    }
    return r;
}

// The same of the workgroup's rows.
fn lhs_block(rows: array<vec4<i32>, QUADS_M>, lk: vec4<i32>, live: vec4<bool>) -> array<array<f32, STEPS>, ROWS> {
    var l: array<array<f32, STEPS>, ROWS>;
    if LHS_ALONG_K {
        for (var i = 0u; i < THREAD_M; i += 1u) {
            let quad = select(vec4<f32>(), lhs_quad_k(rows[i / 4u][i % 4u], lk), live);
            for (var s = 0u; s < STEPS; s += 1u) {
                l[i][s] = quad[s];
            }
        }
    } else {
        for (var s = 0u; s < STEPS; s += 1u) {
            for (var q = 0u; q < QUADS_M; q += 1u) {
                let quad = select(vec4<f32>(), lhs_quad_m(rows[q], lk[s]), live[s]);
                l[q * 4u][s] = quad.x;
                l[q * 4u + 1u][s] = quad.y;
                l[q * 4u + 2u][s] = quad.z;
                l[q * 4u + 3u][s] = quad.w;
            }
        }
    }
    return l;
}

// Hands a result to the epilogue, unless it lies outside.
fn finish(batch: u32, split: u32, m: u32, n: u32, acc: f32) {
    let size = params[0];
    if m < size.x && n < size.y {
        let run = n / params[2].x;
        let at = run * params[2].y + (n - run * params[2].x) + batch * params[2].z + m * params[2].w;
        epilogue(at + split * size.x * size.y * size.w, acc);
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let size = params[0];
    let tiles = params[1];
    var rest = wid.x + wid.y * groups.x;
    let n0 = rest % tiles.y * TILE_N;
    rest /= tiles.y;
    let m0 = rest % tiles.x * TILE_M;
    rest /= tiles.x;
    let split = rest % tiles.z;
    let batch = rest / tiles.z;
    if batch >= size.w {
        return;
    }
    let k_begin = split * tiles.w;
    let k_end = min(k_begin + tiles.w, size.z);
    let base = bases(batch);

    var rows: array<vec4<i32>, QUADS_M>;
    var cols: array<array<vec3<i32>, 4>, QUADS_N>;
    var acc: array<array<f32, THREAD_N>, THREAD_M>;
    for (var i = 0u; i < ROWS; i += 1u) {
        rows[i / 4u][i % 4u] = lhs_m(base.x, min(m0 + i, size.x - 1u));
    }
    for (var i = 0u; i < THREAD_M; i += 1u) {
        for (var j = 0u; j < THREAD_N; j += 1u) {
            acc[i][j] = 0.0;
        }
    }
    for (var j = 0u; j < THREAD_N; j += 1u) {
        cols[j / 4u][j % 4u] = rhs_n(base.y, min(n0 + column(j, lid), size.y - 1u));
    }

    var at = k_at(k_begin);
    for (var k = k_begin; k < k_end; k += STEPS) {
        var live: vec4<bool>;
        var lk: vec4<i32>;
        var rk: array<vec3<i32>, 4>;
        for (var s = 0u; s < STEPS; s += 1u) {
            live[s] = k + s < k_end;
            lk[s] = lhs_k(at);
            rk[s] = rhs_k(at);
            // The position stays at the last step instead of leaving the operands.
            if k + s + 1u < k_end {
                at = k_next(at);
            }
        }
        let r = rhs_block(rk, cols, live);
        let l = lhs_block(rows, lk, live);
        for (var i = 0u; i < THREAD_M; i += 1u) {
            for (var s = 0u; s < STEPS; s += 1u) {
                for (var j = 0u; j < THREAD_N; j += 1u) {
                    acc[i][j] = fma(l[i][s], r[s][j], acc[i][j]);
                }
            }
        }
    }

    // A copy that may be indexed at run time, so that the epilogue is compiled once and acc stays in registers.
    var results: array<f32, RESULTS>;
    for (var i = 0u; i < THREAD_M; i += 1u) {
        for (var j = 0u; j < THREAD_N; j += 1u) {
            results[i * THREAD_N + j] = acc[i][j];
        }
    }
    for (var e = 0u; e < RESULTS; e += 1u) {
        finish(batch, split, m0 + e / THREAD_N, n0 + column(e % THREAD_N, lid), results[e]);
    }
}
