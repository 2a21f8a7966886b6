"""PyTorch CPU runner.

  bench.py BACKEND WORKLOAD
  BACKEND: eager    what a plain script gets: default layout, default optimizer
           tuned    eager + channels_last convolutions + fused optimizers
           compile  torch.compile (Inductor, C++) of forward+loss, rest as tuned
"""
import os
import sys

THREADS = int(os.environ.get("PEER_THREADS", "2"))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import torch
import torch.nn as nn
import torch.nn.functional as F

import common

torch.set_num_threads(THREADS)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(784, 512)
        self.b = nn.Linear(512, 512)
        self.c = nn.Linear(512, 10)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 32, 5, padding=2)
        self.c2 = nn.Conv2d(32, 64, 5, padding=2)
        self.f1 = nn.Linear(64 * 7 * 7, 128)
        self.f2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.max_pool2d(F.relu(self.c2(x)), 2)
        return self.f2(F.relu(self.f1(x.flatten(1))))


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.c1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.n1 = nn.BatchNorm2d(cout)
        self.c2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.n2 = nn.BatchNorm2d(cout)
        self.short = None
        if stride != 1 or cin != cout:
            self.short = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        y = self.n2(self.c2(F.relu(self.n1(self.c1(x)))))
        return F.relu(y + (x if self.short is None else self.short(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        blocks, cin = [], 32
        for i, c in enumerate((32, 64, 128)):
            blocks += [Block(cin, c, 1 if i == 0 else 2), Block(c, c, 1)]
            cin = c
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(128, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.fc(x.mean(dim=(2, 3)))


class CharLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(64, 64)
        self.rnn = nn.LSTM(64, 128, batch_first=True)
        self.out = nn.Linear(128, 64)

    def forward(self, x):
        y, _ = self.rnn(self.emb(x))
        return self.out(y).flatten(0, 1)


class GptBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.h = heads
        self.n1 = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.proj = nn.Linear(d, d)
        self.n2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, 4 * d)
        self.down = nn.Linear(4 * d, d)

    def forward(self, x):
        b, s, d = x.shape
        q, k, v = (
            t.view(b, s, self.h, d // self.h).transpose(1, 2)
            for t in self.qkv(self.n1(x)).split(d, dim=2)
        )
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(a.transpose(1, 2).reshape(b, s, d))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Gpt(nn.Module):
    def __init__(self, vocab=64, d=128, layers=4, heads=4, seq=128):
        super().__init__()
        self.tok = nn.Embedding(vocab, d)
        self.pos = nn.Parameter(torch.randn(seq, d) * 0.02)
        self.blocks = nn.Sequential(*[GptBlock(d, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab, bias=False)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.tok(x) + self.pos))).flatten(0, 1)


def workload(name, mode):
    """The net, its optimizer and the batch of a workload."""
    torch.manual_seed(0)
    fused = mode != "eager"

    def adam(p):
        return torch.optim.Adam(p, lr=1e-3, fused=fused)

    def sgd(p):
        return torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=fused)

    def adamw(p):
        return torch.optim.AdamW(p, lr=3e-4, weight_decay=0.01, fused=fused)

    if name == "W1":
        model, opt = Mlp(), adam
        x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))
    elif name == "W2":
        model, opt = LeNet(), sgd
        x, y = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    elif name == "W3":
        model, opt = ResNet(), sgd
        x, y = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    elif name == "W4":
        model, opt = CharLstm(), adam
        x, y = torch.randint(0, 64, (32, 64)), torch.randint(0, 64, (32 * 64,))
    else:
        model, opt = Gpt(), adamw
        x, y = torch.randint(0, 64, (16, 128)), torch.randint(0, 64, (16 * 128,))
    if mode != "eager" and name in ("W2", "W3"):
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    model.train()
    return model, opt(model.parameters()), x, y


def training(name, mode):
    model, opt, x, y = workload(name, mode)

    def fwd(x, y):
        return F.cross_entropy(model(x), y)

    if mode == "compile":
        fwd = torch.compile(fwd)

    def step():
        opt.zero_grad(set_to_none=True)
        loss = fwd(x, y)
        loss.backward()
        opt.step()
        return loss.item()

    return step


def kernel(workload, mode):
    torch.manual_seed(0)
    if workload.startswith("K1") or workload == "P-sgemm":
        n = 2048 if workload == "P-sgemm" else int(workload.split("-")[1])
        a, b = torch.randn(n, n), torch.randn(n, n)
        f = lambda: a @ b
    elif workload == "K2":
        x, w = torch.randn(4, 64, 56, 56), torch.randn(64, 64, 3, 3)
        if mode != "eager":
            x = x.to(memory_format=torch.channels_last)
            w = w.to(memory_format=torch.channels_last)
        f = lambda: F.conv2d(x, w, padding=1)
    elif workload == "K3":
        x = torch.randn(common.N_ELEM)
        f = lambda: F.gelu(x * 1.5 + 0.25) + x
    elif workload == "K4":
        x = torch.randn(4096, 1024)
        f = lambda: torch.softmax(x, dim=1)
    elif workload == "K5":
        x = torch.randn(common.N_ELEM)
        f = lambda: x.sum()
    elif workload == "P-copy":
        x = torch.randn(64 * 1024 * 1024)
        y = torch.empty_like(x)
        f = lambda: y.copy_(x)
    if mode == "compile":
        f = torch.compile(f)

    def step():
        with torch.no_grad():
            f()

    return step


def main():
    mode, name = sys.argv[1], sys.argv[2]
    if mode not in ("eager", "tuned", "compile") or name not in common.UNITS:
        sys.exit(__doc__)
    make = training if name.startswith("W") else kernel
    common.run(
        "torch",
        f"cpu-{mode}",
        name,
        lambda: make(name, mode),
        common.UNITS[name],
        note=f"threads={torch.get_num_threads()}",
        version=torch.__version__,
    )


if __name__ == "__main__":
    main()
