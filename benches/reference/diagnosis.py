"""Twin of examples/diagnosis.rs: breast tumours, five folds, three nets each."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
right = total = 0
for fold in range(5):
    x, y = data[f"train{fold}.x"], data[f"train{fold}.y"].long()
    test, truth = data[f"test{fold}.x"], data[f"test{fold}.y"].long()
    logits = 0
    for _ in range(3):
        net = nn.Sequential(
            nn.Linear(30, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
        )
        optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
        for _ in range(60):
            for batch in common.batches(len(y), 32):
                optimizer.zero_grad()
                F.cross_entropy(net(x[batch]), y[batch]).backward()
                optimizer.step()
        net.eval()
        with torch.no_grad():
            logits = logits + net(test) / 3
    right += (logits.argmax(1) == truth).sum().item()
    total += len(truth)
common.result("cross-validated accuracy", right / total)
