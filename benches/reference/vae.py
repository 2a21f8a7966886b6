"""Twin of examples/vae.rs: a variational autoencoder."""
import torch
from torch import nn
from torch.nn import functional as F

import common

options = common.arguments()
data = common.read(options.data)
x = data["train.x"]


def dense(i, o):
    return nn.Sequential(nn.Linear(i, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, o))


encoder, decoder = dense(784, 32), dense(16, 784)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)


def loss_of(x):
    mean, log_variance = encoder(x).chunk(2, 1)
    code = mean + torch.randn_like(mean) * (log_variance * 0.5).exp()
    seen = F.binary_cross_entropy_with_logits(decoder(code), x, reduction="sum")
    return (seen + 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()) / len(x)


for _ in range(20):
    for batch in common.batches(len(x), 128):
        optimizer.zero_grad()
        loss_of(x[batch]).backward()
        optimizer.step()
with torch.no_grad():
    common.result("negative ELBO, nats an image", loss_of(data["test.x"]).item())
