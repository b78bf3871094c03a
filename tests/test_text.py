"""Names are data: no name of a layer or a file steers a terminal, a spreadsheet or a page."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import OrderedDict
from html.parser import HTMLParser

import msgspec
import pytest
import torch
from torch import nn

import bninspect
from bninspect import _plugins
from bninspect.text import printable

NAMES = [
    "plain", "x[bold]bn1", "[/]", "\x1b[2J", "\x1b]52;c;Y2F0\x07", "\x9b31m", "a\nb", "a\rb", "a\tb", "\x00", "\x7f",
    "\u202ebn", "\u2066x\u2069", "\u200b", "\ufeff", "\ud800", "\u2028", "=1+1", "+cmd", "-2", "@sum",
    "a|b", "`a`", "<b>", "<script>alert(1)</script>", "[x](javascript:alert(1))",
    "**b**", "a,b", 'q"q', "'", "名前", "é", "🙂", "x" * 5000,
]  # fmt: skip


@pytest.fixture(scope="module")
def reports():
    layers = OrderedDict((name.replace(".", "_"), nn.BatchNorm1d(2)) for name in NAMES)
    model = nn.Sequential()
    for name, layer in layers.items():
        model._modules[name] = layer
    batch = torch.randn(4, 2)
    return [bninspect.summary(model, (2,)), bninspect.stats(model, batch), _plain(bninspect.stats(model, batch))]


def _plain(report):
    layers = tuple(msgspec.structs.replace(layer, channels=None) for layer in report.layers)
    return msgspec.structs.replace(report, layers=layers)


def render(report, name):
    return _plugins.formats(report.schema)[name].render(report, color=False, width=None)


def safe(text):
    return all(char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in text)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_printable_is_one_safe_short_line(name):
    shown = printable(name)
    assert safe(shown)
    assert "\n" not in shown
    assert len(shown) <= 200
    if len(name) < 200 and name.isprintable():
        assert shown == name


def test_different_names_stay_different():
    shown = [printable(name) for name in NAMES]
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_no_control_character_and_one_row_for_a_name(reports, form):
    for report in reports:
        text = render(report, form)
        assert safe(text)
        rows = len(report.layers) * (2 if report.schema == "bninspect.stats" and report.layers[0].channels else 1)
        lines = [line for line in text.splitlines() if "BatchNorm1d" in line or "layer" not in line]
        assert len(lines) >= rows


def test_json_keeps_every_name_and_steers_no_terminal(reports):
    for report in reports:
        text = render(report, "json")
        assert safe(text)
        found = [layer["path"] for layer in json.loads(text)["layers"]]
        assert found == [name.replace("\ud800", "\\ud800").replace(".", "_") for name in NAMES]


def test_csv_holds_no_formula(reports):
    for report in reports:
        rows = list(csv.reader(io.StringIO(render(report, "csv"))))
        assert len({len(row) for row in rows}) == 1
        for row in rows[1:]:
            for cell in row:
                assert cell[:1] not in {"=", "+", "@"}
                if cell.startswith("-"):
                    float(cell)


def test_markdown_has_no_markup_of_a_name(reports):
    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            raise AssertionError(tag)

    for report in reports:
        text = render(report, "markdown")
        Tags().feed(text.replace(r"\<", "").replace(r"\`", ""))
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({row.replace(r"\|", "").count("|") for row in rows}) == 1


def test_ordereddict_can_be_evaluated(reports):
    found = eval(render(reports[0], "ordereddict"), {"OrderedDict": OrderedDict})
    assert len(found) == len(NAMES)
