"""One rule's look at one batch, and the network on smooth images that most of the rules on data look at."""

from __future__ import annotations

import torch
from healthy import calibrate, smooth, train_a_little
from torch import nn

import bninspect

IMAGES = (3, 24, 24)


def network(depth=8, width=16):
    """Convolutions with BatchNorm and ReLU, and a classifier; healthy on smooth images."""
    torch.manual_seed(0)
    layers = []
    for index in range(depth):
        layers += [nn.Conv2d(width if index else 3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return calibrate(train_a_little(model), smooth(256, *IMAGES, seed=1))


def look(model, code, batch, **options):
    return bninspect.check(model, batch, select=[code], **options)


def found(model, code, batch, **options):
    return look(model, code, batch, **options).findings


def reason(report):
    (silent,) = report.silent
    return silent.reason
