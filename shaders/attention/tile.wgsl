// import: attention_tile
// Attention, forward, for graphics hardware: a workgroup computes ROWS queries of one head over blocks of BLOCK keys.
//
// Layout: see lib/attention.wgsl. The result is out [batch, queries, heads, value], then each row's log-sum-exp.
// Tile: see lib/attention_tile.wgsl; keys and then values are the rows of the other side, probabilities the shared scores.
// Memory: 14 KiB.
// Bound by: arithmetic.

// An invocation's part of the result, and of its rows the highest score and the sum.
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
    for (var l = 0u; l < TILE_LOADS; l += 1u) {
        var x = vec4<f32>();
        if WIDTH % 16u == 0u || d < WIDTH {
            x = q_quad(tile_rows[l], d) * scale;
        }
        stage_tile(l, x, at);
    }
    for (var l = 0u; l < BLOCK_LOADS; l += 1u) {
        var x = vec4<f32>();
        if WIDTH % 16u == 0u || d < WIDTH {
            x = k_quad(block_rows[l], d);
        }
        stage_block(l, x, at);
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
        shares[share_at(i, at)] = p;
        for (var n = 0u; n < COLS; n += 1u) {
            acc[i][n] *= factor;
        }
    }
}

// Stages STEP values from number j0; what lies beyond the last repeats it.
fn stage_values(b: u32, kv: u32, j0: u32, last: u32, lid: u32) {
    for (var l = 0u; l < ROW_LOADS; l += 1u) {
        let at = l * WORKGROUP + lid;
        let d = at % (LANES * COLS) * 4u;
        let j = min(j0 + at / (LANES * COLS), last);
        var x = vec4<f32>();
        if VALUE % (4u * LANES) == 0u || d < VALUE {
            x = v_quad(row_at(2u, b, kv, j), d);
        }
        staged[at] = x;
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
                put_sum(row, found, top[i] + log2(total));
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
    let last = min(i0 + ROWS, queries) - 1u;
    let at = place(lid);
    let scale = bitcast<f32>(params[2].w);
    let tile = Tile(b, h, i0, last);
    for (var l = 0u; l < TILE_LOADS; l += 1u) {
        tile_rows[l] = row_at(0u, b, h, min(i0 + (l * WORKGROUP + lid) / 4u, last));
    }
    clear();
    let keys = span(i0, last);
    // The bounds of the loops over d0 and t0 are not constant, so that compilers leave them loops: unrolled, their loads are
    // moved ahead, and a quarter of the registers with them. Nor are they parameters alone, for which lavapipe compiles a
    // kernel again at every dispatch: wid.z is zero.
    let width = params[1].z + wid.z;
    for (var j0 = keys.x; j0 < keys.y; j0 += BLOCK) {
        for (var l = 0u; l < BLOCK_LOADS; l += 1u) {
            block_rows[l] = row_at(1u, b, kv, min(j0 + (l * WORKGROUP + lid) / 4u, keys.y - 1u));
        }
        clear_scores();
        for (var d0 = 0u; d0 < width; d0 += 16u) {
            workgroupBarrier();
            stage_operands(d0, scale, at);
            workgroupBarrier();
            add_scores(at);
        }
        // Only blocks at the edge of what is seen ask of each key; the band is monotonic.
        let whole = j0 + BLOCK <= keys.y && sees(i0, j0 + BLOCK - 1u) && sees(i0, j0) && sees(last, j0);
        if MASKED || !whole {
            hide(tile, j0, keys.y, at);
        }
        share_scores(at);
        for (var t0 = 0u; t0 < min(BLOCK, keys.y - j0); t0 += STEP) {
            workgroupBarrier();
            stage_values(b, kv, j0 + t0, keys.y - 1u, lid);
            workgroupBarrier();
            add_rows(&acc, t0, at);
        }
    }
    store(tile, at);
}
