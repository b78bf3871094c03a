"""Several reports of one kind: what differs between them."""

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
from bninspect import codec
from bninspect.render.html._together import of_model, together

TABLE = re.compile(r'<table id="all-rows".*?<tbody>(.*?)</tbody>', re.DOTALL)
CELL = re.compile(r"<t[dh][^>]*>(.*?)</t[dh]>")


def verdict(text):
    return html.unescape(re.search(r'<section class="together">.*?<p class="verdict">(.*?)</p>', text, re.DOTALL)[1])


def rows(text):
    found = TABLE.search(text)
    cells = [CELL.findall(row) for row in re.findall(r"<tr.*?</tr>", found[1], re.DOTALL)] if found else []
    return [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in cells]


def pictures(text):
    found = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
    return {picture["key"]: picture for picture in found["pictures"]}


@pytest.fixture
def side_by_side(run):
    """The page of two reports, a.json and b.json."""

    def made(a, b):
        for name, report in (("a", a), ("b", b)):
            Path(f"{name}.json").write_text(codec.encode(report))
        assert run("report", "a.json", "b.json", "-o", "page.html") == (0, "", "")
        return Path("page.html").read_text()

    return made


def changed(report, index=1, **values):
    layers = list(report.layers)
    layers[index] = msgspec.structs.replace(layers[index], **values)
    return msgspec.structs.replace(report, layers=tuple(layers))


CHANGES = {
    "stats": ({"d_max": 9.0}, "d_max", "depth"),
    "noise": ({"scale": 2.0}, "scale", "scale"),
    "recalibrate": ({"d_max_before": 9.0}, "d_max_before", "d_max_before"),
    "summary": ({"momentum": 0.5}, "momentum", "widths"),
    "check": ({"d": (0.0, 9.0, 9.0)}, "d median", "depth"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_layer_that_differs_is_told(side_by_side, reports, kind):
    values, name, key = CHANGES[kind]
    other = changed(reports[kind], **values)
    text = side_by_side(reports[kind], other)
    path = other.layers[1].path
    assert [row[:2] for row in rows(text)] == [[path, name]]
    assert verdict(text).startswith(f"1 of 2 layers differ; first of all {path}, {name}: ")
    assert [trace["name"] for trace in pictures(text)[key]["traces"] if trace.get("showlegend")] == ["a.json", "b.json"]


@pytest.mark.parametrize("kind", [*CHANGES, "diff"])
def test_of_equal_reports_nothing_differs(side_by_side, reports, kind):
    text = side_by_side(reports[kind], reports[kind])
    assert verdict(text).startswith("Nothing differs by more than 1% in ")
    assert rows(text) == []


def test_a_layer_that_one_report_lacks_has_one_row(side_by_side, reports):
    text = side_by_side(
        reports["summary"], msgspec.structs.replace(reports["summary"], layers=reports["summary"].layers[:1])
    )
    path = reports["summary"].layers[1].path
    assert rows(text) == [[path, "the layer", "there", "-", "-"]]


def test_what_moved_in_one_comparison_alone_moved_by_nothing_in_the_other(side_by_side):
    def net(shift=0.0, weight=1.0):
        model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
        model[0].running_mean += shift
        torch.nn.init.constant_(model[1].weight, weight)
        return model

    a, b = bninspect.diff(net(), net(shift=2.0)), bninspect.diff(net(), net(shift=2.0, weight=3.0))
    text = side_by_side(a, b)
    moved = a.differences[0].distance
    assert [one.distance for one in b.differences] == [moved, pytest.approx(2.0)]
    assert rows(text) == [["1", "weight", "0", "2", "2"]]
    choices = pictures(text)["moved"]["choices"]
    assert [[trace["y"] for trace in patches] for patches in choices] == [
        [[pytest.approx(moved), None], [pytest.approx(moved), None]],
        [[None, None], [None, pytest.approx(2.0)]],
    ]


def test_a_finding_that_one_report_lacks_is_told_by_its_layer(side_by_side, reports):
    report = reports["check"]
    text = side_by_side(report, msgspec.structs.replace(report, findings=()))
    paths = {place.path for finding in report.findings for place in finding.layers}
    assert {row[0] for row in rows(text) if row[0] != "(model)"} == paths
    assert all(row[1] == "findings" and row[3] == "-" for row in rows(text))


def test_two_runs(run, run_file):
    """The second was cut after a few steps: it has fewer alarms."""
    lines = run_file.read_text().splitlines(keepends=True)
    Path("cut.jsonl").write_text("".join(lines[:5]))
    assert run("report", run_file, "cut.jsonl", "-o", "page.html") == (0, "", "")
    text = Path("page.html").read_text()
    alarms = [json.loads(line) for line in lines if json.loads(line)["event"] == "alarm"]
    first = {alarm["code"]: alarm["step"] for alarm in reversed(alarms)}
    assert first
    told = {row[1]: row[2:4] for row in rows(text)}
    for code, step in first.items():
        assert told[f"first alarm of {code}"] == [f"step {step}", "-"]
    assert [len(trace["x"]) for trace in pictures(text)["runs"]["traces"]] == [15, 15, 4, 4]


def test_rows_are_ordered_by_how_far_apart_they_are():
    a = {("x", "var"): 1.0, ("x", "d"): 0.5, ("y", "var"): 4.0, ("y", "kind"): "A", ("y", "d"): None} | of_model(
        {"n": 3}
    )
    b = {("x", "var"): 1.5, ("x", "d"): 9.5, ("y", "var"): 1.0, ("y", "kind"): "B", ("y", "d"): 0.1} | of_model(
        {"n": 3}
    )
    found = together([a, b], ["one", "two"], {"var": "ratio", "d": "difference"})
    assert found.rows.table.rows == (
        ("y", "kind", "A", "B", "-"),
        ("y", "d", "-", "0.1", "-"),
        ("x", "d", "0.5", "9.5", "9"),
        ("y", "var", "4", "1", "x 4"),
        ("x", "var", "1", "1.5", "x 1.5"),
    )
    assert found.verdict == "2 of 2 layers differ; first of all y, kind: A in one, B in two."


def test_the_same_name_twice_is_told_apart(side_by_side, run, reports):
    side_by_side(reports["noise"], reports["noise"])
    assert run("report", "a.json", "a.json", "-o", "page.html") == (0, "", "")
    traces = pictures(Path("page.html").read_text())["shift"]["traces"]
    assert [trace["name"] for trace in traces] == ["a.json", "a.json (2)"]
