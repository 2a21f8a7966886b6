"""Golden cases of what transformers are made of: norms within a sample, attention with several heads, layers and stacks.

Layers of torch.nn are called with their parameters by name, in training mode and without dropout. Batches come first.
`present` and boolean `mask` say which keys count; torch.nn.MultiheadAttention wants the opposite.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from record import case, put, rounded, seed


def norms() -> None:
    for name, shape, axes, eps, affine in [("rms_norm", (5, 7), 1, None, True), ("rms_norm_two_axes", (3, 2, 4, 5), 2, 1e-3, True),
                                           ("rms_norm_wide", (2, 300), 1, None, False)]:
        seed(name)
        extents = list(shape[-axes:])
        ins = {"x": torch.randn(shape) * 2 + 1}
        if affine:
            ins["weight"] = torch.rand(extents) + 0.5
        # The default is the epsilon of the type, which here is f32's also where values are computed in f64.
        value = eps or torch.finfo(torch.float32).eps
        case("transformer", name, "rms_norm", {"extents": extents, "eps": eps},
             lambda x, weight=None, extents=extents, eps=value: F.rms_norm(x, extents, weight, eps), ins)
    for name, shape, groups, affine in [("group_norm", (2, 6, 3, 5), 3, True), ("group_norm_length", (3, 4, 7), 1, True),
                                        ("group_norm_flat", (3, 8), 2, True), ("group_norm_plain", (2, 4, 5), 4, False)]:
        seed(name)
        ins = {"x": torch.randn(shape) * 2 + 1}
        if affine:
            ins |= {"weight": torch.rand(shape[1]) + 0.5, "bias": torch.randn(shape[1])}
        case("transformer", name, "group_norm", {"groups": groups},
             lambda x, weight=None, bias=None, groups=groups: F.group_norm(x, groups, weight, bias), ins)
    for name, shape, affine in [("instance_norm1d", (2, 3, 7), False), ("instance_norm2d", (2, 3, 4, 5), True)]:
        seed(name)
        ins = {"x": torch.randn(shape) * 2 + 1}
        if affine:
            ins |= {"weight": torch.rand(shape[1]) + 0.5, "bias": torch.randn(shape[1])}
        case("transformer", name, "instance_norm", {"tracked": False},
             lambda x, weight=None, bias=None: F.instance_norm(x, weight=weight, bias=bias), ins)
    seed("instance_norm_eval")
    ins = {"x": torch.randn(2, 3, 1), "weight": torch.rand(3) + 0.5, "bias": torch.randn(3),
           "running_mean": torch.randn(3), "running_var": torch.rand(3) + 0.5}
    case("transformer", "instance_norm_eval", "instance_norm", {"tracked": True},
         lambda x, weight, bias, running_mean, running_var: F.instance_norm(x, running_mean, running_var, weight, bias, False),
         ins, ["x", "weight", "bias"])
    tracked()


def tracked() -> None:
    # `instance_norm_train`: as `batch_norm_train`, three steps, with x, y, gy, gx and the running statistics after each.
    for name, shape, momentum in [("instance_norm1d_train", (2, 4, 5), 0.1), ("instance_norm2d_train", (3, 2, 3, 4), 0.3)]:
        seed(name)
        kind = nn.InstanceNorm1d if len(shape) == 3 else nn.InstanceNorm2d
        xs, gys, runs = torch.randn(3, *shape) * 2 + 1, torch.randn(3, *shape), {}
        for dtype in (torch.float32, torch.float64):
            layer = kind(shape[1], momentum=momentum, track_running_stats=True, dtype=dtype)
            rows: dict[str, list] = {k: [] for k in ("y", "gx", "running_mean", "running_var")}
            for x, gy in zip(xs, gys):
                x = x.to(dtype).requires_grad_()
                y = layer(x)
                y.backward(gy.to(dtype))
                for key, t in zip(rows, (y, x.grad, layer.running_mean, layer.running_var)):
                    rows[key].append(t.detach().clone())
            runs[dtype] = {k: torch.stack(v) for k, v in rows.items()}
        single, double = runs.values()
        put("transformer", name, "instance_norm_train", {"momentum": momentum},
            {"x": xs, "gy": gys} | {k: rounded(name, v, double[k]) for k, v in single.items()})


def weights(module: nn.Module) -> dict:
    """Parameters, none of which is zero or one throughout."""
    return {k: v.detach() + torch.randn(v.shape) * 0.2 for k, v in module.named_parameters()}


def inverted(mask):
    """A boolean mask as torch.nn.MultiheadAttention wants it."""
    return ~mask if mask is not None and mask.dtype == torch.bool else mask


def causal(length: int):
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def attention() -> None:
    # name, batch, queries, keys (0: of itself), width, heads, kdim, vdim, bias, causal, present, mask
    rows = [("mha", 2, 5, 0, 8, 2, None, None, True, False, False, None), ("mha_causal", 2, 6, 0, 6, 3, None, None, True, True, False, None),
            ("mha_nobias", 1, 4, 0, 5, 1, None, None, False, False, False, None), ("mha_one_row", 3, 1, 0, 8, 4, None, None, True, True, False, None),
            ("mha_cross", 2, 3, 5, 8, 2, None, None, True, False, True, None), ("mha_cross_widths", 2, 3, 4, 6, 2, 5, 3, True, False, True, None),
            ("mha_padding_causal", 2, 5, 0, 8, 2, None, None, True, True, True, None),
            ("mha_bool_mask", 2, 4, 0, 8, 2, None, None, True, False, True, "bool"), ("mha_float_mask", 2, 4, 6, 8, 2, None, None, True, False, True, "f32")]
    for name, batch, queries, keys, width, heads, kdim, vdim, bias, is_causal, present, kind in rows:
        seed(name)
        layer = nn.MultiheadAttention(width, heads, bias=bias, kdim=kdim, vdim=vdim, batch_first=True).train()
        count = keys or queries
        ins = {"x": torch.randn(batch, queries, width)}
        if keys:
            ins["memory"] = torch.randn(batch, keys, kdim or width)
        if vdim:
            ins["values"] = torch.randn(batch, keys, vdim)
        if present:
            ins["present"] = torch.arange(count)[None] < torch.tensor([count, count - 2])[:, None]
        if kind == "bool":
            ins["mask"] = torch.rand(queries, count) > 0.4
            ins["mask"][:, 0] = True
        if kind == "f32":
            ins["mask"] = torch.randn(heads, queries, count)
        named = weights(layer)

        def f(x, memory=None, values=None, present=None, mask=None, layer=layer, is_causal=is_causal, batch=batch, **w):
            memory = x if memory is None else memory
            values = memory if values is None else values
            attn = causal(x.shape[1]) if is_causal else inverted(mask)
            if mask is not None and mask.dtype != torch.bool:
                # A mask for each sample and head, as the module wants it; one of the mask's type beside it.
                attn = mask.repeat(batch, 1, 1)
            pad = inverted(present)
            if pad is not None and attn is not None and attn.dtype != torch.bool:
                pad = torch.zeros(pad.shape, dtype=attn.dtype).masked_fill(pad, -math.inf)
            return functional_call(layer, w, (x, memory, values), {"key_padding_mask": pad, "attn_mask": attn, "need_weights": False})[0]

        attrs = {"heads": heads, "kv_heads": heads, "bias": bias, "causal": is_causal, "rotary": None, "weights": list(named)}
        case("transformer", name, "mha", attrs, f, ins | named)
    grouped()


def half_turned(x, base=10_000.0, start=0):
    """Rotary positions as Llama's code for transformers has them: x is [batch, heads, length, width]."""
    width = x.shape[-1]
    inverse = base ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angle = torch.outer(torch.arange(start, start + x.shape[-2], dtype=x.dtype), inverse)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def pairs_turned(x, base=10_000.0, start=0):
    """Rotary positions of neighbours by complex numbers, as Llama's own code has them."""
    width = x.shape[-1]
    inverse = base ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angle = torch.outer(torch.arange(start, start + x.shape[-2], dtype=x.dtype), inverse)
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(z).flatten(-2)


TURNS = {"half": half_turned, "interleaved": pairs_turned, None: lambda x: x}


def joined(x, w, heads, kv_heads, style, prefix=""):
    """Causal self-attention with fewer heads of keys and values, whose rows follow those of the queries."""
    batch, length, width = x.shape
    size = width // heads
    parts = F.linear(x, w[prefix + "in_proj_weight"], w.get(prefix + "in_proj_bias")).split([width, kv_heads * size, kv_heads * size], -1)
    q, k, v = (t.reshape(batch, length, -1, size).transpose(1, 2) for t in parts)
    turn = TURNS[style]
    y = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, enable_gqa=True)
    return F.linear(y.transpose(1, 2).flatten(2), w[prefix + "out_proj.weight"], w.get(prefix + "out_proj.bias"))


def grouped() -> None:
    for name, shape, heads, kv_heads, style in [("mha_grouped", (2, 5, 8), 4, 2, None), ("mha_grouped_rotary", (2, 6, 16), 4, 1, "half"),
                                                ("mha_rotary_interleaved", (2, 7, 12), 3, 3, "interleaved")]:
        seed(name)
        width, rows = shape[-1], shape[-1] + 2 * kv_heads * (shape[-1] // heads)
        named = {"in_proj_weight": torch.randn(rows, width) * 0.4, "in_proj_bias": torch.randn(rows) * 0.3,
                 "out_proj.weight": torch.randn(width, width) * 0.4, "out_proj.bias": torch.randn(width) * 0.3}
        attrs = {"heads": heads, "kv_heads": kv_heads, "bias": True, "causal": True, "rotary": style, "weights": list(named)}
        case("transformer", name, "mha", attrs,
             lambda x, heads=heads, kv_heads=kv_heads, style=style, **w: joined(x, w, heads, kv_heads, style), {"x": torch.randn(shape)} | named)


def layers() -> None:
    # name, kind, batch, length, memory, width, heads, hidden, activation, norm first, bias, layers (0: one by itself)
    rows = [("encoder_layer", "encoder", 2, 5, 0, 8, 2, 12, "relu", False, True, 0), ("encoder_layer_pre", "encoder", 2, 4, 0, 6, 3, 10, "gelu", True, True, 0),
            ("encoder_layer_nobias", "encoder", 1, 3, 0, 8, 2, 8, "relu", False, False, 0), ("encoder", "encoder", 2, 4, 0, 6, 2, 8, "gelu", True, True, 2),
            ("decoder_layer", "decoder", 2, 4, 5, 8, 2, 12, "relu", False, True, 0), ("decoder_layer_pre", "decoder", 2, 3, 4, 6, 2, 8, "gelu", True, True, 0),
            ("decoder", "decoder", 2, 3, 4, 6, 2, 8, "relu", False, True, 2)]
    for name, kind, batch, length, memory, width, heads, hidden, activation, pre, bias, count in rows:
        seed(name)
        one = nn.TransformerEncoderLayer if kind == "encoder" else nn.TransformerDecoderLayer
        layer = one(width, heads, hidden, 0.0, activation, batch_first=True, norm_first=pre, bias=bias)
        if count:
            norm = nn.LayerNorm(width)
            layer = nn.TransformerEncoder(layer, count, norm, enable_nested_tensor=False) if kind == "encoder" else nn.TransformerDecoder(layer, count, norm)
        layer.train()
        named = weights(layer)
        seen = memory or length
        ins = {"x": torch.randn(batch, length, width)}
        if memory:
            ins["memory"] = torch.randn(batch, memory, width)
        ins["present"] = torch.arange(seen)[None] < torch.tensor([seen, seen - 1][:batch])[:, None]

        def f(x, present, memory=None, layer=layer, **w):
            if memory is None:
                return functional_call(layer, w, (x,), {"src_key_padding_mask": ~present})
            return functional_call(layer, w, (x, memory), {"tgt_mask": causal(x.shape[1]), "memory_key_padding_mask": ~present})

        attrs = {"heads": heads, "kv_heads": heads, "hidden": hidden, "activation": activation, "pre": pre, "rms": False, "bias": bias,
                 "layers": count, "causal": kind == "decoder", "rotary": None, "weights": list(named)}
        case("transformer", name, kind, attrs, f, ins | named)
    gated()


def gated() -> None:
    # Llama's kind of layer: root-mean-square norms in front, fewer heads of keys, rotary positions, SwiGLU.
    name, (batch, length, width), heads, kv_heads, hidden = "encoder_layer_llama", (2, 5, 8), 2, 1, 10
    seed(name)
    named = {"self_attn.in_proj_weight": torch.randn(16, width) * 0.4, "self_attn.out_proj.weight": torch.randn(width, width) * 0.4,
             "linear1.weight": torch.randn(2 * hidden, width) * 0.4, "linear2.weight": torch.randn(width, hidden) * 0.4,
             "norm1.weight": torch.rand(width) + 0.5, "norm2.weight": torch.rand(width) + 0.5}

    def f(x, **w):
        norm = lambda x, i: F.rms_norm(x, [width], w[f"norm{i}.weight"], torch.finfo(torch.float32).eps)
        x = x + joined(norm(x, 1), w, heads, kv_heads, "half", "self_attn.")
        gate, up = F.linear(norm(x, 2), w["linear1.weight"]).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, w["linear2.weight"])

    attrs = {"heads": heads, "kv_heads": kv_heads, "hidden": hidden, "activation": "swiglu", "pre": True, "rms": True, "bias": False,
             "layers": 0, "causal": True, "rotary": "half", "weights": list(named)}
    case("transformer", name, "encoder", attrs, f, {"x": torch.randn(batch, length, width)} | named)


def training() -> None:
    # `train_encoder`: 20 steps of SGD on the mean squared difference of a causal stack's results from target; as
    # `train_recurrent`.
    name = "train_encoder"
    seed(name)
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True)
    layer = nn.TransformerEncoder(layer, 2, nn.LayerNorm(6), enable_nested_tensor=False)
    start = weights(layer)
    x, target, runs = torch.randn(3, 5, 6), torch.randn(3, 5, 6), {}
    for dtype in (torch.float32, torch.float64):
        layer = layer.to(dtype).train()
        layer.load_state_dict({k: v.to(dtype) for k, v in start.items()})
        opt = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, foreach=False)
        losses = []
        for _ in range(20):
            opt.zero_grad()
            loss = F.mse_loss(layer(x.to(dtype), mask=causal(5)), target.to(dtype))
            loss.backward()
            opt.step()
            losses.append(loss.detach())
        runs[dtype] = {"losses": torch.stack(losses)} | {f"end/{k}": v.clone() for k, v in layer.state_dict().items()}
    single, double = runs.values()
    put("transformer", name, "train_encoder", {"heads": 2, "hidden": 8, "layers": 2, "steps": 20, "lr": 0.1, "momentum": 0.9},
        {"x": x, "target": target} | {f"start/{k}": v for k, v in start.items()} |
        {k: rounded(name, v, double[k]) for k, v in single.items()})


TRANSFORMERS = (norms, attention, layers, training)
