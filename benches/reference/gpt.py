"""Twin of examples/gpt.rs: a small GPT on the characters of Moby Dick."""
import math

import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
WIDTH, LENGTH, BATCH, STEPS = 128, 96, 16, 1500
train, test = data["train"].long(), data["test"].long()
count = int(max(train.max(), test.max())) + 1


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(count, WIDTH), nn.Embedding(LENGTH, WIDTH)
        nn.init.normal_(self.positions.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.1, batch_first=True, norm_first=True)
        layer.self_attn.dropout = 0.0
        self.trunk = nn.TransformerEncoder(layer, 4, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        # The stack copies one layer; those of the example differ.
        for other in self.trunk.layers:
            other.self_attn._reset_parameters()
            other.linear1.reset_parameters()
            other.linear2.reset_parameters()
        self.head = nn.Linear(WIDTH, count)
        self.mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward(self, x):
        x = self.tokens(x) + self.positions.weight
        return self.head(self.trunk(x, mask=self.mask, is_causal=True).flatten(0, 1))


def pair(text, starts):
    return (torch.stack([text[s + shift : s + shift + LENGTH] for s in starts]) for shift in (0, 1))


net = Gpt()
optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
for step in range(STEPS):
    x, y = pair(train, torch.randint(len(train) - LENGTH, (BATCH,)))
    common.warmup_cosine(optimizer, 2e-3, step, 50, STEPS)
    optimizer.zero_grad()
    F.cross_entropy(net(x), y.flatten()).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
net.eval()
starts = list(range(0, len(test) - LENGTH, LENGTH))
parts = [starts[i : i + 32] for i in range(0, len(starts) - 31, 32)]
with torch.no_grad():
    losses = []
    for part in parts:
        x, y = pair(test, part)
        losses.append(F.cross_entropy(net(x), y.flatten()).item())
common.result("test bits a character", sum(losses) / len(losses) / math.log(2))
