"""What the processors of Hugging Face give, a BatchFeature, by every function that runs steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fingerprint import fingerprint
from torch import nn

import bninspect

features = pytest.importorskip("transformers.feature_extraction_utils", reason="needs the extra integrations")


class Net(nn.Module):
    """Called as their models are, with an output that is no dict."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, pixel_values=None, labels=None):
        logits = self.head(self.bn(self.conv(pixel_values)).relu().mean((2, 3)))
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


@pytest.fixture(scope="module", autouse=True)
def _threads(one_thread):
    """Many forwards of a tiny net."""


@pytest.fixture(scope="module")
def steps():
    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4) % 3
    return [features.BatchFeature({"pixel_values": part, "labels": labels}) for part in images.split(4)]


def whole(model, step):
    return model(**step)


def alone(model, images):
    return model(images, torch.zeros(len(images)).long())


def test_a_processors_output_is_a_step(steps):
    model, pieces = Net().eval(), [step["pixel_values"] for step in steps]
    before = fingerprint(model)
    report, plain = bninspect.stats(model, steps, forward=whole), bninspect.stats(model, pieces, forward=alone)
    assert [layer.channels.mean.tolist() for layer in report.layers] == [
        layer.channels.mean.tolist() for layer in plain.layers
    ]
    noises = (
        bninspect.noise(model, steps, batch_size=4, draws=3, forward=whole),
        bninspect.noise(model, pieces, batch_size=4, draws=3, forward=alone),
    )
    assert noises[0].layers[0].shift == noises[1].layers[0].shift
    assert noises[0].predictions == noises[1].predictions
    checks = bninspect.check(model, steps, forward=whole), bninspect.check(model, pieces, forward=alone)
    assert [finding.code for finding in checks[0].findings] == [finding.code for finding in checks[1].findings]
    assert fingerprint(model) == before
    found = bninspect.recalibrate(model, steps, forward=whole)
    assert (found.num_images, found.predictions.num_labelled) == (12, 12)
    assert all("labels" in step for step in steps)
