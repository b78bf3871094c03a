"""Pages as text: what stands in them, what may run in them, and what is said where one cannot be made."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from bninspect import codec
from bninspect.errors import BNInspectError

SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.DOTALL)
HOSTILE = "</script><img src=x onerror=alert(1)>"


def data(text):
    return json.loads(SCRIPT.findall(text)[1])


KINDS = ("summary", "stats", "check", "noise", "recalibrate", "diff")


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_the_table_stand_on_the_page(reports, kind, page):
    from bninspect.render._view import view
    from bninspect.render.html._vectors import without

    report, text = reports[kind], page(reports[kind])
    assert text == page(codec.decode(codec.encode(report).encode(), "stored"))  # the same report, the same bytes
    words = html.unescape(re.sub(r"<[^>]*>", "", SCRIPT.sub("", text)))
    shown = view(without(report))
    for line in (shown.title, *shown.above, *shown.below):
        assert line in words
    for table in shown.tables:
        for cell in (cell for row in table.rows for cell in row):
            assert cell in words


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_scripts_of_the_page_may_run_and_nothing_may_be_fetched(reports, kind, page):
    text = page(reports[kind])
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    plotly, _, own = SCRIPT.findall(text)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in (plotly, own)]
    assert f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    rest = SCRIPT.sub("", text)
    assert not re.search(r"(?:src|href)=\"(?!#)|<link|url\(|@import", rest)


def test_channels_come_back_as_they_are_in_the_report(reports, page):
    report = reports["stats"]
    channels = data(page(report))["sections"][0]["channels"]
    block = np.frombuffer(base64.b64decode(channels["block"]), "<f4")
    total = len(block) // len(channels["fields"])
    assert total == sum(layer.num_features for layer in report.layers) == 12
    for at, field in enumerate(channels["fields"]):
        for layer, row in zip(report.layers, channels["layers"], strict=True):
            start = at * total + row["start"]
            expected = getattr(layer.channels, field)
            np.testing.assert_allclose(block[start : start + row["size"]], expected, rtol=1e-6)
            assert (row["path"], row["eps"]) == (layer.path, 1e-5)


@pytest.mark.parametrize("kind", ["stats", "check"])
def test_the_picture_of_depth_has_the_quantiles_of_the_channels(reports, page, kind):
    """Both reports are of the same model and batch."""
    report = reports["stats"]
    traces = data(page(reports[kind]))["sections"][0]["pictures"][0]["traces"]
    for axis, field in (("y", "d"), ("y2", "r")):
        low, high, middle = (trace["y"] for trace in traces if trace["yaxis"] == axis)
        for at, layer in enumerate(report.layers):
            ordered = sorted(getattr(layer.channels, field).tolist())
            for value, share in ((low[at], 0.05), (middle[at], 0.5), (high[at], 0.95)):
                place = share * (len(ordered) - 1)
                below = int(place)
                above = min(below + 1, len(ordered) - 1)
                by_hand = ordered[below] + (place - below) * (ordered[above] - ordered[below])
                assert value == pytest.approx(by_hand, rel=1e-6)


def test_a_report_without_channels_says_what_it_lacks(reports, page):
    from bninspect.render.html._vectors import without

    text = page(without(reports["stats"]))
    assert "make it with --channels" in text
    section = data(text)["sections"][0]
    assert section["channels"] is None
    assert [picture["key"] for picture in section["pictures"]] == ["depth"]
    assert "make it with --channels" not in page(reports["stats"])


def test_names_are_data(reports, page):
    layers = tuple(msgspec.structs.replace(layer, path=HOSTILE) for layer in reports["stats"].layers)
    text = page(msgspec.structs.replace(reports["stats"], layers=layers))
    assert len(SCRIPT.findall(text)) == 3
    assert "<img" not in SCRIPT.sub("", text)
    assert data(text)["sections"][0]["channels"]["layers"][0]["path"] == HOSTILE
    assert data(text)["sections"][0]["pictures"][0]["traces"][0]["text"][0].startswith("&lt;/script&gt;")


def test_every_finding_has_an_anchor_of_its_own_and_links_to_each_of_its_layers(reports, page):
    report = reports["check"]
    assert len(report.findings) > 1
    text = page(report)
    anchors = re.findall(r'<article class="finding[^>]* id="([^"]*)"', text)
    assert len(set(anchors)) == len(anchors) == len(report.findings)
    for place in (place for finding in report.findings for place in finding.layers):
        assert f'<a href="#layer/{place.path}">{place.path}</a>' in text


@pytest.mark.parametrize("kind", ["stats", "check"])
def test_several_reports_stand_side_by_side(run, reports, kind):
    for name in ("a", "b"):
        Path(f"{name}.json").write_text(codec.encode(reports[kind]))
    assert run("report", "a.json", "b.json", "-o", "page.html") == (0, "", "")
    text = Path("page.html").read_text()
    assert [section["mark"] for section in data(text)["sections"]] == ["r0", "r1"]
    assert re.findall(r"<h1[^>]*>(.*?)</h1>", text) == ["2 reports side by side"]
    assert [picture["key"] for picture in data(text)["pictures"]] == ["depth"]
    assert [trace["name"] for trace in data(text)["pictures"][0]["traces"] if trace.get("showlegend")] == [
        "a.json",
        "b.json",
    ]


def test_reports_of_two_kinds_are_refused(run, reports):
    for kind in ("stats", "check"):
        Path(f"{kind}.json").write_text(codec.encode(reports[kind]))
    code, out, err = run("report", "stats.json", "check.json", "-o", "page.html")
    assert (code, out) == (2, "")
    assert "stats.json of stats, check.json of check" in err
    assert not Path("page.html").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_stored_report_is_read(run, reports, kind, page):
    """Reports of the API hold channels; those of noise and recalibrate have fields of their own."""
    Path("report.json").write_text(codec.encode(reports[kind]))
    assert run("report", "report.json", "-o", "page.html") == (0, "", "")
    assert Path("page.html").read_text() == page(reports[kind])


def test_a_snapshot_is_such_a_report(run):
    torch.save(torch.randn(4, 3, 8, 8), "x.pt")
    code = "from torch import nn\nmodel = nn.Sequential(nn.BatchNorm2d(3))\n"
    Path("nets.py").write_text(code)
    words = ("stats", "nets.py:model", "--batch", "x.pt", "--channels")
    assert run(*words, "--snapshot", "bn.json", "--update")[0] == 0
    assert run("report", "bn.json", "-o", "page.html") == (0, "", "")
    code, out, _ = run(*words, "--format", "html")
    assert code == 0
    assert data(out)["sections"][0]["channels"] == data(Path("page.html").read_text())["sections"][0]["channels"]


def test_a_missing_extra_is_told_in_one_sentence(reports, monkeypatch, page):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else found(name))
    with pytest.raises(BNInspectError, match=re.escape("pip install 'bninspect[html]'")):
        page(reports["stats"])


def test_a_missing_extra_is_told_before_any_work(run, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else found(name))
    code, out, err = run("check", "no_such.pt", "--format", "html")
    assert (code, out) == (2, "")
    assert err == "Error: a page needs plotly and jinja2, which are not installed: pip install 'bninspect[html]'\n"


def test_a_name_steers_no_terminal_and_turns_no_text_around(reports, page):
    name = "a\u202eb\x1b[31m"
    layers = tuple(msgspec.structs.replace(layer, path=name + layer.path) for layer in reports["stats"].layers)
    text = page(msgspec.structs.replace(reports["stats"], layers=layers))
    words = html.unescape(re.sub(r"<[^>]*>", "", SCRIPT.sub("", text)))
    assert "\u202e" not in words
    assert "\x1b" not in words
    assert r"a\u202eb\x1b[31m1" in words


def test_figures_that_json_has_not_are_left_out(reports, page):
    """The reports of Python may hold NaN and infinity."""
    layers = [msgspec.structs.replace(layer, d_max=float("inf"), r_min=0.0, r_max=float("nan"), channels=None)
              for layer in reports["stats"].layers]  # fmt: skip
    text = page(msgspec.structs.replace(reports["stats"], layers=tuple(layers)))
    assert {value for trace in data(text)["sections"][0]["pictures"][0]["traces"][1:2] for value in trace["y"]} == {
        None
    }


def test_plotly_itself_is_never_imported(tmp_path, reports):
    """It takes longer than a page."""
    (tmp_path / "report.json").write_text(codec.encode(reports["stats"]))
    code = (
        "import sys; from bninspect.cli import run; assert run(['report', 'report.json', '-o', 'page.html']) == 0; "
        "assert not {'plotly', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_of_stored_values_the_ranges_are_drawn(run):
    torch.save(nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(2)).state_dict(), "model.pt")
    code, out, _ = run("stats", "model.pt", "--format", "html")
    assert code == 0
    assert "nothing was run, so there is nothing to compare them with" in out
    pictures = data(out)["sections"][0]["pictures"]
    assert [picture["key"] for picture in pictures] == ["variance", "mean", "weight", "heat"]
    assert [trace["y"] for trace in pictures[0]["traces"]] == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("words", "hint"), [(["check"], "add -o page.html"), (["recalibrate"], "add > page.html")])
def test_a_page_is_not_for_a_terminal(tmp_path, words, hint):
    """It is said before any work; into a file or a pipe it goes."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "bninspect", *words, "no_such.pt", "--batch", "x.pt", "--format", "html"]
    done = subprocess.run(command, cwd=tmp_path, stdout=slave, stderr=subprocess.PIPE, text=True, check=False)
    os.close(slave)
    os.close(master)
    assert done.returncode == 2
    assert f"--format html is not for a terminal: {hint}" in done.stderr
