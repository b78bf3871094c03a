"""Against what others compute on the cases where they fail: torch's update_bn, and the formula of fvcore."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import bninspect

pytestmark = pytest.mark.usefixtures("one_thread")


def fvcore(batches):
    """``_PopulationVarianceEstimator`` of fvcore's precise_bn.py: E[x^2] - E[x]^2 in float32, weighted by images."""
    total, mean, square = 0, 0.0, 0.0
    for x in batches:
        m, v = x.mean(0), x.var(0, correction=0)
        total += len(x)
        mean = mean + (m - mean) * (len(x) / total)
        square = square + (v + m * m - square) * (len(x) / total)
    return mean, square - mean * mean


def truth(batches):
    x = torch.cat(batches).double()
    return x.mean(0), x.var(0, correction=0)


def ours(batches):
    layer = nn.BatchNorm1d(batches[0].shape[1])
    bninspect.recalibrate(layer, batches)
    return layer.running_mean.double(), layer.running_var.double()


def torchs(batches):
    layer = nn.BatchNorm1d(batches[0].shape[1])
    update_bn(batches, layer)
    return layer.running_mean.double(), layer.running_var.double()


def heterogeneous():
    return [torch.randn(64, 3) + shift for shift in (-10.0, -5.0, 0.0, 5.0, 10.0)]


def short_last():
    return [torch.randn(64, 3), torch.randn(64, 3), torch.randn(2, 3) * 8 + 12]


def far_from_zero():
    return [torch.randn(256, 3) * torch.tensor([1.0, 0.1, 0.01]) + 1e3 for _ in range(8)]


CASES = {
    "heterogeneous": (heterogeneous, torchs),
    "short last": (short_last, torchs),
    "far from zero": (far_from_zero, fvcore),
}


@pytest.mark.parametrize("name", CASES)
def test_exact_where_another_is_not(name):
    make, other = CASES[name]
    batches = make()
    mean, var = truth(batches)
    found_mean, found_var = ours(batches)
    torch.testing.assert_close(found_mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_var, var, rtol=1e-5, atol=0)
    _, theirs = other(batches)
    assert ((theirs.double() - var).abs() / var).max() > 0.5  # the case is one where that formula fails


@pytest.mark.parametrize("name", ["heterogeneous", "short last"])
def test_equal_to_fvcore_where_that_is_right(name):
    batches = CASES[name][0]()
    for found, expected in zip(ours(batches), fvcore(batches), strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_equal_to_update_bn_on_equal_batches_of_one_distribution():
    batches = [torch.randn(512, 3) * 2 + 1 for _ in range(8)]
    for found, expected in zip(ours(batches), torchs(batches), strict=True):
        torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


def test_dropout_is_off():
    """Training mode doubles the variance that evaluation sees."""
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    batches = [torch.randn(512, 4) for _ in range(4)]
    other = copy.deepcopy(net)
    update_bn(batches, other)
    for how in ("fixed-point", "sequential", "train"):
        bninspect.recalibrate(net, batches, how=how)
        torch.testing.assert_close(net[1].running_var.double(), truth(batches)[1], rtol=1e-5, atol=0)
    assert (other[1].running_var > 1.8).all()


def test_frozen_and_unused_layers_stay():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.unused, self.used = (nn.BatchNorm1d(3) for _ in range(3))

        def forward(self, x):
            return self.used(self.frozen(x))

    net, batches = Net(), heterogeneous()
    net.frozen.running_mean.fill_(2.0)
    net.unused.running_mean.fill_(3.0)
    net.frozen.eval()
    other = copy.deepcopy(net)
    update_bn(batches, other)
    bninspect.recalibrate(net, batches)
    assert net.frozen.running_mean.tolist() == [2.0] * 3
    assert net.unused.running_mean.tolist() == [3.0] * 3
    assert not net.frozen.training
    assert other.frozen.running_mean.tolist() != [2.0] * 3
    assert other.unused.running_mean.tolist() == [0.0] * 3
