"""A small network and made-up images of four kinds; `bninspect demo DIR` puts this file into DIR."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def net() -> nn.Module:
    """Two convolutions with BatchNorm. Its momentum is the fault: in 120 steps the averages get nowhere."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16, momentum=0.001),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, bias=False),
        nn.BatchNorm2d(32, momentum=0.001),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def images(count: int, seed: int) -> TensorDataset:
    """Images ``[count, 3, 16, 16]`` with stripes in one of four directions, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    angle = labels.view(-1, 1, 1) * torch.pi / 4
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    phase = 6 * torch.rand(count, 1, 1, generator=generator)
    stripes = torch.sin(1.2 * (x * torch.cos(angle) + y * torch.sin(angle)) + phase)
    light = 1 + torch.rand(count, 3, 1, 1, generator=generator)
    noise = torch.randn(count, 3, 16, 16, generator=generator)
    return TensorDataset(light * (2 + 0.2 * stripes[:, None]) + 0.1 * noise, labels)


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    """Images that were not trained on, and their labels."""
    return DataLoader(images(256, seed=1), batch_size=64)
