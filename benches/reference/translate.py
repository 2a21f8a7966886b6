"""Twin of examples/translate.rs: English to German by an encoder and a decoder."""
import math
from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
WIDTH, LENGTH, BATCH, EPOCHS = 128, 14, 64, 12
begin, end = data["marks"].long().tolist()
source, target = data["train.source"].long(), data["train.target"].long()
counts = [int(max(data[f"{part}.{side}"].max() for part in ("train", "test"))) + 1 for side in ("source", "target")]


def waves():
    angle = torch.arange(LENGTH)[:, None] / 10_000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(counts[0], WIDTH), nn.Embedding(counts[1], WIDTH)
        same = dict(dim_feedforward=256, dropout=0.2, batch_first=True, norm_first=True)
        make = lambda kind: kind(WIDTH, 4, **same)  # noqa: E731
        norm = nn.LayerNorm
        self.encoder = nn.ModuleList([make(nn.TransformerEncoderLayer) for _ in range(2)] + [norm(WIDTH)])
        self.decoder = nn.ModuleList([make(nn.TransformerDecoderLayer) for _ in range(2)] + [norm(WIDTH)])
        # The example drops no attention weights.
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        self.head = nn.Linear(WIDTH, counts[1])
        self.waves = waves()

    def read(self, x):
        padding = x == 0
        y = self.source(x) + self.waves
        for layer in self.encoder[:-1]:
            y = layer(y, src_key_padding_mask=padding)
        return self.encoder[-1](y), padding

    def say(self, y, memory, padding):
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
        rows = self.target(y) + self.waves[: y.shape[1]]
        for layer in self.decoder[:-1]:
            rows = layer(rows, memory, tgt_mask=mask, tgt_is_causal=True, memory_key_padding_mask=padding)
        return self.head(self.decoder[-1](rows))


def bleu(made, truth):
    hits, totals, lengths = [0] * 4, [0] * 4, [0, 0]
    for a, b in zip(made, truth):
        lengths = [lengths[0] + len(a), lengths[1] + len(b)]
        for n in range(4):
            grams = [Counter(tuple(line[i : i + n + 1]) for i in range(len(line) - n)) for line in (a, b)]
            hits[n] += sum((grams[0] & grams[1]).values())
            totals[n] += sum(grams[0].values())
    brevity = min(0.0, 1 - lengths[1] / max(lengths[0], 1))
    return 100 * math.exp(brevity + sum(math.log(h / t) for h, t in zip(hits, totals)) / 4)


net = Translator()
optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
step, steps = 0, EPOCHS * (len(source) // BATCH)
for _ in range(EPOCHS):
    for batch in common.batches(len(source), BATCH)[: len(source) // BATCH]:
        memory, padding = net.read(source[batch])
        logits = net.say(target[batch, :-1], memory, padding)
        loss = F.cross_entropy(logits.flatten(0, 1), target[batch, 1:].flatten(), ignore_index=0, label_smoothing=0.1)
        common.warmup_cosine(optimizer, 1e-3, step, 100, steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
net.eval()
made = []
with torch.no_grad():
    for part in data["test.source"].long().split(100):
        memory, padding = net.read(part)
        y = torch.full((len(part), 1), begin)
        for _ in range(LENGTH - 1):
            y = torch.cat([y, net.say(y, memory, padding)[:, -1].argmax(1, keepdim=True)], 1)
        for line in y[:, 1:].tolist():
            line = line[: line.index(end)] if end in line else line
            # An unknown word is never the right one.
            made.append([-1 if word == 1 else word for word in line])
truth = [[word for word in line if word not in (0, begin, end)] for line in data["test.target"].long().tolist()]
common.result("BLEU", bleu(made, truth))
