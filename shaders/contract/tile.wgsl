// Matrix product for graphics hardware: acc[m, n] = sum over k of lhs[m, k] * rhs[k, n], then an epilogue.
//
// Layout: operands are read through loader functions (matmul.wgsl, conv.wgsl), one f32 or four neighbours at a time;
// neighbouring invocations read along whichever of m and k (n and k) is contiguous. Results leave through
// `epilogue(i, acc)`, i the row-major index of the natural output, neighbouring invocations along n.
// Tile: a workgroup computes TILE_M x TILE_N results, an invocation THREAD_M x THREAD_N of them in registers, in quads
// that lie TILE_M / QUADS_M (TILE_N / QUADS_N) apart, so that neighbours read neighbouring quads. TILE_K columns of lhs
// and rows of rhs are staged in workgroup memory, k-major, while those of the next step are on their way to registers.
// Memory: 4 * TILE_K * (TILE_M + TILE_N + 2 * PAD) bytes of workgroup memory, and 16 * TILE_K with a table. half.wgsl
// has the same with staged tiles of f16, coop.wgsl with cooperative matrices: they replace the parts that are named.
// Bound by: arithmetic when m, n and k fill the tiles: 4 * (1 / THREAD_M + 1 / THREAD_N) bytes of workgroup memory for a
// multiply-add, and 4 * (1 / TILE_M + 1 / TILE_N) bytes of memory.
// The loop over k has no index arithmetic but sums: an operand's place is a part of m (or n), fixed for an invocation,
// and a part of k. Where that is not linear in k (convolutions), one subgroup makes a table of the parts of the next
// step. The last step is moved back to end where the sum does; what it has in common with the one before is left out.
// Where m x n gives few tiles, the sum over k is split over workgroups and written to scratch (see reduce.wgsl).
// Parameters: [0] m, n, k, batch. [1] tiles along m, tiles along n, splits, k per split. [2] results per run of n,
// output strides of a run, of a batch, of m.

const TILE_M: u32 = 128u;
const TILE_N: u32 = 128u;
const TILE_K: u32 = 8u;
const THREAD_M: u32 = 8u;
const THREAD_N: u32 = 8u;
// Whether neighbouring elements of an operand lie along k rather than along m or n, and how many a load takes.
const LHS_ALONG_K: bool = false;
const RHS_ALONG_K: bool = false;
const LHS_WIDTH: u32 = 1u;
const RHS_WIDTH: u32 = 1u;
// Whether the parts of k are read from a table.
const TABLE: bool = false;
// Steps of k in one round of the inner loop.
const STEPS: u32 = 4u;
// Neighbouring results that one invocation hands to the epilogue: both halves of a word are.
const RUN: u32 = 1u;

const QUADS_M: u32 = THREAD_M / 4u;
const QUADS_N: u32 = THREAD_N / 4u;
const THREADS_M: u32 = TILE_M / THREAD_M;
const THREADS_N: u32 = TILE_N / THREAD_N;
// Elements of a load along k.
const LHS_STEP: u32 = select(1u, LHS_WIDTH, LHS_ALONG_K);
const RHS_STEP: u32 = select(1u, RHS_WIDTH, RHS_ALONG_K);
const WORKGROUP: u32 = THREADS_M * THREADS_N;
const LHS_LOADS: u32 = TILE_M * TILE_K / LHS_WIDTH / WORKGROUP;
const RHS_LOADS: u32 = TILE_N * TILE_K / RHS_WIDTH / WORKGROUP;
// Rows of a staged tile start in different banks.
const PAD: u32 = 4u;
const PITCH_M: u32 = TILE_M + PAD;
const PITCH_N: u32 = TILE_N + PAD;
const RHS_AT: u32 = TILE_K * PITCH_M;

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
fn lhs_m(base: i32, m: u32) -> i32 {
    return base + i32(m * params[0].z);
}
fn lhs_k(k: vec3<u32>) -> i32 {
    return i32(k.x);
}
fn lhs_some(m: i32, k: i32) -> vec4<f32> {
    return vec4<f32>(lhs[m + k], 0.0, 0.0, 0.0);
}
fn rhs_n(base: i32, n: u32) -> vec3<i32> {
    return vec3<i32>(base + i32(n), 0, 0);
}
fn rhs_k(k: vec3<u32>) -> vec3<i32> {
    return vec3<i32>(i32(k.x * params[0].y), 0, 0);
}
fn rhs_some(k: vec3<i32>, n: vec3<i32>) -> vec4<f32> {
    return vec4<f32>(rhs[k.x + n.x], 0.0, 0.0, 0.0);
}
fn epilogue(i: u32, acc: f32) {
    out[i] = acc;
}
// end standalone

// begin f32
var<workgroup> staged: array<f32, TILE_K * (PITCH_M + PITCH_N)>;

fn put(at: u32, value: f32) {
    staged[at] = value;
}
// Four neighbours of a staged tile.
fn quad(at: u32) -> vec4<f32> {
    return vec4<f32>(staged[at], staged[at + 1u], staged[at + 2u], staged[at + 3u]);
}
// A result on its way out; all products are done by then.
fn keep(at: u32, value: f32) {
    staged[at] = value;
}
fn kept(at: u32) -> f32 {
    return staged[at];
}
// end f32

var<workgroup> table: array<vec4<i32>, TILE_K>;

// Position of load number i of an invocation in a tile: (along m or n, along k). A workgroup has whole rows of loads, so
// that one of the two is the same for all loads of an invocation, which a compiler sees only if it is written so.
fn place(i: u32, lid: u32, extent: u32, width: u32, along_k: bool) -> vec2<u32> {
    if along_k {
        let row = TILE_K / width;
        return vec2<u32>(lid / row + i * (WORKGROUP / row), lid % row * width);
    }
    let row = extent / width;
    return vec2<u32>(lid % row * width, lid / row + i * (WORKGROUP / row));
}

// The parts of k of both operands' places.
fn step_at(k: u32) -> vec4<i32> {
    let at = k_at(k);
    return vec4<i32>(lhs_k(at), rhs_k(at));
}

// Load number i of an invocation at the place `at` of its m (or n) and the step of k.
fn fetch_lhs(i: u32, lid: u32, at: i32, step: vec4<i32>) -> vec4<f32> {
    if TABLE {
        return lhs_some(at, table[place(i, lid, TILE_M, LHS_WIDTH, LHS_ALONG_K).y].x);
    }
    return lhs_some(at, step.x);
}
fn fetch_rhs(i: u32, lid: u32, at: vec3<i32>, step: vec4<i32>) -> vec4<f32> {
    if TABLE {
        return rhs_some(table[place(i, lid, TILE_N, RHS_WIDTH, RHS_ALONG_K).y].yzw, at);
    }
    return rhs_some(step.yzw, at);
}

// begin vector
// Results leave in rounds.
const ROUNDS: u32 = THREAD_M;
const ROUND_RESULTS: u32 = THREADS_M * TILE_N;

// Neighbouring elements along m or n are neighbours in a staged tile.
fn stage(at: vec2<u32>, first: u32, pitch: u32, values: vec4<f32>, width: u32, along_k: bool, live: vec2<u32>) {
    let place = first + at.y * pitch + at.x;
    put(place, values.x);
    if width == 4u {
        let hop = select(1u, pitch, along_k);
        put(place + hop, values.y);
        put(place + 2u * hop, values.z);
        put(place + 3u * hop, values.w);
    }
}
fn stage_lhs(at: vec2<u32>, values: vec4<f32>, live: vec2<u32>) {
    stage(at, 0u, PITCH_M, values, LHS_WIDTH, LHS_ALONG_K, live);
}
fn stage_rhs(at: vec2<u32>, values: vec4<f32>, live: vec2<u32>) {
    stage(at, RHS_AT, PITCH_N, values, RHS_WIDTH, RHS_ALONG_K, live);
}

var<private> acc: array<array<vec4<f32>, QUADS_N>, THREAD_M>;

// One step of k: row and column of the invocation's first quads.
fn multiply_step(k: u32, row: u32, col: u32) {
    var l: array<vec4<f32>, QUADS_M>;
    var r: array<vec4<f32>, QUADS_N>;
    for (var q = 0u; q < QUADS_N; q += 1u) {
        r[q] = quad(RHS_AT + k * PITCH_N + col + q * (TILE_N / QUADS_N));
    }
    for (var q = 0u; q < QUADS_M; q += 1u) {
        l[q] = quad(k * PITCH_M + row + q * (TILE_M / QUADS_M));
    }
    for (var i = 0u; i < THREAD_M; i += 1u) {
        for (var q = 0u; q < QUADS_N; q += 1u) {
            acc[i][q] = fma(vec4<f32>(l[i / 4u][i % 4u]), r[q], acc[i][q]);
        }
    }
}

// The steps from live.x to live.y, all of them but in the last tile.
fn multiply(lid: u32, live: vec2<u32>) {
    let row = lid / THREADS_N * 4u;
    let col = lid % THREADS_N * 4u;
    if live.y - live.x == TILE_K {
        for (var k = 0u; k < live.y; k += STEPS) {
            for (var s = 0u; s < STEPS; s += 1u) {
                multiply_step(k + s, row, col);
            }
        }
    } else {
        for (var k = live.x; k < live.y; k += 1u) {
            multiply_step(k, row, col);
        }
    }
}

// One row of each invocation.
fn keep_round(round: u32, lid: u32) {
    let at = lid / THREADS_N * TILE_N + lid % THREADS_N * 4u;
    for (var i = 0u; i < THREAD_M; i += 1u) {
        if round == i {
            for (var q = 0u; q < QUADS_N; q += 1u) {
                for (var j = 0u; j < 4u; j += 1u) {
                    keep(at + q * (TILE_N / QUADS_N) + j, acc[i][q][j]);
                }
            }
        }
    }
}
// Where result number e of a round lies in the tile.
fn row_of(round: u32, e: u32) -> u32 {
    return round / 4u * (TILE_M / QUADS_M) + e / TILE_N * 4u + round % 4u;
}
fn column_of(round: u32, lid: u32) -> u32 {
    return lid % TILE_N;
}
// end vector

// Where an invocation's loads lie, and what it loaded for the next step. They are private, so that loading is a function.
var<private> lhs_at: array<i32, LHS_LOADS>;
var<private> rhs_at: array<vec3<i32>, RHS_LOADS>;
var<private> lhs_next: array<vec4<f32>, LHS_LOADS>;
var<private> rhs_next: array<vec4<f32>, RHS_LOADS>;

// What lies beyond m or n repeats the last row or column and is dropped in the end.
fn find_operands(m0: u32, n0: u32, batch: u32, steps: u32, lid: u32) {
    let size = params[0];
    let base = bases(batch);
    for (var i = 0u; i < LHS_LOADS; i += 1u) {
        let at = place(i, lid, TILE_M, LHS_WIDTH, LHS_ALONG_K);
        lhs_at[i] = lhs_m(base.x, min(m0 + at.x, size.x - select(LHS_WIDTH, 1u, LHS_ALONG_K)));
        if !TABLE {
            lhs_at[i] += step_at(min(at.y, max(steps, LHS_STEP) - LHS_STEP)).x;
        }
    }
    for (var i = 0u; i < RHS_LOADS; i += 1u) {
        let at = place(i, lid, TILE_N, RHS_WIDTH, RHS_ALONG_K);
        rhs_at[i] = rhs_n(base.y, min(n0 + at.x, size.y - select(RHS_WIDTH, 1u, RHS_ALONG_K)));
        if !TABLE {
            rhs_at[i] += step_at(min(at.y, max(steps, RHS_STEP) - RHS_STEP)).yzw;
        }
    }
}

// Loads what an invocation stages of the tile whose first step is given.
fn fetch(step: vec4<i32>, lid: u32) {
    for (var i = 0u; i < LHS_LOADS; i += 1u) {
        lhs_next[i] = fetch_lhs(i, lid, lhs_at[i], step);
    }
    for (var i = 0u; i < RHS_LOADS; i += 1u) {
        rhs_next[i] = fetch_rhs(i, lid, rhs_at[i], step);
    }
}

// Stores the results through workgroup memory, so that the epilogue is compiled once and neighbours store to neighbouring
// places.
fn store(m0: u32, n0: u32, batch: u32, split: u32, lid: u32) {
    let size = params[0];
    for (var round = 0u; round < ROUNDS; round += 1u) {
        keep_round(round, lid);
        workgroupBarrier();
        for (var j = lid * RUN; j < (lid + 1u) * RUN; j += 1u) {
            let n = n0 + column_of(round, j);
            let run = n / params[2].x;
            let first = run * params[2].y + (n - run * params[2].x) + batch * params[2].z + split * size.x * size.y * size.w;
            for (var e = j; e < ROUND_RESULTS; e += WORKGROUP * RUN) {
                let m = m0 + row_of(round, e);
                if m < size.x && n < size.y {
                    epilogue(first + m * params[2].w, kept(e));
                }
            }
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(WORKGROUP)
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
    let k_last = max(k_end, k_begin + TILE_K) - TILE_K;
    find_operands(m0, n0, batch, k_end - k_begin, lid);
    if TABLE {
        if lid < TILE_K {
            table[lid] = step_at(min(k_begin + lid, max(k_end, 1u) - 1u));
        }
        workgroupBarrier();
    }

    if k_begin < k_end {
        fetch(step_at(k_begin), lid);
    }
    if TABLE {
        workgroupBarrier();
    }
    for (var k0 = k_begin; k0 < k_end; k0 += TILE_K) {
        let next = min(k0 + TILE_K, k_last);
        if TABLE && lid < TILE_K {
            table[lid] = step_at(min(next + lid, k_end - 1u));
        }
        // The bound of the loop over k is not known to a compiler, which would write the loop out.
        let live = vec2<u32>(k0, min(k0 + TILE_K, k_end)) - min(k0, k_last);
        for (var i = 0u; i < LHS_LOADS; i += 1u) {
            stage_lhs(place(i, lid, TILE_M, LHS_WIDTH, LHS_ALONG_K), lhs_next[i], live);
        }
        for (var i = 0u; i < RHS_LOADS; i += 1u) {
            stage_rhs(place(i, lid, TILE_N, RHS_WIDTH, RHS_ALONG_K), rhs_next[i], live);
        }
        workgroupBarrier();
        // The loads of the next tile are on their way while this one is multiplied.
        if k0 + TILE_K < k_end {
            fetch(step_at(next), lid);
        }
        multiply(lid, live);
        workgroupBarrier();
    }
    store(m0, n0, batch, split, lid);
}
