"""BN4xx: what data show, in networks whose faults are made as they are made in practice."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from healthy import build, calibrate, smooth, train_a_little
from looks import IMAGES, found, look, network, reason
from torch import nn

import bninspect
from bninspect.report import Source


def test_bn401_hits_pixels_where_unit_images_were_trained():
    model, x = network(), 255 * smooth(64, *IMAGES, seed=2)
    (finding,) = found(model, "BN401", x)
    assert (finding.severity, finding.path, len(finding.layers)) == ("error", "1", 8)
    stats = {layer.path: layer for layer in bninspect.stats(model, x).layers}
    for place in finding.layers:
        numbers = {name: value for name, value in place.evidence.items() if hasattr(stats[place.path], name)}
        assert numbers == {name: getattr(stats[place.path], name) for name in numbers}
        assert set(numbers) == {"d_max", "d_median", "r_median", "z_max"}


def heavy(images):
    """One value per image and channel with a heavy tail that all channels share, as a pooled branch has."""
    tail = torch.distributions.StudentT(2.0).sample((images, 1)) * torch.linspace(0.5, 1.5, 16)
    return tail + 0.1 * torch.randn(images, 16)


def test_bn401_misses_samples_in_which_the_rare_images_are_missing():
    """Errors from the sample's own spread would hit a third of these."""
    model = calibrate(train_a_little(nn.Sequential(nn.BatchNorm1d(16))), heavy(5000))
    hits = [bool(found(model, "BN401", heavy(64))) for _ in range(50)]
    assert sum(hits) <= 1
    assert found(model, "BN401", 3 * heavy(64) + 20)


def test_bn401_takes_the_error_of_a_mean_from_running_var_where_that_is_larger():
    model, x = train_a_little(nn.Sequential(nn.BatchNorm1d(16))), torch.randn(40, 16)
    calibrate(model, x)
    model[0].running_mean += 0.6 * 3
    model[0].running_var *= 9  # 0.6 deviations: 11 errors by the images, and 3.8 by running_var
    assert min(abs(bninspect.stats(model, x).layers[0].channels.z)) > 9
    assert not found(model, "BN401", x)
    assert found(model, "BN401", x.repeat(4, 1) + 0.1 * torch.randn(160, 16))


def test_bn401_is_certain_by_the_errors_of_its_definition():
    model, x = network(), smooth(40, *IMAGES, seed=2)
    model[1].running_var[:3] *= torch.tensor([50, 0.2, 2.2])
    model[1].running_mean[3:5] += torch.tensor([3.0, 0.4]) * model[1].running_var[3:5].sqrt()
    finding = found(model, "BN401", x)[0]
    with torch.no_grad():
        images = model[0](x).double()
    rm, rv, eps = model[1].running_mean.double(), model[1].running_var.double(), model[1].eps
    expected = []
    for channel in range(16):
        values = images[:, channel]
        inside = (values - rm[channel]).square().mean((1, 2))
        square, error = inside.mean(), inside.std(correction=1) / 40**0.5
        grown = max(1.0, float(rv[channel] / square))
        z_square = abs(square - rv[channel]) / (error * grown)
        mean_error = values.mean((1, 2)).std(correction=1) / 40**0.5
        r = float(((values.var(correction=0) + eps) / (rv[channel] + eps)).sqrt())
        d = abs(values.mean() - rm[channel]) / (rv[channel] + eps).sqrt()
        z_mean = abs(values.mean() - rm[channel]) / mean_error * min(1, r)
        if (z_mean > 5 and d > 0.5) or (z_square > 5 and not 2 / 3 <= r <= 1.5):
            expected.append((channel, float(z_square)))
    assert finding.channels == tuple(channel for channel, _ in expected)
    assert 0 < len(expected) < 16
    assert finding.evidence["z_square_max"] == pytest.approx(max(value for _, value in expected), rel=0.05)


def test_bn401_warns_of_a_shifted_layer():
    model = network()
    model[10].running_mean += 0.8 * model[10].running_var.sqrt()
    report = look(model, "BN401", smooth(64, *IMAGES, seed=2))
    assert report.findings[0].path == "10"
    assert report.findings[0].severity == "warning"


def test_bn401_misses_new_images_of_the_same_kind_and_only_tells_of_few():
    model = network()
    assert not found(model, "BN401", smooth(64, *IMAGES, seed=2))
    assert {finding.severity for finding in found(model, "BN401", 255 * smooth(16, *IMAGES))} == {"info"}


def test_bn401_misses_frozen_layers_that_hold_everything_in_weight_and_bias():
    from torchvision.ops import FrozenBatchNorm2d

    frozen = FrozenBatchNorm2d(16)
    frozen.weight.uniform_(0.5, 1.5)
    model = nn.Sequential(*network()[:3], nn.Conv2d(16, 16, 3), frozen)
    assert not found(model, "BN401", smooth(64, *IMAGES, seed=2))


def unnormalised(x):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return x * std + mean


@pytest.mark.parametrize(
    ("spoil", "cure"),
    [
        (unnormalised, "subtract ImageNet's mean and divide by its standard deviation"),
        (lambda x: 255 * x, "divide by 255"),
        (lambda x: 255 * unnormalised(x), "divide by 255, then ImageNet's mean and standard deviation"),
    ],
)
def test_bn402_hits_a_forgotten_normalisation(spoil, cure):
    (finding,) = found(network(), "BN402", spoil(smooth(64, *IMAGES, seed=2)))
    assert (finding.severity, finding.path) == ("warning", None)
    assert finding.message.endswith(f": {cure}")
    assert finding.evidence["distance_after"] * 4 < finding.evidence["distance_before"]


def test_bn402_hits_swapped_colours():
    tint = torch.tensor([2.0, 1.0, 0.3]).view(3, 1, 1)
    model = calibrate(train_a_little(network()), tint * smooth(256, *IMAGES, seed=1) + tint)
    x = tint * smooth(64, *IMAGES, seed=2) + tint
    assert not found(model, "BN402", x)
    (finding,) = found(model, "BN402", x.flip(1))
    assert finding.message.endswith(": swap RGB and BGR")


def test_bn402_measures_more_than_the_mean():
    """The distance of the means alone would be put right by dividing the images away."""
    model = calibrate(train_a_little(network()), smooth(256, *IMAGES, seed=1))
    report = look(model, "BN402", 12 * smooth(64, *IMAGES, seed=2))
    assert "divide by 255" not in "".join(finding.message for finding in report.findings)


def test_bn402_misses_a_fault_further_in_and_other_input():
    model = network()
    model[10].running_mean += 3
    report = look(model, "BN402", smooth(64, *IMAGES, seed=2))
    assert not report.findings
    assert "first layer fits" in reason(report)
    model[1].reset_running_stats()
    assert "those of a new layer" in reason(look(model, "BN402", smooth(64, *IMAGES, seed=2)))
    ids = torch.randint(0, 9, (64, 7))
    model = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.BatchNorm1d(35))
    train_a_little(model)[2].running_mean += 9
    assert "floats alone" in reason(look(model, "BN402", ids))


def test_bn403_misses_healthy_networks_and_another_domain():
    model = network()
    assert not found(model, "BN403", smooth(64, *IMAGES, seed=2))
    assert not found(model, "BN403", 10 * smooth(64, *IMAGES, seed=2))
    assert "needs 6 layers" in reason(look(network(depth=3), "BN403", smooth(64, *IMAGES)))


def test_bn404_hits_weights_that_went_on_without_their_statistics():
    model = network()
    for module in model:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    (finding,) = found(model, "BN404", smooth(64, *IMAGES, seed=2))
    assert (finding.severity, finding.path) == ("warning", None)
    assert finding.evidence["disagreement"] > 0.1
    batch = smooth(64, *IMAGES, seed=2)
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        running = twin(batch).argmax(1)
        for module in twin:
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        halves = torch.empty(64, dtype=torch.long)
        halves[0::2], halves[1::2] = twin(batch[0::2]).argmax(1), twin(batch[1::2]).argmax(1)
    assert finding.evidence["disagreement"] == pytest.approx(float((running != halves).float().mean()), abs=1 / 64)


def test_bn404_misses_healthy_networks_and_small_batches():
    assert not found(network(), "BN404", smooth(64, *IMAGES, seed=2))
    report = look(network(), "BN404", smooth(8, *IMAGES, seed=2))
    assert not report.findings
    assert "too small" in reason(report)
    report = look(network(), "BN404", smooth(64, *IMAGES, seed=2), batch_size=8)
    assert not report.findings


def sequences(lengths, total=100):
    x = torch.randn(len(lengths), 4, total)
    for row, length in zip(x, lengths, strict=True):
        row[:, length:] = 0
    return x


def speech():
    model = nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
    return calibrate(train_a_little(model), sequences([100] * 64))


def test_bn409_hits_padded_sequences():
    lengths = [30 + 2 * index for index in range(36)]
    (finding,) = found(speech(), "BN409", sequences(lengths))
    assert finding.severity == "warning"
    runs = [100 - length for length in lengths]
    assert finding.evidence == {
        "share": sum(run for run in runs if run > 1) / 3600, "shortest": 0, "longest": 70,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["leading", "both", "frames first"])
def test_bn409_hits_padding_at_any_end(form):
    lengths = [30 + 2 * index for index in range(36)]
    x, model = sequences(lengths), speech()
    shift = {"leading": lambda gap: gap, "both": lambda gap: gap // 2, "frames first": lambda _: 0}[form]
    x = torch.stack([row.roll(shift(100 - length), -1) for row, length in zip(x, lengths, strict=True)])
    if form == "frames first":  # [N, C, steps, bands]
        x, model = x.unsqueeze(3).repeat(1, 1, 1, 5) * torch.linspace(1, 2, 5), nn.Sequential(nn.BatchNorm2d(4))
        model = train_a_little(model).eval()
    (finding,) = found(model, "BN409", x)
    lead = [shift(100 - length) for length in lengths]
    trail = [100 - length - first for length, first in zip(lengths, lead, strict=True)]
    runs = [sum(end for end in ends if end > 1) for ends in zip(lead, trail, strict=True)]
    assert finding.severity == "warning"
    assert finding.evidence == {"share": sum(runs) / 3600, "shortest": 0, "longest": 70}


def test_bn409_misses_like_lengths_and_only_tells_of_images():
    assert not found(speech(), "BN409", sequences([100] * 40))
    assert not found(speech(), "BN409", sequences([60] * 40))
    assert not found(speech(), "BN409", sequences([60] * 40).flip(-1))
    x = smooth(40, *IMAGES)
    for index, image in enumerate(x):
        image[..., 24 - index % 12 :] = 0
    model = network(depth=1)
    model[0].padding = (0, 0)
    assert [finding.severity for finding in found(model, "BN409", x)] == ["info"]


def test_bn410_hits_a_constant_channel():
    model = calibrate(train_a_little(nn.Sequential(nn.BatchNorm2d(3))), smooth(64, *IMAGES))
    x = smooth(64, *IMAGES)
    x[:, 1] = 0.7
    (finding,) = found(model, "BN410", x)
    assert (finding.severity, finding.channels) == ("info", (1,))


def test_bn410_misses_a_small_honest_variance():
    assert not found(network(), "BN410", smooth(64, *IMAGES))
    assert not found(network(depth=1), "BN410", 0.1 * smooth(64, *IMAGES))


def test_bn411_hits_a_nan_and_what_nearly_overflows():
    x = smooth(64, *IMAGES)
    x[3, 1, 5, 5] = torch.nan
    model = network()
    (finding,) = found(model, "BN411", x)
    assert (finding.severity, finding.path) == ("error", "1")
    assert finding.evidence["nonfinite"] == bninspect.stats(model, x).layers[0].nonfinite == 16 * 9
    half = calibrate(train_a_little(nn.Sequential(nn.BatchNorm2d(3))), smooth(64, *IMAGES)).half()
    assert [finding.severity for finding in found(half, "BN411", (5_000 * smooth(64, *IMAGES)).half())] == ["error"]


def test_bn411_misses_large_values_in_float32():
    assert not found(network(), "BN411", 20_000 * smooth(64, *IMAGES))


def test_bn412_hits_a_channel_that_never_opens():
    model = network()
    with torch.no_grad():
        model[1].bias[3], model[1].bias[4] = -30.0, 30.0
    x = smooth(64, *IMAGES, seed=2)
    dead, linear = found(model, "BN412", x)
    assert (dead.channels, linear.channels, dead.severity) == ((3,), (4,), "info")
    with torch.no_grad():
        output = model.eval()[:2](x)
    assert dead.evidence["output_max"] == pytest.approx(float(output[:, 3].max()), rel=1e-5)
    assert linear.evidence["output_min"] == pytest.approx(float(output[:, 4].min()), rel=1e-5)


def test_bn412_misses_additions_and_few_values():
    model = network()
    with torch.no_grad():
        model[1].bias[3] = -30.0
    report = look(model, "BN412", smooth(8, *IMAGES))
    assert not report.findings
    assert "10,000" in reason(report)
    model[2] = nn.SiLU()
    assert not found(model, "BN412", smooth(64, *IMAGES))


def test_rules_on_data_are_silent_for_made_up_batches_and_untrained_models():
    made_up = bninspect.check(network(), torch.randn(64, *IMAGES), source=Source(synthetic=True), select=["BN4"])
    untrained = bninspect.check(build("resnet18"), torch.randn(64, 3, 64, 64), select=["BN4"])
    nothing = bninspect.check(network(), select=["BN4"])
    for report, word in ((made_up, "made up"), (untrained, "untrained"), (nothing, "no batch")):
        assert not report.findings
        assert len(report.silent) == 12
        assert all(word in silent.reason for silent in report.silent if silent.code != "BN405")
        assert report.num_images is None


def test_every_rule_on_data_has_a_page_of_thresholds():
    from bninspect.rules import catalogue

    for code, rule in catalogue().items():
        if code.startswith("BN4"):
            keywords = inspect.signature(rule.body).parameters
            assert set(rule.thresholds) == set(keywords) - {"facts"}
            assert all(np.isfinite(value) for value in rule.thresholds.values())
