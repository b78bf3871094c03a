"""A worked example of each use: the accuracy of a small net before and after."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bninspect

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = 4


def images(count, *, gain=20.0, shift=100.0):
    """Blobs of four classes, at one of four places of a small image, each domain with a gain and a shift."""
    labels = torch.arange(count) % CLASSES
    x = torch.randn(count, 1, 8, 8) * 0.8
    for index, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[index, 0, row : row + 4, column : column + 4] += 1
    return x * gain + shift, labels


def accuracy(net, data):
    x, labels = data
    with torch.no_grad():
        return float((copy.deepcopy(net).eval()(x).argmax(1) == labels).float().mean())


def make():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES),
    )  # fmt: skip


def steps(net, data, count, after=None):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(count):
        start = 32 * (step % 16)
        x, labels = data[0][start : start + 32], data[1][start : start + 32]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        if after:
            after(net)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return images(512)


@pytest.fixture(scope="module")
def trained(data):
    """A net, and the average of its weights over training, made without its buffers."""
    torch.manual_seed(0)
    net = make().train()
    average = copy.deepcopy(net)

    @torch.no_grad()
    def update(_):
        for mean, new in zip(average.parameters(), net.parameters(), strict=True):
            mean.lerp_(new, 0.1)

    steps(net, data, 60, update)
    return net, average


def loader(data):
    return DataLoader(TensorDataset(*data), batch_size=64)


def recalibrated(net, data, **options):
    """The accuracies that the report tells are those that the net has."""
    before = accuracy(net, data)
    report = bninspect.recalibrate(net, loader(data), **options)
    assert report.predictions.num_labelled == len(data[0])
    assert report.predictions.accuracy_before == pytest.approx(before)
    assert report.predictions.accuracy == pytest.approx(accuracy(net, data))
    return report.predictions


@pytest.mark.parametrize("how", ["fixed-point", "sequential", "train"])
def test_an_average_of_weights_without_statistics_of_its_own(trained, data, how):
    _, average = trained
    found = recalibrated(copy.deepcopy(average).train(), data, how=how)
    assert found.accuracy_before < 0.7
    assert found.accuracy > 0.97


def test_pruned_weights(trained, data):
    net = copy.deepcopy(trained[0])
    for module in net:
        if isinstance(module, nn.Conv2d):
            limit = module.weight.detach().abs().flatten().quantile(0.75)
            module.weight.data[module.weight.abs() < limit] = 0
    found = recalibrated(net, data)
    assert found.accuracy > found.accuracy_before + 0.02


def test_quantised_weights(trained, data):
    """Rounded to two bits towards zero, which makes every activation smaller."""
    net = copy.deepcopy(trained[0])
    for module in net:
        if isinstance(module, nn.Conv2d):
            step = module.weight.detach().abs().max() / 2
            module.weight.data = (module.weight.data / step).trunc() * step
    found = recalibrated(net, data)
    assert found.accuracy > found.accuracy_before + 0.02


def test_another_domain(trained):
    net, other = copy.deepcopy(trained[0]), images(512, gain=8.0, shift=20.0)
    found = recalibrated(net, other)
    assert found.accuracy_before < 0.6
    assert found.accuracy > 0.9


def test_a_load_that_left_the_statistics_out(trained, data):
    net = make()
    state = {key: value for key, value in trained[0].state_dict().items() if "running" not in key}
    missing = net.load_state_dict(state, strict=False).missing_keys
    assert len(missing) == 4
    found = recalibrated(net, data)
    assert found.accuracy > max(0.97, found.accuracy_before)


def test_labels_are_split_with_their_images(trained, data):
    order = torch.argsort(data[1])  # sorted by class: the labels of the first images are not those of the others
    piece = [data[0][order], data[1][order]]
    found = bninspect.recalibrate(copy.deepcopy(trained[1]), [piece], batch_size=100).predictions
    assert (found.num_labelled, found.accuracy) == (512, pytest.approx(1, abs=0.03))


def test_labels_and_order(trained, data):
    """A loader that shuffles by a generator of its own gives another order each time: accuracy is known, change not."""
    shuffled = DataLoader(TensorDataset(*data), 64, shuffle=True, generator=torch.Generator().manual_seed(1))
    found = bninspect.recalibrate(copy.deepcopy(trained[1]), shuffled).predictions
    assert found.changed is None
    assert found.accuracy > 0.97
    seeded = DataLoader(TensorDataset(*data), 64, shuffle=True)
    found = bninspect.recalibrate(copy.deepcopy(trained[1]), seeded).predictions
    assert found.changed > 0.3
