// Products by cooperative matrices of 16 x 16 elements of f16 with sums of f32, in place of the vectors of tile.wgsl.
//
// Layout: a staged tile has neighbours along k, as the matrices of either operand want to be loaded.
// Tile: 128 x 64, of which each of four subgroups computes 64 x 32, by eight matrices. Where an adapter makes smaller
// subgroups than its largest, there are more of them, and some compute the same.
// Memory: 2 * (TILE_K + 8) * (TILE_M + TILE_N) bytes of workgroup memory, and 4 KiB for results on their way out.
// Bound by: loads from workgroup memory, six matrices for eight products.

// begin standalone
enable f16;
enable wgpu_cooperative_matrix;
const TILE_M: u32 = 128u;
const TILE_N: u32 = 64u;
const TILE_K: u32 = 16u;
const LHS_WIDTH: u32 = 1u;
const RHS_WIDTH: u32 = 1u;
const LHS_ALONG_K: bool = false;
const RHS_ALONG_K: bool = false;
const WORKGROUP: u32 = 256u;
// end standalone

// Invocations of a subgroup, or of a few: their number is that of the matrices' owner. Subgroups are taken to be runs of
// neighbours, as no adapter is known to do otherwise; one that does fails the verification before the first use.
const QUARTER: u32 = WORKGROUP / 4u;

const PITCH_K: u32 = TILE_K + 8u;
const RHS_FIRST: u32 = TILE_M * PITCH_K;
// One matrix of each of the four subgroups leaves in a round.
const ROUNDS: u32 = 8u;
const ROUND_RESULTS: u32 = 1024u;

var<workgroup> staged: array<f16, (TILE_M + TILE_N) * PITCH_K>;
var<workgroup> results: array<f32, ROUND_RESULTS>;

// Steps that are not live count as zero.
fn put(at: u32, k: u32, value: f32, live: vec2<u32>) {
    staged[at + k] = select(0.0h, f16(value), k >= live.x && k < live.y);
}
fn stage(at: vec2<u32>, first: u32, values: vec4<f32>, width: u32, along_k: bool, live: vec2<u32>) {
    let place = first + at.x * PITCH_K;
    put(place, at.y, values.x, live);
    if width == 4u {
        let hop = select(vec2<u32>(PITCH_K, 0u), vec2<u32>(0u, 1u), along_k);
        put(place + hop.x, at.y + hop.y, values.y, live);
        put(place + 2u * hop.x, at.y + 2u * hop.y, values.z, live);
        put(place + 3u * hop.x, at.y + 3u * hop.y, values.w, live);
    }
}
fn stage_lhs(at: vec2<u32>, values: vec4<f32>, live: vec2<u32>) {
    stage(at, 0u, values, LHS_WIDTH, LHS_ALONG_K, live);
}
fn stage_rhs(at: vec2<u32>, values: vec4<f32>, live: vec2<u32>) {
    stage(at, RHS_FIRST, values, RHS_WIDTH, RHS_ALONG_K, live);
}

var<private> c00: coop_mat16x16<f32, C>;
var<private> c01: coop_mat16x16<f32, C>;
var<private> c10: coop_mat16x16<f32, C>;
var<private> c11: coop_mat16x16<f32, C>;
var<private> c20: coop_mat16x16<f32, C>;
var<private> c21: coop_mat16x16<f32, C>;
var<private> c30: coop_mat16x16<f32, C>;
var<private> c31: coop_mat16x16<f32, C>;

fn multiply(lid: u32, live: vec2<u32>) {
    let l = (lid / QUARTER / 2u) * 64u * PITCH_K;
    let r = RHS_FIRST + (lid / QUARTER % 2u) * 32u * PITCH_K;
    let b0 = coopLoad<coop_mat16x16<f16, B>>(&staged[r], PITCH_K);
    let b1 = coopLoad<coop_mat16x16<f16, B>>(&staged[r + 16u * PITCH_K], PITCH_K);
    let a0 = coopLoadT<coop_mat16x16<f16, A>>(&staged[l], PITCH_K);
    let a1 = coopLoadT<coop_mat16x16<f16, A>>(&staged[l + 16u * PITCH_K], PITCH_K);
    let a2 = coopLoadT<coop_mat16x16<f16, A>>(&staged[l + 32u * PITCH_K], PITCH_K);
    let a3 = coopLoadT<coop_mat16x16<f16, A>>(&staged[l + 48u * PITCH_K], PITCH_K);
    c00 = coopMultiplyAdd(a0, b0, c00);
    c01 = coopMultiplyAdd(a0, b1, c01);
    c10 = coopMultiplyAdd(a1, b0, c10);
    c11 = coopMultiplyAdd(a1, b1, c11);
    c20 = coopMultiplyAdd(a2, b0, c20);
    c21 = coopMultiplyAdd(a2, b1, c21);
    c30 = coopMultiplyAdd(a3, b0, c30);
    c31 = coopMultiplyAdd(a3, b1, c31);
}

// naga 30 emits the arguments of a store only where each has a name, and wants no branch around one: so a round has a
// function of its own, called by its number.
fn keep_round_0u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c00;
    coopStoreT(c, place, pitch);
}
fn keep_round_1u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c01;
    coopStoreT(c, place, pitch);
}
fn keep_round_2u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c10;
    coopStoreT(c, place, pitch);
}
fn keep_round_3u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c11;
    coopStoreT(c, place, pitch);
}
fn keep_round_4u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c20;
    coopStoreT(c, place, pitch);
}
fn keep_round_5u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c21;
    coopStoreT(c, place, pitch);
}
fn keep_round_6u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c30;
    coopStoreT(c, place, pitch);
}
fn keep_round_7u(lid: u32) {
    let place = &results[(lid / QUARTER / 2u) * 512u + (lid / QUARTER % 2u) * 16u];
    let pitch = 32u;
    let c = c31;
    coopStoreT(c, place, pitch);
}
fn kept(at: u32) -> f32 {
    return results[at];
}
// A round's results are 32 rows of 32: two subgroups of 16 either way.
fn row_of(round: u32, e: u32) -> u32 {
    return e / 512u * 64u + round / 2u * 16u + e / 32u % 16u;
}
fn column_of(round: u32, lid: u32) -> u32 {
    return lid % 32u / 16u * 32u + round % 2u * 16u + lid % 16u;
}
