"""Twin of examples/forecast.rs: tomorrow's range and return by a GRU."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
x, y = data["train.x"], data["train.y"]


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


net = Forecaster()
optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
step, steps = 0, 8 * -(-len(y) // 64)
for _ in range(8):
    for batch in common.batches(len(y), 64):
        common.cosine(optimizer, 2e-3, step, steps)
        optimizer.zero_grad()
        F.mse_loss(net(x[batch]), y[batch]).backward()
        optimizer.step()
        step += 1
with torch.no_grad():
    predicted, truth = net(data["test.x"]), data["test.y"]
error = (predicted - truth).square().mean(0)
month = (data["test.month"] - truth[:, 1]).square().mean()
common.result("range error over that of 22 days", (error[1] / month).item())
common.result("return error over that of no change", (error[0] / truth[:, 0].square().mean()).item())
