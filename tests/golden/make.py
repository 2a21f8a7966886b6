#!/usr/bin/env python3
"""Golden values from PyTorch: writes the tables that tests/tests/golden*.rs walk.

Versions   Python 3.11, torch 2.15.0 (CPU), numpy 2.4, safetensors 0.8. Other versions of torch may
           differ in the last bits; the tests' tolerances are far wider than that.
Run        python3 -m venv /tmp/pv && /tmp/pv/bin/pip install torch==2.15.0 numpy safetensors
           /tmp/pv/bin/python tests/golden/make.py
           It rewrites index.json and *.safetensors beside itself, in about ten seconds.
Seeds      Every case seeds torch with the CRC-32 of its own name, so adding a case changes no other.
           One thread, deterministic algorithms: two runs write identical bytes.

Layout     index.json = {"torch": ..., "cases": [{"name", "kind", "file", "attrs"}, ...]}; the
           tensors of a case are the keys `name/...` of `file`.safetensors.
           A *function case* has its inputs by name (`x`, `weight`, ...), the result `y`, a random
           cotangent `gy`, and for every differentiated input `n` the gradient `gn` of sum(y * gy).
           Some (record.SECOND) have second derivatives: `hn`, the gradient of sum(gn * vn) over all
           differentiated inputs, with random directions `vn`; an `hn` that is zero everywhere is left out.
           Integers are int32.
           The other kinds (`optim`, `clip_*`, `schedule`, `train`, `init`) are described where they are made.

Exactness  Values are computed in float64 from float32 inputs and rounded once, so the engine is held to
           the mathematics and not to PyTorch's rounding. PyTorch's own float32 result is computed too and
           must agree to the tests' default tolerance (rtol 1e-4, atol 1e-5), or the script stops: a value
           that PyTorch itself does not know to the tolerance is not a test.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from record import case, pair, put, rounded, save, seed, tied
from sorting import sorting
from transformer import TRANSFORMERS

# ---------------------------------------------------------------------------------------------------
# (a) Layers
# ---------------------------------------------------------------------------------------------------

def linears() -> None:
    for name, shape, out, bias in [("linear", (5, 7), 3, True), ("linear_nobias", (4, 6), 9, False),
                                   ("linear_batched", (2, 3, 5), 4, True), ("linear_row", (1, 33), 17, True)]:
        seed(name)
        ins = {"x": torch.randn(shape), "weight": torch.randn(out, shape[-1]) * 0.5}
        if bias:
            ins["bias"] = torch.randn(out)
        case("layers", name, "linear", {"bias": bias}, lambda x, weight, bias=None: F.linear(x, weight, bias), ins)


def convs() -> None:
    # name, input, out channels, kernel, stride, padding, dilation, groups, bias
    two = [("conv2d_s1p0", (2, 3, 7, 6), 4, 3, 1, 0, 1, 1, True), ("conv2d_s1p1", (2, 3, 5, 7), 4, 3, 1, 1, 1, 1, True),
           ("conv2d_s2p1", (2, 3, 9, 7), 5, 3, 2, 1, 1, 1, True), ("conv2d_s2p1_even", (1, 2, 8, 10), 3, 3, 2, 1, 1, 1, True),
           ("conv2d_asymmetric", (2, 2, 9, 11), 3, (3, 2), (2, 1), (1, 0), (1, 2), 1, True),
           ("conv2d_dilated", (1, 2, 9, 9), 3, 3, 1, 2, 2, 1, True), ("conv2d_groups", (2, 4, 6, 5), 6, 3, 1, 1, 1, 2, True),
           ("conv2d_depthwise", (2, 3, 6, 7), 6, 3, 2, 1, 1, 3, True), ("conv2d_1x1", (2, 5, 4, 3), 3, 1, 1, 0, 1, 1, True),
           ("conv2d_1x1_s2", (1, 3, 7, 6), 2, 1, 2, 0, 1, 1, False), ("conv2d_5x5_s3p2", (1, 2, 13, 11), 3, 5, 3, 2, 1, 1, True),
           ("conv2d_groups_s2d2", (1, 6, 11, 10), 4, 3, 2, 2, 2, 2, False), ("conv2d_wide", (2, 8, 12, 12), 16, 3, 1, 1, 1, 1, True),
           ("conv2d_one_pixel", (1, 3, 3, 3), 2, 3, 1, 0, 1, 1, True)]
    one = [("conv1d_s1p0", (2, 3, 9), 4, 3, 1, 0, 1, 1, True), ("conv1d_s2p1", (2, 3, 10), 5, 3, 2, 1, 1, 1, True),
           ("conv1d_dilated", (1, 2, 13), 3, 3, 1, 2, 2, 1, True), ("conv1d_groups", (2, 4, 8), 6, 4, 2, 1, 1, 2, False)]
    for rank, rows in ((2, two), (1, one)):
        for name, shape, out, k, s, p, d, g, bias in rows:
            seed(name)
            k = pair(k)[:rank]
            ins = {"x": torch.randn(shape), "weight": torch.randn(out, shape[1] // g, *k) * 0.4}
            if bias:
                ins["bias"] = torch.randn(out)
            kw = {"stride": pair(s)[:rank], "padding": pair(p)[:rank], "dilation": pair(d)[:rank], "groups": g}
            conv = F.conv2d if rank == 2 else F.conv1d
            case("layers", name, f"conv{rank}d", kw | {"bias": bias},
                 lambda x, weight, bias=None, conv=conv, kw=kw: conv(x, weight, bias, **kw), ins)


def transposed_convs() -> None:
    # The weight has PyTorch's layout: in channels, out channels / groups, height, width.
    # name, input, out channels, kernel, stride, padding, output padding, dilation, groups, bias
    rows = [("conv_transpose2d_s1", (2, 3, 5, 4), 2, 3, 1, 0, 0, 1, 1, True),
            ("conv_transpose2d_s2k2", (2, 4, 3, 5), 3, 2, 2, 0, 0, 1, 1, True),
            ("conv_transpose2d_s2p1o1", (1, 3, 4, 5), 4, 3, 2, 1, 1, 1, 1, True),
            ("conv_transpose2d_s3p1o2_groups", (2, 4, 3, 4), 6, 3, 3, 1, 2, 1, 2, True),
            ("conv_transpose2d_dilated", (1, 2, 4, 4), 3, 3, 2, 1, 1, 2, 1, False),
            ("conv_transpose2d_asymmetric", (1, 2, 4, 3), 3, (3, 2), (2, 3), (1, 0), (1, 2), (1, 1), 1, True)]
    for name, shape, out, k, s, p, op, d, g, bias in rows:
        seed(name)
        ins = {"x": torch.randn(shape), "weight": torch.randn(shape[1], out // g, *pair(k)) * 0.4}
        if bias:
            ins["bias"] = torch.randn(out)
        kw = {"stride": pair(s), "padding": pair(p), "output_padding": pair(op), "dilation": pair(d), "groups": g}
        case("layers", name, "conv_transpose2d", kw | {"bias": bias},
             lambda x, weight, bias=None, kw=kw: F.conv_transpose2d(x, weight, bias, **kw), ins)


def pools() -> None:
    # Of equal maxima in a window, the first in row-major order takes the gradient.
    for name, shape, k, s, p in [("max_pool2d_k2s2", (2, 3, 6, 8), 2, 2, 0), ("max_pool2d_k2s2_odd", (2, 2, 7, 5), 2, 2, 0),
                                 ("max_pool2d_k3s2p1", (2, 3, 7, 9), 3, 2, 1), ("max_pool2d_k3s1p1", (1, 2, 5, 6), 3, 1, 1),
                                 ("max_pool2d_k2s3", (1, 2, 8, 9), 2, 3, 0),
                                 ("max_pool2d_asymmetric", (1, 2, 7, 8), (3, 2), (2, 1), (1, 0))]:
        for ties in (False, True):
            full = name + ("_ties" if ties else "")
            seed(full)
            kw = {"kernel_size": pair(k), "stride": pair(s), "padding": pair(p)}
            x = tied(*shape) if ties else torch.randn(shape)
            case("layers", full, "max_pool2d", kw, lambda x, kw=kw: F.max_pool2d(x, **kw), {"x": x})
    for name, shape, k, s, p in [("avg_pool2d_k2s2", (2, 3, 6, 7), 2, 2, 0), ("avg_pool2d_k3s2p1", (2, 2, 7, 8), 3, 2, 1),
                                 ("avg_pool2d_k3s1p1", (1, 2, 5, 5), 3, 1, 1), ("avg_pool2d_asymmetric", (1, 2, 7, 8), (3, 2), (2, 1), (1, 1))]:
        for include in (True, False):
            full = name + ("_include" if include else "_exclude")
            seed(full)
            kw = {"kernel_size": pair(k), "stride": pair(s), "padding": pair(p), "count_include_pad": include}
            case("layers", full, "avg_pool2d", kw, lambda x, kw=kw: F.avg_pool2d(x, **kw), {"x": torch.randn(shape)})
    for name, shape, out in [("divisible", (2, 3, 6, 8), (3, 2)), ("uneven", (2, 2, 7, 5), (3, 2)),
                             ("global", (2, 3, 5, 4), (1, 1)), ("larger", (1, 2, 3, 4), (5, 7))]:
        for kind, f in (("adaptive_avg_pool2d", F.adaptive_avg_pool2d), ("adaptive_max_pool2d", F.adaptive_max_pool2d)):
            full = f"{kind}_{name}"
            seed(full)
            x = tied(*shape) if kind == "adaptive_max_pool2d" and name == "uneven" else torch.randn(shape)
            case("layers", full, kind, {"output_size": list(out)}, lambda x, f=f, out=out: f(x, out), {"x": x})


def norms() -> None:
    # `batch_norm_train`: three steps stacked along the leading axis of x, y, gy, gx, gweight, gbias,
    # running_mean and running_var (the latter two after each step, from 0 and 1). The running variance is unbiased.
    for name, shape, eps, momentum in [("batch_norm1d", (6, 4), 1e-5, 0.1), ("batch_norm1d_length", (3, 4, 5), 1e-5, 0.1),
                                       ("batch_norm2d", (4, 3, 5, 4), 1e-5, 0.1), ("batch_norm2d_momentum", (2, 5, 3, 3), 1e-3, 0.3)]:
        seed(name)
        c = shape[1]
        weight, bias = torch.rand(c) + 0.5, torch.randn(c)
        xs = torch.randn(3, *shape) * 2 + 1
        gys = torch.randn(3, *shape)
        runs = {}
        for dtype in (torch.float32, torch.float64):
            mean, var = torch.zeros(c, dtype=dtype), torch.ones(c, dtype=dtype)
            rows: dict[str, list] = {k: [] for k in ("y", "gx", "gweight", "gbias", "running_mean", "running_var")}
            for x, gy in zip(xs, gys):
                x, w, b = (t.detach().to(dtype).requires_grad_() for t in (x, weight, bias))
                y = F.batch_norm(x, mean, var, w, b, True, momentum, eps)
                y.backward(gy.to(dtype))
                for key, t in zip(rows, (y, x.grad, w.grad, b.grad, mean, var)):
                    rows[key].append(t.detach().clone())
            runs[dtype] = {k: torch.stack(v) for k, v in rows.items()}
        out = {k: rounded(name, runs[torch.float32][k], t) for k, t in runs[torch.float64].items()}
        put("layers", name + "_train", "batch_norm_train", {"eps": eps, "momentum": momentum, "rank": len(shape)},
            {"x": xs, "weight": weight, "bias": bias, "gy": gys} | out)
        seed(name + "_eval")
        ins = {"x": torch.randn(shape), "weight": weight, "bias": bias, "running_mean": torch.randn(c), "running_var": torch.rand(c) + 0.5}
        case("layers", name + "_eval", "batch_norm_eval", {"eps": eps, "rank": len(shape)},
             lambda x, weight, bias, running_mean, running_var, eps=eps:
             F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps), ins, ["x", "weight", "bias"])
    for name, shape, dims, eps in [("layer_norm", (5, 7), 1, 1e-5), ("layer_norm_rows", (2, 3, 33), 1, 1e-5),
                                   ("layer_norm_two_axes", (3, 2, 4, 5), 2, 1e-3), ("layer_norm_wide", (2, 300), 1, 1e-5)]:
        seed(name)
        normalized = list(shape[-dims:])
        ins = {"x": torch.randn(shape) * 3 + 2, "weight": torch.rand(normalized) + 0.5, "bias": torch.randn(normalized)}
        case("layers", name, "layer_norm", {"normalized_shape": normalized, "eps": eps},
             lambda x, weight, bias, n=normalized, eps=eps: F.layer_norm(x, n, weight, bias, eps), ins)


def embeddings() -> None:
    for name, shape, rows, width in [("embedding", (2, 5), 7, 4), ("embedding_repeats", (9,), 3, 5)]:
        seed(name)
        ins = {"x": torch.randint(rows, shape, dtype=torch.int32), "weight": torch.randn(rows, width)}
        case("layers", name, "embedding", {"padding": None}, lambda x, weight: F.embedding(x, weight), ins)


# ---------------------------------------------------------------------------------------------------
# (b) Activations
# ---------------------------------------------------------------------------------------------------

def activations() -> None:
    grid = torch.cat([torch.linspace(-6, 6, 49), torch.tensor([-0.0, 1e-8, -1e-8, 1e-4, -1e-4, 8.5, -8.5, 15., -15.,
                      19.9, 20.1, -20.1, 30., -30., 87., -87., 89., -89., 1e3, -1e3, 1e4, -1e4])])
    rows = [("relu", {}, F.relu), ("leaky_relu", {"slope": 0.01}, lambda x: F.leaky_relu(x, 0.01)),
            ("leaky_relu_steep", {"slope": 0.3}, lambda x: F.leaky_relu(x, 0.3)), ("gelu", {}, F.gelu),
            ("gelu_tanh", {}, lambda x: F.gelu(x, approximate="tanh")), ("silu", {}, F.silu), ("sigmoid", {}, torch.sigmoid),
            ("tanh", {}, torch.tanh), ("softplus", {}, F.softplus), ("elu", {"alpha": 1.0}, F.elu),
            ("elu_alpha", {"alpha": 0.5}, lambda x: F.elu(x, 0.5))]
    for name, attrs, f in rows:
        case("activations", name, name.removesuffix("_steep").removesuffix("_alpha"), attrs, f, {"x": grid})
    for kind, f in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
        for suffix, shape, axis, scale in [("", (5, 7), 1, 2), ("_axis0", (4, 3), 0, 2), ("_middle", (2, 6, 3), 1, 2),
                                           ("_wide", (3, 300), 1, 3), ("_extreme", (6, 9), 1, 1000), ("_one", (4, 1), 1, 1)]:
            name = kind + suffix
            seed(name)
            case("activations", name, kind, {"axis": axis}, lambda x, f=f, axis=axis: f(x, axis), {"x": torch.randn(shape) * scale})


# ---------------------------------------------------------------------------------------------------
# (c) Losses: gradients with respect to the prediction `x` only
# ---------------------------------------------------------------------------------------------------

def losses() -> None:
    for reduction in ("mean", "sum", "none"):
        for name, attrs, f in [("mse", {}, F.mse_loss), ("l1", {}, F.l1_loss),
                               ("huber_1", {"delta": 1.0}, F.huber_loss), ("huber_05", {"delta": 0.5}, F.huber_loss)]:
            full = f"{name}_{reduction}"
            seed(full)
            x, target = torch.randn(4, 5), torch.randn(4, 5)
            target[0, 0] = x[0, 0]  # the kink of L1
            target[1, 1] = x[1, 1] + 3  # well outside delta
            kw = attrs | {"reduction": reduction}
            case("losses", full, name.split("_")[0], kw, lambda x, target, f=f, kw=kw: f(x, target, **kw),
                 {"x": x, "target": target}, ["x"])
        classification(reduction)
        for weight in (False, True):
            for pos in (False, True):
                name = f"bce_with_logits{'_weight' if weight else ''}{'_pos' if pos else ''}_{reduction}"
                seed(name)
                ins = {"x": torch.randn(5, 3) * 3, "target": torch.rand(5, 3)}
                ins["target"][0] = torch.tensor([0., 1., 1.])
                ins["x"][0] = torch.tensor([60., -60., 60.])
                ins["x"][1, 0] = 0  # where relu and abs have no derivative, but this loss does
                if weight:
                    ins["weight"] = torch.rand(5, 3)
                if pos:
                    ins["pos_weight"] = torch.rand(3) * 3
                case("losses", name, "bce_with_logits", {"reduction": reduction},
                     lambda x, target, weight=None, pos_weight=None, r=reduction:
                     F.binary_cross_entropy_with_logits(x, target, weight, reduction=r, pos_weight=pos_weight), ins, ["x"])


def classification(reduction: str) -> None:
    """Cross-entropy and NLL. `weight` present = class weights; `ignored` = some targets are -100."""
    for weighted in (False, True):
        for ignored in (False, True):
            for smoothing in (0.0, 0.1, None):
                kind = "nll" if smoothing is None else "cross_entropy"
                name = kind + ("_weight" if weighted else "") + ("_ignore" if ignored else "") + ("_smooth" if smoothing else "") + f"_{reduction}"
                seed(name)
                ins = {"x": torch.randn(7, 5) * 2, "target": torch.randint(5, (7,))}
                if ignored:
                    ins["target"][[1, 4]] = -100
                if weighted:
                    ins["weight"] = torch.rand(5) + 0.2
                kw = {"reduction": reduction}
                if kind == "nll":
                    case("losses", name, kind, kw | {"ignore_index": -100}, lambda x, target, weight=None, kw=kw:
                         F.nll_loss(x, target.long(), weight, **kw), ins, ["x"])
                else:
                    kw |= {"label_smoothing": smoothing}
                    case("losses", name, kind, kw | {"target": "index", "ignore_index": -100}, lambda x, target, weight=None, kw=kw:
                         F.cross_entropy(x, target.long(), weight, **kw), ins, ["x"])
        for smoothing in (0.0, 0.1):
            name = "cross_entropy_soft" + ("_weight" if weighted else "") + ("_smooth" if smoothing else "") + f"_{reduction}"
            seed(name)
            ins = {"x": torch.randn(7, 5) * 2, "target": torch.softmax(torch.randn(7, 5), 1)}
            if weighted:
                ins["weight"] = torch.rand(5) + 0.2
            kw = {"reduction": reduction, "label_smoothing": smoothing}
            case("losses", name, "cross_entropy", kw | {"target": "soft"}, lambda x, target, weight=None, kw=kw:
                 F.cross_entropy(x, target, weight, **kw), ins, ["x"])
    for name, shape, scale in [("cross_entropy_wide", (4, 300), 3), ("cross_entropy_extreme", (6, 9), 1000)]:
        name = f"{name}_{reduction}"
        seed(name)
        kw = {"reduction": reduction, "label_smoothing": 0.0}
        case("losses", name, "cross_entropy", kw | {"target": "index", "ignore_index": -100},
             lambda x, target, kw=kw: F.cross_entropy(x, target.long(), **kw),
             {"x": torch.randn(shape) * scale, "target": torch.randint(shape[1], shape[:1])}, ["x"])


# ---------------------------------------------------------------------------------------------------
# (d) Optimisers, clipping, schedules
# ---------------------------------------------------------------------------------------------------

SHAPES = [(3, 4), (4,), (2, 3, 2)]


def optimisers() -> None:
    # `optim`: parameters p0..p2, a given sequence of 10 gradients g0..g2 [10, ...] and the parameters
    # after every step after0..after2 [10, ...]. The first gradients of p1 are zero.
    rows = [("sgd", {}), ("sgd_momentum", {"momentum": 0.9}), ("sgd_nesterov", {"momentum": 0.9, "nesterov": True}),
            ("sgd_decay", {"weight_decay": 0.1}), ("sgd_momentum_decay", {"momentum": 0.9, "weight_decay": 0.1}),
            ("sgd_nesterov_decay", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
            ("adam", {}), ("adam_decay", {"weight_decay": 0.01}), ("adam_betas", {"betas": [0.8, 0.95], "eps": 1e-4}),
            ("adamw", {}), ("adamw_decay", {"weight_decay": 0.2}), ("adamw_no_decay", {"weight_decay": 0.0})]
    for name, attrs in rows:
        algo = name.split("_")[0]
        base = {"sgd": {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
                "adam": {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
                "adamw": {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}}[algo]
        attrs = base | attrs
        seed("optimiser gradients")
        start = [torch.randn(s) for s in SHAPES]
        grads = [torch.randn(10, *s) for s in SHAPES]
        grads[1][:2] = 0
        make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[algo]
        runs = {}
        for dtype in (torch.float32, torch.float64):
            params = [nn.Parameter(p.to(dtype, copy=True)) for p in start]
            opt = make(params, foreach=False, **attrs)
            after: list[list] = [[], [], []]
            for step in range(10):
                for p, g in zip(params, grads):
                    p.grad = g[step].to(dtype)
                opt.step()
                for rows_, p in zip(after, params):
                    rows_.append(p.detach().clone())
            runs[dtype] = [torch.stack(a) for a in after]
        after = [rounded(name, a, b) for a, b in zip(*runs.values())]
        tensors = {f"p{i}": t for i, t in enumerate(start)} | {f"g{i}": t for i, t in enumerate(grads)}
        put("optim", name, "optim", {"algo": algo} | attrs, tensors | {f"after{i}": t for i, t in enumerate(after)})


def clipping() -> None:
    # `clip_norm`: gradients g0..g2, the total norm before clipping `norm`, the clipped gradients clipped0..2. `clip_value` has no norm.
    for name, limit, scale in [("clip_norm_active", 1.0, 1.0), ("clip_norm_inactive", 100.0, 1.0), ("clip_norm_zero", 1.0, 0.0),
                               ("clip_value", 0.5, 1.0)]:
        seed(name)
        grads = [torch.randn(s) * scale for s in SHAPES]
        params = [nn.Parameter(torch.zeros(s)) for s in SHAPES]
        for p, g in zip(params, grads):
            p.grad = g.clone()
        tensors = {f"g{i}": g for i, g in enumerate(grads)}
        if name == "clip_value":
            nn.utils.clip_grad_value_(params, limit)
            attrs = {"clip_value": limit}
        else:
            tensors["norm"] = nn.utils.clip_grad_norm_(params, limit)
            attrs = {"max_norm": limit}
        put("optim", name, "_".join(name.split("_")[:2]), attrs, tensors | {f"clipped{i}": p.grad for i, p in enumerate(params)})


def schedules() -> None:
    # `schedule`: attrs.values[e] is the learning rate used in epoch e, from attrs.lr; no tensors.
    optim = torch.optim.lr_scheduler
    epochs = 30

    def warmup_lambda(e: int) -> float:
        return (e + 1) / 5 if e < 5 else 0.5 * (1 + math.cos(math.pi * (e - 5) / (epochs - 5)))

    rows = [("step_lr", {"step_size": 7, "gamma": 0.3}, lambda o: optim.StepLR(o, 7, 0.3)),
            ("cosine_lr", {"t_max": 30, "eta_min": 0.0}, lambda o: optim.CosineAnnealingLR(o, 30)),
            ("cosine_lr_floor", {"t_max": 29, "eta_min": 0.001}, lambda o: optim.CosineAnnealingLR(o, 29, 0.001)),
            ("linear_lr", {"start_factor": 0.1, "total_iters": 5}, lambda o: optim.LinearLR(o, 0.1, total_iters=5)),
            ("linear_then_cosine", {"start_factor": 0.1, "warmup": 5, "t_max": 25, "eta_min": 0.0}, lambda o: optim.SequentialLR(
                o, [optim.LinearLR(o, 0.1, total_iters=5), optim.CosineAnnealingLR(o, 25)], [5])),
            # lr * (e + 1) / warmup while e < warmup, then lr * (1 + cos(pi (e - warmup) / (total - warmup))) / 2
            ("warmup_cosine", {"warmup": 5, "total": 30}, lambda o: optim.LambdaLR(o, warmup_lambda))]
    for name, attrs, make in rows:
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = make(opt)
        values = []
        for _ in range(epochs):
            values.append(opt.param_groups[0]["lr"])
            opt.step()
            schedule.step()
        put("optim", name, "schedule", {"lr": 0.1, "values": values} | attrs, {})


def init_numbers() -> None:
    # `init`: fans of a weight shape (PyTorch's convention: axis 0 is out, axis 1 in, the rest the receptive
    # field) and the resulting bound (uniform) and std (normal) of Xavier and Kaiming initialisation. No tensors.
    fans = nn.init._calculate_fan_in_and_fan_out
    for shape in [(10, 144), (4, 1, 3, 3), (32, 16, 5, 5), (8, 4, 3)]:
        fan_in, fan_out = fans(torch.empty(shape))
        for act, param in [("linear", None), ("relu", None), ("tanh", None), ("leaky_relu", 0.2)]:
            gain = nn.init.calculate_gain(act, param)
            xavier = gain * math.sqrt(2 / (fan_in + fan_out))
            kaiming = {mode: gain / math.sqrt(fan) for mode, fan in (("fan_in", fan_in), ("fan_out", fan_out))}
            # The formulas above are checked against what PyTorch draws.
            seed("init")
            w = nn.init.xavier_uniform_(torch.empty(400, 400), gain)
            assert abs(w.abs().max().item() - gain * math.sqrt(6 / 800)) < 1e-3
            w = nn.init.kaiming_normal_(torch.empty(400, 400), param or 0, "fan_in", act)
            assert abs(w.std().item() * math.sqrt(400) / gain - 1) < 0.01
            put("optim", f"init_{'x'.join(map(str, shape))}_{act}", "init",
                {"shape": list(shape), "nonlinearity": act, "slope": param, "gain": gain, "fan_in": fan_in, "fan_out": fan_out,
                 "xavier_normal_std": xavier, "xavier_uniform_bound": xavier * math.sqrt(3),
                 "kaiming_fan_in_std": kaiming["fan_in"], "kaiming_fan_in_bound": kaiming["fan_in"] * math.sqrt(3),
                 "kaiming_fan_out_std": kaiming["fan_out"], "kaiming_fan_out_bound": kaiming["fan_out"] * math.sqrt(3)}, {})


# ---------------------------------------------------------------------------------------------------
# (e) Training runs
# ---------------------------------------------------------------------------------------------------

def training() -> None:
    # `train`: conv 1->4 3x3 pad 1, ReLU, max-pool 2, flatten, linear -> 10, mean cross-entropy; 20 steps
    # on the batch x, target. start/NAME are the initial weights, end/NAME the final ones, losses[i] is the
    # loss before step i. attrs.float32_gap is how far PyTorch's float32 run strays at most: the noise floor.
    for name, algo, kw in [("train_sgd", "sgd", {"lr": 0.05, "momentum": 0.9}),
                           ("train_adamw", "adamw", {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01})]:
        seed("training")
        x, target = torch.randn(8, 1, 12, 12), torch.randint(10, (8,))
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 10))
        names = {"0.weight": "conv.weight", "0.bias": "conv.bias", "4.weight": "fc.weight", "4.bias": "fc.bias"}
        start = {k: v.clone() for k, v in net.state_dict().items()}
        runs = {}
        for dtype in (torch.float32, torch.float64):
            net = net.to(dtype)
            net.load_state_dict({k: v.to(dtype) for k, v in start.items()})
            opt = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[algo](net.parameters(), foreach=False, **kw)
            losses = []
            for _ in range(20):
                opt.zero_grad()
                loss = F.cross_entropy(net(x.to(dtype)), target)
                loss.backward()
                opt.step()
                losses.append(loss.detach())
            end = {f"end/{names[k]}": v.clone() for k, v in net.state_dict().items()}
            runs[dtype] = {"losses": torch.stack(losses)} | end
        single, double = runs.values()
        gap = max((single[k].double() - double[k]).abs().max().item() for k in single)
        put("train", name, "train", {"algo": algo, "steps": 20, "float32_gap": float(f"{gap:.1e}")} | kw,
            {"x": x, "target": target} | {f"start/{names[k]}": v for k, v in start.items()} |
            {k: rounded(name, v, double[k]) for k, v in single.items()})


# ---------------------------------------------------------------------------------------------------
# (f) Primitive ops
# ---------------------------------------------------------------------------------------------------

def elementwise() -> None:
    ramp, positive = torch.linspace(-4, 4, 33), torch.cat([torch.tensor([1e-6, 1e-3]), torch.linspace(0.05, 6, 30)])
    near = torch.tensor([-0.5, -1e-1, -1e-3, -1e-5, -1e-7, 0., 1e-7, 1e-5, 1e-3, 1e-1, 0.5, 2., 20.])  # where log1p and expm1 earn their keep
    tiny = torch.cat([ramp, near[near.abs() < 0.4]])
    rows = [("neg", torch.neg, ramp), ("abs", torch.abs, ramp), ("exp", torch.exp, ramp), ("exp2", torch.exp2, ramp),
            ("ln", torch.log, positive), ("log2", torch.log2, positive), ("log1p", torch.log1p, near), ("expm1", torch.expm1, near),
            ("sqrt", torch.sqrt, positive), ("rsqrt", torch.rsqrt, positive), ("recip", torch.reciprocal, positive),
            ("sin", torch.sin, ramp), ("cos", torch.cos, ramp), ("tanh_op", torch.tanh, tiny), ("sigmoid_op", torch.sigmoid, ramp),
            ("erf", torch.erf, tiny), ("floor", torch.floor, ramp), ("ceil", torch.ceil, ramp), ("round", torch.round, ramp * 2),
            ("sign", torch.sign, ramp)]
    for name, f, x in rows:
        seed(name)
        case("ops", name, "unary", {"op": name.removesuffix("_op")}, f, {"x": x})
    # Forward only: the edges of the domain, with infinities and NaN.
    inf = float("inf")
    edge = torch.tensor([-inf, -1e30, -1.0, -0.0, 0.0, 1.0, 1e30, inf, float("nan")])
    for name, f in [("exp", torch.exp), ("ln", torch.log), ("log1p", torch.log1p), ("sqrt", torch.sqrt), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid),
                    ("erf", torch.erf), ("abs", torch.abs), ("isnan", torch.isnan)]:
        case("ops", name + "_edge", "unary", {"op": name}, f, {"x": edge}, [])
    kinds = [("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div), ("maximum", torch.maximum),
             ("minimum", torch.minimum), ("atan2", torch.atan2)]
    for name, f in kinds:
        for suffix, left, right in [("", (3, 5), (3, 5)), ("_broadcast", (2, 1, 4), (3, 1)), ("_scalar", (2, 3), ())]:
            seed(name + suffix)
            b = torch.randn(right)
            b = torch.where(b >= 0, b + 0.5, b - 0.5)  # away from 0 for div and atan2
            case("ops", name + suffix, "binary", {"op": name}, lambda a, b, f=f: f(a, b), {"a": torch.randn(left), "b": b})
    # Ties of maximum and minimum give each side half.
    for name, f in [("maximum", torch.maximum), ("minimum", torch.minimum)]:
        case("ops", name + "_ties", "binary", {"op": name}, lambda a, b, f=f: f(a, b),
             {"a": torch.tensor([1., 2., 3., 0.]), "b": torch.tensor([1., 3., 2., -0.])})
    axes = torch.tensor([[1., 0.], [-1., 0.], [0., 1.], [0., -1.], [3., -4.], [-3., -4.], [1e-3, -1e3]])
    case("ops", "atan2_axes", "binary", {"op": "atan2"}, lambda a, b: torch.atan2(a, b), {"a": axes[:, 0], "b": axes[:, 1]})
    # The two remainders of PyTorch: `fmod` has the dividend's sign (Rust's %, WGSL's %), `remainder` the divisor's.
    a, b = torch.tensor([5., -5., 5., -5., 6., 0., 7.5, -7.5]), torch.tensor([3., 3., -3., -3., 3., 2., 2., 2.])
    for name, f in [("fmod", torch.fmod), ("remainder", torch.remainder)]:
        case("ops", name, "binary", {"op": name}, lambda a, b, f=f: f(a, b), {"a": a, "b": b}, [])
    # pow: 0^0 = 1; the gradients at a base of 0 are exactly 0 for exponents 0 and 2, 1 for 1.
    base, power = torch.tensor([0., 0., 0., 0., 0.5, 2., 3., 1.5]), torch.tensor([0., 1., 2., 3., 0., 0.5, -1., 2.5])
    case("ops", "pow", "binary", {"op": "pow"}, lambda a, b: torch.pow(a, b), {"a": base, "b": power})
    base, power = torch.tensor([-2., -2., -2., -0.5, -1.5]), torch.tensor([0., 1., 2., 3., -1.])
    case("ops", "pow_negative_base", "binary", {"op": "pow"}, lambda a, b: torch.pow(a, b), {"a": base, "b": power}, ["a"])


def extreme(f, x: torch.Tensor, axes: list[int], keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """torch.max(dim) over several axes. The first of equal extremes in row-major order has the index and
    the whole gradient (torch.amax would share it evenly); PyTorch does not promise it, so it is checked."""
    axes = sorted(a % x.ndim for a in axes)
    rows = x.movedim(axes, list(range(x.ndim - len(axes), x.ndim))).flatten(x.ndim - len(axes))
    value, index = f(rows, -1)
    assert torch.equal(index, ((rows == value.unsqueeze(-1)).cumsum(-1) == 0).sum(-1))
    if keep:
        value = value.reshape([1 if a in axes else n for a, n in enumerate(x.shape)])
    return value, index


def reductions() -> None:
    rows = [("sum", torch.sum, torch.randn), ("mean", torch.mean, torch.randn),
            ("max", lambda x, axes, keep: extreme(torch.max, x, axes, keep)[0], tied),
            ("min", lambda x, axes, keep: extreme(torch.min, x, axes, keep)[0], tied)]
    for kind, f, draw in rows:
        for suffix, shape, axes, keep in [("", (4, 5), [1], False), ("_axis0", (4, 5), [0], True), ("_two", (3, 4, 5), [0, 2], False),
                                          ("_all", (3, 4), [0, 1], False), ("_wide", (2, 700), [-1], False)]:
            seed(kind + suffix)
            case("ops", kind + suffix, "reduce", {"op": kind, "axes": axes, "keepdim": keep},
                 lambda x, f=f, axes=axes, keep=keep: f(x, axes, keep), {"x": draw(*shape)})
    for suffix, shape, axes, correction in [("", (4, 5), [1], 1), ("_population", (4, 5), [0], 0), ("_two", (3, 4, 5), [0, 2], 1),
                                            ("_offset", (3, 50), [1], 1)]:
        name = "var" + suffix
        seed(name)
        x = torch.randn(shape) + (100 if suffix == "_offset" else 0)
        case("ops", name, "var", {"axes": axes, "correction": correction, "keepdim": False},
             lambda x, axes=axes, c=correction: torch.var(x, axes, correction=c), {"x": x})
    for zeros in (0, 1, 2):
        name = f"prod_{zeros}_zeros"
        seed(name)
        x = torch.randn(3, 5)
        x[:, :zeros] = 0
        case("ops", name, "reduce", {"op": "prod", "axes": [1], "keepdim": False}, lambda x: torch.prod(x, 1), {"x": x})
    for axis, shape in [(0, (5, 3)), (1, (3, 7)), (1, (2, 300)), (1, (2, 3, 2))]:
        name = f"cumsum_{'x'.join(map(str, shape))}_axis{axis}"
        seed(name)
        case("ops", name, "cumsum", {"axis": axis}, lambda x, axis=axis: torch.cumsum(x, axis), {"x": torch.randn(shape)})
    for kind, f in [("max", torch.max), ("min", torch.min)]:
        for axis in (0, 1):
            name = f"arg{kind}_axis{axis}"
            seed(name)
            x = tied(6, 8)
            put("ops", name, "arg", {"op": f"arg{kind}", "axis": axis}, {"x": x, "y": extreme(f, x, [axis], False)[1]})


def contractions() -> None:
    for suffix, left, right in [("", (5, 7), (7, 3)), ("_batched", (3, 4, 5), (3, 5, 2)), ("_broadcast", (2, 1, 3, 4), (3, 4, 5)), ("_left_matrix", (4, 3), (2, 3, 5)),
                                ("_thin", (1, 130), (130, 1)), ("_odd", (33, 65), (65, 17)), ("_outer", (6, 1), (1, 9))]:
        seed("matmul" + suffix)
        case("ops", "matmul" + suffix, "matmul", {}, lambda a, b: a @ b, {"a": torch.randn(left), "b": torch.randn(right)})
    seed("matmul_transposed")
    case("ops", "matmul_transposed", "matmul_transposed", {}, lambda a, b: a.mT @ b.mT, {"a": torch.randn(2, 6, 4), "b": torch.randn(2, 5, 6)})


def indexing() -> None:
    for name, shape, idx, axis in [("axis0", (4, 5), (3, 5), 0), ("axis1", (4, 5), (4, 7), 1), ("middle", (2, 6, 3), (2, 4, 3), 1)]:
        seed("gather_" + name)
        index = torch.randint(shape[axis], idx, dtype=torch.int32)
        case("ops", "gather_" + name, "gather", {"axis": axis}, lambda x, index, axis=axis: torch.gather(x, axis, index.long()),
             {"x": torch.randn(shape), "index": index})
        case("ops", "scatter_add_" + name, "scatter_add", {"axis": axis}, lambda x, index, src, axis=axis: x.scatter_add(axis, index.long(), src),
             {"x": torch.randn(shape), "index": index, "src": torch.randn(idx)})
    for axis, shape, count in [(0, (6, 3), 8), (1, (2, 5, 3), 4)]:
        name = f"index_select_axis{axis}"
        seed(name)
        case("ops", name, "index_select", {"axis": axis}, lambda x, index, axis=axis: torch.index_select(x, axis, index),
             {"x": torch.randn(shape), "index": torch.randint(shape[axis], (count,), dtype=torch.int32)})


def movement() -> None:
    seed("movement")
    x = torch.randn(3, 4, 5)
    # Each row also multiplies by itself afterwards, so that a view feeds a computation and not only a copy.
    rows = [("permute", {"axes": [2, 0, 1]}, lambda x: x.permute(2, 0, 1)), ("reshape", {"shape": [6, 10]}, lambda x: x.reshape(6, 10)),
            ("transpose_reshape", {"shape": [12, 5]}, lambda x: x.transpose(0, 1).reshape(12, 5)),
            ("narrow", {"axis": 1, "start": 1, "len": 2}, lambda x: x.narrow(1, 1, 2)),
            ("slice_step", {"axis": 2, "start": 1, "len": 2, "step": 2}, lambda x: x[:, :, 1:5:2]),
            ("flip", {"axes": [0, 2]}, lambda x: x.flip(0, 2)), ("pad", {"pads": [[0, 0], [1, 2], [2, 0]], "value": 0.5}, lambda x: F.pad(x, (2, 0, 1, 2), value=0.5)),
            ("window", {"axis": 2, "size": 2, "stride": 2, "dilation": 1}, lambda x: x.unfold(2, 2, 2)),
            ("broadcast_to", {"shape": [2, 3, 4, 5]}, lambda x: x.broadcast_to(2, 3, 4, 5))]
    for op, attrs, f in rows:
        case("ops", "move_" + op, "movement", {"op": op} | attrs, lambda x, f=f: f(x) * f(x), {"x": x})
    for op, f in (("cat", torch.cat), ("stack", torch.stack)):
        seed(op)
        a, b = torch.randn(2, 3, 2), torch.randn(2, 3 if op == "stack" else 5, 2)
        case("ops", op, "join", {"op": op, "axis": 1}, lambda a, b, f=f: f([a, b], 1), {"a": a, "b": b})


# ---------------------------------------------------------------------------------------------------
# (g) Recurrent layers
# ---------------------------------------------------------------------------------------------------

def unrolled(cell: str, layers: int, both: bool, lengths, x, h0, c0, weights):
    """Results, last hidden states and last cell states of a layer of torch.nn, by the functions that it calls."""
    run, bias = getattr(torch, cell), any("bias" in k for k in weights)
    state = (h0, c0) if cell == "lstm" else h0
    options = (bias, layers, 0.0, True, both)
    flat = list(weights.values())
    if lengths is None:
        return run(x, state, flat, *options, False)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    state = tuple(t[:, order] for t in state) if cell == "lstm" else state[:, order]
    y, *last = run(packed.data, packed.batch_sizes, state, flat, *options)
    y = nn.utils.rnn.PackedSequence(y, packed.batch_sizes, order, back)
    y, _ = nn.utils.rnn.pad_packed_sequence(y, total_length=x.shape[0])
    return y, *(t[:, back] for t in last)


def recurrence() -> None:
    # `recurrent`: the inputs are x, the states h0 and c0, and the weights by their names in torch.nn; y is everything
    # that the layer returns (results, last hidden states, last cell states), flattened and joined.
    # name, cell, steps, batch, inputs, hidden, layers, both, bias, lengths
    rows = [("rnn_tanh", "rnn_tanh", 5, 3, 4, 6, 1, False, True, None), ("rnn_relu_two", "rnn_relu", 4, 2, 3, 5, 2, False, True, None),
            ("rnn_tanh_both_lengths", "rnn_tanh", 6, 4, 3, 5, 2, True, True, [3, 6, 1, 4]),
            ("lstm", "lstm", 5, 3, 4, 6, 1, False, True, None), ("lstm_one_step", "lstm", 1, 2, 3, 4, 1, True, True, None),
            ("lstm_nobias_two", "lstm", 6, 1, 5, 7, 2, False, False, None), ("lstm_both_two", "lstm", 7, 3, 3, 8, 2, True, True, None),
            ("lstm_both_two_lengths", "lstm", 6, 4, 3, 4, 2, True, True, [5, 2, 6, 1]),
            ("gru", "gru", 5, 3, 4, 6, 1, False, True, None), ("gru_nobias", "gru", 4, 2, 3, 5, 1, False, False, None),
            ("gru_both_two", "gru", 6, 3, 5, 4, 2, True, True, None), ("gru_lengths", "gru", 6, 4, 3, 7, 1, False, True, [6, 1, 3, 2]),
            ("lstm_projection", "lstm", 4, 2, 3, 6, 1, False, True, None, 4), ("lstm_projection_both_two_lengths", "lstm", 5, 3, 3, 5, 2, True, True, [5, 1, 3], 2)]
    for name, cell, steps, batch, inputs, hidden, layers, both, bias, lengths, *projection in rows:
        seed(name)
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(cell, nn.RNN)
        layer = kind(inputs, hidden, layers, bias=bias, bidirectional=both, **({"proj_size": projection[0]} if projection else {}))
        state = (layers * (2 if both else 1), batch, hidden)
        ins = {"x": torch.randn(steps, batch, inputs), "h0": torch.randn(*state[:2], projection[0] if projection else hidden) * 0.5}
        if cell == "lstm":
            ins["c0"] = torch.randn(state) * 0.5
        ins |= {k: v.detach() for k, v in layer.named_parameters()}

        def f(x, h0, c0=None, cell=cell, layers=layers, both=both, lengths=lengths, **weights):
            return torch.cat([t.flatten() for t in unrolled(cell, layers, both, lengths, x, h0, c0, weights)])

        attrs = {"cell": cell, "layers": layers, "both": both, "bias": bias, "lengths": lengths}
        case("recurrent", name, "recurrent", attrs, f, ins)
    # `train_recurrent`: 20 steps of SGD on the mean squared difference of the results from target; the rest as `train`.
    for cell, kind in [("rnn_tanh", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)]:
        name = f"train_{cell}"
        seed(name)
        layer = kind(3, 6, 2)
        x, target = torch.randn(8, 4, 3), torch.randn(8, 4, 6) * 0.5
        start = {k: v.clone() for k, v in layer.state_dict().items()}
        runs = {}
        for dtype in (torch.float32, torch.float64):
            layer = layer.to(dtype)
            layer.load_state_dict({k: v.to(dtype) for k, v in start.items()})
            opt = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, foreach=False)
            losses = []
            for _ in range(20):
                opt.zero_grad()
                loss = F.mse_loss(layer(x.to(dtype))[0], target.to(dtype))
                loss.backward()
                opt.step()
                losses.append(loss.detach())
            runs[dtype] = {"losses": torch.stack(losses)} | {f"end/{k}": v.clone() for k, v in layer.state_dict().items()}
        single, double = runs.values()
        put("recurrent", name, "train_recurrent", {"cell": cell, "steps": 20, "lr": 0.5, "momentum": 0.9},
            {"x": x, "target": target} | {f"start/{k}": v for k, v in start.items()} |
            {k: rounded(name, v, double[k]) for k, v in single.items()})


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.mkldnn.enabled = False  # Its recurrent layers have no second derivatives.
    for make in TRANSFORMERS:
        make()
    for make in (linears, convs, transposed_convs, pools, norms, embeddings, activations, losses, sorting, optimisers, clipping, schedules,
                 init_numbers, training, elementwise, reductions, contractions, indexing, movement, recurrence):
        make()
    save()


if __name__ == "__main__":
    main()
