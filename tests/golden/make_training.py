#!/usr/bin/env python3
"""Golden values of the further optimisers, averages, schedules and losses; see make.py for versions and layout.

Writes index_training.json, optimisers.safetensors and criteria.safetensors beside itself:

           python tests/golden/make_training.py

Kinds      `gradients`: parameters p0..p3 and 12 gradients g0..g3 [12, ...], which all `optim` cases start from and are
           given; those have the parameters after every step, after0..after3 [12, ...], and the cases of averages the
           averages avg0..avg3 [12, ...]. `net`: a batch x, target and weights w1, b1, w2, b2 of two layers with tanh
           between, from which all `train` cases start; those have the losses before each of 15 steps and the weights
           end_* after them. `plateau`: attrs.measures and the rates after each, attrs.values.
           `schedule` is that of make.py, with momentum in attrs.momentum. Everything in `criteria` is a function case.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import record
from record import put, rounded, seed

STEPS = 12
SHAPES = [(3, 4), (4,), (3, 4), (5, 3)]


# ---------------------------------------------------------------------------------------------------
# Optimisers that PyTorch does not have
# ---------------------------------------------------------------------------------------------------

class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, params, lr, betas, weight_decay, foreach=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (b1, b2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = torch.sign(b1 * m + (1 - b1) * p.grad)
                p.sub_(lr * (update + group["weight_decay"] * p))
                m.copy_(b2 * m + (1 - b2) * p.grad)


class Lamb(torch.optim.Optimizer):
    """You et al. 2020, algorithm 2, with the identity for phi."""

    def __init__(self, params, lr, betas, eps, weight_decay, foreach=False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "t": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["t"] += 1
            (b1, b2), t = group["betas"], group["t"]
            for p in group["params"]:
                state = self.state[p]
                m, v = (state.setdefault(k, torch.zeros_like(p)) for k in "mv")
                m.copy_(b1 * m + (1 - b1) * p.grad)
                v.copy_(b2 * v + (1 - b2) * p.grad ** 2)
                update = (m / (1 - b1 ** t)) / ((v / (1 - b2 ** t)).sqrt() + group["eps"]) + group["weight_decay"] * p
                a, b = p.norm(), update.norm()
                ratio = a / b if a > 0 and b > 0 else torch.ones_like(a)
                p.sub_(group["lr"] * ratio * update)


class MuonWithAdamW:
    """PyTorch's Muon for p0, p2 and p3, AdamW for the rest."""

    def __init__(self, params, lr, foreach=False, except_=(), adam=None, **kw):
        matrices = [p for i, p in enumerate(params) if p.ndim == 2 and i not in except_]
        rest = [p for i, p in enumerate(params) if p.ndim != 2 or i in except_]
        self.muon = torch.optim.Muon(matrices, lr=lr, **kw)
        self.adam = torch.optim.AdamW(rest, foreach=False, **adam)

    def step(self):
        # PyTorch iterates in bf16 whatever it is given; here in the type of the run.
        kept, torch.bfloat16 = torch.bfloat16, self.muon.param_groups[0]["params"][0].dtype
        self.muon.step()
        torch.bfloat16 = kept
        self.adam.step()


# ---------------------------------------------------------------------------------------------------
# Optimisers
# ---------------------------------------------------------------------------------------------------

def start():
    seed("training gradients")
    params = [torch.randn(s) for s in SHAPES]
    grads = [torch.randn(STEPS, *s) for s in SHAPES]
    grads[1][:2] = 0
    return params, grads


def walk(name, make, average=None):
    """The parameters after each step, and the averages, in both precisions."""
    params, grads = start()
    runs = {}
    for dtype in (torch.float32, torch.float64):
        model = nn.ParameterList([nn.Parameter(p.to(dtype, copy=True)) for p in params])
        opt = make(list(model))
        averaged = average(model) if average else None
        after, means = [[] for _ in SHAPES], [[] for _ in SHAPES]
        for step in range(STEPS):
            for p, g in zip(model, grads):
                p.grad = g[step].to(dtype)
            opt.step()
            if averaged is not None:
                averaged.update_parameters(model)
                for rows, p in zip(means, averaged.module):
                    rows.append(p.detach().clone())
            for rows, p in zip(after, model):
                rows.append(p.detach().clone())
        runs[dtype] = [torch.stack(a) for a in (after + means if average else after)]
    n = len(SHAPES)
    names = [f"after{i}" for i in range(n)] + [f"avg{i}" for i in range(n)]
    return {key: rounded(f"{name}/{key}", a, b) for key, a, b in zip(names, *runs.values())}


def optimisers() -> None:
    params, grads = start()
    put("optimisers", "given", "gradients", {},
        {f"p{i}": t for i, t in enumerate(params)} | {f"g{i}": t for i, t in enumerate(grads)})
    o = torch.optim
    defaults = {
        "rmsprop": (o.RMSprop, {"lr": 0.02, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False, "weight_decay": 0.0}),
        "adagrad": (o.Adagrad, {"lr": 0.1, "lr_decay": 0.0, "eps": 1e-10, "weight_decay": 0.0, "initial_accumulator_value": 0.0}),
        "adamax": (o.Adamax, {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}),
        "nadam": (o.NAdam, {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "momentum_decay": 4e-3, "weight_decay": 0.0,
                            "decoupled_weight_decay": False}),
        "adam": (o.Adam, {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "amsgrad": True}),
        "adamw": (o.AdamW, {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "amsgrad": True}),
        "lion": (Lion, {"lr": 0.01, "betas": [0.9, 0.99], "weight_decay": 0.0}),
        "lamb": (Lamb, {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.01}),
        "muon": (MuonWithAdamW, {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "eps": 1e-7, "ns_steps": 5,
                                 "adjust_lr_fn": "original", "except_": [],
                                 "adam": {"lr": 0.01, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.02}}),
    }
    rows = [("rmsprop", {}), ("rmsprop_momentum_decay", {"momentum": 0.9, "weight_decay": 0.1}),
            ("rmsprop_centered", {"centered": True, "alpha": 0.9}),
            ("rmsprop_centered_momentum", {"centered": True, "momentum": 0.8, "eps": 1e-4}),
            ("adagrad", {}), ("adagrad_all", {"lr_decay": 0.1, "weight_decay": 0.05, "initial_accumulator_value": 0.5, "eps": 1e-4}),
            ("adamax", {}), ("adamax_decay", {"weight_decay": 0.1, "betas": [0.8, 0.95]}),
            ("nadam", {}), ("nadam_decay", {"weight_decay": 0.1, "momentum_decay": 0.1}),
            ("nadam_decoupled", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
            ("adam_amsgrad", {"betas": [0.8, 0.6]}), ("adamw_amsgrad", {"betas": [0.8, 0.6], "weight_decay": 0.1}),
            ("lion", {}), ("lion_decay", {"weight_decay": 0.5, "betas": [0.8, 0.9]}),
            ("lamb", {}), ("lamb_no_decay", {"weight_decay": 0.0, "betas": [0.8, 0.95]}),
            ("muon", {}), ("muon_plain_rms", {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.8}),
            ("muon_except", {"except_": [3], "ns_steps": 3})]
    for name, attrs in rows:
        algo = name.split("_")[0]
        make, base = defaults[algo]
        kw = base | attrs
        after = walk(name, lambda ps, make=make, kw=kw: make(ps, foreach=False, **kw))
        put("optimisers", name, "optim", {"algo": algo} | kw, after)
    nets({name: (defaults[name.split("_")[0]], attrs) for name, attrs in rows})
    # Two further groups: p1 at half the rate without decay, p3 at twice the rate.
    for algo, make, kw in [("sgd", o.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
                           ("adamw", o.AdamW, {"lr": 0.05, "weight_decay": 0.2}), ("lamb", Lamb, defaults["lamb"][1])]:
        def grouped(ps, make=make, kw=kw):
            lr = kw["lr"]
            return make([{"params": [ps[0], ps[2]]}, {"params": [ps[1]], "lr": lr / 2, "weight_decay": 0.0},
                         {"params": [ps[3]], "lr": lr * 2}], foreach=False, **kw) if make is not Lamb else make(
                [{"params": [ps[0], ps[2]]}, {"params": [ps[1]], "lr": lr / 2, "weight_decay": 0.0}, {"params": [ps[3]], "lr": lr * 2}], **kw)
        name = f"groups_{algo}"
        put("optimisers", name, "groups", {"algo": algo} | kw, walk(name, grouped))
    for name, average in [("average_exponential", lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.8))),
                          ("average_equal", AveragedModel)]:
        kw = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
        put("optimisers", name, "average", {"algo": "sgd"} | kw, walk(name, lambda ps, kw=kw: o.SGD(ps, foreach=False, **kw), average))


def nets(rows: dict) -> None:
    """A net that is trained by each optimiser."""
    seed("training net")
    given = {"x": torch.randn(8, 5), "target": torch.randint(3, (8,))}
    given |= {"w1": torch.randn(5, 6) / 2, "b1": torch.randn(6) / 4, "w2": torch.randn(6, 3) / 2, "b2": torch.randn(3) / 4}
    put("optimisers", "net", "net", {}, given)
    for name in ("rmsprop_centered_momentum", "adagrad", "adamax", "nadam", "adamw_amsgrad", "lion_decay", "lamb", "muon"):
        (make, base), attrs = rows[name]
        runs = {}
        for dtype in (torch.float32, torch.float64):
            ps = {k: nn.Parameter(given[k].to(dtype, copy=True)) for k in ("w1", "b1", "w2", "b2")}
            opt, losses = make(list(ps.values()), foreach=False, **(base | attrs)), []
            for _ in range(15):
                h = torch.tanh(given["x"].to(dtype) @ ps["w1"] + ps["b1"])
                loss = F.cross_entropy(h @ ps["w2"] + ps["b2"], given["target"])
                losses.append(loss.detach())
                for p, g in zip(ps.values(), torch.autograd.grad(loss, list(ps.values()))):
                    p.grad = g
                opt.step()
            runs[dtype] = {"losses": torch.stack(losses)} | {f"end_{k}": p.detach() for k, p in ps.items()}
        single, double = runs.values()
        put("optimisers", f"net_{name}", "train", {"algo": name.split("_")[0]} | base | attrs,
            {k: rounded(f"{name}/{k}", t, double[k]) for k, t in single.items()})


# ---------------------------------------------------------------------------------------------------
# Schedules
# ---------------------------------------------------------------------------------------------------

def schedules() -> None:
    s = torch.optim.lr_scheduler
    epochs = 40
    rows = [("multi_step_lr", {"milestones": [3, 4, 20], "gamma": 0.3}, lambda o: s.MultiStepLR(o, [3, 4, 20], 0.3)),
            ("polynomial_lr", {"total_iters": 30, "power": 1.0}, lambda o: s.PolynomialLR(o, 30)),
            ("polynomial_lr_square", {"total_iters": 25, "power": 2.0}, lambda o: s.PolynomialLR(o, 25, 2.0)),
            ("restarts_lr", {"t_0": 7, "t_mult": 1, "eta_min": 0.0}, lambda o: s.CosineAnnealingWarmRestarts(o, 7)),
            ("restarts_lr_growing", {"t_0": 5, "t_mult": 2, "eta_min": 0.01}, lambda o: s.CosineAnnealingWarmRestarts(o, 5, 2, 0.01)),
            ("one_cycle", {}, lambda o: s.OneCycleLR(o, 0.5, epochs)),
            ("one_cycle_linear", {"pct_start": 0.4, "div_factor": 10.0, "final_div_factor": 100.0, "linear": True},
             lambda o: s.OneCycleLR(o, 0.5, epochs, pct_start=0.4, div_factor=10.0, final_div_factor=100.0, anneal_strategy="linear")),
            ("one_cycle_three", {"three_phase": True}, lambda o: s.OneCycleLR(o, 0.5, epochs, three_phase=True))]
    for name, attrs, make in rows:
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        schedule = make(opt)
        values, momentum = [], []
        for _ in range(epochs):
            values.append(opt.param_groups[0]["lr"])
            momentum.append(opt.param_groups[0]["momentum"])
            opt.step()
            if len(values) < epochs:
                schedule.step()
        cycle = {"momentum": momentum} if name.startswith("one_cycle") else {}
        put("optimisers", name, "schedule", {"lr": 0.1, "values": values} | cycle | attrs, {})
    for name, kw in [("plateau", {"patience": 2, "factor": 0.5}),
                     ("plateau_max", {"mode": "max", "patience": 1, "threshold": 0.1, "cooldown": 3}),
                     ("plateau_abs", {"threshold_mode": "abs", "threshold": 0.05, "patience": 0, "factor": 0.7, "min_lr": 0.02}),
                     ("plateau_max_abs", {"mode": "max", "threshold_mode": "abs", "threshold": 0.2, "patience": 2, "cooldown": 1, "factor": 1e-4})]:
        seed(name)
        measures = [round(v, 3) for v in (torch.linspace(2, 1, 40) + 0.2 * torch.randn(40)).tolist()]
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        plateau = s.ReduceLROnPlateau(opt, **kw)
        values = []
        for m in measures:
            plateau.step(m)
            values.append(opt.param_groups[0]["lr"])
        put("optimisers", name, "plateau", {"lr": 0.1, "measures": measures, "values": values} | kw, {})


# ---------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------

# All are recorded unreduced. Reductions are shared code: sums and means of these must do.
REDUCED = {"smooth_l1_0.5", "kl_div", "multi_margin_weight", "focal_weight", "info_nce_symmetric", "ctc_varied", "ctc_impossible"}


def case(file: str, name: str, *rest) -> None:
    what, reduction = name.rsplit("_", 1)
    if reduction not in ("mean", "sum") or what in REDUCED:
        record.case(file, name, *rest)


def reduced(losses: torch.Tensor, reduction: str) -> torch.Tensor:
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def elementwise(r: str) -> None:
    def add(name, kind, attrs, f, ins, grads):
        case("criteria", f"{name}_{r}", kind, {"reduction": r} | attrs, f, ins, grads)

    seed(f"elementwise {r}")
    x, t = torch.randn(4, 5), torch.randn(4, 5)
    t[0, 0] = x[0, 0]
    for beta in (0.0, 0.5, 2.0):
        add(f"smooth_l1_{beta}", "smooth_l1", {"beta": beta}, lambda x, target: F.smooth_l1_loss(x, target, reduction=r, beta=beta),
            {"x": x, "target": t}, ["x"])
    q, p = torch.log_softmax(torch.randn(4, 5), 1), torch.softmax(torch.randn(4, 5), 1)
    hard = p.clone()
    hard[0] = torch.eye(5)[2]
    add("kl_div", "kl_div", {"log_target": False}, lambda x, target: F.kl_div(x, target, reduction=r), {"x": q, "target": p}, ["x", "target"])
    add("kl_div_zeros", "kl_div", {"log_target": False}, lambda x, target: F.kl_div(x, target, reduction=r), {"x": q, "target": hard}, ["x"])
    add("kl_div_log", "kl_div", {"log_target": True}, lambda x, target: F.kl_div(x, target, reduction=r, log_target=True),
        {"x": q, "target": p.log()}, ["x", "target"])
    if r == "sum":
        case("criteria", "kl_div_batchmean", "kl_div", {"reduction": "batchmean", "log_target": False},
             lambda x, target: F.kl_div(x, target, reduction="batchmean"), {"x": q, "target": p}, ["x"])
    counts = torch.poisson(torch.full((4, 5), 2.0))
    for log, full in [(True, False), (True, True), (False, False), (False, True)]:
        add(f"poisson_{log}_{full}", "poisson_nll", {"log_input": log, "full": full},
            lambda x, target: F.poisson_nll_loss(x, target, log_input=log, full=full, reduction=r),
            {"x": x if log else x.exp(), "target": counts}, ["x"])
    for name, var, full in [("own", torch.rand(4, 5) + 0.1, False), ("rows", torch.rand(4, 1) + 0.1, True)]:
        add(f"gaussian_{name}", "gaussian_nll", {"full": full},
            lambda x, target, variance: F.gaussian_nll_loss(x, target, variance, full=full, reduction=r),
            {"x": x, "target": t, "variance": var}, ["x", "variance"])
    sign = torch.where(torch.rand(4, 5) > 0.5, 1.0, -1.0)
    add("hinge", "hinge", {"margin": 1.0, "squared": False}, lambda x, target: reduced(F.relu(1.0 - target * x), r), {"x": x, "target": sign}, ["x"])
    add("hinge_squared", "hinge", {"margin": 0.5, "squared": True}, lambda x, target: reduced(F.relu(0.5 - target * x) ** 2, r),
        {"x": x, "target": sign}, ["x"])
    add("hinge_embedding", "hinge_embedding", {"margin": 0.7}, lambda x, target: F.hinge_embedding_loss(x, target, 0.7, reduction=r),
        {"x": x.abs(), "target": sign}, ["x"])

    def focal(x, target, alpha, gamma):  # torchvision.ops.sigmoid_focal_loss
        p = torch.sigmoid(x)
        ce = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        p_t = p * target + (1 - p) * (1 - target)
        loss = ce * ((1 - p_t) ** gamma)
        if alpha is not None:
            loss = (alpha * target + (1 - alpha) * (1 - target)) * loss
        return reduced(loss, r)

    for name, alpha, gamma, target in [("default", 0.25, 2.0, (sign + 1) / 2), ("soft", None, 1.5, torch.rand(4, 5)), ("flat", 0.4, 0.0, (sign + 1) / 2)]:
        add(f"focal_binary_{name}", "focal_with_logits", {"alpha": alpha, "gamma": gamma},
            lambda x, target: focal(x, target, alpha, gamma), {"x": x * 3, "target": target}, ["x"])


def classes(r: str) -> None:
    seed(f"classes {r}")
    x, target, weight = torch.randn(7, 5) * 2, torch.randint(5, (7,)), torch.rand(5) + 0.2
    for name, kw in [("", {}), ("_squared", {"p": 2, "margin": 0.5})]:
        for weighted in (False, True):
            ins = {"x": x, "target": target} | ({"weight": weight} if weighted else {})
            case("criteria", f"multi_margin{name}{'_weight' if weighted else ''}_{r}", "multi_margin",
                 {"reduction": r, "squared": "p" in kw, "margin": kw.get("margin", 1.0)},
                 lambda x, target, weight=None, kw=kw: F.multi_margin_loss(x, target.long(), weight=weight, reduction=r, **kw), ins, ["x"])

    def focal(x, target, weight, gamma):
        log_p = torch.log_softmax(x, 1).gather(1, target.long()[:, None])[:, 0]
        loss = -((1 - log_p.exp()) ** gamma) * log_p
        return reduced(loss if weight is None else loss * weight[target.long()], r)

    for name, gamma, weighted in [("", 2.0, False), ("_weight", 1.0, True), ("_flat", 0.0, False)]:
        ins = {"x": x, "target": target} | ({"weight": weight} if weighted else {})
        case("criteria", f"focal{name}_{r}", "focal", {"reduction": r, "gamma": gamma},
             lambda x, target, weight=None, gamma=gamma: focal(x, target, weight, gamma), ins, ["x"])


def pairs(r: str) -> None:
    seed(f"pairs {r}")
    a, b, c = torch.randn(6, 3), torch.randn(6, 3), torch.randn(6, 3)
    sign = torch.tensor([1.0, -1, 1, -1, -1, 1])

    def add(name, kind, attrs, f, ins):
        case("criteria", f"{name}_{r}", kind, {"reduction": r} | attrs, f, ins, [k for k in ins if k != "target"])

    add("cosine_embedding", "cosine_embedding", {"margin": -0.2},
        lambda x, other, target: F.cosine_embedding_loss(x, other, target, margin=-0.2, reduction=r), {"x": a, "other": b, "target": sign})

    def contrastive(x, other, target):
        d = (x - other).norm(dim=-1)
        return reduced((target * d ** 2 + (1 - target) * F.relu(2.0 - d) ** 2) / 2, r)

    add("contrastive", "contrastive", {"margin": 2.0}, contrastive, {"x": a, "other": b, "target": (sign + 1) / 2})
    for name, kw in [("", {}), ("_swap", {"swap": True, "margin": 0.3}), ("_p1", {"p": 1.0}), ("_p3", {"p": 3.0, "margin": 2.0})]:
        add(f"triplet{name}", "triplet", {"margin": 1.0, "p": 2.0, "swap": False} | kw,
            lambda x, positive, negative, kw=kw: F.triplet_margin_loss(x, positive, negative, reduction=r, **kw),
            {"x": a, "positive": b, "negative": c})

    def info_nce(x, other, symmetric):
        logits = F.normalize(x) @ F.normalize(other).T / 0.2
        own = torch.arange(len(x))
        loss = F.cross_entropy(logits, own, reduction=r)
        return (loss + F.cross_entropy(logits.T, own, reduction=r)) / 2 if symmetric else loss

    for symmetric in (False, True):
        add(f"info_nce{'_symmetric' if symmetric else ''}", "info_nce", {"symmetric": symmetric, "temperature": 0.2},
            lambda x, other, symmetric=symmetric: info_nce(x, other, symmetric), {"x": a, "other": b})


def ctc(r: str) -> None:
    # x are logits: PyTorch's gradient by logarithms of probabilities is right only behind a log_softmax.
    seed(f"ctc {r}")
    rows = [("varied", 9, 5, [[1, 2, 2, 3], [3, 1, 0, 0], [4, 4, 4, 0], [0, 0, 0, 0]], [9, 6, 7, 5], [4, 2, 3, 0], 0, False),
            ("blank_last", 7, 4, [[0, 0, 1], [2, 1, 2]], [7, 5], [3, 3], 3, False),
            ("exact", 3, 4, [[1, 2, 3], [1, 1, 9]], [3, 3], [3, 2], 0, False),
            ("impossible", 4, 4, [[1, 1, 1], [2, 3, 0]], [4, 3], [3, 2], 0, True)]
    for name, t, c, targets, inputs, labels, blank, zero in rows:
        ins = {"x": torch.randn(t, len(targets), c) * 2, "target": torch.tensor(targets), "inputs": torch.tensor(inputs), "labels": torch.tensor(labels)}
        case("criteria", f"ctc_{name}_{r}", "ctc", {"reduction": r, "blank": blank, "zero_infinity": zero},
             lambda x, target, inputs, labels: F.ctc_loss(torch.log_softmax(x, 2), target.long(), inputs.long(), labels.long(), blank, r, zero),
             ins, ["x"])


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    record.start("index_training.json")
    optimisers()
    schedules()
    for r in ("mean", "sum", "none"):
        elementwise(r)
        classes(r)
        pairs(r)
        ctc(r)
    record.save()


if __name__ == "__main__":
    main()
