"""Makes the fixtures of src/torch/tests.rs: the same contents in both forms of torch.save. PyTorch 2.15."""
from collections import OrderedDict

import torch

base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
state = OrderedDict(
    conv=base,
    turned=base.permute(2, 0, 1),
    part=base[1, 1:, ::2],
    half=torch.tensor([1.5, -2.0]).half(),
    brain=torch.tensor([1.5, -2.0]).bfloat16(),
    double=torch.tensor([0.5, -1e3], dtype=torch.float64),
    count=torch.tensor(7),
    bytes=torch.tensor([0, 255], dtype=torch.uint8),
    empty=torch.zeros(0, 3),
    parameter=torch.nn.Parameter(torch.ones(2)),
)
checkpoint = {"model": state, "epoch": 3, "note": "text", "rates": [0.1, (1, None, True)], "big": 2**70, "small": -5}
torch.save(checkpoint, "archive.pth")
torch.save(checkpoint, "legacy.pth", _use_new_zipfile_serialization=False)
