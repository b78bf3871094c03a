"""Five kinds of networks that train well, three seeds each, 300 steps: not one alarm."""

from __future__ import annotations

import pytest
import torch
from loops import alarms_of, block, net, step
from torch import nn


class Residual(nn.Module):
    """Blocks whose last gamma starts at 0, as zero_init_residual has it."""

    def __init__(self):
        super().__init__()
        self.first = block(3, 8)
        self.inner = nn.Sequential(block(8, 8), nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        nn.init.zeros_(self.inner[2].weight)

    def forward(self, x):
        x = self.first(x)
        return self.head(x + self.inner(x))


def separable():
    """Depthwise convolutions and ReLU6, as in mobile networks."""
    return nn.Sequential(
        block(3, 8),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 1, bias=False),
        nn.BatchNorm2d(16, momentum=0.01),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def flat():
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)
    )


class Encoder(nn.Module):
    """Reconstructs its input through a bottleneck; the labels are not looked at."""

    def __init__(self):
        super().__init__()
        self.down, self.up = (
            block(3, 8, 2),
            nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.BatchNorm2d(8, momentum=None)),
        )
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.out(torch.relu(self.up(self.down(x))))


def reconstruct(model, optimizer, images, labels):
    loss = (model(images) - images).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


NETS = {
    "convolutions": (lambda: net(0.2), step),
    "residual": (Residual, step),
    "separable": (separable, step),
    "flat": (flat, step),
    "encoder": (Encoder, reconstruct),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_nothing_is_told_of_a_network_that_trains_well(name, seed, one_thread):
    make, each = NETS[name]
    torch.manual_seed(seed)
    assert alarms_of(make(), 300, each=each) == ()
