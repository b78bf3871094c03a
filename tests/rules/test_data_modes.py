"""BN404, and what BN401 advises, on really trained networks and fresh images: sampling noise is no finding."""

from __future__ import annotations

import copy

import msgspec
import pytest
import torch
from looks import found, look, reason
from taught import accuracy, gratings, network, pink, recalibrated, shifted, train
from torch import nn

import bninspect
from bninspect.inspection.check.as_trained import decided
from bninspect.inspection.check.batch_mode import Sample, change, sampling_noise
from bninspect.inspection.check.evidence import Request, gather
from bninspect.inspection.check.sample import Images
from bninspect.observe.regroup import Cut
from bninspect.observe.runner import Runner
from bninspect.report import Source
from bninspect.rules.data import bn404_mode_changes_predictions
from bninspect.rules.data_facts import ModeChange
from bninspect.rules.facts import Hit


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return train(network(4), pink, 300)


@pytest.fixture(scope="module")
def deep():
    torch.manual_seed(0)
    return train(network(8, depth=4), gratings, 200)


def test_bn404_misses_fresh_images_of_the_same_kind(small):
    """The noise of two groupings of the same images let two or three of these pass."""
    alarms = [seed for seed in range(100, 220) if found(small, "BN404", pink(64 if seed % 2 else 48, seed)[0])]
    assert alarms == []


def test_bn404_hits_the_same_network_with_other_statistics(small):
    spoiled = copy.deepcopy(small)
    spoiled[4].running_mean += 3 * spoiled[4].running_var.sqrt()
    hits = [found(spoiled, "BN404", pink(64, seed)[0]) for seed in range(100, 110)]
    assert [finding.severity for findings in hits for finding in findings] == 10 * ["warning"]


def test_bn404_misses_a_shift_that_thousands_of_images_show_and_a_batch_does_not(small):
    x = [pink(1500, seed)[0] + 0.03 for seed in range(12)]
    assert all(bninspect.stats(small, images).layers[0].z_max > 5 for images in x)
    assert sum(bool(found(small, "BN404", images)) for images in x) == 0
    assert found(small, "BN404", pink(1500, 0)[0] + 1)


def test_bn404_misses_what_few_images_cannot_show():
    """Rare bright images make up most of the variance, and are in few samples: predictions change without a fault."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6, bias=False)).eval()

    def rows(count):
        return torch.randn(count, 8) + 12 * (torch.rand(count, 1) < 0.004) * torch.randn(8)

    var, mean = torch.var_mean(torch.cat([rows(1000) for _ in range(50)]), 0)
    model[0].running_mean.copy_(mean), model[0].running_var.copy_(var)
    nn.init.uniform_(model[0].weight), nn.init.uniform_(model[0].bias)
    assert not any(found(model, "BN404", rows(64)) for _ in range(60))


@pytest.mark.parametrize(("images", "size"), [(64, 32), (48, 24), (64, 8), (128, 16)])
def test_the_sampling_noise_is_that_of_independent_draws(images, size):
    """Against the truth, which is known here: scores with the statistics of all data, beside those of a batch."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4)).eval()
    true, told = 0.0, 0.0
    for _ in range(150):
        x = torch.randn(images, 6, generator=generator)
        sample = Sample(Runner(model, torch.device("cpu"), "model"), Images((x,), len(x), Cut((x,), len(x))))
        batch = sample.run(size).table
        with torch.no_grad():
            true += change(model(x).unsqueeze(2), batch)[1] ** 2
        told += sampling_noise(batch, sample, size)[1] ** 2
    assert told / true == pytest.approx(1, abs=0.2)


def varied(images, seed):
    """Images that differ from each other so much that their own statistics are not those of all."""
    return gratings(images, seed, classes=4, vary=1.0)


@pytest.fixture(scope="module")
def singly():
    torch.manual_seed(2)
    return train(network(4), varied, 150, size=16, singly=True)


def test_bn404_hits_training_with_single_images(singly):
    x, y = varied(64, 9)
    images = Images((x,), len(x), Cut((x,), len(x)))
    table = Sample(Runner(singly, torch.device("cpu"), "model"), images).run(1).table[..., 0]
    with torch.no_grad():
        right = singly(x).argmax(1) == y
        one_by_one = torch.cat([copy.deepcopy(singly).train()(image[None]) for image in x])
    torch.testing.assert_close(table, one_by_one, rtol=1e-3, atol=1e-4)
    assert (table.argmax(1) == y).float().mean() > right.float().mean() + 0.1
    for batch, options, severity in ((x, {"batch_size": 1}, "warning"), (list(x.split(1)), {}, "info")):
        (finding,) = found(singly, "BN404", batch, **options)
        assert "those of single images" in finding.message
        assert finding.severity == severity
        assert finding.evidence["batch_size"] == 1
        assert finding.evidence["disagreement"] == pytest.approx(
            float((table.argmax(1) != singly(x).argmax(1)).float().mean())
        )
        assert finding.evidence["change_noise"] == 0


def test_bn404_misses_a_loader_of_single_images_of_a_network_that_was_trained_in_batches(small, deep):
    for seed in range(4):
        told = found(
            small, "BN404", list(pink(64, seed)[0].split(1))
        )  # whose images are alike in what tells these apart
        assert {finding.severity for finding in told} <= {"info"}
        report = look(deep, "BN404", list(gratings(64, seed)[0].split(1)))
        assert not report.findings
        assert "those of larger batches" in reason(report)


def test_bn404_misses_single_images_whose_statistics_are_the_running_ones(singly):
    """As where each image was standardised before the layer."""
    x, _ = varied(64, 9)
    x = nn.functional.instance_norm(x)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
    nn.init.uniform_(model[0].weight), nn.init.uniform_(model[0].bias)
    assert not found(model, "BN404", x, batch_size=1)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()
    nn.init.uniform_(model[1].weight), nn.init.uniform_(model[1].bias)
    assert "one value per channel" in reason(look(model, "BN404", torch.randn(64, 5), batch_size=1))


def cure(model, x, code="BN401"):
    (fix,) = {finding.fix for finding in found(model, code, x)}
    return fix


def test_bn401_and_bn404_advise_no_recalibration_where_gamma_is_of_another_convention(deep):
    x, y = gratings(64, 9)
    wrong = shifted(deep, -1)
    assert accuracy(deep, x, y) > 0.8
    assert accuracy(recalibrated(wrong, x), x, y) < 0.5
    for code in ("BN401", "BN404"):
        assert cure(wrong, x, code).startswith("Look at the weights: recalibrating was tried and does not help")


def test_bn401_advises_recalibration_where_that_is_the_cure(deep):
    x, y = gratings(64, 9)

    def spoiled(spoil):
        model = copy.deepcopy(deep)
        spoil([module for module in model.modules() if isinstance(module, nn.BatchNorm2d)])
        return model

    def all_four_times(norms):
        for norm in norms:
            norm.running_var *= 4

    def all_new(norms):
        for norm in norms:
            norm.reset_running_stats()

    def one_mean(norms):
        norms[1].running_mean += 1.5 * norms[1].running_var.sqrt()

    for spoil in (all_four_times, all_new, one_mean):
        model = spoiled(spoil)
        assert accuracy(recalibrated(model, x), x, y) > 0.8
        assert cure(model, x).startswith("Recalibrate the statistics")
    assert cure(deep, 3 * x + 1).startswith("Recalibrate the statistics")


def test_decided_is_the_information_of_its_definition():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    mean = p.mean(0)
    slow = (sum(p[i, j] * torch.log(p[i, j] / mean[j]) for i in range(2) for j in range(3)) / 2) / torch.log(
        torch.tensor(3.0)
    )
    assert decided(p.log().unsqueeze(2)) == pytest.approx(float(slow), rel=1e-6)
    assert decided(p.unsqueeze(2)) == pytest.approx(float(slow), rel=1e-6)
    assert decided(torch.zeros(4, 3, 1)) == pytest.approx(0)
    assert decided(1e3 * torch.eye(3).unsqueeze(2)) == pytest.approx(1)


def test_errors_of_zero_give_no_infinite_numbers():
    """Images that are all the same: the error over images is zero."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)).eval()
    nn.init.uniform_(model[0].weight)
    image = 5 + torch.arange(3 * 64.0).view(1, 3, 8, 8)
    report = bninspect.check(model, image.repeat(40, 1, 1, 1))
    numbers = [value for finding in report.findings for place in finding.layers for value in place.evidence.values()]
    assert "BN401" in {finding.code for finding in report.findings}
    assert all(abs(value) < float("inf") for value in numbers)


def test_bn404_asks_more_where_a_layer_has_few_values():
    """The figures of a healthy deeplabv3_mobilenet_v3_large on 32 images of 40 x 40: its last pooling leaves 1 x 1."""
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()
    nn.init.uniform_(model[0].weight)
    x = 3 + torch.randn(40, 8)
    assert found(model, "BN404", x)
    layers = gathered(model, x)
    assert layers.data.modes.values == 20
    noisy = {"images": 32, "batch_size": 16, "disagreement": 0.676, "change": 1.389, "disagreement_noise": 0.334}
    for values, hits in ((16, 0), (256, 1)):
        modes = ModeChange(**noisy, change_noise=0.612, values=values)
        layers.data = msgspec.structs.replace(layers.data, modes=modes)
        assert sum(isinstance(one, Hit) for one in bn404_mode_changes_predictions(layers)) == hits


def gathered(model, x):
    nothing = frozenset({"BN404"}), frozenset({"data"})
    return gather(Request(model, x, [], None, None, None, Source(), *nothing)).facts
