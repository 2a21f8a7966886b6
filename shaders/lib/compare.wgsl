// import: bits
// Comparisons of floats that hold for NaN: a driver may fold `x == x` to true, or turn `!(a > b)` into `a <= b`.
// Nothing is ordered with NaN, and NaN differs from everything. Other types compare as they are.

fn ordered(a: f32, b: f32) -> bool {
    return !is_nan(a) && !is_nan(b);
}

fn eq_f32(a: f32, b: f32) -> bool {
    return a == b && ordered(a, b);
}

fn ne_f32(a: f32, b: f32) -> bool {
    return !eq_f32(a, b);
}

fn lt_f32(a: f32, b: f32) -> bool {
    return a < b && ordered(a, b);
}

fn le_f32(a: f32, b: f32) -> bool {
    return a <= b && ordered(a, b);
}

fn gt_f32(a: f32, b: f32) -> bool {
    return lt_f32(b, a);
}

fn ge_f32(a: f32, b: f32) -> bool {
    return le_f32(b, a);
}

fn eq_i32(a: i32, b: i32) -> bool {
    return a == b;
}

fn ne_i32(a: i32, b: i32) -> bool {
    return a != b;
}

fn lt_i32(a: i32, b: i32) -> bool {
    return a < b;
}

fn le_i32(a: i32, b: i32) -> bool {
    return a <= b;
}

fn gt_i32(a: i32, b: i32) -> bool {
    return a > b;
}

fn ge_i32(a: i32, b: i32) -> bool {
    return a >= b;
}

fn eq_u32(a: u32, b: u32) -> bool {
    return a == b;
}

fn ne_u32(a: u32, b: u32) -> bool {
    return a != b;
}

fn lt_u32(a: u32, b: u32) -> bool {
    return a < b;
}

fn le_u32(a: u32, b: u32) -> bool {
    return a <= b;
}

fn gt_u32(a: u32, b: u32) -> bool {
    return a > b;
}

fn ge_u32(a: u32, b: u32) -> bool {
    return a >= b;
}

fn eq_bool(a: bool, b: bool) -> bool {
    return a == b;
}

fn ne_bool(a: bool, b: bool) -> bool {
    return a != b;
}

fn lt_bool(a: bool, b: bool) -> bool {
    return !a && b;
}

fn le_bool(a: bool, b: bool) -> bool {
    return !a || b;
}

fn gt_bool(a: bool, b: bool) -> bool {
    return a && !b;
}

fn ge_bool(a: bool, b: bool) -> bool {
    return a || !b;
}
