// import: sort_key
// The order of each block of candidates by their keys, cut to its first `keep`: a bitonic network in workgroup memory
// (Batcher, "Sorting networks and their applications", 1968) whose comparisons all point upwards.
//
// Layout: keys [rows, n] and candidates [rows, count] dense from their offsets; candidates are columns of the keys. The
// result is [rows, length] from element 0. Without candidates they are 0, 1, 2, ..., and count is n.
// Tile: TILE slots, cut into blocks of `width` slots, a power of two of at least the block's elements; so one workgroup
// sorts one block of a long row, or many short rows. Slots behind a block's end hold the last key.
// Memory: 16 KiB, keys and places. Equal keys are ordered by place, which makes the network stable.
// Bound by: workgroup memory: s(s + 1) / 2 steps for a width of 2^s, each of which reads all slots and may write them.

const WORKGROUP: u32 = 256u;
const TILE: u32 = 2048u;
const PAIRS: u32 = TILE / 2u;

// [rows, n, count, block], [blocks, width, keep, length], [keys_offset, candidates_offset, kind, flip]
@group(0) @binding(0) var<uniform> params: array<vec4<u32>, 3>;
@group(0) @binding(2) var<storage, read> keys: array<u32>;
@group(0) @binding(3) var<storage, read> candidates: array<u32>;
@group(0) @binding(4) var<storage, read_write> order: array<u32>;

var<workgroup> slot_key: array<u32, TILE>;
var<workgroup> slot_place: array<u32, TILE>;

fn candidate(row: u32, at: u32) -> u32 {
    return candidates[params[2].y + row * params[0].z + at];
}

// The block of a slot: its row, its first candidate and its number in the row; a row outside if there is no such block.
fn block_of(group: u32, slot: u32) -> vec3<u32> {
    let blocks = params[1].x;
    let width = params[1].y;
    let number = group * (TILE / width) + slot / width;
    return vec3<u32>(number / blocks, number % blocks * params[0].w, number % blocks);
}

fn put_in_order(low: u32, high: u32) {
    let a = slot_key[low];
    let b = slot_key[high];
    let at_a = slot_place[low];
    let at_b = slot_place[high];
    if a > b || (a == b && at_a > at_b) {
        slot_key[low] = b;
        slot_key[high] = a;
        slot_place[low] = at_b;
        slot_place[high] = at_a;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let rows = params[0].x;
    let count = params[0].z;
    let block = params[0].w;
    let width = params[1].y;
    let group = wid.x + wid.y * groups.x;

    for (var slot = lid; slot < TILE; slot += WORKGROUP) {
        let part = block_of(group, slot);
        let place = slot % width;
        var key = ~0u;
        if part.x < rows && place < min(block, count - part.y) {
            let column = candidate(part.x, part.y + place);
            key = sort_key(keys[params[2].x + part.x * params[0].y + column], params[2].z, params[2].w);
        }
        slot_key[slot] = key;
        slot_place[slot] = place;
    }
    workgroupBarrier();

    for (var size = 2u; size <= width; size *= 2u) {
        // Two sorted halves meet end to end: the second is compared backwards.
        let half = size / 2u;
        for (var pair = lid; pair < PAIRS; pair += WORKGROUP) {
            let at = pair & (half - 1u);
            let first = (pair - at) * 2u;
            put_in_order(first + at, first + size - 1u - at);
        }
        workgroupBarrier();
        for (var step = half / 2u; step > 0u; step /= 2u) {
            for (var pair = lid; pair < PAIRS; pair += WORKGROUP) {
                let at = pair & (step - 1u);
                let low = (pair - at) * 2u + at;
                put_in_order(low, low + step);
            }
            workgroupBarrier();
        }
    }

    let keep = params[1].z;
    for (var slot = lid; slot < TILE; slot += WORKGROUP) {
        let part = block_of(group, slot);
        let at = slot % width;
        if part.x < rows && at < min(keep, min(block, count - part.y)) {
            order[part.x * params[1].w + part.z * keep + at] = candidate(part.x, part.y + slot_place[slot]);
        }
    }
}
