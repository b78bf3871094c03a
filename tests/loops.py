"""Small networks, and loops that train them; what is random in them comes from torch's own generator."""

from __future__ import annotations

import json
import warnings

import torch
from torch import nn

import bninspect
from bninspect.errors import WatchWarning


def block(into, out, stride=1):
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def net(dropout=0.0):
    """Two blocks and a linear layer; its BatchNorm layers are ``0.1`` and ``1.1``."""
    return nn.Sequential(
        block(3, 8), block(8, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 4)
    )


def batch(size=8):
    """Images of four kinds, which differ by their brightness in one corner, and their labels."""
    labels = torch.randint(4, (size,))
    images = torch.randn(size, 3, 8, 8)
    images[:, :, :4, :4] += labels.view(-1, 1, 1, 1)
    return images, labels


def step(model, optimizer, images, labels):
    """One step as everyone does it."""
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def alarms_of(model, steps, act=None, *, lr=0.05, each=step, **options):
    """Train for so many steps; ``act`` is called before each with its number. Alarms, by code and step."""
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WatchWarning)
        warnings.filterwarnings("error", message="the watch ends at step")
        with bninspect.watch(model, optimizer, **options) as watch:
            for number in range(1, steps + 1):
                if act is not None:
                    act(number)
                each(model, optimizer, *batch())
    return watch.alarms


def told(alarms):
    """``{"BN501": (step, paths)}`` of the first of each code."""
    first = {}
    for alarm in alarms:
        first.setdefault(alarm.code, (alarm.step, [place.path for place in alarm.layers]))
    return first


def broken_run(path):
    """A record whose bytes are the same each time: 60 steps, of which the 37th overflows, at a hundred a second."""
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WatchWarning)
        with bninspect.watch(model, optimizer, every=20, to=path):
            for number in range(1, 61):
                images, labels = batch()
                step(model, optimizer, images, labels)
                if number == 36:
                    model[1][1].running_var[3] = torch.inf
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line | {"time": line["step"] / 100}) + "\n" for line in lines))
