"""Reports of noise and of recalibration are compared by the distance of their figures, and not to the bit."""

from __future__ import annotations

import copy

import msgspec
import pytest
import torch
from torch import nn

import bninspect
from bninspect.inspection.snapshot import file

replace = msgspec.structs.replace
X = 2 + torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def noise():
    return bninspect.noise(net(), X, batch_size=4, draws=5)


@pytest.fixture(scope="module")
def recalibrated():
    return bninspect.recalibrate(net(), [[X, torch.arange(24) % 3]])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).eval()


def with_layer(report, name, factor):
    (layer,) = report.layers
    return replace(report, layers=(replace(layer, **{name: getattr(layer, name) * factor}),))


@pytest.mark.parametrize("name", ["shift", "shift_p95", "scale", "scale_p95"])
def test_noise_is_compared_as_a_ratio(noise, name):
    assert bninspect.diff(noise, with_layer(noise, name, 1.009)).equal
    (found,) = bninspect.diff(noise, with_layer(noise, name, 1.2)).differences
    assert (found.what, found.path, found.field, found.unit) == ("figure", "1", name, "ratio")
    assert found.distance == pytest.approx(1.2)
    assert bninspect.diff(noise, with_layer(noise, name, 1.2), tolerance=(0, 0.21)).equal


@pytest.mark.parametrize(
    ("name", "unit", "within", "beyond"),
    [
        ("d_max_before", "std", 1.0005, 1.01),
        ("r_min_before", "ratio", 1.009, 1.02),
        ("r_max", "ratio", 0.995, 0.98),
    ],
)
def test_recalibration_is_compared_by_distances(recalibrated, name, unit, within, beyond):
    assert bninspect.diff(recalibrated, with_layer(recalibrated, name, within)).equal
    (found,) = bninspect.diff(recalibrated, with_layer(recalibrated, name, beyond)).differences
    assert (found.field, found.unit) == (name, unit)


def test_shares_of_predictions_are_compared_as_they_are(noise, recalibrated):
    for report, name in ((noise, "disagreement"), (recalibrated, "accuracy"), (recalibrated, "changed")):
        for added, equal in ((0.0009, True), (0.002, False)):
            predictions = replace(report.predictions, **{name: getattr(report.predictions, name) + added})
            found = bninspect.diff(report, replace(report, predictions=predictions))
            assert found.equal == equal
            if not equal:
                assert [(one.field, one.unit) for one in found.differences] == [(f"predictions.{name}", "share")]


def test_what_is_counted_or_set_is_compared_exactly(noise, recalibrated):
    for report, name in ((noise, "positions"), (recalibrated, "count"), (noise, "calls")):
        (found,) = bninspect.diff(report, with_layer(report, name, 2)).differences
        assert (found.field, found.unit) == (name, None)
    assert not bninspect.diff(noise, replace(noise, batch_size=5)).equal
    assert not bninspect.diff(recalibrated, replace(recalibrated, how="train")).equal
    assert bninspect.diff(recalibrated, replace(recalibrated, output="elsewhere.pt")).equal


def test_a_stored_report_of_the_api_holds_no_vectors(noise, recalibrated, tmp_path):
    for report in (noise, recalibrated):
        path = tmp_path / "report.json"
        file.save(path, report)
        back = file.load(path)
        assert all(layer.channels is None for layer in back.layers)
        assert bninspect.diff(back, report, tolerance=(0, 0)).equal
        assert bninspect.diff(back, copy.deepcopy(report), tolerance=(0, 0)).equal
