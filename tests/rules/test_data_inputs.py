"""BN402 for inputs of every kind: sound, tables, spectra, grey and transparent images, channels last."""

from __future__ import annotations

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from looks import found, look
from torch import nn

MEAN, STD = (torch.tensor(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def sound(samples, seed, length=256):
    """Sound of every loudness, in [-1, 1]."""
    x = smooth(samples, 1, length, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return (0.05 * torch.exp(torch.randn(samples, 1, 1, generator=generator)) * x).clamp(-1, 1)


def own(x):
    """Each sample standardised."""
    axes = tuple(range(1, x.dim()))
    return (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True)


def grey(images, seed):
    return 0.5 + 0.15 * smooth(images, 1, 16, 16, seed=seed)


def tinted(images, seed):
    tint = torch.tensor([2.0, 1.0, 0.3, 0.1]).view(4, 1, 1)
    return tint * smooth(images, 4, 16, 16, seed=seed) + tint


def last(images, seed):
    return (0.5 + 0.2 * smooth(images, 3, 16, 16, seed=seed)).permute(0, 2, 3, 1)


def table(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator) * torch.tensor([1.0, 50, 3, 0.01, 7, 200]) + 9


def spectra(samples, seed):
    return torch.exp(2 * smooth(samples, 4, 64, seed=seed))


class Last(nn.Module):
    """Images that arrive as [N, H, W, C]."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn(self.conv(x.permute(0, 3, 1, 2)))


def conv1d(channels):
    return lambda: nn.Sequential(nn.Conv1d(channels, 8, 9, bias=False), nn.BatchNorm1d(8), nn.ReLU())


def conv2d(channels):
    return lambda: nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


def linear():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())


def identity(x):
    return x


CASES = {
    "sound standardised by itself": (conv1d(1), sound, own, identity, "standardise each sample"),
    "sound of 16 bits": (conv1d(1), sound, identity, lambda x: x * 32768, "divide by 32768"),
    "sound without its bits": (conv1d(1), sound, lambda x: x * 32768, identity, "multiply by 32768"),
    "grey bytes": (conv2d(1), grey, identity, lambda x: x * 255, "divide by 255"),
    "grey digits": (conv2d(1), grey, lambda x: (x - 0.1307) / 0.3081, identity, "subtract MNIST"),
    "four colours": (conv2d(4), tinted, identity, lambda x: x[:, [2, 1, 0, 3]], "swap RGB and BGR"),
    "channels last": (Last, last, lambda x: (x - MEAN) / STD, identity, "subtract ImageNet"),
    "channels last in bytes": (Last, last, lambda x: (x - MEAN) / STD, lambda x: 255 * x, "divide by 255, then Image"),
    "a table": (linear, table, lambda x: (x - x.mean(0)) / x.std(0), identity, "standardise each feature"),
    "spectra": (conv1d(4), spectra, torch.log, identity, "take the logarithm"),
    "spectra with zeros": (conv1d(4), lambda n, seed: spectra(n, seed).sub(1).relu(), torch.log1p, identity,
                           "take the logarithm of 1 + x"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bn402_hits_what_was_left_out_before_any_kind_of_network(name):
    make, data, trained, given, cure = CASES[name]
    torch.manual_seed(0)
    model = calibrate(train_a_little(make()), trained(data(256, seed=1)))
    assert not found(model, "BN402", trained(data(64, seed=2)))
    (finding,) = found(model, "BN402", given(data(64, seed=2)))
    assert finding.message.partition(": ")[2].startswith(cure)
    assert finding.evidence["distance_after"] < 0.25
    assert finding.severity == "warning"
    assert ("a shift of the domain looks the same" in finding.fix) == cure.startswith("standardise")
    few = found(model, "BN402", given(data(8, seed=2)))
    assert {finding.severity for finding in few} <= {"info"}


@pytest.mark.parametrize(("make", "data"), [(conv1d(1), sound), (conv2d(1), grey), (linear, table), (Last, last)])
def test_bn402_misses_statistics_that_no_input_has(make, data):
    """The layer's own statistics were spoiled: nothing that is done to the input puts them right."""
    torch.manual_seed(0)
    model = calibrate(train_a_little(make()), data(256, seed=1))
    norm = next(module for module in model.modules() if hasattr(module, "running_var"))
    norm.running_var *= torch.logspace(-3, 3, 8)
    norm.running_mean += 3 * torch.randn(8) * norm.running_var.sqrt()
    report = look(model, "BN402", data(64, seed=2))
    assert not report.findings
    assert not report.silent


class Strict(nn.Module):
    """Refuses what is not in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        if x.min() < 0 or x.max() > 1:
            raise ValueError("pixels are in [0, 1]")
        return self.bn(x)


def test_changes_that_the_model_refuses_are_left_out():
    x = torch.rand(64, 3, 8, 8)
    model = calibrate(train_a_little(Strict()), x / 255)
    (finding,) = found(model, "BN402", x)
    assert finding.message.endswith(": divide by 255")
