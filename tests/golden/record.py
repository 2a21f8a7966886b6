"""How golden values are recorded: the table of cases, and the float64 check of every function case."""

import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
CASES: list[dict] = []
FILES: dict[str, dict[str, torch.Tensor]] = {}
INDEX = ["index.json"]


def start(index: str) -> None:
    """Begins a table of its own, beside make.py's."""
    INDEX[0] = index


def seed(name: str) -> None:
    """Seeds the generator from the case's name."""
    torch.manual_seed(zlib.crc32(name.encode()))


def put(file: str, name: str, kind: str, attrs: dict, tensors: dict) -> None:
    """Adds a case whose tensors are already computed."""
    assert all(c["name"] != name for c in CASES), f"duplicate case {name}"
    CASES.append({"name": name, "kind": kind, "file": file, "attrs": attrs})
    for key, t in tensors.items():
        t = t.detach()
        if t.dtype == torch.int64:
            t = t.to(torch.int32)
        assert t.dtype in (torch.float32, torch.int32, torch.bool), (name, key, t.dtype)
        FILES.setdefault(file, {})[f"{name}/{key}"] = t.clone().contiguous()


# Cases whose second derivative is recorded as well: those that are not linear in all their inputs together.
SECOND = {"linear", "linear_batched", "conv2d_s2p1", "conv2d_groups", "conv2d_asymmetric", "conv1d_s2p1", "conv_transpose2d_s2p1o1",
          "batch_norm2d_eval", "layer_norm", "layer_norm_two_axes",
          "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "softplus", "softmax", "softmax_middle", "log_softmax",
          "mse_mean", "cross_entropy_mean", "cross_entropy_soft_weight_smooth_mean", "bce_with_logits_pos_mean",
          "exp", "ln", "log1p", "expm1", "sqrt", "rsqrt", "recip", "sin", "tanh_op", "sigmoid_op", "erf", "mul_broadcast", "div_broadcast",
          "atan2", "pow_negative_base", "prod_0_zeros", "var", "matmul", "matmul_broadcast",
          "lstm", "gru", "rnn_tanh_both_lengths",
          "move_permute", "move_pad", "move_window", "move_flip"}


def evaluate(name: str, fn, inputs: dict, grads: list[str], double: bool) -> tuple[dict, dict]:
    """Runs `fn` and its derivatives; returns the outputs and the random directions used."""
    leaves = {}
    for key, t in inputs.items():
        t = t.double() if double and t.is_floating_point() else t.clone()
        leaves[key] = t.detach().requires_grad_(key in grads)
    y = fn(**leaves) if len(leaves) > 1 else fn(leaves["x"])
    out, directions = {"y": y}, {}

    def draw(key: str, like: torch.Tensor) -> torch.Tensor:
        directions[key] = torch.randn(like.shape)
        return directions[key].to(like.dtype)

    if grads:
        seed(name + "/gy")
        second = name in SECOND
        at = [leaves[key] for key in grads]
        first = torch.autograd.grad(y, at, draw("gy", y), create_graph=second)
        out |= {f"g{key}": t for key, t in zip(grads, first)}
        if second:
            total = sum((draw(f"v{key}", t) * t).sum() for key, t in zip(grads, first))
            by = torch.autograd.grad(total, at, allow_unused=True)
            out |= {f"h{key}": t for key, t in zip(grads, by) if t is not None and t.abs().max() > 0}
    return {k: t.detach() for k, t in out.items()}, directions


def rounded(name: str, single: torch.Tensor, double: torch.Tensor) -> torch.Tensor:
    """The float64 value as float32, provided that the float32 computation agrees with it."""
    ok = torch.isclose(single.double(), double.double(), 1e-4, 1e-5, equal_nan=True)
    assert ok.all(), (name, single[~ok], double[~ok])
    return double.to(single.dtype)


def case(file, name, kind, attrs, fn, inputs, grads=None):
    """Records a function case; `grads` defaults to every float input."""
    if grads is None:
        grads = [k for k, t in inputs.items() if t.is_floating_point()]
    single, directions = evaluate(name, fn, inputs, grads, False)
    double, _ = evaluate(name, fn, inputs, grads, True)
    outputs = {k: rounded(f"{name}/{k}", t, double[k]) for k, t in single.items()}
    put(file, name, kind, attrs, dict(inputs) | directions | outputs)


def tied(*shape: int) -> torch.Tensor:
    """Normal values rounded to halves, so that a window often has several equal maxima."""
    return torch.round(torch.randn(shape) * 2) / 2


def pair(v) -> list[int]:
    """A number for both spatial axes, or one for each."""
    return list(v) if isinstance(v, (tuple, list)) else [v, v]


def save() -> None:
    """Writes index.json and the tensor files."""
    for file, tensors in FILES.items():
        save_file(tensors, HERE / f"{file}.safetensors")
    rows = ",\n".join(json.dumps(c) for c in CASES)
    (HERE / INDEX[0]).write_text(f'{{"torch": "{torch.__version__.split("+")[0]}", "cases": [\n{rows}\n]}}\n')
    size = sum(p.stat().st_size for p in HERE.glob("*.*") if p.suffix != ".py")
    print(f"{len(CASES)} cases, {size / 1e6:.2f} MB")
