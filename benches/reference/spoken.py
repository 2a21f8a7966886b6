"""Twin of examples/spoken.rs: strings of digits by connectionist temporal classification."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
MELS, STEPS, BATCH, EPOCHS = 24, 120, 32, 10
x, y, counts = data["train.x"], data["train.y"].long(), data["train.counts"].long()


class Listener(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.gru = nn.GRU(16 * MELS // 2, 64, bidirectional=True)
        self.head = nn.Linear(128, 11)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).permute(2, 0, 1, 3).flatten(2)
        return self.head(self.gru(y)[0]).log_softmax(-1)


net = Listener()
optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.01)
step, steps = 0, EPOCHS * (len(x) // BATCH)
for _ in range(EPOCHS):
    for batch in common.batches(len(x), BATCH)[: len(x) // BATCH]:
        common.warmup_cosine(optimizer, 3e-3, step, 30, steps)
        optimizer.zero_grad()
        F.ctc_loss(net(x[batch]), y[batch], torch.full((BATCH,), STEPS), counts[batch]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, p in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, q in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (p != q))
    return row[-1]


net.eval()
errors = total = 0
with torch.no_grad():
    best = torch.cat([net(part).argmax(2).T for part in data["test.x"].split(50)])
for line, labels, n in zip(best, data["test.y"].long(), data["test.counts"].long()):
    heard = [int(c) for c in torch.unique_consecutive(line) if c != 0]
    errors += distance(heard, labels[:n].tolist())
    total += int(n)
common.result("digit error rate", errors / total)
