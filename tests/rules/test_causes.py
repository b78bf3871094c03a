"""What is to blame: the cause that a finding names is the one that the numbers support."""

from __future__ import annotations

import math

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from looks import found, reason
from torch import nn

import bninspect
from bninspect.models.stored.reading import read


def without_variance():
    """Channel 3 got a constant in training, and gamma is as good as in any other."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    calibrate(train_a_little(model), smooth(64, 3, 8, 8))
    model[1].running_var[3] = 0
    return model


def test_bn107_misses_a_channel_without_variance_and_bn106_hits_it():
    model = without_variance()
    model[1].weight.data[3] = 13.0  # published networks have such
    assert not found(model, "BN107", None)
    (finding,) = found(model, "BN106", None)
    assert (finding.severity, finding.channels) == ("info", (3,))
    assert finding.message.endswith("(running_var is 0)")
    model[1].weight.data[3] = 1e-8
    (finding,) = found(model, "BN107", None)
    assert finding.channels == (3,)


def test_bn106_hits_a_variance_of_zero_in_a_file_that_holds_no_eps(tmp_path):
    model = without_variance()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    report = bninspect.check(read(str(tmp_path / "m.pt")).layers, select=["BN106"])
    assert [(finding.severity, finding.channels) for finding in report.findings] == [("info", (3,))]
    assert "eps" not in report.findings[0].evidence
    assert "only variances of exactly 0" in reason(report)
    model[1].running_var[3] = 1e-9  # as little may be much, beside an eps that is not known
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert not bninspect.check(read(str(tmp_path / "m.pt")).layers, select=["BN106"]).findings


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_bn410_tells_the_gain_of_the_layer(eps):
    model = calibrate(train_a_little(nn.Sequential(nn.BatchNorm2d(3, eps=eps))), smooth(64, 3, 8, 8))
    x = smooth(64, 3, 8, 8)
    x[:, 1] = 0.7
    (finding,) = found(model, "BN410", x)
    assert finding.evidence["gain"] == pytest.approx(1 / math.sqrt(eps))
    assert "316" not in finding.why + finding.message


def test_bn308_hits_folding_that_overflows_without_an_infinite_number():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).half().eval()
    nn.init.uniform_(model[1].weight, 50_000, 60_000)
    model[1].running_var.fill_(1e-7)
    (finding,) = found(model, "BN308", torch.zeros(8, 3, 8, 8).half())
    assert finding.message == "folding leaves the range of the layer's numbers"
    assert finding.evidence == {}
