"""What comparisons compare: a small network, its batch, and reports and layers that differ in one place."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import nn

from bninspect.layers import BatchNormLayer

replace = msgspec.structs.replace


def network(seed=0, eps=1e-3):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=eps), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )
    for layer in (model[1], model[4]):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias)
    return model


def batch():
    return torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def with_channel(report, name, channel, value, layer=0):
    """The report with one number of one vector of one layer set."""
    old = report.layers[layer]
    vector = getattr(old.channels, name).copy()
    vector[channel] = value
    new = replace(old, channels=replace(old.channels, **{name: vector}))
    return replace(report, layers=tuple(new if each is old else each for each in report.layers))


def fields(found):
    return [(each.what, each.path, each.field) for each in found.differences]


def without_channels(report):
    return replace(report, layers=tuple(replace(layer, channels=None) for layer in report.layers))


def layers_of(*names_and_sizes):
    return [
        BatchNormLayer(
            path=name, kind="BatchNorm2d", num_features=size, running_mean=np.zeros(size), running_var=np.ones(size)
        )
        for name, size in names_and_sizes
    ]
