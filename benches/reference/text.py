"""Twin of examples/text.rs: an LSTM over the characters of Moby Dick."""
import math

import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
STREAMS, STEPS, EPOCHS = 40, 64, 4
count = int(max(data["train"].max(), data["test"].max())) + 1


def streams(ids):
    each = (len(ids) - 1) // STREAMS
    steps = (len(ids) - 1) // STREAMS // STEPS
    cut = [torch.stack([ids[s * each + shift :][: each] for s in range(STREAMS)]) for shift in (0, 1)]
    return [[part[:, i * STEPS : (i + 1) * STEPS] for part in cut] for i in range(steps)]


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(count, 64)
        self.lstm = nn.LSTM(64, 192, batch_first=True)
        self.head = nn.Linear(192, count)

    def forward(self, x, state):
        y, state = self.lstm(self.embedding(x), state)
        return self.head(y.flatten(0, 1)), state


train, test = streams(data["train"].long()), streams(data["test"].long())
net = Writer()
optimizer = torch.optim.Adam(net.parameters(), 4e-3)
step = 0
for _ in range(EPOCHS):
    state = None
    for x, y in train:
        logits, state = net(x, state)
        state = tuple(part.detach() for part in state)
        common.cosine(optimizer, 4e-3, step, EPOCHS * len(train), 1e-4)
        optimizer.zero_grad()
        F.cross_entropy(logits, y.flatten()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
nats, state = 0.0, None
with torch.no_grad():
    for x, y in test:
        logits, state = net(x, state)
        nats += F.cross_entropy(logits, y.flatten()).item() / len(test)
common.result("test bits a character", nats / math.log(2))
