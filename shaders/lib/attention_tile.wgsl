// import: attention
// What the tiles of attention share: products of a tile of ROWS rows with blocks of BLOCK rows of the other side.
//
// Tile: LANES invocations share a row. Of the scores an invocation has THREAD_ROWS x 4 in registers, of a result
// THREAD_ROWS x 4 * COLS. Operands of the scores are staged sixteen elements at a time, those of the results STEP rows at a
// time, in the same memory; scores become an operand through workgroup memory. Rows of a tile are GROUPS apart in an
// invocation, and quads are exchanged by the row's number, so that the lanes of a load lie in different banks.
// Memory: 6 KiB of staged operands and 8 KiB of scores, for 64 x 32 and for 32 x 64.
// Bound by: arithmetic; THREAD_ROWS + 4 quads from workgroup memory for 16 * THREAD_ROWS multiply-adds of the scores,
// THREAD_ROWS + 4 * COLS for 16 * THREAD_ROWS * COLS of a result.

const THREAD_ROWS: u32 = 4u;
const ROWS: u32 = 64u;
const BLOCK: u32 = 32u;
// Quads of a result row that an invocation has; rows of a block that are staged at once.
const COLS: u32 = 1u;
const STEP: u32 = 32u;

const LANES: u32 = BLOCK / 4u;
const GROUPS: u32 = ROWS / THREAD_ROWS;
const WORKGROUP: u32 = GROUPS * LANES;
const TILE_LOADS: u32 = ROWS * 4u / WORKGROUP;
const BLOCK_LOADS: u32 = BLOCK * 4u / WORKGROUP;
const ROW_LOADS: u32 = STEP * LANES * COLS / WORKGROUP;
const STEP_QUADS: u32 = STEP / 4u;
const FOUR: u32 = 4u;
const BLOCK_AT: u32 = ROWS * 4u;

var<workgroup> staged: array<vec4<f32>, (ROWS + BLOCK) * 4u>;
var<workgroup> shares: array<vec4<f32>, ROWS * BLOCK / 4u>;

// Where the rows lie that an invocation stages, and its scores. They are private, so that the steps of a block are functions
// of their own.
var<private> tile_rows: array<i32, TILE_LOADS>;
var<private> block_rows: array<i32, BLOCK_LOADS>;
var<private> s: array<vec4<f32>, THREAD_ROWS>;

// Where an invocation is, and where its first quads lie: those it stages of the tile and of the block, those it reads of
// them, and of shared scores. Quad `f` of a row lies at the first one's place ^ f. Made once, outside of the loops, as
// compilers leave in a loop what is in it.
struct Place {
    lid: u32,
    lane: u32,
    group: u32,
    quad: u32,
    tile_stage: u32,
    block_stage: u32,
    tile: u32,
    block: u32,
    share: u32,
}

// Rows lie four quads apart; pairs of them are exchanged differently.
fn swapped(row: u32) -> u32 {
    return row * 4u + row / 2u % 4u;
}

fn place(lid: u32) -> Place {
    let lane = lid % LANES;
    let group = lid / LANES;
    let quad = lid % 4u;
    // Columns that an invocation multiplies are neighbours, and lie LANES apart.
    let other = lid / 4u % 4u * LANES + lid / 16u;
    return Place(
        lid,
        lane,
        group,
        quad,
        swapped(lid / 4u) ^ quad,
        (BLOCK_AT + swapped(other)) ^ quad,
        swapped(group),
        BLOCK_AT + swapped(lane),
        group * LANES + group % 8u,
    );
}

fn clear_scores() {
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        s[i] = vec4<f32>();
    }
}

// Stages the quad of load `l` of the tile, or of the block: WORKGROUP / 4 rows of the one from the last load's, or
// WORKGROUP / 16 of the other.
fn stage_tile(l: u32, x: vec4<f32>, at: Place) {
    staged[at.tile_stage + l * WORKGROUP] = x;
}
fn stage_block(l: u32, x: vec4<f32>, at: Place) {
    staged[(at.block_stage ^ (l * (WORKGROUP / 32u) % 4u)) + l * (WORKGROUP / 4u)] = x;
}

// Adds the products of what is staged to the scores.
fn add_scores(at: Place) {
    for (var f = 0u; f < FOUR; f += 1u) {
        let first = at.block ^ f;
        let k0 = staged[first];
        let k1 = staged[first + LANES * 4u];
        let k2 = staged[first + LANES * 8u];
        let k3 = staged[first + LANES * 12u];
        let kx = vec4<f32>(k0.x, k1.x, k2.x, k3.x);
        let ky = vec4<f32>(k0.y, k1.y, k2.y, k3.y);
        let kz = vec4<f32>(k0.z, k1.z, k2.z, k3.z);
        let kw = vec4<f32>(k0.w, k1.w, k2.w, k3.w);
        for (var i = 0u; i < THREAD_ROWS; i += 1u) {
            let x = staged[(at.tile ^ f) + i * GROUPS * 4u];
            s[i] = fma(vec4<f32>(x.x), kx, s[i]);
            s[i] = fma(vec4<f32>(x.y), ky, s[i]);
            s[i] = fma(vec4<f32>(x.z), kz, s[i]);
            s[i] = fma(vec4<f32>(x.w), kw, s[i]);
        }
    }
}

// Where an invocation's quad of scores of its row `i` is shared.
fn share_at(i: u32, at: Place) -> u32 {
    return (at.share ^ at.lane) + i * GROUPS * LANES;
}

// Adds the products of shared scores, from number t0 of the block, and of the staged rows to a result.
fn add_rows(acc: ptr<private, array<array<vec4<f32>, COLS>, THREAD_ROWS>>, t0: u32, at: Place) {
    for (var t = 0u; t < STEP_QUADS; t += 1u) {
        var p: array<vec4<f32>, THREAD_ROWS>;
        for (var i = 0u; i < THREAD_ROWS; i += 1u) {
            p[i] = shares[(at.share ^ (t0 / 4u + t)) + i * GROUPS * LANES];
        }
        for (var n = 0u; n < COLS; n += 1u) {
            let first = t * 4u * LANES * COLS + at.lane + n * LANES;
            let v0 = staged[first];
            let v1 = staged[first + LANES * COLS];
            let v2 = staged[first + 2u * LANES * COLS];
            let v3 = staged[first + 3u * LANES * COLS];
            for (var i = 0u; i < THREAD_ROWS; i += 1u) {
                (*acc)[i][n] = fma(vec4<f32>(p[i].x), v0, (*acc)[i][n]);
                (*acc)[i][n] = fma(vec4<f32>(p[i].y), v1, (*acc)[i][n]);
                (*acc)[i][n] = fma(vec4<f32>(p[i].z), v2, (*acc)[i][n]);
                (*acc)[i][n] = fma(vec4<f32>(p[i].w), v3, (*acc)[i][n]);
            }
        }
    }
}
