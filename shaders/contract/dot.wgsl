// Matrix product of few rows or few columns whose operands both lie along k: for graphics cards, the contract of
// tile.wgsl.
//
// Layout: as tile.wgsl. All LANES invocations of a workgroup work on the same results and share k: each takes four
// steps, LANES times four apart.
// Tile: THREAD_M x THREAD_N results a workgroup, as many sums an invocation; in the end the invocations' sums are
// added in a tree through workgroup memory, so that their order is fixed. Rows and columns beyond the result repeat
// the last one and are dropped; steps beyond the last count as zero.
// Memory: a load of a workgroup is 1 KiB in a row. With one invocation a result, as in lanes.wgsl, neighbours would
// read lines that are a whole row apart.
// Bound by: memory, four bytes a multiply-add of a row times a matrix.
// Parameters: as tile.wgsl.

const LANES: u32 = 64u;
const THREAD_M: u32 = 1u;
const THREAD_N: u32 = 4u;
const RESULTS: u32 = THREAD_M * THREAD_N;
const STEPS: u32 = 4u;
// As in tile.wgsl.
const RUN: u32 = 1u;

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
fn lhs_quad_k(m: i32, k: vec4<i32>) -> vec4<f32> {
    return vec4<f32>(lhs[m + k.x], lhs[m + k.y], lhs[m + k.z], lhs[m + k.w]);
}
fn rhs_n(base: i32, n: u32) -> vec3<i32> {
    return vec3<i32>(base + i32(n * params[0].z), 0, 0);
}
fn rhs_k(k: vec3<u32>) -> vec3<i32> {
    return vec3<i32>(i32(k.x), 0, 0);
}
fn rhs_quad_k(k: array<vec3<i32>, 4>, n: vec3<i32>) -> vec4<f32> {
    return vec4<f32>(rhs[k[0].x + n.x], rhs[k[1].x + n.x], rhs[k[2].x + n.x], rhs[k[3].x + n.x]);
}
fn epilogue(i: u32, acc: f32) {
    out[i] = acc;
}
// end standalone

var<workgroup> sums: array<f32, LANES * RESULTS>;

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
    let n0 = rest % tiles.y * THREAD_N;
    rest /= tiles.y;
    let m0 = rest % tiles.x * THREAD_M;
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
        cols[j] = rhs_n(base.y, min(n0 + j, size.y - 1u));
    }
    for (var k = k_begin + lid * 4u; k < k_end; k += LANES * 4u) {
        var live: vec4<bool>;
        var lk: vec4<i32>;
        var rk: array<vec3<i32>, 4>;
        for (var s = 0u; s < STEPS; s += 1u) {
            live[s] = k + s < k_end;
            // A step beyond the last is read from there instead of outside the operands.
            let at = k_at(min(k + s, k_end - 1u));
            lk[s] = lhs_k(at);
            rk[s] = rhs_k(at);
        }
        var l: array<vec4<f32>, THREAD_M>;
        var r: array<vec4<f32>, THREAD_N>;
        for (var i = 0u; i < THREAD_M; i += 1u) {
            l[i] = select(vec4<f32>(), lhs_quad_k(rows[i], lk), live);
        }
        for (var j = 0u; j < THREAD_N; j += 1u) {
            r[j] = select(vec4<f32>(), rhs_quad_k(rk, cols[j]), live);
        }
        for (var i = 0u; i < THREAD_M; i += 1u) {
            for (var j = 0u; j < THREAD_N; j += 1u) {
                acc[i][j] = fma(l[i].x, r[j].x, acc[i][j]);
                acc[i][j] = fma(l[i].y, r[j].y, acc[i][j]);
                acc[i][j] = fma(l[i].z, r[j].z, acc[i][j]);
                acc[i][j] = fma(l[i].w, r[j].w, acc[i][j]);
            }
        }
    }

    for (var i = 0u; i < THREAD_M; i += 1u) {
        for (var j = 0u; j < THREAD_N; j += 1u) {
            sums[(i * THREAD_N + j) * LANES + lid] = acc[i][j];
        }
    }
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half = half >> 1u) {
        for (var e = lid; e < RESULTS * half; e += LANES) {
            let at = e / half * LANES + e % half;
            sums[at] += sums[at + half];
        }
        workgroupBarrier();
    }
    for (var e = lid * RUN; e < min((lid + 1u) * RUN, RESULTS); e += 1u) {
        finish(batch, split, m0 + e / THREAD_N, n0 + e % THREAD_N, sums[e * LANES]);
    }
}
