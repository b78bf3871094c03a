"""The page of a training run: its figures over the steps, and its alarms."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bninspect.inspection.watch import course as courses
from bninspect.render.html.pictures.course import over_layers

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>')


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_figures_are_those_of_the_lines(run_file):
    found = courses.course(run_file)
    records = [line for line in lines(run_file) if line["event"] == "record"]
    assert found.steps == tuple(record["step"] for record in records)
    assert found.paths == ("1", "4")
    for name, figures in found.figures.items():
        wanted = [[float("nan") if value is None else value for value in record["layers"][name]] for record in records]
        np.testing.assert_array_equal(figures, wanted)


def test_of_many_records_some_are_kept_and_the_last_is_among_them(run_file, monkeypatch):
    whole = courses.course(run_file)
    monkeypatch.setattr(courses, "_MOST", 4)
    found = courses.course(run_file)
    assert found.records == len(whole.steps) > 4
    assert 2 <= len(found.steps) <= 4
    kept = [whole.steps.index(step) for step in found.steps]
    assert len(set(np.diff(kept))) == 1
    assert kept[-1] == len(whole.steps) - 1
    np.testing.assert_array_equal(found.figures["d_max"], whole.figures["d_max"][kept])


def test_a_line_cut_in_the_middle_does_no_harm(run_file, tmp_path):
    text = run_file.read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(text + b'{"event":"rec')
    assert courses.course(tmp_path / "cut.jsonl").steps == courses.course(run_file).steps


def test_a_part_with_other_layers_has_none_of_the_figures_of_those_that_are_gone(run_file, tmp_path):
    """A run that goes on: the layers of its last part are shown, by their paths."""
    parts = lines(run_file)
    header, last = dict(parts[0]), dict(next(line for line in reversed(parts) if line["event"] == "record"))
    header["layers"] = [dict(header["layers"][1]), {**header["layers"][0], "path": "new"}]
    last["layers"] = {name: column[::-1] for name, column in last["layers"].items()}
    text = run_file.read_text() + json.dumps(header) + "\n" + json.dumps(last) + "\n"
    (tmp_path / "on.jsonl").write_text(text)
    found, before = courses.course(tmp_path / "on.jsonl"), courses.course(run_file)
    assert found.paths == ("4", "new")
    np.testing.assert_array_equal(found.figures["speed"][:-1, 0], before.figures["speed"][:, 1])
    assert np.isnan(found.figures["speed"][:-1, 1]).all()
    np.testing.assert_array_equal(found.figures["speed"][-1], np.array(last["layers"]["speed"], float))


@pytest.fixture
def section(run, run_file):
    assert run("report", run_file, "-o", "page.html") == (0, "", "")
    return json.loads(DATA.search(Path("page.html").read_text())[1])["sections"][0]


def pictures(section):
    return {picture["key"]: picture for picture in section["pictures"]}


def test_alarms_are_marks_at_their_steps_and_layers(section, run_file):
    told = [line for line in lines(run_file) if line["event"] == "alarm"]
    marks = pictures(section)["steps"]["traces"][1]
    expected = [(alarm["step"], place["path"]) for alarm in told for place in alarm["layers"]]
    assert list(zip(marks["x"], marks["layers"], strict=True)) == expected
    assert {path for _, path in expected} == {"1", "4"}
    assert marks["y"] == [["1", "4"].index(path) + 1 for _, path in expected]


def test_each_alarm_is_a_mark_in_the_row_of_its_rule(section, run_file):
    told = [line for line in lines(run_file) if line["event"] == "alarm"]
    picture = pictures(section)["course"]
    marks = [mark for trace in picture["traces"][10:] for mark in zip(trace["x"], trace["y"], strict=True)]
    assert sorted(marks) == sorted((alarm["step"], alarm["code"]) for alarm in told)
    assert {trace["name"] for trace in picture["traces"][10:]} == {alarm["severity"] for alarm in told}


def test_the_band_over_layers_is_of_those_whose_figure_is_known():
    nan = float("nan")
    figures = np.array([[3.0, 1.0, 2.0], [5.0, nan, np.inf], [nan, nan, nan], [4.0, nan, 0.0]])
    found = over_layers(figures)
    for row, known in enumerate(([1, 2, 3], [5], [], [0, 4])):
        if not known:
            assert np.isnan(found[:, row]).all()
            continue
        for value, share in zip(found[:, row], (0.05, 0.5, 0.95), strict=True):
            place = share * (len(known) - 1)
            below, above = known[int(place)], known[min(int(place) + 1, len(known) - 1)]
            assert value == pytest.approx(below + (place - int(place)) * (above - below), rel=1e-12)


def test_the_layer_with_alarms_is_looked_at_first(section, run_file):
    first = courses.course(run_file).report.layers[0]
    assert first.alarms
    channels = section["channels"]
    assert channels["layers"][channels["chosen"]]["path"] == first.path


def test_the_panel_has_each_figure_of_its_layer(section, run_file):
    channels, found = section["channels"], courses.course(run_file)
    assert channels["unit"] == "step"
    block = np.frombuffer(base64.b64decode(channels["block"]), "<f4").reshape(len(channels["fields"]), 2, -1)
    for field, vectors in zip(channels["fields"], block, strict=True):
        wanted = np.tile(found.steps, (2, 1)) if field == "index" else found.figures[field].T
        np.testing.assert_allclose(vectors, wanted, rtol=1e-6)
    assert [layer["path"] for layer in channels["layers"]] == ["1", "4"]


def test_the_last_state_alone_has_a_page_too(run, run_file):
    """The report that watch prints has no steps: its layers are drawn as they were last."""
    code, out, _ = run("watch", run_file, "--once", "--format", "html", "--exit-zero")
    assert code == 0
    assert [picture["key"] for picture in json.loads(DATA.search(out)[1])["sections"][0]["pictures"]] == ["distances"]
