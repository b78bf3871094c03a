"""The numbers of a finding are those of ``stats``, for every rule whose evidence is named as one of its fields."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from torch import nn

import bninspect
from bninspect.report import StatsLayer
from bninspect.rules import catalogue

IMAGES = (3, 16, 16)
FIELDS = set(StatsLayer.__struct_fields__) - {"path", "kind", "channels"}


def small(**settings):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, **settings), nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 12 * 12, 4),
    )  # fmt: skip
    return calibrate(train_a_little(model), smooth(64, *IMAGES, seed=1))


def spoiled(index=1, **values):
    """A healthy network with some stored values overwritten."""
    model = small()
    for name, value in values.items():
        vector = getattr(model[index], name)
        vector.data[..., : max(1, value[1])] = value[0]
    return model


def updated(times):
    model = small()
    for norm in (model[1], model[4]):
        norm.num_batches_tracked.fill_(times)
        norm.running_var.clamp_(min=1)
    return model


def frozen():
    model = small().train()
    model[1].requires_grad_(False)
    return model


def twice():
    model = updated(100)
    model[4].num_batches_tracked.fill_(200)
    return model


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(x) + self.bn(8 * x)


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.bn = nn.LSTM(16, 24, batch_first=True), nn.BatchNorm1d(36)

    def forward(self, x):
        return self.bn(self.lstm(x)[0])


def half():
    return calibrate(train_a_little(nn.Sequential(nn.BatchNorm2d(3))), smooth(64, *IMAGES)).half()


def with_nan():
    x = smooth(64, *IMAGES)
    x[3, 1, 5, 5] = torch.nan
    return x


def one_constant():
    x = smooth(64, *IMAGES)
    x[:, 1] = 0.7
    return x


def by_domain():
    return [smooth(8, *IMAGES, seed=seed) + 3 * (-1) ** seed for seed in range(8)]


def trained_by_domain():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    for batch in 20 * by_domain():
        model.train()(batch)
    return train_a_little(model).eval()


CASES = {
    "BN101": lambda: [(spoiled(running_mean=(torch.nan, 2)), None)],
    "BN102": lambda: [(spoiled(4, running_var=(-0.5, 2)), None)],
    "BN103": lambda: [(spoiled(running_var=(0.0, 8)), None)],
    "BN106": lambda: [(spoiled(running_var=(1e-9, 1)), None)],
    "BN112": lambda: [(twice(), None)],
    "BN113": lambda: [(updated(7), None)],
    "BN203": lambda: [(frozen(), None)],
    "BN205": lambda: [(small(momentum=0.9), None)],
    "BN206": lambda: [(small(momentum=0.0).train(), None)],
    "BN207": lambda: [(small(eps=0.0), None)],
    "BN211": lambda: [(small(eps=1.0), None)],
    "BN304": lambda: [(train_a_little(Shared()), smooth(64, *IMAGES))],
    "BN307": lambda: [(Sequence(), torch.randn(8, 36, 16))],
    "BN401": lambda: [(spoiled(4, running_mean=(50.0, 3)), smooth(64, *IMAGES, seed=2))],
    "BN408": lambda: [(trained_by_domain(), by_domain())],
    "BN410": lambda: [
        (calibrate(train_a_little(nn.Sequential(nn.BatchNorm2d(3))), smooth(64, *IMAGES)), one_constant())
    ],
    "BN411": lambda: [(small(), with_nan()), (half(), (5_000 * smooth(64, *IMAGES)).half())],
}


@pytest.mark.parametrize("code", CASES)
def test_evidence_is_the_field_of_stats(code):
    compared = set()
    for model, batch in CASES[code]():
        stats = bninspect.stats(model, smooth(8, *IMAGES) if batch is None else batch)
        layers = {layer.path: layer for layer in stats.layers}
        for finding in bninspect.check(model, batch, select=[code]).findings:
            for place in finding.layers:
                for name in FIELDS & set(place.evidence):
                    assert place.evidence[name] == getattr(layers[place.path], name), (place.path, name)
                    compared.add(name)
    assert compared == promised(code)


def promised(code):
    """Fields of ``stats`` that the source of a rule names as evidence."""
    source = inspect.getsource(catalogue()[code].body)
    hits = re.findall(r"yield bn\.hit\((.*?)\)(?:  # fmt: skip)?\n", source, re.DOTALL)
    return {name for hit in hits for name in re.findall(r"\b([a-z_]+)=", hit)} & FIELDS


def test_every_rule_with_such_evidence_is_compared():
    assert {code for code in catalogue() if promised(code)} - set(CASES) == {"BN208"}


def test_bn208_names_the_number_of_the_module():
    """``stats`` refuses to run such a layer."""
    model = small()
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = getattr(model[1], name).detach()[:6]
        setattr(model[1], name, nn.Parameter(vector) if name in ("weight", "bias") else vector)
    (finding,) = bninspect.check(model, select=["BN208"]).findings
    assert finding.evidence == {"num_features": model[1].num_features, "length": 6}
