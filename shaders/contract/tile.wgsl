// Matrix product for graphics hardware: acc[m, n] = sum over k of lhs[m, k] * rhs[k, n], then an epilogue.
//
// Layout: operands are read through loader functions (matmul.wgsl, conv.wgsl), one f32 at a time; neighbouring
// invocations read along whichever of m and k (n and k) is contiguous. Results leave through `epilogue(i, acc)`,
// i the row-major index of the natural output.
// Tile: a workgroup computes TILE_M x TILE_N results, an invocation THREAD_M x THREAD_N of them in registers. Per
// step, TILE_K columns of lhs and rows of rhs are staged in workgroup memory, k-major.
// Memory: 4 * TILE_K * (TILE_M + TILE_N) bytes of workgroup memory (8 KiB for 64 x 64 x 16).
// Bound by: arithmetic when m, n and k fill the tiles (per step and invocation, THREAD_M + THREAD_N loads from
// workgroup memory for THREAD_M * THREAD_N multiply-adds); by the index arithmetic of the loaders in convolutions.
// Where m x n gives few tiles, the sum over k is split over workgroups and written to scratch (see reduce.wgsl).
// Parameters: [0] m, n, k, batch. [1] tiles along m, tiles along n, splits, k per split. [2] results per run of n,
// output strides of a run, of a batch, of m.

const TILE_M: u32 = 64u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const THREAD_M: u32 = 4u;
const THREAD_N: u32 = 4u;
// Whether neighbouring elements of an operand lie along k rather than along m or n.
const LHS_ALONG_K: bool = false;
const RHS_ALONG_K: bool = false;

const THREADS_N: u32 = TILE_N / THREAD_N;
const WORKGROUP: u32 = TILE_M / THREAD_M * THREADS_N;
const LHS_LOADS: u32 = TILE_M * TILE_K / WORKGROUP;
const RHS_LOADS: u32 = TILE_N * TILE_K / WORKGROUP;

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
fn epilogue(i: u32, acc: f32) {
    out[i] = acc;
}
// end standalone

var<workgroup> lhs_tile: array<f32, TILE_K * TILE_M>;
var<workgroup> rhs_tile: array<f32, TILE_K * TILE_N>;

// Position of load number i of an invocation in a staged tile: (along m or n, along k).
fn staged(i: u32, lid: u32, extent: u32, along_k: bool) -> vec2<u32> {
    let at = i * WORKGROUP + lid;
    if along_k {
        return vec2<u32>(at / TILE_K, at % TILE_K);
    }
    return vec2<u32>(at % extent, at / extent);
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
    let base = bases(batch);

    let row = lid / THREADS_N * THREAD_M;
    let col = lid % THREADS_N * THREAD_N;
    var acc: array<array<f32, THREAD_N>, THREAD_M>;
    for (var i = 0u; i < THREAD_M; i += 1u) {
        for (var j = 0u; j < THREAD_N; j += 1u) {
            acc[i][j] = 0.0;
        }
    }

    for (var k0 = k_begin; k0 < k_end; k0 += TILE_K) {
        for (var i = 0u; i < LHS_LOADS; i += 1u) {
            let at = staged(i, lid, TILE_M, LHS_ALONG_K);
            let m = m0 + at.x;
            let k = k0 + at.y;
            var value = 0.0;
            if m < size.x && k < k_end {
                value = lhs_load(lhs_m(base.x, m), lhs_k(k_at(k)));
            }
            lhs_tile[at.y * TILE_M + at.x] = value;
        }
        for (var i = 0u; i < RHS_LOADS; i += 1u) {
            let at = staged(i, lid, TILE_N, RHS_ALONG_K);
            let n = n0 + at.x;
            let k = k0 + at.y;
            var value = 0.0;
            if n < size.y && k < k_end {
                value = rhs_load(rhs_k(k_at(k)), rhs_n(base.y, n));
            }
            rhs_tile[at.y * TILE_N + at.x] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE_K; k += 1u) {
            var r: array<f32, THREAD_N>;
            for (var j = 0u; j < THREAD_N; j += 1u) {
                r[j] = rhs_tile[k * TILE_N + col + j];
            }
            for (var i = 0u; i < THREAD_M; i += 1u) {
                let l = lhs_tile[k * TILE_M + row + i];
                for (var j = 0u; j < THREAD_N; j += 1u) {
                    acc[i][j] = fma(l, r[j], acc[i][j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < THREAD_M; i += 1u) {
        for (var j = 0u; j < THREAD_N; j += 1u) {
            finish(batch, split, m0 + row + i, n0 + col + j, acc[i][j]);
        }
    }
}
