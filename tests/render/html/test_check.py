"""The page of ``check``: all layers that were judged, and links between them and what was found."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

import bninspect

ROW = re.compile(r'<tr data-layer="([^"]*)">(.*?)</tr>', re.DOTALL)
CELL = re.compile(r"<t[dh][^>]*>(.*?)</t[dh]>")
LINK = re.compile(r'<a href="([^"]*)">')


def rows(text):
    """The cells of each layer's row, as they stand in the page."""
    return {html.unescape(path): CELL.findall(cells) for path, cells in ROW.findall(text)}


def sections(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])["sections"]


def test_all_layers_that_were_judged_stand_in_the_table_with_their_figures(page):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0), nn.ReLU(), nn.BatchNorm2d(3, momentum=1.0))
    x = torch.randn(64, 3, 5, 5)
    model(x)
    model[2].running_mean += 9
    report = bninspect.check(model.eval(), x, select=["BN401"], channels=True)
    assert [place.path for finding in report.findings for place in finding.layers] == ["2"]
    found = rows(page(report))
    assert list(found) == ["0", "2"]
    for layer in report.layers:
        by_hand = sorted(layer.channels.d)[1]  # of three channels, the median
        assert found[layer.path][5] == f"{by_hand:.4g}"
    assert found["0"][1:4] == ["-", "-", "3"]


def test_findings_lead_to_their_layers_and_back(reports, page):
    text = page(reports["check"])
    anchors = {html.unescape(one) for one in re.findall(r' id="([^"]*)"', text)}
    led = {path: set(LINK.findall(cells[1])) for path, cells in rows(text).items()}
    assert set(led) == {"1", "4"}
    for path, links in led.items():
        codes = {one.code for one in reports["check"].findings if path in {place.path for place in one.layers}}
        assert {link.removeprefix("#r0-").partition("-")[0] for link in links} == codes
        assert {link.removeprefix("#") for link in links} <= anchors
    for article in re.findall(r'<article class="finding.*?</article>', text, re.DOTALL):
        own = re.search(r' id="([^"]*)"', article)[1]
        for path in re.findall(r'href="#layer/([^"]*)"', article):
            assert f"#{own}" in led[path]


def test_a_layer_that_is_the_model_has_one_name_everywhere(page):
    model = nn.BatchNorm2d(2).eval()
    model.running_var.fill_(-1)
    text = page(bninspect.check(model))
    assert list(rows(text)) == ["BatchNorm2d"]
    assert 'href="#layer/BatchNorm2d"' in text
    assert "#layer/(model)" not in text


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("check", "nets.py:model", "--batch", "x.pt"), {"mean", "var", "d", "weight"}),
        (("check", "best.pt"), {"running_mean", "running_var", "weight", "bias"}),
        (("stats", "nets.py:model", "--batch", "x.pt"), {"mean", "var", "d", "weight"}),
        (("noise", "nets.py:model", "--batch", "x.pt", "--batch-size", "4"), {"shift", "scale"}),
        (("recalibrate", "nets.py:model", "--batch", "x.pt"), {"mean", "var", "d", "d_before"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_page_has_the_channels_that_other_formats_leave_out(run, words, keys):
    torch.save(torch.randn(16, 3, 8, 8), "x.pt")
    Path("nets.py").write_text(
        "import torch\nfrom torch import nn\nmodel = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))\n"
        "model(torch.randn(4, 3, 8, 8))\n"
    )
    torch.save(nn.Sequential(nn.Identity(), nn.BatchNorm2d(2)).state_dict(), "best.pt")
    section = sections(run(*words, "--format", "html")[1])[0]
    assert {picture["key"] for picture in section["per_layer"]} == keys
    assert [layer["path"] for layer in section["channels"]["layers"]] == ["1"]
    assert all(layer["channels"] is None for layer in json.loads(run(*words, "--format", "json")[1])["layers"])


def test_a_report_without_channels_says_what_it_lacks(reports, page):
    layers = tuple(msgspec.structs.replace(layer, channels=None) for layer in reports["check"].layers)
    text = page(msgspec.structs.replace(reports["check"], layers=layers))
    assert "bninspect check --format html has them" in text
    assert sections(text)[0]["channels"] is None


def test_every_link_within_the_page_leads_somewhere(reports, page):
    for report in reports.values():
        text = page(report)
        anchors = set(re.findall(r' id="([^"]*)"', text))
        paths = {f"layer/{path}" for path in rows(text)}
        links = {link.removeprefix("#") for link in LINK.findall(text)}
        assert links <= anchors | paths
    assert {"r0-findings", "r0-table", "r0-panel"} <= {
        link.removeprefix("#") for link in LINK.findall(page(reports["check"]))
    }


def test_why_and_do_stand_once_for_findings_that_share_them_and_commands_apart(reports, page):
    first = msgspec.structs.replace(
        reports["check"].findings[0], why="Because.", fix="Do it. Run: a <b> c", explained_by=()
    )
    other = msgspec.structs.replace(first, fix="Do another.")
    text = page(msgspec.structs.replace(reports["check"], findings=(first, first, other)))
    told = [re.sub("<[^>]*>", "", line) for line in re.findall(r"<dt>(?:why|do|why, do)</dt><dd>.*?</dd>", text)]
    assert told == [
        "whyBecause.", "doDo it.a &lt;b&gt; c", f"why, doas for {first.code} above", "whyBecause.", "doDo another.",
    ]  # fmt: skip
    assert '<code class="command">a &lt;b&gt; c</code>' in text


def test_rules_that_did_not_look_are_listed_with_their_reasons(reports, page):
    assert reports["check"].silent
    listed = page(reports["check"]).partition("<summary>Rules that did not look at everything</summary>")[2]
    told = [
        [html.unescape(cell) for cell in CELL.findall(row)] for row in re.findall(r"<tr>(.*?)</tr>", listed, re.DOTALL)
    ]
    expected = [(f"{one.code} {one.name}", one.reason) for one in reports["check"].silent]
    assert [(cells[0], cells[2]) for cells in told if len(cells) == 3][-len(expected) :] == expected
