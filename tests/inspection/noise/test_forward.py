"""noise with ``forward=``: batches are made of the images that steps hold."""

from __future__ import annotations

import msgspec
import pytest
import torch
from fingerprint import fingerprint
from torch import nn
from torchvision.models import detection

import bninspect
from bninspect.errors import ForwardError, InputError


@pytest.fixture(scope="module", autouse=True)
def _threads(one_thread):
    """Many forwards of tiny nets."""


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5 * 36, 3))


X = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(1))
STEPS = {
    "dict": (lambda x: {"image": x, "id": [f"{i}" for i in range(len(x))]}, lambda model, step: model(step["image"])),
    "list": (list, lambda model, step: model(torch.stack(step))),
    "samples": (
        lambda x: [{"image": image, "boxes": torch.zeros(2, 4)} for image in x],
        lambda model, step: model(torch.stack([one["image"] for one in step])),
    ),
    "columns": (
        lambda x: (tuple(x), tuple({"boxes": torch.zeros(index, 4)} for index in range(len(x)))),
        lambda model, step: model(torch.stack(step[0])),
    ),
}


@pytest.mark.parametrize("kind", STEPS)
def test_steps_show_what_their_tensors_show(model, kind):
    make, forward = STEPS[kind]
    before = fingerprint(model)
    report = bninspect.noise(model, list(map(make, X.split(8))), batch_size=4, draws=6, forward=forward)
    assert fingerprint(model) == before
    plain = bninspect.noise(model, X, batch_size=4, draws=6)
    for one, other in zip(report.layers, plain.layers, strict=True):
        assert one.channels.shift.tolist() == other.channels.shift.tolist()
    without = [msgspec.structs.replace(one, source=plain.source, layers=()) for one in (report, plain)]
    assert without[0] == without[1]


def test_a_detection_model_with_images_of_any_size():
    torch.manual_seed(0)
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    steps = [[torch.rand(3, 40 + number, 60), torch.rand(3, 60, 50)] for number in range(3)]
    before = fingerprint(model)
    report = bninspect.noise(model, steps, batch_size=3, draws=2, forward=lambda model, step: model(step))
    assert fingerprint(model) == before
    assert (report.num_images, report.predictions) == (6, None)
    assert len(report.layers) + len(report.left) == len([m for m in model.modules() if isinstance(m, nn.BatchNorm2d)])


def test_what_cannot_be_put_together_is_said(model):
    class Opaque:
        def __init__(self, x):
            self.x = x

    def of(key):
        return lambda model, step: model(step[key])

    for steps, forward, words in (
        ([Opaque(X)], lambda model, step: model(step.x), "a step is a Opaque, which cannot be cut into images"),
        ([{"x": X, "y": X[:2]}], of("x"), "^y has 2 entries, and the step 30 images"),
        ([{"x": X[:4], "s": 1}, {"x": X, "s": 2}], of("x"), "differ in what belongs to all of their images"),
        ([{"x": X[:4]}, {"x": X[..., :7]}], of("x"), "have 2 different sizes"),
        ([{"x": X[:4]}, {"z": X}], of("x"), "not all of them hold x"),
        ([list(X[:3])], lambda model, step: model(torch.stack(step)), "can be cut into images in two ways"),
    ):
        with pytest.raises(InputError, match=words):
            bninspect.noise(model, steps, batch_size=20, forward=forward)
    with pytest.raises(InputError, match=r"of 20 images put together anew, the first layer sees 1[0-9]"):
        bninspect.noise(model, [{"x": X}], batch_size=20, forward=lambda model, step: model(step["x"].unique(dim=0)))
    with pytest.raises(InputError, match="runs no BatchNorm layer of the model that it gets"):
        bninspect.noise(model, [X], batch_size=4, forward=lambda model, step: None)
    with pytest.raises(ForwardError, match="into another mode, and it runs in eval mode here"):
        bninspect.noise(model, [X], batch_size=4, forward=lambda model, step: model.train()(step))
