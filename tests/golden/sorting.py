"""Sorting and selection; part of make.py."""

import torch

from record import case, put, seed, tied


def sorting() -> None:
    """`sort`, `topk`, `kthvalue`, `median` and `quantile` are function cases; `order` is the stable order of keys with NaN,
    infinities, both zeros and many equal keys, as i32; `searchsorted` has `x`, `values` and the places `y`; `histc` has
    `x` and the counts `y`; `nms` has boxes, scores, classes and what is kept without and with regard to classes."""
    for name, shape, axis, down in [("sort", (4, 9), 1, False), ("sort_down", (3, 5, 4), 1, True), ("sort_columns", (17, 3), 0, False)]:
        seed(name)
        case("sorting", name, "sort", {"axis": axis, "descending": down},
             lambda x, axis=axis, down=down: torch.sort(x, dim=axis, descending=down, stable=True).values, {"x": torch.randn(shape)})
    for name, shape, k, axis, largest in [("topk", (4, 30), 5, 1, True), ("topk_least", (6, 3, 4), 2, 0, False), ("topk_all", (2, 7), 7, 1, True)]:
        seed(name)
        case("sorting", name, "topk", {"k": k, "axis": axis, "largest": largest},
             lambda x, k=k, axis=axis, largest=largest: torch.topk(x, k, axis, largest, True).values, {"x": torch.randn(shape)})
    for k in (1, 4, 9):
        name = f"kthvalue_{k}"
        seed(name)
        case("sorting", name, "kthvalue", {"k": k, "axis": 1}, lambda x, k=k: torch.kthvalue(x, k, 1).values, {"x": torch.randn(3, 9)})
    for n in (1, 6, 7):
        name = f"median_{n}"
        seed(name)
        case("sorting", name, "median", {"axis": 1}, lambda x: torch.median(x, 1).values, {"x": torch.randn(3, n)})
    for q in (0.0, 0.1, 0.5, 0.77, 1.0):
        name = f"quantile_{q}"
        seed(name)
        case("sorting", name, "quantile", {"q": q, "axis": 0},
             lambda x, q=q: torch.quantile(x, torch.tensor(q, dtype=x.dtype), 0), {"x": torch.randn(8, 3)})
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, float("nan"), 1e-41, -1e-41])
    for down in (False, True):
        name = f"order{'_down' if down else ''}"
        seed("order")
        x = tied(3, 300)
        x[:, 20:28] = odd
        x[:, 200:208] = odd
        put("sorting", name, "order", {"axis": 1, "descending": down},
            {"x": x, "y": torch.sort(x, dim=1, descending=down, stable=True).indices})
    for right in (False, True):
        name = f"searchsorted{'_right' if right else ''}"
        seed("searchsorted")
        x, values = tied(4, 12).sort(1).values, tied(4, 9)
        values[0, 0] = float("nan")
        put("sorting", name, "searchsorted", {"right": right},
            {"x": x, "values": values, "y": torch.searchsorted(x, values, right=right)})
    seed("histc")
    x = tied(200)
    put("sorting", "histc", "histc", {"bins": 6, "low": -1.5, "high": 2.0}, {"x": x, "y": torch.histc(x, 6, -1.5, 2.0).int()})
    suppression()


def suppression() -> None:
    """torchvision's `nms` and `batched_nms`, as its documentation defines them (torchvision is not a dependency)."""
    seed("nms")
    corners, sizes = torch.rand(80, 2) * 60, torch.rand(80, 2) * 30 + 1
    boxes, scores = torch.cat([corners, corners + sizes], 1), torch.rand(80)
    classes = torch.randint(4, (80,))

    def kept(boxes: torch.Tensor) -> torch.Tensor:
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        inner = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
        shared = inner.clamp(min=0).prod(2)
        iou = shared / (area[:, None] + area[None, :] - shared)
        assert ((iou - 0.4).abs() > 1e-5).all()  # Rounding decides nothing.
        order, out = scores.argsort(descending=True).tolist(), []
        while order:
            out.append(order[0])
            order = [i for i in order[1:] if iou[order[0], i] <= 0.4]
        return torch.tensor(out)

    put("sorting", "nms", "nms", {"threshold": 0.4},
        {"boxes": boxes, "scores": scores, "classes": classes, "plain": kept(boxes),
         "by_class": kept(boxes + classes[:, None] * 200.0)})
