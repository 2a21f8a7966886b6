"""Twin of examples/diffusion.rs: a denoising diffusion model."""
import math

import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
x, test = data["train.x"], data["test.x"]
WIDTH, TIME, BATCH, EPOCHS = 32, 32, 64, 10


class Stage(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.first, self.second = nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1)
        self.time = nn.Linear(TIME, o)

    def forward(self, x, time):
        return F.silu(self.second(F.silu(self.first(x) + self.time(time)[:, :, None, None])))


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Linear(TIME, TIME)
        self.fine, self.coarse, self.back = Stage(1, WIDTH), Stage(WIDTH, 2 * WIDTH), Stage(3 * WIDTH, WIDTH)
        self.out = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, x, t):
        phases = t[:, None] * 1000 ** (torch.arange(TIME // 2) / (TIME // 2 - 1))
        time = F.silu(self.time(torch.cat([phases.sin(), phases.cos()], 1)))
        fine = self.fine(x, time)
        coarse = self.coarse(F.avg_pool2d(fine, 2), time)
        return self.out(self.back(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1), time))


net = Denoiser()
optimizer = torch.optim.Adam(net.parameters(), 2e-3)


def loss_of(x, t):
    angle = (t * math.pi / 2)[:, None, None, None]
    noise = torch.randn_like(x)
    return F.mse_loss(net(x * angle.cos() + noise * angle.sin(), t), noise)


step, steps = 0, EPOCHS * (len(x) // BATCH)
for _ in range(EPOCHS):
    for batch in common.batches(len(x), BATCH)[: len(x) // BATCH]:
        common.cosine(optimizer, 2e-3, step, steps, 1e-5)
        optimizer.zero_grad()
        loss_of(x[batch], torch.rand(len(batch))).backward()
        optimizer.step()
        step += 1
with torch.no_grad():
    parts = test.split(100)
    errors = [loss_of(part, (torch.arange(len(part)) + 0.5) / len(part)).item() for part in parts]
common.result("test error of the noise", sum(errors) / len(errors))
