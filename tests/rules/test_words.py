"""Numbers are sentences: what decides a finding is said in words before the figures."""

from __future__ import annotations

import pytest
import torch
from looks import found
from torch import nn


def one(model, code, batch=None, **options):
    (finding,) = found(model, code, batch, **options)
    (place,) = finding.layers
    return place


def test_the_momentum_is_said():
    place = one(nn.Sequential(nn.BatchNorm2d(3, momentum=0.9)), "BN205")
    assert place.told == "the newest batch weighs 90%"


def test_the_offset_is_said():
    model = nn.BatchNorm1d(4)
    model.running_mean[1:3] = torch.tensor([2000.0, 5000.0])
    assert one(model, "BN111").told == "2 of 4 channels lie at up to 5,000 standard deviations"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(4)
        nn.init.uniform_(self.bn.weight)

    def forward(self, x):
        return self.bn(x) + self.bn(3 * x + 1)


def test_the_difference_between_calls_is_said():
    place = one(Twice().eval(), "BN304", torch.randn(256, 4))
    shift, ratio = place.evidence["mean_shift"], place.evidence["var_ratio"]
    assert (shift, ratio) == (pytest.approx(1, abs=0.3), pytest.approx(9, rel=0.01))
    assert place.told == f"means differ by {shift:.2g} running standard deviations, variances {ratio:.2g} times"


def test_the_noise_of_a_batch_is_said():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    nn.init.uniform_(model[1].weight)
    place = one(model, "BN406", torch.randn(64, 4), batch_size=2)
    assert place.told == f"their noise is {place.evidence['noise']:.0%} of the variance in batches of 2"
