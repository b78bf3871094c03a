"""Small networks that are really taught, in a second or two, and the images that they are taught on."""

from __future__ import annotations

import copy

import torch
from torch import nn


def pink(images, seed, size=16):
    """Images with a spectrum of 1/f, four classes: which of two colours is brighter, which half in the third one."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(size).abs()
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    radius[0, 0] = 1 / size
    x = torch.fft.ifft2(torch.fft.fft2(torch.randn(images, 3, size, size, generator=generator)) / radius).real / 12
    brighter, upper = x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2)), x[:, 2, :8].mean((1, 2)) > x[:, 2, 8:].mean((1, 2))
    return x, 2 * brighter + 1 * upper


def gratings(images, seed, classes=8, size=12, vary=0.5):
    """Gratings of as many directions, of any phase; contrast and brightness vary."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (images,), generator=generator)
    angle, line = (y * torch.pi / classes)[:, None, None], torch.arange(size).float()
    phase = 6.3 * torch.rand(images, 1, 1, generator=generator)
    wave = torch.sin(1.2 * (torch.cos(angle) * line[:, None] + torch.sin(angle) * line) + phase)[:, None]
    noise = 0.3 * torch.randn(images, 3, size, size, generator=generator)
    light, contrast = torch.randn(2, images, 1, 1, 1, generator=generator)
    return torch.exp(vary * contrast) * (wave + noise + vary * light), y


def network(classes, depth=2, width=16):
    layers = []
    for index in range(depth):
        layers += [nn.Conv2d(width if index else 3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def train(model, data, steps, *, size=32, singly=False):
    """Teach a network; ``singly``: in batches of one image, whose gradients are gathered."""
    x, y = data(3200, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(0, len(x), (size,), generator=generator)
        optimizer.zero_grad()
        for part in chosen.split(1 if singly else size):
            loss = nn.functional.cross_entropy(model.train()(x[part]), y[part])
            (loss * len(part) / size).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def shifted(model, by):
    """Gamma of another convention: stored as the difference from 1, or read as if it were."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data += by
    return model


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def recalibrated(model, x):
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(x)
    return model.eval()
