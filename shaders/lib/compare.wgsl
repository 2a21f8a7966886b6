// import: bits
// Comparisons of floats that hold for NaN: a driver may fold `x == x` to true, or turn `!(a > b)` into `a <= b`.
// Nothing is ordered with NaN, and NaN differs from everything. Other types compare as they are.

fn v_ordered(a: f32, b: f32) -> bool {
    return !v_isnan(a) && !v_isnan(b);
}

fn v_eq_f32(a: f32, b: f32) -> bool {
    return a == b && v_ordered(a, b);
}

fn v_ne_f32(a: f32, b: f32) -> bool {
    return !v_eq_f32(a, b);
}

fn v_lt_f32(a: f32, b: f32) -> bool {
    return a < b && v_ordered(a, b);
}

fn v_le_f32(a: f32, b: f32) -> bool {
    return a <= b && v_ordered(a, b);
}

fn v_gt_f32(a: f32, b: f32) -> bool {
    return v_lt_f32(b, a);
}

fn v_ge_f32(a: f32, b: f32) -> bool {
    return v_le_f32(b, a);
}

fn v_eq_i32(a: i32, b: i32) -> bool {
    return a == b;
}

fn v_ne_i32(a: i32, b: i32) -> bool {
    return a != b;
}

fn v_lt_i32(a: i32, b: i32) -> bool {
    return a < b;
}

fn v_le_i32(a: i32, b: i32) -> bool {
    return a <= b;
}

fn v_gt_i32(a: i32, b: i32) -> bool {
    return a > b;
}

fn v_ge_i32(a: i32, b: i32) -> bool {
    return a >= b;
}

fn v_eq_u32(a: u32, b: u32) -> bool {
    return a == b;
}

fn v_ne_u32(a: u32, b: u32) -> bool {
    return a != b;
}

fn v_lt_u32(a: u32, b: u32) -> bool {
    return a < b;
}

fn v_le_u32(a: u32, b: u32) -> bool {
    return a <= b;
}

fn v_gt_u32(a: u32, b: u32) -> bool {
    return a > b;
}

fn v_ge_u32(a: u32, b: u32) -> bool {
    return a >= b;
}

fn v_eq_bool(a: bool, b: bool) -> bool {
    return a == b;
}

fn v_ne_bool(a: bool, b: bool) -> bool {
    return a != b;
}

fn v_lt_bool(a: bool, b: bool) -> bool {
    return !a && b;
}

fn v_le_bool(a: bool, b: bool) -> bool {
    return !a || b;
}

fn v_gt_bool(a: bool, b: bool) -> bool {
    return a && !b;
}

fn v_ge_bool(a: bool, b: bool) -> bool {
    return a || !b;
}
