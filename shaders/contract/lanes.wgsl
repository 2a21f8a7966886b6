// Matrix product for software adapters: the same contract as tile.wgsl without workgroup memory or barriers.
//
// Layout: as tile.wgsl. The LANES invocations of a workgroup are one subgroup and take neighbouring columns, so the
// address of an lhs element depends on the workgroup and the loop counter only, which such an adapter loads once
// for all lanes.
// Tile: a workgroup computes THREAD_M x (THREAD_N * LANES) results, an invocation THREAD_M x THREAD_N of them, in
// registers; operands come straight from global memory (from cache). The position along k is stepped, not divided.
// Memory: registers only. The tile is small because a compiler unrolls it: compile time grows with its area.
// Bound by: gathering rhs, THREAD_N loads a step for THREAD_M * THREAD_N multiply-adds.
// Rows and columns beyond the result are computed from the last one and dropped.
// Parameters: as tile.wgsl.

const LANES: u32 = 8u;
const THREAD_M: u32 = 8u;
const THREAD_N: u32 = 4u;
const TILE_M: u32 = THREAD_M;
const TILE_N: u32 = THREAD_N * LANES;

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
fn epilogue(i: u32, acc: f32) {
    out[i] = acc;
}
// end standalone

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let size = params[0];
    let tiles = params[1];
    var rest = wid.x + wid.y * groups.x;
    let n0 = rest % tiles.y * TILE_N + lid;
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

    var rows: array<i32, THREAD_M>;
    var cols: array<vec3<i32>, THREAD_N>;
    var acc: array<array<f32, THREAD_N>, THREAD_M>;
    for (var i = 0u; i < THREAD_M; i += 1u) {
        rows[i] = lhs_m(base.x, min(m0 + i, size.x - 1u));
        for (var j = 0u; j < THREAD_N; j += 1u) {
            acc[i][j] = 0.0;
        }
    }
    for (var j = 0u; j < THREAD_N; j += 1u) {
        cols[j] = rhs_n(base.y, min(n0 + j * LANES, size.y - 1u));
    }

    var at = k_at(k_begin);
    for (var k = k_begin; k < k_end; k += 1u) {
        let lk = lhs_k(at);
        let rk = rhs_k(at);
        at = k_next(at);
        var r: array<f32, THREAD_N>;
        for (var j = 0u; j < THREAD_N; j += 1u) {
            r[j] = rhs_load(rk, cols[j]);
        }
        for (var i = 0u; i < THREAD_M; i += 1u) {
            let l = lhs_load(rows[i], lk);
            for (var j = 0u; j < THREAD_N; j += 1u) {
                acc[i][j] = fma(l, r[j], acc[i][j]);
            }
        }
    }

    for (var i = 0u; i < THREAD_M; i += 1u) {
        let m = m0 + i;
        for (var j = 0u; j < THREAD_N; j += 1u) {
            let n = n0 + j * LANES;
            if m < size.x && n < size.y {
                let run = n / params[2].x;
                let at = run * params[2].y + (n - run * params[2].x) + batch * params[2].z + m * params[2].w;
                epilogue(at + split * size.x * size.y * size.w, acc[i][j]);
            }
        }
    }
}
