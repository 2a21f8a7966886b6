//! Misuse: every public recording method with operands that do not fit. Nothing may panic, and the error names
//! the operation, the operands, and the line in this file, also when it is only seen at the end of a model.

use std::panic::{AssertUnwindSafe, Location, catch_unwind};

use versant_graph::{
    Attention, ConvOptions, DType, Device, GraphError, PoolOptions, RandomKey, Tensor, capture, eval,
    explain, grad_of,
};
use versant_tests::devices;
use versant_tests::golden::Report;

/// Operands of every kind.
struct Given {
    device: Device,
    other: Device,
    /// f32 of extents `[2, 3]`, `[4, 5]`, `[]`, `[2, 3, 4, 4]` and `[0, 3]`.
    m: Tensor,
    n: Tensor,
    s: Tensor,
    image: Tensor,
    empty: Tensor,
    /// i32 `[2, 3]` and `[3]`, u32 `[2, 3]`, bool `[2, 3]`.
    int: Tensor,
    line: Tensor,
    unsigned: Tensor,
    truth: Tensor,
    /// f32 of rank 8.
    deep: Tensor,
    /// f32 `[2, 3]` on another device.
    far: Tensor,
}

impl Given {
    fn new(device: &Device) -> Given {
        let other = Device::cpu();
        let real = |d: &Device, shape: &[usize]| {
            let values = vec![0.5f32; shape.iter().product()];
            Tensor::from_slice(d, &values, shape)
        };
        Given {
            m: real(device, &[2, 3]),
            n: real(device, &[4, 5]),
            s: real(device, &[]),
            image: real(device, &[2, 3, 4, 4]),
            empty: real(device, &[0, 3]),
            int: Tensor::from_slice(device, &[1i32; 6], &[2, 3]),
            line: Tensor::from_slice(device, &[1i32; 3], &[3]),
            unsigned: Tensor::from_slice(device, &[1u32; 6], &[2, 3]),
            truth: Tensor::from_slice(device, &[true; 6], &[2, 3]),
            deep: real(device, &[1; 8]),
            far: real(&other, &[2, 3]),
            device: device.clone(),
            other,
        }
    }
}

/// A mistake: the operation that the message must name, what else it must contain, and the mistake.
struct Misuse {
    op: &'static str,
    says: &'static [&'static str],
    /// Where its row of the table begins; the next row begins where it ends.
    line: u32,
    make: fn(&Given) -> Tensor,
}

/// A row of the table; it remembers where it stands.
#[track_caller]
fn row(op: &'static str, says: &'static [&'static str], make: fn(&Given) -> Tensor) -> Misuse {
    let line = Location::caller().line();
    Misuse { op, says, line, make }
}

const HUGE: usize = usize::MAX;
const BIG: usize = 1 << 40;
const ONE: ConvOptions = ConvOptions { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 };

fn elementwise() -> Vec<Misuse> {
    vec![
        row("add", &["f32[2, 3]", "f32[4, 5]"], |g| &g.m + &g.n),
        row("sub", &["f32[2, 3]", "i32[2, 3]"], |g| &g.m - &g.int),
        row("mul", &["broadcast"], |g| g.m.clone() * g.n.clone()),
        row("div", &["f32[2, 3]"], |g| g.m.clone() / &g.n),
        row("pow", &["i32"], |g| g.int.pow(&g.int)),
        row("exp", &["i32[2, 3]"], |g| g.int.exp()),
        row("neg", &["u32[2, 3]"], |g| -&g.unsigned),
        row("abs", &["bool[2, 3]"], |g| g.truth.abs()),
        row("logical_not", &["f32"], |g| g.m.logical_not()),
        row("and", &["f32[2, 3]"], |g| g.m.and(&g.m)),
        row("lt", &["bool"], |g| g.truth.lt(&g.truth)),
        row("eq", &["f32[2, 3]", "i32[2, 3]"], |g| g.m.eq(&g.int)),
        row("select", &["condition", "f32"], |g| g.m.select(&g.m, &g.m)),
        row("select", &["i32[2, 3]"], |g| g.truth.select(&g.m, &g.int)),
        row("select", &["f32[4, 5]"], |g| g.truth.select(&g.m, &g.n)),
        row("add", &["different devices"], |g| &g.m + &g.far),
        row("select", &["different devices"], |g| g.truth.select(&g.m, &g.far)),
        row("concat", &["different devices"], |g| Tensor::cat(&[&g.m, &g.far], 0)),
    ]
}

const FULL: Attention<'_> = Attention {
    scale: None,
    is_causal: false,
    window: None,
    start: 0,
    attn_mask: None,
    dropout: None,
    fused: None,
    kept: None,
};

fn attention() -> Vec<Misuse> {
    vec![
        row("attention", &["f32[2, 3]", "f32[4, 5]", "width"], |g| g.m.attention(&g.n, &g.n, &FULL)),
        row("attention", &["rank", "f32[]"], |g| g.s.attention(&g.s, &g.s, &FULL)),
        row("attention", &["rank", "f32[2, 3, 4, 4]"], |g| g.m.attention(&g.image, &g.m, &FULL)),
        row("attention", &["i32[2, 3]", "f32"], |g| g.m.attention(&g.int, &g.m, &FULL)),
        row("attention", &["value"], |g| g.m.attention(&g.m, &g.m.t().matmul(&g.m), &FULL)),
        row("attention", &["multiple"], |g| {
            g.image.attention(&g.image.narrow(1, 0, 2), &g.image.narrow(1, 0, 2), &FULL)
        }),
        row("attention", &["leading"], |g| g.image.narrow(0, 0, 1).attention(&g.image, &g.image, &FULL)),
        row("attention", &["scale"], |g| {
            g.m.attention(&g.m, &g.m, &Attention { scale: Some(f32::NAN), ..FULL })
        }),
        row("attention", &["window"], |g| g.m.attention(&g.m, &g.m, &Attention { window: Some(0), ..FULL })),
        row("attention", &["probability"], |g| {
            g.m.attention(&g.m, &g.m, &Attention { dropout: Some((1.5, RandomKey::new(1))), ..FULL })
        }),
        row("attention", &["2^29"], |g| g.m.attention(&g.m, &g.m, &Attention { start: HUGE, ..FULL })),
        row("attention", &["mask", "i32[2, 3]"], |g| {
            g.m.attention(&g.m, &g.m, &Attention { attn_mask: Some(&g.int), ..FULL })
        }),
        row("attention", &["mask", "bool[2, 3]"], |g| {
            g.m.attention(&g.m, &g.m, &Attention { attn_mask: Some(&g.truth), ..FULL })
        }),
        row("attention", &["different devices"], |g| g.m.attention(&g.far, &g.m, &FULL)),
        row("attention", &["width"], |g| g.m.attention_composite(&g.n, &g.n, &FULL)),
    ]
}

fn contractions() -> Vec<Misuse> {
    vec![
        row("matmul", &["different devices"], |g| g.m.matmul(&g.far.t())),
        row("matmul", &["f32[2, 3]", "inner"], |g| g.m.matmul(&g.m)),
        row("matmul", &["f32[]"], |g| g.m.matmul(&g.s)),
        row("matmul", &["i32[2, 3]"], |g| g.int.matmul(&g.int.t())),
        row("matmul", &["leading"], |g| g.image.matmul(&g.image.narrow(1, 0, 2))),
        row("conv2d", &["f32[2, 3]"], |g| g.m.conv2d(&g.image, &ONE)),
        row("conv2d", &["channels"], |g| g.image.conv2d(&g.image.narrow(1, 0, 2), &ONE)),
        row("conv2d", &["positive"], |g| g.image.conv2d(&g.image, &ConvOptions { stride: [0, 1], ..ONE })),
        row("conv2d", &["positive"], |g| g.image.conv2d(&g.image, &ConvOptions { dilation: [1, 0], ..ONE })),
        row("conv2d", &["positive"], |g| g.image.conv2d(&g.image, &ConvOptions { groups: 0, ..ONE })),
        row("conv2d", &["groups must be below"], |g| {
            g.image.conv2d(&g.image, &ConvOptions { groups: HUGE, ..ONE })
        }),
        row("conv2d", &["dilation"], |g| {
            g.image.conv2d(&g.image, &ConvOptions { dilation: [HUGE, 1], ..ONE })
        }),
        row("conv2d", &["f32[2, 3, 4, 4]"], |g| {
            g.image.conv2d(&g.image, &ConvOptions { padding: [HUGE, 1], ..ONE })
        }),
        row("conv2d", &["f32[2, 3, 4, 4]"], |g| {
            g.image.conv2d(&g.image, &ConvOptions { padding: [BIG, BIG], ..ONE })
        }),
        row("conv2d", &["f32"], |g| g.image.cast(DType::I32).conv2d(&g.image, &ONE)),
        row("conv1d", &["f32[2, 3]"], |g| g.m.conv1d(&g.m, &ONE)),
        row("conv2d", &["positive"], |g| {
            g.image
                .narrow(2, 0, 1)
                .squeeze(2)
                .conv1d(&g.image.narrow(2, 0, 1).squeeze(2), &ConvOptions { stride: [1, 0], ..ONE })
        }),
        row("conv_transpose2d", &["f32[2, 3]"], |g| g.m.conv_transpose2d(&g.image, &ONE, [0; 2])),
        row("conv_transpose2d", &["channels"], |g| g.image.conv_transpose2d(&g.image, &ONE, [0; 2])),
        row("conv_transpose2d", &["padding"], |g| {
            g.image.conv_transpose2d(&g.image.permute(&[1, 0, 2, 3]), &ONE, [1; 2])
        }),
        row("conv_transpose2d", &["f32[2, 3, 4, 4]"], |g| {
            g.image.conv_transpose2d(
                &g.image.permute(&[1, 0, 2, 3]),
                &ConvOptions { stride: [HUGE; 2], ..ONE },
                [0; 2],
            )
        }),
        row("conv_transpose2d", &["f32[2, 3, 4, 4]"], |g| {
            g.image.conv_transpose2d(
                &g.image.permute(&[1, 0, 2, 3]),
                &ConvOptions { padding: [HUGE; 2], ..ONE },
                [0; 2],
            )
        }),
        row("conv_transpose2d", &["i32"], |g| {
            g.image.cast(DType::I32).conv_transpose2d(&g.image.permute(&[1, 0, 2, 3]), &ONE, [0; 2])
        }),
    ]
}

fn movements() -> Vec<Misuse> {
    vec![
        row("reshape", &["f32[2, 3]", "[4, 2]"], |g| g.m.reshape(&[4, 2])),
        row("reshape", &["[-1, -1]"], |g| g.m.reshape(&[-1, -1])),
        row("reshape", &["[-2, 3]"], |g| g.m.reshape(&[-2, 3])),
        row("reshape", &["6 elements"], |g| g.m.reshape(&[0, -1])),
        row("reshape", &["6 elements"], |g| g.m.reshape(&[isize::MAX, isize::MAX])),
        row("reshape", &["6 elements"], |g| g.m.reshape(&[1 << 32, 1 << 32])),
        row("reshape", &["6 elements"], |g| g.m.reshape(&[6, 1, 1, 1, 1, 1, 1, 1, 1])),
        row("reshape", &["elements"], |g| g.empty.reshape(&[0, -1])),
        row("permute", &["f32[2, 3]"], |g| g.m.permute(&[0])),
        row("permute", &["[0, 0]"], |g| g.m.permute(&[0, 0])),
        row("permute", &["[0, 7]"], |g| g.m.permute(&[0, 7])),
        row("permute", &["permutation"], |g| g.m.permute(&[0, 1, 1])),
        row("transpose", &["axes 0 and 2"], |g| g.m.transpose(0, 2)),
        row("t", &["f32[]"], |g| g.s.t()),
        row("broadcast_to", &["f32[2, 3]", "[2, 4]"], |g| g.m.broadcast_to(&[2, 4])),
        row("broadcast_to", &["[3]"], |g| g.m.broadcast_to(&[3])),
        row("broadcast_to", &["f32[]"], |g| g.s.broadcast_to(&[1; 9])),
        row("broadcast_to", &["f32[]"], |g| g.s.broadcast_to(&[HUGE, HUGE])),
        row("slice", &["f32[2, 3]", "axis 1"], |g| g.m.narrow(1, 2, 2)),
        row("slice", &["axis 2"], |g| g.m.narrow(2, 0, 1)),
        row("slice", &["f32[2, 3]"], |g| g.m.narrow(0, HUGE, 1)),
        row("slice", &["f32[2, 3]"], |g| g.m.narrow(0, 1, HUGE)),
        row("slice", &["by 0"], |g| g.m.slice_step(1, 0, 2, 0)),
        row("slice", &["f32[2, 3]"], |g| g.m.slice_step(1, 1, 2, HUGE)),
        row("flip", &["[2]"], |g| g.m.flip(&[2])),
        row("pad", &["one pair"], |g| g.m.pad(&[(1, 1)], 0.0)),
        row("pad", &["overflows"], |g| g.m.pad(&[(HUGE, 1), (0, 0)], 0.0)),
        row("pad", &["f32[2, 3]"], |g| g.m.pad(&[(BIG, BIG), (BIG, BIG)], 0.0)),
        row("cat", &["f32[2, 3]", "f32[4, 5]"], |g| Tensor::cat(&[&g.m, &g.n], 0)),
        row("cat", &["i32[2, 3]"], |g| Tensor::cat(&[&g.m, &g.int], 0)),
        row("cat", &["axis"], |g| Tensor::cat(&[&g.m, &g.m], 2)),
        row("cat", &["axis"], |g| Tensor::cat(&[&g.s, &g.s], 0)),
        row("stack", &["f32[4, 5]"], |g| Tensor::stack(&[&g.m, &g.n], 0)),
        row("stack", &["f32[2, 3]"], |g| Tensor::stack(&[&g.m, &g.m], 3)),
        row("squeeze", &["axis 0"], |g| g.m.squeeze(0)),
        row("squeeze", &["axis 5"], |g| g.m.squeeze(5)),
        row("unsqueeze", &["at 3"], |g| g.m.unsqueeze(3)),
        row("unsqueeze", &["f32[1, 1"], |g| g.deep.unsqueeze(0)),
        row("flatten", &["axis 2"], |g| g.m.flatten(2)),
        row("window", &["f32[2, 3]"], |g| g.m.window(2, 1, 1, 1)),
        row("window", &["positive"], |g| g.m.window(1, 0, 1, 1)),
        row("window", &["positive"], |g| g.m.window(1, 2, 0, 1)),
        row("window", &["positive"], |g| g.m.window(1, 2, 1, 0)),
        row("window", &["f32[1, 1"], |g| g.deep.window(0, 1, 1, 1)),
        row("window", &["f32[1, 1"], |g| g.deep.window(0, 1, 2, 1)),
        row("window", &["f32[2, 3]"], |g| g.m.window(1, HUGE, 1, HUGE)),
        row("max_pool1d", &["f32[1, 1"], |g| g.deep.max_pool1d(1, 1, 0)),
    ]
}

fn reductions() -> Vec<Misuse> {
    vec![
        row("sum", &["[2]", "f32[2, 3]"], |g| g.m.sum(&[2], false)),
        row("sum", &["[-3]"], |g| g.m.sum(&[-3], true)),
        row("sum", &["f32[2, 3]"], |g| g.m.sum(&[isize::MIN], true)),
        row("sum", &["bool"], |g| g.truth.sum(&[0], false)),
        row("mean", &["i32"], |g| g.int.mean(&[0], false)),
        row("prod", &["[9]"], |g| g.m.prod(&[9], false)),
        row("max", &["[2]"], |g| g.m.max(&[2], false)),
        row("min", &["bool"], |g| g.truth.min(&[0], false)),
        row("mean", &["f32[2, 3]"], |g| g.m.mean(&[4], false)),
        row("var", &["i32"], |g| g.int.var(&[0], false, 1.0)),
        row("var", &["f32[2, 3]"], |g| g.m.var(&[4], false, 1.0)),
        row("argmax", &["f32[2, 3]"], |g| g.m.argmax(2, false)),
        row("argmin", &["f32[]"], |g| g.s.argmin(0, false)),
        row("argmax", &["bool"], |g| g.truth.argmax(0, false)),
        row("cumsum", &["f32[2, 3]"], |g| g.m.cumsum(2)),
        row("cumsum", &["bool"], |g| g.truth.cumsum(0)),
        row("cast", &["f16"], |g| g.m.cast(DType::F16)),
        row("bitcast", &["bool"], |g| g.truth.bitcast(DType::F32)),
        row("bitcast", &["f32[2, 3]"], |g| g.m.bitcast(DType::BF16)),
    ]
}

fn sorting() -> Vec<Misuse> {
    vec![
        row("argsort", &["axis 2", "f32[2, 3]"], |g| g.m.argsort(2, false)),
        row("sort", &["axis -3"], |g| g.m.sort(-3, false).0),
        row("sort", &["f32[]", "axis 0"], |g| g.s.sort(0, true).1),
        row("topk", &["4 of the 3", "f32[2, 3]"], |g| g.m.topk(4, 1, true).0),
        row("topk", &["axis"], |g| g.m.topk(1, isize::MIN, true).1),
        row("topk", &["f32[0, 3]"], |g| g.empty.topk(HUGE, 0, true).1),
        row("kthvalue", &["number 0"], |g| g.m.kthvalue(0, 0, false).0),
        row("kthvalue", &["number 3", "axis 0"], |g| g.m.kthvalue(3, -2, false).1),
        row("kthvalue", &["axis 7"], |g| g.m.kthvalue(1, 7, false).1),
        row("median", &["f32[0, 3]", "elements"], |g| g.empty.median(0, false)),
        row("median", &["bool"], |g| g.truth.median(0, false)),
        row("median", &["axis 2"], |g| g.m.median(2, false)),
        row("quantile", &["i32[2, 3]"], |g| g.int.quantile(0.5, 0, false)),
        row("quantile", &["share"], |g| g.m.quantile(1.5, 0, false)),
        row("quantile", &["share"], |g| g.m.quantile(f32::NAN, 0, false)),
        row("searchsorted", &["f32[2, 3]", "f32[4, 5]"], |g| g.m.searchsorted(&g.n, false)),
        row("searchsorted", &["i32[3]", "one type"], |g| g.line.searchsorted(&g.m, false)),
        row("searchsorted", &["f32[1, 1"], |g| g.deep.searchsorted(&g.deep, true)),
        row("searchsorted", &["f32[]"], |g| g.s.searchsorted(&g.m, true)),
        row("lt", &["different devices"], |g| g.m.searchsorted(&g.far, false)),
        row("multinomial", &["4 samples", "f32[2, 3]"], |g| g.m.multinomial(4, false, RandomKey::new(0))),
        row("multinomial", &["i32[2, 3]"], |g| g.int.multinomial(1, true, RandomKey::new(0))),
        row("multinomial", &["f32[]"], |g| g.s.multinomial(1, true, RandomKey::new(0))),
        row("multinomial", &["f32[1, 1"], |g| g.deep.multinomial(1, true, RandomKey::new(0))),
        row("bincount", &["f32[2, 3]"], |g| g.m.bincount(3, None)),
        row("bincount", &["f32[4, 5]", "weights"], |g| g.int.bincount(3, Some(&g.n))),
        row("bincount", &["bool"], |g| g.int.bincount(3, Some(&g.truth))),
        row("histogram", &["i32"], |g| g.int.histogram(3, 0.0, 1.0)),
        row("histogram", &["from 1 to 1"], |g| g.m.histogram(3, 1.0, 1.0)),
    ]
}

fn pools() -> Vec<Misuse> {
    vec![
        row("max_pool2d", &["f32[]"], |g| g.s.max_pool2d(&PoolOptions::new([2, 2]))),
        row("max_pool2d", &["positive"], |g| g.image.max_pool2d(&PoolOptions::new([0, 2]))),
        row("max_pool2d", &["larger"], |g| g.image.max_pool2d(&PoolOptions::new([5, 5]))),
        row("max_pool2d", &["half"], |g| {
            g.image.max_pool2d(&PoolOptions { padding: [2, 2], ..PoolOptions::new([2, 2]) })
        }),
        row("max_pool2d", &["f32[2, 3, 4, 4]"], |g| {
            g.image.max_pool2d(&PoolOptions { padding: [HUGE / 2; 2], ..PoolOptions::new([HUGE; 2]) })
        }),
        row("avg_pool2d", &["i32[2, 3]"], |g| g.int.avg_pool2d(&PoolOptions::new([1, 1]), true)),
        row("max_pool2d", &["f32"], |g| g.m.max_pool1d(9, 1, 0)),
        row("avg_pool1d", &["f32[]"], |g| g.s.avg_pool1d(1, 1, 0, true)),
        row("adaptive_avg_pool2d", &["f32[2, 3, 4, 4]"], |g| g.image.adaptive_avg_pool2d([0, 1])),
        row("adaptive_max_pool2d", &["f32[0, 3]"], |g| g.empty.adaptive_max_pool2d([1, 1])),
        row("adaptive_max_pool2d", &["f32[2, 3, 4, 4]"], |g| g.image.adaptive_max_pool2d([HUGE, HUGE])),
    ]
}

fn composites() -> Vec<Misuse> {
    vec![
        row("gather", &["f32[2, 3]", "i32[3]"], |g| g.m.gather(0, &g.line)),
        row("gather", &["i32"], |g| g.m.gather(0, &g.m)),
        row("gather", &["f32[2, 3]"], |g| g.m.gather(2, &g.int)),
        row("gather", &["f32[4, 5]"], |g| g.n.gather(0, &g.int)),
        row("index_select", &["f32[2, 3]", "i32[2, 3]"], |g| g.m.index_select(0, &g.int)),
        row("index_select", &["axis"], |g| g.m.index_select(2, &g.line)),
        row("index_select", &["empty"], |g| g.empty.index_select(0, &g.line)),
        row("scatter_add", &["f32[2, 3]"], |g| g.m.scatter_add(0, &g.line, &g.m)),
        row("scatter_add", &["axis"], |g| g.m.scatter_add(2, &g.line, &g.m)),
        row("scatter_add", &["i32[2, 3]"], |g| g.m.scatter_add(1, &g.line, &g.int)),
        row("scatter_add", &["bool"], |g| g.truth.scatter_add(1, &g.line, &g.truth)),
        row("one_hot", &["f32[2, 3]"], |g| g.m.one_hot(3)),
        row("softmax", &["axis 2"], |g| g.m.softmax(2)),
        row("softmax", &["i32"], |g| g.int.softmax(0)),
        row("log_softmax", &["f32[]"], |g| g.s.log_softmax(0)),
        row("logsumexp", &["axis -3"], |g| g.m.logsumexp(-3, true)),
        row("layer_norm", &["f32[2, 3]"], |g| g.m.layer_norm(3, None, None, 1e-5)),
        row("layer_norm", &["f32[2, 3]"], |g| g.m.layer_norm(0, None, None, 1e-5)),
        row("layer_norm", &["f32[4, 5]"], |g| g.m.layer_norm(1, Some(&g.n), None, 1e-5)),
        row("dropout", &["probability"], |g| g.m.dropout(1.5, RandomKey::new(0))),
        row("dropout", &["probability"], |g| g.m.dropout(f32::NAN, RandomKey::new(0))),
        row("dropout", &["i32"], |g| g.int.dropout(0.5, RandomKey::new(0))),
    ]
}

fn leaves() -> Vec<Misuse> {
    vec![
        row("from_slice", &["f32[2, 2]", "3 elements"], |g| {
            Tensor::from_slice(&g.device, &[1.0f32; 3], &[2, 2])
        }),
        row("from_slice", &["elements"], |g| Tensor::from_slice(&g.device, &[1.0f32], &[1; 9])),
        row("from_slice", &["elements"], |g| Tensor::from_slice(&g.device, &[1.0f32; 4], &[HUGE, HUGE])),
        row("from_slice", &["elements"], |g| Tensor::from_slice::<f32>(&g.device, &[], &[1 << 32, 1 << 32])),
        row("broadcast_to", &[""], |g| Tensor::full(&g.device, 1.0, &[1; 9])),
        row("broadcast_to", &[""], |g| Tensor::zeros(&g.device, &[BIG, BIG])),
        row("arange", &[""], |g| Tensor::arange(&g.device, HUGE, DType::I32)),
        row("cast", &["bf16"], |g| Tensor::arange(&g.device, 3, DType::BF16)),
        row("random", &[""], |g| Tensor::random_words(&g.device, &[1; 9], RandomKey::new(0))),
        row("random", &[""], |g| Tensor::rand_uniform(&g.device, &[BIG, BIG], RandomKey::new(0))),
        row("random", &[""], |g| Tensor::rand_normal(&g.device, &[1; 8], RandomKey::new(0))),
    ]
}

/// Every row, with the line after its last one.
fn table() -> Vec<(Misuse, u32)> {
    let lists = [
        elementwise(),
        attention(),
        contractions(),
        movements(),
        reductions(),
        sorting(),
        pools(),
        composites(),
        leaves(),
    ];
    let mut all = Vec::new();
    for list in lists {
        let ends: Vec<u32> = list.iter().skip(1).map(|m| m.line).collect();
        // No row is longer than this many lines.
        let last = list.last().map_or(0, |m| m.line + 12);
        all.extend(list.into_iter().zip(ends.into_iter().chain([last])));
    }
    all
}

/// The error, after the mistake went through a deep model and somebody asked for a number.
fn at_the_end(wrong: &Tensor, device: &Device) -> Result<GraphError, String> {
    let mut x = wrong.clone();
    for k in 0..20 {
        let other = Tensor::ones(device, &[3, 2]);
        x = match k % 5 {
            0 => (x * 2.0 + 1.0).relu(),
            1 => other.matmul(&x).softmax(-1),
            2 => Tensor::cat(&[&other, &x], 0).reshape(&[-1, 7]),
            3 => x.sum(&[0], true).layer_norm(1, None, None, 1e-5),
            _ => x.flip(&[0]).mean(&[-1], true).max_pool2d(&PoolOptions::new([2, 2])),
        };
    }
    let loss = x.mean_all();
    let error = loss.item::<f32>().err().ok_or("item gave a number")?;
    for other in [
        loss.backward().err(),
        eval(&[&loss]).err(),
        explain(&[&loss]).err(),
        loss.to_vec::<f32>().err(),
        loss.clone().into_parameter("p").err(),
        grad_of(&loss, &[wrong]).err(),
    ] {
        let other = other.ok_or("some way to a value gave no error")?;
        if other.to_string() != error.to_string() {
            return Err(format!("{other} is not {error}"));
        }
    }
    Ok(error)
}

fn check(misuse: &Misuse, end: u32, given: &Given) -> Result<(), String> {
    let made = catch_unwind(AssertUnwindSafe(|| (misuse.make)(given)));
    let wrong = made.map_err(|_| format!("{} panicked while recording", misuse.op))?;
    let error = catch_unwind(AssertUnwindSafe(|| at_the_end(&wrong, &given.device)))
        .map_err(|_| format!("{} panicked later", misuse.op))??;
    let text = error.to_string();
    let (op, location): (&str, &Location) = match &error {
        GraphError::Invalid { op, location, .. } | GraphError::MixedDevices { op, location, .. } => {
            (op, location)
        }
        _ => return Err(format!("another kind of error: {text}")),
    };
    let missing: Vec<_> = misuse.says.iter().filter(|s| !text.contains(**s)).collect();
    let here = location.file().ends_with("misuse.rs") && (misuse.line..end).contains(&location.line());
    if op == misuse.op && missing.is_empty() && here {
        return Ok(());
    }
    Err(format!("at line {} expected {} with {missing:?} missing: {text}", misuse.line, misuse.op))
}

#[test]
fn every_misuse_is_an_error_with_its_line() {
    let mut report = Report::new("misuses");
    let table = table();
    for device in devices() {
        let given = Given::new(&device);
        assert_ne!(given.device, given.other, "the second device is one of its own");
        for (misuse, end) in &table {
            let name = format!("{} line {}", misuse.op, misuse.line);
            report.check(&device, &name, || check(misuse, *end, &given));
        }
    }
    report.finish(table.len());
}

/// Calls that need a value at once.
#[test]
fn values_that_cannot_be_had() {
    for device in devices() {
        let g = Given::new(&device);
        assert!(matches!(g.m.to_vec::<i32>(), Err(GraphError::WrongType { .. })));
        assert!(matches!(g.m.item::<f32>(), Err(GraphError::Invalid { op: "item", .. })));
        for mask in [&g.m, &g.far.gt(&g.far)] {
            let wrong = g.m.masked_select(mask);
            assert!(matches!(wrong, Err(GraphError::Invalid { op: "masked_select", .. })));
        }
        assert!(g.n.masked_select(&g.truth).is_err() && g.m.reshape(&[5]).nonzero().is_err());
        assert!(matches!(eval(&[&g.m, &g.far]), Err(GraphError::MixedDevices { .. })));
        assert!(eval(&[]).is_ok());
        assert!(g.int.backward().is_err() && g.m.backward().is_err());
        assert!(explain(&[]).is_ok());
        let double = capture(&device, &[&g.m], |x| vec![&x[0] * 2.0]).expect("a good capture");
        for wrong in [&g.n, &g.int, &g.far] {
            assert!(double.call(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(double.call(&[]).is_err());
        let broken = capture(&device, &[&g.m, &g.n], |x| vec![&x[0] + &x[1]]);
        assert!(broken.is_err());
        assert!(capture(&device, &[&g.far], |x| vec![x[0].clone()]).is_ok());
    }
}

/// A list without a tensor has no device to say the error on.
#[test]
fn an_empty_list_is_an_error() {
    for list in [Tensor::cat as fn(&[&Tensor], usize) -> Tensor, Tensor::stack] {
        let made = catch_unwind(|| list(&[], 0));
        let t = made.expect("an empty list does not panic");
        assert!(t.item::<f32>().is_err());
    }
}
