"""BN211: an eps that is not that of training, and small variances beside which any eps counts."""

from __future__ import annotations

import copy

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from looks import found
from torch import nn
from torchvision.models import resnet18

import bninspect
from bninspect.inspection.check.batch_mode import change
from bninspect.observe.layers import batchnorms

IMAGES = (3, 16, 16)
pytestmark = pytest.mark.usefixtures("one_thread")


def with_eps(model, eps):
    model = copy.deepcopy(model)
    for module in batchnorms(model).values():
        module.eps = eps
    return model


def network(eps, scale, depth=4):
    """Healthy with this eps: inputs of this scale, and filters as small."""
    torch.manual_seed(0)
    layers = []
    for index in range(depth):
        layers += [nn.Conv2d(8 if index else 3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, eps=eps), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    for module in model:
        if isinstance(module, nn.Conv2d):
            module.weight.data *= scale
    return calibrate(train_a_little(model), smooth(256, *IMAGES, seed=1))


@pytest.fixture(scope="module")
def small():
    """As weights of TensorFlow are, and of networks with much weight decay: all variances are about 1e-3."""
    return network(1e-3, 0.1)


@pytest.fixture(scope="module")
def batch():
    return smooth(64, *IMAGES, seed=2)


def warnings(model, x):
    return [finding for finding in found(model, "BN211", x) if finding.severity == "warning"]


def test_bn211_hits_weights_that_were_trained_with_another_eps(small, batch):
    wrong = with_eps(small, 1e-5)
    (finding,) = warnings(wrong, batch)
    assert finding.message.startswith("the layers fit the data with another eps: 0.001")
    with torch.no_grad():
        changed, _ = change(wrong(batch).unsqueeze(2), small(batch).unsqueeze(2))
    assert finding.evidence["disagreement"] == pytest.approx(changed)
    assert changed > 0.1
    assert f"{changed:.0%} of the predictions change" in finding.told
    assert finding.evidence["distance_before"] == pytest.approx(farthest(wrong, batch), rel=1e-3)
    assert finding.evidence["distance_after"] == pytest.approx(farthest(small, batch), rel=1e-3)


def farthest(model, x):
    """Slowly: of the layers behind the first, the greatest median distance, with the eps that each has."""
    distances = []
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
            apart = (mean - module.running_mean) ** 2 + (var.sqrt() - module.running_var.double().sqrt()) ** 2
            distances.append((apart / module.running_var).quantile(0.5))
        with torch.no_grad():
            x = module(x)
    return float(max(distances[1:]))


def test_bn211_hits_an_eps_that_is_too_large(batch):
    healthy = network(1e-5, 0.05)
    (finding,) = warnings(with_eps(healthy, 1e-3), batch)
    assert "1e-05" in finding.message
    assert not warnings(healthy, batch)
    tiny = network(1e-5, 0.01)  # a distance in units of what is divided by would hide in the eps
    assert warnings(with_eps(tiny, 1e-3), batch)
    assert not warnings(tiny, batch)


def test_bn211_misses_shifts_of_the_data(small, batch):
    noisy = batch + 0.3 * torch.randn(batch.shape, generator=torch.Generator().manual_seed(0))
    blurred = nn.functional.avg_pool2d(batch, 3, 1, 1)
    for x in (batch, 0.7 * batch, 1.4 * batch, batch + 0.3, noisy, blurred):
        assert not warnings(small, x)


def test_bn211_misses_large_variances_whatever_the_eps(batch):
    healthy = network(1e-5, 1)
    for eps in (1e-3, 1e-5):
        assert not found(with_eps(healthy, eps), "BN211", batch)


def test_bn211_tells_what_eps_decides_where_there_is_no_data(small):
    (finding,) = found(small, "BN211", None)
    assert (finding.severity, finding.message) == ("info", "eps decides the scale of the output")
    for place in finding.layers:
        bn = small.get_submodule(place.path)
        below = torch.nonzero(bn.running_var < 10 * bn.eps).flatten().tolist()
        assert list(place.channels) == below
        assert place.told == f"{len(below)} of 8 channels have a running_var below 10 eps"
    assert not found(with_eps(small, 1e-6), "BN211", None)
    assert not found(resnet18(), "BN211", None)


def test_bn211_explains_layers_and_predictions_that_are_off(small, batch):
    wrong = with_eps(small, 1e-5)
    report = bninspect.check(wrong, batch)
    assert {finding.code: finding.explained_by for finding in report.findings if finding.severity != "info"} == {
        "BN211": (),
        "BN401": ("BN211",),
        "BN404": ("BN211",),
    }
    absent = bninspect.check(wrong, batch, ignore=["BN211"])
    assert not any(finding.explained_by for finding in absent.findings)


def test_no_other_eps_is_tried_on_a_healthy_network(small, batch):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small

        def forward(self, x):
            images.append(0 if x.is_meta else len(x))
            return self.inner(x)

    images = []
    bninspect.check(Counting(), batch, select=["BN211"])
    assert sum(images) == 64
