"""A report of each kind, of one small network."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import bninspect
from bninspect import _plugins


def net(width=4):
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.BatchNorm2d(8)]
    model = nn.Sequential(*parts)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 12, 12))
    return model.eval()


@pytest.fixture(scope="package")
def reports():
    model, x = net(), torch.randn(64, 3, 12, 12) + 1
    stats = bninspect.stats(model, x)
    found = {
        "summary": bninspect.summary(model, (3, 12, 12)),
        "stats": stats,
        "check": bninspect.check(model, x, channels=True),
        "noise": bninspect.noise(model.train(), x, batch_size=8),
        "recalibrate": bninspect.recalibrate(model.eval(), x),
    }
    return {**found, "diff": bninspect.diff(stats, bninspect.stats(model, x))}


@pytest.fixture(scope="package")
def page():
    """A report as a page."""
    return lambda report: _plugins.formats(report.schema)["html"].render(report, color=False, width=None)


@pytest.fixture(scope="package")
def run_file(tmp_path_factory):
    """The record of 30 steps, in which a layer is put into eval mode and another gets a NaN."""
    path = tmp_path_factory.mktemp("run") / "run.jsonl"
    model = net().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with warnings.catch_warnings(), bninspect.watch(model, optimizer, every=2, to=path):
        warnings.simplefilter("ignore")
        for step in range(30):
            if step == 20:
                model[1].eval()
            if step == 25:
                model[4].running_var.fill_(float("nan"))
            optimizer.zero_grad()
            model(torch.randn(8, 3, 12, 12)).mean().backward()
            optimizer.step()
    return path
