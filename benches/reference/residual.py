"""Twin of examples/residual.rs: a residual net on Fashion-MNIST."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
x, y = data["train.x"], data["train.y"].long()
EPOCHS, BATCH = 5, 64


def conv_norm(i, o, kernel, stride):
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o))


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.first, self.second = conv_norm(i, o, 3, stride), conv_norm(o, o, 3, 1)
        self.short = conv_norm(i, o, 1, stride) if stride != 1 or i != o else nn.Identity()

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))) + self.short(x))


net = nn.Sequential(
    conv_norm(1, 16, 3, 1), nn.ReLU(), Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
step, steps = 0, EPOCHS * (len(y) // BATCH)
for _ in range(EPOCHS):
    for batch in common.batches(len(y), BATCH)[: len(y) // BATCH]:
        images = x[batch]
        flip = torch.rand(len(batch)) < 0.5
        images[flip] = images[flip].flip(3)
        common.cosine(optimizer, 0.1, step, steps)
        optimizer.zero_grad()
        F.cross_entropy(net(images), y[batch]).backward()
        optimizer.step()
        step += 1
net.eval()
with torch.no_grad():
    guess = torch.cat([net(part).argmax(1) for part in data["test.x"].split(250)])
common.result("test accuracy", (guess == data["test.y"].long()).float().mean().item())
