"""Twin of examples/transfer.rs: MobileNetV2 from ImageNet to clothes. Wants `cargo xtask data mobilenet-v2`."""
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
x, y = data["train.x"], data["train.y"].long()
WEIGHTS = Path(__file__).parents[2] / "data/fetched/mobilenet-v2/mobilenet_v2-b0353104.pth"
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def conv_norm(i, o, kernel=1, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU6()
    )


class Inverted(nn.Module):
    def __init__(self, i, o, stride, expansion):
        super().__init__()
        inner = i * expansion
        parts = [conv_norm(i, inner)] if expansion != 1 else []
        parts += [conv_norm(inner, inner, 3, stride, inner), nn.Conv2d(inner, o, 1, bias=False), nn.BatchNorm2d(o)]
        self.conv, self.residual = nn.Sequential(*parts), stride == 1 and i == o

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        parts, i = [conv_norm(3, 32, 3, 2)], 32
        for expansion, o, repeats, first in STAGES:
            for repeat in range(repeats):
                parts.append(Inverted(i, o, first if repeat == 0 else 1, expansion))
                i = o
        self.features = nn.Sequential(*parts, conv_norm(i, 1280))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 10))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def right(net):
    net.eval()
    with torch.no_grad():
        guess = torch.cat([net(part).argmax(1) for part in data["test.x"].split(50)])
    return (guess == data["test.y"].long()).float().mean().item()


net = MobileNetV2()
weights = {k: v for k, v in torch.load(WEIGHTS, weights_only=True).items() if not k.startswith("classifier")}
net.load_state_dict(weights, strict=False)
net.eval()
with torch.no_grad():
    features = torch.cat([net.features(part).mean((2, 3)) for part in x.split(50)])
net.classifier.train()
optimizer = torch.optim.AdamW(net.classifier.parameters(), 3e-3)
for _ in range(30):
    for batch in common.batches(len(y), 32):
        optimizer.zero_grad()
        F.cross_entropy(net.classifier(features[batch]), y[batch]).backward()
        optimizer.step()
frozen = right(net)
net.train()
optimizer = torch.optim.AdamW(net.parameters(), 5e-4)
step, steps = 0, 3 * (len(y) // 32)
for _ in range(3):
    for batch in common.batches(len(y), 32)[: len(y) // 32]:
        common.cosine(optimizer, 5e-4, step, steps)
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
        step += 1
common.result("test accuracy, tuned", right(net))
common.result("test accuracy, frozen", frozen)
