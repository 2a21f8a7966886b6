"""What the PyTorch twins of the examples share: the arrays that an example wrote with --dump, batches, and the result line."""
import argparse
import json
import math
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("PEER_THREADS", "2"))

import numpy as np
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

START = time.time()


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", help="what the example wrote with --dump")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    return options


def read(path):
    """The arrays of a safetensors file of f32."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        body = file.read()
    arrays = {}
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            values = np.frombuffer(body[start:end], dtype="<f4").reshape(about["shape"])
            arrays[name] = torch.from_numpy(values.copy())
    return arrays


def batches(samples, batch):
    """An epoch in random order; the last batch may be short."""
    return torch.randperm(samples).split(batch)


def cosine(optimizer, base, step, steps, floor=0.0):
    """Sets the rate of this step, as versant::nn::Schedule::cosine does."""
    rate = max(floor, base * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))
    for group in optimizer.param_groups:
        group["lr"] = rate


def warmup_cosine(optimizer, base, step, warmup, total):
    """The same for versant::nn::Schedule::warmup_cosine."""
    if step < warmup:
        rate = base * (step + 1) / warmup
    else:
        rate = base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = rate


def result(metric, value):
    print(f"result: {metric} = {value:.4f} after {time.time() - START:.1f} s on PyTorch {torch.__version__}", flush=True)
