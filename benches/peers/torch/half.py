"""How far 16 bits part from f32 in PyTorch itself, for `benches/src/bin/half.rs` to be compared with.

  half.py W2|W3 [STEPS]

The same net, optimiser and data (the embedded part of Fashion-MNIST, for W3 in three channels with a border), another
order and other first weights. f16 and bf16 are torch.autocast on the CPU, f16 with a GradScaler; "reversed" is f32 over
batches in reverse order, which is another order of all sums over them. Figures are means of 50 steps.
"""
import gzip
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import bench

DATA = Path(__file__).resolve().parents[3] / "data/fashion-mnist"


def read(name, head):
    with gzip.open(DATA / name) as file:
        return torch.frombuffer(bytearray(file.read()[head:]), dtype=torch.uint8)


def run(workload, steps, half, turned):
    torch.manual_seed(1)
    x = (read("train-images-idx3-ubyte.gz", 16).float().reshape(-1, 1, 28, 28) / 255 - 0.29) / 0.35
    y = read("train-labels-idx1-ubyte.gz", 8).long()
    size, net = (64, bench.LeNet()) if workload == "W2" else (32, bench.ResNet())
    if workload == "W3":
        x = F.pad(x, (2, 2, 2, 2), value=-0.29 / 0.35).expand(-1, 3, -1, -1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=half is torch.float16, init_scale=1024.0)
    losses = []
    while len(losses) < steps:
        order = torch.randperm(len(y))
        for batch in order[: len(y) // size * size].split(size):
            batch = batch.flip(0) if turned else batch
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
                logits = net(x[batch])
            loss = F.cross_entropy(logits.float(), y[batch])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    return torch.tensor(losses[:steps]).split(50)


def main():
    workload, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300
    exact = None
    for name, half, turned in [
        ("f32", None, False),
        ("reversed", None, True),
        ("f16", torch.float16, False),
        ("bf16", torch.bfloat16, False),
    ]:
        means = torch.stack([window.mean() for window in run(workload, steps, half, turned)])
        exact = means if exact is None else exact
        off = 100 * (means / exact - 1).abs().max()
        print(f"{name:9}{' '.join(f'{m:.4f}' for m in means.tolist())}  at most {off:.2f} % off", flush=True)


main()
