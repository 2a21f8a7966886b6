// import: sort_key
// One pass of a merge sort: of two neighbouring sorted runs of candidates one of twice the length. No workgroup memory.
//
// Layout: keys and candidates [rows, n] dense from their offsets, the result [rows, n] from element 0; candidates are
// columns of the keys, in order within each run of `run`.
// Tile: one invocation makes `chunk` neighbouring results, which lie in one pair of runs. It finds where they begin in both
// runs by bisection (Green, McColl and Bader, "GPU merge path", 2012), then merges them in sequence.
// Bound by: latency of the bisection, 2 log2(run) dependent loads of a candidate and its key, and for each result one
// candidate, one key anywhere in the row, and one store. Of equal keys the first run's come first: the sort is stable.

const WORKGROUP: u32 = 64u;

// [rows, n, run, chunk], [keys_offset, candidates_offset, kind, flip]
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 2>;
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read> candidates: array<u32>;
@group(0) @binding(4) var<storage, read_write> order: array<u32>;

fn key_of(row: u32, column: u32) -> u32 {
    return sort_key(keys[params[1].x + row * params[0].y + column], params[1].z, params[1].w);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let n = params[0].y;
    let run = params[0].z;
    let chunk = params[0].w;
    let chunks = (n + chunk - 1u) / chunk;
    let thread = (wid.x + wid.y * groups.x) * WORKGROUP + lid;
    if thread >= params[0].x * chunks {
        return;
    }
    let row = thread / chunks;
    let first = thread % chunks * chunk;
    let start = first / (2u * run) * (2u * run);
    let middle = min(start + run, n);
    let end = min(middle + run, n);
    let base = params[1].y + row * n;

    // How many of the results before `first` are of the first run.
    let before = first - start;
    var low = before - min(before, end - middle);
    var high = min(before, middle - start);
    while low < high {
        let at = (low + high) / 2u;
        let a = key_of(row, candidates[base + start + at]);
        let b = key_of(row, candidates[base + middle + before - 1u - at]);
        if a <= b {
            low = at + 1u;
        } else {
            high = at;
        }
    }

    var a = start + low;
    var b = middle + before - low;
    var column_a = 0u;
    var column_b = 0u;
    var key_a = 0u;
    var key_b = 0u;
    if a < middle {
        column_a = candidates[base + a];
        key_a = key_of(row, column_a);
    }
    if b < end {
        column_b = candidates[base + b];
        key_b = key_of(row, column_b);
    }
    let stop = min(first + chunk, end);
    for (var at = first; at < stop; at += 1u) {
        let takes_a = b >= end || (a < middle && key_a <= key_b);
        order[row * n + at] = select(column_b, column_a, takes_a);
        let next = select(b, a, takes_a) + 1u;
        var column = 0u;
        var key = 0u;
        if next < select(end, middle, takes_a) {
            column = candidates[base + next];
            key = key_of(row, column);
        }
        a = select(a, next, takes_a);
        b = select(next, b, takes_a);
        column_a = select(column_a, column, takes_a);
        key_a = select(key_a, key, takes_a);
        column_b = select(column, column_b, takes_a);
        key_b = select(key, key_b, takes_a);
    }
}
