"""What a page costs: its size, writing it, and the time to its first picture beside that of plotly alone."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import browser
import pytest
import torch

import bninspect
from bninspect import _plugins

if TYPE_CHECKING:
    from pathlib import Path

MODELS = {"resnet50": (53, 26_560, 6_000_000, 1.5), "efficientnet_b7": (163, 155_360, 12_000_000, 2.0)}
ALONE = """<!DOCTYPE html><title>plotly</title><div id="plot"></div><script>{plotly}</script><script>
Plotly.newPlot("plot", [{{y: [1, 2]}}]);
document.documentElement.dataset.first = performance.now();
document.documentElement.dataset.ready = "all";
</script>"""


@pytest.fixture(params=MODELS)
def model(request):
    """The name of a model, and a report of it with all of its channels."""
    from torchvision import models

    made = getattr(models, request.param)().eval()
    return request.param, bninspect.stats(made, torch.randn(2, 3, 64, 64))


def test_size_and_writing(model, capsys):
    name, report = model
    layers, channels, largest, _ = MODELS[name]
    assert (len(report.layers), sum(layer.num_features for layer in report.layers)) == (layers, channels)
    render, took = _plugins.formats(report.schema)["html"].render, []
    for _ in range(5):
        start = time.process_time()
        size = len(render(report, color=False, width=None).encode())
        took.append(time.process_time() - start)
    with capsys.disabled():
        print(f"\n  page of {name}: {size / 1e6:.2f} MB in {statistics.median(took):.2f} s", end="")
    assert size <= largest
    assert statistics.median(took) <= 1.5


def test_first_picture(model, report, tmp_path, capsys):
    """In a browser that was just started, as one that opens a file is: nothing is compiled yet."""
    from bninspect.render.html import _assets

    name, found = model
    (tmp_path / "page.html").write_text(_plugins.formats(found.schema)["html"].render(found, color=False, width=None))
    (tmp_path / "alone.html").write_text(ALONE.format(plotly=_assets.load().plotly))
    ours, alone = [], []
    for turn in range(7):
        for page, times in ((tmp_path / "page.html", ours), (tmp_path / "alone.html", alone)):
            times.append(first(page, tmp_path / f"profile-{page.stem}-{turn}"))
    with capsys.disabled():
        print(f"\n  first picture of {name}: {min(ours):.2f} s, plotly alone {min(alone):.2f} s", end="")
    ratio = statistics.median(a / b for a, b in zip(ours, alone, strict=True))
    report(f"first picture of {name} against plotly alone", ratio, MODELS[name][3])


def first(page: Path, profile: Path) -> float:
    opened = browser.Browser(profile)
    try:
        tab = browser.Page(opened)
        tab.open(page.as_uri())
        return float(tab.run("document.documentElement.dataset.first")) / 1000
    finally:
        opened.close()
