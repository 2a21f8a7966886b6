"""Twin of examples/fairness.rs: incomes, as they are and reweighed."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
x, y = data["train.x"], data["train.y"].long()
male = data["test.group"] > 0.5
initial = None
for name, weights in [("as it is", torch.ones(len(y))), ("reweighed", data["weights"])]:
    net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    # Both begin alike, as the example's do.
    if initial is None:
        initial = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(initial)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    for _ in range(6):
        for batch in common.batches(len(y), 256):
            optimizer.zero_grad()
            (F.cross_entropy(net(x[batch]), y[batch], reduction="none") * weights[batch]).mean().backward()
            optimizer.step()
    with torch.no_grad():
        chosen = net(data["test.x"]).argmax(1)
    common.result(f"accuracy {name}", (chosen == data["test.y"].long()).float().mean().item())
    chosen = chosen.float()
    common.result(f"selection gap {name}", (chosen[male].mean() - chosen[~male].mean()).abs().item())
