// import: bits
// Maximum and minimum in which a NaN wins, as in PyTorch (the built-ins may drop it), and the order of
// arg-reductions, in which NaN stands beyond every number and equals another NaN.

fn max_f32(a: f32, b: f32) -> f32 {
    return select(select(max(a, b), b, is_nan(b)), a, is_nan(a));
}

fn min_f32(a: f32, b: f32) -> f32 {
    return select(select(min(a, b), b, is_nan(b)), a, is_nan(a));
}

fn max_i32(a: i32, b: i32) -> i32 {
    return max(a, b);
}

fn min_i32(a: i32, b: i32) -> i32 {
    return min(a, b);
}

fn max_u32(a: u32, b: u32) -> u32 {
    return max(a, b);
}

fn min_u32(a: u32, b: u32) -> u32 {
    return min(a, b);
}

fn max_bool(a: bool, b: bool) -> bool {
    return a || b;
}

fn min_bool(a: bool, b: bool) -> bool {
    return a && b;
}

// Whether `a` replaces `best` in an arg-maximum: strictly greater, so the first of equals stays.
fn above_f32(a: f32, best: f32) -> bool {
    return !is_nan(best) && (is_nan(a) || a > best);
}

// Whether `a` replaces `best` in an arg-minimum.
fn below_f32(a: f32, best: f32) -> bool {
    return !is_nan(best) && (is_nan(a) || a < best);
}

fn above_i32(a: i32, best: i32) -> bool {
    return a > best;
}

fn below_i32(a: i32, best: i32) -> bool {
    return a < best;
}

fn above_u32(a: u32, best: u32) -> bool {
    return a > best;
}

fn below_u32(a: u32, best: u32) -> bool {
    return a < best;
}

fn above_bool(a: bool, best: bool) -> bool {
    return a && !best;
}

fn below_bool(a: bool, best: bool) -> bool {
    return !a && best;
}
