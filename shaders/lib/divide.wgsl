// Division, and the remainder of integers where WGSL leaves the answer open or a driver might trap: division by zero
// gives 0 and so does its remainder; the smallest i32 divided by -1 wraps to itself, with remainder 0. Remainders
// have the sign of the dividend, as in C and Rust.

fn v_div_i32(a: i32, b: i32) -> i32 {
    // 0 and -1 are replaced by 1, which never traps, and answered apart.
    let apart = b == 0i || b == -1i;
    let q = a / select(b, 1i, apart);
    return select(q, select(0i, -a, b == -1i), apart);
}

fn v_rem_i32(a: i32, b: i32) -> i32 {
    let apart = b == 0i || b == -1i;
    return select(a % select(b, 1i, apart), 0i, apart);
}

fn v_div_u32(a: u32, b: u32) -> u32 {
    return select(a / select(b, 1u, b == 0u), 0u, b == 0u);
}

fn v_rem_u32(a: u32, b: u32) -> u32 {
    return select(a % select(b, 1u, b == 0u), 0u, b == 0u);
}

// The quotient of floats is the plain one.
fn v_div_f32(a: f32, b: f32) -> f32 {
    return a / b;
}
