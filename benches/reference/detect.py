"""Twin of examples/detect.rs: digits in scenes, found in one look."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
x, y, test, truth = data["train.x"], data["train.y"], data["test.x"], data["test.y"]
CELLS, CELL, BATCH, EPOCHS = 6, 8.0, 32, 12


def conv(i, o):
    return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]


net = nn.Sequential(
    *conv(1, 16), nn.MaxPool2d(2), *conv(16, 32), nn.MaxPool2d(2), *conv(32, 64), nn.MaxPool2d(2), *conv(64, 64),
    nn.Conv2d(64, 15, 1),
)  # fmt: skip
optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.01)


def loss_of(said, y):
    there = y[:, :1]
    whether = F.binary_cross_entropy_with_logits(said[:, :1], there, reduction="sum")
    place = (said[:, 1:3].sigmoid() - y[:, 1:3]).square()
    size = (said[:, 3:5] - y[:, 3:5]).square()
    boxes = ((place + size) * there).sum() * 5
    kind = F.cross_entropy(said[:, 5:], y[:, 5].long(), reduction="none")
    return (whether + boxes + (kind * there[:, 0]).sum()) / len(said)


def boxes(cells, place):
    """Corner boxes of cells [n, 3] (image, row, column) from place and size [n, 4]."""
    cx, cy = (cells[:, 2] + place[:, 0]) * CELL, (cells[:, 1] + place[:, 1]) * CELL
    w, h = place[:, 2] * 8, place[:, 3] * 8
    return torch.stack([cx - w, cy - h, cx + w, cy + h], 1)


def iou(a, b):
    low, high = torch.maximum(a[:2], b[:, :2]), torch.minimum(a[2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    return shared / ((a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(1) - shared)


def detections(said):
    p = said[:, 5:].softmax(1)
    score = said[:, 0].sigmoid() * p.max(1).values
    cells = (score > 0.05).nonzero()
    pick = said[cells[:, 0], :, cells[:, 1], cells[:, 2]]
    found = boxes(cells, torch.cat([pick[:, 1:3].sigmoid(), pick[:, 3:5]], 1))
    score, kind = score[tuple(cells.T)], p.argmax(1)[tuple(cells.T)]
    kept = []
    for i in score.argsort(descending=True).tolist():
        if all(cells[i, 0] != cells[j, 0] or iou(found[i], found[j : j + 1])[0] <= 0.4 for j in kept):
            kept.append(i)
    return cells[kept, 0], found[kept], kind[kept]


def average_precision(found, kind):
    """Area under the monotone precision-recall curve of one class; `found` is sorted by score."""
    cells = ((truth[:, 0] > 0) & (truth[:, 5] == kind)).nonzero()
    there = boxes(cells, truth[cells[:, 0], 1:5, cells[:, 1], cells[:, 2]])
    used, hits = torch.zeros(len(there), dtype=torch.bool), []
    for image, box, k in zip(*found):
        if k != kind:
            continue
        mine = (cells[:, 0] == image).nonzero()[:, 0]
        overlap = iou(box, there[mine]) if len(mine) else torch.zeros(1)
        best = overlap.argmax()
        hit = len(mine) > 0 and overlap[best] >= 0.5 and not used[mine[best]]
        if hit:
            used[mine[best]] = True
        hits.append(float(hit))
    hits = torch.tensor(hits)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    precision = precision.flip(0).cummax(0).values.flip(0)
    return (precision * hits).sum().item() / len(there)


step, steps = 0, EPOCHS * (len(x) // BATCH)
for _ in range(EPOCHS):
    for batch in common.batches(len(x), BATCH):
        common.cosine(optimizer, 3e-3, step, steps)
        optimizer.zero_grad()
        loss_of(net(x[batch]), y[batch]).backward()
        optimizer.step()
        step += 1
net.eval()
with torch.no_grad():
    found = detections(torch.cat([net(part) for part in test.split(100)]))
common.result("mAP at IoU 0.5", sum(average_precision(found, kind) for kind in range(10)) / 10)
