// import: attention_tile
// Attention, backward, for graphics hardware: a workgroup computes the gradients of ROWS queries of one head over blocks of
// BLOCK keys, or those of ROWS keys and their values over blocks of the queries of every head that reads them. The first
// workgroups do the former, the others the latter.
//
// Layout: see lib/attention.wgsl. The result is dq [batch, queries, heads, width], dk [batch, keys, kv heads, width],
// dv [batch, keys, kv heads, value].
// Tile: see lib/attention_tile.wgsl. A block has two products of scores, q · k and dO · v, and one of results or two: the
// differences dS with keys or queries, and with keys as the tile's rows the probabilities with dO. What is shared is first
// the probabilities, then the differences made of them.
// Memory: 14 KiB, and 1.25 KiB of the rows' sums.
// Bound by: arithmetic.

// Queries of a tile or of a block.
const SIDE: u32 = max(ROWS, BLOCK);
const MOST_LOADS: u32 = max(TILE_LOADS, BLOCK_LOADS);

// Of every query the log-sum-exp in units of log 2, and dO · O in four parts.
var<workgroup> sums: array<f32, SIDE>;
var<workgroup> parts: array<vec4<f32>, SIDE>;

// Where the rows of O lie that an invocation multiplies with what it stages of dO, and what that gives; its parts of dq or dk,
// and of dv.
var<private> result_rows: array<u32, MOST_LOADS>;
var<private> products: array<f32, MOST_LOADS>;
var<private> acc: array<array<vec4<f32>, COLS>, THREAD_ROWS>;
var<private> acc_value: array<array<vec4<f32>, COLS>, THREAD_ROWS>;

// The rows of a workgroup, from the first to the last, of a batch: queries of head `h`, or keys of head `kv`; and of the
// other side, those of the block from `start`, before `end`, of the other head.
struct Job {
    of_key: bool,
    b: u32,
    h: u32,
    kv: u32,
    first: u32,
    last: u32,
    start: u32,
    end: u32,
}

fn clear() {
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        for (var n = 0u; n < COLS; n += 1u) {
            acc[i][n] = vec4<f32>();
            acc_value[i][n] = vec4<f32>();
        }
    }
}

// Finds the rows that are staged for q · k, or with `pair` 1 for dO · v.
fn find_rows(job: Job, pair: u32, lid: u32) {
    let query = vec2<u32>(3u * pair, job.h);
    let key = vec2<u32>(1u + pair, job.kv);
    let tile = select(query, key, job.of_key);
    let block = select(key, query, job.of_key);
    for (var l = 0u; l < TILE_LOADS; l += 1u) {
        let i = min(job.first + (l * WORKGROUP + lid) / 4u, job.last);
        tile_rows[l] = row_at(tile.x, job.b, tile.y, i);
    }
    for (var l = 0u; l < BLOCK_LOADS; l += 1u) {
        let i = min(job.start + (l * WORKGROUP + lid) / 4u, job.end - 1u);
        block_rows[l] = row_at(block.x, job.b, block.y, i);
    }
}

// The first and the last query of the tile or of the block.
fn query_range(job: Job) -> vec2<u32> {
    return select(vec2<u32>(job.first, job.last), vec2<u32>(job.start, job.end - 1u), job.of_key);
}

// The row of the forward result, or of this one, of query `i`.
fn result_row(job: Job, i: u32) -> u32 {
    return (job.b * params[1].x + i) * params[0].y + job.h;
}

// Stages sixteen elements, from d0, of queries and keys.
fn stage_operands(of_key: bool, d0: u32, at: Place) {
    let d = d0 + 4u * at.quad;
    let inside = WIDTH % 16u == 0u || d < WIDTH;
    for (var l = 0u; l < TILE_LOADS; l += 1u) {
        var x = vec4<f32>();
        if inside {
            if of_key {
                x = k_quad(tile_rows[l], d);
            } else {
                x = q_quad(tile_rows[l], d);
            }
        }
        stage_tile(l, x, at);
    }
    for (var l = 0u; l < BLOCK_LOADS; l += 1u) {
        var x = vec4<f32>();
        if inside {
            if of_key {
                x = q_quad(block_rows[l], d);
            } else {
                x = k_quad(block_rows[l], d);
            }
        }
        stage_block(l, x, at);
    }
}

// Stages sixteen elements, from d0, of values and of dO, whose products with the forward result are summed.
fn stage_gradients(of_key: bool, summed: bool, d0: u32, at: Place) {
    let d = d0 + 4u * at.quad;
    let inside = VALUE % 16u == 0u || d < VALUE;
    for (var l = 0u; l < TILE_LOADS; l += 1u) {
        var x = vec4<f32>();
        if inside {
            if of_key {
                x = v_quad(tile_rows[l], d);
            } else {
                x = gradient_quad(tile_rows[l], d);
                if summed {
                    products[l] += dot(x, forward_quad(result_rows[l], d));
                }
            }
        }
        stage_tile(l, x, at);
    }
    for (var l = 0u; l < BLOCK_LOADS; l += 1u) {
        var x = vec4<f32>();
        if inside {
            if of_key {
                x = gradient_quad(block_rows[l], d);
                products[l] += dot(x, forward_quad(result_rows[l], d));
            } else {
                x = v_quad(block_rows[l], d);
            }
        }
        stage_block(l, x, at);
    }
}

// Stores the log-sum-exp of the queries of the tile or of the block.
fn find_sums(job: Job, lid: u32) {
    let queries = query_range(job);
    if lid < SIDE {
        sums[lid] = forward_sum(result_row(job, min(queries.x + lid, queries.y)));
    }
}

// Finds the rows of O beside those that are staged of dO.
fn find_results(job: Job, lid: u32) {
    let queries = query_range(job);
    for (var l = 0u; l < MOST_LOADS; l += 1u) {
        result_rows[l] = result_row(job, min(queries.x + (l * WORKGROUP + lid) / 4u, queries.y));
        products[l] = 0.0;
    }
}

// Shares what has been summed of dO · O.
fn share_parts(of_key: bool, at: Place) {
    for (var l = 0u; l < MOST_LOADS; l += 1u) {
        let row = (l * WORKGROUP + at.lid) / 4u;
        if row < select(ROWS, BLOCK, of_key) {
            parts[row][at.quad] = products[l];
        }
    }
}

// Whether every pair of a tile and a block is seen: only blocks at the edge ask of each. The band is monotonic.
fn is_whole(job: Job) -> bool {
    let far = job.start + BLOCK - 1u;
    let low = select(vec2<u32>(job.first, far), vec2<u32>(job.start, job.last), job.of_key);
    let high = select(vec2<u32>(job.last, job.start), vec2<u32>(far, job.first), job.of_key);
    return far < job.end && sees(low.x, low.y) && sees(high.x, high.y);
}

// Makes probabilities of the scores and shares them; hidden ones are zero.
fn share_probabilities(job: Job, whole: bool, at: Place) {
    let c0 = at.lane * 4u;
    let of_columns = vec4<f32>(sums[c0], sums[c0 + 1u], sums[c0 + 2u], sums[c0 + 3u]);
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        let local = at.group + i * GROUPS;
        let sum = select(vec4<f32>(sums[local]), of_columns, job.of_key);
        var x = s[i] * bitcast<f32>(params[2].w);
        if MASKED || !whole {
            let row = min(job.first + local, job.last);
            for (var c = 0u; c < FOUR; c += 1u) {
                let column = job.start + c0 + c;
                let pair = select(vec2<u32>(row, column), vec2<u32>(column, row), job.of_key);
                let inside = min(pair, params[1].xy - 1u);
                let score = masked(x[c], job.b, job.h, inside.x, inside.y);
                x[c] = select(2.0 * HIDDEN, score, sees(pair.x, pair.y) && column < job.end);
            }
        }
        shares[share_at(i, at)] = exp2(x - sum);
    }
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

// Makes the gradients of the scores of the shared probabilities, in their place.
fn share_differences(of_key: bool, at: Place) {
    let c0 = at.lane * 4u;
    let of_columns = vec4<f32>(total(parts[c0]), total(parts[c0 + 1u]), total(parts[c0 + 2u]), total(parts[c0 + 3u]));
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        let of_row = vec4<f32>(total(parts[at.group + i * GROUPS]));
        let place = share_at(i, at);
        shares[place] *= s[i] - select(of_row, of_columns, of_key);
    }
}

// Stages STEP rows of the block, from number t0, of queries, keys or dO; what lies beyond the last repeats it.
fn stage_rows(operand: u32, job: Job, t0: u32, lid: u32) {
    let limit = select(WIDTH, VALUE, operand == 3u);
    for (var l = 0u; l < ROW_LOADS; l += 1u) {
        let at = l * WORKGROUP + lid;
        let d = at % (LANES * COLS) * 4u;
        let i = min(job.start + t0 + at / (LANES * COLS), job.end - 1u);
        let row = row_at(operand, job.b, select(job.h, job.kv, operand == 1u), i);
        var x = vec4<f32>();
        if d < limit {
            if operand == 0u {
                x = q_quad(row, d);
            } else if operand == 1u {
                x = k_quad(row, d);
            } else {
                x = gradient_quad(row, d);
            }
        }
        staged[at] = x;
    }
}

// Elements d to d + 3 of a row. Quads but the last are whole: only its elements ask whether they are there.
fn store_quad(at: u32, d: u32, limit: u32, x: vec4<f32>) {
    if d + 4u <= limit {
        out[at + d] = x.x;
        out[at + d + 1u] = x.y;
        out[at + d + 2u] = x.z;
        out[at + d + 3u] = x.w;
        return;
    }
    for (var e = 0u; e < FOUR; e += 1u) {
        if d + e < limit {
            out[at + d + e] = x[e];
        }
    }
}

fn store(job: Job, at: Place) {
    let size = params[0];
    let extents = params[1];
    let scale = bitcast<f32>(params[2].w) / LOG2E;
    let dk_at = size.x * extents.x * size.y * extents.z;
    let dv_at = dk_at + size.x * extents.y * size.z * extents.z;
    for (var i = 0u; i < THREAD_ROWS; i += 1u) {
        let local = job.first + at.group + i * GROUPS;
        if local <= job.last {
            let of_key = (job.b * extents.y + local) * size.z + job.kv;
            let row = select(result_row(job, local) * extents.z, dk_at + of_key * extents.z, job.of_key);
            for (var n = 0u; n < COLS; n += 1u) {
                let d = 4u * (at.lane + n * LANES);
                store_quad(row, d, extents.z, acc[i][n] * scale);
                if job.of_key {
                    store_quad(dv_at + of_key * extents.w, d, extents.w, acc_value[i][n]);
                }
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
    let blocks = (params[1].xy + ROWS - 1u) / ROWS;
    let of_queries = size.x * size.y * blocks.x;
    let group = wid.x + wid.y * groups.x;
    let of_key = group >= of_queries;
    let rest = select(group, group - of_queries, of_key);
    let count = select(blocks.x, blocks.y, of_key);
    let heads = select(size.y, size.z, of_key);
    let head = rest / count % heads;
    let b = rest / count / heads;
    if b >= size.x {
        return;
    }
    let kv = select(head / size.w, head, of_key);
    // The last queries and the first keys of a causal problem take longest, and go first.
    let first = select(count - 1u - rest % count, rest % count, of_key) * ROWS;
    let last = min(first + ROWS, select(params[1].x, params[1].y, of_key)) - 1u;
    let others = select(span(first, last), viewers(first, last), of_key);
    let h0 = select(head, kv * size.w, of_key);
    let at = place(lid);
    clear();
    // The bounds of the loops over d0 and t0 are neither constants nor parameters alone: see tile.wgsl.
    let widths = params[1].zw + wid.z;
    for (var h = h0; h < h0 + select(1u, size.w, of_key); h += 1u) {
        for (var start = others.x; start < others.y; start += BLOCK) {
            let job = Job(of_key, b, h, kv, first, last, start, others.y);
            let summed = of_key || start == others.x;
            if summed {
                find_sums(job, lid);
            }
            find_rows(job, 0u, lid);
            clear_scores();
            for (var d0 = 0u; d0 < widths.x; d0 += 16u) {
                workgroupBarrier();
                stage_operands(of_key, d0, at);
                workgroupBarrier();
                add_scores(at);
            }
            share_probabilities(job, is_whole(job), at);
            let rows = min(BLOCK, others.y - start);
            if of_key {
                for (var t0 = 0u; t0 < rows; t0 += STEP) {
                    workgroupBarrier();
                    stage_rows(3u, job, t0, lid);
                    workgroupBarrier();
                    add_rows(&acc_value, t0, at);
                }
            }
            find_rows(job, 1u, lid);
            if summed {
                find_results(job, lid);
            }
            clear_scores();
            for (var d0 = 0u; d0 < widths.y; d0 += 16u) {
                workgroupBarrier();
                stage_gradients(of_key, summed, d0, at);
                workgroupBarrier();
                add_scores(at);
            }
            if summed {
                share_parts(of_key, at);
            }
            workgroupBarrier();
            share_differences(of_key, at);
            for (var t0 = 0u; t0 < rows; t0 += STEP) {
                workgroupBarrier();
                stage_rows(select(1u, 0u, of_key), job, t0, lid);
                workgroupBarrier();
                add_rows(&acc, t0, at);
            }
        }
    }
    store(Job(of_key, b, h0, kv, first, last, 0u, 0u), at);
}
