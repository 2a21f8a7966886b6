"""Twin of examples/credit.rs: denied mortgages with class weights, five folds."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
scores, truths = [], []
for fold in range(5):
    x, y = data[f"train{fold}.x"], data[f"train{fold}.y"].long()
    weight = len(y) / (2 * torch.bincount(y, minlength=2).float())
    net = nn.Sequential(
        nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    for _ in range(20):
        for batch in common.batches(len(y), 64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch], weight=weight).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        logits = net(data[f"test{fold}.x"])
    scores.append(logits[:, 1] - logits[:, 0])
    truths.append(data[f"test{fold}.y"])
order = torch.cat(scores).argsort(descending=True)
hits = torch.cat(truths)[order]
precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
common.result("PR AUC with class weights", (precision * hits).sum().item() / hits.sum().item())
