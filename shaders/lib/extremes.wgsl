// import: bits
// Maximum and minimum in which a NaN wins, as in PyTorch (the built-ins may drop it), and the order of
// arg-reductions, in which NaN stands beyond every number and equals another NaN.

fn v_max_f32(a: f32, b: f32) -> f32 {
    return select(select(max(a, b), b, v_isnan(b)), a, v_isnan(a));
}

fn v_min_f32(a: f32, b: f32) -> f32 {
    return select(select(min(a, b), b, v_isnan(b)), a, v_isnan(a));
}

fn v_max_i32(a: i32, b: i32) -> i32 {
    return max(a, b);
}

fn v_min_i32(a: i32, b: i32) -> i32 {
    return min(a, b);
}

fn v_max_u32(a: u32, b: u32) -> u32 {
    return max(a, b);
}

fn v_min_u32(a: u32, b: u32) -> u32 {
    return min(a, b);
}

fn v_max_bool(a: bool, b: bool) -> bool {
    return a || b;
}

fn v_min_bool(a: bool, b: bool) -> bool {
    return a && b;
}

// Whether `a` replaces `best` in an arg-maximum: strictly greater, so the first of equals stays.
fn v_above_f32(a: f32, best: f32) -> bool {
    return !v_isnan(best) && (v_isnan(a) || a > best);
}

// Whether `a` replaces `best` in an arg-minimum.
fn v_below_f32(a: f32, best: f32) -> bool {
    return !v_isnan(best) && (v_isnan(a) || a < best);
}

fn v_above_i32(a: i32, best: i32) -> bool {
    return a > best;
}

fn v_below_i32(a: i32, best: i32) -> bool {
    return a < best;
}

fn v_above_u32(a: u32, best: u32) -> bool {
    return a > best;
}

fn v_below_u32(a: u32, best: u32) -> bool {
    return a < best;
}

fn v_above_bool(a: bool, best: bool) -> bool {
    return a && !best;
}

fn v_below_bool(a: bool, best: bool) -> bool {
    return !a && best;
}
