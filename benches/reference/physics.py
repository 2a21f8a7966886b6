"""Twin of examples/physics.rs: Burgers' equation by a physics-informed net."""
import math

import numpy as np
import torch
from torch import nn

import common

common.arguments()
NU, POINTS, STEPS = 0.02, 512, 6000
net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(net.parameters(), 3e-3)


def u(x, t):
    return net(torch.cat([x, t], 1))


def column(low, high):
    return torch.rand(POINTS, 1) * (high - low) + low


for step in range(STEPS):
    x, t = column(-1, 1).requires_grad_(), column(0, 1).requires_grad_()
    inside = u(x, t)
    ux, ut = torch.autograd.grad(inside.sum(), [x, t], create_graph=True)
    uxx = torch.autograd.grad(ux.sum(), x, create_graph=True)[0]
    residual = ut + inside * ux - NU * uxx
    x0, t0 = column(-1, 1), column(0, 1)
    begin = u(x0, torch.zeros(POINTS, 1)) + torch.sin(math.pi * x0)
    walls = u((column(-1, 1) > 0).float() * 2 - 1, t0)
    loss = residual.square().mean() + begin.square().mean() + walls.square().mean()
    common.cosine(optimizer, 3e-3, step, STEPS, 3e-5)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def exact(x, t):
    if t == 0:
        return -np.sin(np.pi * x)
    z = np.arange(-400, 401)[None] * 0.02
    y = x[:, None] - math.sqrt(4 * NU * t) * z
    w = np.exp(-z * z) * np.exp(-np.cos(np.pi * y) / (2 * np.pi * NU))
    return -(np.sin(np.pi * y) * w).sum(1) / w.sum(1)


error = norm = 0.0
xs = np.arange(201) / 100 - 1
for t in [0.0, 0.25, 0.5, 0.75, 1.0]:
    with torch.no_grad():
        x = torch.tensor(xs, dtype=torch.float32)[:, None]
        learned = u(x, torch.full_like(x, t)).numpy()[:, 0]
    truth = exact(xs, t)
    error += ((learned - truth) ** 2).sum()
    norm += (truth**2).sum()
common.result("relative L2 error", math.sqrt(error / norm))
