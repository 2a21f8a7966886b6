"""Twin of examples/language.rs: five languages by mel spectrograms."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
MELS, FRAMES, BATCH, EPOCHS = 32, 96, 32, 12


class Listener(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.gru = nn.GRU(16 * MELS // 4, 64, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.norm(self.conv(x))), 4)
        return self.head(self.gru(y.permute(0, 2, 1, 3).flatten(2))[0].mean(1))


def clips(name):
    return data[f"{name}.x"].split(data[f"{name}.frames"].long().tolist()), data[f"{name}.y"].long()


def window(clip, random):
    spare = max(len(clip) - FRAMES, 0)
    start = int(torch.randint(spare + 1, ())) if random else spare // 2
    return clip[(start + torch.arange(FRAMES)) % len(clip)].clone()


def masked(clip):
    for axis, width in ((0, 12), (1, 6)):
        size = int(torch.randint(width + 1, ()))
        start = int(torch.randint(clip.shape[axis] - size + 1, ()))
        clip.narrow(axis, start, size).zero_()
    return clip


(x, y), (test, truth) = clips("train"), clips("test")
net = Listener()
optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.01)
step, steps = 0, EPOCHS * (len(y) // BATCH)
for _ in range(EPOCHS):
    for batch in common.batches(len(y), BATCH)[: len(y) // BATCH]:
        shown = torch.stack([masked(window(x[i], True)) for i in batch])[:, None]
        common.cosine(optimizer, 3e-3, step, steps)
        optimizer.zero_grad()
        F.cross_entropy(net(shown), y[batch]).backward()
        optimizer.step()
        step += 1
net.eval()
with torch.no_grad():
    guess = net(torch.stack([window(clip, False) for clip in test])[:, None]).argmax(1)
common.result("test accuracy", (guess == truth).float().mean().item())
