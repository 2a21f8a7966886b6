//! The table of elementwise operations: one row each, and the only place that knows any of them.
//!
//! A row holds the WGSL expression, the CPU function, the vector-Jacobian product and the domain and
//! tolerance that the tests use. Passes and executors see rows, never a particular operation. In a WGSL
//! text `{a}`, `{b}`, `{c}` are the operands and `{t}` the operand type, which picks a `shaders/lib`
//! function where drivers differ from the definition.

use versant_kernels::lanes::{
    binary_f32, binary_i32, binary_u32, compare_f32, compare_i32, compare_u32, ternary_u32, test_f32,
    unary_f32, unary_i32, unary_u32,
};
use versant_kernels::{DType, MapFn, math};

use super::half::Half;
use crate::Tensor;

/// One gradient for each operand; `None` where there is none.
pub type Grads = [Option<Tensor>; 3];

/// How an elementwise function differentiates.
pub enum Derivative {
    /// `(g, x, y)`: the output's gradient, the operands and the output give the operands' gradients.
    Rule(fn(&Tensor, &[Tensor], &Tensor) -> Grads),
    /// Piecewise constant: zero wherever a derivative exists.
    Zero,
    /// Straight through (Bengio et al., 2013): of a rounding, whose derivative is zero, the gradient is what this makes of
    /// the output's.
    Straight(fn(&Tensor) -> Tensor),
}

/// A row of the table.
pub struct Elementwise {
    /// The kernel half: name, WGSL, CPU function, cost.
    pub f: MapFn,
    /// Operand types it takes.
    pub types: &'static [DType],
    /// Whether the result is a truth value (else it has the operands' type).
    pub is_test: bool,
    /// Its derivative.
    pub derivative: Derivative,
    /// The 16-bit type whose values are all that it gives: two of them fit a word where they lie in memory.
    pub rounds_to: Option<Half>,
    /// Whether its result is always stored: it is asked for so that it takes less memory.
    pub in_memory: bool,
    /// A constant that leaves the first operand unchanged as the second operand.
    pub right_identity: Option<f32>,
    /// Operands for the tests are drawn from this interval, and results agree within `tolerance`,
    /// relative to `max(|y|, 1e-3)`.
    pub domain: (f32, f32),
    /// See `domain`.
    pub tolerance: f32,
}

impl std::fmt::Debug for Elementwise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.f.name)
    }
}

const FLOAT: &[DType] = &[DType::F32];
const SIGNED: &[DType] = &[DType::F32, DType::I32];
const NUMBER: &[DType] = &[DType::F32, DType::I32, DType::U32];
const TRUTH: &[DType] = &[DType::Bool];
const ANY: &[DType] = &[DType::F32, DType::I32, DType::U32, DType::Bool];

fn one(grad: Tensor) -> Grads {
    [Some(grad), None, None]
}

fn two(a: Tensor, b: Tensor) -> Grads {
    [Some(a), Some(b), None]
}

/// Expands to the rows as statics, [`TABLE`] over all of them, and a recording method for each.
macro_rules! table {
    ($($(#[doc = $doc:literal])+ $id:ident $method:ident($($arg:ident),*) $result:ident {
        wgsl: $wgsl:literal, lib: $lib:literal, cost: $cost:literal, types: $types:expr, cpu: $cpu:expr,
        grad: $grad:expr, domain: $domain:expr, tolerance: $tolerance:expr $(, identity: $identity:expr)?
        $(, rounds_to: $half:expr)? $(, in_memory: $in_memory:literal)?
    })*) => {
        $($(#[doc = $doc])+
        pub static $id: Elementwise = Elementwise {
            f: MapFn {
                name: stringify!($method), arity: 1 $(+ table!(@one $arg))*, wgsl: $wgsl, lib: $lib,
                cpu: $cpu, cost: $cost,
            },
            types: $types,
            is_test: table!(@$result),
            derivative: $grad,
            rounds_to: table!(@optional $($half)?),
            in_memory: table!(@in_memory $($in_memory)?),
            right_identity: table!(@optional $($identity)?),
            domain: $domain,
            tolerance: $tolerance,
        };)*

        /// Every row, in the order of the source.
        pub static TABLE: &[&Elementwise] = &[$(&$id),*];

        impl Tensor {
            $($(#[doc = $doc])+
            #[track_caller]
            #[must_use]
            pub fn $method(&self $(, $arg: &Tensor)*) -> Tensor {
                Tensor::map(&$id, &[self $(, $arg)*])
            })*
        }
    };
    (@one $arg:ident) => { 1 };
    (@same) => { false };
    (@test) => { true };
    (@in_memory) => { false };
    (@in_memory $value:literal) => { $value };
    (@optional) => { None };
    (@optional $value:expr) => { Some($value) };
}

use Derivative::{Rule, Straight, Zero};

table! {
    /// `-x`; integers wrap.
    NEG neg() same { wgsl: "-({a})", lib: "", cost: 1, types: SIGNED,
        cpu: |t, d, a, _, _| match t {
            DType::F32 => unary_f32(d, a, |x| -x),
            _ => unary_i32(d, a, i32::wrapping_neg),
        },
        grad: Rule(|g, _, _| one(g.neg())), domain: (-10.0, 10.0), tolerance: 0.0 }

    /// Absolute value.
    ABS abs() same { wgsl: "abs({a})", lib: "", cost: 1, types: SIGNED,
        cpu: |t, d, a, _, _| match t {
            DType::F32 => unary_f32(d, a, f32::abs),
            _ => unary_i32(d, a, i32::wrapping_abs),
        },
        grad: Rule(|g, x, _| one(g * x[0].sign())), domain: (-10.0, 10.0), tolerance: 0.0 }

    /// e to the x.
    EXP exp() same { wgsl: "v_exp({a})", lib: "exp", cost: 12, types: FLOAT,
        cpu: |_, d, a, _, _| math::exp_block(d, a),
        grad: Rule(|g, _, y| one(g * y)), domain: (-20.0, 20.0), tolerance: 4e-6 }

    /// 2 to the x.
    EXP2 exp2() same { wgsl: "v_exp2({a})", lib: "exp", cost: 10, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, math::exp2),
        grad: Rule(|g, _, y| one(g * y * std::f32::consts::LN_2)), domain: (-20.0, 20.0), tolerance: 4e-6 }

    /// Natural logarithm; NaN below zero.
    LN ln() same { wgsl: "v_ln({a})", lib: "log", cost: 12, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, math::ln),
        grad: Rule(|g, x, _| one(g / &x[0])), domain: (1e-3, 100.0), tolerance: 2e-6 }

    /// Binary logarithm; NaN below zero.
    LOG2 log2() same { wgsl: "v_log2({a})", lib: "log", cost: 12, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, math::log2),
        grad: Rule(|g, x, _| one(g / (&x[0] * std::f32::consts::LN_2))),
        domain: (1e-3, 100.0), tolerance: 2e-6 }

    /// `ln(1 + x)`, accurate near zero.
    LOG1P log1p() same { wgsl: "v_log1p({a})", lib: "log", cost: 14, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, math::log1p),
        grad: Rule(|g, x, _| one(g / (&x[0] + 1.0))), domain: (-0.9, 100.0), tolerance: 2e-6 }

    /// `exp(x) - 1`, accurate near zero.
    EXPM1 expm1() same { wgsl: "v_expm1({a})", lib: "exp", cost: 14, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, math::expm1),
        grad: Rule(|g, _, y| one(g * (y + 1.0))), domain: (-10.0, 10.0), tolerance: 4e-6 }

    /// Square root; NaN below zero.
    SQRT sqrt() same { wgsl: "sqrt({a})", lib: "", cost: 4, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, f32::sqrt),
        grad: Rule(|g, _, y| one(g * 0.5 / y)), domain: (1e-2, 100.0), tolerance: 1e-6 }

    /// `1 / sqrt(x)`.
    RSQRT rsqrt() same { wgsl: "inverseSqrt({a})", lib: "", cost: 4, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, |x| 1.0 / x.sqrt()),
        grad: Rule(|g, _, y| one(g * (y * y * y) * -0.5)), domain: (1e-2, 100.0), tolerance: 2e-6 }

    /// `1 / x`.
    RECIP recip() same { wgsl: "(1.0 / ({a}))", lib: "", cost: 4, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, |x| 1.0 / x),
        grad: Rule(|g, _, y| one((g * (y * y)).neg())), domain: (0.1, 10.0), tolerance: 1e-6 }

    /// Sine of an angle in radians.
    SIN sin() same { wgsl: "v_sin({a})", lib: "trig", cost: 12, types: FLOAT,
        cpu: |_, d, a, _, _| math::sin_block(d, a),
        grad: Rule(|g, x, _| one(g * x[0].cos())), domain: (-6.0, 6.0), tolerance: 1e-4 }

    /// Cosine of an angle in radians.
    COS cos() same { wgsl: "v_cos({a})", lib: "trig", cost: 12, types: FLOAT,
        cpu: |_, d, a, _, _| math::cos_block(d, a),
        grad: Rule(|g, x, _| one((g * x[0].sin()).neg())), domain: (-6.0, 6.0), tolerance: 1e-4 }

    /// Hyperbolic tangent.
    TANH tanh() same { wgsl: "v_tanh({a})", lib: "exp", cost: 14, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, math::tanh),
        grad: Rule(|g, _, y| one(g * (1.0 - y * y))), domain: (-5.0, 5.0), tolerance: 4e-6 }

    /// Logistic function `1 / (1 + exp(-x))`.
    SIGMOID sigmoid() same { wgsl: "v_sigmoid({a})", lib: "exp", cost: 14, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, math::sigmoid),
        grad: Rule(|g, _, y| one(g * (y * (1.0 - y)))), domain: (-10.0, 10.0), tolerance: 4e-6 }

    /// The error function `2/sqrt(pi) * integral of exp(-t^2) from 0 to x`.
    ERF erf() same { wgsl: "v_erf({a})", lib: "erf", cost: 16, types: FLOAT,
        cpu: |_, d, a, _, _| math::erf_block(d, a),
        grad: Rule(|g, x, _| one(g * ((&x[0] * &x[0]).neg().exp() * std::f32::consts::FRAC_2_SQRT_PI))),
        domain: (-3.0, 3.0), tolerance: 4e-6 }

    /// Rectified linear unit `max(x, 0)`; its derivative at 0 is 0, and NaN stays NaN.
    RELU relu() same { wgsl: "select({a}, {t}(0), {a} <= {t}(0))", lib: "", cost: 1, types: SIGNED,
        cpu: |t, d, a, _, _| match t {
            DType::F32 => unary_f32(d, a, |x| if x <= 0.0 { 0.0 } else { x }),
            _ => unary_i32(d, a, |x| x.max(0)),
        },
        grad: Rule(|g, _, y| {
            let zero = Tensor::constant(g.device(), 0f32);
            one(y.gt(&zero).select(g, &zero))
        }),
        domain: (-2.0, 2.0), tolerance: 0.0 }

    /// Largest integer not above x.
    FLOOR floor() same { wgsl: "floor({a})", lib: "", cost: 1, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, f32::floor),
        grad: Zero, domain: (-10.0, 10.0), tolerance: 0.0 }

    /// Smallest integer not below x.
    CEIL ceil() same { wgsl: "ceil({a})", lib: "", cost: 1, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, f32::ceil),
        grad: Zero, domain: (-10.0, 10.0), tolerance: 0.0 }

    /// Nearest integer, ties to even.
    ROUND round() same { wgsl: "round({a})", lib: "", cost: 1, types: FLOAT,
        cpu: |_, d, a, _, _| unary_f32(d, a, f32::round_ties_even),
        grad: Zero, domain: (-10.0, 10.0), tolerance: 0.0 }

    /// -1, 0 or 1; NaN stays NaN.
    SIGN sign() same { wgsl: "v_sign_{t}({a})", lib: "sign", cost: 3, types: SIGNED,
        cpu: |t, d, a, _, _| match t {
            DType::F32 => unary_f32(d, a, |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x * 0.0 }),
            _ => unary_i32(d, a, i32::signum),
        },
        grad: Zero, domain: (-10.0, 10.0), tolerance: 0.0 }

    /// Whether x is not a number.
    ISNAN isnan() test { wgsl: "v_isnan({a})", lib: "bits", cost: 2, types: FLOAT,
        cpu: |_, d, a, _, _| test_f32(d, a, f32::is_nan),
        grad: Zero, domain: (-10.0, 10.0), tolerance: 0.0 }

    /// Logical not.
    NOT logical_not() same { wgsl: "!({a})", lib: "", cost: 1, types: TRUTH,
        cpu: |_, d, a, _, _| unary_u32(d, a, |x| x ^ 1),
        grad: Zero, domain: (0.0, 1.0), tolerance: 0.0 }

    /// `a + b` with broadcasting; integers wrap.
    ADD add(b) same { wgsl: "({a} + {b})", lib: "", cost: 1, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => binary_f32(d, a, b, |x, y| x + y),
            _ => binary_u32(d, a, b, u32::wrapping_add),
        },
        grad: Rule(|g, _, _| two(g.clone(), g.clone())), domain: (-10.0, 10.0), tolerance: 1e-6 }

    /// `a - b` with broadcasting; integers wrap.
    SUB sub(b) same { wgsl: "({a} - {b})", lib: "", cost: 1, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => binary_f32(d, a, b, |x, y| x - y),
            _ => binary_u32(d, a, b, u32::wrapping_sub),
        },
        grad: Rule(|g, _, _| two(g.clone(), g.neg())), domain: (-10.0, 10.0), tolerance: 1e-6,
        identity: 0.0 }

    /// `a * b` with broadcasting; integers wrap.
    MUL mul(b) same { wgsl: "({a} * {b})", lib: "", cost: 1, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => binary_f32(d, a, b, |x, y| x * y),
            _ => binary_u32(d, a, b, u32::wrapping_mul),
        },
        grad: Rule(|g, x, _| two(g * &x[1], g * &x[0])), domain: (-10.0, 10.0), tolerance: 1e-6,
        identity: 1.0 }

    /// `a / b` with broadcasting; an integer divided by zero gives zero.
    DIV div(b) same { wgsl: "v_div_{t}({a}, {b})", lib: "divide", cost: 4, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => binary_f32(d, a, b, |x, y| x / y),
            DType::I32 => binary_i32(d, a, b, math::div_i32),
            _ => math::div_block_u32(d, a, b),
        },
        grad: Rule(|g, x, y| {
            let gx = g / &x[1];
            two(gx.clone(), (gx * y).neg())
        }),
        domain: (0.5, 10.0), tolerance: 1e-6, identity: 1.0 }

    /// Remainder with the sign of `a` (C's fmod); an integer remainder by zero is zero.
    REM rem(b) same { wgsl: "v_rem_{t}({a}, {b})", lib: "fmod divide", cost: 6, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => binary_f32(d, a, b, |x, y| x % y),
            DType::I32 => binary_i32(d, a, b, math::rem_i32),
            _ => binary_u32(d, a, b, math::rem_u32),
        },
        grad: Rule(|g, x, _| {
            let ratio = &x[0] / &x[1];
            let whole = ratio.sign() * ratio.abs().floor();
            two(g.clone(), (g * whole).neg())
        }),
        domain: (0.5, 10.0), tolerance: 1e-5 }

    /// `a` to the power of `b`; `pow(x, 0) = 1`, a negative base needs a whole exponent.
    POW pow(b) same { wgsl: "v_pow({a}, {b})", lib: "pow", cost: 30, types: FLOAT,
        cpu: |_, d, a, b, _| binary_f32(d, a, b, math::pow),
        grad: Rule(pow_grad), domain: (0.1, 4.0), tolerance: 2e-5, identity: 1.0 }

    /// The smaller of `a` and `b`; NaN wins. At a tie each takes half of the gradient.
    MINIMUM minimum(b) same { wgsl: "v_min_{t}({a}, {b})", lib: "extremes", cost: 2, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => binary_f32(d, a, b, |x, y| if x < y || x.is_nan() { x } else { y }),
            DType::I32 => binary_i32(d, a, b, i32::min),
            _ => binary_u32(d, a, b, u32::min),
        },
        grad: Rule(|g, x, _| share(g, x[0].lt(&x[1]), x[0].eq(&x[1]))), domain: (-10.0, 10.0),
        tolerance: 0.0 }

    /// The larger of `a` and `b`; NaN wins. At a tie each takes half of the gradient.
    MAXIMUM maximum(b) same { wgsl: "v_max_{t}({a}, {b})", lib: "extremes", cost: 2, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => binary_f32(d, a, b, |x, y| if x > y || x.is_nan() { x } else { y }),
            DType::I32 => binary_i32(d, a, b, i32::max),
            _ => binary_u32(d, a, b, u32::max),
        },
        grad: Rule(|g, x, _| share(g, x[0].gt(&x[1]), x[0].eq(&x[1]))), domain: (-10.0, 10.0),
        tolerance: 0.0 }

    /// Angle in radians of the point with ordinate `a` and abscissa `b`.
    ATAN2 atan2(b) same { wgsl: "v_atan2({a}, {b})", lib: "atan", cost: 20, types: FLOAT,
        cpu: |_, d, a, b, _| binary_f32(d, a, b, math::atan2),
        grad: Rule(|g, x, _| {
            let scale = g / (&x[0] * &x[0] + &x[1] * &x[1]);
            two(&scale * &x[1], (&scale * &x[0]).neg())
        }),
        domain: (-3.0, 3.0), tolerance: 1e-5 }

    /// `a == b` with broadcasting.
    EQ eq(b) test { wgsl: "v_eq_{t}({a}, {b})", lib: "compare", cost: 1, types: ANY,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => compare_f32(d, a, b, |x, y| x == y),
            _ => compare_u32(d, a, b, |x, y| x == y),
        },
        grad: Zero, domain: (-2.0, 2.0), tolerance: 0.0 }

    /// `a != b` with broadcasting.
    NE ne(b) test { wgsl: "v_ne_{t}({a}, {b})", lib: "compare", cost: 1, types: ANY,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => compare_f32(d, a, b, |x, y| x != y),
            _ => compare_u32(d, a, b, |x, y| x != y),
        },
        grad: Zero, domain: (-2.0, 2.0), tolerance: 0.0 }

    /// `a < b` with broadcasting.
    LT lt(b) test { wgsl: "v_lt_{t}({a}, {b})", lib: "compare", cost: 1, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => compare_f32(d, a, b, |x, y| x < y),
            DType::I32 => compare_i32(d, a, b, |x, y| x < y),
            _ => compare_u32(d, a, b, |x, y| x < y),
        },
        grad: Zero, domain: (-2.0, 2.0), tolerance: 0.0 }

    /// `a <= b` with broadcasting.
    LE le(b) test { wgsl: "v_le_{t}({a}, {b})", lib: "compare", cost: 1, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => compare_f32(d, a, b, |x, y| x <= y),
            DType::I32 => compare_i32(d, a, b, |x, y| x <= y),
            _ => compare_u32(d, a, b, |x, y| x <= y),
        },
        grad: Zero, domain: (-2.0, 2.0), tolerance: 0.0 }

    /// `a > b` with broadcasting.
    GT gt(b) test { wgsl: "v_gt_{t}({a}, {b})", lib: "compare", cost: 1, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => compare_f32(d, a, b, |x, y| x > y),
            DType::I32 => compare_i32(d, a, b, |x, y| x > y),
            _ => compare_u32(d, a, b, |x, y| x > y),
        },
        grad: Zero, domain: (-2.0, 2.0), tolerance: 0.0 }

    /// `a >= b` with broadcasting.
    GE ge(b) test { wgsl: "v_ge_{t}({a}, {b})", lib: "compare", cost: 1, types: NUMBER,
        cpu: |t, d, a, b, _| match t {
            DType::F32 => compare_f32(d, a, b, |x, y| x >= y),
            DType::I32 => compare_i32(d, a, b, |x, y| x >= y),
            _ => compare_u32(d, a, b, |x, y| x >= y),
        },
        grad: Zero, domain: (-2.0, 2.0), tolerance: 0.0 }

    /// Logical and.
    AND and(b) same { wgsl: "({a} && {b})", lib: "", cost: 1, types: TRUTH,
        cpu: |_, d, a, b, _| binary_u32(d, a, b, |x, y| x & y),
        grad: Zero, domain: (0.0, 1.0), tolerance: 0.0 }

    /// Logical or.
    OR or(b) same { wgsl: "({a} || {b})", lib: "", cost: 1, types: TRUTH,
        cpu: |_, d, a, b, _| binary_u32(d, a, b, |x, y| x | y),
        grad: Zero, domain: (0.0, 1.0), tolerance: 0.0 }

    /// Logical exclusive or.
    XOR xor(b) same { wgsl: "({a} != {b})", lib: "", cost: 1, types: TRUTH,
        cpu: |_, d, a, b, _| binary_u32(d, a, b, |x, y| x ^ y),
        grad: Zero, domain: (0.0, 1.0), tolerance: 0.0 }

    /// Where this truth value holds the element of `a`, else that of `b`, with broadcasting.
    SELECT select(a, b) same { wgsl: "select({c}, {b}, {a})", lib: "", cost: 1, types: ANY,
        cpu: |_, d, a, b, c| ternary_u32(d, a, b, c, |k, x, y| if k != 0 { x } else { y }),
        grad: Rule(|g, x, _| {
            let zero = Tensor::constant(g.device(), 0f32);
            [None, Some(x[0].select(g, &zero)), Some(x[0].select(&zero, g))]
        }),
        domain: (-10.0, 10.0), tolerance: 0.0 }

    /// The nearest f16 (IEEE 754 binary16), as f32; ties to even, what is too large becomes infinite. Its gradient is
    /// rounded likewise.
    ROUND_F16 round_f16() same {
        wgsl: "bitcast<f32>(v_f16_value(v_f16_bits(bitcast<u32>({a}))))", lib: "half", cost: 12, types: FLOAT,
        cpu: |_, d, a, _, _| unary_u32(d, a, |x| math::f16_value(math::f16_bits(x))),
        grad: Straight(|g| g.round_f16()), domain: (-70_000.0, 70_000.0), tolerance: 0.0, rounds_to: Half::F16 }

    /// The nearest bf16 (the upper half of an f32), as f32; ties to even. Its gradient is rounded likewise.
    ROUND_BF16 round_bf16() same {
        wgsl: "bitcast<f32>(v_bf16_bits(bitcast<u32>({a})) << 16u)", lib: "half", cost: 5, types: FLOAT,
        cpu: |_, d, a, _, _| unary_u32(d, a, |x| math::bf16_bits(x) << 16),
        grad: Straight(|g| g.round_bf16()), domain: (-10.0, 10.0), tolerance: 0.0, rounds_to: Half::BF16 }

    /// What [`Tensor::round_f16`] gives, which always lies in memory, two elements in a word; its gradient likewise.
    KEEP_F16 keep_f16() same {
        wgsl: "bitcast<f32>(v_f16_value(v_f16_bits(bitcast<u32>({a}))))", lib: "half", cost: 12, types: FLOAT,
        cpu: |_, d, a, _, _| unary_u32(d, a, |x| math::f16_value(math::f16_bits(x))),
        grad: Straight(|g| g.kept_in(Half::F16)), domain: (-70_000.0, 70_000.0), tolerance: 0.0,
        rounds_to: Half::F16, in_memory: true }

    /// What [`Tensor::round_bf16`] gives, which always lies in memory, two elements in a word; its gradient likewise.
    KEEP_BF16 keep_bf16() same {
        wgsl: "bitcast<f32>(v_bf16_bits(bitcast<u32>({a})) << 16u)", lib: "half", cost: 5, types: FLOAT,
        cpu: |_, d, a, _, _| unary_u32(d, a, |x| math::bf16_bits(x) << 16),
        grad: Straight(|g| g.kept_in(Half::BF16)), domain: (-10.0, 10.0), tolerance: 0.0,
        rounds_to: Half::BF16, in_memory: true }
}

/// `d/da a^b = b a^(b-1)` (0 for `b = 0`), `d/db a^b = a^b ln a` (0 where `a = 0` and `b >= 0`), as PyTorch
/// defines them.
fn pow_grad(g: &Tensor, x: &[Tensor], y: &Tensor) -> Grads {
    let zero = Tensor::constant(g.device(), 0f32);
    let (a, b) = (&x[0], &x[1]);
    let da = b.eq(&zero).select(&zero, &(g * (b * a.pow(&(b - 1.0)))));
    let flat = a.eq(&zero).and(&b.ge(&zero));
    let db = flat.select(&zero, &(g * (y * a.ln())));
    two(da, db)
}

/// The winner takes the gradient; equals share it.
fn share(g: &Tensor, first_wins: Tensor, tie: Tensor) -> Grads {
    let zero = Tensor::constant(g.device(), 0f32);
    let half = tie.select(&(g * 0.5), &zero);
    let first = first_wins.select(g, &half);
    let second = g - &first;
    two(first, second)
}
