"""Twin of examples/sentiment.rs: tweets by a bidirectional GRU."""
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import common

options = common.arguments()
data = common.read(options.data)
count = int(data["train.x"].max()) + 1


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(count, 64)
        self.gru = nn.GRU(64, 48, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(96, 2)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(self.dropout(self.embedding(x)), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return self.head(self.dropout(states.sum(1) / lengths[:, None]))


train = [data[f"train.{part}"].long() for part in ("x", "lengths", "y")]
test = [data[f"test.{part}"].long() for part in ("x", "lengths", "y")]
net = Reader()
optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
for _ in range(8):
    for batch in common.batches(len(train[2]), 32):
        x, lengths, y = (part[batch] for part in train)
        optimizer.zero_grad()
        F.cross_entropy(net(x, lengths), y).backward()
        optimizer.step()
net.eval()
with torch.no_grad():
    common.result("test accuracy", (net(test[0], test[1]).argmax(1) == test[2]).float().mean().item())
