// Matrix product for software adapters with subgroups of eight or more lanes: the contract of tile.wgsl without
// workgroup memory or barriers.
//
// Layout: as tile.wgsl. The LANES invocations of a workgroup are in one subgroup; each takes all THREAD_M rows, and four
// neighbouring columns of each 4 * LANES.
// Tile: THREAD_M x (THREAD_N * LANES) results in registers, STEPS steps of k at a time. No element of a tile is loaded
// twice: the lanes share the left operand out, 16 rows at a time, and each of its elements reaches all of them through a
// shuffle by a constant.
// Rows and columns beyond the result repeat the last one and are dropped; steps beyond the last count as zero.
// Memory: registers, which lavapipe keeps on the stack where there are too many.
// Bound by: loads. lavapipe makes some ten instructions of each component of each lane of one, and two of a
// multiply-add of eight lanes, which it does not fuse; a shuffle by a constant is one or two. That is also what it takes
// to compile: ten milliseconds for each component that the text loads, as much for an integer division, a fifth for a
// multiply-add. So one step or two are written out, and no more.
// Parameters: as tile.wgsl. Neighbouring workgroups are neighbours along m, so that the right operand's columns stay in
// cache.

const LANES: u32 = 8u;
const THREAD_M: u32 = 16u;
const THREAD_N: u32 = 4u;
// Elements that are neighbours in memory and loaded together.
const QUAD: u32 = 4u;
// Whether an operand is read along k rather than four elements along m or n.
const LHS_ALONG_K: bool = false;
const RHS_ALONG_K: bool = false;
const TILE_M: u32 = THREAD_M;
const TILE_N: u32 = THREAD_N * LANES;
const STEPS: u32 = 2u;
// Parts of 16 rows, and quads of columns of a lane.
const PARTS: u32 = THREAD_M / 16u;
const QUADS_N: u32 = THREAD_N / QUAD;
// Rows of a part whose steps a lane loads, if they are read along k; else a part has so many quads.
const SHARE: u32 = 16u / LANES;
const QUADS: u32 = 16u / QUAD;
const RESULTS: u32 = THREAD_M * THREAD_N;
const VECTORS: u32 = RESULTS / QUAD;

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
fn rhs_columns(base: i32, n: u32, last: u32) -> array<vec3<i32>, 4> {
    var cols: array<vec3<i32>, 4>;
    for (var j = 0u; j < QUAD; j += 1u) {
        cols[j] = vec3<i32>(base + i32(min(n + j, last)), 0, 0);
    }
    return cols;
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
fn rhs_quad_n(k: vec3<i32>, n: array<vec3<i32>, 4>) -> vec4<f32> {
    return vec4<f32>(rhs_load(k, n[0]), rhs_load(k, n[1]), rhs_load(k, n[2]), rhs_load(k, n[3]));
}
fn epilogue(i: u32, acc: f32) {
    out[i] = acc;
}
// end standalone

// begin narrow lhs
// Steps of one row, and of one column.
fn lhs_steps(m: i32, k: array<i32, STEPS>) -> array<f32, STEPS> {
    var some: array<f32, STEPS>;
    for (var s = 0u; s < STEPS; s += 1u) {
        some[s] = lhs_load(m, k[s]);
    }
    return some;
}
// end narrow lhs
// begin narrow rhs
fn rhs_steps(k: array<vec3<i32>, STEPS>, n: vec3<i32>) -> array<f32, STEPS> {
    var some: array<f32, STEPS>;
    for (var s = 0u; s < STEPS; s += 1u) {
        some[s] = rhs_load(k[s], n);
    }
    return some;
}
// end narrow rhs

// The steps of four of a lane's columns, zero where one is not live.
fn rhs_block(
    rk: array<vec3<i32>, STEPS>,
    cols: array<vec3<i32>, 4>,
    live: array<bool, STEPS>,
) -> array<vec4<f32>, STEPS> {
    var r: array<vec4<f32>, STEPS>;
    if RHS_ALONG_K {
        for (var j = 0u; j < QUAD; j += 1u) {
            let some = rhs_steps(rk, cols[j]);
            for (var s = 0u; s < STEPS; s += 1u) {
                r[s][j] = select(0.0, some[s], live[s]);
            }
        }
    } else {
        for (var s = 0u; s < STEPS; s += 1u) {
            r[s] = select(vec4<f32>(), rhs_quad_n(rk[s], cols), live[s]);
        }
    }
    return r;
}

// Where the rows lie that a lane loads; those beyond the last repeat it.
fn lhs_rows(base: i32, m0: u32, last: u32, lid: u32) -> array<vec4<i32>, PARTS> {
    var rows: array<vec4<i32>, PARTS>;
    for (var p = 0u; p < PARTS; p += 1u) {
        for (var j = 0u; j < QUAD; j += 1u) {
            let m = select(lid % QUADS * QUAD + j, lid + j * LANES, LHS_ALONG_K);
            rows[p][j] = lhs_m(base, min(m0 + 16u * p + m, last));
        }
    }
    return rows;
}

// A lane's share of the steps of 16 rows: the steps of row `lid` and of row `lid` + 8, or quad `lid` % 4 of the rows at
// step `lid` / 4.
fn lhs_share(rows: vec4<i32>, lk: array<i32, STEPS>, live: array<bool, STEPS>, lid: u32) -> vec4<f32> {
    var l: vec4<f32>;
    if LHS_ALONG_K {
        for (var h = 0u; h < SHARE; h += 1u) {
            let some = lhs_steps(rows[h], lk);
            for (var s = 0u; s < STEPS; s += 1u) {
                l[h * STEPS + s] = select(0.0, some[s], live[s]);
            }
        }
    } else {
        let later = lid >= QUADS;
        let quad = lhs_quad_m(rows, select(lk[0], lk[STEPS - 1u], later));
        l = select(vec4<f32>(), quad, select(live[0], live[STEPS - 1u], later));
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
    // Quotient and remainder by one division each.
    let all = wid.x + wid.y * groups.x;
    let by_m = all / tiles.x;
    let by_n = by_m / tiles.y;
    let batch = by_n / tiles.z;
    let m0 = (all - by_m * tiles.x) * TILE_M;
    let n0 = (by_m - by_n * tiles.y) * TILE_N;
    let split = by_n - batch * tiles.z;
    if batch >= size.w {
        return;
    }
    let k_begin = split * tiles.w;
    let k_end = min(k_begin + tiles.w, size.z);
    let base = bases(batch);

    let rows = lhs_rows(base.x, m0, size.x - 1u, lid);
    var cols: array<array<vec3<i32>, 4>, QUADS_N>;
    for (var q = 0u; q < QUADS_N; q += 1u) {
        cols[q] = rhs_columns(base.y, n0 + (q * LANES + lid) * QUAD, size.y - 1u);
    }

    var acc: array<vec4<f32>, VECTORS>;
    var at = k_at(k_begin);
    for (var k = k_begin; k < k_end; k += STEPS) {
        var live: array<bool, STEPS>;
        var lk: array<i32, STEPS>;
        var rk: array<vec3<i32>, STEPS>;
        for (var s = 0u; s < STEPS; s += 1u) {
            live[s] = k + s < k_end;
            lk[s] = lhs_k(at);
            rk[s] = rhs_k(at);
            // The position stays at the last step instead of leaving the operands.
            if k + s + 1u < k_end {
                at = k_next(at);
            }
        }
        var l: array<vec4<f32>, PARTS>;
        for (var p = 0u; p < PARTS; p += 1u) {
            l[p] = lhs_share(rows[p], lk, live, lid);
        }
        for (var q = 0u; q < QUADS_N; q += 1u) {
            let r = rhs_block(rk, cols[q], live);
            for (var s = 0u; s < STEPS; s += 1u) {
                for (var i = 0u; i < THREAD_M; i += 1u) {
                    let v = i * QUADS_N + q;
                    var one: f32;
                    if LHS_ALONG_K {
                        one = subgroupShuffle(l[i / 16u][i % 16u / LANES * STEPS + s], i % LANES);
                    } else {
                        one = subgroupShuffle(l[i / 16u][i % QUAD], s * QUADS + i % 16u / QUAD);
                    }
                    acc[v] = fma(vec4<f32>(one), r[s], acc[v]);
                }
            }
        }
    }

    // A copy that may be indexed at run time, so that the epilogue is compiled once and acc stays in registers.
    var results: array<f32, RESULTS>;
    for (var v = 0u; v < VECTORS; v += 1u) {
        for (var j = 0u; j < QUAD; j += 1u) {
            results[v * QUAD + j] = acc[v][j];
        }
    }
    for (var e = 0u; e < RESULTS; e += 1u) {
        let column = (e / QUAD % QUADS_N * LANES + lid) * QUAD + e % QUAD;
        finish(batch, split, m0 + e / THREAD_N, n0 + column, results[e]);
    }
}
